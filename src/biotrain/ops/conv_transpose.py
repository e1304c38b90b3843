# SPDX-License-Identifier: Apache-2.0
"""Transposed convolution: the gradient of a convolution's input, taken forward.

Its own gradients are that convolution and the gradient of its weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import Builder, Sample, per_axis, register
from biotrain.ops.binary import add
from biotrain.ops.conv import ConvDx
from biotrain.ops.shape import reshaped


@register("bt_conv.h")
class ConvTranspose(ConvDx):
    """y = conv^T(x, w), torch's layout w (inputs, outputs / groups, [KH,] K)."""

    name = "conv_transpose"
    captures = ("conv_transpose1d", "conv_transpose2d")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x, w, bias, y = args["input"], args["weight"], args["bias"], args["_output_shape"]
        if x.shape[0] != 1 or len(x.shape) != len(w.shape):
            raise GraphError(f"conv_transpose takes x (1, C, [H,] T), not {x.shape}")
        axes = len(w.shape) - 2
        rows, times = per_axis(args["padding"], axes, 0)
        result = b.one(
            "conv_transpose",
            x,
            w,
            stride=per_axis(args["stride"], axes),
            dilation=per_axis(args["dilation"], axes),
            padding=(rows, rows, times, times),
            groups=args["groups"],
            x_shape=y,
        )
        if bias is None:
            return result
        return add(b, result, reshaped(b, bias, (bias.size, *[1] * axes)))

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        x, w = node.inputs
        attrs = {key: value for key, value in node.attrs if key != "x_shape"}
        dw = dx = None
        if wanted[1]:
            dw = b.one("conv_dw", dy, x, hint=f"d_{w.name}", w_shape=w.shape, **attrs)
        if wanted[0]:
            dx = b.one("conv", dy, w, hint=f"d_{x.name}", **attrs)
        return dx, dw

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        x, w = inputs
        axes = w.dim() - 2
        shape, padding = attrs["x_shape"], attrs["padding"]
        stride, dilation, groups = attrs["stride"], attrs["dilation"], attrs["groups"]
        assert isinstance(shape, tuple) and isinstance(padding, tuple)
        assert isinstance(stride, tuple) and isinstance(dilation, tuple)
        sides = (padding[0], padding[2])[-axes:]
        bare = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                x.shape[2:], stride[-axes:], sides, dilation[-axes:], w.shape[2:], strict=True
            )
        ]
        more = tuple(n - m for n, m in zip(shape[2:], bare, strict=True))
        function = F.conv_transpose1d if axes == 1 else F.conv_transpose2d
        return function(
            x,
            w,
            None,
            stride[-axes:],
            sides,
            more,
            groups,  # type: ignore[arg-type]
            dilation[-axes:],
        )

    def samples(self) -> tuple[Sample, ...]:
        def case(x: Shape, w: Shape, y: Shape, **attrs: Attr) -> Sample:
            plain: dict[str, Attr] = {
                "padding": (0, 0, 0, 0),
                "stride": (1, 1),
                "dilation": (1, 1),
                "groups": 1,
            }
            return Sample((x, w), {**plain, "x_shape": y, **attrs})

        return (
            case((1, 4, 50), (4, 3, 2), (1, 3, 100), stride=(1, 2)),
            case((1, 4, 33), (4, 2, 4), (1, 4, 66), stride=(1, 2), padding=(0, 0, 1, 1), groups=2),
            case((1, 2, 20), (2, 3, 3), (1, 3, 60), stride=(1, 3)),
            case((1, 2, 20), (2, 3, 3), (1, 3, 61), stride=(1, 3), padding=(0, 0, 0, 0)),
        )
