# SPDX-License-Identifier: Apache-2.0
"""Single nodes as loops over tiles: boxes along rows and time where the node's op lets them be cut.

Sums are cut where fused loops may cut them: at leaves, in order. No leaf is divided.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from biotrain.ir.access import call_of
from biotrain.ir.graph import Loop, Node, Span, Step
from biotrain.ir.op import LEAF, OPS, rows_times
from biotrain.ir.split import Split, grid_of


def _cuts(size: int, step: int) -> list[int]:
    """Sizes of tiles that a range of `size` is cut into, from the whole range to `step`."""
    found = [size]
    units = -(-size // step) if step else 1
    while units > 1:
        units = -(-units // 2)
        found.append(units * step)
    return found


TILE_ELEMENTS = 256
"""Elements of a worker's part that a tile more costs as much as: barriers, transfers, calls."""


def _order(split: Split, box: tuple[int, int], tile: tuple[int, int], workers: int) -> int:
    """What a tiling costs, by the part of the busiest worker; transfers are not priced."""
    span = Span(0, tile[0], 0, tile[1])
    grid = grid_of(split, [span], workers)
    part = max(grid.part(span, w).size for w in range(grid.parts))
    return -(-box[0] // tile[0]) * -(-box[1] // tile[1]) * (part + TILE_ELEMENTS)


def tilings(node: Node, workers: int) -> Iterator[Loop]:
    """The node as a loop over tiles, from those that keep the workers busy in few tiles on.

    None where its kernel ignores the box or writes what is neither the box nor a sum.
    """
    rule = OPS[node.op]
    split, box = rule.split(node), call_of(node, {}).box
    shaped = all(rows_times(v.shape) == box for v in node.outputs)
    floats = any(v.dtype == "f32" for v in (*node.inputs, *node.outputs))
    if split.serial or split.elements or not floats or not (shaped or rule.accumulates):
        return
    if any(v.kind == "param" for v in node.outputs):
        return
    time_step = (rule.leaf if rule.reduces_time else LEAF) if rule.tiles(node) else 0
    tall_step = rule.row_step(node)
    rows, times = _cuts(box[0], tall_step), _cuts(box[1], time_step)
    sizes = [(min(r, box[0]), min(t, box[1])) for t in times for r in rows]
    sizes.sort(key=lambda s: (_order(split, box, s, workers), -s[1]))
    for tall, wide in sizes:
        boxes = tuple(
            Span(r, min(r + tall, box[0]), t, min(t + wide, box[1]))
            for r in range(0, box[0], tall)
            for t in range(0, box[1], wide)
        )
        axis: Literal["rows", "time"] = "time" if wide < box[1] else "rows"
        ins = tuple(dict.fromkeys(node.inputs))
        yield Loop(
            "loop", ins, node.outputs, origin=node.origin, axis=axis, body=(Step(node, boxes),)
        )
