# SPDX-License-Identifier: Apache-2.0
"""`compile_model`: a torch module and a target become a package of C, a plan and its devices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from biotrain.emit import Source
from biotrain.emit.build import Build
from biotrain.errors import BioTrainError
from biotrain.frontend import FrontEnd
from biotrain.frontend.live import Live
from biotrain.graph.autodiff import differentiate, prune, with_loss, with_updates
from biotrain.graph.capture import Captured, capture
from biotrain.graph.cost import training_cost
from biotrain.graph.rewrite import DEFAULT, keep_half, keep_int16, rewrite_forward, rewrite_training
from biotrain.graph.rewrite.precision import in_words, parse_store
from biotrain.graph.strategy import trainable
from biotrain.ir.graph import Graph
from biotrain.ir.op import rows_times
from biotrain.ir.optimizer import SGD, Gradients, Optimizer, check_gradients
from biotrain.planner.batch_norm import with_joins
from biotrain.planner.context import SLICES_BYTES
from biotrain.planner.fit import Beside, Fitted, fit
from biotrain.planner.live_memory import LivePlan, same
from biotrain.targets.target import Target, load_target, parse_bytes

if TYPE_CHECKING:
    from biotrain.run.device import Device
    from biotrain.run.live_device import LiveDevice
    from biotrain.run.live_flash import Flash

Loss = Literal["cross_entropy", "mse"]
InputType = Literal["float", "int16"]


@dataclass(frozen=True)
class Package(Build):
    """A `Build` that can be saved, started and compared with the torch module it came from."""

    module: torch.nn.Module | None
    """The module as compiled, for verification; None where a `.pt2` file was given."""

    def save(self, folder: str | Path, project: Mapping[str, str] | None = None) -> Path:
        """Write all files and `plan.json` into a folder (made where missing).

        `project`: the files around the C (firmware, build systems, README) by their path in the
        folder; by default those of `biotrain.run.project.project_files`, with planned figures.
        """
        from biotrain.run.project import project_files

        path = Path(folder)
        try:
            around = project_files(self) if project is None else project
            for name, text in {**self.files, **around}.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_text(text, encoding="utf-8")
            plan = json.dumps(self.plan.to_json(), indent=1) + "\n"
            (path / "plan.json").write_text(plan, encoding="utf-8")
        except OSError as error:
            raise BioTrainError(f"cannot write into '{path}': {error.strerror}") from error
        return path

    def run(self, on: str = "host", **options: Any) -> Device:
        """Start the package somewhere: `host` builds and loads it as a shared library."""
        from biotrain.run import start

        return start(self, on, **options)

    def measured(self) -> Package:
        """The same package that lives, its pieces cut by what the emulated core takes for them."""
        from biotrain.run.measured import measured

        return measured(self)

    def live(self, on: str = "host", flash: Flash | None = None) -> LiveDevice:
        """Start the life around the package (compiled with `live=`): on `host` or `emulator`."""
        from biotrain.run.live_device import LiveDevice

        return LiveDevice(self, on, flash)


def check_input(kind: str, scale: float | None) -> float | None:
    """The float32 that one unit of an int16 input stands for; None for a float input."""
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
    limits = np.finfo(np.float32)
    number = isinstance(scale, (int, float))
    if not number or not limits.tiny <= scale <= float(limits.max) / 2**15:
        raise BioTrainError(f"the input scale must be positive and a normal float32, not {scale}")
    return float(np.float32(scale))


def check_live(input_scale: float | None, loss: str, batch: int) -> None:
    """What a device that lives can be made of."""
    if input_scale is None:
        raise BioTrainError(
            "live keeps windows as the converter's integers: it needs input_type='int16' and an "
            "input_scale"
        )
    if loss != "cross_entropy":
        raise BioTrainError("live learns labelled windows: it needs loss='cross_entropy'")
    if batch > 1:
        raise BioTrainError("live learns window by window: it works with batch=1")


def check_front(front: FrontEnd, shape: tuple[int, int], input_scale: float | None) -> None:
    """Whether a front end makes the windows that a model takes."""
    if (front.n_chans, front.window) != shape:
        raise BioTrainError(
            f"the front end makes windows of {front.n_chans} x {front.window}, the model takes "
            f"{shape[0]} x {shape[1]}"
        )
    if input_scale is not None and (front.unit is None or not same(front.unit, input_scale)):
        unit = "floats" if front.unit is None else f"steps of {front.unit:g}"
        raise BioTrainError(f"the front end makes {unit}, the model takes steps of {input_scale:g}")


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
    strategy: str = "full",
    memory: str | int | None = None,
    optimizer: Optimizer | None = None,
    accumulate: int = 1,
    loss: Loss = "cross_entropy",
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
    batch: int = 1,
    live: Live | None = None,
    front: FrontEnd | None = None,
    adabn: bool = False,
) -> Package:
    """Compile a model into C that trains it.

    Parameters
    ----------
    model : a torch module whose forward takes `[batch, n_chans, n_times]` (see `bt.prepare`), or
        a `.pt2` file.
    example_input : `[batch, n_chans, n_times]`; the first sample's shape is what the C takes.
    target : name of a target (`biotrain list targets`).
    strategy : `none`, `last`, `bias`, `norm`, `full`, or a glob of parameter names.
    memory : the whole static RAM to stay within (`"256KiB"`, bytes); default: the target's.
    optimizer : `bt.SGD(...)` or `bt.Adam(...)`.
    accumulate : samples whose mean gradient makes one step.
    loss : `cross_entropy` (integer label) or `mse` (vector).
    gradients : `separate` tensors; or, without a copy of them, added to the `momentum` of SGD, or
        used for the `update` as soon as they are complete (`accumulate=1`). The last two exclude
        `clip_norm` and cannot undo a group with a bad gradient (see docs/numerics.md).
    fused : numeric mode; default: the target's.
    input_type, input_scale : `int16` keeps the window in RAM as the converter's integers, which
        stand for q `input_scale`; the weights have the bits that a float package gets from those.
    store : `fp16` or `bf16` keeps activations for the backward pass in 16 bits (see
        docs/memory.md); `fp16:GLOB` only those of the torch modules whose path matches.
    batch : windows over which BatchNorm takes its statistics, as torch does with a batch of that
        size; 1: every window has its own. They are one group of the optimizer.
    deadline_ms, max_mj : bounds of the time and the energy of one sample (estimates).
    live : the firmware records, stores windows and learns while it predicts (docs/on-device.md);
        takes an int16 input and cross-entropy.
    front : the C of the front end comes too, and its RAM counts (with `live`: `Live(front=)`).
    adabn : the running statistics of BatchNorm can be taken anew on the device, from windows
        without labels (`dev.adabn`, `bt_adabn`): they lie in RAM and in checkpoints, and the
        strategy trains with them as they are.
    frontier : also find the plans from the fastest to the smallest (`plan.frontier`); seconds.
    rewrites : which rewrites of `biotrain.graph.rewrite.NAMES` run; all but `fastconv` and
        `fft` by default.

    Raises
    ------
    CaptureError, DoesNotFitError, BioTrainError
    """
    if not isinstance(accumulate, int) or isinstance(accumulate, bool) or accumulate < 1:
        raise BioTrainError(f"accumulate must be a whole number from 1, not {accumulate}")
    if loss not in ("cross_entropy", "mse"):
        raise BioTrainError(f"the loss is cross_entropy or mse, not '{loss}'")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise BioTrainError(f"the optimizer is a bt.SGD or a bt.Adam, not {optimizer!r}")
    if not isinstance(strategy, str):
        raise BioTrainError(f"the strategy is a name or a glob, not {strategy!r}")
    check_gradients(gradients, optimizer or SGD(), accumulate)
    scale = check_input(input_type, input_scale)
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise BioTrainError(f"batch must be a whole number from 1, not {batch}")
    if batch > 1 and (accumulate > 1 or gradients != "separate"):
        raise BioTrainError(
            "a batch is one group: batch works with accumulate=1 and gradients='separate'"
        )
    if batch > 1 and scale is not None:
        raise BioTrainError("batch takes a float input: input_type='int16' works with batch=1")
    if live is not None:
        check_live(scale, loss, batch)
        if adabn:
            raise BioTrainError("adabn works without live: a device that lives has no call for it")
    if front is not None and live is not None:
        raise BioTrainError("the front end of a device that lives is Live(front=...)")
    chosen = load_target(target)
    example = torch.as_tensor(example_input)
    if not example.numel():
        raise BioTrainError(f"the example input is empty: {list(example.shape)}")
    captured = capture(model, example, batch, adabn)
    if front is not None:
        check_front(front, rows_times(captured.predict.inputs[0].shape), scale)
    source = lower(
        captured,
        chosen,
        strategy=strategy,
        memory=parse_bytes(memory),
        optimizer=optimizer or SGD(),
        accumulate=accumulate,
        loss=loss,
        gradients=gradients,
        fused=fused_on(chosen) if fused is None else fused,
        input_scale=scale,
        store=store,
        rewrites=rewrites,
        title=title or f"{getattr(model, 'title', type(model).__name__)}, strategy {strategy}",
        deadline_ms=deadline_ms,
        max_mj=max_mj,
        frontier=frontier,
        batch=batch,
        live=live,
        front_bytes=front.ram_bytes if front else 0,
    )
    module = model if isinstance(model, torch.nn.Module) else None
    return Package(source, chosen, strategy, front, module)


PLANS = 32
"""Plans that this process remembers."""

_fitted: dict[str, Fitted] = {}


def lower(
    captured: Captured,
    target: Target,
    *,
    strategy: str,
    memory: int | None,
    optimizer: Optimizer,
    accumulate: int,
    loss: str,
    gradients: Gradients,
    fused: bool,
    input_scale: float | None,
    store: str,
    rewrites: Sequence[str],
    title: str,
    frontier: bool,
    deadline_ms: float | None,
    max_mj: float | None,
    batch: int,
    live: Live | None = None,
    front_bytes: int = 0,
) -> Source:
    """Differentiate, add the optimizer, and plan."""
    half, logits = parse_store(store), captured.train.outputs[0]
    if loss == "cross_entropy" and len(logits.shape) != 2:
        raise BioTrainError(
            f"cross-entropy needs logits [batch, classes]; the model returns {list(logits.shape)}"
        )
    price = target.price if target.cycles_per_op else None
    predict = prune(rewrite_forward(captured.predict, rewrites, price=price))
    adabn = captured.adabn
    if adabn is not None:  # nothing behind the last statistics
        adabn = prune(
            replace(with_joins(rewrite_forward(adabn, rewrites, price=price)), outputs=())
        )
    trained = trainable(strategy, captured.train, captured.torch_names)
    gradients = gradients if trained else "separate"
    forward = rewrite_forward(captured.train, rewrites, trained, price)
    graph, value = with_loss(forward, loss)
    graph = differentiate(graph, value, trained, shared=gradients == "momentum")
    graph = rewrite_training(graph, rewrites)
    if half:
        graph = keep_half(graph, value, half)
    graph = with_updates(graph, trained, optimizer, gradients)
    if input_scale is not None:
        graph, predict = keep_int16(graph, input_scale), keep_int16(predict, input_scale)
        adabn = keep_int16(adabn, input_scale) if adabn else None
    direct, value = with_loss(captured.train, loss)
    direct = with_updates(differentiate(direct, value, trained), trained, optimizer)
    around = (
        _around(live, graph, trained, optimizer, gradients, input_scale, target)
        if live is not None and input_scale is not None
        else None
    )
    asked: dict[str, Any] = {
        "memory": memory,
        "accumulate": accumulate,
        "gradients": gradients,
        "base_ops": training_cost(direct, target, accumulate).ops,
        "frontier": frontier,
        "deadline_ms": deadline_ms,
        "max_mj": max_mj,
        "batch": batch,
        "live": None
        if around is None
        else Beside(around.ram_bytes, SLICES_BYTES, around.live.slice_cycles, around.alignment),
        "front_bytes": front_bytes,
        "adabn": adabn,
    }
    # A study compiles one network with hundreds of weights: a plan does not know them.
    key = repr((graph, predict, target, asked))
    fitted = _fitted.pop(key, None) or fit(graph, predict, target, **asked)
    _fitted[key] = fitted
    if len(_fitted) > PLANS:
        del _fitted[next(iter(_fitted))]
    plan = fitted.plan
    if half:
        kept = {v.name: v.nbytes for n in fitted.train.nodes for v in n.outputs}
        if fitted.batch:
            kept = {o.value.name: o.nbytes for o in fitted.batch.outers}
        plan = replace(plan, choices=(*plan.choices, in_words(fitted.train, half, kept)))
    return Source(
        train=fitted.train,
        predict=fitted.predict,
        network=predict,
        plan=plan,
        batch=fitted.batch,
        features=fitted.features,
        adabn=fitted.adabn,
        tensors=captured.tensors,
        torch_names=captured.torch_names,
        trained=trained,
        optimizer=optimizer,
        accumulate=accumulate,
        fused=fused,
        title=title,
        loss=loss,
        gradients=gradients,
        input_scale=input_scale,
        store=store,
        live=around,
        target=target,
    )


def _around(
    live: Live,
    graph: Graph,
    trained: Sequence[str],
    optimizer: Optimizer,
    gradients: Gradients,
    input_scale: float,
    target: Target,
) -> LivePlan:
    """The ring, the store and the slots of one model."""
    if not trained:
        raise BioTrainError("live learns: strategy 'none' leaves nothing that trains")
    kept = {f"{prefix}_{name}" for prefix in ("g", *optimizer.slots) for name in trained}
    running = sum(v.nbytes for v in graph.states if v.name not in kept)
    params = sum(v.nbytes for v in graph.params if v.name in trained)
    inside = gradients == "momentum"
    chans, times = rows_times(graph.inputs[0].shape)
    return LivePlan(
        live=live,
        chans=chans,
        times=times,
        classes=graph.outputs[0].size,
        input_scale=input_scale,
        weight_bytes=params + running,
        state_bytes=params * (1 + len(optimizer.slots)) + running + 20 + (8 if inside else 0),
        segments=1 + len(optimizer.slots) + bool(running) + 1 + (2 if inside else 0),
        pointer_bytes=8 if target.core == "host" else 4,
        clock_hz=target.clock_hz,
    )
