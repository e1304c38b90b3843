# SPDX-License-Identifier: Apache-2.0
"""Reductions that are combinations of others: extremes, logsumexp, variance, norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Shape, Value
from biotrain.ir.op import Builder, Composite, Sample, args_input, register
from biotrain.ops.binary import add
from biotrain.ops.reduce import reduce_to
from biotrain.ops.shape import axis_index, ints, reshaped


def dims_of(args: Mapping[str, Any], rank: int) -> tuple[int, ...]:
    """The axes of a captured reduction; all of them where none is named."""
    dims = args.get("dim")
    dims = [] if dims is None else [dims] if isinstance(dims, int) else list(dims)
    return tuple(sorted(axis_index(d, rank) for d in dims)) or tuple(range(rank))


class _Reduction(Composite):
    """A value for all elements along the axes `dims`."""

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Any:
        x = args_input(args)
        keep = bool(args.get("keepdim", False))
        return b.apply(self.name, x, dims=dims_of(args, len(x.shape)), keepdim=keep)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, dims = shapes[0], ints(attrs, "dims")
        if attrs["keepdim"]:
            return (tuple(1 if i in dims else n for i, n in enumerate(x)),)
        return (tuple(n for i, n in enumerate(x) if i not in dims),)

    def kept(self, x: Value, attrs: Mapping[str, Attr]) -> Shape:
        """The shape with the axes that go as axes of one element."""
        dims = ints(attrs, "dims")
        return tuple(1 if i in dims else n for i, n in enumerate(x.shape))

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 2, 131),), {"dims": (3,), "keepdim": False}),
            Sample(((1, 3, 2, 50),), {"dims": (1, 3), "keepdim": True}),
            Sample(((1, 5, 40),), {"dims": (1,), "keepdim": False}),
        )


def largest(b: Builder, x: Value, dims: Sequence[int], index: bool) -> Value:
    """The maximum over axes, which stay as axes of one element: a pooling over all of them."""
    kept = tuple(1 if i in dims else n for i, n in enumerate(x.shape))
    order = [i for i in range(len(x.shape)) if i not in dims] + list(dims)
    moved = x if order == sorted(order) else b.one("permute", x, dims=tuple(order))
    size = prod(x.shape[i] for i in dims)
    flat = reshaped(b, moved, (1, x.size // size, size))
    window, none, each = (1, size), (0, 0), (1, 1)
    y = b.one(
        "max_pool", flat, kernel=window, stride=window, padding=none, dilation=each, index=index
    )
    return reshaped(b, y, kept)


@register("bt_pool.h")
class Amax(_Reduction):
    """torch.amax; where elements tie, the gradient goes to the first of them."""

    name = "amax"
    captures = ("amax",)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        y = largest(b, inputs[0], ints(attrs, "dims"), not b.predict)
        return reshaped(b, y, self.infer([inputs[0].shape], attrs)[0])

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].amax(attrs["dims"], attrs["keepdim"])


@register("bt_pool.h")
class Max(_Reduction):
    """torch.max along one axis, or over everything; its indices are not there."""

    name = "max"
    captures = ("max",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Any:
        if "other" in args:
            return b.apply("maximum", args["self"], args["other"])
        y = super().capture(b, args)
        return (y, None) if "dim" in args else y

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        return b.apply("amax", inputs[0], dims=ints(attrs, "dims"), keepdim=bool(attrs["keepdim"]))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].amax(attrs["dims"], attrs["keepdim"])


@register("bt_reduce.h")
class LogSumExp(_Reduction):
    """torch.logsumexp: m + log of the sum of e^(x - m), with m the maximum."""

    name = "logsumexp"
    captures = ("logsumexp",)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        x = inputs[0]
        top = b.one("detach", largest(b, x, ints(attrs, "dims"), index=False))
        away = b.one("exp", add(b, x, top, 1.0, -1.0))
        total = b.one("log", reduce_to(b, away, self.kept(x, attrs)))
        return reshaped(b, add(b, total, top), self.infer([x.shape], attrs)[0])

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].logsumexp(attrs["dims"], attrs["keepdim"])


@register("bt_reduce.h")
class LogSoftmax(Composite):
    """torch.log_softmax: x - logsumexp(x)."""

    name = "log_softmax"
    captures = ("log_softmax", "_log_softmax")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x = args_input(args)
        return b.apply(self.name, x, dims=(axis_index(args["dim"], len(x.shape)),))

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        x = inputs[0]
        return add(b, x, b.apply("logsumexp", x, dims=attrs["dims"], keepdim=True), 1.0, -1.0)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].log_softmax(ints(attrs, "dims")[0])

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 3, 131),), {"dims": (2,)}), Sample(((1, 6, 20),), {"dims": (1,)}))


@register("bt_reduce.h")
class Var(_Reduction):
    """torch.var: the mean square distance from the mean, `correction` fewer than there are."""

    name = "var"
    captures = ("var",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Any:
        x = args_input(args)
        correction = args.get("correction", 1 if args.get("unbiased", True) else 0)
        less = 1 if args.get("correction", 0) is None else int(correction or 0)
        attrs: dict[str, Attr] = {"keepdim": bool(args.get("keepdim")), "correction": less}
        return b.apply(self.name, x, dims=dims_of(args, len(x.shape)), hint="", **attrs)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        x, kept = inputs[0], self.kept(inputs[0], attrs)
        count = x.size // prod(kept)
        less = count - int(attrs["correction"])  # type: ignore[arg-type]
        if less < 1:
            raise GraphError(f"{self.name} of {count} values needs more than {attrs['correction']}")
        away = add(b, x, reduce_to(b, x, kept, scale=1 / count), 1.0, -1.0)
        y = reduce_to(b, b.one("square", away), kept, scale=1 / less)
        return reshaped(b, y, self.infer([x.shape], attrs)[0])

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        keep, correction = attrs["keepdim"], attrs["correction"]
        return inputs[0].var(attrs["dims"], correction=correction, keepdim=keep)

    def samples(self) -> tuple[Sample, ...]:
        more = zip(super().samples(), (1, 0, 1), strict=True)
        return tuple(Sample(s.shapes, {**s.attrs, "correction": c}) for s, c in more)


@register("bt_reduce.h")
class Std(Var):
    """torch.std: the square root of the variance."""

    name = "std"
    captures = ("std",)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        return b.one("sqrt", super().lower(b, inputs, attrs))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return super().reference(attrs, *inputs).sqrt()


@register("bt_reduce.h")
class VectorNorm(_Reduction):
    """The Euclidean norm over axes."""

    name = "linalg_vector_norm"
    captures = ("linalg_vector_norm", "norm")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Any:
        if float(args.get("ord", args.get("p", 2)) or 2) != 2.0:
            raise CaptureError("only the Euclidean norm (2) is supported")
        return super().capture(b, args)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        x = inputs[0]
        y = b.one("sqrt", reduce_to(b, b.one("square", x), self.kept(x, attrs)))
        return reshaped(b, y, self.infer([x.shape], attrs)[0])

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].square().sum(attrs["dims"], attrs["keepdim"]).sqrt()
