# SPDX-License-Identifier: Apache-2.0
"""The package as firmware on the RTL of its core: slow, and exact to the cycle."""

from __future__ import annotations

from biotrain.emit.build import Build
from biotrain.errors import BioTrainError
from biotrain.run.cv32e40p_cycles import Fpu
from biotrain.run.device import Executed
from biotrain.run.elf import Elf
from biotrain.run.emulator import SLOT
from biotrain.run.firmware import (
    Compiler,
    core_of,
    memories,
    session_elf,
)
from biotrain.run.mailbox import FIELDS, POINTER_BYTES
from biotrain.run.rtl import RtlMachine
from biotrain.run.session import SLOT_BYTES, SessionDevice

CONFIGURATIONS = {"cv32e40p": Fpu(), "rv32imc_zfinx": Fpu(zfinx=True)}
"""How the core is built, by the name that a target has for its RTL."""


class RtlDevice(SessionDevice):
    """Firmware on CV32E40P, clock by clock: some 0.4 million cycles a second."""

    on = "rtl"

    def __init__(self, package: Build, *, compiler: Compiler | None = None) -> None:
        target = package.target
        core = core_of(target)
        if core.rtl not in CONFIGURATIONS:
            raise BioTrainError(
                f"there is no RTL of {target.core}; compile for one of these to run on rtl: "
                + ", ".join(CONFIGURATIONS)
            )
        flash, ram = memories(target)
        elf = session_elf(package, flash, ram, compiler)
        image = Elf(elf)
        regions = [(m.origin, m.bytes) for m in (flash, ram)] + [(SLOT, SLOT_BYTES)]
        command = image.symbol("session")[0] + FIELDS.offset("command", POINTER_BYTES)
        idle = image.symbol("bt_idle")[0]
        machine = RtlMachine(elf, command, idle, regions, fpu=CONFIGURATIONS[core.rtl])
        super().__init__(package, machine, elf, SLOT)
        self._from = (0, 0)

    def restart_count(self) -> None:
        self._from = self._now()

    def executed(self) -> Executed:
        now = self._now()
        instructions, cycles = (
            after - before for after, before in zip(now, self._from, strict=True)
        )
        return Executed(instructions, cycles, "the RTL of CV32E40P", False)

    def _now(self) -> tuple[int, int]:
        return self.machine.instructions or 0, self.machine.cycles or 0
