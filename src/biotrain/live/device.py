# SPDX-License-Identifier: Apache-2.0
"""The device of a live session: the firmware's C on this machine, or all of it in the emulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy.typing as npt

from biotrain.emit.build import Build
from biotrain.errors import BioTrainError
from biotrain.run.live_clock import ClockedDevice
from biotrain.run.live_device import FOREVER, Event, LiveDevice


@dataclass(frozen=True)
class DeviceEvent:
    """Something that the live firmware reported.

    name: "predicted", "calibrated", "refused" ... window: its number since power came. predicted:
    class. status: why a window was refused. kept: whether a calibration was kept; before, best:
    share of the held-back windows that was right before it, and at its best epoch. late_s: of a
    prediction in the emulator, seconds since the last sample of its window.
    """

    name: str
    window: int
    predicted: int
    status: str
    kept: bool
    before: float
    best: float
    late_s: float


class PacedDevice:
    """The live firmware, fed with samples at the rate `fs` (Hz); between two samples it works for
    no longer than the core of its target could."""

    def __init__(self, device: LiveDevice, fs: float) -> None:
        self.device, self.fs = device, fs
        clock = device.package.target.clock_hz
        self._cycles = max(1, int(clock / fs)) if clock else FOREVER

    @classmethod
    def start(cls, package: Build, on: str, fs: float) -> PacedDevice:
        """Start a package. On `host` each frame is followed by as many estimated cycles of work as
        the target has until the next; in the `emulator` time is counted."""
        if on == "emulator":
            return cls(ClockedDevice(package, fs=fs), fs)
        if on != "host":
            raise BioTrainError(f"a live session runs on host or emulator, not on '{on}'")
        return cls(LiveDevice(package), fs)

    def play(self, frames: npt.ArrayLike, labels: npt.ArrayLike) -> list[DeviceEvent]:
        """Take samples [n_chans, n] with their labels [n], in time; returns the events."""
        device = self.device
        if isinstance(device, ClockedDevice):
            return self._reported([(e.event, e.late_s) for e in device.stream(frames, labels)])
        return self._reported([(e, 0.0) for e in device.play(frames, labels, self._cycles)])

    def idle(self, frames: int) -> list[DeviceEvent]:
        """Let the device work for as long as so many frames take, while none arrives; returns the
        events."""
        device = self.device
        if isinstance(device, ClockedDevice):
            return self._reported([(e.event, e.late_s) for e in device.rest(frames / self.fs)])
        return self._reported([(e, 0.0) for e in device.work(self._cycles, calls=frames)])

    def gap(self, frames: int) -> list[DeviceEvent]:
        """So many frames were lost before the next one: the device ends what it has, then it is
        told; returns the events until then."""
        found = self.idle(max(1, frames))
        while self.device.pending and not self.device.off:
            found += self.idle(1)
        if not self.device.off:
            self.device.gap(frames)
        return found

    def _reported(self, found: Sequence[tuple[Event, float]]) -> list[DeviceEvent]:
        device = self.device
        state = device.state if any(e.name == "calibrated" for e, _ in found) else {}
        return [
            DeviceEvent(
                e.name, e.window, e.predicted, e.status, e.kept, state.get("before", 0.0),
                state.get("best", 0.0), late,
            )
            for e, late in found
        ]  # fmt: skip

    def calibrate(self) -> None:
        """Begin a calibration on the stored windows."""
        self.device.calibrate()

    def restart(self) -> PacedDevice:
        """The device after power off and on: RAM is lost, flash stays."""
        return PacedDevice(self.device.restart(), self.fs)

    def crc32(self) -> int:
        """CRC-32 of the weights."""
        return self.device.crc32()

    @property
    def off(self) -> bool:
        """Whether power has gone."""
        return self.device.off

    @property
    def mode(self) -> str:
        """What the firmware does: "record", "calibrate" or "use"."""
        return self.device.mode

    @property
    def counters(self) -> dict[str, int]:
        """The counters since power came."""
        return self.device.counters
