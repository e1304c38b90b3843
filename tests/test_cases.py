# SPDX-License-Identifier: Apache-2.0
"""Inputs that were once read wrong, in the folder that the variable BIOTRAIN_CASES names; each is
covered by its kind in tests/test_readers.py and tests/test_reading.py too, on files made there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from biotrain.frontend import read_front
from biotrain.study import load
from biotrain.study.data.recordings import REJECTED, Recordings
from biotrain.study.data.sources import recordings

pytest.importorskip("mne", reason="the extra `data` is not installed")


@pytest.fixture
def cases() -> Path:
    named = os.environ.get("BIOTRAIN_CASES", "")
    if not named or not Path(named).is_dir():
        pytest.skip("no inputs: BIOTRAIN_CASES does not name their folder")
    return Path(named)


def spread(rec: Recordings, label: str) -> np.ndarray:
    """Standard deviation of the first channel in every window of a class."""
    return rec.signal(np.flatnonzero(rec.y == rec.classes.index(label)))[:, 0].std(axis=1)


def has_tones(rec: Recordings) -> None:
    np.testing.assert_allclose(spread(rec, "tone"), 70.7, atol=0.5)
    np.testing.assert_allclose(spread(rec, "rest"), 1.0, atol=0.2)


@pytest.mark.parametrize("date", ["date", "nodate"])
def test_a_cropped_file_with_and_without_a_date(cases: Path, date: str) -> None:
    folder = cases / "a1_crop_no_date"
    has_tones(load(folder / date))
    rec, note = recordings(folder / date, None, read_front(folder / "front.toml"))
    assert "through the front end" in note
    has_tones(rec)


def test_rejected_segments(cases: Path) -> None:
    rec = load(cases / "a2_bad_segments")
    assert [int((rec.subject == s).sum()) for s in rec.subjects] == [10, 10]
    assert [(o.subject, o.reason, o.count) for o in rec.left_out] == [
        (1, REJECTED, 4),
        (2, REJECTED, 4),
    ]
    assert np.abs(rec.signal()).max() < 200


def test_codes_of_a_stim_channel(cases: Path) -> None:
    rec = load(cases / "a3_stim_channel" / "own.toml")
    assert rec.classes == ("left", "right")
    assert rec.channels == ("C3", "Cz", "C4")
    assert "STI 014" in " ".join(rec.notes)
    assert set(load(f"{cases / 'a3_stim_channel'}?window=2").classes) == {"1", "2"}


def test_cues_without_a_length_through_a_front_end(cases: Path) -> None:
    folder = cases / "a7_points_front"
    rec, _ = recordings(folder, None, read_front(folder / "front.toml"))
    assert (len(rec), rec.n_times, rec.classes) == (40, 128, ("move", "rest"))
    assert rec.time_s is not None
    np.testing.assert_allclose(rec.time_s[:3], [2.0, 4.0, 6.0])


def test_a_short_event_gives_no_window_of_the_next(cases: Path) -> None:
    rec = load(cases / "a9_short_event" / "own.toml")
    assert rec.classes == ("rest",)
    assert "no window of 2 s for blink" in " ".join(rec.notes)
    assert sum(o.count for o in rec.left_out if "shorter than the window" in o.reason) == 18


def test_a_discontinuous_edf(cases: Path) -> None:
    rec = load(cases / "a18_edf_plus_d" / "own.toml")
    assert len(rec) == 16
    has_tones(rec)
    assert "4 s of signal are missing" in " ".join(rec.notes)


def test_units_in_another_spelling(cases: Path) -> None:
    rec = load(cases / "a22b_mixed_units")
    for subject in rec.subjects:
        own = rec.signal(np.flatnonzero(rec.subject == subject))
        assert own.std() == pytest.approx(20, rel=0.1)


def test_annotations_in_a_file_of_their_own(cases: Path) -> None:
    rec = load(cases / "a27_separate_annotations" / "own.toml")
    assert rec.classes == ("Sleep stage 1", "Sleep stage 2", "Sleep stage W")
    assert [rec.name_of("subject", s) for s in rec.subjects] == ["SC4001E0", "SC4011E0"]
    assert len(load(cases / "a27_separate_annotations", window_s=30)) == len(rec)
