# SPDX-License-Identifier: Apache-2.0
"""Pooling over rows and time. Layout and padding are those of `conv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir import Attr, Node, Shape, Value
from biotrain.op import Builder, Call, Op, Sample, args_input, register, x_in, x_out


def _pair(attrs: Mapping[str, Attr], key: str) -> tuple[int, int]:
    value = attrs[key]
    assert isinstance(value, tuple) and len(value) == 2, (key, value)
    return value


def _image(shape: Shape) -> tuple[int, int]:
    """(rows of one channel, times)."""
    return (1, shape[-1]) if len(shape) == 3 else (shape[-2], shape[-1])


def pool_arguments(args: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """Kernel, stride and padding of a captured pooling, each as (rows, times)."""
    axes = len(args_input(args).shape) - 2

    def pair(value: Any, fill: int) -> tuple[int, int]:
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        values = values * axes if len(values) == 1 else values
        rows, times = [fill] * (2 - len(values)) + values
        return int(rows), int(times)

    kernel = pair(args["kernel_size"], 1)
    stride = pair(args["stride"], 1) if args.get("stride") else kernel
    return kernel, stride, pair(args["padding"], 0)


def _out_shape(x: Shape, attrs: Mapping[str, Attr]) -> Shape:
    if len(x) not in (3, 4) or x[0] != 1:
        raise GraphError(f"pooling takes x (1, C, [H,] T), not {x}")
    kernel, stride, padding = (_pair(attrs, k) for k in ("kernel", "stride", "padding"))
    rows, times = _image(x)
    out_rows = (rows + 2 * padding[0] - kernel[0]) // stride[0] + 1
    out_times = (times + 2 * padding[1] - kernel[1]) // stride[1] + 1
    if out_rows < 1 or out_times < 1:
        raise GraphError(f"pooling {kernel} does not fit into {x[2:]}")
    return (*x[:2], out_times) if len(x) == 3 else (*x[:2], out_rows, out_times)


def _geometry(x: Shape, y: Shape, attrs: Mapping[str, Attr]) -> tuple[tuple[str, int], ...]:
    kernel, stride, padding = (_pair(attrs, k) for k in ("kernel", "stride", "padding"))
    return (
        ("rows", _image(x)[0]),
        ("times", x[-1]),
        ("out_rows", _image(y)[0]),
        ("out_times", y[-1]),
        ("kernel_rows", kernel[0]),
        ("kernel", kernel[1]),
        ("row_stride", stride[0]),
        ("stride", stride[1]),
        ("row_padding", padding[0]),
        ("padding", padding[1]),
    )


@register("pool.c")
class AvgPool(Op):
    """Mean over windows; padded zeros count (torch's `count_include_pad`)."""

    name = "avg_pool"
    captures = ("avg_pool1d", "avg_pool2d")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        kernel, stride, padding = pool_arguments(args)
        padded = any(padding)
        if args.get("ceil_mode") or args.get("divisor_override") or (
            padded and not args.get("count_include_pad", True)
        ):
            raise CaptureError(
                "average pooling with ceil_mode, divisor_override or count_include_pad=False is "
                "not supported: pad before the pooling instead"
            )
        return b.one("avg_pool", args_input(args), kernel=kernel, stride=stride, padding=padding)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (_out_shape(shapes[0], attrs),)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        x = node.inputs[0]
        attrs = dict(node.attrs)
        return (b.one("avg_pool_dx", dy, hint=f"d_{x.name}", x_shape=x.shape, **attrs),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        kernel, stride, padding = (node.ints(k)[1] for k in ("kernel", "stride", "padding"))
        return t0 * stride - padding, (t1 - 1) * stride - padding + kernel

    def ops(self, node: Node) -> int:
        return node.outputs[0].size * prod(node.ints("kernel"))

    def call(self, node: Node) -> Call:
        x, y = node.inputs[0].shape, node.outputs[0].shape
        geometry = _geometry(x, y, dict(node.attrs))
        box = (prod(y[:-1]), y[-1])
        return Call("bt_avg_pool", "bt_pool", geometry, (x_in(0), x_out()), box)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        kernel, stride, padding = (_pair(attrs, k) for k in ("kernel", "stride", "padding"))
        if inputs[0].dim() == 3:
            return F.avg_pool1d(inputs[0], kernel[1], stride[1], padding[1])
        return F.avg_pool2d(inputs[0], kernel, stride, padding)

    def samples(self) -> tuple[Sample, ...]:
        def case(x: Shape, kernel: Shape, stride: Shape, padding: Shape = (0, 0)) -> Sample:
            return Sample((x,), {"kernel": kernel, "stride": stride, "padding": padding})

        return (
            case((1, 4, 1, 237), (1, 8), (1, 8)),
            case((1, 3, 131), (1, 4), (1, 4)),
            case((1, 2, 5, 40), (2, 5), (2, 3), (1, 2)),
            case((1, 2, 1, 29), (1, 29), (1, 29)),
            case((1, 2, 50), (1, 7), (1, 2)),
        )


@register("pool.c")
class AvgPoolDx(Op):
    """Gradient of the mean: each window hands dy / size to its samples."""

    name = "avg_pool_dx"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x = attrs["x_shape"]
        assert isinstance(x, tuple)
        return (x,)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        kernel, stride, padding = (node.ints(k)[1] for k in ("kernel", "stride", "padding"))
        return -((-(t0 + padding - kernel + 1)) // stride), (t1 - 1 + padding) // stride + 1

    def call(self, node: Node) -> Call:
        x, y = node.outputs[0].shape, node.inputs[0].shape
        geometry = _geometry(x, y, dict(node.attrs))
        box = (prod(x[:-1]), x[-1])
        return Call("bt_avg_pool_dx", "bt_pool", geometry, (x_in(0), x_out()), box)
