# SPDX-License-Identifier: Apache-2.0
"""Cycles of a training sample that workers share: of the busiest one between two barriers.

Every worker runs the whole schedule, so that each pays for all loops; a call costs a worker what
the core's `kernels.toml` says of its part of the box. What banks, caches and shared FPUs cost is
not in here.
"""

from __future__ import annotations

from collections.abc import Sequence

from biotrain.graph.cost import (
    LOOP,
    Cost,
    calls_cycles,
    cost_of,
    node_cycles,
    sample_cycles,
    training_cost,
)
from biotrain.ir.access import call_of
from biotrain.ir.graph import Graph, Loop, Node, Span
from biotrain.ir.op import OPS, Call
from biotrain.ir.split import Grid
from biotrain.planner.place import Buffer
from biotrain.planner.team import Slot, Team, team_of
from biotrain.planner.team_sums import shared_sums
from biotrain.targets.target import Target

BARRIER_CYCLES = 10
"""From the last worker's arrival at a barrier to the next call: load, wait, branch, as the cluster
in `run/cluster` has them."""


class _Clock:
    """Cycles of a team: those of the busiest worker since each barrier."""

    def __init__(self, team: Team, target: Target) -> None:
        self.team, self.target = team, target
        self.total = 0.0
        self._since = [0.0] * team.workers
        self._known: dict[tuple[Node, tuple[int, int, int]], float] = {}
        self._calls: dict[Node, Call] = {}

    def wait(self) -> None:
        """The team waits."""
        self.total += max(self._since) + BARRIER_CYCLES
        self._since = [0.0] * self.team.workers

    def everybody(self, cycles: float) -> None:
        """Each worker does this."""
        self._since = [c + cycles for c in self._since]

    def call(self, slot: Slot, node: Node, box: Span) -> None:
        """A call, each worker on its part."""
        if slot in self.team.barriers:
            self.wait()
        grid = self.team.grid(slot.node, slot.body)
        for worker in range(grid.parts):
            self._since[worker] += self._part(node, grid, box, worker)

    def clear(self, slot: Slot, node: Node) -> None:
        """Sums that one worker sets to zero."""
        if slot in self.team.barriers:
            self.wait()
        cleared = sum(v.size for v in node.outputs if v.kind == "temp")
        self._since[0] += self.target.work_cycles(node.op, {"zeroed": cleared}) or 0.0

    def _part(self, node: Node, grid: Grid, box: Span, worker: int) -> float:
        part = grid.part(box, worker) if grid.parts > 1 else box
        if part.empty:
            return 0.0
        if not grid.elements:
            return self._cycles(node, part)
        rows, times = call_of(node, self._calls).box
        return self._cycles(node, Span(0, rows, 0, times)) * part.size / (rows * times)

    def _cycles(self, node: Node, box: Span) -> float:
        key = (node, (box.r1 - box.r0, box.t0, box.t1))
        if key not in self._known:
            bare = calls_cycles(node, [box], self.target)
            if OPS[node.op].accumulates:  # what is cleared counts where it is
                cleared = sum(v.size for v in node.outputs if v.kind == "temp")
                bare -= self.target.work_cycles(node.op, {"zeroed": cleared}) or 0.0
            self._known[key] = bare
        return self._known[key]


def team_cycles(graph: Graph, team: Team, target: Target) -> float:
    """Estimated cycles of one pass of a team over a schedule."""
    clock = _Clock(team, target)
    calls: dict[Node, Call] = {}
    around = target.work_cycles(LOOP, {"loops": 1}) or 0.0
    each = target.work_cycles(LOOP, {"iterations": 1}) or 0.0
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Loop):
            for j, step in enumerate(node.body):
                if team.clears.get((i, j)) is False:
                    clock.clear(Slot(i, j, "clear"), step.node)
            clock.everybody(around)
            for k in range(node.count):
                clock.everybody(each)
                for j, step in enumerate(node.body):
                    if not step.boxes[k].empty:
                        clock.call(Slot(i, j), step.node, step.boxes[k])
        elif not OPS[node.op].alias:
            if team.clears.get((i, -1)) is False:
                clock.clear(Slot(i, kind="clear"), node)
            rows, times = call_of(node, calls).box
            clock.call(Slot(i), node, Span(0, rows, 0, times))
    clock.wait()
    return clock.total


def shared_cost(graph: Graph, buffers: Sequence[Buffer], target: Target, accumulate: int) -> Cost:
    """Cost of one sample of a planned training graph on all workers of a target."""
    alone = training_cost(graph, target, accumulate)
    if target.workers == 1 or not target.cycles_per_op:
        return alone
    shared = shared_sums(graph, target.workers)
    cycles = team_cycles(shared, team_of(shared, buffers, target.workers), target)
    updates = node_cycles(graph.updates, target) / max(accumulate, 1)
    cycles += updates / target.workers + sample_cycles(graph, target)
    return cost_of(alone.macs, alone.ops, cycles, target)
