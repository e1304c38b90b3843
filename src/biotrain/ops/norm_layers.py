# SPDX-License-Identifier: Apache-2.0
"""Group norm and layer norm, which lower to the ops of `norm.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Shape, Value
from biotrain.ir.op import Builder, Composite, Sample, register, rows_times
from biotrain.ops.binary import add, mul
from biotrain.ops.shape import reshaped


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
    return x if len(x.shape) > 2 else reshaped(b, x, (*x.shape, 1))


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
        x = args["input"]
        if x.shape[0] > 1:  # an inner batch: as many groups more, and weights that are broadcast
            merged = (1, x.shape[0] * x.shape[1], *x.shape[2:])
            y = reshaped(b, x, merged)
            y = b.apply("group_norm", y, groups=groups * x.shape[0], eps=eps)
            y = reshaped(b, y, x.shape)
            wide = [reshaped(b, v, (v.size, *(1,) * (len(x.shape) - 2))) for v in affine]
            y = mul(b, y, wide[0]) if wide else y
            return add(b, y, wide[1]) if wide[1:] else y
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
