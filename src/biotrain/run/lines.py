# SPDX-License-Identifier: Apache-2.0
"""Which line of a source file an instruction comes from, through all inlining: DWARF."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path, PurePosixPath
from typing import Any

from biotrain.errors import BioTrainError


class Lines:
    """Lines of one source file by address."""

    def __init__(self) -> None:
        self._called: list[tuple[int, int, int]] = []
        """Code inlined from another function: begin, end, line of the outermost call."""
        self._rows: list[tuple[int, int]] = []
        """Begin and line of all other code; line 0 is other code again."""

    def line(self, address: int) -> int:
        """The line; 0 for code that comes from elsewhere."""
        at = bisect_right(self._called, (address, 1 << 63, 0)) - 1
        if at >= 0 and self._called[at][0] <= address < self._called[at][1]:
            return self._called[at][2]
        at = bisect_right(self._rows, (address, 1 << 63)) - 1
        return self._rows[at][1] if at >= 0 else 0

    def _sort(self) -> None:
        self._called.sort()
        self._rows.sort()


def source_lines(elf: Path, name: str) -> Lines:
    """Where the code of the source file `name` is, in a firmware built with `-g`."""
    from elftools.elf.elffile import ELFFile

    found = Lines()
    with elf.open("rb") as stream:
        file: Any = ELFFile(stream)
        if not file.has_dwarf_info():
            raise BioTrainError(f"'{elf.name}' has no line information: build it with -g")
        dwarf: Any = file.get_dwarf_info()
        for unit in dwarf.iter_CUs():
            top = unit.get_top_DIE()
            if PurePosixPath(_text(top, "DW_AT_name")).name == name:
                own = _numbers(dwarf, unit, name)
                for die in top.iter_children():
                    if die.tag == "DW_TAG_subprogram":
                        _inlined(dwarf, unit, die, own, found)
                _lines(dwarf, unit, name, found)
    found._sort()
    return found


def _text(die: Any, attribute: str) -> str:
    value = die.attributes.get(attribute)
    return value.value.decode(errors="replace") if value else ""


def _numbers(dwarf: Any, unit: Any, name: str) -> frozenset[int]:
    """The numbers that a source file has in a unit."""
    program = dwarf.line_program_for_CU(unit)
    if program is None:
        return frozenset()
    first = 0 if program["version"] >= 5 else 1
    files = program["file_entry"]
    return frozenset(
        number
        for number, file in enumerate(files, first)
        if PurePosixPath(file.name.decode(errors="replace")).name == name
    )


def _inlined(dwarf: Any, unit: Any, die: Any, own: frozenset[int], found: Lines) -> None:
    """The calls in a function that were inlined; those within them belong to the outermost.

    `own`: the numbers of this source file; a call in another file comes from elsewhere.
    """
    for child in die.iter_children():
        if child.tag == "DW_TAG_inlined_subroutine":
            line = child.attributes.get("DW_AT_call_line")
            file = child.attributes.get("DW_AT_call_file")
            here = line and (file is None or file.value in own)
            for begin, end in _ranges(dwarf, unit, child):
                found._called.append((begin, end, line.value if here else 0))
        elif child.tag == "DW_TAG_lexical_block":
            _inlined(dwarf, unit, child, own, found)


def _ranges(dwarf: Any, unit: Any, die: Any) -> list[tuple[int, int]]:
    """Addresses of a DIE: one stretch, or several."""
    low, high = die.attributes.get("DW_AT_low_pc"), die.attributes.get("DW_AT_high_pc")
    if low and high:
        end = high.value if high.form == "DW_FORM_addr" else low.value + high.value
        return [(low.value, end)]
    several = die.attributes.get("DW_AT_ranges")
    if several is None:
        return []
    start = unit.get_top_DIE().attributes.get("DW_AT_low_pc")
    base = start.value if start else 0
    lists = dwarf.range_lists()
    if several.form == "DW_FORM_rnglistx":
        entries = lists.get_range_list_at_offset_ex(_listed(dwarf, unit, several.value))
        return _dwarf5(dwarf, unit, entries, base)
    if unit["version"] >= 5:
        entries = lists.get_range_list_at_offset_ex(several.value)
        return _dwarf5(dwarf, unit, entries, base)
    found = []
    for entry in lists.get_range_list_at_offset(several.value):
        if hasattr(entry, "base_address"):
            base = entry.base_address
        else:
            begin = 0 if getattr(entry, "is_absolute", False) else base
            found.append((begin + entry.begin_offset, begin + entry.end_offset))
    return found


def _listed(dwarf: Any, unit: Any, index: int) -> int:
    """The offset of a numbered range list (DWARF 5, 7.28)."""
    base = unit.get_top_DIE().attributes["DW_AT_rnglists_base"].value
    section = dwarf.debug_rnglists_sec.stream
    section.seek(base + 4 * index)
    return base + int.from_bytes(section.read(4), "little")


def _dwarf5(dwarf: Any, unit: Any, entries: Any, base: int) -> list[tuple[int, int]]:
    """Range list entries of DWARF 5 (2.17.3)."""
    found: list[tuple[int, int]] = []
    for e in entries:
        if e.entry_type == "DW_RLE_base_address":
            base = e.address
        elif e.entry_type == "DW_RLE_base_addressx":
            base = dwarf.get_addr(unit, e.index)
        elif e.entry_type == "DW_RLE_offset_pair":
            found.append((base + e.start_offset, base + e.end_offset))
        elif e.entry_type == "DW_RLE_start_length":
            found.append((e.start_address, e.start_address + e.length))
        elif e.entry_type == "DW_RLE_startx_length":
            begin = dwarf.get_addr(unit, e.start_index)
            found.append((begin, begin + e.length))
        elif e.entry_type == "DW_RLE_start_end":
            found.append((e.start_address, e.end_address))
        elif e.entry_type == "DW_RLE_startx_endx":
            found.append((dwarf.get_addr(unit, e.start_index), dwarf.get_addr(unit, e.end_index)))
    return found


def _lines(dwarf: Any, unit: Any, name: str, found: Lines) -> None:
    """The line table of a unit."""
    program = dwarf.line_program_for_CU(unit)
    if program is None:
        return
    files = program["file_entry"]
    first = 0 if program["version"] >= 5 else 1
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        file = files[state.file - first].name.decode(errors="replace")
        own = not state.end_sequence and PurePosixPath(file).name == name
        line = state.line if own else 0
        if not found._rows or found._rows[-1] != (state.address, line):
            found._rows.append((state.address, line))
