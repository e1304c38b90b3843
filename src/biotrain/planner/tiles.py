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


def _cuts(size: int, step: int) -> list[int]:
    """Sizes of tiles that a range of `size` is cut into, from the whole range to `step`."""
    found = [size]
    units = -(-size // step) if step else 1
    while units > 1:
        units = -(-units // 2)
        found.append(units * step)
    return found


def tilings(node: Node) -> Iterator[Loop]:
    """The node as a loop over tiles, from few and large tiles to many small ones.

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
    rows, times = _cuts(box[0], rule.row_step(node)), _cuts(box[1], time_step)
    sizes = [(r, t) for t in times for r in rows]
    sizes.sort(key=lambda s: (-(-box[0] // s[0]) * -(-box[1] // s[1]), -s[1]))
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
