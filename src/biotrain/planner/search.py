# SPDX-License-Identifier: Apache-2.0
"""The choice of what to store: the search behind `fit`.

A choice says for every node whether its result is stored, or streamed and recomputed where it is
needed (`stream.py`). Thousands of choices are weighed in seconds (`score.py`). The search goes down
a ladder of budgets; at each it takes the steps that remove most of what lies above the budget for
the fewest operations, and then takes back what turned out not to be needed. Deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf
from operator import xor

from biotrain.planner.fused import StoredRows
from biotrain.planner.place import ALIGNMENT, aligned
from biotrain.planner.score import UNBOUNDED, Score, Scorer, Streaming
from biotrain.planner.stream import Stream

MIN_OPS_SHARE = 0.01
"""Share of all operations that storing a tensor must save to start a search of its own."""

MOST_BRANCHES = 4
"""Tensors that are tried in this way at a time."""

BUDGET_SHARES = (0.85, 0.7, 0.55)
"""Shares of a budget that are tried for everything but the stored rows that fill it up."""

SHRINK_SHARES = (0.85, 0.95)
"""Shares of the smallest peak so far that are tried as the next, smaller budget."""

STALE_RATIO = 1.5
"""A step whose worth, when it was last weighed, was so many times below that of the best step now
is not weighed again."""

MIN_FRONTIER_POINTS = 6
"""A frontier of fewer points is searched again in finer steps."""

FRONTIER_SHARE, FINER_FRONTIER_SHARE = 0.9, 0.97
"""Budget of the next point of the frontier, as a share of the peak of the one before."""

LARGEST_GAP_SHARE = 0.2
"""A step of the frontier that saves more than this share of the peak gets points between; and how
far the peak of a choice may err upwards from what its placement needs."""

STEPS_AT_ONCE = 4
"""Steps down that are tried together."""

MOST_SWEEPS = 4
"""Most rounds of taking back."""


class Search(Scorer):
    """Searches the choices of one graph for those with the fewest operations under a budget."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._visited: dict[tuple[Streaming, tuple[int, int] | None], Score] = {}
        streamable = dict.fromkeys(stream.streamable)
        self._edges = [(i, j) for j in streamable for i in stream.sources(j) if i in streamable]

    def descend(self, start: Streaming, budget: int, locked: int = -1) -> Score:
        """From a choice to one that stays within the budget, or as near as it gets.

        Node `locked` stays stored or streamed as it is at the start.
        """
        best = self.score(start, budget)
        stale: dict[Streaming, float] = {}  # what a step was worth when it was last weighed
        while best.over and self._effort > 0:
            rated: list[tuple[float, int, Streaming]] = []
            steps = self._steps(best.streaming, self._crowded(best, budget))
            moves = {c: tuple(map(xor, c, best.streaming)) for c in steps}
            steps.sort(key=lambda c: -stale.get(moves[c], inf))
            most = 0.0
            for choice in steps:
                if most > STALE_RATIO * stale.get(moves[choice], inf):
                    break
                if locked >= 0 and choice[locked] is not start[locked]:
                    continue
                score = self.score(choice, budget)
                gain = best.over - score.over
                rate = gain / (max(score.ops - best.ops, 0) + 1.0)
                stale[moves[choice]] = max(rate, 0.0)
                if gain > 0:
                    rated.append((-rate, len(rated), choice))
                    most = max(most, rate)
            if not rated:
                break
            rated.sort()
            before, best = best, self.score(rated[0][2], budget)
            for rate, _, choice in rated[1:STEPS_AT_ONCE]:  # the next best, if they go together
                both = tuple(
                    c if c is not old else now
                    for c, old, now in zip(choice, before.streaming, best.streaming, strict=True)
                )
                score = self.score(both, budget)
                gain, price = best.over - score.over, max(score.ops - best.ops, 0) + 1.0
                if gain > 0 and gain / price >= -rate / 2:
                    best = score
        return self.relax(best, budget)

    def _crowded(self, score: Score, budget: int) -> dict[int, None]:
        """Nodes whose results, or windows, are in use in a group that is above the budget."""
        structure = self._structure(score.streaming)
        first, last, stored = structure.first, structure.last, structure.stored_bytes
        found: dict[int, None] = {}
        full = [p for p, loop in enumerate(score.loops) if stored[p] + loop.window_bytes > budget]
        for i in self.stream.streamable:
            name = self.stream.nodes[i].outputs[0].name
            if score.streaming[i]:
                if any(i in score.groups[p].streamed for p in full):
                    found[i] = None
            elif any(first[name] <= p <= last[name] for p in full):
                found[i] = None
        return found

    def _steps(self, choice: Streaming, among: Mapping[int, None]) -> list[Streaming]:
        """Choices that differ in one node, or in two that follow one another."""
        found = [(*choice[:i], not choice[i], *choice[i + 1 :]) for i in among]
        for i, j in self._edges:
            if i in among or j in among:
                found += self._pair(choice, i, j)
        return list(dict.fromkeys(found))

    def _pair(self, choice: Streaming, i: int, j: int) -> list[Streaming]:
        """Stream both of two nodes; or exchange which of the two is stored."""
        both, other = list(choice), list(choice)
        both[i] = both[j] = True
        other[i], other[j] = choice[j], choice[i]
        wanted = [(not (choice[i] and choice[j]), both), (choice[i] is not choice[j], other)]
        return [tuple(c) for use, c in wanted if use]

    def relax(self, best: Score, budget: int) -> Score:
        """Take back what is not needed: steps that cost no overflow and fewer operations."""
        for sweep in range(MOST_SWEEPS):
            before = best
            for i in self.stream.streamable:
                if best.streaming[i] or best.over or not sweep:  # streaming may cost nothing
                    choice = (*best.streaming[:i], not best.streaming[i], *best.streaming[i + 1 :])
                    best = self._better(best, choice, budget)
            for i, j in self._edges:
                if best.streaming[i] is not best.streaming[j] or best.over or not sweep:
                    for choice in self._pair(best.streaming, i, j):
                        best = self._better(best, choice, budget)
            if best is before or self._effort <= 0:
                break
        return best

    def _better(self, best: Score, choice: Streaming, budget: int) -> Score:
        if self._effort <= 0:
            return best
        score = self.score(choice, budget)
        return score if score.rank < best.rank else best

    def improve(self, best: Score, budget: int) -> Score:
        """Store one tensor that saves many operations, and find its bytes elsewhere."""
        while True:
            worth = []
            for node in self.stream.streamable:
                if not best.streaming[node] or self._effort <= 0:
                    continue
                choice = (*best.streaming[:node], False, *best.streaming[node + 1 :])
                score = self.score(choice, budget)
                if score.ops < best.ops * (1 - MIN_OPS_SHARE):
                    worth.append((score.ops, node, choice))
            found = best
            for _, node, choice in sorted(worth)[:MOST_BRANCHES]:
                if self._effort <= 0:
                    break
                score = self.descend(choice, budget, locked=node)
                if score.rank < found.rank:
                    found = score
            if found is best:
                return best
            best = found

    def store_rows(self, best: Score, budget: int) -> Score:
        """Fill what is left of the budget with rows of a tensor that is recomputed."""
        if best.over:
            return best
        groups = best.groups
        found = best
        for node in self.stream.streamable:
            at = [p for p, group in enumerate(groups) if node in group.streamed]
            if not best.streaming[node] or len(at) < 2 or len(self.stream.nodes[node].outputs) > 1:
                continue
            unit, most = self.stream.row_unit(groups[at[0]], node)
            low, high = 0, most  # `low` units fit, `high` do not
            while high - low > 1:
                middle = (low + high) // 2
                score = self._with_rows(best, budget, node, middle * unit, at)
                if score is None or score.over:
                    high = middle
                    continue
                low = middle
                if score.ops < found.ops:
                    found = score
        return found

    def _with_rows(
        self, best: Score, budget: int, node: int, count: int, at: Sequence[int]
    ) -> Score | None:
        """A choice with `count` rows of a streamed tensor stored; None where they cannot be.

        `at`: the groups that need the tensor.
        """
        groups = best.groups
        made = self.stream.with_rows(groups[at[0]], StoredRows(node, count, True))
        if made is None:
            return None
        loops = {at[0]: made}
        for p in at[1:]:
            loop = self.stream.with_rows(groups[p], StoredRows(node, count, False))
            if loop is not None:
                loops[p] = loop
        if len(loops) == 1:
            return None
        size = aligned(replace(self.stream.nodes[node].outputs[0], stored_rows=count).nbytes)
        score = self._weigh(best.streaming, budget, size, loops, range(at[0], max(loops) + 1))
        return replace(score, rows=(node, count))

    def best(self, budget: int, starts: Sequence[Streaming]) -> Score:
        """The best choice for a budget in bytes that is found from several starting points."""
        down = self._rungs(FRONTIER_SHARE, budget)[-2:] if self.all_stored() in starts else []
        down += [self.store_rows(self.score(rung.streaming, budget), budget) for rung in down]
        self._visited.update({(rung.streaming, rung.rows): rung for rung in down})
        self._effort = self._most
        best = self._descended(budget, [*starts, *(rung.streaming for rung in down)])
        for rung in down:
            if rung.peak <= budget and (best.over or rung.ops < best.ops):
                best = replace(rung, over=0)
        if best.over or best.ops <= self.fewest_ops() * (1 + MIN_OPS_SHARE):
            return best
        found = best if best.rows else self.store_rows(best, budget)
        for share in BUDGET_SHARES:  # the rest is for rows of a recomputed tensor
            leaner = self._descended(int(budget * share), starts)
            score = self.store_rows(self.score(leaner.streaming, budget), budget)
            if score.rank < found.rank:
                found = score
        return found

    def visited(self, budget: int) -> list[Score]:
        """Choices that were met on the way to such a budget and may fit: scores err upwards."""
        return [s for s in self._visited.values() if s.peak * (1 - LARGEST_GAP_SHARE) <= budget]

    def _descended(self, budget: int, starts: Sequence[Streaming]) -> Score:
        """The best of the ways down from several choices, improved."""
        found = [self.descend(start, budget) for start in dict.fromkeys(starts)]
        return self.improve(min(found, key=lambda s: s.rank), budget)

    def fewest_ops(self) -> int:
        """Operations with everything stored, the fewest there are."""
        return self.score(self.all_stored(), UNBOUNDED).ops

    def ladder(self) -> list[Score]:
        """Choices for falling budgets, from everything stored to the smallest that was found."""
        rungs = self._rungs(FRONTIER_SHARE)
        found = rungs if len(rungs) >= MIN_FRONTIER_POINTS else self._rungs(FINER_FRONTIER_SHARE)
        least = self.smallest()
        return [*found, least] if least.peak < found[-1].peak else found

    def smallest(self) -> Score:
        """The smallest choice found: down from everything streamed, and from everything stored."""
        self._effort = self._most
        best = self._shrunk(self.score(self.all_streamed(), 0))
        other = self.descend(self.all_stored(), int(SHRINK_SHARES[0] * best.peak))
        return self._shrunk(other) if other.peak < best.peak else best

    def _shrunk(self, best: Score) -> Score:
        """Down from a choice until no smaller budget leads any further."""
        for share in SHRINK_SHARES:
            while (score := self.descend(best.streaming, int(share * best.peak))).peak < best.peak:
                best = score
        return best

    def _rungs(self, factor: float, least: int = 0) -> list[Score]:
        """Choices of falling peaks, each within `factor` of the one before.

        They go down to the smallest, or to the first that needs no more than `least` bytes.
        """
        self._effort = self._most
        top = self.score(self.all_stored(), UNBOUNDED)
        found = [self.relax(top, UNBOUNDED)]
        while found[-1].peak > least:
            self._effort = self._most // 6
            budget = int(found[-1].peak * factor) // ALIGNMENT * ALIGNMENT
            score = self._descended(budget, [found[-1].streaming])
            if score.over:
                score = self._descended(budget, [found[-1].streaming, self.all_streamed()])
            score = self.store_rows(score, budget)
            if score.peak >= found[-1].peak:
                self._effort = self._most // 3
                score = self._descended(budget, [self.all_streamed(), found[-1].streaming])
            if score.peak >= found[-1].peak:
                break
            found.append(score)
        return found if least else self._between(found)

    def _between(self, found: list[Score]) -> list[Score]:
        """The choices with others between where the next one is much smaller: with some of its
        streamed rows stored."""
        filled = found[:1]
        for above, below in pairwise(found):
            gap = above.peak - below.peak
            for quarters in (3, 2, 1) if gap > LARGEST_GAP_SHARE * above.peak else ():
                budget = (below.peak + gap * quarters // 4) // ALIGNMENT * ALIGNMENT
                score = self.store_rows(self.score(below.streaming, budget), budget)
                fewer = score.ops < below.ops and score.ops != filled[-1].ops
                if fewer and score.peak < filled[-1].peak and not score.over:
                    filled.append(score)
            filled.append(below)
        return filled
