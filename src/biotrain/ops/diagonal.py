# SPDX-License-Identifier: Apache-2.0
"""The diagonal of a matrix, the matrix of a diagonal, and `x.T`: moves of elements.

In a matrix of n columns, flat, an element of the diagonal stands every n + 1 elements: they are a
column of the same elements in rows of n + 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Shape, Value
from biotrain.ir.op import Builder, Composite, Sample, args_input, register
from biotrain.ops.matmul import transposed
from biotrain.ops.shape import reshaped


@register("bt_shape.h")
class Diag(Composite):
    """torch.diag: a vector becomes a matrix, of a square matrix the diagonal is taken."""

    name = "diag"
    captures = ("diag", "diag_embed", "diagonal", "diagonal_copy")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x = args_input(args)
        if args.get("diagonal") or args.get("offset") or len(x.shape) > 2:
            raise CaptureError("diag takes a vector or a square matrix, and the main diagonal")
        return b.apply("diag", x)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        (x,) = shapes
        if len(x) == 1:
            return ((*x, *x),)
        if len(x) != 2 or x[0] != x[1]:
            raise GraphError(f"diag takes a vector or a square matrix, not {x}")
        return (x[:1],)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        (x,) = inputs
        n = x.shape[0]
        if len(x.shape) == 1:
            wide = b.one("pad", reshaped(b, x, (n, 1)), pads=(0, 0, 0, n), value=0.0)
            flat = reshaped(b, wide, (1, n * (n + 1)))
            kept = b.one("slice", flat, starts=(0, 0), sizes=(1, n * n), steps=(1, 1))
            return reshaped(b, kept, (n, n))
        flat = b.one("pad", reshaped(b, x, (1, n * n)), pads=(0, 0, 0, n), value=0.0)
        wide = reshaped(b, flat, (n, n + 1))
        first = b.one("slice", wide, starts=(0, 0), sizes=(n, 1), steps=(1, 1))
        return reshaped(b, first, (n,))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        return torch.diag(inputs[0])

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((7,),), {}), Sample(((6, 6),), {}), Sample(((1,),), {}))


@register("bt_shape.h")
class Reversed(Composite):
    """`x.T`: the axes in reverse order."""

    name = "numpy_T"
    captures = ("numpy_T",)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0][::-1],)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        return transposed(b, inputs[0], range(len(inputs[0].shape))[::-1])

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].permute(*range(inputs[0].dim())[::-1])

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((5, 33),), {}), Sample(((2, 3, 20),), {}), Sample(((4,),), {}))
