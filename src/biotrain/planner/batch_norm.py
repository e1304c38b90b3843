# SPDX-License-Identifier: Apache-2.0
"""The batch as one more streamed axis: batch norm over windows that come one by one.

Batch norm needs sums over the whole batch twice: the moments of its input before the forward pass
can go on, and the two sums of its gradient before the backward pass can. Everything between two
such sums is a *phase*: a loop over the samples, each of which is fetched again from where the
samples are stored. The sums are carried from sample to sample. What a later phase needs of a
sample is either stored for every sample of the batch or made again in that phase; which of the two
is chosen by the operations that it saves per byte. Within a phase the sample is planned like any
other graph (rewrite/stream.py), in the memory that is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from biotrain.errors import BioTrainError
from biotrain.ir.graph import Graph, Node, Value
from biotrain.ir.op import OPS, Builder
from biotrain.planner.place import Buffer, aligned, lifetimes, lower_bound, peak, place, positions
from biotrain.planner.search import Search, realise
from biotrain.planner.stream import Stream
from biotrain.planner.validate import check

OVER_BATCH = {
    "group_stats": "batch_stats",
    "group_sums": "batch_sums",
    "running_update": "batch_update",
}
JOINS = ("join_moments", "join_sums")

ALWAYS = 1024
"""Tensors of at most so many bytes are stored for every sample when a later phase needs them."""

Choice = tuple[str, ...]
"""Names of the larger tensors that are stored for every sample."""


def with_joins(graph: Graph) -> Graph:
    """The training graph of one sample, its batch norms with statistics over the batch."""
    marked = [n for n in graph.nodes if n.op == "group_stats" and n.get("batch", False)]
    if not marked:
        raise BioTrainError(
            "a batch larger than one changes nothing here: the model has no BatchNorm that takes "
            "statistics of its own (prepare it with norm='batch'); use accumulate"
        )
    stats = dict.fromkeys(n.outputs[0].name for n in marked)
    moments = dict.fromkeys(n.inputs[0].name for n in marked)
    makers = {v.name: n for n in graph.nodes for v in n.outputs}
    means: dict[str, None] = {}
    for node in graph.nodes:
        if any(v.name in stats for v in node.inputs):
            means.update(
                dict.fromkeys(
                    v.name
                    for v in node.inputs
                    if v.name in makers and makers[v.name].op == "group_sums"
                )
            )
    b = Builder(taken=[v.name for v in graph.values()])
    joined: dict[str, Value] = {}
    for node in graph.nodes:
        source = node.inputs[0] if node.inputs else node.outputs[0]
        wanted = (
            (node.op == "group_stats" and node.outputs[0].name in stats)
            or (node.op == "group_sums" and node.outputs[0].name in means)
            or (node.op == "running_update" and source.name in moments)
        )
        if not wanted:
            mixes = any(v.name in means for v in node.inputs)
            if mixes and node.op in ("mix_dw", "mix_db"):
                node = replace(node, attrs=tuple(sorted((*node.attrs, ("batch", True)))))
            b.nodes.append(node)
            continue
        b.origin = node.origin
        if source.name not in joined:
            kind = "join_sums" if node.op == "group_sums" else "join_moments"
            times = {} if kind == "join_sums" else {"times": node.int("times")}
            joined[source.name] = b.one(kind, source, hint=f"all_{source.name}", **times)
        b.nodes.append(
            replace(node, op=OVER_BATCH[node.op], inputs=(joined[source.name], *node.inputs[1:]))
        )
    return graph.with_nodes(tuple(b.nodes))


@dataclass(frozen=True, slots=True)
class Outer:
    """A value that outlives a phase: carried sums and statistics, or one tensor per sample."""

    value: Value
    copies: int
    first: int
    """Phase that makes it."""
    last: int
    """Phase that reads it last."""

    @property
    def nbytes(self) -> int:
        """Bytes of all copies."""
        return self.copies * (aligned(self.value.nbytes) if self.copies > 1 else self.value.nbytes)


@dataclass(frozen=True, slots=True)
class Phase:
    """One loop over the samples of the batch."""

    before: tuple[Node, ...]
    """Nodes over the whole batch, which run once before the loop."""
    graph: Graph
    buffers: tuple[Buffer, ...]
    outers: tuple[Outer, ...]
    """What it reads or makes that outlives it."""
    first: int
    """Its first moment."""


@dataclass(frozen=True, slots=True)
class BatchSchedule:
    """The training step of a batch, planned."""

    size: int
    phases: tuple[Phase, ...]
    after: tuple[Node, ...]
    """Nodes that run once at the end: running statistics."""
    outers: tuple[Outer, ...]
    buffers: tuple[Buffer, ...]
    ops: int
    """Executed multiplies and adds of the whole batch, without the update."""

    @property
    def peak(self) -> int:
        """Bytes of the arena."""
        return peak(self.buffers)

    @property
    def bound(self) -> int:
        """No placement needs less."""
        return lower_bound(self.buffers)


class Batch:
    """The choices of one training graph (or one that has its joins) and a batch of `size`
    samples."""

    def __init__(self, graph: Graph, size: int) -> None:
        joined = any(n.op in JOINS for n in graph.nodes)
        self.graph = graph if joined else with_joins(graph)
        self.size = size
        self.nodes = self.graph.nodes
        self.maker = {v.name: i for i, n in enumerate(self.nodes) for v in n.outputs}
        self.phase: list[int] = []
        self._level: dict[str, int] = {}  # phase from which a value over the batch can be read
        for node in self.nodes:
            at = 0
            for v in node.inputs:
                made = self.maker.get(v.name)
                if v.name in self._level:
                    at = max(at, self._level[v.name])
                elif made is not None and v.kind == "temp":
                    at = max(at, self.phase[made])
            self.phase.append(at)
            if node.op in JOINS:
                self._level[node.outputs[0].name] = at + 1
            elif node.op in OVER_BATCH.values():
                self._level.update(dict.fromkeys((v.name for v in node.outputs), at))
        late = [at for at, n in zip(self.phase, self.nodes, strict=True) if n.op != "batch_update"]
        self.count = max(late) + 1
        self._searches: dict[tuple[int, Choice], Search] = {}

    def _over_batch(self, i: int) -> bool:
        return self.nodes[i].op in OVER_BATCH.values()

    def closure(self, q: int, kept: Choice) -> list[int]:
        """The nodes that phase q runs, by number."""
        outputs = dict.fromkeys(v.name for v in self.graph.outputs)
        waiting: list[int] = []
        for i, node in enumerate(self.nodes):
            if self.phase[i] != q or self._over_batch(i):
                continue
            effect = node.op in JOINS or any(
                v.kind != "temp" or v.name in outputs or v.name in kept for v in node.outputs
            )
            if effect:
                waiting.append(i)
        found = dict.fromkeys(waiting)
        while waiting:
            for v in self.nodes[waiting.pop()].inputs:
                i = self.maker.get(v.name, -1)
                if i < 0 or v.kind != "temp" or v.name in self._level:
                    continue
                if (v.name in kept and self.phase[i] < q) or i in found:
                    continue
                found[i] = None
                waiting.append(i)
        return sorted(found)

    def ops(self, kept: Choice) -> int:
        """Operations of the batch where nothing is made again within a phase."""
        return self.size * sum(
            OPS[self.nodes[i].op].ops(self.nodes[i])
            for q in range(self.count)
            for i in self.closure(q, kept)
            if not OPS[self.nodes[i].op].alias
        )

    def small(self) -> Choice:
        """What is always stored."""
        return tuple(v.name for v in self._crossing(()) if v.nbytes <= ALWAYS)

    def _crossing(self, kept: Choice) -> list[Value]:
        """Tensors of a sample that are made in more than one phase."""
        seen: dict[str, int] = {}
        values: dict[str, Value] = {}
        for q in range(self.count):
            for i in self.closure(q, kept):
                if OPS[self.nodes[i].op].alias:
                    continue
                for v in self.nodes[i].outputs:
                    if v.kind == "temp" and self.nodes[i].op not in JOINS:
                        seen[v.name] = seen.get(v.name, 0) + 1
                        values[v.name] = v
        return [values[name] for name, times in seen.items() if times > 1]

    def choices(self) -> list[Choice]:
        """From nothing stored beside the small to all that saves operations, best first added."""
        kept = self.small()
        while True:  # what is small and needed again once something is stored
            more = [
                v.name for v in self._crossing(kept) if v.nbytes <= ALWAYS and v.name not in kept
            ]
            if not more:
                break
            kept = (*kept, *more)
        found = [kept]
        ops = self.ops(kept)
        while True:
            best: tuple[float, int, str] | None = None
            for v in self._crossing(kept):
                if v.name in kept:
                    continue
                with_mates = self._mates(v, kept)
                now = self.ops(with_mates)
                size = sum(
                    o.nbytes
                    for i in [self.maker[v.name]]
                    for o in self.nodes[i].outputs
                    if o.name in with_mates
                )
                if now < ops and (best is None or (ops - now) / size > best[0]):
                    best = ((ops - now) / size, now, v.name)
            if best is None:
                return found
            value = next(v for v in self._crossing(kept) if v.name == best[2])
            kept, ops = self._mates(value, kept), best[1]
            found.append(kept)

    def _mates(self, value: Value, kept: Choice) -> Choice:
        """`kept` and a tensor, with the other results of its node."""
        node = self.nodes[self.maker[value.name]]
        return (*kept, *(v.name for v in node.outputs if v.kind == "temp" and v.name not in kept))

    # ---- phases as graphs

    def _outers(self, kept: Choice) -> list[Outer]:
        closures = [self.closure(q, kept) for q in range(self.count)]
        last: dict[str, int] = {}
        for q, closure in enumerate(closures):
            for i in closure:
                for v in self.nodes[i].inputs:
                    last[v.name] = q
        end = self.count - 1
        for i, node in enumerate(self.nodes):
            if self._over_batch(i):
                late = node.op == "batch_update"
                for v in node.inputs:
                    at = end if late else self.phase[i]
                    last[v.name] = max(last.get(v.name, 0), at)
        found: list[Outer] = []
        for i, node in enumerate(self.nodes):
            for v in node.outputs:
                if v.kind != "temp" or v.name not in last:
                    continue
                if v.name in self._level:
                    found.append(Outer(v, 1, self.phase[i], last[v.name]))
                elif v.name in kept and last[v.name] > self.phase[i]:
                    found.append(Outer(v, self.size, self.phase[i], last[v.name]))
        return found

    def phase_graph(self, q: int, kept: Choice, outers: Sequence[Outer]) -> Graph:
        """Phase q for one sample: what comes from outside is a constant, sums are states."""
        outside = {o.value.name: o for o in outers}
        renamed: dict[str, Value] = {}
        nodes: list[Node] = []

        def read(v: Value) -> Value:
            if v.name in renamed:
                return replace(renamed[v.name], shape=v.shape)
            outer = outside.get(v.name)
            if outer is not None and (outer.copies == 1 or outer.first < q):
                return replace(v, kind="const")
            return v

        closure = self.closure(q, kept)
        for i in closure:
            node = self.nodes[i]
            ins = tuple(read(v) for v in node.inputs)
            if OPS[node.op].alias and ins[0].kind == "const":
                renamed[node.outputs[0].name] = ins[0]
                continue
            outs = tuple(
                replace(v, kind="state") if v.name in self._level else v for v in node.outputs
            )
            nodes.append(replace(node, inputs=ins, outputs=outs))
        made = [o.value for o in outers if o.copies > 1 and o.first == q]
        here = dict.fromkeys(v.name for n in nodes for v in n.outputs)
        ends = [v for v in self.graph.outputs if v.name in here]
        used = dict.fromkeys(v.name for n in nodes for v in n.inputs)
        return Graph(
            tuple(nodes),
            tuple(v for v in self.graph.inputs if v.name in used),
            (*ends, *(v for v in made if v.name in here)),
            params=self.graph.params,
            states=self.graph.states,
        )

    def search(self, q: int, kept: Choice, outers: Sequence[Outer]) -> Search:
        """The search in phase q."""
        key = (q, kept)
        if key not in self._searches:
            self._searches[key] = Search(Stream(self.phase_graph(q, kept, outers)))
        return self._searches[key]

    # ---- schedules

    def schedule(self, kept: Choice, budget: int | None) -> BatchSchedule:
        """The schedule of a choice: every phase as fast as the rest of the budget lets it."""
        outers = self._outers(kept)
        phases: list[Phase] = []
        at = 0
        buffers: list[Buffer] = []
        total = 0
        for q in range(self.count):
            search = self.search(q, kept, outers)
            if budget is None:
                score = search.relax(search.score(search.everything(), 1 << 62), 1 << 62)
            else:
                taken = sum(
                    aligned(o.nbytes) - (aligned(o.value.nbytes) if o.first == q else 0)
                    for o in outers
                    if o.first <= q <= o.last
                )
                room = max(budget - taken, 0)
                score = search.best(room, [search.everything(), search.nothing()])
            graph = realise(search, score)
            total += self.size * score.ops
            concern = tuple(o for o in outers if o.first <= q <= o.last)
            spans = positions(graph)
            length = spans[-1][1] + 2 if spans else 1
            outside = dict.fromkeys(o.value.name for o in outers)
            for buffer in lifetimes(graph):
                if not any(m in outside for m in buffer.members):
                    members = tuple(f"{q}:{m}" for m in buffer.members)
                    buffers.append(
                        replace(
                            buffer,
                            value=members[0],
                            members=members,
                            first=buffer.first + at,
                            last=buffer.last + at,
                        )
                    )
                else:  # lies in the place of the tensor that outlives the phase
                    name = next(m for m in buffer.members if m in outside)
                    members = tuple(f"{q}:{m}" for m in buffer.members if m != name)
                    buffers.append(Buffer(name, members, "shared", 0, 0, at, at))
            before = tuple(
                n
                for i, n in enumerate(self.nodes)
                if self._over_batch(i) and self.phase[i] == q and n.op != "batch_update"
            )
            phases.append(Phase(before, graph, (), concern, at))
            at += length
        return self._placed(phases, outers, buffers, at, total)

    def streamed(self, budget: int) -> BatchSchedule:
        """A schedule that stores nothing per window, so that a batch may have any number of them;
        within the budget where one was found."""
        made = self.schedule((), budget)
        if made.peak <= budget:
            return made
        return min(made, self.schedule((), budget - (made.peak - budget)), key=lambda s: s.peak)

    def _placed(
        self,
        phases: Sequence[Phase],
        outers: Sequence[Outer],
        buffers: Sequence[Buffer],
        end: int,
        ops: int,
    ) -> BatchSchedule:
        starts = [p.first for p in phases] + [end]
        shared: dict[str, list[str]] = {}
        for b in buffers:
            if b.memory == "shared":
                shared.setdefault(b.value, []).extend(b.members)
        own = [b for b in buffers if b.memory != "shared"]
        for o in outers:
            first, last = starts[o.first], starts[o.last + 1] - 1
            members = (o.value.name, *shared.get(o.value.name, ()))
            own.append(Buffer(o.value.name, members, "ram", 0, aligned(o.nbytes), first, last))
        placed = place(own)
        done: list[Phase] = []
        for q, phase in enumerate(phases):
            mine: list[Buffer] = []
            for b in placed:
                members = tuple(
                    m.removeprefix(f"{q}:")
                    for m in b.members
                    if m.startswith(f"{q}:") or ":" not in m
                )
                if members and b.first <= starts[q + 1] - 1 and b.last >= starts[q]:
                    mine.append(replace(b, value=members[0], members=members))
            done.append(replace(phase, buffers=tuple(mine)))
        after = tuple(n for n in self.nodes if n.op == "batch_update")
        schedule = BatchSchedule(self.size, tuple(done), after, tuple(outers), placed, ops)
        for q, phase in enumerate(schedule.phases):
            _judge(q, phase)
        return schedule

    def fit(self, budget: int | None, tries: int = 3) -> BatchSchedule:
        """The schedule with the fewest operations whose arena stays within the budget.

        Where none does, the smallest that was found.
        """
        choices = self.choices()
        if budget is None:
            return self.schedule(choices[-1], None)
        best: BatchSchedule | None = None
        smallest: BatchSchedule | None = None
        found = 0
        for kept in reversed(choices):
            stored = self._outers(kept)
            least = max(
                sum(o.nbytes for o in stored if o.first <= q <= o.last) for q in range(self.count)
            )
            if least > budget:
                continue
            made = self.schedule(kept, budget)
            if made.peak > budget:
                made = self.schedule(kept, budget - (made.peak - budget))
            if smallest is None or made.peak < smallest.peak:
                smallest = made
            if made.peak <= budget:
                found += 1
                if best is None or made.ops < best.ops:
                    best = made
                if found >= tries:
                    break
        return best or smallest or self.schedule(choices[0], budget)


def _judge(q: int, phase: Phase) -> None:
    """Replay a phase for one sample; what outlives it must be there before and after."""
    held = [o for o in phase.outers if o.first < q or (o.first == q and o.copies == 1)]
    inputs = (*phase.graph.inputs, *(replace(o.value, kind="input") for o in held))
    alive = [o.value for o in phase.outers if o.last > q or o.first == q]
    made = dict.fromkeys(v.name for n in phase.graph.nodes for v in n.outputs)
    outputs = [v for v in alive if v.name in made or any(o.value == v for o in held)]
    check(replace(phase.graph, inputs=inputs, outputs=tuple(outputs)), phase.buffers)
