# SPDX-License-Identifier: Apache-2.0
"""Ops that put their input into a larger tensor: pad, and the gradient of a slice."""

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
    rows_times,
    x_in,
    x_out,
)
from biotrain.ops.selection import padded
from biotrain.ops.shape import Move, check_axes, float_text, ints, on_axes


def placed(node: Node, before: Sequence[int], steps: Sequence[int], value: float) -> Call:
    """Put the input into an output that holds `value` elsewhere."""
    x, y = node.inputs[0].shape, node.outputs[0].shape
    n, m, a, s = (
        on_axes(y, 1),
        on_axes(x, 1),
        on_axes(before, 0),
        on_axes(steps, 1),
    )
    geometry = {"n1": n[1], "n2": n[2], "n3": n[3]}
    geometry |= {f"m{i}": m[i] for i in range(4)} | {"times": m[4]}
    geometry |= {f"before{i}": a[i] for i in range(4)} | {"before": a[4]}
    geometry |= {f"step{i}": s[i] for i in range(4)} | {"step": s[4]}
    extra = (float_text(value),)
    operands = (x_in(0), x_out())
    return Call("bt_place", "bt_placed", tuple(geometry.items()), operands, rows_times(y), extra)


@register("bt_shape.h")
class SliceDx(Move):
    """Gradient of a slice: zeros, with dy where it was taken from."""

    name = "slice_dx"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (ints(attrs, "x_shape"),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        start, step = node.ints("starts")[-1], node.ints("steps")[-1]
        return -((start - t0) // step), (t1 - 1 - start) // step + 1

    def call(self, node: Node) -> Call:
        return placed(node, node.ints("starts"), node.ints("steps"), 0.0)


@register("bt_shape.h")
class Pad(Move):
    """`value` around x: `pads` holds (before, after) of every axis; a negative one crops."""

    name = "pad"
    captures = ("pad", "constant_pad_nd")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        mode = args.get("mode", "constant")
        if mode != "constant":
            return padded(b, args_input(args), [int(p) for p in args["pad"]], mode)
        x, given = args_input(args), [int(p) for p in args["pad"]]
        sides = [(given[i], given[i + 1]) for i in range(0, len(given), 2)][::-1]
        sides = [(0, 0)] * (len(x.shape) - len(sides)) + sides
        if not any(map(any, sides)):
            return x
        value = float(args["value"] or 0.0)
        return b.one("pad", x, pads=tuple(p for side in sides for p in side), value=value)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, pads = shapes[0], ints(attrs, "pads")
        check_axes("pad", x)
        if len(pads) != 2 * len(x):
            raise GraphError(f"pad takes two numbers per axis of {x}, not {pads}")
        y = tuple(n + a + z for n, a, z in zip(x, pads[::2], pads[1::2], strict=True))
        if min(y) < 1:
            raise GraphError(f"pad: nothing is left of {x} by {pads}")
        return (y,)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        pads = tuple(-p for p in node.ints("pads"))
        return (b.one("pad", dy, hint=f"d_{node.inputs[0].name}", pads=pads, value=0.0),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        before = node.ints("pads")[-2]
        return t0 - before, t1 - before

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return None if any(node.ints("pads")[:-2]) else (r0, r1)

    def swapped(self, node: Node) -> Swapped | None:
        attrs, pads = dict(node.attrs), node.ints("pads")
        attrs["pads"] = (*pads[:-4], *pads[-2:], *pads[-4:-2])
        return Swapped(node.op, attrs, (True,))

    def call(self, node: Node) -> Call:
        pads = node.ints("pads")
        return placed(node, pads[::2], (1,) * (len(pads) // 2), node.float("value"))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        pads = ints(attrs, "pads")
        pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)][::-1]
        return F.pad(inputs[0], [p for pair in pairs for p in pair], value=attrs["value"])  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 131),), {"pads": (0, 0, 0, 0, 5, 9), "value": 0.0}),
            Sample(((1, 3, 4, 20),), {"pads": (0, 0, 1, 0, -1, 2, -3, 4), "value": -1.5}),
            Sample(((2, 3, 2, 3, 7),), {"pads": (1, 0, -1, 1, 0, 0, 2, -1, -2, -2), "value": 2.0}),
            Sample(((4,),), {"pads": (200, 1), "value": 0.1}),
        )
