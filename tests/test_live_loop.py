# SPDX-License-Identifier: Apache-2.0
"""The loop of `biotrain live`: what is predicted, learned, restarted, and how it is told."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from biotrain.live import Chunk, Session, SessionSettings, figure, live
from biotrain.live.session import _LabelHistory


class FakeDevice:
    """Predicts the label that it is told, class 0 before it has learned; learns in two chunks."""

    def __init__(self, span: int, hop: int, learned: bool = False) -> None:
        self.span, self.hop, self.learned = span, hop, learned
        self.frames, self.windows, self.left, self.stored = 0, 0, 0, 0
        self.told: list[int] = []
        self.lost: list[int] = []

    def play(self, frames: Any, labels: Any) -> Iterator[SimpleNamespace]:
        for label in labels:
            self.frames += 1
            self.told.append(int(label))
            if self.frames >= self.span and (self.frames - self.span) % self.hop == 0:
                number = self.windows
                self.windows += 1
                self.stored += int(label) >= 0
                seen = max(int(frames[0, 0]), 0)
                yield SimpleNamespace(
                    name="predicted", window=number, predicted=seen if self.learned else 0
                )
        if self.left:
            self.left -= 1
            if not self.left:
                self.learned = True
                yield SimpleNamespace(name="calibrated", kept=True, before=0.5, best=0.75)

    def idle(self, frames: int) -> list[SimpleNamespace]:
        self.idled = frames
        return []

    def gap(self, frames: int) -> list[SimpleNamespace]:
        self.frames, self.lost = 0, [*self.lost, frames]
        return []

    def calibrate(self) -> None:
        self.left = 2

    def restart(self) -> "FakeDevice":
        return FakeDevice(self.span, self.hop, self.learned)

    @property
    def off(self) -> bool:
        return False

    def crc32(self) -> int:
        return 0x1234

    @property
    def mode(self) -> str:
        return "calibrate" if self.left else "use" if self.learned else "record"

    @property
    def counters(self) -> dict[str, int]:
        return {"windows": self.windows, "predicted": self.windows, "stored": self.stored}


def chunks(labels: list[int], gaps: tuple[int, ...] = ()) -> list[Chunk]:
    """Chunks of 10 samples of one label each, which the signal holds too."""
    return [
        Chunk(np.full((1, 10), label), np.full(10, label), gap=k in gaps)
        for k, label in enumerate(labels)
    ]


def test_a_session_is_recorded() -> None:
    labels = [1, 1, 1, 0, 0, 0, 1, 1, 1, 1]
    seen: list[float] = []
    settings = SessionSettings(10.0, span=10, hop=10, classes=("a", "b"), calibrate_after=[3])
    found, _ = live(
        chunks(labels), FakeDevice(10, 10), settings, watch=lambda session: seen.append(session.t)
    )
    assert [p.label for p in found.predictions] == labels
    assert [p.t for p in found.predictions] == [float(k) for k in range(1, 11)]
    assert [p.right for p in found.predictions] == [False] * 3 + [True] * 7
    assert [n.kind for n in found.notes] == ["calibrate", "calibrated"]
    assert found.notes[1].text == "kept: 50 to 75 % of the held-back"
    assert found.calibrating == [(3.0, 5.0)]
    assert found.accuracy(0, 4) == 0.0
    assert found.accuracy(6) == 1.0
    assert found.recent(4) == 1.0
    assert (found.mode, found.crc32, found.missed) == ("use", 0x1234, 0)
    assert seen == [float(k) for k in range(1, 11)]
    told = found.to_json()
    assert told["accuracy_between_calibrations"] == [pytest.approx(0.25), 1.0]
    assert len(told["predictions"]) == 10
    assert figure(found, "title").axes[1].get_ylim()[1] > 1


def test_the_device_is_told_labels_for_so_long_only() -> None:
    device = FakeDevice(10, 10)
    settings = SessionSettings(10.0, span=10, hop=10, classes=("a", "b"), told_s=2.0)
    found, _ = live(chunks([1] * 6), device, settings)
    assert device.told == [1] * 20 + [-1] * 40
    assert [p.label for p in found.predictions] == [1] * 6  # but the loop knows


def test_a_gap_is_power_off_and_on() -> None:
    first = FakeDevice(20, 10, learned=True)
    settings = SessionSettings(10.0, span=20, hop=10, classes=("a", "b"))
    found, last = live(chunks([1] * 8, gaps=(0, 4)), first, settings)
    assert last is not first
    assert [n.text for n in found.notes] == ["power off and on"]
    # No window of 20 samples reaches over the gap at 4 s.
    assert [p.t for p in found.predictions] == [2.0, 3.0, 4.0, 6.0, 7.0, 8.0]
    assert found.counters["windows"] == 6
    first = FakeDevice(20, 10)
    _, same = live(chunks([1] * 8, gaps=(0, 4)), first, replace(settings, restarts=False))
    assert same is first
    assert first.lost == [0]


def test_lost_samples_are_told_to_the_device_and_to_the_person() -> None:
    """Power stays on, the window begins anew, and what is predicted afterwards is told by its
    time."""
    labels = [1, 1, 1, 0, 0, 0]
    played = chunks(labels)
    played[2] = replace(played[2], gap=True, lost=7)
    none = Chunk(np.zeros((1, 0), np.int64), np.zeros(0, np.int64), note="no sample for 1.0 s")
    device = FakeDevice(20, 10)
    settings = SessionSettings(10.0, span=20, hop=10, classes=("a", "b"))
    found, last = live([*played[:2], none, *played[2:]], device, settings)
    assert last is device
    assert device.lost == [7]
    assert [p.t for p in found.predictions] == [2.0, 4.0, 5.0, 6.0]  # no window over the gap
    assert [p.label for p in found.predictions] == [1, -1, 0, 0]
    assert [(n.t, n.kind, n.text) for n in found.notes] == [
        (2.0, "feed", "no sample for 1.0 s"),
        (2.0, "gap", "7 samples are lost: the device begins a new window"),
    ]
    assert found.to_json()["gaps"] == [(2.0, 7)]


def test_a_window_has_a_label_where_all_its_samples_have() -> None:
    history = _LabelHistory(20, 5)
    labels = np.repeat([0, 1, -1, 1], 30)
    for at in range(0, 120, 7):
        history.add(labels[at : at + 7])
    for number in range(21):
        begin = 5 * number
        own = set(labels[begin : begin + 20].tolist())
        assert history.window(number) == (begin + 20, own.pop() if len(own) == 1 else -1)
    assert history.window(21)[1] == -1  # not complete


def test_labels_of_long_ago_are_let_go() -> None:
    history = _LabelHistory(20, 5)
    for k in range(1000):
        history.add(np.full(5, k % 4))
    assert len(history._labels) < 500
    assert history.window(996)[0] == 5000


def test_nothing_happened() -> None:
    assert Session(("a", "b")).accuracy() is None
    figure(Session(("a", "b")))


def test_an_interrupt_ends_it_and_tells_what_was() -> None:
    def interrupted(after: int) -> Iterator[Chunk]:
        yield from chunks([1] * after)
        raise KeyboardInterrupt

    settings = SessionSettings(10.0, span=10, hop=10, classes=("a", "b"))
    found, _ = live(interrupted(3), FakeDevice(10, 10), settings)
    assert len(found.predictions) == 3
    assert found.crc32 == 0x1234
    with pytest.raises(KeyboardInterrupt):
        live(interrupted(0), FakeDevice(10, 10), settings)
