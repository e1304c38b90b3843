# SPDX-License-Identifier: Apache-2.0
"""XDF files of the lab streaming layer (pyxdf, extra `data`): streams of several computers, whose
clocks pyxdf brings together by the offsets that were measured while recording."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.study.data.raw import (
    KINDS,
    CutRequest,
    Mark,
    RawSignal,
    Segment,
    choose,
    first_line,
    kind_of,
    microvolts,
    normal,
    segments_of,
)
from biotrain.study.data.recordings import RecordingError

OTHER_RATE = 0.005
"""Relative difference from which on the rate by name is not believed; clocks differ by 1e-4."""

SUFFIXES = (".xdf", ".xdfz", ".xdf.gz")


def read(path: Path, request: CutRequest) -> RawSignal:
    """The first stream of the kind that was asked for, with the events of all marker streams."""
    try:
        import pyxdf
    except ImportError as error:
        raise RecordingError(f"{path} needs pyxdf: pip install 'biotrain[data]'") from error
    logging.getLogger("pyxdf").setLevel(logging.CRITICAL + 1)  # it prints tracebacks of its own
    try:
        streams, _ = pyxdf.load_xdf(str(path), synchronize_clocks=True, dejitter_timestamps=True)
    except Exception as error:  # pyxdf raises whatever it meets
        raise RecordingError(f"{path}: pyxdf cannot read it: {first_line(error)}") from error
    stream = _signal(streams, request, path)
    info = stream["info"]
    names, kinds, units = _channels(stream)
    taken, others = choose(names, kinds, request, path)
    others += [
        f"stream {_one(one['info'], 'name')} ({_one(one['info'], 'type')})"
        for one in streams
        if one is not stream and float(_one(one["info"], "nominal_srate") or 0) > 0
    ]
    stamps = np.asarray(stream["time_stamps"], np.float64)
    if len(stamps) < 2:
        raise RecordingError(f"{path}: stream {_one(info, 'name')} holds no signal")
    fs, notes = _rate(float(_one(info, "nominal_srate") or 0), stamps)
    values = np.asarray(stream["time_series"], np.float64).T
    rows = [names.index(name) for name in taken]
    factors = [microvolts(units[row]) for row in rows]
    if any(not units[row] for row in rows):
        notes.append("the stream names no unit: taken as uV")
    segments = segments_of(stamps, fs)
    marks, silent = _marks(streams, _Clock(stamps, segments, fs))
    notes += [f"the stream of markers '{name}' is empty" for name in silent]
    return RawSignal(
        path,
        values[rows] * np.array([factor or 1.0 for factor in factors])[:, None],
        fs,
        tuple(taken),
        tuple(kinds[row] for row in rows),
        tuple("uV" if f or not units[r] else units[r] for f, r in zip(factors, rows, strict=True)),
        marks=tuple(marks),
        codes={
            name: np.rint(values[k]).astype(np.int64)
            for k, (name, kind) in enumerate(zip(names, kinds, strict=True))
            if kind == "stim"
        },
        segments=segments,
        others=tuple(others),
        notes=tuple(notes),
    )


def _rate(nominal: float, stamps: NDArray[np.float64]) -> tuple[float, list[str]]:
    """The rate by name, or by the time stamps where the two differ by more than clocks do."""
    span = float(np.median(np.diff(stamps)))
    measured = 1 / span if span > 0 else nominal
    if abs(measured / nominal - 1) <= OTHER_RATE:
        return nominal, []
    told = f"the rate is {nominal:g} Hz by name and {measured:g} Hz by the time stamps, which hold"
    return measured, [told]


@dataclass(frozen=True, eq=False)
class _Clock:
    """From time stamps to the recording's clock, which counts samples within a segment: so a marker
    stays at its sample although the clock of the signal drifts against its rate."""

    stamps: NDArray[np.float64]
    segments: tuple[Segment, ...]
    fs: float

    def time_of(self, stamp: float) -> float:
        """Seconds from the first sample."""
        firsts = [segment.first for segment in self.segments]
        k = max(0, int(np.searchsorted(self.stamps[firsts], stamp, "right")) - 1)
        own = self.stamps[firsts[k] : (*firsts, len(self.stamps))[k + 1]]
        inside = min(max(stamp, float(own[0])), float(own[-1]))
        at = float(np.interp(inside, own, np.arange(len(own)))) / self.fs + stamp - inside
        after = self.segments[k + 1].time_s if k + 1 < len(self.segments) else np.inf
        return min(self.segments[k].time_s + at, float(after))


def _one(info: Any, key: str) -> str:
    """The text of an element of a stream's header; "" where it is not there."""
    held = info.get(key) if isinstance(info, dict) else None
    value = held[0] if isinstance(held, list) and held else held
    return "" if value is None or isinstance(value, dict) else normal(str(value))


def _signal(streams: list[Any], request: CutRequest, path: Path) -> Any:
    regular = [s for s in streams if float(_one(s["info"], "nominal_srate") or 0) > 0]
    wanted = (request.kind,) if request.kind else KINDS
    asked = {normal(name) for name in request.channels}
    for kind in wanted:
        fitting = [
            stream
            for stream in regular
            if _one(stream["info"], "type").lower() in (kind, "exg") and len(stream["time_stamps"])
        ]
        if fitting:
            having = [stream for stream in fitting if asked <= set(_channels(stream)[0])]
            return (having or fitting)[0]
    there = ", ".join(f"{_one(s['info'], 'name')} ({_one(s['info'], 'type')})" for s in streams)
    raise RecordingError(
        f"{path}: no stream of a regular rate is of type {', '.join(wanted)}; there are: {there}"
    )


def _channels(stream: Any) -> tuple[list[str], list[str], list[str]]:
    """Names, kinds and units, from the stream's description as far as it has one."""
    info = stream["info"]
    count = int(_one(info, "channel_count"))
    usual = _one(info, "type").lower()
    described: list[Any] = []
    with suppress(KeyError, TypeError, IndexError):  # nobody has to describe channels
        described = list(info["desc"][0]["channels"][0]["channel"])
    if len(described) != count:
        described = [{}] * count
    names, kinds, units = [], [], []
    for k, one in enumerate(described):
        name, unit = _one(one, "label") or f"{usual.upper() or 'EEG'}{k + 1}", _one(one, "unit")
        kind = _one(one, "type").lower()
        names.append(name)
        units.append(unit)
        default = usual if usual in KINDS else "eeg"
        kinds.append(kind if kind in KINDS else kind_of(name, unit, default))
    return names, kinds, units


def _marks(streams: list[Any], clock: _Clock) -> tuple[list[Mark], list[str]]:
    """The markers of all streams without a rate, on the clock of the signal; and empty streams."""
    marks, silent = [], []
    for stream in streams:
        info = stream["info"]
        if float(_one(info, "nominal_srate") or 0) > 0:
            continue
        if not len(stream["time_stamps"]):
            silent.append(_one(info, "name"))
        for stamp, values in zip(stream["time_stamps"], stream["time_series"], strict=True):
            value = values[0]
            text = normal(value) if isinstance(value, str) else f"{float(value):g}"
            if text:
                marks.append(Mark(clock.time_of(float(stamp)), 0.0, text))
    return sorted(marks, key=lambda mark: mark.onset_s), silent
