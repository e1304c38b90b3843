# SPDX-License-Identifier: Apache-2.0
"""Code and functions of a linked firmware, by address."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from pathlib import Path

from biotrain.errors import BioTrainError
from biotrain.run.elf import Elf


class Program:
    """What lies at an address of a firmware."""

    def __init__(self, elf: Path) -> None:
        self.elf = Elf(elf)

    def code(self, address: int, size: int) -> bytes:
        """`size` bytes of code."""
        for segment in self.elf.segments:
            at = address - segment.address
            if at >= 0 and at + size <= len(segment.data):
                return segment.data[at : at + size]
        name = self.elf.path.name
        raise BioTrainError(f"'{name}' has no code at {address:#x}: was another firmware run?")

    def text(self) -> tuple[int, bytes]:
        """Address and bytes of the segment that the entry is in."""
        entry = self.elf.entry & ~1
        for segment in self.elf.segments:
            if segment.address <= entry < segment.address + len(segment.data):
                return segment.address, segment.data
        raise BioTrainError(f"'{self.elf.path.name}' has no code at its entry {entry:#x}")

    def function(self, address: int) -> str:
        """The function that an address is in; `?` before the first."""
        starts, names = self._functions
        at = bisect_right(starts, address) - 1
        return names[at] if at >= 0 else "?"

    @cached_property
    def _functions(self) -> tuple[list[int], list[str]]:
        odd = int(self.elf.is_arm)  # bit 0 of a function's address says Thumb
        found: dict[int, str] = {}
        for symbol in self.elf.symbols:
            if symbol.kind == "FUNC":
                found.setdefault(symbol.address & ~odd, symbol.name)
        starts = sorted(found)
        return starts, [found[at] for at in starts]
