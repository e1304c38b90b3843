# SPDX-License-Identifier: Apache-2.0
"""Running statistics taken anew from a batch of windows of any number, in the arena of training.

The graph of one window leads to the moments of every batch norm and no further. Its phases are
those of a training batch (`batch.py`) with nothing stored per window: each norm's statistics are
there before the phase that goes on behind it, and every phase makes its part of a window again.
"""

from __future__ import annotations

from dataclasses import dataclass

from biotrain.ir.graph import Graph
from biotrain.planner.batch_norm import Batch, BatchSchedule


@dataclass(frozen=True, slots=True)
class AdabnPlan:
    """How a package takes statistics anew, if it does."""

    schedule: BatchSchedule | None = None

    @property
    def peak(self) -> int:
        """Bytes of its arena."""
        return self.schedule.peak if self.schedule else 0

    @property
    def ops(self) -> int:
        """Operations of one window."""
        return self.schedule.ops if self.schedule else 0

    @property
    def words(self) -> tuple[str, ...]:
        """As a choice."""
        if self.schedule is None:
            return ()
        loops = len(self.schedule.phases)
        over = f"{loops} loops over the windows" if loops > 1 else "1 loop over the windows"
        return (f"statistics anew: {over}, {self.ops:,} operations per window",)


def adabn_plan(graph: Graph | None, arena: int) -> AdabnPlan:
    """In the arena that is there anyway, if that is enough."""
    return AdabnPlan(Batch(graph, 1).streamed(arena) if graph else None)


def adabn_windows(schedule: BatchSchedule) -> tuple[int, int]:
    """From how few and how many windows statistics can be taken: an unbiased variance wants two
    values, and the number of values of a channel must fit an int."""
    values = [n.inputs[0].shape[0] // n.int("channels") * n.int("times") for n in schedule.after]
    return 2 if min(values) == 1 else 1, (2**31 - 1) // max(values)
