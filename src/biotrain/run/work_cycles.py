# SPDX-License-Identifier: Apache-2.0
"""Counted cycles of the nodes of a schedule beside the work that the planner counts for them: what
`kernels.toml` of a core is fitted to, and what a plan's estimate is compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from biotrain.emit.build import Build
from biotrain.graph.cost import LOOP, SAMPLE, boxes_of, node_work
from biotrain.ir.graph import Loop, Node
from biotrain.run.profile import Profile


@dataclass(frozen=True, slots=True)
class Counted:
    """One node of a schedule in a run."""

    op: str
    """Its op; `loop` for the fused loops, `sample` for what a sample does around its nodes."""
    name: str
    work: Mapping[str, float]
    """How often it does what takes cycles, by kind (`Op.work`)."""
    cycles: float
    """Counted cycles."""


def counted(package: Build, sample: Profile, step: Profile, wide_outputs: int) -> list[Counted]:
    """The nodes of a training sample, and all updates of a step as one per op.

    `sample` and `step` are the profiles of one sample and of one step of the optimizer. What a step
    does around its updates counts for these.
    """
    graph = package.source.train
    found = _nodes(graph.nodes, sample, wide_outputs)
    loops = [node for node in graph.nodes if isinstance(node, Loop)]
    if loops:
        work = {"loops": len(loops), "iterations": sum(loop.count for loop in loops)}
        spent = sum(c for p, (_, c) in sample.places.items() if p.kernel == LOOP)
        found.append(Counted(LOOP, LOOP, work, spent))
    spent = sum(c for p, (_, c) in sample.places.items() if not p.node)
    values = sum(v.size for v in graph.inputs if v.resident)
    found.append(Counted(SAMPLE, SAMPLE, {"samples": 1, "values": values}, spent))
    updates: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for node, boxes in boxes_of(graph.updates):
        for kind, times in node_work(node, boxes, wide_outputs).items():
            updates[node.op][kind] += times
    for op, work_of_op in updates.items():
        found.append(Counted(op, op, dict(work_of_op), step.cycles / len(updates)))
    return found


def _nodes(nodes: Sequence[Node], profile: Profile, wide_outputs: int) -> list[Counted]:
    """Nodes of one name, as those of a loop that was parted, count together."""
    spent: defaultdict[str, float] = defaultdict(float)
    for place, (_, cycles) in profile.places.items():
        spent[place.node] += cycles
    ops: dict[str, str] = {}
    works: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for node, boxes in boxes_of(nodes):
        name = f"{', '.join(v.name for v in node.outputs)} = {node.op}"
        ops[name] = node.op
        for kind, times in node_work(node, boxes, wide_outputs).items():
            works[name][kind] += times
    return [Counted(op, name, dict(works[name]), spent[name]) for name, op in ops.items()]
