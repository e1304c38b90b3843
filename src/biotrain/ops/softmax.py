# SPDX-License-Identifier: Apache-2.0
"""Softmax along any axis.

Along time a call works on rows; along another axis on columns, so that it may be tiled along time.
A box that holds a part of the axis reads all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Node, Shape, Span, Value
from biotrain.ir.op import Builder, Call, Op, Sample, args_input, register, rows_times, x_in, x_out
from biotrain.ops.shape import axis_index

EXP_OPS = 20
"""Multiplies and adds of one exponential (rt/bt_math.h)."""


class _Softmax(Op):
    """What softmax and its gradient share: the axis, and what a box reads."""

    each: int
    """Operations of one element for the sum over the axis; the result takes as many again."""

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, axis, causal = shapes[0], attrs["axis"], bool(attrs["causal"])
        assert isinstance(axis, int)
        if any(shape != x for shape in shapes) or not 0 <= axis < max(1, len(x)):
            raise GraphError(f"{self.name}: {list(shapes)} along axis {axis}")
        if causal and axis == len(x) - 1:
            raise GraphError(f"{self.name}: causal along the last axis is not there")
        return (x,)

    def _axis(self, node: Node) -> tuple[int, int]:
        """Entries of the axis, and how many rows lie between two of them; 0 rows: it is time."""
        shape, axis = node.outputs[0].shape or (1,), node.int("axis")
        inner = 0 if axis == len(shape) - 1 else prod(shape[axis + 1 : -1])
        return shape[axis], inner

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return (t0, t1) if self._axis(node)[1] else None

    def tiles(self, node: Node) -> bool:
        return self._axis(node)[1] > 0

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        group = self.row_step(node)
        return r0 // group * group, -(-r1 // group) * group

    def row_step(self, node: Node) -> int:
        n, inner = self._axis(node)
        return n * inner or 1

    def ops(self, node: Node) -> int:
        return 2 * self.each * node.outputs[0].size

    def shared_ops(self, node: Node, box: Span) -> int:
        n, inner = self._axis(node)
        r0, r1 = self.rows(node, 0, box.r0, box.r1) or (box.r0, box.r1)
        times = box.t1 - box.t0 if inner else n
        return self.each * (r1 - r0) * times

    def call(self, node: Node) -> Call:
        n, inner = self._axis(node)
        geometry = (("n", n), ("inner", inner), ("causal", int(bool(node["causal"]))))
        kind = "rows" if inner else "time"
        tail = "_dx" if self.name.endswith("_dx") else ""
        operands = (*(x_in(i) for i in range(len(node.inputs))), x_out())
        box = rows_times(node.outputs[0].shape)
        return Call(f"bt_softmax_{kind}{tail}", "bt_softmax", geometry, operands, box)


@register("bt_softmax.h")
class Softmax(_Softmax):
    """exp(x) / sum exp(x) along `axis`; `causal`: column t has the entries k <= t only."""

    name = "softmax"
    captures = ("softmax", "_softmax")
    inplace = ((0, 0),)
    each = EXP_OPS

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        dtype = args.get("dtype")
        if dtype is not None and str(dtype) != "torch.float32":
            raise CaptureError(f"softmax with dtype {dtype} is not supported: it is float32")
        x = args_input(args)
        return b.one("softmax", x, axis=axis_index(args["dim"], len(x.shape)), causal=False)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        hint = f"d_{node.inputs[0].name}"
        return (b.one("softmax_dx", node.outputs[0], dy, hint=hint, **dict(node.attrs)),)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        x, axis = inputs[0], attrs["axis"]
        assert isinstance(axis, int)
        if attrs["causal"]:
            keys, columns = torch.arange(x.shape[axis]), torch.arange(x.shape[-1])
            shape = [1] * x.dim()
            shape[axis], shape[-1] = x.shape[axis], x.shape[-1]
            mask = (keys[:, None] <= columns[None, :]).reshape(shape)
            x = x.masked_fill(~mask, float("-inf"))
        return x.softmax(axis)

    def samples(self) -> tuple[Sample, ...]:
        def case(x: Shape, axis: int, causal: bool = False) -> Sample:
            return Sample((x,), {"axis": axis, "causal": causal})

        return (
            case((1, 3, 2, 131), 3),
            case((5, 7), 1),
            case((1, 4, 40, 70), 2),
            case((1, 6, 3, 37), 1),
            case((1, 2, 33, 33), 2, causal=True),
        )


@register("bt_softmax.h")
class SoftmaxDx(_Softmax):
    """dx = y (dy - sum of y dy along the axis)."""

    name = "softmax_dx"
    inplace = ((0, 1), (0, 0))
    each = 2
