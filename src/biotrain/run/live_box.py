# SPDX-License-Identifier: Apache-2.0
"""The mailbox of `rt/live_box.c` around the live firmware, over simulated flash (`sim_flash.h`)."""

from __future__ import annotations

from biotrain.targets.layout import (
    F32,
    I32,
    U32,
    Constant,
    Dim,
    Enumeration,
    Member,
    Struct,
    pointer_to,
)

COMMANDS = Enumeration(
    "bt_box_command",
    "BOX_",
    (
        Constant("nothing"),
        Constant("start", "power comes"),
        Constant("play", "count frames; each is pushed, then there are `cycles` to work; events"),
        Constant("push", "count frames"),
        Constant("gap", "samples are missing before the next frame"),
        Constant("work", "cycles; one event"),
        Constant("calibrate"),
        Constant("cancel"),
        Constant("back"),
        Constant("factory"),
        Constant("forget"),
        Constant("crc32", "result: CRC-32 of the weights"),
    ),
)
SIM_FLASH = Struct(
    "sim_flash",
    (
        Member("memory", pointer_to("uint8_t")),
        Member("programmed", pointer_to("uint8_t"), "per unit: since the last erasure"),
        Member("wear", pointer_to("uint32_t"), "erasures of each page"),
        Member("page_bytes", U32),
        Member("pages", U32),
        Member("unit_bytes", U32),
        Member("breaches", U32, "calls that broke a rule of bt_flash.h"),
        Member("steps", U32, "since power came"),
        Member("cut_at", U32, "power goes at this step; 0: never"),
        Member("noise", U32, "state of the generator for what a cut leaves"),
        Member("off", U32, "1: power has gone"),
    ),
)


def event(outputs: int) -> Struct:
    """`bt_box_event`: what a call of `bt_live_work` ended with."""
    return Struct(
        "bt_box_event",
        (
            Member("event", U32, "a bt_live_event"),
            Member("window", U32),
            Member("predicted", I32),
            Member("label", I32),
            Member("status", U32),
            Member("channel", U32),
            Member("kept", U32),
            Member("frame", U32, "frames that BOX_PLAY had pushed"),
            Member("logits", F32, dims=(Dim(outputs, "BT_OUTPUTS"),)),
        ),
    )


def box(live: Struct) -> Struct:
    """`bt_live_box` around the `bt_live` of a package."""
    return Struct(
        "bt_live_box",
        (
            Member("command", U32, volatile=True),
            Member("result", U32, "a bt_status, or how many events, or a CRC-32"),
            Member("count", U32),
            Member("cycles", U32),
            Member("most", U32, "events that `events` has space for"),
            Member("done", U32, "frames"),
            Member("frames", pointer_to("const bt_raw")),
            Member("labels", pointer_to("const int32_t")),
            Member("events", pointer_to("bt_box_event")),
            Member("flash", SIM_FLASH),
            Member("live", live),
        ),
    )


def layout_header(live: Struct) -> str:
    """`live_box_layout.h`: what live_box.c asserts of its structs, around this `bt_live`."""
    lines = ["/* SPDX-License-Identifier: Apache-2.0 */"]
    for struct in (SIM_FLASH, event(live.member("logits").count), box(live)):
        lines += ["", *struct.assertions()]
    return "\n".join([*lines, ""])
