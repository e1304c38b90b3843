# SPDX-License-Identifier: Apache-2.0
"""The loop: samples into a device that lives, and what it predicts, stores and learns over time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from biotrain.live.feeds import Chunk

RECENT = 60
"""Labelled windows that the running accuracy is of."""
OFF_AND_ON, POWER_LOST = "power off and on", "power lost while flash was written"


class Body(Protocol):
    """A device that lives: what `biotrain live` needs of it."""

    def play(self, frames: npt.ArrayLike, labels: npt.ArrayLike) -> Iterable[Any]:
        """Take samples [n_chans, n] with their labels in time; the events (`Seen`)."""

    def settle(self, frames: int) -> Iterable[Any]:
        """No samples come for as long as so many would take; the events."""

    def calibrate(self) -> None:
        """Begin to learn from what is stored."""

    def again(self) -> Body:
        """Power off and on: RAM is lost, flash stays."""

    def crc32(self) -> int:
        """Of the weights."""

    @property
    def off(self) -> bool:
        """Whether power has gone."""

    @property
    def mode(self) -> str:
        """record, calibrate or use."""

    @property
    def counted(self) -> dict[str, int]:
        """Counters since power came."""


@dataclass(frozen=True)
class Prediction:
    """One window; `label` -1: nobody knows. `t`: seconds of signal since the beginning."""

    t: float
    predicted: int
    label: int

    @property
    def right(self) -> bool | None:
        """None where nobody knows."""
        return None if self.label < 0 else self.predicted == self.label


@dataclass(frozen=True)
class Note:
    """Something that happened beside predictions."""

    t: float
    kind: str
    text: str


@dataclass
class Life:
    """What a device has done so far."""

    classes: Sequence[str]
    t: float = 0.0
    where: str = ""
    mode: str = "record"
    predictions: list[Prediction] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    calibrating: list[tuple[float, float]] = field(default_factory=list)
    """From when to when it learned."""
    counters: dict[str, int] = field(default_factory=dict)
    """Over all power cycles."""
    latest_s: float = 0.0
    """Longest from the end of a window to its prediction; the emulator counts that time."""
    crc32: int = 0

    def accuracy(self, begin: float = 0.0, end: float = float("inf")) -> float | None:
        """Share of the labelled windows in [begin, end) that were predicted right."""
        known = [p.right for p in self.predictions if p.label >= 0 and begin <= p.t < end]
        return sum(map(bool, known)) / len(known) if known else None

    def recent(self, last: int = RECENT) -> float | None:
        """The same of the newest labelled windows."""
        known = [p.right for p in self.predictions if p.label >= 0][-last:]
        return sum(map(bool, known)) / len(known) if known else None

    @property
    def missed(self) -> int:
        """Windows that were due and neither predicted nor refused; frames that were lost count."""
        told = ("predicted", "flat", "saturated", "nonfinite")
        due = self.counters.get("windows", 0) + self.counters.get("lost", 0)
        return due - sum(self.counters.get(name, 0) for name in told)

    def to_json(self) -> dict[str, Any]:
        """As plain lists and dicts."""
        begins = [0.0, *(end for _, end in self.calibrating)]
        ends = [*begins[1:], self.t]
        return {
            "seconds": self.t,
            "classes": list(self.classes),
            "accuracy": self.accuracy(),
            "accuracy_between_calibrations": [
                self.accuracy(a, b) for a, b in zip(begins, ends, strict=True)
            ],
            "counters": self.counters,
            "notes": [asdict(note) for note in self.notes],
            "calibrating": self.calibrating,
            "predictions": [asdict(p) for p in self.predictions],
            "latest_s": self.latest_s,
            "crc32": self.crc32,
        }


Watch = Callable[[Life], None]


def live(
    chunks: Iterable[Chunk],
    body: Body,
    *,
    fs: float,
    span: int,
    hop: int,
    classes: Sequence[str],
    calibrate_after: Sequence[int] = (),
    told_s: float | None = None,
    restarts: bool = True,
    watch: Watch | None = None,
) -> tuple[Life, Body]:
    """Play chunks into a device until they end.

    Each window is predicted before its label is used, so the accuracy is that of windows which the
    device has not learned from.

    fs : converter samples per second.
    span, hop : samples of the converter that a window is made of, and from one to the next.
    calibrate_after : a calibration begins whenever so many windows have been stored.
    told_s : seconds of signal after which the device is told no labels any more.
    restarts : power goes off and on wherever signal is missing; else the device sees a jump. Where
        power is lost (`cut`), it comes back with the next chunk, and the rest of this one is lost.

    Returns what happened until the chunks end or Ctrl-C, and the device (another one after a
    restart).
    """
    life = Life(tuple(classes))
    wanted = sorted(calibrate_after)
    before: dict[str, int] = {}
    began: float | None = None
    heard = _Heard(span, hop)
    try:
        for chunk in chunks:
            if body.off or (chunk.gap and life.t > 0 and restarts):
                text = POWER_LOST if body.off else OFF_AND_ON
                if not body.off:
                    _heard_of(life, heard, body.settle(hop), fs)  # the last window is still due
                before = _sum(before, body.counted)
                body = body.again()
                heard = _Heard(span, hop, life.t)
                life.notes.append(Note(life.t, "restarted", text))
            life.where = chunk.where or life.where
            if chunk.note:
                life.notes.append(Note(life.t, "feed", chunk.note))
            told = chunk.labels if told_s is None or life.t < told_s else 0 * chunk.labels - 1
            heard.add(chunk.labels)
            life.t += chunk.x.shape[1] / fs
            _heard_of(life, heard, body.play(chunk.x, told), fs)
            if body.off:
                continue
            counted = _sum(before, body.counted)
            life.counters, life.mode = counted, body.mode
            if wanted and counted.get("stored", 0) >= wanted[0] and body.mode != "calibrate":
                wanted.pop(0)
                body.calibrate()
                life.mode = body.mode
                life.notes.append(Note(life.t, "calibrate", f"{counted['stored']} windows stored"))
            if life.mode == "calibrate" and began is None:
                began = life.t
            if life.mode != "calibrate" and began is not None:
                life.calibrating.append((began, life.t))
                began = None
            if watch:
                watch(life)
    except KeyboardInterrupt:  # a headset has no end: what has happened until now counts
        if not life.predictions:
            raise
    if began is not None:
        life.calibrating.append((began, life.t))
    if not body.off:
        _heard_of(life, heard, body.settle(hop), fs)
        life.counters = _sum(before, body.counted)
        life.crc32 = body.crc32()
    return life, body


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


class _Heard:
    """The labels of the newest samples since power came; `begin_s` is when that was."""

    def __init__(self, span: int, hop: int, begin_s: float = 0.0) -> None:
        self.span, self.hop, self.begin_s = span, hop, begin_s
        self._held = np.zeros(0, np.int64)
        self._first = 0  # which sample the first that is held is

    def add(self, labels: npt.NDArray[np.int64]) -> None:
        """Labels of the samples that follow."""
        spare = max(0, len(self._held) - 8 * (self.span + self.hop))
        self._held, self._first = self._held[spare:], self._first + spare
        self._held = np.concatenate([self._held, labels])

    def window(self, number: int) -> tuple[int, int]:
        """One past the last sample of a window, and the label of all its samples; -1: none."""
        begin = number * self.hop
        held = self._held[max(begin - self._first, 0) : begin - self._first + self.span]
        same = len(held) == self.span and (held == held[0]).all()
        return begin + self.span, int(held[0]) if same else -1


def _heard_of(life: Life, heard: _Heard, events: Iterable[Any], fs: float) -> None:
    """Writes events down."""
    for event in events:
        if event.name == "predicted":
            end, label = heard.window(event.window)
            t = heard.begin_s + end / fs
            life.predictions.append(Prediction(t, int(event.predicted), label))
            life.latest_s = max(life.latest_s, getattr(event, "late_s", 0.0))
            continue
        note = Note(life.t, event.name, _in_words(event))
        if not (event.name == "refused" and life.notes and life.notes[-1].text == note.text):
            life.notes.append(note)  # of refusals in a row the first; the counters have them all


def _in_words(event: Any) -> str:
    if event.name == "calibrated":
        share = f"{100 * event.before:.0f} to {100 * event.best:.0f} % of the held-back"
        return f"kept: {share}" if event.kept else f"undone: {share}"
    status = getattr(event, "status", "")
    return f"{event.name}: {status}" if status else str(event.name)
