# SPDX-License-Identifier: Apache-2.0
"""A cluster in unicorn: one engine per worker over shared memory.

Engines run one after the other, each as far as the next barrier, and there all of them wait for the
last one. In which order they run between two barriers is a choice: whatever it is, memory must come
out equal, so that running the same training in several orders finds races.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from biotrain.emit.build import Build
from biotrain.errors import BioTrainError, EmulatorError
from biotrain.run.cycles import cycles
from biotrain.run.device import Executed
from biotrain.run.elf import Elf
from biotrain.run.emulator import PAGE_BYTES, SLOT, EmulatorDevice, EmulatorMachine
from biotrain.run.firmware import BARE, Compiler, memories, optimised, session_elf
from biotrain.run.machine import Machine
from biotrain.run.session import SLOT_BYTES, SessionDevice
from biotrain.targets.target import Memory, Target

Order = Literal["rising", "falling", "random"]
ORDERS: tuple[Order, ...] = ("rising", "falling", "random")
"""In which order workers run between two barriers."""

STACKS = 0x70000000
"""Where the emulated cluster has the stacks of workers 1 and later."""


class TeamMachine(Machine):
    """So many cores in unicorn with the memories of a target."""

    name = "emulator"

    def __init__(
        self, elf: Path, target: Target, regions: tuple[Memory, ...], order: Order = "rising"
    ) -> None:
        if order not in ORDERS:
            raise BioTrainError(f"workers run in the order {', '.join(ORDERS)}, not '{order}'")
        self._order, self._random = order, random.Random(0)
        image = Elf(elf)
        self._entry = image.symbol("bt_worker_entry")[0]
        self._barrier = image.symbol("bt_barrier")[0] & ~1
        stack = -(-target.stack_bytes // PAGE_BYTES) * PAGE_BYTES
        stacks = Memory("stacks", stack * target.workers, STACKS)
        self._tops = [STACKS + stack * (i + 1) for i in range(target.workers)]
        memory: dict[int, Any] = {}
        for region in (*regions, stacks):
            size = -(-region.bytes // PAGE_BYTES) * PAGE_BYTES
            memory[region.origin] = _pages(size)
        everything = (*regions, stacks)
        self.cores = [
            EmulatorMachine(elf, target, everything, shared=memory, loaded=i == 0)
            for i in range(target.workers)
        ]
        self._memory = memory
        self._begun = False
        self._parked: list[int] = []
        """Workers at the barrier."""
        self.longest = 0
        """Instructions of the busiest worker of every interval between barriers, added up."""

    def read(self, address: int, count: int) -> bytes:
        return self.cores[0].read(address, count)

    def write(self, address: int, data: bytes) -> None:
        self.cores[0].write(address, data)

    def run(self) -> None:
        running = [0]
        while not self._interval(running):
            if not self._begun:  # worker 0 is at its first barrier
                for i, core in enumerate(self.cores[1:], 1):
                    core.start_at(self._entry, self._tops[i], i)
                self._begun = True
                self._interval(list(range(1, len(self.cores))))
            self._parked.clear()
            running = list(range(len(self.cores)))

    def _interval(self, running: list[int]) -> bool:
        """Let workers run as far as the next barrier; whether worker 0 waits for a command."""
        if self._order == "falling":
            running = running[::-1]
        elif self._order == "random":
            running = self._random.sample(running, len(running))
        idle, busiest = False, 0
        for i in running:
            core = self.cores[i]
            before = core.instructions
            at = core.advance(self._barrier)
            busiest = max(busiest, core.instructions - before)
            if at == self._barrier:
                self._parked.append(i)
            elif i == 0:
                idle = True
            else:
                raise EmulatorError(f"worker {i} waits for a command, which worker 0 does")
        self.longest += busiest
        if idle and len(self._parked) not in (0, len(self.cores) - 1):
            raise EmulatorError("a worker is on its way while worker 0 waits for a command")
        return idle

    def close(self) -> None:
        for core in self.cores:
            core.close()

    @property
    def instructions(self) -> int:
        return sum(core.instructions for core in self.cores)


def _pages(size: int) -> Any:
    """A pointer to so many bytes that begin at a page."""
    raw = (ctypes.c_uint8 * (size + PAGE_BYTES))()
    shift = -ctypes.addressof(raw) % PAGE_BYTES
    return (ctypes.c_uint8 * size).from_buffer(raw, shift)


class TeamDevice(SessionDevice):
    """The package as firmware of its target, each worker in an engine of its own."""

    on = "emulator"

    def __init__(
        self,
        package: Build,
        *,
        compiler: Compiler | None = None,
        flags: Sequence[str] | None = None,
        order: Order = "rising",
    ) -> None:
        """`order`: in which workers run between two barriers; the weights do not depend on it."""
        target = package.target
        flash, ram = memories(target)
        chosen = (*(optimised(package) if flags is None else flags), *BARE)
        elf = session_elf(package, flash, ram, compiler, chosen)
        self._ram = ram
        regions = (flash, ram, Memory("slot", SLOT_BYTES, SLOT))
        self._machine = TeamMachine(elf, target, regions, order)
        super().__init__(package, self._machine, elf, SLOT)

    def restart_count(self) -> None:
        for core in self._machine.cores:
            core.histogram.reset()
        self._machine.longest = 0

    def context(self) -> bytes:
        """All of `bt_model`, the arena too: the same in whatever order workers have run."""
        return self._machine.read(self._model, self.package.plan.context_bytes)

    def instructions(self) -> tuple[int, ...]:
        """Instructions of every worker since `restart_count`."""
        return tuple(core.instructions for core in self._machine.cores)

    def executed(self) -> Executed:
        """Instructions of all workers; cycles of the busiest of every interval between barriers,
        at the mean cycles per instruction, without conflicts and the barrier itself."""
        counted = [
            cycles(
                self.package.target.core, self.elf.path, c.histogram.blocks(), c.histogram.taken()
            )
            for c in self._machine.cores
            if c.instructions
        ]
        total = sum(c.instructions for c in counted)
        each = sum(c.total for c in counted) / max(total, 1)
        source = f"{counted[0].source}, busiest worker" if counted else ""
        return Executed(total, round(self._machine.longest * each), source, True)


def emulated(package: Build, **options: Any) -> SessionDevice:
    """The package in unicorn, on as many cores as it has workers."""
    kind = EmulatorDevice if package.source.workers == 1 else TeamDevice
    return kind(package, **options)
