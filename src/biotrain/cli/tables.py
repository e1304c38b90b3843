# SPDX-License-Identifier: Apache-2.0
"""A plan as tables and as JSON."""

from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from biotrain.cli.console import table
from biotrain.package import Package

LARGEST = 10
"""Buffers that the table names."""


def plan_json(pkg: Package) -> dict[str, Any]:
    """The contract's keys, and what the plan is of."""
    return {
        "title": pkg.source.title,
        "target": pkg.target.name,
        "strategy": pkg.strategy,
        "accumulate": pkg.source.accumulate,
        "gradients": pkg.source.gradients,
        **pkg.plan.to_json(),
    }


def _gradients(pkg: Package) -> str:
    places = {"momentum": "in the momentum", "update": "in the arena, until the update"}
    return places.get(pkg.source.gradients, f"sums over {pkg.source.accumulate} samples")


def parts(pkg: Package) -> list[tuple[str, int, str]]:
    """The whole RAM by part: name, bytes, remark."""
    plan = pkg.plan
    known = (
        ("parameters", plan.param_bytes, f"{plan.trained_params:,} of {plan.params:,} train"),
        ("gradients", plan.gradient_bytes, _gradients(pkg)),
        ("optimizer", plan.optimizer_bytes, ", ".join(pkg.source.optimizer.slots)),
        ("running statistics", plan.state_bytes, ""),
        ("arena", plan.peak_bytes, f"{len(plan.buffers)} buffers"),
        ("stack", plan.stack_bytes, f"reserve of {pkg.target.name}"),
    )
    rest = plan.ram_bytes - sum(size for _, size, _ in known)
    return [*known, ("runtime", rest, "fields of the context")]


def ram_table(pkg: Package) -> Table:
    """The whole RAM by part."""
    made = table("RAM", "bytes", "", numbers=[1])
    for name, size, remark in parts(pkg):
        made.add_row(name, f"{size:,}", remark)
    limit = pkg.target.memory("ram").bytes
    share = f"{pkg.plan.ram_bytes / limit:.0%} of {limit:,} on {pkg.target.name}" if limit else ""
    made.add_row("whole RAM", f"{pkg.plan.ram_bytes:,}", share, style="bold")
    return made


def cost_table(pkg: Package) -> Table:
    """Flash and work."""
    plan, target = pkg.plan, pkg.target
    made = table("per training sample", "", "", numbers=[1])
    made.add_row("multiply-adds (nominal)", f"{plan.macs:,}", "forward and backward")
    made.add_row("operations", f"{plan.ops:,}", "executed multiplies and adds, update shared")
    if plan.cycles:
        made.add_row("cycles", f"{plan.cycles:,.0f}", f"estimate, {target.cycles_per_op:g} per op")
    if plan.ms_per_sample:
        made.add_row("ms", f"{plan.ms_per_sample:,.2f}", f"at {target.clock_hz / 1e6:g} MHz")
    if plan.mj_per_sample:
        made.add_row("mJ", f"{plan.mj_per_sample:.3g}", "")
    made.add_row("flash, bytes", f"{plan.flash_bytes:,}", "weights and constants, without code")
    made.add_row("lower bound, bytes", f"{plan.lower_bound_bytes:,}", "of the arena")
    return made


def buffer_table(pkg: Package) -> Table:
    """The largest buffers and when they live."""
    nodes = pkg.graph.nodes

    def when(index: int) -> str:
        if index >= len(nodes):
            return f"{index} (the end)"
        return f"{index} {nodes[index].op}"

    made = table("largest buffers", "bytes", "offset", "from node", "to node", numbers=[1, 2])
    largest = sorted(pkg.plan.buffers, key=lambda b: (-b.size, b.first))[:LARGEST]
    for b in largest:
        names = " = ".join(b.members)
        made.add_row(names, f"{b.size:,}", f"{b.offset:,}", when(b.first), when(b.last))
    return made


def frontier_table(pkg: Package) -> Table:
    """RAM against work over all plans that were found."""
    made = table("RAM of plan", "operations", "cycles", numbers=[0, 1, 2])
    for point in pkg.plan.to_json()["frontier"]:
        cycles = f"{point['cycles']:,.0f}" if point["cycles"] else "-"
        made.add_row(f"{point['ram_bytes']:,}", f"{point['ops']:,}", cycles)
    return made


def plan_tables(pkg: Package) -> RenderableType:
    """All that `biotrain plan` prints."""
    target = pkg.target
    head = Text(f"{pkg.source.title}, target {target.name} ({target.description})", style="bold")
    choices = Text("choices\n") + Text("\n".join(f"  {c}" for c in pkg.plan.choices))
    tables = (ram_table(pkg), cost_table(pkg), buffer_table(pkg))
    blocks: list[Any] = [*tables, choices, frontier_table(pkg)]
    return Group(head, *(Padding(block, (1, 0, 0, 0)) for block in blocks))
