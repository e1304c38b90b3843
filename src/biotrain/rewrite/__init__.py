# SPDX-License-Identifier: Apache-2.0
"""Rewrites, graph to graph, each alone and with a switch; none names a model, layer or shape."""

from __future__ import annotations

from collections.abc import Callable

from biotrain.ir import Graph
from biotrain.rewrite.fuse import fuse

REWRITES: dict[str, Callable[[Graph], Graph]] = {"fuse": fuse}
"""By the name that `bt.compile(rewrites=...)` takes, in the order in which they run."""

__all__ = ["REWRITES", "fuse"]
