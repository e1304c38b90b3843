# SPDX-License-Identifier: Apache-2.0
"""Ops that only move elements: reshape, permute, pad, slice, cat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import GraphError
from biotrain.ir import Attr, Node, Shape, Value
from biotrain.op import Builder, Op, Sample, args_input, register


@register("shape.c")
class Reshape(Op):
    """The same elements under another shape; costs nothing."""

    name = "reshape"
    alias = True
    captures = ("reshape", "view", "flatten", "squeeze", "unsqueeze", "unflatten", "contiguous")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        return b.one("reshape", args_input(args), shape=args["_output_shape"])

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        shape = attrs["shape"]
        assert isinstance(shape, tuple)
        if prod(shape) != prod(shapes[0]):
            raise GraphError(f"reshape: {shapes[0]} has not the elements of {shape}")
        return (shape,)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        x = node.inputs[0]
        return (b.one("reshape", dy, hint=f"d_{x.name}", shape=x.shape),)

    def ops(self, node: Node) -> int:
        return 0

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].reshape(attrs["shape"])

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 3, 4),), {"shape": (1, 12)}),)
