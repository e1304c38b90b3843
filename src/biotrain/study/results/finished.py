# SPDX-License-Identifier: Apache-2.0
"""What a finished study left in its folder, checked before anything is computed from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from biotrain.errors import BioTrainError
from biotrain.study.cells import SetFacts
from biotrain.study.rows import StudyRow
from biotrain.study.settings import Strategy
from biotrain.study.spec import Data
from biotrain.study.store import StudyRecord, read_rows, read_study
from biotrain.study.typed import typed

TITLES = {
    "day1": "Day-1: a new subject's first session",
    "sizes": "How much calibration it takes",
    "longitudinal": "Later sessions, each from where the one before it ended",
}
"""The scenarios of a study, and what its report calls them."""


def study_rows(folder: str | Path) -> tuple[StudyRecord, list[StudyRow]]:
    """study.json and its rows in the order of the study; BioTrainError without any result."""
    study = read_study(folder)
    found = {row.key: row for row in read_rows(folder)}
    rows = [found[key] for key in dict.fromkeys(study.keys) if key in found]
    if not rows:
        raise BioTrainError(f"'{folder}' holds no result of its study yet: run biotrain study")
    _check(study, rows, Path(folder))
    return study, rows


@dataclass(frozen=True)
class _Told:
    """What a report reads of the settings of a study."""

    strategies: tuple[Strategy, ...]
    bootstrap_seed: int = 0
    data: tuple[Data, ...] = ()


def _check(study: StudyRecord, rows: Sequence[StudyRow], folder: Path) -> None:
    """Raise BioTrainError where the two files of a study do not belong together, or are damaged."""
    try:
        typed(_Told, study.spec, "spec")
        facts = {name: typed(SetFacts, one, f"sets.{name}") for name, one in study.sets.items()}
    except ValueError as error:
        raise BioTrainError(f"{folder / 'study.json'}: not the JSON of a study: {error}") from error
    for row in rows:
        if row.dataset not in facts or row.scenario not in TITLES:
            raise BioTrainError(
                f"{folder / 'results.jsonl'}: it has results of '{row.dataset}', "
                f"{row.scenario}, of which study.json tells nothing"
            )
        if row.confusion and len(row.confusion) != len(facts[row.dataset].classes):
            raise BioTrainError(
                f"{folder / 'results.jsonl'}: a result of '{row.dataset}' has "
                f"{len(row.confusion)} classes, and study.json {len(facts[row.dataset].classes)}"
            )
