# SPDX-License-Identifier: Apache-2.0
"""Recordings of one's own: a folder of files that MNE reads, or a BIDS tree, and a TOML of some ten
lines that says whose a file is, what its events mean and how windows are cut.

    folder = "recordings"                            # beside this file; or bids = "..."
    pattern = "{subject}/day{session}_{run}.edf"     # not with bids
    channels = ["C3", "Cz", "C4"]                    # else the first kind that the files have
    window = 2.0                                     # s
    hop = 1.0                                        # s; else window
    start = 0.5                                      # s from an event to its first window

    [events]                                         # description of the annotation = class
    769 = "left"
    770 = "right"

Other keys: duration (s, of events that have none), scale (from MNE's volts to `unit`, 1e6), unit,
name; with bids also task and datatype. A pattern may hold {subject}, {session}, {run},
{repetition}, {class} (of a whole file) and * for anything.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from biotrain.study.data.readers.mne_files import (
    MNE_SUFFIXES,
    Cut,
    Place,
    first_line,
    from_raw,
    joined,
    read_raw,
)
from biotrain.study.data.recordings import RecordingError, Recordings

PARTS = ("subject", "session", "run", "repetition", "class")
"""What a pattern may name."""


@dataclass(frozen=True)
class Own:
    """What the TOML says; times in seconds."""

    folder: str = "."
    pattern: str = ""
    bids: str = ""
    task: str = ""
    datatype: str = ""
    channels: tuple[str, ...] = ()
    events: Mapping[str, str] = field(default_factory=dict)
    window: float | None = None
    hop: float | None = None
    start: float = 0.0
    duration: float = 0.0
    scale: float = 1e6
    unit: str = "uV (x*scale)"
    name: str = ""

    @property
    def cut(self) -> Cut:
        """For the readers."""
        return Cut(
            self.window,
            self.start,
            self.hop,
            self.duration,
            self.events,
            self.channels,
            self.scale,
        )


def read_toml(path: Path, window_s: float | None = None) -> Recordings:
    """The recordings that the TOML file `path` describes.

    Raises RecordingError for a file that is no TOML, an unknown key, a folder or pattern that finds
    nothing, and what the readers raise.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecordingError(f"{path}: not TOML: {error}") from error
    own = _own(given, str(path))
    name = own.name or path.stem
    if own.bids:
        return _bids(path.parent / own.bids, own, name)
    folder = path.parent / own.folder
    if not own.pattern:
        raise RecordingError(f"{path}: it needs a pattern ('{{subject}}_{{run}}.edf'), or bids")
    places = _places(folder, own.pattern, path)
    parts = [from_raw(read_raw(file), file, place, own.cut) for file, place in places.items()]
    return joined(path, parts, _clocked(list(places.values())), own.unit, name, _classes(own))


def read_bids(text: str) -> Recordings:
    """`ROOT?task=motor&window=2&...`: the keys of the TOML; channels and events by commas
    (channels=C3,C4; events=769:left,770:right)."""
    root, _, options = text.partition("?")
    given: dict[str, Any] = dict(parse_qsl(options, keep_blank_values=True))
    where = f"bids:{text}"
    try:
        for key in ("window", "hop", "start", "duration", "scale"):
            if key in given:
                given[key] = float(given[key])
        if "channels" in given:
            given["channels"] = given["channels"].split(",")
        if "events" in given:
            given["events"] = dict(part.split(":", 1) for part in given["events"].split(","))
    except ValueError as error:
        raise RecordingError(f"{where}: {error}") from error
    own = _own({**given, "bids": root}, where)
    return _bids(Path(root), own, own.name or Path(root).name)


def _own(given: Mapping[str, Any], where: str) -> Own:
    known = [f.name for f in fields(Own)]
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise RecordingError(f"{where}: no setting is called {key} ({hint})")
    values = dict(given)
    for key in ("window", "hop", "start", "duration", "scale"):
        value = values.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecordingError(f"{where}: {key} is a number, not {value!r}")
        if key in values:
            values[key] = float(value)
            if value < 0 or (value == 0 and key not in ("start", "duration")):
                raise RecordingError(f"{where}: {key} lies above 0, not at {value:g}")
    for key in ("folder", "pattern", "bids", "task", "datatype", "unit", "name"):
        if not isinstance(values.get(key, ""), str):
            raise RecordingError(f"{where}: {key} is text, not {values[key]!r}")
    channels, events = values.get("channels", ()), values.get("events", {})
    if isinstance(channels, str) or not all(isinstance(c, str) for c in channels):
        raise RecordingError(f"{where}: channels is a list of names, not {channels!r}")
    if not isinstance(events, Mapping) or not all(isinstance(v, str) for v in events.values()):
        raise RecordingError(f"{where}: [events] is a table of description = class, not {events!r}")
    return Own(**(values | {"channels": tuple(channels), "events": dict(events)}))


def _classes(own: Own) -> list[str]:
    """In the order in which they stand in the TOML."""
    return list(dict.fromkeys(own.events.values()))


def _clocked(places: list[Place]) -> list[Place]:
    """Every file has a clock of its own, so every file is a run of its own."""
    return [
        Place(p.subject, p.session, str(k), p.repetition, p.label) for k, p in enumerate(places)
    ]


def _places(folder: Path, pattern: str, path: Path) -> dict[Path, Place]:
    """Files below `folder` whose relative path is as `pattern` says, by path."""
    if not folder.is_dir():
        raise RecordingError(f"{path}: there is no folder {folder}")
    expression, seen = "", set()
    for text, part in re.findall(r"([^{}]+)|\{([^{}]*)\}", pattern):
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
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        match = re.fullmatch(expression, file.relative_to(folder).as_posix())
        if match:
            named = {key: match.groupdict().get(f"{key}_", "") for key in PARTS}
            found[file] = Place(*(named[key] for key in PARTS))
    if not found:
        some = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        there = f"there are {', '.join(some[:3])}" if some else "it is empty"
        raise RecordingError(f"{path}: no file in {folder} fits '{pattern}'; {there}")
    return found


def _bids(root: Path, own: Own, name: str) -> Recordings:
    """A BIDS tree; subject and session are its entities, the class is an event's trial_type."""
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
    found = sorted(found, key=lambda one: str(one.fpath))
    places = [Place(one.subject or "", one.session or "") for one in found]
    parts = []
    for one, place in zip(found, places, strict=True):
        file = Path(one.fpath)
        try:
            raw = mne_bids.read_raw_bids(one, verbose="error").load_data(verbose="error")
        except Exception as error:  # MNE raises whatever its reader meets
            raise RecordingError(f"{file}: mne-bids cannot read it: {first_line(error)}") from error
        parts.append(from_raw(raw, file, place, own.cut))
    return joined(root, parts, _clocked(places), own.unit, name, _classes(own))
