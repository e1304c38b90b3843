# SPDX-License-Identifier: Apache-2.0
"""Normalisation: statistics, their use, and their gradient, as separate nodes.

Group, layer, instance and batch norm differ only in which rows share a mean and a variance, so
they lower to the same few ops. A tensor is `rows` rows of time, `rows / channels` of them per
channel; the groups are runs of consecutive rows. Statistics come row by row in leaves (`op.LEAF`)
of samples, less a pivot and in two passes inside a leaf, combined by Chan's formula in order of
time and then of rows (T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise
algorithm for computing sample variances", 1979). The mean carries what its rounding lost, so that
a constant offset costs no digits.

Gamma and beta hold one number per channel, or (`each`) one per element of a group, as in layer
norm. What batch norm adds stands in `batch_norm.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import (
    NULL,
    Builder,
    Call,
    Composite,
    Op,
    Sample,
    float_literal,
    p_in,
    p_out,
    register,
    rows_times,
    x_in,
    x_out,
)


def _channels(shape: Shape) -> int:
    return shape[1] if len(shape) > 1 else 1


def norm_geometry(shape: Shape, groups: int) -> tuple[tuple[str, int], ...]:
    rows, times = rows_times(shape)
    channels = _channels(shape) if len(shape) > 2 else rows
    per_channel = rows // channels if rows % channels == 0 else 1
    return (("rows", rows), ("times", times), ("rows_per_channel", per_channel), ("groups", groups))


@register("bt_norm.h")
class RowMoments(Op):
    """Pivot, mean less pivot, and sum of squared distances of every row, (rows, 3)."""

    name = "row_moments"
    accumulates = True
    reduces_time = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((rows_times(shapes[0])[0], 3),)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        return (None,)  # norm_apply accounts for the path through the statistics

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return t0, t1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return r0, r1

    def ops(self, node: Node) -> int:
        return 6 * node.inputs[0].size

    def call(self, node: Node) -> Call:
        shape = node.inputs[0].shape
        box = rows_times(shape)
        return Call("bt_row_moments", "bt_norm", norm_geometry(shape, 1), (x_in(0), p_out()), box)


class Small(Op):
    """An op over a few numbers per row or group: not worth cutting along time."""

    def tiles(self, node: Node) -> bool:
        return False

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        return (None,) * len(wanted)


@register("bt_norm.h")
class GroupStats(Small):
    """Row moments -> mean, 1/sqrt(variance + eps) and what the mean lost, (groups, 3)."""

    name = "group_stats"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        groups = int(attrs["groups"])  # type: ignore[arg-type]
        if shapes[0][0] % groups:
            raise GraphError(f"{shapes[0][0]} rows cannot form {groups} equal groups")
        return ((groups, 3),)

    def call(self, node: Node) -> Call:
        rows = node.inputs[0].shape[0]
        groups = node.int("groups")
        geometry = (
            ("rows", rows),
            ("times", node.int("times")),
            ("rows_per_channel", 1),
            ("groups", groups),
        )
        extra = (float_literal(node.float("eps")),)
        operands = (p_in(0), p_out())
        return Call("bt_group_stats", "bt_norm", geometry, operands, (groups, 1), extra)


@register("bt_norm.h")
class NormApply(Op):
    """y = (x - mean) rstd gamma + beta; beta, or both, may be absent.

    `through_stats` says that mean and rstd were computed from x, so that the gradient also flows
    through them; with frozen statistics it does not. With `each`, gamma and beta have one number
    per element of a group.
    """

    name = "norm_apply"
    inplace = ((0, 0),)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, groups = shapes[0], shapes[1][0]
        if rows_times(x)[0] % groups:
            raise GraphError(f"{groups} statistics do not divide the rows of {x}")
        count = prod(x) // groups if attrs.get("each") else _channels(x)
        for affine in shapes[2:]:
            if prod(affine) != count:
                raise GraphError(f"norm of {x} takes {count} weights and biases, not {affine}")
        return (x,)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        x, stats = node.inputs[:2]
        gamma = node.inputs[2:3]
        through, each = bool(node["through_stats"]), bool(node.get("each", False))
        result: list[Value | None] = [None] * len(wanted)
        sums = None
        if (wanted[0] and through) or (any(wanted[2:]) and not each):
            weights = gamma if each else ()
            sums = b.one("norm_sums", x, stats, dy, *weights, hint=f"sums_{x.name}")
        for i, which in ((2, 1), (3, 0)):
            if len(wanted) <= i or not wanted[i]:
                continue
            affine = node.inputs[i]
            hint = f"d_{affine.name}"
            if each:
                saved = (x, stats) if which else ()
                result[i] = b.one("norm_each_gradient", dy, *saved, hint=hint, shape=affine.shape)
            else:
                assert sums is not None
                result[i] = b.one(
                    "norm_affine_gradient", sums, hint=hint, channels=affine.size, which=which
                )
        if wanted[0] and not through:
            result[0] = b.one("norm_dx_frozen", stats, dy, *gamma, hint=f"d_{x.name}")
        elif wanted[0]:
            assert sums is not None
            means = b.one(
                "group_sums",
                sums,
                *(() if each else gamma),
                hint=f"means_{x.name}",
                groups=stats.shape[0],
                times=rows_times(x.shape)[1],
            )
            attrs: dict[str, Attr] = {"each": True} if each else {}
            result[0] = b.one("norm_dx", x, stats, means, dy, *gamma, hint=f"d_{x.name}", **attrs)
        return result

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return (t0, t1) if index == 0 else None

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return r0, r1

    def ops(self, node: Node) -> int:
        return 5 * node.outputs[0].size

    def call(self, node: Node) -> Call:
        x = node.inputs[0].shape
        geometry = norm_geometry(x, node.inputs[1].shape[0])
        affine = tuple(p_in(i) if len(node.inputs) > i else NULL for i in (2, 3))
        function = "bt_norm_apply_each" if node.get("each", False) else "bt_norm_apply"
        operands = (x_in(0), p_in(1), *affine, x_out())
        return Call(function, "bt_norm", geometry, operands, rows_times(x))


@register("bt_norm.h")
class NormSums(Op):
    """Per row: sum of dy, and of dy times the normalised x; (rows, 2).

    A fourth input weighs dy element by element.
    """

    name = "norm_sums"
    accumulates = True
    reduces_time = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((rows_times(shapes[0])[0], 2),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return (t0, t1) if index in (0, 2) else None

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return r0, r1

    def ops(self, node: Node) -> int:
        return 6 * node.inputs[0].size

    def call(self, node: Node) -> Call:
        x = node.inputs[0].shape
        geometry = norm_geometry(x, node.inputs[1].shape[0])
        weights = p_in(3) if len(node.inputs) > 3 else NULL
        operands = (x_in(0), p_in(1), x_in(2), weights, p_out())
        return Call("bt_norm_sums", "bt_norm", geometry, operands, rows_times(x))


@register("bt_norm.h")
class NormAffineGradient(Small):
    """dgamma (`which` 1) or dbeta (`which` 0) of every channel, added to the output."""

    name = "norm_affine_gradient"
    accumulates = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((int(attrs["channels"]),),)  # type: ignore[arg-type]

    def call(self, node: Node) -> Call:
        rows = node.inputs[0].shape[0]
        channels = node.int("channels")
        geometry = (
            ("rows", rows),
            ("times", 1),
            ("rows_per_channel", rows // channels),
            ("groups", channels),
        )
        which = (str(node.int("which")),)
        operands = (p_in(0), p_out())
        return Call("bt_norm_affine_gradient", "bt_norm", geometry, operands, (channels, 1), which)


@register("bt_norm.h")
class NormEachGradient(Op):
    """Gradient of an affine per element, added to the output: dgamma += sum over groups of dy xhat.

    Inputs are dy, x and the statistics; dy alone gives dbeta += sum over groups of dy.
    """

    name = "norm_each_gradient"
    accumulates = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        shape = attrs["shape"]
        assert isinstance(shape, tuple)
        if shapes[0][-len(shape) :] != shape:
            raise GraphError(f"norm_each_gradient: {shapes[0]} does not end in {shape}")
        return (shape,)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return None if index == 2 else (t0, t1)

    def ops(self, node: Node) -> int:
        return (5 if len(node.inputs) > 1 else 1) * node.inputs[0].size

    def call(self, node: Node) -> Call:
        dy, box = node.inputs[0].shape, rows_times(node.ints("shape"))
        geometry = norm_geometry(dy, rows_times(dy)[0] // box[0])
        if len(node.inputs) == 1:
            return Call("bt_norm_each_bias", "bt_norm", geometry, (x_in(0), p_out()), box)
        operands = (x_in(0), x_in(1), p_in(2), p_out())
        return Call("bt_norm_each_weight", "bt_norm", geometry, operands, box)


@register("bt_norm.h")
class GroupSums(Small):
    """Means over a group of gamma dy and of gamma dy times the normalised x; (groups, 2)."""

    name = "group_sums"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((int(attrs["groups"]), 2),)  # type: ignore[arg-type]

    def call(self, node: Node) -> Call:
        rows = node.inputs[0].shape[0]
        channels = node.inputs[1].size if len(node.inputs) > 1 else rows
        geometry = (
            ("rows", rows),
            ("times", node.int("times")),
            ("rows_per_channel", rows // channels),
            ("groups", node.int("groups")),
        )
        gamma = p_in(1) if len(node.inputs) > 1 else NULL
        operands = (p_in(0), gamma, p_out())
        return Call("bt_group_sums", "bt_norm", geometry, operands, (node.int("groups"), 1))


@register("bt_norm.h")
class NormDx(Op):
    """dx = rstd (gamma dy - mean(gamma dy) - xhat mean(gamma dy xhat))."""

    name = "norm_dx"
    inplace = ((0, 3), (0, 0))

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[3],)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return (t0, t1) if index in (0, 3) else None

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return r0, r1

    def ops(self, node: Node) -> int:
        return 8 * node.outputs[0].size

    def call(self, node: Node) -> Call:
        x = node.inputs[0].shape
        gamma = p_in(4) if len(node.inputs) > 4 else NULL
        operands = (x_in(0), p_in(1), p_in(2), gamma, x_in(3), x_out())
        geometry = norm_geometry(x, node.inputs[1].shape[0])
        suffix = "_each" if node.get("each", False) else ""
        function = f"bt_norm_input_gradient{suffix}"
        return Call(function, "bt_norm", geometry, operands, rows_times(x))


def normalise(
    b: Builder,
    x: Value,
    groups: int,
    eps: float,
    affine: Sequence[Value] = (),
    each: bool = False,
    batch: bool = False,
) -> tuple[Value, Value]:
    """Normalise `x` over `groups` runs of rows; returns the result and the row moments.

    `batch` marks statistics that are taken over a whole batch where there is one.
    """
    hint = b.stem("norm")
    moments = b.one("row_moments", x, hint=f"{hint}_moments")
    times = rows_times(x.shape)[1]
    marks: dict[str, Attr] = {"groups": groups, "times": times, "eps": eps}
    marks |= {"batch": True} if batch else {}
    stats = b.one("group_stats", moments, hint=f"{hint}_stats", **marks)
    attrs: dict[str, Attr] = {"each": True} if each else {}
    y = b.one("norm_apply", x, stats, *affine, hint=hint, through_stats=True, **attrs)
    return y, moments


def channels_as_rows(b: Builder, x: Value) -> Value:
    """`x` with a time axis: (1, C) becomes (1, C, 1), so that channels are rows."""
    return x if len(x.shape) > 2 else b.one("reshape", x, shape=(*x.shape, 1))


def affine_of(args: Mapping[str, Any]) -> tuple[Value, ...]:
    """The affine parameters of a captured norm: none, the weight, or weight and bias."""
    weight, bias = args["weight"], args["bias"]
    if weight is None and bias is not None:
        raise CaptureError("a norm with a bias and no weight is not supported: give it both")
    return tuple(v for v in (weight, bias) if v is not None)


def affine_tensors(inputs: Sequence[Any]) -> tuple[Any, Any]:
    """(weight, bias) for a torch function, None where absent."""
    weight, bias = (*inputs, None, None)[:2]
    return weight, bias


@register("bt_norm.h")
class GroupNorm(Composite):
    """torch.nn.functional.group_norm(x, groups, gamma, beta, eps)."""

    name = "group_norm"
    captures = ("group_norm",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        affine = affine_of(args)
        groups, eps = args["num_groups"], float(args["eps"])
        return b.apply("group_norm", args["input"], *affine, groups=groups, eps=eps)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, groups = shapes[0], attrs["groups"]
        assert isinstance(groups, int)
        if len(x) < 2 or x[0] != 1 or x[1] % groups:
            raise GraphError(f"group_norm takes (1, C, ...), C a multiple of {groups}, not {x}")
        return (x,)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        groups, eps = attrs["groups"], attrs["eps"]
        assert isinstance(groups, int) and isinstance(eps, float)
        x = inputs[0]
        y = normalise(b, channels_as_rows(b, x), groups, eps, inputs[1:])[0]
        return y if y.shape == x.shape else b.one("reshape", y, shape=x.shape)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        weight, bias = affine_tensors(inputs[1:])
        return F.group_norm(inputs[0], attrs["groups"], weight, bias, attrs["eps"])  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 4, 700), (4,), (4,)), {"groups": 1, "eps": 1e-3}),
            Sample(((1, 6, 1, 237), (6,), (6,)), {"groups": 3, "eps": 1e-5}),
            Sample(((1, 4, 3, 50), (4,), (4,)), {"groups": 2, "eps": 1e-5}),
            Sample(((1, 5, 131),), {"groups": 5, "eps": 1e-5}),
            Sample(((1, 12), (12,)), {"groups": 2, "eps": 1e-5}),
        )


@register("bt_norm.h")
class LayerNorm(Composite):
    """torch.nn.functional.layer_norm(x, x.shape[-axes:], gamma, beta, eps)."""

    name = "layer_norm"
    captures = ("layer_norm",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        axes, eps = len(args["normalized_shape"]), float(args["eps"])
        return b.apply("layer_norm", args["input"], *affine_of(args), axes=axes, eps=eps)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, axes = shapes[0], attrs["axes"]
        assert isinstance(axes, int)
        if not 0 < axes <= len(x):
            raise GraphError(f"layer_norm: {x} has not {axes} axes to normalise")
        if any(affine != x[-axes:] for affine in shapes[1:]):
            raise GraphError(f"layer_norm over {x[-axes:]}: weight and bias are {shapes[1:]}")
        return (x,)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        x, (axes, eps) = inputs[0], (attrs["axes"], attrs["eps"])
        assert isinstance(axes, int) and isinstance(eps, float)
        groups = prod(x.shape[:-axes])
        return normalise(b, x, groups, eps, inputs[1:], each=len(inputs) > 1)[0]

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        axes = attrs["axes"]
        assert isinstance(axes, int)
        weight, bias = affine_tensors(inputs[1:])
        return F.layer_norm(inputs[0], inputs[0].shape[-axes:], weight, bias, attrs["eps"])  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 700), (700,), (700,)), {"axes": 1, "eps": 1e-5}),
            Sample(((1, 3, 2, 131), (2, 131), (2, 131)), {"axes": 2, "eps": 1e-3}),
            Sample(((1, 4, 9), (1, 4, 9)), {"axes": 3, "eps": 1e-5}),
            Sample(((1, 5, 20, 6),), {"axes": 1, "eps": 1e-5}),
        )
