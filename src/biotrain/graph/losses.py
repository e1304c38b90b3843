# SPDX-License-Identifier: Apache-2.0
"""The objective as nodes behind a forward graph, and what its target is.

The target of a window is one int32 where it is one class; else floats, head by head, classes as
floats too, and behind them the weight of the window where there is one. Several heads are one
output of the graph, one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt

from biotrain.errors import BioTrainError
from biotrain.ir.graph import Attr, Graph, Shape, Value
from biotrain.ir.loss import MSE, CrossEntropy, Huber, Loss, Objective, parse_loss
from biotrain.ir.op import Builder
from biotrain.ops.shape import reshaped

WEIGHTS = "loss_weights"
"""What the constants of a loss are called, with the number of the head."""


@dataclass(frozen=True, slots=True)
class Labels:
    """A part of the target that holds numbers of classes."""

    start: int
    count: int
    classes: int
    ignore: int | None
    """A number that stands for no class."""


def labels_of(objective: Objective, logits: Sequence[Shape]) -> list[Labels]:
    """The parts of the target that hold numbers of classes."""
    found, at = [], 0
    sizes = objective.sizes(logits)
    for loss, shape, size in zip(objective.heads, logits, sizes, strict=True):
        if isinstance(loss, CrossEntropy) and loss.labels:
            found.append(Labels(at, size, shape[1], loss.ignore_index))
        at += size
    return found


def check_objective(objective: Objective, logits: Sequence[Shape], trains: bool) -> None:
    """Raise `BioTrainError` where the losses do not fit what the network returns."""
    if len(objective.heads) != len(logits):
        raise BioTrainError(
            f"the model returns {len(logits)} tensors; the loss is one of each in a tuple or dict, "
            f"not {len(objective.heads)}"
        )
    for loss, shape in zip(objective.heads, logits, strict=True):
        loss.check_logits(shape)
        if trains and isinstance(loss, CrossEntropy) and shape[1] < 2:
            raise BioTrainError(
                "cross-entropy of one output is always 0, so that nothing is learned: give the "
                "model an output for each class, or use loss='mse' or loss='bce'"
            )


def matched(objective: Objective, names: tuple[str, ...]) -> Objective:
    """The objective with its losses in the order of the heads of a dict.

    Raises `BioTrainError` where the keys differ.
    """
    if not names and not objective.names:
        return objective
    if sorted(names) != sorted(objective.names):
        raise BioTrainError(
            f"the model returns {', '.join(names) or 'no dict'}; there are losses of "
            f"{', '.join(objective.names) or 'no dict'}"
        )
    order = [objective.names.index(name) for name in names]
    return replace(objective, heads=tuple(objective.heads[i] for i in order), names=names)


def loss_tensors(objective: Objective) -> dict[str, npt.NDArray[np.float32]]:
    """Values of the constants of the losses by their names in the graph."""
    return {
        f"{WEIGHTS}_{i}": np.asarray(loss.weights, np.float32)
        for i, loss in enumerate(objective.heads)
        if loss.weights
    }


def with_loss(
    graph: Graph, loss: str | Objective, logits: Sequence[Shape] = ()
) -> tuple[Graph, Value]:
    """Append the objective to a forward graph; returns the loss value.

    `logits`: shapes of the heads, where the output of the graph is several of them.
    """
    objective = parse_loss(loss)
    output = graph.outputs[0]
    shapes = list(logits) or [output.shape]
    b = Builder(taken=[v.name for v in graph.values()])
    plain = len(objective.heads) == 1 and not objective.sample_weights
    consts: list[Value] = []
    if plain and objective.heads[0] == CrossEntropy() and len(output.shape) == 2:
        target = Value(b.name("label"), (1,), "i32", "input")
        value = b.one("cross_entropy", output, target, hint="loss")
    elif plain and objective.heads[0] == MSE():
        target = Value(b.name("target"), output.shape, "f32", "input")
        value = b.one("mse", output, target, hint="loss")
    else:
        target, value, consts = _heads(b, objective, output, shapes)
    result = replace(
        graph,
        nodes=(*graph.nodes, *b.nodes),
        inputs=(*graph.inputs, target),
        outputs=(output, value),
        consts=(*graph.consts, *consts),
    )
    return result, value


def _heads(
    b: Builder, objective: Objective, output: Value, shapes: Sequence[Shape]
) -> tuple[Value, Value, list[Value]]:
    """The losses of all heads, their sum and the constants that they read."""
    integer = objective.takes_label(shapes)
    sizes = objective.sizes(shapes)
    count = sum(sizes) + objective.sample_weights
    target = (
        Value(b.name("label"), (1,), "i32", "input")
        if integer
        else Value(b.name("target"), (1, count), "f32", "input")
    )
    joined = len(shapes) > 1
    cut = joined or objective.sample_weights
    share = [_part(b, target, count - 1, 1)] if objective.sample_weights else []
    consts: list[Value] = []
    losses: list[Value] = []
    at = first = 0
    for i, (loss, shape, size) in enumerate(zip(objective.heads, shapes, sizes, strict=True)):
        x = reshaped(b, _part(b, output, first, prod(shape)), shape) if joined else output
        given = _part(b, target, at, size) if cut else target
        weights: list[Value] = []
        if loss.weights:
            weights = [Value(f"{WEIGHTS}_{i}", (len(loss.weights),), "f32", "const")]
            consts += weights
        losses.append(_loss(b, loss, [x, given, *weights, *share], integer, bool(share)))
        at, first = at + size, first + prod(shape)
    total = losses[0]
    for other in losses[1:]:
        total = b.one("add", total, other, hint="total_loss")
    return target, total, consts


def _part(b: Builder, x: Value, start: int, size: int) -> Value:
    """`size` elements of a (1, n) tensor, all of it as it is."""
    if size == x.size:
        return x
    return b.one("slice", x, starts=(0, start), sizes=(1, size), steps=(1, 1))


def _loss(b: Builder, loss: Loss, inputs: list[Value], integer: bool, shared: bool) -> Value:
    attrs: dict[str, Attr] = {
        "weighted": bool(loss.weights),
        "shared": shared,
        "scale": float(loss.factor),
    }
    if isinstance(loss, CrossEntropy):
        attrs |= {
            "soft": loss.soft,
            "integer": integer,
            "smoothing": float(loss.label_smoothing),
            "ignores": loss.ignore_index is not None,
            "ignore": loss.ignore_index or 0,
        }
        return b.one("class_loss", *inputs, hint="loss", **attrs)
    delta = float(loss.delta) if isinstance(loss, Huber) else 0.0
    return b.one(f"{loss.name}_loss", *inputs, hint="loss", delta=delta, **attrs)


def starts_of(graph: Graph, loss: Value) -> list[Value]:
    """Where the backward pass starts: the loss of each head, of which `loss` is the sum."""
    makers = {v.name: n for n in graph.nodes for v in n.outputs}
    node = makers[loss.name]
    if node.op != "add":
        return [loss]
    return [v for summand in node.inputs for v in starts_of(graph, summand)]
