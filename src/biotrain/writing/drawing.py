# SPDX-License-Identifier: Apache-2.0
"""A figure becomes bytes: the same figure always the same, names of others as plain text."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from biotrain.errors import BioTrainError
from biotrain.writing.files import write_file
from biotrain.writing.text import drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG: Mapping[str, str | None] = {"Date": None, "Creator": "BioTrain"}
_PLAIN_SVG: Mapping[str, str | None] = {"Date": None, "Creator": None, "Format": None, "Type": None}


def as_png(fig: Figure) -> bytes:
    """The figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(fig)
    return _saved(fig, "png", {"Software": None}, "biotrain")


def as_svg(fig: Figure, salt: str = "biotrain", *, about: bool = True) -> bytes:
    """The figure as SVG. `salt` keeps the ids of several figures on one page apart; `about`: with
    the name of the program in its metadata."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(fig)
    return _saved(fig, "svg", _SVG if about else _PLAIN_SVG, salt)


def save(fig: Figure, path: str | Path) -> Path:
    """Write `fig` as PNG or SVG, by the suffix.

    Raises BioTrainError for another suffix or where it cannot be written.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in (".png", ".svg"):
        raise BioTrainError(f"{target}: a figure is .png or .svg")
    write_file(target, as_png(fig) if suffix == ".png" else as_svg(fig))
    return target


def _saved(fig: Figure, kind: str, metadata: Mapping[str, str | None], salt: str) -> bytes:
    import matplotlib

    data = io.BytesIO()
    with matplotlib.rc_context(
        {"svg.hashsalt": salt, "svg.fonttype": "none", "text.parse_math": False}
    ):  # ticks are made while the figure is drawn
        _as_text(fig)
        fig.savefig(data, format=kind, metadata=metadata)
    return data.getvalue()


def _as_text(fig: Figure) -> None:
    """Every text that is there is shown as it is: no formula between dollars, no control codes."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    for text in fig.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_text(drawn(text.get_text()))
    for axes in fig.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for formatter in (axis.get_major_formatter(), axis.get_minor_formatter()):
                if isinstance(formatter, FixedFormatter):
                    formatter.seq = [drawn(str(one)) for one in formatter.seq]
                if isinstance(formatter, FuncFormatter):  # what set_xticks makes of labels
                    formatter.func = _shown(formatter.func)


def _shown(label: Callable[..., str]) -> Callable[..., str]:
    return lambda *at: drawn(label(*at))
