# SPDX-License-Identifier: Apache-2.0
"""A live session: samples into the live firmware, and what it predicts, stores and learns over
time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from biotrain.live.feeds import Chunk

RECENT = 60
"""Labelled windows over which the running accuracy is taken."""
OFF_AND_ON, POWER_LOST = "power off and on", "power lost while flash was written"
"""Texts of the notes on a restart."""


class SessionDevice(Protocol):
    """The live firmware, as far as a session needs it."""

    def play(self, frames: npt.ArrayLike, labels: npt.ArrayLike) -> Iterable[Any]:
        """Take samples [n_chans, n] with their labels [n], in time; returns the events
        (`DeviceEvent`)."""

    def idle(self, frames: int) -> Iterable[Any]:
        """Let the device work for as long as so many frames take, while none arrives; returns the
        events."""

    def gap(self, frames: int) -> Iterable[Any]:
        """Tell the device that so many samples were lost before the next one; returns the events
        until then."""

    def calibrate(self) -> None:
        """Begin a calibration on the stored windows."""

    def restart(self) -> SessionDevice:
        """The device after power off and on: RAM is lost, flash stays."""

    def crc32(self) -> int:
        """CRC-32 of the weights."""

    @property
    def off(self) -> bool:
        """Whether power has gone."""

    @property
    def mode(self) -> str:
        """What the firmware does: "record", "calibrate" or "use"."""

    @property
    def counters(self) -> dict[str, int]:
        """The counters since power came."""


@dataclass(frozen=True)
class SessionSettings:
    """How a session is played.

    fs: converter samples per second. span, hop: converter samples of a window, and from the
    beginning of one to that of the next. calibrate_after: a calibration begins whenever so many
    windows have been stored. told_s: seconds of signal after which the device is told no labels
    any more (None: it always is). restarts: power goes off and on between the stretches of a
    recording; else the device is told that signal is missing, as it is wherever samples were lost.
    """

    fs: float
    span: int
    hop: int
    classes: Sequence[str]
    calibrate_after: Sequence[int] = ()
    told_s: float | None = None
    restarts: bool = True


@dataclass(frozen=True)
class Prediction:
    """The prediction of one window; `label` -1: not known. `t`: seconds of signal since the
    session began."""

    t: float
    predicted: int
    label: int

    @property
    def right(self) -> bool | None:
        """Whether it agrees with the label; None where that is not known."""
        return None if self.label < 0 else self.predicted == self.label


@dataclass(frozen=True)
class Note:
    """An event that is not a prediction; `t`: seconds of signal since the session began."""

    t: float
    kind: str
    text: str


@dataclass
class Session:
    """What has happened in a session so far.

    t: seconds of signal. where: the stretch of the recording. calibrating: begin and end of each
    calibration, in seconds. counters: over all restarts. latest_s: longest time from the end of a
    window to its prediction, which the emulator counts. crc32: of the weights, at the end. gaps:
    where signal is missing, in seconds of signal, and how many samples (0: not known).
    """

    classes: Sequence[str]
    t: float = 0.0
    where: str = ""
    mode: str = "record"
    predictions: list[Prediction] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    calibrating: list[tuple[float, float]] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    latest_s: float = 0.0
    crc32: int = 0
    gaps: list[tuple[float, int]] = field(default_factory=list)

    def accuracy(self, begin: float = 0.0, end: float = float("inf")) -> float | None:
        """Share of the labelled windows in [begin, end) that were predicted right."""
        known = [p.right for p in self.predictions if p.label >= 0 and begin <= p.t < end]
        return sum(map(bool, known)) / len(known) if known else None

    def recent(self, last: int = RECENT) -> float | None:
        """Share of the newest `last` labelled windows that were predicted right."""
        known = [p.right for p in self.predictions if p.label >= 0][-last:]
        return sum(map(bool, known)) / len(known) if known else None

    @property
    def missed(self) -> int:
        """Windows that were due and neither predicted nor refused; frames that were lost count."""
        answered = ("predicted", "flat", "saturated", "nonfinite")
        due = self.counters.get("windows", 0) + self.counters.get("lost", 0)
        return due - sum(self.counters.get(name, 0) for name in answered)

    def to_json(self) -> dict[str, Any]:
        """The session as plain lists and dicts."""
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
            "gaps": self.gaps,
            "predictions": [asdict(p) for p in self.predictions],
            "latest_s": self.latest_s,
            "crc32": self.crc32,
        }


Watch = Callable[[Session], None]
"""Called after every chunk."""


def live(
    chunks: Iterable[Chunk],
    device: SessionDevice,
    settings: SessionSettings,
    watch: Watch | None = None,
) -> tuple[Session, SessionDevice]:
    """Play chunks into a device until they end.

    Each window is predicted before its label is used, so the accuracy is that of windows which the
    device has not learned from. Where power is lost (`cut`), it comes back with the next chunk, and
    the rest of this one is lost.

    Returns what happened until the chunks end or Ctrl-C, and the device (another one after a
    restart).
    """
    player = _Player(device, settings)
    session = player.session
    try:
        for chunk in chunks:
            if player.play(chunk) and watch:
                watch(session)
    except KeyboardInterrupt:  # a headset has no end: what has happened until now counts
        if not session.predictions:
            raise
    player.end()
    return session, player.device


class _Player:
    """Plays chunks into a device, restarts it and begins its calibrations, and records what it
    reports."""

    def __init__(self, device: SessionDevice, settings: SessionSettings) -> None:
        self.device, self.settings = device, settings
        self.session = Session(tuple(settings.classes))
        self._labels = _LabelHistory(settings.span, settings.hop)
        self._wanted = sorted(settings.calibrate_after)
        self._before_restart: dict[str, int] = {}
        self._calibrating_since: float | None = None

    def play(self, chunk: Chunk) -> bool:
        """One chunk; whether the device still has power after it."""
        session, settings = self.session, self.settings
        if self.device.off:
            self._restart()
        elif chunk.gap and session.t > 0:
            if settings.restarts and not chunk.lost:
                self._restart()
            else:
                self._gap(chunk.lost)
        session.where = chunk.where or session.where
        if chunk.note:
            self._note("feed", chunk.note)
        if not chunk.x.shape[1]:
            return True
        tells = settings.told_s is None or session.t < settings.told_s
        self._labels.add(chunk.labels)
        session.t += chunk.x.shape[1] / settings.fs
        told = chunk.labels if tells else np.full_like(chunk.labels, -1)
        self._record(self.device.play(chunk.x, told))
        if self.device.off:
            return False
        session.counters, session.mode = self._counters(), self.device.mode
        self._calibrate_when_due()
        if session.mode == "calibrate" and self._calibrating_since is None:
            self._calibrating_since = session.t
        if session.mode != "calibrate":
            self._close_calibration()
        return True

    def end(self) -> None:
        """The last window is still predicted, and the counters and weights are read."""
        self._close_calibration()
        if not self.device.off:
            self._record(self.device.idle(self.settings.hop))
            self.session.counters = self._counters()
            self.session.crc32 = self.device.crc32()

    def _restart(self) -> None:
        """Power off and on, or on again where it was lost."""
        text = POWER_LOST if self.device.off else OFF_AND_ON
        if not self.device.off:  # the last window is still due
            self._record(self.device.idle(self.settings.hop))
        self._before_restart = self._counters()
        self.device = self.device.restart()
        self._labels = _LabelHistory(self.settings.span, self.settings.hop, self.session.t)
        self._note("restarted", text)

    def _gap(self, lost: int) -> None:
        """The device is told that samples are missing, and begins a new window behind them."""
        self._record(self.device.gap(lost))
        number = self.device.counters.get("windows", 0)
        span, hop = self.settings.span, self.settings.hop
        self._labels = _LabelHistory(span, hop, self.session.t, number)
        self.session.gaps.append((self.session.t, lost))
        how_many = f"{lost} samples are lost" if lost else "signal is missing"
        self._note("gap", f"{how_many}: the device begins a new window")

    def _calibrate_when_due(self) -> None:
        session, stored = self.session, self.session.counters.get("stored", 0)
        if self._wanted and stored >= self._wanted[0] and session.mode != "calibrate":
            self._wanted.pop(0)
            self.device.calibrate()
            session.mode = self.device.mode
            self._note("calibrate", f"{stored} windows stored")

    def _close_calibration(self) -> None:
        if self._calibrating_since is not None:
            self.session.calibrating.append((self._calibrating_since, self.session.t))
            self._calibrating_since = None

    def _counters(self) -> dict[str, int]:
        """The counters over all restarts."""
        now, before = self.device.counters, self._before_restart
        return {key: before.get(key, 0) + now.get(key, 0) for key in {**before, **now}}

    def _note(self, kind: str, text: str) -> None:
        self.session.notes.append(Note(self.session.t, kind, text))

    def _record(self, events: Iterable[Any]) -> None:
        """Add events to the session."""
        session = self.session
        for event in events:
            if event.name == "predicted":
                end, label = self._labels.window(event.window)
                t = self._labels.begin_s + end / self.settings.fs
                session.predictions.append(Prediction(t, int(event.predicted), label))
                session.latest_s = max(session.latest_s, getattr(event, "late_s", 0.0))
                continue
            text = _in_words(event)
            # Of refusals in a row only the first is noted; the counters have them all.
            repeated = session.notes and session.notes[-1].text == text
            if not (event.name == "refused" and repeated):
                self._note(event.name, text)


class _LabelHistory:
    """The labels of the newest samples since power came, or since a gap, at `begin_s` seconds of
    signal; the first window from there on is the device's number `first_window`."""

    def __init__(self, span: int, hop: int, begin_s: float = 0.0, first_window: int = 0) -> None:
        self.span, self.hop, self.begin_s = span, hop, begin_s
        self._first_window = first_window
        self._labels = np.zeros(0, np.int64)
        self._first = 0  # number of the first sample whose label is still here

    def add(self, labels: npt.NDArray[np.int64]) -> None:
        """Append the labels of the samples that follow, and drop those of long ago."""
        spare = max(0, len(self._labels) - 8 * (self.span + self.hop))
        self._labels, self._first = self._labels[spare:], self._first + spare
        self._labels = np.concatenate([self._labels, labels])

    def window(self, number: int) -> tuple[int, int]:
        """One past the last sample of a window, and the label that all its samples have; -1 where
        they differ or have none."""
        begin = (number - self._first_window) * self.hop
        own = self._labels[max(begin - self._first, 0) : begin - self._first + self.span]
        same = len(own) == self.span and (own == own[0]).all()
        return begin + self.span, int(own[0]) if same else -1


def _in_words(event: Any) -> str:
    """The text of the note about an event."""
    if event.name == "calibrated":
        share = f"{100 * event.before:.0f} to {100 * event.best:.0f} % of the held-back"
        return f"kept: {share}" if event.kept else f"undone: {share}"
    status = getattr(event, "status", "")
    return f"{event.name}: {status}" if status else str(event.name)
