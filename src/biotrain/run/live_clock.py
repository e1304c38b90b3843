# SPDX-License-Identifier: Apache-2.0
"""The live firmware in the emulator with a clock: when frames come, what work and flash take.

The emulator runs as fast as it can; the time of the device is counted: the instructions that it
executes, at the cycles per instruction of the core's table, and what flash takes to erase and to
program, during which the core stands still. A frame comes every 1 / fs seconds, whatever the device
is doing; it waits in the ring until `bt_live_work` takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from biotrain.emit.build import Build
from biotrain.errors import BioTrainError
from biotrain.run.live_device import Event, LiveDevice
from biotrain.run.live_flash import Flash

SLICE_S = 0.002
"""Seconds of the device's time that one call of `bt_live_work` may take."""
WRITING_TASKS = ("good", "work")
"""`bt_live_task`: a checkpoint is being written."""
PRICED_EVERY_CALLS = 2_000
"""Calls of work after which the cycles per instruction are computed again."""
FIRST_CYCLES_PER_INSTRUCTION = 1.25
"""Cycles per instruction until then (an estimate)."""


@dataclass(frozen=True)
class FlashTime:
    """Milliseconds to erase a page, microseconds to program a word of 4 bytes."""

    erase_ms: float
    word_us: float


NRF52840 = FlashTime(85.0, 41.0)
"""Largest values of the nRF52840 product specification, NVMC electrical specification."""


@dataclass(frozen=True)
class Timed:
    """An event and when it was there, in seconds since power came."""

    event: Event
    t: float
    late_s: float
    """Seconds from the last sample of a window to its prediction; 0 of other events."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.event, name)


class ClockedDevice(LiveDevice):
    """`LiveDevice` in the emulator, in its own time."""

    def __init__(
        self,
        package: Build,
        flash: Flash | None = None,
        *,
        fs: float,
        flash_time: FlashTime = NRF52840,
    ) -> None:
        """`fs`: frames per second."""
        self._instructions = 0
        super().__init__(package, "emulator", flash)
        self.clock_hz = package.target.clock_hz
        if not self.clock_hz:
            raise BioTrainError(f"the clock of {package.target.name} is not known: name a board")
        self.fs, self.flash_time = fs, flash_time
        front = self.plan.live.front
        factor = front.decimate if front else 1
        self._hop = self.plan.hop * factor
        self._last = (self.plan.times - 1) * factor  # from a window's first frame to its last
        self._cpi = FIRST_CYCLES_PER_INSTRUCTION
        self._flash_s = 0.0
        self._calls = 0
        self.t = 0.0
        """Seconds since power came."""
        self.pushed = 0
        """Frames since then, with those that were lost on their way."""
        self._begins = [(0, 0)]
        """Where windows begin anew: number of the window, and of its first frame."""
        self.busy_s = self.stalled_s = self.longest_s = 0.0
        """Seconds of work, of flash, and of the longest call (with its flash)."""
        self.deepest = 0
        """Most frames that waited in the ring."""
        self._tick()

    # ------------------------------------------------------------ time passes

    def stream(self, frames: npt.ArrayLike, labels: npt.ArrayLike = -1) -> list[Timed]:
        """Frames `[n_chans, n]` come at their rate, and the device works whenever it can; returns
        the events until the last frame is there. Stops where power goes."""
        x, y = self._signals(frames, labels)
        first, total = self.pushed, self.pushed + len(x)
        found: list[Timed] = []
        while not self.off:
            due = min(int(self.t * self.fs) + 1, total)
            if due > self.pushed:
                here = slice(self.pushed - first, due - first)
                self._hand_over(x[here], y[here])
                self._runner.do("push")
                self._tick()
                self.pushed = due
                self.deepest = max(self.deepest, self.waiting)
            event = self._one(found)
            if event.name == "idle":
                if self.pushed == total:
                    return found
                self.t = max(self.t, self.pushed / self.fs)  # it sleeps until the next frame
            elif self.pushed == total and self.t * self.fs > total:
                return found
        return found

    def gap(self, frames: int = 0) -> None:
        """So many frames were lost before the next one, and their time has passed."""
        super().gap(frames)
        self.pushed += frames
        self.t = max(self.t, self.pushed / self.fs)
        self._begins.append((self.counters["windows"], self.pushed))

    def rest(self, most_s: float = 3600.0) -> list[Timed]:
        """No frames come: works until nothing is left to do, or power goes."""
        found: list[Timed] = []
        end = self.t + most_s
        while not self.off and self.t < end and self._one(found).name != "idle":
            pass
        return found

    def _one(self, found: list[Timed]) -> Event:
        """One call of work; an event that it ended with is appended to `found`."""
        before = self.t
        # Frames arrive between the slices of a checkpoint too, so each slice is a call of its own.
        writes = self.task in WRITING_TASKS
        event = self.step(1 if writes else max(1, int(SLICE_S * self.clock_hz)))
        self._tick()
        self.longest_s = max(self.longest_s, self.t - before)
        if event.name not in ("idle", "more") and not self.off:
            late = 0.0
            if event.name == "predicted":
                number, frame = next(b for b in reversed(self._begins) if b[0] <= event.window)
                last = frame + (event.window - number) * self._hop + self._last
                late = self.t - last / self.fs
            found.append(Timed(event, self.t, late))
        self._calls += 1
        if self._calls % PRICED_EVERY_CALLS == 0:
            self.price()
        return event

    def price(self) -> float:
        """Cycles per instruction by the core's table, over all that was executed; the clock goes
        by it from now on."""
        self._cpi = self.cycles() / max(self.machine.instructions, 1)
        return self._cpi

    def restart(self, on: str | None = None) -> ClockedDevice:
        """The next start: the same flash, another RAM, time from zero."""
        del on
        return ClockedDevice(self.package, self.flash, fs=self.fs, flash_time=self.flash_time)

    def crc32(self) -> int:
        """CRC-32 of the weights, asked from outside: it takes no time of the device."""
        found = super().crc32()
        self._instructions = self.machine.instructions
        return found

    def _tick(self) -> None:
        """The time that the newest command took."""
        now = self.machine.instructions
        executed, self._instructions = now - self._instructions, now
        wear = np.frombuffer(self._runner.read(self._arrays[2], self._given.wear.nbytes), np.uint32)
        erased = int(wear.sum()) - int(self._given.wear.sum())
        words = max(0, self.steps - 4 * erased) / 4
        flash = 1e-3 * self.flash_time.erase_ms * erased + 1e-6 * self.flash_time.word_us * words
        busy = executed * self._cpi / self.clock_hz
        self.busy_s += busy
        self.stalled_s += flash - self._flash_s
        self.t += busy + flash - self._flash_s
        self._flash_s = flash
