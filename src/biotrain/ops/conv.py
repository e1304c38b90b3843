# SPDX-License-Identifier: Apache-2.0
"""Convolution over one or two axes, with groups, stride, dilation and any zero padding.

Layout is torch's: x (1, C, [H,] T), w (O, C/groups, [KH,] K), y (1, O, [H',] T'). Padding is
(top, bottom, left, right), so that "same" with an even kernel needs no tensor of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Span, Value
from biotrain.ir.op import (
    NULL,
    Builder,
    Call,
    Op,
    Sample,
    Swapped,
    p_in,
    p_out,
    per_axis,
    register,
    swapped_pairs,
    x_in,
    x_out,
)
from biotrain.ir.split import Region
from biotrain.ops import conv_work
from biotrain.ops.shape import reshaped


def _pair(attrs: Mapping[str, Attr], key: str) -> tuple[int, int]:
    value = attrs[key]
    assert isinstance(value, tuple) and len(value) == 2, (key, value)
    return value


def _padding(attrs: Mapping[str, Attr]) -> tuple[int, int, int, int]:
    value = attrs["padding"]
    assert isinstance(value, tuple) and len(value) == 4, value
    return value


def _image(shape: Shape) -> tuple[int, int, int]:
    """(channels, rows, times) of an activation."""
    return (shape[1], 1, shape[2]) if len(shape) == 3 else (shape[1], shape[2], shape[3])


def _kernel(shape: Shape) -> tuple[int, int, int, int]:
    """(out channels, in channels per group, rows, taps) of a weight."""
    return (shape[0], shape[1], 1, shape[2]) if len(shape) == 3 else (*shape,)  # type: ignore[return-value]


def _geometry(x: Shape, w: Shape, y: Shape, attrs: Mapping[str, Attr]) -> dict[str, int]:
    """The kernels' struct of a convolution of x with w to y."""
    channels, rows, times = _image(x)
    out_channels, _, kernel_rows, taps = _kernel(w)
    _, out_rows, out_times = _image(y)
    stride, dilation, padding = _pair(attrs, "stride"), _pair(attrs, "dilation"), _padding(attrs)
    return {
        "channels": channels,
        "rows": rows,
        "times": times,
        "out_channels": out_channels,
        "out_rows": out_rows,
        "out_times": out_times,
        "groups": int(attrs["groups"]),  # type: ignore[arg-type]
        "kernel_rows": kernel_rows,
        "taps": taps,
        "row_stride": stride[0],
        "stride": stride[1],
        "row_dilation": dilation[0],
        "dilation": dilation[1],
        "row_padding": padding[0],
        "padding": padding[2],
    }


def _out_shape(x: Shape, w: Shape, attrs: Mapping[str, Attr]) -> Shape:
    if len(x) not in (3, 4) or len(w) != len(x) or x[0] != 1:
        raise GraphError(f"conv takes x (1, C, [H,] T) and w (O, C/groups, [KH,] K), not {x}, {w}")
    channels, rows, times = _image(x)
    out_channels, per_group, kernel_rows, taps = _kernel(w)
    groups = int(attrs["groups"])  # type: ignore[arg-type]
    if channels != per_group * groups or out_channels % groups:
        raise GraphError(f"conv with {groups} groups: x {x} does not match w {w}")
    stride, dilation, padding = _pair(attrs, "stride"), _pair(attrs, "dilation"), _padding(attrs)
    out_rows = (rows + padding[0] + padding[1] - dilation[0] * (kernel_rows - 1) - 1) // stride[0]
    out_times = (times + padding[2] + padding[3] - dilation[1] * (taps - 1) - 1) // stride[1]
    if out_rows < 0 or out_times < 0:
        raise GraphError(f"conv: kernel {w[2:]} is larger than the padded input {x[2:]}")
    tail = (out_times + 1,) if len(x) == 3 else (out_rows + 1, out_times + 1)
    return (1, out_channels, *tail)


def _inside(n: int, outs: int, taps: int, stride: int, dilation: int, padding: int) -> int:
    """Pairs of an output and a tap along one axis whose sample lies inside the input."""
    count = 0
    for k in range(taps):
        shift = k * dilation - padding  # 0 <= i stride + shift < n
        lo, hi = -(shift // stride), (n - 1 - shift) // stride + 1
        count += max(0, min(hi, outs) - max(lo, 0))
    return count


def _rows_of_x(g: Mapping[str, int], r0: int, r1: int) -> tuple[int, int]:
    """Rows of x that the rows [r0, r1) of y are made of."""
    outs, ins = g["out_channels"] // g["groups"], g["channels"] // g["groups"]
    first, last = r0 // g["out_rows"], (r1 - 1) // g["out_rows"]
    lo, hi = 0, g["rows"]
    if first == last:  # within one channel: as far as the kernel reaches
        lo = max(lo, r0 % g["out_rows"] * g["row_stride"] - g["row_padding"])
        reach = (g["kernel_rows"] - 1) * g["row_dilation"] + 1
        hi = min(hi, (r1 - 1) % g["out_rows"] * g["row_stride"] - g["row_padding"] + reach)
    begin, end = first // outs * ins, (last // outs + 1) * ins - 1
    return begin * g["rows"] + lo, end * g["rows"] + max(lo, hi)


def _rows_of_y(g: Mapping[str, int], r0: int, r1: int) -> tuple[int, int]:
    """Rows of y that the rows [r0, r1) of x take part in."""
    outs, ins = g["out_channels"] // g["groups"], g["channels"] // g["groups"]
    first, last = r0 // g["rows"], (r1 - 1) // g["rows"]
    lo, hi = 0, g["out_rows"]
    if first == last:
        reach = (g["kernel_rows"] - 1) * g["row_dilation"]
        lo = max(lo, -((reach - r0 % g["rows"] - g["row_padding"]) // g["row_stride"]))
        hi = min(hi, ((r1 - 1) % g["rows"] + g["row_padding"]) // g["row_stride"] + 1)
    begin, end = first // ins * outs, (last // ins + 1) * outs - 1
    return begin * g["out_rows"] + lo, end * g["out_rows"] + max(lo, hi)


class _Conv(Op):
    """What a convolution and its two gradients share."""

    def _geometry(self, node: Node) -> dict[str, int]:
        return _geometry(*self._shapes(node), dict(node.attrs))

    def _shapes(self, node: Node) -> tuple[Shape, Shape, Shape]:
        """(x, w, y) of the convolution that this node belongs to."""
        raise NotImplementedError

    def macs(self, node: Node) -> int:
        x, w, y = self._shapes(node)
        g = _geometry(x, w, y, dict(node.attrs))
        inside_t = _inside(
            g["times"], g["out_times"], g["taps"], g["stride"], g["dilation"], g["padding"]
        )
        inside_h = _inside(
            g["rows"],
            g["out_rows"],
            g["kernel_rows"],
            g["row_stride"],
            g["row_dilation"],
            g["row_padding"],
        )
        return w[0] * w[1] * inside_h * inside_t

    def _call(self, node: Node, function: str, *operands: Any, box: tuple[int, int]) -> Call:
        x, w, y = self._shapes(node)
        geometry = tuple(_geometry(x, w, y, dict(node.attrs)).items())
        return Call(function, "bt_conv", geometry, operands, box)


@register("bt_conv.h")
class Conv(_Conv):
    """y = conv(x, w[, b])."""

    name = "conv"
    captures = ("conv1d", "conv2d")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x, w, bias = args["input"], args["weight"], args["bias"]
        if x.shape[0] > 1:
            return self._inner_batch(b, args)
        axes = len(w.shape) - 2
        stride, dilation = (per_axis(args[k], axes) for k in ("stride", "dilation"))
        padding = args["padding"]
        if padding == "same":
            totals = [d * (k - 1) for d, k in zip(dilation[-axes:], w.shape[2:], strict=True)]
            sides = [(total // 2, total - total // 2) for total in totals]
        elif padding == "valid":
            sides = [(0, 0)] * axes
        else:
            sides = [(p, p) for p in per_axis(padding, axes, 0)[-axes:]]
        (top, bottom), (left, right) = [(0, 0)] * (2 - axes) + sides
        return b.one(
            "conv",
            *((x, w) if bias is None else (x, w, bias)),
            stride=stride,
            dilation=dilation,
            padding=(top, bottom, left, right),
            groups=args["groups"],
        )

    def _inner_batch(self, b: Builder, args: Mapping[str, Any]) -> Value:
        """Axes that a network folds into the batch become rows, which a kernel of one row does not
        mix: x (N, C, [H,] T) is computed as (1, C, N H, T)."""
        x, w = args["input"], args["weight"]
        axes = len(w.shape) - 2
        whole = axes == 1 or (
            w.shape[2] == 1
            and per_axis(args["stride"], axes)[0] == 1
            and (isinstance(args["padding"], str) or per_axis(args["padding"], axes, 0)[0] == 0)
        )
        if not whole:
            raise GraphError(f"conv of an inner batch takes kernels of one row, not {w.shape[2:]}")
        order = (1, 0, *range(2, len(x.shape)))
        rows = prod((x.shape[0], *x.shape[2:-1]))
        flat = reshaped(b, b.one("permute", x, dims=order), (1, x.shape[1], rows, x.shape[-1]))
        kernel = reshaped(b, w, (*w.shape[:2], 1, w.shape[-1]))
        given: dict[str, Any] = {"input": flat, "weight": kernel, "bias": args["bias"]}
        for key, fill in (("stride", 1), ("dilation", 1), ("padding", 0)):
            value = args[key]
            if not isinstance(value, str):
                value = [fill, per_axis(value, axes, fill)[1]]
            given[key] = value
        y = self.capture(b, {**given, "groups": args["groups"]})
        apart = (y.shape[1], x.shape[0], *x.shape[2:-1], y.shape[-1])
        return b.one("permute", reshaped(b, y, apart), dims=order)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (_out_shape(shapes[0], shapes[1], attrs),)

    def _shapes(self, node: Node) -> tuple[Shape, Shape, Shape]:
        return node.inputs[0].shape, node.inputs[1].shape, node.outputs[0].shape

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        x, w = node.inputs[:2]
        attrs = dict(node.attrs)
        dx = dw = db = None
        if wanted[1]:
            by: dict[str, Attr] = {"by_input": True} if wanted[0] and attrs["groups"] == 1 else {}
            dw = b.one("conv_dw", x, dy, hint=f"d_{w.name}", w_shape=w.shape, **attrs, **by)
        if len(wanted) > 2 and wanted[2]:
            db = b.one("conv_db", dy, hint=f"d_{node.inputs[2].name}")
        if wanted[0]:
            dx = b.one("conv_dx", dy, w, hint=f"d_{x.name}", x_shape=x.shape, **attrs)
        return (dx, dw, db)[: len(wanted)]

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        if index:
            return None
        s, d, p = node.ints("stride")[1], node.ints("dilation")[1], node.ints("padding")[2]
        taps = node.inputs[1].shape[-1]
        return t0 * s - p, (t1 - 1) * s - p + (taps - 1) * d + 1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return _rows_of_x(self._geometry(node), r0, r1) if index == 0 else None

    def swapped(self, node: Node) -> Swapped | None:
        if len(node.inputs[0].shape) != 4:
            return None
        attrs, sides = swapped_pairs(node, "stride", "dilation"), node.ints("padding")
        attrs["padding"] = (*sides[2:], *sides[:2])
        return Swapped(node.op, attrs, (True, True, False)[: len(node.inputs)])

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        rows = box.r1 - box.r0
        return conv_work.forward(self._geometry(node), rows, box.t0, box.t1, wide_outputs)

    def call(self, node: Node) -> Call:
        y = node.outputs[0].shape
        bias = p_in(2) if len(node.inputs) > 2 else NULL
        box = (prod(y[:-1]), y[-1])
        return self._call(node, "bt_conv_forward", x_in(0), p_in(1), bias, x_out(), box=box)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        x, w = inputs[:2]
        bias = inputs[2] if len(inputs) > 2 else None
        top, bottom, left, right = _padding(attrs)
        stride, dilation, groups = _pair(attrs, "stride"), _pair(attrs, "dilation"), attrs["groups"]
        if x.dim() == 3:
            x = F.pad(x, (left, right))
            return F.conv1d(x, w, bias, stride[1:], 0, dilation[1:], groups)  # type: ignore[arg-type]
        return F.conv2d(F.pad(x, (left, right, top, bottom)), w, bias, stride, 0, dilation, groups)  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        def case(
            x: Shape,
            w: Shape,
            padding: tuple[int, int, int, int] = (0, 0, 0, 0),
            stride: tuple[int, int] = (1, 1),
            dilation: tuple[int, int] = (1, 1),
            groups: int = 1,
            bias: bool = False,
        ) -> Sample:
            attrs: dict[str, Attr] = {
                "padding": padding,
                "stride": stride,
                "dilation": dilation,
                "groups": groups,
            }
            return Sample((x, w, (w[0],)) if bias else (x, w), attrs)

        return (
            case((1, 1, 8, 700), (4, 1, 8, 1)),
            case((1, 4, 1, 700), (4, 1, 1, 128), (0, 0, 63, 64), groups=4),
            case((1, 4, 1, 237), (8, 1, 1, 16), (0, 0, 7, 8), groups=4),
            case((1, 5, 300), (7, 5, 1), bias=True),
            case((1, 3, 2, 290), (5, 3, 1, 16), (0, 0, 7, 8), bias=True),
            case((1, 1, 2, 131), (4, 1, 1, 4), (0, 0, 1, 2)),
            case((1, 4, 5, 40), (6, 2, 3, 5), (1, 1, 2, 2), (2, 3), (1, 2), 2, bias=True),
            case((1, 2, 11), (2, 2, 3), (0, 0, 4, 0), (1, 2), (1, 3)),
            case((1, 6, 1, 9), (6, 1, 1, 9), (0, 0, 0, 0), groups=6, bias=True),
            case((1, 2, 3, 7), (3, 2, 2, 20), (0, 1, 9, 10)),
            case((1, 3, 400), (2, 3, 12), (0, 0, 5, 6), (1, 4)),
            # Taps that leave 5, 6 and 7 behind the last twelve of a ring (bt_conv_block.h).
            case((1, 2, 90), (2, 1, 5), (0, 0, 2, 2), groups=2),
            case((1, 2, 90), (2, 1, 18), (0, 0, 8, 9), groups=2),
            case((1, 1, 90), (2, 1, 31), (0, 0, 15, 15)),
        )


@register("bt_conv.h")
class ConvDx(_Conv):
    """Gradient of the input: dx = conv^T(dy, w)."""

    name = "conv_dx"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x = attrs["x_shape"]
        assert isinstance(x, tuple)
        if _out_shape(x, shapes[1], attrs) != shapes[0]:
            raise GraphError(f"conv_dx: gradient {shapes[0]} does not belong to x {x}")
        return (x,)

    def _shapes(self, node: Node) -> tuple[Shape, Shape, Shape]:
        return node.outputs[0].shape, node.inputs[1].shape, node.inputs[0].shape

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        if index:
            return None
        s, d, p = node.ints("stride")[1], node.ints("dilation")[1], node.ints("padding")[2]
        taps = node.inputs[1].shape[-1]
        return -((-(t0 + p - (taps - 1) * d)) // s), (t1 - 1 + p) // s + 1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return _rows_of_y(self._geometry(node), r0, r1) if index == 0 else None

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        rows = box.r1 - box.r0
        return conv_work.input_gradient(self._geometry(node), rows, box.t0, box.t1, wide_outputs)

    def call(self, node: Node) -> Call:
        x = node.outputs[0].shape
        box = (prod(x[:-1]), x[-1])
        return self._call(node, "bt_conv_input_gradient", x_in(0), p_in(1), x_out(), box=box)


@register("bt_conv.h")
class ConvDw(_Conv):
    """Gradient of the weight, added to the output: dw += sum over time of dy x.

    `by_input` says that boxes run over the rows of x instead of those of dy: where the gradient of
    x is wanted too, all rows of dy are there anyway, and x may come row by row.
    """

    name = "conv_dw"
    accumulates = True
    reduces_time = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        w = attrs["w_shape"]
        assert isinstance(w, tuple)
        if _out_shape(shapes[0], w, attrs) != shapes[1]:
            raise GraphError(f"conv_dw: gradient {shapes[1]} does not belong to x {shapes[0]}")
        return (w,)

    def _shapes(self, node: Node) -> tuple[Shape, Shape, Shape]:
        return node.inputs[0].shape, node.outputs[0].shape, node.inputs[1].shape

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        if index == 1:
            return t0, t1
        s, d, p = node.ints("stride")[1], node.ints("dilation")[1], node.ints("padding")[2]
        taps = node.outputs[0].shape[-1]
        return t0 * s - p, (t1 - 1) * s - p + (taps - 1) * d + 1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        if node.get("by_input", False):
            return (r0, r1) if index == 0 else None
        return (r0, r1) if index == 1 else _rows_of_x(self._geometry(node), r0, r1)

    def row_step(self, node: Node) -> int:
        return self._geometry(node)["rows" if node.get("by_input", False) else "out_rows"]

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        rows, by_input = box.r1 - box.r0, bool(node.get("by_input", False))
        geometry = self._geometry(node)
        return conv_work.weight_gradient(geometry, rows, box.t0, box.t1, by_input)

    def writes(self, node: Node, index: int, box: Span) -> Region:
        if not node.get("by_input", False):
            return super().writes(node, index, box)
        w, step = node.outputs[0].shape, self.row_step(node)
        taps = prod(w[2:])  # of one channel of x, for every channel of y
        first, last = box.r0 // step * taps, box.r1 // step * taps
        return Region(first, last - first, w[1] * taps, w[0])

    def call(self, node: Node) -> Call:
        operands = (x_in(0), x_in(1), p_out())
        x, y = node.inputs[0].shape, node.inputs[1].shape
        if node.get("by_input", False):
            box = (prod(x[:-1]), y[-1])
            return self._call(node, "bt_conv_weight_gradient_by_input", *operands, box=box)
        box = (prod(y[:-1]), y[-1])
        return self._call(node, "bt_conv_weight_gradient", *operands, box=box)


@register("bt_conv.h")
class ConvDb(Op):
    """Gradient of the bias, added to the output: db[c] += sum of dy over rows and time."""

    name = "conv_db"
    accumulates = True
    reduces_time = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((shapes[0][1],),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return t0, t1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return r0, r1

    def row_step(self, node: Node) -> int:
        return _image(node.inputs[0].shape)[1]

    def ops(self, node: Node) -> int:
        return node.inputs[0].size

    def call(self, node: Node) -> Call:
        channels, rows, times = _image(node.inputs[0].shape)
        geometry = (("channels", channels), ("rows", rows))
        box = (channels * rows, times)
        operands = (x_in(0), p_out())
        return Call("bt_conv_bias_gradient", "bt_channels", geometry, operands, box)
