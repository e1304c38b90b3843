# SPDX-License-Identifier: Apache-2.0
"""Ops that only move elements: reshape, permute, slice. `pad.py` and `cat.py` have the others."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import inf, isfinite, prod
from typing import Any

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import (
    Builder,
    Call,
    Op,
    Sample,
    Swapped,
    args_input,
    register,
    rows_times,
    swapped_axes,
    x_in,
    x_out,
)

AXES = 5
"""Axes of a tensor that the kernels move: four that make the rows, and time."""


def ints(attrs: Mapping[str, Attr], key: str) -> tuple[int, ...]:
    """The attribute `key` as a tuple of integers."""
    value = attrs[key]
    assert isinstance(value, tuple), (key, value)
    return value


def axis_index(axis: int, rank: int) -> int:
    """A torch axis, which may count from the end, as an index."""
    if not -rank <= axis < rank:
        raise GraphError(f"a tensor of {rank} axes has no axis {axis}")
    return axis % rank


def on_axes(values: Sequence[int], fill: int) -> tuple[int, ...]:
    """`values` for all `AXES` axes, with `fill` for the missing ones in front."""
    return (*[fill] * (AXES - len(values)), *values)


def check_axes(name: str, shape: Shape) -> None:
    """Raise `GraphError` for a tensor of more axes than the kernels move."""
    if not 1 <= len(shape) <= AXES:
        raise GraphError(f"{name} takes tensors of 1 to {AXES} axes, not {shape}")


def float_text(value: float) -> str:
    """A C expression that is exactly the float32 nearest to `value`."""
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        packed = struct.pack("<f", inf if value > 0 else -inf)
    if isfinite(struct.unpack("<f", packed)[0]):
        return f"{float(struct.unpack('<f', packed)[0]).hex()}f"
    return f"bt_from_bits({struct.unpack('<I', packed)[0]:#010x}u)"


class Move(Op):
    """An op that moves elements and executes no arithmetic."""

    def ops(self, node: Node) -> int:
        return 0


def reshaped(b: Builder, x: Value, shape: Shape) -> Value:
    """`x` under another shape. A view lies in the arena, so that a parameter is copied there."""
    if x.shape == shape:
        return x
    if x.kind not in ("input", "temp"):
        starts, steps = (0,) * len(x.shape), (1,) * len(x.shape)
        x = b.one("slice", x, hint=f"copy_{x.name}", starts=starts, sizes=x.shape, steps=steps)
    return b.one("reshape", x, shape=shape)


@register("bt_shape.h")
class Reshape(Move):
    """The same elements under another shape; costs nothing."""

    name = "reshape"
    alias = True
    captures = (
        "reshape",
        "view",
        "flatten",
        "squeeze",
        "unsqueeze",
        "unflatten",
        "contiguous",
        "ravel",
        "view_as",
        "reshape_as",
    )

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        return reshaped(b, args_input(args), args["_output_shape"])

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        shape = ints(attrs, "shape")
        if prod(shape) != prod(shapes[0]):
            raise GraphError(f"reshape: {shapes[0]} has not the elements of {shape}")
        return (shape,)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        x = node.inputs[0]
        return (b.one("reshape", dy, hint=f"d_{x.name}", shape=x.shape),)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].reshape(attrs["shape"])

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 3, 4),), {"shape": (1, 12)}),)


def crossed(shape: Shape) -> tuple[list[int], list[int]]:
    """(rows, times) that a step along each axis of a tensor crosses."""
    rows = [prod(shape[i + 1 : -1]) for i in range(len(shape) - 1)]
    return [*rows, 0], [*[0] * len(rows), 1]


def strided(node: Node, row: int, time: int, rows: Sequence[int], times: Sequence[int]) -> Call:
    """Copy what lies `rows` and `times` apart in the input, per axis of the output."""
    shape = node.outputs[0].shape
    n, r, t = on_axes(shape, 1), on_axes(rows, 0), on_axes(times, 0)
    geometry = {"n1": n[1], "n2": n[2], "n3": n[3], "row": row, "time": time}
    geometry |= {f"r{i}": r[i] for i in range(4)} | {f"t{i}": t[i] for i in range(4)}
    geometry |= {"row_step": r[4], "time_step": t[4]}
    operands = (x_in(0), x_out())
    box = rows_times(shape)
    return Call("bt_strided_copy", "bt_strided", tuple(geometry.items()), operands, box)


@register("bt_shape.h")
class Permute(Move):
    """Axis i of the output is axis `dims[i]` of the input."""

    name = "permute"
    captures = (
        "permute",
        "transpose",
        "swapaxes",
        "swapdims",
        "movedim",
        "moveaxis",
        "t",
        "mT",
        "mH",
        "matrix_H",
        "adjoint",
    )

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x = args_input(args)
        rank = len(x.shape)
        dims = list(range(rank))
        if "dims" in args:
            dims = [axis_index(d, rank) for d in args["dims"]]
        elif "source" in args:
            pairs = [
                [axis_index(d, rank) for d in (v if isinstance(v, (list, tuple)) else [v])]
                for v in (args["source"], args["destination"])
            ]
            dims = [d for d in dims if d not in pairs[0]]
            for target, source in sorted(zip(pairs[1], pairs[0], strict=True)):
                dims.insert(target, source)
        elif rank > 1:
            first, second = [v for k, v in args.items() if k[:-1] in ("dim", "axis")] or (-2, -1)
            i, j = axis_index(first, rank), axis_index(second, rank)
            dims[i], dims[j] = dims[j], dims[i]
        long = [d for d in dims if x.shape[d] > 1]
        if long == sorted(long):  # only axes of one element move
            return reshaped(b, x, tuple(x.shape[d] for d in dims))
        return b.one("permute", x, dims=tuple(dims))

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, dims = shapes[0], ints(attrs, "dims")
        check_axes("permute", x)
        if sorted(dims) != list(range(len(x))):
            raise GraphError(f"permute: {dims} is no order of the axes of {x}")
        return (tuple(x[d] for d in dims),)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        dims = node.ints("dims")
        back = tuple(dims.index(i) for i in range(len(dims)))
        return (b.one("permute", dy, hint=f"d_{node.inputs[0].name}", dims=back),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return (t0, t1) if self.tiles(node) else None

    def tiles(self, node: Node) -> bool:
        dims = node.ints("dims")
        return dims[-1] == len(dims) - 1

    def call(self, node: Node) -> Call:
        rows, times = crossed(node.inputs[0].shape)
        dims = node.ints("dims")
        return strided(node, 0, 0, [rows[d] for d in dims], [times[d] for d in dims])

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].permute(attrs["dims"])

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 5, 131),), {"dims": (0, 2, 1)}),
            Sample(((2, 3, 4, 37),), {"dims": (2, 0, 1, 3)}),
            Sample(((2, 3, 4, 5, 6),), {"dims": (4, 1, 3, 0, 2)}),
            Sample(((3, 7),), {"dims": (1, 0)}),
        )


@register("bt_shape.h")
class Slice(Move):
    """`sizes` elements along each axis, from `starts` on, `steps` apart."""

    name = "slice"
    captures = ("slice", "select", "narrow", "chunk", "split", "split_with_sizes", "unbind")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Any:
        x = args_input(args)
        axis = axis_index(args["dim"], len(x.shape))
        n = x.shape[axis]

        def part(start: int, size: int, step: int = 1) -> Value:
            if (start, size, step) == (0, n, 1):
                return x
            if size < 1:
                raise GraphError(f"a slice of axis {axis} of {x.shape} is empty")
            rank = len(x.shape)
            starts, sizes, steps = [0] * rank, list(x.shape), [1] * rank
            starts[axis], sizes[axis], steps[axis] = start, size, step
            return b.one("slice", x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))

        def parts(sizes: Sequence[int]) -> tuple[Value, ...]:
            return tuple(part(a, m) for a, m in zip(accumulate((0, *sizes)), sizes, strict=False))

        def one(index: int) -> Value:
            return reshaped(
                b, part(axis_index(index, n), 1), (*x.shape[:axis], *x.shape[axis + 1 :])
            )

        if "step" in args:
            start, stop = (
                default if v is None else min(max(v + n if v < 0 else v, 0), n)
                for v, default in ((args["start"], 0), (args["end"], n))
            )
            return part(start, len(range(start, stop, args["step"])), args["step"])
        if "index" in args:
            return one(args["index"])
        if "length" in args:
            return part(args["start"] % n, args["length"])
        if "chunks" in args or "split_size" in args or "split_sizes" in args:
            size = -(-n // args["chunks"]) if "chunks" in args else args.get("split_size")
            if isinstance(size, int):
                return parts([min(size, n - i) for i in range(0, n, size)])
            return parts(size if size is not None else args["split_sizes"])
        return tuple(one(i) for i in range(n))

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x = shapes[0]
        check_axes("slice", x)
        starts, sizes, steps = (ints(attrs, k) for k in ("starts", "sizes", "steps"))
        for n, start, size, step in zip(x, starts, sizes, steps, strict=True):
            if start < 0 or size < 1 or step < 1 or start + (size - 1) * step >= n:
                raise GraphError(f"slice: {size} elements from {start} by {step} are not in {x}")
        return (sizes,)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        x = node.inputs[0]
        starts, steps = node["starts"], node["steps"]
        hint = f"d_{x.name}"
        return (b.one("slice_dx", dy, hint=hint, starts=starts, steps=steps, x_shape=x.shape),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        start, step = node.ints("starts")[-1], node.ints("steps")[-1]
        return start + t0 * step, start + (t1 - 1) * step + 1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        x = node.inputs[0].shape
        over, starts = crossed(x)[0], node.ints("starts")
        steps = [s * n for s, n in zip(node.ints("steps"), over, strict=True)]
        first = sum(a * n for a, n in zip(starts, over, strict=True))
        sizes = node.ints("sizes")[:-1]

        def of(r: int) -> int:
            at = first
            for size, step in zip(reversed(sizes), reversed(steps[:-1]), strict=True):
                at, r = at + r % size * step, r // size
            return at

        return of(r0), of(r1 - 1) + 1

    def swapped(self, node: Node) -> Swapped | None:
        return Swapped(node.op, swapped_axes(node, "starts", "sizes", "steps"), (True,))

    def call(self, node: Node) -> Call:
        rows, times = crossed(node.inputs[0].shape)
        starts, steps = node.ints("starts"), node.ints("steps")
        row = sum(a * r for a, r in zip(starts, rows, strict=True))
        scaled = [[s * n for s, n in zip(steps, over, strict=True)] for over in (rows, times)]
        return strided(node, row, starts[-1], *scaled)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        starts, sizes, steps = (ints(attrs, k) for k in ("starts", "sizes", "steps"))
        return inputs[0][
            tuple(
                slice(a, a + n * s - s + 1, s) for a, n, s in zip(starts, sizes, steps, strict=True)
            )
        ]

    def samples(self) -> tuple[Sample, ...]:
        def case(x: Shape, starts: Shape, sizes: Shape, steps: Shape) -> Sample:
            return Sample((x,), {"starts": starts, "sizes": sizes, "steps": steps})

        return (
            case((1, 5, 131), (0, 0, 7), (1, 5, 100), (1, 1, 1)),
            case((1, 5, 131), (0, 1, 2), (1, 2, 43), (1, 2, 3)),
            case((2, 3, 4, 5, 6), (1, 0, 1, 2, 0), (1, 2, 2, 1, 6), (1, 2, 2, 1, 1)),
            case((9,), (4,), (3,), (2,)),
        )
