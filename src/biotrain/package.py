# SPDX-License-Identifier: Apache-2.0
"""`compile_model`: a torch module and a target become a package of C, a plan and its devices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from biotrain.emit import Source
from biotrain.emit.build import Build
from biotrain.errors import BioTrainError
from biotrain.frontend import FrontEnd
from biotrain.frontend.live import Live
from biotrain.graph.autodiff import differentiate, prune, with_updates
from biotrain.graph.bounds import with_bounds
from biotrain.graph.capture import Captured, capture
from biotrain.graph.cost import training_cost
from biotrain.graph.heads import Heads
from biotrain.graph.losses import check_objective, loss_tensors, matched, with_loss
from biotrain.graph.rewrite import (
    DEFAULT,
    keep_half,
    keep_int16,
    rewrite_forward,
    rewrite_training,
    time_last,
)
from biotrain.graph.rewrite.batch_stats import with_joins
from biotrain.graph.rewrite.fastconv import Price
from biotrain.graph.rewrite.precision import in_words, parse_store
from biotrain.graph.strategy import trainable
from biotrain.ir.graph import Graph
from biotrain.ir.loss import Loss, Objective, parse_loss
from biotrain.ir.op import rows_times
from biotrain.ir.optimizer import Gradients, Optimizer
from biotrain.planner.budget import Budget
from biotrain.planner.context import SLICES_BYTES
from biotrain.planner.fit import fit
from biotrain.planner.follow import Open, follow
from biotrain.planner.given import example_given, network_given
from biotrain.planner.live_memory import LivePlan
from biotrain.planner.plan import Fitted
from biotrain.planner.request import (
    CompileRequest,
    InputType,
    LiveNeeds,
    Optimize,
    PlanRequest,
    check_front,
    check_input,
)
from biotrain.planner.team_sums import shared_sums
from biotrain.recipe import PACKAGE_FILE, Recipe, recipe_text
from biotrain.targets.target import Target, load_target, parse_bytes
from biotrain.topology.given import called
from biotrain.writing.files import Folder

if TYPE_CHECKING:
    from biotrain.run.device import Device
    from biotrain.run.live_device import LiveDevice
    from biotrain.run.live_flash import Flash

Losses: TypeAlias = (
    str
    | Loss
    | torch.nn.Module
    | Objective
    | Sequence[str | Loss | torch.nn.Module]
    | Mapping[str, str | Loss | torch.nn.Module]
)
"""What `bt.compile(loss=...)` takes."""

NOTHING: Mapping[str, bytes] = MappingProxyType({})  # no files


@dataclass(frozen=True)
class Package(Build):
    """A `Build` that can be saved, started and compared with the torch module it came from."""

    module: torch.nn.Module | None
    """The module as compiled, for verification; None where a `.pt2` file was given."""
    notes: tuple[str, ...] = ()
    """What of the network does not run on the device, with its place in the user's source; what of
    the recipe is left to others."""
    recipe: Recipe | None = None
    """The recipe that it was compiled by, as far as it was followed; None where none was named."""

    def save(
        self,
        folder: str | Path,
        project: Mapping[str, str] | None = None,
        *,
        beside: Mapping[str, bytes] = NOTHING,
        force: bool = False,
    ) -> Path:
        """Write all files and `plan.json` into a folder (made where missing).

        project : the files around the C (firmware, build systems, README) by their path in the
            folder; by default those of `biotrain.run.project.project_files`, with planned figures.
        beside : more files that belong to the package.
        force : replace files that BioTrain did not write there, or that somebody changed since;
            without, BioTrainError names the first of them and nothing is written.

        Files of an earlier package in the folder that this one has not are removed.
        """
        from biotrain.run.project import project_files

        path = Path(folder)
        around = project_files(self) if project is None else project
        plan = json.dumps(self.plan.to_json(), indent=1) + "\n"
        held = {} if self.recipe is None else {PACKAGE_FILE: recipe_text(self.recipe)}
        own = {**self.files, **around, **held, "plan.json": plan}
        files: dict[str, str | bytes] = {**own, **beside}
        Folder(path, force).write(files, whole=True)
        return path

    def run(self, on: str = "host", **options: Any) -> Device:
        """Start the package somewhere: `host` builds and loads it as a shared library."""
        from biotrain.run import start

        return start(self, on, **options)

    def measured(self) -> Package:
        """The same live package, its slices cut by the cycles that the emulated core takes."""
        from biotrain.run.measured import measured

        return measured(self)

    def live(self, on: str = "host", flash: Flash | None = None) -> LiveDevice:
        """Start the live firmware (compiled with `live=`): on `host` or in the `emulator`."""
        from biotrain.run.live_device import LiveDevice

        return LiveDevice(self, on, flash)


def fused_on(target: Target) -> bool:
    """Whether the target's numeric mode is fused; `native` asks this machine."""
    if target.numerics != "native":
        return target.numerics == "fused"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True  # macOS on Arm and Windows on current x86 have FMA
    return " fma " in flags or "asimd" in flags


def compile_model(
    model: torch.nn.Module | str | Path,
    example_input: torch.Tensor | npt.NDArray[np.float32],
    *,
    target: str | Target = "host",
    strategy: str | None = None,
    memory: str | int | None = None,
    optimizer: Optimizer | None = None,
    accumulate: int | None = None,
    loss: Losses = "cross_entropy",
    sample_weights: bool = False,
    gradients: Gradients = "separate",
    fused: bool | None = None,
    input_type: InputType = "float",
    input_scale: float | None = None,
    store: str = "float32",
    rewrites: Sequence[str] = DEFAULT,
    title: str | None = None,
    deadline_ms: float | None = None,
    max_mj: float | None = None,
    frontier: bool = False,
    batch: int | None = None,
    live: Live | None = None,
    front: FrontEnd | None = None,
    adabn: bool | None = None,
    optimize: Optimize = "speed",
    prefix: str = "",
    workers: int | None = None,
    l2_memory: str | int | None = None,
    recipe: Any = None,
) -> Package:
    """Compile a model into C that trains it; CaptureError, DoesNotFitError or BioTrainError.

    Parameters
    ----------
    model : a torch module (see `bt.prepare`) or a skorch estimator with one, or a `.pt2`.
    example_input : `[batch, n_chans, n_times]`; the first sample's shape is what the C takes.
    target : a target or the name of one (`biotrain list targets`).
    strategy : `none`, `last`, `bias`, `norm`, `full`, or a glob of parameter names.
    memory : the whole static RAM to stay within (`"256KiB"`, bytes); default: the target's.
    optimizer, accumulate : `bt.SGD(...)`, `bt.Adam(...)`; windows whose mean makes one step, 8.
    recipe : a `bt.Recipe`, its name, a package: strategy to `Live`, as far as they are left open.
    loss, sample_weights : what is minimised; whether windows have weights (docs/layers.md).
    gradients : `separate` tensors; or, without a copy, added to the `momentum` of SGD or used for
        the `update` once complete (`accumulate=1`), without `clip_norm` (docs/numerics.md).
    fused : numeric mode; default: the target's.
    input_type, input_scale : `int16` stores windows as integers q that stand for q `input_scale`.
    store : `fp16` or `bf16` for activations of the backward pass; `fp16:GLOB` of those modules.
    batch : windows, one group of the optimizer, over which BatchNorm takes its statistics.
    deadline_ms, max_mj : bounds of the time and the energy of one sample (estimates).
    live : the firmware records, stores and learns while it predicts (docs/on-device.md).
    front : the C of the front end comes too, and its RAM counts (with `live`: `Live(front=)`).
    adabn : BatchNorm's running statistics can be re-estimated without labels (`dev.adabn`).
    optimize : `speed`, or `size`: less code on a microcontroller, the same bits in more cycles.
    prefix : what public names and `model.*` begin with in place of `bt_`, such as `emg_`.
    workers, l2_memory : cores that share every call; a second memory (docs/cluster.md).
    frontier : also find the plans from the fastest to the smallest (`plan.frontier`); seconds.
    rewrites : those of `biotrain.graph.rewrite.NAMES` that run; not `fastconv`, `fft` by default.
    """
    asked = Open(strategy, optimizer, accumulate, batch, adabn)
    how = follow(recipe, asked, network_given(model), gradients, live is not None)
    request = CompileRequest(
        target=(board := load_target(target).with_workers(workers)),
        fused=fused_on(board) if fused is None else fused,
        budget=Budget(parse_bytes(memory), deadline_ms, max_mj),
        loss=parse_loss(loss, sample_weights),
        gradients=gradients,
        input_scale=check_input(input_type, input_scale),
        store=store,
        rewrites=tuple(rewrites),
        title=title or f"{called(model)}, strategy {how.strategy}",
        frontier=frontier,
        live=live,
        front=front,
        optimize=optimize,
        prefix=prefix,
        l2_bytes=parse_bytes(l2_memory),
        **how.settings,
    )
    return compiled(model, example_given(example_input), request)


def compiled(
    model: torch.nn.Module | str | Path, example: torch.Tensor, request: CompileRequest
) -> Package:
    """The package of a request: `bt.compile` with its settings in one object."""
    if not example.numel():
        raise BioTrainError(f"the example input is empty: {list(example.shape)}")
    model = network_given(model)
    captured = capture(model, example, request.batch, request.adabn)
    if request.front is not None:
        shape = rows_times(captured.predict.inputs[0].shape)
        check_front(request.front, shape, request.input_scale)
    module = model if isinstance(model, torch.nn.Module) else None
    source = lower(captured, request)
    around, notes = (request.target, request.strategy, request.front), request.notes
    return Package(source, *around, module, (*captured.notes, *notes), request.recipe)


MOST_PLANS = 32
"""Plans that this process remembers."""

_plans: dict[PlanRequest, Fitted] = {}


def planned(request: PlanRequest) -> Fitted:
    """The plan of a request, remembered: a study compiles one network with hundreds of weights, of
    which a plan knows nothing."""
    found = _plans.pop(request, None) or fit(request)
    _plans[request] = found
    if len(_plans) > MOST_PLANS:
        del _plans[next(iter(_plans))]
    return found


def lower(captured: Captured, request: CompileRequest) -> Source:
    """Differentiate a captured model, add the optimizer, rewrite, and plan."""
    if "time_last" in request.rewrites:
        captured = _time_last(captured)
    half = parse_store(request.store)
    trained = trainable(request.strategy, captured.train, captured.torch_names)
    heads = captured.heads
    objective = matched(request.loss, heads.names)
    request = replace(request, loss=objective)
    check_objective(objective, heads.shapes, bool(trained))
    if not trained:  # no gradient, so that none needs a place
        request = replace(request, gradients="separate")
    predict = _evaluation(captured.predict, request)
    adabn = None if captured.adabn is None else _statistics(captured.adabn, request)
    train = _training(captured.train, trained, request, heads)
    train = _bounded(train, trained, captured, request)
    around = None if request.live is None else _around(request.live, train, trained, request)
    fitted = planned(
        PlanRequest(
            train=train,
            predict=predict,
            target=request.target,
            budget=request.budget,
            accumulate=request.accumulate,
            gradients=request.gradients,
            base_ops=_direct_ops(captured.train, trained, request, heads),
            frontier=request.frontier,
            batch=request.batch,
            live=None if around is None else _live_needs(around),
            front_bytes=request.front.ram_bytes if request.front else 0,
            adabn=adabn,
            l2_bytes=request.l2_bytes,
        )
    )
    plan = replace(fitted.plan, optimize=request.optimize)
    if half:
        stored = {v.name: v.nbytes for n in fitted.train.nodes for v in n.outputs}
        if fitted.batch:
            stored = {o.value.name: o.nbytes for o in fitted.batch.outers}
        plan = replace(plan, choices=(*plan.choices, in_words(fitted.train, half, stored)))
    return Source(
        train=shared_sums(fitted.train, request.target.workers),
        predict=fitted.predict,
        network=predict,
        plan=plan,
        batch=fitted.batch,
        features=fitted.features,
        adabn=fitted.adabn,
        tensors={**captured.tensors, **loss_tensors(objective)},
        torch_names=captured.torch_names,
        trained=trained,
        optimizer=request.optimizer,
        accumulate=request.accumulate,
        fused=request.fused,
        title=request.title,
        loss=objective,
        heads=heads,
        gradients=request.gradients,
        input_scale=request.input_scale,
        store=request.store,
        live=around,
        target=request.target,
        optimize=request.optimize,
        prefix=request.prefix,
    )


def _time_last(captured: Captured) -> Captured:
    """The graphs of a network with time on the last axis."""
    graphs = [captured.train, captured.predict]
    graphs += [] if captured.adabn is None else [captured.adabn]
    train, predict, *others = time_last(graphs)
    return replace(captured, train=train, predict=predict, adabn=others[0] if others else None)


def _price(request: CompileRequest) -> Price | None:
    """Cycles per operation of an op on the target; None where they are not known."""
    return request.target.price if request.target.cycles_per_op else None


def _evaluation(graph: Graph, request: CompileRequest) -> Graph:
    """The graph of a prediction, rewritten."""
    graph = prune(rewrite_forward(graph, request.rewrites, price=_price(request)))
    return graph if request.input_scale is None else keep_int16(graph, request.input_scale)


def _statistics(graph: Graph, request: CompileRequest) -> Graph:
    """The graph that re-estimates BatchNorm's statistics: nothing behind the last of them."""
    graph = with_joins(rewrite_forward(graph, request.rewrites, price=_price(request)))
    graph = prune(replace(graph, outputs=()))
    return graph if request.input_scale is None else keep_int16(graph, request.input_scale)


def _training(
    graph: Graph, trained: tuple[str, ...], request: CompileRequest, heads: Heads
) -> Graph:
    """The training step of one window: forward, backward and updates, rewritten."""
    forward = rewrite_forward(graph, request.rewrites, trained, _price(request))
    graph, loss = with_loss(forward, request.loss, heads.shapes)
    graph = differentiate(graph, loss, trained, shared=request.gradients == "momentum")
    graph = rewrite_training(graph, request.rewrites)
    half = parse_store(request.store)
    if half:
        graph = keep_half(graph, loss, half)
    graph = with_updates(graph, trained, request.optimizer, request.gradients)
    return graph if request.input_scale is None else keep_int16(graph, request.input_scale)


def _bounded(
    graph: Graph, trained: tuple[str, ...], captured: Captured, request: CompileRequest
) -> Graph:
    """The training step with what the network keeps its parameters to; BioTrainError where a step
    cannot keep it."""
    kept = {name: b for name, b in captured.bounds.items() if name in trained}
    if not kept:
        return graph
    refused = {
        "gradients='update', use 'separate' or 'momentum'": request.gradients == "update",
        f"workers={request.target.workers}, use one": request.target.workers > 1,
        "live": request.live is not None,
    }
    for option, asked in refused.items():
        if asked:
            raise BioTrainError(
                f"the network bounds {captured.torch_names[next(iter(kept))]} in its forward pass, "
                f"which does not go with {option}"
            )
    return with_bounds(graph, trained, kept, {n: captured.tensors[n].shape for n in kept})


def _direct_ops(
    graph: Graph, trained: tuple[str, ...], request: CompileRequest, heads: Heads
) -> int:
    """Operations of a sample by the direct algorithms, everything stored: `base_ops`."""
    graph, loss = with_loss(graph, request.loss, heads.shapes)
    graph = with_updates(differentiate(graph, loss, trained), trained, request.optimizer)
    return training_cost(graph, request.target, request.accumulate).ops


def _live_needs(around: LivePlan) -> LiveNeeds:
    """What the planner must know of the firmware around a model."""
    cycles = around.live.slice_cycles
    return LiveNeeds(around.ram_bytes, SLICES_BYTES, cycles, around.alignment)


def _around(
    live: Live, graph: Graph, trained: tuple[str, ...], request: CompileRequest
) -> LivePlan:
    """The ring, the sample store and the checkpoint slots of one model."""
    if not trained:
        raise BioTrainError("live learns: strategy 'none' leaves nothing that trains")
    assert request.input_scale is not None  # a live request has one
    slots = request.optimizer.slots
    states = {f"{prefix}_{name}" for prefix in ("g", *slots) for name in trained}
    running = sum(v.nbytes for v in graph.states if v.name not in states)
    params = sum(v.nbytes for v in graph.params if v.name in trained)
    inside = request.gradients == "momentum"
    chans, times = rows_times(graph.inputs[0].shape)
    return LivePlan(
        live=live,
        chans=chans,
        times=times,
        classes=graph.outputs[0].size,
        input_scale=request.input_scale,
        weight_bytes=params + running,
        state_bytes=params * (1 + len(slots)) + running + 20 + (8 if inside else 0),
        segments=1 + len(slots) + bool(running) + 1 + (2 if inside else 0),
        pointer_bytes=8 if request.target.core == "host" else 4,
        clock_hz=request.target.clock_hz,
    )
