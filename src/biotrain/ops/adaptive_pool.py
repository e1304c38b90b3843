# SPDX-License-Identifier: Apache-2.0
"""Pooling to a given size, which lowers to the poolings of `pool.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Shape, Value
from biotrain.ir.op import Builder, Composite, Sample, args_input, register
from biotrain.ops.pool import AvgPoolUneven, Pair, image, pair


class _Adaptive(Composite):
    """Pooling to a given size: equal windows where the sizes divide, else `uneven`."""

    even: str

    def _out(self, x: Shape, attrs: Mapping[str, Attr]) -> tuple[Pair, bool]:
        out = pair(attrs, "out")
        return out, all(n % m == 0 for n, m in zip(image(x), out, strict=True))

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return AvgPoolUneven().infer(shapes, attrs)

    def _even(self, b: Builder, x: Value, out: Pair, **attrs: Attr) -> Value:
        rows, times = image(x.shape)
        size = (rows // out[0], times // out[1])
        hint = b.stem(self.name)
        return b.one(self.even, x, hint=hint, kernel=size, stride=size, padding=(0, 0), **attrs)

    @staticmethod
    def wanted(args: Mapping[str, Any]) -> Pair:
        """(rows, times) of a captured adaptive pooling."""
        x, value = args_input(args).shape, args["output_size"]
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if len(x) != len(values) + 2:
            raise CaptureError(f"adaptive pooling takes x (1, C, [H,] T), not {x}")
        out = [n if m is None else int(m) for n, m in zip(x[2:], values, strict=True)]
        rows, times = [1] * (2 - len(out)) + out
        return rows, times


@register("bt_pool.h")
class AdaptiveAvgPool(_Adaptive):
    """torch.nn.functional.adaptive_avg_pool1d/2d(x, out); `out` is (rows, times)."""

    name = "adaptive_avg_pool"
    even = "avg_pool"
    captures = ("adaptive_avg_pool1d", "adaptive_avg_pool2d")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        return b.apply(self.name, args_input(args), out=self.wanted(args))

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        out, even = self._out(inputs[0].shape, attrs)
        if even:
            return self._even(b, inputs[0], out)
        return b.one("avg_pool_uneven", inputs[0], out=out)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return AvgPoolUneven().reference(attrs, *inputs)

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 2, 700),), {"out": (1, 1)}),
            Sample(((1, 4, 131),), {"out": (1, 7)}),
            Sample(((1, 2, 3, 700),), {"out": (2, 4)}),
            Sample(((1, 2, 5),), {"out": (1, 8)}),
        )


@register("bt_pool.h")
class AdaptiveMaxPool(_Adaptive):
    """torch.nn.functional.adaptive_max_pool1d/2d(x, out), where the sizes divide."""

    name = "adaptive_max_pool"
    even = "max_pool"
    captures = ("adaptive_max_pool1d", "adaptive_max_pool2d")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Any:
        x, out = args_input(args), self.wanted(args)
        return b.apply(self.name, x, out=out, index=not b.predict), None

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        out, even = self._out(inputs[0].shape, attrs)
        if not even:
            raise GraphError(
                f"adaptive max pooling to {out} must divide {inputs[0].shape[2:]} evenly"
            )
        return self._even(b, inputs[0], out, dilation=(1, 1), index=attrs["index"])

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        out = pair(attrs, "out")
        if inputs[0].dim() == 3:
            return F.adaptive_max_pool1d(inputs[0], out[1])
        return F.adaptive_max_pool2d(inputs[0], out)

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 2, 30),), {"out": (1, 5), "index": True}),
            Sample(((1, 3, 33),), {"out": (1, 1), "index": True}),
        )
