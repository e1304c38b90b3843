# SPDX-License-Identifier: Apache-2.0
"""Rewrites, graph to graph, each alone and with a switch; none names a model, layer or shape.

*Algebraic* ones change rounding: they belong to the package and run before anything is planned.
*Neutral* ones keep every bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from biotrain.errors import BioTrainError
from biotrain.ir import Graph, verify
from biotrain.rewrite.fastconv import fastconv
from biotrain.rewrite.fuse import fuse
from biotrain.rewrite.int16 import keep_int16
from biotrain.rewrite.moments import moments
from biotrain.rewrite.one_pass import one_pass
from biotrain.rewrite.pooled_sums import pooled_sums
from biotrain.rewrite.precision import keep_half

FORWARD: dict[str, Callable[[Graph, Sequence[str]], Graph]] = {
    "moments": moments,
    "pooled_sums": pooled_sums,
    "fastconv": lambda graph, trained: fastconv(graph),
}
"""Algebraic, on forward graphs; they are told what trains (nothing, for predictions)."""

GRADIENT: dict[str, Callable[[Graph], Graph]] = {"one_pass": one_pass}
"""Algebraic, on the differentiated graph."""

REWRITES: dict[str, Callable[[Graph], Graph]] = {"fuse": fuse}
"""Neutral, on the differentiated graph."""

NAMES = (*FORWARD, *GRADIENT, *REWRITES)
"""What `bt.compile(rewrites=...)` takes, in the order in which they run."""

DEFAULT = tuple(name for name in NAMES if name != "fastconv")
"""Those that run unless told otherwise. Fast convolutions save operations and time on the host, but
not yet instructions of small cores: they are asked for."""

__all__ = [
    "DEFAULT",
    "FORWARD",
    "GRADIENT",
    "NAMES",
    "REWRITES",
    "fastconv",
    "fuse",
    "keep_half",
    "keep_int16",
    "rewrite_forward",
    "rewrite_training",
]


def check_names(names: Sequence[str]) -> None:
    """Raise `BioTrainError` for a name that no rewrite has."""
    for name in names:
        if name not in NAMES:
            raise BioTrainError(f"no rewrite is called '{name}'; there are: {', '.join(NAMES)}")


def rewrite_forward(graph: Graph, names: Sequence[str], trained: Sequence[str] = ()) -> Graph:
    """Run those of the named rewrites that work on forward graphs."""
    check_names(names)
    for name, rewrite in FORWARD.items():
        if name in names:
            graph = rewrite(graph, trained)
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
