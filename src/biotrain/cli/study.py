# SPDX-License-Identifier: Apache-2.0
"""`study` and `report`: adaptation over many people, and the page with its results."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from biotrain.cli.console import Busy, Out, StudyProgress, table
from biotrain.cli.learn_options import LearnOptions
from biotrain.cli.options import Force, Front, Json, integers, names, one_thread, options, people
from biotrain.errors import BioTrainError
from biotrain.writing.text import terminal

if TYPE_CHECKING:
    from biotrain.study.results.statistics import Entry
    from biotrain.study.run import Outcome

CELL_FAILED = 1
"""Exit code where a cell has failed."""


@options
def study_verb(
    learn: LearnOptions,
    spec: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SPEC.toml]",
            help="The study; options below take the place of what stands in it.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Results; an interrupted study goes on.")
    ] = Path("build/study"),
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="DATA", help="Recordings; may be given several times."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME,...", help="Networks for --data.")
    ] = "epidenet",
    decimate: Annotated[
        float | None, typer.Option("--decimate", metavar="HZ", help="Resample --data to HZ.")
    ] = None,
    front: Front = None,
    subjects: Annotated[
        str | None,
        typer.Option("--subject", metavar="NAME,...", help="Only these are new."),
    ] = None,
    scenarios: Annotated[
        str | None, typer.Option("--scenarios", help="day1, longitudinal, sizes.")
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", help="Processes on this machine.", min=1, max=256)
    ] = 1,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", metavar="dask://HOST:PORT", help="Work on a Dask cluster."),
    ] = None,
    to: Json = None,
) -> None:
    """Adapt to many people with many strategies; run it again to continue an interrupted study."""
    out = Out(to)
    from biotrain.cli.model import network
    from biotrain.study.run import run
    from biotrain.study.spec import make_spec, read_spec

    asked = {} if spec is None else read_spec(spec)
    if spec is None and not data:
        raise BioTrainError("a study needs a SPEC.toml or --data (biotrain list data)")
    _add_data(asked, data, model, {"decimate": decimate, "front": front, "subjects": subjects})
    if scenarios is not None:
        asked["scenarios"] = names(scenarios)
    _add_learning(asked, learn)
    made = make_spec(asked)
    one_thread()
    with StudyProgress() as watch:
        outcome = run(
            made,
            folder,
            resolve=network,
            jobs=jobs,
            cluster=cluster,
            watch=watch,
            command=shlex.join(["biotrain", *sys.argv[1:]]),
        )
    from biotrain.study.results.statistics import summary

    entries = summary(outcome.rows) if outcome.rows else []
    _show(out, outcome, entries)
    out.say(f"\n{outcome.computed} computed, {outcome.found} found; results {folder}/results.jsonl")
    out.say(f"  biotrain report {folder}")
    summaries = [entry.to_json() for entry in entries]
    out.result(outcome.to_json() | {"summary": summaries, "out": str(folder)})
    if outcome.failures:
        raise typer.Exit(CELL_FAILED)


@options
def report_verb(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study.")],
    where: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where it goes; else into DIR.")
    ] = None,
    metric: Annotated[
        Literal["balanced_accuracy", "accuracy"],
        typer.Option("--metric", help="What the tables and figures compare."),
    ] = "balanced_accuracy",
    against: Annotated[
        str,
        typer.Option(help="Strategies to compare with across the sets, as well as none and last."),
    ] = "",
    force: Force = False,
    to: Json = None,
) -> None:
    """One HTML page of a study, with figures and tables, and the CSV behind it."""
    out = Out(to)
    from biotrain.study.results.finished import study_rows
    from biotrain.study.results.report import write_report
    from biotrain.study.results.statistics import compare, summary

    with Busy("writing the report"):
        _, rows = study_rows(folder)
        names = [name.strip() for name in against.split(",") if name.strip()]
        paths = write_report(folder, where, metric, names, force)
    for path in paths.values():
        out.say(str(path))
    if to is None:
        return
    out.result(
        {
            "files": {name: str(path) for name, path in paths.items()},
            "rows": [row.to_json() for row in rows],
            "summary": [entry.to_json() for entry in summary(rows, metric)],
            "comparisons": [asdict(c) for c in compare(rows, metric)],
        }
    )


def _add_data(
    asked: dict[str, Any], data: list[str] | None, model: str, options: dict[str, Any]
) -> None:
    """`--data` and the options that belong to it, in place of the data of a spec."""
    own = {key: value for key, value in options.items() if value is not None}
    if data:
        if "front" in own:
            own["front"] = str(own["front"])
        if "subjects" in own:
            own["subjects"] = people(own["subjects"])
        asked["data"] = [{"source": source, "models": names(model), **own} for source in data]
    elif own:
        raise BioTrainError("--decimate, --front, --subject belong to --data; SPEC has its own")


def _add_learning(asked: dict[str, Any], learn: LearnOptions) -> None:
    """The options of calibration and pretraining, in place of what a spec says."""
    if learn.strategies is not None:
        asked["strategies"] = names(learn.strategies)
    if learn.seeds is not None:
        asked["seeds"] = integers("--seeds", learn.seeds)
    if learn.recipe is not None:
        asked["recipe"] = learn.recipe
    _into(asked, "calibrate", learn.calibration)
    _into(asked, "pretrain", {k.removeprefix("pretrain_"): v for k, v in learn.pretraining.items()})
    for name, lr in learn.rates.items():
        asked.setdefault("strategy", {}).setdefault(name, {})["lr"] = lr


def _into(asked: dict[str, Any], section: str, given: dict[str, Any]) -> None:
    """Write options into a table of the spec, in place of what it says."""
    known = {key: value for key, value in given.items() if value is not None}
    if known:
        before = asked.get(section, {})
        asked[section] = {**before, **known} if isinstance(before, dict) else before


def _show(out: Out, outcome: "Outcome", entries: "Sequence[Entry]") -> None:
    seen: list[tuple[Any, ...]] = []
    for entry in entries:
        key = (entry.dataset, entry.model, entry.scenario)
        if key not in seen:
            seen.append(key)
    for dataset, model, scenario in seen:
        out.show(f"\n{dataset}, {model}, {scenario}", _table_of(entries, dataset, model, scenario))
    for text in (*outcome.notes, *_hardly_pretrained(entries)):
        out.say(text)
    for text in outcome.left_out:
        out.say(f"left out: {text}")
    alike: dict[str, list[str]] = {}
    for text in outcome.failures:
        where, _, why = text.partition(": ")
        alike.setdefault(why, []).append(where)
    for why, places in alike.items():
        count = f" and {len(places) - 1} more" if len(places) > 1 else ""
        sys.stderr.write(f"failed: {terminal(f'{places[0]}{count}: {why}')}\n")


def _hardly_pretrained(entries: "Sequence[Entry]") -> list[str]:
    """A line on each set and network that knows its own people hardly better than chance."""
    from biotrain.study.plateau import is_near_chance, warning

    found: dict[str, str] = {}
    for e in entries:
        if e.own_people is not None and is_near_chance(e.own_people, e.chance):
            found.setdefault(f"{e.dataset}, {e.model}", warning(e.own_people, e.chance))
    return [f"warning: {where}: {text}" for where, text in found.items()]


def _table_of(entries: "Sequence[Entry]", dataset: str, model: str, scenario: str) -> Table:
    """A table of balanced accuracy per strategy (and size) in one condition."""
    sized = scenario == "sizes"
    columns = ["strategy", *(["per class"] if sized else [])]
    columns += ["balanced, %", "SD", "interval", "own people, %", "subjects", "seeds", "RAM, bytes"]
    shown = table(*columns, numbers=range(1, len(columns)))
    for e in entries:
        if (e.dataset, e.model, e.scenario) != (dataset, model, scenario):
            continue
        value = e.value
        shown.add_row(
            e.strategy,
            *([str(e.size)] if sized else []),
            f"{100 * value.mean:.1f}",
            "-" if value.sd is None else f"{100 * value.sd:.1f}",
            f"{100 * value.low:.1f} to {100 * value.high:.1f}",
            "-" if e.own_people is None else f"{100 * e.own_people:.1f}",
            str(e.subjects),
            str(e.seeds),
            "-" if e.ram_bytes is None else f"{e.ram_bytes:,.0f}",
        )
    return shown
