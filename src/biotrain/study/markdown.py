# SPDX-License-Identifier: Apache-2.0
"""The tables of a study as Markdown: strategies x sets for each scenario, and across the sets."""

from collections.abc import Sequence

from biotrain.study.calibrate import Row
from biotrain.study.stats import (
    CONVENTIONAL,
    LEVEL,
    MARGIN,
    Spread,
    across_sets,
    by_subject,
    conditions,
    select,
    spread,
    strategies_of,
)

SCENARIOS = {"day1": "Day-1", "longitudinal": "Later sessions"}


def markdown(
    rows: Sequence[Row],
    metric: str = "balanced_accuracy",
    *,
    against: Sequence[str] = (),
    seed: int = 0,
) -> str:
    """The mean over subjects and its interval for every strategy, set and network of a scenario,
    the best mean of a column in bold; then the gains across sets over none, last, conventional
    full fine-tuning and the strategies `against`, "=" where that strategy is not inferior.
    """
    out = [_scenario(rows, scenario, metric, seed) for scenario in SCENARIOS]
    names = strategies_of(rows)
    baselines = [n for n in ("none", "last", *CONVENTIONAL, *against) if n in names]
    if len({row["dataset"] for row in rows}) > 1 and baselines:
        out.append(_across(rows, names, list(dict.fromkeys(baselines)), metric, seed))
    return "\n".join(text for text in out if text)


def _scenario(rows: Sequence[Row], scenario: str, metric: str, seed: int) -> str:
    own = [row for row in rows if row["scenario"] == scenario]
    columns = conditions(own)
    if not columns:
        return ""
    names = strategies_of(own)
    values: dict[tuple[int, str], Spread] = {}
    for k, condition in enumerate(columns):
        for name in names:
            found = select(own, condition, name)
            if found:
                values[k, name] = spread(by_subject(found, metric).values(), seed)
    best = [
        max((v.mean for (at, _), v in values.items() if at == k), default=0.0)
        for k in range(len(columns))
    ]
    heads = []
    for k, (dataset, model, _, _) in enumerate(columns):
        people = next(v.n for (at, _), v in values.items() if at == k)
        heads.append(_name(f"{dataset}, {model} ({people})"))
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
        lines.append(_line([_name(name), *texts]))
    return "\n".join(lines) + "\n"


def _across(
    rows: Sequence[Row], names: Sequence[str], baselines: Sequence[str], metric: str, seed: int
) -> str:
    lines = [
        (
            f"Across the sets: points of {metric.replace('_', ' ')}, sets count alike [{LEVEL:.0%} "
            f"interval]; =: not inferior (the one-sided interval lies above -{100 * MARGIN:g})."
        ),
        "",
        _line(["strategy", *(f"over {_name(name)}" for name in baselines)]),
        _line(["---"] * (len(baselines) + 1)),
    ]
    for name in names:
        texts = []
        for baseline in baselines:
            found = (
                None
                if name == baseline
                else across_sets(rows, name, baseline, metric, seed=seed, margin=MARGIN)
            )
            if found is None:
                texts.append("-")
                continue
            gain, _, holds = found
            interval = f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
            texts.append(f"{100 * gain.mean:+.1f} {interval}{' =' if holds else ''}")
        lines.append(_line([_name(name), *texts]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _name(text: str) -> str:
    """A name as Markdown shows it: no star or bar of its own."""
    return text.replace("|", "/").replace("*", "\\*")
