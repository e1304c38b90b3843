# SPDX-License-Identifier: Apache-2.0
"""The memory of a training package, down to the byte: the cheapest plan that fits a budget."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from biotrain.errors import DoesNotFitError
from biotrain.graph.cost import Cost, cost_of, node_cycles, node_macs, node_ops, training_cost
from biotrain.graph.rewrite.trunk import cut
from biotrain.ir.graph import ITEM_BYTES, Graph, Value
from biotrain.ir.optimizer import Gradients
from biotrain.planner.adabn import adabn_plan
from biotrain.planner.batch_norm import Batch, BatchSchedule
from biotrain.planner.budget import Limits, can_be_bounded, keeps, too_large, too_slow
from biotrain.planner.context import RUNTIME_BYTES
from biotrain.planner.explain import in_words
from biotrain.planner.place import ALIGNMENT, Buffer, lifetimes, lower_bound, peak, place
from biotrain.planner.search import Score, Search, realise
from biotrain.planner.slices import longest
from biotrain.planner.stream import Stream, free
from biotrain.planner.validate import check
from biotrain.targets.target import Target


@dataclass(frozen=True, slots=True)
class Beside:
    """What a device that lives needs beside its model. Sizes in bytes."""

    ram_bytes: int
    runtime_bytes: int
    """Fields of the context that only its packages have."""
    slice_cycles: int
    """Pieces are cut to so many cycles where they can be; 0: nodes and iterations."""
    alignment: int
    """Of all of it."""


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
    """Where everything lies, and what one sample costs. Sizes in bytes."""

    buffers: tuple[Buffer, ...]
    """Arena of the training step."""
    predict_buffers: tuple[Buffer, ...]
    """Arena of a prediction; the same bytes, at another time."""
    peak_bytes: int
    """The arena."""
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
    """Reserve of the target."""
    ram_bytes: int
    """All of the above and the fields of the context: the whole static RAM."""
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
    """What records, stores and learns around the model: ring, front end, store, session."""
    longest_slice_cycles: int = 0
    """Estimated cycles of the longest piece that no call can pause in."""
    longest_slice: str = ""
    """What that piece makes."""
    adabn_ops: int = 0
    """Operations of a window when the statistics of BatchNorm are taken anew (`adabn`); else 0."""

    def to_json(self) -> dict[str, Any]:
        """The contract's keys."""
        data = asdict(self)
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
        """Size of `bt_model`: the static RAM without the stack."""
        return self.ram_bytes - self.stack_bytes - self.live_bytes

    @property
    def placed_bytes(self) -> int:
        """What a program places: the model, or the life around it."""
        return self.ram_bytes - self.stack_bytes


def _bytes(values: tuple[Value, ...]) -> int:
    return sum(v.nbytes for v in values)


def _where_gradients_go(gradients: Gradients, size: int) -> tuple[str, ...]:
    price = {
        "momentum": "added to the momentum; no clipping, and a dropped group takes the momentum",
        "update": "in the arena until the update; no clipping, a bad one spares its own parameter",
    }
    return (f"gradients, {size:,} B: {price[gradients]}",) if gradients in price else ()


@dataclass(frozen=True, slots=True)
class Fixed:
    """What no plan changes. Sizes in bytes."""

    params: int
    gradients: int
    optimizer: int
    running: int
    stack: int
    runtime: int
    trained: int
    """Number of trained parameters."""
    live: int = 0
    """What lies beside the model: a front end, or all that a device that lives has."""
    look: int = 0
    """The arena of its predictions."""

    @property
    def total(self) -> int:
        """All of it."""
        sizes = (self.params, self.gradients, self.optimizer, self.running)
        return sum(sizes) + self.stack + self.runtime + self.live + self.look


def _fixed(train: Graph, target: Target, gradients: Gradients, front: int) -> Fixed:
    updates = [
        n for n in (*train.nodes, *train.updates) if any(v.kind == "param" for v in n.outputs)
    ]
    trained = tuple(v for n in updates for v in n.outputs if v.kind == "param")
    sums = tuple(v for v in train.states if v.name.startswith("g_"))
    slots = tuple(v for n in updates for v in n.inputs if v.kind == "state" and v not in sums)
    moving = tuple(v for v in train.states if v not in sums and v not in slots)
    return Fixed(
        params=_bytes(trained),
        gradients=_bytes(sums),
        optimizer=_bytes(slots),
        running=_bytes(moving),
        stack=target.stack_bytes,
        runtime=RUNTIME_BYTES[gradients],
        trained=sum(v.size for v in trained),
        live=front,
    )


@dataclass(frozen=True, slots=True)
class Schedule:
    """A choice made concrete: the graph with its loops, and where everything lies."""

    graph: Graph
    buffers: tuple[Buffer, ...]

    @property
    def peak(self) -> int:
        """Bytes of the arena."""
        return peak(self.buffers)

    @property
    def bound(self) -> int:
        """No placement needs less."""
        return lower_bound(self.buffers)


class Planner:
    """The plans of one training graph and its predictions on one target."""

    def __init__(self, train: Graph, predict: Graph, target: Target, accumulate: int) -> None:
        self.target = target
        self.accumulate = accumulate
        self.price = target.price if target.cycles_per_op else free
        self.train = Search(Stream(train, self.price))
        self.predict = Search(Stream(predict, self.price))
        self._made: dict[tuple[int, tuple[bool, ...], int], Schedule] = {}
        self._ladder: list[tuple[Score, Schedule]] | None = None

    def schedule(self, search: Search, score: Score) -> Schedule:
        """The graph and the placement of a choice."""
        graph = realise(search, score)
        return Schedule(graph, place(lifetimes(graph)))

    def within(self, search: Search, budget: int, starts: list[tuple[bool, ...]]) -> Schedule:
        """The fastest schedule found whose arena stays within the budget, else a small one."""
        wanted = budget // ALIGNMENT * ALIGNMENT
        smallest: Schedule | None = None
        fitting: list[tuple[int, int, Schedule]] = []
        for _ in range(6):
            score = search.best(wanted, starts)
            found = self.schedule(search, score)
            if smallest is None or found.peak < smallest.peak:
                smallest = found
            if found.peak <= budget:
                fitting.append((score.ops, len(fitting), found))
                break
            wanted -= max(found.peak - budget, ALIGNMENT)
        for score in search.passed(budget):  # placement may have turned a better one away
            found = self.schedule(search, score)
            if found.peak <= budget:
                fitting.append((score.ops, len(fitting), found))
        assert smallest is not None
        return min(fitting)[2] if fitting else smallest

    def cost(self, schedule: Schedule) -> Cost:
        """Work of one training sample."""
        return training_cost(schedule.graph, self.target, self.accumulate)

    def ladder(self) -> list[tuple[Score, Schedule]]:
        """Schedules of falling arenas, from the fastest to the smallest that was found."""
        if self._ladder is None:
            rungs = [(s, self.schedule(self.train, s)) for s in self.train.ladder()]
            kept: list[tuple[Score, Schedule]] = []
            for score, made in sorted(rungs, key=lambda r: (r[0].ops, r[1].peak)):
                if not kept or made.peak < kept[-1][1].peak:
                    kept.append((score, made))
            self._ladder = kept
        return self._ladder

    def prediction(self, arena: int) -> Schedule:
        """A schedule of the predictions that needs no more than the training, if there is one."""
        starts = [self.predict.everything(), self.predict.nothing()]
        return self.within(self.predict, arena, starts)

    def beside(self, room: int | None) -> Schedule:
        """Predictions in an arena of their own: the smallest that costs at most a tenth more than
        the fastest, or the smallest of all where that is what fits."""
        rungs = [(s, self.schedule(self.predict, s)) for s in self.predict.ladder()]
        least = min(s.ops for s, _ in rungs)
        good = min(
            (r for r in rungs if 10 * r[0].ops <= 11 * least), key=lambda r: (r[1].peak, r[0].ops)
        )
        if room is None or good[1].peak <= room:
            return good[1]
        return min(rungs, key=lambda r: (r[1].peak, r[0].ops))[1]


@dataclass(frozen=True, slots=True)
class Features:
    """The training step in two functions, cut behind the frozen trunk (`rewrite/trunk.py`)."""

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
    """What takes the statistics of batch norms anew."""


def fit(
    train: Graph,
    predict: Graph,
    target: Target,
    *,
    memory: int | None = None,
    accumulate: int = 1,
    gradients: Gradients = "separate",
    base_ops: int | None = None,
    deadline_ms: float | None = None,
    max_mj: float | None = None,
    frontier: bool = False,
    batch: int = 1,
    live: Beside | None = None,
    front_bytes: int = 0,
    adabn: Graph | None = None,
) -> Fitted:
    """The plan with the lowest estimated cycles among those that stay within the limits.

    `memory` bounds the whole static RAM, `deadline_ms` and `max_mj` the work of one sample; where
    only the last two are given, the plan is the smallest that keeps them. `base_ops` are the
    operations of the direct algorithms with everything stored. `live`: predictions must not disturb
    a training sample that is half done, and what records and stores needs RAM too. `front_bytes`:
    of a front end beside the model, where there is no `live` to hold it. `adabn`: the graph of one
    window that takes the statistics of batch norms anew, in the same arena.

    Raises
    ------
    DoesNotFitError
        naming the smallest RAM that would do and the three largest buffers, or the fastest plan.
    """
    limits = [
        (name, limit)
        for name, limit in (("ms_per_sample", deadline_ms), ("mj_per_sample", max_mj))
        if limit is not None
    ]
    can_be_bounded(limits, target)
    if batch > 1:
        size = (memory, gradients, base_ops, frontier, batch)
        return _fit_batch(train, predict, target, *size, limits, front_bytes, adabn)
    fixed = _fixed(train, target, gradients, front_bytes)
    planner = Planner(train, predict, target, accumulate)
    budget = memory if memory is not None else target.memory("ram").bytes or None
    search = planner.train
    beside: Schedule | None = None
    if live is not None:
        least = planner.ladder()[-1][1].peak if budget is not None else 0
        free_bytes = None if budget is None else budget - fixed.total - live.ram_bytes - least
        beside = planner.beside(free_bytes)
        runtime = fixed.runtime + live.runtime_bytes
        fixed = replace(fixed, live=live.ram_bytes, look=beside.peak, runtime=runtime)
        tail = -(fixed.total - fixed.stack) % live.alignment  # arenas are multiples of it
        fixed = replace(fixed, live=live.ram_bytes + tail)
    if memory is None and limits:
        points = [s for _, s in planner.ladder() if keeps(planner.cost(s), limits)]
        chosen = min(points or [planner.ladder()[0][1]], key=lambda s: s.peak)
    elif budget is not None:
        starts = [search.everything(), search.nothing()]
        chosen = planner.within(search, budget - fixed.total, starts)
        if chosen.peak + fixed.total > budget:
            fitting = [s for _, s in planner.ladder() if s.peak + fixed.total <= budget]
            chosen = (
                fitting[0]
                if fitting
                else min((s for _, s in planner.ladder()), key=lambda s: s.peak)
            )
    else:
        top = search.relax(search.score(search.everything(), 1 << 62), 1 << 62)
        chosen = planner.schedule(search, top)
    prediction = beside or planner.prediction(chosen.peak)
    arena = chosen.peak if beside else max(chosen.peak, prediction.peak)
    anew = adabn_plan(adabn, arena)
    arena = max(arena, anew.peak)
    ram = arena + fixed.total
    cost = planner.cost(chosen)
    if not keeps(cost, limits):
        raise DoesNotFitError(too_slow(cost, limits, target, ram, memory))
    if budget is not None and ram > budget:
        raise DoesNotFitError(too_large(ram, budget, target, chosen.buffers, limits))
    check(chosen.graph, chosen.buffers)
    check(prediction.graph, prediction.buffers)
    made = _points(planner, fixed, beside, adabn_plan(adabn, 0).peak) if frontier else ()
    stored = planner.schedule(search, search.score(search.everything(), 1 << 62))
    features, about_features = _features(planner, train, arena, cost.ops)
    if live is not None:
        features, about_features = None, ()
    plan = replace(
        _plan(chosen, prediction, fixed, train, target, ram, cost, base_ops),
        choices=(
            *in_words(chosen.graph, chosen.buffers, stored.graph, stored.peak),
            *_where_gradients_go(gradients, fixed.params),
            *about_features,
            *(_beside_in_words(beside, live) if beside and live else ()),
            *_front_in_words(front_bytes),
            *anew.words,
        ),
        peak_bytes=arena,
        adabn_ops=anew.ops,
        feature_bytes=_bytes(features.values) if features else 0,
        trunk_ops=node_ops(features.trunk.graph.nodes) if features else 0,
        head_ops=planner.cost(features.head).ops if features else 0,
    )
    if made:
        plan = replace(plan, frontier=made)
    if beside and live:
        found = longest((chosen.graph, prediction.graph), live.slice_cycles, target)
        plan = replace(
            plan,
            predict_arena_bytes=beside.peak,
            live_bytes=fixed.live,
            longest_slice_cycles=found.cycles,
            longest_slice=found.name,
        )
    return Fitted(plan, chosen.graph, prediction.graph, features=features, adabn=anew.schedule)


def _front_in_words(size: int) -> tuple[str, ...]:
    return (f"front end beside the model: {size:,} B",) if size else ()


def _beside_in_words(beside: Schedule, live: Beside) -> tuple[str, ...]:
    return (
        f"predictions beside a half-done sample: {beside.peak:,} B of their own",
        f"ring, front end, store and session: {live.ram_bytes:,} B",
    )


def _plan(
    chosen: Schedule | BatchSchedule,
    prediction: Schedule,
    fixed: Fixed,
    train: Graph,
    target: Target,
    ram: int,
    cost: Cost,
    base_ops: int | None,
) -> Plan:
    """The figures of a schedule, without words; a frontier of the one point."""
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
        stack_bytes=target.stack_bytes,
        ram_bytes=ram,
        flash_bytes=_bytes(train.params) + _bytes(train.consts) + fixed.running,
        params=sum(v.size for v in train.params),
        trained_params=fixed.trained,
        macs=node_macs(train.nodes),
        ops=cost.ops,
        base_ops=base_ops if base_ops is not None else cost.ops,
        cycles=cost.cycles,
        ms_per_sample=cost.ms,
        mj_per_sample=cost.mj,
        choices=(),
        frontier=(_point(cost, chosen.peak, chosen.bound, ram),),
        live_bytes=fixed.live,
    )


def _features(
    planner: Planner, train: Graph, arena: int, ops: int
) -> tuple[Features | None, tuple[str, ...]]:
    """The step cut behind its frozen trunk, in the arena that is there anyway; and a choice."""
    parts = cut(train)
    if parts is None or not node_ops(parts.trunk.nodes):
        return None, ()
    x, values = parts.trunk.inputs[0], parts.trunk.outputs
    size = _bytes(values)
    if size >= x.size * ITEM_BYTES["f32"]:
        return None, (f"features: none, the frozen layers make {size:,} B of a window",)
    made: list[Schedule] = []
    for graph in (parts.trunk, parts.head):
        search = Search(Stream(graph, planner.price))
        made.append(planner.within(search, arena, [search.everything(), search.nothing()]))
        if made[-1].peak > arena:
            need = f"{made[-1].peak:,} B of the arena, which has {arena:,} B"
            return None, (f"features: none, to make and to use them takes {need}",)
        check(made[-1].graph, made[-1].buffers)
    later = f"later epochs need {planner.cost(made[1]).ops:,} of {ops:,} operations"
    words = f"features: {size:,} B per window instead of {x.nbytes:,} B; {later}"
    return Features(values, made[0], made[1]), (words,)


def _fit_batch(
    train: Graph,
    predict: Graph,
    target: Target,
    memory: int | None,
    gradients: Gradients,
    base_ops: int | None,
    frontier: bool,
    size: int,
    limits: Limits,
    front_bytes: int,
    adabn: Graph | None,
) -> Fitted:
    """The plan of a batch whose statistics batch norm shares (see `biotrain/batch.py`)."""
    fixed = _fixed(train, target, gradients, front_bytes)
    planner = Planner(train, predict, target, size)
    budget = memory if memory is not None else target.memory("ram").bytes or None
    made = Batch(train, size)
    chosen = made.fit(None if budget is None else budget - fixed.total)
    prediction = planner.prediction(chosen.peak)
    check(prediction.graph, prediction.buffers)
    arena = max(chosen.peak, prediction.peak)
    anew = adabn_plan(adabn, arena)
    arena = max(arena, anew.peak)
    ram = arena + fixed.total
    if budget is not None and ram > budget:
        raise DoesNotFitError(too_large(ram, budget, target, chosen.buffers))
    update = node_ops(train.updates) // size

    def work(schedule: BatchSchedule) -> Cost:
        cycles = node_cycles(train.updates, target) / size
        for phase in schedule.phases:
            cycles += node_cycles(phase.graph.nodes, target)
            cycles += node_cycles(phase.before, target) / size
        ops = schedule.ops // size + update
        return cost_of(node_macs(train.nodes), ops, cycles, target)

    points: list[Point] = []
    least = adabn_plan(adabn, 0).peak if frontier else 0
    for kept in made.choices() if frontier else ():
        free = made.schedule(kept, None)
        for schedule in (free, made.schedule(kept, int(0.9 * free.peak)), made.schedule(kept, 0)):
            peaks = (schedule.peak, planner.prediction(schedule.peak).peak, least)
            all_bytes = max(peaks) + fixed.total
            points.append(_point(work(schedule), schedule.peak, schedule.bound, all_bytes))
    cost = work(chosen)
    if not keeps(cost, limits):
        raise DoesNotFitError(too_slow(cost, limits, target, ram, memory))
    stored = [o for o in chosen.outers if o.copies > 1]
    plan = replace(
        _plan(chosen, prediction, fixed, train, target, ram, cost, base_ops),
        choices=(
            f"batch of {size}: {len(chosen.phases)} loops over its samples",
            *(
                f"stored for every sample: {o.value.name}, {o.nbytes:,} B, phases {o.first} to "
                f"{o.last}"
                for o in stored
                if o.nbytes > 4096
            ),
            *anew.words,
        ),
        peak_bytes=arena,
        adabn_ops=anew.ops,
    )
    if points:
        plan = replace(plan, frontier=_pareto(points))
    return Fitted(plan, train, prediction.graph, chosen, adabn=anew.schedule)


def _pareto(points: list[Point]) -> tuple[Point, ...]:
    """The points that no other one beats, fastest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cycles or p.ops, p.ram_bytes)):
        if not kept or point.ram_bytes < kept[-1].ram_bytes:
            kept.append(point)
    return tuple(kept)


def _point(cost: Cost, arena: int, bound: int, ram: int) -> Point:
    return Point(ram, arena, bound, cost.ops, cost.cycles, cost.ms, cost.mj)


def _points(
    planner: Planner, fixed: Fixed, beside: Schedule | None, least: int
) -> tuple[Point, ...]:
    """The frontier; no arena is smaller than `least`."""
    points: list[Point] = []
    for _, schedule in planner.ladder():
        arena = max(schedule.peak, least)
        if beside is None:
            arena = max(arena, planner.prediction(arena).peak)
        points.append(_point(planner.cost(schedule), arena, schedule.bound, arena + fixed.total))
    return tuple(points)
