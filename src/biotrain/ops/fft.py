# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions of long taps along time by Fourier transforms of blocks (overlap-save).

`fft`, `fft_dx` and `fft_dw` take the place of `conv`, `conv_dx` and `conv_dw`: the same shapes and
attributes, `size` (samples of a transform), and one operand more, the scratch memory, which
`fft_workspace` stands for in the memory plan. The rounding is another than that of the direct
convolution: it is a choice of the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Span, Value
from biotrain.ir.op import (
    NULL,
    Builder,
    Call,
    Op,
    Operand,
    Sample,
    p_in,
    p_out,
    register,
    x_in,
    x_out,
)
from biotrain.ir.split import SERIAL, Split
from biotrain.ops.conv import Conv, ConvDw, ConvDx, _Conv
from biotrain.ops.fir import depthwise, fits

SIZES = (128, 256, 512)
"""Samples of a transform, of half as many complex values (`bt_fft_transform.h`)."""

BLOCK_UNIT = 32
"""The outputs of a block are a multiple of so many."""

SCRATCH_TRANSFORMS = 3
"""Transforms that the scratch memory of a call holds."""


def step(size: int, taps: int) -> int:
    """Outputs of a block; 0 or less where there are too many taps for the size."""
    return (size - taps + 1) // BLOCK_UNIT * BLOCK_UNIT


def transform_ops(values: int) -> int:
    """Multiplies and adds of a transform of complex values: a first stage, then radix 8 twice."""
    first = {64: 0, 128: 64 * 10, 256: 16 + 63 * 34}[values]
    return first + values // 64 * (9 * 60 + 7 * (60 + 42))


def taps_ops(size: int) -> int:
    """Multiplies and adds of `bt_fft_ready`, which transforms the taps of one channel."""
    return transform_ops(size // 2) + 14 * (size // 4 - 1) + 4


def filter_ops(size: int) -> int:
    """Multiplies and adds of one block of outputs: two transforms and `bt_fft_filter`, but not
    `bt_fft_put`."""
    return 2 * transform_ops(size // 2) + 36 * (size // 4 - 1) + 12


def weight_ops(size: int) -> int:
    """Multiplies and adds of one block of the weight gradient: two transforms and `bt_fft_add`."""
    return 2 * transform_ops(size // 2) + 46 * (size // 4 - 1) + 16


def total_ops(size: int, taps: int) -> int:
    """Multiplies and adds of `bt_fft_total`, which turns the sum of all blocks into one row of
    weights."""
    return transform_ops(size // 2) + 8 * (size // 4 - 1) + 4 + taps


def _check(attrs: Mapping[str, Attr], x: Shape, w: Shape) -> None:
    """Raise `GraphError` where a convolution cannot be done by transforms of that size."""
    if not fits(attrs, x, w):
        raise GraphError(f"fft is depthwise along time, of stride and dilation 1: not x {x}, w {w}")
    size = attrs["size"]
    if not isinstance(size, int) or size not in SIZES or step(size, w[-1]) <= 0:
        raise GraphError(f"fft of {w[-1]} taps: a transform of {size} samples is not possible")


def _span(node: Node, taps: int, shift: int, t0: int, t1: int) -> tuple[int, int]:
    """The samples that the blocks of the outputs [t0, t1) read."""
    size = node.int("size")
    block = step(size, taps)
    return t0 // block * block + shift, (t1 - 1) // block * block + shift + size


def _blocks(node: Node, taps: int, t0: int, t1: int) -> int:
    """Number of blocks that the outputs [t0, t1) touch."""
    block = step(node.int("size"), taps)
    return -(-t1 // block) - t0 // block


class _Fft(_Conv):
    """What a convolution by transforms and its two gradients share."""

    def _fft_call(self, node: Node, function: str, *operands: Operand, box: Shape) -> Call:
        x, w, y = self._shapes(node)
        padding, size = node.ints("padding"), node.int("size")
        geometry = (
            ("rows", prod(x[2:-1])),
            ("outs", w[0] // x[1]),
            ("times", x[-1]),
            ("out_times", y[-1]),
            ("taps", w[-1]),
            ("padding", padding[2]),
            ("size", size),
            ("step", step(size, w[-1])),
        )
        return Call(function, "bt_fft", geometry, operands, (prod(box[:-1]), box[-1]))

    def split(self, node: Node) -> Split:
        return SERIAL  # there is one scratch memory

    def _box_ops(self, node: Node, box: Span) -> int:
        """Multiplies and adds of a call: whole blocks, and the taps of each channel once."""
        raise NotImplementedError

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        return Op.work(self, node, box, wide_outputs)

    def ops(self, node: Node) -> int:
        rows, times = self.call(node).box
        return self._box_ops(node, Span(0, rows, 0, times))

    def shared_ops(self, node: Node, box: Span) -> int:
        return self._box_ops(node, box)  # nothing is in proportion to the box


@register("bt_fft.h")
class FftWorkspace(Op):
    """Scratch memory: a tensor that the next op overwrites, and that nobody reads."""

    name = "fft_workspace"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        size = attrs["size"]
        assert isinstance(size, int)
        return ((SCRATCH_TRANSFORMS * size,),)

    def ops(self, node: Node) -> int:
        return 0

    def tiles(self, node: Node) -> bool:
        return False

    def split(self, node: Node) -> Split:
        return SERIAL

    def call(self, node: Node) -> Call:
        size = node.int("size")
        return Call(
            "bt_fft_workspace",
            "bt_fft_size",
            (("size", size),),
            (p_out(),),
            (1, SCRATCH_TRANSFORMS * size),
        )


@register("bt_fft.h")
class Fft(_Fft, Conv):
    """y = conv(x, w, scratch[, b]), depthwise."""

    name = "fft"
    captures: ClassVar[tuple[str, ...]] = ()  # type: ignore[assignment]

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        _check(attrs, shapes[0], shapes[1])
        return super().infer(shapes, attrs)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        x, w = node.inputs[:2]
        attrs = dict(node.attrs)
        dx = dw = db = None
        if wanted[1]:
            scratch = b.one("fft_workspace", hint="workspace", size=node.int("size"))
            dw = b.one("fft_dw", x, dy, scratch, hint=f"d_{w.name}", w_shape=w.shape, **attrs)
        if len(wanted) > 3 and wanted[3]:
            db = b.one("conv_db", dy, hint=f"d_{node.inputs[3].name}")
        if wanted[0]:
            scratch = b.one("fft_workspace", hint="workspace", size=node.int("size"))
            dx = b.one("fft_dx", dy, w, scratch, hint=f"d_{x.name}", x_shape=x.shape, **attrs)
        return (dx, dw, None, db)[: len(wanted)]

    def _box_ops(self, node: Node, box: Span) -> int:
        x, w, _ = self._shapes(node)
        rows, size = prod(x[2:-1]), node.int("size")
        channels = -(-box.r1 // rows) - box.r0 // rows
        blocks = (box.r1 - box.r0) * _blocks(node, w[-1], box.t0, box.t1)
        return channels * taps_ops(size) + blocks * filter_ops(size) + box.size

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        if index:
            return None
        return _span(node, node.inputs[1].shape[-1], -node.ints("padding")[2], t0, t1)

    def call(self, node: Node) -> Call:
        bias = p_in(3) if len(node.inputs) > 3 else NULL
        operands = (x_in(0), p_in(1), bias, p_in(2), x_out())
        return self._fft_call(node, "bt_fft_forward", *operands, box=node.outputs[0].shape)

    def reference(self, attrs: Mapping[str, Attr], *inputs: object) -> object:
        return super().reference(attrs, *inputs[:2], *inputs[3:])

    def samples(self) -> tuple[Sample, ...]:
        def case(size: int, *shape: Any, bias: bool = False, **more: Any) -> Sample:
            attrs, x, w = depthwise(*shape, **more)
            shapes = (x, w, (SCRATCH_TRANSFORMS * size,), *([(w[0],)] if bias else []))
            return Sample(shapes, {**attrs, "size": size}, grad=(0, 1, 3) if bias else (0, 1))

        return (
            case(512, 3, 900, 128, (63, 64), height=1),
            case(256, 2, 611, 101, (50, 50), bias=True),
            case(128, 2, 533, 37, (0, 0), outs=2, bias=True),
            case(128, 2, 263, 64, (80, 3), outs=3, height=2),
            case(512, 2, 50, 128, (64, 90)),
            case(256, 2, 229, 16, (7, 8)),
            case(128, 1, 331, 17, (25, 30), height=3),
            case(512, 1, 701, 300, (150, 149)),
            case(128, 1, 23, 19, (0, 0)),
            case(128, 1, 129, 97, (1, 0)),
            case(128, 2, 9, 3, (1, 1)),
        )


@register("bt_fft.h")
class FftDx(_Fft, ConvDx):
    """Gradient of the input: the taps backwards. Operands: dy, w, scratch."""

    name = "fft_dx"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x = super().infer(shapes, attrs)
        _check(attrs, x[0], shapes[1])
        return x

    def _box_ops(self, node: Node, box: Span) -> int:
        x, w, _ = self._shapes(node)
        rows, outs, size = prod(x[2:-1]), w[0] // x[1], node.int("size")
        channels = -(-box.r1 // rows) - box.r0 // rows
        blocks = (box.r1 - box.r0) * _blocks(node, w[-1], box.t0, box.t1)
        return outs * (channels * taps_ops(size) + blocks * filter_ops(size) + box.size)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        if index:
            return None
        taps = node.inputs[1].shape[-1]
        return _span(node, taps, node.ints("padding")[2] - (taps - 1), t0, t1)

    def call(self, node: Node) -> Call:
        operands = (x_in(0), p_in(1), p_in(2), x_out())
        return self._fft_call(node, "bt_fft_input_gradient", *operands, box=node.outputs[0].shape)


@register("bt_fft.h")
class FftDw(_Fft, ConvDw):
    """Gradient of the weight, added to the output. Operands: x, dy, scratch.

    The products of all blocks are added up before the one way back: no box parts the times.
    """

    name = "fft_dw"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        w = super().infer(shapes, attrs)
        _check(attrs, shapes[0], w[0])
        return w

    def tiles(self, node: Node) -> bool:
        return False

    def _box_ops(self, node: Node, box: Span) -> int:
        x, w, y = self._shapes(node)
        rows, size, taps = prod(x[2:-1]), node.int("size"), w[-1]
        blocks = (box.r1 - box.r0) * _blocks(node, taps, 0, y[-1])
        channels = -(-box.r1 // rows) - box.r0 // rows
        return blocks * weight_ops(size) + channels * total_ops(size, taps)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return None

    def call(self, node: Node) -> Call:
        operands = (x_in(0), x_in(1), p_in(2), p_out())
        return self._fft_call(node, "bt_fft_weight_gradient", *operands, box=node.inputs[1].shape)
