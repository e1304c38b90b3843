# SPDX-License-Identifier: Apache-2.0
"""What the rows of a study say: a mean per subject first, then everything over subjects.

Subjects are the unit: seeds and sessions of one person are averaged before anything is compared,
so that no interval gets narrower by running more seeds. Accuracies are fractions.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.errors import BioTrainError
from biotrain.study.rows import StudyRow
from biotrain.study.rules import REFERENCE

LEVEL = 0.95
"""Coverage of the intervals."""
RESAMPLES = 10_000
"""Bootstrap draws."""
MARGIN = 0.01
"""One point of accuracy: less than that is not inferior."""
TIE = 1e-9
"""Accuracies that differ by less are equal."""

BASELINES = ("none", "last")
"""What every other strategy is compared with."""

CONVENTIONAL = ("full-bn8", REFERENCE)
"""Names of conventional full fine-tuning, with which every strategy is compared too."""

Values = NDArray[np.float64]
Rows = Sequence[StudyRow]
Condition = tuple[str, str, str, int | None]
"""Data set, model, scenario, windows per class (None: all)."""


@dataclass(frozen=True)
class Spread:
    """Mean over subjects. low, high: its bootstrap interval; sd is None for one subject."""

    mean: float
    sd: float | None
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """One strategy against another on the subjects of one condition, paired by subject.

    p: Wilcoxon's signed-rank test, two-sided, and p_holm corrected over all comparisons of the
    condition; None with fewer than two subjects that differ.
    not_inferior: whether the lower end of the one-sided 95 % interval of the gain lies above
    -MARGIN.
    """

    condition: Condition
    strategy: str
    baseline: str
    gain: Spread
    wins: int
    ties: int
    losses: int
    p: float | None
    p_holm: float | None
    lower: float
    not_inferior: bool


def condition_of(row: StudyRow) -> Condition:
    """The condition (which table) that a row belongs to."""
    return row.dataset, row.model, row.scenario, row.windows_per_class


def conditions(rows: Iterable[StudyRow]) -> list[Condition]:
    """The conditions in the order of their first rows."""
    return list(dict.fromkeys(condition_of(row) for row in rows))


def by_subject(rows: Iterable[StudyRow], field: str) -> dict[int, float]:
    """Mean per subject of a `field` of the rows: over sessions of the means over seeds, in order of
    the subjects."""
    found: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        found.setdefault((row.subject, row.session), []).append(float(getattr(row, field)))
    sessions: dict[int, list[float]] = {}
    for (subject, _), values in sorted(found.items()):
        sessions.setdefault(subject, []).append(float(np.mean(values)))
    return {subject: float(np.mean(values)) for subject, values in sessions.items()}


def select(rows: Iterable[StudyRow], condition: Condition, strategy: str) -> list[StudyRow]:
    """The rows of one strategy in one condition."""
    return [r for r in rows if r.strategy == strategy and condition_of(r) == condition]


def strategies_of(rows: Iterable[StudyRow], condition: Condition | None = None) -> list[str]:
    """The strategies of a condition (None: of all) in the order of their first rows."""
    own = (r for r in rows if condition is None or condition_of(r) == condition)
    return list(dict.fromkeys(row.strategy for row in own))


def resampled(values: Values, seed: int, resamples: int = RESAMPLES) -> Values:
    """Means of `resamples` draws with replacement of as many subjects; equal seeds, equal draws."""
    rng = np.random.Generator(np.random.Philox(seed))
    out: Values = values[rng.integers(0, len(values), (resamples, len(values)))].mean(1)
    return out


def spread(values: Iterable[float], seed: int, level: float = LEVEL) -> Spread:
    """Mean, standard deviation and percentile bootstrap interval over subjects."""
    x = np.array(list(values), np.float64)
    if not len(x):
        raise BioTrainError("no subject to take a mean over")
    low, high = np.quantile(resampled(x, seed), [(1 - level) / 2, (1 + level) / 2])
    sd = float(x.std(ddof=1)) if len(x) > 1 else None
    return Spread(float(x.mean()), sd, float(low), float(high), len(x))


def wilcoxon(differences: Iterable[float]) -> float | None:
    """Two-sided p of the signed-rank test; subjects without a difference are left out of it."""
    x = np.array([d for d in differences if abs(d) > TIE])
    if len(x) < 2:
        return None
    from scipy.stats import wilcoxon as test

    return float(test(x).pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected by Holm's step-down method (Scandinavian J. of Statistics 6, 1979)."""
    known = sorted((p, at) for at, p in enumerate(values) if p is not None)
    out: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, at) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        out[at] = largest
    return out


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Values:
    """Differences first - second of the subjects that both have, in order."""
    common = sorted(first.keys() & second.keys())
    return np.array([first[s] - second[s] for s in common])


def compare(
    rows: Rows,
    metric: str = "balanced_accuracy",
    *,
    baselines: Sequence[str] = BASELINES,
    seed: int = 0,
    margin: float = MARGIN,
) -> list[Comparison]:
    """Every strategy against each of `baselines` and CONVENTIONAL, condition by condition."""
    out: list[Comparison] = []
    for condition in conditions(rows):
        names = strategies_of(rows, condition)
        values = {name: by_subject(select(rows, condition, name), metric) for name in names}
        against = [*baselines, *(n for n in names if n in CONVENTIONAL)]
        tests = []
        for name, baseline in itertools.product(names, against):
            later_baseline = baseline in names and against.index(baseline) >= (
                against.index(name) if name in against else len(against)
            )
            if baseline not in names or name == baseline or later_baseline:
                continue
            d = paired(values[name], values[baseline])
            if len(d):
                tests.append((name, baseline, d))
        raw = [wilcoxon(d) for _, _, d in tests]
        for (name, baseline, d), p, corrected in zip(tests, raw, holm(raw), strict=True):
            lower = float(np.quantile(resampled(d, seed), 1 - LEVEL))
            out.append(
                Comparison(
                    condition,
                    name,
                    baseline,
                    gain=spread(d, seed),
                    wins=int(np.sum(d > TIE)),
                    ties=int(np.sum(np.abs(d) <= TIE)),
                    losses=int(np.sum(d < -TIE)),
                    p=p,
                    p_holm=corrected,
                    lower=lower,
                    not_inferior=lower > -margin,
                )
            )
    return out


@dataclass(frozen=True)
class Entry:
    """One strategy in one condition: the accuracy by `metric` over subjects, and means of what it
    costs (None where not known).

    size: windows per class, None for all. before, others, earlier: mean accuracy before adapting,
    on windows of the other subjects afterwards, and on the test parts of earlier sessions
    afterwards.
    """

    dataset: str
    model: str
    scenario: str
    size: int | None
    strategy: str
    norm: str
    metric: str
    value: Spread
    subjects: int
    sessions: int
    seeds: int
    chance: float
    earlier: float | None
    before: float | None
    others: float | None
    steps: float | None
    ram_bytes: float | None
    ops: float | None
    ms_per_sample: float | None
    mj_per_sample: float | None

    @property
    def condition(self) -> Condition:
        """The table that it belongs to."""
        return self.dataset, self.model, self.scenario, self.size

    def to_json(self) -> dict[str, Any]:
        """The fields by name, the accuracy under the name of its metric."""
        own = asdict(self)
        metric = own.pop("metric")
        return {metric if key == "value" else key: value for key, value in own.items()}


def summary(rows: Rows, metric: str = "balanced_accuracy", seed: int = 0) -> list[Entry]:
    """One entry per condition and strategy, in the order of the rows."""
    return [
        _entry(select(rows, condition, name), condition, metric, seed)
        for condition in conditions(rows)
        for name in strategies_of(rows, condition)
    ]


def _entry(rows: Rows, condition: Condition, metric: str, seed: int) -> Entry:
    """The entry of the rows of one strategy in one condition."""
    dataset, model, scenario, size = condition
    return Entry(
        dataset=dataset,
        model=model,
        scenario=scenario,
        size=size,
        strategy=rows[0].strategy,
        norm=rows[0].norm,
        metric=metric,
        value=spread(by_subject(rows, metric).values(), seed),
        subjects=len({r.subject for r in rows}),
        sessions=len({(r.subject, r.session) for r in rows}),
        seeds=len({r.seed for r in rows}),
        chance=rows[0].chance,
        earlier=_mean(e.accuracy for r in rows for e in r.earlier),
        before=_mean(r.before for r in rows),
        others=_mean(r.others for r in rows),
        steps=_mean(r.steps for r in rows),
        ram_bytes=_mean(r.ram_bytes for r in rows),
        ops=_mean(r.ops for r in rows),
        ms_per_sample=_mean(r.ms_per_sample for r in rows),
        mj_per_sample=_mean(r.mj_per_sample for r in rows),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


@dataclass(frozen=True)
class Gain:
    """A gain over a baseline across sets: its spread over sets, the one-sided lower end, and
    whether that lies above the margin of non-inferiority."""

    spread: Spread
    lower: float
    not_inferior: bool


def across_sets(
    rows: Rows,
    strategy: str,
    baseline: str,
    metric: str = "balanced_accuracy",
    *,
    seed: int = 0,
    margin: float = MARGIN,
) -> Gain | None:
    """The gain of `strategy` over `baseline`, mean over data sets of their mean over subjects.

    A subject's gain is the mean over the conditions of its set (models, scenarios; calibration-size
    curves do not count); subjects are drawn within each set. None where no set has both.
    """
    gains = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        per_condition = []
        for condition in conditions(rows):
            if condition[0] == dataset and condition[3] is None:
                both = (
                    by_subject(select(rows, condition, s), metric) for s in (strategy, baseline)
                )
                one, other = both
                per_condition.append({s: one[s] - other[s] for s in one.keys() & other.keys()})
        people = sorted({person for found in per_condition for person in found})
        if people:
            own = [[found[s] for found in per_condition if s in found] for s in people]
            gains.append(np.array([np.mean(values) for values in own]))
    if not gains:
        return None
    draws = np.mean([resampled(d, seed + k) for k, d in enumerate(gains)], 0)
    means = np.array([d.mean() for d in gains])
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    sd = float(means.std(ddof=1)) if len(means) > 1 else None
    lower = float(np.quantile(draws, 1 - LEVEL))
    mean = float(means.mean())
    return Gain(Spread(mean, sd, float(low), float(high), len(gains)), lower, lower > -margin)


@dataclass(frozen=True)
class Across:
    """Gains over several sets: the baselines, and for each strategy those over each of them (None:
    it is the baseline)."""

    baselines: list[str]
    gains: list[tuple[str, list[Gain | None]]]


def across(
    rows: Rows,
    metric: str = "balanced_accuracy",
    *,
    against: Sequence[str],
    seed: int = 0,
) -> Across | None:
    """Every strategy against none, last, CONVENTIONAL and `against`; None for one set only."""
    names = strategies_of(rows)
    known = [n for n in (*BASELINES, *CONVENTIONAL, *against) if n in names]
    if len({row.dataset for row in rows}) < 2 or not known:
        return None
    baselines = list(dict.fromkeys(known))

    def gain(name: str, baseline: str) -> Gain | None:
        if name == baseline:
            return None
        return across_sets(rows, name, baseline, metric, seed=seed)

    return Across(baselines, [(n, [gain(n, b) for b in baselines]) for n in names])
