# SPDX-License-Identifier: Apache-2.0
"""Synthetic recordings: repeatable, called synthetic, learnable, and different in every subject."""

import hashlib

import numpy as np
import pytest

from biotrain.study.data.recordings import RecordingError, Recordings
from biotrain.study.data.sources import load
from biotrain.study.data.splits import day1, default_split
from biotrain.study.data.synthetic import DESIGNS, generate

KINDS = sorted(DESIGNS)
SMALL = {"emg": 8, "eog": 5, "eeg": 6}  # trials per class


def digest(rec: Recordings) -> str:
    return hashlib.sha256(rec.x.tobytes() + rec.y.tobytes()).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_whoever_else_is_recorded(kind: str) -> None:
    many = generate(kind, subjects=3, sessions=2, trials=SMALL[kind])
    assert digest(many) == digest(generate(kind, subjects=3, sessions=2, trials=SMALL[kind]))
    few = generate(kind, subjects=2, sessions=1, trials=SMALL[kind])
    same = np.flatnonzero((many.subject <= 2) & (many.session == 1))
    np.testing.assert_array_equal(few.x, many.x[same])
    np.testing.assert_array_equal(few.y, many.y[same])
    other = generate(kind, subjects=2, sessions=1, trials=SMALL[kind], seed=1)
    assert digest(other) != digest(few)


@pytest.mark.parametrize("kind", KINDS)
def test_layout(kind: str) -> None:
    rec = generate(kind, subjects=2, sessions=2, trials=SMALL[kind])
    design = DESIGNS[kind]
    assert rec.synthetic
    assert "synthetic" in rec.name
    assert "synthetic" in rec.unit
    assert "synthetic" in repr(rec)
    assert rec.x.dtype == np.int16
    assert rec.x.shape[1:] == (len(design.channels), design.n_times)
    assert np.abs(rec.x.astype(int)).max() < 32767  # nothing clipped
    for subject in rec.subjects:
        for session in rec.sessions(subject):
            own = (rec.subject == subject) & (rec.session == session)
            assert np.bincount(rec.y[own]).tolist() == [SMALL[kind]] * rec.n_classes
    assert default_split(rec) == ("repetition" if kind == "emg" else "chronological")
    calibration, test = day1(rec, 1, default_split(rec))
    per_session = SMALL[kind] * rec.n_classes
    assert len(calibration) + len(test) == per_session  # no two windows overlap


def test_the_named_sets_have_six_people() -> None:
    for kind in KINDS:
        rec = load(f"synthetic-{kind}")
        assert len(rec.subjects) == 6
        assert rec.name == f"synthetic-{kind}"


def features(rec: Recordings, idx: np.ndarray) -> np.ndarray:
    """Spatial covariance, its logarithm on the diagonal, and the shift within the window."""
    x = rec.signal(idx).astype(np.float64)
    fast = np.diff(x, axis=-1)
    cov = np.einsum("nct,ndt->ncd", fast, fast) / x.shape[-1]
    power = np.log(np.einsum("ncc->nc", cov))
    part = x.shape[-1] // 5
    shift = x[..., -part:].mean(-1) - x[..., :part].mean(-1)
    return np.concatenate([power, shift, np.ptp(x, axis=-1)], 1)


def nearest_mean(rec: Recordings, train: np.ndarray, test: np.ndarray) -> float:
    """Accuracy of the simplest classifier there is, on the features above."""
    a, b = features(rec, train), features(rec, test)
    spread = np.linalg.inv(np.cov(a.T) + 1e-6 * np.eye(a.shape[1]))
    means = np.stack([a[rec.y[train] == c].mean(0) for c in range(rec.n_classes)])
    apart = b[:, None] - means
    labels = np.einsum("nkf,fg,nkg->nk", apart, spread, apart).argmin(1)
    return float(np.mean(labels == rec.y[test]))


@pytest.mark.parametrize("kind", ["emg", "eog"])
def test_own_data_beats_the_data_of_others_which_beats_chance(kind: str) -> None:
    rec = load(f"synthetic-{kind}")
    split = default_split(rec)
    own, others = [], []
    for subject in rec.subjects:
        calibration, test = day1(rec, subject, split)
        own.append(nearest_mean(rec, calibration, test))
        others.append(nearest_mean(rec, np.flatnonzero(rec.subject != subject), test))
    chance = 1 / rec.n_classes
    assert np.mean(others) > 1.5 * chance
    assert np.mean(own) > np.mean(others) + 0.1


def test_hands_differ_in_their_own_band_only_within_a_subject() -> None:
    """EEG: the difference between the classes lies at another frequency in everybody."""
    rec = generate("eeg", subjects=6, sessions=1)
    peaks = []
    for subject in rec.subjects:
        own = np.flatnonzero(rec.subject == subject)
        power = np.abs(np.fft.rfft(rec.signal(own)[..., 125:])) ** 2
        means = [np.log(power[rec.y[own] == label].mean(0)) for label in (0, 1)]
        freqs = np.fft.rfftfreq(375, 1 / rec.fs)
        usable = (freqs > 6) & (freqs < 30)
        gap = np.abs(means[0] - means[1]).max(0)
        smooth = np.convolve(gap, np.ones(5) / 5, "same")
        peaks.append(float(freqs[usable][smooth[usable].argmax()]))
    assert max(peaks) - min(peaks) > 4


def test_a_session_drifts_and_hums() -> None:
    rec = generate("eeg", subjects=1, sessions=1, trials=10)
    power = (np.abs(np.fft.rfft(rec.signal())) ** 2).mean((0, 1))
    freqs = np.fft.rfftfreq(rec.n_times, 1 / rec.fs)
    line = power[np.abs(freqs - 50) < 0.3].max()
    assert line > 10 * np.median(power[(freqs > 45) & (freqs < 49)])
    assert rec.signal().mean(-1).std() > 1.0  # microvolts, slower than a window


@pytest.mark.parametrize(
    ("kind", "options", "complaint"),
    [
        ("ecg", {}, "synthetic recordings are of emg, eog, eeg, not of ecg"),
        ("emg", {"trials": 6}, "multiple of that, not 6"),
        ("emg", {"trials": 2}, "4 trials per class"),
        ("eog", {"subjects": 0}, "at least 1 subject"),
    ],
)
def test_what_cannot_be_generated(kind: str, options: dict[str, int], complaint: str) -> None:
    with pytest.raises(RecordingError, match=complaint):
        generate(kind, **options)  # type: ignore[arg-type]
