# SPDX-License-Identifier: Apache-2.0
"""`bt_model`, the context of a package, as one table: printed into model.h, asserted in
model_layout.h, and read by whoever runs the package."""

from __future__ import annotations

from collections.abc import Sequence

from biotrain.emit.source import CTYPE, Source, running_values, trained_values
from biotrain.emit.text import titled
from biotrain.ir.graph import Value
from biotrain.planner.context import COUNTERS, OF_GRADIENTS, OF_SLICES, PROGRESS
from biotrain.targets.layout import F32, Dim, Member, Scalar, Struct

_NUMPY = {"f32": "<f4", "u8": "u1", "i16": "<i2", "i32": "<i4"}


def _tensors(name: str, values: Sequence[Value]) -> Struct:
    members = [
        Member(v.name, Scalar(CTYPE[v.dtype], _NUMPY[v.dtype]), dims=(Dim(v.size),)) for v in values
    ]
    return Struct(name, tuple(members))


def context(source: Source) -> Struct:
    """`bt_model`: first the tensors (`bt_params`, `bt_running`), last the arena."""
    plan = source.plan
    trained, running = trained_values(source), running_values(source)
    members: list[Member] = []
    if trained:
        params = _tensors("bt_params", trained)
        members.append(Member("p", params, "parameters"))
        if source.gradients == "separate":
            members.append(Member("g", params, "sum of the gradients of this group"))
        shared = source.gradients == "momentum"
        state = "momentum and gradients" if shared else "state of the optimizer"
        members += [Member(slot, params, state) for slot in source.slots]
    if running:
        members.append(Member("s", _tensors("bt_running", running)))
    members += [Member("progress", PROGRESS), *OF_GRADIENTS[source.gradients]]
    if source.live:
        arena = Member("predict_arena", F32, dims=(Dim(plan.predict_arena_bytes // 4),))
        members += [*OF_SLICES, arena]
    members += [*COUNTERS, Member("arena", F32, dims=(Dim(plan.peak_bytes // 4),))]
    return Struct("bt_model", tuple(members))


def tensor_layout(source: Source) -> dict[str, tuple[int, int]]:
    """Value name -> (offset, bytes) in the context: parameters, `g_` and the slots, statistics."""
    model = context(source)
    prefixes = {"p": "", "g": "g_", "s": ""} | {slot: f"{slot}_" for slot in source.slots}
    found: dict[str, tuple[int, int]] = {}
    for member in model.present:
        if member.name in prefixes and isinstance(member.kind, Struct):
            at = model.offset(member.name, 4)
            for inner in member.kind.present:
                offset = at + member.kind.offset(inner.name, 4)
                size = inner.count * inner.kind.size(4)
                found[f"{prefixes[member.name]}{inner.name}"] = (offset, size)
    return found


def layout_header(source: Source) -> str:
    """`model_layout.h`: what model.c asserts of its structs."""
    lines = [
        "/* SPDX-License-Identifier: Apache-2.0 */",
        *titled(
            source.title, ": where the members of the context lie, asserted member by member. */"
        ),
        "#ifndef BT_MODEL_LAYOUT_H",
        "#define BT_MODEL_LAYOUT_H",
        "",
        '#include "bt_layout.h"',
        '#include "model.h"',
    ]
    for struct in context(source).nested():
        lines += ["", *struct.assertions()]
    return "\n".join([*lines, "", "#endif", ""])
