# SPDX-License-Identifier: Apache-2.0
"""The gradients of average pooling and ReLU in one pass (made by `rewrite.fuse`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import biotrain.ops.pool  # noqa: F401  (its ops are asked for their geometry)
from biotrain.ir.graph import Attr, Node, Shape
from biotrain.ir.op import OPS, Call, Op, Sample, register, x_in, x_out


def _pool(node: Node) -> Node:
    """The pooling gradient in a fused node."""
    return replace(node, op="avg_pool_dx", inputs=node.inputs[:1])


def _x_shape(attrs: Mapping[str, Attr]) -> Shape:
    shape = attrs["x_shape"]
    assert isinstance(shape, tuple)
    return shape


@register("bt_pool_relu.h")
class AvgPoolReluDx(Op):
    """dx = avg_pool_dx(dy) where y > 0, else 0; dx may lie on y."""

    name = "avg_pool_relu_dx"
    inplace = ((0, 1),)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return OPS["avg_pool_dx"].infer(shapes[:1], attrs)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return OPS["avg_pool_dx"].window(_pool(node), 0, t0, t1) if index == 0 else (t0, t1)

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return OPS["avg_pool_dx"].rows(_pool(node), 0, r0, r1) if index == 0 else (r0, r1)

    def ops(self, node: Node) -> int:
        return OPS["avg_pool_dx"].ops(_pool(node)) + node.outputs[0].size

    def call(self, node: Node) -> Call:
        plain = OPS["avg_pool_dx"].call(_pool(node))
        operands = (x_in(0), x_in(1), x_out())
        return Call("bt_avg_pool_relu_dx", plain.struct, plain.geometry, operands, plain.box)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        dy, y = inputs
        x = torch.zeros(_x_shape(attrs), dtype=dy.dtype, requires_grad=True)
        OPS["avg_pool"].reference(attrs, x).backward(dy)
        assert x.grad is not None
        return torch.where(y > 0, x.grad, torch.zeros_like(x.grad))

    def samples(self) -> tuple[Sample, ...]:
        def case(dy: Shape, x: Shape, kernel: Shape, stride: Shape) -> Sample:
            attrs: dict[str, Attr] = {
                "kernel": kernel,
                "stride": stride,
                "padding": (0, 0),
                "dilation": (1, 1),
                "x_shape": x,
            }
            return Sample((dy, x), attrs, grad=())

        return (
            case((1, 3, 1, 29), (1, 3, 1, 237), (1, 8), (1, 8)),
            case((1, 2, 63), (1, 2, 131), (1, 7), (1, 2)),
        )
