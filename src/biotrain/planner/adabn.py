# SPDX-License-Identifier: Apache-2.0
"""adabn: the statistics of BatchNorm re-estimated from any number of windows, without labels.

The graph of one window leads to the moments of every batch norm and no further. Its phases are
those of a training batch (`batch_norm.py`) with nothing stored per window: the statistics of each
norm are complete before the phase that continues behind it, and every phase recomputes its part of
a window. They run in the arena of training.
"""

from __future__ import annotations

from dataclasses import dataclass

from biotrain.ir.graph import Graph
from biotrain.planner.batch_norm import Batch
from biotrain.planner.batch_schedule import BatchSchedule


@dataclass(frozen=True, slots=True)
class AdabnPlan:
    """The schedule by which a package re-estimates statistics; None where it does not."""

    schedule: BatchSchedule | None = None

    @property
    def peak(self) -> int:
        """Bytes of the arena that it needs."""
        return self.schedule.peak if self.schedule else 0

    @property
    def ops(self) -> int:
        """Operations of one window."""
        return self.schedule.ops if self.schedule else 0

    @property
    def words(self) -> tuple[str, ...]:
        """The schedule in words, as a choice of the plan."""
        if self.schedule is None:
            return ()
        loops = len(self.schedule.phases)
        over = f"{loops} loops over the windows" if loops > 1 else "1 loop over the windows"
        return (f"adabn: statistics re-estimated in {over}, {self.ops:,} operations per window",)


def adabn_plan(graph: Graph | None, arena: int) -> AdabnPlan:
    """Plan the re-estimation within `arena` bytes, or in as little more as was found."""
    return AdabnPlan(Batch(graph, 1).streamed(arena) if graph else None)


def adabn_windows(schedule: BatchSchedule) -> tuple[int, int]:
    """The smallest and the largest number of windows that statistics can be estimated from.

    An unbiased variance needs two values, and the number of values of a channel must fit an int.
    """
    values = [n.inputs[0].shape[0] // n.int("channels") * n.int("times") for n in schedule.after]
    return 2 if min(values) == 1 else 1, (2**31 - 1) // max(values)
