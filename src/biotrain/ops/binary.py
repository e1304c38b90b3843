# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of two tensors, broadcast to one another as in torch.

The first operand of a node has the shape of the result; the second may be broadcast to it. `add`,
`mul` and `div` are for two equal shapes and may overwrite either operand; `add_broadcast`, ... may
overwrite the first. A pair in which neither has the shape of the result is expanded first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, ClassVar

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import (
    Builder,
    Call,
    Composite,
    Op,
    Sample,
    Swapped,
    float_literal,
    register,
    rows_times,
    x_in,
    x_out,
)
from biotrain.ops.reduce import reduce_to, spread


def broadcast(a: Shape, b: Shape) -> Shape:
    """The shape of the result of two tensors."""
    pairs = list(zip_longest(reversed(a), reversed(b), fillvalue=1))
    if any(n != m and 1 not in (n, m) for n, m in pairs):
        raise GraphError(f"shapes {a} and {b} cannot be broadcast to one")
    return tuple(m if n == 1 else n for n, m in reversed(pairs))


def _full(b: Builder, x: Value, shape: Shape) -> Value:
    return x if x.shape == shape else b.one("expand", x, shape=shape, scale=1.0)


def broadcasted(b: Builder, *values: Value) -> list[Value]:
    """The values, each expanded to the shape that all of them have together."""
    shape: Shape = values[0].shape
    for v in values[1:]:
        shape = broadcast(shape, v.shape)
    return [_full(b, v, shape) for v in values]


def add(b: Builder, x: Value, y: Value, alpha: float = 1.0, beta: float = 1.0) -> Value:
    """alpha x + beta y."""
    shape = broadcast(x.shape, y.shape)
    if x.shape != shape and y.shape == shape:
        x, y, alpha, beta = y, x, beta, alpha
    x = _full(b, x, shape)
    op = "add" if y.shape == shape else "add_broadcast"
    if alpha == beta == 1.0:
        return b.one(op, x, y)
    return b.one(op, x, y, alpha=alpha, beta=beta)


def mul(b: Builder, x: Value, y: Value, hint: str = "") -> Value:
    """x y."""
    shape = broadcast(x.shape, y.shape)
    if x.shape != shape and y.shape == shape:
        x, y = y, x
    x = _full(b, x, shape)
    return b.one("mul" if y.shape == shape else "mul_broadcast", x, y, hint=hint)


def div(b: Builder, x: Value, y: Value, hint: str = "") -> Value:
    """x / y."""
    shape = broadcast(x.shape, y.shape)
    x = _full(b, x, shape)
    return b.one("div" if y.shape == shape else "div_broadcast", x, y, hint=hint)


def _scalar(value: Any) -> float | None:
    """A captured operand as a number, None where it is a tensor of the graph."""
    if isinstance(value, Value):
        return None
    if hasattr(value, "numel") and value.numel() == 1:
        value = value.item()
    if isinstance(value, (int, float)):
        return float(value)
    raise CaptureError(f"an operand of type {type(value).__name__} is not supported")


def _sum(b: Builder, x: Any, y: Any, alpha: float, beta: float) -> Value:
    """alpha x + beta y of captured operands, one of which may be a number."""
    p, q = _scalar(x), _scalar(y)
    if q is not None:
        return b.one("affine", x, scale=alpha, shift=beta * q)
    if p is not None:
        return b.one("affine", y, scale=beta, shift=alpha * p)
    return add(b, x, y, alpha, beta)


class _Binary(Op):
    """y = f(a, b); a has the shape of y."""

    inplace: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0), (0, 1))
    broadcasts: ClassVar[bool] = False
    function: ClassVar[str]
    numbers: ClassVar[tuple[str, ...]] = ()

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        a, b = shapes
        if not self.broadcasts and a != b:
            raise GraphError(f"{self.name} takes two equal shapes, not {a} and {b}")
        if broadcast(a, b) != a:
            raise GraphError(f"{self.name}: {b} cannot be broadcast to {a}")
        spread(a, b)
        return (a,)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        own = rows_times(node.inputs[index].shape)[1] == rows_times(node.inputs[0].shape)[1]
        return (t0, t1) if own else None

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        own = node.inputs[index].shape[:-1] == node.inputs[0].shape[:-1]
        return (r0, r1) if own else None

    def swapped(self, node: Node) -> Swapped | None:
        b = node.inputs[1].shape
        flat = all(n == 1 for n in b[-2:])
        if not flat and len(b) < 2:
            return None
        return Swapped(node.op, dict(node.attrs), (True, not flat))

    def call(self, node: Node) -> Call:
        a, b = (v.shape for v in node.inputs)
        (_, n1, n2), [(b0, b1, b2, times)] = spread(a, b)
        geometry = (
            ("n1", n1),
            ("n2", n2),
            ("b0", b0),
            ("b1", b1),
            ("b2", b2),
            ("b_times", times),
        )
        extra = tuple(float_literal(float(node.get(key, 1.0))) for key in self.numbers)  # type: ignore[arg-type]
        operands = (x_in(0), x_in(1), x_out())
        return Call(self.function, "bt_binary", geometry, operands, rows_times(a), extra)

    def samples(self) -> tuple[Sample, ...]:
        if not self.broadcasts:
            shapes: tuple[tuple[Shape, Shape], ...] = (
                ((1, 3, 2, 131), (1, 3, 2, 131)),
                ((1, 7), (1, 7)),
            )
        else:
            shapes = (
                ((1, 3, 700), (1, 3, 1)),
                ((1, 3, 2, 50), (3, 1, 1)),
                ((1, 3, 2, 50), (1, 3, 1, 50)),
                ((2, 3, 2, 9), (2, 1, 2, 1)),
                ((1, 5, 131), (131,)),
                ((4, 6), ()),
                ((1, 3, 5), (3, 5)),
            )
        low, high = (0.5, 2.0) if self.function == "bt_div" else (None, None)
        shapes = shapes if self.function == "bt_mul" else shapes[:4]
        return tuple(Sample(s, {}, low=low, high=high) for s in shapes)


@register("bt_binary.h")
class Add(_Binary):
    """alpha a + beta b (both 1 unless given)."""

    name = "add"
    captures: ClassVar[tuple[str, ...]] = ("add",)
    function = "bt_add"
    numbers = ("alpha", "beta")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        return _sum(b, args["self"], args["other"], 1.0, float(args.get("alpha", 1)))

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None

        def part(value: Value, scale: float) -> Value:
            hint = f"d_{value.name}"
            if value.kind == "param" or value.size != dy.size:
                return reduce_to(b, dy, value.shape, scale=scale, hint=hint)
            d = dy if scale == 1.0 else b.one("affine", dy, hint=hint, scale=scale, shift=0.0)
            return d if value.shape == d.shape else b.one("reshape", d, shape=value.shape)

        scales = (float(node.get(key, 1.0)) for key in self.numbers)  # type: ignore[arg-type]
        both = zip(node.inputs, scales, wanted, strict=True)
        return tuple(part(v, scale) if want else None for v, scale, want in both)

    def ops(self, node: Node) -> int:
        scaled = sum(node.get(key, 1.0) not in (1.0, -1.0) for key in self.numbers)
        return (1 + scaled) * node.outputs[0].size

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return attrs.get("alpha", 1.0) * inputs[0] + attrs.get("beta", 1.0) * inputs[1]

    def samples(self) -> tuple[Sample, ...]:
        numbers: dict[str, Attr] = {"alpha": -1.0, "beta": 0.3}
        first = super().samples()
        return (*first, *(Sample(s.shapes, numbers) for s in first[:2]))


@register("bt_binary.h")
class AddBroadcast(Add):
    """alpha a + beta b with b broadcast to a."""

    name = "add_broadcast"
    captures = ()
    broadcasts = True
    inplace = ((0, 0),)


@register("bt_binary.h")
class Mul(_Binary):
    """a b."""

    name = "mul"
    captures: ClassVar[tuple[str, ...]] = ("mul", "multiply")
    function = "bt_mul"

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x, y = args["self"], args["other"]
        number = _scalar(y)
        return mul(b, x, y) if number is None else b.one("affine", x, scale=number, shift=0.0)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None

        def part(value: Value, other: Value) -> Value:
            hint = f"d_{value.name}"
            if value.kind == "param" or value.shape != dy.shape:
                return reduce_to(b, dy, value.shape, factor=other, hint=hint)
            return mul(b, dy, other, hint)

        x, y = node.inputs
        second = part(y, x) if wanted[1] else None  # first, so that dx may overwrite dy
        return (part(x, y) if wanted[0] else None, second)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0] * inputs[1]


@register("bt_binary.h")
class MulBroadcast(Mul):
    """a b with b broadcast to a."""

    name = "mul_broadcast"
    captures = ()
    broadcasts = True
    inplace = ((0, 0),)


@register("bt_binary.h")
class Div(_Binary):
    """a / b."""

    name = "div"
    captures: ClassVar[tuple[str, ...]] = ("div", "divide", "true_divide")
    function = "bt_div"

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        if args.get("rounding_mode") is not None:
            raise CaptureError("division that rounds to integers is not supported")
        x, y = args["self"], args["other"]
        number = _scalar(y)
        if number is None:
            return div(b, x, y)
        if number == 0.0:
            raise CaptureError("division by zero")
        return b.one("affine", x, scale=1.0 / number, shift=0.0)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        """da = dy / b, db = -da y."""
        (dy,) = grads
        assert dy is not None
        x, y = node.inputs
        quotient = div(b, dy, y, f"d_{x.name}")
        dx = d = None
        if wanted[1]:
            result, hint = node.outputs[0], f"d_{y.name}"
            d = reduce_to(b, quotient, y.shape, factor=result, scale=-1.0, hint=hint)
        if wanted[0]:
            dx = reduce_to(b, quotient, x.shape) if x.kind == "param" else quotient
        return dx, d

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0] / inputs[1]


@register("bt_binary.h")
class DivBroadcast(Div):
    """a / b with b broadcast to a."""

    name = "div_broadcast"
    captures = ()
    broadcasts = True
    inplace = ((0, 0),)


class _Difference(Composite):
    """A difference, which is a sum with signs."""

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (broadcast(*shapes),)

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 131), (1, 3, 131)), {}),
            Sample(((1, 3, 1), (1, 3, 40)), {}),
            Sample(((3, 1), (1, 5)), {}),
        )


@register("bt_binary.h")
class Sub(_Difference):
    """a - b."""

    name = "sub"
    captures = ("sub", "subtract")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        return _sum(b, args["self"], args["other"], 1.0, -float(args.get("alpha", 1)))

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        return add(b, inputs[0], inputs[1], 1.0, -1.0)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0] - inputs[1]


@register("bt_binary.h")
class Rsub(_Difference):
    """b - a."""

    name = "rsub"
    captures = ("rsub",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        return _sum(b, args["self"], args["other"], -float(args.get("alpha", 1)), 1.0)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        return add(b, inputs[0], inputs[1], -1.0, 1.0)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[1] - inputs[0]
