# SPDX-License-Identifier: Apache-2.0
"""Files of a set become one: whose each is, the channels and rate that all have, their windows or
their continuous signal, and everything that had to be assumed or left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.study.data.continuous import Continuous, Part
from biotrain.study.data.cut import (
    SHORT,
    Event,
    NoEventsError,
    Prepared,
    only_channels,
    prepared,
    window_length,
    windows,
)
from biotrain.study.data.raw import CutRequest, Place, RawSignal, Segment, normal
from biotrain.study.data.recordings import (
    LeftOut,
    Names,
    RecordingError,
    Recordings,
    from_signal,
    quantize,
)

APART = 100.0
"""Amplitudes whose ratio is above this are named: two orders of magnitude, when people differ by
less than one."""


@dataclass(frozen=True)
class Titles:
    """What the set is called. classes: in this order; else by name."""

    where: str
    name: str
    unit: str = "uV (x*scale)"
    classes: tuple[str, ...] = ()
    synthetic: bool = False


@dataclass(frozen=True, eq=False)
class FileSet:
    """Files that agree in channels, order and rate."""

    files: tuple[Prepared, ...]
    request: CutRequest
    titles: Titles
    notes: tuple[str, ...]

    @property
    def classes(self) -> list[str]:
        """The classes that some event has, in their order."""
        found = {event.label for file in self.files for event in file.events}
        wanted = self.titles.classes
        return [one for one in wanted if one in found] if wanted else sorted(found)

    def lengths(self) -> dict[str, tuple[int, float, float]]:
        """How many events every class has, and the shortest and longest in seconds; 0 for markers
        without a length."""
        found: dict[str, list[float]] = {name: [] for name in self.classes}
        for file in self.files:
            for event in file.events:
                end_s = event.onset_s if event.end_s is None else event.end_s
                found[event.label].append(end_s - event.onset_s)
        return {name: (len(some), min(some), max(some)) for name, some in found.items()}

    @property
    def factor(self) -> float:
        """From microvolts to the unit of the recordings."""
        return self.request.scale * 1e-6


def file_set(
    read: Iterable[tuple[Callable[[], RawSignal], Place]], request: CutRequest, titles: Titles
) -> FileSet:
    """The files of a set, with what they differ in mended or named.

    A file in which nothing has a label is left out with a note, unless no other has any.

    Raises:
        RecordingError: no file has labels; files that differ in channels or rate, where the request
            does not say what to do about it.
    """
    found: list[Prepared] = []
    without: list[NoEventsError] = []
    for get, place in read:
        try:
            found.append(prepared(get(), place, request))
        except NoEventsError as error:
            without.append(error)
    if not found:
        raise without[0]
    notes = [f"left out: {error}" for error in without]
    for file in found:
        notes += [f"{file.raw.path.name}: {text}" for text in file.notes]
    _known_bads(found, request)
    found = _one_rate(found, request, notes)
    found = _same_channels(found, request, notes)
    found = _bad_channels(found, request, notes)
    notes += _far_apart(found)
    return FileSet(tuple(found), request, titles, tuple(_shared(notes)))


def recordings_of(held: FileSet) -> Recordings:
    """The windows of a set. Raises RecordingError where no window fits into any event."""
    window_s, assumed = window_length(held.files, held.request)
    cut = [windows(file, window_s, held.request) for file in held.files]
    counts = [len(one.labels) for one in cut]
    classes = held.classes
    if not sum(counts):
        why = {reason: 0 for one in cut for reason in one.left_out}
        for one in cut:
            for reason, count in one.left_out.items():
                why[reason] += count
        told = "".join(f"; {count} {reason}" for reason, count in why.items())
        if SHORT in why:
            told += f" (duration = {window_s + held.request.tmin_s:g} says how long they last)"
        raise RecordingError(f"{held.titles.where}: no window of {window_s:g} s fits into it{told}")
    there = {label for one in cut for label in one.labels}
    missing = [label for label in classes if label not in there]
    if missing:
        assumed.append(f"no window of {window_s:g} s for {', '.join(missing)}")
    kept = [label for label in classes if label in there]
    who = _numbered([file.place for file in held.files])
    left_out: dict[tuple[int, str], int] = {}
    for one, subject in zip(cut, who.subject, strict=True):
        for reason, count in one.left_out.items():
            left_out[subject, reason] = left_out.get((subject, reason), 0) + count
    repeats: dict[str, Any] = {}
    if any(file.place.repetition for file in held.files):
        repeats["repetition"] = np.repeat(who.repetition, counts)
    signal = np.concatenate([one.signal for one in cut if len(one.labels)])
    return from_signal(
        signal if held.factor == 1 else signal * held.factor,
        y=np.array([kept.index(label) for one in cut for label in one.labels]),
        subject=np.repeat(who.subject, counts),
        session=np.repeat(who.session, counts),
        run=np.repeat(who.run, counts),
        time_s=np.concatenate([one.time_s for one in cut]),
        fs=held.files[0].raw.fs,
        channels=held.files[0].raw.channels,
        classes=kept,
        unit=held.titles.unit,
        name=held.titles.name,
        synthetic=held.titles.synthetic,
        subject_names=who.subject_names,
        session_names=who.session_names,
        run_names=who.run_names,
        notes=(*held.notes, *assumed),
        left_out=tuple(LeftOut(s, why, n) for (s, why), n in left_out.items()),
        **repeats,
    )


def continuous_of(held: FileSet) -> Continuous | None:
    """The signals of a set, not cut, a part per stretch without a gap; None where it holds windows
    that were cut upstream.

    Values are quantised to integers, for most formats give volts and not the converter's steps.
    """
    if any(file.raw.epoched for file in held.files):
        return None
    signals = [file.raw.x for file in held.files]
    steps, scale = quantize(np.concatenate(signals, axis=1)[None] * held.factor)
    ends = np.cumsum([signal.shape[1] for signal in signals])
    who = _numbered([file.place for file in held.files])
    classes = held.classes
    repeated = any(file.place.repetition for file in held.files)
    parts: list[Part] = []
    for k, x in enumerate(np.split(steps[0], ends[:-1], axis=1)):
        file = held.files[k]
        first, last, starts = file.raw.bounds()
        for segment, (begin, end) in enumerate(zip(first, last, strict=True)):
            spans = _spans(file, segment, held.request, classes)
            bad = np.clip(file.bad, begin, end) - begin
            bad = bad[bad[:, 0] < bad[:, 1]]
            parts.append(
                Part(
                    who.subject[k],
                    who.session[k],
                    x[:, begin:end],
                    np.array([span[0] for span in spans], np.int64),
                    np.array([span[1] for span in spans], np.int64),
                    np.array([span[2] for span in spans], np.int64),
                    repetition=np.full(len(spans), who.repetition[k]) if repeated else None,
                    marker=np.array([span[3] for span in spans], bool),
                    bad=bad,
                    run=who.run[k],
                    begin_s=float(starts[segment]),
                )
            )
    raw = held.files[0].raw
    return Continuous(
        tuple(parts),
        scale,
        raw.fs,
        raw.channels,
        tuple(classes),
        held.titles.unit,
        held.titles.name,
        notes=held.notes,
        subject_names=who.subject_names,
        session_names=who.session_names,
        reject=None if held.request.reject_uv is None else held.request.reject_uv * held.factor,
        asked_s=(held.request.window_s, held.request.hop_s),
    )


def _spans(
    file: Prepared, segment: int, request: CutRequest, classes: Sequence[str]
) -> list[tuple[int, int, int, bool]]:
    """Begin, end, label of the spans of a segment in its samples, and whether it is a marker."""
    raw = file.raw
    first, last, time_s = (values[segment] for values in raw.bounds())
    length = int(last - first)
    out = []
    for event in file.events:
        begin_s, end_s = _from_to(event, request)
        begin = round((begin_s - time_s) * raw.fs)
        end = length if np.isinf(end_s) else round((end_s - time_s) * raw.fs)
        if max(0, begin) < min(length, end) and not (event.end_s is None and begin < 0):
            label = classes.index(event.label)
            out.append((max(0, begin), min(length, end), label, event.end_s is None))
    return out


def _from_to(event: Event, request: CutRequest) -> tuple[float, float]:
    end_s = event.limit_s if event.end_s is None else event.end_s
    return event.onset_s + request.tmin_s, float(end_s)


@dataclass(frozen=True)
class _Who:
    """Numbers per file, and the names behind them."""

    subject: list[int]
    session: list[int]
    run: list[int]
    repetition: list[int]
    subject_names: Names
    session_names: Names
    run_names: Names


def _numbered(places: Sequence[Place]) -> _Who:
    """Every file is a run of its own, for it has a clock of its own."""
    subject, session, repetition = (
        numbers([getattr(place, key) for place in places])
        for key in ("subject", "session", "repetition")
    )
    runs = [place.run for place in places]
    owners = list(zip(subject, session, runs, strict=True))
    if len(set(owners)) < len(owners) or "" in runs:
        runs = [f"{run}#{k + 1}" if run else str(k + 1) for k, run in enumerate(runs)]
    run = numbers(runs)
    return _Who(
        subject,
        session,
        run,
        repetition,
        names_of(subject, [place.subject for place in places]),
        names_of(session, [place.session for place in places]),
        names_of(run, runs),
    )


def names_of(found: Sequence[int], texts: Sequence[str]) -> Names:
    """The name behind each number, where it is more than the number."""
    pairs = sorted(set(zip(found, texts, strict=True)))
    return tuple(pairs) if any(text not in ("", str(number)) for number, text in pairs) else ()


def numbers(labels: Sequence[str]) -> list[int]:
    """`sub-07` is number 7: labels that are distinct numbers from 1 on; else their rank."""
    if all(re.fullmatch(r"[0-9]{1,9}", label) for label in labels):
        values = [int(label) for label in labels]
        if min(values) > 0 and len(set(values)) == len(set(labels)):
            return values
    return ranks(labels)


def ranks(labels: Sequence[str]) -> list[int]:
    """Numbers from 1 in the order of the labels; "2" comes before "10"."""

    def key(text: str) -> list[tuple[int, str]]:
        return [(int(d), "") if d else (-1, t) for d, t in re.findall(r"(\d+)|(\D+)", text)]

    order = sorted(set(labels), key=key)
    return [order.index(label) + 1 for label in labels]


def _one_rate(files: list[Prepared], request: CutRequest, notes: list[str]) -> list[Prepared]:
    rates = sorted({file.raw.fs for file in files})
    if len(rates) == 1:
        return files
    if not request.resample:
        usual = max(rates, key=lambda fs: sum(file.raw.fs == fs for file in files))
        odd = next(file.raw for file in files if file.raw.fs != usual)
        raise RecordingError(
            f"{odd.path}: its files differ in channels or sampling rate: it has {odd.fs:g} Hz, "
            f"others {usual:g} Hz; resample = true takes all to {rates[0]:g} Hz"
        )
    notes.append(
        f"resampled to {rates[0]:g} Hz (offline): {', '.join(f'{r:g}' for r in rates[1:])} Hz"
    )
    return [replace(f, raw=resampled(f.raw, rates[0]), bad=_moved(f, rates[0])) for f in files]


def _moved(file: Prepared, to_hz: float) -> NDArray[np.int64]:
    """The stretches that are bad, in samples of another rate."""
    ratio = to_hz / file.raw.fs
    begin, end = np.floor(file.bad[:, 0] * ratio), np.ceil(file.bad[:, 1] * ratio)
    return np.stack([begin, end], 1).astype(np.int64)


def resampled(raw: RawSignal, to_hz: float) -> RawSignal:
    """A recording at another rate: every segment through a linear-phase FIR whose delay is taken
    out (scipy.signal.resample_poly); offline."""
    if raw.fs == to_hz:
        return raw
    first, last, time_s = raw.bounds()
    parts = [resampled_rows(raw.x[:, a:b], raw.fs, to_hz) for a, b in zip(first, last, strict=True)]
    begins = np.cumsum([0, *(part.shape[1] for part in parts)])[:-1]
    segments = tuple(Segment(int(a), float(t)) for a, t in zip(begins, time_s, strict=True))
    return replace(raw, x=np.concatenate(parts, axis=1), fs=to_hz, segments=segments)


def resampled_rows(x: NDArray[np.float64], fs: float, to_hz: float) -> NDArray[np.float64]:
    """[channels, samples] at another rate; RecordingError where scipy is missing."""
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise RecordingError("resampling needs scipy: pip install 'biotrain[study]'") from error
    ratio = Fraction(to_hz / fs).limit_denominator(10_000)
    out: NDArray[np.float64] = resample_poly(
        x, ratio.numerator, ratio.denominator, axis=-1, padtype="line"
    )
    return out


def _same_channels(files: list[Prepared], request: CutRequest, notes: list[str]) -> list[Prepared]:
    names = files[0].raw.channels
    sets = [set(file.raw.channels) for file in files]
    if any(one != sets[0] for one in sets):
        common = [name for name in names if all(name in one for one in sets)]
        union = [name for file in files for name in file.raw.channels]
        if not request.only_common or not common:
            usual = max(sets, key=sets.count)
            k = next(k for k, one in enumerate(sets) if one != usual)
            lacks = sorted(usual - sets[k]) or sorted(sets[k] - usual)
            what = "lacks" if usual - sets[k] else "alone has"
            some = f'; channels = "common" takes the {len(common)} that all have' if common else ""
            raise RecordingError(
                f"{files[k].raw.path}: its files differ in channels or sampling rate: it {what} "
                f"{', '.join(lacks[:8])}{some}"
            )
        lost = [name for name in dict.fromkeys(union) if name not in common]
        notes.append(f"channels that not every file has, left out: {', '.join(lost)}")
        names = tuple(common)
    elif any(file.raw.channels != names for file in files):
        notes.append(f"channels stood in another order in some files; now {', '.join(names)}")
    return [replace(file, raw=only_channels(file.raw, names)) for file in files]


def _known_bads(files: Sequence[Prepared], request: CutRequest) -> None:
    every = dict.fromkeys(name for file in files for name in file.raw.channels)
    unknown = [name for name in request.bads if normal(name) not in every]
    if unknown:
        raise RecordingError(
            f"{files[0].raw.path}: bads names {', '.join(unknown)}, which no file has; there are: "
            f"{', '.join(list(every)[:12])}"
        )


def _bad_channels(files: list[Prepared], request: CutRequest, notes: list[str]) -> list[Prepared]:
    marked = [file for file in files if file.raw.bads]
    if not marked:
        return files
    told = "; ".join(f"{file.raw.path.name}: {', '.join(file.raw.bads)}" for file in marked)
    if request.bad_channels == "zero":
        notes.append(f"bad channels are set to zero: {told}")
        return [replace(file, raw=_silenced(file.raw)) for file in files]
    if request.bad_channels == "drop":
        bad = {name for file in marked for name in file.raw.bads}
        names = [name for name in files[0].raw.channels if name not in bad]
        if not names:
            raise RecordingError(f"{files[0].raw.path}: no channel is good in all files: {told}")
        notes.append(f"bad channels are left out of all files: {told}")
        return [replace(file, raw=only_channels(file.raw, names)) for file in files]
    notes.append(f'bad channels are kept (bad_channels = "drop" or "zero"): {told}')
    return files


def _silenced(raw: RawSignal) -> RawSignal:
    x = raw.x.copy()
    x[[raw.channels.index(name) for name in raw.bads]] = 0.0
    return replace(raw, x=x)


def amplitudes(files: Sequence[Prepared]) -> NDArray[np.float64]:
    """Half the spread between the 16th and 84th percentile of every file and channel (the standard
    deviation of a normal signal, without its artefacts) [files, channels]."""
    every = [file.raw.x[:, :: max(1, file.raw.x.shape[1] // 20_000)] for file in files]
    return np.stack([np.ptp(np.percentile(x, [16, 84], axis=1), axis=0) / 2 for x in every])


def _far_apart(files: Sequence[Prepared]) -> list[str]:
    """Files, and channels, that are orders of magnitude away from the others."""
    spread = amplitudes(files)
    out = []
    of_file = np.median(spread, axis=1)
    out += _outliers([file.raw.path.name for file in files], of_file, "other files")
    out += _outliers(files[0].raw.channels, np.median(spread, axis=0), "the other channels")
    return out


def _outliers(names: Sequence[str], values: NDArray[np.float64], others: str) -> list[str]:
    usual = float(np.median(values[values > 0])) if (values > 0).any() else 0.0
    if len(values) == 2 and usual:
        usual = float(values.min()) or usual
    return [
        f"{name} has an amplitude of {value:.3g}, {others} {usual:.3g}: another unit?"
        for name, value in zip(names, values, strict=True)
        if usual and value and max(value / usual, usual / value) > APART
    ]


def _shared(notes: Sequence[str]) -> list[str]:
    """What is said of many files, once: of the first, with how many more."""
    by_text: dict[str, list[str]] = {}
    for note in notes:
        name, _, text = note.partition(": ")
        by_text.setdefault(text or name, []).append(name if text else "")
    out = []
    for text, names in by_text.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        out.append(f"{names[0]}{more}: {text}" if names[0] else text)
    return out
