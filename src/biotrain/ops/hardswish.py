# SPDX-License-Identifier: Apache-2.0
"""Hard swish: x relu6(x + 3) / 6.

Source: A. Howard et al., "Searching for MobileNetV3", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from biotrain.ir.elementwise import Elementwise, elementwise
from biotrain.ir.graph import Attr
from biotrain.ir.op import Sample


@elementwise("bt_hardswish.h")
class Hardswish(Elementwise):
    """y = x relu6(x + 3) / 6; the slope is 0 below -3, x / 3 + 1 / 2 up to 3, and 1 above."""

    name = "hardswish"
    captures = ("hardswish",)
    saved = "in"
    ops_per_element = 5
    dx_ops_per_element = 3
    geometry = "bt_hardswish_shape"

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        return F.hardswish(inputs[0])

    def samples(self) -> tuple[Sample, ...]:
        return (Sample(((1, 3, 131),), {}, low=-6.0, high=6.0), Sample(((1, 2, 2, 9),), {}))
