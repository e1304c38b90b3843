# SPDX-License-Identifier: Apache-2.0
"""Streaming: tensors that are not kept are made again, part by part, where they are needed.

Every node is either *kept* (its result is stored whole) or *passing* (its result lives in a window
inside the loops that need it). Given the passing nodes, the kept ones fall into *passes*: a kept
node joins an earlier pass with whose passing nodes it shares the most work, if all that it needs
whole is complete before that pass. A pass becomes a loop over rows or over tiles of time, or one
block; the boxes of its nodes follow from the receptive fields, from the last node to the first.

All of it is neutral: a part that is made again has the bits of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import gcd

from biotrain.graph.cost import area_ops
from biotrain.ir.access import by_view, call_of, reads
from biotrain.ir.graph import ITEM_BYTES, Graph, Node, Span, Value
from biotrain.ir.op import OPS, Call, rows_times
from biotrain.planner.loops import NOTHING, Box, Part, hull, make_loop, window_peak
from biotrain.planner.place import aligned

TILE = 16
"""Samples of the shortest tile of time, of what has most of them in the pass."""

MOST_TILES = 64
"""Parts that a pass is cut into at most."""

SMALL = 256
"""Tensors of fewer bytes are always kept."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Kept nodes that run together, and the passing ones that they need, by number."""

    sinks: tuple[int, ...]
    cone: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """The first rows of the result of a passing node, stored by the first pass that makes them."""

    node: int
    count: int
    makes: bool
    """True for the pass that stores them; the others read them."""


@dataclass(frozen=True)
class Form:
    """One way to run a pass."""

    part: Pass
    axis: str
    """`rows`, `time`, or `whole` for one iteration."""
    ops: int
    """Executed multiplies and adds, each at the price of its op (`Stream`)."""
    window_bytes: int
    """Most bytes of windows that are alive at one time."""
    boxes: Mapping[int, tuple[Box, ...]]
    """Per node and iteration, what is computed; without entries for `whole`."""
    rows: Rows | None = None
    """Rows of a passing tensor that this pass stores, or finds stored."""
    stored_until: int = 0
    """Iterations from the first on that do."""


def free(op: str) -> float:
    """The price of an operation where none is better than another."""
    return 1.0


class Stream:
    """The choices of one graph. Forms of passes are computed once and kept."""

    def __init__(self, graph: Graph, price: Callable[[str], float] = free) -> None:
        """`price`: what an operation of an op costs; by default they are all worth the same."""
        self.graph = graph
        self._price = [price(node.op) for node in graph.nodes]
        self.nodes = graph.nodes
        self.calls: dict[Node, Call] = {}
        self.maker: dict[str, int] = {}
        self.base: dict[str, Value] = {}
        self._whole_ops: list[int] = []
        self._shared_ops: list[int] = []
        self._forms: dict[Pass, tuple[Form, ...]] = {}
        self._with_rows: dict[tuple[Pass, Rows], Form | None] = {}
        self._sources: dict[int, tuple[int, ...]] = {}
        self._piping: dict[int, bool] = {}
        self._built: dict[int, tuple[Node, ...]] = {}
        self._needs: dict[tuple[int, Box], tuple[tuple[str, Box], ...]] = {}
        self._boxes: list[tuple[int, int]] = []
        for i, node in enumerate(self.nodes):
            for v in node.outputs:
                if v.kind == "temp":
                    self.maker[v.name] = i
            rule = OPS[node.op]
            if rule.alias and rows_times(node.inputs[0].shape) == rows_times(node.outputs[0].shape):
                source = node.inputs[0]
                self.base[node.outputs[0].name] = self.base.get(source.name, source)
            self._whole_ops.append(0 if rule.alias else round(rule.ops(node) * self._price[i]))
            self._boxes.append((0, 0) if rule.alias else call_of(node, self.calls).box)
            everything = Span(0, self._boxes[i][0], 0, self._boxes[i][1])
            self._shared_ops.append(round(rule.shared_ops(node, everything) * self._price[i]))
        self._order = [
            i
            for i, node in enumerate(self.nodes)
            if not (OPS[node.op].alias and node.outputs[0].name in self.base)
        ]
        """Nodes without the views that stand with their source."""
        self._item_bytes = [[ITEM_BYTES[v.dtype] for v in n.outputs] for n in self.nodes]
        self._updates = [any(v.kind == "param" for v in n.outputs) for n in self.nodes]
        self._states = [
            tuple(v.name for v in n.outputs if v.kind in ("state", "param")) for n in self.nodes
        ]
        self.passable = self._find_passable()
        self.loss_at = max(
            (self.maker[v.name] for v in graph.outputs if v.name in self.maker), default=-1
        )

    def root(self, value: Value) -> Value:
        """The value whose bytes `value` is another view of."""
        return self.base.get(value.name, value)

    def _alias(self, i: int) -> bool:
        return OPS[self.nodes[i].op].alias

    def _find_passable(self) -> tuple[int, ...]:
        """Nodes that need not be kept: all their results are used as windows only."""
        forced: dict[str, None] = dict.fromkeys(self.root(v).name for v in self.graph.outputs)
        for i, node in enumerate(self.nodes):
            if self._alias(i):
                if node.outputs[0].name not in self.base:  # other rows: the bytes must be there
                    forced[self.root(node.inputs[0]).name] = None
                continue
            call = call_of(node, self.calls)
            for v in node.inputs:
                if not by_view(node, call, v):
                    forced[self.root(v).name] = None
        found = []
        for i, node in enumerate(self.nodes):
            rule = OPS[node.op]
            if rule.alias or rule.accumulates:
                continue
            call = call_of(node, self.calls)
            if all(
                v.kind == "temp"
                and v.name not in forced
                and v.nbytes >= SMALL
                and by_view(node, call, v)
                for v in node.outputs
            ):
                found.append(i)
        return tuple(found)

    # ---- passes

    def sources(self, i: int) -> tuple[int, ...]:
        """Nodes whose results node i reads, views looked through."""
        if i not in self._sources:
            found: dict[int, None] = {}
            for v in self.nodes[i].inputs:
                at = self.maker.get(self.root(v).name)
                if at is not None:
                    found[at] = None
            self._sources[i] = tuple(found)
        return self._sources[i]

    def passes(self, passing: Sequence[bool]) -> list[Pass]:
        """The passes of a choice, in order of execution."""
        sinks: list[list[int]] = []
        cones: list[dict[int, None]] = []
        where: dict[int, int] = {}
        writers: dict[str, int] = {}
        late: list[int] = []
        holders: dict[int, list[int]] = {}  # passing node -> passes that need it
        ready: dict[int, int] = {}  # passing node -> first pass in which what it needs is there
        behind: dict[int, dict[int, None]] = {}  # passing node -> it, and those that it needs
        for i in self._order:
            if self._updates[i] and not passing[i]:
                late.append(i)
                continue
            first = 0
            cone: dict[int, None] = {}
            for j in self.sources(i):
                if passing[j]:
                    first = max(first, ready[j])
                    cone.update(behind[j])
                else:
                    first = max(first, where[j] + (0 if self._pipes(j) else 1))
            for name in self._states[i]:
                first = max(first, writers.get(name, -1) + 1, where.get(self.loss_at, -1) + 1)
            if passing[i]:
                ready[i] = first
                cone[i] = None
                behind[i] = cone
                continue
            best, chosen = 0, -1
            shares: dict[int, int] = {}
            for j in cone:
                for p in holders.get(j, ()):
                    if p >= first:
                        shares[p] = shares.get(p, 0) + self._whole_ops[j]
            for p in sorted(shares):
                if shares[p] > best and self._fits(sinks[p], cones[p], i, cone):
                    best, chosen = shares[p], p
            if chosen < 0:
                sinks.append([])
                cones.append({})
                chosen = len(sinks) - 1
            sinks[chosen].append(i)
            for j in cone:
                if j not in cones[chosen]:
                    holders.setdefault(j, []).append(chosen)
            cones[chosen].update(cone)
            where[i] = chosen
            for name in self._states[i]:
                writers[name] = chosen
        made = [Pass(tuple(sorted(s)), tuple(sorted(c))) for s, c in zip(sinks, cones, strict=True)]
        return self._with_updates(made, where, late) if late else made

    def _with_updates(
        self, made: list[Pass], where: dict[int, int], late: Sequence[int]
    ) -> list[Pass]:
        """Updates of parameters stand behind every pass that reads the parameter."""
        behind: dict[int, list[Pass]] = {}
        for i in late:
            params = dict.fromkeys(v.name for v in self.nodes[i].outputs if v.kind == "param")
            at = max((where[j] for j in self.sources(i)), default=0)
            for p, part in enumerate(made):
                for k in (*part.sinks, *part.cone):
                    if any(v.name in params for v in self.nodes[k].inputs):
                        at = max(at, p)
            behind.setdefault(at, []).append(Pass((i,), ()))
        return [q for p, part in enumerate(made) for q in (part, *behind.get(p, ()))]

    def _pipes(self, j: int) -> bool:
        """Whether parts of the result of node j can be used before it is complete."""
        if j not in self._piping:
            self._piping[j] = self._find_piping(j)
        return self._piping[j]

    def _find_piping(self, j: int) -> bool:
        node = self.nodes[j]
        if self._alias(j) or OPS[node.op].accumulates:
            return False
        return all(by_view(node, call_of(node, self.calls), v) for v in node.outputs)

    def _fits(self, sinks: list[int], cone: dict[int, None], i: int, own: dict[int, None]) -> bool:
        """Whether node i can run in the loop of a pass without costing it its tiles."""
        after = self.forms(Pass(tuple(sorted([*sinks, i])), tuple(sorted({**cone, **own}))))
        if any(f.axis != "whole" for f in after):
            return True
        before = self.forms(Pass(tuple(sorted(sinks)), tuple(sorted(cone))))
        alone = self.forms(Pass((i,), tuple(sorted(own))))
        return all(f.axis == "whole" for f in (*before, *alone))

    # ---- forms

    def forms(self, part: Pass) -> tuple[Form, ...]:
        """Ways to run a pass, the one with the fewest operations first."""
        if part not in self._forms:
            made = (self._form(part, axis, count) for axis, count in self._cuts(part))
            found = [form for form in made if form is not None]
            found.sort(key=lambda f: (f.ops, f.window_bytes))
            kept: list[Form] = []
            for form in found:
                if not kept or form.window_bytes < kept[-1].window_bytes:
                    kept.append(form)
            self._forms[part] = tuple(kept)
        return self._forms[part]

    def _cuts(self, part: Pass) -> list[tuple[str, int]]:
        """Axes along which the sinks can be cut, with the number (rows) or length (time)."""
        cuts: list[tuple[str, int]] = [("whole", 1)]
        if len(part.sinks) == 1 and not part.cone:
            return cuts
        boxes = [self._boxes[i] for i in part.sinks]
        rules = [OPS[self.nodes[i].op] for i in part.sinks]
        steps = [r.row_step(self.nodes[i]) for r, i in zip(rules, part.sinks, strict=True)]
        if all(steps) and not any(b[0] % s for b, s in zip(boxes, steps, strict=True)):
            count = 0
            for box, step in zip(boxes, steps, strict=True):
                count = gcd(count, box[0] // step)
            cuts += [("rows", n) for n in range(count, 1, -1) if count % n == 0][:3]
        if all(r.tiles(self.nodes[i]) for r, i in zip(rules, part.sinks, strict=True)):
            finest = max(b[1] for b in boxes)
            unit = 1
            for box, rule in zip(boxes, rules, strict=True):
                scale = max(1, round(finest / box[1]))
                need = scale * (rule.leaf if rule.reduces_time else 1)
                unit = unit * need // gcd(unit, need)
            length = -(-TILE // unit) * unit
            fastest = max(self._boxes[i][1] for i in (*part.sinks, *part.cone))
            least = max(TILE * finest // fastest, finest // MOST_TILES, 1)
            short = -(-least // unit) * unit
            lengths = dict.fromkeys((short, length, 4 * length, 16 * length))
            cuts += [("time", n) for n in lengths if n < finest]
        return cuts

    def _parts(self, i: int, axis: str, count: int, finest: int) -> list[Box]:
        """The boxes of a sink, one per iteration."""
        rows, times = self._boxes[i]
        if axis == "rows":
            step = rows // count
            return [(k * step, (k + 1) * step, 0, times) for k in range(count)]
        scale = max(1, round(finest / times))
        length, tiles = count // scale, -(-finest // count)
        cuts = [min(k * length, times) for k in range(tiles)] + [times]
        return [(0, rows, a, b) if b > a else NOTHING for a, b in pairwise(cuts)]

    def _need(self, i: int, box: Box) -> tuple[tuple[str, Box], ...]:
        """What a box of node i reads of tensors that other nodes make."""
        key = (i, box)
        if key not in self._needs:
            node = self.nodes[i]
            found: list[tuple[str, Box]] = []
            for index, span in reads(node, call_of(node, self.calls), Span(*box)):
                name = self.root(node.inputs[index]).name
                if name in self.maker and not span.empty:
                    found.append((name, (span.r0, span.r1, span.t0, span.t1)))
            self._needs[key] = tuple(found)
        return self._needs[key]

    def row_unit(self, part: Pass, node: int) -> tuple[int, int]:
        """Rows of a node's result that one part of the finest cut of a pass makes; parts."""
        counts = [n for axis, n in self._cuts(part) if axis == "rows"]
        rows = self._boxes[node][0]
        return (rows // counts[0], counts[0]) if counts and rows % counts[0] == 0 else (rows, 1)

    def with_rows(self, part: Pass, rows: Rows) -> Form | None:
        """The pass along rows, some of them stored; None where that is not possible."""
        key = (part, rows)
        if key not in self._with_rows:
            counts = [n for axis, n in self._cuts(part) if axis == "rows"]
            found = (self._form(part, "rows", n, rows) for n in counts)
            self._with_rows[key] = next((f for f in found if f is not None), None)
        return self._with_rows[key]

    def _form(self, part: Pass, axis: str, count: int, rows: Rows | None = None) -> Form | None:
        """The pass cut along an axis; None where a part would be needed before it is made."""
        order = sorted((*part.sinks, *part.cone))
        if axis == "whole":
            ops = sum(self._whole_ops[i] for i in order)
            return Form(part, "whole", ops, self._block_peak(part, order), {})
        finest = max(self._boxes[i][1] for i in part.sinks)
        parts = {i: self._parts(i, axis, count, finest) for i in part.sinks}
        inside = {v.name: i for i in order for v in self.nodes[i].outputs if v.kind == "temp"}
        boxes: dict[int, list[Box]] = {i: [] for i in order}
        done: dict[int, Box] = dict.fromkeys(part.sinks, NOTHING)
        results = {i: [v.name for v in self.nodes[i].outputs if v.name in inside] for i in order}
        flags: list[bool] = []
        for k in range(len(parts[part.sinks[0]])):
            need: dict[str, Box] = {}
            for i in reversed(order):
                if i in parts:
                    box = parts[i][k]
                    done[i] = hull(done[i], box)
                    for name in results[i]:
                        asked = need.get(name, NOTHING)
                        if asked[1] > done[i][1] or asked[3] > done[i][3]:
                            return None
                else:
                    asked_of = [need[name] for name in results[i] if name in need]
                    box = asked_of[0] if asked_of else NOTHING
                    for other in asked_of[1:]:
                        box = hull(box, other)
                if rows and i == rows.node:
                    flags.append(box is not NOTHING and box[1] <= rows.count)
                    if flags[-1] and not rows.makes:
                        box = NOTHING
                boxes[i].append(box)
                if box is NOTHING:
                    continue
                for name, span in self._need(i, box):
                    if name in inside:
                        need[name] = hull(need[name], span) if name in need else span
        ops = 0
        for i in order:
            area = sum((b[1] - b[0]) * (b[3] - b[2]) for b in boxes[i])
            shared = self._shared_ops[i]
            ops += area_ops(self._whole_ops[i] - shared, area, self._boxes[i])
            if shared:
                rule, node = OPS[self.nodes[i].op], self.nodes[i]
                own = sum(rule.shared_ops(node, Span(*b)) for b in boxes[i] if b is not NOTHING)
                ops += round(own * self._price[i])
        final = {i: tuple(b) for i, b in boxes.items()}
        until = sum(flags)
        if rows and (flags != sorted(flags, reverse=True) or not self._tiles(rows, final, until)):
            return None
        form = Form(part, axis, ops, 0, final, rows, until)
        peaks = [
            window_peak(self.nodes, p, self.sources, self._item_bytes, aligned)
            for p in self._loops(form)
        ]
        return replace(form, window_bytes=max(peaks))

    def _tiles(self, rows: Rows, boxes: Mapping[int, tuple[Box, ...]], until: int) -> bool:
        """Whether the iterations before `until` make the stored rows, each once."""
        if not rows.makes:
            return until > 0
        times = self._boxes[rows.node][1]
        made = boxes[rows.node][:until]
        ends = [0, *(b[1] for b in made)]
        fits = all(
            b[0] == end and (b[2], b[3]) == (0, times) for b, end in zip(made, ends, strict=False)
        )
        return until > 0 and fits and ends[-1] == rows.count

    def _loops(self, form: Form) -> list[Part]:
        """The loops of a form: one, or one with stored rows and one for the others."""
        order = sorted((*form.part.sinks, *form.part.cone))
        sinks = dict.fromkeys(form.part.sinks)
        mark = f"~{form.part.sinks[0]}"
        count = len(form.boxes[order[0]])
        if form.rows is None:
            return [Part(order, sinks, form.boxes, form.axis, mark)]
        result = self.nodes[form.rows.node].outputs[0]
        stored = replace(result, kept=form.rows.count)
        loops = []
        for a, b in ((0, form.stored_until), (form.stored_until, count)):
            if b > a:
                boxes = {i: form.boxes[i][a:b] for i in order}
                runs = [i for i in order if any(x is not NOTHING for x in boxes[i])]
                kept = stored if a == 0 else None
                loops.append(Part(runs, sinks, boxes, form.axis, f"{mark}.{a}", kept, a > 0))
        return loops

    def built(self, form: Form) -> tuple[Node, ...]:
        """The nodes of a form: a loop, or plain nodes."""
        key = id(form)
        if key not in self._built:
            order = sorted((*form.part.sinks, *form.part.cone))
            if form.axis == "whole":
                self._built[key] = self._block(form.part, order)
            else:
                loops = (make_loop(self.nodes, p, self.root) for p in self._loops(form))
                self._built[key] = tuple(loops)
        return self._built[key]

    def _block(self, part: Pass, order: list[int]) -> tuple[Node, ...]:
        """The pass as plain nodes; what passes is stored whole for as long as the pass lasts."""
        local = dict.fromkeys(v.name for i in part.cone for v in self.nodes[i].outputs)
        mark = f"~{part.sinks[0]}"

        def here(value: Value) -> Value:
            mine = self.root(value).name in local
            return replace(value, name=value.name + mark) if mine else value

        inner = [
            i
            for i, node in enumerate(self.nodes)
            if self._alias(i) and self.root(node.outputs[0]).name in local
        ]
        nodes = []
        for i in sorted((*order, *inner)):
            node = self.nodes[i]
            ins, outs = tuple(map(here, node.inputs)), tuple(map(here, node.outputs))
            nodes.append(replace(node, inputs=ins, outputs=outs))
        return tuple(nodes)

    def _block_peak(self, part: Pass, order: list[int]) -> int:
        whole = {i: ((0, rows, 0, times),) for i, (rows, times) in enumerate(self._boxes)}
        block = Part(order, dict.fromkeys(part.sinks), whole, "whole", "")
        return window_peak(self.nodes, block, self.sources, self._item_bytes, aligned)

    # ---- the graph of a choice

    def assemble(self, passes: Sequence[Pass], forms: Sequence[Form]) -> Graph:
        """The nodes of the chosen forms in order; views stand behind what they are views of."""
        nodes: list[Node] = []
        views: dict[str, list[Node]] = {}
        for i, node in enumerate(self.nodes):
            if self._alias(i) and node.outputs[0].name in self.base:
                views.setdefault(self.root(node.inputs[0]).name, []).append(node)
        for v in self.graph.inputs:
            nodes += views.pop(v.name, [])
        for form in forms:
            for node in self.built(form):
                nodes.append(node)
                for v in node.outputs:
                    nodes += views.pop(v.name, [])
        return self.graph.with_nodes(tuple(nodes))
