# SPDX-License-Identifier: Apache-2.0
"""The batch as one more streamed axis: batch norm over windows that come one by one.

Batch norm needs sums over the whole batch twice: the moments of its input before the forward pass
can go on, and the two sums of its gradient before the backward pass can. Everything between two
such sums is a *phase*: a loop over the samples, each of which is fetched again from where the
samples are stored. The sums are carried from sample to sample. What a later phase needs of a
sample is either stored for every sample of the batch or recomputed in that phase; which of the two
is chosen by the operations that it saves per byte. Within a phase the sample is planned like any
other graph (`stream.py`), in the memory that is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from biotrain.graph.rewrite.batch_stats import JOINS, OVER_BATCH, with_joins
from biotrain.ir.graph import Graph, Node, Value
from biotrain.ir.op import OPS
from biotrain.planner.batch_schedule import BatchSchedule, Outer, Phase
from biotrain.planner.place import Buffer, aligned, lifetimes, place, positions
from biotrain.planner.realise import realise
from biotrain.planner.score import UNBOUNDED, Score
from biotrain.planner.search import Search
from biotrain.planner.stream import Stream
from biotrain.planner.validate import replay

SMALL_BYTES = 1024
"""Tensors of at most so many bytes are stored for every sample when a later phase needs them."""

MOST_FITTING = 3
"""Choices that fit the budget, from the one with the most stored down, that are compared."""

StoredNames = tuple[str, ...]
"""A choice: names of the tensors that are stored for every sample."""


class Batch:
    """The schedules of one graph and a batch of `size` samples.

    `graph` is that of one sample, or one that has its joins already.
    """

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
        self._searches: dict[tuple[int, StoredNames], Search] = {}

    def _over_batch(self, i: int) -> bool:
        return self.nodes[i].op in OVER_BATCH.values()

    def closure(self, q: int, stored: StoredNames) -> list[int]:
        """The nodes that phase q runs, by number."""
        outputs = dict.fromkeys(v.name for v in self.graph.outputs)
        waiting: list[int] = []
        for i, node in enumerate(self.nodes):
            if self.phase[i] != q or self._over_batch(i):
                continue
            effect = node.op in JOINS or any(
                v.kind != "temp" or v.name in outputs or v.name in stored for v in node.outputs
            )
            if effect:
                waiting.append(i)
        found = dict.fromkeys(waiting)
        while waiting:
            for v in self.nodes[waiting.pop()].inputs:
                i = self.maker.get(v.name, -1)
                if i < 0 or v.kind != "temp" or v.name in self._level:
                    continue
                if (v.name in stored and self.phase[i] < q) or i in found:
                    continue
                found[i] = None
                waiting.append(i)
        return sorted(found)

    def ops(self, stored: StoredNames) -> int:
        """Operations of the batch where nothing is recomputed within a phase."""
        return self.size * sum(
            OPS[self.nodes[i].op].ops(self.nodes[i])
            for q in range(self.count)
            for i in self.closure(q, stored)
            if not OPS[self.nodes[i].op].alias
        )

    def small(self) -> StoredNames:
        """The small tensors that more than one phase needs."""
        return tuple(v.name for v in self._crossing(()) if v.nbytes <= SMALL_BYTES)

    def _crossing(self, stored: StoredNames) -> list[Value]:
        """Tensors of a sample that are computed in more than one phase."""
        seen: dict[str, int] = {}
        values: dict[str, Value] = {}
        for q in range(self.count):
            for i in self.closure(q, stored):
                if OPS[self.nodes[i].op].alias:
                    continue
                for v in self.nodes[i].outputs:
                    if v.kind == "temp" and self.nodes[i].op not in JOINS:
                        seen[v.name] = seen.get(v.name, 0) + 1
                        values[v.name] = v
        return [values[name] for name, times in seen.items() if times > 1]

    def choices(self) -> list[StoredNames]:
        """Choices from the small tensors alone to all that saves operations.

        The tensor that saves most operations per byte is added first.
        """
        stored = self.small()
        while True:  # what is small and needed again once something is stored
            more = [
                v.name
                for v in self._crossing(stored)
                if v.nbytes <= SMALL_BYTES and v.name not in stored
            ]
            if not more:
                break
            stored = (*stored, *more)
        found = [stored]
        ops = self.ops(stored)
        while True:
            best: tuple[float, int, str] | None = None
            for v in self._crossing(stored):
                if v.name in stored:
                    continue
                with_mates = self._mates(v, stored)
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
            value = next(v for v in self._crossing(stored) if v.name == best[2])
            stored, ops = self._mates(value, stored), best[1]
            found.append(stored)

    def _mates(self, value: Value, stored: StoredNames) -> StoredNames:
        """`stored` and a tensor, with the other results of its node."""
        node = self.nodes[self.maker[value.name]]
        return (
            *stored,
            *(v.name for v in node.outputs if v.kind == "temp" and v.name not in stored),
        )

    def _outers(self, stored: StoredNames) -> list[Outer]:
        """The tensors that outlive a phase, with the phases that compute and last read them."""
        closures = [self.closure(q, stored) for q in range(self.count)]
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
                elif v.name in stored and last[v.name] > self.phase[i]:
                    found.append(Outer(v, self.size, self.phase[i], last[v.name]))
        return found

    def phase_graph(self, q: int, stored: StoredNames, outers: Sequence[Outer]) -> Graph:
        """Phase q for one sample: what comes from other phases is a constant, sums are states."""
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

        closure = self.closure(q, stored)
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

    def search(self, q: int, stored: StoredNames, outers: Sequence[Outer]) -> Search:
        """The search in phase q."""
        key = (q, stored)
        if key not in self._searches:
            self._searches[key] = Search(Stream(self.phase_graph(q, stored, outers)))
        return self._searches[key]

    def schedule(self, stored: StoredNames, budget: int | None) -> BatchSchedule:
        """The schedule of a choice: every phase as fast as the rest of the budget lets it.

        `budget`: bytes of the arena; None: whatever it takes.
        """
        outers = self._outers(stored)
        phases: list[Phase] = []
        at = 0
        buffers: list[Buffer] = []
        total = 0
        for q in range(self.count):
            search = self.search(q, stored, outers)
            score = _best_in_phase(search, q, outers, budget)
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
        """Place the buffers of all phases in one arena, and validate each phase."""
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
            _replay_phase(q, phase)
        return schedule

    def fit(self, budget: int | None, tries: int = MOST_FITTING) -> BatchSchedule:
        """The schedule with the fewest operations whose arena stays within the budget.

        Where none does, the smallest that was found.
        """
        choices = self.choices()
        if budget is None:
            return self.schedule(choices[-1], None)
        best: BatchSchedule | None = None
        smallest: BatchSchedule | None = None
        found = 0
        for stored in reversed(choices):
            outers = self._outers(stored)
            least = max(
                sum(o.nbytes for o in outers if o.first <= q <= o.last) for q in range(self.count)
            )
            if least > budget:
                continue
            made = self.schedule(stored, budget)
            if made.peak > budget:
                made = self.schedule(stored, budget - (made.peak - budget))
            if smallest is None or made.peak < smallest.peak:
                smallest = made
            if made.peak <= budget:
                found += 1
                if best is None or made.ops < best.ops:
                    best = made
                if found >= tries:
                    break
        return best or smallest or self.schedule(choices[0], budget)


def _best_in_phase(search: Search, q: int, outers: Sequence[Outer], budget: int | None) -> Score:
    """The best choice for phase q beside the tensors that outlive it; `budget` in bytes."""
    if budget is None:
        return search.relax(search.score(search.all_stored(), UNBOUNDED), UNBOUNDED)
    taken = sum(
        aligned(o.nbytes) - (aligned(o.value.nbytes) if o.first == q else 0)
        for o in outers
        if o.first <= q <= o.last
    )
    left = max(budget - taken, 0)
    return search.best(left, [search.all_stored(), search.all_streamed()])


def _replay_phase(q: int, phase: Phase) -> None:
    """Replay a phase for one sample; what outlives it must be there before and after."""
    held = [o for o in phase.outers if o.first < q or (o.first == q and o.copies == 1)]
    inputs = (*phase.graph.inputs, *(replace(o.value, kind="input") for o in held))
    alive = [o.value for o in phase.outers if o.last > q or o.first == q]
    made = dict.fromkeys(v.name for n in phase.graph.nodes for v in n.outputs)
    outputs = [v for v in alive if v.name in made or any(o.value == v for o in held)]
    replay(replace(phase.graph, inputs=inputs, outputs=tuple(outputs)), phase.buffers)
