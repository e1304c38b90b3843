# SPDX-License-Identifier: Apache-2.0
"""How the call of a node is shared by workers: what an op allows (`Split`) and what is chosen
(`Grid`).

A cluster runs one schedule on all of its workers; every call gets the worker's part of the box.
Parts are outputs: no sum is cut, so that the bits do not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from biotrain.ir.graph import Span

ELEMENT_STEP = 16
"""Elements of a flat tensor that stay together: a cache line of 64 bytes."""


@dataclass(frozen=True, slots=True)
class Split:
    """Along what the box of a call may be cut; along nothing: one worker runs it (`serial`)."""

    rows: int = 0
    """Rows that stay together; 0: rows are not cut."""
    times: int = 0
    """Samples that stay together, at absolute multiples; 0: time is not cut."""
    elements: bool = False
    """The kernel ignores its box and takes flat tensors and their number of elements: a part is a
    range of elements, handed over as shifted pointers and a smaller number."""

    @property
    def serial(self) -> bool:
        """Whether exactly one worker must run the call."""
        return not (self.rows or self.times or self.elements)


SERIAL = Split()
ELEMENTS = Split(times=ELEMENT_STEP, elements=True)


@dataclass(frozen=True, slots=True)
class Region:
    """Elements of a tensor: `count` runs of `length` elements, `stride` apart from `start` on."""

    start: int
    length: int
    stride: int = 0
    count: int = 1


@dataclass(frozen=True, slots=True)
class Grid:
    """A box in `down` ranges of rows by `across` ranges of times; worker w has the part
    (w / across, w mod across), and none where there is no such part.

    `bt_own` of `rt/bt_port.h` computes the same in C.
    """

    down: int = 1
    row_step: int = 1
    across: int = 1
    time_step: int = 1
    elements: bool = False

    @property
    def parts(self) -> int:
        """Workers that have a part."""
        return self.down * self.across

    def part(self, box: Span, worker: int) -> Span:
        """The part of a box that a worker runs, empty where it has none."""
        i, j = divmod(worker, self.across)
        if i >= self.down:
            return Span(box.r0, box.r0, box.t0, box.t0)
        units = -(-(box.r1 - box.r0) // self.row_step)
        rows = [box.r0 + units * k // self.down * self.row_step for k in (i, i + 1)]
        first, last = box.t0 // self.time_step, -(-box.t1 // self.time_step)
        at = [(first + (last - first) * k // self.across) * self.time_step for k in (j, j + 1)]
        return Span(rows[0], min(rows[1], box.r1), max(at[0], box.t0), min(at[1], box.t1))


def grid_of(split: Split, boxes: Sequence[Span], workers: int) -> Grid:
    """The grid whose largest part is the smallest, for boxes of one call in several iterations.

    Every part of every box has work. Among equal grids the one with the fewest cuts along time is
    taken, for neighbours along time read the same samples.
    """
    row_step, time_step = split.rows or 1, split.times or 1
    down = across = 1
    if split.rows:
        down = min(-(-(b.r1 - b.r0) // row_step) for b in boxes)
    if split.times:
        across = min(-(-b.t1 // time_step) - b.t0 // time_step for b in boxes)
    best: tuple[int, int, int] | None = None
    for j in range(1, min(across, workers) + 1):
        i = min(down, workers // j)
        grid = Grid(i, row_step, j, time_step)
        cost = max(grid.part(b, w).size for b in boxes for w in range(grid.parts))
        if best is None or (cost, j, i) < best:
            best = (cost, j, i)
    assert best is not None
    return Grid(best[2], row_step, best[1], time_step, split.elements)
