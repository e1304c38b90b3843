# SPDX-License-Identifier: Apache-2.0
"""The project's own files: `.npz` of windows (biotrain.study.data.recordings) and of continuous
recordings (biotrain.study.data.continuous)."""

import math
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from biotrain.study.data import continuous, recordings
from biotrain.study.data.continuous import Continuous, Part
from biotrain.study.data.recordings import RecordingError, Recordings

Arrays = dict[str, np.ndarray[Any, Any]]


def read_windows(path: Path, window_s: float | None = None) -> Recordings:
    """Windows as they were cut; `window_s` has nothing to cut here."""
    with _Archive(path) as file:
        if "signal" in file.names:
            raise RecordingError(f"{path}: continuous; cut it with a front end (--front)")
        file.check(recordings.REQUIRED, "not in the layout of BioTrain")
        known = [field.name for field in fields(Recordings) if field.name in file.names]
        arrays: dict[str, Any] = {key: file.array(key) for key in known}
    arrays.setdefault("name", path.stem)
    try:
        return Recordings(**arrays)
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordingError(f"{path}: {_first_line(error)}") from error


def read_continuous(path: Path) -> Continuous | None:
    """A continuous recording; None where the file holds windows."""
    with _Archive(path) as file:
        if "signal" not in file.names:
            return None
        file.check(continuous.REQUIRED, "a continuous recording is incomplete")
        held = {key: file.array(key) for key in file.names}
    try:
        return _continuous(path, held)
    except (TypeError, ValueError, OverflowError, IndexError) as error:
        raise RecordingError(f"{path}: {_first_line(error)}") from error


def _continuous(path: Path, held: Arrays) -> Continuous:
    """The parts of a continuous recording and what is said of them."""
    signal, begins = held["signal"], _whole(held, "part_begin")
    if signal.ndim != 2 or not len(begins) or begins[0] != 0 or (np.diff(begins) <= 0).any():
        raise RecordingError(f"{path}: signal is [channels, samples], part_begin ascends from 0")
    spans = {key: _whole(held, key) for key in held if key.startswith("span_")}
    owners = [_whole(held, key) for key in ("part_subject", "part_session")]
    for key, many, of in (
        *((key, len(value), len(spans["span_begin"])) for key, value in spans.items()),
        *(("part_subject and part_session", len(value), len(begins)) for value in owners),
    ):
        if many != of:
            raise RecordingError(f"{path}: {key} has {many} entries, not {of}")
    ends = [*begins[1:], signal.shape[1]]
    bad = None
    if "bad_begin" in held and "bad_end" in held:
        bad = np.stack([_whole(held, "bad_begin"), _whole(held, "bad_end")], 1)
    parts = []
    for k, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        own = (spans["span_begin"] >= begin) & (spans["span_begin"] < end)
        markers, repetition = spans.get("span_marker"), spans.get("span_repetition")
        parts.append(
            Part(
                int(owners[0][k]),
                int(owners[1][k]),
                signal[:, begin:end],
                spans["span_begin"][own] - begin,
                spans["span_end"][own] - begin,
                spans["span_label"][own],
                None if repetition is None else repetition[own],
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


def _whole(held: Arrays, key: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """An array of whole numbers, or of truth, [k]."""
    value = held[key]
    if value.ndim != 1 or value.dtype.kind not in "iub":
        raise ValueError(f"{key} must be integers [k], not {value.dtype} {list(value.shape)}")
    return value.astype(np.int64)


def _names(held: Arrays, key: str) -> tuple[tuple[int, str], ...]:
    """Numbers and the names behind them."""
    return tuple((int(number), str(name)) for number, name in held.get(key, ()))


class _Archive:
    """The arrays of a `.npz`, each of which is checked against its place in the archive before
    memory is taken for it. numpy's own reader believes what an array says of its size, and advises
    to unpickle what is no array."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            self.names = [n.removesuffix(".npy") for n in self._zip.namelist() if n[-4:] == ".npy"]
        except OSError as error:
            why = error.strerror or error
            raise RecordingError(f"{path}: cannot be read: {why}") from error
        except Exception as error:  # zipfile raises whatever it meets
            with path.open("rb") as file:
                single = file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
            what = "a single array, not an archive" if single else "no archive of arrays"
            raise RecordingError(
                f"{path}: cannot be read as .npz: it is {what}, or cut short"
            ) from error

    def __enter__(self) -> "_Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def check(self, required: tuple[str, ...], what: str) -> None:
        """RecordingError unless all of `required` are there."""
        missing = [key for key in required if key not in self.names]
        if missing:
            raise RecordingError(
                f"{self.path}: {what}, no {', '.join(missing)}; needed are {', '.join(required)}"
            )

    def array(self, key: str) -> np.ndarray[Any, Any]:
        """An array by its name."""
        try:
            member = self._zip.getinfo(f"{key}.npy")
            with self._zip.open(member) as file:
                self._check_header(file, member.file_size)
            with self._zip.open(member) as file:
                found: np.ndarray[Any, Any] = npy.read_array(file, allow_pickle=False)
                return found
        except RecordingError:
            raise
        except Exception as error:  # zipfile, zlib and numpy raise whatever they meet
            why = _first_line(error)
            raise RecordingError(f"{self.path}: cannot be read as .npz: {key}: {why}") from error

    def _check_header(self, file: Any, size: int) -> None:
        """The header of an array says what lies behind it, and that is numbers or text."""
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, kind = read(file)
        if kind.hasobject:
            raise ValueError("it holds Python objects, not numbers or text")
        needed = math.prod(shape) * kind.itemsize
        if min(shape, default=1) < 0 or needed != size - file.tell():
            raise ValueError(
                f"its header tells of {list(shape)} {kind}, which is not what it holds"
            )


def _first_line(error: BaseException) -> str:
    """What an error says, in one line that fits on a screen."""
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    return said if len(said) <= MOST_SAID else f"{said[:MOST_SAID]} ..."


MOST_SAID = 160
"""Characters of a message of another package that are passed on."""
