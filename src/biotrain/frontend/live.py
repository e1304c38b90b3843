# SPDX-License-Identifier: Apache-2.0
"""Settings of the live firmware, which records, predicts and calibrates (docs/on-device.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from biotrain.errors import BioTrainError
from biotrain.frontend import FrontEnd
from biotrain.frontend.screen import LARGEST
from biotrain.recipe import Recipe

MOST_OF_ANY = 2**31 - 1
"""Counts, bytes and cycles are 32 bits in the C."""

LEFT_OPEN = ("epochs", "repeats", "artefacts")
"""Settings that a recipe has too."""

MOST = {"hop": 2**24, "ring": 2**20}
"""Frames: hours from one window to the next; megabytes that wait, more than a board has."""


@dataclass(frozen=True, kw_only=True)
class Live:
    """Firmware around a network: `bt.compile(..., live=Live(...))`, `biotrain compile --live`.

    A frame is one sample of every channel as the converter gives it. Without a front end (the
    recording is filtered upstream) frames are int16 and windows are made of them as they are; with
    one, frames are int16 or int32, and its windows are rounded to the int16 of the package.
    """

    hop: int = 0
    """Frames from one window to the next; 0: the front end's hop, or a whole window."""
    front: FrontEnd | None = None
    ring: int = 64
    """Frames that may wait while the core is busy, or its flash."""
    converter_bits: int = 16
    """A channel at either end of this range is saturated. Above 16: frames are int32."""
    epochs: int | None = None
    """Epochs of a calibration at most; None: the recipe's."""
    patience: int = 3
    """Epochs without an improvement after which it ends; 0: all epochs run."""
    repeats: int | None = None
    """Times that a calibration which found no better weights begins anew, each at a quarter of the
    rate of the one before; then the weights before stay. None: the recipe's."""
    artefacts: float | None = None
    """Robust z-score of the logarithm of a channel's power, by the windows before it, above which a
    labelled window is not stored (`rt/bt_screen.h`); 0: all are; None: the recipe's."""
    held_back: int = 5
    """One of so many stored windows is held back and evaluates the weights; 0: none, and every
    calibration is kept."""
    least: int = 10
    """Stored windows that a calibration needs."""
    drift: float = 0.0
    """Fall of the mean confidence, from that on the held-back windows, that counts as drift; 0:
    drift is not detected."""
    automatic: bool = False
    """Drift begins a calibration, where `least` windows are new."""
    slice_cycles: int = 0
    """Cycles of a slice of a prediction or of a training sample, where its kernel can be cut; 0:
    slices are nodes and iterations of loops."""
    page_bytes: int = 4096
    """Bytes that one erasure of the flash clears."""
    unit_bytes: int = 4
    """Bytes that it programs at least."""
    first_page: int = 0
    """The first page that the firmware may use."""
    store_pages: int = 16
    """Pages of the sample store, at least two; the slots of checkpoints follow."""
    seed: int = 0
    """Seed of the order of an epoch and of the choice of the held-back windows."""

    def __post_init__(self) -> None:
        for name, low in (
            *(("hop", 0), ("ring", 2), ("epochs", 1), ("patience", 0), ("repeats", 0)),
            *(("held_back", 0),),
            *(("least", 1), ("slice_cycles", 0), ("first_page", 0), ("store_pages", 2)),
            *(("seed", 0), ("page_bytes", 64), ("unit_bytes", 1)),
        ):
            value = getattr(self, name)
            if value is None and name in LEFT_OPEN:
                continue
            high = MOST.get(name, MOST_OF_ANY)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise BioTrainError(
                    f"live: {name} must be a whole number from {low} to {high}, not {value}"
                )
        bound = 0.0 if self.artefacts is None else self.artefacts
        if not (math.isfinite(bound) and 0 <= bound <= LARGEST):
            raise BioTrainError(f"live: artefacts is a z-score from 0 to {LARGEST:g}, not {bound}")
        if not 8 <= self.converter_bits <= 32:
            raise BioTrainError(f"live: converter_bits lies in 8 to 32, not {self.converter_bits}")
        if self.held_back == 1:
            raise BioTrainError("live: held_back=1 would leave nothing to train on")
        if self.page_bytes % 64 or self.unit_bytes > 64 or self.unit_bytes & (self.unit_bytes - 1):
            raise BioTrainError(
                "live: a page of the flash is a multiple of 64 bytes and a unit a power of two up "
                f"to 64, not {self.page_bytes} and {self.unit_bytes}"
            )
        if not (math.isfinite(self.drift) and 0 <= self.drift < 1):
            raise BioTrainError(f"live: drift lies in [0, 1), not {self.drift}")
        if self.converter_bits > 16 and self.front is None:
            raise BioTrainError("live: more than 16 bits need a front end, which scales them")

    def by(self, recipe: Recipe) -> Live:
        """These settings, those that are left open taken from a recipe."""
        found = {n: getattr(recipe, n) for n in LEFT_OPEN if getattr(self, n) is None}
        return replace(self, **found)

    @property
    def frame_type(self) -> str:
        """The C type of a converter's sample."""
        return "int16_t" if self.converter_bits <= 16 else "int32_t"
