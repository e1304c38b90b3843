# SPDX-License-Identifier: Apache-2.0
"""Slices: a schedule divided into runs of work after each of which a call may pause.

A slice is a node, an iteration of a loop, or, where one of these takes longer than the limit, a
block of its rows or times, or some steps of the iteration. Every border is one at which the result
has the bits of the whole: kernels take boxes, and leaves lie at absolute places (design 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from biotrain.ir.graph import Graph, Loop, Node, Span, Step
from biotrain.ir.op import OPS
from biotrain.targets.target import Target

CALL_CYCLES = 64
"""Cycles of a kernel call beyond its operations (an estimate)."""
SAMPLE_CYCLES = 8
"""Cycles to move and check one sample of a window (an estimate)."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of one call: so many rows and times each, the last ones fewer."""

    rows: int
    times: int
    across: int
    """Number of blocks along time, for each block of rows."""
    count: int
    """Number of blocks, along rows and time."""
    cycles: int
    """Estimated cycles of the longest block."""

    @property
    def whole(self) -> bool:
        """Whether the call is not divided."""
        return self.count == 1


@dataclass(frozen=True, slots=True)
class NodeSlices:
    """One node of a schedule, divided into slices."""

    cycles: int
    """Estimated cycles of the longest slice."""
    blocks: Blocks | None = None
    """The blocks of a plain node; None for a loop and for a view."""
    steps: tuple[tuple[tuple[int, ...], Blocks | None, int], ...] = ()
    """Where an iteration of a loop is divided: steps that run together, the blocks of a single one,
    cycles."""


@dataclass(frozen=True, slots=True)
class Longest:
    """The longest slice of a schedule: its cycles, and the tensor that it computes."""

    cycles: int
    name: str


def price_of(target: Target, op: str) -> float:
    """Cycles of an operation; 1 where the target's time is not modelled."""
    return target.price(op) if target.cycles_per_op else 1.0


def box_cycles(node: Node, box: Span, target: Target) -> int:
    """Estimated cycles of a call over a box."""
    rule = OPS[node.op]
    if rule.alias or box.empty:
        return 0
    ops = rule.box_ops(node, box)
    return round(ops * price_of(target, node.op)) + CALL_CYCLES


def flat(node: Node) -> bool:
    """Whether the call runs over a parameter as a flat array, element by element."""
    call = OPS[node.op].call(node)
    return call.struct == "bt_flat" and not node.get("at_once", False)


def blocks_of(node: Node, boxes: Sequence[Span], limit: int, target: Target) -> Blocks:
    """The fewest blocks of the boxes (one per iteration) that stay within `limit` cycles, or the
    smallest there are."""
    filled = [b for b in boxes if not b.empty]
    rows = max(b.r1 - b.r0 for b in filled)
    times = max(b.t1 - b.t0 for b in filled)
    longest = max(box_cycles(node, b, target) for b in filled)
    if not limit or longest <= limit:
        return Blocks(rows, times, 1, 1, longest)
    rule = OPS[node.op]
    step = rule.row_step(node)
    heights = [rows]
    if step and all(b.r0 % step == 0 for b in filled) and not flat(node):
        heights += [step * n for n in range((rows - 1) // step, 0, -1)]
    lengths = [times]
    if (rule.tiles(node) or flat(node)) and len(boxes) == 1:
        leaf = rule.leaf if rule.reduces_time else 1
        counts = range(2, -(-times // leaf) + 1)
        lengths += list(dict.fromkeys(-(-times // n // leaf) * leaf for n in counts))
    widest = max(filled, key=lambda b: b.size)

    def cycles(height: int, length: int) -> int:
        block = Span(
            widest.r0,
            min(widest.r0 + height, widest.r1),
            widest.t0,
            min(widest.t0 + length, widest.t1),
        )
        return box_cycles(node, block, target)

    height, length = heights[-1], lengths[-1]
    for h in heights:
        if cycles(h, times) <= limit:
            height, length = h, times
            break
    else:
        for n in lengths:
            if cycles(heights[-1], n) <= limit:
                length = n
                break
    across = -(-times // length)
    return Blocks(height, length, across, -(-rows // height) * across, cycles(height, length))


def _step_cycles(step: Step, i: int, target: Target) -> int:
    """Estimated cycles of a step in iteration i."""
    return box_cycles(step.node, step.boxes[i], target)


def slices_of(node: Node, limit: int, target: Target) -> NodeSlices:
    """The slices of a node of a planned graph, of at most `limit` cycles where that is possible."""
    if not isinstance(node, Loop):
        if OPS[node.op].alias:
            return NodeSlices(0)
        rows, times = OPS[node.op].call(node).box
        blocks = blocks_of(node, [Span(0, rows, 0, times)], limit, target)
        return NodeSlices(blocks.cycles, blocks)
    totals = [sum(_step_cycles(s, i, target) for s in node.body) for i in range(node.count)]
    if not limit or max(totals) <= limit:
        return NodeSlices(max(totals))
    chunks: list[tuple[tuple[int, ...], Blocks | None, int]] = []
    run: list[int] = []
    for k, step in enumerate(node.body):
        together = [*run, k]
        cycles = max(
            sum(_step_cycles(node.body[j], i, target) for j in together) for i in range(node.count)
        )
        if cycles <= limit:
            run = together
            continue
        if run:
            chunks.append(_chunk(node, run, target))
        run = [k]
        blocks = blocks_of(step.node, step.boxes, limit, target)
        if not blocks.whole:
            chunks.append(((k,), blocks, blocks.cycles))
            run = []
    if run:
        chunks.append(_chunk(node, run, target))
    return NodeSlices(max(c for _, _, c in chunks), steps=tuple(chunks))


def _chunk(
    loop: Loop, run: Sequence[int], target: Target
) -> tuple[tuple[int, ...], Blocks | None, int]:
    """Steps of an iteration that run together, and the most cycles that they take in one."""
    each = (sum(_step_cycles(loop.body[j], i, target) for j in run) for i in range(loop.count))
    return tuple(run), None, max(each)


def longest(graphs: Sequence[Graph], limit: int, target: Target) -> Longest:
    """The longest slice of the nodes and of the updates of some graphs."""
    found: list[Longest] = []
    for graph in graphs:
        found.append(Longest(SAMPLE_CYCLES * graph.inputs[0].size, "the check of a window"))
        for node in (*graph.nodes, *graph.updates):
            names = ", ".join(v.name for v in node.outputs)
            found.append(Longest(slices_of(node, limit, target).cycles, names))
    return max(found, key=lambda p: p.cycles)
