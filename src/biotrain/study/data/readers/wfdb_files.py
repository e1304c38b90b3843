# SPDX-License-Identifier: Apache-2.0
"""Records of PhysioNet's WFDB format (wfdb, extra `data`): a header and its signal files, with
annotations beside them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.study.data.join import resampled_rows
from biotrain.study.data.raw import (
    CutRequest,
    Mark,
    RawSignal,
    Segment,
    choose,
    first_line,
    kind_of,
    microvolts,
    normal,
)
from biotrain.study.data.recordings import RecordingError

SUFFIXES = (".hea",)
ANNOTATORS = ("atr", "event", "ann", "ari", "apn", "st", "hyp", "ecg", "qrs")
"""Annotation files that may lie beside a record; the first that is there is read."""

ECG_LEADS = ("i", "ii", "iii", "avr", "avl", "avf", "mlii", "mliii", "mcl", "v", "vx", "vy", "vz")
"""Leads of an electrocardiogram, in small letters and without a number."""


def read(path: Path, request: CutRequest) -> RawSignal:
    """A record in physical units. Stretches in which no channel has a value are gaps."""
    try:
        import wfdb
    except ImportError as error:
        raise RecordingError(f"{path} needs wfdb: pip install 'biotrain[data]'") from error
    stem = str(path.with_suffix(""))
    try:
        with warnings.catch_warnings():  # what wfdb calls in pandas is deprecated there
            warnings.simplefilter("ignore")
            record = wfdb.rdrecord(stem, physical=True, smooth_frames=False)
    except Exception as error:  # wfdb raises whatever it meets
        raise RecordingError(f"{path}: wfdb cannot read it: {first_line(error)}") from error
    if record.e_p_signal is None or not record.n_sig:
        raise RecordingError(f"{path}: the record holds no signal")
    names = [normal(name or f"ch{k + 1}") for k, name in enumerate(record.sig_name)]
    units = [unit or "" for unit in record.units]
    kinds = [_kind(name, unit) for name, unit in zip(names, units, strict=True)]
    taken, others = choose(names, kinds, request, path)
    rows = [names.index(name) for name in taken]
    notes: list[str] = []
    x, fs = _at_one_rate(record, rows, notes)
    factors = [microvolts(units[row]) for row in rows]
    for row, factor in zip(rows, factors, strict=True):
        if factor is None:
            notes.append(f"channel {names[row]} is in '{units[row]}', which is no voltage: as read")
    x *= np.array([factor or 1.0 for factor in factors])[:, None]
    there = np.isfinite(x).all(axis=0)
    if not there.any():
        raise RecordingError(f"{path}: no sample has a value in every channel")
    at = np.flatnonzero(there)
    begins = [0, *(int(k) + 1 for k in np.flatnonzero(np.diff(at) > 1))]
    segments = tuple(Segment(k, float((at[k] - at[0]) / fs)) for k in begins)
    return RawSignal(
        path,
        np.ascontiguousarray(x[:, there]),
        fs,
        tuple(taken),
        tuple(kinds[row] for row in rows),
        tuple("uV" if f else units[r] for f, r in zip(factors, rows, strict=True)),
        marks=tuple(_marks(wfdb, path, stem, float(record.fs), float(at[0]) / fs, notes)),
        segments=segments,
        others=tuple(others),
        notes=tuple(notes),
    )


def _at_one_rate(
    record: Any, rows: list[int], notes: list[str]
) -> tuple[NDArray[np.float64], float]:
    """The channels `rows` and their rate. A record has so many samples of each channel per frame;
    channels of several rates are brought to the lowest. Samples without a value are NaN."""
    per_frame = [int(record.samps_per_frame[row]) for row in rows]
    least = min(per_frame)
    fs = float(record.fs) * least
    if max(per_frame) > least:
        rates = ", ".join(f"{record.fs * n:g}" for n in sorted(set(per_frame)))
        notes.append(f"channels of {rates} Hz are resampled to {fs:g} Hz (offline)")
    out = []
    for row, samples in zip(rows, per_frame, strict=True):
        signal = np.asarray(record.e_p_signal[row], np.float64)
        if samples > least:
            lost = np.isnan(signal)
            signal = resampled_rows(np.where(lost, 0.0, signal)[None], samples, least)[0]
            where = np.minimum(np.flatnonzero(lost) * least // samples, len(signal) - 1)
            signal[where] = np.nan
        out.append(signal)
    length = min(len(signal) for signal in out)
    return np.stack([signal[:length] for signal in out]), fs


def _kind(name: str, unit: str) -> str:
    lead = name.lower().rstrip("0123456789")
    return "ecg" if lead in ECG_LEADS else kind_of(name, unit)


def _marks(
    wfdb: Any, path: Path, stem: str, fs: float, first_s: float, notes: list[str]
) -> list[Mark]:
    """The annotations beside a record: its notes where it has some, else the symbols of beats. A
    rhythm, "(AFIB", lasts until the next one begins."""
    found = [one for one in ANNOTATORS if Path(f"{stem}.{one}").is_file()]
    if not found:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            held = wfdb.rdann(stem, found[0])
    except Exception as error:  # wfdb raises whatever it meets
        raise RecordingError(f"{path}: wfdb cannot read {found[0]}: {first_line(error)}") from error
    if len(found) > 1:
        notes.append(f"annotations are read from .{found[0]}; there are {', '.join(found)}")
    texts = [normal((note or "").strip("\x00")) for note in held.aux_note]
    at = [sample / float(held.fs or fs) - first_s for sample in held.sample]
    if not any(texts):
        return [Mark(onset, 0.0, normal(s)) for onset, s in zip(at, held.symbol, strict=True)]
    told = [(onset, text) for onset, text in zip(at, texts, strict=True) if text]
    ends = [onset for onset, text in told if text.startswith("(")][1:]
    marks = []
    for onset, text in told:
        later = [end for end in ends if end > onset]
        length = later[0] - onset if text.startswith("(") and later else 0.0
        marks.append(Mark(onset, length, text))
    return marks
