# SPDX-License-Identifier: Apache-2.0
"""Normalisation: statistics, their use, and their gradient, as separate nodes.

Group, layer, instance and batch norm differ only in which rows share a mean and a variance, so
they lower to the same few ops. A tensor is `rows` rows of time, `rows / channels` of them per
channel; the groups are runs of consecutive rows. Statistics come row by row in leaves of 128
samples, two passes inside a leaf, combined by Chan's formula in order of time and then of rows
(T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing
sample variances", 1979), so that a constant offset costs no digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir import Attr, Node, Shape, Value
from biotrain.op import (
    NULL,
    Builder,
    Call,
    Composite,
    Op,
    Operand,
    Sample,
    p_in,
    p_out,
    register,
    rows_times,
    x_in,
    x_out,
)


def _channels(shape: Shape) -> int:
    return shape[1] if len(shape) > 1 else 1


def _geometry(shape: Shape, groups: int) -> tuple[tuple[str, int], ...]:
    rows, times = rows_times(shape)
    channels = _channels(shape) if len(shape) > 2 else rows
    per_channel = rows // channels if rows % channels == 0 else 1
    return (("rows", rows), ("times", times), ("rows_per_channel", per_channel), ("groups", groups))


@register("norm.c")
class RowMoments(Op):
    """Mean and sum of squared distances of every row, (rows, 2)."""

    name = "row_moments"
    accumulates = True
    reduces_time = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((rows_times(shapes[0])[0], 2),)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        return (None,)  # norm_apply accounts for the path through the statistics

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return t0, t1

    def ops(self, node: Node) -> int:
        return 4 * node.inputs[0].size

    def call(self, node: Node) -> Call:
        shape = node.inputs[0].shape
        box = rows_times(shape)
        return Call("bt_row_moments", "bt_norm", _geometry(shape, 1), (x_in(0), p_out()), box)


class _Small(Op):
    """An op over a few numbers per row or group: not worth cutting along time."""

    def tiles(self, node: Node) -> bool:
        return False

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        return (None,) * len(wanted)


@register("norm.c")
class GroupStats(_Small):
    """Row moments -> mean and 1/sqrt(variance + eps) of every group, (groups, 2)."""

    name = "group_stats"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        groups = int(attrs["groups"])  # type: ignore[arg-type]
        if shapes[0][0] % groups:
            raise GraphError(f"{shapes[0][0]} rows cannot form {groups} equal groups")
        return ((groups, 2),)

    def call(self, node: Node) -> Call:
        rows = node.inputs[0].shape[0]
        groups = node.int("groups")
        geometry = (
            ("rows", rows),
            ("times", node.int("times")),
            ("rows_per_channel", 1),
            ("groups", groups),
        )
        extra = (f"{node.float('eps')!r}f",)
        operands = (p_in(0), p_out())
        return Call("bt_group_stats", "bt_norm", geometry, operands, (groups, 1), extra)


@register("norm.c")
class FrozenStats(_Small):
    """Running mean and variance -> mean and 1/sqrt(variance + eps) of every channel."""

    name = "frozen_stats"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((shapes[0][0], 2),)

    def call(self, node: Node) -> Call:
        channels = node.inputs[0].shape[0]
        geometry = (
            ("rows", channels),
            ("times", 1),
            ("rows_per_channel", 1),
            ("groups", channels),
        )
        extra = (f"{node.float('eps')!r}f",)
        operands = (p_in(0), p_in(1), p_out())
        return Call("bt_frozen_stats", "bt_norm", geometry, operands, (channels, 1), extra)


@register("norm.c")
class RunningUpdate(_Small):
    """Running mean and variance <- (1 - momentum) old + momentum new, variance unbiased."""

    name = "running_update"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        channels = int(attrs["channels"])  # type: ignore[arg-type]
        return ((channels,), (channels,))

    def call(self, node: Node) -> Call:
        rows = node.inputs[0].shape[0]
        channels = node.int("channels")
        geometry = (
            ("rows", rows),
            ("times", node.int("times")),
            ("rows_per_channel", rows // channels),
            ("groups", channels),
        )
        momentum = node.float("momentum")
        extra = (f"{momentum!r}f", f"{1.0 - momentum!r}f")
        operands = (p_in(0), p_out(0), p_out(1))
        return Call("bt_running_update", "bt_norm", geometry, operands, (channels, 1), extra)


@register("norm.c")
class NormApply(Op):
    """y = (x - mean) rstd gamma + beta; gamma and beta per channel, or absent.

    `through_stats` says that mean and rstd were computed from x, so that the gradient also flows
    through them; with frozen statistics it does not.
    """

    name = "norm_apply"
    inplace = ((0, 0),)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        if rows_times(shapes[0])[0] % shapes[1][0]:
            raise GraphError(f"{shapes[1][0]} statistics do not divide the rows of {shapes[0]}")
        return (shapes[0],)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        x, stats = node.inputs[:2]
        affine = node.inputs[2:]
        through = bool(node["through_stats"])
        dx = None
        result: list[Value | None] = [None] * len(wanted)
        if any(wanted[2:]) or (wanted[0] and through):
            sums = b.one("norm_sums", x, stats, dy, hint=f"sums_{x.name}")
            for i, which in ((2, 1), (3, 0)):
                if len(wanted) > i and wanted[i]:
                    result[i] = b.one(
                        "norm_affine_gradient",
                        sums,
                        hint=f"d_{node.inputs[i].name}",
                        channels=affine[0].size,
                        which=which,
                    )
        if wanted[0]:
            gamma = affine[:1]
            if through:
                groups = stats.shape[0]
                times = rows_times(x.shape)[1]
                means = b.one(
                    "group_sums", sums, *gamma, hint=f"means_{x.name}", groups=groups, times=times
                )
                dx = b.one("norm_dx", x, stats, means, dy, *gamma, hint=f"d_{x.name}")
            else:
                dx = b.one("norm_dx_frozen", stats, dy, *gamma, hint=f"d_{x.name}")
        result[0] = dx
        return result

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return (t0, t1) if index == 0 else None

    def ops(self, node: Node) -> int:
        return 4 * node.outputs[0].size

    def call(self, node: Node) -> Call:
        x = node.inputs[0].shape
        geometry = _geometry(x, node.inputs[1].shape[0])
        affine: tuple[Operand, ...] = (
            (p_in(2), p_in(3)) if len(node.inputs) > 2 else (NULL, NULL)
        )
        operands = (x_in(0), p_in(1), *affine, x_out())
        return Call("bt_norm_apply", "bt_norm", geometry, operands, rows_times(x))


@register("norm.c")
class NormSums(Op):
    """Per row: sum of dy, and of dy times the normalised x; (rows, 2)."""

    name = "norm_sums"
    accumulates = True
    reduces_time = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((rows_times(shapes[0])[0], 2),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return None if index == 1 else (t0, t1)

    def ops(self, node: Node) -> int:
        return 5 * node.inputs[0].size

    def call(self, node: Node) -> Call:
        x = node.inputs[0].shape
        geometry = _geometry(x, node.inputs[1].shape[0])
        operands = (x_in(0), p_in(1), x_in(2), p_out())
        return Call("bt_norm_sums", "bt_norm", geometry, operands, rows_times(x))


@register("norm.c")
class NormAffineGradient(_Small):
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
        return Call(
            "bt_norm_affine_gradient", "bt_norm", geometry, operands, (channels, 1), which
        )


@register("norm.c")
class GroupSums(_Small):
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


@register("norm.c")
class NormDx(Op):
    """dx = rstd (gamma dy - mean(gamma dy) - xhat mean(gamma dy xhat))."""

    name = "norm_dx"
    inplace = ((0, 3), (0, 0))

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[3],)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return (t0, t1) if index in (0, 3) else None

    def ops(self, node: Node) -> int:
        return 7 * node.outputs[0].size

    def call(self, node: Node) -> Call:
        x = node.inputs[0].shape
        gamma = p_in(4) if len(node.inputs) > 4 else NULL
        operands = (x_in(0), p_in(1), p_in(2), gamma, x_in(3), x_out())
        geometry = _geometry(x, node.inputs[1].shape[0])
        return Call("bt_norm_input_gradient", "bt_norm", geometry, operands, rows_times(x))


@register("norm.c")
class NormDxFrozen(Op):
    """dx = gamma rstd dy, for statistics that do not depend on x."""

    name = "norm_dx_frozen"
    inplace = ((0, 1),)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[1],)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return (t0, t1) if index == 1 else None

    def call(self, node: Node) -> Call:
        x = node.outputs[0].shape
        gamma = p_in(2) if len(node.inputs) > 2 else NULL
        operands = (p_in(0), gamma, x_in(1), x_out())
        geometry = _geometry(x, node.inputs[0].shape[0])
        return Call("bt_norm_frozen_gradient", "bt_norm", geometry, operands, rows_times(x))


def normalise(
    b: Builder,
    x: Value,
    groups: int,
    eps: float,
    affine: Sequence[Value] = (),
    hint: str = "",
) -> tuple[Value, Value]:
    """Normalise `x` over `groups` runs of rows; returns the result and the row moments."""
    times = rows_times(x.shape)[1]
    hint = hint or b.stem("norm")
    moments = b.one("row_moments", x, hint=f"{hint}_moments")
    stats = b.one(
        "group_stats", moments, hint=f"{hint}_stats", groups=groups, times=times, eps=eps
    )
    y = b.one("norm_apply", x, stats, *affine, hint=hint, through_stats=True)
    return y, moments


def affine_of(b: Builder, args: Mapping[str, Any], channels: int) -> tuple[Value, ...]:
    """The affine parameters of a captured norm: both or none."""
    weight, bias = args["weight"], args["bias"]
    if (weight is None) != (bias is None):
        raise CaptureError("a norm with a weight and no bias is not supported: give it both or none")
    return () if weight is None else (weight, bias)


@register("norm.c")
class GroupNorm(Composite):
    """torch.nn.functional.group_norm(x, groups, gamma, beta, eps)."""

    name = "group_norm"
    captures = ("group_norm",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        return b.apply(
            "group_norm",
            args["input"],
            *affine_of(b, args, args["input"].shape[1]),
            groups=args["num_groups"],
            eps=args["eps"],
        )

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        if shapes[0][1] % int(attrs["groups"]):  # type: ignore[arg-type]
            raise GraphError(f"{shapes[0][1]} channels cannot form {attrs['groups']} groups")
        return (shapes[0],)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        groups, eps = attrs["groups"], attrs["eps"]
        assert isinstance(groups, int) and isinstance(eps, float)
        return normalise(b, inputs[0], groups, eps, inputs[1:])[0]

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        weight, bias = (inputs[1], inputs[2]) if len(inputs) > 1 else (None, None)
        return F.group_norm(inputs[0], attrs["groups"], weight, bias, attrs["eps"])  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 4, 700), (4,), (4,)), {"groups": 1, "eps": 1e-3}),
            Sample(((1, 6, 1, 237), (6,), (6,)), {"groups": 3, "eps": 1e-5}),
            Sample(((1, 4, 3, 50), (4,), (4,)), {"groups": 2, "eps": 1e-5}),
            Sample(((1, 5, 131),), {"groups": 5, "eps": 1e-5}),
        )
