# SPDX-License-Identifier: Apache-2.0
"""Elements in reverse order along axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import (
    Builder,
    Call,
    Sample,
    Swapped,
    args_input,
    register,
    swapped_axes,
)
from biotrain.ops.shape import Move, axis_index, check_axes, crossed, ints, strided


@register("bt_shape.h")
class Flip(Move):
    """The elements along the axes where `axes` holds 1, in reverse order."""

    name = "flip"
    captures = ("flip", "fliplr", "flipud")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x = args_input(args)
        rank = len(x.shape)
        axes = [0] * rank
        for d in args["dims"]:
            axes[axis_index(d, rank)] = 1
        return b.one("flip", x, axes=tuple(axes))

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        check_axes("flip", shapes[0])
        if len(ints(attrs, "axes")) != len(shapes[0]):
            raise GraphError(f"flip takes a number per axis of {shapes[0]}, not {attrs['axes']}")
        return (shapes[0],)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        return (b.one("flip", dy, hint=f"d_{node.inputs[0].name}", axes=node["axes"]),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        n = node.inputs[0].shape[-1]
        return (n - t1, n - t0) if node.ints("axes")[-1] else (t0, t1)

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return None if any(node.ints("axes")[:-1]) else (r0, r1)

    def swapped(self, node: Node) -> Swapped | None:
        return Swapped(node.op, swapped_axes(node, "axes"), (True,))

    def call(self, node: Node) -> Call:
        x, axes = node.inputs[0].shape, node.ints("axes")
        rows, times = crossed(x)
        signs = [-1 if a else 1 for a in axes]
        first = sum(a * (n - 1) * r for a, n, r in zip(axes, x, rows, strict=True))
        start = axes[-1] * (x[-1] - 1)
        moved = [[s * n for s, n in zip(signs, each, strict=True)] for each in (rows, times)]
        return strided(node, first, start, *moved)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].flip([i for i, a in enumerate(ints(attrs, "axes")) if a])

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 131),), {"axes": (0, 0, 1)}),
            Sample(((1, 3, 4, 20),), {"axes": (0, 1, 0, 1)}),
            Sample(((2, 3, 2, 3, 7),), {"axes": (1, 0, 1, 1, 0)}),
            Sample(((9,),), {"axes": (1,)}),
        )
