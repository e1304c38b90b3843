# SPDX-License-Identifier: Apache-2.0
"""The moments of a mixed signal come from those of what it mixes. Algebraic: rounding changes.

    y = conv(x, w[, b]); m = row_moments(y)
    ->  m = mix_moments(pair_moments(pair_sums(x)), w[, b])

where each sample of y is a weighted sum over all rows of x at one time, and where that is no more
work. Statistics of y are then known before y is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from biotrain.graph.cost import node_ops
from biotrain.graph.rewrite.match import Matcher
from biotrain.ir.graph import Graph, Node, Value
from biotrain.ir.op import Builder, rows_times


def mixes_rows(conv: Node) -> bool:
    """Whether each sample of a conv's output is a sum over all rows of the input at one time."""
    x, w = conv.inputs[:2]
    rows = 1 if len(x.shape) == 3 else x.shape[2]
    kernel_rows = 1 if len(w.shape) == 3 else w.shape[2]
    local = w.shape[-1] == 1 and conv.ints("stride")[1] == 1 and kernel_rows == rows
    return local and conv.int("groups") == 1 and not any(conv.ints("padding"))


def emit_pairs(b: Builder, x: Value) -> Value:
    """Append the nodes that make the pair moments of x."""
    rows, times = rows_times(x.shape)
    sums = b.one("pair_sums", x, hint=f"{x.name}_pair_sums")
    return b.one("pair_moments", sums, hint=f"{x.name}_pairs", rows=rows, times=times)


def moments(graph: Graph, trained: Sequence[str]) -> Graph:
    """Rewrite a forward graph; what trains does not matter."""
    match = Matcher(graph)
    b = Builder(taken=[v.name for v in graph.values()])
    pairs: dict[str, Value] = {}
    for node in graph.nodes:
        conv = match.maker(node.inputs[0], "conv") if node.op == "row_moments" else None
        if conv is None or not mixes_rows(conv) or not _worth(conv, node, pairs):
            b.nodes.append(node)
            continue
        b.origin = node.origin
        _emit(b, conv, node.outputs[0], pairs)
    return replace(graph, nodes=tuple(b.nodes))


def _emit(b: Builder, conv: Node, result: Value | None, pairs: dict[str, Value]) -> None:
    x, *weights = conv.inputs
    if x.name not in pairs:
        pairs[x.name] = emit_pairs(b, x)
    times = x.shape[-1]
    b.emit("mix_moments", [pairs[x.name], *weights], [result] if result else None, times=times)


def _worth(conv: Node, old: Node, pairs: dict[str, Value]) -> bool:
    """Whether it takes no more operations than it saves."""
    trial = Builder()
    _emit(trial, conv, None, dict(pairs))
    return node_ops(trial.nodes) <= node_ops([old])
