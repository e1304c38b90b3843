# SPDX-License-Identifier: Apache-2.0
"""EDF, EDF+, BDF and BDF+ files, read from their bytes.

The formats are those of Kemp et al. (Electroenceph. clin. Neurophysiol. 82, 1992; Clin.
Neurophysiol. 114, 2003) and of BioSemi. Reading them here keeps what other readers lose: the unit
of each channel, its own rate, and when each record began (EDF+D has gaps).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.study.data.raw import CutRequest, Mark, RawSignal, Segment, normal
from biotrain.study.data.readers.records import Records, Signal, raw_signal, scaling, signals_of
from biotrain.study.data.recordings import RecordingError

ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
TRIGGER_BITS = 0xFFFF
"""The bits of BioSemi's Status channel that hold trigger codes."""

ROUNDED_S = 0.1
"""By how much the times of records of a continuous file may be off without a gap."""


@dataclass(frozen=True)
class Header(Records):
    """The header of a file."""

    kind: str
    """The reserved field: "EDF+C", "EDF+D", "24BIT", ..."""
    bytes_per_sample: int

    def named(self, index: int) -> bool:
        """Whether a channel holds annotations."""
        return self.labels[index] in ANNOTATIONS

    def signals(self) -> list[int]:
        """The channels that hold signals."""
        return [k for k in range(len(self.labels)) if not self.named(k) and self.samples[k] > 0]


def read_header(path: Path) -> Header | None:
    """The header of a file; None where it is no EDF or BDF."""
    with path.open("rb") as file:
        head = file.read(256)
        if len(head) < 256 or head[:8] not in (b"0       ", b"\xffBIOSEMI"):
            return None
        wide = head[0] == 0xFF
        text = head.decode("latin-1")
        try:
            count = int(text[252:256])
            body = file.read(256 * count).decode("latin-1")
            begin, records, record_s = int(text[184:192]), int(text[236:244]), float(text[244:252])
            columns = _columns(body, count)
            low, high, least, most = (
                np.array([float(value.replace(",", ".") or 0) for value in columns[k]])
                for k in ("physical_min", "physical_max", "digital_min", "digital_max")
            )
            samples = np.array([int(value) for value in columns["samples"]], np.int64)
        except ValueError as error:
            raise RecordingError(f"{path}: its EDF header is damaged: {error}") from error
    gains, offsets = scaling((least, most), (low, high))
    size = 3 if wide else 2
    there = (path.stat().st_size - begin) // max(1, int(samples.sum()) * size)
    return Header(
        path,
        begin,
        there if records < 0 else min(records, there),
        record_s,
        tuple(normal(label) for label in columns["label"]),
        tuple(columns["unit"]),
        gains,
        offsets,
        samples,
        text[192:236].strip(),
        size,
    )


def _columns(body: str, count: int) -> dict[str, list[str]]:
    """The fields of the channels' part of a header, a value per channel."""
    widths = {
        "label": 16, "transducer": 80, "unit": 8, "physical_min": 8, "physical_max": 8,
        "digital_min": 8, "digital_max": 8, "filter": 80, "samples": 8,
    }  # fmt: skip
    out, at = {}, 0
    for key, width in widths.items():
        out[key] = [body[at + k * width : at + (k + 1) * width].strip() for k in range(count)]
        at += width * count
    return out


def read(path: Path, request: CutRequest) -> RawSignal | None:
    """The signal and annotations of an EDF or BDF file; None where it is neither."""
    header = read_header(path)
    if header is None:
        return None
    signals = header.signals()
    if not signals or header.record_s <= 0:
        raise RecordingError(f"{path}: it holds annotations only, no signal")
    if not header.records:
        raise RecordingError(f"{path}: it holds no whole record")
    records = _records(header)
    channels = signals_of(header, signals)
    raw = raw_signal(header, channels, lambda row: _channel(header, records, row), request)
    starts, marks = _annotations(header, records)
    codes = _codes(header, records, channels, raw.fs)
    length = raw.x.shape[-1]
    return replace(
        raw,
        marks=tuple(marks),
        codes={name: held[:length] for name, held in codes.items() if len(held) >= length},
        segments=_segments(header, starts, raw.fs),
        begin=begin_of(path),
    )


def _records(header: Header) -> NDArray[np.uint8]:
    """The bytes of the records [records, bytes]."""
    size = int(header.samples.sum()) * header.bytes_per_sample
    found: NDArray[Any] = np.memmap(
        header.path, np.uint8, "r", header.begin, (header.records, size)
    )
    return found


def _bytes(header: Header, records: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
    size = header.bytes_per_sample
    at = int(header.samples[:row].sum()) * size
    return np.ascontiguousarray(records[:, at : at + int(header.samples[row]) * size])


def _channel(header: Header, records: NDArray[np.uint8], row: int) -> NDArray[np.float64]:
    """The converter's integers of a channel, one after the other."""
    raw = _bytes(header, records, row)
    if header.bytes_per_sample == 2:
        return raw.view("<i2").ravel().astype(np.float64)
    three = raw.reshape(-1, 3).astype(np.int32)
    value = three[:, 0] | (three[:, 1] << 8) | (three[:, 2] << 16)
    return np.where(value >= 1 << 23, value - (1 << 24), value).astype(np.float64)


def _codes(
    header: Header,
    records: NDArray[np.uint8],
    channels: Sequence[Signal],
    fs: float,
) -> dict[str, NDArray[np.int64]]:
    """Trigger channels, as codes at the rate `fs`."""
    out = {}
    for one in channels:
        if one.kind != "stim":
            continue
        values = np.rint(_channel(header, records, one.row)).astype(np.int64)
        if header.bytes_per_sample == 3:
            values &= TRIGGER_BITS
        else:
            values = np.rint(header.physical(one.row, values)).astype(np.int64)
        rate = header.samples[one.row] / header.record_s
        at = np.floor(np.arange(round(len(values) * fs / rate)) * rate / fs).astype(np.int64)
        out[one.name] = values if rate == fs else values[np.minimum(at, len(values) - 1)]
    return out


def _annotations(
    header: Header, records: NDArray[np.uint8]
) -> tuple[NDArray[np.float64] | None, list[Mark]]:
    """When each record began, in seconds (None: the file does not say), and the annotations on the
    same clock, whose zero is the first sample."""
    rows = [k for k in range(len(header.labels)) if header.named(k)]
    starts: list[float] = []
    found: list[tuple[float, float, str]] = []
    for order, row in enumerate(rows):
        for record in _bytes(header, records, row):
            for k, (onset, duration, texts) in enumerate(tals(record.tobytes())):
                if order == 0 and k == 0 and (not texts or not texts[0]):
                    starts.append(onset)
                found += [(onset, duration, text) for text in texts if text]
    zero = starts[0] if starts else 0.0
    marks = [Mark(onset - zero, duration, text) for onset, duration, text in found]
    whole = np.array(starts) - zero if len(starts) == header.records else None
    return whole, marks


def tals(block: bytes) -> list[tuple[float, float, list[str]]]:
    """The time-stamped annotation lists of a record: onset and duration in seconds, texts."""
    out = []
    for one in block.split(b"\x00"):
        time, *texts = one.split(b"\x14")
        if not time.strip():
            continue
        onset, _, duration = time.partition(b"\x15")
        try:
            begin, length = float(onset), float(duration or 0)
        except ValueError:
            continue  # padding that is no annotation
        out.append((begin, length, [_text(text) for text in texts]))
    return out


def _text(raw: bytes) -> str:
    try:
        return normal(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return normal(raw.decode("latin-1"))


def _segments(header: Header, starts: NDArray[np.float64] | None, fs: float) -> tuple[Segment, ...]:
    """A segment per stretch of records that follow each other, by the times of the records also
    where the header says that it is continuous; RecordingError where a file says that it has gaps,
    and not where."""
    paused = "+D" in header.kind
    if starts is None and not paused:
        return (Segment(0, 0.0),)
    if starts is None:
        raise RecordingError(
            f"{header.path}: it is discontinuous ({header.kind}) and its records have no times, so "
            "no event can be placed"
        )
    late = np.diff(starts) - header.record_s
    if paused and (late < -0.5 / fs).any():
        raise RecordingError(f"{header.path}: its records overlap in time")
    limit = 0.5 / fs if paused else max(0.5 / fs, ROUNDED_S)
    firsts = [0, *(int(k) + 1 for k in np.flatnonzero(late > limit))]
    per_record = round(header.record_s * fs)
    return tuple(Segment(k * per_record, float(starts[k])) for k in firsts)


def begin_of(path: Path) -> datetime | None:
    """When an EDF file says that it began; None: it says nothing that can be a date."""
    with path.open("rb") as file:
        text = file.read(184)[168:].decode("latin-1")
    try:
        return datetime.strptime(text, "%d.%m.%y%H.%M.%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def annotations_of(path: Path) -> list[Mark] | None:
    """The annotations of an EDF+ file, such as a hypnogram; None where it is no EDF."""
    header = read_header(path)
    return None if header is None else _annotations(header, _records(header))[1]
