# SPDX-License-Identifier: Apache-2.0
"""The plan as a picture: which buffer lies where in the arena, and from which node to which.

Nothing of pyplot's global state is used, and equal plans give equal figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from biotrain.ir import Graph
from biotrain.memory import Buffer
from biotrain.package import Package

Role = Literal["input", "activation", "statistics", "gradient"]

# Okabe and Ito's colours, which people who see colours differently can tell apart.
COLOURS: dict[Role, str] = {
    "input": "#009E73",
    "activation": "#56B4E9",
    "statistics": "#CC79A7",
    "gradient": "#E69F00",
}
PARTS = ("parameters", "gradients", "optimizer", "running statistics", "arena", "stack, runtime")
GREY, DASHED = "#BBBBBB", (0, (4, 3))
PART_COLOURS = ("#0072B2", "#D55E00", "#F0E442", "#CC79A7", "#BBBBBB", "#555555")

DPI = 120

TEXT = 7.0
"""Font size of names, in points."""
CHAR = 0.58
"""Width of a character as a share of the font size: an upper estimate for lower case letters."""


def phases(graph: Graph) -> tuple[int, int]:
    """(first node of the loss, first node of the backward pass); both are the number of nodes where
    there is neither."""
    count = len(graph.nodes)
    loss = graph.outputs[-1].name
    at = next(
        (i for i, n in enumerate(graph.nodes) if any(v.name == loss for v in n.outputs)), count
    )
    after = at
    while after < count and graph.nodes[after].op.startswith(graph.nodes[at].op):
        after += 1
    return at, after


def roles(graph: Graph, buffer: Buffer) -> list[tuple[int, Role]]:
    """What a buffer holds from which node on: a gradient may take over an activation's bytes."""
    loss, _ = phases(graph)
    births = {v.name: i for i, node in enumerate(graph.nodes) for v in node.outputs}
    inputs = [v.name for v in graph.inputs]
    found: list[tuple[int, Role]] = []
    for name in buffer.members:
        at = births.get(name, 0)
        kind: Role
        if name in inputs:
            kind = "input"
        elif any(word in graph.nodes[at].op for word in ("moments", "stats", "sums")):
            kind = "statistics"
        else:
            kind = "activation" if at <= loss else "gradient"
        # What is made of the input in place, or is another view of it, stays its colour.
        forward = found and found[-1][1] == "input" and kind == "activation"
        if not found or (found[-1][1] != kind and not forward):
            found.append((at, kind))
    return found


def plan_figure(pkg: Package) -> Figure:
    """Left the arena over the schedule of one training sample: each buffer a rectangle, from the
    node that first writes it to the one that last reads it, at its byte offset. Right the whole
    RAM by part."""
    graph, plan = pkg.graph, pkg.plan
    count = len(graph.nodes)
    width = min(18.0, 7.0 + 0.09 * count)
    fig = Figure(figsize=(width, 6.0), dpi=DPI, layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(width - 1.5, 0.5))
    unit, scale = ("kB", 1e3) if plan.peak_bytes >= 10_000 else ("B", 1.0)
    top = max(plan.peak_bytes, 1) / scale
    left.set_xlim(0, count + 1)
    left.set_ylim(0, top * 1.09)
    for buffer in plan.buffers:
        low, high = buffer.offset / scale, buffer.size / scale
        found = roles(graph, buffer)
        ends = [*(at for at, _ in found[1:]), buffer.last + 1]
        for (at, kind), end in zip(found, ends, strict=True):
            left.add_patch(
                Rectangle((at, low), end - at, high, fc=COLOURS[kind], ec="black", linewidth=0.5)
            )
    _in_use(left, plan.buffers, count, scale)
    left.axhline(plan.peak_bytes / scale, color=GREY, linewidth=3, zorder=0.5)
    left.axhline(plan.lower_bound_bytes / scale, color="black", linewidth=1.2, linestyle=DASHED)
    _schedule(left, graph, (width - 2.9) / (count + 1))
    left.set_ylabel(f"offset in the arena ({unit})")
    left.spines[["top", "right"]].set_visible(False)
    fig.legend(
        handles=[
            *[Patch(facecolor=c, edgecolor="black", label=r) for r, c in COLOURS.items()],
            Line2D([], [], color="#D00000", linewidth=1.4, label="bytes in use"),
            Line2D([], [], color=GREY, linewidth=3, label=f"arena {plan.peak_bytes:,} B"),
            Line2D(
                [], [], color="black", linewidth=1.2, linestyle=DASHED,
                label=f"lower bound {plan.lower_bound_bytes:,} B",
            ),
        ],
        loc="outside lower center", ncols=7, frameon=False, fontsize=8,
    )  # fmt: skip
    _parts(right, pkg)
    fig.suptitle(
        f"{pkg.source.title} on {pkg.target.name}: {plan.ram_bytes:,} B of RAM\n"
        f"arena {plan.peak_bytes:,} B ({len(plan.buffers)} buffers), "
        f"trained parameters {plan.param_bytes:,} B, gradients {plan.gradient_bytes:,} B, "
        f"optimizer {plan.optimizer_bytes:,} B, stack {plan.stack_bytes:,} B",
        fontsize=10,
    )
    fig.draw_without_rendering()  # settles the layout, and with it what a name has room for
    for buffer in plan.buffers:
        _name(left, buffer, scale)
    return fig


def _name(axes: Axes, buffer: Buffer, scale: float) -> None:
    """The name of a buffer in its rectangle, where there is room for it."""
    low = axes.transData.transform((buffer.first, buffer.offset / scale))
    high = axes.transData.transform((buffer.last + 1, (buffer.offset + buffer.size) / scale))
    w, h = (high - low) * 72 / DPI  # points
    texts = [" = ".join(buffer.members), buffer.value]
    if len(buffer.members) > 1:
        texts.insert(1, f"{buffer.value} = …")
    for text, rotation in [(t, r) for t in texts for r in (0, 90)]:
        along, across = (w, h) if rotation == 0 else (h, w)
        if len(text) * TEXT * CHAR < along - 4 and across > TEXT * 1.15:
            x, y = axes.transData.inverted().transform((low + high) / 2)
            axes.text(
                x, y, text, ha="center", va="center_baseline", rotation=rotation, fontsize=TEXT,
                clip_on=True, in_layout=False,
            )  # fmt: skip
            return


def _in_use(axes: Axes, buffers: Sequence[Buffer], count: int, scale: float) -> None:
    used = [sum(b.size for b in buffers if b.first <= t <= b.last) for t in range(count + 1)]
    axes.stairs([u / scale for u in used], range(count + 2), color="#D00000", linewidth=1.4)


def _schedule(axes: Axes, graph: Graph, per_x: float) -> None:
    """Layer names under the nodes that stem from them, and the three parts of the schedule."""
    loss, backward = phases(graph)
    count = len(graph.nodes)
    ticks: list[float] = []
    names: list[str] = []
    at = 0

    outer = {n.origin.partition(".")[0] for n in graph.nodes if "." in n.origin}
    common = f"{outer.pop()}." if len(outer) == 1 else ""  # a wrapper of the whole network

    def layer(pair: tuple[int, str]) -> str:
        return "loss" if loss <= pair[0] < backward else pair[1].removeprefix(common)

    for name, run in groupby(((i, n.origin) for i, n in enumerate(graph.nodes)), layer):
        length = len(list(run))
        middle = at + length / 2
        at += length
        # A name takes about its font size in width; where they crowd, the later one goes without.
        if name and (not ticks or (middle - ticks[-1]) * per_x * 72 > TEXT * 1.25):
            ticks.append(middle)
            names.append(name)
    axes.set_xticks(ticks, names, rotation=90, fontsize=TEXT)
    axes.tick_params(axis="x", length=2)
    for border in (loss, backward):
        if 0 < border < count:
            axes.axvline(border, color="black", linewidth=0.7, linestyle=":")
    high = axes.get_ylim()[1]
    spans = (("forward", 0, loss), ("loss", loss, backward), ("backward", backward, count))
    for name, first, last in spans:
        if last > first:
            axes.text(
                (first + last) / 2, high, name, ha="center", va="bottom", fontsize=9, style="italic"
            )


def _parts(axes: Axes, pkg: Package) -> None:
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
    for name, size, colour in zip(PARTS, sizes, PART_COLOURS, strict=True):
        if not size:
            continue
        share = size / total
        axes.bar(0, share, 0.9, bottom=bottom, color=colour, edgecolor="black", linewidth=0.5)
        at = max(bottom + share / 2, label)  # names of thin parts move up
        ends = [bottom + share / 2, at]
        axes.plot([0.45, 0.6], ends, color="black", linewidth=0.5, clip_on=False)
        axes.text(0.65, at, f"{name}\n{size:,} B", va="center", fontsize=TEXT)
        bottom, label = bottom + share, at + 0.06
    axes.set_xlim(-0.5, 0.5)
    axes.set_ylim(0, max(1.0, label - 0.04))
    axes.set_xticks([0], ["whole RAM"], fontsize=8)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
