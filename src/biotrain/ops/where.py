# SPDX-License-Identifier: Apache-2.0
"""Comparisons, whose results are tensors of 1 and 0, and choices by them (where, masked_fill).

No gradient flows through a comparison; a choice hands it to what was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from biotrain.ir.elementwise import Elementwise
from biotrain.ir.graph import Attr, Node, Value
from biotrain.ir.op import Builder, Composite, Sample, register
from biotrain.ops.binary import add, broadcasted, mul
from biotrain.ops.functions import scaled
from biotrain.ops.pointwise import as_number


def _not(b: Builder, mask: Value) -> Value:
    """1 where the mask is 0, else 0."""
    return b.one("eq_number", mask, number=0.0)


class _Steps(Elementwise):
    """A function whose slope is 0 wherever it has one."""

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        return (None,) * len(node.inputs)


def _compared(b: Builder, args: Mapping[str, Any], kernel: str, turned: bool = False) -> Value:
    """A captured comparison by `kernel`; with the operands exchanged where `turned`."""
    x, y = args["self"], args["other"]
    if isinstance(y, Value):
        x, y = broadcasted(b, *((y, x) if turned else (x, y)))
        return b.one(kernel, x, y)
    number = as_number(y, "what a tensor is compared with")
    if turned:
        x, number = scaled(b, x, -1.0), -number
    return b.one(f"{kernel}_number", x, number=number)


class _Compared(_Steps):
    """a REL b, for two tensors of one shape, as 1 and 0."""

    inplace = ((0, 0), (0, 1))

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        return _compared(b, args, self.name)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        return getattr(torch, self.name)(*inputs).to(inputs[0].dtype)

    def samples(self) -> tuple[Sample, ...]:
        return tuple(Sample((s, s), {}, grad=()) for s in ((1, 3, 2, 131), (1, 7)))


class _ComparedNumber(_Steps):
    """x REL number, as 1 and 0."""

    numbers = ("number",)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        compared = getattr(torch, self.name.removesuffix("_number"))
        return compared(inputs[0], attrs["number"]).to(inputs[0].dtype)

    def samples(self) -> tuple[Sample, ...]:
        return tuple(Sample((s,), {"number": 0.25}, grad=()) for s in ((1, 3, 2, 131), (1, 7)))


@register("bt_where.h")
class Gt(_Compared):
    """torch.gt(a, b)."""

    name = "gt"
    captures = ("gt",)


@register("bt_where.h")
class Ge(_Compared):
    """torch.ge(a, b)."""

    name = "ge"
    captures = ("ge",)


@register("bt_where.h")
class Eq(_Compared):
    """torch.eq(a, b)."""

    name = "eq"
    captures = ("eq",)


@register("bt_where.h")
class GtNumber(_ComparedNumber):
    """torch.gt(x, number)."""

    name = "gt_number"


@register("bt_where.h")
class GeNumber(_ComparedNumber):
    """torch.ge(x, number)."""

    name = "ge_number"


@register("bt_where.h")
class EqNumber(_ComparedNumber):
    """torch.eq(x, number)."""

    name = "eq_number"


def captured(name: str, capture: Callable[[Builder, Mapping[str, Any]], Value], *also: str) -> None:
    """Register what torch captures as `name`, or as one of `also`, and others compute."""
    stated = {
        "__doc__": f"torch.{name}.",
        "name": name,
        "captures": (name, *also),
        "capture": lambda self, b, args: capture(b, args),
    }
    register("bt_where.h")(type(name.title().replace("_", ""), (Composite,), stated))


captured("lt", lambda b, args: _compared(b, args, "gt", turned=True))
captured("le", lambda b, args: _compared(b, args, "ge", turned=True))
captured("ne", lambda b, args: _not(b, _compared(b, args, "eq")))  # NaN differs from everything
captured("logical_not", lambda b, args: _not(b, args["self"]), "bitwise_not")
captured(
    "logical_and",
    lambda b, args: _not(b, add(b, _not(b, args["self"]), _not(b, args["other"]))),
    "bitwise_and",
    "__and__",
)
captured(
    "logical_or",
    lambda b, args: _not(b, mul(b, _not(b, args["self"]), _not(b, args["other"]))),
    "bitwise_or",
    "__or__",
)


@register("bt_where.h")
class MaskedFill(Elementwise):
    """torch.masked_fill(x, mask, number)."""

    name = "masked_fill"
    captures = ("masked_fill",)
    numbers = ("number",)
    inplace = ((0, 0), (0, 1))

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        number = as_number(args["value"], "what masked_fill writes")
        return b.one(self.name, *broadcasted(b, args["self"], args["mask"]), number=number)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        return b.one(self.name, dy, node.inputs[1], number=0.0), None

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].masked_fill(inputs[1] != 0, attrs["number"])

    def samples(self) -> tuple[Sample, ...]:
        return tuple(Sample((s, s), {"number": -2.0}, grad=(0,)) for s in ((1, 3, 2, 131), (1, 7)))


@register("bt_where.h")
class Where(Elementwise):
    """torch.where(mask, a, b); either may be a number."""

    name = "where"
    captures = ("where",)
    inplace = ((0, 0), (0, 1), (0, 2))

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        mask, yes, no = args["condition"], args["self"], args["other"]
        if isinstance(yes, Value) and isinstance(no, Value):
            return b.one(self.name, *broadcasted(b, mask, yes, no))
        if isinstance(yes, Value):
            number = as_number(no, "what where chooses")
            return b.one("masked_fill", *broadcasted(b, yes, _not(b, mask)), number=number)
        number = as_number(yes, "what where chooses")
        if not isinstance(no, Value):
            no = scaled(b, mask, 0.0, as_number(no, "what where chooses"))
        return b.one("masked_fill", *broadcasted(b, no, mask), number=number)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        mask = node.inputs[0]
        yes = b.one("masked_fill", dy, _not(b, mask), number=0.0) if wanted[1] else None
        no = b.one("masked_fill", dy, mask, number=0.0) if wanted[2] else None
        return None, yes, no

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[1].where(inputs[0] != 0, inputs[2])

    def samples(self) -> tuple[Sample, ...]:
        return tuple(Sample((s, s, s), {}, grad=(1, 2)) for s in ((1, 3, 2, 131), (1, 7)))
