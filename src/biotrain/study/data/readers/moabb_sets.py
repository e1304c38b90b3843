# SPDX-License-Identifier: Apache-2.0
"""Public data sets by name, through MOABB (extra `moabb`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from biotrain.study.data.join import FileSet, file_set
from biotrain.study.data.raw import Place, RawSignal, Segment, first_line
from biotrain.study.data.readers.mne_files import epoched
from biotrain.study.data.readers.own import settings
from biotrain.study.data.recordings import RecordingError

PARADIGMS = {"imagery": "MotorImagery", "p300": "P300", "ssvep": "SSVEP", "cvep": "CVEP"}
"""Attribute `paradigm` of a MOABB data set -> the paradigm class that reads it."""


def read(name: str, given: Mapping[str, Any]) -> FileSet:
    """The MOABB data set called `name`, read by MOABB's paradigm for it with that paradigm's own
    filter and window (for motor imagery 8-32 Hz, zero phase: offline).

    Epochs that touch BAD annotations are left out here, where MOABB does not do it.
    """
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
    paradigm = getattr(moabb.paradigms, PARADIGMS[dataset.paradigm])()
    try:
        epochs, labels, table = paradigm.get_data(dataset, return_epochs=True)
    except Exception as error:  # downloads and file formats of many kinds
        raise RecordingError(f"moabb:{name}: MOABB cannot load it: {first_line(error)}") from error
    where = Path(f"moabb-{name}")
    raw = epoched(epochs, where, own.request, [str(label) for label in labels], [])
    columns = [[str(value) for value in table[key]] for key in ("subject", "session", "run")]
    places = [Place(*three) for three in zip(*columns, strict=True)]
    titles = replace(
        own.titles(f"moabb:{name}", f"moabb-{name}"),
        synthetic=name.startswith("Fake"),  # MOABB's own noise, for tests
    )
    return file_set(_runs(raw, places), own.request, titles)


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
