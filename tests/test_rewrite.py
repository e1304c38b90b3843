# SPDX-License-Identifier: Apache-2.0
"""Rewrites keep every bit and save what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import biotrain as bt
from biotrain.graph.rewrite import REWRITES
from biotrain.ir.graph import flat_nodes
from biotrain.package import Package


def package(name: str, **options: object) -> Package:
    torch.manual_seed(2)
    net = bt.prepare(bt.models.build(name, 4, 400, 3, 128.0, norm="group"), pool="avg")
    net.train()
    return bt.compile(net, torch.zeros(1, 4, 400), accumulate=2, **options)


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("name", ["mibminet", "epidenet"])
def test_all_subsets_give_the_same_weights(name: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 4, 400)).astype(np.float32)
    y = rng.integers(0, 3, 8)
    crcs = []
    for rewrites in ((), *((r,) for r in REWRITES), tuple(REWRITES)):
        device = package(name, rewrites=rewrites).run("host")
        device.train(x, y)
        crcs.append(device.crc32())
    assert len(dict.fromkeys(crcs)) == 1


def test_fusion_saves_the_gradient_of_the_pooling() -> None:
    plain, fused = (package("mibminet", rewrites=r) for r in ((), ("fuse",)))
    ops = [[n.op for n in flat_nodes(pkg.graph.nodes)] for pkg in (plain, fused)]
    assert ops[0].count("avg_pool_dx") == ops[1].count("avg_pool_relu_dx") > 0
    assert "avg_pool_dx" not in ops[1]
    assert fused.plan.ops <= plain.plan.ops
    assert fused.plan.peak_bytes <= plain.plan.peak_bytes


def test_an_unknown_rewrite_is_named() -> None:
    with pytest.raises(bt.BioTrainError, match="no rewrite is called 'magic'"):
        package("mibminet", rewrites=("magic",))
