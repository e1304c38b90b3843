# SPDX-License-Identifier: Apache-2.0
"""GDF files, versions 1 and 2, read from their bytes.

The format is that of Schloegl, "GDF - A general dataformat for biosignals" (arXiv cs/0608052).
Reading it here keeps what other readers lose: the unit of each channel and its own rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.study.data.raw import CutRequest, Mark, RawSignal, normal
from biotrain.study.data.readers.records import Records, Signal, raw_signal, scaling, signals_of
from biotrain.study.data.recordings import RecordingError

TYPES: Mapping[int, str] = {
    1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<i8", 8: "<u8", 16: "<f4",
    17: "<f8",
}  # fmt: skip
"""numpy's name of a channel's type, by the number in its header."""

VOLT = 4256
"""Code of the unit volt (ISO/IEEE 11073-10101); its five lower bits hold the prefix."""

PREFIXES = {0: "", 16: "d", 17: "c", 18: "m", 19: "u", 20: "n", 21: "p"}
"""Prefixes of units, by those bits."""

END_OF_EVENT = 0x8000
"""Bit of an event's type that ends the event of the type without it."""


@dataclass(frozen=True)
class _Header(Records):
    """The header of a file."""

    version: float
    types: tuple[np.dtype[Any], ...]

    @property
    def record_bytes(self) -> int:
        """Bytes of one record."""
        return sum(int(n) * t.itemsize for n, t in zip(self.samples, self.types, strict=True))


def _header(path: Path) -> _Header | None:
    """The header of a file; None where it is no GDF."""
    with path.open("rb") as file:
        fixed = file.read(256)
        if len(fixed) < 256 or not fixed.startswith(b"GDF "):
            return None
        version = float(fixed[4:8])
        new = version >= 1.9
        count = int(np.frombuffer(fixed, "<u2" if new else "<u4", 1, 252)[0])
        body = file.read(256 * count)
    if len(body) < 256 * count:
        raise RecordingError(f"{path}: its header is cut short")
    blocks = int(np.frombuffer(fixed, "<u2", 1, 184)[0]) * 256
    begin = blocks if new else int(np.frombuffer(fixed, "<i8", 1, 184)[0])
    parts = np.frombuffer(fixed, "<u4", 2, 244).astype(np.float64)

    def numbers(at: int, kind: str) -> NDArray[Any]:
        return np.frombuffer(body, kind, count, at * count)

    def texts(at: int, width: int) -> list[str]:
        rows = [body[at * count + k * width :][:width] for k in range(count)]
        return [normal(row.split(b"\x00")[0].decode("latin-1")) for row in rows]

    digital = "<f8" if new else "<i8"
    low, high, least, most = (
        numbers(at, kind).astype(np.float64)
        for at, kind in ((104, "<f8"), (112, "<f8"), (120, digital), (128, digital))
    )
    types = numbers(220, "<u4")
    unknown = [int(one) for one in types if int(one) not in TYPES]
    if unknown:
        raise RecordingError(f"{path}: a channel is of GDF's type {unknown[0]}, which is not read")
    gains, offsets = scaling((least, most), (low, high))
    units = [_unit(int(code)) for code in numbers(102, "<u2")] if new else texts(96, 8)
    records = int(np.frombuffer(fixed, "<i8", 1, 236)[0])
    made = _Header(
        path,
        begin,
        records,
        float(parts[0] / parts[1]) if parts.all() else 0.0,
        tuple(texts(0, 16)),
        tuple(units),
        gains,
        offsets,
        numbers(216, "<u4").astype(np.int64),
        version,
        tuple(np.dtype(TYPES[int(one)]) for one in types),
    )
    there = (path.stat().st_size - begin) // max(1, made.record_bytes)
    if made.record_s <= 0 or not there or not records:
        raise RecordingError(f"{path}: it holds no record, or records without a length")
    if records > there:
        raise RecordingError(f"{path}: it is cut short: {there} of {records} records are there")
    return made


def _unit(code: int) -> str:
    """A unit as text; "" where the file does not say one, or says that there is none."""
    if code & ~31 == VOLT and code & 31 in PREFIXES:
        return f"{PREFIXES[code & 31]}V"
    return "" if code in (0, 512) else f"unit {code} of ISO 11073"


def read(path: Path, request: CutRequest) -> RawSignal | None:
    """The signal and events of a GDF file; None where it is none."""
    header = _header(path)
    if header is None:
        return None
    channels = signals_of(header, np.flatnonzero(header.samples > 0))
    raw = raw_signal(header, channels, lambda row: _channel(header, row), request)
    return replace(
        raw,
        marks=tuple(_events(header, raw.fs)),
        codes=_codes(header, channels, raw.fs, raw.x.shape[-1]),
    )


def _channel(header: _Header, row: int) -> NDArray[np.float64]:
    """The stored values of a channel, one after the other."""
    records: NDArray[Any] = np.memmap(
        header.path, np.uint8, "r", header.begin, (header.records, header.record_bytes)
    )
    sizes = [int(n) * t.itemsize for n, t in zip(header.samples, header.types, strict=True)]
    at = sum(sizes[:row])
    own = np.ascontiguousarray(records[:, at : at + sizes[row]])
    return own.view(header.types[row]).ravel().astype(np.float64)


def _codes(
    header: _Header, channels: Sequence[Signal], fs: float, length: int
) -> dict[str, NDArray[np.int64]]:
    """Trigger channels, as codes at the rate `fs`."""
    out = {}
    for one in channels:
        if one.kind == "stim":
            values = header.physical(one.row, _channel(header, one.row))
            at = np.floor(np.arange(length) * header.samples[one.row] / header.record_s / fs)
            out[one.name] = np.rint(values)[np.minimum(at.astype(int), len(values) - 1)].astype(int)
    return out


def _events(header: _Header, fs: float) -> list[Mark]:
    """The event table behind the records: type, and where it has one, length."""
    with header.path.open("rb") as file:
        file.seek(header.begin + header.records * header.record_bytes)
        table = file.read()
    if len(table) < 8:
        return []
    if header.version > 1.94:
        count = int.from_bytes(table[1:4], "little")
        rate = float(np.frombuffer(table, "<f4", 1, 4)[0])
    else:
        rate = float(int.from_bytes(table[1:4], "little"))
        count = int.from_bytes(table[4:8], "little")
    if len(table) < 8 + count * (12 if table[0] == 3 else 6):
        raise RecordingError(f"{header.path}: its table of {count} events is cut short")
    rate = rate if rate > 0 else fs
    onsets = (np.frombuffer(table, "<u4", count, 8).astype(np.float64) - 1) / rate
    types = np.frombuffer(table, "<u2", count, 8 + 4 * count)
    lengths = np.zeros(count)
    if table[0] == 3:
        lengths = np.frombuffer(table, "<u4", count, 8 + 8 * count) / rate
    marks: list[Mark] = []
    order = np.argsort(onsets, kind="stable")
    for k in order:
        kind, onset = int(types[k]), float(onsets[k])
        if kind & END_OF_EVENT:
            text = str(kind & ~END_OF_EVENT)
            began = [i for i, m in enumerate(marks) if m.text == text and m.duration_s == 0]
            if began:
                begin_s = marks[began[-1]].onset_s
                marks[began[-1]] = Mark(begin_s, onset - begin_s, text)
        elif kind:
            marks.append(Mark(onset, float(lengths[k]), str(kind)))
    return marks
