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
norm. `norm_layers.py` has the norms that lower to these ops, `batch_norm.py` what batch norm adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import (
    NULL,
    Builder,
    Call,
    Op,
    Swapped,
    float_literal,
    p_in,
    p_out,
    register,
    rows_times,
    x_in,
    x_out,
)


def channels_of(shape: Shape) -> int:
    """Number of channels of a tensor (1, C, ...)."""
    return shape[1] if len(shape) > 1 else 1


def norm_geometry(shape: Shape, groups: int) -> tuple[tuple[str, int], ...]:
    """The kernels' struct for a tensor whose rows form `groups` groups."""
    rows, times = rows_times(shape)
    channels = channels_of(shape) if len(shape) > 2 else rows
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

    def swapped(self, node: Node) -> Swapped | None:
        return Swapped(node.op, dict(node.attrs), (True,))

    def ops(self, node: Node) -> int:
        return 6 * node.inputs[0].size

    def call(self, node: Node) -> Call:
        shape = node.inputs[0].shape
        box = rows_times(shape)
        return Call("bt_row_moments", "bt_norm", norm_geometry(shape, 1), (x_in(0), p_out()), box)


class Small(Op):
    """An op over a few numbers per row or group: it is not tiled along time."""

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
        count = prod(x) // groups if attrs.get("each") else channels_of(x)
        for affine in shapes[2:]:
            if prod(affine) != count:
                raise GraphError(f"norm of {x} takes {count} weights and biases, not {affine}")
        return (x,)

    def swapped(self, node: Node) -> Swapped | None:
        x, stats = node.inputs[0].shape, node.inputs[1].shape
        if node.get("each", False) or len(x) != 4 or x[0] != 1 or x[1] % stats[0]:
            return None
        return Swapped(node.op, dict(node.attrs), (True, *[False] * (len(node.inputs) - 1)))

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
    """Gradient of a weight per element, added to the output: dgamma += sum over groups of dy xhat.

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
