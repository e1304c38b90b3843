# SPDX-License-Identifier: Apache-2.0
"""Recordings that were once read wrong without a word: annotations beside a cropped file, people
whose names are not plain letters, short events, settings that a front end takes the place of."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from _formats import WRITERS, Example, edf_bytes, xdf_bytes
from test_reading import edf, left, notes

from biotrain.cli import main
from biotrain.frontend import read_front
from biotrain.study import RecordingError, Recordings, load
from biotrain.study.data.sources import recordings
from biotrain.study.data.splits import default_split

MARKS = [(2.0 + 4 * k, 2.0, ("tone", "rest")[k % 2]) for k in range(6)]
FS = 128.0


def tones(rec: Recordings) -> None:
    """The first channel of a tone of 100 uV; noise of 1 uV at rest."""
    for label, std in (("tone", 70.7), ("rest", 1.0)):
        windows = rec.signal(np.flatnonzero(rec.y == rec.classes.index(label)))
        np.testing.assert_allclose(windows[:, 0].std(axis=1), std, rtol=0.2)


def with_tones(seconds: int = 30) -> np.ndarray:
    t = np.arange(round(seconds * FS)) / FS
    x = np.random.default_rng(0).standard_normal((2, len(t)))
    for onset, duration, text in MARKS:
        inside = (t >= onset) & (t < onset + duration) & (text == "tone")
        x[0] += 100 * np.sin(2 * np.pi * 10 * t) * inside
    return x


@pytest.mark.parametrize("dated", [True, False])
def test_annotations_beside_a_cropped_file(tmp_path: Path, dated: bool) -> None:
    """By the date they count from; without one nobody knows which sample they mean."""
    mne = pytest.importorskip("mne", reason="the extra `data` is not installed")
    raw = mne.io.RawArray(with_tones() * 1e-6, mne.create_info(["C3", "C4"], FS, "eeg"), verbose=0)
    if dated:
        raw.set_meas_date(1e9)
    raw.set_annotations(mne.Annotations(*([m[k] for m in MARKS] for k in range(3))))
    raw.crop(tmin=5)
    raw.annotations.save(tmp_path / "sub-1-annot.fif")
    raw.set_annotations(None).save(tmp_path / "sub-1_raw.fif", verbose="error")
    if dated:
        rec = load(tmp_path / "sub-1_raw.fif", window_s=2)
        assert len(rec) == 5
        tones(rec)
    else:
        with pytest.raises(RecordingError, match="cannot be placed in sub-1_raw"):
            load(tmp_path / "sub-1_raw.fif", window_s=2)


def test_a_hypnogram_that_began_at_another_time(tmp_path: Path) -> None:
    edf(tmp_path / "sub-1-PSG.edf", [], x=with_tones())
    late = [(onset - 1.0, duration, text) for onset, duration, text in MARKS]
    beside = edf(tmp_path / "sub-1-Hypnogram.edf", late)
    data = bytearray(beside.read_bytes())
    data[176:184] = b"00.00.01"
    beside.write_bytes(bytes(data))
    tones(load(tmp_path / "sub-1-PSG.edf", window_s=2))


def test_people_whose_names_are_not_plain_letters(tmp_path: Path) -> None:
    for name in ("Jörg_ses-1", "Ju\u0308rgen_ses-1", "anna-lena", "anna-maria-raw", "07-eeg"):
        edf(tmp_path / f"sub-{name}.edf")
    rec = load(tmp_path)
    names = [rec.name_of("subject", subject) for subject in rec.subjects]
    assert sorted(names) == ["07", "Jörg", "Jürgen", "anna-lena", "anna-maria"]


def test_events_shorter_than_the_window(tmp_path: Path) -> None:
    """A stimulus of 0.2 s whose response is longer: the advice is one that can be followed."""
    path = edf(tmp_path / "sub-1.edf", [(m[0], 0.2, m[2]) for m in MARKS], x=with_tones())
    with pytest.raises(RecordingError, match=r"DATA\?window=2&duration=2"):
        load(path)
    with pytest.raises(RecordingError, match=r"duration = 2 says"):
        load(f"{path}?window=2")
    rec = load(f"{path}?window=2&duration=2")
    assert len(rec) == 6
    tones(rec)


def test_a_front_end_counts_what_it_leaves_out(tmp_path: Path) -> None:
    front = tmp_path / "front.toml"
    front.write_text('window_s = 2.0\nhop_s = 0.5\nunit = 0.1\nreference = "none"\n')
    marks = [(2.0, 1.0, "short"), (4.0, 3.0, "long"), (8.0, 1.0, "short"), (10.0, 3.0, "long")]
    path = edf(tmp_path / "sub-1.edf", marks)
    rec, note = recordings(f"{path}?window=1&hop=0.5", None, read_front(front))
    assert left(rec) == {"events are shorter than the window": 2}
    assert "no window of 2 s for short" in notes(rec)
    assert "window = 1 s does not hold: the front end says 2 s" in note
    assert "hop = " not in note


def test_derivatives_of_a_bids_tree_are_not_another_run(tmp_path: Path) -> None:
    pytest.importorskip("mne_bids", reason="the extra `data` is not installed")
    source = WRITERS["bids:"](tmp_path, Example())
    shutil.copytree(tmp_path / "sub-01", tmp_path / "derivatives" / "clean" / "sub-01")
    assert len(load(source)) == sum(Example().counts().values())
    assert len(load(f"bids:{tmp_path / 'derivatives' / 'clean'}")) == 9


def test_streams_of_xdf_that_are_not_read_are_named(tmp_path: Path) -> None:
    pytest.importorskip("pyxdf", reason="pyxdf is not installed (extra data)")
    example = Example()
    stamps = [float(s) + 7000 for s in example.times()]

    def head(name: str, kind: str, channels: tuple[str, ...], fs: float = FS) -> str:
        each = "".join(f"<channel><label>{c}</label></channel>" for c in channels)
        return (
            f"<info><name>{name}</name><type>{kind}</type><nominal_srate>{fs:g}</nominal_srate>"
            f"<channel_count>{len(channels)}</channel_count><channel_format>"
            f"{'float32' if fs else 'string'}</channel_format><desc><channels>{each}</channels>"
            "</desc></info>"
        )

    x, marks = example.signal().T, example.marks()
    other, eeg = head("B", "EEG", ("F3", "F4")), head("A", "EEG", ("C3", "C4"))
    texts = head("M", "Markers", ("m",), 0)
    streams: list[tuple[str, list[float], list[object]]] = [
        (other, stamps, list(x[:, ::-1])),
        (eeg, stamps, list(x)),
        (texts, [m[0] + 7000 for m in marks], [m[2] for m in marks]),
    ]
    path = tmp_path / "sub-1.xdf"
    path.write_bytes(xdf_bytes(streams, [0.0, 0.0, 0.0]))
    rec = load(f"{path}?window=2")
    assert rec.channels == ("F3", "F4")
    assert "left out: stream A (EEG)" in notes(rec)
    tones(load(f"{path}?window=2&channels=C3"))


def test_a_gap_in_a_file_that_calls_itself_continuous(tmp_path: Path) -> None:
    example = Example(gap=True)
    starts = [float(k) for k in (*range(20), *range(24, 40))]
    tals: list[list[bytes]] = [[] for _ in starts]
    for onset, duration, text in example.marks():
        tals[0].append(f"{onset:+g}\x15{duration:g}\x14{text}\x14\x00".encode())
    path = tmp_path / "sub-1.edf"
    path.write_bytes(edf_bytes(example.signal(), starts, tals, kind="EDF+C"))
    rec = load(path)
    tones(rec)
    assert "1 gap, 4 s of signal are missing" in notes(rec)


def table(path: Path, time: str, times: list[str]) -> str:
    """A table with a column of times and events in words."""
    lines = [f"{time},C3 (uV),C4 (uV),label"]
    x = with_tones()
    for k, stamp in enumerate(times):
        here = [text for onset, size, text in MARKS if onset <= k / FS < onset + size]
        lines.append(f"{stamp},{x[0, k]:.4f},{x[1, k]:.4f},{''.join(here)}")
    path.write_text("\n".join(lines) + "\n")
    return f"{path}?window=2"


def test_times_of_a_table_in_milliseconds_or_as_dates(tmp_path: Path) -> None:
    count = round(30 * FS)
    path = tmp_path / "sub-1.csv"
    with pytest.raises(RecordingError, match="are they milliseconds"):
        load(table(path, "timestamp", [f"{1.6e12 + k / FS * 1e3:.3f}" for k in range(count)]))
    begin = datetime(2024, 5, 1, 12)
    dates = [str(begin + timedelta(seconds=k / FS)) for k in range(count)]
    rec = load(table(path, "time", dates))
    assert rec.fs == FS
    tones(rec)
    with pytest.raises(RecordingError, match="'soon' is neither a number nor a date"):
        load(table(path, "time", ["soon", *dates[1:]]))


def test_a_column_that_only_grows_is_no_signal(tmp_path: Path) -> None:
    times = [f"{k / FS:.5f}" for k in range(round(30 * FS))]
    rec = load(f"{table(tmp_path / 'sub-1.csv', 'Zeit', times)}&fs=128")
    assert rec.channels == ("C3", "C4")
    assert "channels left out: Zeit" in notes(rec)
    tones(rec)


def test_a_file_with_a_gap_is_one_run_to_a_front_end(tmp_path: Path) -> None:
    """What calibrates and what tests would else come from one recording by the split `run`."""
    front = tmp_path / "front.toml"
    front.write_text('window_s = 1.0\nhop_s = 0.5\nunit = 0.1\nreference = "none"\n')
    source = WRITERS[".edf"](tmp_path, Example(gap=True))
    rec, _ = recordings(source, None, read_front(front))
    assert rec.run is not None
    assert rec.time_s is not None
    assert set(rec.run) == {1}
    assert default_split(rec) == default_split(load(source))
    after = rec.time_s[rec.time_s > 20]
    np.testing.assert_allclose(after[:3], [26.0, 26.5, 27.0])
    tones(rec)


def test_many_classes_and_notes_stay_on_one_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [f"E{k}" for k in range(40)]
    marks = [(1 + 0.5 * k, 0.5, f"S{k % 35}") for k in range(56)]
    path = edf(tmp_path / "sub-1.edf", marks, labels=labels, units=[""] * 40)
    assert main(["data", "info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 50
    assert "and 28 notes more, all of them with --json" in shown
    assert "and 25 events more" in shown
