# SPDX-License-Identifier: Apache-2.0
"""What a graph costs: nominal multiply-adds, executed operations, estimated cycles and energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from biotrain.ir.graph import Graph, Loop, Node, Span, Step, flat_nodes
from biotrain.ir.op import OPS
from biotrain.targets.target import Target


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one training sample, forward and backward, the update shared by its group."""

    macs: int
    """Nominal multiply-adds of the direct algorithms."""
    ops: int
    """Multiplies and adds that the kernels execute (a multiply-add counts twice)."""
    cycles: float
    """Estimate: operations times the target's cycles per operation of each op; 0 where time is not
    modelled."""
    ms: float
    mj: float


def area_ops(whole: int, area: int, size: tuple[int, int]) -> int:
    """The share of `whole` operations that `area` elements of an iteration space of `size` are."""
    full = size[0] * size[1]
    return whole if area == full else -(-whole * area // max(full, 1))


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


def node_cycles(nodes: Sequence[Node], target: Target) -> float:
    """Estimated cycles of some nodes; 0 where the target's time is not modelled."""
    if not target.cycles_per_op:
        return 0.0
    total = 0.0
    for node in nodes:
        if isinstance(node, Loop):
            total += sum(step_ops(s) * target.price(s.node.op) for s in node.body)
        else:
            total += OPS[node.op].ops(node) * target.price(node.op)
    return total


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
    return cost_of(node_macs(graph.nodes), ops, cycles, target)


def cost_of(macs: int, ops: int, cycles: float, target: Target) -> Cost:
    """Time and energy of a number of cycles."""
    ms = 1e3 * cycles / target.clock_hz if target.clock_hz else 0.0
    mj = ms * target.mw_per_mhz * target.clock_hz * 1e-6 * 1e-3
    return Cost(macs, ops, cycles, ms, mj)
