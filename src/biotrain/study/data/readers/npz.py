# SPDX-License-Identifier: Apache-2.0
"""The project's own files: `.npz` of windows (biotrain.study.data.recordings) and of continuous
recordings (biotrain.study.data.continuous)."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from biotrain.study.data import continuous, recordings
from biotrain.study.data.continuous import Continuous, Part
from biotrain.study.data.recordings import UNREADABLE, RecordingError, Recordings


def read_windows(path: Path, window_s: float | None = None) -> Recordings:
    """Windows as they were cut; `window_s` has nothing to cut here."""
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise RecordingError(f"{path}: a single array, not a .npz archive")
            missing = [key for key in recordings.REQUIRED if key not in file]
            if "signal" in file:
                raise RecordingError(f"{path}: continuous; cut it with a front end (--front)")
            if missing:
                raise RecordingError(
                    f"{path}: not in the layout of BioTrain, no {', '.join(missing)}; "
                    f"needed are {', '.join(recordings.REQUIRED)}"
                )
            known = [field.name for field in fields(Recordings) if field.name in file]
            arrays: dict[str, Any] = {key: file[key] for key in known}
    except UNREADABLE as error:
        raise RecordingError(f"{path}: cannot be read as .npz: {error}") from error
    arrays.setdefault("name", path.stem)
    return Recordings(**arrays)


def read_continuous(path: Path) -> Continuous | None:
    """A continuous recording; None where the file holds windows."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if "signal" not in file:
                return None
            missing = [key for key in continuous.REQUIRED if key not in file]
            if missing:
                raise RecordingError(f"{path}: a continuous recording needs {', '.join(missing)}")
            held = {key: file[key] for key in file}
    except UNREADABLE as error:
        raise RecordingError(f"{path}: cannot be read as .npz: {error}") from error
    signal, begins = held["signal"], held["part_begin"].astype(np.int64)
    if signal.ndim != 2 or begins.ndim != 1 or (np.diff(begins) <= 0).any():
        raise RecordingError(f"{path}: signal is [channels, samples], part_begin ascends")
    ends = [*begins[1:], signal.shape[1]]
    bad = None
    if "bad_begin" in held and "bad_end" in held:
        bad = np.stack([held["bad_begin"], held["bad_end"]], 1).astype(np.int64)
    parts = []
    for k, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        markers = held.get("span_marker")
        own = (held["span_begin"] >= begin) & (held["span_begin"] < end)
        repetition = held.get("span_repetition")
        parts.append(
            Part(
                int(held["part_subject"][k]),
                int(held["part_session"][k]),
                signal[:, begin:end],
                held["span_begin"][own].astype(np.int64) - begin,
                held["span_end"][own].astype(np.int64) - begin,
                held["span_label"][own].astype(np.int64),
                None if repetition is None else repetition[own].astype(np.int64),
                None if markers is None else markers[own].astype(bool),
                None if bad is None else bad[(bad[:, 0] >= begin) & (bad[:, 0] < end)] - begin,
            )
        )
    return Continuous(
        tuple(parts),
        float(held["scale"]),
        float(held["fs"]),
        tuple(str(c) for c in held["channels"]),
        tuple(str(c) for c in held["classes"]),
        str(held["unit"]),
        str(held["name"]) if "name" in held else path.stem,
        bool(held.get("synthetic", False)),
        tuple(str(note) for note in held.get("notes", ())),
        _names(held, "subject_names"),
        _names(held, "session_names"),
        float(held["reject"]) if "reject" in held else None,
    )


def _names(held: dict[str, Any], key: str) -> tuple[tuple[int, str], ...]:
    """Numbers and the names behind them."""
    return tuple((int(number), str(name)) for number, name in held.get(key, ()))
