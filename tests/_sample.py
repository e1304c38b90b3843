# SPDX-License-Identifier: Apache-2.0
"""Which cases of a test stand for all: see `sample` in docs/testing.md."""

from math import gcd


def spread(size: int, count: int) -> list[int]:
    """`count` of the places [0, size), mixed: all values of stacked parameters come early.

    The step is near the golden section of the size and has no divisor in common with it, so that
    no place comes twice and neighbours lie far apart.
    """
    step = next(s for s in range(max(1, round(0.618 * size)), 2 * size + 2) if gcd(s, size) == 1)
    return [i * step % size for i in range(min(count, size))]
