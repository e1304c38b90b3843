# SPDX-License-Identifier: Apache-2.0
"""Plans for two memories: the bits of one worker and one memory, whatever fits into L1, and what
the validators say of a transfer that is wrong."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import pytest
from test_workers import FLAGS, package, trained

import biotrain as bt
from biotrain.errors import BioTrainError, DoesNotFitError, GraphError
from biotrain.ir.graph import Graph, Loop, Span, Step
from biotrain.planner.judge_team import judge_team
from biotrain.planner.place import L1, Buffer
from biotrain.planner.team import Slot, Team, team_of
from biotrain.planner.validate import validate
from biotrain.run import verilated
from biotrain.run.cluster.device import ClusterDevice

L2 = {"large": "256KiB", "small": "37KiB"}
"""Where nothing but single nodes is tiled, and where fused loops get transfers."""


def in_two(name: str, workers: int, l1: int = 6000, l2: str = "large", **more: Any) -> bt.Package:
    return package(name, workers, memory=l1, l2_memory=L2[l2], **more)


def loops(pkg: bt.Package) -> list[Loop]:
    """Those that have transfers."""
    every = [n for n in pkg.source.train.nodes if isinstance(n, Loop)]
    return [n for n in every if any(s.node.op == "get" for s in n.body)]


@pytest.mark.sample(test=2, ci=3)
@pytest.mark.parametrize("l2", L2)
@pytest.mark.parametrize("name", ["sgd", "momentum", "update", "adam-clip", "last-mse"])
def test_bits_are_those_of_one_memory(name: str, l2: str) -> None:
    want = trained(package(name, 1).run("host", flags=FLAGS), name)
    for workers, l1 in ((1, 3000), (2, 4000), (3, 4000), (8, 6000)):
        pkg = in_two(name, workers, l1, l2)
        assert 0 < pkg.plan.l1_bytes <= l1
        assert f"bt_l1[{pkg.plan.l1_bytes // 4}]" in pkg.schedule
        assert max(loop.count for loop in loops(pkg)) > 1  # there are tiles
        device = pkg.run("threads" if workers > 1 else "host", flags=FLAGS)
        assert trained(device, name) == want, workers


@pytest.mark.ci
def test_memory_comes_out_equal_in_whatever_order_workers_run() -> None:
    if not find_spec("unicorn") or not find_spec("ziglang"):
        pytest.skip("the emulator needs unicorn and ziglang")
    one = package("sgd", 1, target="cv32e40p")
    want = trained(one.run("host", flags=FLAGS), "sgd", 1)
    stacks = 8 * one.target.stack_bytes
    pkg = in_two("sgd", 8, 6000 + stacks, target="cv32e40p")
    assert pkg.plan.l1_bytes
    contexts = []
    for order in ("rising", "falling", "random"):
        device = pkg.run("emulator", order=order)
        assert trained(device, "sgd", 1) == want, order
        contexts.append(device.context())
    assert contexts[0] == contexts[1] == contexts[2]


@pytest.mark.ci
@pytest.mark.parametrize("target", ["cv32e40p", "rv32imc_zfinx"])
def test_the_dma_of_the_cluster_copies_to_the_same_bits(target: str) -> None:
    if reason := verilated.missing():
        pytest.skip(reason)
    if not find_spec("elftools") or not find_spec("ziglang"):
        pytest.skip("programs for the cluster need pyelftools and ziglang")
    one = package("sgd", 1, target=target)
    want = trained(one.run("host", flags=FLAGS), "sgd", 1)
    pkg = in_two("sgd", 8, 6000 + 8 * one.target.stack_bytes, target=target)
    assert pkg.plan.l1_bytes
    begun = pkg.run("rtl")
    assert isinstance(begun, ClusterDevice)
    with begun as device:
        device.restart_count()
        assert trained(device, "sgd", 1) == want
        spent = device.worker_cycles().spent
    assert all(worker.dma > 0 for worker in spent)  # each waited for transfers of its own


def test_nothing_is_copied_where_everything_fits() -> None:
    large = package("sgd", 3, memory="256KiB", l2_memory="256KiB")
    assert not large.plan.l1_bytes
    assert large.files == package("sgd", 3, memory="256KiB").files
    assert not loops(large)


def test_what_is_refused() -> None:
    with pytest.raises(DoesNotFitError, match="does not fit"):
        package("sgd", 3, memory=6000, l2_memory="8KiB")
    with pytest.raises(BioTrainError, match="adabn works"):
        package("sgd", 1, memory=6000, l2_memory="256KiB", adabn=True)
    with pytest.raises(BioTrainError, match="how large the first one is"):
        package("sgd", 1, l2_memory="256KiB")
    with pytest.raises(BioTrainError, match="no project for gap9"):
        package("sgd", 8, target="gap9", l2_memory="1MiB")


def _moved(graph: Graph, op: str, by: int) -> Graph:
    """The graph with the first `get` or `put` that allows it copying `by` rows less."""
    nodes = list(graph.nodes)
    for i, node in enumerate(nodes):
        for j, step in enumerate(node.body if isinstance(node, Loop) else ()):
            box = step.boxes[0]
            if step.node.op == op and box.r1 - box.r0 > by:
                less = Span(box.r0, box.r1 - by, box.t0, box.t1)
                assert isinstance(node, Loop)
                body = list(node.body)
                body[j] = Step(step.node, (less, *step.boxes[1:]))
                nodes[i] = replace(node, body=tuple(body))
                return graph.with_nodes(tuple(nodes))
    raise AssertionError("no such transfer")


@pytest.mark.parametrize("op", ["get", "put"])
def test_a_transfer_that_copies_too_little_is_refused(op: str) -> None:
    pkg = in_two("sgd", 3)
    validate(pkg.source.train, pkg.plan.buffers)
    with pytest.raises(GraphError, match="overwritten"):
        validate(_moved(pkg.source.train, op, 1), pkg.plan.buffers)


def test_windows_that_overlap_are_refused() -> None:
    """Two windows of one loop at one place: the second `get` hits what the first one brought."""
    pkg = in_two("sgd", 3)
    near = [b for b in pkg.plan.buffers if b.memory == L1]
    a, b = next((x, y) for x, y in pairwise(near) if x.last >= y.first and x.first < y.last)
    moved: tuple[Buffer, ...] = tuple(
        replace(one, offset=a.offset) if one is b else one for one in pkg.plan.buffers
    )
    with pytest.raises(GraphError, match=r"overwritten|overwrites|fit"):
        validate(pkg.source.train, moved)


def test_a_transfer_without_its_barrier_is_refused() -> None:
    """Any barrier before a transfer, left out, lets two workers meet."""
    pkg = in_two("sgd", 8)
    graph, buffers = pkg.source.train, pkg.plan.buffers
    team = team_of(graph, buffers, 8)
    judge_team(graph, buffers, team)
    moves = [
        slot
        for slot in team.barriers
        if isinstance(node := graph.nodes[slot.node], Loop)
        and slot.body >= 0
        and node.body[slot.body].node.op in ("get", "put")
    ]
    meeting = [slot for slot in moves if _meet(graph, buffers, team, slot)]
    assert meeting


def _meet(graph: Graph, buffers: tuple[Buffer, ...], team: Team, slot: Slot) -> bool:
    """Whether workers meet where this barrier is left out, as the judge says."""
    fewer = replace(team, barriers=tuple(b for b in team.barriers if b != slot))
    try:
        judge_team(graph, buffers, fewer)
    except GraphError:
        return True
    return False
