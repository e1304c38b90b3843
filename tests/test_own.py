# SPDX-License-Identifier: Apache-2.0
"""Recordings of one's own: a folder of files with a TOML, and a BIDS tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biotrain.study import RecordingError, load

mne = pytest.importorskip("mne", reason="the extra `data` is not installed")

FS = 100.0
MARKS = [(1.0, 4.0, "769"), (6.0, 4.0, "770"), (11.0, 0.0, "769"), (13.0, 1.0, "pause")]


def signal(seed: int) -> np.ndarray:
    """Microvolts [4, 20 s]; the last is a trigger channel."""
    return 20 * np.random.default_rng(seed).standard_normal((4, 2000))


def write(path: Path, seed: int, marks: list[Any] = MARKS) -> None:
    info = mne.create_info(["C3", "Cz", "C4", "aux"], FS, ["eeg", "eeg", "eeg", "misc"])
    raw = mne.io.RawArray(signal(seed) * 1e-6, info, verbose="error")
    raw.set_annotations(mne.Annotations(*([m[k] for m in marks] for k in range(3))))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".fif":
        raw.save(path, verbose="error", overwrite=True)
    else:
        raw.pick("eeg")
        raw.export(path, physical_range=(-200, 200), verbose="error")


TOML = """
folder = "files"
pattern = "{subject}/day{session}_*.edf"
channels = ["C4", "C3"]
window = 1.0
hop = 0.5
start = 0.5

[events]
770 = "right"
769 = "left"
"""


def test_a_folder_of_edf(tmp_path: Path) -> None:
    pytest.importorskip("edfio", reason="the extra `data` is not installed")
    for k, name in enumerate(("anna/day2_x.edf", "anna/day10_x.edf", "bert/day2_y.edf")):
        write(tmp_path / "files" / name, k)
    (tmp_path / "files" / "readme.txt").write_text("not a recording")
    (tmp_path / "own.toml").write_text(TOML)
    rec = load(tmp_path / "own.toml")
    assert (rec.name, rec.channels, rec.n_times, rec.fs) == ("own", ("C4", "C3"), 100, FS)
    assert rec.classes == ("right", "left")  # as in the file
    # 3.5 s are left of an event of 4 s: six windows of 1 s every 0.5 s; the third has no length.
    assert rec.y.tolist() == ([1] * 6 + [0] * 6 + [1]) * 3
    order = [(1, 10), (1, 2), (2, 2)]  # anna's day10 lies before day2 by path, and comes later
    assert sorted({(int(a), int(b)) for a, b in zip(rec.subject, rec.session, strict=True)}) == [
        (1, 2),
        (1, 10),
        (2, 2),
    ]
    assert rec.time_s is not None
    for k, (subject, session) in zip((1, 0, 2), order, strict=True):
        own = np.flatnonzero((rec.subject == subject) & (rec.session == session))
        np.testing.assert_allclose(rec.time_s[own[:3]], [1.5, 2.0, 2.5])
        x = signal(k)[[2, 0], 200:300]  # the second window begins at 2 s
        np.testing.assert_allclose(rec.signal([own[1]])[0], x, atol=0.01)
    assert len(np.unique(np.stack([rec.subject, rec.session, rec.run], 1), axis=0)) == 3


def test_fif_files_that_hold_one_class_each(tmp_path: Path) -> None:
    for k, name in enumerate(("7_fist_1_raw.fif", "7_rest_1_raw.fif", "7_fist_2_raw.fif")):
        write(tmp_path / name, k)
    toml = 'pattern = "{subject}_{class}_{repetition}_raw.fif"\nwindow = 5\nunit = "V"\nscale = 1\n'
    (tmp_path / "gestures.toml").write_text(toml)
    rec = load(tmp_path / "gestures.toml")
    assert rec.classes == ("fist", "rest")
    assert (rec.channels, rec.unit, len(rec)) == (("C3", "Cz", "C4"), "V", 12)
    assert rec.repetition is not None
    assert [(int(y), int(r)) for y, r in zip(rec.y, rec.repetition, strict=True)][::4] == [
        (0, 1), (0, 2), (1, 1),
    ]  # fmt: skip
    np.testing.assert_allclose(rec.signal([0])[0], signal(0)[:3, :500] * 1e-6, atol=1e-8)
    # Files of one session have clocks of their own: windows at equal times do not overlap.
    starts = rec.starts()
    assert len(set(starts.round(3))) == 12


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("widow = 1.0", "no setting is called widow (did you mean window?)"),
        ("window = 'long'", "window is a number"),
        ("window = 0", "window lies above 0"),
        ("channels = 'C3'", "channels is a list"),
        ("pattern = 'x_{day}.edf'", "a pattern has no {day}; there are subject, session"),
        ("pattern = 'x_{run}.edf'", "does not say where the {subject} stands"),
        ("pattern = 'x_{subject}.edf'", "fits 'x_{subject}.edf'; there are 1_raw.fif"),
        ("pattern = '{subject}_raw.fif'\nchannels = ['Fz']", "no channel Fz; there are: C3"),
        ("folder = 'nowhere'\npattern = '{subject}'", "there is no folder"),
        ("pattern = '{subject}_raw.fif'\n[events]\n5 = 'a'", "none of its events is among 5"),
        ("unit = 'V'", "it needs a pattern"),
        ("window = ", "not TOML"),
    ],
)
def test_what_a_toml_cannot_say(tmp_path: Path, line: str, complaint: str) -> None:
    write(tmp_path / "1_raw.fif", 0)
    (tmp_path / "own.toml").write_text(f"{line}\n")
    with pytest.raises(RecordingError) as caught:
        load(tmp_path / "own.toml")
    assert complaint in str(caught.value)


def test_bids(tmp_path: Path) -> None:
    mne_bids = pytest.importorskip("mne_bids", reason="the extra `data` is not installed")
    for k, (subject, session) in enumerate((("02", "a"), ("02", "b"), ("11", "a"))):
        write(tmp_path / "plain_raw.fif", k, marks=MARKS[:2])
        raw = mne.io.read_raw(tmp_path / "plain_raw.fif", verbose="error").pick("eeg")
        raw.info["line_freq"] = 50
        path = mne_bids.BIDSPath(
            subject=subject, session=session, task="move", datatype="eeg", root=tmp_path / "bids"
        )
        mne_bids.write_raw_bids(raw, path, format="EDF", overwrite=True, verbose="error")
    by_name = load(f"bids:{tmp_path / 'bids'}?task=move&window=2&channels=C3,C4&events=769:left")
    assert (by_name.name, by_name.classes, by_name.channels) == ("bids", ("left",), ("C3", "C4"))
    assert by_name.subject.tolist() == [2, 2, 2, 2, 11, 11]
    assert by_name.session.tolist() == [1, 1, 2, 2, 1, 1]
    for k in range(3):
        x = signal(k)[[0, 2], 100:300]
        np.testing.assert_allclose(by_name.signal([2 * k])[0], x, atol=0.1)
    (tmp_path / "b.toml").write_text('bids = "bids"\ntask = "move"\nwindow = 4\n')
    whole = load(tmp_path / "b.toml")
    assert (whole.classes, len(whole), whole.n_chans) == (("769", "770"), 6, 3)
    with pytest.raises(RecordingError, match="no recording of BIDS task=rest"):
        load(f"bids:{tmp_path / 'bids'}?task=rest")
    with pytest.raises(RecordingError, match="could not convert"):
        load(f"bids:{tmp_path / 'bids'}?window=long")
