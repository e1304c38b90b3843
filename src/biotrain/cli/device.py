# SPDX-License-Identifier: Apache-2.0
"""`run` and `verify`: the generated C at work, and against torch."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from biotrain.cli.build import MODULE_FILE, SETTINGS_FILE
from biotrain.cli.console import Out, Work, table, writable
from biotrain.cli.options import Json, ModelName, ModelOptions, TrainOptions, options
from biotrain.errors import BioTrainError

if TYPE_CHECKING:
    from biotrain.package import Package
    from biotrain.study.recordings import Recordings

RANDOM_WINDOWS = 64
"""Windows of a run without data."""


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
    on: Annotated[str, typer.Option("--on", help="Where the C runs: host.")] = "host",
    subject: Annotated[
        int | None, typer.Option("--subject", help="Only the windows of this subject.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="At most so many windows.")
    ] = None,
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, help="Times that each window is trained on.")
    ] = 1,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE.safetensors", help="Write the trained weights."),
    ] = None,
    to: Json = None,
) -> None:
    """Train with the generated C on windows of a recording (or on noise), and time it."""
    out = Out(to)
    if save is not None:
        writable(save)
    from biotrain.cli.model import Model, recordings
    from biotrain.study.adapt import dataset_name

    if Path(model).is_dir():
        pkg = _from_folder(Path(model), given, train, out)
        rec = None if given.data is None else recordings(given.data, given.decimate)
    else:
        if Path(model, "").parent != Path() and ":" not in model and not model.endswith(".pt2"):
            raise BioTrainError(f"cannot read '{model}': there is no such folder")
        chosen = Model(model, given)
        pkg, rec = chosen.compiled(train), chosen.recordings
    if rec is None and subject is not None:
        raise BioTrainError("--subject needs --data")
    x, y = _windows(pkg, rec, subject, samples, given.seed)
    device = pkg.run(on)
    batch = pkg.source.batch
    group = batch.size if batch else pkg.source.accumulate
    chunk = group * max(1, 32 // group)  # whole groups, so that the cut changes no step
    device.begin(total_steps=epochs * -(-len(x) // group))
    rng = np.random.default_rng(given.seed)
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
    accuracy = float(np.mean(device.predict(x).argmax(1) == y))
    if save is not None:
        device.save(save)
    plan = pkg.plan
    count = epochs * len(x)
    result: dict[str, Any] = {
        "on": on,
        "samples": count,
        "instructions": None,
        "cycles": None,
        "cycles_source": None,
        "ms_per_sample": 1e3 * seconds / count,
        "mj_per_sample": None,
        "ram_bytes": plan.ram_bytes,
        "stack_bytes": plan.stack_bytes,
        "flash_bytes": plan.flash_bytes,
        "crc32": device.crc32(),
        "title": pkg.source.title,
        "target": pkg.target.name,
        "data": "random windows" if rec is None else dataset_name(rec),
        "epochs": epochs,
        "losses": losses,
        "training_accuracy": accuracy,
        "estimate": {
            "target": pkg.target.name,
            "cycles": plan.cycles or None,
            "ms_per_sample": plan.ms_per_sample or None,
            "mj_per_sample": plan.mj_per_sample or None,
        },
    }
    out.show(_run_table(result))
    if save is not None:
        out.say(f"wrote {save}")
    out.result(result)


def _run_table(result: dict[str, Any]) -> Any:
    losses = result["losses"]
    shown = table(f"{result['title']}, on {result['on']}", "", "", numbers=[1])
    shown.add_row("samples trained", f"{result['samples']:,}", result["data"])
    shown.add_row("ms per sample", f"{result['ms_per_sample']:.3f}", f"clock of the {result['on']}")
    estimate = result["estimate"]
    if estimate["ms_per_sample"]:
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
    pkg: "Package", rec: "Recordings | None", subject: int | None, samples: int | None, seed: int
) -> tuple[Any, Any]:
    """Windows and labels to train on."""
    shape, outputs = pkg.graph.inputs[0].shape[1:], pkg.source.train.outputs[0].size
    rng = np.random.default_rng(seed)
    if rec is None:
        count = samples or RANDOM_WINDOWS
        x = rng.standard_normal((count, *shape)).astype(np.float32)
        return x, rng.integers(0, outputs, count)
    if rec.n_classes > outputs:
        raise BioTrainError(f"{rec.name} has {rec.n_classes} classes, the model {outputs} outputs")
    chosen = np.arange(len(rec))
    if subject is not None:
        rec.sessions(subject)  # says which subjects there are
        chosen = np.flatnonzero(rec.subject == subject)
    chosen = rng.permutation(chosen)[:samples]
    return rec.signal(chosen), rec.y[chosen]


def _from_folder(folder: Path, given: ModelOptions, train: TrainOptions, out: Out) -> "Package":
    """The package that `compile` wrote, with the C that lies there now."""
    import torch

    from biotrain.package import compile_model

    if train != TrainOptions() or given != ModelOptions(
        data=given.data, decimate=given.decimate, seed=given.seed
    ):
        raise BioTrainError(
            f"'{folder}' is compiled already: shapes, target, strategy and optimizer are fixed; "
            "name the MODEL instead to change them"
        )
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        wanted = TrainOptions(**settings["train"])
        fused, title = settings["fused"], settings["title"]
    except FileNotFoundError:
        raise BioTrainError(
            f"'{folder}' was not written by `biotrain compile`: it holds no {SETTINGS_FILE}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise BioTrainError(f"cannot read '{folder / SETTINGS_FILE}': {error}") from error
    pkg = compile_model(
        folder / MODULE_FILE,
        torch.zeros(1, 1, 1),
        target=wanted.target,
        strategy=wanted.strategy,
        memory=wanted.memory,
        deadline_ms=wanted.deadline,
        max_mj=wanted.max_mj,
        optimizer=wanted.made_optimizer(),
        accumulate=wanted.group,
        batch=wanted.batch,
        gradients=wanted.gradients,
        rewrites=wanted.rewrites,
        input_type=wanted.input_type,
        input_scale=wanted.input_scale,
        fused=fused,
        title=title,
    )
    names = dict.fromkeys([*pkg.files, *sorted(path.name for path in folder.glob("*.h"))])
    there = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    changed = [name for name in names if pkg.files.get(name) != there[name]]
    if changed:
        out.say(f"{', '.join(changed)}: not as this version emits; what lies in {folder} runs")
        pkg.__dict__["files"] = there
    return pkg


@options
def verify_verb(
    model: ModelName,
    given: ModelOptions,
    train: TrainOptions,
    on: Annotated[str, typer.Option("--on", help="Where the C runs: host.")] = "host",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps.")] = 10,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Draws of the samples.")] = 5,
    to: Json = None,
) -> None:
    """Train the same steps in torch and in the generated C; exit 1 unless they agree."""
    out = Out(to)
    from biotrain.cli.model import Model
    from biotrain.verify import verify

    pkg = Model(model, given).compiled(train)
    with Work() as work:
        report = verify(
            pkg, steps, seeds, on=on, seed=given.seed, progress=work.on("optimizer steps")
        )
    shown = table("tensor", "error of the C", "of torch float32", "bar", "", numbers=[1, 2, 3])
    for t in report.tensors:
        errors = (t.max_rel_error, t.torch_fp32_error, t.bar)
        shown.add_row(t.name, *(f"{e:.1e}" for e in errors), "" if t.ok else "above the bar")
    out.show(shown, "")
    failed = [t.name for t in report.tensors if not t.ok]
    verdict = f"not ok: {', '.join(failed)} above the bar" if failed else "ok"
    kinks = f"; {report.kinks} activations within rounding of a kink" if report.kinks else ""
    out.say(
        f"{verdict}: {pkg.source.title}, {len(report.tensors)} tensors, {steps} steps of "
        f"{max(train.group, train.batch)} samples, {seeds} seeds, against float64{kinks}; "
        f"CRC-32 {report.crc32:08x}"
    )
    out.result(report.to_json())
    if not report.ok:
        raise typer.Exit(1)
