# SPDX-License-Identifier: Apache-2.0
"""Whole packages on the RTL cluster: the bits of one worker, and counters that add up."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import biotrain as bt
from biotrain.errors import BioTrainError
from biotrain.planner.team_sums import shared_sums
from biotrain.run import verilated
from biotrain.run.cluster import ClusterSettings
from biotrain.run.cluster.device import ClusterDevice, cluster_for
from biotrain.run.compiler import NUMERICS
from biotrain.targets.target import load_target

CHANS, TIMES, CLASSES, STACK = 2, 128, 11, 2048
SGD = bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3)


def package(workers: int, target: str = "rv32imc_zfinx", times: int = TIMES) -> bt.Package:
    """EpiDeNet with GroupNorm."""
    torch.manual_seed(0)
    net = bt.prepare(bt.models.build("epidenet", CHANS, times, CLASSES, 500.0))
    given = replace(load_target(target), stack_bytes=STACK)
    example = torch.zeros(1, CHANS, times)
    return bt.compile(
        net, example, target=given, optimizer=SGD, workers=workers, memory="127KiB", accumulate=1
    )


def trained(device: Any, times: int = TIMES) -> tuple[int, float, bytes, bytes]:
    """CRC and bytes of the weights after two windows, the loss, and logits."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, CHANS, times)).astype(np.float32)
    device.begin(2)
    loss = device.train(x, np.array([3, 7]))
    weights = b"".join(values.tobytes() for values in device.parameters().values())
    return device.crc32(), loss, weights, device.predict(x[:1]).tobytes()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("target", "compiler", "workers", "times"),
    [
        ("rv32imc_zfinx", "zig", 8, TIMES),
        pytest.param("cv32e40p", "gcc", 8, TIMES, marks=pytest.mark.full),
        pytest.param("cv32e40p", "zig", 3, TIMES, marks=pytest.mark.full),
        pytest.param("rv32imc_zfinx", "zig", 8, 400, marks=pytest.mark.full),
    ],
)
def test_a_cluster_has_the_bits_of_one_worker(
    target: str, compiler: str, workers: int, times: int
) -> None:
    if reason := verilated.missing():
        pytest.skip(reason)
    if find_spec("elftools") is None or find_spec("ziglang") is None:
        pytest.skip("programs for the cluster need pyelftools and ziglang")
    want = trained(package(1, target, times).run("host"), times)
    flags = ("-O1", "-g", "-std=c99", *NUMERICS)
    options = {"compiler": compiler, "flags": flags, "marks": True}
    begun = package(workers, target, times).run("rtl", **options)
    assert isinstance(begun, ClusterDevice)
    with begun as device:
        device.restart_count()
        assert trained(device, times) == want
        found = device.worker_cycles()
        assert len(found.spent) == workers
        assert all(one.cycles == found.cycles for one in found.spent)
        assert min(one.instructions for one in found.spent) > 0.1 * found.cycles
        executed = device.executed()
        assert executed.cycles == found.cycles
        assert not executed.estimate
        assert executed.instructions == sum(one.instructions for one in found.spent)
        intervals = device.intervals()
        assert len({one.line for one in intervals}) > 20  # barriers of the schedule
        assert 0 < sum(one.cycles for one in intervals) <= found.cycles
        assert 0 < max(device.touched_stacks()) < STACK
        if workers == 3:
            kept = device.save_state()
            device.reset()
            device.load_state(kept)
            assert device.crc32() == want[0]


def test_what_a_cluster_does_not_have_is_told_in_one_line() -> None:
    with pytest.raises(BioTrainError, match="up to 8 cores, the package has 9 workers"):
        cluster_for(package(9))
    with pytest.raises(BioTrainError, match="there is no RTL of cortex-m4f; compile for one of"):
        cluster_for(package(2, "cortex-m4f"))
    found = cluster_for(package(3), ClusterSettings(fpus=4))
    assert (found.cores, found.fpus, found.fpu.zfinx) == (3, 3, True)


def test_weight_gradients_are_divided_as_it_suits_the_workers() -> None:
    """Four channels in and sixteen out: eight workers have work by rows of the output only."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.Conv1d(4, 16, 5), nn.Flatten(), nn.Linear(16 * 34, 3)
    )
    x = np.random.default_rng(0).standard_normal((3, 2, 40)).astype(np.float32)

    def compiled(workers: int) -> bt.Package:
        return bt.compile(net, torch.zeros(1, 2, 40), optimizer=SGD, workers=workers, accumulate=1)

    def by_input(graph: Any) -> list[bool]:
        return [bool(n.get("by_input", False)) for n in graph.nodes if n.op == "conv_dw"]

    one, eight = compiled(1), compiled(8)
    assert True in by_input(one.source.train)
    assert True not in by_input(eight.source.train)
    assert shared_sums(one.source.train, 1) is one.source.train
    assert by_input(shared_sums(one.source.train, 4)) == by_input(one.source.train)  # no gain
    crcs = []
    for device in (one.run("host"), eight.run("threads")):
        device.train(x, np.array([0, 1, 2]))
        crcs.append(device.crc32())
    assert crcs[0] == crcs[1]
