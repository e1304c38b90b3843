# SPDX-License-Identifier: Apache-2.0
"""Public sets from files in their authors' formats, made here: every window comes from where the
set's description says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biotrain.cli import main
from biotrain.study import generate, load
from biotrain.study.data.convert import ORIGINALS, convert
from biotrain.study.data.recordings import RecordingError

scipy_io = pytest.importorskip("scipy.io", reason="the extra `study` is not installed")
scipy_signal = pytest.importorskip("scipy.signal")


def test_myo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    kept: dict[tuple[str, str, int], np.ndarray] = {}
    for person in ("Female0", "Male2", "Male10"):
        for part in ("training0", "Test0", "Test1"):
            folder = tmp_path / "EvaluationDataset" / person / part
            folder.mkdir(parents=True)
            for number in (0, 8, 27):
                rows = rng.integers(-128, 128, (950 if number else 1000, 8)).astype("<i2")
                rows.tofile(folder / f"classe_{number}.dat")
                kept[person, part, number] = rows
            (folder / "notes.txt").write_text("no signal")
    file = tmp_path / "emg_myo.npz"
    assert main(["data", "convert", "emg_myo", str(tmp_path), "-o", str(file), "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["windows"] for one in told["subjects"]] == [3 * (9 + 8 + 8)] * 3
    rec = load(file)
    assert (rec.x.dtype, rec.fs, rec.n_classes, rec.scale) == (np.int8, 200.0, 7, 1.0)
    assert rec.repetition is not None
    order = ["Male2", "Male10", "Female0"]  # men first, by number
    for k, (person, part, number) in enumerate(
        (p, s, n) for p in order for s in ("training0", "Test0", "Test1") for n in (0, 8, 27)
    ):
        at = (rec.subject == order.index(person) + 1) & (rec.session == k // 3 % 3 + 1)
        own = np.flatnonzero(at & (rec.y == number % 7) & (rec.repetition == number // 7))
        rows = kept[person, part, number]
        assert len(own) == (9 if len(rows) == 1000 else 8)
        for j, trial in enumerate(own):
            assert np.array_equal(rec.x[trial], rows[100 * j : 100 * j + 200].T)
    (tmp_path / "EvaluationDataset/Male2/Test0/classe_0.dat").write_bytes(b"123")
    with pytest.raises(RecordingError, match=r"classe_0.dat: 1 numbers are not whole rows"):
        convert("emg_myo", tmp_path)


def test_eog(tmp_path: Path) -> None:
    """Steps of the label, a drop-out in the time stamps; the filter against a plain sine."""
    n = 128 * 60
    t = np.arange(n) / 128
    clock = 1e9 + t
    clock[128 * 45 :] += 3.0  # the radio was gone for three seconds
    label = np.where(t < 20, 2, np.where(t < 25, 7, 6))
    for run in (0, 1):
        table = np.stack(
            [
                np.floor(clock),
                np.rint(clock % 1 * 1e6),
                400 * np.sin(2 * np.pi * 2 * t),  # passes 0.1 to 30 Hz
                1000 + 400 * np.sin(2 * np.pi * 50 * t),  # does not
                label,
            ],
            1,
        )
        scipy_io.savemat(tmp_path / f"participant3_{run}.mat", {f"p3_{run}": table})
    rec = convert("eog_office", tmp_path)
    assert rec.time_s is not None
    assert rec.segment is not None
    first = rec.session == 1
    assert [rec.classes[k] for k in rec.y[first]] == ["read"] * 3 + ["copy"] * 5
    # 45 s falls into the windows that begin at 40 (lost 3 of 13 s) and 35 would end there.
    np.testing.assert_allclose(rec.time_s[first], [0, 5, 10, 25, 30, 35, 48, 53], atol=1e-5)
    assert set(rec.subject) == {3}
    assert rec.segment.tolist() == [0] * 8 + [1] * 8
    middle = rec.signal([4])[0, :, 200:-200]
    np.testing.assert_allclose(np.abs(middle[0]).max(), 400, rtol=0.02)
    assert np.abs(middle[1]).max() < 40
    scipy_io.savemat(tmp_path / "participant4_0.mat", {"a": np.ones((4, 3))})
    with pytest.raises(RecordingError, match="one array of five columns"):
        convert("eog_office", tmp_path)


def graz_run(seed: int, trials: int) -> tuple[dict[str, Any], np.ndarray]:
    rng = np.random.default_rng(seed)
    starts = 100 + 2000 * np.arange(trials)
    x = 20 * rng.standard_normal((starts[-1] + 2000, 6))
    y = rng.integers(1, 3, trials)
    run = {"X": x, "trial": starts + 1.0, "y": y, "fs": 250.0, "classes": ["left", "right"]}
    return run, x


def expected(x: np.ndarray, at: int) -> np.ndarray:
    sos = scipy_signal.butter(4, (8, 30), "bandpass", fs=250, output="sos")
    return scipy_signal.sosfiltfilt(sos, x[at : at + 1000, :3].T)


def test_graz_from_bnci(tmp_path: Path) -> None:
    runs = [graz_run(k, 3 if k else 122) for k in range(5)]
    for name, part in (("B07T.mat", runs[:3]), ("B07E.mat", runs[3:])):
        cells = np.empty(len(part), object)
        cells[:] = [run for run, _ in part]
        scipy_io.savemat(tmp_path / name, {"data": cells})
    rec = convert("mi_graz2b", tmp_path)
    assert rec.order is not None
    assert np.bincount(rec.session).tolist() == [0, 120, 3, 3, 3, 3]  # 120 at most
    for session, (run, x) in enumerate(runs, 1):
        own = np.flatnonzero(rec.session == session)
        assert rec.y[own].tolist() == (run["y"][:120] - 1).tolist()
        cue = 100 + 2000 * 2 + 750  # of the third trial, three seconds after it began
        np.testing.assert_allclose(rec.signal([own[2]])[0], expected(x, cue), atol=0.0011)
    scipy_io.savemat(tmp_path / "B08T.mat", {"other": 1})
    with pytest.raises(RecordingError, match="no 'data' in it"):
        convert("mi_graz2b", tmp_path)


def write_gdf(path: Path, x: np.ndarray, events: list[tuple[int, int]]) -> None:
    """GDF 1.25 as the competition has it: int16 [channels, time] in steps of 0.01 uV at 250 Hz,
    records of one sample, (sample from 0, type) in the event table behind them."""
    count, n = x.shape
    one = b"GDF 1.25" + b" ".ljust(160) + b"2005092112000000"
    one += np.int64(256 * (count + 1)).tobytes() + bytes(44) + np.int64(n).tobytes()
    one += np.array([1, 250, count], "<u4").tobytes()
    one += b"".join(f"EEG:{k}".encode().ljust(16) for k in range(count))
    one += b" " * 80 * count + b"uV".ljust(8) * count
    for low, kind in ((-327.68, "<f8"), (327.67, "<f8"), (-32768, "<i8"), (32767, "<i8")):
        one += np.full(count, low, kind).tobytes()
    one += (
        b" " * 80 * count + np.full(count, 1, "<i4").tobytes() + np.full(count, 3, "<i4").tobytes()
    )
    one += bytes(32 * count)
    at, kinds = (np.array(part) for part in zip(*events, strict=True))
    table = b"\3" + bytes([250, 0, 0]) + np.uint32(len(events)).tobytes()
    table += (at + 1).astype("<u4").tobytes() + kinds.astype("<u2").tobytes()
    table += bytes(2 * len(events)) + np.full(len(events), 1000, "<u4").tobytes()
    path.write_bytes(one + x.T.astype("<i2").tobytes() + table)


def test_graz_from_gdf(tmp_path: Path) -> None:
    pytest.importorskip("mne", reason="the extra `data` is not installed")
    made: dict[str, np.ndarray] = {}
    for name, codes in (("B0401T", (769, 770, 769)), ("B0404E", (783, 783))):
        rng = np.random.default_rng(len(codes))
        made[name] = np.rint(2000 * rng.standard_normal((6, 9000))).clip(-32000, 32000)
        cues = [1750 + 2000 * k for k in range(len(codes))]
        events = [(0, 32766)]
        for at, code in zip(cues, codes, strict=True):
            events += [(at - 750, 768), (at - 750, 1023), (at, code)]
        write_gdf(tmp_path / f"{name}.gdf", made[name], events)
    with pytest.raises(RecordingError, match=r"put the true labels beside it: B0404E\.mat"):
        convert("mi_graz2b", tmp_path)
    scipy_io.savemat(tmp_path / "B0404E.mat", {"classlabel": np.array([[2], [1]])})
    rec = convert("mi_graz2b", tmp_path)
    assert (rec.session.tolist(), rec.y.tolist()) == ([1, 1, 1, 4, 4], [0, 1, 0, 1, 0])
    for trial, name, cue in ((2, "B0401T", 1750 + 4000), (4, "B0404E", 3750)):
        x = 0.01 * made[name].T
        np.testing.assert_allclose(rec.signal([trial])[0], expected(x, cue), atol=0.0015)


def test_arithmetic(tmp_path: Path) -> None:
    mne = pytest.importorskip("mne", reason="the extra `data` is not installed")
    pytest.importorskip("edfio", reason="the extra `data` is not installed")
    names = ["Fp1", "F3", "F4", "C3", "C4", "P3", "P4", "Pz", "Fz"]
    t = np.arange(500 * 90) / 500
    tone = 30e-6 * np.sin(2 * np.pi * 10 * t)
    for number, seconds in ((1, 90), (2, 62)):
        x = np.stack([(k + 1) * tone for k in range(9)])[:, : 500 * seconds]
        info = mne.create_info([f"EEG {n}" for n in names], 500.0, "eeg")
        raw = mne.io.RawArray(x + 1e-4, info, verbose="error")
        raw.export(tmp_path / f"Subject07_{number}.edf", verbose="error")
    rec = convert("eeg_arithmetic", tmp_path)
    assert (rec.n_times, rec.fs, set(rec.subject)) == (512, 128.0, {8})
    assert rec.order is not None
    assert rec.order[rec.y == 0].tolist() == list(range(7, 22))  # 22 windows in 90 s
    assert rec.order[rec.y == 1].tolist() == list(range(15))
    amplitude = np.abs(rec.signal([5])[0]).max(1)
    wanted = [30 * (names.index(c) + 1) for c in rec.channels]
    np.testing.assert_allclose(amplitude, wanted, rtol=0.01)  # in order; the offset is gone


def test_what_cannot_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, original in ORIGINALS.items():
        assert original.licence
        with pytest.raises(RecordingError, match=f"no original file of {name}: "):
            convert(name, tmp_path)
    with pytest.raises(RecordingError, match="no set is called eeg; there are mi_graz2b"):
        convert("eeg", tmp_path)
    with pytest.raises(RecordingError, match="there is no such folder"):
        convert("emg_myo", tmp_path / "nowhere")
    out = str(tmp_path / "a" / "b.npz")
    assert main(["data", "convert", "emg_myo", str(tmp_path), "-o", out]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_list_and_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--json", "-"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed["convert"]] == list(ORIGINALS)
    rec = generate("emg", subjects=2, sessions=2, trials=8)
    path = str(rec.save(tmp_path / "two.npz"))
    assert main(["data", "info", path, "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["windows"] == len(rec) == sum(sum(s["of_class"]) for s in facts["subjects"])
    assert facts["split"] == "repetition"
    assert main(["data", "info", path]) == 0
    assert "repetition" in capsys.readouterr().out


def test_myo_gives_the_windows_of_the_real_file(recordings_dir: Path, tmp_path: Path) -> None:
    """Two people of `emg_myo` back into the armband's files and through the converter again."""
    if not (recordings_dir / "emg_myo.npz").exists():
        pytest.skip("emg_myo is not among the recordings")
    whole = load(recordings_dir / "emg_myo.npz")
    real = whole.take(np.flatnonzero(whole.subject <= 2))
    assert real.repetition is not None
    keys = np.stack([real.subject, real.session, real.y, real.repetition], 1)
    for person, session, label, repetition in np.unique(keys, axis=0):
        own = real.x[(keys == [person, session, label, repetition]).all(1)]
        rows = np.concatenate([own[0], *(window[:, 100:] for window in own[1:])], axis=1).T
        part = tmp_path / f"Male{person - 1}" / ("training0", "Test0", "Test1")[session - 1]
        part.mkdir(parents=True, exist_ok=True)
        rows.astype("<i2").tofile(part / f"classe_{repetition * 7 + label}.dat")
    made = convert("emg_myo", tmp_path)
    for key in ("x", "y", "subject", "session", "repetition"):
        assert np.array_equal(getattr(made, key), getattr(real, key)), key
    assert (made.scale, made.fs, made.unit) == (real.scale, real.fs, real.unit)
    assert (made.channels, made.classes) == (real.channels, real.classes)
