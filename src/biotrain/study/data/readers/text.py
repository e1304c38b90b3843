# SPDX-License-Identifier: Apache-2.0
"""Tables of samples: CSV and TSV, and the text files of OpenBCI.

A line per sample, a column per channel. The first line that is no comment names the columns, with a
unit in brackets: `time (s),C3 (uV),C4 (uV),label`. Comments begin with # or %, and may say
`fs = 250`, `unit = uV` and `bads = C4`. A column of time gives the rate and shows lost samples; a
column called label, class, marker, event or the like gives the events.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biotrain.study.data.raw import (
    CutRequest,
    RawSignal,
    Segment,
    choose,
    code_marks,
    kind_of,
    microvolts,
    normal,
    segments_of,
)
from biotrain.study.data.recordings import RecordingError

SUFFIXES = (".csv", ".tsv", ".txt")

TIME_S = {"time": 1.0, "t": 1.0, "seconds": 1.0, "time_s": 1.0, "timestamp": 1.0, "time_ms": 1e-3}
"""Seconds per unit of a column of time, by its name."""

UNITS_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
STATES = ("label", "class", "condition", "annotation", "stage", "trial_type", "activity", "gesture")
"""Columns in which 0 is a class like any other."""
CODES = ("marker", "marker channel", "trigger", "stim", "event", "code", "status")
"""Columns in which 0 is no event."""
SLOWEST_HZ = 1.0
"""Below this a rate by the times is a mistake about their unit."""
SIGNAL_LINES = 32
"""Lines from which on a column that only grows is taken for a clock."""
COUNTERS = ("sample index", "index", "sample", "package num", "packet", "counter", "package")


@dataclass
class _Table:
    """A file as it stands: what its comments say, its columns and their texts."""

    said: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    openbci: bool = False
    first_line: int = 1


def read(path: Path, request: CutRequest) -> RawSignal:
    """The signal of a table; RecordingError for a line without a number, no rate, or times that go
    back."""
    table = _table(path)
    names, units = _names(table, path)
    columns = list(zip(*table.rows, strict=True))
    decimal = _decimal_comma(columns)
    low = [name.lower() for name in names]
    time, times = _times(path, low, units, columns, decimal)
    counter = next((k for k, name in enumerate(low) if name in COUNTERS), None)
    labels = [k for k, name in enumerate(low) if name in (*STATES, *CODES)]
    rest = [k for k in range(len(names)) if k not in (time, counter, *labels)]
    if table.openbci:
        rest = [k for k in rest if not low[k].startswith(("other", "timestamp", "analog", "accel"))]
    fs, notes = _rate(path, table, request, times)
    kinds = ["misc" if _rises(columns[k], decimal) else kind_of(names[k], units[k]) for k in rest]
    taken, others = choose([names[k] for k in rest], kinds, request, path)
    signal, chosen_units = [], []
    for name in taken:
        k = names.index(name)
        factor = microvolts(units[k]) if units[k] else None
        if factor is None and units[k]:
            notes.append(f"column {name} is in '{units[k]}', which is no voltage: as read")
        signal.append(_numbers(path, table, columns, k, decimal) * (factor or 1.0))
        chosen_units.append("uV" if factor or not units[k] else units[k])
    if any(not units[names.index(name)] for name in taken):
        notes.append("the file names no unit: taken as uV")
    held = {names[k]: _codes(columns[k], low[k] in STATES, decimal) for k in labels}
    counts = None if counter is None else _numbers(path, table, columns, counter, decimal)
    raw = RawSignal(
        path,
        np.stack(signal),
        fs,
        tuple(taken),
        tuple(kinds[[names[k] for k in rest].index(name)] for name in taken),
        tuple(chosen_units),
        bads=tuple(n for n in map(normal, table.said.get("bads", "").split(",")) if n in taken),
        codes=held,
        segments=_segments(path, table, times, counts, fs, notes),
        others=tuple(others),
        notes=tuple(notes),
    )
    marks = [m for k in labels[:1] for m in code_marks(held[names[k]], raw, low[k] in STATES)]
    return replace(raw, marks=tuple(marks))


def _table(path: Path) -> _Table:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path}: not a table of text: {error}") from error
    out = _Table()
    body: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.startswith(("#", "%")):
            key, _, value = line.lstrip("#% ").replace(":", "=", 1).partition("=")
            out.said[key.strip().lower()] = value.strip()
            out.openbci |= "openbci" in line.lower()
        elif line.strip():
            if not body:
                out.first_line = number
            body.append(line)
    if not body:
        raise RecordingError(f"{path}: it holds no sample")
    mark = next((c for c in "\t;," if c in body[0]), ",")
    rows = [[normal(cell) for cell in row] for row in csv.reader(body, delimiter=mark)]
    if any(_number(cell, mark != ",") is None and cell for cell in rows[0]):
        out.names = rows.pop(0)
        out.first_line += 1
    width = len(out.names or rows[0]) if rows else 0
    out.rows = [row[:width] for row in rows]
    short = next((k for k, row in enumerate(out.rows) if len(row) < width), None)
    if short is not None:
        raise RecordingError(
            f"{path}, line {out.first_line + short}: {len(out.rows[short])} columns, not {width}"
        )
    if not out.rows:
        raise RecordingError(f"{path}: it holds no sample")
    return out


def _names(table: _Table, path: Path) -> tuple[list[str], list[str]]:
    """Names of the columns without their units, and the units ("": the file does not say)."""
    usual = table.said.get("unit", "uV" if table.openbci else "")
    if not table.names:
        if not table.openbci:
            raise RecordingError(f"{path}: its first line does not name the columns")
        count = int(table.said.get("number of channels", "8"))
        width = len(table.rows[0])
        named = ["Sample Index", *(f"EXG Channel {k}" for k in range(count))]
        table.names = [*named, *(f"Other {k}" for k in range(width - len(named)))][:width]
    names, units = [], []
    for text in table.names:
        match = re.fullmatch(r"(.*?)\s*[\[(]([^\])]*)[\])]", text)
        names.append(normal(match[1]) if match else text)
        units.append(match[2].strip() if match else usual)
    if len(set(names)) < len(names) and not table.openbci:
        twice = next(name for name in names if names.count(name) > 1)
        raise RecordingError(f"{path}: two columns are called '{twice}'")
    return names, units


def _decimal_comma(columns: Sequence[tuple[str, ...]]) -> bool:
    return any(re.fullmatch(r"[-+]?\d+,\d+([eE][-+]?\d+)?", column[0]) for column in columns)


def _number(text: str, decimal_comma: bool) -> float | None:
    try:
        return float(text.replace(",", ".") if decimal_comma else text)
    except ValueError:
        return None


def _rises(column: tuple[str, ...], decimal: bool) -> bool:
    """Whether a column grows with every line, as no signal does: a clock or a counter of any
    name."""
    if len(column) < SIGNAL_LINES:
        return False
    values = [_number(text, decimal) for text in column[:1000]]
    return all(a is not None and b is not None and b > a for a, b in pairwise(values))


def _numbers(
    path: Path, table: _Table, columns: Sequence[tuple[str, ...]], k: int, decimal: bool
) -> NDArray[np.float64]:
    values = [_number(text, decimal) for text in columns[k]]
    bad = next((i for i, v in enumerate(values) if v is None or not np.isfinite(v)), None)
    if bad is not None:
        raise RecordingError(
            f"{path}, line {table.first_line + bad}: '{columns[k][bad]}' is no number "
            f"(column {table.names[k]}); leave the line out where samples were lost"
        )
    return np.array(values, np.float64)


def _codes(column: tuple[str, ...], states: bool, decimal: bool) -> NDArray[np.str_]:
    """A column of labels as words; "" where nothing is said."""
    out = []
    for text in column:
        value = _number(text, decimal)
        if value is not None and np.isfinite(value):
            text = "" if value == 0 and not states else f"{value:g}"
        out.append("" if text.lower() in ("n/a", "nan", "none", "-1") else text)
    return np.array(out)


def _seconds(text: str) -> float | None:
    """Seconds of a date such as 2024-05-01 12:00:00.125."""
    try:
        return (datetime.fromisoformat(text).replace(tzinfo=None) - datetime.min).total_seconds()
    except ValueError:
        return None


def _times(
    path: Path,
    low: list[str],
    units: list[str],
    columns: Sequence[tuple[str, ...]],
    decimal: bool,
) -> tuple[int | None, NDArray[np.float64] | None]:
    """The column of time, and its values in seconds."""
    k = next((k for k, name in enumerate(low) if name in TIME_S), None)
    if k is None:
        return None, None
    numbers = [_number(text, decimal) for text in columns[k]]
    if any(value is None for value in numbers):
        numbers = [_seconds(text) for text in columns[k]]
    wrong = next((text for text, n in zip(columns[k], numbers, strict=True) if n is None), None)
    if wrong is not None:
        raise RecordingError(
            f"{path}: '{wrong}' is neither a number nor a date (column {low[k]}), so no sample can "
            "be placed in time"
        )
    per = UNITS_S.get(units[k], TIME_S[low[k]])
    times = np.array(numbers, np.float64) * per
    if (np.diff(times) < 0).any():
        back = int(np.flatnonzero(np.diff(times) < 0)[0]) + 1
        raise RecordingError(f"{path}: time goes back at sample {back}, so it cannot be placed")
    return k, times


def _rate(
    path: Path, table: _Table, request: CutRequest, times: NDArray[np.float64] | None
) -> tuple[float, list[str]]:
    said = next(
        (table.said[key] for key in ("fs", "sfreq", "sample rate", "rate") if key in table.said), ""
    )
    found = re.match(r"[\d.]+", said)
    if found or request.fs is not None:
        return (float(found[0]) if found else float(request.fs or 0)), []
    if times is None or len(times) < 3:
        raise RecordingError(
            f"{path}: it has no column of time and no comment '# fs = 250', so no known rate"
        )
    step = float(np.median(np.diff(times)))
    if step <= 0:
        raise RecordingError(f"{path}: its samples have no distance in time; say '# fs = 250'")
    rate = 1 / step
    if rate < SLOWEST_HZ:
        raise RecordingError(
            f"{path}: its times would make a rate of {rate:.3g} Hz; are they milliseconds? "
            "the column is then called 'time (ms)'"
        )
    nearest = round(rate)
    fs = float(nearest) if nearest and abs(rate - nearest) < 2e-3 * rate else rate
    return fs, [f"the rate is taken from the times: {fs:g} Hz"]


def _segments(
    path: Path,
    table: _Table,
    times: NDArray[np.float64] | None,
    counts: NDArray[np.float64] | None,
    fs: float,
    notes: list[str],
) -> tuple[Segment, ...]:
    """Where samples are lost, by the times, or by a counter of packages that wraps."""
    if times is not None and not table.openbci:
        return segments_of(times, fs)
    if counts is None or len(counts) < 2:
        return (Segment(0, 0.0),)
    steps = np.diff(counts)
    usual = float(np.median(steps))
    if usual <= 0:
        return (Segment(0, 0.0),)
    wrap = counts.max() + usual
    lost = np.rint(np.where(steps < 0, steps + wrap, steps) / usual).astype(np.int64) - 1
    if times is not None:  # whole turns of the counter show in the clock of the computer only
        turn = round(wrap / usual)
        passed = np.diff(times) * fs - 1 - lost
        lost += turn * np.maximum(np.rint(passed / turn).astype(np.int64), 0)
    at = np.flatnonzero(lost > 0)
    if len(at):
        notes.append(f"{int(lost[at].sum())} samples are missing by the counter of packages")
    elapsed = np.cumsum(lost)
    return (Segment(0, 0.0), *(Segment(int(k) + 1, float((k + 1 + elapsed[k]) / fs)) for k in at))
