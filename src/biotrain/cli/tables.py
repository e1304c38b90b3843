# SPDX-License-Identifier: Apache-2.0
"""A plan as tables and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from biotrain.cli.console import table
from biotrain.package import Package
from biotrain.planner.plan import Point
from biotrain.reports.battery import BATTERY_MAH, BATTERY_VOLTS, WINDOWS, calibration
from biotrain.reports.published import Reference
from biotrain.reports.timeline import timeline
from biotrain.run.front_cost import FrontCost

LARGEST_BUFFERS = 10
"""Buffers that the table names."""


def plan_json(pkg: Package) -> dict[str, Any]:
    """The JSON of a plan: the contract's keys, and what was planned."""
    return {
        "title": pkg.source.title,
        "target": pkg.target.name,
        "strategy": pkg.strategy,
        "accumulate": pkg.source.accumulate,
        "batch": pkg.source.batch.size if pkg.source.batch else 1,
        "gradients": pkg.source.gradients,
        **pkg.plan.to_json(),
        "calibration": None if (one := calibration(pkg)) is None else asdict(one),
    }


def _gradients(pkg: Package) -> str:
    places = {"momentum": "in the momentum", "update": "in the arena, until the update"}
    batch = pkg.source.batch
    count = batch.size if batch else pkg.source.accumulate
    return places.get(pkg.source.gradients, f"sums over {count} samples")


def parts(pkg: Package) -> list[tuple[str, int, str]]:
    """The whole RAM by part: name, bytes, remark."""
    plan = pkg.plan
    known = [
        ("parameters", plan.param_bytes, f"{plan.trained_params:,} of {plan.params:,} train"),
        ("gradients", plan.gradient_bytes, _gradients(pkg)),
        ("optimizer", plan.optimizer_bytes, ", ".join(pkg.source.optimizer.slots)),
        ("running statistics", plan.state_bytes, ""),
        ("arena", plan.peak_bytes, f"{len(plan.buffers)} buffers"),
        *_live_parts(pkg),
        ("stack", plan.stack_bytes, f"reserve of {pkg.target.name}"),
    ]
    rest = plan.ram_bytes - sum(size for _, size, _ in known)
    return [*known, ("runtime", rest, "fields of the context")]


def _live_parts(pkg: Package) -> list[tuple[str, int, str]]:
    """The parts of the live firmware, or the front end where that is all."""
    plan, live = pkg.plan, pkg.source.live
    if live is None:
        return [("front end", plan.live_bytes, "")] if plan.live_bytes else []
    remarks = {
        "capture ring": f"{live.ring_frames} frames",
        "sample store": f"{live.live.store_pages} pages of flash",
        "session": "calibration, checkpoints, guards, counters",
    }
    return [
        ("arena of predictions", plan.predict_arena_bytes, "used between two training slices"),
        *((name, size, remarks.get(name, "")) for name, size in live.parts.items()),
    ]


def ram_table(pkg: Package) -> Table:
    """The whole RAM by part, as a table."""
    made = table("RAM", "bytes", "", numbers=[1])
    for name, size, remark in parts(pkg):
        made.add_row(name, f"{size:,}", remark)
    limit = pkg.target.memory("ram").bytes
    share = f"{pkg.plan.ram_bytes / limit:.0%} of {limit:,} on {pkg.target.name}" if limit else ""
    made.add_row("whole RAM", f"{pkg.plan.ram_bytes:,}", share, style="bold")
    return made


def cost_table(pkg: Package) -> Table:
    """What a training sample costs: operations, cycles, time, energy; flash and the lower bound."""
    plan, target = pkg.plan, pkg.target
    made = table("per training sample", "", "", numbers=[1])
    made.add_row("multiply-adds (nominal)", f"{plan.macs:,}", "forward and backward")
    made.add_row("operations", f"{plan.ops:,}", "executed multiplies and adds, update shared")
    if plan.cycles:
        speed = ", for optimize speed" if plan.optimize == "size" else ""
        each = f"estimated by shape{speed}, {plan.cycles / max(plan.ops, 1):.2f} per operation"
        made.add_row("cycles", f"{plan.cycles:,.0f}", each)
    if plan.ms_per_sample:
        made.add_row("ms", f"{plan.ms_per_sample:,.2f}", f"at {target.clock_hz / 1e6:g} MHz")
    if plan.mj_per_sample:
        made.add_row("mJ", f"{plan.mj_per_sample:.3g}", "")
    if plan.longest_slice_cycles:
        longest = f"{plan.longest_slice}; it cannot be paused"
        made.add_row("longest slice, cycles", f"{plan.longest_slice_cycles:,}", longest)
    if pkg.source.live is not None:
        pages = f"{pkg.source.live.pages} pages of windows and checkpoints"
        made.add_row("flash it writes, bytes", f"{pkg.source.live.flash_bytes:,}", pages)
    made.add_row("flash, bytes", f"{plan.flash_bytes:,}", "weights and constants, without code")
    above = plan.peak_bytes - plan.lower_bound_bytes
    share = above / max(plan.lower_bound_bytes, 1)
    gap = f"which lies {above:,} above it ({share:.1%})" if above else "which meets it"
    made.add_row("lower bound, bytes", f"{plan.lower_bound_bytes:,}", f"of the arena, {gap}")
    return made


def front_table(cost: FrontCost) -> Table:
    """What the front end costs on the target."""
    made = table(f"front end on {cost.target}", "", "", numbers=[1])
    made.add_row("cycles per frame", f"{cost.cycles_per_frame:,.0f}", cost.source)
    if cost.cycles_per_window:
        made.add_row("cycles per window", f"{cost.cycles_per_window:,.0f}", "to copy it")
    if cost.share:
        made.add_row("share of the core", f"{100 * cost.share:.2f} %", "")
    if cost.mw:
        made.add_row("mW", f"{cost.mw:.3g}", "while it records")
    made.add_row("RAM, bytes", f"{cost.ram_bytes:,}", "counted in the whole RAM")
    if cost.code_bytes:
        made.add_row("flash, bytes", f"{cost.code_bytes:,}", "code and coefficients")
    return made


def calibration_table(pkg: Package) -> Table | None:
    """One calibration on the board, where its time is known."""
    one = calibration(pkg)
    if one is None:
        return None
    made = table("one calibration (estimate)", "", "", numbers=[1])
    if one.windows_that_fit is not None:
        flash = pkg.target.memory("flash").bytes
        made.add_row(
            "windows that fit", f"{one.windows_that_fit:,}", f"int16, in {flash:,} of flash"
        )
    made.add_row(
        "minutes", f"{one.minutes:,.1f}", f"{one.epochs} epochs over {one.windows} windows"
    )
    if one.joules:
        text = f"one a day, nothing else, {BATTERY_MAH:g} mAh at {BATTERY_VOLTS:g} V"
        made.add_row("joules", f"{one.joules:,.3g}", "of the core")
        made.add_row("months of battery", f"{one.battery_months:,.1f}", text)
    if one.windows < WINDOWS:
        made.add_row("", "", f"fewer than {WINDOWS} windows: a shorter window, or memory outside")
    return made


def buffer_table(pkg: Package) -> Table:
    """The largest buffers, with the schedule steps of their first write and last read."""
    nodes = timeline(pkg).nodes

    def when(index: int) -> str:
        node = nodes[index] if index < len(nodes) else None
        return f"{index} {node.op}" if node else f"{index} (the end)"

    made = table("largest buffers", "bytes", "offset", "from node", "to node", numbers=[1, 2])
    largest = sorted(pkg.plan.buffers, key=lambda b: (-b.size, b.first))[:LARGEST_BUFFERS]
    for b in largest:
        names = " = ".join(b.members[:3]) + (" = ..." if len(b.members) > 3 else "")
        made.add_row(names, f"{b.size:,}", f"{b.offset:,}", when(b.first), when(b.last))
    return made


THIS = "<- this plan"


def frontier_table(
    pkg: Package,
    known: Sequence[Reference] = (),
    others: Mapping[str, Sequence[Point]] = MappingProxyType({}),
) -> Table:
    """RAM against work over all plans that were found, with what others report (`known`) and the
    plans of other packages (`others`) by name."""
    plan, target = pkg.plan, pkg.target
    timed, powered = target.cycles_per_op and target.clock_hz, target.mw_per_mhz
    work = [name for name, there in (("ms", timed), ("mJ", powered)) if there]
    if target.cycles_per_op and not timed:
        work.insert(0, "cycles")
    columns = ["whole RAM", "gap", "operations", "to direct", *work]
    made = table(*columns, "", numbers=range(len(columns)))
    made.columns[-1].min_width = len(THIS)  # whole, on 80 columns too

    def against(ops: int) -> str:
        return f"{ops / plan.base_ops - 1:+.1%}" if plan.base_ops and ops else "-"

    rows: list[tuple[int, list[str], str | None]] = []
    named = [(name, point) for name, points in others.items() for point in points]
    for name, point in [*(("", point) for point in plan.points), *named]:
        values = {
            "cycles": f"{point.cycles:,.0f}",
            "ms": f"{point.ms_per_sample:,.1f}",
            "mJ": f"{point.mj_per_sample:.3g}",
        }
        above = point.arena_bytes - point.lower_bound_bytes
        cells = [f"{point.ram_bytes:,}", f"{above:,}", f"{point.ops:,}"]
        cells += [against(point.ops), *(values[name] for name in work)]
        own = not name and point == plan.point
        cells.append(THIS if own else name)
        rows.append((point.ram_bytes, cells, "bold" if own else "italic" if name else None))
    for one in known:
        cells = [f"{one.ram_bytes:,}", "-", f"{one.ops:,}" if one.ops else "-"]
        cells += [against(one.ops), *("-" for _ in work), one.label]
        rows.append((one.ram_bytes, cells, "italic"))
    for _, cells, style in sorted(rows, key=lambda row: -row[0]):
        made.add_row(*cells, style=style)
    return made


def frontier_notes(pkg: Package, known: Sequence[Reference] = ()) -> str:
    """What the columns of the frontier mean, and where the figures of others come from."""
    lines = [
        "RAM against work, the fastest plan first",
        f"  to direct: {pkg.plan.base_ops:,} operations, direct algorithms with everything stored",
        "  gap: bytes of the arena above bound, the most that is alive in one schedule step",
    ]
    sources: dict[str, list[str]] = {}
    for one in known:
        sources.setdefault(one.source, []).append(one.label)
    lines += [f"  {', '.join(labels)}: {source}" for source, labels in sources.items()]
    return "\n".join(lines)


def plan_tables(
    pkg: Package,
    known: Sequence[Reference] = (),
    others: Mapping[str, Sequence[Point]] = MappingProxyType({}),
) -> RenderableType:
    """All tables of `biotrain plan`."""
    target = pkg.target
    head = Text(f"{pkg.source.title}, target {target.name} ({target.description})", style="bold")
    choices = Text("choices\n") + Text("\n".join(f"  {c}" for c in pkg.plan.choices))
    made = (ram_table(pkg), cost_table(pkg), calibration_table(pkg), buffer_table(pkg))
    tables = [one for one in made if one is not None]
    blocks: list[Any] = [*tables, choices, Text(frontier_notes(pkg, known))]
    if target.boot_note:
        blocks.insert(0, Text(target.boot_note))
    padded = (Padding(block, (1, 0, 0, 0)) for block in blocks)
    return Group(head, *padded, frontier_table(pkg, known, others))
