# SPDX-License-Identifier: Apache-2.0
"""Tensors kept in 16 bits and read back (put into a graph by `rewrite.precision`).

Both formats round to nearest even. fp16 has 11 significant bits up to 65504; what is larger becomes
infinity. bf16 has 8 and the range of float32. In the graph such a tensor has the type `i16`: what
its bits mean is a matter of the two ops around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from biotrain.ir.graph import Attr, DType, Node, Shape
from biotrain.ir.op import Call, Op, register, rows_times, x_in, x_out

Half = Literal["fp16", "bf16"]

EPS: dict[str, float] = {"fp16": 2.0**-11, "bf16": 2.0**-8}
"""Largest relative error of one rounding, in the range of normal numbers."""


def torch_dtype(name: str) -> Any:
    """The torch type of a format."""
    import torch

    return {"fp16": torch.float16, "bf16": torch.bfloat16}[name]


class _Convert(Op):
    """y = x in another format, element by element; no gradient: it comes in after those."""

    work: ClassVar[int]
    """Additions on one element, as everywhere; masks and shifts are not counted."""

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def ops(self, node: Node) -> int:
        return self.work * node.outputs[0].size

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return t0, t1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return r0, r1

    def call(self, node: Node) -> Call:
        box = rows_times(node.outputs[0].shape)
        geometry = (("rows", box[0]), ("times", box[1]))
        return Call(f"bt_{node.op}", "bt_half", geometry, (x_in(0), x_out()), box)


class _ToHalf(_Convert):
    """Float to 16 bits."""

    def dtypes(self, attrs: Mapping[str, Attr]) -> tuple[DType, ...] | None:
        return ("i16",)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        return inputs[0].to(torch_dtype(self.name.removeprefix("to_"))).view(torch.int16)


class _FromHalf(_Convert):
    """16 bits to float: exact."""

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        return inputs[0].view(torch_dtype(self.name.removeprefix("from_"))).to(torch.float32)


@register("bt_half.h")
class ToFp16(_ToHalf):
    """float32 to fp16."""

    name = "to_fp16"
    work = 3


@register("bt_half.h")
class FromFp16(_FromHalf):
    """fp16 to float32."""

    name = "from_fp16"
    work = 1


@register("bt_half.h")
class ToBf16(_ToHalf):
    """float32 to bf16."""

    name = "to_bf16"
    work = 2


@register("bt_half.h")
class FromBf16(_FromHalf):
    """bf16 to float32."""

    name = "from_bf16"
    work = 1
