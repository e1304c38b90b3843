# SPDX-License-Identifier: Apache-2.0
"""What every reader fills: the signal of one file, where its samples lie in time, and its events.

Readers know file formats; everything that is a rule for all of them (which windows are cut, what is
rejected, how files of a set agree) is written once, in biotrain.study.data.cut and .join.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.study.data.recordings import RecordingError

KINDS = ("eeg", "emg", "eog", "seeg", "ecog", "ecg")
"""Kinds of channels that a network is trained on; the first that a recording has is read."""

MICROVOLTS: Mapping[str, float] = {"v": 1e6, "mv": 1e3, "uv": 1.0, "nv": 1e-3, "pv": 1e-6}
"""Microvolts per unit, for units of voltage in lower case with "u" for the micro sign."""

OTHER_KINDS = ("temp", "stim", "misc", "resp", "bio", "ref_meg", "exci", "gsr", "syst")
"""Kinds of channels that are never taken for the signal of a network unless they are named."""

KIND_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("stim", ("status", "trigger", "trig", "marker", "stim", "sti", "event")),
    ("temp", ("temp", "temperature")),
    ("resp", ("resp", "airflow", "flow", "abdomen", "thorax", "chest", "snore")),
    ("misc", ("spo2", "sao2", "pulse", "hr", "pleth", "position", "light", "acc", "accel", "gyro")),
    ("misc", ("aux", "battery", "counter", "timestamp", "body", "gsr", "package", "annotations")),
    ("eog", ("eog", "heog", "veog")),
    ("emg", ("emg",)),
    ("ecg", ("ecg", "ekg")),
    ("eeg", ("eeg",)),
)
"""Words in a channel's name that say what it records, where the format itself does not."""


def normal(text: str) -> str:
    """Text in one Unicode form (NFC), so that a composed letter equals a decomposed one."""
    return unicodedata.normalize("NFC", text).strip()


def microvolts(unit: str) -> float | None:
    """Microvolts per `unit` ("uV", "µV", "mV", "microvolt", in any case); None: not a voltage."""
    text = normal(unit).replace("µ", "u").replace("μ", "u").lower().strip("[]() .")
    for word, short in (("micro", "u"), ("milli", "m"), ("nano", "n")):
        text = text.replace(word, short)
    return MICROVOLTS.get(text.replace("volts", "v").replace("volt", "v"))


def kind_of(name: str, unit: str = "uV", default: str = "eeg") -> str:
    """What a channel records, by the words of its name; `misc` where `unit` is no voltage and no
    word says more, and `default` where nothing says anything."""
    letters = "".join(c if c.isalnum() else " " for c in name.lower())
    words = [word.rstrip("0123456789") or word for word in letters.split()] + letters.split()
    for kind, known in KIND_WORDS:
        if any(word in known for word in words):
            return kind
    return default if not unit or microvolts(unit) is not None else "misc"


def rejecting(text: str) -> bool:
    """Whether the name of an event, or of a class, says that nobody should learn from it."""
    return text.upper().startswith(("BAD", "EDGE"))


@dataclass(frozen=True)
class Mark:
    """An event: seconds on the clock of its recording, whose zero is the first sample.

    segment : the only segment that it belongs to, where segments overlap in time (epochs).
    """

    onset_s: float
    duration_s: float
    text: str
    segment: int | None = None

    @property
    def rejects(self) -> bool:
        """Whether it marks signal that nobody should learn from, by MNE's convention."""
        return rejecting(self.text)


@dataclass(frozen=True)
class Segment:
    """A stretch without lost samples: its first sample, and when that was recorded (s)."""

    first: int
    time_s: float


@dataclass(frozen=True)
class Place:
    """Whose a file is, in words; `label`: the class of all of it; `repetition`: of its task."""

    subject: str = ""
    session: str = ""
    run: str = ""
    repetition: str = ""
    label: str = ""


@dataclass(frozen=True)
class Events:
    """Where labels come from, and what they mean.

    source : "" (annotations, else a file beside the recording, else the codes of a trigger
        channel); "annotations"; "stim" (any trigger channel); "channel:NAME", the codes or words of
        that channel or column; "file:PATTERN", a file beside the recording, where {stem} and {name
        of a part of the pattern} and * may stand.
    column : of a table of events, what holds the class; trial_type, else value, where it is "".
    classes : description -> class, in the order of the classes; what is not in it is left out;
        empty: every description is a class. A class named BAD... marks signal that is rejected.
    """

    source: str = ""
    column: str = ""
    classes: Mapping[str, str] = field(default_factory=dict)

    def rejects(self, mark: Mark) -> bool:
        """Whether a mark is one of bad signal: by its class, or by its own name without one."""
        return rejecting(self.classes.get(mark.text, mark.text))


@dataclass(frozen=True)
class CutRequest:
    """How windows are cut from recordings; times in seconds.

    window_s: their length; None: the shortest event. tmin_s: from the onset of an event to its
    first window. hop_s: to the next one, as many as fit into the event; None: window_s.
    duration_s: of events that are shorter; 0: as long as they are, markers until the next event.
    channels: names; empty: all of `kind`; kind "": the first of KINDS that is there.
    only_common: of files that differ in channels, those that all have. resample: files that differ
    in rate are brought to the lowest. bads: channels that are bad in every file, beside those that
    a file names. bad_channels: "keep", "drop" (from every file) or "zero".
    reject_uv: windows whose peak-to-peak amplitude exceeds it in any channel are left out, as
    `reject` of MNE. scale: from volts to the unit of the recordings. fs: of tables that do not say
    their rate.
    """

    window_s: float | None = None
    tmin_s: float = 0.0
    hop_s: float | None = None
    duration_s: float = 0.0
    events: Events = field(default_factory=Events)
    channels: tuple[str, ...] = ()
    kind: str = ""
    only_common: bool = False
    resample: bool = False
    bads: tuple[str, ...] = ()
    bad_channels: str = "keep"
    reject_uv: float | None = None
    scale: float = 1e6
    fs: float | None = None


@dataclass(frozen=True, eq=False)
class RawSignal:
    """The signal of one file as its reader found it.

    x : float64 [channels, samples] in `units`, where voltages are microvolts.
    codes : integers or words [samples] of trigger channels and label columns, by name.
    marks : events on the clock of the recording. segments : where that clock jumps.
    epoched : whether segments are windows already.
    begin : when its first sample was recorded; None: the file does not say. cut_s : how much of the
        acquisition lies before its first sample (FIF).
    others : channels that the reader did not read, each with its kind. notes : what the reader was
    told by others, and what it assumed.
    """

    path: Path
    x: NDArray[np.float64]
    fs: float
    channels: tuple[str, ...]
    kinds: tuple[str, ...]
    units: tuple[str, ...]
    bads: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    codes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    segments: tuple[Segment, ...] = (Segment(0, 0.0),)
    epoched: bool = False
    begin: datetime | None = None
    cut_s: float = 0.0
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or len(self.x) != len(self.channels):
            raise RecordingError(
                f"{self.path}: {list(self.x.shape)} numbers for {len(self.channels)} channels"
            )
        if not self.x.shape[1]:
            raise RecordingError(f"{self.path}: it holds no sample")
        if not (np.isfinite(self.fs) and self.fs > 0):
            raise RecordingError(f"{self.path}: the sampling rate is {self.fs:g} Hz")

    def bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """First sample, one past the last, and begin in seconds of every segment."""
        first = np.array([s.first for s in self.segments], np.int64)
        last = np.append(first[1:], self.x.shape[1])
        return first, last, np.array([s.time_s for s in self.segments])

    def time_of(self, samples: NDArray[np.int64]) -> NDArray[np.float64]:
        """When samples were recorded, in seconds on the clock of the recording."""
        first, _, time_s = self.bounds()
        k = np.searchsorted(first, samples, "right") - 1
        out: NDArray[np.float64] = time_s[k] + (samples - first[k]) / self.fs
        return out

    def stretches(self, begin_s: float, end_s: float, only: int | None = None) -> list[Stretch]:
        """The samples from `begin_s` to before `end_s`, a stretch per segment that holds some."""
        first, last, time_s = self.bounds()
        end_of = time_s + (last - first) / self.fs
        some = np.flatnonzero((end_of > begin_s) & (time_s <= end_s))
        out = []
        for k in some if only is None else [only]:
            at = first[k] + round((begin_s - time_s[k]) * self.fs)
            end = first[k] + round((end_s - time_s[k]) * self.fs)
            if max(at, first[k]) < min(end, last[k]):
                out.append(Stretch(int(k), int(max(at, first[k])), int(min(end, last[k]))))
        return out

    def lost_s(self) -> list[float]:
        """How many seconds are missing at each gap."""
        if self.epoched:
            return []
        first, last, time_s = self.bounds()
        ends = time_s + (last - first) / self.fs
        return [float(t - e) for t, e in zip(time_s[1:], ends[:-1], strict=True)]


def choose(
    names: Sequence[str], kinds: Sequence[str], request: CutRequest, where: Path
) -> tuple[list[str], list[str]]:
    """The channels to read, in the order asked for, and what is left out, each with its kind.

    Raises RecordingError for a channel that is missing, or no channel of the kind.
    """
    both = list(zip(names, kinds, strict=True))
    asked = [normal(name) for name in request.channels]
    if asked:
        missing = [name for name in asked if name not in names]
        if missing:
            there = ", ".join(names[:12])
            raise RecordingError(f"{where}: no channel {', '.join(missing)}; there are: {there}")
        return asked, []
    wanted = (request.kind,) if request.kind else KINDS
    kind = next((one for one in wanted if one in kinds), None)
    if kind is None:
        there = ", ".join(f"{name} ({k})" for name, k in both[:12])
        raise RecordingError(
            f"{where}: no channel of the types {', '.join(wanted)}; there are: {there or 'none'}"
        )
    rest = [f"{name} ({k})" for name, k in both if k not in (kind, "stim")]
    return [name for name, k in both if k == kind], rest


@dataclass(frozen=True)
class Stretch:
    """Samples from `begin` to before `end`, all of one segment."""

    segment: int
    begin: int
    end: int


def first_line(error: Exception) -> str:
    """What an error of another package says, on one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def segments_of(stamps: NDArray[np.float64], fs: float) -> tuple[Segment, ...]:
    """Segments by the time stamps of samples: a new one begins where a stamp comes later than half
    a sample (or 20 ms, if that is more: the jitter of a computer's clock) after it was due."""
    late = np.diff(stamps) - 1 / fs
    jumps = np.flatnonzero((late > max(0.5 / fs, 0.02)) | (late < -1.5 / fs)) + 1
    firsts = [0, *(int(j) for j in jumps)]
    return tuple(Segment(k, float(stamps[k] - stamps[0])) for k in firsts)


def code_marks(codes: NDArray[Any], raw: RawSignal, states: bool) -> list[Mark]:
    """Events of a channel of codes: one per run of equal codes; 0 and "" are none.

    states : whether a code is a state (a column of labels), which may hold from the first sample
        on; a code of a trigger channel that is there from the first sample on belongs to nothing.
    """
    change = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    begins = np.concatenate([[0], change])
    ends = np.append(change, len(codes))
    firsts = raw.bounds()[0][1:]
    begins, ends = (np.union1d(b, firsts) for b in (begins, ends))
    marks = []
    for begin, end in zip(begins, ends, strict=True):
        value = codes[begin]
        text = normal(value) if isinstance(value, str) else f"{value:g}" if value else ""
        if not text or (begin == 0 and not states):
            continue
        onset = float(raw.time_of(np.array([begin]))[0])
        marks.append(Mark(onset, (end - begin) / raw.fs, text))
    return marks
