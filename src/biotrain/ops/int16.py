# SPDX-License-Identifier: Apache-2.0
"""Ops that read an input stored as the converter's int16 (made by `rewrite.int16`).

The value of a sample q is q `scale`, one float32 multiply. `from_int16` makes floats of it, in
tiles where the plan streams it; the others convert a run of samples at a time on the stack, which
serves a loop over rows that read every row of the input. All have the bits of the float ops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from biotrain.ir.elementwise import Elementwise
from biotrain.ir.graph import Attr, Node, Span, Value
from biotrain.ir.op import LEAF, Builder, Call, Op, float_literal, register, rows_times
from biotrain.ops.conv import Conv, ConvDw
from biotrain.ops.int16_work import (
    BLOCK_WEIGHTS,
    CHUNK_SAMPLES,
    forward_int16,
    weight_gradient_int16,
)
from biotrain.ops.one_pass import CentredDw


@register("bt_int16.h")
class FromInt16(Elementwise):
    """y = q scale; no gradient, for it reads the input of the network."""

    name = "from_int16"
    inplace = ()
    numbers = ("scale",)
    geometry = "bt_int16"

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        return (None,)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0] * attrs["scale"]

    def samples(self) -> tuple[()]:
        return ()


def reading_int16(call: Call, node: Node) -> Call:
    """The call of a float op, as the one that reads integers."""
    extra = (*call.extra, float_literal(node.float("scale")))
    return replace(call, function=f"{call.function}_int16", extra=extra)


class _ConvRows(Op):
    """Rows of x that a box of a conv converts."""

    def converted(self, node: Node, box: Span) -> int:
        """How many rows of x a box reads."""
        rows = rows_times(node.inputs[0].shape)[0]
        span = self.rows(node, 0, box.r0, box.r1) or (0, rows)
        return max(0, min(span[1], rows) - max(span[0], 0))


@register("bt_conv_int16.h")
class ConvInt16(_ConvRows, Conv):
    """y = conv(q scale, w[, b])."""

    name = "conv_int16"
    captures: ClassVar[tuple[str, ...]] = ()  # type: ignore[assignment]

    def ops(self, node: Node) -> int:
        rows, times = self.call(node).box
        return 2 * self.macs(node) + self.shared_ops(node, Span(0, rows, 0, times))

    def shared_ops(self, node: Node, box: Span) -> int:
        stride, dilation = node.ints("stride")[1], node.ints("dilation")[1]
        reach = (node.inputs[1].shape[-1] - 1) * dilation
        n, length = box.t1 - box.t0, (CHUNK_SAMPLES - reach - 1) // stride + 1
        chunks = -(-n // length)
        return self.converted(node, box) * ((n - chunks) * stride + chunks * (reach + 1))

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        rows = box.r1 - box.r0
        return forward_int16(self._geometry(node), rows, box.t0, box.t1, wide_outputs)

    def call(self, node: Node) -> Call:
        return reading_int16(super().call(node), node)

    def samples(self) -> tuple[()]:
        return ()


@register("bt_conv_int16.h")
class ConvDwInt16(_ConvRows, ConvDw):
    """dw += sum over time of dy q scale."""

    name = "conv_dw_int16"

    def ops(self, node: Node) -> int:
        rows, times = self.call(node).box
        return 2 * self.macs(node) + self.shared_ops(node, Span(0, rows, 0, times))

    def shared_ops(self, node: Node, box: Span) -> int:
        dilation, taps = node.ints("dilation")[1], node.outputs[0].shape[-1]
        block = min(BLOCK_WEIGHTS, (CHUNK_SAMPLES - LEAF) // dilation + 1, taps)
        n, leaves = box.t1 - box.t0, -(-box.t1 // LEAF) - box.t0 // LEAF
        blocks = -(-taps // block)
        return self.converted(node, box) * blocks * (n + leaves * (block - 1) * dilation)

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        rows = box.r1 - box.r0
        return weight_gradient_int16(self._geometry(node), rows, box.t0, box.t1)

    def call(self, node: Node) -> Call:
        return reading_int16(super().call(node), node)


@register("bt_one_pass_int16.h")
class CentredDwInt16(CentredDw):
    """`centred_dw` of q scale."""

    name = "centred_dw_int16"

    def ops(self, node: Node) -> int:
        return super().ops(node) + node.inputs[0].size

    def shared_ops(self, node: Node, box: Span) -> int:
        return 3 * rows_times(node.inputs[0].shape)[0] * (box.t1 - box.t0)

    def call(self, node: Node) -> Call:
        return reading_int16(super().call(node), node)


def reads_int16(node: Node) -> str | None:
    """The op that does what `node` does and reads its input 0 as integers, if there is one."""
    if node.op == "centred_dw":
        return "centred_dw_int16"
    if node.op == "conv":  # as far as the kernel reaches, in one run
        reach = (node.inputs[1].shape[-1] - 1) * node.ints("dilation")[1]
        return "conv_int16" if reach <= CHUNK_SAMPLES // 2 else None
    if node.op == "conv_dw":
        fits = node.ints("stride")[1] == 1 and node.ints("dilation")[1] <= CHUNK_SAMPLES // 2
        fits = fits and not node.get("by_input", False)
        return "conv_dw_int16" if fits else None
    return None
