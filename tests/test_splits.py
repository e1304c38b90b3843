# SPDX-License-Identifier: Apache-2.0
"""Splits: no window in both parts, none that overlaps the border, and clear refusals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biotrain.study.data.recordings import Recordings, shared_samples
from biotrain.study.data.sources import load
from biotrain.study.data.splits import (
    SPLITS,
    SplitError,
    day1,
    default_split,
    leave_one_subject_out,
    longitudinal,
)

EXPECTED = {
    "mi_graz2b": "chronological",
    "eeg_arithmetic": "chronological-per-class",
    "eog_office": "chronological-per-class",
    "emg_myo": "repetition",
}
N_TIMES, FS = 40, 100.0


def recording(labels: list[list[int]], hop: int, marked: bool, repetitions: int = 0) -> Recordings:
    """Windows of continuous signals, one per session; `labels` per session, `hop` in samples, the
    times written down (`marked`) or to be found from the signal."""
    rng = np.random.default_rng(0)
    x, session, times, repetition = [], [], [], []
    for k, own in enumerate(labels):
        line = rng.integers(-30000, 30000, (2, hop * len(own) + N_TIMES)).astype(np.int16)
        x += [line[:, i * hop : i * hop + N_TIMES] for i in range(len(own))]
        session += [k + 1] * len(own)
        times += [i * hop / FS for i in range(len(own))]
        repetition += [i * repetitions // len(own) for i in range(len(own))]
    y = np.concatenate([np.array(own, int) for own in labels])
    return Recordings(
        x=np.stack(x),
        scale=1.0,
        y=y,
        subject=np.ones(len(y), int),
        session=np.array(session),
        fs=FS,
        channels=("a", "b"),
        classes=("r", "s", "t"),
        unit="uV",
        name="made",
        time_s=np.array(times) if marked else None,
        repetition=np.array(repetition) if repetitions else None,
    )


def check(rec: Recordings, calibration: np.ndarray, test: np.ndarray) -> None:
    """What every split keeps: sorted, disjoint, one subject and session, no shared signal."""
    for part in (calibration, test):
        assert len(part)
        assert (np.diff(part) > 0).all()
    assert not set(calibration) & set(test)
    both = np.concatenate([calibration, test])
    assert len(np.unique(rec.subject[both])) == len(np.unique(rec.session[both])) == 1
    starts = rec.starts(both)
    apart = np.abs(starts[: len(calibration), None] - starts[len(calibration) :])
    assert apart.min() >= rec.duration_s - 1 / rec.fs
    # Independent of the clock: the windows on either side have no samples in common.
    near = np.argwhere(apart < 3 * rec.duration_s)[:200]
    for a, b in near:
        first, second = sorted((calibration[a], test[b]))
        assert shared_samples(rec.x[first], rec.x[second]) == 0


@given(
    labels=st.lists(st.lists(st.integers(0, 2), min_size=12, max_size=40), min_size=1, max_size=2),
    hop=st.sampled_from([10, 20, 40, 50]),
    marked=st.booleans(),
    calibration=st.sampled_from([0.5, 0.8, 0.9]),
    split=st.sampled_from(SPLITS),
)
def test_no_window_on_both_sides(
    labels: list[list[int]], hop: int, marked: bool, calibration: float, split: str
) -> None:
    rec = recording(labels, hop, marked, repetitions=3)
    try:
        parts = [day1(rec, 1, split, calibration)]
        parts += list(longitudinal(rec, 1, split, calibration)) if len(labels) > 1 else []
    except SplitError:
        return
    for k, (first, second) in enumerate(parts):
        check(rec, first, second)
        assert (rec.session[first] == k + 1).all()
        own = np.flatnonzero(rec.session == k + 1)
        lost = len(own) - len(first) - len(second)
        windows_per_length = -(-N_TIMES // hop)
        borders = 1 if split == "chronological" else 2 * len(second)
        assert lost <= (windows_per_length - 1) * borders
        if split == "chronological":
            assert first.max() < second.min()
            assert len(second) == len(own) - int(calibration * len(own) + 1e-9)
        if split != "chronological-per-class":
            assert set(rec.y[first]) == set(rec.y[second]) == set(rec.y[own])
        if split == "repetition":
            assert rec.repetition is not None
            assert set(rec.repetition[second]) == {2}
            assert set(rec.repetition[first]) <= {0, 1}


def test_windows_at_the_border_are_dropped_from_calibration() -> None:
    for marked in (True, False):
        rec = recording([[0, 1] * 10], hop=20, marked=marked)  # half of each window overlaps
        calibration, test = day1(rec, 1)
        assert test.tolist() == [16, 17, 18, 19]
        assert calibration.tolist() == list(range(15))
    rec = recording([[0, 1] * 10], hop=40, marked=False)
    assert day1(rec, 1)[0].tolist() == list(range(16))


def test_windows_are_taken_in_time_not_in_the_order_of_the_file() -> None:
    rec = recording([[0, 1] * 10], hop=40, marked=True)
    turned = rec.take(np.arange(20)[::-1])
    calibration, test = day1(turned, 1)
    assert test.tolist() == [0, 1, 2, 3]
    assert calibration.tolist() == list(range(4, 20))


def test_chronological_refuses_blocks_and_names_the_way_out() -> None:
    blocks = recording([[0] * 10 + [1] * 10], hop=40, marked=False)
    with pytest.raises(
        SplitError,
        match=r"subject 1, session 1: by split chronological the test part has no window of r; "
        r"use split chronological-per-class$",
    ) as caught:
        day1(blocks, 1)
    assert caught.value.exit_code == 2
    calibration, test = day1(blocks, 1, "chronological-per-class")
    assert calibration.tolist() == [*range(8), *range(10, 18)]
    assert test.tolist() == [8, 9, 18, 19]
    marked = recording([[0] * 5 + [1] * 5 + [0] * 5 + [1] * 5], 40, False, repetitions=2)
    with pytest.raises(SplitError, match="use split repetition or chronological-per-class"):
        day1(marked, 1)
    assert day1(marked, 1, "repetition")[1].tolist() == list(range(10, 20))
    assert day1(marked, 1, "repetition", test_repetition=0)[1].tolist() == list(range(10))


def test_default_split_comes_from_the_data() -> None:
    assert default_split(recording([[0, 1] * 10], 40, False)) == "chronological"
    assert default_split(recording([[0] * 9 + [1] * 9], 40, False)) == "chronological-per-class"
    assert default_split(recording([[0, 1] * 10], 40, False, repetitions=2)) == "repetition"
    # Repetitions that do not hold every class are of no use.
    odd = recording([[0] * 10 + [1] * 10], 40, False, repetitions=2)
    assert default_split(odd) == "chronological-per-class"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"split": "random"}, "no split random; there are chronological, "),
        ({"calibration": 1.0}, "between 0 and 1"),
        ({"split": "repetition"}, "no repetitions are marked"),
        ({"subject": 9}, "no subject 9; there are 1"),
    ],
)
def test_refusals(options: dict[str, object], complaint: str) -> None:
    rec = recording([[0, 1] * 10], 40, False)
    with pytest.raises(Exception, match=complaint) as caught:
        day1(rec, **({"subject": 1} | options))  # type: ignore[arg-type]
    assert getattr(caught.value, "exit_code", None) == 2


def test_too_little_is_refused() -> None:
    with pytest.raises(SplitError, match="no test window is left of 1"):
        day1(recording([[0]], 40, False), 1)
    with pytest.raises(SplitError, match="no calibration window is left of 2"):
        day1(recording([[0, 0]], 10, False), 1)
    with pytest.raises(SplitError, match="cannot test on repetition 7"):
        day1(recording([[0, 1] * 6], 40, False, repetitions=2), 1, "repetition", test_repetition=7)
    with pytest.raises(SplitError, match="one session"):
        list(longitudinal(recording([[0, 1] * 6], 40, False), 1))
    with pytest.raises(SplitError, match="one subject only"):
        list(leave_one_subject_out(recording([[0, 1] * 6], 40, False)))


def test_leave_one_subject_out() -> None:
    rec = load("synthetic-eog")
    seen = []
    for train, test in leave_one_subject_out(rec):
        assert len(train) + len(test) == len(rec)
        assert len(np.unique(rec.subject[test])) == 1
        assert rec.subject[test[0]] not in rec.subject[train]
        seen.append(int(rec.subject[test[0]]))
    assert seen == rec.subjects


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_real_recordings(name: str, recordings_dir: Path) -> None:
    path = recordings_dir / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no {name}.npz among the recordings")
    rec = load(path)
    split = default_split(rec)
    assert split == EXPECTED[name]
    for subject in rec.subjects:
        check(rec, *day1(rec, subject, split))
        if len(rec.sessions(subject)) > 1:
            for calibration, test in longitudinal(rec, subject, split):
                check(rec, calibration, test)
    if name != "mi_graz2b":
        worst = next(s for s in rec.subjects if set(rec.y[rec.subject == s]) == set(rec.y))
        with pytest.raises(SplitError, match="chronological-per-class"):
            day1(rec, worst, "chronological")


def test_runs_are_not_shared() -> None:
    """Two runs of every class: the last one tests, and that is the default."""
    rec = load("synthetic-eeg")
    own = rec.take(np.flatnonzero(rec.subject <= 2))
    run = np.where(np.asarray(own.order) < 60, 1, 2)
    held = replace(own, run=run, time_s=np.zeros(len(own)) + np.asarray(own.order) % 60)
    calibration, test = day1(held, 1, "run")
    assert set(run[calibration]) == {1}
    assert set(run[test]) == {2}
    assert default_split(held) == "run"
    one = replace(held, run=np.ones(len(own), int))
    assert default_split(one) != "run"
    with pytest.raises(SplitError, match="not two runs"):
        day1(one, 1, "run")
