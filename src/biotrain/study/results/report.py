# SPDX-License-Identifier: Apache-2.0
"""The report of a study: one HTML page that needs nothing else, and the CSV behind it."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from biotrain.errors import BioTrainError
from biotrain.study.results import figures, people
from biotrain.study.results.finished import TITLES, study_rows
from biotrain.study.results.markdown import markdown
from biotrain.study.results.statistics import (
    CONVENTIONAL,
    LEVEL,
    MARGIN,
    RESAMPLES,
    Across,
    Comparison,
    Condition,
    Entry,
    Spread,
    across,
    compare,
    condition_of,
    conditions,
    strategies_of,
    summary,
    without_each,
)
from biotrain.study.rows import StudyRow
from biotrain.study.store import StudyRecord
from biotrain.writing.files import Folder
from biotrain.writing.text import cell

METRICS = ("balanced_accuracy", "accuracy")


@dataclass(frozen=True)
class Line:
    """A row of a section's table: an entry, and its comparisons with none, last and conventional
    full fine-tuning, where they were made."""

    entry: Entry
    none: Comparison | None
    last: Comparison | None
    conventional: Comparison | None


@dataclass(frozen=True)
class Section:
    """One condition on the page. figures: (caption, svg). sizes: by strategy, the accuracy by
    windows per class."""

    title: str
    note: str
    table: list[Line]
    figures: list[tuple[str, str]]
    sizes: list[tuple[str, dict[int, Spread]]] = field(default_factory=list)


@dataclass(frozen=True)
class Results:
    """The results of a study and what was computed from them, for one metric.

    against: strategies that the others are compared with across the sets, as well as none, last and
    conventional full fine-tuning.
    """

    study: StudyRecord
    rows: list[StudyRow]
    metric: str
    against: Sequence[str] = ()

    @property
    def seed(self) -> int:
        """Seed of the bootstrap over sets."""
        return int(self.study.spec.get("bootstrap_seed", 0))

    @cached_property
    def entries(self) -> list[Entry]:
        """See `summary`."""
        return summary(self.rows, self.metric)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """See `compare`."""
        return compare(self.rows, self.metric)

    @cached_property
    def gains(self) -> Across | None:
        """See `across`."""
        return across(self.rows, self.metric, against=self.against, seed=self.seed)

    @cached_property
    def people(self) -> list[people.Person]:
        """See `people.people`."""
        return people.people(self.rows)

    @cached_property
    def style(self) -> figures.Style:
        """A colour and a marker per strategy."""
        return figures.Style(strategies_of(self.rows))


def write_report(
    folder: str | Path,
    out: str | Path | None = None,
    metric: str = METRICS[0],
    against: Sequence[str] = (),
    force: bool = False,
) -> dict[str, Path]:
    """Write report.html, tables.md and rows, summary, comparisons and people as CSV into `out` (the
    study's folder by default); returns their paths by name.

    The same results always give the same bytes.
    against: strategies that the others are compared with across the sets, as well as none, last and
        conventional full fine-tuning.
    force: replace files of these names that BioTrain did not write there, or that were changed.
    Raises BioTrainError for a folder without results, an unknown metric, a missing package, and a
        file that stands in the way.
    """
    if metric not in METRICS:
        raise BioTrainError(f"a metric is {' or '.join(METRICS)}, not {metric}")
    study, rows = study_rows(folder)
    for name in against:
        if name not in strategies_of(rows):
            raise BioTrainError(f"the study has no strategy {name} to compare with")
    results = Results(study, rows, metric, against)
    texts = {
        "report.html": _page(results),
        "tables.md": markdown(results.entries, results.gains, metric) + _told(results),
        "rows.csv": _csv([_flat(row) for row in rows]),
        "summary.csv": _csv([_flat_entry(entry) for entry in results.entries]),
        "comparisons.csv": _csv([_flat_comparison(c) for c in results.comparisons]),
        "people.csv": _csv([people.flat(one) for one in results.people]),
    }
    target = Path(out or folder)
    Folder(target, force).write(texts)
    return {name: target / name for name in texts}


def _told(results: Results) -> str:
    """The table of whom a strategy harms, behind the others."""
    text = people.told(results.people)
    return f"\n{text}" if text else ""


def _page(results: Results) -> str:
    """The HTML."""
    study, rows = results.study, results.rows
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise BioTrainError("a report needs Jinja: pip install 'biotrain[study]'") from error
    environment = Environment(
        loader=PackageLoader("biotrain.study.results", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "points": _points,
        "percent": _percent,
        "p": _p,
        "count": _count,
        "short": _short,
    }
    names = strategies_of(rows)
    overview = figures.overview(rows, results.metric, results.style)
    return environment.get_template("report.html").render(
        study=study,
        metric=results.metric.replace("_", " "),
        overview=figures.as_svg(overview, "overview"),
        sections=_sections(results),
        across=results.gains,
        people=people.by_strategy(results.people),
        without=None if results.gains is None else without_each(results.gains),
        has_conventional=any(name in names for name in CONVENTIONAL),
        settings=_settings(_plain_spec(study.spec)),
        recipes=[(s["name"], s["rule"], s["recipe"]) for s in study.spec["strategies"]],
        notes=sorted({note for row in rows for note in row.notes}),
        in_torch=list(dict.fromkeys(r.strategy for r in rows if r.ram_bytes is None)),
        missing=len(study.keys) - len(rows),
        cells=len(rows),
        synthetic=sorted({row.dataset for row in rows if "synthetic" in row.dataset}),
        level=round(100 * LEVEL),
        resamples=RESAMPLES,
        margin=100 * MARGIN,
        seed=results.seed,
    )


def _sections(results: Results) -> list[Section]:
    """A section per condition, in the order of the rows; the size curve of a set and a network is
    one section."""
    rows, metric, style = results.rows, results.metric, results.style
    out: list[Section] = []
    curves: set[tuple[str, str]] = set()
    for number, condition in enumerate(conditions(rows)):
        dataset, model, scenario, size = condition
        facts = results.study.sets[dataset]
        if size is not None and (dataset, model) in curves:
            continue
        title = f"{dataset}, {model} — {TITLES[scenario]}"
        note = _note([r for r in rows if condition_of(r)[:3] == condition[:3]], facts)
        if size is not None:
            curves.add((dataset, model))
            drawn = figures.as_svg(figures.sizes(rows, dataset, model, metric, style), f"s{number}")
            caption = "Mean over the subjects that have every size."
            by_size = _by_size(results.entries, dataset, model)
            out.append(Section(title, note, [], [(caption, drawn)], by_size))
            continue
        own = [e for e in results.entries if e.condition == condition]
        table = [_line(entry, results.comparisons) for entry in own]
        pictures = _figures(results, condition, facts["classes"], salt=f"s{number}")
        out.append(Section(title, note, table, pictures))
    return out


def _note(rows: Sequence[StudyRow], facts: Mapping[str, Any]) -> str:
    """A line on the recordings of a condition."""
    people = len({row.subject for row in rows})
    return (
        f"{facts['channels']} channels, {facts['samples']} samples at {facts['fs']:g} Hz, "
        f"{len(facts['classes'])} classes; {people} "
        f"subject{'' if people == 1 else 's'}, {len({r.seed for r in rows})} seed(s); "
        f"split {facts['split']}; chance {_percent(rows[0].chance)} %"
    )


def _by_size(
    entries: Sequence[Entry], dataset: str, model: str
) -> list[tuple[str, dict[int, Spread]]]:
    """Per strategy, the accuracy by windows per class."""
    out: dict[str, dict[int, Spread]] = {}
    for e in entries:
        if (e.dataset, e.model, e.scenario) == (dataset, model, "sizes") and e.size is not None:
            out.setdefault(e.strategy, {})[e.size] = e.value
    return list(out.items())


def _figures(
    results: Results, condition: Condition, classes: Sequence[str], salt: str
) -> list[tuple[str, str]]:
    """The figures of a condition: (caption, svg)."""
    rows, metric, style = results.rows, results.metric, results.style
    made: list[tuple[str, Figure | None]] = [
        (
            "Each grey line is a subject (mean over seeds), each bar the mean of a strategy.",
            figures.subjects(rows, condition, metric, style),
        )
    ]
    if condition[2] == "longitudinal":
        made.append(
            ("Drift over the sessions, mean over subjects.", figures.drift(rows, condition, style))
        )
    else:
        made.append(
            (
                "While calibrating: accuracy on the test part (it was not used to choose).",
                figures.curves(rows, condition, style),
            )
        )
        made.append(
            (
                "What it costs on the device: mean accuracy against RAM and work.",
                figures.cost(rows, condition, metric, style),
            )
        )
    names = strategies_of(rows, condition)
    first = [n for n in ("none", "last", "full") if n in names]
    shown = (first + [n for n in names if n not in first])[: figures.MATRICES_SHOWN]
    made.append(
        (
            "Confusion in % of the true class, over all subjects and seeds.",
            figures.confusion(rows, condition, classes, shown),
        )
    )
    return [
        (caption, figures.as_svg(fig, f"{salt}-{k}"))
        for k, (caption, fig) in enumerate(made)
        if fig is not None
    ]


def _line(entry: Entry, comparisons: Sequence[Comparison]) -> Line:
    """The row of a section's table for `entry`."""
    against = {
        c.baseline: c
        for c in comparisons
        if c.condition == entry.condition and c.strategy == entry.strategy
    }
    conventional = next((against[n] for n in CONVENTIONAL if n in against), None)
    return Line(entry, against.get("none"), against.get("last"), conventional)


def _plain_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A study without its strategies, which have a table; its sets with what theirs differ in."""
    common = {one["name"]: one for one in spec["strategies"]}

    def own(data: Mapping[str, Any]) -> dict[str, Any]:
        named: dict[str, Any] = {}
        for one in data.get("strategies") or ():
            usual = common.get(one["name"], {"rule": None, "recipe": {}})
            recipe = {k: v for k, v in one["recipe"].items() if usual["recipe"].get(k) != v}
            if one["rule"] != usual["rule"]:
                recipe["rule"] = one["rule"]
            if recipe:
                named[one["name"]] = recipe
        plain = {k: v for k, v in data.items() if k != "strategies"}
        return plain | ({"strategy": named} if named else {})

    out = {k: v for k, v in spec.items() if k != "strategies"}
    return out | ({"data": [own(one) for one in spec["data"]]} if "data" in spec else {})


def _settings(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every setting but the strategies' as a line: its path and its value."""
    out: list[tuple[str, str]] = []

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            for k, inner in enumerate(value):
                walk(inner, f"{path}[{k + 1}]")
        else:
            if isinstance(value, list | tuple):
                value = ", ".join(map(str, value))
            out.append((path, "as found" if value is None else str(value)))

    walk(spec, "")
    return out


# ---------------------------------------------------------------- numbers as text


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _points(value: float | None) -> str:
    """A difference in points of accuracy."""
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}".replace(",", " ")


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


# ---------------------------------------------------------------- CSV


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    if lines:
        columns = list(dict.fromkeys(key for line in lines for key in line))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for line in lines:
            writer.writerow({k: cell(v) if isinstance(v, str) else v for k, v in line.items()})
    return text.getvalue()


def _flat(row: StudyRow) -> dict[str, Any]:
    """A row of rows.csv: lists as JSON in one field."""
    return {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.to_json().items()}


def _spread(name: str, value: Spread) -> dict[str, Any]:
    return {
        name: value.mean,
        f"{name}_sd": value.sd,
        f"{name}_low": value.low,
        f"{name}_high": value.high,
    }


def _flat_entry(entry: Entry) -> dict[str, Any]:
    """A row of summary.csv."""
    out: dict[str, Any] = {}
    for key, value in entry.to_json().items():
        out |= _spread(key, entry.value) if key == entry.metric else {key: value}
    return out


def _flat_comparison(one: Comparison) -> dict[str, Any]:
    """A row of comparisons.csv."""
    dataset, model, scenario, size = one.condition
    return {
        "dataset": dataset,
        "model": model,
        "scenario": scenario,
        "size": size,
        "strategy": one.strategy,
        "baseline": one.baseline,
        **_spread("gain", one.gain),
        "subjects": one.gain.n,
        "wins": one.wins,
        "ties": one.ties,
        "losses": one.losses,
        "p": one.p,
        "p_holm": one.p_holm,
        "lower": one.lower,
        "not_inferior": one.not_inferior,
    }
