# SPDX-License-Identifier: Apache-2.0
"""RAM and flash of the live firmware: the capture ring, the store, the slots, by the byte."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from biotrain.errors import BioTrainError
from biotrain.frontend.live import Live
from biotrain.frontend.screen import LONGEST
from biotrain.planner.live_layout import RECORD, STORE_CLASSES, LiveNumbers, live_struct
from biotrain.targets.layout import Opaque, Struct

HEADER_BYTES, CRC_BYTES = 20, 4
"""Bytes around the payload of a checkpoint (bt_checkpoint.h)."""
PURPOSE = {
    "frozen": "sample store",
    "store": "sample store",
    "flash": "sample store",
    "ring": "capture ring",
    "labels": "capture ring",
    "front": "front end",
    "row": "front end",
}
"""What the members of `bt_live` are for; those that are not named belong to the session."""


@dataclass(frozen=True, kw_only=True)
class LivePlan:
    """What `Live` takes for one model; sizes in bytes.

    Raises BioTrainError where the settings do not fit the model.
    """

    live: Live
    chans: int
    times: int
    classes: int
    input_scale: float
    weight_bytes: int
    """Weights and running statistics."""
    state_bytes: int
    """Weights and running statistics with the state of the optimizer and its progress."""
    segments: int
    """Members of the context in a checkpoint."""
    pointer_bytes: int = 4
    clock_hz: int = 0

    def __post_init__(self) -> None:
        front, made = self.live.front, (self.chans, self.times)
        if front is not None and (front.n_chans, front.window) != made:
            raise BioTrainError(
                f"live: the front end makes windows of {front.n_chans} x {front.window}, the model "
                f"takes {self.chans} x {self.times}"
            )
        scale = self.input_scale
        if front is not None and front.unit is not None and not same(front.unit, scale):
            raise BioTrainError(
                f"live: the front end makes steps of {front.unit:g}, the model takes steps of "
                f"{scale:g}"
            )
        if front is not None and self.live.hop not in (0, front.hop):
            raise BioTrainError(f"live: the front end's hop is {front.hop}, not {self.live.hop}")
        if self.live.artefacts and self.times > LONGEST:
            raise BioTrainError(
                f"live: artefacts are found in windows of at most {LONGEST:,} samples, not "
                f"{self.times:,}"
            )
        if self.classes > STORE_CLASSES:
            raise BioTrainError(f"live: the sample store takes up to {STORE_CLASSES} classes")

    @property
    def ring_frames(self) -> int:
        """Frames of the capture ring; without a front end the newest window lies in it."""
        return self.live.ring if self.live.front else self.times + self.live.ring

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
        """Pages of one checkpoint slot for so many bytes of state."""
        unit = max(self.live.unit_bytes, 4)
        record = RECORD.size(self.pointer_bytes)
        size = HEADER_BYTES + payload + record + CRC_BYTES + 2 * unit
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

    def struct(self, model_bytes: int = 0) -> Struct:
        """`bt_live` around a `bt_model` of so many bytes."""
        front = self.live.front
        return live_struct(
            LiveNumbers(
                outputs=self.classes,
                chans=self.chans,
                ring_frames=self.ring_frames,
                waiting_frames=self.live.ring,
                segments=self.segments,
                narrow=self.live.converter_bits <= 16,
                front=front.struct() if front else None,
                row_times=self.times if front and front.standardise == "window" else 0,
                model=Opaque("bt_model", model_bytes, 4),
                screens=bool(self.live.artefacts),
            )
        )

    @property
    def alignment(self) -> int:
        """Alignment of `bt_live`, which its size is a multiple of."""
        return self.struct().alignment(self.pointer_bytes)

    @property
    def parts(self) -> dict[str, int]:
        """RAM beside the model by what it is for; gaps of alignment count where they begin."""
        struct = self.struct()
        begins = struct.offsets(self.pointer_bytes)
        ends = [*list(begins.values())[1:], begins["model"]]
        found: dict[str, int] = {}
        for (name, begin), end in zip(begins.items(), ends, strict=True):
            purpose = PURPOSE.get(name, "session")
            found[purpose] = found.get(purpose, 0) + end - begin
        return found

    @property
    def ram_bytes(self) -> int:
        """`bt_live` without the model, and without what rounds its size up to its alignment."""
        return sum(self.parts.values())

    def to_json(self) -> dict[str, Any]:
        """The entry of `plan.json`."""
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
