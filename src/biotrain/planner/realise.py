# SPDX-License-Identifier: Apache-2.0
"""The planned graph of a choice."""

from __future__ import annotations

from dataclasses import replace

from biotrain.ir.graph import Graph, Loop, Node, Step, Value, Window
from biotrain.planner.score import Score, Scorer


def realise(search: Scorer, score: Score) -> Graph:
    """The graph of a choice. A recomputed tensor gets a name of its own: a number is appended."""
    graph = search.stream.assemble(score.loops)
    taken = dict.fromkeys(v.name for v in search.stream.graph.values())
    outside = dict.fromkeys(v.name for v in graph.values() if "~" not in v.name)
    names: dict[str, str] = {}

    def rename(value: Value) -> Value:
        if "~" not in value.name:
            return value
        if value.name not in names:
            base = value.name.partition("~")[0]
            name, number = base, 1
            while name in outside or name in names.values() or (number > 1 and name in taken):
                number += 1
                name = f"{base}_{number}"
            names[value.name] = name
        return replace(value, name=names[value.name])

    def renamed(node: Node) -> Node:
        ins, outs = tuple(map(rename, node.inputs)), tuple(map(rename, node.outputs))
        if not isinstance(node, Loop):
            return replace(node, inputs=ins, outputs=outs)
        body = tuple(Step(renamed(step.node), step.boxes) for step in node.body)
        windows = tuple(Window(rename(w.value), w.spans) for w in node.windows)
        return replace(node, inputs=ins, outputs=outs, body=body, windows=windows)

    return graph.with_nodes(tuple(map(renamed, graph.nodes)))
