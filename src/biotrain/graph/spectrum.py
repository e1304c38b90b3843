# SPDX-License-Identifier: Apache-2.0
"""Filters that a network computes by transforms: rfft, a constant factor, irfft.

Between the two transforms a signal is known as a `Spectrum`; the inverse makes it a convolution
with the taps that the factor stands for. Multiplying spectra is a circular convolution, which is
the linear one where the padding holds all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from biotrain.errors import CaptureError
from biotrain.ir.graph import Value

NEGLIGIBLE = 1e-10
"""A tap smaller than this share of the largest one is rounding of the transform (in float64)."""


@dataclass(frozen=True)
class Spectrum:
    """The transform of a real signal over its last axis, padded to `n`, times a constant."""

    signal: Value
    n: int
    factor: torch.Tensor | None = None

    def times(self, factor: torch.Tensor) -> Spectrum:
        """The spectrum times a constant that is broadcast to it."""
        return Spectrum(
            self.signal, self.n, factor if self.factor is None else self.factor * factor
        )

    def taps(self, n: int | None) -> torch.Tensor:
        """The filter of each row of the signal, (rows, taps), or (1, taps) where all are one.

        Raises
        ------
        CaptureError
            where the inverse has another length, or the padding does not hold the convolution.
        """
        length = 2 * (self.n // 2) if n is None else n
        if length != self.n or self.factor is None:
            raise CaptureError("an inverse transform of another length is not supported")
        rows = prod(self.signal.shape[:-1])
        factor = self.factor.expand(*self.signal.shape[:-1], self.factor.shape[-1])
        h = torch.fft.irfft(factor, n=self.n).reshape(rows, self.n)
        large = (h.abs() > NEGLIGIBLE * h.abs().max()).any(0).nonzero()
        count = int(large.max()) + 1 if len(large) else 1
        if self.signal.shape[-1] + count - 1 > self.n:
            raise CaptureError(
                "a filter by transforms that wraps around is not supported: pad the signal by the "
                "filter's length less one"
            )
        h = h[:, :count]
        return h[:1] if bool((h == h[:1]).all()) else h
