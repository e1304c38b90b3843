# SPDX-License-Identifier: Apache-2.0
"""The schedule steps of a training sample: one per node, the body of a loop node by node
(`planner.place.positions`), and what each buffer holds from which step on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from biotrain.emit.build import Build
from biotrain.ir.graph import Graph, Loop, Node, flat_nodes
from biotrain.planner.explain import computations
from biotrain.planner.place import Buffer, positions

Role = Literal["input", "activation", "recomputed", "statistics", "gradient"]


@dataclass(frozen=True, slots=True)
class Span:
    """Schedule steps `[first, stop)` that belong together."""

    first: int
    stop: int
    name: str
    """`forward`, `loss` or `backward`; the axis of a loop."""
    count: int = 1
    """Iterations of a loop."""


@dataclass(frozen=True)
class Timeline:
    """The schedule of one training step, and what its buffers hold."""

    nodes: tuple[Node | None, ...]
    """The node of each schedule step; None between two loops over the samples of a batch."""
    loops: tuple[Span, ...]
    phases: tuple[Span, ...]
    roles: dict[str, tuple[int, Role]]
    """By value: the schedule step that computes it first, and what it is."""

    def contents(self, buffer: Buffer) -> list[tuple[int, Role]]:
        """What a buffer holds, each from which schedule step on: a gradient may take over the bytes
        of an activation."""
        found: list[tuple[int, Role]] = []
        for name in buffer.members:
            at, role = self.roles.get(name, (buffer.first, "activation"))
            at = buffer.first if not found else max(at, found[-1][0])
            # What is computed in place of the input, or is another view of it, still counts as it.
            forward = found and found[-1][1] == "input" and role in ("activation", "recomputed")
            if not found or (found[-1][1] != role and not forward):
                found.append((at, role))
        return found


def timeline(pkg: Build) -> Timeline:
    """The timeline of a package's training step."""
    if pkg.source.batch is not None:
        return _batch_timeline(pkg)
    graph = pkg.graph
    nodes = tuple(flat_nodes(graph.nodes))
    loss, after = _loss(graph, nodes)
    cuts = (("forward", 0, loss), ("loss", loss, after), ("backward", after, len(nodes)))
    phases = tuple(Span(a, b, name) for name, a, b in cuts if b > a)
    roles = _roles(graph, list(nodes), [""] * len(nodes), _forward(nodes[: loss + 1]))
    return Timeline(nodes, _loops(graph, 0), phases, roles)


def _batch_timeline(pkg: Build) -> Timeline:
    """The timeline of a batch: the loops over its samples one after the other. Names of values have
    the number of their loop in front."""
    batch = pkg.source.batch
    assert batch is not None
    flat = tuple(flat_nodes(pkg.graph.nodes))
    loss, _ = _loss(pkg.graph, flat)
    nodes: list[Node | None] = []
    marks: list[str] = []
    loops: list[Span] = []
    phases: list[Span] = []
    for q, phase in enumerate(batch.phases):
        nodes += [None] * (phase.first - len(nodes))
        marks += [""] * (phase.first - len(marks))
        nodes += flat_nodes(phase.graph.nodes)
        marks += [f"{q}:"] * (len(nodes) - len(marks))
        loops += _loops(phase.graph, phase.first)
        last = q + 1 == len(batch.phases)
        stop = len(nodes) + 1 if last else batch.phases[q + 1].first
        phases.append(Span(phase.first, stop, f"phase {q}"))
    nodes.append(None)
    marks.append("")
    roles = _roles(pkg.graph, nodes, marks, _forward(flat[: loss + 1]))
    return Timeline(tuple(nodes), tuple(loops), tuple(phases), roles)


def _loss(graph: Graph, nodes: tuple[Node, ...]) -> tuple[int, int]:
    """(first node of the loss, first node of the backward pass); both are the number of nodes where
    there is neither."""
    count = len(nodes)
    loss = graph.outputs[-1].name
    at = next((i for i, n in enumerate(nodes) if any(v.name == loss for v in n.outputs)), count)
    after = at
    while after < count and nodes[after].op.startswith(nodes[at].op):
        after += 1
    return at, after


def _loops(graph: Graph, at: int) -> tuple[Span, ...]:
    """The loops of a graph whose first node is schedule step `at`."""
    return tuple(
        Span(at + first, at + last + 1, node.axis, node.count)
        for node, (first, last) in zip(graph.nodes, positions(graph), strict=True)
        if isinstance(node, Loop)
    )


def _forward(nodes: tuple[Node, ...]) -> dict[str, None]:
    """Names of the values that the forward pass computes."""
    return dict.fromkeys(v.name for n in nodes for v in n.outputs)


def _roles(
    graph: Graph, nodes: list[Node | None], marks: list[str], forward: dict[str, None]
) -> dict[str, tuple[int, Role]]:
    """By value: the schedule step that computes it first, and its role. marks: what stands in front
    of the names of each step's values. forward: names of the values of the forward pass."""
    inputs = dict.fromkeys(v.name for v in graph.inputs)
    roles: dict[str, tuple[int, Role]] = {}
    for mark in dict.fromkeys(("", *marks)):
        roles.update((mark + name, (0, "input")) for name in inputs)
    made = iter(computations(n for n in nodes if n is not None))
    for at, (node, mark) in enumerate(zip(nodes, marks, strict=True)):
        if node is None:
            continue
        name, before = next(made)
        role: Role
        if any(word in node.op for word in ("moments", "stats", "sums")):
            role = "statistics"
        elif name not in forward:
            role = "gradient"
        else:
            role = "recomputed" if before else "activation"
        for v in node.outputs:
            for known in dict.fromkeys((mark + v.name, v.name)):
                roles.setdefault(known, (at, role))
    return roles
