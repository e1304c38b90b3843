# SPDX-License-Identifier: Apache-2.0
"""Fused loops: the ways to run a group of nodes together, over rows or over tiles of time.

The boxes of a loop follow from the receptive fields, from the last node of the group to the first:
each iteration computes the tiles of the stored results, and of the streamed tensors exactly the
windows, halos included, that these tiles read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import gcd

from biotrain.ir.graph import Graph, Node, Span, Value
from biotrain.ir.op import OPS, area_ops
from biotrain.planner.dataflow import Cycles, Dataflow, equal_price, no_cycles
from biotrain.planner.loops import NOTHING, Box, Iterations, hull, make_loop, window_peak
from biotrain.planner.place import aligned

SHORTEST_TILE = 16
"""Samples of the shortest tile of time, in the tensor of the group that has most of them."""

MOST_TILES = 64
"""Tiles of time that a group is divided into at most."""

MOST_CALLS = 3_000
"""Calls of a fused loop, in all iterations: a division with more is not looked at."""

ROW_TILINGS = 3
"""Divisions along rows that are tried, the finest first."""


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that run together, by number."""

    stored: tuple[int, ...]
    """Nodes whose results are stored whole."""
    streamed: tuple[int, ...]
    """Nodes whose results live in windows; these are what the stored ones need."""

    @property
    def order(self) -> list[int]:
        """All nodes in order of execution."""
        return sorted((*self.stored, *self.streamed))


@dataclass(frozen=True, slots=True)
class StoredRows:
    """The first rows of a streamed tensor, stored by the first group that computes them."""

    node: int
    count: int
    writes: bool
    """True for the group that stores them; the others read them."""


@dataclass(frozen=True)
class FusedLoop:
    """One way to run a group."""

    group: Group
    axis: str
    """`rows`, `time`, or `whole`: without a loop, one node after the other."""
    ops: int
    """Estimated cycles of its calls, or executed multiplies and adds, each at the price of its op,
    where cycles of calls are not known (`Dataflow`)."""
    window_bytes: int
    """Most bytes of windows that are in use at one time."""
    boxes: Mapping[int, tuple[Box, ...]]
    """Per node and iteration, what is computed; without entries for `whole`."""
    rows: StoredRows | None = None
    """Rows of a streamed tensor that this loop stores, or finds stored."""
    stored_until: int = 0
    """Iterations, from the first on, whose rows are stored."""


class FusedLoops(Dataflow):
    """The fused loops of the groups of one graph, computed once."""

    def __init__(
        self,
        graph: Graph,
        price: Callable[[str], float] = equal_price,
        cycles: Cycles = no_cycles,
    ) -> None:
        super().__init__(graph, price, cycles)
        self._loops: dict[Group, tuple[FusedLoop, ...]] = {}
        self._with_rows: dict[tuple[Group, StoredRows], FusedLoop | None] = {}
        self._built: dict[int, tuple[Node, ...]] = {}

    def loops(self, group: Group) -> tuple[FusedLoop, ...]:
        """Ways to run a group: more operations only where the windows take fewer bytes."""
        if group not in self._loops:
            nodes = len(group.order)
            made = (
                self.fused(group, axis, count)
                for axis, count in self.tilings(group)
                if axis == "whole" or nodes * self._turns(group, axis, count) <= MOST_CALLS
            )
            found = [loop for loop in made if loop is not None]
            found.sort(key=lambda f: (f.ops, f.window_bytes))
            best: list[FusedLoop] = []
            for loop in found:
                if not best or loop.window_bytes < best[-1].window_bytes:
                    best.append(loop)
            self._loops[group] = tuple(best)
        return self._loops[group]

    def tilings(self, group: Group) -> list[tuple[str, int]]:
        """Axes along which a group can be divided: the number (rows) or length (time) of tiles."""
        found: list[tuple[str, int]] = [("whole", 1)]
        if len(group.stored) == 1 and not group.streamed:
            return found
        sizes = [self._sizes[i] for i in group.stored]
        rules = [OPS[self.nodes[i].op] for i in group.stored]
        steps = [r.row_step(self.nodes[i]) for r, i in zip(rules, group.stored, strict=True)]
        if all(steps) and not any(b[0] % s for b, s in zip(sizes, steps, strict=True)):
            count = 0
            for size, step in zip(sizes, steps, strict=True):
                count = gcd(count, size[0] // step)
            divisors = [n for n in range(count, 1, -1) if count % n == 0]
            found += [("rows", n) for n in divisors[:ROW_TILINGS]]
        if all(r.tiles(self.nodes[i]) for r, i in zip(rules, group.stored, strict=True)):
            finest = max(b[1] for b in sizes)
            unit = 1
            for size, rule in zip(sizes, rules, strict=True):
                scale = max(1, round(finest / size[1]))
                need = scale * (rule.leaf if rule.reduces_time else 1)
                unit = unit * need // gcd(unit, need)
            length = -(-SHORTEST_TILE // unit) * unit
            fastest = max(self._sizes[i][1] for i in (*group.stored, *group.streamed))
            least = max(SHORTEST_TILE * finest // fastest, finest // MOST_TILES, 1)
            short = -(-least // unit) * unit
            lengths = dict.fromkeys((short, length, 4 * length, 16 * length))
            found += [("time", n) for n in lengths if n < finest]
        return found

    def _turns(self, group: Group, axis: str, count: int) -> int:
        """Iterations of a group that is divided along an axis."""
        return (
            count if axis == "rows" else -(-max(self._sizes[i][1] for i in group.stored) // count)
        )

    def _tiles(self, i: int, axis: str, count: int, finest: int) -> list[Box]:
        """The boxes of a stored node, one per iteration."""
        rows, times = self._sizes[i]
        if axis == "rows":
            step = rows // count
            return [(k * step, (k + 1) * step, 0, times) for k in range(count)]
        scale = max(1, round(finest / times))
        length, tiles = count // scale, -(-finest // count)
        borders = [min(k * length, times) for k in range(tiles)] + [times]
        return [(0, rows, a, b) if b > a else NOTHING for a, b in pairwise(borders)]

    def row_unit(self, group: Group, node: int) -> tuple[int, int]:
        """Rows of a node's result that one tile of the finest division makes; number of tiles."""
        counts = [n for axis, n in self.tilings(group) if axis == "rows"]
        rows = self._sizes[node][0]
        return (rows // counts[0], counts[0]) if counts and rows % counts[0] == 0 else (rows, 1)

    def with_rows(self, group: Group, rows: StoredRows) -> FusedLoop | None:
        """The group along rows, some of them stored; None where that is not possible."""
        key = (group, rows)
        if key not in self._with_rows:
            counts = [n for axis, n in self.tilings(group) if axis == "rows"]
            found = (self.fused(group, "rows", n, rows) for n in counts)
            self._with_rows[key] = next((f for f in found if f is not None), None)
        return self._with_rows[key]

    def fused(
        self, group: Group, axis: str, count: int, rows: StoredRows | None = None
    ) -> FusedLoop | None:
        """The group divided along an axis; None where a tile would be read before it is computed.

        `count`: tiles along `rows`, samples of a tile along `time`.
        """
        order = group.order
        if axis == "whole":
            ops = sum(self._whole_ops[i] for i in order)
            return FusedLoop(group, "whole", ops, self._block_peak(group, order), {})
        found = self._boxes(group, axis, count, rows)
        if found is None:
            return None
        boxes, flags = found
        until = sum(flags)
        in_order = flags == sorted(flags, reverse=True)
        if rows and not (in_order and self._stores_each_once(rows, boxes, until)):
            return None
        loop = FusedLoop(group, axis, self._ops(order, boxes), 0, boxes, rows, until)
        peaks = [
            window_peak(self.nodes, p, self.sources, self._item_bytes, aligned)
            for p in self._iterations(loop)
        ]
        return replace(loop, window_bytes=max(peaks))

    def _boxes(
        self, group: Group, axis: str, count: int, rows: StoredRows | None
    ) -> tuple[dict[int, tuple[Box, ...]], list[bool]] | None:
        """Per node and iteration, the box that it computes; per iteration, whether the streamed
        tensor of `rows` is stored. None where a tile would be read before it is computed."""
        order = group.order
        finest = max(self._sizes[i][1] for i in group.stored)
        tiles = {i: self._tiles(i, axis, count, finest) for i in group.stored}
        inside = {v.name: i for i in order for v in self.nodes[i].outputs if v.kind == "temp"}
        boxes: dict[int, list[Box]] = {i: [] for i in order}
        done: dict[int, Box] = dict.fromkeys(group.stored, NOTHING)
        results = {i: [v.name for v in self.nodes[i].outputs if v.name in inside] for i in order}
        flags: list[bool] = []
        for k in range(len(tiles[group.stored[0]])):
            need: dict[str, Box] = {}
            for i in reversed(order):
                if i in tiles:
                    box = tiles[i][k]
                    done[i] = hull(done[i], box)
                    for name in results[i]:
                        asked = need.get(name, NOTHING)
                        if asked[1] > done[i][1] or asked[3] > done[i][3]:
                            return None
                else:
                    box = _hull_of(need[name] for name in results[i] if name in need)
                if rows and i == rows.node:
                    flags.append(box is not NOTHING and box[1] <= rows.count)
                    if flags[-1] and not rows.writes:
                        box = NOTHING
                boxes[i].append(box)
                if box is NOTHING:
                    continue
                for name, span in self._reads_of(i, box):
                    if name in inside:
                        need[name] = hull(need[name], span) if name in need else span
        return {i: tuple(b) for i, b in boxes.items()}, flags

    def _ops(self, order: list[int], boxes: Mapping[int, tuple[Box, ...]]) -> int:
        """Estimated cycles of the calls of all iterations; or executed multiplies and adds, each at
        its price, of a node whose cycles are not known.

        The work of such a node is in proportion to the area of its boxes, but for `shared_ops`,
        which every call does on its own.
        """
        ops = 0
        for i in order:
            calls = [self._call_cost(i, b) for b in boxes[i] if b is not NOTHING]
            if all(cycles is not None for cycles in calls):
                ops += round(sum(cycles for cycles in calls if cycles is not None))
                continue
            area = sum((b[1] - b[0]) * (b[3] - b[2]) for b in boxes[i])
            shared = self._shared_ops[i]
            ops += area_ops(self._whole_ops[i] - shared, area, self._sizes[i])
            if shared:
                rule, node = OPS[self.nodes[i].op], self.nodes[i]
                own = sum(rule.shared_ops(node, Span(*b)) for b in boxes[i] if b is not NOTHING)
                ops += round(own * self._price[i])
        return ops

    def _stores_each_once(
        self, rows: StoredRows, boxes: Mapping[int, tuple[Box, ...]], until: int
    ) -> bool:
        """Whether the iterations before `until` compute the stored rows, each once."""
        if not rows.writes:
            return until > 0
        times = self._sizes[rows.node][1]
        made = boxes[rows.node][:until]
        ends = [0, *(b[1] for b in made)]
        fits = all(
            b[0] == end and (b[2], b[3]) == (0, times) for b, end in zip(made, ends, strict=False)
        )
        return until > 0 and fits and ends[-1] == rows.count

    # ---- the nodes of a fused loop

    def _iterations(self, loop: FusedLoop) -> list[Iterations]:
        """The loops in the graph: one, or one with stored rows and one for the others."""
        order = loop.group.order
        stored = dict.fromkeys(loop.group.stored)
        mark = f"~{loop.group.stored[0]}"
        count = len(loop.boxes[order[0]])
        if loop.rows is None:
            return [Iterations(order, stored, loop.boxes, loop.axis, mark)]
        result = self.nodes[loop.rows.node].outputs[0]
        first_rows = replace(result, stored_rows=loop.rows.count)
        loops = []
        for a, b in ((0, loop.stored_until), (loop.stored_until, count)):
            if b > a:
                boxes = {i: loop.boxes[i][a:b] for i in order}
                runs = [i for i in order if any(x is not NOTHING for x in boxes[i])]
                rows = first_rows if a == 0 else None
                name = f"{mark}.{a}"
                loops.append(Iterations(runs, stored, boxes, loop.axis, name, rows, a > 0))
        return loops

    def nodes_of(self, loop: FusedLoop) -> tuple[Node, ...]:
        """The nodes of a fused loop in the planned graph: loops, or plain nodes for `whole`."""
        key = id(loop)
        if key not in self._built:
            if loop.axis == "whole":
                self._built[key] = self._block(loop.group)
            else:
                loops = (make_loop(self.nodes, p, self.root) for p in self._iterations(loop))
                self._built[key] = tuple(loops)
        return self._built[key]

    def _block(self, group: Group) -> tuple[Node, ...]:
        """The group as plain nodes; streamed tensors are whole for as long as the group runs."""
        local = dict.fromkeys(v.name for i in group.streamed for v in self.nodes[i].outputs)
        mark = f"~{group.stored[0]}"

        def here(value: Value) -> Value:
            mine = self.root(value).name in local
            return replace(value, name=value.name + mark) if mine else value

        views = [
            i
            for i, node in enumerate(self.nodes)
            if self._alias(i) and self.root(node.outputs[0]).name in local
        ]
        nodes = []
        for i in sorted((*group.order, *views)):
            node = self.nodes[i]
            ins, outs = tuple(map(here, node.inputs)), tuple(map(here, node.outputs))
            nodes.append(replace(node, inputs=ins, outputs=outs))
        return tuple(nodes)

    def _block_peak(self, group: Group, order: list[int]) -> int:
        whole = {i: ((0, rows, 0, times),) for i, (rows, times) in enumerate(self._sizes)}
        block = Iterations(order, dict.fromkeys(group.stored), whole, "whole", "")
        return window_peak(self.nodes, block, self.sources, self._item_bytes, aligned)


def _hull_of(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds all of them; `NOTHING` itself where there are none."""
    found = NOTHING
    for box in boxes:
        found = box if found is NOTHING else hull(found, box)
    return found
