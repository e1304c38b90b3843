# SPDX-License-Identifier: Apache-2.0
"""Small parts of the compiler by themselves, each against numbers counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import biotrain as bt
from biotrain.emit.routines import Routines
from biotrain.errors import BioTrainError
from biotrain.graph.capture import capture
from biotrain.graph.cost import LOOP, loop_cycles, loop_ops, node_ops, step_ops
from biotrain.graph.strategy import trainable
from biotrain.ir.graph import Loop, Node, Span, Step, Value
from biotrain.ir.op import OPS, Call, p_in, p_out
from biotrain.planner.account import pareto
from biotrain.planner.plan import Point
from biotrain.targets.target import load_target


class Network(nn.Module):
    """Two norms, of which one has no affine parameters, and a bias that is no norm's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(3, 4, 5), nn.GroupNorm(2, 4)
        self.conv2, self.norm2 = nn.Conv1d(4, 6, 5), nn.GroupNorm(1, 6, affine=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.norm1(self.conv1(x)))
        y: torch.Tensor = self.head(torch.tanh(self.norm2(self.conv2(x))).mean(-1))
        return y


X = torch.zeros(1, 3, 120)


@pytest.mark.parametrize(
    ("strategy", "names"),
    [
        ("norm", ["norm1.weight", "norm1.bias"]),
        ("bias", ["conv1.bias", "norm1.bias", "conv2.bias", "head.bias"]),
        ("last", ["head.weight", "head.bias"]),
        ("conv?.weight", ["conv1.weight", "conv2.weight"]),
        ("none", []),
    ],
)
def test_a_strategy_trains_what_its_name_says(strategy: str, names: list[str]) -> None:
    captured = capture(Network(), X)
    chosen = trainable(strategy, captured.train, captured.torch_names)
    assert [captured.torch_names[n] for n in chosen] == names


def test_a_strategy_that_trains_nothing_is_refused() -> None:
    captured = capture(Network(), X)
    with pytest.raises(BioTrainError, match=r"trains no parameter; .*over: conv1.weight"):
        trainable("conv9.*", captured.train, captured.torch_names)


def test_the_largest_scale_of_an_int16_input_is_finite_in_every_sample() -> None:
    most = float(np.finfo(np.float32).max) / 2**15
    given = {"input_type": "int16", "memory": None}
    for scale, taken in ((most, True), (most * 1.01, False), (0.0, False)):
        if taken:
            assert (
                bt.compile(
                    Network(), X, input_scale=scale, **{"accumulate": 1, **given}
                ).source.input_scale
                == scale
            )
        else:
            with pytest.raises(BioTrainError, match="input scale must be positive"):
                bt.compile(Network(), X, input_scale=scale, **{"accumulate": 1, **given})


def test_the_frontier_keeps_what_no_other_point_beats() -> None:
    def points(*pairs: tuple[int, int]) -> list[Point]:
        return [Point(ram, ram, ram, ops, float(ops), 0.0, 0.0) for ram, ops in pairs]

    given = points((100, 10), (90, 12), (90, 11), (95, 14), (80, 20), (80, 21), (120, 9))
    found = [(p.ram_bytes, p.ops) for p in pareto(given)]
    assert found == [(120, 9), (100, 10), (90, 11), (80, 20)]
    assert [(p.ram_bytes, p.ops) for p in pareto(points((5, 1)))] == [(5, 1)]


def streamed() -> list[Loop]:
    pkg = bt.compile(Network(), X, target="cv32e40p", memory=13_000, frontier=False, accumulate=1)
    loops = [n for n in pkg.graph.nodes if isinstance(n, Loop) and n.count > 1]
    assert loops
    return loops


def test_a_loop_costs_its_turns() -> None:
    target = load_target("cv32e40p")
    prices = dict(target.kinds(LOOP) or ())
    assert prices["iterations"] > 0
    for loop in streamed():
        cycles = prices.get("loops", 0.0) + loop.count * prices["iterations"]
        assert loop_cycles([loop], target) == pytest.approx(cycles)
    assert loop_cycles([], target) == 0.0
    assert loop_cycles(streamed(), replace(target, kernel_cycles=())) == 0.0


def test_what_a_call_does_once_counts_in_every_turn() -> None:
    """A step over the whole box has the operations of the node; every turn has the shared ones."""
    for loop in streamed():
        total = 0
        for step in loop.body:
            rule, node = OPS[step.node.op], step.node
            if rule.alias:
                continue
            rows, times = rule.call(node).box
            whole = Span(0, rows, 0, times)
            once = step_ops(replace(step, boxes=(whole,)))
            assert once == rule.ops(node) == node_ops([node])
            twice = step_ops(replace(step, boxes=(whole, whole)))
            shared = rule.shared_ops(node, whole)
            assert twice == 2 * (once - shared) + 2 * shared
        total = sum(step_ops(step) for step in loop.body)
        assert loop_ops(loop) == total


def test_what_rows_share_is_counted_once_in_each_box() -> None:
    """A box that is the whole has the operations of the node, whatever its rows share."""
    seen = 0
    for rule in OPS.values():
        for sample in rule.samples():
            ins = tuple(Value(f"x{i}", s, "f32", "temp") for i, s in enumerate(sample.shapes))
            shapes = rule.infer(sample.shapes, sample.attrs)
            outs = tuple(Value(f"y{i}", s, "f32", "temp") for i, s in enumerate(shapes))
            node = Node(rule.name, ins, outs, tuple(sample.attrs.items()))
            try:
                rows, times = rule.call(node).box
            except NotImplementedError:  # rewritten before anything is planned
                continue
            whole = Span(0, rows, 0, times)
            shared = rule.shared_ops(node, whole)
            if shared and rows > 1:
                seen += 1
                assert step_ops(Step(node, (whole,))) == rule.ops(node), rule.name
                assert step_ops(Step(node, (whole, whole))) == 2 * rule.ops(node), rule.name
    assert seen


def test_a_routine_is_made_of_calls_that_come_twice() -> None:
    """The first pass counts, the second replaces: a call that stands once stays as it is."""
    routines = Routines("speed")
    call = Call("bt_accumulate", "bt_flat", (("count", 4),), (p_in(0), p_out()), (1, 4))
    once = ["(bt_flat){5}", "bt_all(1, 5)", "m->a", "m->b"]
    twice = ["(bt_flat){4}", "bt_all(1, 4)", "m->a", "m->b"]
    for items in (once, twice, twice):
        routines.call(call, items[0], items[1], items[2:])
    routines.counting = False
    assert routines.call(call, once[0], once[1], once[2:])[0] == "bt_accumulate"
    assert routines.call(call, twice[0], twice[1], twice[2:])[0] == "do_accumulate"
    # too many or too few arguments for the signature: the call stays as it is
    assert routines.call(call, once[0], once[1], once[2:3]) == ("bt_accumulate", once[:3])


def test_every_node_has_the_operands_that_may_share_memory() -> None:
    """Placement reads both of each pair in `inplace` without asking."""
    pairs = 0
    for rule in OPS.values():
        for sample in rule.samples():
            results = rule.infer(sample.shapes, sample.attrs)
            for out, into in rule.inplace:
                assert into < len(sample.shapes), rule.name
                assert out < len(results), rule.name
                pairs += 1
    assert pairs > 100
