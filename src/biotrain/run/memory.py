# SPDX-License-Identifier: Apache-2.0
"""Measured memory of a firmware: RAM and flash of its ELF, stack by call graph and by paint."""

from __future__ import annotations

from pathlib import Path

import numpy.typing as npt

from biotrain.emit.build import Build
from biotrain.emit.project.footprint import Footprint
from biotrain.errors import BioTrainError
from biotrain.run.elf import Elf
from biotrain.run.emulator import SLOT, EmulatorMachine
from biotrain.run.firmware import (
    Compiler,
    memories,
    session_elf,
)
from biotrain.run.machine import Machine
from biotrain.run.session import SLOT_BYTES, SessionDevice
from biotrain.run.stack import functions, worst_stack
from biotrain.targets.target import Memory

PAINT = bytes.fromhex("0df0c3a5")
"""The word that the stack is painted with: no computation leaves it by chance."""


def footprint(elf: Path | Elf, context_bytes: int, compiler: str = "") -> Footprint:
    """The figures of a firmware whose context has so many bytes.

    The context is the object of that size; where it lies inside a larger one (the mailbox of
    `rt/session.c`), what surrounds it counts as rest.
    """
    image = elf if isinstance(elf, Elf) else Elf(elf)

    def size(*sections: str) -> int:
        return sum(image.sections.get(name, (0, 0))[1] for name in sections)

    ram = {name: image.sections.get(name, (0, 0)) for name in (".data", ".bss")}
    objects = {
        (s.address, s.size): s.name
        for s in image.symbols
        if s.kind == "OBJECT" and s.size and any(b <= s.address < b + n for b, n in ram.values())
    }
    holders = [key for key in objects if key[1] >= context_bytes]
    if len(holders) != 1:
        raise BioTrainError(f"{image.path.name} holds {len(holders)} contexts, not one")
    rest = {objects[key]: key[1] for key in sorted(objects)}
    name = objects[holders[0]]
    rest[name] -= context_bytes
    rest["alignment"] = size(".data", ".bss") - context_bytes - sum(rest.values())
    begin = image.sections[".vectors"][0]
    end, length = image.sections[".text"]
    deepest, path = worst_stack(functions(image))
    return Footprint(
        compiler=compiler,
        code_bytes=end + length - begin,
        constant_bytes=size(".rodata", ".data"),
        context_bytes=context_bytes,
        rest=tuple((name, size) for name, size in rest.items() if size),
        stack_bytes=deepest,
        stack_path=path,
    )


def paint(machine: Machine, image: Elf) -> None:
    """Fill the reserve of the stack with a pattern; before the core runs."""
    at, size = image.sections[".stack"]
    machine.write(at, PAINT * (size // len(PAINT)))


def painted_bytes(machine: Machine, image: Elf) -> int:
    """Bytes from the lowest word of the stack that was written to its top."""
    at, size = image.sections[".stack"]
    held = machine.read(at, size)
    free = 0
    while held[free : free + len(PAINT)] == PAINT:
        free += len(PAINT)
    return size - free


def painted_stack(
    package: Build, x: npt.ArrayLike, y: npt.ArrayLike, compiler: Compiler | None = None
) -> tuple[int, Elf]:
    """Stack that training, predicting, saving and loading touch in the emulator, and the ELF."""
    target = package.target
    flash, ram = memories(target)
    elf = session_elf(package, flash, ram, compiler)
    slot = Memory("slot", SLOT_BYTES, SLOT)
    machine = EmulatorMachine(elf, target, (flash, ram, slot))
    paint(machine, Elf(elf))
    with SessionDevice(package, machine, elf, SLOT) as device:
        device.begin(total_steps=4)
        device.train(x, y)
        device.predict(x)
        device.crc32()
        device.load_state(device.save_state())
        if package.source.features:
            device.train_features(device.features(x), y)
        return painted_bytes(machine, device.elf), device.elf
