# SPDX-License-Identifier: Apache-2.0
"""Elementwise functions of one tensor.

Each gradient reads the output where that determines it, so that the function may work in place;
else the input. At the kinks the gradients are torch's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isnan
from typing import Any, ClassVar

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.elementwise import Elementwise, elementwise
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import Builder, Sample, args_input, register


def as_number(value: Any, what: str) -> float:
    """A captured scalar argument as a float."""
    if not isinstance(value, (int, float)) or isnan(value):
        raise CaptureError(f"{what} must be a number that is known when compiling, not {value}")
    return float(value)


@elementwise("bt_pointwise.h")
class Relu(Elementwise):
    """max(x, 0); the gradient at 0 is 0."""

    name = "relu"
    captures = ("relu",)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].relu()


@elementwise("bt_pointwise.h")
class LeakyRelu(Elementwise):
    """x above 0, negative_slope x from there on down; the gradient at 0 is the slope."""

    name = "leaky_relu"
    captures = ("leaky_relu",)
    numbers = ("negative_slope",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        slope = as_number(args["negative_slope"], "negative_slope")
        return b.one("leaky_relu", args_input(args), negative_slope=slope)

    def saves(self, node: Node) -> str:
        return "out" if node.float("negative_slope") >= 0.0 else "in"

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        return F.leaky_relu(inputs[0], attrs["negative_slope"])  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 2, 131),), {"negative_slope": 0.01}),
            Sample(((1, 7),), {"negative_slope": -0.5}),
        )


@elementwise("bt_pointwise.h")
class Elu(Elementwise):
    """x above 0, alpha (e^x - 1) from there on down."""

    name = "elu"
    captures = ("elu",)
    numbers = ("alpha",)
    ops_per_element = 20
    dx_ops_per_element = 2

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        alpha, scale, before = (as_number(args[k], k) for k in ("alpha", "scale", "input_scale"))
        if scale == before == 1.0:
            return b.one("elu", args_input(args), alpha=alpha)
        # Above 0 the argument is not scaled, below it is: scale (x or alpha (e^(before x) - 1)).
        y = b.one("affine", args_input(args), scale=before, shift=0.0)
        y = b.one("elu", y, alpha=alpha * before)
        return b.one("affine", y, scale=scale / before, shift=0.0)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        if float(attrs["alpha"]) < 0.0:  # type: ignore[arg-type]
            raise GraphError(f"elu: alpha must be at least 0, not {attrs['alpha']}")
        return (shapes[0],)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        return F.elu(inputs[0], attrs["alpha"])  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 2, 131),), {"alpha": 1.0}),
            Sample(((1, 7),), {"alpha": 0.3}),
            Sample(((5, 40),), {"alpha": 1.0}, low=-30.0, high=-1e-3),
        )


class _Gelu(Elementwise):
    """Both forms of gelu; the result does not determine the slope."""

    saved = "in"

    approximate: ClassVar[str]

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        return F.gelu(inputs[0], approximate=self.approximate)


@elementwise("bt_pointwise.h")
class Gelu(_Gelu):
    """x Phi(x), with the normal distribution's Phi(x) = (1 + erf(x / sqrt 2)) / 2."""

    name = "gelu"
    captures = ("gelu",)
    approximate = "none"
    ops_per_element = 55
    dx_ops_per_element = 80

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        op = "gelu" if args["approximate"] == "none" else "gelu_tanh"
        return b.one(op, args_input(args))


@elementwise("bt_pointwise.h")
class GeluTanh(_Gelu):
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2: gelu with approximate="tanh"."""

    name = "gelu_tanh"
    approximate = "tanh"
    ops_per_element = 41
    dx_ops_per_element = 50


@elementwise("bt_pointwise.h")
class Sigmoid(Elementwise):
    """1 / (1 + e^-x)."""

    name = "sigmoid"
    captures = ("sigmoid",)
    ops_per_element = 28
    dx_ops_per_element = 3

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].sigmoid()


@elementwise("bt_pointwise.h")
class Tanh(Elementwise):
    """Hyperbolic tangent."""

    name = "tanh"
    captures = ("tanh",)
    ops_per_element = 35
    dx_ops_per_element = 3

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].tanh()


@elementwise("bt_pointwise.h")
class Silu(Elementwise):
    """x / (1 + e^-x)."""

    name = "silu"
    captures = ("silu",)
    saved = "in"
    ops_per_element = 29
    dx_ops_per_element = 33

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        return F.silu(inputs[0])


@elementwise("bt_pointwise.h")
class Softplus(Elementwise):
    """log(1 + e^(beta x)) / beta, and x itself where beta x > threshold."""

    name = "softplus"
    captures = ("softplus",)
    saved = "in"
    numbers = ("beta", "threshold")
    ops_per_element = 52
    dx_ops_per_element = 30

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        beta, threshold = (as_number(args[key], key) for key in self.numbers)
        return b.one("softplus", args_input(args), beta=beta, threshold=threshold)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        if float(attrs["beta"]) == 0.0:  # type: ignore[arg-type]
            raise GraphError("softplus: beta must not be 0")
        return (shapes[0],)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        return F.softplus(inputs[0], attrs["beta"], attrs["threshold"])  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 2, 131),), {"beta": 1.0, "threshold": 20.0}),
            Sample(((2, 50),), {"beta": 2.5, "threshold": 20.0}, low=-30.0, high=30.0),
        )


@elementwise("bt_pointwise.h")
class Square(Elementwise):
    """x^2."""

    name = "square"
    captures = ("square",)
    saved = "in"
    dx_ops_per_element = 2

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].square()


class _Positive(Elementwise):
    """A function of positive numbers."""

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 2, 131),), {}, low=0.05, high=3.0),
            Sample(((1, 7),), {}, low=0.5, high=2.0),
        )


@elementwise("bt_pointwise.h")
class Log(_Positive):
    """Natural logarithm."""

    name = "log"
    captures = ("log",)
    saved = "in"
    ops_per_element = 27

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].log()


@elementwise("bt_pointwise.h")
class Sqrt(_Positive):
    """Square root; the gradient at 0 is infinite."""

    name = "sqrt"
    captures = ("sqrt",)
    dx_ops_per_element = 2

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].sqrt()


@elementwise("bt_pointwise.h")
class Reciprocal(_Positive):
    """1 / x."""

    name = "reciprocal"
    captures = ("reciprocal",)
    dx_ops_per_element = 2

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].reciprocal()


@elementwise("bt_pointwise.h")
class Exp(Elementwise):
    """e^x."""

    name = "exp"
    captures = ("exp",)
    ops_per_element = 21

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].exp()


@elementwise("bt_pointwise.h")
class Abs(Elementwise):
    """|x|; the gradient at 0 is 0."""

    name = "abs"
    captures = ("abs",)
    saved = "in"

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].abs()


class _Bounds(Elementwise):
    """min(max(x, low), high)."""

    numbers = ("low", "high")

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].clamp(attrs["low"], attrs["high"])

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 2, 131),), {"low": -0.5, "high": 1.25}),
            Sample(((1, 7),), {"low": -inf, "high": 0.5}),
            Sample(((4, 9),), {"low": 1e-6, "high": inf}),
        )


@elementwise("bt_pointwise.h")
class Clamp(_Bounds):
    """min(max(x, low), high); the gradient passes at the borders and between them."""

    name = "clamp"
    captures = ("clamp", "clamp_min", "clamp_max", "clip")
    saved = "in"

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        low, high = args.get("min"), args.get("max")
        return b.one(
            "clamp",
            args_input(args),
            low=-inf if low is None else as_number(low, "min"),
            high=inf if high is None else as_number(high, "max"),
        )


@elementwise("bt_pointwise.h")
class Hardtanh(_Bounds):
    """min(max(x, low), high); the gradient passes between the borders only (hardtanh, relu6)."""

    name = "hardtanh"
    captures = ("hardtanh", "relu6")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        low = as_number(args.get("min_val", 0.0), "min_val")
        high = as_number(args.get("max_val", 6.0), "max_val")
        return b.one("hardtanh", args_input(args), low=low, high=high)


@register("bt_pointwise.h")
class Affine(Elementwise):
    """scale x + shift, with numbers."""

    name = "affine"
    captures = ("neg", "negative")
    numbers = ("scale", "shift")
    ops_per_element = 2

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        return b.one("affine", args_input(args), scale=-1.0, shift=0.0)

    def ops(self, node: Node) -> int:
        used = (node.float("scale") != 1.0) + (node.float("shift") != 0.0)
        return used * node.outputs[0].size

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        x, scale = node.inputs[0], node.float("scale")
        if scale == 1.0 and x.kind != "param":
            return (dy,)
        return (b.one("affine", dy, hint=f"d_{x.name}", scale=scale, shift=0.0),)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0] * attrs["scale"] + attrs["shift"]

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 131),), {"scale": 0.1, "shift": -2.5}),
            Sample(((1, 7),), {"scale": -3.0, "shift": 0.0}),
            Sample(((2, 5),), {"scale": -1.0, "shift": 0.7}),
        )
