# SPDX-License-Identifier: Apache-2.0
"""The device of a live loop: the firmware's C on this machine, or the firmware in the emulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy.typing as npt

from biotrain.emit.build import Build
from biotrain.errors import BioTrainError
from biotrain.run.live_clock import ClockedDevice
from biotrain.run.live_device import FOREVER, Event, LiveDevice


@dataclass(frozen=True)
class Seen:
    """An event, with what the device said of it."""

    name: str
    window: int
    predicted: int
    status: str
    kept: bool
    before: float
    """Of a calibration: share of the held-back windows that was right before it."""
    best: float
    late_s: float
    """Of a prediction in the emulator: since the last sample of its window."""


class Living:
    """A device that takes samples at `fs` and works for no longer than its core could."""

    def __init__(self, device: LiveDevice, fs: float) -> None:
        self.device, self.fs = device, fs
        clock = device.package.target.clock_hz
        self._cycles = max(1, int(clock / fs)) if clock else FOREVER

    @classmethod
    def start(cls, package: Build, on: str, fs: float) -> Living:
        """On `host` each frame is followed by as many estimated cycles of work as the target has
        until the next; in the `emulator` time is counted."""
        if on == "emulator":
            return cls(ClockedDevice(package, fs=fs), fs)
        if on != "host":
            raise BioTrainError(f"a device lives on host or emulator, not on '{on}'")
        return cls(LiveDevice(package), fs)

    def play(self, frames: npt.ArrayLike, labels: npt.ArrayLike) -> list[Seen]:
        """Take samples [n_chans, n] with their labels in time; the events."""
        device = self.device
        if isinstance(device, ClockedDevice):
            return self._seen([(e.event, e.late_s) for e in device.stream(frames, labels)])
        return self._seen([(e, 0.0) for e in device.play(frames, labels, self._cycles)])

    def settle(self, frames: int) -> list[Seen]:
        """No sample comes for as long as so many would take; the device works on."""
        device = self.device
        if isinstance(device, ClockedDevice):
            return self._seen([(e.event, e.late_s) for e in device.rest(frames / self.fs)])
        return self._seen([(e, 0.0) for e in device.work(self._cycles, calls=frames)])

    def _seen(self, found: Sequence[tuple[Event, float]]) -> list[Seen]:
        device = self.device
        state = device.state if any(e.name == "calibrated" for e, _ in found) else {}
        return [
            Seen(
                e.name, e.window, e.predicted, e.status, e.kept, state.get("before", 0.0),
                state.get("best", 0.0), late,
            )
            for e, late in found
        ]  # fmt: skip

    def calibrate(self) -> None:
        """Begin to learn from what is stored."""
        self.device.calibrate()

    def again(self) -> Living:
        """Power off and on: RAM is lost, flash stays."""
        return Living(self.device.restart(), self.fs)

    def crc32(self) -> int:
        """Of the weights."""
        return self.device.crc32()

    @property
    def off(self) -> bool:
        """Whether power has gone."""
        return self.device.off

    @property
    def mode(self) -> str:
        """record, calibrate or use."""
        return self.device.mode

    @property
    def counted(self) -> dict[str, int]:
        """Counters since power came."""
        return self.device.counters
