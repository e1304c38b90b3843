# SPDX-License-Identifier: Apache-2.0
"""The budget of a plan (RAM, time and energy of a sample), and the messages where none fits it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from biotrain.errors import BioTrainError
from biotrain.graph.cost import Cost
from biotrain.planner.place import Buffer
from biotrain.targets.target import Target


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper bounds that a plan must stay within; None: not bounded.

    Raises
    ------
    BioTrainError
        for a bound that is no number above zero.
    """

    ram_bytes: int | None = None
    """The whole static RAM of the firmware, in bytes; None: the target's memory."""
    deadline_ms: float | None = None
    """Estimated time of one training sample, in milliseconds."""
    max_mj: float | None = None
    """Estimated energy of one training sample, in millijoules."""

    def __post_init__(self) -> None:
        for name, bound in (("deadline (ms)", self.deadline_ms), ("energy (mJ)", self.max_mj)):
            number = isinstance(bound, (int, float)) and not isinstance(bound, bool)
            if bound is not None and not (number and isfinite(bound) and bound > 0):
                raise BioTrainError(f"the bound of {name} is a number above 0, not {bound}")
        if self.ram_bytes is not None and self.ram_bytes < 1:
            raise BioTrainError(f"the memory is a number of bytes above 0, not {self.ram_bytes}")

    @property
    def bounds_work(self) -> bool:
        """Whether the time or the energy of a sample is bounded."""
        return self.deadline_ms is not None or self.max_mj is not None

    def ram_on(self, target: Target) -> int | None:
        """The RAM in bytes that a plan may use on a target; None where nothing bounds it."""
        return self.ram_bytes if self.ram_bytes is not None else target.memory("ram").bytes or None

    def keeps(self, cost: Cost) -> bool:
        """Whether the time and the energy of a sample stay within the bounds."""
        in_time = self.deadline_ms is None or cost.ms <= self.deadline_ms
        return in_time and (self.max_mj is None or cost.mj <= self.max_mj)

    def check(self, target: Target) -> None:
        """Raise `BioTrainError` where the target lacks the figures that a bound needs.

        A deadline needs cycles per operation and a clock, an energy the power as well.
        """
        timed = target.cycles_per_op and target.clock_hz
        for unit, bound in (("ms", self.deadline_ms), ("mJ", self.max_mj)):
            if bound is not None and (not timed or (unit == "mJ" and not target.mw_per_mhz)):
                what = "clock" if not timed else "power"
                raise BioTrainError(
                    f"target {target.name} has no {what}, so that {unit} per sample are not known: "
                    "name a board (biotrain list targets)"
                )

    def work_in_words(self) -> str:
        """The bounds of time and energy: `20 ms and 1.5 mJ`."""
        bounds = (("ms", self.deadline_ms), ("mJ", self.max_mj))
        return " and ".join(f"{bound:g} {unit}" for unit, bound in bounds if bound is not None)


def too_slow(cost: Cost, budget: Budget, target: Target, ram_bytes: int) -> str:
    """The message where the fastest plan misses the deadline or takes too much energy."""
    within = f" in {budget.ram_bytes:,} B" if budget.ram_bytes is not None else ""
    energy = f" and {cost.mj:,.2f} mJ" if target.mw_per_mhz else ""
    return (
        f"does not fit: the fastest plan{within} takes {cost.ms:,.1f} ms{energy} for a sample on "
        f"{target.name} (estimate) with {ram_bytes:,} B of RAM; {budget.work_in_words()} are "
        "allowed"
    )


def too_large(
    needed_bytes: int,
    ram_bytes: int,
    target: Target,
    buffers: tuple[Buffer, ...],
    budget: Budget | None = None,
) -> str:
    """The message where the smallest plan needs more than the `ram_bytes` that are there.

    `budget`: the bounds of time and energy that this plan keeps, to be named too.
    """
    largest = sorted(buffers, key=lambda b: -b.size)[:3]
    names = ", ".join(f"{b.value} {b.size:,} B" for b in largest)
    bounded = budget is not None and budget.bounds_work
    within = f" that keeps {budget.work_in_words()}" if budget is not None and bounded else ""
    return (
        f"does not fit: {ram_bytes:,} B of RAM are there (target {target.name}), the smallest plan"
        f"{within} needs {needed_bytes:,} B; its largest buffers: {names}"
    )
