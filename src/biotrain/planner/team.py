# SPDX-License-Identifier: Apache-2.0
"""How a team of workers runs a schedule: the part of every call, and where the team waits.

Every worker runs the whole schedule (SPMD). A barrier stands before a call where one of its parts
touches what another worker has written, or writes what another worker has touched, since the last
barrier. `judge_team` checks the result on its own, by intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from biotrain.ir.access import call_of, reads, whole
from biotrain.ir.graph import ITEM_BYTES, Graph, Loop, Node, Span, Value, Window
from biotrain.ir.op import OPS, Call, rows_times
from biotrain.ir.split import SERIAL, Grid, Region, grid_of
from biotrain.planner.place import L1, Buffer

ARENA = ""
"""The memory of everything that has a buffer; other tensors are memories of their own."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in the emitted schedule, before which a barrier may stand."""

    node: int
    """Number of the node in the graph."""
    body: int = -1
    """Number of the step in the body of a loop; -1: the node itself."""
    kind: str = "call"
    """`clear`: sums that one worker sets to zero; `call`; `check`: all workers read the loss."""


@dataclass(frozen=True, slots=True)
class Access:
    """Bytes of one memory that a worker reads or writes."""

    memory: str
    region: Region
    write: bool


@dataclass(frozen=True, slots=True)
class Event:
    """One call of the schedule: what each worker touches, in order of their numbers."""

    slot: Slot
    touched: tuple[tuple[Access, ...], ...]


@dataclass(frozen=True)
class Team:
    """The schedule of one graph for so many workers."""

    workers: int
    grids: dict[tuple[int, int], Grid] = field(default_factory=dict)
    """The grid of every call, by the numbers of its node and of its step in a loop (else -1)."""
    clears: dict[tuple[int, int], bool] = field(default_factory=dict)
    """Calls whose sums start at zero: True where each worker clears what it adds to, False where
    one worker clears all of it before."""
    barriers: tuple[Slot, ...] = ()

    def grid(self, node: int, body: int = -1) -> Grid:
        """The grid of a call."""
        return self.grids[node, body]

    def waits(self, node: int, body: int = -1, kind: str = "call") -> bool:
        """Whether the team waits before this slot."""
        return Slot(node, body, kind) in self.barriers


@dataclass(frozen=True, slots=True)
class Visit:
    """A slot that the team reaches: a call on a box, or what stands before or behind one."""

    slot: Slot
    node: Node
    box: Span
    loop: Loop | None = None
    iteration: int = 0


def visits(graph: Graph, team: Team, calls: dict[Node, Call]) -> Iterator[Visit]:
    """All slots in the order in which the team reaches them; bodies of loops once per iteration.

    `calls` keeps the call of each node, for whoever asks again.
    """
    loss = graph.outputs[1] if len(graph.outputs) > 1 else None
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Loop):
            for j, step in enumerate(node.body):
                if team.clears.get((i, j)) is False:
                    yield Visit(Slot(i, j, "clear"), step.node, step.boxes[0], node)
            for k in range(node.count):
                for j, step in enumerate(node.body):
                    if not step.boxes[k].empty:
                        yield Visit(Slot(i, j), step.node, step.boxes[k], node, k)
        elif not OPS[node.op].alias:
            rows, times = call_of(node, calls).box
            box = Span(0, rows, 0, times)
            if team.clears.get((i, -1)) is False:
                yield Visit(Slot(i, kind="clear"), node, box)
            yield Visit(Slot(i), node, box)
        if loss is not None and loss in node.outputs:
            yield Visit(Slot(i, kind="check"), node, whole(loss))


class Touch:
    """Bytes that the parts of calls touch."""

    def __init__(self, graph: Graph, buffers: Sequence[Buffer], team: Team) -> None:
        self.graph, self.team = graph, team
        self._at = {m: b.offset for b in buffers for m in b.members}
        self._near = {m: None for b in buffers if b.memory == L1 for m in b.members}
        self.calls: dict[Node, Call] = {}

    def events(self) -> Iterator[Event]:
        """Every call in order; bodies of loops once per iteration."""
        loop: Loop | None = None
        windows: dict[str, Window] = {}
        for visit in visits(self.graph, self.team, self.calls):
            if visit.loop is not loop:
                loop = visit.loop
                windows = {w.value.name: w for w in loop.windows} if loop else {}
            if visit.slot.kind == "clear":
                yield self._clear(visit.slot, visit.node)
            elif visit.slot.kind == "check":
                loss = self.graph.outputs[1]
                seen = Access(*self._bytes(loss, Region(0, loss.size)), False)
                yield Event(visit.slot, ((seen,),) * self.team.workers)
            else:
                yield self._call(visit.slot, visit.node, visit.box, windows, visit.iteration)

    def _clear(self, slot: Slot, node: Node) -> Event:
        done = tuple(
            Access(*self._bytes(v, Region(0, v.size)), True)
            for v in node.outputs
            if v.kind == "temp"
        )
        return Event(slot, (done, *((),) * (self.team.workers - 1)))

    def _call(self, slot: Slot, node: Node, box: Span, windows: dict[str, Window], k: int) -> Event:
        grid = self.team.grid(slot.node, slot.body)
        parts = [grid.part(box, w) for w in range(self.team.workers)]
        return Event(
            slot,
            tuple(() if p.empty else tuple(self._part(node, grid, p, windows, k)) for p in parts),
        )

    def _part(
        self, node: Node, grid: Grid, part: Span, windows: dict[str, Window], k: int
    ) -> Iterator[Access]:
        call = call_of(node, self.calls)
        rule = OPS[node.op]
        for index, span in reads(node, call, part):
            value = node.inputs[index]
            if grid.elements:
                yield Access(*self._bytes(value, Region(part.t0, part.t1 - part.t0)), False)
            else:
                yield Access(*self._span(value, span, windows.get(value.name), k), False)
        for out, value in enumerate(node.outputs):
            window = windows.get(value.name)
            if grid.elements:
                yield Access(*self._bytes(value, Region(part.t0, part.t1 - part.t0)), True)
            elif window is not None:
                yield Access(*self._span(value, part, window, k), True)
            else:
                yield Access(*self._bytes(value, rule.writes(node, out, part)), True)

    def _span(self, value: Value, span: Span, window: Window | None, k: int) -> tuple[str, Region]:
        """The bytes of a span of a tensor, or of a window of it in iteration k."""
        here = window.spans[k] if window else whole(value)
        stride = window.times if window else rows_times(value.shape)[1]
        first = (span.r0 - here.r0) * stride + span.t0 - here.t0
        return self._bytes(value, Region(first, span.t1 - span.t0, stride, span.r1 - span.r0))

    def _bytes(self, value: Value, of: Region) -> tuple[str, Region]:
        """Elements of a tensor as bytes of a memory; neighbouring runs are one."""
        item = ITEM_BYTES[value.dtype]
        memory = ARENA if value.name in self._at else value.name
        memory = L1 if value.name in self._near else memory
        start = self._at.get(value.name, 0) + of.start * item
        if of.count > 1 and of.length == of.stride:
            return memory, Region(start, of.length * of.count * item)
        return memory, Region(start, of.length * item, of.stride * item, of.count)


def team_of(graph: Graph, buffers: Sequence[Buffer], workers: int) -> Team:
    """The team's schedule of a planned graph, with as few barriers as it needs."""
    team = Team(workers)
    touch = Touch(graph, buffers, team)
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Loop):
            for j, step in enumerate(node.body):
                boxes = [b for b in step.boxes if not b.empty]
                _decide(team, (i, j), step.node, boxes, workers)
                if OPS[step.node.op].accumulates and not node.get("continued", False):
                    _decide_clear(team, (i, j), step.node, in_loop=True)
        elif not OPS[node.op].alias:
            rows, times = call_of(node, touch.calls).box
            _decide(team, (i, -1), node, [Span(0, rows, 0, times)], workers)
            if OPS[node.op].accumulates:
                _decide_clear(team, (i, -1), node, in_loop=False)
    _one_worker_where_parts_meet(touch)
    return replace(team, barriers=_barriers(touch))


def _decide(
    team: Team, key: tuple[int, int], node: Node, boxes: Sequence[Span], workers: int
) -> None:
    """Choose the grid of a call."""
    team.grids[key] = grid_of(OPS[node.op].split(node), boxes, workers)


def _decide_clear(team: Team, key: tuple[int, int], node: Node, in_loop: bool) -> None:
    """Choose who sets the sums of a call to zero, where they do not lie in the context."""
    temps = [v for v in node.outputs if v.kind == "temp"]
    if not temps:
        return
    rule, grid = OPS[node.op], team.grids[key]
    if in_loop:
        team.clears[key] = False
    elif grid.parts == 1 or grid.elements:
        team.clears[key] = True
    else:
        rows, times = rule.call(node).box
        part = grid.part(Span(0, rows, 0, times), 0)
        runs = [rule.writes(node, i, part) for i in range(len(node.outputs))]
        team.clears[key] = grid.across == 1 and all(
            r.count == 1 or r.length == r.stride for r in runs
        )


Bits: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]


class _Marks:
    """Which workers have read and written every byte since the last barrier, as bits."""

    def __init__(self, workers: int) -> None:
        self._dtype = np.dtype(np.uint8 if workers <= 8 else np.uint64)
        self._memories: dict[str, tuple[Bits, Bits]] = {}
        self._marked: list[Access] = []

    def reset(self) -> None:
        """The team has waited."""
        for access in self._marked:
            for read, written in self._runs(access):
                read[:] = 0
                written[:] = 0
        self._marked.clear()

    def meets(self, access: Access, worker: int) -> bool:
        """Whether another worker has touched these bytes in a way that does not go together."""
        others = ~self._dtype.type(1 << worker)
        for read, written in self._runs(access):
            if (written & others).any() or (access.write and (read & others).any()):
                return True
        return False

    def mark(self, access: Access, worker: int) -> None:
        """Note what a worker touches."""
        self._marked.append(access)
        mine = self._dtype.type(1 << worker)
        for read, written in self._runs(access):
            into = written if access.write else read
            into |= mine

    def _runs(self, access: Access) -> Iterator[tuple[Bits, Bits]]:
        r = access.region
        end = r.start + r.stride * (r.count - 1) + r.length
        both = self._memories.get(access.memory)
        if both is None or len(both[0]) < end:
            grown = [np.zeros(2 * end, self._dtype), np.zeros(2 * end, self._dtype)]
            for new, old in zip(grown, both or (), strict=False):
                new[: len(old)] = old
            both = self._memories[access.memory] = (grown[0], grown[1])
        for k in range(r.count):
            at = r.start + k * r.stride
            yield both[0][at : at + r.length], both[1][at : at + r.length]


def _one_worker_where_parts_meet(touch: Touch) -> None:
    """Give calls to one worker whose parts would touch what another part writes: in place with a
    halo, for example."""
    marks = _Marks(touch.team.workers)
    for event in touch.events():
        if event.slot.kind != "call":
            continue
        key = (event.slot.node, event.slot.body)
        if touch.team.grids[key].parts > 1 and _within(event, marks):
            touch.team.grids[key] = grid_of(SERIAL, [Span(0, 1, 0, 1)], 1)
            if touch.team.clears.get(key) is False and event.slot.body < 0:
                touch.team.clears[key] = True


def _within(event: Event, marks: _Marks) -> bool:
    """Whether two parts of one call do not go together."""
    marks.reset()
    for worker, touched in enumerate(event.touched):
        for access in touched:
            if marks.meets(access, worker):
                return True
        for access in touched:
            marks.mark(access, worker)
    return False


def _barriers(touch: Touch) -> tuple[Slot, ...]:
    """Where the team must wait. A barrier that one iteration of a loop needs is there in all of
    them, so that iterations before that one only wait more than they need."""
    found: dict[Slot, None] = {}
    marks = _Marks(touch.team.workers)
    for event in touch.events():
        met = event.slot in found or any(
            marks.meets(access, worker)
            for worker, touched in enumerate(event.touched)
            for access in touched
        )
        if met:
            found[event.slot] = None
            marks.reset()
        for worker, touched in enumerate(event.touched):
            for access in touched:
                marks.mark(access, worker)
    return tuple(found)
