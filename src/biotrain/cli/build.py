# SPDX-License-Identifier: Apache-2.0
"""`list`, `prepare`, `plan` and `compile`: from a model to its C."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from biotrain.cli.console import Busy, Out, table, writable_figure, writable_folder
from biotrain.cli.options import Force, Json, ModelName, ModelOptions, Show, TrainOptions, options
from biotrain.errors import BioTrainError
from biotrain.frontend import describe
from biotrain.writing.files import MANIFEST, check_file, write_file

if TYPE_CHECKING:
    from biotrain.cli.model import Model
    from biotrain.frontend import FrontEnd
    from biotrain.package import Package
    from biotrain.planner.plan import Point
    from biotrain.reports.published import Reference
    from biotrain.run.front_cost import FrontCost

What = Literal["models", "targets", "strategies", "ops", "data"]

STRATEGY_TEXT = {
    "none": "nothing: the C predicts only",
    "last": "the last layer that has parameters",
    "bias": "every parameter called bias",
    "norm": "weights and biases of norm layers",
    "full": "everything",
}

MODULE_FILE, SETTINGS_FILE = "model.pt2", "package.json"
"""Files that `compile` writes next to the C, so that `run DIR` can start it."""


@options
def list_verb(
    what: Annotated[
        What | None, typer.Argument(metavar="[models|targets|strategies|ops|data]")
    ] = None,
    to: Json = None,
) -> None:
    """List what there is: models, targets, strategies, ops, data."""
    out = Out(to)
    data: dict[str, Any] = {}
    makers = {
        "models": _models,
        "targets": _targets,
        "strategies": _strategies,
        "ops": _ops,
        "data": list_data,
    }
    for name in (what,) if what else makers:
        data[name] = makers[name](out)
        if not what:
            out.show("")
    out.result(data)


def _models(out: Out) -> list[dict[str, Any]]:
    from biotrain import models

    columns = ("model", "channels", "samples", "classes", "Hz", "parameters")
    shown = table(*columns, numbers=range(1, 6))
    rows = []
    for name, shape in models.PAPER.items():
        net = models.build(name, **shape)
        count = sum(p.numel() for p in net.parameters())
        rows.append({"name": name, **shape, "params": count})
        shown.add_row(name, *(f"{value:g}" for value in shape.values()), f"{count:,}")
    out.show(shown)
    return rows


def _targets(out: Out) -> list[dict[str, Any]]:
    from biotrain.targets.target import load_target, places, targets

    names = ("target", "core", "RAM, kB", "flash, kB", "MHz", "mW/MHz", "runs on")
    shown = table(*names, numbers=[2, 3, 4, 5])
    rows = []
    for name in targets():
        target = load_target(name)
        ram = target.memory("ram").bytes
        rows.append(asdict(target) | {"ram_bytes": ram or None})
        clock = f"{target.clock_hz / 1e6:g}" if target.clock_hz else "-"
        sizes = (target.memory(m).bytes for m in ("ram", "flash"))
        limits = [f"{size / 1e3:,.0f}" if size else "-" for size in sizes]
        power = f"{target.mw_per_mhz:g}" if target.mw_per_mhz else "-"
        on = ", ".join(places(target)) or "-"
        shown.add_row(name, target.core, *limits, clock, power, on)
    out.show(shown)
    return rows


def _strategies(out: Out) -> list[dict[str, Any]]:
    from biotrain.graph.strategy import STRATEGIES

    shown = table("strategy", "trains")
    for name in STRATEGIES:
        shown.add_row(name, STRATEGY_TEXT.get(name, ""))
    shown.add_row("'block2.*'", "parameters whose torch name matches the glob")
    out.show(shown)
    return [{"name": name, "trains": STRATEGY_TEXT.get(name, "")} for name in STRATEGIES]


def _ops(out: Out) -> list[dict[str, Any]]:
    import biotrain.ops  # noqa: F401  (fills OPS)
    from biotrain.ir.op import OPS

    shown = table("op", "torch functions", "kernels in")
    rows = []
    for name, op in sorted(OPS.items()):
        rows.append({"name": name, "torch": list(op.captures), "source": op.source})
        if op.captures:
            shown.add_row(name, ", ".join(op.captures), op.source)
    out.show(shown)
    return rows


def list_data(out: Out) -> list[dict[str, Any]]:
    """List what --data takes."""
    import os

    from biotrain.study.data.sources import FOLDER_VARIABLE, SYNTHETIC

    shown = table("data", "")
    rows: list[dict[str, Any]] = []
    for name in SYNTHETIC:
        rows.append({"name": name, "synthetic": True})
        shown.add_row(name, "synthetic, made on the spot")
    folder = os.environ.get(FOLDER_VARIABLE)
    for path in sorted(Path(folder).glob("*.npz")) if folder else ():
        rows.append({"name": path.stem, "synthetic": False})
        shown.add_row(path.stem, f"from the folder that {FOLDER_VARIABLE} names")
    shown.add_row("FILE.npz", "in BioTrain's layout (see biotrain.study.data.recordings)")
    shown.add_row(
        "FILE.toml", "files of your own, described in ten lines (docs/add-a-recording.md)"
    )
    shown.add_row("FILE or FOLDER", "what MNE reads (EDF, BDF ...): pip install 'biotrain[data]'")
    shown.add_row("bids:ROOT?task=T", "a BIDS tree; the same extra")
    shown.add_row("moabb:SET", "a set of MOABB, which downloads it: pip install 'biotrain[moabb]'")
    out.show(shown)
    return rows


@options
def prepare_verb(
    model: ModelName,
    given: ModelOptions,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE.pt2", help="Write the rewritten model there."),
    ] = None,
    to: Json = None,
) -> None:
    """Make a network trainable on a device, and tell what changed."""
    out = Out(to)
    if output is not None:
        if output.suffix != ".pt2":
            raise BioTrainError(f"cannot write '{output}': an exported model is a .pt2 file")
        check_file(output)
    from biotrain import topology
    from biotrain.cli.model import Model

    chosen = Model(model, given)
    net = chosen.prepared()
    report = topology.report(net)
    count = sum(p.numel() for p in net.parameters())
    shown = table("layer", "before", "after", "bytes saved", "effect", numbers=[3])
    for r in report:
        saved = "-" if r.bytes_saved is None else f"{r.bytes_saved:,}"
        effect = f"{r.effect}; lost: {r.lost}" if r.lost else r.effect
        shown.add_row(r.path or ".", r.before, r.after if r.changed else "as is", saved, effect)
    if len(report):
        out.show(shown)
    else:
        out.show("nothing had to change")
    missing, notes = _not_supported(chosen, net)
    for line in notes:
        out.say(line)
    less = report.bytes_saved
    out.say(
        f"{model}: {count:,} parameters, {len(report)} rewrites"
        + (f", {less:,} bytes less per training sample" if less else "")
    )
    if missing:
        out.say(f"this network does not compile yet: {missing[0]}")
    if output is not None:
        write_file(output, _export(chosen, net))
        out.say(f"wrote {output}")
    written = None if output is None else str(output)
    told = {"missing": missing[1] if missing else [], "notes": list(notes)}
    out.result({"model": model, "params": count, **report.to_dict(), **told, "out": written})


def _not_supported(
    chosen: "Model", net: Any
) -> tuple[tuple[str, list[dict[str, str]]] | None, tuple[str, ...]]:
    """What of a network is not supported (the message, and place by place), None where everything
    is; and what of it does not run on the device."""
    from biotrain.errors import CaptureError
    from biotrain.graph.capture import capture
    from biotrain.graph.missing import NotSupported

    try:
        return None, capture(net, chosen.example()).notes
    except NotSupported as error:
        return (str(error), [asdict(one) for one in error.missing]), ()
    except CaptureError as error:
        return (str(error), []), ()


@options
def plan_verb(
    model: ModelName,
    given: ModelOptions,
    train: TrainOptions,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure", metavar="FILE.png|svg", help="Draw buffers over time, and the frontier."
        ),
    ] = None,
    frontier: Annotated[
        bool,
        typer.Option(help="Also find the plans from the fastest to the smallest."),
    ] = True,
    show: Show = None,
    to: Json = None,
) -> None:
    """Plan the memory of training: every byte, and what a sample costs."""
    out = _out(to, show)
    if figure is not None:
        writable_figure(figure)
    from biotrain.cli.model import Model
    from biotrain.cli.tables import plan_json, plan_tables
    from biotrain.reports.published import references

    chosen = Model(model, given, train.recipe)
    if frontier and (show in (None, "plan") or figure is not None):
        with Busy(f"plans of {model}, the fastest to the smallest"):
            pkg = chosen.compiled(train, frontier=True)
    else:
        pkg = chosen.compiled(train)
    if not show:
        _about_front(out, chosen)
        for line in pkg.notes if train.recipe else ():
            out.say(line)
    known = references(model, train.trains) if chosen.as_published else ()
    others = _with_group_norm(chosen, train, pkg) if pkg.plan.points[1:] else {}
    if show in ("graph", "c"):
        _show(out, pkg, show)
    else:
        out.show(plan_tables(pkg, known, others))
    if figure is not None:
        draw_plan(pkg, figure, known, others)
        if not show:
            out.say(f"\nwrote {figure}")
    points = {name: [asdict(p) for p in found] for name, found in others.items()}
    out.result(plan_json(pkg) | ({"other_frontiers": points} if points else {}))


def _with_group_norm(
    chosen: "Model", train: TrainOptions, pkg: "Package"
) -> "dict[str, Sequence[Point]]":
    """The frontier of the same network with GroupNorm, the batch accumulated window by window."""
    batch = pkg.source.batch.size if pkg.source.batch else 1
    if batch == 1 or chosen.exported or chosen.norm != "batch":
        return {}
    from biotrain.cli.model import Model

    other = Model(chosen.name, replace(chosen.options, norm="group"))
    one_by_one = replace(train, batch=1, accumulate=batch, memory=None, adabn=False)
    with Busy(f"plans of {chosen.name} with GroupNorm"):
        pkg = other.compiled(one_by_one, frontier=True)
    return {"with GroupNorm": pkg.plan.points}


@options
def compile_verb(
    model: ModelName,
    given: ModelOptions,
    train: TrainOptions,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Folder of the C; made where missing."),
    ] = None,
    force: Force = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure-slices",
            help="With --live: cut slices by the emulated core's cycles, not estimates; minutes.",
        ),
    ] = False,
    show: Show = None,
    to: Json = None,
) -> None:
    """Compile a network into C99 that trains it."""
    out = _out(to, show)
    if output is None and show is None:
        raise BioTrainError("compile needs -o DIR (or --show graph|plan|c)")
    if output is not None:
        writable_folder(output)
    from biotrain.cli.model import Model
    from biotrain.cli.tables import cost_table, front_table, plan_json, ram_table

    chosen = Model(model, given, train.recipe)
    pkg = chosen.compiled(train)
    _about_front(out, chosen)
    for line in pkg.notes if show is None else ():
        out.say(line)
    if measure:
        with Busy("measuring the slices"):
            pkg = pkg.measured()
    files = []
    project: dict[str, str] = {}
    if output is not None:
        from biotrain.run.project import linked, project_files

        with Busy("linking the firmware" if pkg.target.firmware else "writing"):
            project = project_files(pkg, measure=True)
            pkg = linked(pkg, project)
        beside = _describe(chosen, pkg, chosen.fed(train))
        pkg.save(output, project, beside=beside, force=force)
        names = [*pkg.files, *project, "plan.json", SETTINGS_FILE, MODULE_FILE, MANIFEST]
        files = [{"name": n, "bytes": (output / n).stat().st_size} for n in names]
    if show:
        _show(out, pkg, show)
    else:
        out.show(ram_table(pkg), "", cost_table(pkg), "")
        cost = _front_cost(chosen.front, pkg)
        if cost is not None:
            out.show(front_table(cost), "")
        own = sum(name.endswith((".c", ".h")) for name in pkg.files)
        out.say(f"wrote {own} C files to {output}; model.h is the interface")
        out.say("README.md tells how to build it, and what it takes of the target")
        for line in project.get("README.md", "").splitlines():
            if line.startswith("**The reserve"):
                out.say(line.replace("*", "").replace("`", ""))
        if pkg.target.boot_note:
            out.say(pkg.target.boot_note)
        out.say(f"next: biotrain run {output}")
    result = {"folder": output and str(output), "files": files, "plan": plan_json(pkg)}
    if chosen.front is not None:
        cost = _front_cost(chosen.front, pkg)
        result["front"] = {
            "description": describe(chosen.front),
            "ram_bytes": chosen.front.ram_bytes,
            "cost": None if cost is None else cost.to_json(),
        }
    out.result(result)


def _front_cost(front: "FrontEnd | None", pkg: "Package") -> "FrontCost | None":
    from biotrain.run.front_cost import front_cost

    return None if front is None else front_cost(front, pkg.target)


def _about_front(out: Out, chosen: "Model") -> None:
    """Tell what became of `--front`, in one line."""
    if chosen.options.front is None:
        return
    if chosen.found[1]:
        out.say(chosen.found[1])
    elif chosen.front is not None:
        out.say(f"front end: {describe(chosen.front)}")


def _out(to: str | None, show: str | None) -> Out:
    if to is not None and show is not None:
        raise BioTrainError("--show and --json both want standard output: give one of them")
    return Out(to)


def _show(out: Out, pkg: "Package", what: str) -> None:
    if what == "graph":
        out.text(str(pkg.graph))
    elif what == "c":
        out.text(pkg.schedule)
    else:
        from biotrain.cli.tables import plan_tables

        out.show(plan_tables(pkg))


def draw_plan(
    pkg: "Package",
    path: Path,
    known: "Sequence[Reference]" = (),
    others: "Mapping[str, Sequence[Point]]" = MappingProxyType({}),
) -> None:
    """Write the picture of a plan."""
    from biotrain.reports.figures import plan_figure
    from biotrain.writing.drawing import save

    save(plan_figure(pkg, known, others), path)


def _describe(chosen: "Model", pkg: "Package", train: TrainOptions) -> dict[str, bytes]:
    """The files that `run DIR` needs: the exported module, and what was asked for."""
    if chosen.exported:
        module = Path(chosen.name).read_bytes()
    else:
        assert pkg.module is not None
        module = _export(chosen, pkg.module)
    settings = {
        "model": chosen.name if not chosen.exported else Path(chosen.name).name,
        "n_outputs": pkg.source.train.outputs[0].size,
        "fused": pkg.fused,
        "title": pkg.source.title,
        "train": asdict(train.as_compiled(pkg)),
        "recipe": None if pkg.recipe is None else pkg.recipe.to_json(),
        "front": None if chosen.front is None else asdict(chosen.front),
        "bits": chosen.bits,
    }
    text = json.dumps(settings, indent=1) + "\n"
    return {MODULE_FILE: module, SETTINGS_FILE: text.encode()}


def _export(chosen: "Model", net: Any) -> bytes:
    """The module as a `.pt2` file."""
    from biotrain.graph.archive import save_program
    from biotrain.graph.capture import export

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = export(net, chosen.example())
        return save_program(exported.program, exported.bounds)
