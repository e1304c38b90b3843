# SPDX-License-Identifier: Apache-2.0
"""Pieces: a schedule cut into runs of work after each of which it may pause.

A piece is a node, an iteration of a loop, or, where one of these takes longer than the limit, a
block of its rows or times, or a step of the iteration. Every border is one at which the result has
the bits of the whole: kernels take boxes, and leaves lie at absolute places (design 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from biotrain.graph.cost import area_ops
from biotrain.ir.graph import Graph, Loop, Node, Span, Step
from biotrain.ir.op import OPS
from biotrain.targets.target import Target

CALL_CYCLES = 64
"""Of a kernel call, whatever it does (an estimate)."""
SAMPLE_CYCLES = 8
"""To move and check one sample of a window (an estimate)."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How one call is cut: blocks of so many rows and times, the last ones shorter."""

    rows: int
    times: int
    across: int
    """Blocks along time, for each block of rows."""
    blocks: int
    cycles: int
    """Of the longest block."""

    @property
    def whole(self) -> bool:
        """Whether nothing is cut."""
        return self.blocks == 1


@dataclass(frozen=True, slots=True)
class Piece:
    """One node of the list, as it may be paused."""

    cycles: int
    """Of the longest run between two borders."""
    cut: Cut | None = None
    """Of a plain node."""
    steps: tuple[tuple[tuple[int, ...], Cut | None, int], ...] = ()
    """Of an iteration that is cut: steps that run together, the cut of a single one, cycles."""


@dataclass(frozen=True, slots=True)
class Longest:
    """The longest run between two borders."""

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
    size = rule.call(node).box
    shared = rule.shared_ops(node, Span(0, size[0], 0, size[1]))
    all_ops = rule.ops(node) or size[0] * size[1]
    ops = area_ops(max(all_ops - shared, 0), box.size, size) + rule.shared_ops(node, box)
    return round(ops * price_of(target, node.op)) + CALL_CYCLES


def flat(node: Node) -> bool:
    """Whether the call runs over a parameter as a flat array, element by element."""
    call = OPS[node.op].call(node)
    return call.struct == "bt_flat" and not node.get("at_once", False)


def cut_call(node: Node, boxes: Sequence[Span], limit: int, target: Target) -> Cut:
    """The fewest blocks of the boxes (one per iteration) that stay within the limit, if it goes."""
    filled = [b for b in boxes if not b.empty]
    rows = max(b.r1 - b.r0 for b in filled)
    times = max(b.t1 - b.t0 for b in filled)
    longest = max(box_cycles(node, b, target) for b in filled)
    if not limit or longest <= limit:
        return Cut(rows, times, 1, 1, longest)
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
    return Cut(height, length, across, -(-rows // height) * across, cycles(height, length))


def _step_cycles(step: Step, i: int, target: Target) -> int:
    return box_cycles(step.node, step.boxes[i], target)


def piece_of(node: Node, limit: int, target: Target) -> Piece:
    """A node of a planned graph, cut."""
    if not isinstance(node, Loop):
        if OPS[node.op].alias:
            return Piece(0)
        rows, times = OPS[node.op].call(node).box
        cut = cut_call(node, [Span(0, rows, 0, times)], limit, target)
        return Piece(cut.cycles, cut)
    totals = [sum(_step_cycles(s, i, target) for s in node.body) for i in range(node.count)]
    if not limit or max(totals) <= limit:
        return Piece(max(totals))
    chunks: list[tuple[tuple[int, ...], Cut | None, int]] = []
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
        cut = cut_call(step.node, step.boxes, limit, target)
        if not cut.whole:
            chunks.append(((k,), cut, cut.cycles))
            run = []
    if run:
        chunks.append(_chunk(node, run, target))
    return Piece(max(c for _, _, c in chunks), steps=tuple(chunks))


def _chunk(
    loop: Loop, run: Sequence[int], target: Target
) -> tuple[tuple[int, ...], Cut | None, int]:
    each = (sum(_step_cycles(loop.body[j], i, target) for j in run) for i in range(loop.count))
    return tuple(run), None, max(each)


def longest(graphs: Sequence[Graph], limit: int, target: Target) -> Longest:
    """The longest piece of the nodes and of the updates of some graphs."""
    found: list[Longest] = []
    for graph in graphs:
        found.append(Longest(SAMPLE_CYCLES * graph.inputs[0].size, "the check of a window"))
        for node in (*graph.nodes, *graph.updates):
            names = ", ".join(v.name for v in node.outputs)
            found.append(Longest(piece_of(node, limit, target).cycles, names))
    return max(found, key=lambda p: p.cycles)
