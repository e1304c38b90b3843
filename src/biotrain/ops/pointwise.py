# SPDX-License-Identifier: Apache-2.0
"""Element by element functions of one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from biotrain.ir import Attr, Node, Shape, Value
from biotrain.op import Builder, Call, Op, Sample, register, rows_times, x_in, x_out


class _Unary(Op):
    """y = f(x); the gradient reads `saved`: the input or the output, whichever is cheaper."""

    inplace = ((0, 0),)
    saved: ClassVar[str] = "out"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy,) = grads
        assert dy is not None
        saved = node.outputs[0] if self.saved == "out" else node.inputs[0]
        hint = f"d_{node.inputs[0].name}"
        return (b.one(f"{self.name}_dx", saved, dy, hint=hint, **dict(node.attrs)),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return t0, t1

    def arguments(self, node: Node) -> tuple[str, ...]:
        """Constants of the function, as C expressions."""
        return ()

    def call(self, node: Node) -> Call:
        box = rows_times(node.outputs[0].shape)
        views = tuple(x_in(i) for i in range(len(node.inputs)))
        geometry = (("rows", box[0]), ("times", box[1]))
        function = f"bt_{node.op}"
        return Call(function, "bt_plane", geometry, (*views, x_out()), box, self.arguments(node))


class _UnaryDx(_Unary):
    """dx = f'(saved) dy."""

    inplace = ((0, 1), (0, 0))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        raise NotImplementedError("tested through the gradient of its forward op")


@register("pointwise.c")
class Relu(_Unary):
    """max(x, 0)."""

    name = "relu"
    captures = ("relu",)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].relu()

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 3, 2, 131),), {}), Sample(((1, 7),), {}))


@register("pointwise.c")
class ReluDx(_UnaryDx):
    """Gradient of relu, from the sign of its output."""

    name = "relu_dx"
