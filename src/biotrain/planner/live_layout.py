# SPDX-License-Identifier: Apache-2.0
"""The structs and enums of the live firmware (rt/bt_live.h) and of the flash, slots and store below
it. The declarations in rt/ are printed from here; a test holds them to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from biotrain.frontend.screen import LEVELS
from biotrain.targets.layout import (
    BYTES,
    F32,
    I32,
    U8,
    U32,
    Constant,
    Dim,
    Enumeration,
    Kind,
    Member,
    Opaque,
    Scalar,
    Struct,
    pointer_to,
)

STORE_SLOTS, STORE_CLASSES = 512, 16
"""`BT_STORE_SLOTS`, `BT_STORE_CLASSES` of bt_record.h: most windows and classes of a store."""
FLASH_CHUNK_BYTES = 64
"""`BT_FLASH_CHUNK` of bt_flash.h."""

# ---------------------------------------------------------------- flash

FLASH = Struct(
    "bt_flash",
    (
        Member("context", pointer_to("void"), "handed to the calls"),
        Member("page_bytes", U32, "what one erasure clears; a multiple of 64"),
        Member("unit_bytes", U32, "the least that can be programmed: a power of two, 1 to 64"),
        Member("erase", Scalar("bool (*)(void *context, uint32_t page)")),
        Member(
            "program",
            Scalar("bool (*)(void *context, uint32_t address, const void *data, size_t bytes)"),
        ),
        Member(
            "read", Scalar("bool (*)(void *context, uint32_t address, void *data, size_t bytes)")
        ),
    ),
)
FLASH_WRITER = Struct(
    "bt_flash_writer",
    (
        Member("flash", pointer_to("const bt_flash")),
        Member("address", U32, "of the first byte that is not programmed yet; on a unit's border"),
        Member("filled", U32, "bytes in words"),
        Member("words", U32, dims=(Dim(FLASH_CHUNK_BYTES // 4, "BT_FLASH_CHUNK / 4u"),)),
    ),
)

# ---------------------------------------------------------------- checkpoint slots

SEGMENT = Struct(
    "bt_segment",
    (Member("data", pointer_to("void")), Member("bytes", BYTES)),
)
SLOTS = Struct(
    "bt_slots",
    (
        Member("flash", pointer_to("const bt_flash")),
        Member("first_page", U32, "slot A begins here, slot B behind it"),
        Member("pages", U32, "of both together; an even number"),
        Member(
            "segments", pointer_to("const bt_segment"), "the state, as for bt_checkpoint_stream"
        ),
        Member("count", BYTES),
        Member("fingerprint", U32, "of the model"),
    ),
)
SAVE_STATE = Struct(
    "bt_slots_save_state",
    (
        Member("slots", SLOTS),
        Member("slot", I32, "a bt_slot"),
        Member("sequence", U32),
        Member("erased", U32, "pages"),
        Member("segment", U32, "the segment that is written next,"),
        Member("offset", BYTES, "and its first byte that is not written yet"),
        Member("header", U32, "1: written"),
        Member("checked", U32, "bytes read back"),
        Member("crc", U32, "of what was written"),
        Member("read", U32, "CRC of what was read"),
        Member("writer", FLASH_WRITER),
    ),
)

# ---------------------------------------------------------------- sample store

STORE = Struct(
    "bt_store",
    (
        Member("flash", pointer_to("const bt_flash")),
        Member("first_page", U32),
        Member("samples", U32, "int16 of one window"),
        Member("classes", U32),
        Member("block_bytes", U32),
        Member("blocks", U32),
        Member("per_block", U32, "slots"),
        Member("slot_bytes", U32),
        Member("enough", U32, "good slots that a block must have to be filled"),
        Member("capacity", U32, "windows"),
        Member("count", U32, "windows now"),
        Member("number", U32, "of the next window"),
        Member("serial", U32, "of the next record"),
        Member("erasures", U32, "of the most erased block"),
        Member("open", U32, "the block that is being filled, or BT_STORE_NONE"),
        Member("next", U32, "its next slot"),
        Member("worn", U32, "slots that flash no longer serves, found since the store was mounted"),
        Member("by_class", U32, "windows", (Dim(STORE_CLASSES, "BT_STORE_CLASSES"),)),
        Member(
            "live",
            U32,
            "one bit per slot: holds a window that counts",
            (Dim(STORE_SLOTS // 32, "BT_STORE_SLOTS / 32"),),
        ),
        Member(
            "dead",
            U32,
            "one bit per slot: counted in `worn`",
            (Dim(STORE_SLOTS // 32, "BT_STORE_SLOTS / 32"),),
        ),
    ),
)
READING = Struct(
    "bt_store_reading",
    (Member("done", U32, "bytes"), Member("crc", U32)),
)

# ---------------------------------------------------------------- what bt_live_work reports

EVENT = Enumeration(
    "bt_live_event",
    "BT_LIVE_",
    (
        Constant("idle", "nothing is left to do until the next frame"),
        Constant("more", "the cycles are used up: call again"),
        Constant("predicted", "logits, predicted, window: of the newest window"),
        Constant("refused", "window: it was not predicted; status says why, channel where"),
        Constant("calibrated", "a calibration ended: kept, before, best"),
        Constant("drifted", "predictions have become unsure: confidence, reference"),
        Constant("failed", "flash or checkpoint: status; it goes on without"),
    ),
)
MODE = Enumeration(
    "bt_live_mode",
    "BT_LIVE_",
    (
        Constant("record", "no session yet: factory weights predict, labelled windows are stored"),
        Constant("calibrate", "the same, and a calibration is under way"),
        Constant("use", "weights of a good session predict; labelled windows are stored"),
    ),
)
TASK = Enumeration(
    "bt_live_task",
    "BT_TASK_",
    (
        Constant("none"),
        Constant("evaluate", "predicts the held-back windows"),
        Constant("good", "writes the weights into a slot of sessions"),
        Constant("work", "writes everything into a slot of work"),
        Constant("train", "a window in slices"),
        Constant("step", "an optimizer step in slices"),
        Constant("finish", "ends the calibration"),
    ),
)
COUNTERS = Struct(
    "bt_live_counters",
    (
        Member("frames", U32, "taken from the ring"),
        Member("lost", U32, "frames that found the ring full: a new window begins after them"),
        Member("windows", U32, "hops"),
        Member("predicted", U32),
        Member("flat", U32, "windows refused: a constant channel"),
        Member("saturated", U32, "windows refused: a channel at an end of the converter's range"),
        Member("nonfinite", U32, "windows refused: NaN or infinity in the logits"),
        Member("labels", U32, "frames with a label that is none: counted as unlabelled"),
        Member("stored", U32, "labelled windows"),
        Member("unstored", U32, "labelled windows that flash refused, or found no space"),
        Member("corrupt", U32, "stored windows that could not be read: left out"),
        Member("worn", U32, "slots of the store that flash no longer serves"),
        Member("trained", U32, "windows"),
        Member("steps", U32, "of the optimizer"),
        Member("losses", U32, "windows left out: loss not finite"),
        Member("gradients", U32, "groups dropped: NaN or infinity in gradients or new weights"),
        Member("checkpoints", U32, "written: sessions and work"),
        Member("failures", U32, "checkpoints that flash refused"),
        Member("calibrations", U32, "begun, or resumed by bt_live_start"),
        Member("kept", U32, "of these: sessions that are better than before"),
        Member("undone", U32, "of these: the weights before were restored"),
        Member("repeated", U32, "attempts at a quarter of the rate"),
        Member("drifts", U32),
        Member("slices", U32, "of training"),
    ),
)
RECORD = Struct(
    "bt_live_record",
    (
        Member("session", U32, "calibrations so far; 0: the factory's weights"),
        Member("epoch", U32, "epochs done"),
        Member("stale", U32, "epochs since the best"),
        Member("limit", U32, "windows of the store from this number on are not of the calibration"),
        Member("windows", U32, "that train"),
        Member("held", U32, "held back"),
        Member("right", U32, "of these, by the best weights"),
        Member("right_before", U32),
        Member("loss", F32, "mean over these, of the best weights"),
        Member("loss_before", F32),
        Member("confidence", F32, "mean over these, of the best weights"),
        Member("found", U32, "1: this calibration has weights better than those before"),
        Member(
            "repeats", U32, "of this calibration, each at a quarter of the rate of the one before"
        ),
    ),
)
"""What a checkpoint holds beside the weights."""


@dataclass(frozen=True, slots=True)
class LiveNumbers:
    """What `bt_live` of one package depends on."""

    outputs: int
    chans: int
    ring_frames: int
    waiting_frames: int
    segments: int
    """Members of the context in a checkpoint."""
    narrow: bool
    """Whether a sample of the converter is an int16, else an int32."""
    front: Struct | None
    """`bt_front`, where there is a front end."""
    row_times: int
    """Samples of the row that a front end standardises per window; 0: it does not."""
    model: Opaque
    """`bt_model`."""
    screens: bool = False
    """Whether artefacts are left out of the store."""


def live_struct(n: LiveNumbers) -> Struct:
    """`bt_live` of one package."""
    outputs, chans = Dim(n.outputs, "BT_OUTPUTS"), Dim(n.chans, "BT_LIVE_CHANS")
    waiting, ring = Dim(n.waiting_frames, "BT_LIVE_WAIT"), Dim(n.ring_frames, "BT_LIVE_RING")
    sample: Kind = Scalar("bt_raw", "<i2" if n.narrow else "<i4")
    there = n.front is not None
    members = (
        *_for_the_program(outputs),
        *_settings(),
        *_inside(),
        Member(
            "frozen",
            U32,
            "slots with the windows of the calibration",
            (Dim(STORE_SLOTS // 32, "BT_STORE_SLOTS / 32"),),
        ),
        Member("last", I32, "per channel: the newest sample", (chans,)),
        Member("still", U32, "frames since it changed", (chans,)),
        Member("clipped", U32, "frames since it was at an end of the range", (chans,)),
        *_screen(chans, n.screens),
        Member("store", STORE),
        Member("flash", FLASH),
        Member("save", SAVE_STATE),
        Member("segments", SEGMENT, dims=(Dim(n.segments + 1, "BT_STATE_SEGMENTS + 1"),)),
        Member("ring", sample, dims=(ring, chans)),
        Member("labels", U8, "of the frames that wait: label + 1; a flag for a gap", (waiting,)),
        Member(
            "front",
            n.front or Opaque("bt_front", 0, 1),
            only_if="BT_LIVE_FRONT",
            there=there,
        ),
        Member(
            "row",
            F32,
            dims=(Dim(n.row_times, "BT_FRONT_TIMES"),),
            only_if="BT_LIVE_FRONT && BT_FRONT_WHOLE",
            there=there and n.row_times > 0,
        ),
        Member("model", n.model),
    )
    return Struct("bt_live", members)


def _screen(chans: Dim, there: bool) -> tuple[Member, ...]:
    """What finds artefacts, where that is asked for."""
    only: dict[str, Any] = {"only_if": "BT_LIVE_ARTEFACTS > 0", "there": there}
    levels = Dim(LEVELS, "BT_SCREEN_LEVELS")
    return (
        Member("outliers", U32, "labelled windows that were not stored: artefacts", **only),
        Member("artefact", U32, "1: the newest window is one", **only),
        Member("powers", U8, "histograms of the windows' power", (chans, levels), **only),
    )


def _for_the_program(outputs: Dim) -> tuple[Member, ...]:
    return (
        Member("logits", F32, "of the newest window", (outputs,), heading="For the program."),
        Member("predicted", I32, "class of the newest window"),
        Member("window", U32, "its number since bt_live_start"),
        Member("label", I32, "that holds for all of it, or -1"),
        Member("mode", U32, "a bt_live_mode"),
        Member("status", U32, "a bt_status: of the newest refusal or failure"),
        Member("channel", U32, "of the newest refusal"),
        Member("kept", U32, "1: the newest calibration's weights are better than those before"),
        Member("before", F32, "share of its held-back windows that were right before it,"),
        Member("best", F32, "and that are right with its best weights"),
        Member("confidence", F32, "running mean of the largest probability"),
        Member("left", U32, "cycles of the last bt_live_work that are not used up"),
        Member("counters", COUNTERS),
        Member("record", RECORD),
    )


def _settings() -> tuple[Member, ...]:
    return (
        Member(
            "epochs",
            U32,
            "most of a calibration; they must not change during one",
            heading="Settings; bt_live_start writes those of the package, a program may change them"
            " then.",
        ),
        Member("patience", U32, "epochs without a better one that end it; 0: all epochs run"),
        Member("repeats", U32, "most of a calibration that has found no better weights"),
        Member("least", U32, "windows in the store that a calibration wants"),
        Member("seed", U32),
        Member("rate", F32, "learning rate"),
        Member("drift", F32, "fall of the confidence that counts as drift; 0: off"),
        Member("automatic", U32, "1: drift begins a calibration, if enough new windows are stored"),
        Member("guards", U32, "1: windows with a flat or saturated channel are refused"),
    )


SETTINGS = tuple(member.name for member in _settings())
"""Members of `bt_live` that a program may change after `bt_live_start`."""


def _inside() -> tuple[Member, ...]:
    return (
        Member("task", U32, "a bt_live_task", heading="Inside."),
        Member("at", U32, "place in the order of the epoch, or of the held-back windows"),
        Member("right", U32, "held-back windows that are right so far,"),
        Member("evaluated", U32, "of so many that were predicted"),
        Member("loss", F32, "sum over them"),
        Member("sure", F32, "sum of their largest probabilities"),
        Member("read", U32, "1: the window at this place is in RAM"),
        Member("reading", READING, "of it"),
        Member("truth", I32, "its label"),
        Member("due", U32, "1: a window waits for its prediction, 2: it is half done"),
        Member("storing", U32, "1: the newest window is to be stored"),
        Member("tell", U32, "a bt_live_event that follows the prediction"),
        Member("predictions", U32, "since the weights last changed"),
        Member("told", U32, "1: drift was told"),
        Member("store_ok", U32),
        Member("good", I32, "slot of the newest session"),
        Member("work", I32, "slot of the newest work"),
        Member("good_sequence", U32, "sequence numbers of these checkpoints"),
        Member("work_sequence", U32),
        Member("good_session", U32, "of the newest session"),
        Member("frames", U32, "since the gap"),
        Member("next", U32, "frames until the next window (without a front end)"),
        Member("same", U32, "frames with the label that holds now"),
        Member("holds", I32, "that label"),
        Member("pushed", U32, "frames; by bt_live_push", volatile=True),
        Member("lost", U32, "frames that found the ring full; by bt_live_push", volatile=True),
        Member("unknown", U32, "labels; by bt_live_push", volatile=True),
        Member("taken", U32, "frames; by bt_live_work", volatile=True),
        Member("in", U32, "where the next frame goes in the ring,"),
        Member("out", U32, "and where the next one is taken"),
        Member("label_in", U32),
        Member("label_out", U32),
        Member("gap", U32, "1: frames were lost before the next one; by bt_live_push"),
    )
