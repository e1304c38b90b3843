# SPDX-License-Identifier: Apache-2.0
"""A live session as a picture: labels and predictions, their accuracy, and the calibrations."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biotrain.live.session import RECENT, Session

RIGHT_COLOUR, WRONG_COLOUR = "#0072B2", "#D55E00"
LABEL_COLOUR, CALIBRATION_COLOUR = "#BBBBBB", "#F7E3B0"
NOTE_COLOURS = {
    "calibrated": "#009E73",
    "restarted": "#555555",
    "gap": "#999999",
    "drifted": "#CC79A7",
    "failed": WRONG_COLOUR,
}


def figure(session: Session, title: str = "") -> Figure:
    """Above the share of the newest labelled windows that were right, over time; below each window:
    its label (grey) and what was predicted (blue where right). Calibrations are shaded."""
    fig = Figure(figsize=(10, 5.2), dpi=120, layout="constrained")
    above, below = fig.subplots(2, 1, sharex=True, height_ratios=(1, 1.2))
    minutes = session.t > 300
    unit = 60.0 if minutes else 1.0
    for axes in (above, below):
        for begin, end in session.calibrating:
            axes.axvspan(begin / unit, end / unit, color=CALIBRATION_COLOUR, zorder=0)
        for note in session.notes:
            if note.kind in NOTE_COLOURS:
                axes.axvline(note.t / unit, color=NOTE_COLOURS[note.kind], linewidth=0.9, zorder=1)
        axes.spines[["top", "right"]].set_visible(False)
    _accuracy(above, session, unit)
    _windows(below, session, unit)
    below.set_xlabel("minutes of signal" if minutes else "seconds of signal")
    if title:
        fig.suptitle(title, fontsize=11)
    return fig


def _accuracy(axes: Axes, session: Session, unit: float) -> None:
    known = [p for p in session.predictions if p.label >= 0]
    right = np.array([float(bool(p.right)) for p in known])
    sums = np.concatenate([[0.0], np.cumsum(right)])
    ends = np.arange(1, len(right) + 1)
    begins = np.maximum(ends - RECENT, 0)
    share = 100 * (sums[ends] - sums[begins]) / np.maximum(ends - begins, 1)
    first = RECENT // 3  # of fewer a share says little
    axes.plot([p.t / unit for p in known][first:], share[first:], color=RIGHT_COLOUR, linewidth=1.4)
    axes.axhline(100 / len(session.classes), color="black", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_ylim(0, 103)
    axes.set_ylabel(f"right, of the newest {RECENT} (%)")
    for note in session.notes:
        if note.kind in NOTE_COLOURS:
            axes.annotate(
                note.text, (note.t / unit, 2), (2, 0), textcoords="offset points", rotation=90,
                fontsize=6, color=NOTE_COLOURS[note.kind], va="bottom", clip_on=True,
            )  # fmt: skip


def _windows(axes: Axes, session: Session, unit: float) -> None:
    found = session.predictions
    t = np.array([p.t for p in found]) / unit
    labels = np.array([p.label for p in found], np.float64)
    predicted = np.array([p.predicted for p in found], np.float64)
    known = np.where(labels < 0, np.nan, labels)
    jumps = np.flatnonzero(np.diff(labels, prepend=labels[:1]) != 0)
    axes.plot(
        np.insert(t, jumps, t[jumps]), np.insert(known, jumps, np.nan), color=LABEL_COLOUR,
        linewidth=5, zorder=2,
    )  # fmt: skip
    right = labels == predicted
    for chosen, colour in ((right, RIGHT_COLOUR), (~right & (labels >= 0), WRONG_COLOUR)):
        axes.scatter(t[chosen], predicted[chosen], s=5, color=colour, zorder=3)
    rest = labels < 0
    axes.scatter(t[rest], predicted[rest], s=3, color="black", zorder=3)
    axes.set_yticks(range(len(session.classes)), session.classes)
    axes.set_ylim(-0.6, len(session.classes) - 0.4)
