# SPDX-License-Identifier: Apache-2.0
"""The account of a plan: the bytes that no plan changes, and the figures of a schedule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from biotrain.graph.cost import Cost, node_macs
from biotrain.ir.graph import Graph, Value
from biotrain.planner.batch_schedule import BatchSchedule
from biotrain.planner.context import RUNTIME_BYTES
from biotrain.planner.plan import Plan, Point, Schedule
from biotrain.planner.request import PlanRequest


@dataclass(frozen=True, slots=True)
class FixedBytes:
    """The static RAM that every plan of a request needs, without its arena. Sizes in bytes."""

    params: int
    gradients: int
    optimizer: int
    running: int
    stack: int
    runtime: int
    trained: int
    """Number of trained parameters."""
    live: int = 0
    """The front end, or all that the live firmware has apart from its model."""
    predict_arena: int = 0
    """The arena of predictions, where they have one of their own."""

    @property
    def total(self) -> int:
        """The sum of all parts."""
        sizes = (self.params, self.gradients, self.optimizer, self.running)
        return sum(sizes) + self.stack + self.runtime + self.live + self.predict_arena


def total_bytes(values: Iterable[Value]) -> int:
    """Bytes of some tensors."""
    return sum(v.nbytes for v in values)


def fixed_bytes(request: PlanRequest) -> FixedBytes:
    """The bytes that no plan of a request changes; those of `live` are added by `fit`."""
    train = request.train
    updates = [
        n for n in (*train.nodes, *train.updates) if any(v.kind == "param" for v in n.outputs)
    ]
    written = (v for n in updates for v in n.outputs if v.kind == "param")
    trained = tuple(dict.fromkeys(written))  # a bound writes its parameter once more
    sums = tuple(v for v in train.states if v.name.startswith("g_"))
    slots = tuple(v for n in updates for v in n.inputs if v.kind == "state" and v not in sums)
    running = tuple(v for v in train.states if v not in sums and v not in slots)
    return FixedBytes(
        params=total_bytes(trained),
        gradients=total_bytes(sums),
        optimizer=total_bytes(slots),
        running=total_bytes(running),
        stack=request.target.stacks_bytes,
        runtime=RUNTIME_BYTES[request.gradients],
        trained=sum(v.size for v in trained),
        live=request.front_bytes,
    )


def figures(
    request: PlanRequest,
    chosen: Schedule | BatchSchedule,
    prediction: Schedule,
    fixed: FixedBytes,
    ram: int,
    cost: Cost,
) -> Plan:
    """The figures of a schedule, without choices in words; its frontier is the one point.

    `ram`: the whole static RAM in bytes.
    """
    train: Graph = request.train
    return Plan(
        buffers=chosen.buffers,
        predict_buffers=prediction.buffers,
        peak_bytes=max(chosen.peak, prediction.peak),
        lower_bound_bytes=max(chosen.bound, prediction.bound),
        param_bytes=fixed.params,
        gradient_bytes=fixed.gradients,
        optimizer_bytes=fixed.optimizer,
        state_bytes=fixed.running,
        input_bytes=train.inputs[0].nbytes,
        stack_bytes=request.target.stacks_bytes,
        ram_bytes=ram,
        flash_bytes=total_bytes(train.params) + total_bytes(train.consts) + fixed.running,
        params=sum(v.size for v in train.params),
        trained_params=fixed.trained,
        macs=node_macs(train.nodes),
        ops=cost.ops,
        base_ops=request.base_ops if request.base_ops is not None else cost.ops,
        cycles=cost.cycles,
        ms_per_sample=cost.ms,
        mj_per_sample=cost.mj,
        choices=(),
        frontier=(point(cost, chosen.peak, chosen.bound, ram),),
        live_bytes=fixed.live,
    )


def point(cost: Cost, arena: int, bound: int, ram: int) -> Point:
    """A point of the frontier from a cost and the bytes of arena, lower bound and RAM."""
    return Point(ram, arena, bound, cost.ops, cost.cycles, cost.ms, cost.mj)


def pareto(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that no other one beats in both time and RAM, fastest first."""
    best: list[Point] = []
    for found in sorted(points, key=lambda p: (p.cycles or p.ops, p.ram_bytes)):
        if not best or found.ram_bytes < best[-1].ram_bytes:
            best.append(found)
    return tuple(best)
