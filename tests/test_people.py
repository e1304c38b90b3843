# SPDX-License-Identifier: Apache-2.0
"""Person by person: votes of seeds, McNemar's exact test against scipy's binomial, Holm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from biotrain.study.metrics import packed, unpacked
from biotrain.study.results.people import people, told, votes
from biotrain.study.rows import StudyRow

ROW = StudyRow(
    dataset="set",
    scenario="day1",
    model="net",
    norm="group",
    strategy="none",
    subject=1,
    session=1,
    seed=0,
    accuracy=0.5,
    balanced_accuracy=0.5,
    chance=0.5,
    ram_bytes=None,
    ops=None,
    steps=0,
    key="k",
)


def row(strategy: str, right: list[int], subject: int = 1, seed: int = 0) -> StudyRow:
    hits = np.array(right, bool)
    counts = ((int(hits.sum()), int((~hits).sum())), (0, 0))
    return replace(
        ROW, strategy=strategy, subject=subject, seed=seed, confusion=counts, hits=packed(hits)
    )


@given(st.lists(st.booleans(), max_size=70))
def test_windows_are_packed_and_come_back(right: list[bool]) -> None:
    assert unpacked(packed(np.array(right, bool)), len(right)).tolist() == right


def test_digits_of_other_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="are not 20 windows"):
        unpacked("ff", 20)
    with pytest.raises(ValueError, match="are not 20 windows"):
        StudyRow.from_json({**row("none", [1] * 20).to_json(), "hits": "ff"})


def test_a_row_of_an_earlier_version_says_nothing() -> None:
    old = {k: v for k, v in row("none", [1, 0]).to_json().items() if k != "hits"}
    assert StudyRow.from_json(old).hits == ""
    assert people([StudyRow.from_json(old), replace(row("full", [1, 1]), hits="")]) == []
    assert told([]) == ""


def test_seeds_vote() -> None:
    seeds = [[1, 1, 0, 0], [1, 0, 0, 1], [1, 0, 1, 0]]
    found = votes([row("full", right, seed=i) for i, right in enumerate(seeds)])
    assert found[1].tolist() == [True, False, False, False]
    half = votes([row("full", right, seed=i) for i, right in enumerate(seeds[:2])])
    assert half[1].tolist() == [True, False, False, False]  # half of the seeds are not most


def test_lost_and_won_windows_are_those_of_mcnemar() -> None:
    before = [1] * 12 + [0] * 12
    after = [0] * 9 + [1] * 3 + [1] * 2 + [0] * 10
    (one,) = people([row("none", before), row("full", after)])
    assert (one.windows, one.lost, one.won) == (24, 9, 2)
    assert one.p == pytest.approx(2 * binom.cdf(2, 11, 0.5))  # both tails: they are alike
    assert not one.harmed  # p is 0.065
    (same,) = people([row("none", before), row("full", before)])
    assert (same.lost, same.won, same.p, same.harmed, same.helped) == (0, 0, 1.0, False, False)


def test_the_more_people_the_more_it_takes() -> None:
    before, after = [1] * 9 + [0], [0] * 9 + [1]

    def asked(count: int) -> list[bool]:
        rows = [row("none", before, s) for s in range(count)]
        rows += [row("full", after if s == 0 else before, s) for s in range(count)]
        return [p.harmed for p in people(rows)]

    assert asked(1) == [True]  # p is 0.021
    assert asked(3) == [False] * 3  # 0.064 after Holm
    assert "set 0 (net)" in told(people([row("none", [1] * 20, 0), row("full", [0] * 20, 0)]))
