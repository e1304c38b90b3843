# SPDX-License-Identifier: Apache-2.0
"""A front end: what it is asked for, and the second-order sections that scipy designs for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from biotrain.errors import BioTrainError, shown
from biotrain.frontend.layout import FrontNumbers, front_struct
from biotrain.targets.layout import POINTER_SIZES, Struct

Reference = Literal["none", "average"]
Standardise = Literal["none", "running", "window"]
Floats = npt.NDArray[np.float64]

ANTI_ALIAS = (8, 60.0)
"""Order and stop-band attenuation in dB (from the new Nyquist frequency on) of the Chebyshev filter
of type II before decimation; it is flat and 3 dB down at 0.67 of the new Nyquist frequency."""

STATE_BITS = 60  # bt_biquad.h: no state exceeds 2^60
SAMPLE_BITS = 32  # the difference of two int32 has magnitude below 2^32
LONGEST_RESPONSE = 1 << 22  # samples
LARGEST = 1 << 22  # samples of a window, channels: more is a slip, and nothing holds it


@dataclass(frozen=True)
class Section:
    """One second-order section in d = z - 1: (b2 d^2 + b1 d + b0) / (d^2 + a1 d + a0)."""

    name: str
    b: tuple[float, float, float]
    """b2, b1, b0"""
    a: tuple[float, float]
    """a1, a0"""

    @property
    def link(self) -> int:
        """2^-link is about sqrt(a0), the angle of the pole: it makes both states equally large."""
        return max(0, round(-0.5 * math.log2(self.a[1])))

    @property
    def values(self) -> tuple[float, ...]:
        """b2, b1, b0, a1, a0 as the C multiplies by them: b0 and a0 times 2^link."""
        up = 2.0**self.link
        return (self.b[0], self.b[1], self.b[2] * up, self.a[0], self.a[1] * up)

    def coefficients(self) -> tuple[tuple[int, int], ...]:
        """The values as (m, shift), each m 2^-(32 + shift)."""
        return tuple(_quantised(v) for v in self.values)

    @property
    def multiplies(self) -> int:
        """Multiply-adds of one sample."""
        return sum(m != 0 for m, _ in self.coefficients())


@dataclass(frozen=True)
class FrontEnd:
    """Converter integers at `fs_in` Hz in, windows [n_chans, window] out.

    window, hop : samples after decimation; a window is ready after `window` of them, then every
        `hop`.
    bandpass : (low, high) in Hz, a Butterworth filter of scipy's `order`; None at one of the two
        leaves that side open. None where the recording is filtered upstream.
    notch : mains frequency in Hz, `iirnotch` with quality `notch_q`.
    reference : "average" subtracts the mean of the channels.
    decimate : keep every so manieth sample, after an anti-alias filter (`ANTI_ALIAS`).
    standardise : "window" makes mean 0 and deviation 1 in each window; "running" by the mean and
        the deviation of all samples so far, which after `memory_s` forgets exponentially.
    scale : physical units per converter step.
    unit : None makes windows of float32, in physical units (or in deviations, where they are
        standardised); a number makes windows of int16, of which one step stands for so much, and
        what 16 bits cannot hold becomes the largest that they can.

    Raises BioTrainError where a value makes no sense, scipy is missing, or a cut-off is too low.
    """

    fs_in: float
    n_chans: int
    window: int
    hop: int
    bandpass: tuple[float | None, float | None] | None = None
    notch: float | None = None
    reference: Reference = "none"
    decimate: int = 1
    standardise: Standardise = "none"
    order: int = 4
    scale: float = 1.0
    notch_q: float = 30.0
    memory_s: float = 30.0
    unit: float | None = None

    def __post_init__(self) -> None:
        for name in ("n_chans", "window", "hop", "decimate", "order"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= LARGEST:
                raise BioTrainError(
                    f"front end: {name} must be a whole number from 1, not {shown(value)}"
                )
        for name in ("fs_in", "scale", "notch_q", "memory_s", "unit"):
            value = getattr(self, name)
            if name == "unit" and value is None:
                continue
            if not 1e-30 <= value <= 1e30:  # float32 holds it, and what is divided by it
                raise BioTrainError(
                    f"front end: {name} must be a positive number, not {shown(value)}"
                )
        if self.order > 10:
            raise BioTrainError(f"front end: order {self.order} is above 10; 4 is usual")
        if self.reference not in ("none", "average"):
            raise BioTrainError(
                f"front end: reference is none or average, not {shown(self.reference)}"
            )
        if self.standardise not in ("none", "running", "window"):
            raise BioTrainError(
                f"front end: standardise is none, running or window, not {shown(self.standardise)}"
            )
        if self.standardise == "window" and self.unit is not None:
            raise BioTrainError(
                "front end: windows that are standardised each on its own are float32: "
                "leave unit out, or standardise running"
            )
        if self.reference == "average" and self.n_chans < 2:
            raise BioTrainError("front end: the average of one channel leaves nothing of it")
        self._check_bands()
        if self.point < 8 or not math.isfinite(self.ops_per_second):
            raise BioTrainError("front end: a filter is too narrow; raise its cut-off, lower its Q")

    def _check_bands(self) -> None:
        nyquist = self.fs_out / 2
        after = f" after decimation by {self.decimate}" if self.decimate > 1 else ""
        limit = f"{nyquist:g} Hz, half the sampling rate{after}"
        if self.bandpass is not None:
            if len(self.bandpass) != 2 or self.bandpass == (None, None):
                raise BioTrainError("front end: bandpass is (low, high) in Hz, or None")
            low, high = self.bandpass
            for edge in (low, high):
                if edge is not None and not 0 < edge < nyquist:
                    raise BioTrainError(
                        f"front end: the band edge {edge:g} Hz must lie above 0 and below {limit}"
                    )
            if low is not None and high is not None and low >= high:
                raise BioTrainError(
                    f"front end: the band's low edge {low:g} Hz must be below its high {high:g} Hz"
                )
        if self.notch is not None and not 0 < self.notch < nyquist:
            raise BioTrainError(
                f"front end: the notch at {self.notch:g} Hz must lie above 0 and below {limit}"
            )

    @property
    def fs_out(self) -> float:
        """Sampling rate of the windows in Hz."""
        return self.fs_in / self.decimate

    @cached_property
    def sos(self) -> tuple[Floats, Floats]:
        """scipy's second-order sections, before and after decimation: each [sections, 6]."""
        try:
            from scipy import signal
        except ImportError as error:
            raise BioTrainError(
                "front end: filter design needs scipy: pip install 'biotrain[study]'"
            ) from error
        before, after = np.zeros((0, 6)), np.zeros((0, 6))
        if self.decimate > 1:
            before = signal.cheby2(*ANTI_ALIAS, 1 / self.decimate, output="sos")
        if self.bandpass is not None:
            low, high = self.bandpass
            kind, edges = (
                ("bandpass", [low, high])
                if low is not None and high is not None
                else ("highpass", low)
                if low is not None
                else ("lowpass", high)
            )
            after = signal.butter(self.order, edges, kind, fs=self.fs_out, output="sos")
        if self.notch is not None:
            b, a = signal.iirnotch(self.notch, self.notch_q, fs=self.fs_out)
            after = np.vstack([after, np.concatenate([b, a])])
        return before, after

    @cached_property
    def sections(self) -> tuple[tuple[Section, ...], tuple[Section, ...]]:
        """The sections before and after decimation, as the C computes them."""
        before, after = self.sos
        names = ["band"] * len(after)
        if self.notch is not None:
            names[-1] = "notch"
        return _sections(before, ["anti-alias"] * len(before)), _sections(after, names)

    @property
    def passes_constants(self) -> bool:
        """Whether no section stops a constant."""
        return self.bandpass is None or self.bandpass[0] is None

    @cached_property
    def point(self) -> int:
        """Binary places of the signal in the sections, as many as leave no overflow."""
        before, after = self.sections
        states_before, through = _gains(before)
        states_after, out = _gains(after)
        largest = max(states_before, through * states_after)
        total = (through * out + 0.5) * self.n_chans  # the sum over channels; 0.5: the first sample
        return int(STATE_BITS - SAMPLE_BITS - math.log2(max(largest, total / 4)))

    @property
    def memory(self) -> int:
        """Samples of the running mean before it forgets."""
        return max(2, round(self.memory_s * self.fs_out))

    @property
    def dtype(self) -> npt.DTypeLike:
        """Type of a window's samples."""
        return np.float32 if self.unit is None else np.int16

    def struct(self, ring: bool = True) -> Struct:
        """`bt_front` in C, with the ring of one window or without."""
        return front_struct(
            FrontNumbers(
                chans=self.n_chans,
                states=2 * sum(map(len, self.sections)),
                running=self.standardise == "running",
                ring_times=self.window if ring else 0,
                sample_code=np.dtype(self.dtype).newbyteorder("<").str,
            )
        )

    @property
    def state_bytes(self) -> int:
        """`sizeof(bt_front)` without the ring: states and statistics."""
        return self.struct(ring=False).size(POINTER_SIZES[0])

    @property
    def ram_bytes(self) -> int:
        """`sizeof(bt_front)`: states, statistics, and the ring of one window."""
        return self.struct().size(POINTER_SIZES[0])

    @property
    def ops_per_second(self) -> float:
        """Multiply-adds per second, all channels, those of the 64-bit sections counted as one.

        Multiplications by a coefficient that is zero are not there and not counted.
        """
        before, after = self.sections
        standard = {"none": 0.0, "running": 7.0, "window": 3.0 * self.window / self.hop}
        each = sum(s.multiplies for s in after) + 1 + standard[self.standardise]
        fast = sum(s.multiplies for s in before) * self.fs_in
        return self.n_chans * (fast + each * self.fs_out)


def _quantised(value: float) -> tuple[int, int]:
    """(m, shift) with m 2^-(32 + shift) nearest to `value`, m of 31 bits."""
    if value == 0.0:
        return 0, 0
    exponent = math.frexp(value)[1]
    m = round(math.ldexp(value, 31 - exponent))
    if abs(m) == 1 << 31:
        m, exponent = m // 2, exponent + 1
    shift = -1 - exponent
    if not -11 <= shift < 45:
        raise BioTrainError("front end: a filter is too narrow; raise its cut-off, lower its Q")
    return m, shift


def _response(sos: Floats) -> float:
    """Largest gain of a cascade, over a grid of frequencies and at its poles."""
    from scipy import signal

    angles = np.abs(np.angle([r for row in sos for r in np.roots(row[3:])]))
    grid = np.concatenate([np.linspace(0, np.pi, 4096), angles])
    return float(np.abs(signal.sosfreqz(sos, grid)[1]).max())


def _sections(sos: Floats, names: Sequence[str]) -> tuple[Section, ...]:
    """Sections in d = z - 1, gains moved so that the cascade up to each has a largest gain of 1."""
    done: list[Section] = []
    before = 1.0  # gain of the cascade so far against scipy's
    for i, row in enumerate(sos):
        so_far = 1.0 if i == len(sos) - 1 else 1.0 / _response(sos[: i + 1])
        b0, b1, b2 = row[:3] * (so_far / before)
        before = so_far
        _, a1, a2 = row[3:] / row[3]
        b = (float(b0), float(2 * b0 + b1), float((b0 + b1) + b2))
        largest = max(map(abs, b))  # below it by 1e-13: a rounding of what is zero
        exact = tuple(0.0 if abs(v) < 1e-13 * largest else v for v in b)
        a = (float(2 + a1), float((1 + a1) + a2))
        if a[1] <= 0:
            raise BioTrainError("front end: a filter is too narrow; raise its cut-off, lower its Q")
        done.append(Section(names[i], (exact[0], exact[1], exact[2]), a))
    return tuple(done)


def _gains(sections: Sequence[Section]) -> tuple[float, float]:
    """Bounds for input of magnitude 1: of states, signals and products / 4, and of the output.

    They are sums of the absolute impulse response, so they hold for any input.
    """
    from scipy import signal

    if not sections:
        return 1.0, 1.0
    poles = [np.roots([1.0, a1 - 2, a0 - a1 + 1]) for a1, a0 in (s.a for s in sections)]
    radius = float(np.abs(np.concatenate(poles)).max())
    length = math.ceil(math.log(1e-6) / math.log(radius)) if 0 < radius < 1 else 16
    if radius >= 1 or length > LONGEST_RESPONSE:
        raise BioTrainError("front end: a filter is too narrow; raise its cut-off, lower its Q")
    u = np.zeros(length + 64)
    u[0] = 1.0
    largest = 1.0
    for s in sections:
        (b2, b1, b0), (a1, a0) = s.b, s.a
        y = signal.lfilter([b2, b1 - 2 * b2, b0 - b1 + b2], [1.0, a1 - 2, a0 - a1 + 1], u)
        first = y - b2 * u
        second = np.cumsum(b0 * u - a0 * y) * 2.0**s.link
        size_u, size_y, *states = (float(np.abs(v).sum()) for v in (u, y, first, second))
        by_u, by_y = max(map(abs, s.values[:3])), max(map(abs, s.values[3:]))
        largest = max(largest, size_y, *states, by_u * size_u / 4, by_y * size_y / 4)
        u = y
    return 1.01 * largest, 1.01 * float(np.abs(u).sum())
