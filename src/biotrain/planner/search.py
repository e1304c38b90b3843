# SPDX-License-Identifier: Apache-2.0
"""Which tensors to keep: the search behind `plan.fit`.

A choice says for every node whether its result is kept or made again where it is needed (see
`rewrite/stream.py`). Its cost is known exactly, its memory nearly (`place` says the last word), so
that thousands of choices can be weighed in seconds. The search goes down a ladder of budgets; at
each it takes the steps that remove most of what lies above the budget for the fewest operations,
and then takes back what turned out not to be needed. Deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from operator import xor

from biotrain.ir.graph import Graph, Loop, Node, Step, Value, Window
from biotrain.ir.op import OPS, rows_times
from biotrain.planner.place import ALIGNMENT, aligned, follows
from biotrain.planner.stream import Form, Pass, Rows, Stream

WORTH = 0.01
"""Share of the operations that a tensor must save to be worth a search of its own."""

BRANCHES = 4
"""How many such tensors are tried."""

ROOM = (0.85, 0.7, 0.55)
"""Shares of a budget that are tried for everything but the rows that fill it up."""

LESS = (0.85, 0.95)
"""Shares of the smallest budget so far that are tried for a smaller one."""

INFINITE = float("inf")
LAZY = 1.5
"""A step that was worth so many times less than the best one now is not weighed again yet."""
EFFORT = 8000
"""Most choices that are looked at for one budget."""

LARGE = 40
"""Of a graph with more tensors that may pass fewer choices are looked at, for each takes longer."""

FEW = 6
"""A frontier of fewer points is searched in finer steps."""

GAP = 0.2
"""A step of the frontier that saves more than this share gets steps between."""

AT_ONCE = 4
"""Steps down that are tried together."""

SWEEPS = 4
"""Most rounds of taking back."""

Choice = tuple[bool, ...]
"""Per node: True where its result passes, False where it is kept."""


Structure = tuple[
    tuple[Pass, ...],
    tuple[int, ...],
    tuple[tuple[tuple[str, str], ...], ...],
    dict[str, int],
    dict[str, int],
]
"""Passes, bytes of stored tensors alive in each, what may overwrite what there; and the first and
last pass of each stored tensor."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a choice costs under a budget."""

    choice: Choice
    over: int
    """Bytes above the budget, summed over the passes."""
    peak: int
    """Bytes of the fullest pass."""
    ops: int
    passes: tuple[Pass, ...]
    forms: tuple[Form, ...]
    rows: tuple[int, int] | None = None
    """A passing node, and how many rows of its result are stored all the same."""

    @property
    def rank(self) -> tuple[int, int, int]:
        """What is less is better: bytes above the budget, then operations, then the peak."""
        return self.over, self.ops, self.peak


class Search:
    """Weighs the choices of one graph."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._io: dict[Pass, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._pairs: dict[tuple[Pass, str, int, str, str], bool] = {}
        self._size: dict[str, int] = {}
        self._inputs = [v.name for v in stream.graph.inputs if v.resident]
        self._outputs = [stream.root(v).name for v in stream.graph.outputs]
        for v in stream.graph.values():
            if v.kind in ("temp", "input") and stream.root(v) is v:
                self._size[v.name] = aligned(v.nbytes)
        self._scores: dict[tuple[Choice, int], Score] = {}
        self._structures: dict[Choice, Structure] = {}
        self._passed: dict[tuple[Choice, tuple[int, int] | None], Score] = {}
        size = len(stream.passable)
        self._most = EFFORT if size <= LARGE else EFFORT * LARGE**2 // size**2
        self._effort = self._most
        passable = dict.fromkeys(stream.passable)
        self._edges = [(i, j) for j in passable for i in stream.sources(j) if i in passable]

    def everything(self) -> Choice:
        """Everything kept."""
        return (False,) * len(self.stream.nodes)

    def score(self, choice: Choice, budget: int) -> Score:
        """Weigh a choice: the fastest form of each pass that stays within the budget."""
        key = (choice, budget)
        if key not in self._scores:
            self._scores[key] = self._score(choice, budget)
        return self._scores[key]

    def _score(self, choice: Choice, budget: int) -> Score:
        return self._weigh(choice, budget, 0, {}, range(0))

    def _weigh(
        self, choice: Choice, budget: int, more: int, fixed: Mapping[int, Form], during: range
    ) -> Score:
        """The fastest form that fits for each pass, but for those whose form is `fixed`.

        In the passes `during`, `more` bytes are stored beside the kept tensors.
        """
        passes, alive, sparing, _, _ = self._structure(choice)
        over, peak, ops = 0, 0, 0
        forms: list[Form] = []
        for p, part in enumerate(passes):
            here, spared = alive[p] + (more if p in during else 0), sparing[p]
            options = self.stream.forms(part)
            if p in fixed:
                options, spared = (fixed[p],), ()
            for form in options:
                used = here + form.window_bytes
                if spared:
                    used -= self._saved(form, spared)
                if used <= budget:
                    break
            over += max(0, used - budget)
            peak = max(peak, used)
            ops += form.ops
            forms.append(form)
        return Score(choice, over, peak, ops, passes, tuple(forms))

    def _structure(self, choice: Choice) -> Structure:
        """Passes, bytes of stored tensors alive in each, and what might be overwritten there."""
        if choice in self._structures:
            return self._structures[choice]
        passes = tuple(self.stream.passes(choice))
        first: dict[str, int] = dict.fromkeys(self._inputs, 0)
        last: dict[str, int] = dict.fromkeys(self._inputs, 0)
        for p, part in enumerate(passes):
            ins, outs = self._ports(part)
            for name in outs:
                first[name] = last[name] = p
            for name in ins:
                last[name] = p
        for name in self._outputs:
            if name in last:
                last[name] = len(passes)
        change = [0] * (len(passes) + 2)
        for name, p in first.items():
            change[p] += self._size[name]
            change[last[name] + 1] -= self._size[name]
        sparing: list[tuple[tuple[str, str], ...]] = []
        for p, part in enumerate(passes):
            ins, outs = self._ports(part)
            sparing.append(
                tuple(
                    (source, target)
                    for target in outs
                    if first[target] == p
                    for source in ins
                    if last[source] == p and self._size[source] == self._size[target]
                )
            )
        self._effort -= 1
        self._structures[choice] = (passes, tuple(accumulate(change)), tuple(sparing), first, last)
        return self._structures[choice]

    def _ports(self, part: Pass) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the stored tensors that a pass reads, and of those that it makes."""
        if part not in self._io:
            stream = self.stream
            inside = dict.fromkeys(
                v.name for i in (*part.sinks, *part.cone) for v in stream.nodes[i].outputs
            )
            ins: dict[str, None] = {}
            for i in (*part.sinks, *part.cone):
                for v in stream.nodes[i].inputs:
                    root = stream.root(v).name
                    if root in self._size and root not in inside:
                        ins[root] = None
            outs = [
                stream.root(v).name
                for i in part.sinks
                for v in stream.nodes[i].outputs
                if v.kind == "temp" and stream.root(v) is v
            ]
            self._io[part] = (tuple(ins), tuple(outs))
        return self._io[part]

    def _saved(self, form: Form, spared: Sequence[tuple[str, str]]) -> int:
        """Bytes of results that overwrite what the pass reads last."""
        total = 0
        taken: dict[str, None] = {}
        for source, target in spared:
            free = source not in taken and target not in taken
            if free and self._takes_over(form, source, target):
                total += self._size[target]
                taken[source] = taken[target] = None
        return total

    def _takes_over(self, form: Form, source: str, target: str) -> bool:
        """Whether a form may write `target` over `source`."""
        key = (form.part, form.axis, form.window_bytes, source, target)
        if key not in self._pairs:
            self._pairs[key] = self._find_takeover(form, source, target)
        return self._pairs[key]

    def _find_takeover(self, form: Form, source: str, target: str) -> bool:
        for node in self.stream.built(form):
            for out, v in enumerate(node.outputs):
                for index, u in enumerate(node.inputs):
                    if v.name != target or self.stream.root(u).name != source:
                        continue
                    if isinstance(node, Loop):
                        same = rows_times(u.shape) == rows_times(v.shape) and u.dtype == v.dtype
                        return same and follows(node, u.name, v.name)
                    return OPS[node.op].alias or (out, index) in OPS[node.op].inplace
        return False

    # ---- the way down

    def descend(self, start: Choice, budget: int, locked: int = -1) -> Score:
        """From a choice to one that stays within the budget, or as near as it gets.

        Node `locked` keeps its state.
        """
        best = self.score(start, budget)
        stale: dict[Choice, float] = {}  # what a step was worth when it was last weighed
        while best.over and self._effort > 0:
            rated: list[tuple[float, int, Choice]] = []
            steps = self._steps(best.choice, self._crowded(best, budget))
            moves = {c: tuple(map(xor, c, best.choice)) for c in steps}
            steps.sort(key=lambda c: -stale.get(moves[c], INFINITE))
            most = 0.0
            for choice in steps:
                if most > LAZY * stale.get(moves[choice], INFINITE):
                    break
                if locked >= 0 and choice[locked] is not start[locked]:
                    continue
                score = self.score(choice, budget)
                gain = best.over - score.over
                rate = gain / (max(score.ops - best.ops, 0) + 1.0)
                stale[moves[choice]] = max(rate, 0.0)
                if gain > 0:
                    rated.append((-rate, len(rated), choice))
                    most = max(most, rate)
            if not rated:
                break
            rated.sort()
            before, best = best, self.score(rated[0][2], budget)
            for rate, _, choice in rated[1:AT_ONCE]:  # the next best, if they go together
                both = tuple(
                    c if c is not old else now
                    for c, old, now in zip(choice, before.choice, best.choice, strict=True)
                )
                score = self.score(both, budget)
                gain, price = best.over - score.over, max(score.ops - best.ops, 0) + 1.0
                if gain > 0 and gain / price >= -rate / 2:
                    best = score
        return self.relax(best, budget)

    def _crowded(self, score: Score, budget: int) -> dict[int, None]:
        """Nodes whose results, or windows, are there in a pass that is above the budget."""
        _, alive, _, first, last = self._structure(score.choice)
        found: dict[int, None] = {}
        full = [p for p, form in enumerate(score.forms) if alive[p] + form.window_bytes > budget]
        for i in self.stream.passable:
            name = self.stream.nodes[i].outputs[0].name
            if score.choice[i]:
                if any(i in score.passes[p].cone for p in full):
                    found[i] = None
            elif any(first[name] <= p <= last[name] for p in full):
                found[i] = None
        return found

    def _steps(self, choice: Choice, among: Mapping[int, None]) -> list[Choice]:
        """Choices that differ in one node, or in two that follow one another."""
        found = [(*choice[:i], not choice[i], *choice[i + 1 :]) for i in among]
        for i, j in self._edges:
            if i in among or j in among:
                found += self._pair(choice, i, j)
        return list(dict.fromkeys(found))

    def _pair(self, choice: Choice, i: int, j: int) -> list[Choice]:
        """Both pass; or the other one of the two is kept."""
        both, other = list(choice), list(choice)
        both[i] = both[j] = True
        other[i], other[j] = choice[j], choice[i]
        wanted = [(not (choice[i] and choice[j]), both), (choice[i] is not choice[j], other)]
        return [tuple(c) for use, c in wanted if use]

    def relax(self, best: Score, budget: int) -> Score:
        """Take back what is not needed: steps that cost no overflow and fewer operations."""
        for sweep in range(SWEEPS):
            before = best
            for i in self.stream.passable:
                if best.choice[i] or best.over or not sweep:  # one that costs nothing may pass
                    choice = (*best.choice[:i], not best.choice[i], *best.choice[i + 1 :])
                    best = self._better(best, choice, budget)
            for i, j in self._edges:
                if best.choice[i] is not best.choice[j] or best.over or not sweep:
                    for choice in self._pair(best.choice, i, j):
                        best = self._better(best, choice, budget)
            if best is before or self._effort <= 0:
                break
        return best

    def _better(self, best: Score, choice: Choice, budget: int) -> Score:
        if self._effort <= 0:
            return best
        score = self.score(choice, budget)
        return score if score.rank < best.rank else best

    def improve(self, best: Score, budget: int) -> Score:
        """Keep one tensor that saves many operations, and find the room elsewhere."""
        while True:
            worth = []
            for node in self.stream.passable:
                if not best.choice[node] or self._effort <= 0:
                    continue
                choice = (*best.choice[:node], False, *best.choice[node + 1 :])
                score = self.score(choice, budget)
                if score.ops < best.ops * (1 - WORTH):
                    worth.append((score.ops, node, choice))
            found = best
            for _, node, choice in sorted(worth)[:BRANCHES]:
                if self._effort <= 0:
                    break
                score = self.descend(choice, budget, locked=node)
                if score.rank < found.rank:
                    found = score
            if found is best:
                return best
            best = found

    def store_rows(self, best: Score, budget: int) -> Score:
        """Fill what is left of the budget with rows of a tensor that is made more than once."""
        if best.over:
            return best
        passes = best.passes
        found = best
        for node in self.stream.passable:
            at = [p for p, part in enumerate(passes) if node in part.cone]
            if not best.choice[node] or len(at) < 2 or len(self.stream.nodes[node].outputs) > 1:
                continue
            unit, most = self.stream.row_unit(passes[at[0]], node)
            low, high = 0, most  # `low` units fit, `high` do not
            while high - low > 1:
                middle = (low + high) // 2
                score = self._with_rows(best, budget, node, middle * unit, at)
                if score is None or score.over:
                    high = middle
                    continue
                low = middle
                if score.ops < found.ops:
                    found = score
        return found

    def _with_rows(
        self, best: Score, budget: int, node: int, count: int, at: Sequence[int]
    ) -> Score | None:
        """A choice with some rows of a passing tensor stored; None where they cannot be."""
        passes = best.passes
        made = self.stream.with_rows(passes[at[0]], Rows(node, count, True))
        if made is None:
            return None
        forms = {at[0]: made}
        for p in at[1:]:
            form = self.stream.with_rows(passes[p], Rows(node, count, False))
            if form is not None:
                forms[p] = form
        if len(forms) == 1:
            return None
        size = aligned(replace(self.stream.nodes[node].outputs[0], kept=count).nbytes)
        score = self._weigh(best.choice, budget, size, forms, range(at[0], max(forms) + 1))
        return replace(score, rows=(node, count))

    def nothing(self) -> Choice:
        """Nothing kept that can be made again."""
        passable = dict.fromkeys(self.stream.passable)
        return tuple(i in passable for i in range(len(self.stream.nodes)))

    def best(self, budget: int, starts: Sequence[Choice]) -> Score:
        """The best choice for a budget that is found from several starting points."""
        down = self._rungs(0.9, budget)[-2:] if self.everything() in starts else []
        down += [self.store_rows(self.score(rung.choice, budget), budget) for rung in down]
        self._passed.update({(rung.choice, rung.rows): rung for rung in down})
        self._effort = self._most
        best = self._descended(budget, [*starts, *(rung.choice for rung in down)])
        for rung in down:
            if rung.peak <= budget and (best.over or rung.ops < best.ops):
                best = replace(rung, over=0)
        if best.over or best.ops <= self.least() * (1 + WORTH):
            return best
        found = best if best.rows else self.store_rows(best, budget)
        for share in ROOM:  # leave room for rows of a tensor that is made more than once
            leaner = self._descended(int(budget * share), starts)
            score = self.store_rows(self.score(leaner.choice, budget), budget)
            if score.rank < found.rank:
                found = score
        return found

    def passed(self, budget: int) -> list[Score]:
        """What was come by on the way to such a budget, and may fit: scores err upwards."""
        return [s for s in self._passed.values() if s.peak * (1 - GAP) <= budget]

    def _descended(self, budget: int, starts: Sequence[Choice]) -> Score:
        found = [self.descend(start, budget) for start in dict.fromkeys(starts)]
        return self.improve(min(found, key=lambda s: s.rank), budget)

    def least(self) -> int:
        """Operations with everything stored."""
        return self.score(self.everything(), 1 << 62).ops

    def ladder(self) -> list[Score]:
        """Choices for falling budgets, from everything kept to the smallest that was found."""
        rungs = self._rungs(0.9)
        found = rungs if len(rungs) >= FEW else self._rungs(0.97)
        least = self.smallest()
        return [*found, least] if least.peak < found[-1].peak else found

    def smallest(self) -> Score:
        """From nothing kept to less and less; then from everything kept, if that leads further."""
        self._effort = self._most
        best = self._less(self.score(self.nothing(), 0))
        other = self.descend(self.everything(), int(LESS[0] * best.peak))
        return self._less(other) if other.peak < best.peak else best

    def _less(self, best: Score) -> Score:
        for share in LESS:
            while (score := self.descend(best.choice, int(share * best.peak))).peak < best.peak:
                best = score
        return best

    def _rungs(self, factor: float, least: int = 0) -> list[Score]:
        """Down in small steps, to the smallest or to the first that needs no more than `least`."""
        self._effort = self._most
        top = self.score(self.everything(), 1 << 62)
        found = [self.relax(top, 1 << 62)]
        while found[-1].peak > least:
            self._effort = self._most // 6
            budget = int(found[-1].peak * factor) // ALIGNMENT * ALIGNMENT
            score = self._descended(budget, [found[-1].choice])
            if score.over:
                score = self._descended(budget, [found[-1].choice, self.nothing()])
            score = self.store_rows(score, budget)
            if score.peak >= found[-1].peak:
                self._effort = self._most // 3
                score = self._descended(budget, [self.nothing(), found[-1].choice])
            if score.peak >= found[-1].peak:
                break
            found.append(score)
        return found if least else self._between(found)

    def _between(self, found: list[Score]) -> list[Score]:
        """Where the next choice is much smaller, the same with some rows stored stand between."""
        filled = found[:1]
        for above, below in pairwise(found):
            room = above.peak - below.peak
            for part in (3, 2, 1) if room > GAP * above.peak else ():
                budget = (below.peak + room * part // 4) // ALIGNMENT * ALIGNMENT
                score = self.store_rows(self.score(below.choice, budget), budget)
                fewer = score.ops < below.ops and score.ops != filled[-1].ops
                if fewer and score.peak < filled[-1].peak and not score.over:
                    filled.append(score)
            filled.append(below)
        return filled


def realise(search: Search, score: Score) -> Graph:
    """The graph of a choice. What is made again gets a name of its own, a number behind it."""
    graph = search.stream.assemble(score.passes, score.forms)
    taken = dict.fromkeys(v.name for v in search.stream.graph.values())
    outside = dict.fromkeys(v.name for v in graph.values() if "~" not in v.name)
    names: dict[str, str] = {}

    def rename(value: Value) -> Value:
        if "~" not in value.name:
            return value
        if value.name not in names:
            base = value.name.partition("~")[0]
            name, number = base, 1
            while name in outside or name in names.values() or (number > 1 and name in taken):
                number += 1
                name = f"{base}_{number}"
            names[value.name] = name
        return replace(value, name=names[value.name])

    def renamed(node: Node) -> Node:
        ins, outs = tuple(map(rename, node.inputs)), tuple(map(rename, node.outputs))
        if not isinstance(node, Loop):
            return replace(node, inputs=ins, outputs=outs)
        body = tuple(Step(renamed(step.node), step.boxes) for step in node.body)
        windows = tuple(Window(rename(w.value), w.spans) for w in node.windows)
        return replace(node, inputs=ins, outputs=outs, body=body, windows=windows)

    return graph.with_nodes(tuple(map(renamed, graph.nodes)))
