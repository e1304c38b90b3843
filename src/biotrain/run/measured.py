# SPDX-License-Identifier: Apache-2.0
"""Slices of a live package, cut by the cycles that the emulated core takes for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from biotrain.emit.build import Build
from biotrain.errors import BioTrainError
from biotrain.ir.graph import Graph, Loop, Node
from biotrain.ir.op import OPS
from biotrain.planner.slices import CALL_CYCLES, longest, slices_of
from biotrain.run.live_device import LiveDevice
from biotrain.targets.target import Target

WORK_CALL_CYCLES = 900
"""Cycles of a call of `bt_live_work` around the slice that it runs (an estimate)."""
LEAST_CYCLES = 5000
"""A shorter slice is mostly overhead, and says little about the price of its op."""
LEAST_RATIO = 1.02
"""A price rises where a slice takes so many times the planned cycles, or more."""
MOST_RUNS = 3
"""Runs in the emulator, each with slices cut by the prices of the one before."""

B = TypeVar("B", bound=Build)


@dataclass(frozen=True, slots=True)
class Measured:
    """One slice and what it took."""

    node: Node
    """The node that it begins with."""
    cycles: int
    """Measured cycles of the call of `bt_live_work` that ran it."""


def measured(package: B) -> B:
    """The same package with its slices cut by measured cycles.

    A prediction and a training sample run in the emulator slice by slice; where an op takes longer
    than its price says, its price rises and its slices become shorter. `plan.longest_slice_cycles`
    is then what the longest slice took. It takes a minute or so.

    Raises BioTrainError where the package was compiled without `live=` or has no emulator.
    """
    source, target = package.source, package.source.target
    if source.live is None or target is None:
        raise BioTrainError("the package was compiled without live: give live=Live(...)")
    limit = source.live.live.slice_cycles
    found: list[Measured] = []
    for _ in range(MOST_RUNS):
        found = _run(package)
        worst = max(found, key=lambda m: m.cycles)
        scaled = _scaled(target, found, limit)
        if not limit or worst.cycles <= limit or scaled == target:
            break
        target = scaled
        known = longest((source.train, source.predict), limit, target)
        plan = replace(source.plan, longest_slice_cycles=known.cycles, longest_slice=known.name)
        package = replace(package, source=replace(source, target=target, plan=plan))
    worst = max(found, key=lambda m: m.cycles)
    name = ", ".join(v.name for v in worst.node.outputs)
    words = f"longest slice, measured in the emulator: {worst.cycles:,} cycles, {name}"
    plan = replace(
        package.source.plan,
        longest_slice_cycles=worst.cycles,
        longest_slice=name,
        choices=(*source.plan.choices, words),
    )
    return replace(package, source=replace(package.source, plan=plan))


def _run(package: Build) -> list[Measured]:
    """All slices of a prediction and of a training sample."""
    source = package.source
    assert source.live is not None
    dev = LiveDevice(package, "emulator")
    plan = source.live
    rng = np.random.default_rng(0)
    frames = rng.integers(-1000, 1000, (plan.chans, plan.span + 5 * plan.hop))
    dev.play(frames, np.zeros(frames.shape[1], np.int32))
    dev.set(least=2)
    dev.calibrate()
    prediction = _Watch(dev, source.predict, "predict_slice")
    training = _Watch(dev, source.train, "slice")
    found: list[Measured] = []
    for task, watch in (("evaluate", prediction), ("train", training)):
        while dev.task != task:
            dev.step(1)
        while not watch.open:  # the window is read, and checked with the first slice
            dev.step(1)
        while watch.open:
            node = watch.node()
            dev.machine.histogram.reset()
            dev.step(1)
            found.append(Measured(node, dev.cycles()))
    return found


class _Watch:
    """Where a call in slices is: a `bt_slice` of the running model."""

    def __init__(self, dev: LiveDevice, graph: Graph, name: str) -> None:
        self._dev, self._name = dev, name
        self._nodes: Sequence[Node] = [
            n for n in graph.nodes if isinstance(n, Loop) or not OPS[n.op].alias
        ]

    @property
    def open(self) -> bool:
        """Whether the call is half done."""
        return bool(self._dev.slice(self._name)["open"])

    def node(self) -> Node:
        """The node that the next slice begins with."""
        return self._nodes[min(self._dev.slice(self._name)["node"], len(self._nodes) - 1)]


def _scaled(target: Target, found: Sequence[Measured], limit: int) -> Target:
    """The target with higher prices of the ops whose slices took longer than planned."""
    ratios: dict[str, float] = {}
    for slice_ in found:
        if slice_.cycles < LEAST_CYCLES:
            continue
        planned = slices_of(slice_.node, limit, target).cycles
        ratio = (slice_.cycles - WORK_CALL_CYCLES) / max(planned - CALL_CYCLES, 1)
        body = slice_.node.body if isinstance(slice_.node, Loop) else ()
        for op in [s.node.op for s in body] or [slice_.node.op]:
            ratios[op] = max(ratios.get(op, 1.0), ratio)
    prices = {op: target.price(op) * ratio for op, ratio in ratios.items() if ratio > LEAST_RATIO}
    if not prices:
        return target
    return replace(target, op_cycles=tuple(sorted((dict(target.op_cycles) | prices).items())))
