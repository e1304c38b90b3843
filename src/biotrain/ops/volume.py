# SPDX-License-Identifier: Apache-2.0
"""Convolution and pooling over three axes, where they are one over two axes of another shape.

x (1, C, A, B, T), w (O, C / groups, KA, KB, KT). An axis along which a kernel of one sample moves
in single steps is *idle*: its samples do not mix, and it may join another axis as rows. An axis
that the kernel covers *whole* joins the channels. What is left has a kernel along one axis, or
along two where an axis was covered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Shape, Value
from biotrain.ir.op import Builder, Composite, Sample, args_input, register
from biotrain.ops.matmul import transposed
from biotrain.ops.shape import ints, reshaped

AXES = 3
MIXED = (
    "a kernel over three axes that neither covers one of them whole nor leaves one alone is not "
    "supported: fold an axis into the channels and use nn.Conv2d"
)


@dataclass(frozen=True, slots=True)
class _Axis:
    """What a kernel does along one axis."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def outs(self) -> int:
        """Positions of the kernel."""
        reach = self.dilation * (self.kernel - 1) + 1
        return (self.size + self.before + self.after - reach) // self.stride + 1

    @property
    def idle(self) -> bool:
        return (self.kernel, self.stride, self.before, self.after) == (1, 1, 0, 0)

    @property
    def whole(self) -> bool:
        padded = self.before or self.after
        return self.kernel == self.size and not padded and self.dilation == 1


def _each(value: Any) -> tuple[int, ...]:
    """A torch argument for three axes."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return tuple(int(v) for v in values * (AXES if len(values) == 1 else 1))


def _axes(shape: Shape, kernel: Sequence[int], attrs: Mapping[str, Attr]) -> list[_Axis]:
    """The axes of a tensor under a kernel."""
    if len(shape) != AXES + 2 or shape[0] != 1:
        raise GraphError(f"three axes take x (1, C, A, B, T), not {shape}")
    pads = ints(attrs, "padding")
    columns = (
        shape[2:],
        kernel,
        ints(attrs, "stride"),
        ints(attrs, "dilation"),
        pads[::2],
        pads[1::2],
    )
    found = [_Axis(*numbers) for numbers in zip(*columns, strict=True)]
    if any(axis.outs < 1 for axis in found):
        raise GraphError(f"a kernel {tuple(kernel)} does not fit into {shape[2:]}")
    return found


def _plane(axes: Sequence[_Axis]) -> list[int]:
    """The axes in the order in which they are one over two: all but the last join as rows.
    `GraphError` where they are not."""
    idle = [i for i in range(AXES) if axes[i].idle]
    busy = [i for i in range(AXES) if not axes[i].idle]
    if len(busy) <= 1:
        busy = busy or [idle.pop()]
        return [*idle, *busy]
    raise GraphError(MIXED)


def _back(b: Builder, y: Value, moved: Sequence[int]) -> Value:
    """`y` with the axes where they were before they were `moved`."""
    return transposed(b, y, [moved.index(i) for i in range(AXES + 2)])


@register("bt_conv.h")
class Conv3d(Composite):
    """torch.nn.functional.conv3d; `padding` has two numbers for each axis."""

    name = "conv3d"
    captures = ("conv3d",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x, w, bias, padding = (args[k] for k in ("input", "weight", "bias", "padding"))
        dilation = _each(args["dilation"])
        if padding == "same":
            totals = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
            sides = [side for n in totals for side in (n // 2, n - n // 2)]
        else:
            sides = [p for p in _each(0 if padding == "valid" else padding) for _ in range(2)]
        return b.apply(
            "conv3d",
            *((x, w) if bias is None else (x, w, bias)),
            stride=_each(args["stride"]),
            dilation=dilation,
            padding=tuple(sides),
            groups=int(args["groups"]),
        )

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, w = shapes[:2]
        return ((1, w[0], *(axis.outs for axis in _axes(x, w[2:], attrs))),)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        x, w = inputs[:2]
        (shape,) = self.infer([v.shape for v in inputs], attrs)
        axes = _axes(x.shape, w.shape[2:], attrs)
        # Axes that the kernel covers join the channels, as long as more than one is left.
        whole = [i for i in range(AXES) if axes[i].whole and not axes[i].idle][:2]
        left = [i for i in range(AXES) if i not in whole]
        order = _plane(axes) if len(left) == AXES else left
        moved = [0, 1, *(2 + i for i in (*whole, *order))]
        above, time = [axes[i] for i in order[:-1]], axes[order[-1]]
        channels = x.shape[1] * prod(axes[i].size for i in whole)
        rows = prod(axis.size for axis in above)
        image = reshaped(b, transposed(b, x, moved), (1, channels, rows, time.size))
        per_group = channels // int(attrs["groups"])  # type: ignore[arg-type]
        kernel = (w.shape[0], per_group, prod(axis.kernel for axis in above), time.kernel)
        weight = reshaped(b, transposed(b, w, moved), kernel)
        lone = above[0] if len(above) == 1 else _Axis(rows, 1, 1, 1, 0, 0)
        y = b.one(
            "conv",
            image,
            weight,
            *inputs[2:],
            stride=(lone.stride, time.stride),
            dilation=(lone.dilation, time.dilation),
            padding=(lone.before, lone.after, time.before, time.after),
            groups=attrs["groups"],
        )
        apart = (1, w.shape[0], *(1 for _ in whole), *(axes[i].outs for i in order))
        return reshaped(b, _back(b, reshaped(b, y, apart), moved), shape)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        pads = ints(attrs, "padding")
        x = F.pad(inputs[0], (*pads[4:6], *pads[2:4], *pads[0:2]))
        bias = inputs[2] if len(inputs) > 2 else None
        given = {k: attrs[k] for k in ("stride", "dilation", "groups")}
        return F.conv3d(x, inputs[1], bias, **given)  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        def case(x: Shape, w: Shape, *bias: Shape, **more: Attr) -> Sample:
            attrs: dict[str, Attr] = {"stride": (1,) * 3, "dilation": (1,) * 3}
            attrs |= {"padding": (0,) * 6, "groups": 1}
            return Sample((x, w, *bias), {**attrs, **more})

        return (
            case((1, 2, 2, 40, 3), (4, 2, 1, 5, 1), (4,), padding=(0, 0, 2, 2, 0, 0)),
            case((1, 4, 2, 9, 3), (4, 1, 1, 1, 3), groups=4),
            case((1, 4, 2, 9, 3), (6, 2, 2, 1, 3), (6,), groups=2),
            case((1, 3, 2, 4, 33), (5, 3, 1, 1, 1), (5,)),
            case((1, 1, 8, 7, 16), (4, 1, 8, 1, 1), (4,)),
            case((1, 2, 3, 6, 40), (3, 2, 3, 2, 5), stride=(1, 2, 3), dilation=(1, 1, 2)),
            case((1, 2, 40, 2, 3), (3, 2, 5, 1, 1), stride=(2, 1, 1), padding=(2, 2, 0, 0, 0, 0)),
        )


@register("bt_pool.h")
class AvgPool3d(Composite):
    """torch.nn.functional.avg_pool3d over one of the three axes."""

    name = "avg_pool3d"
    captures = ("avg_pool3d",)
    plane = "avg_pool"

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        if args.get("divisor_override") or args.get("ceil_mode"):
            raise CaptureError("avg_pool3d with ceil_mode or divisor_override is not supported")
        attrs = _pooling(args)
        if any(ints(attrs, "padding")) and not args.get("count_include_pad", True):
            raise CaptureError("avg_pool3d takes its padding into the mean: count_include_pad=True")
        return b.apply(self.name, args_input(args), hint="", **attrs)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        axes = _axes(shapes[0], ints(attrs, "kernel"), attrs)
        return ((*shapes[0][:2], *(axis.outs for axis in axes)),)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        (x,) = inputs
        axes = _axes(x.shape, ints(attrs, "kernel"), attrs)
        order = _plane(axes)
        moved = [0, 1, *(2 + i for i in order)]
        rows = prod(axes[i].size for i in order[:-1])
        last = axes[order[-1]]
        y = b.one(
            self.plane,
            reshaped(b, transposed(b, x, moved), (1, x.shape[1], rows, last.size)),
            hint=b.stem(self.name),
            kernel=(1, last.kernel),
            stride=(1, last.stride),
            padding=(0, last.before),
            **self._more(attrs),
        )
        apart = (1, x.shape[1], *(axes[i].outs for i in order))
        return _back(b, reshaped(b, y, apart), moved)

    def _more(self, attrs: Mapping[str, Attr]) -> dict[str, Attr]:
        return {}

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        pads = ints(attrs, "padding")[::2]
        return F.avg_pool3d(inputs[0], ints(attrs, "kernel"), ints(attrs, "stride"), pads)

    def samples(self) -> tuple[Sample, ...]:
        attrs: dict[str, Attr] = {"dilation": (1,) * 3}
        return (
            Sample(
                ((1, 3, 2, 41, 4),),
                {**attrs, "kernel": (1, 2, 1), "stride": (1, 2, 1), "padding": (0,) * 6},
            ),
            Sample(
                ((1, 2, 9, 2, 3),),
                {**attrs, "kernel": (4, 1, 1), "stride": (2, 1, 1), "padding": (1, 1, 0, 0, 0, 0)},
            ),
        )


@register("bt_pool.h")
class MaxPool3d(AvgPool3d):
    """torch.nn.functional.max_pool3d over one of the three axes."""

    name = "max_pool3d"
    captures = ("max_pool3d",)
    plane = "max_pool"

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        if args.get("ceil_mode") or set(_each(args.get("dilation") or 1)) != {1}:
            raise CaptureError("max_pool3d with ceil_mode or dilation is not supported")
        return b.apply(self.name, args_input(args), hint="", **_pooling(args), index=not b.predict)

    def _more(self, attrs: Mapping[str, Attr]) -> dict[str, Attr]:
        return {"dilation": (1, 1), "index": attrs["index"]}

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        pads = ints(attrs, "padding")[::2]
        return F.max_pool3d(inputs[0], ints(attrs, "kernel"), ints(attrs, "stride"), pads)

    def samples(self) -> tuple[Sample, ...]:
        return tuple(Sample(s.shapes, {**s.attrs, "index": True}) for s in super().samples())


def _pooling(args: Mapping[str, Any]) -> dict[str, Attr]:
    """Kernel, stride and padding of a captured pooling over three axes."""
    kernel = _each(args["kernel_size"])
    pads = _each(args.get("padding") or 0)
    return {
        "kernel": kernel,
        "stride": _each(args["stride"]) if args.get("stride") else kernel,
        "dilation": (1,) * AXES,
        "padding": tuple(p for p in pads for _ in range(2)),
    }
