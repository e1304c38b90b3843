# SPDX-License-Identifier: Apache-2.0
"""The frozen trunk: what a training step computes from the window alone.

No trained parameter changes it, so that it needs to run only once for every window. What the other
nodes read of it are the features of the window; `divide` divides the step there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from biotrain.graph.autodiff import prune
from biotrain.ir.graph import Graph, Node, Value, verify
from biotrain.ir.op import OPS


@dataclass(frozen=True, slots=True)
class TrunkAndHead:
    """A training step in two graphs."""

    trunk: Graph
    """From the window to the features, which are its outputs."""
    head: Graph
    """The other nodes and the updates; the features are its first inputs."""


def divide(graph: Graph) -> TrunkAndHead | None:
    """Divide a training graph; None where nothing is frozen, or where the rest needs the window.

    A view is no work: where the head reads one, it has it too. A graph that trains all of its
    parameters, or none, is not divided.
    """
    nodes = (*graph.nodes, *graph.updates)
    changing = {v.name: v for n in nodes for v in n.outputs if v.kind in ("param", "state")}
    trained = [v for v in graph.params if v.name in changing]
    if not trained or len(trained) == len(graph.params):
        return None
    x = graph.inputs[0]
    frozen = _frozen(graph, changing)
    needed = dict.fromkeys(v.name for v in graph.outputs)
    for node, held in zip(graph.nodes, frozen, strict=True):
        needed.update(dict.fromkeys(v.name for v in node.inputs if not held))
    views: list[Node] = []
    for node, held in zip(reversed(graph.nodes), reversed(frozen), strict=True):
        if held and OPS[node.op].alias and node.outputs[0].name in needed:
            views.append(node)
            needed[node.inputs[0].name] = None
    stems = [n for n, held in zip(graph.nodes, frozen, strict=True) if held and n not in views]
    features = tuple(v for n in stems for v in n.outputs if v.name in needed)
    if not features or x.name in needed or any(v.dtype != "f32" for v in features):
        return None
    given = {v.name: replace(v, kind="input") for v in features}
    still = tuple(v for v in graph.states if v.name not in changing)

    def renamed(values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(given.get(v.name, v) for v in values)

    rest = tuple(
        replace(n, inputs=renamed(n.inputs))
        for n, held in zip(graph.nodes, frozen, strict=True)
        if not held or n in views
    )
    trunk = tuple(n for n, held in zip(graph.nodes, frozen, strict=True) if held)
    made = TrunkAndHead(
        trunk=prune(
            replace(graph, nodes=trunk, inputs=(x,), outputs=features, states=still, updates=())
        ),
        head=replace(
            graph,
            nodes=rest,
            inputs=(*given.values(), *graph.inputs[1:]),
            outputs=renamed(graph.outputs),
        ),
    )
    verify(made.trunk)
    verify(made.head)
    return made


def _frozen(graph: Graph, changing: dict[str, Value]) -> list[bool]:
    """Per node: whether all that it reads is the window, or what training leaves as it is.

    A node that reads nothing (scratch) goes with those that read it.
    """
    held = (graph.inputs[0], *graph.params, *graph.states, *graph.consts)
    fixed = dict.fromkeys(v.name for v in held)
    found = []
    for node in graph.nodes:
        reads = all(v.name in fixed and v.name not in changing for v in node.inputs)
        found.append(reads and all(v.kind == "temp" for v in node.outputs))
        if found[-1]:
            fixed.update(dict.fromkeys(v.name for v in node.outputs))
    for i, node in enumerate(graph.nodes):
        if not node.inputs:
            readers = zip(graph.nodes, tuple(found), strict=True)
            found[i] = all(held for n, held in readers if node.outputs[0] in n.inputs)
    return found
