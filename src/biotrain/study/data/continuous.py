# SPDX-License-Identifier: Apache-2.0
"""Continuous recordings, as they leave the converter, and the windows that a front end makes of
them in the device's C.

A file is a `.npz` with these keys; its parts (one subject, one session, no gap) stand one after the
other, and a span is a stretch with one label:

| key | meaning |
| --- | --- |
| `signal` | integers [channels, samples of all parts]; physical value = signal * scale |
| `scale`, `fs`, `channels`, `classes`, `unit` | as in biotrain.study.data.recordings |
| `part_begin`, `part_subject`, `part_session` | integers [parts]; first sample, who, when |
| `span_begin`, `span_end`, `span_label` | integers [spans]; first sample, one past it, class |
| `span_repetition` | optional: integers [spans] |
| `span_marker` | optional: whether a span is a cue without a length, ending where the next begins |
| `bad_begin`, `bad_end` | optional: integers [k]; stretches that nobody should learn from |
| `subject_names`, `session_names`, `notes` | optional, as there |
| `name`, `synthetic` | optional, as there |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.frontend import FrontEnd, FrontSpec
from biotrain.run.front_stream import windows_of
from biotrain.study.data.cut import NEXT_EVENT, SHORT
from biotrain.study.data.recordings import (
    AMPLITUDE,
    LARGEST,
    REJECTED,
    SMALLEST,
    Ints,
    LeftOut,
    Names,
    RecordingError,
    Recordings,
)
from biotrain.writing.files import replaced

REQUIRED = (
    *("signal", "scale", "fs", "channels", "classes", "unit"),
    *("part_begin", "part_subject", "part_session", "span_begin", "span_end", "span_label"),
)

BETWEEN = "events lie between the windows, which follow each other every hop of the front end"


@dataclass(frozen=True, eq=False)
class Part:
    """One run without a gap: `x` integers [channels, samples]; spans [k] from `begin` to before
    `end`, in samples of it.

    marker : bool [k], spans that are a cue without a length: their end is where the next begins.
    bad : [m, 2], begin and end of stretches that nobody should learn from (BAD annotations).
    run : the file that it is of, within its session; begin_s: when in that file it begins. None:
        every part is a run of its own.
    """

    subject: int
    session: int
    x: NDArray[np.integer[Any]]
    begin: Ints
    end: Ints
    label: Ints
    repetition: Ints | None = None
    marker: NDArray[np.bool_] | None = None
    bad: Ints | None = None
    run: int | None = None
    begin_s: float = 0.0

    def labels(self) -> Ints:
        """The label of every sample; -1 where there is none, or where the signal is bad."""
        out = np.full(self.x.shape[1], -1, np.int64)
        for begin, end, label in zip(self.begin, self.end, self.label, strict=True):
            out[begin:end] = label
        for begin, end in [] if self.bad is None else self.bad:
            out[begin:end] = -1
        return out

    def markers(self) -> NDArray[np.bool_]:
        """Which spans are cues without a length [k]."""
        none = np.zeros(len(self.begin), bool)
        return none if self.marker is None else self.marker


def _text(value: str | tuple[int, str]) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(map(str, value))


@dataclass(frozen=True, eq=False)
class Continuous:
    """Continuous recordings of several subjects, in the converter's integers.

    Raises RecordingError: no parts, channels that do not agree, samples that are not integers, a
    span outside of its part or with a label out of range.
    """

    parts: tuple[Part, ...]
    scale: float
    fs: float
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    unit: str
    name: str
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    subject_names: Names = ()
    session_names: Names = ()
    reject: float | None = None
    """Windows whose peak-to-peak amplitude exceeds it in any channel, in `unit`, are left out."""
    asked_s: tuple[float | None, float | None] = (None, None)
    """Window and hop that its settings ask for, where there is no front end."""

    def __post_init__(self) -> None:
        if not self.parts:
            raise RecordingError(f"{self.name}: no parts")
        for key in ("scale", "fs"):
            if not SMALLEST <= float(getattr(self, key)) <= LARGEST:
                raise RecordingError(f"{self.name}: {key} must be one positive number")
        for key in ("channels", "classes"):
            names = getattr(self, key)
            twice = [name for k, name in enumerate(names) if name in names[:k]]
            if twice:
                raise RecordingError(f"{self.name}: two {key} are called '{twice[0]}'")
        for part in self.parts:
            where = f"{self.name}: subject {part.subject}, session {part.session}"
            if part.x.ndim != 2 or len(part.x) != len(self.channels):
                raise RecordingError(
                    f"{where}: a signal of {len(self.channels)} channels cannot be "
                    f"{list(part.x.shape)}"
                )
            if part.x.dtype.kind not in "iu" or part.x.dtype.itemsize > 4:
                raise RecordingError(
                    f"{where}: the signal must hold the converter's integers, not {part.x.dtype}"
                )
            inside = (part.begin >= 0) & (part.begin < part.end) & (part.end <= part.x.shape[1])
            known = (part.label >= 0) & (part.label < len(self.classes))
            for good, what in ((inside, "lies outside of it"), (known, "has no known label")):
                if not good.all():
                    raise RecordingError(f"{where}: span {np.flatnonzero(~good)[0]} {what}")

    @property
    def n_chans(self) -> int:
        """Number of channels."""
        return len(self.channels)

    @property
    def subjects(self) -> list[int]:
        """Every subject, in ascending order."""
        return sorted({part.subject for part in self.parts})

    @property
    def bits(self) -> int:
        """Bits of the converter, for the guard against saturation: 24 where its integers are stored
        in 32. 16 also for those of 8 bits (armbands), which strong signals clip all the time."""
        return 16 if self.parts[0].x.dtype.itemsize <= 2 else 24

    def of(self, subject: int, session: int | None = None) -> list[Part]:
        """The parts of a subject (of one session) in their order; RecordingError if none."""
        found = [p for p in self.parts if p.subject == subject and session in (None, p.session)]
        if not found:
            more = "" if session is None else f" with a session {session}"
            named = dict(self.subject_names)
            there = ", ".join(named.get(number) or str(number) for number in self.subjects)
            raise RecordingError(f"{self.name}: no subject {subject}{more}; there are {there}")
        return found

    def with_cues_of(self, samples: int) -> Continuous:
        """The same where a cue without a length lasts for at most so many samples."""
        return replace(self, parts=tuple(_cued(part, samples) for part in self.parts))

    def front(self, spec: FrontSpec) -> FrontEnd:
        """The front end of that description for this recording."""
        return spec.front(fs_in=self.fs, n_chans=self.n_chans, scale=self.scale)

    def save(self, path: str | Path) -> Path:
        """Write the layout above as a compressed `.npz`."""
        target = Path(path)
        begins = np.cumsum([0, *(part.x.shape[1] for part in self.parts)])
        shifted = list(zip(self.parts, begins, strict=False))
        arrays: dict[str, Any] = {
            "signal": np.concatenate([part.x for part in self.parts], axis=1),
            "part_begin": begins[:-1],
            "part_subject": [part.subject for part in self.parts],
            "part_session": [part.session for part in self.parts],
            "span_begin": np.concatenate([part.begin + at for part, at in shifted]),
            "span_end": np.concatenate([part.end + at for part, at in shifted]),
            "span_label": np.concatenate([part.label for part in self.parts]),
        }
        repetitions = [part.repetition for part in self.parts if part.repetition is not None]
        if len(repetitions) == len(self.parts):
            arrays["span_repetition"] = np.concatenate(repetitions)
        if any(part.marker is not None for part in self.parts):
            arrays["span_marker"] = np.concatenate([part.markers() for part in self.parts])
        bad = [part.bad + at for part, at in shifted if part.bad is not None and len(part.bad)]
        if bad:
            arrays["bad_begin"], arrays["bad_end"] = np.concatenate(bad).T
        for key in ("scale", "fs", "channels", "classes", "unit", "name", "synthetic"):
            arrays[key] = np.asarray(getattr(self, key))
        for key in ("notes", "subject_names", "session_names"):
            if getattr(self, key):
                arrays[key] = np.asarray([_text(one) for one in getattr(self, key)])
        if self.reject is not None:
            arrays["reject"] = np.asarray(self.reject)
        with replaced(target) as file:
            np.savez_compressed(file, **arrays)
        return target


def _cued(part: Part, samples: int) -> Part:
    end = np.where(part.markers(), np.minimum(part.end, part.begin + samples), part.end)
    return replace(part, end=end)


def window_spans(front: FrontEnd, part: Part, windows: int) -> NDArray[np.int64]:
    """The span in which each of the first `windows` windows of a part lies whole; -1: in none.

    A cue without a length gives the first window that begins at it or after it.
    """
    first, last = _from_to(front, windows)
    out = np.full(windows, -1, np.int64)
    for k, (begin, end, marker) in enumerate(
        zip(part.begin, part.end, part.markers(), strict=True)
    ):
        inside = np.flatnonzero((first >= begin) & (last < end))
        out[inside[:1] if marker else inside] = k
    return out


def _from_to(front: FrontEnd, windows: int) -> tuple[Ints, Ints]:
    """First and last sample of the first `windows` windows, at the converter's rate."""
    first = np.arange(windows, dtype=np.int64) * front.hop * front.decimate
    return first, first + (front.window - 1) * front.decimate


def touches_bad(front: FrontEnd, part: Part, windows: int) -> NDArray[np.bool_]:
    """Which of the first `windows` windows of a part touch a bad stretch."""
    first, last = _from_to(front, windows)
    out = np.zeros(windows, bool)
    for begin, end in [] if part.bad is None else part.bad:
        out |= (begin <= last) & (first < end)
    return out


def _too_large(rec: Continuous, front: FrontEnd, part: Part, windows: int) -> NDArray[np.bool_]:
    """Which of the first `windows` windows exceed the amplitude limit, in the recorded signal."""
    out = np.zeros(windows, bool)
    if rec.reject is not None:
        for k, (first, last) in enumerate(zip(*_from_to(front, windows), strict=True)):
            x = part.x[:, first : last + 1].astype(np.int64)  # their difference may not fit in x
            out[k] = np.ptp(x, axis=1).max() * rec.scale > rec.reject
    return out


def through(rec: Continuous, spec: FrontSpec) -> Recordings:
    """The windows that the device's C makes of a recording, those that lie whole in a span.

    Windows that touch a bad stretch or exceed the amplitude limit are left out and counted.
    Filters run over the whole of a part, from its first sample on, as on the body; a window is
    labelled by the time of its samples, without the delay of the filters.

    Raises RecordingError where no window has a label, or the description makes floats.
    """
    front = rec.front(spec)
    if front.unit is None:
        raise RecordingError(
            f'{rec.name}: recordings keep integers: standardise = "running" in place of '
            '"window", or leave it to the network'
        )
    kept: list[tuple[Part, NDArray[Any], Ints, Ints]] = []
    left_out: dict[tuple[int, str], int] = {}
    fit = np.zeros(len(rec.classes), bool)
    for part in rec.parts:
        windows = windows_of(front, part.x)
        span = window_spans(front, part, len(windows))
        rejected = (span >= 0) & touches_bad(front, part, len(windows))
        large = (span >= 0) & ~rejected & _too_large(rec, front, part, len(windows))
        found = {REJECTED: int(rejected.sum()), AMPLITUDE: int(large.sum())}
        for reason, count in {**found, **_without_window(front, part, span)}.items():
            if count:
                key = (part.subject, reason)
                left_out[key] = left_out.get(key, 0) + count
        chosen = np.flatnonzero((span >= 0) & ~rejected & ~large)
        if len(chosen):
            kept.append((part, windows[chosen], chosen, span[chosen]))
            fit[part.label[span[chosen]]] = True
    if not kept:
        raise RecordingError(f"{rec.name}: no window of {front.window} samples has one label")
    counts = [len(chosen) for _, _, chosen, _ in kept]
    repetition = None
    if all(part.repetition is not None for part, _, _, _ in kept):
        of = [(part.repetition, span) for part, _, _, span in kept]
        repetition = np.concatenate([held[span] for held, span in of if held is not None])
    hop_s = front.hop / front.fs_out
    return Recordings(
        x=np.concatenate([windows for _, windows, _, _ in kept]),
        scale=front.unit,
        y=np.concatenate([part.label[span] for part, _, _, span in kept]),
        subject=np.repeat([part.subject for part, _, _, _ in kept], counts),
        session=np.repeat([part.session for part, _, _, _ in kept], counts),
        run=np.repeat(_runs([part for part, _, _, _ in kept]), counts),
        fs=front.fs_out,
        channels=rec.channels,
        classes=rec.classes,
        unit=rec.unit if front.standardise == "none" else "deviations",
        name=rec.name,
        repetition=repetition,
        time_s=np.concatenate([part.begin_s + chosen * hop_s for part, _, chosen, _ in kept]),
        synthetic=rec.synthetic,
        subject_names=rec.subject_names,
        session_names=rec.session_names,
        notes=(*rec.notes, *_told(rec, front, fit)),
        left_out=tuple(LeftOut(s, reason, n) for (s, reason), n in left_out.items()),
    )


def _without_window(front: FrontEnd, part: Part, span: Ints) -> dict[str, int]:
    """How many spans have no window, by reason; `span`: in which each window lies."""
    size = (front.window - 1) * front.decimate + 1
    out = {SHORT: 0, NEXT_EVENT: 0, BETWEEN: 0}
    for k in np.setdiff1d(np.arange(len(part.begin)), span):
        fits = part.end[k] - part.begin[k] >= size
        out[BETWEEN if fits else NEXT_EVENT if part.markers()[k] else SHORT] += 1
    return out


def _told(rec: Continuous, front: FrontEnd, fit: NDArray[np.bool_]) -> list[str]:
    """What of the settings does not hold, and which classes have no window (`fit`: which have)."""
    window_s, hop_s = front.window / front.fs_out, front.hop / front.fs_out
    notes = [
        f"{key} = {asked:g} s does not hold: the front end says {said:g} s"
        for key, asked, said in zip(("window", "hop"), rec.asked_s, (window_s, hop_s), strict=True)
        if asked is not None and abs(asked - said) > 0.5 / front.fs_out
    ]
    missing = [name for name, one in zip(rec.classes, fit, strict=True) if not one]
    return notes + ([f"no window of {window_s:g} s for {', '.join(missing)}"] if missing else [])


def _runs(parts: list[Part]) -> list[int]:
    """The run of each part: its file, else its number within its session, from 1."""
    if all(part.run is not None for part in parts):
        return [part.run or 0 for part in parts]
    seen: dict[tuple[int, int], int] = {}
    out = []
    for part in parts:
        key = (part.subject, part.session)
        seen[key] = seen.get(key, 0) + 1
        out.append(seen[key])
    return out


def end_to_end(rec: Recordings, subject: int) -> Continuous:
    """The windows of a subject put end to end, as if nobody had cut them: what live play makes of
    recordings of windows. What windows share is played once.

    Where one stretch of signal ends and another begins (a new gesture, say) the stream jumps, as
    the original did not.
    """
    parts = []
    for session in rec.sessions(subject):
        idx = np.flatnonzero((rec.subject == subject) & (rec.session == session))
        starts = rec.starts(idx)
        by_time = np.argsort(starts, kind="stable")
        idx, starts = idx[by_time], starts[by_time]
        fresh_parts: list[NDArray[Any]] = []
        spans: list[tuple[int, int, int, int]] = []
        at = 0
        for k, trial in enumerate(idx):
            hop = round((starts[k] - starts[k - 1]) * rec.fs) if k else rec.n_times
            fresh = min(hop, rec.n_times)  # samples that the one before has not
            overlap = rec.n_times - fresh
            if overlap and not np.array_equal(
                rec.x[trial][:, :overlap], rec.x[idx[k - 1]][:, fresh:]
            ):
                fresh = rec.n_times
            fresh_part = rec.x[trial][:, rec.n_times - fresh :]
            repetition = 0 if rec.repetition is None else int(rec.repetition[trial])
            label = int(rec.y[trial])
            if spans and spans[-1][2:] == (label, repetition) and fresh < rec.n_times:
                spans[-1] = (spans[-1][0], at + fresh, label, repetition)
            else:
                spans.append((at, at + fresh, label, repetition))
            fresh_parts.append(fresh_part)
            at += fresh
        begin, end, labels, repetitions = (np.array(v, np.int64) for v in zip(*spans, strict=True))
        parts.append(
            Part(
                subject,
                session,
                np.concatenate(fresh_parts, axis=1),
                begin,
                end,
                labels,
                None if rec.repetition is None else repetitions,
            )
        )
    return Continuous(
        tuple(parts),
        rec.scale,
        rec.fs,
        rec.channels,
        rec.classes,
        rec.unit,
        f"{rec.name}, windows put end to end",
        rec.synthetic,
        rec.notes,
        rec.subject_names,
        rec.session_names,
    )
