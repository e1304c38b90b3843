# SPDX-License-Identifier: Apache-2.0
"""How evenly a team shares the work of a schedule: in counted operations, or in what is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from biotrain.ir.access import call_of
from biotrain.ir.graph import Graph, Node
from biotrain.ir.op import OPS, Call
from biotrain.planner.team import Team, Visit, visits

Work: TypeAlias = Callable[[Visit, int], float]
"""What a worker has to do at a slot, by its number."""


@dataclass(frozen=True, slots=True)
class TeamWork:
    """The work of one pass over a schedule."""

    each: tuple[float, ...]
    """Work of every worker, in order of their numbers."""
    longest: float
    """That of the busiest worker between two barriers, added up: what the team takes, where a
    barrier takes nothing."""
    waits: int
    """Barriers that the team has reached."""

    @property
    def balance(self) -> float:
        """The share of all workers' time in which they work, from 0 to 1."""
        return sum(self.each) / (len(self.each) * self.longest) if self.longest else 1.0


def team_work(graph: Graph, team: Team, work: Work | None = None) -> TeamWork:
    """The work of every worker. `work`: by default counted operations, in proportion to parts."""
    calls: dict[Node, Call] = {}

    def operations(visit: Visit, worker: int) -> float:
        if visit.slot.kind != "call":
            return 0.0
        rows, times = call_of(visit.node, calls).box
        part = team.grid(visit.slot.node, visit.slot.body).part(visit.box, worker)
        return OPS[visit.node.op].ops(visit.node) / max(rows * times, 1) * part.size

    each = work or operations
    total = [0.0] * team.workers
    since = [0.0] * team.workers
    longest, waits = 0.0, 0
    for visit in visits(graph, team, calls):
        if visit.slot in team.barriers:
            longest, waits = longest + max(since), waits + 1
            since = [0.0] * team.workers
        for worker in range(team.workers):
            done = each(visit, worker)
            total[worker] += done
            since[worker] += done
    return TeamWork(tuple(total), longest + max(since), waits)
