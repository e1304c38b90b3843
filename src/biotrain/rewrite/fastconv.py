# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions of long taps become fast FIR. It rounds otherwise: the package says so."""

from __future__ import annotations

from dataclasses import replace

from biotrain.ir import Graph, Node
from biotrain.op import OPS
from biotrain.ops.fir import fits

FAST: dict[str, str] = {"conv": "fir", "conv_dx": "fir_dx", "conv_dw": "fir_dw"}
"""An op and the one that does the same with fewer multiplies."""

TAPS, SAVING = 64, 0.7
"""A convolution of at least so many taps is replaced where at most this part of its operations is
left. With fewer taps, what the additions and the moving of samples take eats the gain."""

LEVELS = (2,)
"""Levels to choose from. A third level has fewer operations still, but its sums are so short that
it takes longer than two (`benchmarks/fir.py`)."""


def fastconv(graph: Graph, levels: tuple[int, ...] = LEVELS) -> Graph:
    """Replace every depthwise convolution along time, and its gradients, where it saves enough.

    Each pass takes the number of `levels` that executes the fewest multiplies and adds.
    """
    return graph.with_nodes(tuple(faster(node, levels) for node in graph.nodes))


def faster(node: Node, levels: tuple[int, ...]) -> Node:
    """The node, or the fast FIR that takes its place."""
    if node.op not in FAST:
        return node
    x, w, _ = OPS[node.op]._shapes(node)  # type: ignore[attr-defined]
    if w[-1] < TAPS or not fits(dict(node.attrs), x, w):
        return node
    found = [
        replace(node, op=FAST[node.op], attrs=tuple(sorted([*node.attrs, ("levels", n)])))
        for n in levels
    ]
    best = min(found, key=lambda n: OPS[n.op].ops(n))
    return best if OPS[best.op].ops(best) <= SAVING * OPS[node.op].ops(node) else node
