# SPDX-License-Identifier: Apache-2.0
"""What DATA names, and the two ways to load it: cut into windows, or continuous.

Every source of signals becomes a set of files (biotrain.study.data.join), and every set both ways:
so settings, rejection and front ends mean the same for a file, a TOML, a BIDS tree and MOABB. The
table of file formats is biotrain.study.data.readers.table.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from biotrain.frontend import FrontSpec, describe
from biotrain.study.data import synthetic, synthetic_raw
from biotrain.study.data.continuous import Continuous, through
from biotrain.study.data.join import FileSet, continuous_of, recordings_of
from biotrain.study.data.readers import mne_files, moabb_sets, npz, own
from biotrain.study.data.readers.table import READERS, reader_of, recordings_in
from biotrain.study.data.recordings import RecordingError, Recordings, decimate

SYNTHETIC = ("synthetic-eeg", "synthetic-eog", "synthetic-emg")
FOLDER_VARIABLE = "BIOTRAIN_DATA"

SCHEMES: Mapping[str, Callable[[str, Mapping[str, Any]], FileSet]] = {
    "moabb:": moabb_sets.read,
    "bids:": own.read_bids,
}
"""By the beginning of what DATA says, for windows."""

CONTINUOUS = {**SCHEMES, "moabb:": moabb_sets.read_continuous}
"""The same for continuous signal."""


def load(
    source: str | Path, *, window_s: float | None = None, tmin_s: float | None = None
) -> Recordings:
    """The recordings that `source` names.

    source:
        `synthetic-eeg`, `synthetic-eog` or `synthetic-emg`: made by biotrain.study.data.synthetic;
        another bare name: that `.npz` in the folder which the variable BIOTRAIN_DATA names;
        a `.npz` in the layout of biotrain.study.data.recordings;
        `moabb:<dataset>`: a set of MOABB, which downloads it (extra `moabb`);
        a `.toml` that describes files of one's own, see `readers/own.py` (extra `data`);
        `bids:ROOT`: a BIDS tree (extra `data`);
        a file of a format in `readers/table.py`, or a folder of them (extra `data`); subject,
        session and run come from BIDS names (`sub-01_ses-02_run-1_eeg.edf`).
        All but synthetic sets and `.npz` take settings of the TOML behind a question mark:
        `night.edf?window=30&kind=eeg&events=W:wake,R:rem`.
    window_s: length of a window where a recording is continuous; by default the shortest event.
    tmin_s: from the onset of an event to its first window.

    Raises:
        RecordingError: a file that is missing, unreadable or not in the layout, a package that is
            not installed.
    """
    text = str(source)
    given = {k: v for k, v in (("window", window_s), ("tmin", tmin_s)) if v is not None}
    if text in SYNTHETIC:
        return synthetic.generate(text.removeprefix("synthetic-"))
    held = files_of(text, given)
    if held is not None:
        return recordings_of(held)
    path = Path(text)
    if _bare(text) and not path.exists():
        path = _named(text)
    if not path.exists():
        raise RecordingError(f"{path}: there is no such file")
    if not path.name.lower().endswith(".npz"):
        raise RecordingError(
            f"{path}: unknown kind of file; known are .npz, .toml "
            f"(biotrain.study.data.readers.own), {', '.join(READERS)}"
        )
    return npz.read_windows(path, window_s)


def load_continuous(source: str | Path) -> Continuous | None:
    """The continuous recordings that `source` names; None where it names windows.

    `synthetic-eeg`, `-eog` and `-emg` are the same people as biotrain.study.load gives, but raw: a
    24-bit converter, the electrodes' offsets, more of the mains and of drift. Continuous files are
    continuous whatever names them: a path, a TOML, a BIDS tree, a set of MOABB (as it was recorded,
    not as its paradigm cuts it); epochs and `.npz` of windows are not.
    """
    text = str(source)
    if text in SYNTHETIC:
        return synthetic_raw.continuous(text.removeprefix("synthetic-"))
    if _has_epochs(Path(text.partition("?")[0])):
        return None
    held = files_of(text, {}, CONTINUOUS)
    if held is not None:
        return continuous_of(held)
    path = Path(text)
    folder = os.environ.get(FOLDER_VARIABLE)
    if _bare(text) and not path.exists() and folder:
        path = Path(folder) / f"{text}.npz"
    if not path.exists() or not path.name.lower().endswith(".npz"):
        return None
    return npz.read_continuous(path)


def files_of(
    text: str,
    given: Mapping[str, Any],
    schemes: Mapping[str, Callable[[str, Mapping[str, Any]], FileSet]] = SCHEMES,
) -> FileSet | None:
    """The set of files that DATA names, with its events, before it is cut; None where DATA is
    something else (windows, a synthetic set), or not there."""
    name, _, options = text.partition("?")
    if options and Path(text).exists():  # a file whose name has a question mark
        name, options = text, ""
    said = {**own.query(options, text), **given}
    for scheme, read in schemes.items():
        if name.startswith(scheme):
            return read(name.removeprefix(scheme), said)
    path = Path(name)
    if path.name.lower().endswith(".toml") and path.exists():
        return own.read_toml(path, said)
    if path.is_dir() or (path.exists() and reader_of(path) is not None):
        return own.read_files(path, said)
    if options:
        raise RecordingError(f"{name}: takes no settings ({options}), or there is no such file")
    return None


def recordings(
    source: str | Path, hz: float | None = None, front: FrontSpec | None = None
) -> tuple[Recordings, str]:
    """The recordings that `source` names, decimated to `hz`, or through a front end; and one line
    about the front end and what was left out, "" where there is nothing to say.

    Raises RecordingError where a front end is asked for and the recordings are windows that were
    cut (and filtered) before: nobody can filter them causally now.
    """
    if front is not None and hz is not None:
        raise RecordingError("decimate in the front end, or without one; not both")
    if front is None:
        rec = load(source)
        return (rec if hz is None else decimate(rec, hz)), told(rec)
    continuous = load_continuous(source)
    if continuous is None:
        rec = load(source)
        raise RecordingError(
            f"{rec.name}: it holds windows that were cut before, which no front end can filter "
            "causally any more; leave the front end out, or give the continuous recording"
        )
    rec = through(continuous, front)
    made = describe(continuous.front(front))
    limits = np.iinfo(np.int16)
    clipped = np.count_nonzero((rec.x == limits.min) | (rec.x == limits.max))
    beyond = f"; {clipped} values beyond 16 bits, which a larger unit holds" if clipped else ""
    text = f"{rec.name}: continuous, through the front end in C: {made}; {len(rec)} windows"
    more = told(rec)
    return rec, text + beyond + (f"; {more}" if more else "")


def told(rec: Recordings) -> str:
    """What was left out and assumed when the windows were cut, on one line; "" for nothing."""
    counts: dict[str, int] = {}
    for one in rec.left_out:
        counts[one.reason] = counts.get(one.reason, 0) + one.count
    parts = [f"{count} {reason}" for reason, count in counts.items()]
    left = [f"left out: {', '.join(parts)}"] if parts else []
    texts = [*left, *rec.notes]
    return f"{rec.name}: {'; '.join(texts)}" if texts else ""


def _has_epochs(path: Path) -> bool:
    """Whether a file, or one of a folder's, is called as MNE calls files of epochs."""
    files = recordings_in(path) if path.is_dir() else [path]
    return any(mne_files.is_epochs(file) for file in files)


def _bare(text: str) -> bool:
    """Whether it is a name, not the path of a file."""
    return Path(text).name == text and not Path(text).suffix


def _named(name: str) -> Path:
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise RecordingError(
            f"{name}: no built-in recordings of that name ({', '.join(SYNTHETIC)}); "
            f"for a set of your own, name its file, or its folder in {FOLDER_VARIABLE}"
        )
    path = Path(folder) / f"{name}.npz"
    if not path.exists():
        there = sorted(p.stem for p in Path(folder).glob("*.npz"))
        raise RecordingError(
            f"{name}: not in the folder that {FOLDER_VARIABLE} names; there are: "
            f"{', '.join((*there, *SYNTHETIC))}"
        )
    return path
