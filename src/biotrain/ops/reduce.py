# SPDX-License-Identifier: Apache-2.0
"""Sums over axes, and their mirror image: one value for many elements.

A tensor is broadcast to a larger one by numpy's rules. Its rows are found from the larger one's
row by at most three merged axes (`spread`), which is what the kernels of `binary` use as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import (
    Builder,
    Call,
    Composite,
    Op,
    Sample,
    Swapped,
    args_input,
    float_literal,
    p_out,
    register,
    rows_times,
    swapped_axes,
    x_in,
    x_out,
)
from biotrain.ops.shape import reshaped

Spread = tuple[int, int, int, int]
"""Row strides of an operand along three axes, and 1 or 0: whether it has times of its own."""


def spread(full: Shape, *others: Shape) -> tuple[tuple[int, int, int], list[Spread]]:
    """Rows of `full` as three axes, and how the rows of each other tensor follow from them.

    Neighbouring axes merge where every operand has both or neither.
    """
    full = full or (1,)
    padded = []
    for other in others:
        if len(other) > len(full):
            extra = len(other) - len(full)
            if any(n != 1 for n in other[:extra]):
                raise GraphError(f"shape {other} cannot be broadcast to {full}")
            other = other[extra:]
        wide = (1,) * (len(full) - len(other)) + other
        if any(n not in (1, m) for n, m in zip(wide, full, strict=True)):
            raise GraphError(f"shape {other} cannot be broadcast to {full}")
        padded.append(wide)
    dims: list[int] = []
    owners: list[tuple[bool, ...]] = []
    for axis, n in enumerate(full[:-1]):
        own = tuple(wide[axis] == n for wide in padded)
        if n == 1:
            continue
        if owners and owners[-1] == own:
            dims[-1] *= n
        else:
            dims.append(n)
            owners.append(own)
    if len(dims) > 3:
        raise GraphError(f"broadcasting {others} to {full} alternates over more than three axes")
    missing = 3 - len(dims)
    dims = [1] * missing + dims
    owners = [(False,) * len(others)] * missing + owners
    result: list[Spread] = []
    for i, wide in enumerate(padded):
        strides, step = [0, 0, 0], 1
        for axis in (2, 1, 0):
            if owners[axis][i]:
                strides[axis], step = step, step * dims[axis]
        result.append((strides[0], strides[1], strides[2], int(wide[-1] == full[-1])))
    return (dims[0], dims[1], dims[2]), result


def _target(attrs: Mapping[str, Attr]) -> Shape:
    shape = attrs["shape"]
    assert isinstance(shape, tuple)
    return shape


def _last(shape: Shape) -> int:
    return shape[-1] if shape else 1


def reduce_to(
    b: Builder,
    x: Value,
    shape: Shape,
    *,
    factor: Value | None = None,
    scale: float = 1.0,
    hint: str = "",
) -> Value:
    """scale times the sum of x (times `factor`) over the axes that `shape` does not have."""
    op = "sum_rows" if _last(shape) == _last(x.shape) else "sum_to"
    operands = (x,) if factor is None else (x, factor)
    return b.one(op, *operands, hint=hint, shape=shape, scale=scale)


class _Sum(Op):
    """y += scale sum of x [times a factor that is broadcast to x]."""

    accumulates = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        shape = _target(attrs)
        spread(shapes[0], shape, *shapes[1:])
        if (_last(shape) != _last(shapes[0])) != self.reduces_time:
            raise GraphError(f"{self.name} does not lead from {shapes[0]} to {shape}")
        return (shape,)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        if len(node.inputs) > 1:
            return super().vjp(b, node, grads, wanted)
        (dy,) = grads
        assert dy is not None
        x = node.inputs[0]
        hint = f"d_{x.name}"
        return (b.one("expand", dy, hint=hint, shape=x.shape, scale=node.float("scale")),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        own = _last(node.inputs[index].shape) == _last(node.inputs[0].shape)
        return (t0, t1) if own else None

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        own = rows_times(node.inputs[index].shape)[0] == rows_times(node.outputs[0].shape)[0]
        return (r0, r1) if own else None

    def swapped(self, node: Node) -> Swapped | None:
        x, y = node.inputs[0].shape, node.outputs[0].shape
        if len(node.inputs) > 1 or len(x) != len(y):
            return None
        op = "sum_rows" if x[-2] == y[-2] else "sum_to"
        return Swapped(op, swapped_axes(node, "shape"), (True,))

    def ops(self, node: Node) -> int:
        return node.inputs[0].size * len(node.inputs)

    def call(self, node: Node) -> Call:
        x, y = node.inputs[0].shape, node.outputs[0].shape
        product = len(node.inputs) > 1
        (n0, n1, n2), (kept, factor) = spread(x, y, node.inputs[-1].shape)
        geometry = [("n0", n0), ("n1", n1), ("n2", n2)]
        geometry += [(f"k{i}", int(kept[i] > 0)) for i in range(3)]
        if product:
            geometry += [(f"f{i}", factor[i]) for i in range(3)] + [("f_times", factor[3])]
        out = p_out() if self.reduces_time else x_out()
        views = tuple(x_in(i) for i in range(len(node.inputs)))
        box = (rows_times(y)[0], rows_times(x)[1])
        function = f"bt_{self.name}" + ("_product" if product else "")
        extra = (float_literal(node.float("scale")),)
        return Call(function, "bt_reduce", tuple(geometry), (*views, out), box, extra)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        x = inputs[0] * inputs[1] if len(inputs) > 1 else inputs[0]
        return x.sum_to_size(attrs["shape"]) * attrs["scale"]


@register("bt_reduce.h")
class SumTo(_Sum):
    """Sum over time, and over the other axes that the target shape does not have."""

    name = "sum_to"
    reduces_time = True

    def samples(self) -> tuple[Sample, ...]:
        def case(x: Shape, shape: Shape, *factor: Shape, scale: float = 1.0) -> Sample:
            grad = () if factor else None
            return Sample((x, *factor), {"shape": shape, "scale": scale}, grad=grad)

        return (
            case((1, 3, 700), (1, 3, 1), scale=-0.5),
            case((1, 3, 2, 650), (3, 1, 1)),
            case((1, 2, 3, 50), (1, 2, 1, 1)),
            case((1, 2, 3, 50), (1, 1, 3, 1)),
            case((2, 3, 2, 9), (2, 1, 2, 1)),
            case((5, 7), ()),
            case((1, 131), (1, 1)),
            case((1, 3, 700), (1, 3, 1), (1, 3, 700)),
            case((1, 3, 2, 650), (1, 1, 2, 1), (1, 3, 1, 650), scale=-1.0),
            case((2, 3, 2, 40), (3, 1, 1), (2, 1, 2, 1)),
            case((4, 30), (), ()),
        )


@register("bt_reduce.h")
class SumRows(_Sum):
    """Sum over axes that are not time; an element that keeps every axis is added as it is."""

    name = "sum_rows"

    def samples(self) -> tuple[Sample, ...]:
        def case(x: Shape, shape: Shape, *factor: Shape, scale: float = 1.0) -> Sample:
            grad = () if factor else None
            return Sample((x, *factor), {"shape": shape, "scale": scale}, grad=grad)

        return (
            case((1, 3, 700), (1, 1, 700), scale=0.25),
            case((1, 3, 2, 50), (1, 3, 1, 50)),
            case((2, 3, 2, 50), (3, 1, 50)),
            case((2, 3, 2, 50), (2, 1, 2, 50)),
            case((1, 6, 1), (1, 1, 1)),
            case((1, 9), (9,)),
            case((1, 3, 131), (1, 131), (1, 3, 131)),
            case((2, 3, 2, 40), (3, 1, 40), (2, 1, 2, 1), scale=-1.0),
            case((4, 30), (30,), (4, 1)),
        )


@register("bt_reduce.h")
class Expand(Op):
    """scale x, broadcast to a shape."""

    name = "expand"
    captures = ("expand", "expand_as", "broadcast_to")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x, shape = args_input(args), args["_output_shape"]
        if x.size == prod(shape):
            return reshaped(b, x, shape)
        return b.one("expand", x, shape=shape, scale=1.0)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        spread(_target(attrs), shapes[0])
        return (_target(attrs),)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        x = node.inputs[0]
        return (reduce_to(b, dy, x.shape, scale=node.float("scale"), hint=f"d_{x.name}"),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        own = _last(node.inputs[0].shape) == _last(node.outputs[0].shape)
        return (t0, t1) if own else None

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        own = rows_times(node.inputs[0].shape)[0] == rows_times(node.outputs[0].shape)[0]
        return (r0, r1) if own else None

    def swapped(self, node: Node) -> Swapped | None:
        if len(node.inputs[0].shape) != len(node.outputs[0].shape):
            return None
        return Swapped(node.op, swapped_axes(node, "shape"), (True,))

    def ops(self, node: Node) -> int:
        return 0 if node.float("scale") == 1.0 else node.outputs[0].size

    def call(self, node: Node) -> Call:
        y = node.outputs[0].shape
        (_, n1, n2), [(x0, x1, x2, times)] = spread(y, node.inputs[0].shape)
        geometry = (
            ("n1", n1),
            ("n2", n2),
            ("x0", x0),
            ("x1", x1),
            ("x2", x2),
            ("x_times", times),
        )
        extra = (float_literal(node.float("scale")),)
        box = rows_times(y)
        return Call("bt_expand", "bt_expansion", geometry, (x_in(0), x_out()), box, extra)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].expand(attrs["shape"]) * attrs["scale"]

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 1),), {"shape": (1, 3, 700), "scale": 0.1}),
            Sample(((1, 1, 50),), {"shape": (1, 3, 50), "scale": 1.0}),
            Sample(((3, 1, 1),), {"shape": (2, 3, 2, 9), "scale": 1.0}),
            Sample(((),), {"shape": (2, 5), "scale": -1.0}),
        )


class _Total(Composite):
    """A sum or mean over the axes `dims`, which stay as axes of length 1 with `keepdim`."""

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x = args_input(args)
        dtype = args.get("dtype")
        if dtype is not None and str(dtype) != "torch.float32":
            raise CaptureError(f"{self.name} with dtype {dtype} is not supported: it is float32")
        dims = args.get("dim")
        dims = [] if dims is None else [dims] if isinstance(dims, int) else list(dims)
        rank = len(x.shape)
        chosen = sorted(d % rank for d in dims) or list(range(rank))
        return b.apply(self.name, x, dims=tuple(chosen), keepdim=bool(args.get("keepdim", False)))

    def _dims(self, attrs: Mapping[str, Attr]) -> tuple[int, ...]:
        dims = attrs["dims"]
        assert isinstance(dims, tuple)
        return dims

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, dims = shapes[0], self._dims(attrs)
        if any(not 0 <= d < len(x) for d in dims):
            raise GraphError(f"{self.name}: axes {dims} are not those of {x}")
        if attrs["keepdim"]:
            return (tuple(1 if i in dims else n for i, n in enumerate(x)),)
        return (tuple(n for i, n in enumerate(x) if i not in dims),)

    def scale(self, count: int) -> float:
        """What the sum of `count` elements is multiplied by."""
        raise NotImplementedError

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        x, dims = inputs[0], self._dims(attrs)
        (shape,) = self.infer([x.shape], attrs)
        kept = tuple(1 if i in dims else n for i, n in enumerate(x.shape))
        y = x
        if kept != x.shape:
            y = reduce_to(b, x, kept, scale=self.scale(x.size // prod(kept)))
        return reshaped(b, y, shape)


@register("bt_reduce.h")
class Mean(_Total):
    """Mean over axes: the sums of leaves, each times 1 / count, added up."""

    name = "mean"
    captures = ("mean",)

    def scale(self, count: int) -> float:
        return 1.0 / count

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].mean(attrs["dims"], attrs["keepdim"])

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 700),), {"dims": (2,), "keepdim": False}),
            Sample(((1, 3, 2, 50),), {"dims": (1, 3), "keepdim": True}),
            Sample(((1, 3, 131),), {"dims": (1,), "keepdim": False}),
            Sample(((1, 3, 40),), {"dims": (0, 1, 2), "keepdim": False}),
        )


@register("bt_reduce.h")
class Sum(_Total):
    """Sum over axes."""

    name = "sum"
    captures = ("sum",)

    def scale(self, count: int) -> float:
        return 1.0

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].sum(attrs["dims"], attrs["keepdim"])

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 2, 650),), {"dims": (2, 3), "keepdim": False}),
            Sample(((2, 7),), {"dims": (0,), "keepdim": True}),
        )
