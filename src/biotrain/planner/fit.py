# SPDX-License-Identifier: Apache-2.0
"""`fit`: the cheapest plan of a training package that stays within its budget, to the byte."""

from __future__ import annotations

from dataclasses import replace

from biotrain.errors import DoesNotFitError
from biotrain.graph.cost import node_ops
from biotrain.graph.rewrite.trunk import divide
from biotrain.ir.graph import ITEM_BYTES
from biotrain.planner.account import FixedBytes, figures, fixed_bytes, point, total_bytes
from biotrain.planner.adabn import adabn_plan
from biotrain.planner.batch_fit import fit_batch
from biotrain.planner.budget import too_large, too_slow
from biotrain.planner.explain import in_words
from biotrain.planner.place import near_peak
from biotrain.planner.plan import Features, Fitted, Plan, Point, Schedule
from biotrain.planner.request import LiveNeeds, PlanRequest
from biotrain.planner.schedules import Planner
from biotrain.planner.search import Search
from biotrain.planner.slices import longest
from biotrain.planner.stream import Stream
from biotrain.planner.two_memories import in_words as tiles_in_words
from biotrain.planner.two_memories import two_memories
from biotrain.planner.validate import validate


def fit(request: PlanRequest) -> Fitted:
    """The plan with the lowest estimated cycles among those that stay within the budget.

    Where only the time or the energy of a sample is bounded, and the RAM is not, the plan is the
    smallest that keeps these bounds.

    Raises
    ------
    DoesNotFitError
        naming the smallest RAM that would do and the three largest buffers, or the fastest plan.
    BioTrainError
        where the target lacks the figures that a deadline or an energy is compared with.
    """
    request.budget.check(request.target)
    if request.l2_bytes is not None:
        return _fit_two(request)
    return fit_batch(request) if request.batch > 1 else _fit_sample(request)


def _fit_two(request: PlanRequest) -> Fitted:
    """The plan that needs the first memory only, where there is one; else that of both."""
    try:
        return fit(replace(request, l2_bytes=None))
    except DoesNotFitError:
        pass
    stacks, first = request.target.stacks_bytes, request.ram_bytes
    assert first is not None and request.l2_bytes is not None
    budget = replace(request.budget, ram_bytes=request.l2_bytes + stacks)  # stacks lie in L1
    return _fit_sample(replace(request, budget=budget, l2_bytes=None), max(first - stacks, 0))


def _fit_sample(request: PlanRequest, near_bytes: int = 0) -> Fitted:
    """The plan of training sample by sample.

    near_bytes : where it is not 0, bytes of L1 for windows; the budget is that of L2 then.
    """
    fixed = fixed_bytes(request)
    if request.live is not None:
        _check_live(request, request.live, fixed)
    planner = Planner(request.train, request.predict, request.target, request.accumulate)
    apart: Schedule | None = None
    if request.live is not None:
        apart, fixed = _predictions_apart(request, request.live, planner, fixed)
    chosen = _choose(request, planner, fixed)
    prediction = apart or planner.prediction(chosen.peak)
    final = chosen
    if near_bytes:
        far = (request.ram_bytes or 0) - fixed.total
        final = two_memories(chosen.graph, near_bytes, far, request.target.workers)
        prediction = two_memories(prediction.graph, near_bytes, far, request.target.workers)
    arena = final.peak if apart else max(final.peak, prediction.peak)
    adabn = adabn_plan(request.adabn, arena)
    arena = max(arena, adabn.peak)
    ram = arena + fixed.total
    cost = planner.cost(chosen)
    if not request.budget.keeps(cost):
        raise DoesNotFitError(too_slow(cost, request.budget, request.target, ram))
    if request.ram_bytes is not None and ram > request.ram_bytes:
        raise DoesNotFitError(
            too_large(ram, request.ram_bytes, request.target, final.buffers, request.budget)
        )
    validate(final.graph, final.buffers)
    validate(prediction.graph, prediction.buffers)
    plan = figures(request, final, prediction, fixed, ram, cost)
    if request.frontier:
        least = adabn_plan(request.adabn, 0).peak
        plan = replace(plan, frontier=_frontier(planner, fixed, apart, least))
    stored = planner.stored()
    features, about_features = _features(planner, request, arena, cost.ops)
    if request.live is not None:
        features, about_features = None, ()
    plan = replace(
        plan,
        choices=(
            *in_words(chosen.graph, chosen.buffers, stored.graph, stored.peak),
            *_gradients_in_words(request, fixed.params),
            *about_features,
            *_live_in_words(request, apart),
            *_front_in_words(request.front_bytes),
            *adabn.words,
            *((tiles_in_words(final, near_bytes),) if near_bytes else ()),
        ),
        l1_bytes=max(near_peak(final.buffers), near_peak(prediction.buffers)),
        peak_bytes=arena,
        adabn_ops=adabn.ops,
        feature_bytes=total_bytes(features.values) if features else 0,
        trunk_ops=node_ops(features.trunk.graph.nodes) if features else 0,
        head_ops=planner.cost(features.head).ops if features else 0,
    )
    if apart and request.live:
        plan = _with_slices(plan, request, request.live, chosen, apart)
    return Fitted(plan, final.graph, prediction.graph, features=features, adabn=adabn.schedule)


def _check_live(request: PlanRequest, live: LiveNeeds, fixed: FixedBytes) -> None:
    """Raises DoesNotFitError where the live firmware needs more than there is beside any plan: a
    ring of a million frames is no reason to search for plans."""
    needed = fixed.total + live.ram_bytes
    if request.ram_bytes is not None and needed > request.ram_bytes:
        raise DoesNotFitError(
            f"does not fit: {request.ram_bytes:,} B of RAM are there (target "
            f"{request.target.name}), and without any activation {needed:,} B are needed; the live "
            f"firmware takes {live.ram_bytes:,} B of them, the frames that wait (--ring) among them"
        )


def _predictions_apart(
    request: PlanRequest, live: LiveNeeds, planner: Planner, fixed: FixedBytes
) -> tuple[Schedule, FixedBytes]:
    """Predictions of the live firmware, in an arena of their own, and the fixed bytes with it."""
    ram_bytes = request.ram_bytes
    limit: int | None = None
    if ram_bytes is not None:
        smallest = planner.ladder()[-1][1].peak
        limit = ram_bytes - fixed.total - live.ram_bytes - smallest
    apart = planner.prediction_apart(limit)
    runtime = fixed.runtime + live.runtime_bytes
    fixed = replace(fixed, live=live.ram_bytes, predict_arena=apart.peak, runtime=runtime)
    tail = -(fixed.total - fixed.stack) % live.alignment  # arenas are multiples of it
    return apart, replace(fixed, live=live.ram_bytes + tail)


def _choose(request: PlanRequest, planner: Planner, fixed: FixedBytes) -> Schedule:
    """The schedule of training: the fastest within the RAM, else the smallest there is."""
    ram_bytes = request.ram_bytes
    if request.budget.ram_bytes is None and request.budget.bounds_work:
        fast = [s for _, s in planner.ladder() if request.budget.keeps(planner.cost(s))]
        return min(fast or [planner.ladder()[0][1]], key=lambda s: s.peak)
    if ram_bytes is None:
        return planner.fastest()
    starts = [planner.train.all_stored(), planner.train.all_streamed()]
    chosen = planner.within(planner.train, ram_bytes - fixed.total, starts)
    if chosen.peak + fixed.total <= ram_bytes:
        return chosen
    rungs = [s for _, s in planner.ladder()]
    fitting = [s for s in rungs if s.peak + fixed.total <= ram_bytes]
    return fitting[0] if fitting else min(rungs, key=lambda s: s.peak)


def _with_slices(
    plan: Plan, request: PlanRequest, live: LiveNeeds, chosen: Schedule, apart: Schedule
) -> Plan:
    """The plan of a live package: its second arena, and the longest slice of a call."""
    found = longest((chosen.graph, apart.graph), live.slice_cycles, request.target)
    return replace(
        plan,
        predict_arena_bytes=apart.peak,
        longest_slice_cycles=found.cycles,
        longest_slice=found.name,
    )


def _features(
    planner: Planner, request: PlanRequest, arena: int, ops: int
) -> tuple[Features | None, tuple[str, ...]]:
    """The step divided behind its frozen trunk, within `arena` bytes; and the choice in words."""
    parts = divide(request.train)
    if parts is None or not node_ops(parts.trunk.nodes):
        return None, ()
    x, values = parts.trunk.inputs[0], parts.trunk.outputs
    size = total_bytes(values)
    if size >= x.size * ITEM_BYTES["f32"]:
        return None, (f"features: none, the frozen layers make {size:,} B of a window",)
    made: list[Schedule] = []
    for graph in (parts.trunk, parts.head):
        search = Search(Stream(graph, planner.price, planner.cycles))
        starts = [search.all_stored(), search.all_streamed()]
        made.append(planner.within(search, arena, starts))
        if made[-1].peak > arena:
            need = f"{made[-1].peak:,} B of the arena, which has {arena:,} B"
            return None, (f"features: none, to make and to use them takes {need}",)
        validate(made[-1].graph, made[-1].buffers)
    later = f"later epochs need {planner.cost(made[1]).ops:,} of {ops:,} operations"
    words = f"features: {size:,} B per window instead of {x.nbytes:,} B; {later}"
    return Features(values, made[0], made[1]), (words,)


def _frontier(
    planner: Planner, fixed: FixedBytes, apart: Schedule | None, least: int
) -> tuple[Point, ...]:
    """The frontier; no arena is smaller than `least` bytes."""
    points: list[Point] = []
    for _, schedule in planner.ladder():
        arena = max(schedule.peak, least)
        if apart is None:
            arena = max(arena, planner.prediction(arena).peak)
        points.append(point(planner.cost(schedule), arena, schedule.bound, arena + fixed.total))
    return tuple(points)


def _gradients_in_words(request: PlanRequest, size: int) -> tuple[str, ...]:
    price = {
        "momentum": "added to the momentum; no clipping, and a dropped group takes the momentum",
        "update": "in the arena until the update; no clipping, a bad one spares its own parameter",
    }
    words = price.get(request.gradients)
    return (f"gradients, {size:,} B: {words}",) if words else ()


def _front_in_words(size: int) -> tuple[str, ...]:
    return (f"front end in C: {size:,} B",) if size else ()


def _live_in_words(request: PlanRequest, apart: Schedule | None) -> tuple[str, ...]:
    if apart is None or request.live is None:
        return ()
    return (
        f"predictions between slices of a training sample: {apart.peak:,} B of their own",
        f"ring, front end, store and session: {request.live.ram_bytes:,} B",
    )
