# SPDX-License-Identifier: Apache-2.0
"""The requests that go down the compiler: checked when they are made, and keys of their plans."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

import biotrain as bt
import biotrain.ops
from biotrain.errors import BioTrainError
from biotrain.graph.cost import Cost
from biotrain.ir.graph import Graph, Node, Value
from biotrain.package import planned
from biotrain.planner.budget import Budget
from biotrain.planner.request import CompileRequest, PlanRequest
from biotrain.targets.target import load_target

HOST = load_target("host")


def request(**changed: Any) -> CompileRequest:
    return CompileRequest(target=HOST, fused=True, **changed)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"accumulate": 0}, "accumulate must be a whole number"),
        ({"accumulate": True}, "accumulate must be a whole number"),
        ({"loss": "hinge"}, "the loss is one of cross_entropy"),
        ({"optimizer": "adam"}, "bt.SGD or a bt.Adam"),
        ({"strategy": 3}, "a name or a glob"),
        ({"batch": 0}, "batch must be a whole number"),
        ({"batch": 2, "accumulate": 2}, "a batch is one group"),
        ({"batch": 2, "input_scale": 0.5}, "float input"),
        ({"live": bt.Live(epochs=10)}, "input_type='int16'"),
        ({"live": bt.Live(epochs=10), "input_scale": 0.5, "loss": "mse"}, "loss='cross_entropy'"),
        (
            {"live": bt.Live(epochs=10), "input_scale": 0.5, "adabn": True},
            "adabn works without live",
        ),
    ],
    ids=str,
)
def test_a_request_is_checked_when_it_is_made(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(BioTrainError, match=words):
        request(**changed)


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        request().accumulate = 2  # type: ignore[misc]


def scaled(scale: float, shift: float) -> Graph:
    x, y = Value("x", (1, 256), kind="input"), Value("y", (1, 256))
    node = Node("affine", (x,), (y,), (("scale", scale), ("shift", shift)))
    return Graph((node,), (x,), (y,))


def test_equal_requests_have_one_plan() -> None:
    """What compares equal and prints otherwise, such as -0.0, makes another program."""
    graph = scaled(2.0, 0.0)
    first, same = (PlanRequest(graph, graph, HOST) for _ in range(2))
    assert first == same
    assert hash(first) == hash(same)
    assert planned(first) is planned(same)
    others = [
        replace(first, train=scaled(2.0, -0.0)),
        replace(first, budget=Budget(ram_bytes=1 << 20)),
        replace(first, accumulate=2),
        replace(first, target=load_target("cortex-m4f")),
    ]
    assert scaled(2.0, -0.0) == graph
    assert all(other != first for other in others)
    assert len(dict.fromkeys([first, same, *others])) == 5


def test_a_budget_bounds_ram_time_and_energy() -> None:
    cost = Cost(macs=0, ops=0, cycles=0.0, ms=20.0, mj=2.0)
    assert Budget().keeps(cost)
    assert Budget(deadline_ms=20.0, max_mj=2.0).keeps(cost)
    assert not Budget(deadline_ms=19.9).keeps(cost)
    assert not Budget(max_mj=1.9).keeps(cost)
    board = load_target("nrf52840")
    assert Budget().ram_on(board) == board.memory("ram").bytes
    assert Budget(ram_bytes=1000).ram_on(board) == 1000
    assert Budget().ram_on(HOST) is None
    Budget(deadline_ms=1.0, max_mj=1.0).check(board)
    with pytest.raises(BioTrainError, match="has no clock, so that ms per sample"):
        Budget(deadline_ms=1.0).check(HOST)
    assert Budget(deadline_ms=20.0, max_mj=1.5).work_in_words() == "20 ms and 1.5 mJ"
