# SPDX-License-Identifier: Apache-2.0
"""Files that MNE reads (extra `data`): continuous ones, and epochs."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.study.data.matlab import check_readable
from biotrain.study.data.raw import (
    CutRequest,
    Mark,
    RawSignal,
    Segment,
    choose,
    first_line,
    kind_of,
    normal,
)
from biotrain.study.data.recordings import RecordingError

MNE_SUFFIXES = (".fif", ".fif.gz", ".edf", ".bdf", ".gdf", ".vhdr", ".set")
"""Files that MNE reads (extra `data`)."""

UNTYPED = (".edf", ".bdf", ".gdf", ".vhdr", ".set")
"""Formats that do not say what a channel records: all are EEG to MNE, so names decide."""

VOLTAGES = ("eeg", "emg", "eog", "seeg", "ecog", "ecg", "dbs")
"""Kinds of channels that MNE gives in volts."""

SKIPPED, PAUSED = "BAD_ACQ_SKIP", "New Segment"
"""Annotations of samples that were not recorded (FIF), and of where a recording goes on
(BrainVision)."""

CONTINUED = re.compile(r"(.+)(?:-(\d+)\.fif(?:\.gz)?|_split-(\d+)(_.*)?\.fif)$", re.IGNORECASE)
"""Later parts of a FIF file that was split at 2 GB, which its first part brings along."""


def _mne(what: str) -> ModuleType:
    try:
        import mne
    except ImportError as error:
        raise RecordingError(f"{what} needs MNE: pip install 'biotrain[data]'") from error
    found: ModuleType = mne
    return found


def read_raw(path: Path) -> Any:
    """A continuous file, loaded; RecordingError with MNE's own words where it cannot be read."""
    return _read(path, lambda mne: mne.io.read_raw(path, preload=True, verbose="error"))[0]


def _read(path: Path, how: Callable[[ModuleType], Any]) -> tuple[Any, list[str]]:
    """What MNE makes of a file, and its warnings."""
    mne = _mne(str(path))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            found = how(mne)
        except Exception as error:  # MNE raises whatever its reader meets
            raise RecordingError(f"{path}: MNE cannot read it: {first_line(error)}") from error
    told = [
        " ".join(str(one.message).split())
        for one in heard
        if not issubclass(one.category, DeprecationWarning | FutureWarning)
    ]
    return found, [f"MNE: {text}" for text in dict.fromkeys(told)]


def is_epochs(path: Path) -> bool:
    """Whether a FIF file holds epochs, by MNE's names for them."""
    return re.search(r"[-_]epo(-\d+)?\.fif(\.gz)?$", path.name.lower()) is not None


def continues(path: Path) -> bool:
    """Whether a FIF file is a later part of a split one that lies beside it."""
    match = CONTINUED.match(path.name)
    if match is None:
        return False
    if match[2] is not None:
        return (path.parent / f"{match[1]}.fif").exists()
    return int(match[3]) > 1


def read(path: Path, request: CutRequest) -> RawSignal:
    """A continuous file or one of epochs."""
    if path.name.lower().endswith(".set"):
        check_readable(path)
    if is_epochs(path):
        epochs, told = _read(path, lambda mne: mne.read_epochs(path, verbose="warning"))
        return from_epochs(epochs, path, request, told)
    try:
        raw, told = _read(path, lambda mne: mne.io.read_raw(path, preload=False, verbose="warning"))
    except RecordingError as error:
        if "read_epochs_eeglab" not in str(error.__cause__):
            raise
        epochs, told = _read(path, lambda mne: mne.read_epochs_eeglab(path, verbose="warning"))
        return from_epochs(epochs, path, request, told)
    return from_raw(raw, path, request, told)


def _kinds(instance: Any, path: Path) -> list[str]:
    given = list(instance.get_channel_types())
    if not path.name.lower().endswith(UNTYPED):
        return given
    names = list(instance.ch_names)
    return [kind_of(n) if k == "eeg" else k for n, k in zip(names, given, strict=True)]


def from_raw(raw: Any, path: Path, request: CutRequest, told: list[str]) -> RawSignal:
    """A continuous recording that MNE has opened; `told`: its warnings."""
    fs = float(raw.info["sfreq"])
    names, kinds = [normal(name) for name in raw.ch_names], _kinds(raw, path)
    taken, others = choose(names, kinds, request, path)
    own = [names.index(name) for name in taken]  # by place: a name may be that of a kind
    chosen_kinds = [kinds[names.index(name)] for name in taken]
    volts = np.array([1e6 if kind in VOLTAGES else 1.0 for kind in chosen_kinds])
    signal, more = _read(path, lambda _: np.asarray(raw.get_data(picks=own), np.float64))
    stim = [k for k, kind in enumerate(kinds) if kind == "stim"]
    kept, segments, marks, paused = _divided(_marks(raw, fs), signal.shape[1], fs, request)
    return RawSignal(
        path,
        (signal * volts[:, None])[:, kept],
        fs,
        tuple(taken),
        tuple(chosen_kinds),
        tuple("uV" if kind in VOLTAGES else "" for kind in chosen_kinds),
        bads=tuple(n for n in map(normal, raw.info.get("bads", ())) if n in taken),
        marks=tuple(marks),
        codes={names[k]: np.rint(raw.get_data(picks=[k])[0][kept]).astype(np.int64) for k in stim},
        segments=segments,
        begin=_begin(raw, fs),
        cut_s=raw.first_samp / fs,
        others=tuple(others),
        notes=(*told, *more, *paused),
    )


def _begin(raw: Any, fs: float) -> datetime | None:
    date = raw.info.get("meas_date")
    return None if date is None else date + timedelta(seconds=raw.first_samp / fs)


def _marks(raw: Any, fs: float) -> list[Mark]:
    """Annotations from the first sample on. MNE counts their onsets from the beginning of the
    acquisition, `first_samp` samples before, whether there is a date or not."""
    first = raw.first_samp / fs
    out = []
    for one in raw.annotations:
        text, onset = normal(str(one["description"])), float(one["onset"]) - first
        out.append(Mark(onset, float(one["duration"]), text))
    return out


def _divided(
    marks: list[Mark], count: int, fs: float, request: CutRequest
) -> tuple[slice | NDArray[np.int64], tuple[Segment, ...], list[Mark], list[str]]:
    """What some marks say of the clock: the samples that are there, the segments that they make,
    the other marks on the clock of the recording, and a note.

    FIF marks samples that were not recorded (BAD_ACQ_SKIP), which MNE fills with zeros. BrainVision
    (New Segment) and EEGLAB (boundary, whose length was cut out) mark where a recording goes on.
    """
    skips = [mark for mark in marks if mark.text.upper() == SKIPPED]
    if skips:
        there = np.ones(count, bool)
        for mark in skips:
            there[max(0, round(mark.onset_s * fs)) :][: round(mark.duration_s * fs)] = False
        at = np.flatnonzero(there)
        firsts = [0, *(int(k) + 1 for k in np.flatnonzero(np.diff(at) > 1))] if len(at) else []
        segments = tuple(Segment(k, float(at[k] / fs)) for k in firsts) or (Segment(0, 0.0),)
        return at, segments, [mark for mark in marks if mark not in skips], []
    breaks = [
        mark
        for mark in marks
        if mark.text not in request.events.classes
        and (mark.text.startswith(PAUSED) or mark.text.lower() == "boundary")
    ]
    rest = [mark for mark in marks if mark not in breaks]
    begins: dict[int, float] = {0: 0.0}
    for mark in sorted(breaks, key=lambda mark: mark.onset_s):
        first = math.ceil(mark.onset_s * fs - 1e-6)  # EEGLAB: half a sample before it
        cut_out = mark.duration_s if mark.text.lower() == "boundary" else 0.0
        if 0 < first < count:
            lost = cut_out if math.isfinite(cut_out) and cut_out > 1.5 / fs else 0.0
            begins[first] = list(begins.values())[-1] + lost
    segments = tuple(Segment(k, k / fs + lost) for k, lost in begins.items())
    edges, shifts = np.array(list(begins)) / fs, np.array(list(begins.values()))
    moved = [
        replace(m, onset_s=m.onset_s + float(shifts[np.searchsorted(edges, m.onset_s + 1e-6) - 1]))
        for m in rest
    ]
    told = [f"the recording was paused {len(begins) - 1} times; no window spans a pause"]
    return slice(None), segments, moved, told if len(begins) > 1 else []


def from_epochs(epochs: Any, path: Path, request: CutRequest, told: list[str]) -> RawSignal:
    """Epochs as segments, each with one event that is as long as it is."""
    labels = {code: name for name, code in epochs.event_id.items()}
    return epoched(epochs, path, request, [labels[code] for code in epochs.events[:, 2]], told)


def epoched(
    epochs: Any, path: Path, request: CutRequest, labels: list[str], told: list[str]
) -> RawSignal:
    """The same with labels that stand elsewhere."""
    fs = float(epochs.info["sfreq"])
    names, kinds = [normal(name) for name in epochs.ch_names], _kinds(epochs, path)
    taken, others = choose(names, kinds, request, path)
    chosen_kinds = [kinds[names.index(name)] for name in taken]
    volts = np.array([1e6 if kind in VOLTAGES else 1.0 for kind in chosen_kinds])
    own = [names.index(name) for name in taken]
    data = np.asarray(epochs.load_data().get_data(picks=own), np.float64) * volts[:, None]
    count, _, n_times = data.shape
    events, times = getattr(epochs, "events", None), getattr(epochs, "times", None)
    tmin = 0.0 if times is None else float(times[0])
    starts = np.arange(count) * n_times / fs if events is None else events[:, 0] / fs + tmin
    length = n_times / fs
    marks = [
        Mark(float(s), length, normal(t), k)
        for k, (s, t) in enumerate(zip(starts, labels, strict=True))
    ]
    found: list[Any] = getattr(epochs, "get_annotations_per_epoch", list)()
    for k, several in enumerate(found):
        for onset, duration, text in several:  # seconds from the event of the epoch
            marks.append(
                Mark(float(starts[k] - tmin + onset), float(duration), normal(str(text)), k)
            )
    marks = [m for k, m in enumerate(marks) if k < count or m.rejects]
    return RawSignal(
        path,
        np.concatenate(list(data), axis=1),
        fs,
        tuple(taken),
        tuple(chosen_kinds),
        tuple("uV" if kind in VOLTAGES else "" for kind in chosen_kinds),
        bads=tuple(n for n in map(normal, epochs.info.get("bads", ())) if n in taken),
        marks=tuple(marks),
        segments=tuple(Segment(k * n_times, float(s)) for k, s in enumerate(starts)),
        epoched=True,
        others=tuple(others),
        notes=tuple(told),
    )
