# SPDX-License-Identifier: Apache-2.0
"""Tensors one after the other along an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import Builder, Call, Sample, Swapped, register, rows_times, x_in, x_out
from biotrain.ops.shape import Move, axis_index, reshaped

FAN_IN = 4
"""Tensors that one call joins; more are joined in a tree."""


@register("bt_shape.h")
class Cat(Move):
    """Two to four tensors, one after the other along `axis`."""

    name = "cat"
    captures = ("cat", "concat", "concatenate", "stack")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        tensors: list[Value] = list(args["tensors"])
        stacked = tuple(args["_output_shape"])
        axis = axis_index(args["dim"], len(stacked))
        if len(stacked) > len(tensors[0].shape):
            shape = (*stacked[:axis], 1, *stacked[axis + 1 :])
            tensors = [reshaped(b, x, shape) for x in tensors]
        while len(tensors) > 1:
            groups = [tensors[i : i + FAN_IN] for i in range(0, len(tensors), FAN_IN)]
            tensors = [b.one("cat", *g, axis=axis) if len(g) > 1 else g[0] for g in groups]
        return tensors[0]

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        axis = attrs["axis"]
        assert isinstance(axis, int)
        first = shapes[0]
        if not 2 <= len(shapes) <= FAN_IN or not 0 <= axis < len(first):
            raise GraphError(f"cat joins 2 to {FAN_IN} tensors, not {list(shapes)} along {axis}")
        if any((*s[:axis], *s[axis + 1 :]) != (*first[:axis], *first[axis + 1 :]) for s in shapes):
            raise GraphError(f"cat: {list(shapes)} differ beside axis {axis}")
        return ((*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :]),)

    def _starts(self, node: Node) -> tuple[int, list[int]]:
        """The axis, and where along it each input begins."""
        axis = node.int("axis")
        return axis, list(accumulate((0, *(v.shape[axis] for v in node.inputs))))[:-1]

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        axis, begins = self._starts(node)
        result: list[Value | None] = []
        for x, begin, asked in zip(node.inputs, begins, wanted, strict=True):
            starts = tuple(begin if i == axis else 0 for i in range(len(x.shape)))
            steps, hint = (1,) * len(x.shape), f"d_{x.name}"
            result.append(
                b.one("slice", dy, hint=hint, starts=starts, sizes=x.shape, steps=steps)
                if asked
                else None
            )
        return result

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        axis, begins = self._starts(node)
        shift = begins[index] if axis == len(node.outputs[0].shape) - 1 else 0
        return t0 - shift, t1 - shift

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        y, (axis, begins) = node.outputs[0].shape, self._starts(node)
        if axis == len(y) - 1:
            return r0, r1
        if prod(y[:axis]) > 1:
            return None
        inner, size = prod(y[axis + 1 : -1]), node.inputs[index].shape[axis]
        begin = begins[index] * inner
        return max(r0 - begin, 0), min(r1 - begin, size * inner)

    def swapped(self, node: Node) -> Swapped | None:
        axis, rank = node.int("axis"), len(node.outputs[0].shape)
        other = {rank - 1: rank - 2, rank - 2: rank - 1}.get(axis, axis)
        return Swapped(node.op, {"axis": other}, (True,) * len(node.inputs))

    def call(self, node: Node) -> Call:
        y, axis = node.outputs[0].shape, node.int("axis")
        sizes = [v.shape[axis] for v in node.inputs]
        inner = 0 if axis == len(y) - 1 else prod(y[axis + 1 : -1])
        n = [*sizes, *[0] * (FAN_IN - len(sizes))]
        geometry = (("inner", inner), *((f"n{i}", n[i]) for i in range(FAN_IN)))
        operands = (*(x_in(i) for i in range(len(sizes))), x_out())
        return Call(f"bt_join{len(sizes)}", "bt_joined", geometry, operands, rows_times(y))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        return torch.cat(inputs, attrs["axis"])  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 131), (1, 3, 7)), {"axis": 2}),
            Sample(((1, 3, 20), (1, 1, 20), (1, 4, 20)), {"axis": 1}),
            Sample(((2, 1, 3, 5), (2, 2, 3, 5), (2, 1, 3, 5), (2, 3, 3, 5)), {"axis": 1}),
            Sample(((1, 7), (1, 2), (1, 11)), {"axis": 1}),
        )
