# SPDX-License-Identifier: Apache-2.0
"""Norm, ReLU and average pooling become sums and counts of windows. Algebraic: rounding changes.

    y = norm_apply(x, stats, gamma, beta); p = avg_pool(relu(y))
    ->  s, n = norm_relu_pool(x, stats, gamma, beta); p = pooled_affine(s, n, gamma, beta)

The two sums over x in the norm's backward then come from s and n, and neither y nor its mask is
stored. Where no gradient flows there is nothing to gain, and the nodes stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from biotrain.graph.rewrite.match import Matcher, reached
from biotrain.ir.graph import Graph, Node
from biotrain.ir.op import Builder

MOST_SAMPLES = 255
"""Samples of a window of the pooling at most: its count is a u8."""


def pooled_sums(graph: Graph, trained: Sequence[str]) -> Graph:
    """Rewrite a forward graph that will be differentiated with respect to `trained`."""
    match = Matcher(graph)
    flowing = reached(graph, trained)
    b = Builder(taken=[v.name for v in graph.values()])
    for pool in graph.nodes:
        chain = _chain(match, pool)
        if chain is None or not any(v.name in flowing for v in chain[0].inputs):
            b.nodes.append(pool)
            continue
        norm, relu = chain
        b.nodes = [n for n in b.nodes if n not in (norm, relu)]
        p = pool.outputs[0]
        x, stats, *affine = norm.inputs
        kernel, groups = pool.ints("kernel"), stats.shape[0]
        windows = (b.value(f"{p.name}_sum", p.shape), b.value(f"{p.name}_count", p.shape, "u8"))
        b.origin = norm.origin
        b.emit("norm_relu_pool", norm.inputs, windows, kernel=kernel, groups=groups)
        b.origin = pool.origin
        b.emit(
            "pooled_affine",
            [*windows, *affine],
            [p],
            kernel=kernel,
            groups=groups,
            x_shape=x.shape,
        )
    return replace(graph, nodes=tuple(b.nodes))


def _chain(match: Matcher, pool: Node) -> tuple[Node, Node] | None:
    """The norm and the ReLU before a pooling, if the three may become one."""
    if pool.op != "avg_pool" or pool.ints("kernel") != pool.ints("stride"):
        return None
    if any(pool.ints("padding")) or prod(pool.ints("kernel")) > MOST_SAMPLES:
        return None
    relu = match.maker(pool.inputs[0], "relu")
    norm = relu and match.maker(relu.inputs[0], "norm_apply")
    if relu is None or norm is None or not norm["through_stats"] or norm.get("each", False):
        return None
    alone = match.only_reader(relu.outputs[0], "avg_pool") and match.only_reader(
        norm.outputs[0], "relu"
    )
    x, stats = norm.inputs[:2]
    return (norm, relu) if alone and x.shape[1] % stats.shape[0] == 0 else None
