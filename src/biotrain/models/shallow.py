# SPDX-License-Identifier: Apache-2.0
"""The shallow network of Schirrmeister et al.: filter bank, spatial filters, log of band power."""

import torch
from torch import Tensor, nn

from biotrain.models.common import (
    check_input,
    check_shape,
    glorot_uniform_,
    make_norm,
    spatial_conv,
    taps_for,
)

NETWORK = "ShallowFBCSPNet"

LOG_FLOOR = 1e-6
"""The logarithm is taken of nothing smaller (braindecode's `safe_log`)."""


class ShallowFBCSPNet(nn.Module):
    """Temporal filters, spatial filters, and the log of the power that is left of each.

    R. T. Schirrmeister, J. T. Springenberg, L. D. J. Fiederer, M. Glasstetter, K. Eggensperger,
    M. Tangermann, F. Hutter, W. Burgard, T. Ball, "Deep learning with convolutional neural networks
    for EEG decoding and visualization", Human Brain Mapping 38, 2017 (arXiv 1703.05051), in the
    form that braindecode trains on whole trials: 47 364 parameters for 22 channels x 1125 samples
    at 250 Hz and 4 classes. Weights start as there (`glorot_uniform_`).

    | layer | output at that shape |
    |---|---|
    | temporal (1, 25), bias | 40 x 22 x 1101 |
    | spatial (n_chans, 1), norm, square | 40 x 1 x 1101 |
    | average pool 75, stride 15, log, dropout | 40 x 1 x 69 |
    | classifier | n_outputs |

    Filter, pool and stride scale with the sampling rate so that they span 100, 300 and 60 ms.
    Nothing is padded. Between the two convolutions stands neither a norm nor an activation.

    Args:
        n_chans: channels of the recording.
        n_times: samples per window.
        n_outputs: classes.
        sfreq: sampling rate in Hz.
        norm: "batch" (BatchNorm, as published: eps 1e-5, momentum 0.1) or "group" (GroupNorm).
        F1: temporal filters.
        F2: spatial filters.
        temporal_taps: length of the temporal filters in samples.
        pool_size: samples of one average.
        pool_stride: samples from one average to the next.
        groups: groups of the GroupNorm.
        drop_prob: dropout before the classifier while pretraining.

    Input: float32 [batch, n_chans, n_times]. Output: logits, float32 [batch, n_outputs].

    Raises:
        ValueError: a dimension below 1, a window shorter than filter and pool, groups that do not
            divide F2, an unknown norm; in `forward`, an input of another shape.
    """

    def __init__(
        self,
        *,
        n_chans: int,
        n_times: int,
        n_outputs: int,
        sfreq: float,
        norm: str = "batch",
        F1: int = 40,
        F2: int = 40,
        temporal_taps: int | None = None,
        pool_size: int | None = None,
        pool_stride: int | None = None,
        groups: int = 1,
        drop_prob: float = 0.5,
    ) -> None:
        super().__init__()
        check_shape(NETWORK, n_chans, n_times, n_outputs, sfreq)
        self.n_chans, self.n_times, self.n_outputs = n_chans, n_times, n_outputs
        self.sfreq = sfreq
        taps = taps_for(25 / 250, sfreq) if temporal_taps is None else temporal_taps
        size = taps_for(75 / 250, sfreq) if pool_size is None else pool_size
        stride = taps_for(15 / 250, sfreq) if pool_stride is None else pool_stride
        for name, value in (("temporal_taps", taps), ("pool_size", size), ("pool_stride", stride)):
            if value < 1:
                raise ValueError(f"{NETWORK}: {name} must be at least 1, not {value}")
        needed = taps - 1 + size
        if n_times < needed:
            raise ValueError(
                f"{NETWORK}: n_times={n_times} is too short for a filter of {taps} and a pool of "
                f"{size} samples: take n_times >= {needed} ({needed / sfreq:.3g} s at {sfreq:g} Hz)"
            )
        left = (n_times - needed) // stride + 1

        self.temporal = nn.Conv2d(1, F1, (1, taps))
        self.spatial = spatial_conv(F1, F2, n_chans)
        self.norm = make_norm(norm, F2, groups, eps=1e-5, momentum=0.1)
        self.pool = nn.AvgPool2d((1, size), (1, stride))
        self.drop = nn.Dropout(drop_prob)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(F2 * left, n_outputs)
        glorot_uniform_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, n_outputs] of windows `x` [batch, n_chans, n_times]."""
        check_input(NETWORK, x, self.n_chans, self.n_times)
        x = x.unsqueeze(1)
        x = self.norm(self.spatial(self.temporal(x)))
        x = self.pool(torch.square(x))
        x = self.drop(torch.log(torch.clamp(x, min=LOG_FLOOR)))
        logits: Tensor = self.classifier(self.flatten(x))
        return logits
