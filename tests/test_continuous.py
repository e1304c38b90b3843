# SPDX-License-Identifier: Apache-2.0
"""Continuous recordings, what the front end's C makes of them, and windows put end to end."""

import types
from pathlib import Path

import numpy as np
import pytest
from _recordings_mne import fake_mne
from scipy import signal

from biotrain.cli import main
from biotrain.frontend import read_front
from biotrain.run.front_stream import windows_of
from biotrain.study import load
from biotrain.study.cells import expand
from biotrain.study.data.continuous import Continuous, Part, end_to_end, through, window_spans
from biotrain.study.data.recordings import RecordingError, Recordings
from biotrain.study.data.sources import load_continuous, recordings
from biotrain.study.data.synthetic_raw import STEP_UV, continuous
from biotrain.study.spec import make_spec

SPEC = {"bandpass": [20, 90], "notch": 50, "window": 200, "hop": 50, "unit": 0.25}


@pytest.fixture(scope="module")
def emg() -> Continuous:
    return continuous("emg", subjects=2, sessions=1, trials=8)


def test_windows_are_scipys_causal_filter_of_the_raw_signal(emg: Continuous) -> None:
    rec = through(emg, read_front(SPEC))
    part = emg.parts[1]
    sos = signal.butter(4, [20, 90], "bandpass", fs=200.0, output="sos")
    b, a = signal.iirnotch(50.0, 30.0, fs=200.0)
    x = (part.x - part.x[:, :1].astype(np.float64)) * STEP_UV
    want = signal.lfilter(b, a, signal.sosfilt(sos, x))
    own = np.flatnonzero(rec.subject == 2)
    assert rec.time_s is not None
    assert rec.repetition is not None
    labels = part.labels()
    for k in own:
        at = round(rec.time_s[k] * 200)
        found = labels[at : at + 200]
        assert (found == rec.y[k]).all()
        assert rec.repetition[k] == at // (7 * 400)
        assert np.abs(rec.signal([k])[0] - want[:, at : at + 200]).max() <= 0.126  # half a step
    # Every window of the grid whose samples have one label, and no other.
    grid = range(0, part.x.shape[1] - 199, 50)
    assert len(own) == sum(len(set(labels[at : at + 200].tolist())) == 1 for at in grid)


def test_raw_signals_need_a_front_end(emg: Continuous) -> None:
    """Offsets and the mains are far larger than the muscles."""
    raw = emg.parts[0].x * STEP_UV
    assert np.abs(raw.mean(1)).max() > 1000
    assert emg.parts[0].label[0] == 0  # rest
    clean = windows_of(emg.front(read_front({**SPEC, "window": 400})), emg.parts[0].x)[0] * 0.25
    assert raw[:, 200:400].std(1).mean() > 3 * clean[:, 200:].std(1).mean()


def test_decimated_windows_keep_to_their_spans() -> None:
    x = np.arange(2000, dtype=np.int32)[None].repeat(2, 0)
    spans = (np.array([100, 1000]), np.array([496, 2000]), np.array([1, 0]))
    part = Part(1, 1, x, *spans)
    whole = Continuous((part,), 1.0, 400.0, ("a", "b"), ("x", "y"), "uV", "ramp")
    front = whole.front(read_front({"decimate": 4, "window": 50, "hop": 25}))
    count = len(windows_of(front, x))
    assert count == (500 - 50) // 25 + 1
    want = []
    for k in range(count):
        samples = 4 * (25 * k + np.arange(50))
        inside = [
            i for i in (0, 1) if (samples >= spans[0][i]).all() and (samples < spans[1][i]).all()
        ]
        want.append(inside[0] if inside else -1)
    np.testing.assert_array_equal(window_spans(front, part, count), want)
    rec = through(whole, read_front({"decimate": 4, "window": 50, "hop": 25}))
    assert rec.fs == 100.0
    assert rec.time_s is not None
    np.testing.assert_allclose(rec.time_s, 0.25 * np.flatnonzero(np.array(want) >= 0))


def test_a_file_is_read_as_it_was_written(emg: Continuous, tmp_path: Path) -> None:
    found = load_continuous(emg.save(tmp_path / "raw.npz"))
    assert found is not None
    assert (found.name, found.fs, found.scale, found.synthetic) == (
        "synthetic-emg",
        200.0,
        STEP_UV,
        True,
    )
    for one, other in zip(found.parts, emg.parts, strict=True):
        assert (one.subject, one.session) == (other.subject, other.session)
        for key in ("x", "begin", "end", "label", "repetition"):
            np.testing.assert_array_equal(getattr(one, key), getattr(other, key))
    with pytest.raises(RecordingError, match="continuous"):
        load(tmp_path / "raw.npz")
    with np.load(tmp_path / "raw.npz") as held:
        some = {key: held[key] for key in held if key != "span_end"}
    np.savez(tmp_path / "less.npz", **some)
    with pytest.raises(RecordingError, match="a continuous recording is incomplete, no span_end"):
        load_continuous(tmp_path / "less.npz")


def test_windows_that_were_cut_before_have_no_front_end(tmp_path: Path) -> None:
    path = load("synthetic-emg").take(range(8)).save(tmp_path / "cut.npz")
    with pytest.raises(RecordingError, match="windows that were cut before, which no front end"):
        recordings(path, None, read_front(SPEC))
    with pytest.raises(RecordingError, match="not both"):
        recordings(path, 100.0, read_front(SPEC))


def test_values_beyond_16_bits_are_counted(
    emg: Continuous, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biotrain.study.data.sources.load_continuous", lambda source: emg)
    _, note = recordings("emg", None, read_front({**SPEC, "unit": 0.001}))
    assert "values beyond 16 bits, which a larger unit holds" in note
    with pytest.raises(RecordingError, match="recordings keep integers"):
        recordings("emg", None, read_front({"standardise": "window", "window": 200}))


@pytest.mark.parametrize("kind", ["eog", "eeg"])
def test_the_other_kinds_are_raw_too(kind: str) -> None:
    made = continuous(kind, subjects=1, sessions=1, trials=2)
    (part,) = made.parts
    assert (part.labels() == -1).any()  # between the trials
    again = continuous(kind, subjects=1, sessions=1, trials=2)
    np.testing.assert_array_equal(part.x, again.parts[0].x)
    rec = through(made, read_front({"highpass": 0.5, "window_s": 1.0, "hop_s": 0.5, "unit": 0.5}))
    assert set(rec.y.tolist()) == set(range(rec.n_classes))


def overlapping(hop: int) -> tuple[Recordings, np.ndarray]:
    """Windows of 20 samples of two gestures, cut `hop` apart, and the signal that was cut."""
    rng = np.random.default_rng(0)
    signals = [rng.integers(-90, 90, (2, 100)).astype(np.int8) for _ in range(2)]
    x, y = [], []
    for label, whole in enumerate(signals):
        for at in range(0, 81, hop):
            x.append(whole[:, at : at + 20])
            y.append(label)
    rec = Recordings(
        x=np.stack(x), scale=1.0, y=np.array(y), subject=np.ones(len(y), int),
        session=np.ones(len(y), int), fs=100.0, channels=("a", "b"), classes=("x", "y"),
        unit="1", name="cut",
    )  # fmt: skip
    return rec, np.concatenate(signals, axis=1)


@pytest.mark.parametrize("hop", [5, 10, 20])
def test_windows_end_to_end_are_the_signal_that_was_cut(hop: int) -> None:
    rec, want = overlapping(hop)
    (part,) = end_to_end(rec, 1).parts
    np.testing.assert_array_equal(part.x, want)
    np.testing.assert_array_equal(part.labels(), np.repeat([0, 1], 100))


def test_mne_files_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_mne(monkeypatch)
    for name in ("sub-02_ses-1_eeg.edf", "sub-10_ses-2_eeg.edf"):
        (tmp_path / name).write_bytes(b"0")
    found = load_continuous(tmp_path)
    assert found is not None
    assert [(p.subject, p.session) for p in found.parts] == [(2, 1), (10, 2)]
    part = found.parts[0]
    np.testing.assert_allclose(part.x[0] * found.scale, np.arange(1000), atol=0.05)
    spans = zip(part.begin, part.end, part.label, strict=True)
    assert list(spans) == [(100, 500, 0), (600, 850, 1), (950, 1000, 0)]
    (tmp_path / "sub-01_epo.fif").write_bytes(b"0")
    assert load_continuous(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": np.zeros((2, 10))}, "must hold the converter's integers"),
        ({"x": np.zeros((3, 10), np.int16)}, "a signal of 2 channels cannot be"),
        ({"end": np.array([11])}, "span 0 lies outside of it"),
        ({"label": np.array([2])}, "span 0 has no known label"),
    ],
)
def test_bad_parts_get_one_line(change: dict, words: str) -> None:
    good = {
        "x": np.zeros((2, 10), np.int16), "begin": np.array([0]), "end": np.array([10]),
        "label": np.array([0]),
    }  # fmt: skip
    part = types.SimpleNamespace(subject=1, session=1, repetition=None, **{**good, **change})
    with pytest.raises(RecordingError, match=words):
        Continuous((part,), 1.0, 100.0, ("a", "b"), ("x", "y"), "uV", "bad")  # type: ignore[arg-type]


def test_a_study_takes_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = continuous("emg", subjects=2, sessions=1, trials=8).save(tmp_path / "raw.npz")
    front = tmp_path / "front.toml"
    front.write_text("bandpass = [20, 90]\nwindow = 200\nhop = 50\nunit = 0.25\n")
    data = {"source": str(raw), "front": str(front), "models": ["epidenet"]}
    made = expand(make_spec({"data": [data], "strategies": ["none"]}))
    assert made.cells[0].fold.source.load().n_times == 200
    assert "through the front end in C" in made.notes[0]
    assert made.sets["synthetic-emg"].front == made.notes[0]
    command = ["adapt", "--data", str(raw), "--front", str(front), "--strategies", "none"]
    assert main([*command, "--subject", "1", "--pretrain-epochs", "0"]) == 0
    assert capsys.readouterr().out.startswith("synthetic-emg: continuous, through the front end")
