# SPDX-License-Identifier: Apache-2.0
"""Pooling over rows and time. Layout is that of `conv`; padding is the same on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, DType, Node, Shape, Value
from biotrain.ir.op import (
    NULL,
    Builder,
    Call,
    Op,
    Operand,
    Sample,
    Swapped,
    args_input,
    p_in,
    p_out,
    per_axis,
    register,
    rows_times,
    swapped_pairs,
    x_in,
    x_out,
)

Pair = tuple[int, int]


def pair(attrs: Mapping[str, Attr], key: str, default: Pair | None = None) -> Pair:
    """The attribute `key`, or `default`, as (rows, times)."""
    value = attrs.get(key, default)
    assert isinstance(value, tuple) and len(value) == 2, (key, value)
    return value[0], value[1]


def image(shape: Shape) -> Pair:
    """(rows of one channel, times)."""
    return (1, shape[-1]) if len(shape) == 3 else (shape[-2], shape[-1])


def _argument(args: Mapping[str, Any], key: str, fill: int) -> Pair:
    """A torch argument for one or two axes as (rows, times)."""
    return per_axis(args[key], len(args_input(args).shape) - 2, fill)


def _arguments(args: Mapping[str, Any]) -> dict[str, Attr]:
    """Kernel, stride and padding of a captured pooling."""
    kernel = _argument(args, "kernel_size", 1)
    stride = _argument(args, "stride", 1) if args.get("stride") else kernel
    return {"kernel": kernel, "stride": stride, "padding": _argument(args, "padding", 0)}


def _as_torch(b: Builder, name: str, args: Mapping[str, Any], attrs: Mapping[str, Attr]) -> Value:
    """Append a pooling; its shape must be what torch says (ceil_mode may change nothing)."""
    y = b.one(name, args_input(args), hint=b.stem(name), **attrs)
    if y.shape != args["_output_shape"]:
        if args.get("ceil_mode"):
            raise CaptureError(
                "pooling with ceil_mode is not supported where it adds a window: "
                "pad before the pooling instead"
            )
        raise CaptureError(f"pooling takes x (1, C, [H,] T), not {args_input(args).shape}")
    return y


def _whole_windows(
    b: Builder, args: Mapping[str, Any], attrs: dict[str, Attr]
) -> tuple[Mapping[str, Any], dict[str, Attr]]:
    """A max pooling with ceil_mode as one without: minus infinity behind x, as far as the last
    window reaches."""
    x, wanted = args_input(args), image(args["_output_shape"])
    sides: list[Pair] = []
    for i, (n, windows) in enumerate(zip(image(x.shape), wanted, strict=True)):
        kernel, stride, padding, dilation = (
            pair(attrs, k)[i] for k in ("kernel", "stride", "padding", "dilation")
        )
        reach = (windows - 1) * stride + (kernel - 1) * dilation + 1
        sides.append((padding, reach - n - padding) if reach > n + 2 * padding else (0, 0))
    if not any(map(any, sides)):
        return args, attrs
    pads = [(0, 0)] * 2 + sides[4 - len(x.shape) :]
    flat = tuple(p for side in pads for p in side)
    y = b.one("pad", x, pads=flat, value=float("-inf"))
    left = pair(attrs, "padding")
    inside = tuple(0 if any(side) else p for side, p in zip(sides, left, strict=True))
    return {**args, "input": y, "self": y}, {**attrs, "padding": inside}


def _out_shape(x: Shape, attrs: Mapping[str, Attr]) -> Shape:
    """The shape of the result; raises `GraphError` where the windows do not fit x."""
    if len(x) not in (3, 4) or x[0] != 1:
        raise GraphError(f"pooling takes x (1, C, [H,] T), not {x}")
    out = []
    for i, n in enumerate(image(x)):
        kernel, stride, padding = (pair(attrs, k)[i] for k in ("kernel", "stride", "padding"))
        dilation = pair(attrs, "dilation", (1, 1))[i]
        reach = (kernel - 1) * dilation + 1
        windows = (n + 2 * padding - reach) // stride + 1
        if windows < 1:
            raise GraphError(f"pooling {pair(attrs, 'kernel')} does not fit into {x[2:]}")
        if 2 * padding > kernel:
            raise GraphError(f"pooling pads {padding}, more than half of its kernel {kernel}")
        taps = (
            range(j * stride - padding, j * stride - padding + reach, dilation)
            for j in range(windows)
        )
        if padding and not all(any(0 <= t < n for t in window) for window in taps):
            raise GraphError(f"pooling has a window without a sample of {x[2:]}")
        out.append(windows)
    return (*x[:2], out[1]) if len(x) == 3 else (*x[:2], *out)


def _geometry(x: Shape, y: Shape, attrs: Mapping[str, Attr]) -> tuple[tuple[str, int], ...]:
    """The kernel's struct for pooling x to y."""
    kernel, stride, padding = (pair(attrs, k) for k in ("kernel", "stride", "padding"))
    dilation = pair(attrs, "dilation", (1, 1))
    return (
        ("rows", image(x)[0]),
        ("times", x[-1]),
        ("out_rows", image(y)[0]),
        ("out_times", y[-1]),
        ("kernel_rows", kernel[0]),
        ("kernel", kernel[1]),
        ("row_stride", stride[0]),
        ("stride", stride[1]),
        ("row_padding", padding[0]),
        ("padding", padding[1]),
        ("row_dilation", dilation[0]),
        ("dilation", dilation[1]),
    )


class _Pool(Op):
    """An op over the windows of a pooling: `forward` from x to y, else from dy to dx."""

    function: str
    forward = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        if self.forward:
            return (_out_shape(shapes[0], attrs),)
        x = attrs["x_shape"]
        assert isinstance(x, tuple)
        return (x,)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        dy = grads[0]
        assert dy is not None
        x = node.inputs[0]
        saved = node.outputs[1:]
        attrs = {**dict(node.attrs), "x_shape": x.shape}
        return (b.one(f"{self.name}_dx", *saved, dy, hint=f"d_{x.name}", **attrs),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        attrs = dict(node.attrs)
        kernel, stride, padding = (pair(attrs, k)[1] for k in ("kernel", "stride", "padding"))
        reach = (kernel - 1) * pair(attrs, "dilation", (1, 1))[1] + 1
        if self.forward:
            return t0 * stride - padding, (t1 - 1) * stride - padding + reach
        return -((reach - 1 - t0 - padding) // stride), (t1 - 1 + padding) // stride + 1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        """All rows of the channels: pooling over rows is done within a channel."""
        x, y = node.inputs[index].shape, node.outputs[0].shape
        source, box = image(x)[0], image(y)[0]
        return r0 // box * source, -(-r1 // box) * source

    def swapped(self, node: Node) -> Swapped | None:
        if len(node.inputs[0].shape) != 4:
            return None
        pairs = ("kernel", "stride", "padding", "dilation", "out")
        return Swapped(node.op, swapped_pairs(node, *pairs), (True,))

    def ops(self, node: Node) -> int:
        if self.forward:
            return node.outputs[0].size * prod(node.ints("kernel"))
        return node.outputs[0].size

    def operands(self, node: Node) -> tuple[Operand, ...]:
        """Arguments of the kernel."""
        return x_in(0), x_out()

    def call(self, node: Node) -> Call:
        outside = node.outputs[0].shape
        shapes = (node.inputs[0].shape, outside) if self.forward else (outside, self._dy(node))
        geometry = _geometry(*shapes, dict(node.attrs))
        return Call(self.function, "bt_pool", geometry, self.operands(node), rows_times(outside))

    def _dy(self, node: Node) -> Shape:
        return node.inputs[-1].shape


@register("bt_pool.h")
class AvgPool(_Pool):
    """Mean over windows; padded zeros count (torch's `count_include_pad`)."""

    name = "avg_pool"
    function = "bt_avg_pool"
    captures = ("avg_pool1d", "avg_pool2d")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        if args.get("divisor_override"):
            raise CaptureError("average pooling with a divisor_override is not supported")
        attrs = _arguments(args)
        clipped = any(pair(attrs, "padding")) and not args.get("count_include_pad", True)
        return _as_torch(b, "avg_pool_uneven" if clipped else "avg_pool", args, attrs)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        kernel, stride, padding = (pair(attrs, k) for k in ("kernel", "stride", "padding"))
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
            case((1, 2, 5, 43), (2, 5), (2, 5)),
            case((1, 3, 700), (1, 700), (1, 700)),
        )


@register("bt_pool.h")
class AvgPoolDx(_Pool):
    """Gradient of the mean: each window hands dy / size to its samples."""

    name = "avg_pool_dx"
    function = "bt_avg_pool_dx"
    forward = False


class _Uneven(_Pool):
    """Windows of several sizes: `out` (rows, times) adaptive ones, or windows clipped to x."""

    def _axes(self, node: Node) -> dict[str, Attr]:
        """The attributes in the terms of the kernel: an adaptive window has size 0."""
        adaptive: dict[str, Attr] = {"kernel": (0, 0), "stride": (1, 1), "padding": (0, 0)}
        return adaptive if node.get("out", False) else dict(node.attrs)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        if not self.forward or "out" not in attrs:
            return super().infer(shapes, attrs)
        x, out = shapes[0], pair(attrs, "out")
        if len(x) not in (3, 4) or x[0] != 1 or min(out) < 1 or (len(x) == 3 and out[0] != 1):
            raise GraphError(f"adaptive pooling to {out} takes x (1, C, [H,] T), not {x}")
        return ((*x[:2], *out[4 - len(x) :]),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        if not node.get("out", False):
            return super().window(node, index, t0, t1)
        n, m = node.inputs[0].shape[-1], node.outputs[0].shape[-1]
        return t0 * n // m, -(-t1 * n // m)

    def ops(self, node: Node) -> int:
        return max(node.inputs[0].size, node.outputs[0].size)

    def call(self, node: Node) -> Call:
        outside = node.outputs[0].shape
        shapes = (node.inputs[0].shape, outside) if self.forward else (outside, self._dy(node))
        geometry = _geometry(*shapes, self._axes(node))
        return Call(self.function, "bt_pool", geometry, self.operands(node), rows_times(outside))


@register("bt_pool.h")
class AvgPoolUneven(_Uneven):
    """Mean over the samples of x in windows that are adaptive, or that reach over its borders."""

    name = "avg_pool_uneven"
    function = "bt_avg_pool_uneven"

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        (x,) = inputs
        if "out" in attrs:
            out = pair(attrs, "out")
            if x.dim() == 3:
                return F.adaptive_avg_pool1d(x, out[1])
            return F.adaptive_avg_pool2d(x, out)
        kernel, stride, padding = (pair(attrs, k) for k in ("kernel", "stride", "padding"))
        if x.dim() == 3:
            one = (kernel[1], stride[1], padding[1])
            return F.avg_pool1d(x, *one, count_include_pad=False)
        return F.avg_pool2d(x, kernel, stride, padding, count_include_pad=False)

    def samples(self) -> tuple[Sample, ...]:
        clipped: dict[str, Attr] = {"kernel": (3, 5), "stride": (2, 3), "padding": (1, 2)}
        return (
            Sample(((1, 2, 5, 40),), clipped),
            Sample(((1, 3, 31),), {"kernel": (1, 6), "stride": (1, 6), "padding": (0, 3)}),
            Sample(((1, 2, 5, 37),), {"out": (3, 8)}),
        )


@register("bt_pool.h")
class AvgPoolUnevenDx(_Uneven):
    """Gradient of `avg_pool_uneven`: each window hands dy / size to its samples."""

    name = "avg_pool_uneven_dx"
    function = "bt_avg_pool_uneven_dx"
    forward = False


@register("bt_pool.h")
class MaxPool(_Pool):
    """Maximum over windows, the first of equal ones; NaN where a window holds one.

    With `index`, the second output says where in its window each maximum was; that, and neither x
    nor y, is what the gradient needs.
    """

    name = "max_pool"
    function = "bt_max_pool"
    captures = ("max_pool1d", "max_pool2d")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        dilation = _argument(args, "dilation", 1)
        attrs = {**_arguments(args), "dilation": dilation, "index": not b.predict}
        if args.get("ceil_mode"):
            args, attrs = _whole_windows(b, args, attrs)
        return _as_torch(b, "max_pool", args, attrs)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        y = _out_shape(shapes[0], attrs)
        return (y, y) if attrs["index"] else (y,)

    def dtypes(self, attrs: Mapping[str, Attr]) -> tuple[DType, ...] | None:
        index: DType = "u8" if prod(pair(attrs, "kernel")) <= 256 else "i32"
        return ("f32", index) if attrs["index"] else None

    def operands(self, node: Node) -> tuple[Operand, ...]:
        maps = (NULL, NULL)
        if len(node.outputs) > 1:
            maps = (p_out(1), NULL) if node.outputs[1].dtype == "u8" else (NULL, p_out(1))
        return x_in(0), x_out(), *maps

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        kernel, stride, padding = (pair(attrs, k) for k in ("kernel", "stride", "padding"))
        dilation = pair(attrs, "dilation")
        if inputs[0].dim() == 3:
            return F.max_pool1d(inputs[0], kernel[1], stride[1], padding[1], dilation[1])
        return F.max_pool2d(inputs[0], kernel, stride, padding, dilation)

    def samples(self) -> tuple[Sample, ...]:
        def case(
            x: Shape,
            kernel: Shape,
            stride: Shape,
            padding: Shape = (0, 0),
            dilation: Shape = (1, 1),
            index: bool = True,
        ) -> Sample:
            attrs: dict[str, Attr] = {"kernel": kernel, "stride": stride, "padding": padding}
            attrs |= {"dilation": dilation, "index": index}
            return Sample((x,), attrs, grad=None if index else ())

        return (
            case((1, 4, 1, 237), (1, 8), (1, 8)),
            case((1, 3, 131), (1, 5), (1, 2), (0, 2)),
            case((1, 2, 5, 40), (3, 4), (2, 3), (1, 2)),
            case((1, 2, 9, 43), (3, 4), (1, 2), (1, 2), (2, 3)),
            case((1, 2, 700), (1, 300), (1, 50)),
            case((1, 2, 20), (1, 2), (1, 2), index=False),
        )


@register("bt_pool.h")
class MaxPoolDx(_Pool):
    """Gradient of the maximum: each window hands dy to the sample that it chose."""

    name = "max_pool_dx"
    function = "bt_max_pool_dx"
    forward = False

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return super().window(node, index, t0, t1) if index else None

    def operands(self, node: Node) -> tuple[Operand, ...]:
        small = node.inputs[0].dtype == "u8"
        maps = (p_in(0), NULL) if small else (NULL, p_in(0))
        return *maps, x_in(1), x_out()
