# SPDX-License-Identifier: Apache-2.0
"""What DATA names: a table of readers, and the two ways to load what they read.

A new reader is one file in `readers/` and one line of a table below.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biotrain.frontend import FrontSpec, describe
from biotrain.study.data import synthetic, synthetic_raw
from biotrain.study.data.continuous import Continuous, through
from biotrain.study.data.readers import mne_files, moabb_sets, npz, own
from biotrain.study.data.recordings import RecordingError, Recordings, decimate

SYNTHETIC = ("synthetic-eeg", "synthetic-eog", "synthetic-emg")
FOLDER_VARIABLE = "BIOTRAIN_DATA"


@dataclass(frozen=True)
class Reader:
    """How files of one kind are read."""

    windows: Callable[[Path, float | None], Recordings]
    """Labelled windows of a file (a folder of files); of so many seconds where it is continuous and
    does not say."""
    continuous: Callable[[Path], Continuous | None] | None = None
    """The recording before it is cut; None where the file holds windows."""


MNE = Reader(mne_files.read_windows, mne_files.read_continuous)
READERS: dict[str, Reader] = {
    ".npz": Reader(npz.read_windows, npz.read_continuous),
    ".toml": Reader(own.read_toml),
    **dict.fromkeys(mne_files.MNE_SUFFIXES, MNE),
}
"""By the end of a file's name."""

SCHEMES: dict[str, Callable[[str], Recordings]] = {
    "moabb:": moabb_sets.read_windows,
    "bids:": own.read_bids,
}
"""By the beginning of what DATA says."""


def load(source: str | Path, *, window_s: float | None = None) -> Recordings:
    """The recordings that `source` names.

    source:
        `synthetic-eeg`, `synthetic-eog` or `synthetic-emg`: made by biotrain.study.data.synthetic;
        another bare name: that `.npz` in the folder which the variable BIOTRAIN_DATA names;
        a `.npz` in the layout of biotrain.study.data.recordings;
        `moabb:<dataset>`: a set of MOABB, which downloads it (extra `moabb`);
        a `.toml` that describes files of one's own, see `readers/own.py` (extra `data`);
        `bids:ROOT?task=...&window=...`: a BIDS tree (extra `data`);
        a file that MNE reads, or a folder of them (extra `data`); subject, session and run come
        from BIDS names (`sub-01_ses-02_run-1_eeg.edf`).
    window_s: length of a window where MNE reads a continuous recording; by default the shortest
        annotation.

    Raises:
        RecordingError: a file that is missing, unreadable or not in the layout, a package that is
            not installed.
    """
    text = str(source)
    if text in SYNTHETIC:
        return synthetic.generate(text.removeprefix("synthetic-"))
    for scheme, read in SCHEMES.items():
        if text.startswith(scheme):
            return read(text.removeprefix(scheme))
    path = Path(text)
    if _bare(text) and not path.exists():
        path = _named(text)
    if not path.exists():
        raise RecordingError(f"{path}: there is no such file")
    reader = _reader(path)
    if reader is None:
        raise RecordingError(
            f"{path}: unknown kind of file; known are .npz, .toml "
            f"(biotrain.study.data.readers.own) and, through MNE, "
            f"{', '.join(mne_files.MNE_SUFFIXES)}"
        )
    return reader.windows(path, window_s)


def load_continuous(source: str | Path) -> Continuous | None:
    """The continuous recordings that `source` names; None where it names windows.

    `synthetic-eeg`, `-eog` and `-emg` are the same people as biotrain.study.load gives, but raw: a
    24-bit converter, the electrodes' offsets, more of the mains and of drift. A file of MNE that is
    continuous is one; MOABB's paradigms, epochs and `.npz` of windows are not.
    """
    text = str(source)
    if text in SYNTHETIC:
        return synthetic_raw.continuous(text.removeprefix("synthetic-"))
    path = Path(text)
    folder = os.environ.get(FOLDER_VARIABLE)
    if _bare(text) and not path.exists() and folder:
        path = Path(folder) / f"{text}.npz"
    reader = _reader(path)
    if reader is None or reader.continuous is None:
        return None
    return reader.continuous(path) if reader is MNE or path.exists() else None


def recordings(
    source: str | Path, hz: float | None = None, front: FrontSpec | None = None
) -> tuple[Recordings, str]:
    """The recordings that `source` names, decimated to `hz`, or through a front end; and one line
    about the front end, "" without one.

    Windows that were cut (and filtered) upstream skip it: nobody can filter them causally now.
    """
    if front is not None and hz is not None:
        raise RecordingError("decimate in the front end, or without one; not both")
    if front is None:
        rec = load(source)
        return (rec if hz is None else decimate(rec, hz)), ""
    continuous = load_continuous(source)
    if continuous is None:
        rec = load(source)
        return rec, f"{rec.name}: cut into windows upstream, so the front end is skipped"
    rec = through(continuous, front)
    made = describe(continuous.front(front))
    limits = np.iinfo(np.int16)
    clipped = np.count_nonzero((rec.x == limits.min) | (rec.x == limits.max))
    beyond = f"; {clipped} values beyond 16 bits, which a larger unit holds" if clipped else ""
    text = f"{rec.name}: continuous, through the front end in C: {made}; {len(rec)} windows"
    return rec, text + beyond


def _reader(path: Path) -> Reader | None:
    """The reader of a file, or of a folder of files that MNE reads; None where nobody knows it."""
    if path.is_dir():
        return MNE
    name = path.name.lower()
    return next((reader for end, reader in READERS.items() if name.endswith(end)), None)


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
