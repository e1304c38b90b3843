# SPDX-License-Identifier: Apache-2.0
"""What the rewrites ask of a graph: who makes a value, who reads it, what a gradient reaches."""

from __future__ import annotations

from collections.abc import Sequence

from biotrain.ir.graph import Graph, Node, Value


class Matcher:
    """Makers and readers of the values of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._makers: dict[str, Node] = {}
        self._readers: dict[str, list[Node]] = {}
        self._outputs = dict.fromkeys(v.name for v in graph.outputs)
        for node in graph.nodes:
            for value in node.inputs:
                self._readers.setdefault(value.name, []).append(node)
            for value in node.outputs:
                self._makers[value.name] = node

    def maker(self, value: Value, op: str) -> Node | None:
        """The node that makes a temp, if it is an `op`."""
        node = self._makers.get(value.name) if value.kind == "temp" else None
        return node if node is not None and node.op == op else None

    def readers(self, value: Value) -> list[Node]:
        """The nodes that read a value, one entry for each time."""
        return self._readers.get(value.name, [])

    def only_reader(self, value: Value, op: str) -> Node | None:
        """The one node that reads a temp, if it is an `op` and the value is no output."""
        readers = self.readers(value)
        alone = value.kind == "temp" and len(readers) == 1 and value.name not in self._outputs
        return readers[0] if alone and readers[0].op == op else None


def reached(graph: Graph, trained: Sequence[str]) -> dict[str, None]:
    """Names of the values that depend on a trained parameter, those parameters included."""
    found = dict.fromkeys(trained)
    for node in graph.nodes:
        if any(v.name in found for v in node.inputs):
            found.update(dict.fromkeys(v.name for v in node.outputs))
    return found
