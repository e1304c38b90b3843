# SPDX-License-Identifier: Apache-2.0
"""Whom a strategy helps and whom it harms: exact tests of one person's test windows.

Seeds share their test windows, so they vote: a window is right where more than half of the seeds
are. McNemar's exact test then asks whether the windows that a strategy loses against `none` are
more than chance would have it, given those that it wins (Q. McNemar, Psychometrika 12, 1947). Its
p-values are corrected over all people, sets, networks and strategies at once (`holm`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from biotrain.study.metrics import unpacked
from biotrain.study.results.statistics import Condition, condition_of, holm
from biotrain.study.rows import StudyRow
from biotrain.writing.text import markdown as in_markdown

BEFORE = "none"
"""The strategy that the others are compared with."""

LEVEL = 0.05
"""Largest corrected p-value of a difference that is called one."""

Votes = dict[int, NDArray[np.bool_]]
"""Whether each test window is right, by session."""


@dataclass(frozen=True)
class Person:
    """What a strategy did to one person's test windows, all sessions together.

    windows: tested. lost, won: right before and wrong afterwards, and the other way round. p:
    McNemar's exact test, two-sided; 1 where nothing changed. p_holm: corrected over everybody.
    """

    condition: Condition
    strategy: str
    subject: int
    windows: int
    lost: int
    won: int
    p: float
    p_holm: float

    @property
    def harmed(self) -> bool:
        """Whether significantly more windows are lost than won."""
        return self.lost > self.won and self.p_holm < LEVEL

    @property
    def helped(self) -> bool:
        """Whether significantly more windows are won than lost."""
        return self.won > self.lost and self.p_holm < LEVEL


def people(rows: Sequence[StudyRow]) -> list[Person]:
    """Every person under every strategy but `none`, in order of the rows.

    Rows of earlier versions, which do not say which windows were right, are left out.
    """
    found: dict[tuple[Condition, int], dict[str, list[StudyRow]]] = {}
    for row in rows:
        if row.hits:
            person = found.setdefault((condition_of(row), row.subject), {})
            person.setdefault(row.strategy, []).append(row)
    counted: list[tuple[Condition, str, int, int, int, int, float]] = []
    for (condition, subject), strategies in found.items():
        before = votes(strategies.get(BEFORE, ()))
        for name, own in strategies.items():
            if name == BEFORE:
                continue
            now = votes(own)
            both = [s for s in now if s in before and now[s].shape == before[s].shape]
            if not both:
                continue
            old = np.concatenate([before[s] for s in both])
            new = np.concatenate([now[s] for s in both])
            lost, won = int((old & ~new).sum()), int((new & ~old).sum())
            p = float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
            counted.append((condition, name, subject, len(old), lost, won, p))
    corrected = holm([line[-1] for line in counted])
    return [
        Person(*line, 1.0 if p is None else p) for line, p in zip(counted, corrected, strict=True)
    ]


def votes(rows: Sequence[StudyRow]) -> Votes:
    """Whether most seeds have a window right, by session in order."""
    seeds: defaultdict[int, list[NDArray[np.bool_]]] = defaultdict(list)
    for row in rows:
        seeds[row.session].append(unpacked(row.hits, sum(map(sum, row.confusion))))
    return {s: np.mean(each, axis=0) > 0.5 for s, each in sorted(seeds.items())}


@dataclass(frozen=True)
class Line:
    """A strategy: of so many people (of each set and network), how many it helps and harms."""

    strategy: str
    people: int
    helped: int
    harmed: int
    who: tuple[str, ...]
    """Those who are harmed."""


def by_strategy(found: Sequence[Person]) -> list[Line]:
    """A line for each strategy, in order of the rows."""
    counts: dict[str, list[Person]] = {}
    for one in found:
        counts.setdefault(one.strategy, []).append(one)
    lines = []
    for name, own in counts.items():
        who = tuple(f"{p.condition[0]} {p.subject} ({p.condition[1]})" for p in own if p.harmed)
        lines.append(Line(name, len(own), sum(p.helped for p in own), len(who), who))
    return lines


def told(found: Sequence[Person]) -> str:
    """The lines as a Markdown table; nothing where no row says which windows were right."""
    if not found:
        return ""
    lines = [
        (
            "People (of each set and network) with significantly more test windows right than "
            f"under {BEFORE}, and with fewer: exact McNemar tests, seeds vote, corrected over all "
            f"{len(found)} (Holm)."
        ),
        "",
        "| strategy | people | helped | harmed | who is harmed |",
        "|---|---|---|---|---|",
    ]
    for one in by_strategy(found):
        who = in_markdown(", ".join(one.who)) if one.who else "-"
        cells = (in_markdown(one.strategy), one.people, one.helped, one.harmed, who)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def flat(one: Person) -> Mapping[str, object]:
    """A row of people.csv."""
    dataset, model, scenario, size = one.condition
    return {
        "dataset": dataset,
        "model": model,
        "scenario": scenario,
        "windows_per_class": size,
        "strategy": one.strategy,
        "subject": one.subject,
        "windows": one.windows,
        "lost": one.lost,
        "won": one.won,
        "p": one.p,
        "p_holm": one.p_holm,
        "harmed": one.harmed,
        "helped": one.helped,
    }
