# SPDX-License-Identifier: Apache-2.0
"""`run` and `verify`: train with the generated C, and compare it with torch."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from biotrain.cli.build import MODULE_FILE, SETTINGS_FILE
from biotrain.cli.console import Out, Work, table, writable_figure
from biotrain.cli.options import (
    Json,
    ModelName,
    ModelOptions,
    On,
    TrainOptions,
    option,
    options,
    people,
)
from biotrain.errors import BioTrainError
from biotrain.frontend import FrontEnd
from biotrain.recipe import Recipe
from biotrain.writing.files import check_file

if TYPE_CHECKING:
    from biotrain.package import Package
    from biotrain.run.device import Device, Executed
    from biotrain.run.profile import Profile
    from biotrain.study.data.recordings import Recordings
    from biotrain.targets.target import Target
    from biotrain.verification import VerifyReport

RUN = "The run"
"""Panel of the help."""

PROFILE_ROWS = 12
"""Layers and kernels that a profile prints; the file has them all."""

RANDOM_WINDOWS = 64
"""Windows of a run without data."""

MOST_RANDOM_BYTES = 2**30
"""Bytes of all windows of a run without data."""

SAMPLES_PER_CALL = 32
"""Samples that are trained between two moves of the progress bar."""


@dataclass(frozen=True)
class RunOptions:
    """What is trained on, for how long, and what is kept of it."""

    subject: Annotated[
        str | None, option("--subject", "Only the windows of this subject.", RUN, metavar="NAME")
    ] = None
    samples: Annotated[int | None, option("--samples", "At most so many windows.", RUN, min=1)] = (
        None
    )
    epochs: Annotated[
        int, option("--epochs", "Times that each window is trained on.", RUN, min=1)
    ] = 1
    save: Annotated[
        Path | None,
        option("--save", "Write the trained weights.", RUN, metavar="FILE.safetensors"),
    ] = None
    profile: Annotated[
        Path | None,
        option(
            "--profile",
            "Where the cycles of training went, by layer and kernel (on the emulator).",
            RUN,
            metavar="FILE.png|svg",
        ),
    ] = None


@options
def run_verb(
    model: Annotated[
        str,
        typer.Argument(
            metavar="DIR|MODEL",
            help="A folder that `biotrain compile` wrote, or a MODEL.",
            show_default=False,
        ),
    ],
    given: ModelOptions,
    train: TrainOptions,
    how: RunOptions,
    on: On = "host",
    to: Json = None,
) -> None:
    """Train with the generated C on windows of a recording (or on noise), and time it."""
    out = Out(to)
    if how.save is not None:
        check_file(how.save)
    if how.profile is not None:
        if on != "emulator":
            raise BioTrainError("--profile counts instructions: add --on emulator")
        writable_figure(how.profile)
    from biotrain.run.emulator import EmulatorDevice
    from biotrain.study.experiment import dataset_name

    pkg, rec, note = _package_and_data(model, given, train, on, out)
    if note:
        out.say(note)
    if rec is None and how.subject is not None:
        raise BioTrainError("--subject needs --data")
    if pkg.source.train.inputs[1].dtype != "i32":
        raise BioTrainError(f"the windows have classes, which --loss {train.loss} does not take")
    for line in pkg.notes if train.recipe else ():
        out.say(line)
    x, y = _windows(pkg, rec, how, given.seed)
    device = pkg.run(on)
    if pkg.source.adabn:
        device.adabn(x)
        out.say(f"BatchNorm's statistics are those of {len(x)} windows, without their labels")
    trained = _train(device, pkg, (x, y), how.epochs, given.seed)
    counted = device.executed()
    spent = device.profile() if isinstance(device, EmulatorDevice) and how.profile else None
    accuracy = float(np.mean(device.predict(x).argmax(1) == y))
    if how.save is not None:
        device.save(how.save)
    count = how.epochs * len(x)
    data = "random windows" if rec is None else dataset_name(rec)
    result: dict[str, Any] = {
        "on": on,
        "samples": count,
        **_work(pkg.target, counted, count),
        **_package_facts(pkg),
        "crc32": device.crc32(),
        "title": pkg.source.title,
        "target": pkg.target.name,
        "data": data,
        "epochs": how.epochs,
        "seconds": trained.seconds,
        "losses": trained.losses,
        "training_accuracy": accuracy,
        "estimate": _estimate(pkg),
    }
    if on == "host":
        result["ms_per_sample"] = 1e3 * trained.seconds / count
    out.show(_run_table(result))
    if spent is not None and how.profile is not None:
        for by in ("layer", "kernel"):
            out.show("", _profile_table(spent, by, count))
        spent.save(how.profile)
        out.say(f"wrote {how.profile}")
        result["profile"] = spent.to_json()
    if how.save is not None:
        out.say(f"wrote {how.save}")
    out.result(result)


def _package_and_data(
    model: str, given: ModelOptions, train: TrainOptions, on: str, out: Out
) -> "tuple[Package, Recordings | None, str]":
    """The package of a folder or a model, the recordings of `--data`, and a line on `--front`."""
    from biotrain.cli.model import Model, recordings
    from biotrain.run import check_place
    from biotrain.targets.target import load_target

    if Path(model).is_dir():
        pkg = _from_folder(Path(model), given, train, out)
        if given.data is None:
            return pkg, None, ""
        return pkg, *recordings(given.data, given.decimate, given.front)
    if Path(model, "").parent != Path() and ":" not in model and not model.endswith(".pt2"):
        raise BioTrainError(f"cannot read '{model}': there is no such folder")
    check_place(on, load_target(train.target))
    chosen = Model(model, given, train.recipe)
    return chosen.compiled(train), *chosen.found


@dataclass(frozen=True)
class _Trained:
    """Mean loss of each epoch, and the seconds that training took on this machine's clock."""

    losses: list[float]
    seconds: float


def _train(
    device: "Device", pkg: "Package", material: tuple[Any, Any], epochs: int, seed: int
) -> _Trained:
    """Train `epochs` times over windows and labels, in a random order; whole groups of samples at a
    time, so that how they are cut changes no step."""
    x, y = material
    batch = pkg.source.batch
    group = batch.size if batch else pkg.source.accumulate
    chunk = group * max(1, SAMPLES_PER_CALL // group)
    device.begin(total_steps=epochs * -(-len(x) // group))
    device.restart_count()
    rng = np.random.default_rng(seed)
    losses: list[float] = []
    seconds = 0.0
    with Work() as work:
        for epoch in range(epochs):
            order, loss = rng.permutation(len(x)), 0.0
            for first in range(0, len(x), chunk):
                part = order[first : first + chunk]
                start = time.perf_counter()
                loss += device.train(x[part], y[part]) * len(part)
                seconds += time.perf_counter() - start
                work("training", epoch * len(x) + min(first + chunk, len(x)), epochs * len(x))
            losses.append(loss / len(x))
    return _Trained(losses, seconds)


def _package_facts(pkg: "Package") -> dict[str, Any]:
    """Bytes of RAM, stack and flash of a package."""
    plan = pkg.plan
    return {
        "ram_bytes": plan.ram_bytes,
        "stack_bytes": plan.stack_bytes,
        "flash_bytes": plan.flash_bytes,
    }


def _estimate(pkg: "Package") -> dict[str, Any]:
    """What the plan estimates for a sample on the target."""
    plan = pkg.plan
    return {
        "target": pkg.target.name,
        "cycles": plan.cycles or None,
        "ms_per_sample": plan.ms_per_sample or None,
        "mj_per_sample": plan.mj_per_sample or None,
    }


def _profile_table(spent: "Profile", by: str, samples: int) -> Any:
    """The most expensive layers or kernels of a run."""
    shown = table(f"by {by}", "instructions", "cycles", "share", numbers=[1, 2, 3])
    for row in sorted(spent.rows(by), key=lambda r: (-r.cycles, r.name))[:PROFILE_ROWS]:
        count = (f"{value / samples:,.0f}" for value in (row.instructions, row.cycles))
        shown.add_row(row.name, *count, f"{row.share:.1%}")
    return shown


def _work(target: "Target", work: "Executed | None", samples: int) -> dict[str, Any]:
    """Instructions, cycles, time and energy of a run on an emulated core."""
    if work is None:
        return dict.fromkeys(
            ("instructions", "cycles", "cycles_source", "ms_per_sample", "mj_per_sample")
        )
    from biotrain.graph.cost import cost_of

    each = cost_of(0, 0, work.cycles / samples, target)
    return {
        "instructions": work.instructions,
        "cycles": work.cycles,
        "cycles_source": work.cycles_source + (" (estimate)" if work.estimate else ""),
        "ms_per_sample": each.ms or None,
        "mj_per_sample": each.mj or None,
    }


def _run_table(result: dict[str, Any]) -> Any:
    losses = result["losses"]
    shown = table(f"{result['title']}, on {result['on']}", "", "", numbers=[1])
    shown.add_row("samples trained", f"{result['samples']:,}", result["data"])
    count, estimate = result["samples"], result["estimate"]
    if result["instructions"]:
        per = (f"{result[key] / count:,.0f}" for key in ("instructions", "cycles"))
        shown.add_row("instructions per sample", next(per), "counted")
        shown.add_row("cycles per sample", next(per), f"counted, {result['cycles_source']}")
    if result["on"] != "host":
        seconds = f"{1e3 * result['seconds'] / count:,.1f}"
        shown.add_row("ms per sample, here", seconds, f"clock of this machine, {result['on']}")
        board = f"of the {estimate['target']}, from the counted cycles"
        if result["ms_per_sample"]:
            shown.add_row("ms per sample, there", f"{result['ms_per_sample']:,.1f}", board)
        if result["mj_per_sample"]:
            shown.add_row("mJ per sample, there", f"{result['mj_per_sample']:.3g}", board)
    else:
        shown.add_row("ms per sample", f"{result['ms_per_sample']:.3f}", "clock of the host")
    if estimate["ms_per_sample"] and not result["cycles"]:
        text = f"estimate for {estimate['target']}"
        shown.add_row("ms per sample", f"{estimate['ms_per_sample']:,.1f}", text)
        shown.add_row("mJ per sample", f"{estimate['mj_per_sample']:.3g}", text)
    last = f", last epoch {losses[-1]:.4f}" if len(losses) > 1 else ""
    shown.add_row("mean loss", f"{losses[0]:.4f}", f"first epoch{last}")
    shown.add_row("accuracy", f"{result['training_accuracy']:.1%}", "on these windows, afterwards")
    shown.add_row("RAM, bytes", f"{result['ram_bytes']:,}", f"stack {result['stack_bytes']:,}")
    shown.add_row("flash, bytes", f"{result['flash_bytes']:,}", "weights and constants")
    shown.add_row("CRC-32 of the weights", f"{result['crc32']:08x}", "")
    return shown


def _windows(
    pkg: "Package", rec: "Recordings | None", how: RunOptions, seed: int
) -> tuple[Any, Any]:
    """Windows and labels to train on; noise where there are no recordings."""
    shape, outputs = pkg.graph.inputs[0].shape[1:], pkg.source.train.outputs[0].size
    rng = np.random.default_rng(seed)
    if rec is None:
        count = how.samples or RANDOM_WINDOWS
        most = MOST_RANDOM_BYTES // (4 * int(np.prod(shape)))
        if count > most:
            raise BioTrainError(
                f"--samples {count:,} random windows do not fit into the memory of this machine: "
                f"at most {most:,}, and --epochs for more"
            )
        x = rng.standard_normal((count, *shape)).astype(np.float32)
        return x, rng.integers(0, outputs, count)
    if rec.n_classes != outputs:
        raise BioTrainError(f"{rec.name} has {rec.n_classes} classes, the model {outputs} outputs")
    chosen = np.arange(len(rec))
    if how.subject is not None:
        chosen = np.flatnonzero(np.isin(rec.subject, rec.people(people(how.subject))))
    chosen = rng.permutation(chosen)[: how.samples]
    return rec.signal(chosen), rec.y[chosen]


@dataclass(frozen=True)
class Saved:
    """What `run DIR` reads of the settings that `compile` wrote."""

    train: TrainOptions
    fused: bool
    title: str
    front: FrontEnd | None = None
    bits: int = 16
    recipe: Recipe | None = None


def _from_folder(folder: Path, given: ModelOptions, train: TrainOptions, out: Out) -> "Package":
    """The package that `compile` wrote, with the C that is in the folder now."""
    import torch

    from biotrain.package import compile_model
    from biotrain.study.typed import strict_json, typed

    if train != TrainOptions() or given != ModelOptions(
        data=given.data, decimate=given.decimate, front=given.front, seed=given.seed
    ):
        raise BioTrainError(
            f"'{folder}' is compiled already: shapes, target, strategy and optimizer are fixed; "
            "name the MODEL instead to change them"
        )
    path = folder / SETTINGS_FILE
    try:
        saved = typed(Saved, strict_json(path.read_bytes()))
        asked = saved.train.compiled(saved.front, saved.bits)
    except FileNotFoundError:
        raise BioTrainError(
            f"'{folder}' was not written by `biotrain compile`: it holds no {SETTINGS_FILE}"
        ) from None
    except (ValueError, OSError) as error:
        raise BioTrainError(f"cannot read '{path}': {error}") from error
    pkg = compile_model(
        folder / MODULE_FILE,
        torch.zeros(1, 1, 1),
        fused=saved.fused,
        title=saved.title,
        **{**asked, "recipe": saved.recipe},
    )
    names = dict.fromkeys([*pkg.files, *sorted(path.name for path in folder.glob("*.h"))])
    try:
        there = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    except UnicodeDecodeError as error:
        raise BioTrainError(f"a file in '{folder}' is no text: {error}") from error
    changed = [name for name in names if pkg.files.get(name) != there[name]]
    if changed:
        out.say(f"{', '.join(changed)}: not as this version emits; the files in {folder} run")
        pkg.__dict__["files"] = there
    return pkg


@options
def verify_verb(
    model: ModelName,
    given: ModelOptions,
    train: TrainOptions,
    on: On = "host",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps.")] = 10,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Draws of the samples.")] = 5,
    to: Json = None,
) -> None:
    """Train the same steps in torch and in the generated C; exit 1 unless they agree."""
    out = Out(to)
    from biotrain.cli.model import Model
    from biotrain.run import check_place
    from biotrain.targets.target import load_target
    from biotrain.verification import verify

    check_place(on, load_target(train.target))
    pkg = Model(model, given, train.recipe).compiled(train)
    with Work() as work:
        report = verify(
            pkg, steps, seeds, on=on, seed=given.seed, progress=work.on("optimizer steps")
        )
    rounded = train.store != "float32"
    columns = ["tensor", "error of the C", "of torch float32", "bar", ""]
    if rounded:
        columns.insert(3, "with the same rounding")
    shown = table(*columns, numbers=range(1, len(columns) - 1))
    for t in report.tensors:
        stored = () if t.torch_stored_error is None else (t.torch_stored_error,)
        errors = (t.max_rel_error, t.torch_fp32_error, *stored, t.bar)
        shown.add_row(t.name, *(f"{e:.1e}" for e in errors), "" if t.ok else "above the bar")
    out.show(shown, "")
    if rounded:
        _about_rounding(out, report)
    failed = [t.name for t in report.tensors if not t.ok]
    verdict = f"not ok: {', '.join(failed)} above the bar" if failed else "ok"
    group = pkg.source.batch.size if pkg.source.batch else pkg.source.accumulate
    kinks = f"; {report.kinks} activations within rounding of a kink" if report.kinks else ""
    out.say(
        f"{verdict}: {pkg.source.title}, {len(report.tensors)} tensors, {steps} steps of "
        f"{group} samples, {seeds} seeds, against float64{kinks}; "
        f"CRC-32 {report.crc32:08x}"
    )
    out.result(report.to_json())
    if not report.ok:
        raise typer.Exit(1)


def _about_rounding(out: Out, report: "VerifyReport") -> None:
    """Tell what 16-bit storage costs, and which bar its errors are compared with."""
    worst = max(
        (t for t in report.tensors if t.name.endswith(".grad")),
        key=lambda t: t.max_rel_error,
        default=None,
    )
    out.say(
        f"activations are stored for the backward pass in 16 bits ({report.store}): not held to "
        "the bar of float32, but to that of torch with the same tensors rounded"
    )
    if worst:
        out.say(
            f"largest gradient error: {worst.max_rel_error:.1e} ({worst.name}); of torch float32 "
            f"{worst.torch_fp32_error:.1e}, with the same rounding {worst.torch_stored_error:.1e}"
        )
