# SPDX-License-Identifier: Apache-2.0
"""Public data sets by name, through MOABB (extra `moabb`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from biotrain.study.data.join import FileSet, Titles, file_set
from biotrain.study.data.raw import Place, RawSignal, Segment, first_line
from biotrain.study.data.readers.mne_files import epoched, from_raw
from biotrain.study.data.readers.own import Own, settings
from biotrain.study.data.recordings import RecordingError

PARADIGMS = {"imagery": "MotorImagery", "p300": "P300", "ssvep": "SSVEP", "cvep": "CVEP"}
"""Attribute `paradigm` of a MOABB data set -> the paradigm class that reads it."""


@dataclass(frozen=True)
class _Set:
    """A data set of MOABB, the paradigm that reads it, and what the person asked for."""

    name: str
    dataset: Any
    paradigm: Any
    own: Own

    @property
    def where(self) -> Path:
        """What stands for a path in messages."""
        return Path(f"moabb-{self.name}")

    @property
    def titles(self) -> Titles:
        """For the set."""
        titles = self.own.titles(f"moabb:{self.name}", f"moabb-{self.name}")
        return replace(titles, synthetic=self.name.startswith("Fake"))  # MOABB's noise, for tests


def _named(name: str, given: Mapping[str, Any]) -> _Set:
    try:
        import moabb.datasets
        import moabb.paradigms
    except ImportError as error:
        raise RecordingError(f"moabb:{name} needs MOABB: pip install 'biotrain[moabb]'") from error
    own = settings(given, f"moabb:{name}")
    maker = getattr(moabb.datasets, name.replace("-", "_"), None)
    if not isinstance(maker, type):
        near = get_close_matches(name.replace("-", "_"), dir(moabb.datasets), 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise RecordingError(f"moabb:{name}: MOABB has no data set of that name{hint}")
    dataset = maker()
    if dataset.paradigm not in PARADIGMS:
        raise RecordingError(f"moabb:{name}: no labelled trials in paradigm {dataset.paradigm}")
    return _Set(name, dataset, getattr(moabb.paradigms, PARADIGMS[dataset.paradigm])(), own)


def read(name: str, given: Mapping[str, Any]) -> FileSet:
    """The MOABB data set called `name`, read by MOABB's paradigm for it with that paradigm's own
    filter and window (for motor imagery 8-32 Hz, zero phase: offline).

    Epochs that touch BAD annotations are left out here, where MOABB does not do it.
    """
    held = _named(name, given)
    try:
        paradigm = _with_bad_channels(held)
        epochs, labels, table = paradigm.get_data(held.dataset, return_epochs=True)
    except Exception as error:  # downloads and file formats of many kinds
        raise RecordingError(f"moabb:{name}: MOABB cannot load it: {first_line(error)}") from error
    raw = epoched(epochs, held.where, held.own.request, [str(label) for label in labels], [])
    columns = [[str(value) for value in table[key]] for key in ("subject", "session", "run")]
    places = [Place(*three) for three in zip(*columns, strict=True)]
    return file_set(_runs(raw, places), held.own.request, held.titles)


def _with_bad_channels(held: _Set) -> Any:
    """The paradigm, told the names of all channels where some are marked as bad: by itself it would
    leave these out without a word."""
    subject = held.dataset.subject_list[0]
    first = held.dataset.get_data([subject])[subject]
    runs = [raw for several in first.values() for raw in several.values()]
    if not any(raw.info["bads"] for raw in runs):
        return held.paradigm
    kinds = zip(runs[0].ch_names, runs[0].get_channel_types(), strict=True)
    return type(held.paradigm)(channels=[name for name, kind in kinds if kind == "eeg"])


def read_continuous(name: str, given: Mapping[str, Any]) -> FileSet:
    """The same data set as it was recorded, for a front end: nothing is filtered or cut, and the
    events are the trials of the classes that the paradigm has."""
    held = _named(name, given)
    classes = [str(one) for one in held.paradigm.used_events(held.dataset)]
    files: list[tuple[Callable[[], RawSignal], Place]] = []
    for subject in held.dataset.subject_list:
        try:
            runs = [
                (Place(str(subject), str(session), str(run)), raw)
                for session, several in held.dataset.get_data([subject])[subject].items()
                for run, raw in several.items()
            ]
        except Exception as error:  # downloads and file formats of many kinds
            raise RecordingError(
                f"moabb:{name}: MOABB cannot load it: {first_line(error)}"
            ) from error
        files += [(partial(_recorded, held, raw, classes), place) for place, raw in runs]
    return file_set(files, held.own.request, held.titles)


def _recorded(held: _Set, raw: Any, classes: Sequence[str]) -> RawSignal:
    """A run; MOABB has turned its trigger codes into annotations as long as a trial."""
    found = from_raw(raw, held.where, held.own.request, [])
    marks = tuple(mark for mark in found.marks if mark.rejects or mark.text in classes)
    return replace(found, marks=marks, codes={})


def _runs(raw: RawSignal, places: Sequence[Place]) -> list[tuple[Any, Place]]:
    """The epochs of each run on their own, in MOABB's order."""
    changes = [k for k in range(1, len(places)) if places[k] != places[k - 1]]
    out = []
    for begin, end in zip([0, *changes], [*changes, len(places)], strict=True):
        part = _epochs(raw, begin, end)
        out.append(((lambda part=part: part), places[begin]))
    return out


def _epochs(raw: RawSignal, begin: int, end: int) -> RawSignal:
    """The epochs from `begin` to before `end`."""
    first, last, _ = raw.bounds()
    zero = int(first[begin])
    return replace(
        raw,
        x=raw.x[:, zero : last[end - 1]],
        marks=tuple(
            replace(mark, segment=mark.segment - begin)
            for mark in raw.marks
            if mark.segment is not None and begin <= mark.segment < end
        ),
        segments=tuple(Segment(s.first - zero, s.time_s) for s in raw.segments[begin:end]),
    )
