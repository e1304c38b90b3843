# SPDX-License-Identifier: Apache-2.0
"""BatchNorm over a batch: the statistics of one sample become those of all samples.

    stats = group_stats(moments)  ->  stats = batch_stats(join_moments(moments))
    means = group_sums(sums)      ->  means = batch_sums(join_sums(sums))

A `join` stands where a sum over the samples of the batch must be complete before the graph can go
on; the planner turns it into the end of a loop over the samples (`planner/batch_norm.py`).
"""

from __future__ import annotations

from dataclasses import replace

from biotrain.errors import BioTrainError
from biotrain.ir.graph import Graph, Node, Value
from biotrain.ir.op import Builder

OVER_BATCH = {
    "group_stats": "batch_stats",
    "group_sums": "batch_sums",
    "running_update": "batch_update",
}
"""Ops over one sample, and those that do the same over the batch."""

JOINS = ("join_moments", "join_sums")
"""Ops whose result is complete after the last sample of the batch."""


def with_joins(graph: Graph) -> Graph:
    """Rewrite the graph of one sample so that its batch norms take statistics over the batch.

    Raises `BioTrainError` where the model has no BatchNorm that takes statistics of its own.
    """
    marked = [n for n in graph.nodes if n.op == "group_stats" and n.get("batch", False)]
    if not marked:
        raise BioTrainError(
            "a batch larger than one changes nothing here: the model has no BatchNorm that takes "
            "statistics of its own (prepare it with norm='batch'); use accumulate"
        )
    stats = dict.fromkeys(n.outputs[0].name for n in marked)
    moments = dict.fromkeys(n.inputs[0].name for n in marked)
    means = _means(graph, stats)
    b = Builder(taken=[v.name for v in graph.values()])
    joined: dict[str, Value] = {}
    for node in graph.nodes:
        source = node.inputs[0] if node.inputs else node.outputs[0]
        wanted = (
            (node.op == "group_stats" and node.outputs[0].name in stats)
            or (node.op == "group_sums" and node.outputs[0].name in means)
            or (node.op == "running_update" and source.name in moments)
        )
        if not wanted:
            mixes = any(v.name in means for v in node.inputs)
            if mixes and node.op in ("mix_dw", "mix_db"):
                node = replace(node, attrs=tuple(sorted((*node.attrs, ("batch", True)))))
            b.nodes.append(node)
            continue
        b.origin = node.origin
        if source.name not in joined:
            kind = "join_sums" if node.op == "group_sums" else "join_moments"
            times = {} if kind == "join_sums" else {"times": node.int("times")}
            joined[source.name] = b.one(kind, source, hint=f"all_{source.name}", **times)
        b.nodes.append(
            replace(node, op=OVER_BATCH[node.op], inputs=(joined[source.name], *node.inputs[1:]))
        )
    return graph.with_nodes(tuple(b.nodes))


def _means(graph: Graph, stats: dict[str, None]) -> dict[str, None]:
    """Results of `group_sums` that are read together with one of the statistics `stats`."""
    makers: dict[str, Node] = {v.name: n for n in graph.nodes for v in n.outputs}
    found: dict[str, None] = {}
    for node in graph.nodes:
        if any(v.name in stats for v in node.inputs):
            for v in node.inputs:
                if v.name in makers and makers[v.name].op == "group_sums":
                    found[v.name] = None
    return found
