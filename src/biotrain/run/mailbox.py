# SPDX-License-Identifier: Apache-2.0
"""The mailbox of `rt/session.h`: its commands and its layout, as Python and C know them."""

from __future__ import annotations

from biotrain.targets.layout import (
    F32,
    I32,
    U32,
    Constant,
    Dim,
    Enumeration,
    Member,
    Opaque,
    Struct,
    pointer_to,
)

POINTER_BYTES = 4
"""Firmware with a mailbox is built for cores with pointers of 4 bytes."""
COMMANDS = Enumeration(
    "bt_command",
    "BT_DO_",
    (
        Constant("nothing"),
        Constant("init", "factory weights"),
        Constant("begin", "count: steps, value: learning rate"),
        Constant("train", "the window at bt_window(), label or target; value: its loss"),
        Constant("step", "one optimizer step"),
        Constant("drop", "forgets the group"),
        Constant("predict", "the window at bt_window(); values: logits"),
        Constant("crc32", "count: CRC-32 of the weights"),
        Constant("group", "count: windows of the next group"),
        Constant("save", "slot, count: its bytes; then count: those of the checkpoint"),
        Constant("load", "slot, count: its bytes"),
        Constant("features", "the window at bt_window(); slot: where its features go"),
        Constant("train_features", "slot: where they are; label or target; value: the loss"),
        Constant("train_batch", "count: windows; value: their mean loss"),
        Constant("window", "the window asked for is at slot (where that is not 0), its label here"),
        Constant("adabn", "count: windows of the running statistics; asks for them"),
    ),
)


def session(outputs: int, context_bytes: int) -> Struct:
    """`bt_session` around a context of so many bytes."""
    return Struct(
        "bt_session",
        (
            Member("command", U32, "a bt_command; 0: waiting", volatile=True),
            Member(
                "asked",
                U32,
                "1: waiting for window `index` of a batch, then BT_DO_WINDOW",
                volatile=True,
            ),
            Member("status", U32, "a bt_status, of the last command"),
            Member("index", U32),
            Member("count", U32),
            Member("label", I32),
            Member("value", F32),
            Member("slot", pointer_to("void"), "where a command's data lies"),
            Member(
                "values", F32, "logits, or the target of a window", (Dim(outputs, "BT_OUTPUTS"),)
            ),
            Member("model", Opaque("bt_model", context_bytes, 4)),
        ),
    )


FIELDS = session(1, 4)
"""The members in front of the model, which lie at the same place in every package."""


def layout_header(outputs: int, context_bytes: int) -> str:
    """`session_layout.h`: what session.c asserts of the mailbox."""
    lines = [
        "/* SPDX-License-Identifier: Apache-2.0 */",
        "/* Where the members of the mailbox lie, asserted member by member. */",
        "#ifndef BT_SESSION_LAYOUT_H",
        "#define BT_SESSION_LAYOUT_H",
        "",
        '#include "bt_layout.h"',
        '#include "session.h"',
        "",
        *session(outputs, context_bytes).assertions(),
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)
