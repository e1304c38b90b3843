# SPDX-License-Identifier: Apache-2.0
"""Recordings: what loads, what is refused, and what decimation does."""

import contextlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _recordings_mne import fake_mne

from biotrain.errors import BioTrainError
from biotrain.study.data import join, sources
from biotrain.study.data.recordings import RecordingError, Recordings, decimate, from_signal
from biotrain.study.data.sources import load

REAL = {
    "mi_graz2b": (5400, 3, 1000, 250, 9, 2),
    "eeg_arithmetic": (1080, 8, 512, 128, 36, 2),
    "eog_office": (3514, 2, 1280, 128, 8, 6),
    "emg_myo": (12564, 8, 200, 200, 18, 7),
}


def fields(trials: int = 6, channels: int = 2, n_times: int = 20) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.integers(-3000, 3000, (trials, channels, n_times)).astype(np.int16),
        "scale": np.float32(0.5),
        "y": np.arange(trials, dtype=np.uint8) % 2,
        "subject": np.repeat([1, 2], trials // 2).astype(np.uint8),
        "session": np.ones(trials, np.uint8),
        "fs": np.float32(100),
        "channels": np.array([f"c{k}" for k in range(channels)]),
        "classes": np.array(["a", "b"]),
        "unit": np.array("uV"),
    }


def written(folder: Path, **changes: Any) -> Path:
    arrays = fields() | changes
    path = folder / "some.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_loads_the_layout_and_scales_on_the_way_in(tmp_path: Path) -> None:
    rec = load(written(tmp_path))
    assert (rec.name, rec.n_chans, rec.n_times, rec.n_classes) == ("some", 2, 20, 2)
    assert rec.x.dtype == np.int16
    assert rec.y.dtype == rec.subject.dtype == np.int64
    assert rec.signal().dtype == np.float32
    np.testing.assert_array_equal(rec.signal([1, 4]), rec.x[[1, 4]] * np.float32(0.5))
    assert rec.subjects == [1, 2]
    assert rec.sessions(2) == [1]
    assert not rec.synthetic
    with pytest.raises(ValueError, match="read-only"):
        rec.x[0, 0, 0] = 1


def test_what_is_saved_loads_again(tmp_path: Path) -> None:
    rec = load("synthetic-eog").take(np.arange(30))
    again = load(rec.save(tmp_path / "again.npz"))
    assert again.synthetic
    assert (again.name, again.unit, again.classes) == (rec.name, rec.unit, rec.classes)
    for key in ("x", "y", "subject", "session", "order", "time_s"):
        np.testing.assert_array_equal(getattr(again, key), getattr(rec, key))
    assert again.repetition is None
    with pytest.raises(BioTrainError, match="cannot write"):
        rec.save(tmp_path / "no" / "such" / "folder.npz")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"y": None}, r"not in the layout of BioTrain, no y; needed are x, scale"),
        (
            {"x": np.zeros((6, 20), np.int16)},
            r"x must be \[trials, channels, time\], not \[6, 20\]",
        ),
        ({"x": np.zeros((6, 2, 20))}, "x must hold the converter's integers"),
        ({"x": np.zeros((0, 2, 20), np.int16)}, r"not \[0, 2, 20\]"),
        ({"y": np.zeros(5, int)}, r"y must be \[6\], one per trial, not \[5\]"),
        ({"y": np.array([0, 1, 0, 2, 0, 1])}, r"trial 3 has label 2, but there are 2 classes"),
        ({"y": np.array([0, -1, 0, 0, 0, 1])}, "trial 1 has label -1"),
        ({"y": np.linspace(0, 1, 6)}, "y must be integers, not float64"),
        ({"scale": np.float32(0)}, "scale must be one positive number"),
        ({"scale": np.ones(2)}, "scale must be one positive number"),
        ({"fs": np.float32(np.nan)}, "fs must be one positive number"),
        ({"channels": np.array(["c0"])}, "x has 2 channels, but 1 are named"),
        ({"time_s": np.full(6, np.inf)}, "time_s must be finite seconds"),
        ({"repetition": np.zeros((6, 2), int)}, r"repetition must be \[6\]"),
        (
            {"classes": np.array([{"a": 1}, None])},
            "classes: it holds Python objects",
        ),
    ],
)
def test_a_wrong_file_gets_one_clear_line(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(RecordingError, match=complaint) as caught:
        load(written(tmp_path, **changes))
    assert isinstance(caught.value, BioTrainError)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIOTRAIN_DATA", raising=False)
    with pytest.raises(RecordingError, match="there is no such file"):
        load(tmp_path / "none.npz")
    with pytest.raises(RecordingError, match="no built-in recordings of that name"):
        load("emg_nobody")
    whole = written(tmp_path).read_bytes()
    for name, content in (("empty", b""), ("text", b"a,b\n"), ("cut", whole[: len(whole) // 2])):
        broken = tmp_path / f"{name}.npz"
        broken.write_bytes(content)
        with pytest.raises(RecordingError, match="cannot be read"):
            load(broken)
    for at in (60, len(whole) // 3, len(whole) - 30):  # a byte that fell over
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        (tmp_path / "bad.npz").write_bytes(damaged)
        with contextlib.suppress(RecordingError):  # any other error fails the test
            load(tmp_path / "bad.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(RecordingError, match="a single array"):
        load(tmp_path / "array.npz")
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    with pytest.raises(RecordingError, match="unknown kind of file"):
        load(tmp_path / "x.wav")
    monkeypatch.setenv("BIOTRAIN_DATA", str(tmp_path))
    with pytest.raises(RecordingError, match=r"there are: array, .*synthetic-eeg"):
        load("emg_nobody")
    assert load("some").name == "some"


def test_starts_follow_from_shared_samples() -> None:
    rng = np.random.default_rng(1)
    line = rng.integers(-100, 100, (2, 100)).astype(np.int16)
    windows = np.stack([line[:, k : k + 20] for k in (0, 10, 20, 50, 55)])
    two = np.concatenate([windows, windows])
    keys = fields(10) | {"x": two, "subject": np.repeat([1, 2], 5)}
    rec = Recordings(name="cut", **keys)
    expected = [0.0, 0.1, 0.2, 0.4, 0.45]  # a gap that leaves no trace counts as none
    np.testing.assert_allclose(rec.starts(), expected * 2)
    np.testing.assert_allclose(rec.starts([6, 5]), [0.1, 0.0])


def test_starts_follow_time_and_runs() -> None:
    times = np.array([0.0, 0.1, 0.2, 0.0, 0.1, 0.2])
    keys = fields() | {"subject": np.ones(6, int), "time_s": times}
    np.testing.assert_array_equal(Recordings(name="t", **keys).starts(), times)
    later = Recordings(name="t", **keys, run=np.repeat([1, 2], 3)).starts()
    np.testing.assert_array_equal(later[:3], times[:3])
    assert later[3] > later[2] + 0.2  # a run never overlaps the one before


def test_decimation_keeps_the_signal_and_stays_integer() -> None:
    t = np.arange(500) / 250
    wave = 4000 * np.sin(2 * np.pi * 10 * t) + 9000
    above = 3000 * np.sin(2 * np.pi * 90 * t)
    x = np.stack([np.stack([wave, wave + above])] * 2)
    keys = fields(2, 2) | {"x": np.rint(x).astype(np.int16), "fs": 250.0, "scale": 0.01}
    rec = Recordings(name="wave", **keys)
    half = decimate(rec, 125)
    assert (half.fs, half.n_times, half.x.dtype) == (125.0, 250, np.int16)
    assert half.scale <= rec.scale
    middle = slice(20, -20)
    wanted = (0.01 * wave)[::2]
    for channel in (0, 1):  # no delay; what lies above the new band is gone
        error = np.abs(half.signal()[0, channel] - wanted)[middle].max()
        assert error < 0.005 * 40
    assert half.time_s is not None
    assert decimate(rec, 250) is rec


def test_decimation_makes_the_scale_finer_where_bits_are_free() -> None:
    rng = np.random.default_rng(0)
    keys = fields(4, 2, 64) | {"x": rng.integers(-100, 100, (4, 2, 64)).astype(np.int8)}
    half = decimate(Recordings(name="coarse", **keys), 50)
    assert half.x.dtype == np.int16
    assert half.scale == 0.5 / 256
    full = np.full((4, 2, 64), 32767, np.int16)
    full[:, :, ::3] = -32768
    wide = decimate(Recordings(name="full", **(keys | {"x": full})), 50)
    assert np.abs(wide.signal()).max() > 0


def test_decimation_remembers_which_windows_overlap() -> None:
    rng = np.random.default_rng(1)
    line = rng.integers(-100, 100, (2, 120)).astype(np.int16)
    keys = fields() | {"x": np.stack([line[:, k : k + 40] for k in range(0, 60, 10)])}
    rec = Recordings(name="cut", **(keys | {"subject": np.ones(6, int)}))
    np.testing.assert_allclose(decimate(rec, 50).starts(), np.arange(6) * 0.1)


@pytest.mark.parametrize("to_hz", [60.0, 150.0, 0.0, -50.0, 99.0])
def test_decimation_by_a_fraction_is_refused(to_hz: float) -> None:
    with pytest.raises(RecordingError, match="by a whole factor only"):
        decimate(Recordings(name="r", **fields()), to_hz)


def test_physical_values_are_quantised_finely_enough() -> None:
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((4, 2, 50)) * 20
    keys = {key: value for key, value in fields(4).items() if key not in ("x", "scale")}
    rec = from_signal(signal, name="f", **keys)
    assert rec.x.dtype == np.int16
    np.testing.assert_allclose(rec.signal(), signal, atol=0.01)
    offset = signal + np.array([[0.0], [1e6]])
    rec = from_signal(offset, name="f", **keys)
    assert rec.x.dtype == np.int32
    assert np.abs(rec.x * rec.scale - offset).max() < 1e-3
    with pytest.raises(RecordingError, match="NaN"):
        from_signal(np.where(signal > 30, np.nan, signal), name="f", **keys)


@pytest.mark.parametrize("name", sorted(REAL))
def test_real_recordings(name: str, recordings_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (recordings_dir / f"{name}.npz").exists():
        pytest.skip(f"no {name}.npz among the recordings")
    monkeypatch.setenv("BIOTRAIN_DATA", str(recordings_dir))
    rec = load(name)
    shape = (len(rec), rec.n_chans, rec.n_times, rec.fs, len(rec.subjects), rec.n_classes)
    assert shape == REAL[name]
    assert not rec.synthetic
    assert np.isfinite(rec.signal(slice(0, 50))).all()


def test_without_mne_or_moabb_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mne", "moabb", "moabb.datasets", "moabb.paradigms"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "sub-01_eeg.edf").write_bytes(b"0")
    with pytest.raises(RecordingError, match=r"needs MNE: pip install 'biotrain\[data\]'"):
        load(tmp_path / "sub-01_eeg.edf")
    with pytest.raises(RecordingError, match=r"needs MOABB: pip install 'biotrain\[moabb\]'"):
        load("moabb:BNCI2014_001")


def test_continuous_files_are_cut_at_their_annotations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_mne(monkeypatch, raise_on="broken")
    for name in ("sub-02_ses-1_eeg.edf", "sub-10_ses-1_eeg.edf", "notes.txt"):
        (tmp_path / name).write_bytes(b"0")
    rec = load(tmp_path, window_s=2.0)
    assert rec.classes == ("left", "right")
    assert rec.y.tolist() == [0, 0, 1] * 2  # two windows in 4 s, one in 2.5 s, none past the end
    assert rec.subject.tolist() == [2, 2, 2, 10, 10, 10]  # sub-02 is number 2
    assert rec.time_s is not None
    assert rec.time_s.tolist() == [1.0, 3.0, 6.0] * 2
    np.testing.assert_allclose(rec.signal([1])[0, :, 0], [300, -300], atol=0.05)  # microvolts
    assert load(tmp_path / "sub-02_ses-1_eeg.edf").n_times == 200  # the shortest annotation
    with pytest.raises(RecordingError, match="no window of 60 s fits"):
        load(tmp_path, window_s=60)
    (tmp_path / "broken.edf").write_bytes(b"0")
    with pytest.raises(RecordingError, match=r"MNE cannot read it: Bad EDF file$"):
        load(tmp_path / "broken.edf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordingError, match="it holds no file of MNE"):
        load(tmp_path / "empty")


def test_real_mne_reads_what_it_wrote(tmp_path: Path) -> None:
    mne = pytest.importorskip("mne", reason="the extra `data` is not installed")
    info = mne.create_info(["C3", "C4", "STI"], 100.0, ["eeg", "eeg", "stim"])
    rng = np.random.default_rng(0)
    data = rng.standard_normal((3, 1000)) * 1e-5
    raw = mne.io.RawArray(data, info, verbose="error")
    raw.set_annotations(mne.Annotations([1.0, 6.0], [4.0, 2.0], ["left", "right"]))
    raw.save(tmp_path / "sub-1_raw.fif", verbose="error")
    rec = load(tmp_path / "sub-1_raw.fif")
    assert (rec.classes, rec.y.tolist(), rec.n_times) == (("left", "right"), [0, 0, 1], 200)
    np.testing.assert_allclose(rec.signal()[0], data[:2, 100:300] * 1e6, atol=0.01)
    events = np.array([[100, 0, 1], [500, 0, 2]])
    epochs = mne.Epochs(
        raw, events, {"l": 1, "r": 2}, 0, 1, baseline=None, preload=True, verbose="error"
    )
    epochs.save(tmp_path / "sub-1_epo.fif", verbose="error")
    rec = load(tmp_path / "sub-1_epo.fif")
    assert (rec.classes, rec.y.tolist(), rec.n_times) == (("l", "r"), [0, 1], 101)


def test_moabb_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = np.random.default_rng(0).standard_normal((8, 2, 50)) * 1e-5

    class Epochs:
        ch_names = ("C3", "C4")

        def __init__(self) -> None:
            self.info = {"sfreq": 100.0}

        def load_data(self) -> "Epochs":
            return self

        def get_channel_types(self) -> list[str]:
            return ["eeg", "eeg"]

        def get_data(self, picks: list[int]) -> np.ndarray:
            assert picks == [0, 1]
            return signal

    class Known:
        paradigm = "imagery"
        subject_list = (1, 12)

        def get_data(self, subjects: list[int]) -> dict[int, dict[str, dict[str, Any]]]:
            good = types.SimpleNamespace(info={"bads": []})
            return {one: {"0train": {"0": good}} for one in subjects}

    class Rest:
        paradigm = "rstate"

    class MotorImagery:
        def get_data(self, dataset: object, return_epochs: bool) -> tuple[Any, Any, Any]:
            assert isinstance(dataset, Known)
            table = {
                "subject": [1] * 4 + [12] * 4,
                "session": ["0train", "1test"] * 4,
                "run": ["0"] * 8,
            }
            return Epochs(), np.array(["right_hand", "left_hand"] * 4), table

    root = types.ModuleType("moabb")
    sets = types.ModuleType("moabb.datasets")
    ways = types.ModuleType("moabb.paradigms")
    sets.Known, sets.Rest, ways.MotorImagery = Known, Rest, MotorImagery  # type: ignore[attr-defined]
    root.datasets, root.paradigms = sets, ways  # type: ignore[attr-defined]
    for module in (root, sets, ways):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    rec = load("moabb:Known")
    assert rec.classes == ("left_hand", "right_hand")
    assert rec.subject.tolist() == [1] * 4 + [12] * 4
    assert rec.session.tolist() == [1, 2] * 4
    np.testing.assert_allclose(rec.signal(), signal * 1e6, atol=0.01)
    with pytest.raises(RecordingError, match="MOABB has no data set of that name"):
        load("moabb:Nobody")
    with pytest.raises(RecordingError, match="no labelled trials in paradigm rstate"):
        load("moabb:Rest")


def test_labels_are_ranked_as_numbers() -> None:
    assert join.ranks(["10", "2", "2", "1"]) == [3, 2, 2, 1]
    assert join.ranks(["ses-10", "ses-9"]) == [2, 1]
    assert join.ranks(["1test", "0train", ""]) == [3, 2, 1]
    assert sources.SYNTHETIC == ("synthetic-eeg", "synthetic-eog", "synthetic-emg")
