# SPDX-License-Identifier: Apache-2.0
"""Losses with weights, of steps and of several elements.

Their second output is the gradient of what they are a loss of, so that they have no gradient op of
their own. Inputs: prediction, target, then what `weighted` (a constant for each class or output)
and `shared` (the weight of the window) say is there. `loss.py` has the two that most packages use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import NULL, Builder, Call, Op, Sample, float_literal, p_in, p_out, register


class _Loss(Op):
    """A loss that knows its gradient."""

    terminal: ClassVar[bool] = True
    """The gradient of the result is one."""

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        extra = int(bool(attrs["weighted"])) + int(bool(attrs["shared"]))
        if len(shapes) != 2 + extra:
            raise GraphError(f"{self.name} takes {2 + extra} tensors, not {list(shapes)}")
        return ((1,), shapes[0])

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        return (node.outputs[1], *[None] * (len(node.inputs) - 1))

    def tiles(self, node: Node) -> bool:
        return False

    def row_step(self, node: Node) -> int:
        return 0

    def _call(self, node: Node, function: str, struct: str, geometry: Any, first: float) -> Call:
        weights = p_in(2) if node["weighted"] else NULL
        share = p_in(len(node.inputs) - 1) if node["shared"] else NULL
        operands = (p_in(0), p_in(1), weights, share, p_out(0), p_out(1))
        numbers = (float_literal(first), float_literal(node.float("scale")))
        return Call(function, struct, geometry, operands, (1, node.inputs[0].size), numbers)


@register("bt_losses.h")
class ClassLoss(_Loss):
    """Cross-entropy of logits (1, classes, steps...) with weights, smoothing and soft labels.

    The target has one class for each step, as floats or (`integer`) as one int32; `soft`: it has
    the shape of the logits.
    """

    name = "class_loss"

    def ops(self, node: Node) -> int:
        return 30 * node.inputs[0].size

    def call(self, node: Node) -> Call:
        x = node.inputs[0].shape
        geometry = (
            ("classes", x[1]),
            ("steps", prod(x[2:])),
            ("soft", int(bool(node["soft"]))),
            ("ignores", int(bool(node["ignores"]))),
            ("ignore", node.int("ignore")),
        )
        function = "bt_class_loss" + ("_label" if node["integer"] else "")
        return self._call(node, function, "bt_classes", geometry, node.float("smoothing"))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        x, target = inputs[:2]
        weights = inputs[2] if attrs["weighted"] else None
        if attrs["soft"]:
            target, counted = target.reshape(x.shape), prod(x.shape[2:])
        else:
            target = target.long().reshape(1, *x.shape[2:])
            counted = max(1, int((target != attrs["ignore"]).sum()) if attrs["ignores"] else 0)
            counted = counted if attrs["ignores"] else target.numel()
        ignore = attrs["ignore"] if attrs["ignores"] else -100
        smoothing = attrs["smoothing"]
        assert isinstance(ignore, int) and isinstance(smoothing, float)
        loss = F.cross_entropy(
            x, target, weights, ignore_index=ignore, reduction="sum", label_smoothing=smoothing
        )
        share = inputs[-1] if attrs["shared"] else 1.0
        return (float(attrs["scale"]) * share * loss / counted).reshape(1)  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        base: dict[str, Attr] = {
            "weighted": False,
            "shared": False,
            "soft": False,
            "integer": False,
            "ignores": False,
            "ignore": 0,
            "smoothing": 0.0,
            "scale": 1.0,
        }

        def case(*shapes: Shape, **attrs: Attr) -> Sample:
            return Sample(shapes, {**base, **attrs}, low=0.1, high=2.0, grad=(0,))

        return (
            case((1, 5), (1,), (5,), weighted=True, integer=True, smoothing=0.1),
            case((1, 4, 70), (70,), (4,), weighted=True, ignores=True, ignore=1, scale=0.5),
            case((1, 3, 40), (3, 40), (1,), soft=True, shared=True, smoothing=0.2),
        )


class _ElementLoss(_Loss):
    """A loss of each element and its target."""

    per_element: ClassVar[int] = 5

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        if prod(shapes[0]) != prod(shapes[1]):
            raise GraphError(f"{self.name}: output {shapes[0]} and target {shapes[1]} differ")
        return super().infer(shapes, attrs)

    def ops(self, node: Node) -> int:
        return self.per_element * node.inputs[0].size

    def call(self, node: Node) -> Call:
        x = node.inputs[0].shape
        outputs = node.inputs[2].size if node["weighted"] else 1
        geometry = (("count", prod(x)), ("outputs", outputs), ("inner", prod(x[2:])))
        function = f"bt_{self.name}"
        return self._call(node, function, "bt_elements", geometry, node.float("delta"))

    def function(self, x: Any, target: Any, attrs: Mapping[str, Attr], weights: Any) -> Any:
        """The torch function, a mean."""
        raise NotImplementedError

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        x, target = inputs[0], inputs[1].reshape(inputs[0].shape)
        weights = inputs[2] if attrs["weighted"] else None
        if weights is not None:
            weights = weights.reshape(-1, *[1] * (x.dim() - 2))
        share = inputs[-1] if attrs["shared"] else 1.0
        mean = self.function(x, target, attrs, weights)
        return (float(attrs["scale"]) * share * mean).reshape(1)  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        base: dict[str, Attr] = {"weighted": False, "shared": False, "delta": 0.7, "scale": 2.0}
        return (
            Sample(((1, 3, 50), (150,)), base, low=-2.0, high=2.0, grad=(0,)),
            Sample(((1, 7), (7,), (1,)), {**base, "shared": True}, low=0.1, high=0.9, grad=(0,)),
        )


@register("bt_losses.h")
class MseLoss(_ElementLoss):
    """Mean of (prediction - target)^2."""

    name = "mse_loss"

    def function(self, x: Any, target: Any, attrs: Mapping[str, Attr], weights: Any) -> Any:
        import torch.nn.functional as F

        return F.mse_loss(x, target)


@register("bt_losses.h")
class L1Loss(_ElementLoss):
    """Mean of |prediction - target|."""

    name = "l1_loss"

    def function(self, x: Any, target: Any, attrs: Mapping[str, Attr], weights: Any) -> Any:
        import torch.nn.functional as F

        return F.l1_loss(x, target)


@register("bt_losses.h")
class HuberLoss(_ElementLoss):
    """Mean of the Huber loss."""

    name = "huber_loss"

    def function(self, x: Any, target: Any, attrs: Mapping[str, Attr], weights: Any) -> Any:
        import torch.nn.functional as F

        return F.huber_loss(x, target, delta=attrs["delta"])  # type: ignore[arg-type]


@register("bt_losses.h")
class BceLoss(_ElementLoss):
    """Mean of the binary cross-entropy of logits; weights are those of positive labels."""

    name = "bce_loss"
    per_element = 80

    def function(self, x: Any, target: Any, attrs: Mapping[str, Attr], weights: Any) -> Any:
        import torch.nn.functional as F

        return F.binary_cross_entropy_with_logits(x, target, pos_weight=weights)

    def samples(self) -> tuple[Sample, ...]:
        attrs: dict[str, Attr] = {"weighted": True, "shared": False, "delta": 0.0, "scale": 1.0}
        one = Sample(((1, 3, 50), (150,), (3,)), attrs, low=0.1, high=0.9, grad=(0,))
        return (*super().samples(), one)
