# SPDX-License-Identifier: Apache-2.0
"""Every reader of the table, against everything that makes labels or amplitudes wrong.

A new reader gets all of it by being in the table: it needs a function in tests/_formats.py that
writes the made recording in its format.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _formats import NO_PLACE, SPECIAL, TONE_STD, WRITERS, Example, channels, possible, written

from biotrain.frontend import read_front
from biotrain.study import load
from biotrain.study.data.matlab import check_readable
from biotrain.study.data.raw import CutRequest, RawSignal, Segment
from biotrain.study.data.readers.table import READERS
from biotrain.study.data.recordings import RecordingError, Recordings
from biotrain.study.data.sources import SCHEMES, load_continuous, recordings

EXAMPLES = {
    "plain": Example(),
    "unit": Example(unit="mV"),
    "rejected": Example(rejected=True),
    "bad channel": Example(bad_channel=True),
    "beyond": Example(beyond=True),
    **{
        " ".join(k for k, on in zip(("date", "gap", "first"), three, strict=True) if on): Example(
            date=three[0], gap=three[1], first_s=15.0 if three[2] else 0.0
        )
        for three in itertools.product((False, True), repeat=3)
        if any(three)
    },
}


def test_every_reader_is_in_the_matrix() -> None:
    """With all that makes labels or amplitudes wrong, but for what its format cannot hold."""
    assert set(WRITERS) == {*READERS, *SCHEMES, ".toml"}
    assert set(NO_PLACE) <= set(WRITERS)
    held = {kind: [k for k in SPECIAL if k not in NO_PLACE.get(kind, {})] for kind in WRITERS}
    assert all(set(some) <= set(SPECIAL) for some in NO_PLACE.values())
    assert all(len(some) >= 4 for some in held.values())


def matrix(*names: str) -> list[Any]:
    """Every format with every example that it can hold."""
    marks = {"moabb:": pytest.mark.extras}
    return [
        pytest.param(kind, name, marks=marks.get(kind, ()))
        for kind in WRITERS
        for name in (names or EXAMPLES)
        if possible(kind, EXAMPLES[name])
    ]


def is_right(rec: Recordings, within: float = 2.0) -> None:
    """Windows of "tone" hold the tone, those of "rest" do not, to `within` microvolts."""
    spread = rec.signal()[:, 0].std(axis=1)
    tone = rec.y == rec.classes.index("tone")
    np.testing.assert_allclose(spread[tone], TONE_STD, atol=within)
    assert (spread[~tone] < within).all()


@pytest.mark.parametrize(("kind", "name"), matrix())
def test_windows(kind: str, name: str, tmp_path: Path) -> None:
    windows_are_right(kind, name, tmp_path)


def windows_are_right(kind: str, name: str, tmp_path: Path) -> None:
    """The windows of an example in a format: their signal, labels and number, and what is told."""
    example = EXAMPLES[name]
    source = written(kind, tmp_path, example)
    rec = load(source, window_s=2.0)
    is_right(rec, within=5.0 if kind == "moabb:" else 2.0)  # its paradigm filters around the tone
    counts = {c: int((rec.y == k).sum()) for k, c in enumerate(rec.classes)}
    assert counts == example.counts()
    left_out = sum(one.count for one in rec.left_out)
    told = " ".join(rec.notes)
    if example.rejected:
        assert left_out >= 1
    if example.bad_channel:
        assert "bad channels are kept" in told
        good, bad = channels(kind)
        assert bad in told
        more = "&" if "?" in source else "?"
        assert load(f"{source}{more}bad_channels=drop", window_s=2.0).channels == (good,)
        silent = load(f"{source}{more}bad_channels=zero", window_s=2.0)
        assert not silent.signal()[:, 1].any()
    if example.gap:
        assert "missing" in told or "paused" in told


def _late(raw: RawSignal) -> RawSignal:
    marks = [replace(mark, onset_s=mark.onset_s + 15.0) for mark in raw.marks]
    return replace(raw, marks=tuple(marks))


SPOILED: dict[str, Callable[[RawSignal], RawSignal]] = {
    "unit": lambda raw: replace(raw, x=raw.x / 1000),
    "gap": lambda raw: replace(raw, segments=(Segment(0, 0.0),)),
    "rejected": lambda raw: replace(raw, marks=tuple(m for m in raw.marks if not m.rejects)),
    "bad channel": lambda raw: replace(raw, bads=()),
    "first": _late,
    "date": _late,
}
"""What readers have done wrong: units unread, gaps unseen, times from another zero."""


@pytest.mark.parametrize("place", [365, 1089])
def test_a_file_that_ends_its_reader_is_one_line(place: int, tmp_path: Path) -> None:
    """Bytes of a MATLAB file at which scipy's reader in C loses its way."""
    scipy_io = pytest.importorskip("scipy.io")
    label, event = [("labels", object)], [("type", object), ("latency", float)]
    content = {
        "srate": 100.0,
        "nbchan": 2,
        "trials": 1,
        "pnts": 50,
        "data": np.zeros((2, 50), np.float32),
        "chanlocs": np.array([("C3",), ("C4",)], label),
        "event": np.array([("a", 1.0)], event),
    }
    scipy_io.savemat(tmp_path / "a.set", {"EEG": content})
    data = bytearray((tmp_path / "a.set").read_bytes())
    data[place] = 1
    (tmp_path / "a.set").write_bytes(bytes(data))
    with pytest.raises(RecordingError, match=r"a\.set"):
        check_readable(tmp_path / "a.set")
    pytest.importorskip("mne")
    with pytest.raises(RecordingError, match="reading it ended the process"):
        load(str(tmp_path / "a.set"))


@pytest.mark.parametrize("name", SPOILED)
def test_a_reader_that_lacks_something_fails(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new reader gets the whole matrix by being in the table, so it cannot lack any of it."""
    kind = ".edf" if name == "rejected" else ".csv"  # in a column BAD ends an event in any case
    right = READERS[kind]
    windows_are_right(kind, name, tmp_path)

    def wrong(path: Path, request: CutRequest) -> RawSignal:
        return SPOILED[name](right(path, request))

    monkeypatch.setitem(READERS, kind, wrong)  # type: ignore[arg-type]
    with pytest.raises((AssertionError, RecordingError)):
        windows_are_right(kind, name, tmp_path)
    monkeypatch.setitem(READERS, ".new", right)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        test_every_reader_is_in_the_matrix()


@pytest.mark.parametrize(("kind", "name"), matrix("plain", "rejected", "date first", "gap"))
def test_through_a_front_end(kind: str, name: str, tmp_path: Path) -> None:
    """The same through the device's own windows: none mixes tone and rest."""
    source = written(kind, tmp_path, EXAMPLES[name])
    held = load_continuous(source)
    assert held is not None
    assert len(held.parts) == (2 if EXAMPLES[name].gap else 1)
    spec = read_front({"window_s": 1.0, "hop_s": 0.25, "unit": 0.1, "reference": "none"})
    rec, note = recordings(source, None, spec)
    assert "through the front end in C" in note
    is_right(rec)
    assert set(rec.classes) == {"tone", "rest"}
    assert len(set(rec.y.tolist())) == 2
    if EXAMPLES[name].rejected:
        assert np.ptp(rec.signal(), axis=2).max() < 500
