# SPDX-License-Identifier: Apache-2.0
"""The summary of `adapt`: means per strategy over the subjects."""

import statistics as stats
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from biotrain.study.rows import ResultRow

NO_ADAPTATION = "none"
"""The strategy that gains are measured from."""


@dataclass(frozen=True)
class Summary:
    """One strategy with one network on one data set.

    accuracy and balanced_accuracy are means over subjects of means over seeds and sessions, *_sd
    the standard deviation over subjects (None for one). gain_over_none is the mean over subjects of
    the difference from strategy "none" of the same data, paired by subject, gain_over_none_se its
    standard error; None where there is no such row. ram_bytes is the largest, ops and steps means.
    """

    dataset: str
    scenario: str
    model: str
    norm: str
    strategy: str
    subjects: int
    seeds: int
    accuracy: float
    accuracy_sd: float | None
    balanced_accuracy: float
    balanced_accuracy_sd: float | None
    chance: float
    gain_over_none: float | None
    gain_over_none_se: float | None
    ram_bytes: int | None
    ops: float | None
    steps: float

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as plain values."""
        return asdict(self)


def summarize(rows: Sequence[ResultRow]) -> list[Summary]:
    """One summary per (dataset, scenario, model, norm, strategy), in the order of their first
    rows."""
    groups: dict[tuple[str, str, str, str, str], list[ResultRow]] = {}
    for row in rows:
        key = (row.dataset, row.scenario, row.model, row.norm, row.strategy)
        groups.setdefault(key, []).append(row)
    unadapted = {
        key[:3]: _by_subject(found, "accuracy")
        for key, found in groups.items()
        if key[4] == NO_ADAPTATION
    }
    return [_summary(found, unadapted.get(key[:3], {})) for key, found in groups.items()]


def _summary(rows: Sequence[ResultRow], unadapted: dict[int, float]) -> Summary:
    """The summary of one group; `unadapted`: accuracy by subject without any adaptation."""
    first = rows[0]
    accuracy = _by_subject(rows, "accuracy")
    balanced = list(_by_subject(rows, "balanced_accuracy").values())
    right = list(accuracy.values())
    gains = [value - unadapted[s] for s, value in accuracy.items() if s in unadapted]
    if first.strategy == NO_ADAPTATION:
        gains = []
    ram = [row.ram_bytes for row in rows if row.ram_bytes is not None]
    ops = [row.ops for row in rows if row.ops is not None]
    return Summary(
        dataset=first.dataset,
        scenario=first.scenario,
        model=first.model,
        norm=first.norm,
        strategy=first.strategy,
        subjects=len(accuracy),
        seeds=len({row.seed for row in rows}),
        accuracy=stats.fmean(right),
        accuracy_sd=_sd(right),
        balanced_accuracy=stats.fmean(balanced),
        balanced_accuracy_sd=_sd(balanced),
        chance=first.chance,
        gain_over_none=stats.fmean(gains) if gains else None,
        gain_over_none_se=stats.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None,
        ram_bytes=max(ram) if ram else None,
        ops=stats.fmean(ops) if ops else None,
        steps=stats.fmean(row.steps for row in rows),
    )


def _sd(values: Sequence[float]) -> float | None:
    return stats.stdev(values) if len(values) > 1 else None


def _by_subject(rows: Sequence[ResultRow], metric: str) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(row.subject, []).append(getattr(row, metric))
    return {subject: stats.fmean(found) for subject, found in values.items()}
