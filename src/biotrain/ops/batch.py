# SPDX-License-Identifier: Apache-2.0
"""Ops of batch norm over a batch that comes sample by sample (`graph/rewrite/batch_stats.py`).

`join_moments` and `join_sums` carry row statistics from sample to sample. The others are those of
`norm.py` and `batch_norm.py`, over all samples of the batch: their number is the run-time value `n`
of `bt_train_batch`, the number of those before the current one is `sample`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from biotrain.ir.graph import Attr, Node, Shape
from biotrain.ir.op import Call, p_in, p_out, register
from biotrain.ir.split import ELEMENTS, Split
from biotrain.ops.batch_norm import RunningUpdate
from biotrain.ops.norm import GroupStats, GroupSums, Small


@register("bt_batch.h")
class JoinMoments(Small):
    """Row moments of a sample (rows, 3), joined to those of the samples before it."""

    name = "join_moments"
    accumulates = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def call(self, node: Node) -> Call:
        rows = node.inputs[0].shape[0]
        geometry = (
            ("rows", rows),
            ("times", node.int("times")),
            ("rows_per_channel", 1),
            ("groups", 1),
        )
        operands = (p_in(0), p_out())
        return Call("bt_join_rows", "bt_norm", geometry, operands, (rows, 1), ("(int)sample",))


@register("bt_optim.h")
class JoinSums(Small):
    """Row sums of a sample (rows, 2), added to those of the samples before it."""

    name = "join_sums"
    accumulates = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def split(self, node: Node) -> Split:
        return ELEMENTS

    def call(self, node: Node) -> Call:
        count = node.outputs[0].size
        return Call("bt_accumulate", "bt_flat", (("count", count),), (p_in(0), p_out()), (1, count))


def _over_the_batch(call: Call) -> Call:
    """The call with the samples of all windows."""
    return replace(
        call,
        geometry=tuple(
            (key, f"{value} * (int)n" if key == "times" else value) for key, value in call.geometry
        ),
    )


@register("bt_norm.h")
class BatchStats(GroupStats):
    """`group_stats` over the batch."""

    name = "batch_stats"

    def call(self, node: Node) -> Call:
        return _over_the_batch(super().call(node))


@register("bt_norm.h")
class BatchSums(GroupSums):
    """`group_sums` over the batch."""

    name = "batch_sums"

    def call(self, node: Node) -> Call:
        return _over_the_batch(super().call(node))


@register("bt_batch_norm.h")
class BatchUpdate(RunningUpdate):
    """`running_update` with the statistics of the batch."""

    name = "batch_update"

    def call(self, node: Node) -> Call:
        return _over_the_batch(super().call(node))
