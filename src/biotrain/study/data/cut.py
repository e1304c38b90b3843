# SPDX-License-Identifier: Apache-2.0
"""The one cutter: from the signal and events of a file to labelled windows, for every reader.

A window lies whole in one event and in one stretch without lost samples. Windows that touch
annotations named BAD... or EDGE... (MNE's convention) or whose amplitude is beyond a limit are left
out, and everything that is left out is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.study.data.raw import (
    CutRequest,
    Events,
    Mark,
    Place,
    RawSignal,
    choose,
    code_marks,
    normal,
)
from biotrain.study.data.recordings import AMPLITUDE, REJECTED, Ints, RecordingError

MARKER_S = 0.1
"""Events up to this length, or of one sample, are markers (a trigger pulse, a line in a log)."""

SHORTEST_WINDOW_S = 0.25
"""Windows whose length nobody asked for are not shorter than this."""

ACROSS = "reach past the recording or over lost samples"
NEXT_EVENT = "would reach into the next event"
SHORT = "events are shorter than the window"
REST = "events end with a rest shorter than a window"
OUTSIDE = "events lie outside of the recording"


class NoEventsError(RecordingError):
    """A file in which nothing has a label; a set of files goes on without it."""


@dataclass(frozen=True)
class Event:
    """A labelled event. end_s: None for a marker, whose length nobody knows; limit_s: when the next
    labelled event begins."""

    onset_s: float
    end_s: float | None
    limit_s: float
    label: str
    segment: int | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A file with its channels chosen and its events labelled. bad: [k, 2], samples of stretches
    that nobody should learn from."""

    raw: RawSignal
    place: Place
    events: tuple[Event, ...]
    bad: Ints
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one file: signal [windows, channels, time], labels, seconds of their begins, and
    what was left out, by reason."""

    signal: NDArray[np.float64]
    labels: tuple[str, ...]
    time_s: NDArray[np.float64]
    left_out: Mapping[str, int]


def prepared(raw: RawSignal, place: Place, request: CutRequest) -> Prepared:
    """The file with its channels chosen and its events labelled.

    Raises NoEventsError where no event has a label, RecordingError for a channel that is missing.
    """
    events, how = _labelled(raw, place, request)
    chosen, notes = _chosen(_with_bads(raw, request), request)
    sources = [raw.marks] if place.label else [raw.marks, _source(raw, request.events)[0]]
    bad = [
        (stretch.begin, stretch.end)
        for mark in dict.fromkeys(mark for marks in sources for mark in marks)
        if request.events.rejects(mark)
        for stretch in raw.stretches(
            mark.onset_s, mark.onset_s + max(mark.duration_s, 1 / raw.fs), mark.segment
        )
    ]
    gaps = [lost for lost in raw.lost_s() if lost > 0]
    if gaps:
        notes.append(
            f"{len(gaps)} {'gaps' if len(gaps) > 1 else 'gap'}, {sum(gaps):g} s of signal are "
            "missing; no window spans one"
        )
    held = np.array(sorted(bad), np.int64).reshape(-1, 2)
    return Prepared(chosen, place, events, held, (*raw.notes, *how, *notes))


def window_length(files: Sequence[Prepared], request: CutRequest) -> tuple[float, list[str]]:
    """The length of a window in seconds, and what was assumed for it.

    Raises RecordingError where events are markers, or are too short, and nobody said a length.
    """
    if request.window_s is not None:
        return request.window_s, []
    lengths = [
        event.end_s - event.onset_s - request.tmin_s
        for file in files
        for event in file.events
        if event.end_s is not None
    ]
    where = files[0].raw.path
    say = "give a length: DATA?window=2, or window = 2 in a TOML (seconds)"
    if not lengths:
        raise RecordingError(f"{where}: its events are markers without a length; {say}")
    fitting = [length for length in lengths if length >= SHORTEST_WINDOW_S - 1e-9]
    if not fitting:
        raise RecordingError(
            f"{where}: its longest event has {max(lengths):g} s, too short to take for a window; "
            f"give a length, and how long events last: DATA?window=2&duration=2 (seconds)"
        )
    shortest = min(fitting)
    if all(file.raw.epoched for file in files):
        return shortest, []
    text = f"a window is assumed to be as long as the shortest event, {shortest:g} s"
    return shortest, [text] if max(lengths) > shortest + 1e-9 else []


def windows(file: Prepared, window_s: float, request: CutRequest) -> Windows:
    """The windows of a file. Raises RecordingError for a window that is shorter than a sample."""
    raw = file.raw
    if not max(window_s, request.hop_s or 0.0) * raw.fs < 2**31:
        raise RecordingError(f"{raw.path}: a window or hop of so many seconds is too long")
    n_times = round(window_s * raw.fs)
    hop = n_times if request.hop_s is None else round(request.hop_s * raw.fs)
    if n_times < 1 or hop < 1:
        raise RecordingError(f"{raw.path}: a window of {window_s:g} s is shorter than one sample")
    begins: list[int] = []
    labels: list[str] = []
    left_out: Counter[str] = Counter()
    for event in file.events:
        for at in _begins(raw, event, request.tmin_s, (n_times, hop), left_out):
            if ((file.bad[:, 0] < at + n_times) & (at < file.bad[:, 1])).any():
                left_out[REJECTED] += 1
                continue
            limit = request.reject_uv
            if limit is not None and np.ptp(raw.x[:, at : at + n_times], axis=1).max() > limit:
                left_out[AMPLITUDE] += 1
                continue
            begins.append(at)
            labels.append(event.label)
    at_samples = np.array(begins, np.int64)
    signal = np.stack([raw.x[:, at : at + n_times] for at in begins]) if begins else np.zeros((0,))
    return Windows(signal, tuple(labels), raw.time_of(at_samples), left_out)


def _begins(
    raw: RawSignal, event: Event, tmin_s: float, size: tuple[int, int], left_out: Counter[str]
) -> list[int]:
    """First samples of the windows of an event; `size`: samples of a window, and to the next."""
    n_times, hop = size
    first, last, time_s = raw.bounds()
    begin_s = event.onset_s + tmin_s
    end_s = event.end_s
    count = 1
    if end_s is None:
        if begin_s + (n_times - 0.5) / raw.fs > event.limit_s:
            left_out[NEXT_EVENT] += 1
            return []
    else:
        length = int((end_s - begin_s) * raw.fs + 0.5)
        count = (length - n_times) // hop + 1
        if count < 1:
            left_out[SHORT] += 1
            return []
        if length - ((count - 1) * hop + n_times) > 0:
            left_out[REST] += 1
    found = []
    for k in range(count):
        at_s = begin_s + k * hop / raw.fs
        segment = event.segment
        if segment is None:
            segment = int(np.searchsorted(time_s, at_s + 0.5 / raw.fs, "right")) - 1
        at = int(first[segment]) + round((at_s - time_s[segment]) * raw.fs)
        if segment < 0 or at < first[segment] or at + n_times > last[segment]:
            left_out[ACROSS] += 1
        else:
            found.append(at)
    return found


def labelled_marks(marks: Sequence[Mark], fs: float, request: CutRequest) -> tuple[Event, ...]:
    """Events with a class, in time. A marker ends where the next labelled event begins. Events that
    are shorter than the request says that events last do last so long."""
    shortest = max(MARKER_S, 1.5 / fs)
    known = sorted(
        (
            mark
            for mark in marks
            if (mark.text in request.events.classes or not request.events.classes)
            and not request.events.rejects(mark)
        ),
        key=lambda mark: mark.onset_s,
    )
    onsets = np.array([mark.onset_s for mark in known])
    out = []
    for mark in known:
        after = onsets[np.searchsorted(onsets, mark.onset_s + 0.5 / fs, "right") :]
        limit = float(after[0]) if len(after) and mark.segment is None else np.inf
        own_s = mark.duration_s if mark.duration_s > shortest else 0.0
        length = max(own_s, request.duration_s)
        out.append(
            Event(
                mark.onset_s,
                mark.onset_s + length if length > 0 else None,
                limit if length <= 0 else np.inf,
                request.events.classes.get(mark.text, mark.text),
                mark.segment,
            )
        )
    return tuple(out)


def _labelled(
    raw: RawSignal, place: Place, request: CutRequest
) -> tuple[tuple[Event, ...], list[str]]:
    """The events of a file, and how they were found."""
    end_s = float(raw.time_of(np.array([raw.x.shape[1] - 1]))[0]) + 1 / raw.fs
    if place.label:
        label = request.events.classes.get(place.label, place.label)
        first, last, time_s = raw.bounds()
        whole = [
            Event(float(t), float(t + (b - a) / raw.fs), np.inf, label, k)
            for k, (a, b, t) in enumerate(zip(first, last, time_s, strict=True))
        ]
        return tuple(whole), []
    marks, how = _source(raw, request.events)
    events = labelled_marks(marks, raw.fs, request)
    if not events:
        names = ", ".join(sorted({mark.text for mark in marks if not mark.rejects})[:8])
        if not names:
            raise NoEventsError(f"{raw.path}: no annotations, so no labels{_hint(raw)}")
        asked = ", ".join(request.events.classes)
        raise NoEventsError(f"{raw.path}: none of its events is among {asked}; there are: {names}")
    inside = tuple(
        event
        for event in events
        if event.segment is not None
        or (event.onset_s < end_s and (event.end_s is None or event.end_s > 0))
    )
    if not inside:
        raise RecordingError(
            f"{raw.path}: all {len(events)} events lie outside of its {end_s:g} s; "
            "are they on another clock?"
        )
    if len(inside) < len(events):
        how.append(f"{len(events) - len(inside)} {OUTSIDE}")
    return inside, how


def _with_bads(raw: RawSignal, request: CutRequest) -> RawSignal:
    """The recording with the bad channels that the request names beside its own."""
    asked = [name for name in map(normal, request.bads) if name in raw.channels]
    return replace(raw, bads=tuple(dict.fromkeys((*raw.bads, *asked))))


def _hint(raw: RawSignal) -> str:
    if not raw.codes:
        return ""
    return f'; channels of codes are {", ".join(raw.codes)} (events = {{source = "channel:NAME"}})'


def _source(raw: RawSignal, asked: Events) -> tuple[list[Mark], list[str]]:
    """The marks of the source that was asked for, or of the first that has some."""
    kind, _, name = asked.source.partition(":")
    stim = [one for one, held in raw.codes.items() if held.dtype.kind in "iuf"]
    if kind in ("", "annotations", "file"):
        marks = list(raw.marks)
        if kind or any(not mark.rejects for mark in marks):
            return marks, []
        for one in stim:
            if found := code_marks(raw.codes[one], raw, states=False):
                return found, [f"labels are taken from the codes of channel {one}"]
        return marks, []
    if kind == "stim":
        found = [mark for one in stim for mark in code_marks(raw.codes[one], raw, states=False)]
        if not found:
            raise NoEventsError(f"{raw.path}: no trigger channel holds a code")
        return found, []
    if kind not in ("channel", "column"):
        raise RecordingError(
            f"{raw.path}: events cannot come from '{asked.source}'; there are annotations, stim, "
            "channel:NAME, file:PATTERN"
        )
    if normal(name) not in raw.codes:
        there = ", ".join(raw.codes) or "none"
        raise RecordingError(
            f"{raw.path}: no channel of codes is called {name}; there are: {there}"
        )
    return code_marks(raw.codes[normal(name)], raw, states=True), []


def _chosen(raw: RawSignal, request: CutRequest) -> tuple[RawSignal, list[str]]:
    """The channels that are read, in the order asked for, and what is left out."""
    taken, rest = choose(raw.channels, raw.kinds, request, raw.path)
    rest = [*raw.others, *rest]
    return only_channels(raw, taken), [f"channels left out: {', '.join(rest)}"] if rest else []


def only_channels(raw: RawSignal, names: Sequence[str]) -> RawSignal:
    """The channels `names`, in that order."""
    rows = [raw.channels.index(name) for name in names]

    def some(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[row] for row in rows)

    return replace(
        raw,
        x=raw.x[rows] if rows != list(range(len(raw.x))) else raw.x,
        channels=some(raw.channels),
        kinds=some(raw.kinds),
        units=some(raw.units),
        bads=tuple(name for name in raw.bads if name in names),
    )
