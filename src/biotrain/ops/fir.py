# SPDX-License-Identifier: Apache-2.0
"""Fast FIR: depthwise convolutions of long taps along time by polyphase Karatsuba.

`fir`, `fir_dx` and `fir_dw` take the place of `conv`, `conv_dx` and `conv_dw`: the same operands,
shapes and attributes, and `levels`. Each level splits a sum into three of half the length at half
the rate, so that `levels` levels do (3/4)^levels of the multiplies (`bt_fir_sum.h`). The rounding
is another than that of the direct convolution: it is a choice of the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Span, Value
from biotrain.ir.op import NULL, Builder, Call, Op, Sample, p_in, p_out, register, x_in, x_out
from biotrain.ops.conv import Conv, ConvDw, ConvDx

LEVELS = (2, 3)

TAPS = 128
TILE, LEAST = 144, 48
"""Taps and outputs of one pass, and what the last tile has at least (`bt_fir_block.h`)."""


def fits(attrs: Mapping[str, Attr], x: Shape, w: Shape) -> bool:
    """Whether the kernels can do this convolution."""
    stride, dilation, padding = attrs["stride"], attrs["dilation"], attrs["padding"]
    assert isinstance(stride, tuple) and isinstance(dilation, tuple) and isinstance(padding, tuple)
    plain = stride == (1, 1) and dilation[-1] == 1 and padding[:2] == (0, 0)
    one_row = len(w) == 3 or w[2] == 1
    return plain and one_row and attrs["groups"] == x[1] and w[1] == 1


def _check(attrs: Mapping[str, Attr], x: Shape, w: Shape) -> None:
    if not fits(attrs, x, w):
        raise GraphError(f"fir is depthwise along time, of stride and dilation 1: not x {x}, w {w}")
    if attrs["levels"] not in LEVELS:
        raise GraphError(f"fir has 2 or 3 levels, not {attrs['levels']}")


def _geometry(x: Shape, w: Shape, y: Shape, attrs: Mapping[str, Attr]) -> dict[str, int]:
    padding, levels = attrs["padding"], attrs["levels"]
    assert isinstance(padding, tuple) and isinstance(levels, int)
    return {
        "rows": prod(x[2:-1]),
        "outs": w[0] // x[1],
        "times": x[-1],
        "out_times": y[-1],
        "taps": w[-1],
        "padding": padding[2],
        "levels": levels,
    }


def _blocks(node: Node, t0: int, t1: int) -> tuple[int, int]:
    """The range of outputs widened to whole blocks."""
    block = 1 << node.int("levels")
    return t0 // block * block, -(-t1 // block) * block


def split_ops(levels: int, rows: int, m: int, n: int, taps: int, add: bool) -> int:
    """Multiplies and adds of one level and those below it (`bt_fir_split`, `bt_fir_three`).

    The outputs are `rows` phases of m samples, the signal as many of n.
    """
    half, more, less = rows // 2, (taps + 1) // 2, taps // 2
    around = less + 2 * half * n + (2 * half * m if add else 0)
    if levels == 1:
        return around + 2 * half * m + 2 * half * m * (more + more + less)
    return around + sum(
        split_ops(levels - 1, half, m, n, count, adds)
        for count, adds in ((more, False), (more, True), (less, True))
    )


def tile_ops(levels: int, outputs: int, taps: int) -> int:
    """Multiplies and adds of one tile: the outputs rounded up to whole phases."""
    rows = 1 << levels
    m = -(-outputs // rows)
    return split_ops(levels, rows, m, m + (taps + rows - 2) // rows, taps, False) + outputs


def filter_ops(levels: int, outputs: int, taps: int) -> int:
    """Multiplies and adds of a row of outputs, tile by tile, and its final additions."""
    tiles: list[int] = []
    while outputs > sum(tiles):
        left = outputs - sum(tiles)
        tiles.append(min(left, TILE - LEAST if TILE < left < TILE + LEAST else TILE))
    parts = [min(TAPS, taps - j) for j in range(0, taps, TAPS)]
    return sum(
        tiles.count(n) * parts.count(k) * tile_ops(levels, n, k) for n in {*tiles} for k in {*parts}
    )


def depthwise(
    rows: int,
    times: int,
    taps: int,
    padding: tuple[int, int],
    outs: int = 1,
    height: int | None = None,
) -> tuple[dict[str, Attr], Shape, Shape]:
    """Attributes and shapes of x and w of a sample that `fits`; with a height it has four axes."""
    attrs: dict[str, Attr] = {
        "padding": (0, 0, *padding),
        "stride": (1, 1),
        "dilation": (1, 1),
        "groups": rows,
    }
    if height is None:
        return attrs, (1, rows, times), (rows * outs, 1, taps)
    return attrs, (1, rows, height, times), (rows * outs, 1, 1, taps)


@register("bt_fir.h")
class Fir(Conv):
    """y = conv(x, w[, b]), depthwise."""

    name = "fir"
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
            dw = b.one("fir_dw", x, dy, hint=f"d_{w.name}", w_shape=w.shape, **attrs)
        if len(wanted) > 2 and wanted[2]:
            db = b.one("conv_db", dy, hint=f"d_{node.inputs[2].name}")
        if wanted[0]:
            dx = b.one("fir_dx", dy, w, hint=f"d_{x.name}", x_shape=x.shape, **attrs)
        return (dx, dw, db)[: len(wanted)]

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        return Op.work(self, node, box, wide_outputs)

    def ops(self, node: Node) -> int:
        y, w = node.outputs[0].shape, node.inputs[1].shape
        return prod(y[:-1]) * filter_ops(node.int("levels"), y[-1], w[-1])

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return super().window(node, index, *_blocks(node, t0, t1))

    def call(self, node: Node) -> Call:
        y = node.outputs[0].shape
        geometry = tuple(_geometry(*self._shapes(node), dict(node.attrs)).items())
        bias = p_in(2) if len(node.inputs) > 2 else NULL
        operands = (x_in(0), p_in(1), bias, x_out())
        return Call("bt_fir_forward", "bt_fir", geometry, operands, (prod(y[:-1]), y[-1]))

    def samples(self) -> tuple[Sample, ...]:
        def case(levels: int, *shape: Any, bias: bool = False, **more: Any) -> Sample:
            attrs, x, w = depthwise(*shape, **more)
            return Sample((x, w, (w[0],)) if bias else (x, w), {**attrs, "levels": levels})

        return (
            case(2, 3, 700, 128, (63, 64), height=1),
            case(3, 3, 700, 128, (63, 64), height=1),
            case(3, 2, 1111, 101, (50, 50), bias=True),
            case(2, 2, 533, 37, (0, 0), outs=2, bias=True),
            case(3, 2, 263, 64, (80, 3), outs=3, height=2),
            case(2, 2, 50, 128, (64, 90)),
            case(3, 2, 129, 16, (7, 8)),
            case(2, 1, 331, 17, (25, 30), height=3),
            case(3, 1, 301, 300, (150, 149)),
            case(2, 2, 257, 33, (16, 16)),
            case(3, 1, 23, 19, (0, 0)),
            case(2, 1, 129, 129, (1, 0)),
            case(3, 2, 9, 3, (1, 1)),
        )


@register("bt_fir.h")
class FirDx(ConvDx):
    """Gradient of the input: the taps backwards."""

    name = "fir_dx"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x = super().infer(shapes, attrs)
        _check(attrs, x[0], shapes[1])
        return x

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        return Op.work(self, node, box, wide_outputs)

    def ops(self, node: Node) -> int:
        x, w = node.outputs[0].shape, node.inputs[1].shape
        outs = w[0] // x[1]
        return prod(x[:-1]) * outs * filter_ops(node.int("levels"), x[-1], w[-1])

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return super().window(node, index, *_blocks(node, t0, t1))

    def call(self, node: Node) -> Call:
        x = node.outputs[0].shape
        geometry = tuple(_geometry(*self._shapes(node), dict(node.attrs)).items())
        operands = (x_in(0), p_in(1), x_out())
        return Call("bt_fir_input_gradient", "bt_fir", geometry, operands, (prod(x[:-1]), x[-1]))


@register("bt_fir.h")
class FirDw(ConvDw):
    """Gradient of the weight, added to the output: each leaf of dy is a filter of x, and as long as
    a filter may be, for long ones save most."""

    name = "fir_dw"
    leaf = TAPS

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        w = super().infer(shapes, attrs)
        _check(attrs, shapes[0], w[0])
        return w

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        return Op.work(self, node, box, wide_outputs)

    def ops(self, node: Node) -> int:
        y, w = node.inputs[1].shape, node.outputs[0].shape
        leaves = [min(TAPS, y[-1] - t) for t in range(0, y[-1], TAPS)]
        levels = node.int("levels")
        return prod(y[:-1]) * sum(leaves.count(n) * filter_ops(levels, w[-1], n) for n in {*leaves})

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        found = super().window(node, index, t0, t1)
        if index or found is None:
            return found
        taps = node.outputs[0].shape[-1]
        return found[0], found[1] + _blocks(node, 0, taps)[1] - taps

    def call(self, node: Node) -> Call:
        y = node.inputs[1].shape
        geometry = tuple(_geometry(*self._shapes(node), dict(node.attrs)).items())
        operands = (x_in(0), x_in(1), p_out())
        return Call("bt_fir_weight_gradient", "bt_fir", geometry, operands, (prod(y[:-1]), y[-1]))
