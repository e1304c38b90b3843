# SPDX-License-Identifier: Apache-2.0
"""The contents of a simulated NOR flash, which outlast the device that wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from biotrain.planner.live_memory import LivePlan


@dataclass(frozen=True)
class Flash:
    """NOR flash as it is when a device is off."""

    page_bytes: int
    unit_bytes: int
    memory: npt.NDArray[np.uint8]
    programmed: npt.NDArray[np.uint8]
    """Per unit: 1 where it was programmed since the last erasure."""
    wear: npt.NDArray[np.uint32]
    """Erasures of each page."""

    @property
    def pages(self) -> int:
        """Number of pages."""
        return len(self.wear)

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """Memory, programmed units and wear: what `sim_flash.h` points to."""
        return self.memory, self.programmed, self.wear

    @property
    def image(self) -> bytes:
        """Every byte of the memory."""
        return self.memory.tobytes()

    def fits(self, other: Flash) -> bool:
        """Whether both have the same pages and units."""
        return (self.page_bytes, self.unit_bytes, len(self.memory)) == (
            other.page_bytes,
            other.unit_bytes,
            len(other.memory),
        )


def blank_flash(plan: LivePlan) -> Flash:
    """Erased flash of the size that a package wants."""
    live = plan.live
    pages = live.first_page + plan.pages
    size = pages * live.page_bytes
    return Flash(
        live.page_bytes,
        live.unit_bytes,
        np.full(size, 0xFF, np.uint8),
        np.zeros(size // live.unit_bytes, np.uint8),
        np.zeros(pages, np.uint32),
    )
