# SPDX-License-Identifier: Apache-2.0
"""Files beside a recording: its events (a table, a hypnogram, annotations of MNE), and the tables
of BIDS that say which channels are of what kind and bad."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from biotrain.study.data.raw import Mark, RawSignal, first_line, normal
from biotrain.study.data.readers import edf
from biotrain.study.data.recordings import RecordingError

NO_VALUE = ("", "n/a", "nan", "none")
BIDS_KINDS = {"trig": "stim", "veog": "eog", "heog": "eog", "other": "misc", "dbs": "seeg"}
"""Types of channels.tsv whose kind has another name."""

SAME_NIGHT = 7
"""Letters that Sleep-EDF's recording and hypnogram share: SC4001E0-PSG, SC4001EC-Hypnogram."""


def event_file(path: Path) -> Path | None:
    """The file beside a recording that holds its events; None where there is none."""
    stem = re.sub(r"\.(fif\.gz|[^.]+)$", "", path.name)
    bare = re.sub(r"[-_](eeg|emg|ieeg|meg|psg|raw)$", "", stem, flags=re.IGNORECASE)
    for one in dict.fromkeys((stem, bare)):
        for end in ("_events.tsv", "-events.tsv", "_events.csv", "-annot.fif", "_annot.fif"):
            if (path.parent / f"{one}{end}").is_file():
                return path.parent / f"{one}{end}"
    nights = sorted(path.parent.glob("*-Hypnogram.edf"))
    same = [one for one in nights if one.name.startswith(f"{bare}-")]
    near = [one for one in nights if one.name[:SAME_NIGHT] == path.name[:SAME_NIGHT]]
    if not same and path.name.lower().endswith("-psg.edf"):
        same = near
    return same[0] if same else None


def matching(path: Path, pattern: str, named: Mapping[str, str]) -> Path:
    """The file that `pattern` names, beside `path`: {stem}, parts of the pattern, and *.

    Raises RecordingError unless there is exactly one.
    """
    stem = re.sub(r"\.(fif\.gz|[^.]+)$", "", path.name)
    try:
        text = pattern.format(**{**named, "stem": stem})
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(("stem", *named))
        raise RecordingError(f"{path}: '{pattern}' names {error}; there are {known}") from error
    found = sorted(path.parent.glob(text))
    if len(found) != 1:
        raise RecordingError(f"{path}: {len(found)} files beside it are called {text}, not one")
    return found[0]


def read_events(path: Path, raw: RawSignal, column: str = "") -> list[Mark]:
    """The events of a table with `onset` (and `duration`) in seconds from the first sample of the
    recording `raw`, of an EDF+ file, or of what mne.read_annotations reads: these count from a date
    where they have one, and are moved to the recording's clock.

    Raises RecordingError where the file cannot be read, or its events cannot be placed in time.
    """
    name = path.name.lower()
    if name.endswith((".tsv", ".csv")):
        return _table_events(path, column)
    if name.endswith((".edf", ".bdf")):
        marks = edf.annotations_of(path)
        if marks is not None:
            begin = edf.begin_of(path)
            if begin is None or raw.begin is None or begin.year != raw.begin.year:
                return marks  # a date that was taken out, say
            return _moved(marks, begin, raw)
    try:
        import mne

        found = mne.read_annotations(path)
    except ImportError as error:
        raise RecordingError(f"{path} needs MNE: pip install 'biotrain[data]'") from error
    except Exception as error:  # MNE raises whatever its reader meets
        raise RecordingError(f"{path}: MNE cannot read it: {first_line(error)}") from error
    marks = [
        Mark(float(a["onset"]), float(a["duration"]), normal(str(a["description"]))) for a in found
    ]
    if found.orig_time is None and (raw.begin is not None or not raw.cut_s):
        return marks  # they count from the first sample
    if found.orig_time is None or raw.begin is None:
        why = (
            f"they count from a date, and {raw.path.name} has none"
            if found.orig_time
            else f"neither has a date, and {raw.cut_s:g} s before its first sample are cut off"
        )
        raise RecordingError(f"{path}: its events cannot be placed in {raw.path.name}: {why}")
    return _moved(marks, found.orig_time, raw)


def _moved(marks: Sequence[Mark], zero: datetime, raw: RawSignal) -> list[Mark]:
    """Events that count from the date `zero`, on the clock of the recording."""
    late = (zero - raw.begin).total_seconds() if raw.begin else 0.0
    return [replace(mark, onset_s=mark.onset_s + late) for mark in marks]


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table whose first line names its columns."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path}: not a table: {error}") from error
    first = text.split("\n", 1)[0]
    mark = "\t" if "\t" in first else ";" if ";" in first else ","
    rows = csv.DictReader(text.splitlines(), delimiter=mark)
    return [
        {
            normal(k): normal(v or "")
            for k, v in row.items()
            if k is not None and not isinstance(v, list)
        }
        for row in rows
    ]


def _table_events(path: Path, column: str) -> list[Mark]:
    rows = rows_of(path)
    if not rows:
        return []
    names = list(rows[0])
    usual = ("trial_type", "value", "description", "label", "class", "event")
    held = column or next((c for c in usual if any(_there(row.get(c)) for row in rows)), "")
    if "onset" not in names or held not in names:
        raise RecordingError(
            f"{path}: a table of events has onset and {column or 'trial_type'}; there are: "
            f"{', '.join(names)}"
        )
    marks = []
    for number, row in enumerate(rows, 2):
        if not _there(row["onset"]) or not _there(row[held]):
            continue
        duration = row.get("duration", "")
        try:
            marks.append(
                Mark(float(row["onset"]), float(duration) if _there(duration) else 0.0, row[held])
            )
        except ValueError as error:
            raise RecordingError(f"{path}, line {number}: {error}") from error
    return marks


def _there(value: str | None) -> bool:
    return value is not None and value.lower() not in NO_VALUE


def with_events(raw: RawSignal, marks: Sequence[Mark], source: str) -> RawSignal:
    """The recording with these events; of its own, only marks of bad signal stay."""
    own = tuple(mark for mark in raw.marks if mark.rejects)
    return replace(raw, marks=(*own, *marks), notes=(*raw.notes, f"events are taken from {source}"))


def with_bids(raw: RawSignal, channels: Path | None) -> RawSignal:
    """The recording with the kinds and the bad channels of a channels.tsv."""
    if channels is None:
        return raw
    table = {row.get("name", ""): row for row in rows_of(channels)}
    kinds = list(raw.kinds)
    for k, name in enumerate(raw.channels):
        kind = table.get(name, {}).get("type", "").lower()
        if _there(kind):
            kinds[k] = BIDS_KINDS.get(kind, kind)
    bads = [n for n, row in table.items() if row.get("status", "").lower() == "bad"]
    every = dict.fromkeys((*raw.bads, *(name for name in bads if name in raw.channels)))
    return replace(raw, kinds=tuple(kinds), bads=tuple(every))


def bids_table(path: Path, root: Path, suffix: str) -> Path | None:
    """The table of BIDS (`suffix`: "channels", "events") that holds for a recording: the nearest,
    from its folder up to the root, whose entities are all among the recording's."""
    own = set(path.name.split(".")[0].split("_")[:-1])
    folder = path.parent
    while True:
        fitting = [
            one
            for one in sorted(folder.glob(f"*_{suffix}.tsv")) + sorted(folder.glob(f"{suffix}.tsv"))
            if set(one.name.split(".")[0].split("_")[:-1]) <= own
        ]
        if fitting:
            return max(fitting, key=lambda one: len(one.name))
        if folder == root or root not in folder.parents:
            return None
        folder = folder.parent
