# SPDX-License-Identifier: Apache-2.0
"""Moments of y = conv(x, w) from those of x, where each sample of y mixes one sample of each row.

`pair_sums` passes over x, `pair_moments` makes means and centred second moments of its sums,
`mix_moments` the row moments of y (made by `rewrite.moments`). No gradient flows through them: the
norm that reads the moments accounts for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import NULL, Builder, Call, Op, Operand, p_in, p_out, register, rows_times, x_in
from biotrain.ir.split import SERIAL, Split
from biotrain.ops.norm import Small

TWIN = 31
"""Multiplies and adds of a product of two floats and a float, added to two floats, at most."""


def pair_count(rows: int) -> int:
    """Pairs (i, j) with j <= i."""
    return rows * (rows + 1) // 2


def rows_of_moments(size: int) -> int:
    """How many rows the moments of `size` floats are of: size = rows (rows + 3)."""
    rows = next((r for r in range(1, size + 1) if r * (r + 3) >= size), 0)
    if rows * (rows + 3) != size:
        raise GraphError(f"{size} floats are not the moments of any number of rows")
    return rows


def pairs_geometry(
    rows: int, times: int, out_channels: int = 0, groups: int = 1, batch: int = 0
) -> tuple[tuple[str, int], ...]:
    """Fields of `bt_pairs`."""
    sizes = (rows, times, out_channels, groups, batch)
    return tuple(zip(("rows", "times", "out_channels", "groups", "batch"), sizes, strict=True))


class Mix(Small):
    """An op over the moments of x and the weights of the rows of y; not cut along rows."""

    def row_step(self, node: Node) -> int:
        return 0

    def split(self, node: Node) -> Split:
        return Split(rows=1)

    def mix_call(self, node: Node, function: str, rows: int, out: int, *operands: Operand) -> Call:
        """The call over `out` rows of y."""
        times, groups = node.int("times"), node.get("groups", 1)
        assert isinstance(groups, int)
        batch = int(bool(node.get("batch", False)))
        geometry = pairs_geometry(rows, times, out, groups, batch)
        return Call(function, "bt_pairs", geometry, operands, (out, 1))


@register("bt_pair_moments.h")
class PairSums(Op):
    """Per row a pivot and the sum of x - pivot, per pair of rows the sum of their products."""

    name = "pair_sums"
    accumulates = True
    reduces_time = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        rows = rows_times(shapes[0])[0]
        return ((3 * rows + 2 * pair_count(rows),),)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        return (None,)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return t0, t1

    def row_step(self, node: Node) -> int:
        return 0

    def ops(self, node: Node) -> int:
        rows, times = rows_times(node.inputs[0].shape)
        return times * (2 * pair_count(rows) + 4 * rows)

    def call(self, node: Node) -> Call:
        rows, times = rows_times(node.inputs[0].shape)
        geometry = pairs_geometry(rows, times)
        operands = (x_in(0), p_out())
        return Call("bt_pair_sums", "bt_pairs", geometry, operands, (rows, times))


@register("bt_pair_moments.h")
class PairMoments(Mix):
    """The sums of `pair_sums` -> mean of every row, centred second moment of every pair."""

    name = "pair_moments"

    def split(self, node: Node) -> Split:
        return SERIAL  # the pairs of a row lie apart from its mean

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        rows = int(attrs["rows"])  # type: ignore[arg-type]
        if shapes[0] != (3 * rows + 2 * pair_count(rows),):
            raise GraphError(f"pair_moments: {shapes[0]} are not the sums of {rows} rows")
        return ((rows * (rows + 3),),)

    def ops(self, node: Node) -> int:
        return 2 * TWIN * pair_count(node.int("rows"))

    def call(self, node: Node) -> Call:
        rows = node.int("rows")
        return self.mix_call(node, "bt_pair_moments", rows, rows, p_in(0), p_out())


@register("bt_pair_moments.h")
class MixMoments(Mix):
    """Inputs moments, w[, b] -> the moments of every row of y, (rows, 3), as `row_moments` has."""

    name = "mix_moments"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((shapes[1][0], 3),)

    def ops(self, node: Node) -> int:
        rows = rows_of_moments(node.inputs[0].size)
        return node.outputs[0].shape[0] * TWIN * (pair_count(rows) + 2 * rows)

    def call(self, node: Node) -> Call:
        rows, out = rows_of_moments(node.inputs[0].size), node.outputs[0].shape[0]
        bias = p_in(2) if len(node.inputs) > 2 else NULL
        operands = (p_in(0), p_in(1), bias, p_out())
        return self.mix_call(node, "bt_mix_moments", rows, out, *operands)
