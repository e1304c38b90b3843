# SPDX-License-Identifier: Apache-2.0
"""Samples of cases: the same in every run, spread over all values, and nothing is left out."""

import pytest
from _sample import spread

TARGETS = ("ci", "full", "exhaustive")


@pytest.mark.parametrize("size", range(1, 120))
def test_every_case_has_one_place(size: int) -> None:
    order = spread(size, size)
    assert sorted(order) == list(range(size))
    assert order[0] == 0
    assert all(order[:count] == spread(size, count) for count in range(size))


@pytest.mark.parametrize(("first", "second"), [(3, 5), (3, 6), (4, 7), (2, 9), (5, 5)])
def test_a_few_cases_have_most_values_of_stacked_parameters(first: int, second: int) -> None:
    few = spread(first * second, max(first, second) + 1)
    assert len({i % first for i in few}) == first
    assert len({i // first for i in few}) >= second - 2


@pytest.mark.sample(test=2, ci=5)
@pytest.mark.parametrize("index", range(9))
def test_each_case_is_in_one_target(index: int, request: pytest.FixtureRequest) -> None:
    """Of these nine the first two are of `make test`, three of `make ci`, four of `make full`."""
    marks = [m.name for m in request.node.iter_markers() if m.name in TARGETS]
    if request.session.testscollected >= 9:  # alone, a case is a sample of itself
        place = spread(9, 9).index(index)
        assert marks == ([] if place < 2 else ["ci"] if place < 5 else ["full"])
