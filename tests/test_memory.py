# SPDX-License-Identifier: Apache-2.0
"""Placement of buffers: valid, at or above the bound, optimal for few, and honestly judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import biotrain.ops  # noqa: F401 (fills the table of ops)
from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Graph, Loop, Node, Span, Step, Value, Window
from biotrain.planner.explain import computations
from biotrain.planner.place import (
    ALIGNMENT,
    Buffer,
    follows,
    lifetimes,
    lower_bound,
    peak,
    place,
)
from biotrain.planner.plan import Schedule
from biotrain.planner.schedules import MOST_ATTEMPTS, Planner
from biotrain.planner.score import Score, Streaming
from biotrain.planner.search import Search
from biotrain.planner.validate import replay, validate


@st.composite
def problems(draw: st.DrawFn, most: int = 24) -> tuple[Buffer, ...]:
    count = draw(st.integers(1, most))
    buffers = []
    for i in range(count):
        first = draw(st.integers(0, 20))
        last = first + draw(st.integers(0, 12))
        size = ALIGNMENT * draw(st.integers(1, 40))
        buffers.append(Buffer(f"b{i}", (f"b{i}",), "ram", 0, size, first, last))
    return tuple(buffers)


def clash(a: Buffer, b: Buffer) -> bool:
    in_time = a.first <= b.last and b.first <= a.last
    in_space = a.offset < b.offset + b.size and b.offset < a.offset + a.size
    return in_time and in_space


@given(problems())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_placement_is_valid_and_at_or_above_the_bound(buffers: tuple[Buffer, ...]) -> None:
    placed = place(buffers, effort=50)
    assert [replace(b, offset=0) for b in placed] == list(buffers)
    assert all(b.offset >= 0 and b.offset % ALIGNMENT == 0 for b in placed)
    assert not any(clash(a, b) for i, a in enumerate(placed) for b in placed[:i])
    assert peak(placed) >= lower_bound(buffers)
    assert placed == place(buffers, effort=50), "the same problem gives the same placement"


def optimum(buffers: tuple[Buffer, ...]) -> int:
    """Smallest arena over every order and every offset that some order's first fit reaches."""
    best = sum(b.size for b in buffers)
    for order in permutations(buffers):
        done: list[Buffer] = []
        for b in order:
            ends = sorted({0, *(d.offset + d.size for d in done)})
            offset = next(e for e in ends if not any(clash(replace(b, offset=e), d) for d in done))
            done.append(replace(b, offset=offset))
        best = min(best, peak(done))
    return best


@given(problems(most=6))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_few_buffers_are_placed_optimally(buffers: tuple[Buffer, ...]) -> None:
    assert peak(place(buffers)) == optimum(buffers)


def test_seven_buffers_are_still_placed_optimally() -> None:
    """An arena that no order of first fit finds; all orders of seven are tried."""
    spans = ((3, 4, 9), (11, 8, 12), (2, 6, 6), (11, 6, 7), (5, 2, 4), (8, 3, 7), (7, 0, 5))
    buffers = tuple(
        Buffer(f"b{i}", (f"b{i}",), "ram", 0, ALIGNMENT * units, first, last)
        for i, (units, first, last) in enumerate(spans)
    )
    assert peak(place(buffers)) == optimum(buffers) == 24 * ALIGNMENT


def chain() -> Graph:
    x = Value("x", (1, 2, 64), kind="input")
    a, b, c = (Value(n, (1, 2, 64)) for n in "abc")
    nodes = (
        Node("relu", (x,), (a,)),
        Node("relu", (a,), (b,)),
        Node("relu_dx", (a, b), (c,)),
    )
    return Graph(nodes, (x,), (c,))


def test_in_place_only_where_nothing_is_read_later() -> None:
    buffers = {m: b for b in lifetimes(chain()) for m in b.members}
    assert buffers["x"] is buffers["a"]
    assert buffers["a"] is not buffers["b"], "a is read again by relu_dx"
    assert buffers["c"] is buffers["b"] or buffers["c"] is buffers["a"]


def test_the_validator_accepts_a_good_placement_and_refuses_bad_ones() -> None:
    graph = chain()
    placed = place(lifetimes(graph))
    replay(graph, placed)
    apart = [replace(b, offset=0) for b in placed]
    with pytest.raises(GraphError, match="overwrit"):
        replay(graph, apart)
    with pytest.raises(GraphError, match="not aligned"):
        replay(graph, [replace(b, offset=b.offset + 4) for b in placed])


@pytest.mark.parametrize("shift", [16, 128, 256])
def test_the_validator_sees_every_partial_overlap(shift: int) -> None:
    graph = chain()
    placed = list(place(lifetimes(graph, inplace=False)))
    names = [b.value for b in placed]
    a, b = names.index("a"), names.index("b")
    size = placed[a].size
    placed[b] = replace(placed[b], offset=placed[a].offset + size - shift)
    with pytest.raises(GraphError, match="overwrit"):
        replay(graph, placed)


def test_the_validator_asks_for_the_rules_of_the_graph_too() -> None:
    """A name that is given twice: the replay of memory alone would not mind."""
    x, a = Value("x", (1, 2, 64), kind="input"), Value("a", (1, 2, 64))
    graph = Graph((Node("relu", (x,), (a,)), Node("relu", (x,), (a,))), (x,), (a,))
    placed = place(lifetimes(graph, inplace=False))
    replay(graph, placed)
    with pytest.raises(GraphError):
        validate(graph, placed)


def test_the_fastest_schedule_that_fits_is_taken_after_placement() -> None:
    """Placement may turn the best choice's arena too large for one budget, and not for another."""

    def score(ops: int) -> Score:
        return Score((), 0, 0, ops, (), ())

    peaks = {score(9): 64, score(5): 48, score(3): 80}

    class Found(Search):
        def __init__(self) -> None:
            self.asked: list[int] = []

        def best(self, budget: int, starts: Sequence[Streaming]) -> Score:
            self.asked.append(budget)
            return score(9)

        def visited(self, budget: int) -> list[Score]:
            return [score(5), score(3)]

    class Placed(Planner):
        def __init__(self) -> None:
            pass

        def schedule(self, search: Search, score: Score) -> Schedule:
            size = peaks[score]
            return Schedule(
                Graph((), (), ()), (Buffer(f"b{score.ops}", ("b",), "ram", 0, size, 0, 0),)
            )

    search = Found()
    taken = [Placed().within(search, budget, ()).buffers[0].value for budget in (80, 64, 32)]
    assert taken == ["b3", "b5", "b9"], "the fewest operations that fit, else the smallest tried"
    assert search.asked == [80, 64, *range(32, 32 * (1 - MOST_ATTEMPTS), -32)], "by 64 - 32"


def test_no_buffer_needs_no_byte() -> None:
    assert peak(()) == 0
    assert lower_bound(()) == 0


def test_what_follows_a_recomputed_tensor_is_recomputed_too() -> None:
    """b = tanh(relu(x)), once more through a second relu(x), and c, which reads another tensor."""
    values = {n: Value(n, (1, 8)) for n in ("a", "b", "a2", "b2", "c")}
    x = Value("x", (1, 8), kind="input")

    def node(op: str, source: Value, out: str) -> Node:
        return Node(op, (source,), (values[out],))

    nodes = [
        node("relu", x, "a"),
        node("tanh", values["a"], "b"),
        node("relu", x, "a2"),
        node("tanh", values["a2"], "b2"),
        node("tanh", values["b2"], "c"),
    ]
    assert computations(nodes) == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("c", 0)]


def _pooled_rows(written: Sequence[int]) -> Loop:
    """A loop that reads rows 0 to 3 of `x` and writes rows of `y`, beside the places of maxima."""
    x, y = Value("x", (1, 4, 8)), Value("y", (1, 4, 8))
    row, where = Value("row", (1, 4, 8)), Value("where", (1, 4, 8), "u8")
    boxes = tuple(Span(k, k + 1, 0, 8) for k in range(4))
    others = tuple(Span(k, k + 1, 0, 8) for k in written)
    shape: dict[str, Attr] = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0)}
    attrs = tuple({**shape, "dilation": (1, 1), "index": True}.items())
    body = (
        Step(Node("relu", (x,), (row,)), boxes),
        Step(Node("max_pool", (row,), (y, where), attrs), others),
    )
    windows = (Window(row, boxes), Window(where, others))
    return Loop("loop", (x,), (y,), axis="rows", body=body, windows=windows)


def test_a_result_of_two_may_overwrite_what_was_read() -> None:
    """One of a node's results is enough, where row k of it is written when row k was read."""
    assert follows(_pooled_rows((0, 1, 2, 3)), "x", "y")
    assert not follows(_pooled_rows((1, 2, 3, 0)), "x", "y"), "row 1 is read later"
