# SPDX-License-Identifier: Apache-2.0
"""How evenly a team shares the work of a schedule, in counted operations."""

from __future__ import annotations

from dataclasses import dataclass

from biotrain.ir.access import call_of
from biotrain.ir.graph import Graph, Loop, Node, Span
from biotrain.ir.op import OPS, Call
from biotrain.planner.team import Slot, Team


@dataclass(frozen=True, slots=True)
class TeamWork:
    """Multiplies and adds of one pass over a schedule."""

    each: tuple[float, ...]
    """Operations of every worker, in order of their numbers."""
    longest: float
    """Those of the busiest worker between two barriers, added up: what the team takes, where an
    operation takes the same time everywhere and a barrier none."""

    @property
    def balance(self) -> float:
        """The share of all workers' time in which they work, from 0 to 1."""
        return sum(self.each) / (len(self.each) * self.longest) if self.longest else 1.0


def team_work(graph: Graph, team: Team) -> TeamWork:
    """The operations of every worker, in proportion to its parts of the boxes."""
    calls: dict[Node, Call] = {}
    total = [0.0] * team.workers
    since = [0.0] * team.workers
    longest = 0.0

    def call(slot: Slot, node: Node, box: Span) -> None:
        nonlocal longest
        if slot in team.barriers:
            longest += max(since)
            since[:] = [0.0] * team.workers
        rows, times = call_of(node, calls).box
        each = OPS[node.op].ops(node) / max(rows * times, 1)
        grid = team.grid(slot.node, slot.body)
        for worker in range(grid.parts):
            work = each * grid.part(box, worker).size
            total[worker] += work
            since[worker] += work

    for i, node in enumerate(graph.nodes):
        if isinstance(node, Loop):
            for k in range(node.count):
                for j, step in enumerate(node.body):
                    if not step.boxes[k].empty:
                        call(Slot(i, j), step.node, step.boxes[k])
        elif not OPS[node.op].alias:
            rows, times = call_of(node, calls).box
            call(Slot(i), node, Span(0, rows, 0, times))
    return TeamWork(tuple(total), longest + max(since))
