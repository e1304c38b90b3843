# SPDX-License-Identifier: Apache-2.0
"""Covariances of bands and of delays, flattened by their logarithm, and a linear layer."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from biotrain.models.common import check_input, check_shape, glorot_uniform_, make_norm
from biotrain.models.log_covariance import log_covariance

NETWORK = "CovarianceNet"

HIGHEST = 0.4
"""Upper end of the highest band, as a share of the sampling rate."""

TAPS_SECONDS, TAPS_SHARE = 0.5, 0.25
"""Length of the band filters: at most so many seconds, and so much of the window."""

SHRINKAGE = 1e-3
"""Share of the mean power that each channel gets in addition before the logarithm."""

MOST_DELAYED, DELAYS = 16, 4
"""Channels and their delays that one matrix holds, and the most delays of each channel."""


def band_filters(sfreq: float, bands: int, taps: int) -> Tensor:
    """Band-pass filters an octave wide each, the highest up to 0.4 of the rate, [bands, taps].

    Ideal band-passes under a Hamming window, of gain 1 in the middle of their band.
    """
    t = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    window = torch.hamming_window(taps, periodic=False, dtype=torch.float64)
    rows = []
    for k in range(bands):
        high = HIGHEST * 2.0**-k  # of the sampling rate
        low = high / 2
        ideal = 2 * high * torch.sinc(2 * high * t) - 2 * low * torch.sinc(2 * low * t)
        row = ideal * window
        middle = torch.exp(-2j * math.pi * math.sqrt(high * low) * t)
        rows.append(row / (row * middle).sum().abs())
    return torch.stack(rows).to(torch.float32) if rows else torch.empty(0, taps)


class CovarianceNet(nn.Module):
    """A linear layer on the log-Euclidean covariances of a window.

    Of each octave band the covariance of the channels, and of the unfiltered window that of the
    channels beside delayed copies of themselves, which holds their spectrum; each matrix by its
    logarithm, the upper triangle with off-diagonal elements times sqrt(2), so that distances stay
    (A. Barachant, S. Bonnet, M. Congedo, C. Jutten, "Multiclass brain-computer interface
    classification by Riemannian geometry", IEEE TBME 59(4), 2012; delays as in
    I. Carrara and T. Papadopoulo, arXiv 2302.04508).
    A norm of each number, whose statistics a new wearer's windows give (`adabn`), recentres people;
    then follows a linear layer. The filters are constants: only norm and layer are trained.

    Args:
        n_chans: channels of the recording.
        n_times: samples per window.
        n_outputs: classes.
        sfreq: sampling rate in Hz.
        norm: "batch" (BatchNorm) or "group" (GroupNorm with `groups` over all numbers).
        bands: octave bands.
        delays: copies of each channel, one sample apart, itself included; by default at most 4, and
            as many as give matrices of up to 16 rows.
        groups: groups of the GroupNorm.
        drop_prob: dropout before the linear layer while pretraining.

    Input: float32 [batch, n_chans, n_times]. Output: logits, float32 [batch, n_outputs].

    Raises:
        ValueError: a dimension below 1, a window shorter than 16 samples or than its delays, no
            band and no delay, an unknown norm; in `forward`, an input of another shape.
    """

    filters: Tensor
    triangle: Tensor
    weights: Tensor

    def __init__(
        self,
        *,
        n_chans: int,
        n_times: int,
        n_outputs: int,
        sfreq: float,
        norm: str = "batch",
        bands: int = 4,
        delays: int | None = None,
        groups: int = 1,
        drop_prob: float = 0.25,
    ) -> None:
        super().__init__()
        check_shape(NETWORK, n_chans, n_times, n_outputs, sfreq)
        self.n_chans, self.n_times, self.n_outputs = n_chans, n_times, n_outputs
        self.sfreq = sfreq
        if delays is None:
            delays = max(1, min(DELAYS, MOST_DELAYED // n_chans))
        if n_times < 16 or delays >= n_times or min(bands, delays) < 0 or bands + delays == 0:
            raise ValueError(
                f"{NETWORK}: {bands} bands and {delays} delays of a window of {n_times} samples; "
                "take 16 samples at least, more than delays, and a band or a delay"
            )
        self.bands, self.delays = bands, delays
        taps = min(round(TAPS_SECONDS * sfreq), int(TAPS_SHARE * n_times)) | 1
        self.register_buffer("filters", band_filters(sfreq, bands, taps)[:, None, None])
        wide = n_chans * delays
        places, scales = [], []
        for start, n in [(k * n_chans**2, n_chans) for k in range(bands)] + [
            (bands * n_chans**2, wide)
        ]:
            i, j = torch.triu_indices(n, n)
            places.append(start + i * n + j)
            scales.append(torch.where(i == j, 1.0, math.sqrt(2.0)))
        self.register_buffer("triangle", torch.cat(places))
        self.register_buffer("weights", torch.cat(scales))
        self.norm = make_norm(norm, len(self.triangle), groups, eps=1e-5, momentum=0.1)
        self.drop = nn.Dropout(drop_prob)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(len(self.triangle), n_outputs)
        glorot_uniform_(self)

    def features(self, x: Tensor) -> Tensor:
        """Triangles of the logarithms [batch, numbers] of windows `x` [batch, n_chans, n_times]."""
        flat = []
        if self.bands:
            filtered = functional.conv2d(x.unsqueeze(1), self.filters)
            filtered = filtered - filtered.mean(-1, keepdim=True)
            flat.append(log_covariance(filtered, SHRINKAGE).flatten(1))
        if self.delays:
            x = x - x.mean(-1, keepdim=True)
            last = self.n_times - self.delays + 1
            copies = [x[..., k : k + last] for k in range(self.delays)]
            flat.append(log_covariance(torch.cat(copies, 1), SHRINKAGE).flatten(1))
        return torch.cat(flat, 1).index_select(1, self.triangle) * self.weights

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, n_outputs] of windows `x` [batch, n_chans, n_times]."""
        check_input(NETWORK, x, self.n_chans, self.n_times)
        y = self.norm(self.features(x)[..., None, None])
        logits: Tensor = self.classifier(self.drop(self.flatten(y)))
        return logits


class WithCovariance(nn.Module):
    """A network and a `CovarianceNet` beside it: the mean of their logits.

    Args:
        network: builds the network from n_chans, n_times, n_outputs, sfreq, norm and further
            keywords.
        n_chans: channels of the recording.
        n_times: samples per window.
        n_outputs: classes.
        sfreq: sampling rate in Hz.
        norm: that of both.
        kw: of the network.

    Input: float32 [batch, n_chans, n_times]. Output: logits, float32 [batch, n_outputs].
    """

    def __init__(
        self,
        network: Callable[..., nn.Module],
        *,
        n_chans: int,
        n_times: int,
        n_outputs: int,
        sfreq: float,
        norm: str = "batch",
        **kw: Any,
    ) -> None:
        super().__init__()
        shape: dict[str, Any] = {
            "n_chans": n_chans,
            "n_times": n_times,
            "n_outputs": n_outputs,
            "sfreq": sfreq,
        }
        self.n_chans, self.n_times, self.n_outputs = n_chans, n_times, n_outputs
        self.sfreq = sfreq
        self.network = network(**shape, norm=norm, **kw)
        self.covariance = CovarianceNet(**shape, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, n_outputs] of windows `x` [batch, n_chans, n_times]."""
        logits: Tensor = 0.5 * (self.network(x) + self.covariance(x))
        return logits
