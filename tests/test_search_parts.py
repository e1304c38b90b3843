# SPDX-License-Identifier: Apache-2.0
"""Borders and ties of the planner's searches, each against what its documentation says.

A search that stops a step early or takes a point too many gives plans that are right and a little
worse, so no check of a plan sees it: these tests put the parts of a search before made choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from test_networks import train_graph
from torch import nn

import biotrain as bt
from biotrain.ir.graph import Graph, Loop, Span
from biotrain.ir.op import OPS
from biotrain.planner import search as searching
from biotrain.planner.batch_norm import Batch
from biotrain.planner.batch_schedule import BatchSchedule
from biotrain.planner.score import Score
from biotrain.planner.search import Search
from biotrain.planner.stream import Stream
from biotrain.planner.team import team_of
from biotrain.planner.tiles import tilings
from biotrain.planner.transfers import with_transfers


class Two(nn.Module):
    """Two blocks: enough to stream, and few choices."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(3, 8, 9, bias=False),
            norm(8),
            nn.ELU(),
            nn.AvgPool1d(4),
            nn.Conv1d(8, 12, 5, groups=4, bias=False),
            norm(12),
            nn.ELU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(12, 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return y


def compiled(norm: Callable[[int], nn.Module], **options: Any) -> bt.Package:
    torch.manual_seed(0)
    return bt.compile(Two(norm).train(), torch.zeros(1, 3, 400), **{"accumulate": 1, **options})


def group(width: int) -> nn.Module:
    return nn.GroupNorm(2, width)


@cache
def graph() -> Graph:
    torch.manual_seed(0)
    return train_graph(Two(group).train(), torch.zeros(1, 3, 400))


@cache
def a_score() -> Score:
    search = Search(Stream(graph()))
    return search.score(search.all_stored(), 1 << 30)


def score(peak: int, ops: int, over: int = 0) -> Score:
    return replace(a_score(), peak=peak, ops=ops, over=over)


class Told(Search):
    """A search whose next answers are given; it notes what it is asked."""

    def __init__(self, *answers: Score) -> None:
        super().__init__(Stream(graph()))
        self.answers, self.asked = list(answers), list[int]()

    def store_rows(self, best: Score, budget: int) -> Score:
        self.asked.append(budget)
        return self.answers[len(self.asked) - 1] if self.answers else best


def test_points_stand_between_where_a_step_saves_more_than_a_fifth() -> None:
    told = Told()
    a_fifth = [score(1000, 10), score(800, 20)]
    assert told._between(a_fifth) == a_fifth
    assert not told.asked
    more = [score(1000, 10), score(792, 20)]
    told._between(more)
    assert told.asked == [944, 896, 832]  # 792 + 208 * (3, 2, 1) / 4, down to what is aligned


def test_a_point_between_is_faster_than_the_smaller_and_unlike_the_last() -> None:
    above, below = score(1000, 10), score(400, 50)
    kept = [score(850, 20), score(700, 30), score(550, 40)]
    assert Told(*kept)._between([above, below]) == [above, *kept, below]
    alike = [score(850, 20), score(700, 20), score(550, 40)]
    assert Told(*alike)._between([above, below]) == [above, alike[0], alike[2], below]
    as_above = [score(850, 10), score(700, 30), score(550, 40)]
    assert Told(*as_above)._between([above, below]) == [above, *as_above[1:], below]
    slow = [score(850, 20), score(700, 50), score(550, 60)]
    assert Told(*slow)._between([above, below]) == [above, slow[0], below]
    large = [score(850, 20), score(850, 30), score(550, 40, over=8)]
    assert Told(*large)._between([above, below]) == [above, large[0], below]


@pytest.mark.parametrize("count", [5, 6])
def test_a_frontier_of_few_points_is_searched_in_finer_steps(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def rungs(_: Search, factor: float, least: int = 0) -> list[Score]:
        asked.append(factor)
        return [score(1000 - 8 * i, 10 + i) for i in range(count)]

    monkeypatch.setattr(Search, "_rungs", rungs)
    least = score(1000 - 8 * count, 99)
    monkeypatch.setattr(Search, "smallest", lambda _: least)
    found = Search(Stream(graph())).ladder()
    finer = [searching.FINER_FRONTIER_SHARE] if count < searching.MIN_FRONTIER_POINTS else []
    assert searching.MIN_FRONTIER_POINTS == 6
    assert asked == [searching.FRONTIER_SHARE, *finer]
    assert found[-1] is least


def test_the_smallest_choice_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rungs = [score(1000 - 8 * i, 10 + i) for i in range(6)]
    monkeypatch.setattr(Search, "_rungs", lambda _, factor, least=0: list(rungs))
    for peak, longer in ((rungs[-1].peak, 0), (rungs[-1].peak - 8, 1), (rungs[-1].peak + 8, 0)):
        monkeypatch.setattr(Search, "smallest", lambda _, peak=peak: score(peak, 99))
        found = Search(Stream(graph())).ladder()
        assert len(found) == len(rungs) + longer
        assert all(a.peak > b.peak for a, b in pairwise(found))


def test_real_ladders_fall_with_every_point() -> None:
    search = Search(Stream(graph()))
    found = search.ladder()
    assert len(found) >= searching.MIN_FRONTIER_POINTS
    assert all(a.peak > b.peak for a, b in pairwise(found))
    assert found[-1].peak == min(s.peak for s in found) <= search.smallest().peak


@cache
def batch() -> Batch:
    return Batch(compiled(nn.BatchNorm1d, batch=4).source.train, 4)


def test_a_batch_that_fits_nowhere_gets_the_choice_that_stores_least() -> None:
    made = batch()
    least = made.choices()[0]
    found = made.fit(8)
    assert found.peak > 8
    want = made.schedule(least, 8)
    assert (found.peak, found.ops, found.outers) == (want.peak, want.ops, want.outers)
    assert {o.value.name for o in found.outers if o.copies > 1} <= {*least}
    assert len(made.choices()) > 1


def test_a_batch_above_its_budget_is_tried_again_with_what_was_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, free = batch(), batch().schedule((), None)
    asked: list[int | None] = []

    def schedule(_: Batch, stored: Sequence[str], budget: int | None) -> BatchSchedule:
        asked.append(budget)
        assert budget is not None
        return replace(free, buffers=(replace(free.buffers[0], offset=0, size=budget + 24),))

    monkeypatch.setattr(Batch, "schedule", schedule)
    found = made.streamed(1000)
    assert asked == [1000, 976]
    assert found.peak == 1000
    asked.clear()
    monkeypatch.setattr(Batch, "choices", lambda _: [()])
    assert made.fit(5000).peak == 5000
    assert asked == [5000, 4976]


def test_a_node_of_other_numbers_is_tiled_too() -> None:
    """A node that reads int16 samples is tiled like one of floats; its windows are not copied."""
    pkg = compiled(group, input_type="int16", input_scale=1.0, memory=None)
    loops = [
        loop
        for node in pkg.source.train.nodes
        if not isinstance(node, Loop) and any(v.dtype == "i16" for v in node.inputs)
        for loop in tilings(node, 2)
    ]
    assert loops
    assert max(loop.count for loop in loops) > 1
    for loop in loops:
        moved = with_transfers(loop, {})
        read = [v.dtype for s in moved.body if s.node.op == "get" for v in s.node.inputs]
        assert "i16" not in read


def test_whole_numbers_alone_are_not_tiled() -> None:
    labels = [n for n in graph().nodes if all(v.dtype != "f32" for v in (*n.inputs, *n.outputs))]
    assert all(not list(tilings(n, 2)) for n in labels)


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_workers_clear_their_own_sums_where_these_lie_together(workers: int) -> None:
    """Sums that start at zero need no worker who clears them for all, and no barrier behind that,
    where each worker adds to one range of elements that no other adds to."""
    pkg = compiled(group, workers=workers, memory=None)
    nodes, team = pkg.source.train.nodes, team_of(pkg.source.train, pkg.plan.buffers, workers)
    seen: list[bool] = []
    for (i, body), own in team.clears.items():
        if body >= 0 or isinstance(nodes[i], Loop) or team.grids[i, body].elements:
            continue
        rule, grid = OPS[nodes[i].op], team.grids[i, body]
        rows, times = rule.call(nodes[i]).box
        for out, value in enumerate(nodes[i].outputs):
            ranges: list[tuple[int, int]] = []
            for worker in range(grid.parts):
                run = rule.writes(nodes[i], out, grid.part(Span(0, rows, 0, times), worker))
                starts = [run.start + k * run.stride for k in range(run.count)]
                found = sorted({e for s in starts for e in range(s, s + run.length)})
                assert found[-1] < value.size
                if found[-1] - found[0] + 1 == len(found):
                    ranges.append((found[0], found[-1]))
            ranges.sort()
            apart = all(a[1] < b[0] for a, b in pairwise(ranges))
            seen.append(len(ranges) == grid.parts and apart)
            assert own == seen[-1], (nodes[i].op, value)
    assert any(seen)
