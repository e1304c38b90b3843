# SPDX-License-Identifier: Apache-2.0
"""The result of planning: the plan with its figures, schedules, and the graphs of both."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from biotrain.ir.graph import Graph, Value
from biotrain.planner.batch_schedule import BatchSchedule
from biotrain.planner.place import Buffer, lower_bound, peak
from biotrain.planner.request import Optimize


@dataclass(frozen=True, slots=True)
class Point:
    """One plan of the frontier: its whole static RAM, its arena, and the work of one sample."""

    ram_bytes: int
    arena_bytes: int
    lower_bound_bytes: int
    ops: int
    cycles: float
    ms_per_sample: float
    mj_per_sample: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The place of every byte, and the cost of one sample. Sizes in bytes."""

    buffers: tuple[Buffer, ...]
    """Arena of the training step."""
    predict_buffers: tuple[Buffer, ...]
    """Arena of a prediction; the same bytes, at another time."""
    peak_bytes: int
    """Size of the arena."""
    lower_bound_bytes: int
    """No placement of these buffers needs less."""
    param_bytes: int
    """Trained parameters, in RAM."""
    gradient_bytes: int
    optimizer_bytes: int
    state_bytes: int
    """Running statistics."""
    input_bytes: int
    """The resident window, a part of the arena."""
    stack_bytes: int
    """Stack reserve of the target, for each of its workers."""
    ram_bytes: int
    """The whole static RAM: all of the above and the fields of the context."""
    flash_bytes: int
    """Weights and constants; the code comes on top when it is linked."""
    params: int
    """Number of parameters of the model."""
    trained_params: int
    macs: int
    ops: int
    base_ops: int
    cycles: float
    ms_per_sample: float
    mj_per_sample: float
    choices: tuple[str, ...]
    """The decisions of the planner, a sentence each."""
    frontier: tuple[Point, ...]
    """From the fastest plan to the smallest that was found; just this plan if not asked for."""
    feature_bytes: int = 0
    """What a window leaves for the trained layers, if they can train from that; else 0."""
    trunk_ops: int = 0
    """Operations from a window to its features: once for every window."""
    head_ops: int = 0
    """Operations of a training sample from its features, the update shared by its group."""
    predict_arena_bytes: int = 0
    """The arena of predictions where it is not that of training (`Live`)."""
    live_bytes: int = 0
    """RAM of what records, stores and learns around the model: ring, front end, store, session."""
    longest_slice_cycles: int = 0
    """Estimated cycles of the longest slice: the longest time that a call does not pause."""
    longest_slice: str = ""
    """The tensor that this slice computes."""
    adabn_ops: int = 0
    """Operations of a window in which statistics are re-estimated (`adabn`); else 0."""
    optimize: Optimize = "speed"
    """What the code is for: fewest cycles, or few bytes."""
    l1_bytes: int = 0
    """Where the plan has two memories: windows in L1. `peak_bytes` and `placed_bytes` are of L2
    then, and the stacks lie in L1."""
    code_bytes: int | None = None
    """Instructions and vectors of the linked firmware; None where nothing was linked."""

    def to_json(self) -> dict[str, Any]:
        """The contract's keys."""
        data = asdict(self)
        if not self.l1_bytes:
            del data["l1_bytes"]
        data["buffers"] = [asdict(b) for b in self.buffers]
        return data

    @property
    def point(self) -> Point:
        """This plan as a point of the frontier."""
        work = (self.ops, self.cycles, self.ms_per_sample, self.mj_per_sample)
        return Point(self.ram_bytes, self.peak_bytes, self.lower_bound_bytes, *work)

    @property
    def points(self) -> tuple[Point, ...]:
        """The frontier with this plan among its points, from the largest to the smallest."""
        own = self.point
        others = [p for p in self.frontier if (p.ram_bytes, p.ops) != (own.ram_bytes, own.ops)]
        return tuple(sorted([*others, own], key=lambda p: (-p.ram_bytes, p.ops)))

    @property
    def context_bytes(self) -> int:
        """Size of `bt_model`: the static RAM without the stack and the live firmware's state."""
        return self.ram_bytes - self.stack_bytes - self.live_bytes

    @property
    def placed_bytes(self) -> int:
        """Bytes that a program places: `bt_model`, or `bt_live` with the model inside."""
        return self.ram_bytes - self.stack_bytes


@dataclass(frozen=True, slots=True)
class Schedule:
    """A planned graph with its fused loops, and the place of every buffer."""

    graph: Graph
    buffers: tuple[Buffer, ...]

    @property
    def peak(self) -> int:
        """Bytes of the arena."""
        return peak(self.buffers)

    @property
    def bound(self) -> int:
        """Lower bound in bytes: no placement of these buffers needs less."""
        return lower_bound(self.buffers)


@dataclass(frozen=True, slots=True)
class Features:
    """The training step in two functions, divided behind the frozen trunk (`rewrite/trunk.py`)."""

    values: tuple[Value, ...]
    """What the first one hands to the second, in this order."""
    trunk: Schedule
    head: Schedule

    @property
    def size(self) -> int:
        """Floats of the features of one window."""
        return sum(v.size for v in self.values)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A plan, and the graphs with the loops that it chose."""

    plan: Plan
    train: Graph
    predict: Graph
    batch: BatchSchedule | None = None
    features: Features | None = None
    adabn: BatchSchedule | None = None
    """The schedule that re-estimates the statistics of batch norms (`adabn`)."""
