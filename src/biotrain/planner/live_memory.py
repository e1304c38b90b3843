# SPDX-License-Identifier: Apache-2.0
"""RAM and flash of a device that lives: the capture ring, the store, the slots, by the byte."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from biotrain.errors import BioTrainError
from biotrain.frontend.live import Live

STORE_SLOTS, STORE_CLASSES = 512, 16
"""`BT_STORE_SLOTS`, `BT_STORE_CLASSES` of bt_record.h."""
HEAD_BYTES, HEADER_BYTES, CRC_BYTES = 20, 20, 4
"""Of a stored window (bt_record.h) and of a checkpoint (bt_checkpoint.h)."""
RECORD_BYTES = 48
"""`bt_live_record`."""
SESSION_BYTES = 348
"""Members of `bt_live` before `frozen`, without the logits."""
SAVE_BYTES = {4: 136, 8: 160}
"""`bt_slots_save_state` with pointers of that size."""


@dataclass(frozen=True)
class LivePlan:
    """What `Live` takes for one model; sizes in bytes."""

    live: Live
    chans: int
    times: int
    classes: int
    input_scale: float
    ring_frames: int
    """Frames of the capture ring; without a front end the newest window lies in it."""
    weight_bytes: int
    """Weights and running statistics."""
    state_bytes: int
    """The same with the optimizer and its progress."""
    segments: int
    """Members of the context in a checkpoint."""
    pointer_bytes: int = 4
    clock_hz: int = 0

    @property
    def hop(self) -> int:
        """Samples from one window to the next."""
        front = self.live.front
        return self.live.hop or (front.hop if front else self.times)

    @property
    def span(self) -> int:
        """Frames that one window is made of."""
        return self.times * (self.live.front.decimate if self.live.front else 1)

    @property
    def frame_bytes(self) -> int:
        """One sample of every channel."""
        return self.chans * (2 if self.live.converter_bits <= 16 else 4)

    def slot_pages(self, payload: int) -> int:
        """Pages of one checkpoint slot."""
        unit = max(self.live.unit_bytes, 4)
        size = HEADER_BYTES + payload + RECORD_BYTES + CRC_BYTES + 2 * unit
        return -(-size // self.live.page_bytes)

    @property
    def session_pages(self) -> int:
        """Pages of both slots of sessions."""
        return 2 * self.slot_pages(self.weight_bytes)

    @property
    def work_pages(self) -> int:
        """Pages of both slots of work."""
        return 2 * self.slot_pages(self.state_bytes)

    @property
    def pages(self) -> int:
        """Pages of flash, all together."""
        return self.live.store_pages + self.session_pages + self.work_pages

    @property
    def flash_bytes(self) -> int:
        """Flash for windows and checkpoints."""
        return self.pages * self.live.page_bytes

    @property
    def _layout(self) -> tuple[tuple[str, str, int, int], ...]:
        """Members of `bt_live` before the model, in order: name, part, alignment, bytes."""
        front, pointer = self.live.front, self.pointer_bytes
        store = -(-(pointer + 14 * 4 + 4 * STORE_CLASSES + STORE_SLOTS // 8) // pointer) * pointer
        row = 4 * self.times if front and front.standardise == "window" else 0
        members = [
            ("for the program, settings", "session", 4, 4 * self.classes + SESSION_BYTES),
            ("frozen", "sample store", 4, STORE_SLOTS // 8),
            ("guards", "session", 4, 12 * self.chans),
            ("store", "sample store", pointer, store),
            ("flash", "sample store", pointer, 4 * pointer + 8),
            ("save", "session", pointer, SAVE_BYTES[pointer]),
            ("segments", "session", pointer, 2 * pointer * (self.segments + 1)),
            ("ring", "capture ring", 4, self.ring_frames * self.frame_bytes),
            ("labels", "capture ring", 1, self.live.ring),
        ]
        if front:
            sections = sum(map(len, front.sections))
            members.append(("front", "front end", 8 if sections else 4, front.ram_bytes))
            members.append(("row", "front end", 4, row))
        members.append(("model", "session", 4, 0))
        return tuple(members)

    @property
    def alignment(self) -> int:
        """Of `bt_live`."""
        return max(alignment for _, _, alignment, _ in self._layout)

    @property
    def parts(self) -> dict[str, int]:
        """RAM beside the model by what it is for; gaps of alignment count where they begin."""
        found: dict[str, int] = {}
        at, last = 0, "session"
        for _, part, alignment, size in self._layout:
            start = -(-at // alignment) * alignment
            found[last] = found.get(last, 0) + start - at
            found[part] = found.get(part, 0) + size
            at, last = start + size, part
        return found

    @property
    def ram_bytes(self) -> int:
        """`bt_live` without the model, and without what rounds its size up to its alignment."""
        return sum(self.parts.values())

    @property
    def capacity(self) -> int:
        """Windows that the store holds (as `bt_store_layout` finds it)."""
        return 0

    def to_json(self) -> dict[str, Any]:
        """For `plan.json`."""
        return {
            "hop": self.hop,
            "ring_frames": self.ring_frames,
            "ram": self.parts,
            "ram_bytes": self.ram_bytes,
            "pages": self.pages,
            "flash_bytes": self.flash_bytes,
            "settings": {k: v for k, v in asdict(self.live).items() if k != "front"},
        }


def same(unit: float, scale: float) -> bool:
    """Whether a step of a front end is that of a model, which keeps it as a float32."""
    return abs(unit - scale) <= 1e-6 * scale


def live_plan(
    live: Live,
    *,
    chans: int,
    times: int,
    classes: int,
    input_scale: float,
    weight_bytes: int,
    state_bytes: int,
    segments: int,
    pointer_bytes: int = 4,
    clock_hz: int = 0,
) -> LivePlan:
    """Check that the settings fit the model, and how long the ring must be."""
    front = live.front
    if front is not None and (front.n_chans, front.window) != (chans, times):
        raise BioTrainError(
            f"live: the front end makes windows of {front.n_chans} x {front.window}, the model "
            f"takes {chans} x {times}"
        )
    if front is not None and front.unit is not None and not same(front.unit, input_scale):
        raise BioTrainError(
            f"live: the front end makes steps of {front.unit:g}, the model takes steps of "
            f"{input_scale:g}"
        )
    if front is not None and live.hop not in (0, front.hop):
        raise BioTrainError(f"live: the front end's hop is {front.hop}, not {live.hop}")
    if classes > STORE_CLASSES:
        raise BioTrainError(f"live: the sample store takes up to {STORE_CLASSES} classes")
    return LivePlan(
        live,
        chans,
        times,
        classes,
        input_scale,
        live.ring if front else times + live.ring,
        weight_bytes,
        state_bytes,
        segments,
        pointer_bytes,
        clock_hz,
    )
