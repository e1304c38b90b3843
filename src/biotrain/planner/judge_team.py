# SPDX-License-Identifier: Apache-2.0
"""The independent validator of a team's schedule: parts, and what workers do between barriers.

It replays the schedule with the intervals of bytes that every worker has read and written since the
last barrier. Whatever the order in which workers run between two barriers, memory is the same where
no worker touches what another one writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from biotrain.errors import GraphError
from biotrain.ir.access import call_of
from biotrain.ir.graph import Graph, Loop, Node, Span
from biotrain.ir.op import OPS, Call
from biotrain.ir.split import Grid
from biotrain.planner.place import Buffer
from biotrain.planner.team import Access, Event, Team, Touch

Bounds: TypeAlias = npt.NDArray[np.int64]


class _Intervals:
    """Disjoint intervals of bytes in rising order."""

    def __init__(self) -> None:
        self.begin: Bounds = np.zeros(0, np.int64)
        self.end: Bounds = np.zeros(0, np.int64)

    def meet(self, begin: Bounds, end: Bounds) -> bool:
        """Whether one of these intervals, in rising order, overlaps one of those."""
        if not self.begin.size:
            return False
        at = np.searchsorted(self.end, begin, side="right")
        inside = at < self.begin.size
        return bool((self.begin[at[inside]] < end[inside]).any())

    def add(self, begin: Bounds, end: Bounds) -> None:
        """Take more intervals in."""
        begin, end = np.append(self.begin, begin), np.append(self.end, end)
        order = np.argsort(begin, kind="stable")
        begin, reach = begin[order], np.maximum.accumulate(end[order])
        first = np.append(True, begin[1:] > reach[:-1])
        last = np.append(first[1:], True)
        self.begin, self.end = begin[first], reach[last]


def judge_team(graph: Graph, buffers: Sequence[Buffer], team: Team) -> None:
    """Raise `GraphError` where a team's schedule is not correct.

    That is where the parts of a call are not its box, each element once; where they are cut
    otherwise than the op says; where two workers write one byte between two barriers; and where one
    reads there what another one writes.
    """
    touch = Touch(graph, buffers, team)
    calls: dict[Node, Call] = {}
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Loop):
            for j, step in enumerate(node.body):
                for box in step.boxes:
                    if not box.empty:
                        _judge_parts(step.node, team.grid(i, j), box, team.workers)
        elif not OPS[node.op].alias:
            rows, times = call_of(node, calls).box
            _judge_parts(node, team.grid(i), Span(0, rows, 0, times), team.workers)
    seen: dict[tuple[str, int, bool], _Intervals] = {}
    for event in touch.events():
        if event.slot in team.barriers:
            seen.clear()
        for worker, touched in enumerate(event.touched):
            for access in touched:
                _judge_access(graph, event, worker, access, team.workers, seen)
            for access in touched:
                kept = seen.setdefault((access.memory, worker, access.write), _Intervals())
                kept.add(*_bounds(access))


def _bounds(access: Access) -> tuple[Bounds, Bounds]:
    """Begins and ends of the runs of an access."""
    begin = access.region.start + access.region.stride * np.arange(access.region.count)
    return begin, begin + access.region.length


def _judge_access(
    graph: Graph,
    event: Event,
    worker: int,
    access: Access,
    workers: int,
    seen: dict[tuple[str, int, bool], _Intervals],
) -> None:
    """Raise where another worker has touched these bytes since the last barrier."""
    begin, end = _bounds(access)
    for other in range(workers):
        for write in (True, False) if access.write else (True,):
            known = seen.get((access.memory, other, write))
            if other == worker or known is None or not known.meet(begin, end):
                continue
            does, did = ("writes" if w else "reads" for w in (access.write, write))
            slot = event.slot
            raise GraphError(
                f"worker {worker} {does} what worker {other} {did} without a barrier between: "
                f"{access.memory or 'arena'}, {slot.kind} of node {slot.node}, step {slot.body} of "
                f"its loop: {graph.nodes[slot.node]}"
            )


def _judge_parts(node: Node, grid: Grid, box: Span, workers: int) -> None:
    """Raise where the parts of a box are not all of it, or are cut where the op must not be."""
    split = OPS[node.op].split(node)
    if grid.parts > 1 and split.serial:
        raise GraphError(f"one worker must run it, not {grid.parts}: {node}")
    parts = [grid.part(box, w) for w in range(workers)]
    if sum(p.size for p in parts) != box.size:
        raise GraphError(f"the parts of {workers} workers are not {box}: {node}")
    taken = np.zeros((box.r1 - box.r0, box.t1 - box.t0), np.int8)
    for part in parts:
        if part.empty:
            continue
        rows = [r for r in (part.r0, part.r1) if r not in (box.r0, box.r1)]
        times = [t for t in (part.t0, part.t1) if t not in (box.t0, box.t1)]
        if (rows and not split.rows) or any((r - box.r0) % (split.rows or 1) for r in rows):
            raise GraphError(f"rows are cut at {rows}, not in multiples of {split.rows}: {node}")
        if (times and not split.times) or any(t % (split.times or 1) for t in times):
            raise GraphError(f"time is cut at {times}, not at multiples of {split.times}: {node}")
        taken[part.r0 - box.r0 : part.r1 - box.r0, part.t0 - box.t0 : part.t1 - box.t0] += 1
    if not (taken == 1).all():
        raise GraphError(f"the parts of {workers} workers do not meet: {node}")
