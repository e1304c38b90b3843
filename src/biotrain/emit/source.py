# SPDX-License-Identifier: Apache-2.0
"""What the emitter needs to know, and what follows from it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from biotrain.graph.heads import Heads
from biotrain.graph.losses import Labels, labels_of
from biotrain.ir.graph import Graph, Value
from biotrain.ir.loss import Objective
from biotrain.ir.optimizer import Gradients, Optimizer
from biotrain.planner.batch_schedule import BatchSchedule
from biotrain.planner.live_memory import LivePlan
from biotrain.planner.plan import Features, Plan
from biotrain.planner.request import Optimize
from biotrain.targets.target import Target

CTYPE = {"f32": "float", "u8": "uint8_t", "i16": "int16_t", "i32": "int32_t"}


@dataclass(frozen=True)
class Source:
    """What the emitter needs to know."""

    train: Graph
    """The training step as planned, with its loops."""
    predict: Graph
    """The prediction as planned."""
    network: Graph
    """The prediction before planning: what identifies the model."""
    plan: Plan
    tensors: Mapping[str, npt.NDArray[np.float32]]
    torch_names: Mapping[str, str]
    trained: tuple[str, ...]
    optimizer: Optimizer
    accumulate: int
    fused: bool
    title: str
    loss: Objective
    heads: Heads
    """The outputs of the module."""
    gradients: Gradients = "separate"
    batch: BatchSchedule | None = None
    """The training step where batch norm takes statistics over a batch."""
    input_scale: float | None = None
    """What one unit of an int16 input stands for; None: the input is float."""
    store: str = "float32"
    """In which format activations wait for the backward pass."""
    features: Features | None = None
    """The training step in two functions, where a frozen trunk makes small features."""
    adabn: BatchSchedule | None = None
    """The schedule that re-estimates the running statistics of batch norms from windows."""
    live: LivePlan | None = None
    """The memory of a live package: it records and learns at the same time."""
    optimize: Optimize = "speed"
    """What the code is for: fewest cycles, or few bytes."""
    prefix: str = ""
    """What public names and the files `model.*` begin with, in place of `bt_`."""
    target: Target | None = None
    """For the cycles of the slices between which a live package pauses."""

    @property
    def workers(self) -> int:
        """Cores that share every call."""
        return self.target.workers if self.target is not None else 1

    @property
    def uses_port(self) -> bool:
        """Whether the C calls the port layer: workers, or a second memory."""
        return self.workers > 1 or self.plan.l1_bytes > 0

    @property
    def sample_type(self) -> str:
        """The C type of an input sample."""
        return CTYPE[self.train.inputs[0].dtype]

    @property
    def labels(self) -> list[Labels]:
        """The parts of the target that hold numbers of classes."""
        return labels_of(self.loss, self.heads.shapes)

    @property
    def slots(self) -> tuple[str, ...]:
        """Members of the context that hold optimizer state."""
        return self.optimizer.slots if self.trained else ()


def trained_values(source: Source) -> list[Value]:
    """The parameters in RAM."""
    return [v for v in source.train.params if v.name in source.trained]


def running_values(source: Source) -> list[Value]:
    """Running statistics."""
    kept = {f"{prefix}_{name}" for prefix in ("g", *source.slots) for name in source.trained}
    return [v for v in source.train.states if v.name not in kept]


def fingerprint(source: Source) -> int:
    """Identifies the model of a checkpoint: architecture, optimizer layout and frozen weights."""
    parts = [str(n) for n in source.network.nodes]
    parts += [*source.trained, repr(replace(source.optimizer, lr=0.0)), f"fused {source.fused}"]
    parts += [f"gradients {source.gradients}", f"batch {source.batch.size if source.batch else 1}"]
    parts += [f"int16 {source.input_scale}"] if source.input_scale is not None else []
    parts += [f"store {source.store}"] if source.store != "float32" else []
    parts += ["adabn"] if source.adabn else []
    crc = zlib.crc32("\n".join(parts).encode(errors="surrogatepass"))
    frozen = [*source.train.params, *source.train.consts]
    for v in frozen:
        if v.name not in source.trained:
            crc = zlib.crc32(np.ascontiguousarray(source.tensors[v.name], "<f4").tobytes(), crc)
    return crc
