# SPDX-License-Identifier: Apache-2.0
"""Recordings through MNE and MOABB (extra `data`)."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.study.continuous import Continuous, Part
from biotrain.study.recordings import (
    MNE_SUFFIXES,
    RecordingError,
    Recordings,
    from_signal,
    quantize,
)

KINDS = ("eeg", "emg", "eog", "seeg", "ecog", "ecg")
"""Channel types of MNE; the first that a file has is read."""

PARADIGMS = {"imagery": "MotorImagery", "p300": "P300", "ssvep": "SSVEP", "cvep": "CVEP"}
"""Attribute `paradigm` of a MOABB data set -> the paradigm class that reads it."""


def _mne(what: str) -> ModuleType:
    try:
        import mne
    except ImportError as error:
        raise RecordingError(f"{what} needs MNE: pip install 'biotrain[data]'") from error
    found: ModuleType = mne
    return found


def load_mne(path: Path, window_s: float | None = None) -> Recordings:
    """A file of epochs, or a continuous file with annotations, or a folder of such files.

    Continuous: each annotation gives the windows of `window_s` seconds that fit into it, one after
    the other; its description is the class, and those that begin with BAD or EDGE are left out.
    Values are taken from MNE's volts to microvolts.
    """
    mne = _mne(str(path))
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.name.lower().endswith(MNE_SUFFIXES))
        if not files:
            raise RecordingError(f"{path}: it holds no file of MNE ({', '.join(MNE_SUFFIXES)})")
    parts = [_windows(mne, file, window_s) for file in files]
    rates = sorted({part["fs"] for part in parts})
    names = parts[0]["channels"]
    if len(rates) > 1 or any(part["channels"] != names for part in parts):
        raise RecordingError(f"{path}: its files differ in channels or sampling rate")
    lengths = [part["signal"].shape[2] for part in parts]
    if len(set(lengths)) > 1:
        raise RecordingError(f"{path}: its windows differ in length; give window_s")
    classes = sorted({label for part in parts for label in part["labels"]})
    entities = {
        key: _ranks([_entity(file, key) for file in files]) for key in ("sub", "ses", "run")
    }
    counts = [len(part["labels"]) for part in parts]
    return from_signal(
        np.concatenate([part["signal"] for part in parts]),
        y=np.array([classes.index(label) for part in parts for label in part["labels"]]),
        subject=np.repeat(entities["sub"], counts),
        session=np.repeat(entities["ses"], counts),
        run=np.repeat(entities["run"], counts),
        time_s=np.concatenate([part["time_s"] for part in parts]),
        fs=rates[0],
        channels=names,
        classes=classes,
        unit="uV (x*scale)",
        name=path.name.split(".")[0],
    )


def load_mne_continuous(path: Path) -> Continuous | None:
    """Continuous files of MNE with annotations, not cut; None where a file holds epochs.

    Values are quantised to integers, for MNE gives volts and not the converter's steps.
    """
    mne = _mne(str(path))
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.name.lower().endswith(MNE_SUFFIXES))
    if not files or any("epo.fif" in file.name.lower() for file in files):
        return None
    raws = [_pick(_raw(mne, file)) for file in files]
    names, fs = list(raws[0].ch_names), float(raws[0].info["sfreq"])
    if any(list(raw.ch_names) != names or raw.info["sfreq"] != fs for raw in raws):
        raise RecordingError(f"{path}: its files differ in channels or sampling rate")
    marks = [_marks(raw) for raw in raws]
    classes = sorted({label for found in marks for _, _, label in found})
    if not classes:
        raise RecordingError(f"{path}: no annotations, so no labels")
    signals = [np.asarray(raw.get_data(), np.float64) * 1e6 for raw in raws]
    steps, scale = quantize(np.concatenate(signals, axis=1)[None])
    ends = np.cumsum([signal.shape[1] for signal in signals])
    who = {key: _ranks([_entity(file, key) for file in files]) for key in ("sub", "ses")}
    parts = []
    for k, x in enumerate(np.split(steps[0], ends[:-1], axis=1)):
        spans = [
            (max(0, round(onset * fs)), min(x.shape[1], round((onset + duration) * fs)), label)
            for onset, duration, label in marks[k]
        ]
        spans = [span for span in spans if span[0] < span[1]]
        begin, end = (np.array([span[i] for span in spans], np.int64) for i in (0, 1))
        labels = np.array([classes.index(span[2]) for span in spans], np.int64)
        parts.append(Part(who["sub"][k], who["ses"][k], x, begin, end, labels))
    name = path.name.split(".")[0]
    return Continuous(tuple(parts), scale, fs, tuple(names), tuple(classes), "uV (x*scale)", name)


def _entity(path: Path, key: str) -> str:
    """The value of a BIDS entity in a file name: sub-07_ses-2_eeg.edf -> "07" for "sub"."""
    found = re.search(rf"(?:^|_){key}-([A-Za-z0-9]+)", path.name)
    return found.group(1) if found else ""


def _ranks(labels: list[str]) -> list[int]:
    """Numbers from 1 in the order of the labels; "2" comes before "10"."""

    def key(text: str) -> list[tuple[int, str]]:
        return [(int(d), "") if d else (-1, t) for d, t in re.findall(r"(\d+)|(\D+)", text)]

    order = sorted(set(labels), key=key)
    return [order.index(label) + 1 for label in labels]


def _windows(mne: ModuleType, path: Path, window_s: float | None) -> dict[str, Any]:
    if "epo.fif" in path.name.lower():
        return _from_epochs(_read(path, mne.read_epochs))
    return _from_raw(_raw(mne, path), path, window_s)


def _raw(mne: ModuleType, path: Path) -> Any:
    return _read(path, mne.io.read_raw)


def _read(path: Path, reader: Any) -> Any:
    try:
        return reader(path, preload=True, verbose="error")
    except Exception as error:  # MNE raises whatever its reader meets
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RecordingError(f"{path}: MNE cannot read it: {line}") from error


def _from_epochs(epochs: Any) -> dict[str, Any]:
    epochs = _pick(epochs.load_data())
    names = {code: name for name, code in epochs.event_id.items()}
    return {
        "signal": epochs.get_data(copy=False) * 1e6,
        "labels": [names[code] for code in epochs.events[:, 2]],
        "time_s": epochs.events[:, 0] / epochs.info["sfreq"] + epochs.times[0],
        "fs": float(epochs.info["sfreq"]),
        "channels": list(epochs.ch_names),
    }


def _from_raw(raw: Any, path: Path, window_s: float | None) -> dict[str, Any]:
    raw = _pick(raw)
    fs = float(raw.info["sfreq"])
    marks = _marks(raw)
    durations = [duration for _, duration, _ in marks if duration > 0]
    if not marks:
        raise RecordingError(f"{path}: no annotations, so no labels")
    if window_s is None:
        if not durations:
            raise RecordingError(f"{path}: its annotations have no duration; give window_s")
        window_s = min(durations)
    n_times = round(window_s * fs)
    if n_times < 1:
        raise RecordingError(f"{path}: a window of {window_s:g} s is shorter than one sample")
    data: NDArray[np.float64] = raw.get_data() * 1e6
    begins: list[int] = []
    labels: list[str] = []
    for onset, duration, label in marks:
        begin = round(onset * fs)
        count = max(1, int(duration * fs + 0.5) // n_times)
        for k in range(count):
            at = begin + k * n_times
            if at >= 0 and at + n_times <= data.shape[1]:
                begins.append(at)
                labels.append(label)
    if not begins:
        raise RecordingError(f"{path}: no window of {window_s:g} s fits into it")
    return {
        "signal": np.stack([data[:, at : at + n_times] for at in begins]),
        "labels": labels,
        "time_s": np.array(begins) / fs,
        "fs": fs,
        "channels": list(raw.ch_names),
    }


def _marks(raw: Any) -> list[tuple[float, float, str]]:
    """Onset in seconds from the first sample, duration and label of every annotation."""
    dated = raw.annotations.orig_time is not None
    first = raw.first_samp / float(raw.info["sfreq"]) if dated else 0.0
    return [
        (float(a["onset"]) - first, float(a["duration"]), str(a["description"]))
        for a in raw.annotations
        if not str(a["description"]).upper().startswith(("BAD", "EDGE"))
    ]


def _pick(instance: Any) -> Any:
    present = instance.get_channel_types(unique=True)
    for kind in KINDS:
        if kind in present:
            return instance.pick(kind)
    raise RecordingError(f"no channel of the types {', '.join(KINDS)}; there are: {present}")


def load_moabb(name: str) -> Recordings:
    """The MOABB data set called `name`, read by MOABB's paradigm for it with that paradigm's own
    filter and window (for motor imagery 8-32 Hz, zero phase: offline)."""
    try:
        import moabb.datasets
        import moabb.paradigms
    except ImportError as error:
        raise RecordingError(f"moabb:{name} needs MOABB: pip install 'biotrain[data]'") from error
    maker = getattr(moabb.datasets, name, None)
    if not isinstance(maker, type):
        raise RecordingError(f"moabb:{name}: MOABB has no data set of that name")
    dataset = maker()
    if dataset.paradigm not in PARADIGMS:
        raise RecordingError(f"moabb:{name}: no labelled trials in paradigm {dataset.paradigm}")
    paradigm = getattr(moabb.paradigms, PARADIGMS[dataset.paradigm])()
    try:
        epochs, labels, table = paradigm.get_data(dataset, return_epochs=True)
    except Exception as error:  # downloads and file formats of many kinds
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RecordingError(f"moabb:{name}: MOABB cannot load it: {line}") from error
    epochs = _pick(epochs.load_data())
    classes, y = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    columns = {key: [str(value) for value in table[key]] for key in ("subject", "session", "run")}
    return from_signal(
        epochs.get_data(copy=False) * 1e6,
        y=y,
        subject=np.array(_ranks(columns["subject"])),
        session=np.array(_ranks(columns["session"])),
        run=np.array(_ranks(columns["run"])),
        fs=float(epochs.info["sfreq"]),
        channels=list(epochs.ch_names),
        classes=classes,
        unit="uV (x*scale)",
        name=f"moabb-{name}",
    )
