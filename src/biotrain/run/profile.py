# SPDX-License-Identifier: Apache-2.0
"""Where a run's instructions and cycles went: by node of the schedule, layer, kernel, function."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biotrain.run.cycles import Cycles
from biotrain.run.histogram import Block
from biotrain.run.lines import source_lines
from biotrain.run.symbols import Program
from biotrain.writing.drawing import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COMMENT = re.compile(r"^ +/\*(.*?)\*/", re.M | re.S)
_FUNCTION = re.compile(r"^(?!static const)[a-z].*?\b(\w+)\([^;{]*\)\n\{", re.M)
_NODE = re.compile(r"(?:\d+: )?([\w, ]+?) = (\w+)\(")
_LOOP = re.compile(r"\d+: (.*)")
_LAYER = re.compile(r"\[([^][]+)\]\s*$")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the schedule: one call of a kernel, or what a function does beside its kernels."""

    function: str
    node: str
    """What the call makes, as in the comment before it; empty outside of the schedule."""
    kernel: str
    """Operation of the node; empty outside of the schedule."""
    layer: str
    """Path of the torch module; empty where it comes from none."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a profile."""

    name: str
    instructions: int
    cycles: int
    share: float
    """Share of all cycles, 0 to 1."""


@dataclass(frozen=True)
class Profile:
    """A run of a firmware, divided."""

    core: str
    source: str
    """Where the cycles come from."""
    estimate: bool
    instructions: int
    cycles: int
    places: Mapping[Place, tuple[int, float]]
    """Instructions and cycles by place, in the order of the schedule."""

    def rows(self, by: str = "node") -> list[Row]:
        """The run by `node`, `layer`, `kernel` or `function`.

        Nodes stand in the order of the schedule, the rest by falling cycles. What belongs to no
        node, layer or kernel counts under its function, in parentheses.
        """
        if by not in _NAMES:
            raise ValueError(f"a profile is by {', '.join(_NAMES)}, not by '{by}'")
        counts: defaultdict[str, int] = defaultdict(int)
        spent: defaultdict[str, float] = defaultdict(float)
        for place, (count, cost) in self.places.items():
            name = _NAMES[by](place) or f"({place.function})"
            counts[name] += count
            spent[name] += cost
        total = max(self.cycles, 1)
        rows = [Row(name, counts[name], round(c), c / total) for name, c in spent.items()]
        return rows if by == "node" else sorted(rows, key=lambda r: (-r.cycles, r.name))

    def to_json(self) -> dict[str, Any]:
        """The run by node, layer, kernel and function, as plain data."""
        divided = {
            f"{by}s": [
                {
                    "name": row.name,
                    "instructions": row.instructions,
                    "cycles": row.cycles,
                    "share": round(row.share, 6),
                }
                for row in self.rows(by)
            ]
            for by in _NAMES
        }
        return {
            "core": self.core,
            "cycles_source": self.source,
            "estimate": self.estimate,
            "instructions": self.instructions,
            "cycles": self.cycles,
            **divided,
        }

    def figure(self, by: str = "layer", most: int = 24) -> Figure:
        """The `most` expensive rows as bars, the rest as one."""
        from matplotlib.figure import Figure

        rows = sorted(self.rows(by), key=lambda r: (-r.cycles, r.name))
        rest = rows[most:]
        rows = rows[:most]
        if rest:
            cycles = sum(r.cycles for r in rest)
            count = sum(r.instructions for r in rest)
            share = sum(r.share for r in rest)
            rows.append(Row(f"{len(rest)} others", count, cycles, share))
        figure = Figure(figsize=(8, 1.2 + 0.26 * len(rows)), dpi=120, layout="constrained")
        axes = figure.subplots()
        places = range(len(rows))
        axes.barh(places, [100 * r.share for r in rows], color="#56B4E9", edgecolor="black", lw=0.5)
        axes.set_yticks(places, [r.name for r in rows], fontsize=8)
        axes.invert_yaxis()
        for at, row in enumerate(rows):
            axes.text(100 * row.share, at, f" {row.cycles:,}", va="center", fontsize=7)
        axes.set_xlim(0, 115 * max((r.share for r in rows), default=1.0))
        label = "estimated cycles" if self.estimate else "cycles"
        axes.set_xlabel(f"% of {self.cycles:,} {label}, {self.core}")
        axes.set_title(f"by {by}; {self.source}", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        return figure

    def save(self, path: str | Path, by: str = "layer") -> None:
        """Draw `figure(by)` into a file."""
        save(self.figure(by), path)


_NAMES: Mapping[str, Callable[[Place], str]] = {
    "node": lambda p: p.node,
    "layer": lambda p: p.layer,
    "kernel": lambda p: p.kernel,
    "function": lambda p: p.function,
}


def profile(
    cycles: Cycles,
    elf: Path,
    source: str,
    name: str = "model.c",
    calls: Mapping[tuple[Block, int], int] | None = None,
) -> Profile:
    """Divide a run by the schedule in `source`, the text of the file `name` of the firmware.

    The firmware is built with `-g`: its line table says which call in the schedule an instruction
    was inlined from. `calls`, from `Histogram.calls`, says how often what was not inlined ran for
    which call of the schedule; without it, that belongs to no node.
    """
    program = Program(elf)
    lines = source_lines(elf, name)
    schedule = _schedule(source)
    places: dict[Place, tuple[int, float]] = {}
    called = _called(sorted(cycles.addresses), calls or {})
    found: list[tuple[tuple[int, int], Place, int, float]] = []
    own, last = functions(source), ("", 0)
    for address, (count, cost) in sorted(cycles.addresses.items()):
        line, function = lines.line(address), program.function(address)
        if not line and function == last[0] and function in own:
            line = last[1]  # compilers drop the line of what they make of several lines
        last = function, line
        left = count
        for behind, times in called.get(address, {}).items():
            calling = lines.line(behind - 1)
            place = schedule.place(calling) if calling else None
            if place is not None and place.node:
                found.append(((0, calling), place, times, cost * times / count))
                left -= times
        if left == 0:
            continue
        place = schedule.place(line) if line else None
        order = (0, line)
        if place is None:
            place, order = Place(function, "", "", ""), (1, 0)
        found.append((order, place, left, cost * left / count))
    for _, place, count, cost in sorted(found, key=lambda f: (f[0], f[1].function)):
        before = places.get(place, (0, 0.0))
        places[place] = (before[0] + count, before[1] + cost)
    return Profile(
        cycles.core, cycles.source, cycles.estimate, cycles.instructions, cycles.total, places
    )


def _called(
    addresses: Sequence[int], calls: Mapping[tuple[Block, int], int]
) -> dict[int, dict[int, int]]:
    """How often each executed address ran for the call before an address of the schedule."""
    found: dict[int, dict[int, int]] = {}
    for ((begin, size), behind), times in calls.items():
        for at in addresses[bisect_left(addresses, begin) : bisect_left(addresses, begin + size)]:
            counts = found.setdefault(at, {})
            counts[behind] = counts.get(behind, 0) + times
    return found


def functions(source: str) -> tuple[str, ...]:
    """The functions of the emitted C that call the kernels of nodes."""
    return tuple(dict.fromkeys(place.function for _, place in marks(source) if place.node))


def marks(source: str) -> list[tuple[int, Place]]:
    """The lines of the emitted C on which functions and nodes begin, in order, and what begins."""
    return _schedule(source).marks


class _Schedule:
    """Which node a line of the emitted C belongs to."""

    def __init__(self, starts: list[int], places: list[Place]) -> None:
        self._starts, self._places = starts, places

    @property
    def marks(self) -> list[tuple[int, Place]]:
        return list(zip(self._starts, self._places, strict=True))

    def place(self, line: int) -> Place | None:
        at = bisect_right(self._starts, line) - 1
        return self._places[at] if at >= 0 else None


def _schedule(source: str) -> _Schedule:
    """Read the emitted C: its functions, and the comment before the call of each node."""
    functions = [
        (match.start(), Place(match.group(1), "", "", "")) for match in _FUNCTION.finditer(source)
    ]
    offsets = [at for at, _ in functions]
    marks = list(functions)
    for match in _COMMENT.finditer(source):
        text = " ".join(re.sub(r"\n\s*\*? ?", " ", match.group(1)).split())
        at = bisect_right(offsets, match.start()) - 1
        if at < 0:
            continue
        function = functions[at][1].function
        layer = _LAYER.search(text)
        origin = layer.group(1) if layer else ""
        if node := _NODE.match(text):
            made, kernel = node.groups()
            marks.append((match.start(), Place(function, f"{made} = {kernel}", kernel, origin)))
        elif loop := _LOOP.match(text):
            marks.append((match.start(), Place(function, loop.group(1), "loop", origin)))
    marks.sort(key=lambda mark: mark[0])
    starts = [source.count("\n", 0, at) + 1 for at, _ in marks]
    return _Schedule(starts, [place for _, place in marks])
