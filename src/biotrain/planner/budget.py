# SPDX-License-Identifier: Apache-2.0
"""Bounds on the time and energy of a sample, and what is said where a plan does not fit."""

from __future__ import annotations

from typing import TypeAlias

from biotrain.errors import BioTrainError
from biotrain.graph.cost import Cost
from biotrain.planner.place import Buffer
from biotrain.targets.target import Target

Limits: TypeAlias = list[tuple[str, float]]
"""Fields of `Cost` by the names of the plan (`ms_per_sample`, `mj_per_sample`) and their bounds."""


def keeps(cost: Cost, limits: Limits) -> bool:
    """Whether a cost stays within the limits."""
    values = {"ms_per_sample": cost.ms, "mj_per_sample": cost.mj}
    return all(values[name] <= limit for name, limit in limits)


def can_be_bounded(limits: Limits, target: Target) -> None:
    """Raise where the target does not say what a bound is to be compared with."""
    for name, _ in limits:
        timed = target.cycles_per_op and target.clock_hz
        if not timed or (name == "mj_per_sample" and not target.mw_per_mhz):
            what = "clock" if not timed else "power"
            raise BioTrainError(
                f"target {target.name} has no {what}, so that {name[:2].replace('mj', 'mJ')} per "
                "sample are not known: name a board (biotrain list targets)"
            )


def asked(limits: Limits) -> str:
    """The limits in words."""
    return " and ".join(f"{limit:g} {name[:2].replace('mj', 'mJ')}" for name, limit in limits)


def too_slow(cost: Cost, limits: Limits, target: Target, ram: int, memory: int | None) -> str:
    """What is said where the fastest plan is too slow."""
    within = f" in {memory:,} B" if memory is not None else ""
    energy = f" and {cost.mj:,.2f} mJ" if target.mw_per_mhz else ""
    return (
        f"does not fit: the fastest plan{within} takes {cost.ms:,.1f} ms{energy} for a sample on "
        f"{target.name} (estimate) with {ram:,} B of RAM; {asked(limits)} are allowed"
    )


def too_large(
    ram: int,
    budget: int,
    target: Target,
    buffers: tuple[Buffer, ...],
    limits: Limits | None = None,
) -> str:
    """What is said where the smallest plan is too large."""
    largest = sorted(buffers, key=lambda b: -b.size)[:3]
    names = ", ".join(f"{b.value} {b.size:,} B" for b in largest)
    within = f" that keeps {asked(limits)}" if limits else ""
    return (
        f"does not fit: {budget:,} B of RAM are there (target {target.name}), the smallest plan"
        f"{within} needs {ram:,} B; its largest buffers: {names}"
    )
