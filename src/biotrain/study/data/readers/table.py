# SPDX-License-Identifier: Apache-2.0
"""The table of readers: the end of a file's name -> the function that reads its signal.

A new reader is one file beside this one and one line of the table. It fills a RawSignal; which
windows are cut, what is rejected and how files agree is written once, for all readers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from biotrain.errors import BioTrainError
from biotrain.study.data.raw import CutRequest, RawSignal, first_line
from biotrain.study.data.readers import edf, gdf, mne_files, sidecars, text, wfdb_files, xdf
from biotrain.study.data.recordings import RecordingError

Read = Callable[[Path, CutRequest], RawSignal]


def _edf(path: Path, request: CutRequest) -> RawSignal:
    """By the bytes; MNE says what is wrong with a file that only has the name."""
    return edf.read(path, request) or mne_files.read(path, request)


def _gdf(path: Path, request: CutRequest) -> RawSignal:
    """The same."""
    return gdf.read(path, request) or mne_files.read(path, request)


READERS: Mapping[str, Read] = {
    **dict.fromkeys((".edf", ".bdf"), _edf),
    ".gdf": _gdf,
    **dict.fromkeys((".fif", ".fif.gz", ".vhdr", ".set"), mne_files.read),
    **dict.fromkeys(text.SUFFIXES, text.read),
    **dict.fromkeys(xdf.SUFFIXES, xdf.read),
    **dict.fromkeys(wfdb_files.SUFFIXES, wfdb_files.read),
}
"""By the end of a file's name."""

IN_FOLDERS = tuple(end for end in READERS if end not in text.SUFFIXES)
"""What is taken from a folder without a TOML: tables may be anything."""


def reader_of(path: Path) -> Read | None:
    """The reader of a file; None where nobody knows it."""
    name = path.name.lower()
    return next((read for end, read in READERS.items() if name.endswith(end)), None)


def recordings_in(folder: Path) -> list[Path]:
    """The recordings in a folder and below it, by path: no later parts of split files, no files of
    annotations, nothing hidden."""
    return [
        one
        for one in sorted(folder.rglob("*"))
        if one.is_file()
        and one.name.lower().endswith(IN_FOLDERS)
        and not one.name.startswith(".")
        and not is_beside(one)
    ]


def is_beside(path: Path) -> bool:
    """Whether a file belongs to another: a later part, annotations, a hypnogram."""
    name = path.name.lower()
    return name.endswith(
        ("-hypnogram.edf", "-annot.fif", "_annot.fif", "-ica.fif", "-cov.fif")
    ) or mne_files.continues(path)


def read_signal(path: Path, request: CutRequest, named: Mapping[str, str]) -> RawSignal:
    """The signal of a file with its events, from the file or from one beside it.

    named : what the pattern of a TOML found in its path, for `events.source = "file:..."`.

    Raises RecordingError for whatever is wrong with the file; no error of a package comes through.
    """
    read = reader_of(path)
    if read is None:
        raise RecordingError(f"{path}: unknown kind of file; known are {', '.join(READERS)}")
    try:
        raw = read(path, request)
        kind, _, pattern = request.events.source.partition(":")
        beside = None
        if kind == "file":
            beside = sidecars.matching(path, pattern, named)
        elif not kind and all(mark.rejects for mark in raw.marks) and not raw.epoched:
            beside = sidecars.event_file(path)
        if beside is not None:
            marks = sidecars.read_events(beside, raw, request.events.column)
            raw = sidecars.with_events(raw, marks, beside.name)
    except BioTrainError:
        raise
    except Exception as error:  # what a damaged file makes of a reader is many things
        raise RecordingError(f"{path}: cannot be read: {first_line(error)}") from error
    return raw
