# SPDX-License-Identifier: Apache-2.0
"""Tensors stored in 16 bits and read back (put into a graph by `rewrite.precision`).

Both formats round to nearest even. fp16 has 11 significant bits up to 65504; what is larger becomes
infinity. bf16 has 8 and the range of float32. In the graph such a tensor has the type `i16`: what
its bits mean is a matter of the two ops around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from biotrain.ir.elementwise import Elementwise
from biotrain.ir.graph import Attr, DType
from biotrain.ir.op import Sample, register

Half = Literal["fp16", "bf16"]

EPS: dict[str, float] = {"fp16": 2.0**-11, "bf16": 2.0**-8}
"""Largest relative error of one rounding, in the range of normal numbers."""


def torch_dtype(name: str) -> Any:
    """The torch type of a format."""
    import torch

    return {"fp16": torch.float16, "bf16": torch.bfloat16}[name]


class _Convert(Elementwise):
    """y = x in another format. There is no gradient: conversions are added behind autodiff.

    `ops_per_element` counts additions, as everywhere; masks and shifts are not counted.
    """

    geometry = "bt_half"
    inplace = ()

    def samples(self) -> tuple[Sample, ...]:
        return ()


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
    ops_per_element = 3


@register("bt_half.h")
class FromFp16(_FromHalf):
    """fp16 to float32."""

    name = "from_fp16"
    ops_per_element = 1


@register("bt_half.h")
class ToBf16(_ToHalf):
    """float32 to bf16."""

    name = "to_bf16"
    ops_per_element = 2


@register("bt_half.h")
class FromBf16(_FromHalf):
    """bf16 to float32."""

    name = "from_bf16"
    ops_per_element = 1
