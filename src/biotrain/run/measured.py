# SPDX-License-Identifier: Apache-2.0
"""The pieces of a package that lives, by the cycles that the emulated core takes for them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from biotrain.emit.build import Build
from biotrain.emit.slices import SLICE_BYTES
from biotrain.errors import BioTrainError
from biotrain.ir.graph import Graph, Loop, Node
from biotrain.ir.op import OPS
from biotrain.planner.slices import CALL_CYCLES, longest, slices_of
from biotrain.run.live_device import LiveDevice
from biotrain.targets.target import Target

AROUND = 900
"""Cycles of a call of `bt_live_work` around its piece (an estimate)."""
SHORT = 5000
"""Pieces of fewer cycles say little about the price of an operation."""
JUDGE, TRAIN = 1, 4
"""Tasks of `bt_live.h`."""
ROUNDS = 3


B = TypeVar("B", bound=Build)


@dataclass(frozen=True, slots=True)
class Measured:
    """One piece."""

    node: Node
    cycles: int
    """As measured, with what is around it."""


def measured(package: B) -> B:
    """The same package with its pieces cut by measured cycles.

    A prediction and a training sample run in the emulator piece by piece; where an op takes longer
    than its price says, its price rises and its pieces become shorter. `plan.longest_slice_cycles`
    is then what the longest piece took. It takes a minute or so.

    Raises BioTrainError where the package was compiled without `live=` or has no emulator.
    """
    source, target = package.source, package.source.target
    if source.live is None or target is None:
        raise BioTrainError("the package was compiled without live: give live=Live(...)")
    limit = source.live.live.slice_cycles
    found: list[Measured] = []
    for _ in range(ROUNDS):
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
    words = f"longest piece, measured in the emulator: {worst.cycles:,} cycles, {name}"
    plan = replace(
        package.source.plan,
        longest_slice_cycles=worst.cycles,
        longest_slice=name,
        choices=(*source.plan.choices, words),
    )
    return replace(package, source=replace(package.source, plan=plan))


def _run(package: Build) -> list[Measured]:
    """All pieces of a prediction and of a training sample."""
    source = package.source
    assert source.live is not None
    dev = LiveDevice(package, "emulator")
    plan, times = source.live, source.live.span
    rng = np.random.default_rng(0)
    frames = rng.integers(-1000, 1000, (plan.chans, times + 5 * plan.hop))
    dev.play(frames, np.zeros(frames.shape[1], np.int32))
    dev.set(least=2)
    dev.calibrate()
    around = source.plan
    at = around.context_bytes - around.peak_bytes - 16 - around.predict_arena_bytes
    train = _Watch(dev, source.train, at - 2 * SLICE_BYTES)
    look = _Watch(dev, source.predict, at - SLICE_BYTES)
    found: list[Measured] = []
    for task, watch in ((JUDGE, look), (TRAIN, train)):
        while dev.task != task:
            dev.step(1)
        while not watch.open:  # the window is read, and taken with the first piece
            dev.step(1)
        while watch.open:
            node = watch.node()
            dev.machine.histogram.reset()
            dev.step(1)
            found.append(Measured(node, dev.cycles()))
    return found


class _Watch:
    """A `bt_slice` of the running model."""

    def __init__(self, dev: LiveDevice, graph: Graph, offset: int) -> None:
        self._dev, self._offset = dev, offset
        self._nodes: Sequence[Node] = [
            n for n in graph.nodes if isinstance(n, Loop) or not OPS[n.op].alias
        ]

    def _words(self) -> tuple[int, ...]:
        return struct.unpack("<2I", self._dev.context(self._offset, 8))

    @property
    def open(self) -> bool:
        """Whether it is half done."""
        return bool(self._words()[0])

    def node(self) -> Node:
        """What comes next."""
        return self._nodes[min(self._words()[1], len(self._nodes) - 1)]


def _scaled(target: Target, found: Sequence[Measured], limit: int) -> Target:
    """Prices of the ops whose pieces took longer than they say."""
    ratios: dict[str, float] = {}
    for piece in found:
        if piece.cycles < SHORT:
            continue
        planned = slices_of(piece.node, limit, target).cycles
        ratio = (piece.cycles - AROUND) / max(planned - CALL_CYCLES, 1)
        body = piece.node.body if isinstance(piece.node, Loop) else ()
        for op in [s.node.op for s in body] or [piece.node.op]:
            ratios[op] = max(ratios.get(op, 1.0), ratio)
    prices = {op: target.price(op) * ratio for op, ratio in ratios.items() if ratio > 1.02}
    if not prices:
        return target
    return replace(target, op_cycles=tuple(sorted((dict(target.op_cycles) | prices).items())))
