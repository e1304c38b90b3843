# SPDX-License-Identifier: Apache-2.0
"""Cycles per operation of each kernel family, from measured profiles: the planner's prices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from biotrain.graph.cost import step_ops
from biotrain.ir.graph import Loop, Node, flat_nodes
from biotrain.ir.op import OPS
from biotrain.run.profile import Profile

LEAST_SHARE = 0.001
"""A kernel with a smaller share of the cycles of a run is left out of that run: it says nothing."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the nodes of one op cost in a run."""

    op: str
    macs: int
    """Nominal multiply-adds."""
    ops: int
    """Executed multiplies and adds, as the planner counts them."""
    instructions: int
    cycles: int


def measured(profile: Profile, nodes: Sequence[Node]) -> list[Measured]:
    """The kernels of a run of `nodes`, once each, beside the operations of the planner."""
    macs: defaultdict[str, int] = defaultdict(int)
    ops: defaultdict[str, int] = defaultdict(int)
    for node in nodes:
        if isinstance(node, Loop):
            for step in node.body:
                macs[step.node.op] += OPS[step.node.op].macs(step.node)
                ops[step.node.op] += step_ops(step)
        else:
            macs[node.op] += OPS[node.op].macs(node)
            ops[node.op] += OPS[node.op].ops(node)
    rows = {row.name: row for row in profile.rows("kernel")}
    return [
        Measured(op, macs[op], ops[op], rows[op].instructions, rows[op].cycles)
        for op in ops
        if op in rows
    ]


def shared(functions: Mapping[str, int], stem: str, nodes: Sequence[Node]) -> list[Measured]:
    """The ops of a source file whose kernels share functions, `bt_<stem>_...`, in a run of `nodes`.

    `functions`: cycles by function. They are divided by the operations of the planner, so that each
    op has the same cycles per operation.
    """
    macs: defaultdict[str, int] = defaultdict(int)
    ops: defaultdict[str, int] = defaultdict(int)
    for node in flat_nodes(nodes):
        if OPS[node.op].source == f"bt_{stem}.h" and OPS[node.op].ops(node):
            macs[node.op] += OPS[node.op].macs(node)
            ops[node.op] += OPS[node.op].ops(node)
    spent = sum(cycles for name, cycles in functions.items() if name.startswith(f"bt_{stem}_"))
    total = sum(ops.values())
    return [Measured(op, macs[op], ops[op], 0, round(spent * ops[op] / total)) for op in ops]


def cycles_per_op(runs: Iterable[Sequence[Measured]]) -> dict[str, float]:
    """Cycles per operation by op, and of all together as `default`: the mean over several runs."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for run in runs:
        total = sum(m.cycles for m in run)
        found["default"].append(total / max(sum(m.ops for m in run), 1))
        for m in run:
            if m.ops and m.cycles >= LEAST_SHARE * total:
                found[m.op].append(m.cycles / m.ops)
    names = ["default", *sorted(set(found) - {"default"})]
    return {name: fmean(found[name]) for name in names}
