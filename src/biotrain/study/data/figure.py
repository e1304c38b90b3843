# SPDX-License-Identifier: Apache-2.0
"""A few windows of every class as a picture, to see what the labels mean before anything is
trained on them."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biotrain.study.data.recordings import Recordings

SHOWN_WINDOWS = 3
"""Per class, evenly over the recordings."""
SHOWN_CHANNELS = 16
SHOWN_CLASSES = 12
COLOURS = ("#0072B2", "#D55E00", "#009E73")


def figure(rec: Recordings) -> Figure:
    """A panel per class; its channels one below the other, all panels on one scale."""
    classes = range(min(rec.n_classes, SHOWN_CLASSES))
    chosen = {k: _some(np.flatnonzero(rec.y == k)) for k in classes}
    every = rec.signal(np.concatenate(list(chosen.values())))[:, :SHOWN_CHANNELS]
    centred = every - np.median(every, axis=2, keepdims=True)
    step = 6 * float(np.median(centred.std(axis=2))) or 1.0
    columns = min(4, len(classes))
    rows = -(-len(classes) // columns)
    height = 1.2 + 0.28 * every.shape[1]
    fig = Figure(figsize=(3.2 * columns, height * rows), dpi=110, layout="constrained")
    panels = fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for k, axes in zip(classes, panels, strict=False):
        _panel(axes, rec, k, chosen[k], step)
        axes.tick_params("x", labelsize=8, labelbottom=k + columns >= len(classes))
    for axes in panels[len(classes) :]:
        axes.set_axis_off()
    kind = "synthetic, " if rec.synthetic else ""
    fig.suptitle(
        f"{rec.name}: {kind}{step:.3g} {rec.unit.split(' ')[0]} between channels", fontsize=10
    )
    return fig


def _some(idx: np.ndarray) -> np.ndarray:
    """`SHOWN_WINDOWS` of the windows, evenly spread."""
    return idx[np.unique(np.linspace(0, len(idx) - 1, SHOWN_WINDOWS).astype(np.int64))]


def _panel(axes: Axes, rec: Recordings, label: int, idx: np.ndarray, step: float) -> None:
    seconds = np.arange(rec.n_times) / rec.fs
    names = rec.channels[:SHOWN_CHANNELS]
    places = -step * np.arange(len(names))
    for signal, colour in zip(rec.signal(idx), COLOURS, strict=False):
        rows = signal[: len(names)]
        rows = rows - np.median(rows, axis=1, keepdims=True) + places[:, None]
        axes.plot(seconds, rows.T, color=colour, linewidth=0.6)
    axes.set_title(f"{rec.classes[label]} ({int((rec.y == label).sum())} windows)", fontsize=9)
    axes.set_yticks(places, names, fontsize=7)
    axes.set_ylim(places[-1] - step, step)
    axes.set_xlabel("s", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
