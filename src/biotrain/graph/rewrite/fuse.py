# SPDX-License-Identifier: Apache-2.0
"""Two nodes become one where the tensor between them need not be stored. Keeps every bit."""

from __future__ import annotations

from dataclasses import replace

from biotrain.ir.graph import Graph, Node, Value

PAIRS: dict[tuple[str, str], str] = {("avg_pool_dx", "relu_dx"): "avg_pool_relu_dx"}
"""(first op, op that reads its result last) -> the op that does both."""


def fuse(graph: Graph) -> Graph:
    """Fuse every pair of `PAIRS` whose middle tensor nobody else reads.

    The fused node stands where the second stood; it reads what the first read, then what the
    second read apart from the middle tensor, and has the attributes of both.
    """
    readers: dict[str, int] = {}
    for node in graph.nodes:
        for value in node.inputs:
            readers[value.name] = readers.get(value.name, 0) + 1
    outputs = [v.name for v in graph.outputs]
    makers: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        middle = _middle(node, makers)
        if middle and readers[middle.name] == 1 and middle.name not in outputs:
            first = makers[middle.name]
            nodes.remove(first)
            others = tuple(v for v in node.inputs if v != middle)
            node = replace(
                node,
                op=PAIRS[first.op, node.op],
                inputs=(*first.inputs, *others),
                attrs=tuple(sorted({**dict(first.attrs), **dict(node.attrs)}.items())),
            )
        makers.update({v.name: node for v in node.outputs})
        nodes.append(node)
    return graph.with_nodes(tuple(nodes))


def _middle(node: Node, makers: dict[str, Node]) -> Value | None:
    """The input of `node` that is made by an op it can be fused with."""
    for value in node.inputs:
        maker = makers.get(value.name)
        if value.kind == "temp" and maker and (maker.op, node.op) in PAIRS:
            return value
    return None
