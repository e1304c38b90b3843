# SPDX-License-Identifier: Apache-2.0
"""Files that MNE reads (extra `data`)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.study.data.continuous import Continuous, Part
from biotrain.study.data.recordings import (
    RecordingError,
    Recordings,
    from_signal,
    quantize,
)

MNE_SUFFIXES = (".fif", ".fif.gz", ".edf", ".bdf", ".gdf", ".vhdr", ".set")
"""Files that MNE reads (extra `data`)."""

KINDS = ("eeg", "emg", "eog", "seeg", "ecog", "ecg")
"""Channel types of MNE; the first that a file has is read."""


def _mne(what: str) -> ModuleType:
    try:
        import mne
    except ImportError as error:
        raise RecordingError(f"{what} needs MNE: pip install 'biotrain[data]'") from error
    found: ModuleType = mne
    return found


@dataclass(frozen=True)
class Cut:
    """How windows are cut from a continuous recording.

    window_s: their length; the shortest event where it is None. start_s: from the onset of an event
    to its first window. hop_s: to the next one, as many as fit into the event; None: window_s.
    duration_s: of events that have none. events: description -> class; what is not in it is left
    out; empty: every description is a class. channels: names; empty: all of the first of KINDS that
    is there. scale: from MNE's unit (volts) to that of the recordings.
    """

    window_s: float | None = None
    start_s: float = 0.0
    hop_s: float | None = None
    duration_s: float = 0.0
    events: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    scale: float = 1e6


@dataclass(frozen=True)
class Place:
    """Whose a file is, in words; `label`: the class of all of it; `repetition`: of its task."""

    subject: str = ""
    session: str = ""
    run: str = ""
    repetition: str = ""
    label: str = ""


def read_windows(path: Path, window_s: float | None = None) -> Recordings:
    """A file of epochs, or a continuous file with annotations, or a folder of such files.

    Continuous: each annotation gives the windows of `window_s` seconds that fit into it, one after
    the other; its description is the class, and those that begin with BAD or EDGE are left out.
    Values are taken from MNE's volts to microvolts.
    """
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.name.lower().endswith(MNE_SUFFIXES))
        if not files:
            raise RecordingError(f"{path}: it holds no file of MNE ({', '.join(MNE_SUFFIXES)})")
    places = [Place(*(_entity(file, key) for key in ("sub", "ses", "run"))) for file in files]
    parts = [
        _windows(file, place, Cut(window_s)) for file, place in zip(files, places, strict=True)
    ]
    return joined(path, parts, places, "uV (x*scale)", path.name.split(".")[0])


def joined(
    where: Path,
    parts: Sequence[dict[str, Any]],
    places: Sequence[Place],
    unit: str,
    name: str,
    classes: Sequence[str] = (),
) -> Recordings:
    """The recordings of `parts`, one per file; subjects and sessions are numbered in the order of
    their names. classes: in this order; else by name."""
    rates = sorted({part["fs"] for part in parts})
    names = parts[0]["channels"]
    if len(rates) > 1 or any(part["channels"] != names for part in parts):
        raise RecordingError(f"{where}: its files differ in channels or sampling rate")
    lengths = [part["signal"].shape[2] for part in parts]
    if len(set(lengths)) > 1:
        raise RecordingError(f"{where}: its windows differ in length; give window_s")
    found = {label for part in parts for label in part["labels"]}
    ordered = [one for one in classes if one in found] if classes else sorted(found)
    counts = [len(part["labels"]) for part in parts]

    def numbers(key: str) -> NDArray[np.int64]:
        return np.repeat(ranks([getattr(place, key) for place in places]), counts)

    repeats = {"repetition": numbers("repetition")} if any(p.repetition for p in places) else {}
    return from_signal(
        np.concatenate([part["signal"] for part in parts]),
        y=np.array([ordered.index(label) for part in parts for label in part["labels"]]),
        subject=numbers("subject"),
        session=numbers("session"),
        run=numbers("run"),
        time_s=np.concatenate([part["time_s"] for part in parts]),
        fs=rates[0],
        channels=names,
        classes=ordered,
        unit=unit,
        name=name,
        **repeats,
    )


def read_continuous(path: Path) -> Continuous | None:
    """Continuous files of MNE with annotations, not cut; None where a file holds epochs.

    Values are quantised to integers, for MNE gives volts and not the converter's steps.
    """
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.name.lower().endswith(MNE_SUFFIXES))
    if not files or any("epo.fif" in file.name.lower() for file in files):
        return None
    raws = [pick(read_raw(file)) for file in files]
    names, fs = list(raws[0].ch_names), float(raws[0].info["sfreq"])
    if any(list(raw.ch_names) != names or raw.info["sfreq"] != fs for raw in raws):
        raise RecordingError(f"{path}: its files differ in channels or sampling rate")
    marks = [_marks(raw, file, Place(), Cut(), 0.0) for raw, file in zip(raws, files, strict=True)]
    classes = sorted({label for found in marks for _, _, label in found})
    signals = [np.asarray(raw.get_data(), np.float64) * 1e6 for raw in raws]
    steps, scale = quantize(np.concatenate(signals, axis=1)[None])
    ends = np.cumsum([signal.shape[1] for signal in signals])
    who = {key: ranks([_entity(file, key) for file in files]) for key in ("sub", "ses")}
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


def ranks(labels: list[str]) -> list[int]:
    """Numbers from 1 in the order of the labels; "2" comes before "10"."""

    def key(text: str) -> list[tuple[int, str]]:
        return [(int(d), "") if d else (-1, t) for d, t in re.findall(r"(\d+)|(\D+)", text)]

    order = sorted(set(labels), key=key)
    return [order.index(label) + 1 for label in labels]


def read_raw(path: Path) -> Any:
    """A continuous file, loaded; RecordingError with MNE's own words where it cannot be read."""
    return _read(path, lambda mne: mne.io.read_raw(path, preload=True, verbose="error"))


def _read(path: Path, how: Callable[[ModuleType], Any]) -> Any:
    mne = _mne(str(path))
    try:
        return how(mne)
    except Exception as error:  # MNE raises whatever its reader meets
        raise RecordingError(f"{path}: MNE cannot read it: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an error of another package says, on one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _windows(path: Path, place: Place, cut: Cut) -> dict[str, Any]:
    if "epo.fif" in path.name.lower():
        return _from_epochs(_read(path, lambda mne: mne.read_epochs(path, verbose="error")))
    return from_raw(read_raw(path), path, place, cut)


def _from_epochs(epochs: Any) -> dict[str, Any]:
    epochs = pick(epochs.load_data())
    names = {code: name for name, code in epochs.event_id.items()}
    return {
        "signal": epochs.get_data(copy=False) * 1e6,
        "labels": [names[code] for code in epochs.events[:, 2]],
        "time_s": epochs.events[:, 0] / epochs.info["sfreq"] + epochs.times[0],
        "fs": float(epochs.info["sfreq"]),
        "channels": list(epochs.ch_names),
    }


def from_raw(raw: Any, path: Path, place: Place, cut: Cut) -> dict[str, Any]:
    """The windows of a continuous recording: signal [windows, channels, time], labels, time_s, fs,
    channels."""
    raw = _chosen(raw, path, cut.channels)
    fs = float(raw.info["sfreq"])
    data: NDArray[np.float64] = raw.get_data() * cut.scale
    marks = _marks(raw, path, place, cut, data.shape[1] / fs)
    window_s = cut.window_s
    if window_s is None:
        durations = [duration for _, duration, _ in marks if duration > 0]
        if not durations:
            raise RecordingError(f"{path}: its annotations have no duration; give window_s")
        window_s = min(durations)
    n_times = round(window_s * fs)
    hop = n_times if cut.hop_s is None else round(cut.hop_s * fs)
    if n_times < 1 or hop < 1:
        raise RecordingError(f"{path}: a window of {window_s:g} s is shorter than one sample")
    begins: list[int] = []
    labels: list[str] = []
    for onset, duration, label in marks:
        begin = round((onset + cut.start_s) * fs)
        count = max(1, (int((duration - cut.start_s) * fs + 0.5) - n_times) // hop + 1)
        for k in range(count):
            at = begin + k * hop
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


def _marks(
    raw: Any, path: Path, place: Place, cut: Cut, length_s: float
) -> list[tuple[float, float, str]]:
    """Onset and duration in seconds, and class, of every event."""
    if place.label:
        return [(0.0, length_s, cut.events.get(place.label, place.label))]
    first = raw.first_samp / raw.info["sfreq"] if raw.annotations.orig_time is not None else 0.0
    there = [
        (float(a["onset"]) - first, float(a["duration"]), str(a["description"]))
        for a in raw.annotations
        if not str(a["description"]).upper().startswith(("BAD", "EDGE"))
    ]
    if not there:
        raise RecordingError(f"{path}: no annotations, so no labels")
    known = [
        (onset, duration or cut.duration_s, cut.events.get(text, text))
        for onset, duration, text in there
        if not cut.events or text in cut.events
    ]
    if not known:
        names = ", ".join(sorted({text for _, _, text in there})[:8])
        raise RecordingError(
            f"{path}: none of its events is among {', '.join(cut.events)}; there are: {names}"
        )
    return known


def _chosen(raw: Any, path: Path, channels: tuple[str, ...]) -> Any:
    """The channels that are read, in the order asked for."""
    if not channels:
        return pick(raw)
    missing = [name for name in channels if name not in raw.ch_names]
    if missing:
        there = ", ".join(raw.ch_names[:12])
        raise RecordingError(f"{path}: no channel {', '.join(missing)}; there are: {there}")
    return raw.pick(list(channels))


def pick(instance: Any) -> Any:
    present = instance.get_channel_types(unique=True)
    for kind in KINDS:
        if kind in present:
            return instance.pick(kind)
    raise RecordingError(f"no channel of the types {', '.join(KINDS)}; there are: {present}")
