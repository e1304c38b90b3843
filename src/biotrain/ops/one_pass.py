# SPDX-License-Identifier: Apache-2.0
"""The weight gradient of a conv under a norm in one pass (made by `rewrite.one_pass`).

`centred_dw` takes the gradient of the normalised y as it comes, times z, the rows of x less their
means and all but the first less the first; `mix_sums`, `mix_dw` and `mix_db`
make of its result what the norm's backward would have given with a second pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Span
from biotrain.ir.op import LEAF, NULL, Call, Op, p_in, p_out, register, rows_times, x_in
from biotrain.ops.pair_moments import TWIN, Mix, pairs_geometry, rows_of_moments


def _shape(attrs: Mapping[str, Attr]) -> Shape:
    value = attrs["w_shape"]
    assert isinstance(value, tuple)
    return value


@register("bt_one_pass.h")
class CentredDw(Op):
    """Inputs x, d, pair moments -> raw: sums of d z and of d, (rows of d, rows of x + 1)."""

    name = "centred_dw"
    accumulates = True
    reduces_time = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        (rows, times), (out, others) = rows_times(shapes[0]), rows_times(shapes[1])
        if times != others or rows_of_moments(shapes[2][0]) != rows:
            raise GraphError(f"centred_dw: {shapes} do not belong together")
        return ((out, rows + 1),)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return t0, t1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return (r0, r1) if index == 1 else None

    def macs(self, node: Node) -> int:
        return node.inputs[0].size * node.outputs[0].shape[0]

    def ops(self, node: Node) -> int:
        return 2 * self.macs(node) + 2 * node.inputs[0].size + node.inputs[1].size

    def shared_ops(self, node: Node, box: Span) -> int:
        return 2 * rows_times(node.inputs[0].shape)[0] * (box.t1 - box.t0)

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        ins, outs = rows_times(node.inputs[0].shape)[0], box.r1 - box.r0
        whole, part = divmod(box.t1 - box.t0, LEAF)  # times begin with a leaf
        return {
            "calls": 1,
            "samples": ins * (box.t1 - box.t0),
            "leaves": ins * (whole + (part > 0)),
            "twin_dots": whole * ins * (outs // 2),
            "lone_dots": whole * ins * (outs % 2),
            "rest_dots": ins * outs * (part > 0),
            "rest_macs": ins * outs * part,
            "totals": box.size,
        }

    def call(self, node: Node) -> Call:
        rows, times = rows_times(node.inputs[0].shape)
        out = node.outputs[0].shape[0]
        operands = (x_in(0), x_in(1), p_in(2), p_out())
        geometry = pairs_geometry(rows, times, out)
        return Call("bt_centred_dw", "bt_pairs", geometry, operands, (out, times))


class _Mix(Mix):
    """Input 0 is raw."""

    def size(self, node: Node) -> tuple[int, int]:
        """Rows of x and of y."""
        out, columns = node.inputs[0].shape
        return columns - 1, out


@register("bt_one_pass.h")
class MixSums(_Mix):
    """Inputs raw, pair moments, w, moments of y, stats -> what `norm_sums` gives, (rows, 2)."""

    name = "mix_sums"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((shapes[0][0], 2),)

    def ops(self, node: Node) -> int:
        rows, out = self.size(node)
        return out * (16 * rows + 10)

    def call(self, node: Node) -> Call:
        operands = (*(p_in(i) for i in range(5)), p_out())
        return self.mix_call(node, "bt_mix_sums", *self.size(node), *operands)


@register("bt_one_pass.h")
class MixDw(_Mix):
    """Inputs raw, pair moments, w, moments of y, stats, means[, gamma]; added to the output."""

    name = "mix_dw"
    accumulates = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (_shape(attrs),)

    def ops(self, node: Node) -> int:
        rows, out = self.size(node)
        return out * rows * (TWIN * rows + 14) + mix_total_ops(node, out)

    def call(self, node: Node) -> Call:
        gamma = p_in(6) if len(node.inputs) > 6 else NULL
        operands = (*(p_in(i) for i in range(6)), gamma, p_out())
        return self.mix_call(node, "bt_mix_dw", *self.size(node), *operands)


@register("bt_one_pass.h")
class MixDb(_Mix):
    """Inputs raw, moments of y, stats, means[, gamma]; added to the output."""

    name = "mix_db"
    accumulates = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((shapes[0][0],),)

    def ops(self, node: Node) -> int:
        _, out = self.size(node)
        return out + mix_total_ops(node, out)

    def call(self, node: Node) -> Call:
        gamma = p_in(4) if len(node.inputs) > 4 else NULL
        operands = (*(p_in(i) for i in range(4)), gamma, p_out())
        return self.mix_call(node, "bt_mix_db", *self.size(node), *operands)


def mix_total_ops(node: Node, out: int) -> int:
    """Multiplies and adds of the sums over time of dy, one per row of y."""
    return out * (2 * (out // node.int("groups")) + 10)
