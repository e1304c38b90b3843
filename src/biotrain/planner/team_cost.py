# SPDX-License-Identifier: Apache-2.0
"""Cycles of a training sample that workers share: of the busiest one between two barriers.

Every worker runs the whole schedule, so that each pays for all loops; a call costs a worker what
the core's `kernels.toml` says of its part of the box. What banks, caches and shared FPUs cost is
not in here.
"""

from __future__ import annotations

from collections.abc import Sequence

from biotrain.graph.cost import (
    Cost,
    calls_cycles,
    cost_of,
    loop_cycles,
    node_cycles,
    sample_cycles,
    training_cost,
)
from biotrain.ir.access import call_of
from biotrain.ir.graph import Graph, Node, Span
from biotrain.ir.op import OPS, Call
from biotrain.planner.place import Buffer
from biotrain.planner.team import Team, Visit, team_of
from biotrain.planner.team_sums import shared_sums
from biotrain.planner.team_work import team_work
from biotrain.targets.target import Target

BARRIER_CYCLES = 10
"""From the last worker's arrival at a barrier to the next call: load, wait, branch, as the cluster
in `run/cluster` has them."""


class _Prices:
    """Cycles of what one worker does at a slot."""

    def __init__(self, team: Team, target: Target) -> None:
        self.team, self.target = team, target
        self._known: dict[tuple[Node, tuple[int, int, int]], float] = {}
        self._calls: dict[Node, Call] = {}

    def __call__(self, visit: Visit, worker: int) -> float:
        """A call on the worker's part of the box; one worker clears what all add to."""
        if visit.slot.kind == "clear":
            return self._clearing(visit.node) if worker == 0 else 0.0
        grid = self.team.grid(visit.slot.node, visit.slot.body)
        if visit.slot.kind == "check" or worker >= grid.parts:
            return 0.0
        part = grid.part(visit.box, worker) if grid.parts > 1 else visit.box
        if part.empty:
            return 0.0
        if not grid.elements:
            return self._cycles(visit.node, part)
        rows, times = call_of(visit.node, self._calls).box
        return self._cycles(visit.node, Span(0, rows, 0, times)) * part.size / (rows * times)

    def _clearing(self, node: Node) -> float:
        cleared = sum(v.size for v in node.outputs if v.kind == "temp")
        return self.target.work_cycles(node.op, {"zeroed": cleared}) or 0.0

    def _cycles(self, node: Node, box: Span) -> float:
        key = (node, (box.r1 - box.r0, box.t0, box.t1))
        if key not in self._known:
            bare = calls_cycles(node, [box], self.target)
            if OPS[node.op].accumulates:  # what is cleared counts where it is
                bare -= self._clearing(node)
            self._known[key] = bare
        return self._known[key]


def team_cycles(graph: Graph, team: Team, target: Target) -> float:
    """Estimated cycles of one pass of a team over a schedule."""
    work = team_work(graph, team, _Prices(team, target))
    waits = BARRIER_CYCLES * (work.waits + 1)  # the last one ends the call
    return loop_cycles(graph.nodes, target) + work.longest + waits


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
