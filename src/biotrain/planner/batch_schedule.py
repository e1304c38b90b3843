# SPDX-License-Identifier: Apache-2.0
"""The training step of a batch as a schedule: loops over its samples, and what outlives them."""

from __future__ import annotations

from dataclasses import dataclass

from biotrain.ir.graph import Graph, Node, Value
from biotrain.planner.place import Buffer, aligned, lower_bound, peak


@dataclass(frozen=True, slots=True)
class Outer:
    """A tensor that outlives a phase: carried sums and statistics, or one tensor per sample."""

    value: Value
    copies: int
    """Samples that have one each; 1: it is of the whole batch."""
    first: int
    """Phase that computes it."""
    last: int
    """Phase that reads it last."""

    @property
    def nbytes(self) -> int:
        """Bytes of all copies."""
        return self.copies * (aligned(self.value.nbytes) if self.copies > 1 else self.value.nbytes)


@dataclass(frozen=True, slots=True)
class Phase:
    """One loop over the samples of the batch."""

    before: tuple[Node, ...]
    """Nodes over the whole batch, which run once before the loop."""
    graph: Graph
    buffers: tuple[Buffer, ...]
    outers: tuple[Outer, ...]
    """What it reads or computes that outlives it."""
    first: int
    """Its first schedule step."""


@dataclass(frozen=True, slots=True)
class BatchSchedule:
    """The training step of a batch, planned."""

    size: int
    phases: tuple[Phase, ...]
    after: tuple[Node, ...]
    """Nodes that run once at the end: running statistics."""
    outers: tuple[Outer, ...]
    buffers: tuple[Buffer, ...]
    ops: int
    """Executed multiplies and adds of the whole batch, without the update."""

    @property
    def peak(self) -> int:
        """Bytes of the arena."""
        return peak(self.buffers)

    @property
    def bound(self) -> int:
        """Lower bound in bytes: no placement of these buffers needs less."""
        return lower_bound(self.buffers)
