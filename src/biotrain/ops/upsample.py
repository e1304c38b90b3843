# SPDX-License-Identifier: Apache-2.0
"""Upsampling along time: nearest, or linear between samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import Builder, Call, Op, Sample, args_input, register, rows_times, x_in, x_out


class _Resample(Op):
    """What upsampling and its gradient share: the times of both sides and how they meet."""

    def _sides(self, node: Node) -> tuple[int, int]:
        """Times of the short and of the long side."""
        raise NotImplementedError

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return r0, r1

    def ops(self, node: Node) -> int:
        long = max(node.inputs[0].size, node.outputs[0].size)
        return (2 if node["linear"] else 1) * long

    def call(self, node: Node) -> Call:
        times, out_times = self._sides(node)
        geometry = (
            ("times", times),
            ("out_times", out_times),
            ("linear", int(bool(node["linear"]))),
            ("corners", int(bool(node["corners"]))),
        )
        function = "bt_upsample_dx" if self.name.endswith("_dx") else "bt_upsample_forward"
        box = rows_times(node.outputs[0].shape)
        return Call(function, "bt_upsample", geometry, (x_in(0), x_out()), box)


@register("bt_upsample.h")
class Upsample(_Resample):
    """`times` samples in place of those that are there."""

    name = "upsample"
    captures = ("upsample_nearest1d", "upsample_linear1d")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x, shape = args_input(args), args["_output_shape"]
        factors = args.get("scale_factors") or [args.get("scales")]
        if factors[0] is not None and float(factors[0]) * x.shape[-1] != shape[-1]:
            raise CaptureError(
                f"upsampling {x.shape[-1]} samples by {factors[0]} to {shape[-1]} is not "
                "supported: give a factor that leads to a whole number, or size="
            )
        linear = "align_corners" in args
        corners = bool(args.get("align_corners"))
        return b.one("upsample", x, times=shape[-1], linear=linear, corners=corners)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        times = attrs["times"]
        assert isinstance(times, int)
        if times < shapes[0][-1]:
            raise GraphError(f"upsample: {times} samples are fewer than {shapes[0][-1]}")
        if 2 * times * shapes[0][-1] >= 2**31:
            raise GraphError(f"upsample: the C cannot count {shapes[0][-1]} x {times} samples")
        return ((*shapes[0][:-1], times),)

    def _sides(self, node: Node) -> tuple[int, int]:
        return node.inputs[0].shape[-1], node.outputs[0].shape[-1]

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        x = node.inputs[0]
        attrs = {**dict(node.attrs), "times": x.shape[-1]}
        return (b.one("upsample_dx", dy, hint=f"d_{x.name}", **attrs),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        times, out = self._sides(node)
        return t0 * times // out - 1, (t1 - 1) * times // out + 3

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        times = attrs["times"]
        assert isinstance(times, int)
        if not attrs["linear"]:
            return F.interpolate(inputs[0], times)
        corners = bool(attrs["corners"])
        return F.interpolate(inputs[0], times, mode="linear", align_corners=corners)

    def samples(self) -> tuple[Sample, ...]:
        def case(x: Shape, times: int, linear: bool, corners: bool = False) -> Sample:
            return Sample((x,), {"times": times, "linear": linear, "corners": corners})

        return (
            case((1, 3, 50), 100, False),
            case((1, 2, 37), 90, True),
            case((1, 2, 20), 60, True, True),
            case((1, 3, 1), 7, True),
        )


@register("bt_upsample.h")
class UpsampleDx(_Resample):
    """Gradient of the input, which has `times` samples."""

    name = "upsample_dx"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        times = attrs["times"]
        assert isinstance(times, int)
        return ((*shapes[0][:-1], times),)

    def _sides(self, node: Node) -> tuple[int, int]:
        return node.outputs[0].shape[-1], node.inputs[0].shape[-1]

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        times, out = self._sides(node)
        return (t0 - 2) * out // times - 1, (t1 + 2) * out // times + 2
