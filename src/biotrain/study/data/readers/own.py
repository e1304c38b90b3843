# SPDX-License-Identifier: Apache-2.0
"""Files of one's own: a TOML of some ten lines that says whose a file is, what its events mean and
how windows are cut; a BIDS tree; or plain files with the same settings behind a question mark.

    folder = "recordings"                            # beside this file; or bids = "..."
    pattern = "{subject}/day{session}_{run}.edf"     # not with bids
    channels = ["C3", "Cz", "C4"]                    # else the first kind that the files have
    window = 2.0                                     # s
    hop = 1.0                                        # s; else window
    tmin = 0.5                                       # s from an event to its first window

    [events]                                         # description of the annotation = class
    769 = "left"
    770 = "right"

or, where labels come from elsewhere,

    events = {source = "stim", map = {1 = "left", 2 = "right"}}

`Own` lists every key, `docs/recordings.md` explains them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from biotrain.errors import BioTrainError, shown
from biotrain.frontend.toml import load_toml
from biotrain.study.data.join import FileSet, Titles, file_set
from biotrain.study.data.raw import CutRequest, Events, Place, RawSignal, normal, rejecting
from biotrain.study.data.readers import sidecars
from biotrain.study.data.readers.mne_files import MNE_SUFFIXES
from biotrain.study.data.readers.table import IN_FOLDERS, is_beside, read_signal, recordings_in
from biotrain.study.data.recordings import RecordingError

PARTS = ("subject", "session", "run", "repetition", "class")
"""What a pattern may name."""

NUMBERS = ("window", "hop", "start", "tmin", "duration", "scale", "reject_uv", "fs")
TEXTS = ("folder", "pattern", "bids", "task", "datatype", "unit", "name", "kind", "bad_channels")
ENDS = r"-(?:raw|epo|eeg|emg|ieeg|meg|psg|[0-9]+)[_.]"
"""What some programs put behind a name with a hyphen."""
NOT_RAW = ("derivatives", "sourcedata", "code", "stimuli")
"""Folders of a BIDS tree whose recordings are the same ones again; each can be named by itself."""
BAD_CHANNELS = ("keep", "drop", "zero")


@dataclass(frozen=True)
class Own:
    """What the TOML says; times in seconds."""

    folder: str = "."
    pattern: str = ""
    bids: str = ""
    task: str = ""
    datatype: str = ""
    channels: tuple[str, ...] = ()
    kind: str = ""
    events: Events = field(default_factory=Events)
    window: float | None = None
    hop: float | None = None
    start: float = 0.0
    tmin: float | None = None
    duration: float = 0.0
    reject_uv: float | None = None
    bads: tuple[str, ...] = ()
    bad_channels: str = "keep"
    resample: bool = False
    fs: float | None = None
    scale: float = 1e6
    unit: str = "uV (x*scale)"
    name: str = ""

    @property
    def request(self) -> CutRequest:
        """For the cutter."""
        return CutRequest(
            window_s=self.window,
            tmin_s=self.start if self.tmin is None else self.tmin,
            hop_s=self.hop,
            duration_s=self.duration,
            events=self.events,
            channels=() if self.channels == ("common",) else self.channels,
            kind=self.kind,
            only_common=self.channels == ("common",),
            resample=self.resample,
            bads=self.bads,
            bad_channels=self.bad_channels,
            reject_uv=self.reject_uv,
            scale=self.scale,
            fs=self.fs,
        )

    def titles(self, where: str, name: str) -> Titles:
        """For the set."""
        classes = dict.fromkeys(c for c in self.events.classes.values() if not rejecting(c))
        return Titles(where, self.name or name, self.unit, tuple(classes))


def read_toml(path: Path, given: Mapping[str, Any]) -> FileSet:
    """The files that the TOML file `path` describes; `given`: settings that take precedence.

    Raises RecordingError for a file that is no TOML, an unknown key, a folder or pattern that finds
    nothing, and what the readers raise.
    """
    try:
        said = load_toml(path)
    except BioTrainError as error:
        raise RecordingError(str(error)) from error
    own = settings({**said, **given}, str(path))
    if own.bids:
        return _bids(path.parent / own.bids, own, path.stem)
    if not own.pattern:
        raise RecordingError(f"{path}: it needs a pattern ('{{subject}}_{{run}}.edf'), or bids")
    places = _places(path.parent / own.folder, own.pattern, path)
    return _set(places, own, own.titles(str(path), path.stem))


def read_bids(root: str, given: Mapping[str, Any]) -> FileSet:
    """The recordings of a BIDS tree."""
    own = settings({**given, "bids": root}, f"bids:{root}")
    return _bids(Path(root), own, Path(root).name)


def read_files(path: Path, given: Mapping[str, Any]) -> FileSet:
    """A file, or a folder of files; subject, session and run come from BIDS names."""
    own = settings(given, str(path))
    files = [path]
    if path.is_dir():
        files = recordings_in(path)
        if not files:
            raise RecordingError(
                f"{path}: it holds no file of MNE ({', '.join(MNE_SUFFIXES)}) or of another reader "
                f"({', '.join(end for end in IN_FOLDERS if end not in MNE_SUFFIXES)})"
            )
    places = {one: Place(*(_entity(one, key) for key in ("sub", "ses", "run"))) for one in files}
    held = _set(places, own, own.titles(str(path), path.name.split(".")[0]))
    if len(files) > 1 and not any(place.subject for place in places.values()):
        note = "no file name has sub-...: all files are taken as one person"
        return FileSet(held.files, held.request, held.titles, (*held.notes, note))
    return held


def query(text: str, where: str) -> dict[str, Any]:
    """`window=2&channels=C3,C4&events=769:left,770:right`: the keys of the TOML as text."""
    given: dict[str, Any] = dict(parse_qsl(text, keep_blank_values=True))
    try:
        for key in NUMBERS:
            if key in given:
                given[key] = float(given[key])
        for key in ("channels", "bads"):
            if key in given:
                given[key] = given[key].split(",")
        if "resample" in given:
            given["resample"] = given["resample"].lower() in ("true", "yes", "1")
        if "events" in given:
            given["events"] = dict(part.split(":", 1) for part in given["events"].split(","))
    except ValueError as error:
        raise RecordingError(f"{where}: {error}") from error
    more = {key: given.pop(key) for key in ("source", "column") if key in given}
    if more:
        given["events"] = {**more, "map": given.get("events", {})}
    return given


def settings(given: Mapping[str, Any], where: str) -> Own:
    """What is said, checked; RecordingError names a key or a value that cannot be."""
    known = [f.name for f in fields(Own)]
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise RecordingError(f"{where}: no setting is called {key} ({hint})")
    values = dict(given)
    for key in NUMBERS:
        value = values.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecordingError(f"{where}: {key} is a number, not {shown(value)}")
        if key in values:
            values[key] = float(value)
            zero = key in ("start", "tmin", "duration")
            if not math.isfinite(value):
                raise RecordingError(f"{where}: {key} is a number, not {value}")
            if key != "tmin" and (value < 0 or (value == 0 and not zero)):
                raise RecordingError(f"{where}: {key} lies above 0, not at {value:g}")
    for key in TEXTS:
        if not isinstance(values.get(key, ""), str):
            raise RecordingError(f"{where}: {key} is text, not {shown(values[key])}")
    if values.get("bad_channels", "keep") not in BAD_CHANNELS:
        raise RecordingError(f"{where}: bad_channels is one of {', '.join(BAD_CHANNELS)}")
    if not isinstance(values.get("resample", False), bool):
        raise RecordingError(f"{where}: resample is true or false, not {shown(values['resample'])}")
    channels = values.get("channels", ())
    if channels == "common":
        channels = ("common",)
    if not _names(channels):
        raise RecordingError(
            f'{where}: channels is a list of names or "common", not {shown(channels)}'
        )
    bads = values.get("bads", ())
    if not _names(bads):
        raise RecordingError(f"{where}: bads is a list of names of channels, not {shown(bads)}")
    lists = {"channels": tuple(channels), "bads": tuple(bads)}
    return Own(**(values | lists | {"events": _events(values.get("events", {}), where)}))


def _names(value: Any) -> bool:
    """Whether it is a list of texts."""
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)


def _events(given: Any, where: str) -> Events:
    """A table of description = class, or one of source, column and map."""
    complaint = RecordingError(
        f"{where}: [events] is a table of description = class, not {shown(given)}"
    )
    if not isinstance(given, Mapping):
        raise complaint
    classes, more = given, {}
    if "map" in given or set(given) & {"source", "column"} == set(given) != set():
        unknown = set(given) - {"source", "column", "map"}
        classes, more = given.get("map", {}), {k: given.get(k, "") for k in ("source", "column")}
        if unknown or not isinstance(classes, Mapping):
            raise complaint
    if not all(isinstance(v, str) for v in (*classes.values(), *more.values())):
        raise complaint
    named = {normal(str(key)): normal(value) for key, value in classes.items()}
    return Events(more.get("source", ""), more.get("column", ""), named)


def _set(places: Mapping[Path, Place], own: Own, titles: Titles) -> FileSet:
    request = own.request

    def read(path: Path, place: Place) -> RawSignal:
        named = {key: getattr(place, "label" if key == "class" else key) for key in PARTS}
        return read_signal(path, request, named)

    files = [(partial(read, path, place), place) for path, place in places.items()]
    return file_set(files, request, titles)


def _entity(path: Path, key: str) -> str:
    """The value of a BIDS entity in a file name: sub-07_ses-2_eeg.edf -> "07" for "sub". A name may
    have letters of any alphabet, and hyphens: what ends it is "_", "." or "-raw" and the like."""
    found = re.search(rf"(?:^|_){key}-([^_.]+?)(?={ENDS}|_|\.|$)", normal(path.name), re.IGNORECASE)
    return found.group(1) if found else ""


def _places(folder: Path, pattern: str, path: Path) -> dict[Path, Place]:
    """Files below `folder` whose relative path is as `pattern` says, by path."""
    if not folder.is_dir():
        raise RecordingError(f"{path}: there is no folder {folder}")
    expression, seen = "", set()
    for text, part in re.findall(r"([^{}]+)|\{([^{}]*)\}", normal(pattern)):
        if text:
            expression += re.escape(text).replace(r"\*", "[^/]*")
        elif part not in PARTS:
            known = ", ".join(PARTS)
            raise RecordingError(f"{path}: a pattern has no {{{part}}}; there are {known}")
        elif part in seen:
            expression += f"(?P={part}_)"
        else:
            seen.add(part)
            expression += f"(?P<{part}_>[^/]+?)"
    if "subject" not in seen:
        raise RecordingError(f"{path}: the pattern does not say where the {{subject}} stands")
    found: dict[Path, Place] = {}
    there = sorted(p for p in folder.rglob("*") if p.is_file())
    for file in there:
        match = re.fullmatch(expression, normal(file.relative_to(folder).as_posix()))
        if match and not is_beside(file):
            named = {key: match.groupdict().get(f"{key}_") or "" for key in PARTS}
            found[file] = Place(*(named[key] for key in PARTS))
    if not found:
        some = [p.relative_to(folder).as_posix() for p in there]
        seen_there = f"there are {', '.join(some[:3])}" if some else "it is empty"
        raise RecordingError(f"{path}: no file in {folder} fits '{pattern}'; {seen_there}")
    return found


def _bids(root: Path, own: Own, name: str) -> FileSet:
    """A BIDS tree; subject, session and run are its entities, the class is an event's trial_type
    unless `events.column` names another column."""
    if not root.is_dir():
        raise RecordingError(f"{root}: there is no such folder")
    try:
        import mne_bids
    except ImportError as error:
        raise RecordingError("BIDS needs mne-bids: pip install 'biotrain[data]'") from error
    asked = {"tasks": own.task, "datatypes": own.datatype, "suffixes": own.datatype}
    found = mne_bids.find_matching_paths(
        root, extensions=list(MNE_SUFFIXES), **{k: v for k, v in asked.items() if v}
    )
    if not found:
        what = " ".join(f"{k}={getattr(own, k)}" for k in ("task", "datatype") if getattr(own, k))
        raise RecordingError(f"{root}: no recording of BIDS {what} in it".replace("  ", " "))
    beside = [one for one in found if set(one.fpath.relative_to(root).parts) & set(NOT_RAW)]
    found = [one for one in found if one not in beside] or beside
    found = [one for one in found if (one.split or "01").lstrip("0") in ("1", "")]
    found = sorted(found, key=lambda one: str(one.fpath))
    request = own.request

    def read(path: Path) -> RawSignal:
        raw = read_signal(path, request, {})
        raw = sidecars.with_bids(raw, sidecars.bids_table(path, root, "channels"))
        events = sidecars.bids_table(path, root, "events")
        if events is None or request.events.source not in ("", "file"):
            return raw
        marks = sidecars.read_events(events, raw, request.events.column)
        return sidecars.with_events(raw, marks, "events.tsv")

    files = [
        (partial(read, Path(one.fpath)), Place(one.subject or "", one.session or "", one.run or ""))
        for one in found
    ]
    return file_set(files, request, own.titles(str(root), name))
