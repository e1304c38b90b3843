# SPDX-License-Identifier: Apache-2.0
"""Artefacts: windows whose power in a channel is far above that of the others; no labels.

The measure is a robust z-score of the logarithm of the power: its distance from the median, in
1.4826 median absolute deviations (the standard deviation of a normal distribution, Rousseeuw and
Croux, JASA 88, 1993). All in integers and half octaves, as `rt/bt_screen.h` has it: a device, which
sees window after window, and a study, which sees all of them, measure alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 128
"""`BT_SCREEN_LEVELS`: half octaves of the power of a window in a channel."""
LEAST, MOST = 8, 254
"""`BT_SCREEN_LEAST`, `BT_SCREEN_MOST`: windows before one is judged; windows that are counted."""
LONGEST = 2**16
"""Samples of a window: their power is an integer of 64 bits."""
NORMAL = 1.4826
"""Standard deviations of a normal distribution in one median absolute deviation."""
LARGEST = 1000.0
"""The largest bound, which no window is above."""


def factor(bound: float) -> int:
    """A bound of the z-score in 256ths of a median absolute deviation."""
    return round(256 * NORMAL * bound)


def levels(x: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Half octaves of the power of windows [windows, channels, times] about their mean, [windows,
    channels]; integers of the converter, of at most 25 bits."""
    whole = x.astype(np.int64)
    total, squares = whole.sum(-1), (whole**2).sum(-1)
    found = np.zeros(total.shape, np.int64)
    for at, value in np.ndenumerate(total):
        v = x.shape[-1] * int(squares[at]) - int(value) ** 2
        octave = v.bit_length() - 1
        top = v >> octave - 15 if octave > 15 else v << max(15 - octave, 0)
        found[at] = 2 * octave + (top * top >= 2**31) if v else 0
    return found


def _above(level: NDArray[np.int64], seen: NDArray[np.int64], bound: int) -> NDArray[np.bool_]:
    """Whether levels [..., channels] are above those of `seen` [windows, channels]."""
    ranked = np.sort(seen, 0)
    middle = (len(seen) + 1) // 2 - 1
    median = ranked[middle]
    deviation = np.maximum(np.sort(np.abs(seen - median), 0)[middle], 1)
    found: NDArray[np.bool_] = np.asarray((level - median) * 256 > bound * deviation)
    return found


def artefacts(x: NDArray[np.integer[Any]], bound: float) -> NDArray[np.bool_]:
    """Which windows [windows, channels, times] are above `bound` in a channel, by the median and
    the deviation of all of them; none is where there are fewer than LEAST, or `bound` is 0."""
    if not bound or len(x) < LEAST:
        return np.zeros(len(x), np.bool_)
    found = levels(x)
    out: NDArray[np.bool_] = np.asarray(_above(found, found, factor(bound)).any(-1))
    return out


def artefacts_in_turn(x: NDArray[np.integer[Any]], bound: float) -> NDArray[np.bool_]:
    """The same as a device decides it: each window by those before it."""
    found, chans = levels(x), range(x.shape[1])
    counts = np.zeros((x.shape[1], LEVELS), np.int64)
    out = np.zeros(len(x), np.bool_)
    for at, window in enumerate(found):
        for c in chans:
            if counts[c].sum() >= LEAST:
                seen = np.repeat(np.arange(LEVELS), counts[c])[:, None]
                out[at] |= bool(_above(window[c : c + 1], seen, factor(bound))[0])
            if counts[c].sum() >= MOST:
                counts[c] = (counts[c] + 1) // 2
            counts[c, window[c]] += 1
    return out


def as_integers(x: NDArray[np.float32]) -> NDArray[np.int16]:
    """Windows of floats on the grid of a converter whose range they fill."""
    most = float(np.abs(x).max()) if x.size else 0.0
    scale = np.float32(most / 32767) if most else np.float32(1)
    return np.rint(x / scale).astype(np.int16)
