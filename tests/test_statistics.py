# SPDX-License-Identifier: Apache-2.0
"""What a table of results says: subjects are the unit, and the tests are scipy's."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biotrain.errors import BioTrainError
from biotrain.study.results.statistics import (
    MARGIN,
    Comparison,
    across,
    across_sets,
    by_subject,
    compare,
    conditions,
    holm,
    lower_end,
    resampled,
    spread,
    summary,
    wilcoxon,
    without_each,
)
from biotrain.study.rows import StudyRow


def row(strategy: str, subject: int, value: float, **more: Any) -> StudyRow:
    told = {
        "dataset": "a",
        "model": "net",
        "scenario": "day1",
        "norm": "group",
        "strategy": strategy,
        "subject": subject,
        "session": 1,
        "seed": 0,
        "accuracy": value,
        "balanced_accuracy": value,
        "chance": 0.5,
        "ram_bytes": None if strategy == "full-bn8" else 1000,
        "ops": 10,
        "steps": 3,
        "windows_per_class": None,
        **more,
    }
    told.setdefault("key", f"{strategy}-{subject}-{told['session']}-{told['seed']}")
    return StudyRow.from_json(told)


def study(gains: dict[str, list[float]], **more: Any) -> list[StudyRow]:
    """Subjects with 0.5, 0.51, ... under `none`, and these gains over it."""
    return [
        row(strategy, k + 1, 0.5 + 0.01 * k + gain, **more)
        for strategy, own in gains.items()
        for k, gain in enumerate(own)
    ]


def find(found: list[Comparison], strategy: str, baseline: str) -> Comparison:
    (one,) = [c for c in found if (c.strategy, c.baseline) == (strategy, baseline)]
    return one


EIGHT = {
    "none": [0.0] * 8,
    "last": [0.1, 0.12, 0.08, 0.11, 0.09, 0.1, 0.0, -0.02],
    "full": [0.2, 0.22, 0.18, 0.21, 0.19, 0.2, 0.15, 0.16],
}


def test_seeds_and_sessions_are_averaged_before_subjects() -> None:
    rows = [row("full", 1, v, seed=k) for k, v in enumerate((0.2, 0.4))]
    rows += [row("full", 1, 0.9, session=2)]  # one seed only: the session counts as much
    rows += [row("full", 2, 0.5)]
    assert by_subject(rows, "accuracy") == {1: pytest.approx(0.6), 2: 0.5}
    many = [row("full", 1, 0.6, seed=k) for k in range(50)] + [row("full", 2, 0.5)]
    few = [row("full", 1, 0.6), row("full", 2, 0.5)]
    of_many, of_few = (spread(by_subject(r, "accuracy").values()) for r in (many, few))
    assert astuple(of_many) == pytest.approx(astuple(of_few))


def test_spread_is_scipys_t_interval() -> None:
    scipy = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).random(12)
    one = spread(values)
    low, high = scipy.t.interval(0.95, 11, values.mean(), scipy.sem(values))
    assert (one.low, one.high) == pytest.approx((low, high))
    assert one.sd == pytest.approx(np.std(values, ddof=1))
    single = spread([0.7])
    assert (single.mean, single.sd, single.low, single.high, single.n) == (0.7, None, 0.7, 0.7, 1)
    with pytest.raises(BioTrainError, match="no subject"):
        spread([])


@pytest.mark.parametrize("draw", ["normal", "uniform", "skewed"])
def test_intervals_of_eight_people_cover_the_truth_as_often_as_they_say(draw: str) -> None:
    """A percentile bootstrap of eight covers 90 % of the time."""
    rng = np.random.default_rng(0)
    draws = {
        "normal": (rng.normal(0.7, 0.1, (2000, 8)), 0.7),
        "uniform": (rng.uniform(0.4, 1.0, (2000, 8)), 0.7),
        "skewed": (1 - rng.beta(2, 5, (2000, 8)), 1 - 2 / 7),
    }
    values, truth = draws[draw]
    found = [spread(x) for x in values]
    held = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.935 <= held <= 0.965
    above = np.mean([lower_end(x) <= truth for x in values])
    assert 0.92 <= above <= 0.975
    drawn = [np.quantile(resampled(x, 0, 1000), [0.025, 0.975]) for x in values]
    assert np.mean([low <= truth <= high for low, high in drawn]) < 0.92


def test_an_interval_of_shares_stays_among_shares() -> None:
    rows = [row("full", k, v) for k, v in enumerate((0.99, 1.0, 0.6, 1.0, 1.0, 0.98, 1.0, 1.0))]
    (entry,) = summary(rows)
    assert entry.value.high == 1.0


def test_wilcoxon_is_scipys_and_leaves_equal_subjects_out() -> None:
    scipy = pytest.importorskip("scipy.stats")
    d = [0.1, -0.05, 0.2, 0.13, 0.07, 0.02]
    assert wilcoxon([*d, 0.0, 0.0]) == pytest.approx(scipy.wilcoxon(d).pvalue)
    assert wilcoxon([0.0, 0.0, 0.1]) is None
    assert wilcoxon([]) is None


def test_holm_as_in_the_textbook() -> None:
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, None, 0.06, 0.02], nan_ok=True
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(values: list[float]) -> None:
    corrected = holm(list(values))
    for p, q in zip(values, corrected, strict=True):
        assert q is not None
        assert p <= q <= min(1.0, p * len(values)) + 1e-12
    order = np.argsort(values, kind="stable")
    assert (np.diff([corrected[k] for k in order]) >= 0).all()  # type: ignore[arg-type]


def test_comparisons_are_paired_and_counted() -> None:
    found = compare(study(EIGHT))
    assert {(c.strategy, c.baseline) for c in found} == {
        ("last", "none"),
        ("full", "none"),
        ("full", "last"),
    }
    last = find(found, "last", "none")
    assert (last.wins, last.ties, last.losses) == (6, 1, 1)
    assert last.gain.mean == pytest.approx(np.mean(EIGHT["last"]))
    full = find(found, "full", "none")
    assert full.p == pytest.approx(2 / 2**8)  # every one of eight subjects gained
    assert full.p_holm == pytest.approx(3 * 2 / 2**8)
    assert full.not_inferior
    # Pairing takes the differences between subjects out of the interval.
    assert full.gain.high - full.gain.low < 0.045


def test_a_subject_that_one_side_lacks_is_left_out() -> None:
    rows = [r for r in study(EIGHT) if (r.strategy, r.subject) != ("full", 3)]
    assert find(compare(rows), "full", "none").gain.n == 7


@pytest.mark.parametrize(
    ("gain", "fine"), [(0.0, True), (-0.5 * MARGIN, True), (-2 * MARGIN, False)]
)
def test_non_inferiority_to_the_conventional_way(gain: float, fine: bool) -> None:
    jitter = [0.001, -0.001, 0.0, 0.002, -0.002, 0.001, 0.0, -0.001]
    rows = study({"full": [0.1 + gain + j for j in jitter], "full-bn8": [0.1] * 8})
    assert find(compare(rows), "full", "full-bn8").not_inferior is fine
    noisy = study({"full": [0.1 + gain + 100 * j for j in jitter], "full-bn8": [0.1] * 8})
    assert not find(compare(noisy), "full", "full-bn8").not_inferior


def test_conditions_keep_apart() -> None:
    rows = study(EIGHT) + study(EIGHT, scenario="sizes", windows_per_class=5)
    rows += study(EIGHT, dataset="b")
    assert conditions(rows) == [
        ("a", "net", "day1", None),
        ("a", "net", "sizes", 5),
        ("b", "net", "day1", None),
    ]
    assert len(compare(rows)) == 9
    entries = summary(rows)
    assert len(entries) == 9
    first = entries[0]
    assert (first.strategy, first.subjects, first.seeds) == ("none", 8, 1)
    assert first.value.n == 8
    assert first.ram_bytes == 1000
    assert first.others is None
    assert first.earlier is None


def test_across_sets_weighs_sets_equally_and_skips_size_curves() -> None:
    rows = study({"none": [0.0] * 8, "full": [0.1] * 8})
    rows += study({"none": [0.0] * 2, "full": [0.3] * 2}, dataset="b")
    rows += study({"none": [0.0] * 2, "full": [0.4] * 2}, scenario="sizes", windows_per_class=5)
    found = across_sets(rows, "full", "none")
    assert found is not None
    assert found.spread.mean == pytest.approx(0.2)
    assert (found.spread.n, found.not_inferior) == (2, True)
    assert found.lower == pytest.approx(0.2)
    assert across_sets(rows, "full", "last") is None
    assert found.without == {"a": pytest.approx(0.3), "b": pytest.approx(0.1)}
    assert found.among == pytest.approx((0.1, 0.3))
    # A subject's sessions and models are no more subjects.
    twice = rows + study({"none": [0.0] * 8, "full": [0.1] * 8}, scenario="longitudinal")
    assert across_sets(twice, "full", "none") == found


def test_rows_are_the_same_after_json() -> None:
    whole = row(
        "full", 1, 0.7, key="ab", windows=[30, 9], kept=2, before=0.4, curve=[0.4, 0.7],
        confusion=[[3, 0], [1, 2]], others=0.5, notes=["a note"], session=2,
        earlier=[{"session": 1, "accuracy": 0.6}],
    )  # fmt: skip
    told = whole.to_json()
    assert list(told)[:3] == ["key", "dataset", "scenario"]
    assert told["earlier"] == [{"session": 1, "accuracy": 0.6}]
    assert told["confusion"] == [[3, 0], [1, 2]]
    assert StudyRow.from_json(json.loads(json.dumps(told))) == whole
    # A line of an earlier version lacks fields, one of a later version has more.
    earlier = {key: value for key, value in told.items() if key not in ("replayed", "earlier")}
    assert StudyRow.from_json({**earlier, "later": 1}) == replace(whole, earlier=())
    with pytest.raises(ValueError, match="dataset is missing"):
        StudyRow.from_json({"key": "ab"})


def test_sets_are_fixed_or_drawn() -> None:
    """Welch and Satterthwaite by scipy's test of two samples: a mean of two sets is half a
    difference. Where sets are drawn too, their spread widens the interval."""
    scipy = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    one, two = (rng.normal(*of).tolist() for of in ((0.1, 0.05, 8), (0.2, 0.06, 12)))
    rows = study({"none": [0.0] * 8, "full": one})
    rows += study({"none": [0.0] * 12, "full": two}, dataset="b")
    found = across_sets(rows, "full", "none")
    assert found is not None
    welch = scipy.ttest_ind(one, [-v for v in two], equal_var=False).confidence_interval(0.95)
    assert found.spread.low == pytest.approx(welch.low / 2)
    assert found.spread.high == pytest.approx(welch.high / 2)
    assert found.among[0] < found.spread.low < found.spread.high < found.among[1]
    assert across_sets(rows, "full", "none", seed=1) != found


def test_what_one_set_carries_shows_without_it() -> None:
    rows = study({"none": [0.0] * 3, "full": [0.0] * 3, "full-bn8": [0.0] * 3})
    rows += study({"none": [0.0] * 3, "full": [0.3] * 3, "full-bn8": [0.1] * 3}, dataset="b")
    found = across(rows, against=[])
    assert found is not None
    table = without_each(found)
    assert table is not None
    assert (table.baseline, table.sets) == ("full-bn8", ["a", "b"])
    assert dict(table.lines)["full"] == pytest.approx([0.2, 0.0])


def test_one_person_shows_nothing() -> None:
    rows = study({"none": [0.0], "full": [0.4]})
    assert not find(compare(rows), "full", "none").not_inferior
