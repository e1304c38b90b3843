# SPDX-License-Identifier: Apache-2.0
"""What EDF, BDF and GDF have in common: records, each with so many samples of every channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.study.data.join import resampled_rows
from biotrain.study.data.raw import CutRequest, RawSignal, choose, kind_of, microvolts


@dataclass(frozen=True)
class Records:
    """The header of a file; lists have an entry per channel."""

    path: Path
    begin: int
    """First byte of the first record."""
    records: int
    record_s: float
    labels: tuple[str, ...]
    units: tuple[str, ...]
    gains: NDArray[np.float64]
    offsets: NDArray[np.float64]
    samples: NDArray[np.int64]
    """Per record."""

    def physical(self, row: int, stored: NDArray[Any]) -> NDArray[np.float64]:
        """The stored values of a channel in the unit that the header names."""
        found: NDArray[np.float64] = stored * self.gains[row] + self.offsets[row]
        return found


@dataclass(frozen=True)
class Signal:
    """A channel that holds a signal: its place in the header, its name, its kind."""

    row: int
    name: str
    kind: str


def scaling(
    stored: tuple[NDArray[np.float64], NDArray[np.float64]],
    physical: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gains and offsets of channels from the least and the greatest of their values as they are
    stored and in their unit; gain 1 where a header says no range."""
    least, most = stored
    low, high = physical
    span = most - least
    gains = np.where(span == 0, 1.0, (high - low) / np.where(span == 0, 1.0, span))
    return gains, low - least * gains


def signals_of(header: Records, rows: Iterable[int]) -> list[Signal]:
    """These channels under names of which each is there once: the second C3 is C3-1."""
    seen: dict[str, int] = {}
    out = []
    for row in rows:
        label = header.labels[row]
        seen[label] = seen.get(label, -1) + 1
        name = f"{label}-{seen[label]}" if seen[label] else label
        out.append(Signal(int(row), name, kind_of(name, header.units[row])))
    return out


def raw_signal(
    header: Records,
    signals: Sequence[Signal],
    stored: Callable[[int], NDArray[np.float64]],
    request: CutRequest,
) -> RawSignal:
    """The channels that are asked for in microvolts where they are voltages, at the lowest of their
    rates; marks, codes and segments are left to the format.

    `stored` gives the values of a channel as they are in the file. RecordingError for a channel
    that is missing, or no channel of the kind.
    """
    by_name = {one.name: one for one in signals}
    kinds = [one.kind for one in signals]
    names, others = choose(list(by_name), kinds, request, header.path)
    taken = [by_name[name] for name in names]
    rates = header.samples[[one.row for one in taken]] / header.record_s
    fs, notes = float(rates.min()), []
    if rates.max() > fs:
        told = ", ".join(f"{rate:g}" for rate in np.unique(rates))
        notes.append(f"channels of {told} Hz are resampled to {fs:g} Hz (offline)")
    values, units = [], []
    for one, rate in zip(taken, rates, strict=True):
        factor, unit, assumed = _unit_of(one.name, header.units[one.row])
        physical = header.physical(one.row, stored(one.row)) * factor
        values.append(physical if rate == fs else resampled_rows(physical[None], rate, fs)[0])
        units.append(unit)
        notes += assumed
    length = min(len(one) for one in values)
    return RawSignal(
        header.path,
        np.stack([one[:length] for one in values]),
        fs,
        tuple(names),
        tuple(one.kind for one in taken),
        tuple(units),
        others=tuple(others),
        notes=tuple(notes),
    )


def _unit_of(name: str, unit: str) -> tuple[float, str, list[str]]:
    """Factor to microvolts where the unit is a voltage, the unit then, and what was assumed."""
    factor = microvolts(unit)
    if factor is not None:
        return factor, "uV", []
    if not unit:
        return 1.0, "uV", [f"channel {name} has no unit: taken as uV"]
    return (
        1.0,
        unit,
        [f"channel {name} is in '{unit}', which is no voltage: its values are as read"],
    )
