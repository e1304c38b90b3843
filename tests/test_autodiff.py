# SPDX-License-Identifier: Apache-2.0
"""Gradients where one tensor has several uses, and inputs that carry a large constant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import biotrain as bt
from biotrain.errors import GraphError
from biotrain.ir.graph import Graph, Loop, Node, Span, Step, Value, verify
from biotrain.package import Package


class Shared(nn.Module):
    """A parameter used twice, an addition of a parameter, a residual, an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 5, padding=2)
        self.weight = nn.Parameter(0.3 * torch.randn(4, 4, 3))
        self.offset = nn.Parameter(torch.randn(1, 4, 40))
        self.unused = nn.Parameter(torch.randn(7))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.conv(x)
        b = nn.functional.conv1d(a.relu(), self.weight, padding=1)
        c = nn.functional.conv1d(b.relu() + self.offset, self.weight, padding=1)
        return self.head((a + b + c).mean(-1))


@pytest.mark.parametrize("strategy", ["full", "offset", "conv.*", "weight", "bias"])
def test_shared_tensors(strategy: str) -> None:
    torch.manual_seed(0)
    pkg = bt.compile(Shared(), torch.zeros(1, 2, 40), strategy=strategy, accumulate=3)
    report = bt.verify(pkg, steps=4, seeds=2)
    assert report.ok, [t for t in report.tensors if not t.ok]


class Tied(nn.Module):
    """One weight under two names, two views of one activation, a stopped gradient, odd names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.z = nn.Conv1d(3, 3, 5, padding=2), nn.Conv1d(3, 3, 5, padding=2)
        self.z.weight = self.a.weight
        self.int = nn.Linear(3 * 24, 4)
        self.g_int = nn.Linear(3 * 24, 4)
        self.momentum_a = nn.Parameter(torch.ones(1, 3, 1))
        self.BT_GROUP = nn.Parameter(torch.zeros(3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = (self.z(self.a(x).relu()) * self.momentum_a + self.BT_GROUP).tanh()
        stopped = self.a(x).detach().flatten(1)
        return self.int(y.flatten(1)) + self.g_int(y.flatten(1) + stopped)


@pytest.mark.parametrize("optimizer", [bt.SGD(), bt.Adam()])
def test_tied_weights_views_detach_and_names(optimizer: bt.SGD | bt.Adam) -> None:
    torch.manual_seed(0)
    pkg = bt.compile(Tied(), torch.zeros(1, 3, 24), optimizer=optimizer, accumulate=2)
    report = bt.verify(pkg, steps=4, seeds=2)
    assert report.ok, [t for t in report.tensors if not t.ok]
    assert pkg.plan.params == sum(p.numel() for p in Tied().parameters())


def refused(body: object) -> str:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(3, 4, 3)
            self.head = nn.Linear(4, 2)
            self.register_buffer("k", torch.tensor(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return body(self, x)  # type: ignore[operator]

    with pytest.raises(bt.BioTrainError) as error:
        bt.compile(Odd(), torch.zeros(1, 3, 20), accumulate=1)
    assert "\n" not in str(error.value)
    return str(error.value)


def in_place_on_a_view(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = m.conv(x)
    y.view(1, -1).relu_()
    return m.head(y.mean(-1))


def test_what_would_be_wrong_is_refused() -> None:
    assert "in-place" in refused(in_place_on_a_view)
    assert "cast" in refused(lambda m, x: m.head(m.conv(x).half().mean(-1).float()))
    assert "loss is one of each" in refused(lambda m, x: (m.head(m.conv(x).mean(-1)), x))


def wrapped() -> Package:
    from biotrain.models import standardized

    torch.manual_seed(0)
    network = bt.prepare(bt.models.build("eegnet", 3, 160, 2, 128.0, norm="group"))
    net = standardized(network, torch.zeros(3, 1), torch.ones(3, 1), center=True)
    net.train()
    return bt.compile(net, torch.zeros(1, 3, 160), accumulate=4, optimizer=bt.SGD(lr=0.02))


def test_an_offset_of_1000_standard_deviations_does_not_hurt() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 64)
    time = np.arange(160) / 128
    tone = np.sin(2 * np.pi * 10 * time) * (y[:, None] * 1.5)
    x = rng.standard_normal((64, 3, 160)).astype(np.float32)
    x[:, 1] += tone.astype(np.float32)
    shifted = x.copy()
    shifted[:, 1] += 1000.0
    pkg = wrapped()
    results = []
    for data in (x, shifted):
        device = pkg.run("host")
        for _ in range(20):
            device.train(data, y)
        results.append(device.predict(data))
    plain, offset = results
    assert (plain.argmax(1) == y).mean() > 0.9
    assert (plain.argmax(1) == offset.argmax(1)).mean() > 0.98
    assert np.abs(plain - offset).max() < 0.05 * np.abs(plain).max()


W = Value("w", (1, 64), kind="param")
X, G = (Value(name, (1, 64), kind="input") for name in ("x", "g"))
UPDATE = Node("sgd", (W, G), (W,))


def reader(name: str) -> Node:
    return Node("mul", (X, W), (Value(name, (1, 64)),))


def with_nodes(nodes: tuple[Node, ...], updates: tuple[Node, ...] = ()) -> Graph:
    return Graph(nodes, (X, G), (), params=(W,), updates=updates)


def looped(node: Node) -> Loop:
    """A loop of one iteration over the node."""
    step = Step(node, (Span(0, 1, 0, 64),))
    return Loop("loop", node.inputs, node.outputs, body=(step,))


def test_a_parameter_is_not_read_after_its_update() -> None:
    """The rule of `ir.verify`, for nodes, loops, and updates that stand behind the nodes."""
    verify(with_nodes((reader("a"), looped(reader("b")), UPDATE)))
    verify(with_nodes((reader("a"),), (UPDATE,)))
    for late in (reader("b"), looped(reader("b")), UPDATE):
        with pytest.raises(GraphError, match="%w is read after its update"):
            verify(with_nodes((reader("a"), UPDATE, late)))
        with pytest.raises(GraphError, match="%w is read after its update"):
            verify(with_nodes((reader("a"),), (UPDATE, late)))
    with pytest.raises(GraphError, match="%w is updated inside a loop"):
        verify(with_nodes((looped(UPDATE),)))
