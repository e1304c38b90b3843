# SPDX-License-Identifier: Apache-2.0
"""Bounds on parameters: what a network does to `param.data` in its forward pass.

They have no input: a bound writes the parameter once more behind its update, and nothing reads it
between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from biotrain.ir.graph import Attr, Node, Shape
from biotrain.ir.op import Call, Op, float_literal, p_out, register
from biotrain.ir.split import SERIAL, Split
from biotrain.ops.shape import ints


class _Bound(Op):
    """A parameter in place, as a tensor [outer][parts][inner]; `shape` is its shape."""

    function: str

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (ints(attrs, "shape"),)

    def tiles(self, node: Node) -> bool:
        return False

    def split(self, node: Node) -> Split:
        return SERIAL

    def ops(self, node: Node) -> int:
        return 3 * node.outputs[0].size

    def bound(self, node: Node, *numbers: str) -> Call:
        geometry = tuple((key, node.int(key)) for key in ("outer", "parts", "inner"))
        box = (node.int("parts"), 1)
        return Call(self.function, "bt_parts", geometry, (p_out(),), box, numbers)


@register("bt_bounds.h")
class Renorm(_Bound):
    """torch.renorm(p, 2, axis, most): each part has a norm of at most `most`."""

    name = "renorm"
    function = "bt_renorm"

    def call(self, node: Node) -> Call:
        return self.bound(node, float_literal(node.float("most")))


@register("bt_bounds.h")
class ClampParameter(_Bound):
    """torch.clamp(p, low, high) of one part."""

    name = "clamp_parameter"
    function = "bt_clamp_parameter"

    def row_step(self, node: Node) -> int:
        return 0

    def call(self, node: Node) -> Call:
        limits = (float_literal(node.float(key)) for key in ("low", "high"))
        return self.bound(node, *limits)
