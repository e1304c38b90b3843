# SPDX-License-Identifier: Apache-2.0
"""The base class of elementwise ops: element i of the result depends on element i of the inputs.

Everything that the planner and the emitter ask for follows from that: the result has the shape of
the input, a box of the result reads the same box of every input, and the kernel is called as
`bt_<name>(geometry, box, inputs..., output, numbers...)`. A subclass states its name, the torch
functions that it stands for, its cost, the torch function that it must equal, and its samples;
`docs/add-an-op.md` adds one, C included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import (
    OPS,
    Builder,
    Call,
    Op,
    Sample,
    Swapped,
    float_literal,
    register,
    rows_times,
    x_in,
    x_out,
)


class Elementwise(Op):
    """y = f(x), element by element.

    The decorator `elementwise` registers such an op together with its gradient `<name>_dx`, whose
    kernel computes dx = f'(saved) dy. An op without a gradient is registered with `register`.
    """

    inplace: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0),)
    saved: ClassVar[str] = "out"
    """What the gradient reads: `out`, where the result determines the slope, so that the op may
    overwrite its input; else `in`."""
    numbers: ClassVar[tuple[str, ...]] = ()
    """Attributes that both kernels take as their last arguments, float32 constants in this
    order."""
    ops_per_element: ClassVar[int] = 1
    """Multiplies and adds of one element, those inside exp, log, ... included."""
    dx_ops_per_element: ClassVar[int] = 1
    """The same for one element of the gradient."""
    geometry: ClassVar[str] = "bt_plane"
    """The kernel's struct of the tensor's `rows` and `times`."""

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        if any(shape != shapes[0] for shape in shapes):
            raise GraphError(f"{self.name} takes tensors of one shape, not {list(shapes)}")
        return (shapes[0],)

    def saves(self, node: Node) -> str:
        """What the gradient of this node reads, `in` or `out`: `saved` unless attributes decide."""
        return self.saved

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        gradient = f"{self.name}_dx"
        if gradient not in OPS:
            return super().vjp(b, node, grads, wanted)
        (dy,) = grads
        assert dy is not None
        saved = node.outputs[0] if self.saves(node) == "out" else node.inputs[0]
        hint = f"d_{node.inputs[0].name}"
        return (b.one(gradient, saved, dy, hint=hint, **dict(node.attrs)),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return t0, t1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return r0, r1

    def swapped(self, node: Node) -> Swapped | None:
        return Swapped(node.op, dict(node.attrs), (True,) * len(node.inputs))

    def ops(self, node: Node) -> int:
        return self.ops_per_element * node.outputs[0].size

    def call(self, node: Node) -> Call:
        box = rows_times(node.outputs[0].shape)
        operands = (*(x_in(i) for i in range(len(node.inputs))), x_out())
        numbers = tuple(float_literal(node.float(key)) for key in self.numbers)
        geometry = (("rows", box[0]), ("times", box[1]))
        return Call(f"bt_{node.op}", self.geometry, geometry, operands, box, numbers)

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 3, 2, 131),), {}), Sample(((1, 7),), {}))


class ElementwiseDx(Elementwise):
    """dx = f'(saved) dy; both inputs may be overwritten."""

    inplace = ((0, 1), (0, 0))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        raise NotImplementedError("tested through the gradient of its forward op")

    def samples(self) -> tuple[Sample, ...]:
        return ()


def elementwise(source: str) -> Callable[[type[Elementwise]], type[Elementwise]]:
    """Class decorator: register an op with kernels in `source` (a file of `ops/`), and the op of
    its gradient, `<name>_dx`, with the kernel `bt_<name>_dx` in the same file."""

    def add(cls: type[Elementwise]) -> type[Elementwise]:
        stated = {
            "__doc__": f"Gradient of {cls.name}.",
            "name": f"{cls.name}_dx",
            "numbers": cls.numbers,
            "ops_per_element": cls.dx_ops_per_element,
            "geometry": cls.geometry,
        }
        register(source)(cls)
        register(source)(type(f"{cls.__name__}Dx", (ElementwiseDx,), stated))
        return cls

    return add
