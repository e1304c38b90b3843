# SPDX-License-Identifier: Apache-2.0
"""Transfers between the two memories of a cluster, which the planner puts into loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import Builder, Call, Op, Sample, register, rows_times, x_in, x_out


class Transfer(Op):
    """The same numbers in another memory."""

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        return (grads[0],)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return t0, t1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return r0, r1

    def call(self, node: Node) -> Call:
        box = rows_times(node.outputs[0].shape)
        geometry = (("get", int(self.name == "get")),)
        return Call("bt_transfer_box", "bt_transfer", geometry, (x_in(0), x_out()), box)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].clone()

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 3, 70),), {}), Sample(((2, 1),), {}))


@register("bt_transfer.h")
class Get(Transfer):
    """From L2 into L1."""

    name = "get"


@register("bt_transfer.h")
class Put(Transfer):
    """From L1 into L2."""

    name = "put"
