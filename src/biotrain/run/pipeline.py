# SPDX-License-Identifier: Apache-2.0
"""Cycles of a block of instructions by a core's table: an in-order pipeline, one or two wide."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from biotrain.errors import BioTrainError
from biotrain.run.decode import Instruction
from biotrain.targets.target import FOLDER


@dataclass(frozen=True, slots=True)
class Kind:
    """Cycles of one kind of instruction."""

    issue: float = 1
    """Cycles until the next instruction begins, unless it can be issued beside this one."""
    each: float = 0
    """Cycles more for every register beyond the first of a load or store of several."""
    latency: float | None = None
    """Cycles until the result can be read; None: `issue`."""
    to_address: float = 0
    """Cycles more until the result can be used in an address."""
    late: float = 0
    """Cycles by which the addend is read later than the factors."""
    busy: float = 1
    """Cycles for which its unit is occupied."""
    unit: str = ""
    alone: bool = False
    """Whether no other instruction can be issued beside it."""


@dataclass(frozen=True, slots=True)
class Refill:
    """Cycles that a branch costs beside its own, where it is taken."""

    direct: float = 0
    misaligned: float = 0
    """Cycles more where the target is a 32-bit instruction across a word border."""
    indirect: float = 0
    load: float = 0
    """Cycles where the program counter is loaded."""
    mispredict: float = 0
    """Cycles for the less frequent way of a conditional branch."""


@dataclass(frozen=True, slots=True)
class Table:
    """A core's cycles, as `targets/<core>/cycles.toml` has them."""

    source: str
    width: int = 1
    fold_it: bool = False
    """IT behind a 16-bit instruction takes no cycle."""
    pipelined_loads: bool = False
    """A load or store right behind a load takes one cycle less."""
    refill: Refill = Refill()
    units: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    mca: str = ""
    """The core's name for llvm-mca; empty: it has none that can be trusted."""
    mca_units: str = ""
    """What llvm-mca must name among its units when it knows the core."""
    ops: Mapping[str, float] = field(default_factory=dict)
    """Measured cycles per multiply or add, by family of kernels."""


@cache
def load_table(core: str) -> Table:
    """The table of a core."""
    path = FOLDER / core / "cycles.toml"
    if not path.is_file():
        raise BioTrainError(f"there is no table of cycles for the core '{core}'")
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        if like := data.pop("like", None):
            return replace(load_table(like), **data)
        refill = Refill(**data.pop("refill", {}))
        kinds = {name: Kind(**row) for name, row in data.pop("kinds", {}).items()}
        return Table(**data, refill=refill, kinds=kinds)
    except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        raise BioTrainError(f"core '{core}', cycles.toml: {error}") from error


_LOADS = ("load", "fp_load")
_STORES = ("store", "store_register", "fp_store")


class _Pipeline:
    """The state between instructions."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.now = 0.0
        self.beside = 0
        """Instructions that began in this cycle."""
        self.alone = False
        self.ready: dict[str, float] = {}
        self.address: dict[str, float] = {}
        self.free = {unit: [0.0] * count for unit, count in table.units.items()}
        self.before: Instruction | None = None
        self.end = 0.0

    def step(self, one: Instruction) -> None:
        """Begin the next instruction as soon as it can."""
        table, kind = self.table, self.table.kinds.get(one.kind, Kind())
        before, self.before = self.before, one
        if one.kind == "it" and table.fold_it and before is not None and before.size == 2:
            return
        issue = kind.issue + kind.each * (one.count - 1)
        if table.pipelined_loads and before is not None and before.kind in _LOADS:
            free = not set(one.at) & set(before.writes)
            if free and one.kind in _LOADS + _STORES and before.jumps == "":
                # One cycle of the load before overlaps with this one; `str` at an immediate takes
                # one cycle already.
                issue -= 1 if kind.issue > 1 else 0
        start = self.now
        for name in one.reads:
            late = kind.late if name in one.writes else 0
            start = max(start, self.ready.get(name, 0.0) - late)
        for name in one.at:
            start = max(start, self.address.get(name, 0.0))
        if start > self.now:
            self._advance(start)
        full = self.beside >= table.width or self.alone or (kind.alone and self.beside > 0)
        if full and table.width > 1:
            self._advance(self.now + 1)
        units = self.free.setdefault(kind.unit, [0.0]) if kind.unit else None
        if units is not None and min(units) > self.now:
            self._advance(min(units))
        begin = self.now
        if units is not None:
            units[units.index(min(units))] = begin + kind.busy
        latency = issue if kind.latency is None else kind.latency
        latency += kind.each * (one.count - 1) if kind.latency is not None else 0
        for name in one.writes:
            moved = name in one.at  # an updated base is there at once
            self.ready[name] = begin + (1 if moved else latency)
            self.address[name] = self.ready[name] + (0 if moved else kind.to_address)
        if table.width > 1 and issue <= 1:
            self.beside += 1 if issue else 0
            self.alone = kind.alone
            self.end = max(self.end, begin + (1 if issue else 0))
        else:
            self._advance(begin + issue)
            self.end = max(self.end, self.now)

    def _advance(self, to: float) -> None:
        self.now, self.beside, self.alone = to, 0, False


def block_cycles(block: Sequence[Instruction], table: Table, looped: bool) -> list[float]:
    """Cycles of each instruction of a block; a taken branch at its end is not refilled here.

    A block that is a loop of its own is run twice, and the second time counts.
    """
    pipeline = _Pipeline(table)
    ends: list[float] = []
    for one in [*block, *block] if looped else block:
        pipeline.step(one)
        ends.append(max(pipeline.end, pipeline.now))
    count = len(block)
    first = ends[count - 1] if looped else 0.0
    ends = ends[-count:]
    return [end - begin for begin, end in zip([first, *ends], ends, strict=False)]


def branch_cycles(last: Instruction, table: Table, count: int, taken: int, wide: bool) -> float:
    """Cycles that the branch at the end of a block costs in all its executions.

    `wide`: the target is a 32-bit instruction across a word border.
    """
    refill = table.refill
    if not last.jumps:
        return 0.0
    cost = 0.0
    if last.jumps == "direct":
        cost = taken * (refill.direct + (refill.misaligned if wide else 0))
    elif last.kind in ("load", "load_multiple", "branch_table"):
        cost = taken * refill.load
    else:
        cost = taken * refill.indirect
    if last.conditional:
        cost += min(taken, count - taken) * refill.mispredict
    return cost
