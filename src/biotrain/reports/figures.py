# SPDX-License-Identifier: Apache-2.0
"""The plan as a picture: which buffer lies where in the arena, and from when to when; the frontier.

Nothing of pyplot's global state is used, and equal plans give equal figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from biotrain.emit.build import Build
from biotrain.planner.place import L1, Buffer
from biotrain.planner.plan import Plan, Point
from biotrain.reports.published import Reference
from biotrain.reports.timeline import Role, Timeline, timeline

# Okabe and Ito's colours, which people who see colours differently can tell apart.
COLOURS: dict[Role, str] = {
    "input": "#009E73",
    "activation": "#56B4E9",
    "recomputed": "#0072B2",
    "statistics": "#CC79A7",
    "gradient": "#E69F00",
}
RAM_COLOURS = {
    "parameters": "#0072B2",
    "gradients": "#D55E00",
    "optimizer": "#F0E442",
    "running statistics": "#CC79A7",
    "arena": "#BBBBBB",
    "stack, runtime": "#555555",
}
"""Parts of the whole RAM."""
GREY, DASHED = "#BBBBBB", (0, (4, 3))
"""A colour, and matplotlib's pattern of dashes."""

OTHER_COLOURS = ("#CC79A7", "#E69F00")
"""Colours of the frontiers of other packages."""
LOOP_COLOURS = {"rows": "#EDEDED", "time": "#FBEBD0"}
"""Background of the loops, by axis."""
TICKS_KB = [m * 10**e for e in range(6) for m in (1, 2, 3, 5)]
"""Where ticks may stand on a logarithmic axis of kilobytes."""

DPI = 120

TEXT_POINTS = 7.0
"""Font size of names, in points."""
CHAR_WIDTH = 0.58
"""Width of a character as a share of the font size: an upper estimate for lower case letters."""


def plan_figure(
    pkg: Build,
    known: Sequence[Reference] = (),
    others: Mapping[str, Sequence[Point]] = MappingProxyType({}),
) -> Figure:
    """Above the arena over the schedule of one training sample: each buffer a rectangle, from the
    schedule step of its first write to that of its last read, at its byte offset; at the right the
    whole RAM by part. Below, where the package knows a frontier, RAM against operations, with what
    others report (`known`), and the frontiers of `others` by name."""
    plan, line = pkg.plan, timeline(pkg)
    buffers = [b for b in plan.buffers if b.memory != L1]
    count = len(line.nodes)
    several = len(plan.points) > 1
    width = min(18.0, 7.5 + 0.09 * count)
    fig = Figure(figsize=(width, 10.0 if several else 6.0), dpi=DPI, layout="constrained")
    rows: Any = fig.subfigures(2, 1, height_ratios=(6, 4)) if several else (fig,)
    upper = rows[0]
    left, right = upper.subplots(1, 2, width_ratios=(width - 1.5, 0.5))
    unit, scale = ("kB", 1e3) if plan.peak_bytes >= 10_000 else ("B", 1.0)
    top = max(plan.peak_bytes, 1) / scale
    left.set_xlim(0, count + 1)
    left.set_ylim(0, top * 1.13)
    for buffer in buffers:
        low, high = buffer.offset / scale, buffer.size / scale
        edge = 0.5 if high > 0.01 * top else 0.15
        found = line.contents(buffer)
        ends = [*(at for at, _ in found[1:]), buffer.last + 1]
        for (at, kind), end in zip(found, ends, strict=True):
            left.add_patch(
                Rectangle((at, low), end - at, high, fc=COLOURS[kind], ec="black", linewidth=edge)
            )
    _in_use(left, buffers, count, scale)
    left.axhline(plan.peak_bytes / scale, color=GREY, linewidth=3, zorder=0.5)
    left.axhline(plan.lower_bound_bytes / scale, color="black", linewidth=1.2, linestyle=DASHED)
    _schedule(left, pkg, line, (width - 2.9) / (count + 1))
    left.set_ylabel(f"offset in the arena ({unit})")
    left.spines[["top", "right"]].set_visible(False)
    axes_of_loops = dict.fromkeys(loop.name for loop in line.loops)
    upper.legend(
        handles=[
            *[Patch(facecolor=c, edgecolor="black", label=r) for r, c in COLOURS.items()],
            *[Patch(facecolor=LOOP_COLOURS[a], label=f"loop over {a}") for a in axes_of_loops],
            Line2D([], [], color="#D00000", linewidth=1.4, label="bytes in use"),
            Line2D([], [], color=GREY, linewidth=3, label=f"arena {plan.peak_bytes:,} B"),
            Line2D(
                [], [], color="black", linewidth=1.2, linestyle=DASHED,
                label=f"lower bound {plan.lower_bound_bytes:,} B",
            ),
        ],
        loc="outside lower center", ncols=10 if width > 11 else 5, frameon=False, fontsize=8,
    )  # fmt: skip
    _ram_parts(right, pkg)
    if several:
        _frontier(rows[1].subplots(1, 1), plan, known, others)
        rows[1].legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    fig.suptitle(
        f"{pkg.source.title} on {pkg.target.name}: {plan.ram_bytes:,} B of RAM, "
        f"{plan.ops:,} operations ({plan.ops / max(plan.base_ops, 1) - 1:+.1%} to direct)\n"
        f"arena {plan.peak_bytes:,} B ({len(buffers)} buffers), "
        f"trained parameters {plan.param_bytes:,} B, gradients {plan.gradient_bytes:,} B, "
        f"optimizer {plan.optimizer_bytes:,} B, stack {plan.stack_bytes:,} B",
        fontsize=10,
    )
    fig.draw_without_rendering()  # settles the layout, and with it which names fit
    for buffer in plan.buffers:
        _name(left, buffer, scale)
    return fig


def _frontier(
    axes: Axes,
    plan: Plan,
    known: Sequence[Reference],
    others: Mapping[str, Sequence[Point]],
) -> None:
    """RAM against operations of all plans, the chosen one marked, with what others report."""
    points, own = plan.points, plan.point
    x = [p.ram_bytes / 1e3 for p in points]
    y = [p.ops / 1e6 for p in points]
    other_points = [p for points in others.values() for p in points]
    for (name, other), colour in zip(others.items(), OTHER_COLOURS, strict=False):
        axes.plot(
            [p.ram_bytes / 1e3 for p in other], [p.ops / 1e6 for p in other], "s-", color=colour,
            markersize=4, linewidth=1.0, drawstyle="steps-pre", label=name, zorder=2,
        )  # fmt: skip
    axes.step(x, y, where="pre", color=GREY, linewidth=1.2, zorder=1)
    axes.plot(x, y, "o", color="#0072B2", markersize=5, label="plans", zorder=3)
    axes.plot(
        [own.ram_bytes / 1e3], [own.ops / 1e6], "o", color="#D00000", markersize=9, zorder=4,
        label=f"this plan: {own.ram_bytes / 1e3:,.0f} kB",
    )  # fmt: skip
    axes.axhline(
        plan.base_ops / 1e6, color="black", linewidth=0.9, linestyle=":", zorder=0,
        label="direct algorithms, everything stored",
    )  # fmt: skip
    fixed = own.ram_bytes - own.arena_bytes
    axes.axvline(
        fixed / 1e3, color="#009E73", linewidth=1.2, linestyle=DASHED, zorder=0,
        label=f"without any arena: {fixed / 1e3:,.0f} kB",
    )  # fmt: skip
    axes.set_xscale("log")
    every = [*x, fixed / 1e3, *(r.ram_bytes / 1e3 for r in known)]
    every += [p.ram_bytes / 1e3 for p in other_points]
    low, high = min(every) / 1.15, max(every) * 1.2
    axes.set_xlim(low, high)
    ticks = [t for t in TICKS_KB if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
    axes.minorticks_off()
    work = [*y, plan.base_ops / 1e6, *(p.ops / 1e6 for p in other_points)]
    bottom, top = min(work), max(work)
    height = max(top - bottom, 0.05 * top)
    axes.set_ylim(bottom - 0.12 * height, top + 0.35 * height)
    for one in known:
        colour = "#D55E00" if one.ops else "#555555"
        axes.axvline(one.ram_bytes / 1e3, color=colour, linewidth=1.2, zorder=0)
        if one.ops:
            axes.plot([one.ram_bytes / 1e3], [one.ops / 1e6], "D", color=colour, markersize=6)
        axes.annotate(
            f"{one.label}\n{one.ram_bytes / 1e3:,.0f} kB", (one.ram_bytes / 1e3, 1), (-3, -3),
            xycoords=("data", "axes fraction"), textcoords="offset points", ha="right", va="top",
            rotation=90, fontsize=8, color=colour,
        )  # fmt: skip
    axes.set_xlabel("whole RAM of the plan (kB)")
    axes.set_ylabel("million operations per sample")
    base = max(plan.base_ops / 1e6, 1e-9)
    share = axes.twinx()
    share.set_ylim(*(100 * (v / base - 1) for v in axes.get_ylim()))
    share.set_ylabel("% to direct")
    for one_side in (axes, share):
        one_side.spines["top"].set_visible(False)


def _name(axes: Axes, buffer: Buffer, scale: float) -> None:
    """Write the name of a buffer into its rectangle, where it fits."""
    low = axes.transData.transform((buffer.first, buffer.offset / scale))
    high = axes.transData.transform((buffer.last + 1, (buffer.offset + buffer.size) / scale))
    w, h = (high - low) * 72 / DPI  # points
    texts = [" = ".join(buffer.members), buffer.value]
    if len(buffer.members) > 1:
        texts.insert(1, f"{buffer.value} = …")
    for text, rotation in [(t, r) for t in texts for r in (0, 90)]:
        along, across = (w, h) if rotation == 0 else (h, w)
        if len(text) * TEXT_POINTS * CHAR_WIDTH < along - 4 and across > TEXT_POINTS * 1.15:
            x, y = axes.transData.inverted().transform((low + high) / 2)
            axes.text(
                x, y, text, ha="center", va="center_baseline", rotation=rotation,
                fontsize=TEXT_POINTS, clip_on=True, in_layout=False,
            )  # fmt: skip
            return


def _in_use(axes: Axes, buffers: Sequence[Buffer], count: int, scale: float) -> None:
    """Bytes in use at each of `count` schedule steps, as a line."""
    used = [sum(b.size for b in buffers if b.first <= t <= b.last) for t in range(count + 1)]
    axes.stairs([u / scale for u in used], range(count + 2), color="#D00000", linewidth=1.4)


def _schedule(axes: Axes, pkg: Build, line: Timeline, per_x: float) -> None:
    """Layer names under the nodes that stem from them, the phases of the schedule, the loops."""
    ticks: list[float] = []
    names: list[str] = []
    at = 0
    origins = [n.origin if n else "" for n in line.nodes]
    for phase in line.phases:
        if phase.name == "loss":
            origins[phase.first : phase.stop] = ["loss"] * (phase.stop - phase.first)
    outer = {o.partition(".")[0] for o in origins if "." in o}
    common = f"{outer.pop()}." if len(outer) == 1 else ""  # a wrapper of the whole network
    for name, run in groupby(o.removeprefix(common) for o in origins):
        length = len(list(run))
        middle = at + length / 2
        at += length
        # A name takes about its font size in width; where they crowd, the later one goes without.
        if name and (not ticks or (middle - ticks[-1]) * per_x * 72 > TEXT_POINTS * 1.25):
            ticks.append(middle)
            names.append(name)
    axes.set_xticks(ticks, names, rotation=90, fontsize=TEXT_POINTS)
    axes.tick_params(axis="x", length=2)
    high = axes.get_ylim()[1]
    for phase in line.phases:
        if phase.first > 0:
            axes.axvline(phase.first, color="black", linewidth=0.7, linestyle=":")
        axes.text(
            (phase.first + phase.stop) / 2, high, phase.name, ha="center", va="bottom", fontsize=9,
            style="italic",
        )  # fmt: skip
    for loop in line.loops:
        axes.axvspan(loop.first, loop.stop, color=LOOP_COLOURS[loop.name], linewidth=0, zorder=0)
        axes.plot(
            [loop.first + 0.1, loop.stop - 0.1], [high * 0.93] * 2, color="#555555", linewidth=1.5,
            solid_capstyle="butt",
        )  # fmt: skip
        characters = (loop.stop - loop.first) * per_x * 72 / (TEXT_POINTS * CHAR_WIDTH)
        kind = "rows" if loop.name == "rows" else "tiles"
        for text in (f"{loop.count} {kind}", f"x{loop.count}"):
            if len(text) < characters:
                axes.text(
                    (loop.first + loop.stop) / 2, high * 0.94, text, ha="center", va="bottom",
                    fontsize=TEXT_POINTS, clip_on=True, in_layout=False,
                )  # fmt: skip
                break


def _ram_parts(axes: Axes, pkg: Build) -> None:
    """The whole RAM as one bar, by part."""
    plan = pkg.plan
    known = (
        plan.param_bytes,
        plan.gradient_bytes,
        plan.optimizer_bytes,
        plan.state_bytes,
        plan.peak_bytes,
    )
    sizes = (*known, plan.ram_bytes - sum(known))
    bottom, label = 0.0, 0.02
    total = max(plan.ram_bytes, 1)
    for (name, colour), size in zip(RAM_COLOURS.items(), sizes, strict=True):
        if not size:
            continue
        share = size / total
        axes.bar(0, share, 0.9, bottom=bottom, color=colour, edgecolor="black", linewidth=0.5)
        at = max(bottom + share / 2, label)  # names of thin parts move up
        ends = [bottom + share / 2, at]
        axes.plot([0.45, 0.6], ends, color="black", linewidth=0.5, clip_on=False)
        axes.text(0.65, at, f"{name}\n{size:,} B", va="center", fontsize=TEXT_POINTS)
        bottom, label = bottom + share, at + 0.06
    axes.set_xlim(-0.5, 0.5)
    axes.set_ylim(0, max(1.0, label - 0.04))
    axes.set_xticks([0], ["whole RAM"], fontsize=8)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
