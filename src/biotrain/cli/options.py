# SPDX-License-Identifier: Apache-2.0
"""The options that several verbs share, as dataclasses."""

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from biotrain.cli.wrapped import LARGEST
from biotrain.cli.wrapped import ReaderGone as ReaderGone
from biotrain.cli.wrapped import options as options
from biotrain.errors import BioTrainError
from biotrain.recipe import DEFAULT, recipe_of

if TYPE_CHECKING:
    from biotrain.frontend import FrontEnd
    from biotrain.frontend.live import Live
    from biotrain.ir.optimizer import Optimizer
    from biotrain.package import Package

MODEL, TRAINING = "Model and data", "Training and target"

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A built-in network (biotrain list models), module:factory, or a .pt2 file.",
        show_default=False,
    ),
]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE|-",
        help="Write the result as JSON; nothing else is then on standard output.",
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Replace files that BioTrain did not write there, or that were changed."
    ),
]
On = Annotated[
    str,
    typer.Option(
        "--on", metavar="PLACE", help="Where the C runs: host, threads, emulator, qemu, rtl."
    ),
]
Front = Annotated[
    Path | None,
    typer.Option(
        "--front",
        metavar="FILE.toml",
        help="Continuous recordings go through this front end, in the device's C.",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE|DIR",
        help="default, unlabelled, last, published, conventional; a JSON file; the folder of a "
        "package. Other options take the place of its fields.",
    ),
]
Show = Annotated[
    Literal["graph", "plan", "c"] | None,
    typer.Option(
        "--show",
        metavar="graph|plan|c",
        help="Print the intermediate representation, the plan, or the C, and nothing else.",
    ),
]


def option(name: str, text: str, panel: str, **more: Any) -> Any:
    """An option whose help stands in `panel`."""
    return typer.Option(name, help=text, rich_help_panel=panel, **more)


@dataclass(frozen=True)
class ModelOptions:
    """The options that name a network and its shape."""

    chans: Annotated[int | None, option("--chans", "Channels.", MODEL, min=1)] = None
    times: Annotated[int | None, option("--times", "Samples per window.", MODEL, min=1)] = None
    classes: Annotated[int | None, option("--classes", "Classes.", MODEL, min=1)] = None
    sfreq: Annotated[float | None, option("--sfreq", "Sampling rate in Hz.", MODEL)] = None
    data: Annotated[
        str | None,
        option(
            "--data",
            "Recordings that give the shape: a name (biotrain list data), a .npz, moabb:SET, or "
            "files that MNE reads. A built-in network then also standardises its input.",
            MODEL,
            metavar="DATA",
        ),
    ] = None
    decimate: Annotated[
        float | None, option("--decimate", "Resample the data to HZ.", MODEL, metavar="HZ")
    ] = None
    front: Annotated[
        Path | None,
        option(
            "--front",
            "The front end: continuous data go through it, and compile adds its C.",
            MODEL,
            metavar="FILE.toml",
        ),
    ] = None
    norm: Annotated[
        Literal["group", "batch", "frozen"] | None,
        option("--norm", "group (default), batch, or frozen: BatchNorm, fixed.", MODEL),
    ] = None
    groups: Annotated[int, option("--groups", "Groups of each GroupNorm.", MODEL, min=1)] = 1
    pool: Annotated[
        Literal["keep", "avg"] | None,
        option("--pool", "Max pools: keep, or make them average; avg with GroupNorm.", MODEL),
    ] = None
    seed: Annotated[
        int, option("--seed", "Of the initial weights and the samples.", MODEL, min=0)
    ] = 0


_AS_GIVEN = (
    *("strategy", "optimizer", "accumulate", "gradients", "store", "batch", "live", "front"),
    *("adabn", "optimize", "prefix", "loss"),
)
"""Arguments of `bt.compile` that a request of the compiler has under the same name."""


@dataclass(frozen=True)
class TrainOptions:
    """The options that say what trains, how, and on which target."""

    target: Annotated[
        str, option("--target", "A core or board: biotrain list targets.", TRAINING)
    ] = "host"
    recipe: RecipeName = None
    strategy: Annotated[
        str | None,
        option("--strategy", "none, last, bias, norm, full (default), or a glob.", TRAINING),
    ] = None
    memory: Annotated[
        str | None,
        option("--memory", "Whole RAM to stay within: 256KiB, 64kB; else the target's.", TRAINING),
    ] = None
    deadline: Annotated[
        float | None,
        option("--deadline", "Most ms per window (estimate; boards).", TRAINING, metavar="MS"),
    ] = None
    max_mj: Annotated[
        float | None,
        option("--max-mj", "Most mJ per window (estimate; boards).", TRAINING, metavar="MJ"),
    ] = None
    loss: Annotated[
        str, option("--loss", "cross_entropy, bce, mse, l1, huber; huber:delta=5.", TRAINING)
    ] = "cross_entropy"
    optimizer: Annotated[
        Literal["sgd", "adam"] | None, option("--optimizer", "Which; sgd.", TRAINING)
    ] = None
    lr: Annotated[
        float | None, option("--lr", "Learning rate; 5e-3 for sgd, 1e-3 for adam.", TRAINING)
    ] = None
    momentum: Annotated[float | None, option("--momentum", "Of sgd; 0.9 by default.", TRAINING)] = (
        None
    )
    nesterov: Annotated[bool, option("--nesterov", "Nesterov momentum (sgd).", TRAINING)] = False
    weight_decay: Annotated[
        float | None, option("--weight-decay", "1e-3 for sgd, 0 for adam.", TRAINING)
    ] = None
    schedule: Annotated[
        Literal["constant", "cosine"] | None,
        option("--schedule", "Of the learning rate; constant.", TRAINING),
    ] = None
    clip_norm: Annotated[
        float | None, option("--clip-norm", "Bound of the gradient's global norm.", TRAINING)
    ] = None
    accumulate: Annotated[
        int | None,
        option("--accumulate", "Samples whose mean gradient makes a step; 8.", TRAINING, min=1),
    ] = None
    batch: Annotated[
        int | None,
        option(
            "--batch",
            "Windows that share BatchNorm's statistics, as torch's batch (--norm batch); a group.",
            TRAINING,
            min=1,
        ),
    ] = None
    adabn: Annotated[
        bool,
        option(
            "--adabn",
            "BatchNorm's statistics can be re-estimated without labels (--norm frozen); run does "
            "it first.",
            TRAINING,
        ),
    ] = False
    gradients: Annotated[
        Literal["separate", "momentum", "update"],
        option(
            "--gradients",
            "Where they go: tensors of their own, the momentum, or the update at once.",
            TRAINING,
        ),
    ] = "separate"

    input_type: Annotated[
        Literal["float", "int16"],
        option("--input-type", "What a window is: float, or the converter's int16.", TRAINING),
    ] = "float"
    input_scale: Annotated[
        float | None,
        option("--input-scale", "What one unit of an int16 input stands for.", TRAINING),
    ] = None
    optimize: Annotated[
        Literal["speed", "size"],
        option("--optimize", "The code: fewest cycles, or few bytes; the same bits.", TRAINING),
    ] = "speed"
    workers: Annotated[
        int | None, option("--workers", "Cores that share every call.", TRAINING, metavar="N")
    ] = None
    l2_memory: Annotated[str | None, option("--l2-memory", "A second memory.", TRAINING)] = None
    prefix: Annotated[
        str, option("--prefix", "Start of the C's public names: emg_.", TRAINING, metavar="NAME_")
    ] = ""
    store: Annotated[
        str,
        option(
            "--store",
            "Activations for the backward pass: float32, fp16 or bf16; fp16:GLOB of modules.",
            TRAINING,
            metavar="FORMAT",
        ),
    ] = "float32"

    fast_conv: Annotated[
        bool,
        option(
            "--fast-conv",
            "Long depthwise convolutions by fast FIR or FFT, where the target takes fewer cycles: "
            "other rounding.",
            TRAINING,
        ),
    ] = False

    live: Annotated[
        bool,
        option(
            "--live",
            "The firmware records, stores labelled windows and learns while it predicts.",
            TRAINING,
        ),
    ] = False
    hop: Annotated[
        int, option("--hop", "With --live: samples between windows; 0: a window.", TRAINING, min=0)
    ] = 0
    ring: Annotated[
        int, option("--ring", "With --live: frames that may wait.", TRAINING, min=2)
    ] = 64
    store_pages: Annotated[
        int, option("--store-pages", "With --live: pages of flash for windows.", TRAINING, min=2)
    ] = 16
    slice_cycles: Annotated[
        int,
        option(
            "--slice-cycles",
            "With --live: at most so many cycles in a slice, where kernels can be cut.",
            TRAINING,
            min=0,
        ),
    ] = 0

    def live_settings(self, front: "FrontEnd | None" = None, bits: int = 16) -> "Live | None":
        """The live settings that `--live` asks for, with a front end behind a converter of so many
        bits; None without `--live`."""
        from biotrain.frontend.live import Live

        own: dict[str, Any] = {
            "hop": self.hop,
            "ring": self.ring,
            "store_pages": self.store_pages,
            "slice_cycles": self.slice_cycles,
        }
        if self.live:
            return Live(**own, front=front, converter_bits=bits)
        plain = TrainOptions()
        for name, value in own.items():
            if value != getattr(plain, name):
                raise BioTrainError(f"--{name.replace('_', '-')} belongs to --live")
        return None

    def compiled(self, front: "FrontEnd | None" = None, bits: int = 16) -> dict[str, Any]:
        """The arguments of `bt.compile` that the options stand for, with a front end behind a
        converter of so many bits."""
        live = self.live_settings(front, bits)
        return {
            "target": self.target,
            "recipe": self.recipe,
            "strategy": self.strategy,
            "memory": self.memory,
            "deadline_ms": self.deadline,
            "max_mj": self.max_mj,
            "optimizer": self.build_optimizer(),
            "loss": self.loss,
            "accumulate": self.accumulate if (self.batch or 1) == 1 else 1,
            "batch": self.batch,
            "adabn": self.adabn or None,
            "gradients": self.gradients,
            "rewrites": self.rewrites,
            "input_type": self.input_type,
            "input_scale": self.input_scale,
            "store": self.store,
            "optimize": self.optimize,
            "prefix": self.prefix,
            "workers": self.workers,
            "l2_memory": self.l2_memory,
            "live": live,
            "front": None if live else front,
        }

    def check(self, front: "FrontEnd | None" = None, bits: int = 16) -> None:
        """Raise BioTrainError for what no network can be compiled with, before one is built."""
        from biotrain.planner.budget import Budget
        from biotrain.planner.follow import Open, follow
        from biotrain.planner.request import CompileRequest, check_input
        from biotrain.targets.target import load_target, parse_bytes

        asked, board = self.compiled(front, bits), load_target(self.target)
        named = Open(*(asked[f.name] for f in fields(Open)))
        how = follow(self.recipe, named, None, self.gradients, asked["live"] is not None)
        asked |= {f.name: getattr(how, f.name) for f in fields(Open)}
        CompileRequest(
            target=board.with_workers(self.workers),
            fused=True,
            budget=Budget(parse_bytes(self.memory), self.deadline, self.max_mj),
            input_scale=check_input(self.input_type, self.input_scale),
            l2_bytes=parse_bytes(self.l2_memory),
            **{name: asked[name] for name in _AS_GIVEN},
        )

    @property
    def trains(self) -> str:
        """What trains."""
        return self.strategy or (recipe_of(self.recipe) if self.recipe else DEFAULT).strategy

    @property
    def rewrites(self) -> tuple[str, ...]:
        """The rewrites that run."""
        from biotrain.graph.rewrite import DEFAULT, NAMES

        return tuple(n for n in NAMES if n in DEFAULT or (self.fast_conv and n == "fastconv"))

    def as_compiled(self, pkg: "Package") -> "TrainOptions":
        """The options with nothing left open, so that they mean the same wherever they are read."""
        source, optimizer = pkg.source, pkg.source.optimizer
        momentum = getattr(optimizer, "momentum", None)
        return replace(
            self,
            recipe=None,
            strategy=pkg.strategy,
            optimizer="adam" if momentum is None else "sgd",
            lr=optimizer.lr,
            momentum=momentum,
            weight_decay=optimizer.weight_decay,
            schedule=optimizer.schedule,
            clip_norm=optimizer.clip_norm,
            accumulate=source.accumulate,
            batch=source.batch.size if source.batch else 1,
            adabn=source.adabn is not None,
        )

    def build_optimizer(self) -> "Optimizer | None":
        """The optimizer that the options describe; None where all is left to a recipe.

        Raises BioTrainError where an option does not belong to it.
        """
        from biotrain.ir.optimizer import SGD, Adam, optimizer_of

        names = ("lr", "weight_decay", "momentum", "schedule", "clip_norm")
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        given = {key: value for key, value in given.items() if value is not None}
        recipe = recipe_of(self.recipe) if self.recipe else None
        kind = self.optimizer or (recipe.optimizer if recipe else "sgd")
        if kind == "adam" and ("momentum" in given or self.nesterov):
            raise BioTrainError("--momentum and --nesterov belong to --optimizer sgd")
        if recipe is None:
            return Adam(**given) if kind == "adam" else SGD(**given, nesterov=self.nesterov)
        if not (given or self.optimizer or self.nesterov):
            return None
        made = optimizer_of(recipe.changed(optimizer=kind, strategy=self.strategy, **given))
        return replace(made, nesterov=True) if isinstance(made, SGD) and self.nesterov else made


def names(text: str) -> list[str]:
    """The names in a list such as "a, b", each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def integers(option: str, text: str) -> list[int]:
    """The numbers in a list such as "1,2,3", each once."""
    try:
        found = list(dict.fromkeys(int(part) for part in text.split(",")))
        if max(map(abs, found)) > LARGEST:
            raise ValueError
        return found
    except ValueError:
        raise BioTrainError(f"{option} takes numbers, 1 or 1,2,3; not '{text}'") from None


def people(text: str) -> list[str]:
    """Subjects by the names that they have in their files, or by number: "anna,bert", "1,2"."""
    return [part.strip() for part in text.split(",")]


def one_thread() -> None:
    """Torch on one thread, unless OMP_NUM_THREADS is set: networks this small gain nothing from a
    second one, and the numbers then do not depend on how many cores there are."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
