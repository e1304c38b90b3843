# SPDX-License-Identifier: Apache-2.0
"""`adapt` and `demo`: a network learns a person that it has never seen, in the generated C."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from biotrain.cli.console import Out, Work, table, writable_folder
from biotrain.cli.learn_options import LearnOptions
from biotrain.cli.options import Force, Front, Json, integers, names, one_thread, options, people
from biotrain.recipe import recipe_of
from biotrain.writing.files import Folder

if TYPE_CHECKING:
    from biotrain.package import Package
    from biotrain.study import AdaptResult, AdaptSettings, Recordings

WRITTEN, PLAN_FIGURE = ("accuracy.png", "results.json"), "plan.png"
"""What is written beside the C."""


@options
def adapt_verb(
    learn: LearnOptions,
    data: Annotated[
        str, typer.Option("--data", metavar="DATA", help="Recordings: biotrain list data.")
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="A built-in network or module:factory.")
    ] = "epidenet",
    subject: Annotated[
        str, typer.Option("--subject", metavar="NAME,...|all", help="Who is new to the network.")
    ] = "all",
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="run, repetition, chronological or chronological-per-class; else what fits.",
        ),
    ] = None,
    calibration: Annotated[
        float, typer.Option("--calibration", help="Share of the session that calibrates.")
    ] = 0.8,
    test_repetition: Annotated[
        int | None,
        typer.Option("--test-repetition", help="Which repetition tests; else the last."),
    ] = None,
    decimate: Annotated[
        float | None, typer.Option("--decimate", metavar="HZ", help="Resample the data to HZ.")
    ] = None,
    front: Front = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Figure, JSON and C go there; made if missing."),
    ] = None,
    force: Force = False,
    to: Json = None,
) -> None:
    """Pretrain on the other subjects, calibrate to a new one in the generated C, and test."""
    out = Out(to)
    where = None if folder is None else Folder(writable_folder(folder), force)
    if where is not None:
        where.check(WRITTEN)
    from biotrain.cli.model import recordings

    rec, note = recordings(data, decimate, front)
    if note:
        out.say(note)
    from biotrain.study import AdaptSettings

    settings = AdaptSettings.by(
        learn.recipe,
        seeds=integers("--seeds", learn.seeds or "0"),
        lr_per_strategy=learn.rates,
        split=split,
        calibration=calibration,
        test_repetition=test_repetition,
        **learn.pretraining,
        **learn.calibration,
    )
    subjects = rec.subjects if subject == "all" else rec.people(people(subject))
    chosen = names(learn.strategies or "")
    if learn.recipe is not None and not chosen:
        chosen = ["none", recipe_of(learn.recipe).rule]
    asked = _Asked(model, subjects, chosen, settings)
    result = _adapt(rec, asked, where, out)
    _show_result(out, result)
    if folder is not None and where is not None:
        _write(result, where)
        out.say(f"\nfigure {folder / 'accuracy.png'}, numbers {folder / 'results.json'}, "
                f"C {folder / 'c'}")  # fmt: skip
    out.result(result.to_dict())


WAYS = """\
  none      as it was pretrained
  align     channels are decorrelated for the new person; adabn: norms take their statistics anew
            from the same windows. Neither needs a label
  last      the last layer learns from labelled windows; full: every layer does
  full-bn8  the conventional way, batches of 8 in PyTorch, for comparison"""
"""What the demo compares, for somebody who sees it for the first time."""


@options
def demo_verb(
    folder: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where everything goes; made if missing.")
    ] = Path("build/demo"),
    subjects: Annotated[
        int, typer.Option("--subjects", min=1, max=6, help="How many new people to adapt to.")
    ] = 2,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of the calibration.")] = 20,
    pretrain_epochs: Annotated[
        int, typer.Option("--pretrain-epochs", min=0, help="On the other subjects.")
    ] = 30,
    target: Annotated[
        str, typer.Option("--target", help="What the C is planned for.")
    ] = "nrf52840",
    force: Force = False,
    to: Json = None,
) -> None:
    """In a minute or two: EpiDeNet learns unseen people from synthetic EMG, in generated C."""
    out = Out(to)
    where = Folder(writable_folder(folder), force)
    where.check((*WRITTEN, PLAN_FIGURE))
    begin = time.perf_counter()
    from biotrain.reports.figures import plan_figure
    from biotrain.study.data.sources import load
    from biotrain.writing.drawing import as_png

    rec = load("synthetic-emg")
    out.say(
        f"synthetic EMG recordings of {len(rec.subjects)} people: {rec.n_chans} channels x "
        f"{rec.n_times} samples at {rec.fs:g} Hz, {rec.n_classes} gestures"
    )
    out.say("EpiDeNet is pretrained on all people but one, and calibrated to that one in its C:")
    out.say(f"{WAYS}\n")
    from biotrain.study import AdaptSettings

    settings = AdaptSettings(target=target, epochs=epochs, pretrain_epochs=pretrain_epochs)
    asked = _Asked("epidenet", rec.subjects[-subjects:], (), settings)
    result = _adapt(rec, asked, where, out)
    pkg = _planned(rec, result)
    _write(result, where, {PLAN_FIGURE: as_png(plan_figure(pkg))})
    _show_result(out, result)
    plan = pkg.plan
    work = f", {plan.ms_per_sample:.1f} ms per sample (estimate)" if plan.ms_per_sample else ""
    out.say(
        f"\nfull training on {pkg.target.name}: {plan.ram_bytes:,} B of RAM, "
        f"{plan.flash_bytes:,} B of weights{work}"
    )
    for name, what in (
        ("c/full/", "the C that was trained; read model.h, then model.c"),
        ("c/full/plan.json", "every buffer of it"),
        ("plan.png", "the same as a picture"),
        ("accuracy.png", "what adapting buys, and the learning curves"),
        ("results.json", "every number"),
    ):
        out.say(f"  {folder / name}  {what}")
    out.say(
        f"{time.perf_counter() - begin:.0f} s. Next:\n"
        f"  biotrain plan epidenet --target {target} --figure plan.svg\n"
        "  biotrain adapt --data YOUR.npz --model epidenet --out build/adapt"
    )
    out.result({**result.to_dict(), "out": str(folder)})


@dataclass(frozen=True)
class _Asked:
    """What `adapt` is asked for; strategies: none names the usual comparison."""

    model: str
    subjects: Sequence[int]
    strategies: Sequence[str]
    settings: "AdaptSettings"


def _adapt(rec: "Recordings", asked: _Asked, folder: Folder | None, out: Out) -> "AdaptResult":
    """Run `adapt` with a progress bar; where nobody named a norm, each strategy has the one that
    did best and that the network can have."""
    from biotrain.cli.model import network
    from biotrain.study import STRATEGIES, adapt
    from biotrain.study.pretrain import has_batch_norm
    from biotrain.study.rules import Rule
    from biotrain.study.spec import SPELLINGS

    one_thread()
    for person in asked.subjects:  # a refusal of these comes before one of the network
        rec.sessions(person)
    made, takes_norm = network(asked.model)
    named = [SPELLINGS.get(name, name) for name in asked.strategies or STRATEGIES]
    if not asked.strategies and not has_batch_norm(rec, made):
        named = [name for name in named if not Rule.parse(name).adabn]
        out.say(f"{asked.model} has no BatchNorm, so strategies with adabn are left out")
    settings = asked.settings
    norms = {name: settings.strategy(name).recipe.norm for name in named}
    if not takes_norm and "group" in norms.values():
        norms = {name: "convert" if way == "group" else way for name, way in norms.items()}
        out.say(f"{asked.model} takes no norm: it is pretrained as it is, then gets GroupNorm")
    starts = {(Rule.parse(s).transform, Rule.parse(s).pretrained_norm(norms[s])) for s in named}
    rates = {SPELLINGS.get(s, s): lr for s, lr in settings.lr_per_strategy.items()}
    tasks = len(asked.subjects) * len(settings.seeds) * (len(named) + len(starts))
    with Work(tasks) as work:
        return adapt(
            rec,
            made,
            asked.subjects,
            named,
            replace(settings, norm=norms, lr_per_strategy=rates),
            progress=work,
            save_to=None if folder is None else folder / "c",
        )


def _planned(rec: "Recordings", result: "AdaptResult") -> "Package":
    """The package of the strategy `full` as `adapt` compiled it, but for its weights."""
    import numpy as np

    from biotrain import models
    from biotrain.cli.model import shape_of
    from biotrain.ir.optimizer import SGD
    from biotrain.package import compile_model
    from biotrain.topology import prepare

    ones = np.ones(rec.n_chans)
    net = models.build("epidenet", norm="group", pool="avg", **shape_of(rec))
    settings = result.settings
    return compile_model(
        prepare(models.standardized(net, 0 * ones, ones), pool="avg"),
        rec.signal([0]),
        target=settings.target,
        memory=settings.memory,
        optimizer=SGD(schedule=settings.schedule),  # type: ignore[arg-type]
        accumulate=settings.accumulate,
        title="EpiDeNet on synthetic EMG, strategy full",
    )


def _write(
    result: "AdaptResult", folder: Folder, beside: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    from biotrain.study.results.plots import figure
    from biotrain.writing.drawing import as_png

    own: dict[str, str | bytes] = {
        "accuracy.png": as_png(figure(result)),
        "results.json": result.to_json(),
    }
    folder.write({**own, **beside})


def _show_result(out: Out, result: "AdaptResult") -> None:
    settings = result.settings
    out.show(
        f"{settings.dataset}, {settings.model}: accuracy on the test part, new subject, "
        f"split {settings.split}, {settings.epochs} epochs"
    )
    out.show("", by_subject(result), "", by_strategy(result), *settings.notes)


def by_subject(result: "AdaptResult") -> Table:
    """A row per subject (mean over seeds), a column per strategy; mean and SD below."""
    strategies = list(dict.fromkeys(row.strategy for row in result.rows))
    shown = table("subject", *strategies, numbers=range(1, 1 + len(strategies)))
    for person in dict.fromkeys(row.subject for row in result.rows):
        cells = []
        for strategy in strategies:
            found = [
                row.accuracy
                for row in result.rows
                if row.subject == person and row.strategy == strategy
            ]
            cells.append(f"{100 * sum(found) / len(found):.1f} %")
        shown.add_row(result.settings.name_of(person), *cells)
    means = []
    for entry in result.summary:
        sd = entry.accuracy_sd
        spread = "" if sd is None else f" ± {100 * sd:.1f}"
        means.append(f"{100 * entry.accuracy:.1f}{spread} %")
    shown.add_row("mean ± SD" if any("±" in m for m in means) else "mean", *means, style="bold")
    return shown


def by_strategy(result: "AdaptResult") -> Table:
    """What each strategy buys, and what it costs."""
    shown = table(
        "strategy", "own people", "before", "after", "balanced", "over none", "RAM, bytes",
        "operations", "steps",
        numbers=range(1, 9),
    )  # fmt: skip
    starts: dict[str, list[float]] = {}
    for curve in result.curves:
        starts.setdefault(curve.strategy, []).append(curve.accuracy[0])
    for entry in result.summary:
        own = result.settings.own_people.get(entry.strategy)
        gain, error = entry.gain_over_none, entry.gain_over_none_se
        text = "-" if gain is None else f"{100 * gain:+.1f}"
        text += f" ± {100 * error:.1f} (SE)" if error is not None else ""
        shown.add_row(
            entry.strategy,
            "-" if own is None else f"{100 * own:.1f} %",
            f"{100 * sum(starts[entry.strategy]) / len(starts[entry.strategy]):.1f} %",
            f"{100 * entry.accuracy:.1f} %",
            f"{100 * entry.balanced_accuracy:.1f} %",
            text,
            "-" if entry.ram_bytes is None else f"{entry.ram_bytes:,}",
            "-" if entry.ops is None else f"{entry.ops:,.0f}",
            f"{entry.steps:,.0f}",
        )
    shown.caption = (
        f"chance {100 * result.rows[0].chance:.1f} %; own people: the pretrained network on those "
        "whom it has learned; before: the network as pretrained for the "
        "strategy, with adabn+... after its statistics were re-estimated; operations: per window"
    )
    shown.caption_justify = "left"
    return shown
