# SPDX-License-Identifier: Apache-2.0
"""The plan of a batch of windows over which BatchNorm takes its statistics."""

from __future__ import annotations

from dataclasses import replace

from biotrain.errors import DoesNotFitError
from biotrain.graph.cost import Cost, cost_of, node_cycles, node_macs, node_ops
from biotrain.planner.account import FixedBytes, figures, fixed_bytes, pareto, point
from biotrain.planner.adabn import AdabnPlan, adabn_plan
from biotrain.planner.batch_norm import Batch
from biotrain.planner.batch_schedule import BatchSchedule
from biotrain.planner.budget import too_large, too_slow
from biotrain.planner.plan import Fitted, Point
from biotrain.planner.request import PlanRequest
from biotrain.planner.schedules import Planner
from biotrain.planner.validate import validate

NAMED_BYTES = 4096
"""Tensors of more bytes, all windows of the batch together, are named among the choices."""

FRONTIER_SHARE = 0.9
"""Share of the fastest arena that a second schedule of each choice gets on the frontier."""


def fit_batch(request: PlanRequest) -> Fitted:
    """The plan with the fewest operations of a batch; see `fit` for what it raises."""
    fixed = fixed_bytes(request)
    planner = Planner(request.train, request.predict, request.target, request.batch)
    batch = Batch(request.train, request.batch)
    ram_bytes = request.ram_bytes
    chosen = batch.fit(None if ram_bytes is None else ram_bytes - fixed.total)
    prediction = planner.prediction(chosen.peak)
    validate(prediction.graph, prediction.buffers)
    arena = max(chosen.peak, prediction.peak)
    adabn = adabn_plan(request.adabn, arena)
    arena = max(arena, adabn.peak)
    ram = arena + fixed.total
    if ram_bytes is not None and ram > ram_bytes:
        raise DoesNotFitError(too_large(ram, ram_bytes, request.target, chosen.buffers))
    frontier = _frontier(request, batch, planner, fixed) if request.frontier else ()
    cost = _cost(request, chosen)
    if not request.budget.keeps(cost):
        raise DoesNotFitError(too_slow(cost, request.budget, request.target, ram))
    plan = replace(
        figures(request, chosen, prediction, fixed, ram, cost),
        choices=_in_words(request, chosen, adabn),
        peak_bytes=arena,
        adabn_ops=adabn.ops,
    )
    if frontier:
        plan = replace(plan, frontier=frontier)
    return Fitted(plan, request.train, prediction.graph, chosen, adabn=adabn.schedule)


def _cost(request: PlanRequest, schedule: BatchSchedule) -> Cost:
    """Work of one window: its share of the batch and of the update."""
    train, target, size = request.train, request.target, request.batch
    cycles = node_cycles(train.updates, target) / size
    for phase in schedule.phases:
        cycles += node_cycles(phase.graph.nodes, target)
        cycles += node_cycles(phase.before, target) / size
    ops = schedule.ops // size + node_ops(train.updates) // size
    return cost_of(node_macs(train.nodes), ops, cycles, target)


def _frontier(
    request: PlanRequest, batch: Batch, planner: Planner, fixed: FixedBytes
) -> tuple[Point, ...]:
    """The frontier: for every choice of stored tensors a fast, a smaller and a small schedule."""
    least = adabn_plan(request.adabn, 0).peak
    points: list[Point] = []
    for stored in batch.choices():
        fast = batch.schedule(stored, None)
        smaller = batch.schedule(stored, int(FRONTIER_SHARE * fast.peak))
        for schedule in (fast, smaller, batch.schedule(stored, 0)):
            peaks = (schedule.peak, planner.prediction(schedule.peak).peak, least)
            ram = max(peaks) + fixed.total
            points.append(point(_cost(request, schedule), schedule.peak, schedule.bound, ram))
    return pareto(points)


def _in_words(request: PlanRequest, chosen: BatchSchedule, adabn: AdabnPlan) -> tuple[str, ...]:
    stored = [o for o in chosen.outers if o.copies > 1 and o.nbytes > NAMED_BYTES]
    return (
        f"batch of {request.batch}: {len(chosen.phases)} loops over its samples",
        *(
            f"stored for every sample: {o.value.name}, {o.nbytes:,} B, phases {o.first} to {o.last}"
            for o in stored
        ),
        *adabn.words,
    )
