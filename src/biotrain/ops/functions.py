# SPDX-License-Identifier: Apache-2.0
"""Elementwise functions that are combinations of others: activations, powers, logarithms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log
from typing import Any, ClassVar

from biotrain.ir.graph import Attr, Shape, Value
from biotrain.ir.op import Builder, Composite, Sample, args_input, register
from biotrain.ops.binary import add, mul
from biotrain.ops.pointwise import as_number
from biotrain.ops.selection import part
from biotrain.ops.shape import axis_index, reshaped

SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
"""Constants of self-normalising networks (arXiv 1706.02515), in torch's digits."""


def scaled(b: Builder, x: Value, scale: float, shift: float = 0.0) -> Value:
    """scale x + shift, with numbers."""
    return b.one("affine", x, scale=scale, shift=shift)


class _Function(Composite):
    """An elementwise function that lowers to others; `numbers` are its attributes."""

    numbers: ClassVar[tuple[str, ...]] = ()
    positive: ClassVar[bool] = False

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        attrs: dict[str, Attr] = {key: as_number(args[key], key) for key in self.numbers}
        return b.apply(self.name, args_input(args), hint="", **attrs)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def cases(self) -> tuple[Mapping[str, Attr], ...]:
        """Attributes of the samples."""
        return ({},)

    def samples(self) -> tuple[Sample, ...]:
        low, high = (0.05, 3.0) if self.positive else (None, None)
        return tuple(
            Sample((shape,), attrs, low=low, high=high)
            for attrs in self.cases()
            for shape in ((1, 3, 2, 131), (1, 7))
        )


def _torch(name: str) -> Callable[..., Any]:
    import torch

    return getattr(torch.nn.functional, name, None) or getattr(torch, name)


def function(
    name: str,
    lower: Callable[..., Value],
    *numbers: str,
    captures: tuple[str, ...] = (),
    samples: tuple[Mapping[str, Attr], ...] = ({},),
    positive: bool = False,
) -> None:
    """Register an elementwise function that lowers to others: `lower(b, x, *numbers)`."""

    def lowered(
        self: Composite, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]
    ) -> Value:
        return lower(b, inputs[0], *(attrs[key] for key in numbers))

    def reference(self: Composite, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return _torch(name)(inputs[0], *(attrs[key] for key in numbers))

    stated = {
        "__doc__": f"The function torch.{name}.",
        "name": name,
        "captures": captures or (name,),
        "numbers": numbers,
        "positive": positive,
        "lower": lowered,
        "reference": reference,
        "cases": lambda self: samples,
    }
    register("bt_pointwise.h")(type(name.title().replace("_", ""), (_Function,), stated))


def _hardsigmoid(b: Builder, x: Value) -> Value:
    return scaled(b, b.one("hardtanh", x, low=-3.0, high=3.0), 1 / 6, 0.5)


def _selu(b: Builder, x: Value) -> Value:
    return scaled(b, b.one("elu", x, alpha=SELU_ALPHA), SELU_SCALE)


def _celu(b: Builder, x: Value, alpha: float) -> Value:
    return scaled(b, b.one("elu", scaled(b, x, 1 / alpha), alpha=1.0), alpha)


def _mish(b: Builder, x: Value) -> Value:
    return mul(b, x, b.one("tanh", b.one("softplus", x, beta=1.0, threshold=20.0)))


def _log_sigmoid(b: Builder, x: Value) -> Value:
    return scaled(b, b.one("softplus", scaled(b, x, -1.0), beta=1.0, threshold=60.0), -1.0)


def _softshrink(b: Builder, x: Value, lambd: float) -> Value:
    return add(b, x, b.one("clamp", x, low=-lambd, high=lambd), 1.0, -1.0)


def _power(b: Builder, x: Value, exponent: float) -> Value:
    """x^exponent: products for small whole exponents, else e^(exponent log x), for x above 0."""
    if exponent == 1.0:
        return x
    if exponent < 0.0:
        return b.one("reciprocal", _power(b, x, -exponent))
    whole, half = int(exponent), exponent - int(exponent)
    if whole > 8 or half not in (0.0, 0.5):
        return b.one("exp", scaled(b, b.one("log", x), exponent))
    root = b.one("sqrt", x) if half else None
    if not whole:
        assert root is not None
        return root
    y = x
    for bit in bin(whole)[3:]:
        y = b.one("square", y)
        y = mul(b, y, x) if bit == "1" else y
    return y if root is None else mul(b, y, root)


function("hardsigmoid", _hardsigmoid)
function("selu", _selu)
function("celu", _celu, "alpha", samples=({"alpha": 1.0}, {"alpha": 0.4}))
function("mish", _mish)
function("logsigmoid", _log_sigmoid, captures=("log_sigmoid",))
function("softshrink", _softshrink, "lambd", samples=({"lambd": 0.5},))
function("tanhshrink", lambda b, x: add(b, x, b.one("tanh", x), 1.0, -1.0))
function("rsqrt", lambda b, x: b.one("reciprocal", b.one("sqrt", x)), positive=True)
function("log10", lambda b, x: scaled(b, b.one("log", x), 1 / log(10)), positive=True)
function("log2", lambda b, x: scaled(b, b.one("log", x), 1 / log(2)), positive=True)
function("log1p", lambda b, x: b.one("log", scaled(b, x, 1.0, 1.0)), positive=True)
function("exp2", lambda b, x: b.one("exp", scaled(b, x, log(2))))
function("expm1", lambda b, x: scaled(b, b.one("exp", x), 1.0, -1.0), positive=True)
function(
    "pow",
    _power,
    "exponent",
    samples=tuple({"exponent": p} for p in (3.0, 0.5, -1.0, 2.0, 1.5, 0.7, -2.0, 5.0)),
    positive=True,
)


@register("bt_pointwise.h")
class Prelu(Composite):
    """x above 0, the channel's weight times x from there on down."""

    name = "prelu"
    captures = ("prelu",)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        x, w = inputs
        if w.size > 1 and len(x.shape) > 2:
            w = reshaped(b, w, (w.size, *(1,) * (len(x.shape) - 2)))
        low = mul(b, b.one("hardtanh", x, low=float("-inf"), high=0.0), w)
        return add(b, b.one("relu", x), low)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return _torch("prelu")(*inputs)

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 3, 2, 131), (3,)), {}), Sample(((1, 5, 40), (1,)), {}))


@register("bt_pointwise.h")
class Glu(Composite):
    """The first half along an axis times the sigmoid of the second."""

    name = "glu"
    captures = ("glu",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x = args_input(args)
        return b.apply("glu", x, axis=axis_index(args["dim"], len(x.shape)))

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, axis = shapes[0], int(attrs["axis"])  # type: ignore[arg-type]
        return ((*x[:axis], x[axis] // 2, *x[axis + 1 :]),)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        x, axis = inputs[0], int(attrs["axis"])  # type: ignore[arg-type]
        n = x.shape[axis] // 2
        return mul(b, part(b, x, axis, 0, n), b.one("sigmoid", part(b, x, axis, n, n)))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return _torch("glu")(inputs[0], attrs["axis"])

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 6, 131),), {"axis": 1}), Sample(((1, 3, 40),), {"axis": 2}))
