# SPDX-License-Identifier: Apache-2.0
"""Losses of one sample. The gradient of the loss itself is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import Builder, Call, Op, Sample, p_in, p_out, register
from biotrain.ir.split import SERIAL, Split


@register("bt_loss.h")
class CrossEntropy(Op):
    """Softmax cross-entropy of logits (1, classes) and a label -> loss (1,), probabilities."""

    name = "cross_entropy"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((1,), shapes[0])

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        label = node.inputs[1]
        hint = f"d_{node.inputs[0].name}"
        return (b.one("cross_entropy_dx", node.outputs[1], label, hint=hint), None)

    def tiles(self, node: Node) -> bool:
        return False

    def split(self, node: Node) -> Split:
        return SERIAL

    def call(self, node: Node) -> Call:
        classes = node.inputs[0].size
        operands = (p_in(0), p_in(1), p_out(0), p_out(1))
        geometry = (("classes", classes),)
        return Call("bt_cross_entropy", "bt_loss", geometry, operands, (1, classes))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        return F.cross_entropy(inputs[0], inputs[1]).reshape(1)

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 11), (1,)), {}), Sample(((1, 2), (1,)), {}))


@register("bt_loss.h")
class CrossEntropyDx(Op):
    """dlogits = probabilities - one-hot label."""

    name = "cross_entropy_dx"
    inplace = ((0, 0),)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def tiles(self, node: Node) -> bool:
        return False

    def split(self, node: Node) -> Split:
        return SERIAL

    def call(self, node: Node) -> Call:
        classes = node.inputs[0].size
        operands = (p_in(0), p_in(1), p_out())
        geometry = (("classes", classes),)
        return Call("bt_cross_entropy_dx", "bt_loss", geometry, operands, (1, classes))


@register("bt_loss.h")
class MeanSquaredError(Op):
    """Mean of (prediction - target)^2 over all elements -> loss (1,), the differences."""

    name = "mse"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        if shapes[0] != shapes[1]:
            raise GraphError(f"mse: prediction {shapes[0]} and target {shapes[1]} differ in shape")
        return ((1,), shapes[0])

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        hint = f"d_{node.inputs[0].name}"
        return (b.one("mse_dx", node.outputs[1], hint=hint), None)

    def tiles(self, node: Node) -> bool:
        return False

    def split(self, node: Node) -> Split:
        return SERIAL

    def ops(self, node: Node) -> int:
        return 3 * node.inputs[0].size

    def call(self, node: Node) -> Call:
        count = node.inputs[0].size
        operands = (p_in(0), p_in(1), p_out(0), p_out(1))
        return Call("bt_mse", "bt_differences", (("count", count),), operands, (1, count))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        return F.mse_loss(inputs[0], inputs[1]).reshape(1)

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 11), (1, 11)), {}, grad=(0,)),
            Sample(((1, 3, 250), (1, 3, 250)), {}, grad=(0,)),
        )


@register("bt_loss.h")
class MeanSquaredErrorDx(Op):
    """dprediction = 2 (prediction - target) / count."""

    name = "mse_dx"
    inplace = ((0, 0),)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def tiles(self, node: Node) -> bool:
        return False

    def split(self, node: Node) -> Split:
        return SERIAL

    def call(self, node: Node) -> Call:
        count = node.inputs[0].size
        geometry = (("count", count),)
        return Call("bt_mse_dx", "bt_differences", geometry, (p_in(0), p_out()), (1, count))
