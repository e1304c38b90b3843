# SPDX-License-Identifier: Apache-2.0
"""Streams of real senders: two computers' clocks, lost samples, markers of every type, cues."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import types
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from biotrain.errors import BioTrainError
from biotrain.live import BrainFlow, Chunk, Cued, Lsl
from biotrain.live.feeds import divided, label_of
from biotrain.live.gaps import Stamps, counter_gaps

FS = 100.0

SENDER = """
import os, sys, time, pylsl
what, name, form, source, zero, seconds = sys.argv[1:]
zero, seconds = float(zero), float(seconds)
kind, rate, form = ("EEG", 100, "float32") if what == "data" else ("Markers", 0, form)
out = pylsl.StreamOutlet(pylsl.StreamInfo(name, kind, 1, rate, form, source))
out.wait_for_consumers(30)
k, last = int((time.time() - zero) * 100) + 1, None
begun = time.time()
print("there", flush=True)
while time.time() - begun < seconds:
    time.sleep(0.005)
    late, now = time.time() - zero, pylsl.local_clock()
    while what == "data" and k <= late * 100:  # sample k is that of k / 100 s after `zero`
        out.push_sample([float(k)], now - (late - k / 100))
        k += 1
    if what != "data" and int(late / 1.5) != last:
        first, last = last is None, int(late / 1.5)
        code = last % 2
        value = {"string": ["rest", "fist"][code], "float32": float(code), "int32": code}[form]
        at, wall = pylsl.local_clock(), time.time()
        out.push_sample([value], at)
        print(repr(wall), code, flush=True)
os._exit(1)  # as a computer that lost its power
"""


class Sender:
    """A process that sends, with a clock that is `shift_s` seconds ahead: a sample a hundredth of
    a second, whose value says when it was taken, or a marker every 1.5 s."""

    def __init__(self, *given: object, shift_s: int = 0) -> None:
        """given: "data" or "marks", name, format, source, zero of time, seconds."""
        command = [sys.executable, "-c", SENDER, *map(str, given)]
        if shift_s:
            command = ["unshare", "-T", "--monotonic", str(shift_s), *command]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def end(self) -> list[tuple[float, int]]:
        """End it; when it sent which marker."""
        self.process.kill()
        lines = self.process.communicate()[0].splitlines()
        pairs = [line.split() for line in lines if line != "there"]
        return [(float(wall), int(code)) for wall, code in pairs]


@pytest.fixture(scope="module")
def clocks() -> None:
    """A process can have a clock of its own."""
    pytest.importorskip("pylsl", reason="the extra `lsl` is not installed")
    try:
        tried = ["unshare", "-T", "--monotonic", "5", "true"]
        failed = subprocess.run(tried, capture_output=True, check=False).returncode
    except FileNotFoundError:
        failed = 1
    if failed:
        pytest.skip("no clock of its own for a process (unshare -T) on this machine")


def labels_are_right(got: list[Chunk], zero: float, marks: list[tuple[float, int]]) -> None:
    """Every change of label lies within a sample and a half of the marker that made it."""
    index = np.concatenate([c.x[0] for c in got])
    labels = np.concatenate([c.labels for c in got])
    checked = 0
    for when, code in marks:
        due = (when - zero) * FS
        near = (index > due - 75) & (index < due + 75)
        if near.sum() < 148:  # samples around it are lost
            continue
        before, after = near & (index < due - 1.5), near & (index > due + 1.5)
        assert (labels[after] == code).all()
        assert (labels[before] != code).all()
        checked += 1
    assert checked >= 2


def gathered(feed: Lsl, seconds: float) -> list[Chunk]:
    """The chunks of so many seconds."""
    got: list[Chunk] = []
    begun = time.monotonic()
    for chunk in feed.chunks():
        got.append(chunk)
        if time.monotonic() - begun > seconds:
            break
    return got


@pytest.mark.extras
@pytest.mark.parametrize("form", ["string", "float32", "int32"])
def test_labels_of_another_clock_are_right_to_one_sample(form: str, clocks: None) -> None:
    name, zero = f"biotrain-{uuid.uuid4().hex}", time.time()
    data = Sender("data", name, "-", name, zero, 30)
    marks = Sender("marks", f"{name}-m", form, f"{name}-m", zero, 30, shift_s=5000)
    try:
        got = gathered(Lsl(name, 1.0, ("rest", "fist"), f"{name}-m", wait_s=10.0), 5)
    finally:
        data.end()
        sent = marks.end()
    assert (np.diff(np.concatenate([c.x[0] for c in got])) == 1).all()
    assert not any(c.lost for c in got)
    labels_are_right(got, zero, sent[1:])


@pytest.mark.extras
@pytest.mark.parametrize("source", ["", "named"])
def test_a_stream_that_dies_and_comes_back(source: str, clocks: None) -> None:
    """From another process with another clock, whether liblsl finds it again by itself (it named
    its source) or not: the lost samples are counted, and labels are right before and after."""
    name, zero = f"biotrain-{uuid.uuid4().hex}", time.time()
    source = f"{name}-{source}" if source else ""
    first = Sender("data", name, "-", source, zero, 4)
    marks = Sender("marks", f"{name}-m", "string", f"{name}-m", zero, 60, shift_s=5000)
    others: list[Sender] = []
    try:
        feed = Lsl(name, 1.0, ("rest", "fist"), f"{name}-m", wait_s=10.0)
        again = threading.Timer(
            6.0, lambda: others.append(Sender("data", name, "-", source, zero, 60, shift_s=300))
        )
        again.start()
        got = gathered(feed, 12)
    finally:
        for one in (first, *others):
            one.end()
        sent = marks.end()
    index = np.concatenate([c.x[0] for c in got])
    jumps = np.flatnonzero(np.diff(index) != 1)
    assert len(jumps) == 1
    missing = int(index[jumps[0] + 1] - index[jumps[0]]) - 1
    (gap,) = [c for c in got if c.lost]
    assert gap.gap
    assert gap.x[0, 0] == index[jumps[0] + 1]
    assert abs(gap.lost - missing) <= 1
    assert any("waiting up to 60 s for the stream" in c.note for c in got)
    labels_are_right(got, zero, sent[1:])


@pytest.mark.extras
def test_what_a_stream_of_markers_said_before_it_died_does_not_hold_afterwards(
    clocks: None,
) -> None:
    name, zero = f"biotrain-{uuid.uuid4().hex}", time.time()
    data = Sender("data", name, "-", name, zero, 60)
    marks = Sender("marks", f"{name}-m", "string", "", zero, 3)
    try:
        got = gathered(Lsl(name, 1.0, ("rest", "fist"), f"{name}-m", wait_s=10.0), 6)
    finally:
        data.end()
        marks.end()
    labels = np.concatenate([c.labels for c in got])
    assert (labels[-100:] == -1).all()
    assert (labels >= 0).any()
    assert any("stream of markers is lost: no labels" in c.note for c in got)


def test_lost_samples_show_in_the_stamps() -> None:
    """Exact stamps, jitter, a drifting clock and a gap: found where it is, as long as it is."""
    rng = np.random.default_rng(0)
    for jitter_s in (0.0, 0.001):
        clock = Stamps(250.0)
        t = np.arange(5000) / 250.0 * 1.00005 + 7000  # 50 ppm fast
        t[2503:] += 12 / 250.0
        t += jitter_s * rng.standard_normal(len(t))
        found = [
            (at + k, lost) for k in range(0, 5000, 20) for at, lost in clock.gaps(t[k : k + 20])
        ]
        assert found == [(2503, 12)]


def test_lost_packages_show_in_the_counter() -> None:
    counts = np.arange(600) % 256
    kept = np.delete(counts, [100, 101, 300])
    assert counter_gaps(kept, None) == [(100, 2), (298, 1)]
    assert counter_gaps(kept[100:], float(kept[99])) == [(0, 2), (198, 1)]
    assert counter_gaps(np.zeros(50), 0.0) == []  # a board without a counter
    assert counter_gaps(np.arange(0, 40, 2) % 256, None) == []  # a sample per two packages


def test_a_chunk_is_divided_at_its_gaps() -> None:
    chunk = Chunk(np.arange(10)[None], np.zeros(10, np.int64), "here")
    first, second = divided(chunk, [(4, 3)])
    assert (first.x.shape[1], first.gap, first.lost) == (4, False, 0)
    assert (second.x[0, 0], second.gap, second.lost) == (4, True, 3)
    (whole,) = divided(chunk, [(0, 2)])
    assert (whole.gap, whole.lost, whole.where) == (True, 2, "here")


def test_markers_of_every_type() -> None:
    classes = ("rest", "fist")
    named = [label_of(text, classes) for text in ("fist", "1", "1.0", "0.0", "2", "0.5", "stop")]
    assert named == [1, 1, 1, 0, -1, -1, -1]


class Late:
    """A feed whose first chunk has waited for three seconds."""

    name, fs, n_chans, scale, seconds = "late", 100.0, 1, 1.0, None

    def chunks(self) -> Iterator[Chunk]:
        yield Chunk(np.zeros((1, 100), np.int32), np.full(100, -1, np.int64), age_s=2.0)
        for _ in range(100):
            yield Chunk(np.zeros((1, 5), np.int32), np.full(5, -1, np.int64))


def test_no_label_is_older_than_its_cue() -> None:
    labels = np.concatenate([c.labels for c in Cued(Late(), 2, 4.0).chunks()])
    assert (labels[:350] == -1).all()  # the backlog, and half a second to react
    assert (labels[350:400] >= 0).all()


class Board:
    """As much of BrainFlow as the feed uses: a counter that skips three packages."""

    calls = 0

    def __init__(self, number: int, given: object) -> None:
        self.there = True

    @staticmethod
    def disable_board_logger() -> None:
        return

    @staticmethod
    def get_board_descr(number: int) -> dict[str, Any]:
        return {
            "name": "Fake", "sampling_rate": 250, "eeg_channels": [1, 2], "marker_channel": 3,
            "package_num_channel": 0,
        }  # fmt: skip

    def prepare_session(self) -> None:
        return

    start_stream = prepare_session

    def is_prepared(self) -> bool:
        return self.there

    def release_session(self) -> None:
        self.there = False

    def get_board_data(self) -> np.ndarray:
        """First what came while the network was made, then ten samples at a time."""
        self.calls += 1
        data = np.zeros((4, 10))
        data[0] = np.arange(10) + 10 * self.calls + (3 if self.calls > 2 else 0)
        data[1] = self.calls
        return data


def fake_brainflow(monkeypatch: pytest.MonkeyPatch, board: type = Board) -> None:
    import enum

    shim, codes = types.ModuleType("brainflow.board_shim"), types.ModuleType("brainflow.exit_codes")
    shim.BoardShim, shim.BrainFlowInputParams = board, types.SimpleNamespace  # type: ignore[attr-defined]
    shim.BoardIds = enum.IntEnum("BoardIds", {"SYNTHETIC_BOARD": -1, "CYTON_BOARD": 0})  # type: ignore[attr-defined]
    codes.BrainFlowError = RuntimeError  # type: ignore[attr-defined]
    for module in (types.ModuleType("brainflow"), shim, codes):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_a_board_by_name_its_scale_its_backlog_and_lost_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_brainflow(monkeypatch)
    feed = BrainFlow("cyton", None, 2)
    assert feed.scale == pytest.approx(0.02235, rel=1e-3)
    stream = feed.chunks()
    first, second = next(stream), next(stream)
    assert first.x[0, 0] == round(2 / feed.scale)  # the backlog, of value 1, is left out
    assert (first.lost, second.lost, second.gap) == (0, 3, True)
    stream.close()  # type: ignore[attr-defined]
    with pytest.raises(BioTrainError, match="no board 'citon'; there are cyton"):
        BrainFlow("citon", None, 2)
    with pytest.raises(BioTrainError, match="has no emg channels; it has: eeg"):
        BrainFlow("synthetic", 0.1, 2, kind="emg")


def test_a_board_that_is_not_there_names_the_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Board):
        def prepare_session(self) -> None:
            raise RuntimeError("BOARD_NOT_READY_ERROR:7")

    fake_brainflow(monkeypatch, Gone)
    with pytest.raises(BioTrainError, match=r"BOARD_NOT_READY_ERROR:7; serial ports: "):
        BrainFlow("cyton", None, 2)
