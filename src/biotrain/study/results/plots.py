# SPDX-License-Identifier: Apache-2.0
"""Figures of a study. Equal results give equal bytes; nothing of pyplot's global state is used."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from biotrain.study.adapt import AdaptResult, Curve

# Okabe and Ito's colours, which people who see colours differently can tell apart.
COLOURS = ("#999999", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def figure(result: AdaptResult) -> Figure:
    """Left the accuracy of each strategy (a point per subject, a bar for their mean), right the
    accuracy on the test part over the epochs of calibration (mean over subjects and seeds)."""
    settings = result.settings
    strategies = list(dict.fromkeys(row.strategy for row in result.rows))
    colours = {s: COLOURS[k % len(COLOURS)] for k, s in enumerate(strategies)}
    fig = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    left, right = fig.subplots(1, 2, sharey=True)
    _strategies(left, result, strategies, colours)
    chance = 100 * result.rows[0].chance
    _curves(right, result.curves, strategies, colours, chance)
    for axes in (left, right):
        axes.axhline(chance, color="black", linewidth=0.8, linestyle=":", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(0, 103)
    right.annotate("chance", (0, chance), (2, 3), xycoords=("axes fraction", "data"),
                   textcoords="offset points", ha="left", fontsize=8)  # fmt: skip
    fig.suptitle(
        f"{settings.dataset}: {settings.model}, new subject, split {settings.split}",
        fontsize=11,
    )
    return fig


def _strategies(
    axes: Axes, result: AdaptResult, strategies: Sequence[str], colours: dict[str, str]
) -> None:
    values: dict[str, dict[int, float]] = {}
    for strategy in strategies:
        rows = [row for row in result.rows if row.strategy == strategy]
        subjects = sorted({row.subject for row in rows})
        values[strategy] = {
            s: 100 * float(np.mean([row.accuracy for row in rows if row.subject == s]))
            for s in subjects
        }
    everyone = sorted({s for found in values.values() for s in found})
    for s in everyone:  # a thin line joins the points of one subject
        at = [k for k, strategy in enumerate(strategies) if s in values[strategy]]
        axes.plot(at, [values[strategies[k]][s] for k in at], color="0.8", linewidth=0.7, zorder=1)
    for k, strategy in enumerate(strategies):
        found = list(values[strategy].values())
        mean = float(np.mean(found))
        axes.bar(k, mean, 0.6, color=colours[strategy], alpha=0.35, zorder=0)
        axes.scatter([k] * len(found), found, s=18, color=colours[strategy], zorder=2)
        axes.annotate(f"{mean:.1f}", (k, 1.5), ha="center", fontsize=9)
    shown = [s.replace(" (", "\n(").replace("+", "+\n") for s in strategies]
    axes.set_xticks(range(len(strategies)), shown)
    axes.set_ylabel("accuracy on the test part (%)")
    people = "1 subject" if len(everyone) == 1 else f"{len(everyone)} subjects"
    axes.set_title(f"after calibration, {people}", fontsize=10)


def _curves(
    axes: Axes,
    curves: Sequence[Curve],
    strategies: Sequence[str],
    colours: dict[str, str],
    chance: float,
) -> None:
    longest = max(len(curve.accuracy) for curve in curves)
    for strategy in strategies:
        found = [c.accuracy for c in curves if c.strategy == strategy]
        mean = 100 * np.mean(np.array(found), axis=0)
        mean = np.append(mean, np.repeat(mean[-1], longest - len(mean)))  # nothing was trained
        axes.plot(range(len(mean)), mean, color=colours[strategy], linewidth=1.6, label=strategy)
    axes.set_xlabel("epochs of calibration")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("while calibrating (mean)", fontsize=10)
    axes.legend(
        framealpha=0.9,
        edgecolor="none",
        fontsize=8,
        loc="lower right",
        bbox_to_anchor=(1, chance / 103),
    )
