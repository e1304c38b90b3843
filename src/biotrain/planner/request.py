# SPDX-License-Identifier: Apache-2.0
"""The requests that travel down the compiler, each as one frozen object.

`CompileRequest` holds the settings of one package, checked; `bt.compile` builds it from its
keywords. `PlanRequest` holds what the planner needs of it: two graphs, a target, a budget. Equal
plan requests have equal plans, so that it is the key under which plans are remembered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from biotrain.errors import BioTrainError
from biotrain.frontend import FrontEnd
from biotrain.frontend.live import Live
from biotrain.graph.rewrite.precision import parse_store
from biotrain.ir.graph import Graph
from biotrain.ir.loss import Objective, parse_loss
from biotrain.ir.optimizer import SGD, Gradients, Optimizer, check_gradients
from biotrain.planner.budget import Budget
from biotrain.planner.live_memory import same
from biotrain.recipe import DEFAULT, Recipe
from biotrain.targets.target import MOST_WORKERS, Target

InputType = Literal["float", "int16"]
Optimize = Literal["speed", "size"]
"""What the code of a package is for: fewest cycles, or few bytes."""
OPTIMIZE: tuple[Optimize, ...] = ("speed", "size")
MOST_WINDOWS = 2**20
"""Windows of one group (`accumulate`, `batch`): their mean is that of float32 sums, which lose a
window's share beyond 2**24 of them, and no calibration has so many."""


@dataclass(frozen=True)
class CompileRequest:
    """The settings of one package, as `bt.compile` explains them.

    Raises
    ------
    BioTrainError
        where a setting is not valid or two of them do not go together.
    """

    target: Target
    fused: bool
    """Numeric mode: whether a multiply-add rounds once."""
    strategy: str = "full"
    budget: Budget = field(default_factory=Budget)
    optimizer: Optimizer = field(default_factory=SGD)
    accumulate: int = 1
    """Samples whose mean gradient makes one step."""
    loss: Objective = field(default_factory=Objective)
    """What training minimises; a name will do."""
    gradients: Gradients = "separate"
    input_scale: float | None = None
    """The float32 that one unit of an int16 input stands for; None for a float input."""
    store: str = "float32"
    """Format in which activations are stored for the backward pass."""
    rewrites: tuple[str, ...] = ()
    title: str = ""
    frontier: bool = False
    """Whether the plans from the fastest to the smallest are wanted too."""
    batch: int = 1
    """Windows over which BatchNorm takes its statistics; they are one group of the optimizer."""
    live: Live | None = None
    front: FrontEnd | None = None
    adabn: bool = False
    """Whether the statistics of BatchNorm can be re-estimated on the device."""
    optimize: Optimize = "speed"
    prefix: str = ""
    """What public names and the files `model.*` begin with, in place of `bt_`."""
    l2_bytes: int | None = None
    """A second, larger memory for what the first one does not hold, in bytes."""
    recipe: Recipe | None = None
    """The recipe that was named, as far as the other settings follow it: it travels along."""
    notes: tuple[str, ...] = ()
    """Lines on what of it is left to others."""

    def __post_init__(self) -> None:
        if self.live is not None:
            object.__setattr__(self, "live", self.live.by(self.recipe or DEFAULT))
        if not _whole(self.accumulate):
            raise BioTrainError(f"accumulate must be a whole number from 1, not {self.accumulate}")
        object.__setattr__(self, "loss", parse_loss(self.loss))
        if not isinstance(self.optimizer, Optimizer):
            raise BioTrainError(f"the optimizer is a bt.SGD or a bt.Adam, not {self.optimizer!r}")
        if not isinstance(self.strategy, str):
            raise BioTrainError(f"the strategy is a name or a glob, not {self.strategy!r}")
        if self.optimize not in OPTIMIZE:
            raise BioTrainError(f"code is optimized for speed or size, not '{self.optimize}'")
        if self.accumulate > MOST_WINDOWS or (_whole(self.batch) and self.batch > MOST_WINDOWS):
            raise BioTrainError(f"a group is at most {MOST_WINDOWS:,} windows")
        if not isinstance(self.title, str):
            raise BioTrainError(f"the title is text, not {self.title!r}")
        parse_store(self.store)
        self.budget.check(self.target)
        _check_prefix(self)
        check_gradients(self.gradients, self.optimizer, self.accumulate)
        _check_batch(self)
        if self.live is not None:
            _check_live(self)
        _check_workers(self)


@dataclass(frozen=True, slots=True)
class LiveNeeds:
    """What the live firmware needs apart from its model."""

    ram_bytes: int
    """Ring, front end, sample store and session, in bytes."""
    runtime_bytes: int
    """Fields of the context that only live packages have, in bytes."""
    slice_cycles: int
    """Slices are cut to so many cycles where they can be; 0: only nodes and iterations pause."""
    alignment: int
    """Bytes that the size of `bt_live` is a multiple of."""


@dataclass(frozen=True, eq=False)
class PlanRequest:
    """The question that `fit` answers: which plan of these graphs stays within the budget.

    Two requests are equal where their texts are: constants that compare equal but print otherwise
    (0.0 and -0.0) make different C.
    """

    train: Graph
    """The training step: forward, backward and updates."""
    predict: Graph
    target: Target
    budget: Budget = field(default_factory=Budget)
    accumulate: int = 1
    gradients: Gradients = "separate"
    base_ops: int | None = None
    """Operations of the direct algorithms with everything stored; None: those of the plan."""
    frontier: bool = False
    batch: int = 1
    live: LiveNeeds | None = None
    """Given where predictions must not disturb a training sample that is not complete."""
    front_bytes: int = 0
    """RAM of a front end in C, where there is no `live` to hold it."""
    adabn: Graph | None = None
    """The graph of one window that re-estimates the statistics of batch norms."""
    l2_bytes: int | None = None
    """A second, larger memory in bytes; the budget is that of the first one then."""

    @cached_property
    def text(self) -> str:
        """Everything that is asked, as text."""
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlanRequest) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def ram_bytes(self) -> int | None:
        """The RAM in bytes that the plan may use; None where nothing bounds it."""
        return self.budget.ram_on(self.target)


def _whole(value: object) -> bool:
    """Whether a setting is a whole number from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_prefix(request: CompileRequest) -> None:
    """Whether the prefix makes names that C and the shared runtime leave free."""
    prefix = request.prefix
    if not prefix:
        return
    if not re.fullmatch(r"[a-z][a-z0-9_]*_", prefix) or prefix.startswith("bt_"):
        raise BioTrainError(
            f"a prefix is small letters, digits and underscores, ends with one and does not begin "
            f"with bt_, such as emg_; not '{prefix}'"
        )
    if request.live is not None or request.front is not None:
        raise BioTrainError("a prefix works without live and front: one of them fits a firmware")


def _check_workers(request: CompileRequest) -> None:
    """Raise where the number of workers is not possible, or does not go with other settings."""
    workers = request.target.workers
    most = request.target.most_workers
    if not _whole(workers) or workers > most:
        there = f"; {request.target.name} has no more" if most < MOST_WORKERS else ""
        raise BioTrainError(
            f"workers must be a whole number from 1 to {most}, not {workers}{there}"
        )
    if request.live is not None and request.target.sdk:
        raise BioTrainError(
            f"live has no project for {request.target.name}, whose firmware the vendor's SDK builds"
        )
    if request.l2_bytes is not None and request.target.sdk:
        raise BioTrainError(
            f"l2_memory has no project for {request.target.name} yet; --on rtl with "
            "--target rv32imc_zfinx runs such a plan"
        )
    if request.l2_bytes is not None and request.budget.ram_on(request.target) is None:
        raise BioTrainError(
            "l2_memory is a second memory: say with memory= how large the first one is"
        )
    if workers == 1 and request.l2_bytes is None:
        return
    not_yet = (
        ("live", request.live is not None),
        ("batch", request.batch > 1),
        ("adabn", request.adabn),
    )
    alone = f"with one worker, not with workers={workers}"
    alone = alone if workers > 1 else "in one memory, not with l2_memory"
    for name, asked in not_yet:
        if asked:
            raise BioTrainError(f"{name} works {alone}")


def _check_batch(request: CompileRequest) -> None:
    """Raise where a batch does not go together with other settings."""
    if not _whole(request.batch):
        raise BioTrainError(f"batch must be a whole number from 1, not {request.batch}")
    if request.batch == 1:
        return
    if request.accumulate > 1 or request.gradients != "separate":
        raise BioTrainError(
            "a batch is one group: batch works with accumulate=1 and gradients='separate'"
        )
    if request.input_scale is not None:
        raise BioTrainError("batch takes a float input: input_type='int16' works with batch=1")


def _check_live(request: CompileRequest) -> None:
    """Raise where the live firmware cannot be made with the other settings.

    It learns window by window: batches are refused with its int16 input, by `_check_batch`.
    """
    if request.input_scale is None:
        raise BioTrainError(
            "live stores windows as the converter's integers: it needs input_type='int16' and an "
            "input_scale"
        )
    if not (len(request.loss.heads) == 1 and request.loss.heads[0].labels):
        raise BioTrainError("live learns labelled windows: it needs loss='cross_entropy'")
    if request.loss.sample_weights:
        raise BioTrainError("live stores no weights of windows: it works without sample_weights")
    if request.adabn:
        raise BioTrainError("adabn works without live: the live firmware has no call for it")
    if request.front is not None:
        raise BioTrainError("the front end of a live package is Live(front=...)")


def check_input(kind: str, scale: float | None) -> float | None:
    """The float32 that one unit of an int16 input stands for; None for a float input.

    Raises `BioTrainError` for another input type, and for a scale that is missing, not positive or
    no normal float32.
    """
    if kind not in ("float", "int16"):
        raise BioTrainError(f"the input type is float or int16, not '{kind}'")
    if kind == "float":
        if scale is not None:
            raise BioTrainError("an input scale belongs to the input type int16")
        return None
    if scale is None:
        raise BioTrainError(
            "an int16 input needs a scale: what one unit of the converter stands for"
        )
    float32 = np.finfo(np.float32)
    number = isinstance(scale, (int, float))
    if not number or not float32.tiny <= scale <= float(float32.max) / 2**15:
        raise BioTrainError(f"the input scale must be positive and a normal float32, not {scale}")
    return float(np.float32(scale))


def check_front(front: FrontEnd, shape: tuple[int, int], input_scale: float | None) -> None:
    """Raise where a front end does not make the windows, (channels, times), that a model takes."""
    if (front.n_chans, front.window) != shape:
        raise BioTrainError(
            f"the front end makes windows of {front.n_chans} x {front.window}, the model takes "
            f"{shape[0]} x {shape[1]}"
        )
    if input_scale is not None and (front.unit is None or not same(front.unit, input_scale)):
        unit = "floats" if front.unit is None else f"steps of {front.unit:g}"
        raise BioTrainError(f"the front end makes {unit}, the model takes steps of {input_scale:g}")
