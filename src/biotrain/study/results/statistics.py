# SPDX-License-Identifier: Apache-2.0
"""What the rows of a study say: a mean per subject first, then everything over subjects.

Subjects are the unit: seeds and sessions of one person are averaged before anything is compared,
so that no interval gets narrower by running more seeds. Accuracies are fractions.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
    """Mean over subjects. low, high: its t interval (the mean itself, for one subject, of whom sd
    is None)."""

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
    -MARGIN; with one subject there is no interval, and it is not shown.
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


def half_width(error: float, freedom: float, level: float) -> float:
    """What an interval of a mean reaches to either side: `error` of the mean times the quantile
    `level` of Student's t with so many degrees of freedom."""
    from scipy.stats import t

    return error * float(t.ppf(level, freedom)) if error > 0 else 0.0


def spread(values: Iterable[float], level: float = LEVEL) -> Spread:
    """Mean, standard deviation and t interval over subjects.

    With eight people a percentile bootstrap holds 90 % of what it says is 95 %; the t interval
    holds it (tests/test_statistics.py).
    """
    x = np.array(list(values), np.float64)
    if not len(x):
        raise BioTrainError("no subject to take a mean over")
    mean, n = float(x.mean()), len(x)
    if n == 1:
        return Spread(mean, None, mean, mean, 1)
    sd = float(x.std(ddof=1))
    half = half_width(sd / n**0.5, n - 1, (1 + level) / 2)
    return Spread(mean, sd, mean - half, mean + half, n)


def lower_end(values: Values) -> float:
    """The lower end of the one-sided interval of a mean over subjects."""
    n = len(values)
    error = float(values.std(ddof=1)) / n**0.5 if n > 1 else 0.0
    return float(values.mean()) - half_width(error, max(n - 1, 1), LEVEL)


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
            lower = lower_end(d)
            out.append(
                Comparison(
                    condition,
                    name,
                    baseline,
                    gain=spread(d),
                    wins=int(np.sum(d > TIE)),
                    ties=int(np.sum(np.abs(d) <= TIE)),
                    losses=int(np.sum(d < -TIE)),
                    p=p,
                    p_holm=corrected,
                    lower=lower,
                    not_inferior=len(d) > 1 and lower > -margin,
                )
            )
    return out


@dataclass(frozen=True)
class Entry:
    """One strategy in one condition: the accuracy by `metric` over subjects, and means of what it
    costs (None where not known).

    size: windows per class, None for all. before, others, earlier: mean accuracy before adapting,
    on windows of the other subjects afterwards, and on the test parts of earlier sessions
    afterwards. own_people: of the pretrained network, on windows of the other subjects.
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
    own_people: float | None = None

    @property
    def condition(self) -> Condition:
        """The table that it belongs to."""
        return self.dataset, self.model, self.scenario, self.size

    def to_json(self) -> dict[str, Any]:
        """The fields by name, the accuracy under the name of its metric."""
        own = asdict(self)
        metric = own.pop("metric")
        return {metric if key == "value" else key: value for key, value in own.items()}


def summary(rows: Rows, metric: str = "balanced_accuracy") -> list[Entry]:
    """One entry per condition and strategy, in the order of the rows."""
    return [
        _entry(select(rows, condition, name), condition, metric)
        for condition in conditions(rows)
        for name in strategies_of(rows, condition)
    ]


def _entry(rows: Rows, condition: Condition, metric: str) -> Entry:
    """The entry of the rows of one strategy in one condition."""
    dataset, model, scenario, size = condition
    value = spread(by_subject(rows, metric).values())
    value = replace(value, low=max(value.low, 0.0), high=min(value.high, 1.0))  # shares
    return Entry(
        dataset=dataset,
        model=model,
        scenario=scenario,
        size=size,
        strategy=rows[0].strategy,
        norm=rows[0].norm,
        metric=metric,
        value=value,
        subjects=len({r.subject for r in rows}),
        sessions=len({(r.subject, r.session) for r in rows}),
        seeds=len({r.seed for r in rows}),
        chance=rows[0].chance,
        earlier=_mean(e.accuracy for r in rows for e in r.earlier),
        before=_mean(r.before for r in rows),
        others=_mean(r.others for r in rows),
        own_people=_mean(r.own_people for r in rows),
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
    """A gain over a baseline across sets.

    spread: mean, standard deviation of the sets' means, and the interval with people as the unit
        and the sets fixed: it speaks of more people of these sets.
    lower, not_inferior: the one-sided lower end of that, and whether it lies above the margin.
    among: the ends of the interval where sets are drawn too: it speaks of another set.
    without: the mean gain without each of the sets, by its name.
    """

    spread: Spread
    lower: float
    not_inferior: bool
    among: tuple[float, float]
    without: Mapping[str, float]


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
    curves do not count). None where no set has both.
    """
    gains: dict[str, Values] = {}
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
            gains[dataset] = np.array([np.mean(values) for values in own])
    if not gains:
        return None
    means = {name: float(d.mean()) for name, d in gains.items()}
    mean, count = float(np.mean(list(means.values()))), len(gains)
    error, freedom = _error_of_mean(list(gains.values()))
    half = half_width(error, freedom, (1 + LEVEL) / 2)
    lower = mean - half_width(error, freedom, LEVEL)
    sd = float(np.std(list(means.values()), ddof=1)) if count > 1 else None
    most = max(len(d) for d in gains.values())
    return Gain(
        Spread(mean, sd, mean - half, mean + half, count),
        lower,
        most > 1 and lower > -margin,
        _among_sets(list(gains.values()), seed),
        {
            name: float(np.mean([m for other, m in means.items() if other != name]))
            for name in (means if count > 1 else ())
        },
    )


def _error_of_mean(gains: Sequence[Values]) -> tuple[float, float]:
    """The standard error of the mean of the sets' means, and its degrees of freedom by Welch and
    Satterthwaite (Biometrics Bulletin 2, 1946); a set of one person adds nothing to either."""
    own = [d for d in gains if len(d) > 1]
    squares = [float(d.var(ddof=1)) / len(d) for d in own]
    total = sum(squares)
    spent = sum(v * v / (len(d) - 1) for v, d in zip(squares, own, strict=True))
    return total**0.5 / len(gains), total * total / spent if spent > 0 else 1.0


def _among_sets(gains: Sequence[Values], seed: int) -> tuple[float, float]:
    """The interval of a bootstrap that draws sets, and people within each."""
    draws = np.array([resampled(d, seed + k) for k, d in enumerate(gains)])
    rng = np.random.Generator(np.random.Philox(seed))
    chosen = rng.integers(0, len(gains), (len(gains), draws.shape[1]))
    means = np.take_along_axis(draws, chosen, 0).mean(0)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


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


@dataclass(frozen=True)
class Without:
    """Mean gains over a baseline without each of the `sets`: a line for each strategy."""

    baseline: str
    sets: list[str]
    lines: list[tuple[str, list[float]]]


def without_each(found: Across) -> Without | None:
    """The gains over conventional full fine-tuning, or else over the last of the baselines, without
    each set: whether one set alone carries them."""
    at = next((k for k, b in enumerate(found.baselines) if b in CONVENTIONAL), -1)
    own = [(name, gains[at]) for name, gains in found.gains]
    lines = [(name, list(gain.without.values())) for name, gain in own if gain is not None]
    sets = next((list(gain.without) for _, gain in own if gain is not None), [])
    if not sets:
        return None
    return Without(found.baselines[at], sets, [line for line in lines if len(line[1]) == len(sets)])
