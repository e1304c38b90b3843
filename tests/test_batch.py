# SPDX-License-Identifier: Apache-2.0
"""Batch norm over a batch that comes sample by sample: exactly what torch does with that batch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import biotrain as bt
from biotrain.package import Package
from biotrain.planner.batch_norm import Batch

SGD = bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3)


def package(name: str = "eegnet", times: int = 300, **options: object) -> Package:
    torch.manual_seed(3)
    net = bt.prepare(bt.models.build(name, 4, times, 3, 128.0, norm="batch"), norm="batch")
    net.train()
    example = torch.zeros(1, 4, times)
    return bt.compile(net, example, **{"accumulate": 1, "batch": 4, "optimizer": SGD, **options})


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("name", ["eegnet", "epidenet", "mibminet"])
def test_equals_torch_in_every_budget(name: str) -> None:
    free = package(name)
    tight = package(name, memory=int(free.plan.ram_bytes * 0.5))
    assert tight.plan.ram_bytes <= free.plan.ram_bytes * 0.5
    assert tight.plan.ops >= free.plan.ops
    reports = [bt.verify(pkg, steps=2, seeds=1) for pkg in (free, tight)]
    assert reports[0].crc32 == reports[1].crc32
    assert all(r.ok for r in reports)


def test_a_batch_of_two_is_one_too() -> None:
    free = package(batch=2)
    tight = package(batch=2, memory=int(free.plan.ram_bytes * 0.6))
    reports = [bt.verify(pkg, steps=2, seeds=1) for pkg in (free, tight)]
    assert all(r.ok for r in reports)
    assert reports[0].crc32 == reports[1].crc32


def test_running_statistics_and_an_incomplete_batch_follow_torch() -> None:
    pkg = package()
    rng = np.random.default_rng(1)
    x = rng.standard_normal((10, 4, 300)).astype(np.float32)  # 4 + 4 + 2
    y = rng.integers(0, 3, 10)
    device = pkg.run("host")
    device.train(x, y)
    assert pkg.module is not None
    module = pkg.module.double()
    optimizer = torch.optim.SGD(module.parameters(), lr=5e-3, momentum=0.9, weight_decay=1e-3)
    for at in (0, 4, 8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(
            module(torch.as_tensor(x[at : at + 4]).double()), torch.as_tensor(y[at : at + 4])
        )
        loss.backward()
        optimizer.step()
    have = device.parameters()
    for name, want in [*module.named_parameters(), *module.named_buffers()]:
        if name in have:
            scale = max(float(want.detach().abs().max()), 1e-2)
            error = np.abs(have[name] - want.detach().numpy()).max() / scale
            assert error < 2e-5, name


def test_a_bad_window_drops_the_batch_and_leaves_the_weights() -> None:
    device = package().run("host")
    rng = np.random.default_rng(2)
    x = rng.standard_normal((4, 4, 300)).astype(np.float32)
    before = device.crc32()
    x[2, 1, 5] = np.nan
    with pytest.raises(bt.BioTrainError, match="NaN"):
        device.train(x, np.zeros(4, int))
    assert device.crc32() == before
    assert device.rejected == 1
    with pytest.raises(bt.BioTrainError, match="label"):
        device.train(np.nan_to_num(x), np.array([0, 1, 2, 7]))
    assert device.crc32() == before


def test_a_batch_without_batch_norm_is_refused() -> None:
    net = bt.prepare(bt.models.build("eegnet", 4, 300, 3, 128.0, norm="group"))
    with pytest.raises(bt.BioTrainError, match="no BatchNorm"):
        bt.compile(net, torch.zeros(1, 4, 300), batch=4)
    with pytest.raises(bt.BioTrainError, match="whole number"):
        package(batch=0)
    with pytest.raises(bt.BioTrainError, match="one group"):
        package(accumulate=2)


def test_what_is_stored_for_every_sample_saves_operations() -> None:
    pkg = package("mibminet")
    assert pkg.source.batch is not None
    made = Batch(pkg.graph, 4)
    costs = [made.ops(kept) for kept in made.choices()]
    assert costs == sorted(costs, reverse=True)
    assert len(costs) > 3


@pytest.mark.ci
def test_the_frontier_falls() -> None:
    plan = package("eegnet", times=200, frontier=True).plan
    points = plan.frontier
    assert len(points) >= 3
    assert all(a.ram_bytes > b.ram_bytes and a.ops <= b.ops for a, b in pairwise(points))
