# SPDX-License-Identifier: Apache-2.0
"""What others report for the built-in networks at their papers' shapes, to compare a plan with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reference:
    """One figure that a plan is compared with."""

    label: str
    ram_bytes: int
    ops: int
    """Operations of one sample, forward and backward; 0 where none are stated."""
    source: str


PAPER = "arXiv 2604.13359, peak of L2 on GAP9"
COUNTED = "one sample, arena, parameters and gradients, counted by hand"

REFERENCES: dict[tuple[str, str], tuple[Reference, ...]] = {
    ("mibminet", "full"): (
        Reference("published: BatchNorm, batch 8", 5_360_000, 52_100_000, PAPER),
        Reference("everything stored", 1_584_000, 0, COUNTED),
        Reference("published: GroupNorm", 670_000, 52_100_000, PAPER),
    ),
    ("mibminet", "last"): (Reference("published: last layer", 190_000, 17_400_000, PAPER),),
    ("epidenet", "full"): (
        Reference("published: BatchNorm, batch 8", 2_240_000, 2_600_000, PAPER),
        Reference("published: GroupNorm", 280_000, 2_600_000, PAPER),
        Reference("everything stored", 173_000, 0, COUNTED),
    ),
    ("epidenet", "last"): (Reference("published: last layer", 110_000, 900_000, PAPER),),
}
"""By network and strategy, from the largest to the smallest. The operations are the published MFLOP
of 8 samples divided by 8; GroupNorm trains on one sample at a time, 8 accumulated."""


def references(model: str, strategy: str) -> tuple[Reference, ...]:
    """The figures for a built-in network at its paper's shape; none for others."""
    return REFERENCES.get((model, strategy), ())
