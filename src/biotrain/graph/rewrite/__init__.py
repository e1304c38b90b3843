# SPDX-License-Identifier: Apache-2.0
"""Rewrites, graph to graph, each alone and with a switch; none names a model, layer or shape.

*Algebraic* ones change rounding: they belong to the package and run before anything is planned.
*Neutral* ones keep every bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from biotrain.errors import BioTrainError
from biotrain.graph.rewrite.columns import columns
from biotrain.graph.rewrite.fastconv import Price, fastconv, fft
from biotrain.graph.rewrite.fuse import fuse
from biotrain.graph.rewrite.int16 import keep_int16
from biotrain.graph.rewrite.moments import moments
from biotrain.graph.rewrite.one_pass import one_pass
from biotrain.graph.rewrite.pooled_sums import pooled_sums
from biotrain.graph.rewrite.precision import keep_half
from biotrain.graph.rewrite.time_last import time_last
from biotrain.ir.graph import Graph, verify

FORWARD: dict[str, Callable[[Graph, Sequence[str], Price | None], Graph]] = {
    "columns": lambda graph, trained, price: columns(graph, trained),
    "moments": lambda graph, trained, price: moments(graph, trained),
    "pooled_sums": lambda graph, trained, price: pooled_sums(graph, trained),
    "fastconv": lambda graph, trained, price: fastconv(graph, price=price),
    "fft": lambda graph, trained, price: fft(graph),
}
"""Algebraic, on forward graphs; they are told what trains (nothing, for predictions), and what an
operation of an op costs where the target's cycles are known."""

GRADIENT: dict[str, Callable[[Graph], Graph]] = {"one_pass": one_pass}
"""Algebraic, on the differentiated graph."""

REWRITES: dict[str, Callable[[Graph], Graph]] = {"fuse": fuse}
"""Neutral, on the differentiated graph."""

LAYOUT = ("time_last",)
"""Algebraic, on all forward graphs of a network at once, before any other: see `time_last`."""

NAMES = (*LAYOUT, *FORWARD, *GRADIENT, *REWRITES)
"""What `bt.compile(rewrites=...)` takes, in the order in which they run."""

ASKED = ("fastconv", "fft")
"""Those that are asked for: `fastconv` takes what is fastest on the target, so that two targets may
have other bits, and `fft` transforms wherever that saves operations."""

DEFAULT = tuple(name for name in NAMES if name not in ASKED)
"""Those that run unless told otherwise."""

__all__ = [
    "ASKED",
    "DEFAULT",
    "FORWARD",
    "GRADIENT",
    "LAYOUT",
    "NAMES",
    "REWRITES",
    "fastconv",
    "fft",
    "fuse",
    "keep_half",
    "keep_int16",
    "rewrite_forward",
    "rewrite_training",
    "time_last",
]


def check_names(names: Sequence[str]) -> None:
    """Raise `BioTrainError` for a name that no rewrite has."""
    for name in names:
        if name not in NAMES:
            raise BioTrainError(f"no rewrite is called '{name}'; there are: {', '.join(NAMES)}")


def rewrite_forward(
    graph: Graph, names: Sequence[str], trained: Sequence[str] = (), price: Price | None = None
) -> Graph:
    """Run those of the named rewrites that work on forward graphs.

    `price`: cycles per operation of an op on the target; None where they are not known.
    """
    check_names(names)
    for name, rewrite in FORWARD.items():
        if name in names:
            graph = rewrite(graph, trained, price)
            verify(graph)
    return graph


def rewrite_training(graph: Graph, names: Sequence[str]) -> Graph:
    """Run those of the named rewrites that work on differentiated graphs."""
    check_names(names)
    for name, rewrite in {**GRADIENT, **REWRITES}.items():
        if name in names:
            graph = rewrite(graph)
            verify(graph)
    return graph
