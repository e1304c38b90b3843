# SPDX-License-Identifier: Apache-2.0
"""Segments, sections and symbols of a linked firmware."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from biotrain.errors import BioTrainError


@dataclass(frozen=True)
class Segment:
    """Bytes to load at an address; `memory_bytes` beyond them are zero."""

    address: int
    data: bytes
    memory_bytes: int


@dataclass(frozen=True)
class Symbol:
    """A named object or function of the firmware."""

    name: str
    address: int
    size: int
    kind: str
    """`OBJECT`, `FUNC` or `NOTYPE`."""


class Elf:
    """A firmware image on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            from elftools.elf.elffile import ELFFile
        except ImportError:
            raise BioTrainError(
                "reading firmware needs pyelftools: pip install 'biotrain[emulator]'"
            ) from None
        with path.open("rb") as file:
            elf: Any = ELFFile(file)
            self.entry = int(elf["e_entry"])
            starts = [
                int(s["sh_offset"])
                for s in elf.iter_sections()
                if s["sh_flags"] & 2 and s["sh_type"] == "SHT_PROGBITS"
            ]
            self.segments = tuple(  # without one that holds the file's own headers
                Segment(int(s["p_paddr"]), s.data(), int(s["p_memsz"]))
                for s in elf.iter_segments()
                if s["p_type"] == "PT_LOAD"
                and any(0 <= at - int(s["p_offset"]) < int(s["p_filesz"]) for at in starts)
            )
            self.sections = {
                s.name: (int(s["sh_addr"]), int(s["sh_size"]))
                for s in elf.iter_sections()
                if s["sh_flags"] & 2  # SHF_ALLOC
            }
            table = elf.get_section_by_name(".symtab")
            self.symbols = tuple(
                Symbol(s.name, int(s["st_value"]), int(s["st_size"]), s["st_info"]["type"][4:])
                for s in (table.iter_symbols() if table else ())
                if s.name
            )

    @cached_property
    def _by_name(self) -> dict[str, Symbol]:
        return {s.name: s for s in self.symbols}

    def symbol(self, name: str) -> tuple[int, int]:
        """Address and size of a symbol; a Thumb function's address without its lowest bit."""
        try:
            found = self._by_name[name]
        except KeyError:
            raise BioTrainError(f"'{self.path.name}' has no symbol '{name}'") from None
        thumb = found.kind == "FUNC" and self.is_arm
        return found.address & ~1 if thumb else found.address, found.size

    @cached_property
    def is_arm(self) -> bool:
        """Whether the code is Thumb."""
        with self.path.open("rb") as file:
            file.seek(18)
            return int.from_bytes(file.read(2), "little") == 40  # EM_ARM
