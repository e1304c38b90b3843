# SPDX-License-Identifier: Apache-2.0
"""Lost samples of a stream: by time stamps, or by a counter of packages."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class Stamps:
    """Finds lost samples by their time stamps, through the jitter of clocks and their drift.

    A sample is late for good where all that follow it in a chunk are late too, by more than half a
    sample and four times the jitter so far; a stamp that is late alone is jitter.
    """

    JITTER_S = 0.005
    """Assumed before there is anything to measure it by: the timer of a computer."""

    def __init__(self, fs: float) -> None:
        self.fs = fs
        self._due: float | None = None
        self._jitter_s = self.JITTER_S

    def gaps(self, stamps: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
        """Where samples are missing in a chunk that follows the last one: (index, how many)."""
        steps = np.arange(len(stamps)) / self.fs
        due = float(np.median(stamps - steps)) if self._due is None else self._due
        late = stamps - (due + steps)
        found = []
        while True:
            least = np.minimum.accumulate(late[::-1])[::-1]
            at = np.flatnonzero(least > max(0.6 / self.fs, 4 * self._jitter_s))
            if not len(at):
                break
            first = int(at[0])
            lost = max(1, round(float(np.median(late[first:])) * self.fs))
            late[first:] -= lost / self.fs
            due += lost / self.fs
            found.append((first, lost))
        share = min(1.0, len(stamps) / (2 * self.fs))  # the clock is followed within some 2 s
        self._jitter_s += share * (float(np.abs(late).max()) - self._jitter_s)
        self._due = due + len(stamps) / self.fs + share * float(np.median(late))
        return found


def counter_gaps(
    counts: npt.NDArray[Any], before: float | None, turn: int = 256
) -> list[tuple[int, int]]:
    """Where packages are missing by a counter that begins anew after `turn`: (index, how many).

    before : the count of the last package of the chunk before. A counter that stands still, or that
        skips more often than not (two packages per sample), says nothing of single packages.
    """
    if before is None:
        counts, first = counts, 1
    else:
        counts, first = np.concatenate([[before], counts]), 0
    steps = np.mod(np.diff(counts), turn)
    usual = float(np.median(steps)) if len(steps) else 0.0
    if usual <= 0:
        return []
    lost = np.rint(steps / usual).astype(np.int64) - 1
    return [(int(k) + first, int(lost[k])) for k in np.flatnonzero(lost > 0)]
