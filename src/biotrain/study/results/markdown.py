# SPDX-License-Identifier: Apache-2.0
"""The tables of a study as Markdown: strategies x sets for each scenario, and across the sets."""

from collections.abc import Sequence

from biotrain.study.results.statistics import (
    LEVEL,
    MARGIN,
    Across,
    Entry,
    Spread,
    Without,
    without_each,
)
from biotrain.writing.text import markdown as in_markdown

SCENARIOS = {"day1": "Day-1", "longitudinal": "Later sessions"}


def markdown(entries: Sequence[Entry], gains: Across | None, metric: str) -> str:
    """The mean over subjects and its interval for every strategy, set and network of a scenario,
    the best mean of a column in bold; then the gains across sets, "=" where the strategy is not
    inferior. entries: what `summary` made. gains: what `across` made.
    """
    out = [_scenario(entries, scenario, metric) for scenario in SCENARIOS]
    out += [_across(gains, metric)] if gains else []
    return "\n".join(text for text in out if text)


def _scenario(entries: Sequence[Entry], scenario: str, metric: str) -> str:
    own = [e for e in entries if e.scenario == scenario]
    columns = list(dict.fromkeys((e.dataset, e.model) for e in own))
    if not columns:
        return ""
    names = list(dict.fromkeys(e.strategy for e in own))
    values: dict[tuple[int, str], Spread] = {
        (columns.index((e.dataset, e.model)), e.strategy): e.value for e in own
    }
    best = [
        max((v.mean for (at, _), v in values.items() if at == k), default=0.0)
        for k in range(len(columns))
    ]
    heads = []
    for k, (dataset, model) in enumerate(columns):
        people = next(v.n for (at, _), v in values.items() if at == k)
        heads.append(in_markdown(f"{dataset}, {model} ({people})"))
    lines = [
        (
            f"{SCENARIOS[scenario]}: {metric.replace('_', ' ')} in %, mean over subjects "
            f"[{LEVEL:.0%} interval]; in brackets the number of subjects."
        ),
        "",
        _line(["strategy", *heads]),
        _line(["---"] * (len(heads) + 1)),
    ]
    for name in names:
        texts = []
        for k in range(len(columns)):
            value = values.get((k, name))
            if value is None:
                texts.append("-")
                continue
            mean = f"{100 * value.mean:.1f}"
            mean = f"**{mean}**" if value.mean == best[k] else mean
            texts.append(f"{mean} [{100 * value.low:.1f}, {100 * value.high:.1f}]")
        lines.append(_line([in_markdown(name), *texts]))
    return "\n".join(lines) + "\n"


def _across(found: Across, metric: str) -> str:
    lines = [
        (
            f"Across the sets: points of {metric.replace('_', ' ')}, sets count alike [{LEVEL:.0%} "
            f"interval]; =: not inferior (the one-sided interval lies above -{100 * MARGIN:g})."
        ),
        "",
        _line(["strategy", *(f"over {in_markdown(name)}" for name in found.baselines)]),
        _line(["---"] * (len(found.baselines) + 1)),
    ]
    for name, gains in found.gains:
        texts = []
        for one in gains:
            if one is None:
                texts.append("-")
                continue
            gain = one.spread
            interval = f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
            texts.append(f"{100 * gain.mean:+.1f} {interval}{' =' if one.not_inferior else ''}")
        lines.append(_line([in_markdown(name), *texts]))
    return "\n".join([*lines, *_without(without_each(found))]) + "\n"


def _without(found: Without | None) -> list[str]:
    if found is None:
        return []
    lines = [
        "",
        f"The mean gain over {in_markdown(found.baseline)} without each of the sets:",
        "",
        _line(["strategy", *map(in_markdown, found.sets)]),
        _line(["---"] * (len(found.sets) + 1)),
    ]
    for name, means in found.lines:
        lines.append(_line([in_markdown(name), *(f"{100 * mean:+.1f}" for mean in means)]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
