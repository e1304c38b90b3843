# SPDX-License-Identifier: Apache-2.0
"""Plans under a budget: they fit, the validator agrees, and every plan trains to the same bits.

Networks and budgets are new in every run, and a failure names its seed (see test_networks.py).
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from _networks import Network, draw
from test_networks import FLAGS, a_seed, prepared, said, train_graph
from torch import nn

import biotrain as bt
from biotrain.errors import DoesNotFitError, GraphError
from biotrain.graph.cost import node_ops
from biotrain.graph.rewrite import keep_int16
from biotrain.ir.graph import Attr, Graph, Loop, Node, Span, Step, Value, Window, flat_nodes, verify
from biotrain.ir.op import OPS
from biotrain.package import Package
from biotrain.planner.fused import Group
from biotrain.planner.place import Buffer, lifetimes, lower_bound, peak, place
from biotrain.planner.plan import Schedule
from biotrain.planner.realise import realise
from biotrain.planner.schedules import Planner
from biotrain.planner.score import Score
from biotrain.planner.search import Search
from biotrain.planner.stream import Stream
from biotrain.planner.validate import replay, validate
from biotrain.run.host import HostDevice

CASES = int(os.environ.get("BIOTRAIN_NETWORKS", "2"))
MUTANTS = int(os.environ.get("BIOTRAIN_MUTANTS", "12"))
"""Broken loops of each kind that the validator is shown."""
CHANS, TIMES, CLASSES = 3, 300, 4
MODES = ["separate", "momentum", "update"]


def small(seed: int) -> Network:
    """Few layers: a budget is met in a second or two."""
    return draw(seed, blocks=2)


def schedule(search: Search, score: Score) -> tuple[Graph, tuple[Buffer, ...]]:
    """The graph of a choice, and where everything lies."""
    graph = realise(search, score)
    return graph, place(lifetimes(graph))


def smallest(search: Search) -> Score:
    """Little is stored."""
    return search.descend(search.all_streamed(), 0)


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("index", range(CASES))
def test_schedules_of_drawn_networks(index: int) -> None:
    """Validated, at or above the bound, counted rightly, and the same twice."""
    seed = a_seed(index)
    network = small(seed)
    again = said(seed, network)
    print(again)
    graph = train_graph(prepared(network), network.example)
    search = Search(Stream(graph))
    top = search.score(search.all_stored(), 1 << 62)
    budget = int(top.peak * random.Random(seed).uniform(0.3, 1))
    scores = [top, search.descend(search.all_stored(), budget), smallest(search)]
    for score in (*scores, search.store_rows(scores[1], budget)):
        planned, buffers = schedule(search, score)
        try:
            verify(planned)
            validate(planned, buffers)
        except GraphError as error:
            raise AssertionError(again) from error
        assert peak(buffers) >= lower_bound(buffers), again
        assert node_ops(planned.nodes) == score.ops, again
        kinds = {n.op for n in flat_nodes(graph.nodes)}
        assert {n.op for n in flat_nodes(planned.nodes)} == kinds, again
    anew = Search(Stream(graph))
    assert schedule(anew, smallest(anew)) == schedule(search, scores[2]), again


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("index", range(CASES))
def test_budgets_are_kept(index: int) -> None:
    """A plan fits, or the smallest RAM that would do is named, and that is enough."""
    seed = a_seed(index)
    network = small(seed)
    again = said(seed, network)
    print(again)
    net = prepared(network)
    free = bt.compile(net, network.example, accumulate=1).plan
    fixed = free.ram_bytes - free.peak_bytes
    budget = fixed + int(free.peak_bytes * random.Random(seed).uniform(0.35, 1))
    short = None
    try:
        plan = bt.compile(net, network.example, memory=budget, accumulate=1).plan
    except DoesNotFitError as error:
        short = error
    if short is not None:
        assert named(short) > budget, again
        budget = named(short)
        plan = bt.compile(net, network.example, memory=budget, accumulate=1).plan
    assert plan.lower_bound_bytes <= plan.peak_bytes, again
    assert plan.ram_bytes <= budget, again
    assert plan.ops >= free.ops, again


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("index", range(CASES))
def test_drawn_networks_train_to_the_same_bits(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything stored, and with little of it, in C."""
    seed = a_seed(index)
    network = small(seed)
    again = said(seed, network)
    print(again)
    net = prepared(network)
    stored = bt.compile(net, network.example, accumulate=1)

    def least(self: Planner, search: Search, *_: object) -> Schedule:
        return self.schedule(search, smallest(search))

    monkeypatch.setattr(Planner, "within", least)
    streamed = bt.compile(net, network.example, memory=1 << 30, accumulate=1)
    assert streamed.graph.nodes != stored.graph.nodes, again
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((6, *network.example.shape[1:])).astype(np.float32)
    y = rng.integers(0, 2, len(x))
    crcs = []
    for pkg in (stored, streamed):
        device = HostDevice(pkg, flags=FLAGS)
        device.train(x, y)
        crcs.append((device.crc32(), device.predict(x).tobytes()))
    assert crcs[0] == crcs[1], again


def named(error: DoesNotFitError) -> int:
    """The smallest RAM that an error names."""
    found = re.search(r"smallest plan\D* needs ([\d,]+) B", str(error))
    assert found, error
    return int(found[1].replace(",", ""))


class Mixed(nn.Module):
    """Dense and depthwise filters, a skip, ways side by side, pools of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(CHANS, 8, 9, padding=4)
        self.norm = nn.GroupNorm(2, 8)
        self.pool = nn.MaxPool1d(2)
        self.deep = nn.Conv1d(8, 8, 7, padding="same", groups=8)
        self.mix = nn.Conv1d(8, 8, 1)
        self.second = nn.GroupNorm(1, 8)
        self.left = nn.Conv1d(8, 4, 5, padding="same")
        self.right = nn.Conv1d(8, 4, 3, padding="same")
        self.shrink = nn.AvgPool1d(5)
        self.head = nn.Linear(8 * 30, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.norm(self.first(x))))
        x = torch.nn.functional.elu(self.second(self.mix(self.deep(x))) + x)
        x = self.shrink(torch.cat([self.left(x), self.right(x)], dim=1).tanh())
        return self.head(x.flatten(1))


def mixed() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().train()


def eegnet() -> nn.Module:
    torch.manual_seed(0)
    return bt.prepare(bt.models.build("eegnet", CHANS, TIMES, CLASSES, 64.0, norm="group")).train()


NETS: dict[str, Callable[[], nn.Module]] = {"mixed": mixed, "eegnet": eegnet}
SHARES = {"mixed": (0.9, 0.65), "eegnet": (0.75, 0.25)}
"""Budgets of the arena, as shares of what storing everything takes."""


def plans(name: str, shares: Sequence[float], **options: object) -> list[Package]:
    """From everything stored downwards."""
    net, example = NETS[name](), torch.zeros(1, CHANS, TIMES)
    free = bt.compile(net, example, **{"accumulate": 1, **options})
    fixed = free.plan.ram_bytes - free.plan.peak_bytes
    wanted = [fixed + int(share * free.plan.peak_bytes) for share in shares]
    found = [
        free,
        *(bt.compile(net, example, memory=ram, **{"accumulate": 1, **options}) for ram in wanted),
    ]
    assert all(p.plan.ram_bytes <= ram for p, ram in zip(found[1:], wanted, strict=True))
    return found


def windows(count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((count, CHANS, TIMES)).astype(np.float32)
    return x, rng.integers(0, CLASSES, count)


def outcome(pkg: Package) -> tuple[int, bytes]:
    """Twenty steps: the weights' CRC, and the bits of some predictions."""
    device = HostDevice(pkg, flags=FLAGS)
    x, y = windows()
    device.train(x, y)
    return device.crc32(), device.predict(x[:4]).tobytes()


@pytest.mark.sample(test=1, ci=3)
@pytest.mark.parametrize("gradients", MODES)
@pytest.mark.parametrize("name", NETS)
def test_all_plans_train_to_the_same_bits(name: str, gradients: str) -> None:
    shares = SHARES[name] if gradients == "separate" else SHARES[name][-1:]
    found = plans(name, shares, gradients=gradients)
    assert all(any(isinstance(n, Loop) for n in p.graph.nodes) for p in found[-1:])
    assert len(dict.fromkeys(p.graph.nodes for p in found)) == len(found) == len(shares) + 1
    assert len(dict.fromkeys(map(outcome, found))) == 1


@pytest.mark.ci
def test_the_smallest_ram_that_is_named_is_enough() -> None:
    net, example = eegnet(), torch.zeros(1, CHANS, TIMES)
    with pytest.raises(DoesNotFitError, match="largest buffers: ") as least:
        bt.compile(net, example, memory=10_000, accumulate=1)
    plan = bt.compile(net, example, memory=named(least.value), accumulate=1).plan
    assert plan.ram_bytes <= named(least.value)
    assert plan.peak_bytes < 0.25 * bt.compile(net, example, accumulate=1).plan.peak_bytes


_DIGEST = """
import sys
sys.path.insert(0, {folder!r})
from test_stream import digest
print(digest({memory}))
"""


def digest(memory: int) -> str:
    """Of all files that are emitted for a budget."""
    files = bt.compile(eegnet(), torch.zeros(1, CHANS, TIMES), memory=memory, accumulate=1).files
    return hashlib.sha256("".join(files[k] for k in sorted(files)).encode()).hexdigest()


@pytest.mark.ci
def test_a_plan_does_not_depend_on_the_hash_seed() -> None:
    free = bt.compile(eegnet(), torch.zeros(1, CHANS, TIMES), accumulate=1).plan
    memory = free.ram_bytes - free.peak_bytes // 2
    other = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    there = subprocess.run(
        [sys.executable, "-c", _DIGEST.format(folder=str(Path(__file__).parent), memory=memory)],
        env={**os.environ, "PYTHONHASHSEED": other},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == digest(memory)


def test_an_input_of_a_cat_that_no_part_needs() -> None:
    """It has a window of nothing, and may not be read."""
    x = Value("x", (1, 4, 64), kind="input")
    ways = [Value(n, (1, 4, 64)) for n in ("a", "b")]
    both, part, out = Value("both", (1, 8, 64)), Value("part", (1, 4, 64)), Value("out", (1, 4, 64))
    attrs = (("sizes", (1, 4, 64)), ("starts", (0, 4, 0)), ("steps", (1, 1, 1)))
    nodes = (
        *(Node("relu", (x,), (w,)) for w in ways),
        Node("cat", tuple(ways), (both,), (("axis", 1),)),
        Node("slice", (both,), (part,), attrs),
        Node("relu", (part,), (out,)),
    )
    search = Search(Stream(Graph(nodes, (x,), (out,))))
    graph, buffers = schedule(search, search.score(search.all_streamed(), 0))
    (loop,) = graph.nodes
    assert isinstance(loop, Loop)
    assert [(w.value.name, w.nbytes) for w in loop.windows if not w.nbytes] == [("a", 0)]
    verify(graph)
    validate(graph, buffers)
    reading = replace(loop.body[0], boxes=tuple(replace(b, r0=0) for b in loop.body[0].boxes))
    assert refused(graph, loop, with_step(loop, 0, reading))


def test_tiles_of_time_are_as_short_as_their_pools_allow() -> None:
    """16 samples of the longest tensor at least, in multiples of what a pool makes one of."""
    x, a = Value("x", (1, 2, 960), kind="input"), Value("a", (1, 2, 960))
    b, c = Value("b", (1, 2, 320)), Value("c", (1, 2, 80))

    def pool(n: int) -> tuple[tuple[str, Attr], ...]:
        whole = (("padding", (0, 0)), ("dilation", (1, 1)))
        return (("kernel", (1, n)), ("stride", (1, n)), *whole)

    nodes = (
        Node("relu", (x,), (a,)),
        Node("avg_pool", (a,), (b,), pool(3)),
        Node("avg_pool", (b,), (c,), pool(4)),
    )
    stream = Stream(Graph(nodes, (x,), (b, c)))
    found = stream.tilings(Group(stored=(1, 2), streamed=(0,)))
    lengths = [n for axis, n in found if axis == "time"]
    assert lengths == [8, 16, 64, 256], "16 / 3 samples of b, in fours"


# What a broken loop gets.


@pytest.fixture(scope="module")
def streamed() -> Graph:
    """A graph with loops over rows and over tiles of time."""
    net = mixed()
    search = Search(Stream(train_graph(net, torch.zeros(1, CHANS, TIMES))))
    score, stream = search.score(search.all_streamed(), 0), search.stream
    found = list(score.loops)
    for i, group in enumerate(score.groups[::2]):  # those that can, in place of their best form
        cuts = [n for axis, n in stream.tilings(group) if axis == "rows"]
        found[2 * i] = (stream.fused(group, "rows", cuts[0]) if cuts else None) or found[2 * i]
    graph = realise(search, replace(score, loops=tuple(found)))
    axes = dict.fromkeys(n.axis for n in graph.nodes if isinstance(n, Loop))
    assert sorted(axes) == ["rows", "time"]
    return graph


def refused(graph: Graph, old: Loop, new: Loop) -> bool:
    """Whether a graph with `new` in place of `old` is found out."""
    broken = graph.with_nodes(tuple(new if n is old else n for n in graph.nodes))
    try:
        verify(broken)
        replay(broken, place(lifetimes(broken), effort=0))
    except GraphError:
        return True
    return False


def loops(graph: Graph) -> list[Loop]:
    return [n for n in graph.nodes if isinstance(n, Loop)]


def changed(step: Step, k: int, box: Span) -> Step:
    return Step(step.node, (*step.boxes[:k], box, *step.boxes[k + 1 :]))


def with_step(loop: Loop, i: int, step: Step) -> Loop:
    return replace(loop, body=(*loop.body[:i], step, *loop.body[i + 1 :]))


def told_apart(node: Node) -> bool:
    """Elements of bytes are not told apart by the validator."""
    return all(v.dtype == "f32" for v in node.outputs)


def shrunk_windows(loop: Loop) -> Iterator[Loop]:
    for i, w in enumerate(loop.windows):
        if w.value.dtype != "f32":
            continue
        for r, t in ((1, 0), (0, 1)):
            spans = tuple(replace(s, r1=s.r1 - r, t1=s.t1 - t) for s in w.spans)
            if not all(s.empty for s in spans):
                new = (*loop.windows[:i], Window(w.value, spans), *loop.windows[i + 1 :])
                yield replace(loop, windows=new)


def shifted_boxes(loop: Loop) -> Iterator[Loop]:
    """A box, alone or together with its window."""
    for i, step in enumerate(loop.body):
        if not told_apart(step.node):
            continue
        k = next(k for k, b in enumerate(step.boxes) if not b.empty)
        b = step.boxes[k]
        for r, t in ((1, 0), (0, 1)):
            there = Span(b.r0 + r, b.r1 + r, b.t0 + t, b.t1 + t)
            new = with_step(loop, i, changed(step, k, there))
            yield new
            names = [v.name for v in step.node.outputs]
            moved = tuple(
                Window(w.value, (*w.spans[:k], there, *w.spans[k + 1 :]))
                if w.value.name in names
                else w
                for w in loop.windows
            )
            yield replace(new, windows=moved)


def dropped_steps(loop: Loop) -> Iterator[Loop]:
    """A step, altogether or in one iteration."""
    for i, step in enumerate(loop.body):
        yield replace(loop, body=(*loop.body[:i], *loop.body[i + 1 :]))
        if told_apart(step.node):
            for k in (0, len(step.boxes) - 1):
                # A window that is recomputed from one iteration to the next is there anyway.
                fresh = k == 0 or step.boxes[k] != step.boxes[k - 1]
                if fresh and not step.boxes[k].empty and len(step.boxes) > 1:
                    yield with_step(loop, i, changed(step, k, Span(0, 0, 0, 0)))


def swapped_steps(loop: Loop) -> Iterator[Loop]:
    for i, (a, b) in enumerate(zip(loop.body, loop.body[1:], strict=False)):
        if any(v in b.node.inputs for v in a.node.outputs):
            yield replace(loop, body=(*loop.body[:i], b, a, *loop.body[i + 2 :]))


def disordered(loop: Loop) -> Iterator[Loop]:
    """One step or one window runs backwards, or sums over time do; sums of rows may."""
    for i, step in enumerate(loop.body):
        free = loop.axis == "rows" and OPS[step.node.op].accumulates
        if told_apart(step.node) and not free and len(dict.fromkeys(step.boxes)) > 1:
            yield with_step(loop, i, Step(step.node, step.boxes[::-1]))
    for i, w in enumerate(loop.windows):
        if w.value.dtype == "f32" and len(dict.fromkeys(w.spans)) > 1:
            turned = Window(w.value, w.spans[::-1])
            yield replace(loop, windows=(*loop.windows[:i], turned, *loop.windows[i + 1 :]))
    if loop.axis == "time" and any(OPS[s.node.op].accumulates for s in loop.body):
        yield replace(
            loop,
            body=tuple(Step(s.node, s.boxes[::-1]) for s in loop.body),
            windows=tuple(Window(w.value, w.spans[::-1]) for w in loop.windows),
        )


def uneven_sums(loop: Loop) -> Iterator[Loop]:
    """A sum that takes a part twice, or is cut where its kernel does not cut it."""
    for i, step in enumerate(loop.body):
        if OPS[step.node.op].accumulates and loop.count > 1:
            yield with_step(loop, i, changed(step, 1, step.boxes[0]))
            if loop.axis == "time" and OPS[step.node.op].reduces_time:
                a, b = step.boxes[:2]
                if not b.empty:
                    early = changed(step, 0, replace(a, t1=a.t1 - 1))
                    yield with_step(loop, i, changed(early, 1, replace(b, t0=b.t0 - 1)))


@pytest.mark.parametrize(
    "breaks",
    [shrunk_windows, shifted_boxes, dropped_steps, swapped_steps, disordered, uneven_sums],
)
def test_the_validator_refuses_broken_loops(
    streamed: Graph, breaks: Callable[[Loop], Iterator[Loop]]
) -> None:
    assert not any(refused(streamed, loop, loop) for loop in loops(streamed))
    broken = [(loop, new) for loop in loops(streamed) for new in breaks(loop)]
    assert len(broken) >= 5
    seed = a_seed(0)
    random.Random(seed).shuffle(broken)
    for loop, new in broken[:MUTANTS]:
        assert refused(streamed, loop, new), f"BIOTRAIN_SEED={seed}\n{loop}\n\nbecame\n\n{new}"


def test_the_planner_updates_a_parameter_behind_all_that_read_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where tensors are recomputed, that is later than where the gradient is complete; the
    validator refuses a plan that updates there."""

    def early(
        self: Stream, groups: list[Group], where: dict[int, int], updates: list[int]
    ) -> list[Group]:
        behind: dict[int, list[Group]] = {}
        for i in updates:
            behind.setdefault(max(where[j] for j in self.sources(i)), []).append(Group((i,), ()))
        return [g for p, group in enumerate(groups) for g in (group, *behind.get(p, ()))]

    graph = train_graph(mixed(), torch.zeros(1, CHANS, TIMES), gradients="update")
    search = Search(Stream(graph))
    validate(*schedule(search, search.score(search.all_streamed(), 0)))
    monkeypatch.setattr(Stream, "_with_updates", early)
    search = Search(Stream(graph))
    with pytest.raises(GraphError, match="is read after its update"):
        validate(*schedule(search, search.score(search.all_streamed(), 0)))


# The comparison of bits must be able to fail.


def a_plan(name: str = "mixed", share: float = 0.65) -> Package:
    net, example = NETS[name](), torch.zeros(1, CHANS, TIMES)
    free = bt.compile(net, example, accumulate=1).plan
    ram = free.ram_bytes - int((1 - share) * free.peak_bytes)
    return bt.compile(net, example, memory=ram, accumulate=1)


def test_a_wrong_kernel_or_schedule_changes_the_crc(monkeypatch: pytest.MonkeyPatch) -> None:
    pkg = a_plan()
    good = outcome(pkg)
    loop = next(n for n in pkg.graph.nodes if isinstance(n, Loop) and n.count > 1)
    sink = next(i for i, s in enumerate(loop.body) if s.node.outputs[0] in loop.outputs)
    last = next(k for k in reversed(range(loop.count)) if not loop.body[sink].boxes[k].empty)
    short = with_step(loop, sink, changed(loop.body[sink], last, Span(0, 0, 0, 0)))
    nodes = tuple(short if n is loop else n for n in pkg.graph.nodes)
    broken = replace(pkg, source=replace(pkg.source, train=pkg.graph.with_nodes(nodes)))
    assert outcome(broken) != good
    files = dict(pkg.files)
    join = "((total) += (leaf))"
    assert join in files["bt_kernel.h"]
    wrong = "((total) += (leaf) * (1.0f + 0x1p-22f))"
    files["bt_kernel.h"] = files["bt_kernel.h"].replace(join, wrong)
    monkeypatch.setitem(pkg.__dict__, "files", files)
    assert outcome(pkg) != good


# What is counted is what is executed.


def test_the_price_of_fused_loops_is_that_of_their_nodes() -> None:
    """Work that every call of a loop does on its own is counted whole: int16 inputs have some."""
    net, example = mixed(), torch.zeros(1, CHANS, TIMES)
    search = Search(Stream(keep_int16(train_graph(net, example), 0.1)))
    top = search.score(search.all_stored(), 1 << 62)
    scores = [top, smallest(search), *(search.descend(s.streaming, s.peak // 2) for s in (top,))]
    shared = 0
    for score in scores:
        planned = realise(search, score)
        assert node_ops(planned.nodes) == score.ops
        for loop in loops(planned):
            for step in loop.body:
                rule, boxes = OPS[step.node.op], [b for b in step.boxes if not b.empty]
                shared += sum(rule.shared_ops(step.node, box) for box in boxes)
    assert shared > 0, "no fused loop has shared work: this tests nothing"


_COUNTER = """
__attribute__((weak)) long long bt_count;
static inline float bt_counted(float a, float b, float c)
{
  bt_count++;
  return bt_fma(a, b, c);
}
"""


class Convs(nn.Module):
    """Nothing is padded: every multiply-add of the formula happens, but for borders in conv_dx."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(CHANS, 8, 17)
        self.two = nn.Conv1d(8, 8, 11, groups=8)
        self.three = nn.Conv1d(8, 6, 9)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.three(self.two(self.one(x).relu()).relu()).relu()
        return self.head(x.mean(-1))


def conv_ops(graph: Graph) -> int:
    """Multiply-adds of convolutions, as the plan counts them."""
    total = 0
    for node in graph.nodes:
        steps = node.body if isinstance(node, Loop) else ()
        inner = [s for s in steps if s.node.op in ("conv", "conv_dx", "conv_dw")]
        if inner:
            total += node_ops([replace(node, body=tuple(inner))])
        elif node.op in ("conv", "conv_dx", "conv_dw"):
            total += node_ops([node])
    return total // 2


def executed(pkg: Package, monkeypatch: pytest.MonkeyPatch) -> int:
    """Multiply-adds that the convolutions of one training sample execute."""
    files = dict(pkg.files)
    include = '#include "bt_kernel.h"\n'
    for name in files:
        if name.startswith("bt_conv"):
            files[name] = files[name].replace("bt_fma(", "bt_counted(")
    head, _, rest = files["bt_barrier.h"].partition(include)
    assert rest
    files["bt_barrier.h"] = head + include + _COUNTER + rest
    monkeypatch.setitem(pkg.__dict__, "files", files)
    device = HostDevice(pkg, flags=(*FLAGS, "-DBT_VECTOR=0"))  # vectors are not counted
    counter = ctypes.c_longlong.in_dll(device._c, "bt_count")
    x, y = windows(1)
    before = counter.value
    device.train(x, y)
    return counter.value - before


def test_executed_multiply_adds_are_those_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formula of conv_dx counts taps beyond the borders, which the kernel skips; everything
    else is exact, so the share that is missing is small and that of the borders."""
    torch.manual_seed(0)
    net, example = Convs().train(), torch.zeros(1, CHANS, TIMES)
    free = bt.compile(net, example, accumulate=1)
    fixed = free.plan.ram_bytes - free.plan.peak_bytes
    tight = bt.compile(net, example, memory=fixed + int(0.5 * free.plan.peak_bytes), accumulate=1)
    counted = [conv_ops(p.graph) for p in (free, tight)]
    ran = [executed(p, monkeypatch) for p in (free, tight)]
    assert counted[1] > 1.1 * counted[0], "something is recomputed"
    for want, have in zip(counted, ran, strict=True):
        assert 0.97 * want <= have <= want
    again = [counted[1] - counted[0], ran[1] - ran[0]]
    assert 0.95 * again[0] <= again[1] <= again[0]


def test_the_frontier_of_a_package() -> None:
    """Falling RAM, rising operations, and the JSON says the same."""
    plan = bt.compile(eegnet(), torch.zeros(1, CHANS, TIMES), frontier=True, accumulate=1).plan
    points = plan.frontier
    assert len(points) >= 5
    assert [p.arena_bytes for p in points] == sorted((p.arena_bytes for p in points), reverse=True)
    assert [p.ops for p in points] == sorted(p.ops for p in points)
    assert all(p.arena_bytes >= p.lower_bound_bytes for p in points)
    data = json.loads(json.dumps(plan.to_json()))
    assert [p["ram_bytes"] for p in data["frontier"]] == [p.ram_bytes for p in points]


@pytest.mark.sample(test=0, ci=1)
@pytest.mark.parametrize("name", ["eegnet", "epidenet"])
def test_points_of_the_frontier_are_verified(name: str) -> None:
    """The smallest and one drawn at random; BIOTRAIN_POINTS=99 takes them all."""
    torch.manual_seed(0)
    net = bt.prepare(bt.models.build(name, CHANS, TIMES, CLASSES, 64.0, norm="group")).train()
    example = torch.zeros(1, CHANS, TIMES)
    points = bt.compile(net, example, frontier=True, accumulate=1).plan.frontier
    seed = a_seed(0)
    count = min(len(points) - 1, int(os.environ.get("BIOTRAIN_POINTS", "1")))
    for point in (points[-1], *random.Random(seed).sample(points[:-1], count)):
        pkg = bt.compile(net, example, memory=point.ram_bytes, accumulate=1)
        assert pkg.plan.ram_bytes <= point.ram_bytes, seed
        report = bt.verify(pkg, steps=2, seeds=1, seed=seed, flags=FLAGS)
        if not report.ok:  # a sample within rounding of a kink has two gradients
            report = bt.verify(pkg, steps=2, seeds=5, seed=seed + 1, flags=FLAGS)
        assert report.ok, (seed, point.ram_bytes, [t for t in report.tensors if not t.ok])
