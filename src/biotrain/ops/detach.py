# SPDX-License-Identifier: Apache-2.0
"""Stops the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import Builder, Op, register


@register("bt_shape.h")
class Detach(Op):
    """The same tensor, through which no gradient flows."""

    name = "detach"
    alias = True
    captures = ("detach",)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        return (None,)

    def ops(self, node: Node) -> int:
        return 0

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].detach()
