# SPDX-License-Identifier: Apache-2.0
"""Firmware in unicorn: the instructions of the core, without a board, QEMU or gcc."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from biotrain.emit.build import Build
from biotrain.errors import BioTrainError, EmulatorError
from biotrain.run.device import Executed
from biotrain.run.elf import Elf
from biotrain.run.firmware import (
    Compiler,
    core_of,
    memories,
    session_elf,
)
from biotrain.run.histogram import Histogram
from biotrain.run.machine import Machine
from biotrain.run.session import SLOT_BYTES, SessionDevice
from biotrain.targets.target import Memory, Target

if TYPE_CHECKING:
    from biotrain.run.cycles import Cycles
    from biotrain.run.profile import Profile

PAGE_BYTES = 4096
"""Unicorn maps memory in pages of so many bytes."""
LONGEST_S = 3600
"""Seconds that one command may take, on the clock of this machine."""
FPU_ON = 0x2000
"""`mstatus.FS` of RISC-V: initial."""
SLOT = 0x60000000
"""Where the emulated machine has memory that the firmware does not link into."""


class EmulatorMachine(Machine):
    """A core in unicorn with the memories of a target, and nothing else."""

    name = "emulator"

    def __init__(
        self,
        elf: Path,
        target: Target,
        regions: tuple[Memory, ...],
        schedule: Sequence[str] = (),
        shared: Mapping[int, Any] = MappingProxyType({}),
        loaded: bool = True,
    ) -> None:
        """`schedule`: functions whose calls the histogram tells apart.

        shared : memories that several cores have, by their first address; pointers to bytes.
        loaded : whether the program has to be written into the memories.
        """
        try:
            import unicorn
        except ImportError:
            raise BioTrainError(
                "the emulator needs unicorn: pip install 'biotrain[emulator]'"
            ) from None
        core = core_of(target)
        if not core.unicorn:
            raise BioTrainError(
                f"unicorn has no {target.core}; run it on qemu, or compile for a core that "
                "it has (cortex-m4f, cortex-m7, cortex-m33, rv32imfc)"
            )
        self._unicorn: Any = unicorn
        self.uc: Any
        image = Elf(elf)
        self._idle = image.symbol("bt_idle")[0]
        self._thumb = int(core.family == "arm")
        if self._thumb:
            self.uc = unicorn.Uc(
                unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS
            )
            models = unicorn.arm_const
            name = "UC_CPU_ARM_" + core.unicorn.replace("-", "_").upper()
            self.uc.ctl_set_cpu_model(getattr(models, name))
            self._pc, self._link = models.UC_ARM_REG_PC, models.UC_ARM_REG_LR
        else:
            self.uc = self._unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV32)
            self._pc, self._link = (
                unicorn.riscv_const.UC_RISCV_REG_PC,
                unicorn.riscv_const.UC_RISCV_REG_RA,
            )
        for region in regions:
            size = -(-region.bytes // PAGE_BYTES) * PAGE_BYTES
            writable = region.name != "flash"
            rights = unicorn.UC_PROT_READ | (
                unicorn.UC_PROT_WRITE if writable else unicorn.UC_PROT_EXEC
            )
            if region.origin in shared:
                self.uc.mem_map_ptr(region.origin, size, rights, shared[region.origin])
            else:
                self.uc.mem_map(region.origin, size, rights)
        if self._thumb:
            self.uc.mem_map(
                0xE000E000, PAGE_BYTES
            )  # system control space: CPACR is written at the start
            self._enable_fpu()
        for segment in image.segments if loaded else ():
            self.uc.mem_write(segment.address, segment.data)
        self.histogram = Histogram()
        flash = next(r for r in regions if r.name == "flash")
        code = [(s.address & ~1, s.size) for s in image.symbols if s.name in schedule]
        self.histogram.attach(
            self.uc, flash.origin, flash.origin + flash.bytes, [(at, at + n) for at, n in code]
        )
        self._next = image.symbol("Reset_Handler")[0]

    def _enable_fpu(self) -> None:
        models = self._unicorn.arm_const
        value = self.uc.reg_read(models.UC_ARM_REG_C1_C0_2)
        self.uc.reg_write(models.UC_ARM_REG_C1_C0_2, value | 0xF00000)
        self.uc.reg_write(models.UC_ARM_REG_FPEXC, 0x40000000)

    def read(self, address: int, count: int) -> bytes:
        return bytes(self.uc.mem_read(address, count))

    def write(self, address: int, data: bytes) -> None:
        self.uc.mem_write(address, data)

    def run(self) -> None:
        self.advance()

    def start_at(self, address: int, stack: int, argument: int) -> None:
        """The next `advance` begins at a function of one argument, on a stack of its own."""
        models = self._unicorn.arm_const if self._thumb else self._unicorn.riscv_const
        prefix, names = (
            ("UC_ARM_REG_", ("SP", "R0"))
            if self._thumb
            else (
                "UC_RISCV_REG_",
                ("SP", "A0"),
            )
        )
        for name, value in zip(names, (stack, argument), strict=True):
            self.uc.reg_write(getattr(models, prefix + name), value)
        if not self._thumb:
            status = self._unicorn.riscv_const.UC_RISCV_REG_MSTATUS
            self.uc.reg_write(status, self.uc.reg_read(status) | FPU_ON)
        self._next = address & ~1

    def advance(self, *stops: int) -> int:
        """Run until the firmware waits for a command, or comes to another address, and return
        where it is; the next run goes on behind that call."""
        ends = (self._idle, *stops)
        try:
            if stops:
                self.uc.ctl_exits_enabled(True)
                self.uc.ctl_set_exits(list(ends))
            self.uc.emu_start(self._next | self._thumb, self._idle, timeout=LONGEST_S * 1_000_000)
        except self._unicorn.UcError as error:
            pc = self.uc.reg_read(self._pc)
            self.histogram.cut(pc)
            raise EmulatorError(f"the firmware stopped at {pc:#010x}: {error}") from error
        at = self.uc.reg_read(self._pc)
        self.histogram.cut(at)
        if at not in ends:
            raise EmulatorError(f"the firmware is still at {at:#010x} after {LONGEST_S} s")
        # bt_idle is empty: go on where it returns to
        self._next = self.uc.reg_read(self._link) & ~self._thumb
        return int(at)

    def close(self) -> None:
        self.uc = None

    @property
    def instructions(self) -> int:
        return self.histogram.instructions


class EmulatorDevice(SessionDevice):
    """The package as firmware of its target, in unicorn."""

    on = "emulator"

    def __init__(
        self,
        package: Build,
        *,
        compiler: Compiler | None = None,
        flags: Sequence[str] | None = None,
    ) -> None:
        target = package.target
        flash, ram = memories(target)
        elf = session_elf(package, flash, ram, compiler, flags)
        regions = (flash, ram, Memory("slot", SLOT_BYTES, SLOT))
        from biotrain.run.profile import functions

        self._machine = EmulatorMachine(elf, target, regions, functions(package.schedule))
        super().__init__(package, self._machine, elf, SLOT)

    def restart_count(self) -> None:
        self._machine.histogram.reset()

    def cycles(self) -> Cycles:
        """Instructions and cycles by address and function, since `restart_count`."""
        from biotrain.run.cycles import cycles

        counted = self._machine.histogram
        return cycles(self.package.target.core, self.elf.path, counted.blocks(), counted.taken())

    def executed(self) -> Executed:
        found = self.cycles()
        return Executed(found.instructions, found.total, found.source, found.estimate)

    def profile(self) -> Profile:
        """Where the instructions and cycles went, since `restart_count`."""
        from biotrain.run.profile import profile

        return profile(
            self.cycles(),
            self.elf.path,
            self.package.schedule,
            self.package.source.prefix + "model.c",
            calls=self._machine.histogram.calls(),
        )
