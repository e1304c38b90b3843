# SPDX-License-Identifier: Apache-2.0
"""The larger or smaller of two tensors, element by element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from biotrain.ir.graph import Attr, Shape, Value
from biotrain.ir.op import Builder, Composite, Sample, register
from biotrain.ops.binary import broadcast, broadcasted
from biotrain.ops.functions import scaled
from biotrain.ops.reductions import largest
from biotrain.ops.selection import joined
from biotrain.ops.shape import reshaped


class _Extreme(Composite):
    """The larger or smaller of two tensors, whatever their sizes: a pooling over the pair. The
    gradient of equal ones goes to the first."""

    larger: ClassVar[bool]

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x, y = args["self"], args["other"]
        for number, other in ((x, y), (y, x)):
            if isinstance(number, (int, float)):
                low = float(number) if self.larger else float("-inf")
                high = float("inf") if self.larger else float(number)
                return b.one("clamp", other, low=low, high=high)
        return b.apply(self.name, x, y)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (broadcast(*shapes),)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        both = broadcasted(b, *inputs)
        shape = both[0].shape
        pair = [reshaped(b, v if self.larger else scaled(b, v, -1.0), (1, *shape)) for v in both]
        most = largest(b, joined(b, pair, 0), (0,), not b.predict)
        y = reshaped(b, most, shape)
        return y if self.larger else scaled(b, y, -1.0)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        return getattr(torch, self.name)(*inputs)

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 3, 131), (1, 3, 131)), {}), Sample(((1, 3, 40), (3, 1)), {}))


@register("bt_pool.h")
class Maximum(_Extreme):
    """torch.maximum(a, b)."""

    name = "maximum"
    captures = ("maximum",)
    larger = True


@register("bt_pool.h")
class Minimum(_Extreme):
    """torch.minimum(a, b)."""

    name = "minimum"
    captures = ("minimum",)
    larger = False
