# SPDX-License-Identifier: Apache-2.0
"""Schedules of one training graph and its predictions: found by the search, placed, compared."""

from __future__ import annotations

from collections.abc import Sequence

from biotrain.graph.cost import Cost, call_cycles
from biotrain.ir.graph import Graph, Node, Span
from biotrain.planner.place import ALIGNMENT, lifetimes, place
from biotrain.planner.plan import Schedule
from biotrain.planner.realise import realise
from biotrain.planner.score import UNBOUNDED, Score, Streaming
from biotrain.planner.search import Search
from biotrain.planner.stream import Stream, equal_price
from biotrain.planner.team_cost import shared_cost
from biotrain.targets.target import Target

MOST_ATTEMPTS = 6
"""Budgets that are tried until the placed buffers, too, stay within the one that was asked for."""


class Planner:
    """The schedules of one training graph and its predictions on one target."""

    def __init__(self, train: Graph, predict: Graph, target: Target, accumulate: int) -> None:
        self.target = target
        self.accumulate = accumulate
        self.price = target.price if target.cycles_per_op else equal_price
        self.train = Search(Stream(train, self.price, self.cycles))
        self.predict = Search(Stream(predict, self.price, self.cycles))
        self._ladder: list[tuple[Score, Schedule]] | None = None

    def cycles(self, node: Node, box: Span) -> float | None:
        """Estimated cycles of a call on the target; None where they are not known."""
        return call_cycles(node, box, self.target)

    def schedule(self, search: Search, score: Score) -> Schedule:
        """The graph and the placement of a choice."""
        graph = realise(search, score)
        return Schedule(graph, place(lifetimes(graph)))

    def within(self, search: Search, budget: int, starts: Sequence[Streaming]) -> Schedule:
        """The fastest schedule found whose arena stays within `budget` bytes, else a small one."""
        wanted = budget // ALIGNMENT * ALIGNMENT
        smallest: Schedule | None = None
        fitting: list[tuple[int, int, Schedule]] = []
        for _ in range(MOST_ATTEMPTS):
            score = search.best(wanted, starts)
            found = self.schedule(search, score)
            if smallest is None or found.peak < smallest.peak:
                smallest = found
            if found.peak <= budget:
                fitting.append((score.ops, len(fitting), found))
                break
            wanted -= max(found.peak - budget, ALIGNMENT)
        for score in search.visited(budget):  # placement may have turned a better one away
            found = self.schedule(search, score)
            if found.peak <= budget:
                fitting.append((score.ops, len(fitting), found))
        assert smallest is not None
        return min(fitting)[2] if fitting else smallest

    def fastest(self) -> Schedule:
        """The fastest schedule of a training sample, whatever memory it needs."""
        search = self.train
        score = search.relax(search.score(search.all_stored(), UNBOUNDED), UNBOUNDED)
        return self.schedule(search, score)

    def stored(self) -> Schedule:
        """The schedule of a training sample that stores every tensor."""
        search = self.train
        return self.schedule(search, search.score(search.all_stored(), UNBOUNDED))

    def cost(self, schedule: Schedule) -> Cost:
        """Work of one training sample."""
        return shared_cost(schedule.graph, schedule.buffers, self.target, self.accumulate)

    def ladder(self) -> list[tuple[Score, Schedule]]:
        """Schedules of falling arenas, from the fastest to the smallest that was found."""
        if self._ladder is None:
            rungs = [(s, self.schedule(self.train, s)) for s in self.train.ladder()]
            smaller: list[tuple[Score, Schedule]] = []
            for score, found in sorted(rungs, key=lambda r: (r[0].ops, r[1].peak)):
                if not smaller or found.peak < smaller[-1][1].peak:
                    smaller.append((score, found))
            self._ladder = smaller
        return self._ladder

    def prediction(self, arena: int) -> Schedule:
        """A schedule of predictions that needs no more than `arena` bytes, if there is one."""
        starts = [self.predict.all_stored(), self.predict.all_streamed()]
        return self.within(self.predict, arena, starts)

    def prediction_apart(self, limit: int | None) -> Schedule:
        """Predictions in an arena of their own, of at most `limit` bytes where that is possible.

        The smallest that costs at most a tenth more than the fastest; the smallest of all where
        only that one stays within the limit.
        """
        rungs = [(s, self.schedule(self.predict, s)) for s in self.predict.ladder()]
        fewest = min(s.ops for s, _ in rungs)
        good = min(
            (r for r in rungs if 10 * r[0].ops <= 11 * fewest), key=lambda r: (r[1].peak, r[0].ops)
        )
        if limit is None or good[1].peak <= limit:
            return good[1]
        return min(rungs, key=lambda r: (r[1].peak, r[0].ops))[1]
