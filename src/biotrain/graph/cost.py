# SPDX-License-Identifier: Apache-2.0
"""What a graph costs: nominal multiply-adds, executed operations, estimated cycles and energy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from biotrain.ir.graph import Graph, Loop, Node, Span, Step, flat_nodes
from biotrain.ir.op import OPS, area_ops
from biotrain.targets.target import Target

LOOP = "loop"
"""Entry of a core's `kernels.toml` for the fused loops of a schedule, whose kinds are `loops` and
`iterations`."""
SAMPLE = "sample"
"""Entry for what a training sample does around its nodes, whose kinds are `samples` and `values`:
it checks and copies the values of a window."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one training sample, forward and backward, the update shared by its group."""

    macs: int
    """Nominal multiply-adds of the direct algorithms."""
    ops: int
    """Multiplies and adds that the kernels execute (a multiply-add counts twice)."""
    cycles: float
    """Estimate, by the target's cycles of each kind of work of each kernel, or per operation where
    it has none; 0 where time is not modelled."""
    ms: float
    mj: float


def step_ops(step: Step) -> int:
    """Executed multiplies and adds of a node of a loop's body, over all iterations."""
    rule = OPS[step.node.op]
    area = sum(box.size for box in step.boxes)
    size = rule.call(step.node).box
    shared = rule.shared_ops(step.node, Span(0, size[0], 0, size[1]))
    total = area_ops(rule.ops(step.node) - shared, area, size)
    return total + sum(rule.shared_ops(step.node, box) for box in step.boxes if not box.empty)


def loop_ops(loop: Loop) -> int:
    """Executed multiplies and adds of all iterations."""
    return sum(step_ops(step) for step in loop.body)


def node_work(node: Node, boxes: Sequence[Span], wide_outputs: int) -> dict[str, float]:
    """How often the calls of a node over some boxes do what takes cycles, by kind.

    Boxes of as many rows and the same times do the same work: one of them is counted. `zeroed` are
    the elements of sums that are cleared before the first call.
    """
    rule = OPS[node.op]
    work: dict[str, float] = {}
    if rule.alias:
        return work
    calls = Counter((b.r1 - b.r0, b.t0, b.t1) for b in boxes if not b.empty)
    of_shape = {(b.r1 - b.r0, b.t0, b.t1): b for b in reversed(boxes)}
    for shape, count in calls.items():
        for kind, times in rule.work(node, of_shape[shape], wide_outputs).items():
            work[kind] = work.get(kind, 0.0) + count * times
    if rule.accumulates and (sums := sum(v.size for v in node.outputs if v.kind == "temp")):
        work["zeroed"] = float(sums)
    return work


def boxes_of(nodes: Sequence[Node]) -> Iterator[tuple[Node, Sequence[Span]]]:
    """The nodes that run, those of loops among them, and the box of every call."""
    for node in nodes:
        if isinstance(node, Loop):
            yield from ((step.node, step.boxes) for step in node.body)
        elif not OPS[node.op].alias:
            rows, times = OPS[node.op].call(node).box
            yield node, (Span(0, rows, 0, times),)


def call_cycles(node: Node, box: Span, target: Target) -> float | None:
    """Estimated cycles of one call over a box; None where the target has no entry for the op."""
    kinds = target.kinds(node.op)
    if kinds is None:
        return None
    work = OPS[node.op].work(node, box, target.wide_outputs)
    return sum(cycles * work.get(kind, 0.0) for kind, cycles in kinds)


def calls_cycles(node: Node, boxes: Sequence[Span], target: Target) -> float:
    """Estimated cycles of the calls of a node over some boxes."""
    kinds = target.kinds(node.op)
    if kinds is None:
        return step_ops(Step(node, tuple(boxes))) * target.price(node.op)
    work = node_work(node, boxes, target.wide_outputs)
    return sum(cycles * work.get(kind, 0.0) for kind, cycles in kinds)


def loop_cycles(nodes: Sequence[Node], target: Target) -> float:
    """Estimated cycles of the fused loops among some nodes, without what their bodies call."""
    loops = [node for node in nodes if isinstance(node, Loop)]
    around = {"loops": len(loops), "iterations": sum(loop.count for loop in loops)}
    return target.work_cycles(LOOP, around) or 0.0


def node_cycles(nodes: Sequence[Node], target: Target) -> float:
    """Estimated cycles of some nodes; 0 where the target's time is not modelled."""
    if not target.cycles_per_op:
        return 0.0
    return loop_cycles(nodes, target) + sum(
        calls_cycles(node, boxes, target) for node, boxes in boxes_of(nodes)
    )


def sample_cycles(graph: Graph, target: Target) -> float:
    """Estimated cycles that a training sample takes around the nodes of its graph."""
    values = sum(v.size for v in graph.inputs if v.resident)
    return target.work_cycles(SAMPLE, {"samples": 1, "values": values}) or 0.0


def node_macs(nodes: Sequence[Node]) -> int:
    """Nominal multiply-adds of some nodes; a loop counts as its nodes once over the whole."""
    return sum(OPS[n.op].macs(n) for n in flat_nodes(nodes))


def node_ops(nodes: Sequence[Node]) -> int:
    """Executed multiplies and adds of some nodes."""
    return sum(loop_ops(n) if isinstance(n, Loop) else OPS[n.op].ops(n) for n in nodes)


def training_cost(graph: Graph, target: Target, accumulate: int) -> Cost:
    """Cost of one sample of a training graph."""
    group = max(accumulate, 1)
    ops = node_ops(graph.nodes) + node_ops(graph.updates) // group
    cycles = node_cycles(graph.nodes, target) + node_cycles(graph.updates, target) / group
    if target.cycles_per_op:
        cycles += sample_cycles(graph, target)
    return cost_of(node_macs(graph.nodes), ops, cycles, target)


def cost_of(macs: int, ops: int, cycles: float, target: Target) -> Cost:
    """Time and energy of a number of cycles."""
    ms = 1e3 * cycles / target.clock_hz if target.clock_hz else 0.0
    mj = ms * target.mw_per_mhz * target.clock_hz * 1e-6 * 1e-3
    return Cost(macs, ops, cycles, ms, mj)
