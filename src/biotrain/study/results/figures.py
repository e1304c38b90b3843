# SPDX-License-Identifier: Apache-2.0
"""The figures of a report, each of one condition (data set, model, scenario). Equal rows give equal
figures; nothing of pyplot's global state is used. Accuracies are drawn in %."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from biotrain.study.results.plots import COLOURS
from biotrain.study.results.statistics import (
    Condition,
    Rows,
    by_subject,
    conditions,
    select,
    spread,
    strategies_of,
)
from biotrain.writing import drawing

MARKERS = "osD^vP*Xh<>"
"""Matplotlib's markers, one per strategy."""
GREY = "0.7"
WIDTH_INCHES = 6.4


class Style:
    """A colour and a marker per strategy, the same in every figure of a report."""

    def __init__(self, strategies: Sequence[str]) -> None:
        self.colours = {s: COLOURS[k % len(COLOURS)] for k, s in enumerate(strategies)}
        self.markers = {s: MARKERS[k % len(MARKERS)] for k, s in enumerate(strategies)}
        self.lines = {s: "-" if k < len(COLOURS) else "--" for k, s in enumerate(strategies)}


def _figure(columns: int = 1, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    fig = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    axes = list(np.atleast_1d(fig.subplots(1, columns, squeeze=False)[0]))
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
    return fig, axes


def _chance(axes: Axes, rows: Rows) -> None:
    chance = 100 * rows[0].chance
    low, high = axes.get_ylim()
    if chance > low - 0.3 * (high - low):
        axes.set_ylim(min(low, chance - 0.03 * (high - low)), high)
        axes.axhline(chance, color="black", linewidth=0.8, linestyle=":", zorder=0)
        axes.annotate(
            "chance",
            (1, chance),
            (-2, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            fontsize=7,
        )


def _percent(axes: Axes, metric: str) -> None:
    axes.set_ylabel(f"{metric.replace('_', ' ')} (%)", fontsize=9)
    low, high = axes.get_ylim()
    axes.set_ylim(max(0, low), min(103, max(high, low + 5)))


def overview(rows: Rows, metric: str, style: Style) -> Figure:
    """Every strategy in every condition but the size curves: mean over subjects, its interval."""
    found = [c for c in conditions(rows) if c[3] is None]
    names = strategies_of(rows)
    columns = min(3, len(found))
    lines = -(-len(found) // columns)
    size = (1.0 + 2.6 * columns, lines * (0.75 + 0.19 * len(names)))
    fig = Figure(figsize=size, layout="constrained")
    grid = fig.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, condition in zip(grid.flat, found, strict=False):
        dataset, model, scenario, _ = condition
        for k, name in enumerate(names):
            own = select(rows, condition, name)
            if not own:
                continue
            value = spread(by_subject(own, metric).values())
            mean, low, high = (100 * v for v in (value.mean, value.low, value.high))
            axes.hlines(k, low, high, color=style.colours[name], linewidth=2, alpha=0.6)
            axes.scatter(mean, k, s=22, color=style.colours[name], marker=style.markers[name])
            axes.annotate(f"{mean:.1f}", (1, k), (3, 0), xycoords=("axes fraction", "data"),
                          textcoords="offset points", fontsize=7, va="center")  # fmt: skip
        chance = 100 * select(rows, condition, strategies_of(rows, condition)[0])[0].chance
        if chance > axes.get_xlim()[0] - 10:
            axes.axvline(chance, color="black", linewidth=0.8, linestyle=":", zorder=0)
        when = {"day1": "Day-1", "longitudinal": "later sessions"}[scenario]
        axes.set_title(f"{dataset}, {model}\n{when}", fontsize=8)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="0.92")
        axes.set_axisbelow(True)
    for axes in list(grid.flat)[len(found) :]:
        axes.set_visible(False)
    grid[0, 0].invert_yaxis()
    fig.supxlabel(f"{metric.replace('_', ' ')} (%)", fontsize=9)
    return fig


def subjects(rows: Rows, condition: Condition, metric: str, style: Style) -> Figure:
    """A grey line per subject through the strategies, the mean of each as a bar."""
    strategies = strategies_of(rows, condition)
    values = {s: by_subject(select(rows, condition, s), metric) for s in strategies}
    fig, (axes,) = _figure()
    for person in sorted({p for found in values.values() for p in found}):
        at = [k for k, s in enumerate(strategies) if person in values[s]]
        heights = [100 * values[strategies[k]][person] for k in at]
        axes.plot(at, heights, color=GREY, linewidth=1.0, zorder=1)
    for k, s in enumerate(strategies):
        found = [100 * v for v in values[s].values()]
        axes.scatter(
            [k] * len(found), found, s=14, color=style.colours[s], zorder=2, marker=style.markers[s]
        )
        mean = float(np.mean(found))
        axes.hlines(mean, k - 0.28, k + 0.28, color=style.colours[s], linewidth=3, zorder=3)
        axes.annotate(f"{mean:.1f}", (k + 0.3, mean), fontsize=8, va="center")
    axes.set_xticks(range(len(strategies)), strategies, fontsize=8)
    if len(strategies) > 5:
        axes.tick_params(axis="x", rotation=25)
    axes.set_xlim(-0.5, len(strategies) - 0.2)
    _percent(axes, metric)
    _chance(axes, select(rows, condition, strategies[0]))
    return fig


def cost(rows: Rows, condition: Condition, metric: str, style: Style) -> Figure | None:
    """Mean accuracy against RAM, and against energy where the target states it, else operations;
    None where nothing was compiled."""
    named = [
        s
        for s in strategies_of(rows, condition)
        if select(rows, condition, s)[0].ram_bytes is not None
    ]
    if not named:
        return None
    own = {s: select(rows, condition, s) for s in named}
    powered = all(row.mj_per_sample for found in own.values() for row in found)
    fig, pair = _figure(2, 3.2)
    work = ("mj_per_sample", "mJ per training sample (estimate)", 1.0)
    if not powered:
        work = ("ops", "million operations per training sample", 1e6)
    for axes, (key, label, unit) in zip(pair, (("ram_bytes", "RAM (kB)", 1e3), work), strict=True):
        for s in named:
            x = float(np.mean([getattr(row, key) for row in own[s]])) / unit
            y = 100 * float(np.mean(list(by_subject(own[s], metric).values())))
            axes.scatter(x, y, s=40, color=style.colours[s], marker=style.markers[s], label=s)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label, fontsize=9)
        low, high = axes.get_xlim()
        axes.set_xlim(low / 1.15, high * 1.5)
        ticks = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)]
        axes.set_xticks([t for t in ticks if low / 1.15 <= t <= high * 1.5])
    _percent(pair[0], metric)
    _legend(pair[1], named)
    return fig


def drift(rows: Rows, condition: Condition, style: Style) -> Figure:
    """Over the sessions in order: accuracy before adapting in each (thin) and after it (thick),
    mean over subjects; the first point is Day-1."""
    dataset, model, _, _ = condition
    fig, (axes,) = _figure()
    day1: Condition = (dataset, model, "day1", None)
    ranks = _ranks([*rows])
    strategies = strategies_of(rows, condition)
    for s in strategies:
        own = [*select(rows, day1, s), *select(rows, condition, s)]
        places = sorted({ranks[row.subject, row.session] for row in own})
        for key in ("before", "accuracy"):
            after = key == "accuracy"
            if not after and s == "none":
                continue
            means = []
            for place in places:
                here = [r for r in own if ranks[r.subject, r.session] == place]
                means.append(100 * float(np.mean(list(by_subject(here, key).values()))))
            axes.plot(
                [p + 1 for p in places],
                means,
                color=style.colours[s],
                marker=style.markers[s],
                markersize=4 if after else 2.5,
                linewidth=1.8 if after else 0.9,
                linestyle=style.lines[s] if after else ":",
                label=s if after else None,
            )
    axes.set_xlabel("session (dotted: before adapting in it)", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _percent(axes, "accuracy")
    _legend(axes, strategies)
    return fig


def _ranks(rows: Rows) -> dict[tuple[int, int], int]:
    """(subject, session) -> which of the subject's sessions it is, from 0."""
    out: dict[tuple[int, int], int] = {}
    for subject in {row.subject for row in rows}:
        there = sorted({row.session for row in rows if row.subject == subject})
        out |= {(subject, session): k for k, session in enumerate(there)}
    return out


def _legend(axes: Axes, strategies: Sequence[str]) -> None:
    axes.legend(
        frameon=False,
        fontsize=8,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        ncols=1 if len(strategies) < 12 else 2,
    )


def curves(rows: Rows, condition: Condition, style: Style) -> Figure:
    """Accuracy on the test part over the epochs of calibration, mean over subjects."""
    fig, (axes,) = _figure()
    strategies = strategies_of(rows, condition)
    own = {s: [row.curve for row in select(rows, condition, s)] for s in strategies}
    still = {s for s in strategies if not any(r.steps for r in select(rows, condition, s))}
    longest = max(len(curve) for found in own.values() for curve in found)
    for s, found in own.items():
        length = max(map(len, found))
        padded = [curve + curve[-1:] * (length - len(curve)) for curve in found]
        mean = 100 * np.mean(np.array(padded), axis=0)
        if s in still:  # no steps, so nothing over epochs
            mean = np.repeat(mean[-1], longest)
        axes.plot(mean, color=style.colours[s], linewidth=1.6, linestyle=style.lines[s], label=s)
    axes.set_xlabel("epochs of calibration", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _percent(axes, "accuracy")
    _chance(axes, select(rows, condition, strategies[0]))
    _legend(axes, strategies)
    return fig


def sizes(rows: Rows, dataset: str, model: str, metric: str, style: Style) -> Figure:
    """Mean accuracy over windows per class, of the subjects that have them all, where there are
    such; the last point is the whole calibration part."""
    fig, (axes,) = _figure()
    own = [r for r in rows if (r.dataset, r.model) == (dataset, model)]
    strategies = strategies_of(r for r in own if r.scenario == "sizes")
    counts = sorted({r.windows_per_class or 0 for r in own if r.scenario == "sizes"})
    people = [{r.subject for r in own if r.windows_per_class == n} for n in counts]
    common = set.intersection(*people)
    own = [r for r in own if r.subject in common] if common else own
    whole = any(r.scenario == "day1" for r in own)
    for s in strategies:
        conditions: list[Condition] = [(dataset, model, "sizes", n) for n in counts]
        conditions += [(dataset, model, "day1", None)] if whole else []
        found = [by_subject(select(own, c, s), metric).values() for c in conditions]
        points = [(k, 100 * float(np.mean(list(v)))) for k, v in enumerate(found) if v]
        axes.plot(
            [k for k, _ in points],
            [y for _, y in points],
            color=style.colours[s],
            marker=style.markers[s],
            markersize=4,
            linestyle=style.lines[s],
            label=s,
        )
    labels = [str(n) for n in counts] + (["all"] if whole else [])
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("calibration windows per class", fontsize=9)
    _percent(axes, metric)
    _legend(axes, strategies)
    return fig


MATRICES_SHOWN = 3
"""Confusion matrices side by side."""


def confusion(
    rows: Rows,
    condition: Condition,
    classes: Sequence[str],
    strategies: Sequence[str],
) -> Figure:
    """How often each class (row) was predicted as each (column), in % of the row, all subjects."""
    count = len(classes)
    fig, all_axes = _figure(len(strategies), 0.9 + WIDTH_INCHES / max(len(strategies), 2) * 0.95)
    for axes, s in zip(all_axes, strategies, strict=True):
        total = np.sum([row.confusion for row in select(rows, condition, s)], axis=0)
        share = 100 * total / np.maximum(total.sum(1, keepdims=True), 1)
        edges = np.arange(count + 1) - 0.5
        axes.pcolormesh(edges, edges, share, cmap="Blues", vmin=0, vmax=100, edgecolors="white")
        axes.invert_yaxis()
        axes.set_aspect("equal")
        for i, j in np.ndindex(share.shape):
            axes.text(
                j,
                i,
                f"{share[i, j]:.0f}",
                ha="center",
                va="center",
                fontsize=8 if count < 5 else 6,
                color="white" if share[i, j] > 60 else "black",
            )
        axes.set_xticks(range(count), classes, fontsize=7, rotation=45, ha="right")
        axes.set_yticks(range(count), classes if axes is all_axes[0] else [""] * count, fontsize=7)
        axes.set_title(s, fontsize=9)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted class", fontsize=8)
    all_axes[0].set_ylabel("true class", fontsize=8)
    return fig


def as_svg(fig: Figure, salt: str) -> str:
    """The <svg> element alone; `salt` keeps the ids of several figures on one page apart."""
    found = drawing.as_svg(fig, salt, about=False).decode()
    return found[found.index("<svg") :]
