# SPDX-License-Identifier: Apache-2.0
"""What the scalar convolution kernels do over a box, counted without running them.

The counts follow the nests of bt_conv_nest.h, bt_conv_product.h and bt_conv_leaf.h: how many tiles
of results there are of each kind, how many terms run through them, and what is left for single
results. A core's `kernels.toml` says what one of each costs. Counts are those of one call, summed
over all rows and terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from biotrain.ir.op import LEAF

TILE = 8
"""Results of a tile in scalar registers (BT_TILE_OUTPUTS)."""
SLIDE_SAMPLES = 16
"""Samples that a row must have for a sum to slide (BT_SLIDE_SAMPLES)."""

Work = dict[str, float]
"""How often a call does what costs something, by kind."""


@dataclass(frozen=True, slots=True)
class Sum:
    """The constants of one sum of bt_conv_sum.h; `unit`: the weights of a row are neighbours."""

    terms: int
    rows: float
    taps: int
    gap: int
    step: int
    first: int
    times: int
    inside: bool
    unit: bool = True


def add(work: Work, times: float, more: Mapping[str, float]) -> None:
    """Add `times` as many of each kind as there are in `more`."""
    if times:
        for kind, count in more.items():
            work[kind] = work.get(kind, 0.0) + times * count


def _within(at: int, step: int, count: int, size: int) -> tuple[int, int]:
    """The places at, at + step, ... of `count` that are in [0, size) (bt_conv_within)."""
    if step < 0:
        at, step = size - 1 - at, -step
    begin = min(count, max(0, -(at // step)))
    return begin, max(begin, min(count, (size - 1 - at) // step + 1))


def _whole(s: Sum, n: int) -> tuple[int, int]:
    """The results of n whose taps are all inside (bt_conv_whole)."""
    if s.inside:
        return 0, n
    reach = (s.taps - 1) * s.step
    low, high = min(0, reach), max(0, reach)
    return _within(s.first + low, s.gap, n, s.times - (high - low))


def _edge(taps: int, lo: int, hi: int) -> Work:
    """One row of an edge tile whose samples are inside from sample lo on and before hi."""
    begin = max(0, lo)
    whole = max(begin, min(taps, hi - (TILE - 1)))
    parts = sum(TILE - j for j in range(1, TILE) if 0 <= lo - j < taps) if lo > 0 else 0
    parts += sum(j for j in range(1, TILE) if 0 <= hi - j < taps)
    eights = (whole - begin) // 8
    return {
        "edge_rows": 1,
        "edge_eights": eights,
        "edge_taps": whole - begin - 8 * eights,
        "edge_parts": parts,
        "edge_starts": 1 if eights else 0,
    }


def _edge_tile(s: Sum, at: int) -> Work:
    """A tile of neighbours from the result `at` on, of which any tap may be outside."""
    step = s.step
    back = (TILE - 1) * -step if step < 0 else 0
    first, last = s.first + at + back, s.times - 1
    if step > 0:
        lo, hi = -(first // step), (last - first) // step
    else:
        lo, hi = -((last - first) // -step), first // -step
    found: Work = {"edge_tiles": 1}
    add(found, s.terms * s.rows, _edge(s.taps, lo, hi + 1))
    return found


def _singles(s: Sum, begin: int, end: int) -> Work:
    """Results [begin, end) one by one."""
    macs = 0
    for n in range(begin, end):
        k0, k1 = _within(s.first + n * s.gap, s.step, s.taps, s.times)
        macs += k1 - k0
    count = end - begin
    rows = s.terms * s.rows
    return {"singles": count, "single_rows": count * rows, "single_macs": macs * rows}


def tiles(s: Sum, n: int, wide_outputs: int, adds: bool = False) -> Work:
    """n results of one output (bt_conv_tiles)."""
    work: Work = {"outputs": 1}
    d = abs(s.step)
    width, wide = TILE * d, wide_outputs * d
    begin, end = _whole(s, n)
    rows = s.terms * s.rows
    if s.gap == 1 and s.unit and s.times >= SLIDE_SAMPLES * d and n >= width:
        t = 0
        while t < n and (not adds or t + width <= n):
            if not adds and t >= begin and t + wide <= end:
                count = (end - t) // wide
                t += count * wide
                add(work, count * d, {"wide_tiles": 1, "wide_rows": rows})
                add(work, count * d * rows * s.taps, {"wide_taps": 1})
                if t >= n:
                    break
            if adds and t >= begin and t + width <= end:  # all of these are the same
                count = (end - t) // width
                add(work, count * d, _edge_tile(s, t))
                t += count * width
                continue
            add(work, d, _edge_tile(s, min(t, n - width)))
            t += width
        if adds:
            add(work, 1, _singles(s, t, n))
        return work
    shares = s.gap == 1 or (s.step == 1 and s.gap <= 4 and s.taps >= 2 * s.gap)
    count = 4 if s.gap > 2 and shares else 8
    t = 0
    if (s.gap > 1 or (not s.unit and s.step == -1)) and end - begin >= count:
        add(work, 1, _singles(s, 0, begin))
        full = (end - begin) // count if adds else -(-(end - begin) // count)
        t = min(begin + full * count, end)
        add(work, full, {"stride_tiles": 1, "stride_rows": rows})
        add(work, full * rows * s.taps * count, {"stride_macs": 1})
    add(work, 1, _singles(s, t, n))
    return work


def product(outs: int, n: int, terms: int) -> Work:
    """n results of so many outputs that share samples, one tap per term (bt_block_mix_all)."""
    work: Work = {"mixes": 1}
    if n >= TILE:
        four, rest = outs // 4, outs % 4
        add(work, four, {"mix_rows": 1})
        add(work, four * -(-n // 4), {"mix_tiles": 1, "mix_steps": terms})
        if rest:
            samples = 4 if rest > 2 else 8
            count = -(-n // samples)
            add(work, count, {f"mix{rest}_tiles": 1, f"mix{rest}_steps": terms})
        return work
    if n > 2:
        add(work, outs, {"few_outputs": 1, "few_steps": terms * (1 if n <= 4 else 2)})
        return work
    add(work, outs * n, {"dots": 1, "dot_macs": terms})
    return work


def sums(s: Sum, outs: int, n: int, shared: bool, wide_outputs: int) -> Work:
    """n results of `outs` outputs (bt_conv_sums); `shared`: they read the same samples."""
    if n <= 0:
        return {}
    work: Work = {"sums": 1}
    if s.inside and s.taps == 1 and s.rows == 1 and s.gap == 1:
        if shared:
            add(work, 1, product(outs, n, s.terms))
        else:
            add(work, outs, product(1, n, s.terms))
    else:
        add(work, outs, tiles(s, n, wide_outputs))
    return work


def _dots(outs: int, ins: int, taps: int) -> Work:
    """All outputs by all inputs over up to a leaf of samples (bt_block_dots_all)."""
    fours = (outs // 4) * (ins // 4)
    work: Work = {"dot_tiles": fours, "dot_steps": fours * taps}
    rest = -(-outs // 4) * -(-ins // 4) - fours
    left = outs * ins - 16 * fours
    add(work, 1, {"dot_rest_tiles": rest, "dot_rest_steps": rest * taps})
    add(work, left * taps, {"dot_rest_macs": 1})
    return work


def leaf_sums(s: Sum, outs: int, ins: int, n: int) -> Work:
    """n results of `outs` by `ins`, each a sum over time in leaves (bt_conv_leaf_sums).

    `s.taps` are samples here, and n the taps of the kernel.
    """
    work: Work = {"leaf_sums": 1}
    leaves = -(-s.taps // LEAF)
    if s.inside and n == 1 and s.rows == 1 and s.step == 1:
        left = s.taps
        if outs * ins < 4:
            many = left // (4 * LEAF)
            add(work, many * outs * ins, {"dot_leaves": 1})
            left -= many * 4 * LEAF
        whole = left // LEAF
        add(work, whole, _dots(outs, ins, LEAF))
        if left % LEAF:
            add(work, 1, _dots(outs, ins, left % LEAF))
        return work
    rest = n % TILE
    slides = s.gap == 1 and s.step == 1 and s.times >= SLIDE_SAMPLES and n >= TILE
    slid = 0 if not slides else n if rest > 5 else n - rest
    dots = s.step == 1 and outs >= 4 and ins >= 4
    pairs = outs * ins
    add(work, pairs, {"pairs": 1})
    for k in range(0, slid, TILE):
        add(work, pairs, _leaf_tile(s, min(k, slid - TILE), TILE, True))
    if not dots:
        for k in range(slid, n - TILE + 1, TILE):
            add(work, pairs, _leaf_tile(s, k, TILE, False))
        if rest and slid < n:
            add(work, pairs, _leaf_tile(s, n - rest, rest, False))
    elif slid < n:
        count = (n - slid) * s.rows
        add(work, count * (s.taps // LEAF), _dots(outs, ins, LEAF))
        if s.taps % LEAF:
            add(work, count, _dots(outs, ins, s.taps % LEAF))
        add(work, count * leaves, {"dot_calls": 1})
    return work


def _leaf_tile(s: Sum, n: int, count: int, slides: bool) -> Work:
    """`count` results from the n-th on, leaf by leaf (bt_conv_leaf_tile)."""
    name = "slid" if slides else f"few{count}"
    at = s.first + n * s.gap
    whole_end = _within(at, s.step, s.taps, s.times - (count - 1) * s.gap)[1]
    work: Work = {f"{name}_tiles": 1}
    k = 0
    while k < s.taps:
        first = at + k * s.step
        leaves = max(0, whole_end - k) // LEAF if first >= 0 else 0
        if leaves > 0:
            runs = leaves if s.rows > 1 else 1
            add(work, s.rows, {f"{name}_runs": runs, f"{name}_leaves": leaves})
            k += leaves * LEAF
            continue
        taps = min(LEAF, s.taps - k)
        if slides:
            add(work, s.rows, _edge(taps, -first, s.times - first))
            add(work, s.rows, {"edge_leaves": 1})
        else:
            b, e = _within(first, s.step, taps, s.times - (count - 1) * s.gap)
            eights = (e - b) // 8
            edge = {
                f"{name}_edges": 1,
                f"{name}_eights": eights,
                f"{name}_taps": e - b - 8 * eights,
                "clipped": taps - (e - b),
            }
            add(work, s.rows, edge)
        k += LEAF
    return work


def _rows_inside(g: Mapping[str, int]) -> bool:
    """Whether every row of the kernel meets a row of x for every row of y."""
    reach = (g["out_rows"] - 1) * g["row_stride"] + (g["kernel_rows"] - 1) * g["row_dilation"]
    return g["row_padding"] == 0 and reach < g["rows"]


def _inside(g: Mapping[str, int]) -> bool:
    """Whether, beyond that, every tap meets a sample for every output."""
    reach = (g["out_times"] - 1) * g["stride"] + (g["taps"] - 1) * g["dilation"]
    return _rows_inside(g) and g["padding"] == 0 and reach < g["times"]


def is_matrix(g: Mapping[str, int]) -> bool:
    """Whether y is a matrix times the rows of x, group by group (bt_conv_is_matrix)."""
    plain = g["taps"] == g["stride"] == g["out_rows"] == 1 and not g["padding"]
    same = g["times"] == g["out_times"] and g["kernel_rows"] == g["rows"] and not g["row_padding"]
    return plain and same and (g["rows"] == 1 or g["row_dilation"] == 1)


def flat(g: Mapping[str, int]) -> dict[str, int]:
    """The same convolution, where it is such a product with rows as channels."""
    found = dict(g)
    if is_matrix(g):
        found |= {"channels": g["channels"] * g["rows"], "rows": 1}
        found |= {"kernel_rows": 1, "row_stride": 1}
    return found


def _mean_rows(outs: int, taps: int, gap: int, step: int, first: int, size: int) -> float:
    """Kernel rows that meet a row inside, on average over `outs` rows."""
    spans = (_within(first + r * gap, step, taps, size) for r in range(outs))
    return sum(b - a for a, b in spans) / max(outs, 1)


def _calls(g: Mapping[str, int], rows: int, height: int, per_group: int) -> int:
    """How many sums the rows of a box need: one for the channels of a group at one height."""
    depthwise = g["channels"] == g["groups"] == g["out_channels"]
    heights = min(height, rows)
    channels = -(-rows // height)
    if g["groups"] == 1 or depthwise:
        return heights
    return heights * -(-channels // max(per_group, 1))


def forward(geometry: Mapping[str, int], rows: int, t0: int, t1: int, wide_outputs: int) -> Work:
    """bt_conv_forward over `rows` rows and the times [t0, t1)."""
    g = flat(geometry)
    ins, outs = g["channels"] // g["groups"], g["out_channels"] // g["groups"]
    kernel_rows = (
        float(g["kernel_rows"])
        if _rows_inside(g)
        else _mean_rows(
            g["out_rows"],
            g["kernel_rows"],
            g["row_stride"],
            g["row_dilation"],
            -g["row_padding"],
            g["rows"],
        )
    )
    s = Sum(
        ins,
        kernel_rows,
        g["taps"],
        g["stride"],
        g["dilation"],
        t0 * g["stride"] - g["padding"],
        g["times"],
        _inside(g),
    )
    return _all(g, rows, g["out_rows"], outs, s, t1 - t0, wide_outputs)


def _all(
    g: Mapping[str, int], rows: int, height: int, outs: int, s: Sum, n: int, wide_outputs: int
) -> Work:
    """n results of each of `rows` rows, whose channels have `height` rows each."""
    depthwise = g["channels"] == g["groups"] == g["out_channels"]
    calls = _calls(g, rows, height, outs)
    work: Work = {"calls": 1}
    each, more = divmod(rows, calls)
    for count, times in ((each, calls - more), (each + 1, more)):
        if count and times:
            add(work, times, sums(s, count, n, not depthwise, wide_outputs))
    return work


def input_gradient(
    geometry: Mapping[str, int], rows: int, t0: int, t1: int, wide_outputs: int
) -> Work:
    """bt_conv_input_gradient over `rows` rows of dx and the times [t0, t1)."""
    g = flat(geometry)
    ins, outs = g["channels"] // g["groups"], g["out_channels"] // g["groups"]
    stride, dilation = g["stride"], g["dilation"]
    one_row = g["rows"] == g["out_rows"] == g["kernel_rows"] == 1 and not g["row_padding"]
    plain = g["taps"] == stride == 1 and not g["padding"] and g["times"] == g["out_times"]
    kernel_rows = 1.0
    if not one_row:
        at = range(g["rows"])
        gap, step = g["row_stride"], g["row_dilation"]
        meets = [
            sum(
                (r + g["row_padding"] - k * step) % gap == 0
                and 0 <= (r + g["row_padding"] - k * step) // gap < g["out_rows"]
                for k in range(g["kernel_rows"])
            )
            for r in at
        ]
        kernel_rows = sum(meets) / len(meets)
    work: Work = {"calls": 1}
    for p in range(stride):
        begin, end = -(-(t0 + g["padding"] - p) // stride), -(-(t1 + g["padding"] - p) // stride)
        taps = [k for k in range(g["taps"]) if (p - k * dilation) % stride == 0]
        if not taps:
            add(work, rows, {"outputs": 1, "singles": end - begin})
            continue
        fall = (taps[1] - taps[0]) * dilation // stride if len(taps) > 1 else 1
        first = begin + (p - taps[0] * dilation) // stride
        s = Sum(
            outs,
            kernel_rows,
            len(taps),
            1,
            -fall,
            first,
            g["out_times"],
            one_row and plain,
            len(taps) < 2 or taps[1] - taps[0] == 1,
        )
        if stride > 1:
            add(work, rows, sums(s, 1, end - begin, True, wide_outputs))
        else:
            add(work, 1, _all(g, rows, g["rows"], ins, s, end - begin, wide_outputs))
    work["calls"] = 1
    return work


def weight_gradient(
    geometry: Mapping[str, int], rows: int, t0: int, t1: int, by_input: bool
) -> Work:
    """bt_conv_weight_gradient over `rows` rows of dy (or of x) and the times [t0, t1)."""
    g = flat(geometry)
    ins, outs = g["channels"] // g["groups"], g["out_channels"] // g["groups"]
    work: Work = {"calls": 1}
    if by_input:
        runs, width, inputs = 1, g["out_channels"], rows // g["rows"]
    else:
        channels, inputs = rows // g["out_rows"], ins
        runs = channels if outs == 1 else 1 if g["groups"] == 1 else -(-channels // outs)
        width = channels // runs
    for kh in range(g["kernel_rows"]):
        top = kh * g["row_dilation"] - g["row_padding"]
        begin, end = (
            (0, g["out_rows"])
            if _rows_inside(g)
            else _within(top, g["row_stride"], g["out_rows"], g["rows"])
        )
        cut = t0 if t0 % LEAF == 0 else min(t1, (t0 // LEAF + 1) * LEAF)
        for a, b in ((t0, cut), (cut, t1)):
            if b > a:
                s = Sum(
                    1,
                    end - begin,
                    b - a,
                    g["dilation"],
                    g["stride"],
                    a * g["stride"] - g["padding"],
                    g["times"],
                    _inside(g),
                )
                add(work, runs, leaf_sums(s, width, inputs, g["taps"]))
    return work
