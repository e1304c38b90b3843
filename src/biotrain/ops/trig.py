# SPDX-License-Identifier: Apache-2.0
"""Sine and cosine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from biotrain.ir.elementwise import Elementwise, elementwise
from biotrain.ir.graph import Attr
from biotrain.ir.op import Sample


class _Wave(Elementwise):
    """A function of an angle in radians, exact to rounding up to 8192 in size; NaN beyond."""

    saved = "in"
    ops_per_element = 24
    dx_ops_per_element = 25

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 2, 131),), {}, low=-9.0, high=9.0),
            Sample(((1, 7),), {}, low=-8000.0, high=8000.0),
        )


@elementwise("bt_trig.h")
class Sin(_Wave):
    """sin x."""

    name = "sin"
    captures = ("sin",)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].sin()


@elementwise("bt_trig.h")
class Cos(_Wave):
    """cos x."""

    name = "cos"
    captures = ("cos",)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0].cos()
