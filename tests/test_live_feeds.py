# SPDX-License-Identifier: Apache-2.0
"""Where live samples come from: a recording in time, LSL, BrainFlow, and cues."""

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
from biotrain.live import BrainFlow, Chunk, Cued, Lsl, Played, paced
from biotrain.live.feeds import label_of, steps_of
from biotrain.study.data.continuous import Continuous
from biotrain.study.data.recordings import RecordingError
from biotrain.study.data.synthetic_raw import continuous

CLASSES = ("rest", "fist")


@pytest.fixture(scope="module")
def emg() -> Continuous:
    return continuous("emg", subjects=1, sessions=2, trials=4)


def test_a_recording_is_played_whole_and_in_order(emg: Continuous) -> None:
    feed = Played(emg, 1)
    chunks = list(feed.chunks())
    whole = np.concatenate([part.x for part in emg.parts], axis=1)
    np.testing.assert_array_equal(np.concatenate([c.x for c in chunks], axis=1), whole)
    labels = np.concatenate([part.labels() for part in emg.parts])
    np.testing.assert_array_equal(np.concatenate([c.labels for c in chunks]), labels)
    assert [c.where for c in chunks if c.gap] == ["session 1", "session 2"]
    assert feed.seconds == whole.shape[1] / 200
    assert len(list(Played(emg, 1, [2]).chunks())) == len(chunks) // 2
    with pytest.raises(RecordingError, match="no subject 7; there are 1"):
        Played(emg, 7)


def test_time_passes_as_fast_as_asked(emg: Continuous) -> None:
    """A clock that only sleeping moves: the sum of the sleeps is the time that the signal takes."""
    slept: list[float] = []
    chunks = list(paced(Played(emg, 1), 4.0, 10.0, clock=lambda: sum(slept), sleep=slept.append))
    assert sum(c.x.shape[1] for c in chunks) == 2000
    assert sum(slept) == pytest.approx((10.0 - 0.05) / 4.0)
    assert not list(paced(Played(emg, 1), 0.0, 0.0))[1:]


def test_values_become_steps() -> None:
    x = np.array([0.26, -0.26, 1e30, -1e30, np.nan])
    top = 2**31 - 1
    np.testing.assert_array_equal(steps_of(x, 0.5), [1, -1, top, -(2**31), top])
    assert [label_of(t, CLASSES) for t in ("fist", "0", "2", "stop")] == [1, 0, -1, -1]


class Endless:
    """Silence in chunks of 25 samples."""

    name, fs, n_chans, scale, seconds = "silence", 100.0, 2, 1.0, None

    def chunks(self) -> Iterator[Chunk]:
        while True:
            yield Chunk(np.zeros((2, 25), np.int32), np.full(25, -1, np.int64))


def test_cues_are_the_labels() -> None:
    feed = Cued(Endless(), 3, 2.0, seed=1)
    labels = np.concatenate([c.labels for c in paced(feed, 0.0, 12.0)]).reshape(6, 200)
    assert (labels[:, :50] == -1).all()  # before anybody can have reacted
    asked = labels[:, 50]
    assert (labels[:, 50:] == asked[:, None]).all()
    assert sorted(asked[:3]) == sorted(asked[3:]) == [0, 1, 2]
    assert feed.cue == asked[-1]
    with pytest.raises(BioTrainError, match="lasts longer than"):
        Cued(Endless(), 3, 0.5)


@pytest.mark.extras
def test_brainflows_synthetic_board() -> None:
    """The real library and its own board, where the extra is installed."""
    pytest.importorskip("brainflow", reason="the extra `brainflow` is not installed")
    feed = BrainFlow(-1, 0.1, 2, kind="emg", channels=4)
    assert (feed.fs, feed.n_chans, feed.name) == (250.0, 4, "BrainFlow Synthetic")
    chunks = []
    for chunk in paced(feed, 1.0, 0.6):
        chunks.append(chunk)
        if len(chunks) == 2:
            feed._board.insert_marker(2)
    x = np.concatenate([c.x for c in chunks], axis=1)
    assert x.dtype == np.int32
    assert x.shape[0] == 4
    assert x.std() > 0
    labels = np.concatenate([c.labels for c in chunks])
    assert labels[0] == -1
    assert labels[-1] == 1
    assert not feed._board.is_prepared()  # released when the loop ended


@pytest.mark.extras
def test_an_lsl_stream() -> None:
    """An outlet in this process and the real liblsl, where the extra is installed."""
    pylsl = pytest.importorskip("pylsl", reason="the extra `lsl` is not installed")
    name = f"biotrain-{uuid.uuid4().hex}"
    info = pylsl.StreamInfo(name, "EMG", 2, 100.0, "float32", name)
    outlet = pylsl.StreamOutlet(info)
    marks = pylsl.StreamInfo(f"{name}-m", "Markers", 1, 0.0, "string", f"{name}-m")
    marker = pylsl.StreamOutlet(marks)
    feed = Lsl(name, 0.5, CLASSES, markers=f"{name}-m")
    assert (feed.fs, feed.n_chans) == (100.0, 2)
    for _ in range(50):
        if outlet.have_consumers() and marker.have_consumers():
            break
        time.sleep(0.05)
    stream = feed.chunks()
    begin = pylsl.local_clock()
    outlet.push_sample([9.0, 9.0], begin - 1.0)  # before the loop begins: left out
    time.sleep(0.3)
    # The loop begins with the first `next`, which these wait for; one marker is far ahead.
    sender = threading.Thread(target=_send, args=(outlet, marker, begin))
    sender.start()
    got: list[Chunk] = []
    while sum(c.x.shape[1] for c in got) < 10:
        got.append(next(stream))
    sender.join()
    x = np.concatenate([c.x for c in got], axis=1)
    np.testing.assert_array_equal(x, [np.arange(10), -np.arange(10)])
    labels = np.concatenate([c.labels for c in got])
    np.testing.assert_array_equal(labels, [-1] * 5 + [1] * 5)


def _send(outlet: Any, marker: Any, begin: float) -> None:
    time.sleep(0.3)
    marker.push_sample(["fist"], begin + 0.045)
    marker.push_sample(["rest"], begin + 60.0)
    time.sleep(0.2)
    for t in range(10):
        outlet.push_sample([0.5 * t, -0.5 * t], begin + 0.01 * t)


class FakeInlet:
    """As much of pylsl as the feed uses: nothing ever comes."""

    def __init__(self, info: object, **given: object) -> None:
        self._info = info

    def info(self) -> object:
        return self._info

    def open_stream(self, timeout: float) -> None:
        return

    def pull_chunk(self, timeout: float) -> tuple[list[float], list[float]]:
        return [], []


def fake_lsl(monkeypatch: pytest.MonkeyPatch, rate: float, there: bool = True) -> None:
    info = types.SimpleNamespace(
        name=lambda: "fake", nominal_srate=lambda: rate, channel_count=lambda: 2
    )
    module = types.ModuleType("pylsl")
    module.StreamInlet = FakeInlet  # type: ignore[attr-defined]
    module.resolve_byprop = lambda *_, **__: [info] if there else []  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pylsl", module)


def test_what_goes_wrong_with_a_stream_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_lsl(monkeypatch, 100.0)
    feed = Lsl("fake", 1.0, CLASSES, wait_s=0.01)
    with pytest.raises(BioTrainError, match=r"no sample for 0\.01 s"):
        next(feed.chunks())
    fake_lsl(monkeypatch, 0.0)
    with pytest.raises(BioTrainError, match="has no regular rate"):
        Lsl("fake", 1.0, CLASSES)
    fake_lsl(monkeypatch, 100.0, there=False)
    with pytest.raises(BioTrainError, match="no LSL stream is called 'fake'"):
        Lsl("fake", 1.0, CLASSES, wait_s=0.01)
    for name in ("pylsl", "brainflow", "brainflow.board_shim"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BioTrainError, match=r"needs pylsl: pip install 'biotrain\[lsl\]'"):
        Lsl("fake", 1.0, CLASSES)
    with pytest.raises(BioTrainError, match=r"needs brainflow: pip install"):
        BrainFlow(-1, 1.0, 2)
