# SPDX-License-Identifier: Apache-2.0
"""What trains: `none`, `last`, `bias`, `norm`, `full`, or a glob of parameter names."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from biotrain.errors import BioTrainError
from biotrain.ir.graph import Graph

STRATEGIES = ("none", "last", "bias", "norm", "full")


def trainable(strategy: str, graph: Graph, torch_names: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the values that train, in torch's order.

    Parameters
    ----------
    strategy : `none`; `last`, the parameters of the last layer that has any; `bias`, every
        parameter called bias; `norm`, the affine parameters of norm layers; `full`; or a glob such
        as `block2.*`, matched against torch's parameter names.
    """
    names = [v.name for v in graph.params]
    if strategy == "none":
        chosen: list[str] = []
    elif strategy == "full":
        chosen = names
    elif strategy == "bias":
        chosen = [n for n in names if torch_names[n].rpartition(".")[2] == "bias"]
    elif strategy == "norm":
        used = [v.name for node in graph.nodes if node.op == "norm_apply" for v in node.inputs[2:]]
        chosen = [n for n in names if n in used]
    elif strategy == "last":
        last = next(
            (n for n in reversed(graph.nodes) if any(v.kind == "param" for v in n.inputs)), None
        )
        layer = (
            torch_names[next(v.name for v in last.inputs if v.kind == "param")].rpartition(".")[0]
            if last
            else ""
        )
        chosen = [n for n in names if torch_names[n].rpartition(".")[0] == layer]
    else:
        chosen = [n for n in names if fnmatchcase(torch_names[n], strategy)]
    if not chosen and strategy != "none":
        known = ", ".join(torch_names[n] for n in names)
        raise BioTrainError(
            f"strategy '{strategy}' trains no parameter; strategies are {', '.join(STRATEGIES)} "
            f"or a glob over: {known}"
        )
    return tuple(chosen)
