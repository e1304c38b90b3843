# SPDX-License-Identifier: Apache-2.0
"""Linear layer over the last axis: y = x w^T + b, torch's layout w (outputs, inputs)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import (
    LEAF,
    NULL,
    Builder,
    Call,
    Op,
    Operand,
    Sample,
    Swapped,
    p_in,
    p_out,
    register,
    x_in,
    x_out,
)
from biotrain.ir.split import Split


class _Linear(Op):
    """What the layer and its gradients share."""

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        """A row of the result is made of one row; a sum over rows takes all of them."""
        return None if self.accumulates else (r0, r1)

    def _call(
        self, function: str, x: Shape, outputs: int, box: tuple[int, int], *operands: Operand
    ) -> Call:
        geometry = (("rows", prod(x[:-1])), ("inputs", x[-1]), ("outputs", outputs))
        return Call(function, "bt_linear", geometry, operands, box)


@register("bt_linear.h")
class Linear(_Linear):
    """y = x w^T [+ b] over the last axis."""

    name = "linear"
    captures = ("linear",)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, w = shapes[:2]
        if not x or x[-1] != w[1]:
            raise GraphError(f"linear: x {x} does not match w {w}")
        return ((*x[:-1], w[0]),)

    def macs(self, node: Node) -> int:
        return node.outputs[0].size * node.inputs[1].shape[1]

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        x, w = node.inputs[:2]
        dx = dw = db = None
        if wanted[1]:
            dw = b.one("linear_dw", x, dy, hint=f"d_{w.name}")
        if len(wanted) > 2 and wanted[2]:
            db = b.one("linear_db", dy, hint=f"d_{node.inputs[2].name}")
        if wanted[0]:
            dx = b.one("linear_dx", dy, w, hint=f"d_{x.name}")
        return (dx, dw, db)[: len(wanted)]

    def swapped(self, node: Node) -> Swapped | None:
        """A convolution of one tap: its sums over rows, which are times then, have leaves."""
        x, w = node.inputs[0].shape, node.inputs[1]
        if prod(x[:-2]) != 1 or w.kind != "param":
            return None
        attrs: dict[str, Attr] = {"stride": (1, 1), "dilation": (1, 1), "groups": 1}
        attrs["padding"] = (0, 0, 0, 0)
        return Swapped("conv", attrs, (True, True, False)[: len(node.inputs)])

    def split(self, node: Node) -> Split:
        return Split(rows=1, times=1)  # "times" are outputs, each a sum of its own

    def call(self, node: Node) -> Call:
        x, y = node.inputs[0].shape, node.outputs[0].shape
        bias = p_in(2) if len(node.inputs) > 2 else NULL
        box = (prod(y[:-1]), y[-1])
        return self._call("bt_linear_forward", x, y[-1], box, x_in(0), p_in(1), bias, x_out())

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        return F.linear(*inputs)

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 300), (2, 300), (2,)), {}),
            Sample(((1, 5), (7, 5)), {}),
            Sample(((1, 6, 20), (11, 20), (11,)), {}),
        )


@register("bt_linear.h")
class LinearDx(_Linear):
    """dx = dy w."""

    name = "linear_dx"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((*shapes[0][:-1], shapes[1][1]),)

    def macs(self, node: Node) -> int:
        return node.outputs[0].size * node.inputs[1].shape[0]

    def call(self, node: Node) -> Call:
        dy, dx = node.inputs[0].shape, node.outputs[0].shape
        box = (prod(dx[:-1]), dx[-1])
        operands = (x_in(0), p_in(1), x_out())
        return self._call("bt_linear_input_gradient", dx, dy[-1], box, *operands)


@register("bt_linear.h")
class LinearDw(_Linear):
    """dw += sum over rows of dy x, added to the output."""

    name = "linear_dw"
    accumulates = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((shapes[1][-1], shapes[0][-1]),)

    def macs(self, node: Node) -> int:
        return node.inputs[0].size * node.inputs[1].shape[-1]

    def tiles(self, node: Node) -> bool:
        return False

    def split(self, node: Node) -> Split:
        return Split(rows=1, times=LEAF)  # outputs x inputs: the sum is over rows of x

    def call(self, node: Node) -> Call:
        x, dy = node.inputs[0].shape, node.inputs[1].shape
        box = (dy[-1], x[-1])
        operands = (x_in(0), x_in(1), p_out())
        return self._call("bt_linear_weight_gradient", x, dy[-1], box, *operands)


@register("bt_linear.h")
class LinearDb(_Linear):
    """db += sum over rows of dy, added to the output."""

    name = "linear_db"
    accumulates = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((shapes[0][-1],),)

    def tiles(self, node: Node) -> bool:
        return False

    def split(self, node: Node) -> Split:
        return Split(times=LEAF)  # the box has one row; its times are the outputs

    def call(self, node: Node) -> Call:
        dy = node.inputs[0].shape
        box = (1, dy[-1])
        return self._call("bt_linear_bias_gradient", dy, dy[-1], box, x_in(0), p_out())
