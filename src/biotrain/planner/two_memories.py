# SPDX-License-Identifier: Apache-2.0
"""A schedule for two memories: the arena in L2, windows of loops in L1 (design, section 8).

Fused loops get transfers as they are; single nodes become loops over the largest tiles whose
windows fit. What fits in no way, or has no windows, works in L2 directly: slow, and right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from biotrain.ir.graph import Graph, Loop, Node, flat_nodes
from biotrain.ir.op import OPS
from biotrain.planner.place import L1, Buffer, lifetimes, peak, place
from biotrain.planner.plan import Schedule
from biotrain.planner.team_sums import shared_sums
from biotrain.planner.tiles import tilings
from biotrain.planner.transfers import with_transfers


def two_memories(graph: Graph, near_bytes: int, far_bytes: int, workers: int) -> Schedule:
    """The schedule of a planned graph whose loops work on windows in L1 of `near_bytes` bytes.

    Where tiles that keep the workers busy need more than `far_bytes` of arena (tiles along time
    may cost a place that two tensors shared), the fewest tiles are taken, if that needs less.
    """
    graph = shared_sums(graph, workers)
    busy = _schedule(graph, near_bytes, workers)
    if busy.peak <= far_bytes:
        return busy
    return min(busy, _schedule(graph, near_bytes, 1), key=lambda s: s.peak)


def _schedule(graph: Graph, near_bytes: int, workers: int) -> Schedule:
    """The schedule with tiles for so many workers."""
    taken = {v.name: None for n in flat_nodes(graph.nodes) for v in (*n.inputs, *n.outputs)}
    taken |= {v.name: None for v in graph.values()}
    nodes = tuple(_tiled(graph, node, near_bytes, workers, taken) for node in graph.nodes)
    graph = graph.with_nodes(nodes)
    return Schedule(graph, _placed(graph))


def _tiled(graph: Graph, node: Node, near_bytes: int, workers: int, taken: dict[str, None]) -> Node:
    """The node or loop with its windows in L1 where they fit; else as it was."""
    if isinstance(node, Loop):
        choices: Sequence[Loop] = (node,)
    elif OPS[node.op].alias:
        return node
    else:
        choices = tuple(tilings(node, workers))
    for loop in choices:
        names = dict(taken)
        found = with_transfers(loop, names)
        if found.windows and _needs(graph, found) <= near_bytes:
            taken |= names
            return found
    return node


def _needs(graph: Graph, loop: Loop) -> int:
    """Bytes of the windows of a loop."""
    return peak(place(_windows(lifetimes(graph.with_nodes((loop,))), [loop]), effort=0))


def _near(graph: Graph) -> list[Loop]:
    """Loops that have transfers."""
    loops = [n for n in graph.nodes if isinstance(n, Loop)]
    return [n for n in loops if any(s.node.op in ("get", "put") for s in n.body)]


def _windows(buffers: Sequence[Buffer], loops: Sequence[Loop]) -> list[Buffer]:
    names = {w.value.name: None for n in loops for w in n.windows}
    return [b for b in buffers if b.members[0] in names]


def _placed(graph: Graph) -> tuple[Buffer, ...]:
    """All buffers, each placed in its memory."""
    buffers = lifetimes(graph)
    near = _windows(buffers, _near(graph))
    far = [b for b in buffers if b not in near]
    return (*place(far), *(replace(b, memory=L1) for b in place(near)))


def in_words(schedule: Schedule, near_bytes: int) -> str:
    """How much of a schedule works in L1."""
    calls = [n for n in schedule.graph.nodes if isinstance(n, Loop) or not OPS[n.op].alias]
    loops = _near(schedule.graph)
    return (
        f"two memories: {len(loops)} of {len(calls)} nodes and loops work on windows in "
        f"{near_bytes:,} B of L1, the others in L2"
    )
