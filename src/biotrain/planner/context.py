# SPDX-License-Identifier: Apache-2.0
"""The fields of `bt_model`, the context of a package, that are neither tensors nor arena."""

from __future__ import annotations

from biotrain.ir.optimizer import Gradients
from biotrain.targets.layout import F32, I32, U32, Member, Struct

PROGRESS = Struct(
    "bt_progress",
    (
        Member("steps", U32, "optimizer steps done"),
        Member("horizon", U32, "steps that the cosine schedule spans; 0: constant rate"),
        Member("lr", F32, "learning rate at the start"),
        Member("correction1", F32, "Adam: 1 - beta1^steps"),
        Member("correction2", F32, "Adam: 1 - beta2^steps"),
    ),
)
SLICE = Struct(
    "bt_slice",
    (
        Member("open", U32, "1: a window, 2: a step, 3: a prediction is half done; 0: none"),
        Member("node", U32, "the next slice begins at this node,"),
        Member("part", U32, "iteration of a loop,"),
        Member("step", U32, "step of its body"),
        Member("block", U32, "and block of a kernel"),
        Member("left", U32, "cycles of this call; all ones: no end"),
        Member("goes", U32, "1: this call has done a slice"),
        Member("label", I32),
        Member("scale", F32, "of a step"),
        Member("rate", F32),
    ),
)
"""Where a call in slices is."""

OF_GRADIENTS: dict[Gradients, tuple[Member, ...]] = {
    "separate": (),
    "momentum": (Member("group", U32, "windows whose mean gradient makes the next step"),),
    "update": (
        Member("rate", F32, "learning rate of the step of this window"),
        Member("skipped", U32, "parameters that it left out: NaN or infinity in the gradient"),
    ),
}
"""Fields that only one way of holding gradients has."""
OF_SLICES = (
    Member("slice", SLICE, "of training"),
    Member("predict_slice", SLICE, "of a prediction"),
)
"""Fields that only packages with calls in slices have."""
COUNTERS = (
    Member("samples", U32, "windows in the gradients now"),
    Member("check_flat", U32, "1: refuse a window with a constant channel"),
    Member("rejected", U32, "windows and groups that were refused since bt_init"),
    Member("sequence", U32, "of the last checkpoint"),
)
"""Fields in front of the arena."""


def _bytes(members: tuple[Member, ...]) -> int:
    return Struct("fields", members).size(4)


RUNTIME_BYTES: dict[Gradients, int] = {
    gradients: _bytes((Member("progress", PROGRESS), *own, *COUNTERS))
    for gradients, own in OF_GRADIENTS.items()
}
"""Bytes of these fields; there is no pointer among them."""
SLICES_BYTES = _bytes(OF_SLICES)
"""Bytes that calls in slices add to them."""
