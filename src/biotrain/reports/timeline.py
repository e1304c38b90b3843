# SPDX-License-Identifier: Apache-2.0
"""The moments of a training step: one per node, a loop's body node by node (memory.positions)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from biotrain.emit.build import Build
from biotrain.ir.graph import Graph, Loop, Node, leaves
from biotrain.planner.explain import computations
from biotrain.planner.place import Buffer, positions

Role = Literal["input", "activation", "made again", "statistics", "gradient"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Moments `[first, stop)` that belong together."""

    first: int
    stop: int
    name: str
    """`forward`, `loss`, `backward`; of a loop its axis."""
    count: int = 1
    """Iterations of a loop."""


@dataclass(frozen=True)
class Timeline:
    """What happens when."""

    nodes: tuple[Node | None, ...]
    """Per moment; None between two loops over the samples of a batch."""
    loops: tuple[Stretch, ...]
    parts: tuple[Stretch, ...]
    roles: dict[str, tuple[int, Role]]
    """Per value of a buffer: the moment of its first making, and what it is."""

    def held(self, buffer: Buffer) -> list[tuple[int, Role]]:
        """What a buffer holds from which moment on: a gradient may take over an activation's
        bytes."""
        found: list[tuple[int, Role]] = []
        for name in buffer.members:
            at, role = self.roles.get(name, (buffer.first, "activation"))
            at = buffer.first if not found else max(at, found[-1][0])
            # What is made of the input in place, or is another view of it, stays its colour.
            forward = found and found[-1][1] == "input" and role in ("activation", "made again")
            if not found or (found[-1][1] != role and not forward):
                found.append((at, role))
        return found


def timeline(pkg: Build) -> Timeline:
    """The moments of a package's training step."""
    if pkg.source.batch is not None:
        return _of_batch(pkg)
    graph = pkg.graph
    nodes = tuple(leaves(graph.nodes))
    loss, after = _loss(graph, nodes)
    cuts = (("forward", 0, loss), ("loss", loss, after), ("backward", after, len(nodes)))
    parts = tuple(Stretch(a, b, name) for name, a, b in cuts if b > a)
    roles = _roles(graph, list(nodes), [""] * len(nodes), _forward(nodes[: loss + 1]))
    return Timeline(nodes, _loops(graph, 0), parts, roles)


def _of_batch(pkg: Build) -> Timeline:
    """The loops over the samples one behind the other; their values carry the loop's number."""
    batch = pkg.source.batch
    assert batch is not None
    flat = tuple(leaves(pkg.graph.nodes))
    loss, _ = _loss(pkg.graph, flat)
    nodes: list[Node | None] = []
    marks: list[str] = []
    loops: list[Stretch] = []
    parts: list[Stretch] = []
    for q, phase in enumerate(batch.phases):
        nodes += [None] * (phase.first - len(nodes))
        marks += [""] * (phase.first - len(marks))
        nodes += leaves(phase.graph.nodes)
        marks += [f"{q}:"] * (len(nodes) - len(marks))
        loops += _loops(phase.graph, phase.first)
        last = q + 1 == len(batch.phases)
        stop = len(nodes) + 1 if last else batch.phases[q + 1].first
        parts.append(Stretch(phase.first, stop, f"phase {q}"))
    nodes.append(None)
    marks.append("")
    roles = _roles(pkg.graph, nodes, marks, _forward(flat[: loss + 1]))
    return Timeline(tuple(nodes), tuple(loops), tuple(parts), roles)


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


def _loops(graph: Graph, at: int) -> tuple[Stretch, ...]:
    return tuple(
        Stretch(at + first, at + last + 1, node.axis, node.count)
        for node, (first, last) in zip(graph.nodes, positions(graph), strict=True)
        if isinstance(node, Loop)
    )


def _forward(nodes: tuple[Node, ...]) -> dict[str, None]:
    """Names of what the forward pass makes."""
    return dict.fromkeys(v.name for n in nodes for v in n.outputs)


def _roles(
    graph: Graph, nodes: list[Node | None], marks: list[str], forward: dict[str, None]
) -> dict[str, tuple[int, Role]]:
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
            role = "made again" if before else "activation"
        for v in node.outputs:
            for known in dict.fromkeys((mark + v.name, v.name)):
                roles.setdefault(known, (at, role))
    return roles
