# SPDX-License-Identifier: Apache-2.0
"""Hard swish, the example of docs/add-an-op.md: x relu6(x + 3) / 6.

Source: A. Howard et al., "Searching for MobileNetV3", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import Builder, Call, Op, Sample, register, rows_times, x_in, x_out


@register("bt_hardswish.h")
class Hardswish(Op):
    """y = x relu6(x + 3) / 6, element by element."""

    name = "hardswish"
    captures = ("hardswish",)
    inplace = ((0, 0),)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        return (b.one("hardswish_dx", node.inputs[0], dy, hint=f"d_{node.inputs[0].name}"),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return t0, t1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return r0, r1

    def ops(self, node: Node) -> int:
        return 5 * node.outputs[0].size

    def call(self, node: Node) -> Call:
        rows, times = rows_times(node.outputs[0].shape)
        geometry = (("rows", rows), ("times", times))
        operands = (x_in(0), x_out())
        return Call("bt_hardswish", "bt_hardswish_shape", geometry, operands, (rows, times))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        return F.hardswish(inputs[0])

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 3, 131),), {}, low=-6.0, high=6.0), Sample(((1, 2, 2, 9),), {}))


@register("bt_hardswish.h")
class HardswishDx(Op):
    """dx = dy times 0, x / 3 + 1 / 2, or 1: below -3, up to 3, above."""

    name = "hardswish_dx"
    inplace = ((0, 1), (0, 0))

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return t0, t1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return r0, r1

    def ops(self, node: Node) -> int:
        return 3 * node.outputs[0].size

    def call(self, node: Node) -> Call:
        rows, times = rows_times(node.outputs[0].shape)
        geometry = (("rows", rows), ("times", times))
        operands = (x_in(0), x_in(1), x_out())
        return Call("bt_hardswish_dx", "bt_hardswish_shape", geometry, operands, (rows, times))
