# SPDX-License-Identifier: Apache-2.0
"""EEGNet, version 4."""

from torch import Tensor, nn

from biotrain.models.common import (
    check_input,
    check_shape,
    glorot_uniform_,
    make_norm,
    make_pool,
    pooled_length,
    spatial_conv,
    taps_for,
    temporal_conv,
)

NETWORK = "EEGNet"


class EEGNet(nn.Module):
    """Temporal filters, spatial filters for each of them, then a separable convolution: EEGNet-8,2.

    V. J. Lawhern, A. J. Solon, N. R. Waytowich, S. M. Gordon, C. P. Hung, B. J. Lance, "EEGNet: a
    compact convolutional neural network for EEG-based brain-computer interfaces", J. Neural Eng.
    15, 2018 (arXiv 1611.08024v4, table 2). Weights start as in Keras (`glorot_uniform_`).

    | layer | output |
    |---|---|
    | temporal (1, sfreq / 2) "same", norm1 | F1 x n_chans x n_times |
    | spatial (n_chans, 1) depthwise, norm2, ELU, pool2 4, dropout | F1 D x 1 x n_times // 4 |
    | separable_depth (1, 16) "same", separable_point, norm3, ELU, pool3 8, dropout | F2 x 1 x n |
    | classifier | n_outputs |

    Only the temporal filter scales with the sampling rate, as in the authors' code: 16 taps and the
    pools of 4 and 8 stay, and mean what they meant there near 128 Hz.

    The paper also bounds the norm of each spatial filter by 1 and of each classifier row by 0.25
    while pretraining. That is a projection after each optimizer step, no part of the network: left
    out here and on the device, whose few steps stay close to where they start.

    Args:
        n_chans: channels of the recording.
        n_times: samples per window.
        n_outputs: classes.
        sfreq: sampling rate in Hz.
        norm: "batch" (BatchNorm, momentum 0.01) or "group" (GroupNorm); eps 1e-3 in both.
        F1: temporal filters.
        D: spatial filters per temporal filter.
        F2: pointwise filters; F1 * D by default.
        temporal_taps: length of the temporal filter in samples; half a second by default.
        separable_taps: length of the separable filter in pooled samples.
        pool_sizes: the two pools in samples.
        pool: "avg" (as published) or "max".
        groups: groups of the GroupNorm.
        drop_prob: dropout after each pool (the paper: 0.5 within a subject, 0.25 across subjects).

    Input: float32 [batch, n_chans, n_times]. Output: logits, float32 [batch, n_outputs].

    Raises:
        ValueError: a dimension below 1, a window shorter than the pools, groups that do not divide
            the channels, an unknown norm or pool; in `forward`, an input of another shape.
    """

    def __init__(
        self,
        *,
        n_chans: int,
        n_times: int,
        n_outputs: int,
        sfreq: float,
        norm: str = "batch",
        F1: int = 8,
        D: int = 2,
        F2: int | None = None,
        temporal_taps: int | None = None,
        separable_taps: int = 16,
        pool_sizes: tuple[int, int] = (4, 8),
        pool: str = "avg",
        groups: int = 1,
        drop_prob: float = 0.5,
    ) -> None:
        super().__init__()
        check_shape(NETWORK, n_chans, n_times, n_outputs, sfreq)
        self.n_chans, self.n_times, self.n_outputs = n_chans, n_times, n_outputs
        self.sfreq = sfreq
        depth = F1 * D
        width = depth if F2 is None else F2
        left = pooled_length(NETWORK, n_times, sfreq, *pool_sizes)
        taps = temporal_taps or taps_for(0.5, sfreq, at_least=4)

        self.temporal = temporal_conv(1, F1, taps)
        self.norm1 = make_norm(norm, F1, groups)
        self.spatial = spatial_conv(F1, depth, n_chans, depthwise=True)
        self.norm2 = make_norm(norm, depth, groups)
        self.act2 = nn.ELU()
        self.pool2 = make_pool(pool, pool_sizes[0])
        self.drop2 = nn.Dropout(drop_prob)
        self.separable_depth = temporal_conv(depth, depth, separable_taps, depthwise=True)
        self.separable_point = temporal_conv(depth, width, 1)
        self.norm3 = make_norm(norm, width, groups)
        self.act3 = nn.ELU()
        self.pool3 = make_pool(pool, pool_sizes[1])
        self.drop3 = nn.Dropout(drop_prob)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(width * left, n_outputs)
        glorot_uniform_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, n_outputs] of windows `x` [batch, n_chans, n_times]."""
        check_input(NETWORK, x, self.n_chans, self.n_times)
        x = x.unsqueeze(1)
        x = self.norm1(self.temporal(x))
        x = self.act2(self.norm2(self.spatial(x)))
        x = self.drop2(self.pool2(x))
        x = self.separable_point(self.separable_depth(x))
        x = self.act3(self.norm3(x))
        x = self.drop3(self.pool3(x))
        logits: Tensor = self.classifier(self.flatten(x))
        return logits
