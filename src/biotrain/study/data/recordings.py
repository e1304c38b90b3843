# SPDX-License-Identifier: Apache-2.0
"""Recordings of many subjects and sessions, kept as the converter's integers.

A file is a `.npz` with these keys; a trial is one window of signal with one label, and the trials
of a session stand in the order in which they were recorded:

| key | meaning |
| --- | --- |
| `x` | integers [trials, channels, time]; physical value = x * scale |
| `scale` | one float, physical units per converter step |
| `y` | class index [trials], 0 to len(classes) - 1 |
| `subject`, `session` | integers [trials] |
| `fs` | sampling rate in Hz |
| `channels`, `classes`, `unit` | names, and the unit as text |
| `order`, `repetition`, `run`, `time_s`, `segment` | optional: position inside the recording |
| `name`, `synthetic` | optional: name of the set, and whether a program made it up |
| `subject_names`, `session_names`, `run_names` | optional: number and name, as text [k, 2] |
| `notes` | optional: what was assumed and left out where the windows were cut, as text |
| `left_out` | optional: subject, number of windows and reason, as text [k, 3] |

`time_s` is the start of the window, on a clock of its run (of its session where there is no `run`).
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biotrain.errors import BioTrainError, shown
from biotrain.writing.files import replaced

REQUIRED = ("x", "scale", "y", "subject", "session", "fs", "channels", "classes", "unit")
POSITIONS = ("order", "repetition", "run", "time_s", "segment")
NAMED = ("subject", "session", "run")
"""Numbers behind which names may stand."""

REJECTED = "touch a BAD or EDGE annotation"
AMPLITUDE = "exceed the amplitude limit"
"""Why windows are rejected, in the words of `LeftOut.reason`."""

SMALLEST, LARGEST = 1e-30, 1e30
"""Bounds of a scale and of a sampling rate: signals are float32, and rates are divided."""

Ints = NDArray[np.int64]
Names = tuple[tuple[int, str], ...]
"""Numbers and the names behind them; empty: the numbers are the names."""


class RecordingError(BioTrainError):
    """A recording that is missing, unreadable or not in the layout."""


@dataclass(frozen=True)
class LeftOut:
    """Windows (or events) of a subject that were left out when the windows were cut."""

    subject: int
    reason: str
    count: int


@dataclass(frozen=True, eq=False)
class Recordings:
    """Labelled windows of several subjects, as in the layout above; the arrays are read-only.

    Raises:
        RecordingError: shapes that do not agree, a label out of range, `x` that is not integers, a
            scale or sampling rate that is not positive (or beyond float32), a channel or class that
            is named twice.
    """

    x: NDArray[np.integer[Any]]
    scale: float
    y: Ints
    subject: Ints
    session: Ints
    fs: float
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    unit: str
    name: str
    order: Ints | None = None
    repetition: Ints | None = None
    run: Ints | None = None
    time_s: NDArray[np.float64] | None = None
    segment: Ints | None = None
    synthetic: bool = False
    subject_names: Names = ()
    session_names: Names = ()
    run_names: Names = ()
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            if isinstance(value, np.ndarray):
                value = value.view()
                value.flags.writeable = False
            object.__setattr__(self, name, value)

        put("name", str(self.name))
        x = np.asarray(self.x)
        if x.ndim != 3 or 0 in x.shape:
            raise self._error(f"x must be [trials, channels, time], not {list(x.shape)}")
        if x.dtype.kind not in "iu" or x.dtype.itemsize > 4:
            raise self._error(
                f"x must hold the converter's integers (up to 32 bits), not {x.dtype}; "
                "biotrain.study.from_signal quantises physical values"
            )
        put("x", x)
        for key in ("scale", "fs"):
            value = np.asarray(getattr(self, key))
            single = value.ndim == 0 and value.dtype.kind in "iuf"
            if not (single and SMALLEST <= value <= LARGEST):
                raise self._error(f"{key} must be one positive number, not {shown(value.tolist())}")
            put(key, float(value))
        for key in ("y", "subject", "session", *POSITIONS):
            value = getattr(self, key)
            if value is not None:
                put(key, self._one_per_trial(key, np.asarray(value), len(x)))
        for key in ("channels", "classes"):
            names = tuple(str(n) for n in np.atleast_1d(np.asarray(getattr(self, key))))
            twice = [name for k, name in enumerate(names) if name in names[:k]]
            if twice:
                raise self._error(f"two {key} are called '{twice[0]}'")
            put(key, names)
        try:
            for key in NAMED:
                pairs = getattr(self, f"{key}_names")
                put(f"{key}_names", tuple((int(number), str(name)) for number, name in pairs))
            put("notes", tuple(str(note) for note in self.notes))
            put("left_out", tuple(_left_out(one) for one in self.left_out))
        except (TypeError, ValueError) as error:
            raise self._error(
                f"its names, notes or left_out are not in the layout: {error}"
            ) from error
        put("unit", str(self.unit))
        put("synthetic", bool(self.synthetic))
        if len(self.channels) != x.shape[1]:
            raise self._error(f"x has {x.shape[1]} channels, but {len(self.channels)} are named")
        wrong = np.flatnonzero((self.y < 0) | (self.y >= len(self.classes)))
        if len(wrong):
            raise self._error(
                f"trial {wrong[0]} has label {self.y[wrong[0]]}, but there are "
                f"{len(self.classes)} classes (0 to {len(self.classes) - 1})"
            )

    def _error(self, text: str) -> RecordingError:
        return RecordingError(f"{self.name}: {text}")

    def _one_per_trial(self, key: str, value: NDArray[Any], trials: int) -> NDArray[Any]:
        if value.shape != (trials,):
            raise self._error(f"{key} must be [{trials}], one per trial, not {list(value.shape)}")
        if key == "time_s":
            if value.dtype.kind not in "iuf" or not np.isfinite(value).all():
                raise self._error("time_s must be finite seconds")
            return value.astype(np.float64)
        if value.dtype.kind not in "iu":
            raise self._error(f"{key} must be integers, not {value.dtype}")
        return value.astype(np.int64)

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        kind = "synthetic recordings" if self.synthetic else "recordings"
        return (
            f"<{kind} {self.name}: {len(self)} trials, {self.n_chans} x {self.n_times} at "
            f"{self.fs:g} Hz, {len(self.subjects)} subjects, {self.n_classes} classes>"
        )

    @property
    def n_chans(self) -> int:
        """Number of channels."""
        return int(self.x.shape[1])

    @property
    def n_times(self) -> int:
        """Samples per window."""
        return int(self.x.shape[2])

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def duration_s(self) -> float:
        """Length of a window in seconds."""
        return self.n_times / self.fs

    @property
    def subjects(self) -> list[int]:
        """Every subject, in ascending order."""
        return [int(s) for s in np.unique(self.subject)]

    def sessions(self, subject: int) -> list[int]:
        """Every session of `subject`, in ascending order; RecordingError if there is none."""
        found = [int(s) for s in np.unique(self.session[self.subject == subject])]
        if not found:
            there = ", ".join(self.name_of("subject", number) for number in self.subjects)
            raise self._error(f"no subject {subject}; there are {there}")
        return found

    def people(self, asked: Iterable[int | str]) -> list[int]:
        """The numbers of subjects that are asked for by number or by name.

        Raises RecordingError where there is none.
        """
        found = []
        for one in asked:
            if isinstance(one, int):
                self.sessions(one)
                found.append(one)
            else:
                found.append(self.number_of("subject", one.strip()))
        return found

    def name_of(self, key: str, number: int) -> str:
        """How a `subject`, `session` or `run` is called; its number where it has no name."""
        return dict(getattr(self, f"{key}_names")).get(number) or str(number)

    def number_of(self, key: str, name: str) -> int:
        """The number of a `subject`, `session` or `run` by its name, or by its number as text.

        Raises RecordingError where there is none.
        """
        for number, known in getattr(self, f"{key}_names"):
            if name == known:
                return int(number)
        there = np.unique(getattr(self, key))
        if (name.lstrip("0") or "0") in map(str, there.tolist()):
            return int(name)
        names = ", ".join(self.name_of(key, int(number)) for number in there)
        raise self._error(f"no {key} {name}; there are {names}")

    def signal(self, idx: ArrayLike | slice = slice(None)) -> NDArray[np.float32]:
        """The windows `idx` in physical units: float32 [trials, channels, time]."""
        chosen = idx if isinstance(idx, slice) else np.asarray(idx)
        return self.x[chosen].astype(np.float32) * np.float32(self.scale)

    def take(self, idx: ArrayLike) -> "Recordings":
        """The recordings of the trials `idx` only."""
        chosen = np.asarray(idx)
        keys = ("x", "y", "subject", "session", *(k for k in POSITIONS if self._has(k)))
        return replace(self, **{key: getattr(self, key)[chosen] for key in keys})

    def _has(self, key: str) -> bool:
        return getattr(self, key) is not None

    def starts(self, idx: ArrayLike | None = None) -> NDArray[np.float64]:
        """When each window of `idx` began, in seconds, on one clock per (subject, session).

        From `time_s` where there is one, the runs of a session set one after the other. Elsewhere
        from the signal: a window that begins with the samples with which the one before it ends
        overlaps it by so much, and others are taken to follow each other without a gap.
        """
        chosen = np.arange(len(self)) if idx is None else np.asarray(idx, dtype=np.int64)
        out = np.zeros(len(chosen))
        for key in np.unique(np.stack([self.subject[chosen], self.session[chosen]], 1), axis=0):
            at = np.flatnonzero((self.subject[chosen] == key[0]) & (self.session[chosen] == key[1]))
            trials = chosen[at]
            if self.time_s is None:
                by_file = np.argsort(trials, kind="stable")
                out[at[by_file]] = self._starts_from_signal(trials[by_file])
                continue
            out[at] = self.time_s[trials]
            if self.run is not None:
                span = np.ptp(self.time_s[trials]) + 2 * self.duration_s
                _, rank = np.unique(self.run[trials], return_inverse=True)
                out[at] += rank * span
        return out

    def _starts_from_signal(self, trials: Ints) -> NDArray[np.float64]:
        hops = [
            self.n_times - shared_samples(self.x[a], self.x[b])
            for a, b in itertools.pairwise(trials)
        ]
        out: NDArray[np.float64] = np.concatenate([[0.0], np.cumsum(hops) / self.fs])
        return out

    def save(self, path: str | Path) -> Path:
        """Write the layout above as a compressed `.npz`; RecordingError if the folder cannot take
        it."""
        target = Path(path)
        arrays: dict[str, NDArray[Any]] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "left_out":
                value = [(str(one.subject), str(one.count), one.reason) for one in value]
            elif field.name.endswith("_names"):
                value = [(str(number), name) for number, name in value]
            if value is not None and not (isinstance(value, list | tuple) and not value):
                arrays[field.name] = np.asarray(value)
        with replaced(target) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return target


def _left_out(given: Any) -> LeftOut:
    """A row of the layout, or what is one already."""
    if isinstance(given, LeftOut):
        return given
    subject, count, reason = given
    return LeftOut(int(subject), str(reason), int(count))


def shared_samples(first: NDArray[Any], second: NDArray[Any]) -> int:
    """How many samples at the end of `first` [channels, time] are the beginning of `second`.

    Fewer than 4 samples, or than 2 % of the window, count as chance.
    """
    n_times = first.shape[1]
    for shift in np.flatnonzero((first == second[:, :1]).all(0)):
        if np.array_equal(first[:, shift:], second[:, : n_times - shift]):
            shared = int(n_times - shift)
            return shared if shared >= max(4, n_times // 50) else 0
    return 0


def quantize(signal: NDArray[np.floating[Any]]) -> tuple[NDArray[np.integer[Any]], float]:
    """`signal` as integers and a scale, for files that hold physical values.

    int16 over the largest value, unless that step would exceed 1 % of a channel's standard
    deviation (a large offset or artefact); then int32.
    Raises RecordingError where a value is not finite.
    """
    values = np.asarray(signal, dtype=np.float64)
    if not np.isfinite(values).all():
        raise RecordingError("a sample is NaN or infinite; leave such trials out")
    peak = float(np.abs(values).max(initial=0.0)) or 1.0
    spread = values.std(axis=-1).reshape(-1, values.shape[-2])
    smallest = float(np.median(spread, axis=0).min(initial=np.inf))
    if peak / 32767 <= 0.01 * smallest or smallest == 0.0:
        scale = float(np.float32(peak / 32766))
        return np.rint(values / scale).astype(np.int16), scale
    scale = float(np.float32(peak / (2**31 - 2**8)))
    return np.rint(values / scale).astype(np.int32), scale


def from_signal(signal: NDArray[np.floating[Any]], **keys: Any) -> Recordings:
    """Recordings from physical values [trials, channels, time]; `keys` are the other fields."""
    if np.ndim(signal) != 3:
        raise RecordingError(f"a signal is [trials, channels, time], not {list(np.shape(signal))}")
    x, scale = quantize(signal)
    return Recordings(x=x, scale=scale, **keys)


def decimate(rec: Recordings, to_hz: float) -> Recordings:
    """`rec` at the sampling rate `to_hz`, which divides its own.

    Offline only: each window passes a linear-phase FIR low-pass (scipy.signal.resample_poly) whose
    delay is taken out, so the result depends on later samples, and up to ten output samples at
    either end on how the window was continued. The result stays in integers, with the scale made
    finer by a power of two as far as 16 bits allow.

    Raises:
        RecordingError: `to_hz` is not positive or does not divide the rate; scipy is missing.
    """
    factor = rec.fs / to_hz if to_hz > 0 else 0.0
    if factor > rec.n_times:
        raise RecordingError(
            f"{rec.name}: at {to_hz:g} Hz no sample of a window of {rec.duration_s:g} s is left"
        )
    down = round(factor)
    if down < 1 or abs(factor - down) > 1e-6 * factor:
        raise RecordingError(
            f"{rec.name}: {rec.fs:g} Hz can be decimated by a whole factor only, to "
            f"{', '.join(f'{rec.fs / k:g}' for k in (2, 3, 4, 5))} Hz ...; not to {to_hz:g} Hz"
        )
    if down == 1:
        return rec
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise RecordingError("decimation needs scipy: pip install 'biotrain[study]'") from error
    length = -(-rec.n_times // down)
    steps = np.empty((len(rec), rec.n_chans, length))  # in units of rec.scale
    for first in range(0, len(rec), 256):
        chunk = rec.x[first : first + 256].astype(np.float64)
        steps[first : first + 256] = resample_poly(chunk, 1, down, axis=-1, padtype="line")
    peak = max(float(np.abs(steps).max()), 1.0)
    wide = rec.x.dtype.itemsize > 2 or peak > 32767
    bits = int(np.floor(np.log2((2**31 - 1 if wide else 32767) / peak)))
    bits = max(0, min(bits, 8))  # 8 more bits than the converter had are noise already
    rounded = np.rint(np.ldexp(steps, bits))
    x = rounded.astype(np.int32) if wide else rounded.astype(np.int16)
    # Filtered windows no longer repeat each other's samples, so overlap is written down first.
    return replace(
        rec,
        x=x,
        scale=float(np.ldexp(rec.scale, -bits)),
        fs=rec.fs / down,
        time_s=rec.time_s if rec.time_s is not None else rec.starts(),
    )
