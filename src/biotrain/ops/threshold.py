# SPDX-License-Identifier: Apache-2.0
"""Functions with steps: threshold, hard shrinkage, sign. At the steps the gradients are torch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biotrain.ir.elementwise import Elementwise, elementwise
from biotrain.ir.graph import Attr, Node, Value
from biotrain.ir.op import Builder, Sample, args_input, register
from biotrain.ops.pointwise import as_number


@elementwise("bt_threshold.h")
class Threshold(Elementwise):
    """x above the threshold, `value` from there on down; the gradient at the threshold is 0."""

    name = "threshold"
    captures = ("threshold",)
    saved = "in"
    numbers = ("limit", "value")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        limit, value = (as_number(args[k], k) for k in ("threshold", "value"))
        return b.one("threshold", args_input(args), limit=limit, value=value)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        return F.threshold(inputs[0], attrs["limit"], attrs["value"])  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 2, 131),), {"limit": 0.25, "value": -2.0}),
            Sample(((1, 7),), {"limit": -0.5, "value": 0.0}),
        )


@elementwise("bt_threshold.h")
class Hardshrink(Elementwise):
    """0 within `limit` of 0, x outside; the gradient at both ends is 0."""

    name = "hardshrink"
    captures = ("hardshrink",)
    saved = "in"
    numbers = ("limit",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        limit = as_number(args.get("lambd", 0.5), "lambd")
        return b.one("hardshrink", args_input(args), limit=limit)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        return F.hardshrink(inputs[0], attrs["limit"])  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 3, 2, 131),), {"limit": 0.5}), Sample(((1, 7),), {"limit": 0.0}))


@register("bt_threshold.h")
class Sign(Elementwise):
    """1 above 0, -1 below, 0 at 0 and for NaN; no gradient flows through it."""

    name = "sign"
    captures = ("sign", "sgn")

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        return (None,)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].sign()

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 3, 2, 131),), {}, grad=()), Sample(((1, 7),), {}, grad=()))
