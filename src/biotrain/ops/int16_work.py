# SPDX-License-Identifier: Apache-2.0
"""What convolutions that read the converter's integers do over a box (bt_conv_int16.h), counted as
in conv_work.py; `samples` are integers that are converted."""

from __future__ import annotations

from collections.abc import Mapping

from biotrain.ir.op import LEAF
from biotrain.ops.conv_work import (
    Sum,
    Work,
    add,
    flat,
    forward,
    is_matrix,
    leaf_sums,
    tiles,
)

CHUNK_SAMPLES = 256
"""Samples that a kernel converts at once, on the stack (BT_INT16_SAMPLES)."""
BLOCK_WEIGHTS = 64
"""Weights whose gradients are computed from one such run (BT_CONV_SUMS)."""


def _pairs(g: Mapping[str, int], rows: int) -> tuple[float, int]:
    """Pairs of a row of y and a row of x that meet, of `rows` rows of y; rows of x read."""
    per_group = g["channels"] // g["groups"]
    meets = [
        sum(
            0 <= r * g["row_stride"] + k * g["row_dilation"] - g["row_padding"] < g["rows"]
            for k in range(g["kernel_rows"])
        )
        for r in range(g["out_rows"])
    ]
    mean = sum(meets) / len(meets) * per_group
    group_rows = g["out_channels"] // g["groups"] * g["out_rows"]
    groups = min(g["groups"], -(-rows // group_rows))
    read = groups * per_group * g["rows"]
    if g["kernel_rows"] == 1 and rows < g["out_rows"]:  # rows of one channel only
        read = groups * per_group * rows
    return rows * mean, read


def forward_int16(
    geometry: Mapping[str, int], rows: int, t0: int, t1: int, wide_outputs: int
) -> Work:
    """bt_conv_forward_int16 over `rows` rows and the times [t0, t1)."""
    g = dict(geometry)
    per_group = g["channels"] // g["groups"]
    work: Work = {"calls": 1, "rows": rows}
    if is_matrix(g) and per_group * g["rows"] <= CHUNK_SAMPLES // 8:
        ins = per_group * g["rows"]
        length = CHUNK_SAMPLES // ins
        g = flat(g)
        for t in range(t0, t1, length):
            end = min(t + length, t1)
            add(work, ins * (end - t), {"samples": 1})
            add(work, ins, {"runs": 1})
            add(work, 1, forward(g, rows, t, end, wide_outputs))
        return work
    reach = (g["taps"] - 1) * g["dilation"]
    length = (CHUNK_SAMPLES - reach - 1) // g["stride"] + 1
    pairs, read = _pairs(g, rows)
    for t in range(t0, t1, length):
        end = min(t + length, t1)
        x0 = max(0, t * g["stride"] - g["padding"])
        x1 = min(g["times"], (end - 1) * g["stride"] - g["padding"] + reach + 1)
        add(work, read, {"runs": 1, "samples": max(0, x1 - x0)})
        add(work, rows * (end - t), {"starts": 1})
        first = t * g["stride"] - g["padding"]
        s = Sum(1, 1, g["taps"], g["stride"], g["dilation"], first, g["times"], False)
        add(work, pairs, tiles(s, end - t, wide_outputs, adds=True))
    return work


def weight_gradient_int16(geometry: Mapping[str, int], rows: int, t0: int, t1: int) -> Work:
    """bt_conv_weight_gradient_int16 over `rows` rows of dy and the times [t0, t1)."""
    g = dict(geometry)
    block = min(BLOCK_WEIGHTS, (CHUNK_SAMPLES - LEAF) // g["dilation"] + 1)
    pairs, read = _pairs(g, rows)
    work: Work = {"calls": 1, "rows": rows}
    t = t0
    while t < t1:
        end = min(t1, (t // LEAF + 1) * LEAF)
        for k in range(0, g["taps"], block):
            n, shift = min(block, g["taps"] - k), k * g["dilation"] - g["padding"]
            x0 = min(g["times"], max(0, t + shift))
            x1 = max(x0, min(g["times"], end + shift + (n - 1) * g["dilation"]))
            add(work, read, {"runs": 1, "samples": x1 - x0})
            s = Sum(1, 1, end - t, g["dilation"], 1, t + shift, g["times"], False)
            add(work, pairs, leaf_sums(s, 1, 1, n))
        t = end
    return work
