# SPDX-License-Identifier: Apache-2.0
"""Networks with time across rows are computed with time last, and equal torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import biotrain as bt
from biotrain.graph.capture import capture
from biotrain.graph.rewrite import DEFAULT, time_last
from biotrain.ir.graph import Graph
from biotrain.package import compile_model

CHANS, TIMES = 3, 80


class Net(nn.Module):
    """A function of a window and layers, and a linear layer on what it returns."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)
        with torch.no_grad():
            n = forward(self, torch.zeros(1, CHANS, TIMES)).flatten(1).shape[1]
        self.out = nn.Linear(n, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self, x).flatten(1))


def turned(x: Tensor) -> Tensor:
    """(batch, channels, times) -> (batch, 1, times, channels)."""
    return x.permute(0, 2, 1).unsqueeze(1)


def shallow(m: nn.Module, x: Tensor) -> Tensor:
    y = m.spatial(m.temporal(turned(x)))
    return torch.log(F.avg_pool2d(m.norm(y).square(), (20, 1), (5, 1)).clamp(min=1e-6))


def mixed(m: nn.Module, x: Tensor) -> Tensor:
    """A kernel over both axes, padding, a slice, two branches, a product, means over one axis."""
    y = F.pad(turned(x), (1, 0, 2, 3))[:, :, 1:, :]
    y = torch.cat([m.a(y), F.elu(m.b(y))], 1)
    y = y * y.mean(2, keepdim=True) + m.c(y).sum(3, keepdim=True)
    return F.max_pool2d(y, (4, 2), padding=(1, 0)).transpose(2, 3)


def per_step(m: nn.Module, x: Tensor) -> Tensor:
    """A linear layer at every time step, and its mean over time."""
    return F.gelu(m.step(x.transpose(1, 2))).mean(1)


def barrier(m: nn.Module, x: Tensor) -> Tensor:
    """A layer norm over channels needs the axes in order, twice."""
    return m.last(F.relu(m.norm(m.conv(turned(x)))))


def last_axis_of_one(m: nn.Module, x: Tensor) -> Tensor:
    y = m.norm(m.conv(x.unsqueeze(-1)))
    return F.adaptive_avg_pool2d(y, (7, 1))


NETS: dict[str, Callable[[], Net]] = {
    "shallow": lambda: Net(
        shallow,
        temporal=nn.Conv2d(1, 4, (9, 1)),
        spatial=nn.Conv2d(4, 4, (1, CHANS), bias=False),
        norm=nn.GroupNorm(2, 4),
    ),
    "mixed": lambda: Net(
        mixed,
        a=nn.Conv2d(1, 2, (5, 2), padding=(2, 1), stride=(2, 1)),
        b=nn.Conv2d(1, 2, (5, 2), padding=(2, 1), stride=(2, 1)),
        c=nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=4),
    ),
    "per_step": lambda: Net(per_step, step=nn.Linear(CHANS, 5)),
    "barrier": lambda: Net(
        barrier,
        conv=nn.Conv2d(1, 4, (9, 1)),
        norm=nn.LayerNorm(CHANS),
        last=nn.Conv2d(4, 4, (1, CHANS)),
    ),
    "last_axis_of_one": lambda: Net(
        last_axis_of_one, conv=nn.Conv2d(CHANS, 4, (9, 1)), norm=nn.GroupNorm(4, 4)
    ),
    "batch_norm": lambda: Net(
        shallow,
        temporal=nn.Conv2d(1, 4, (9, 1)),
        spatial=nn.Conv2d(4, 4, (1, CHANS), bias=False),
        norm=nn.BatchNorm2d(4),
    ),
}


def long_rows(graph: Graph) -> list[str]:
    """Nodes that compute with time across rows."""
    return [
        node.op
        for node in graph.nodes
        for v in node.outputs
        if len(v.shape) == 4 and v.shape[-2] >= 32 and v.shape[-2] > v.shape[-1]
    ]


@pytest.mark.parametrize("name", NETS)
def test_time_is_put_last_and_training_equals_torch(name: str) -> None:
    torch.manual_seed(0)
    net = NETS[name]()
    x = torch.randn(1, CHANS, TIMES)
    found = capture(net, x)
    train, predict = time_last([found.train, found.predict])
    assert train != found.train
    if name != "barrier":
        assert not long_rows(train)
        assert not long_rows(predict)
        assert "permute" not in {n.op for n in train.nodes if n.inputs[0].kind != "param"} or (
            name == "mixed"
        )
    pkg = compile_model(net, x, accumulate=2)
    assert bt.verify(pkg, steps=2, seeds=1).ok
    device = pkg.run("host")
    given = dict(net.named_parameters())
    for key, value in device.parameters().items():
        if key in given:
            np.testing.assert_array_equal(value, given[key].detach().numpy())  # torch's shapes


def test_it_is_a_rewrite_with_a_switch() -> None:
    torch.manual_seed(0)
    net = NETS["shallow"]()
    x = torch.randn(1, CHANS, TIMES)
    without = tuple(name for name in DEFAULT if name != "time_last")
    pkg = compile_model(net, x, rewrites=without, accumulate=1)
    assert long_rows(pkg.graph)
    one, other = (
        p.run("host").predict(x.numpy()) for p in (pkg, compile_model(net, x, accumulate=1))
    )
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", bt.models.MODELS)
def test_a_network_with_time_last_stays_as_it_is(name: str) -> None:
    net = bt.prepare(bt.models.build(name, 8, 320, 3, 160.0))
    found = capture(net, torch.zeros(1, 8, 320))
    assert time_last([found.train])[0] is found.train
