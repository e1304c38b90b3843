# SPDX-License-Identifier: Apache-2.0
"""Weight gradients of a planned schedule, divided so that a team shares them more evenly.

A gradient of a convolution's weight is divided by rows of the input where loops profit from it
(`by_input` of `conv_dw`), or by rows of the output. Outside of loops both need the same memory and
give the same bits: a sum belongs to one worker either way. EpiDeNet's second convolution has four
channels in and sixteen out; by input four of eight workers would have nothing to do.
"""

from __future__ import annotations

from dataclasses import replace

from biotrain.ir.access import call_of
from biotrain.ir.graph import Graph, Loop, Node, Span
from biotrain.ir.op import OPS, Call
from biotrain.ir.split import grid_of


def shared_sums(graph: Graph, workers: int) -> Graph:
    """The graph whose weight gradients outside of loops are divided as it suits the workers."""
    if workers == 1:
        return graph
    nodes = [n if isinstance(n, Loop) else _divided(n, workers) for n in graph.nodes]
    return replace(graph, nodes=tuple(nodes))


def _divided(node: Node, workers: int) -> Node:
    """The node by rows of its output, where the busiest worker has less to do then."""
    if node.op != "conv_dw" or not node.get("by_input", False):
        return node
    other = replace(node, attrs=tuple(a for a in node.attrs if a[0] != "by_input"))
    return other if _busiest(other, workers) < _busiest(node, workers) else node


def _busiest(node: Node, workers: int) -> float:
    """The share of a call that its busiest worker has, from 0 to 1."""
    calls: dict[Node, Call] = {}
    rows, times = call_of(node, calls).box
    box = Span(0, rows, 0, times)
    grid = grid_of(OPS[node.op].split(node), [box], workers)
    return max(grid.part(box, w).size for w in range(grid.parts)) / box.size
