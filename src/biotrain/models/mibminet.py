# SPDX-License-Identifier: Apache-2.0
"""MI-BMInet: motor imagery from EEG."""

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

NETWORK = "MIBMInet"


class MIBMInet(nn.Module):
    """Spatial filters first, then one long depthwise filter per spatial filter, then a separable
    convolution.

    X. Wang, M. Hersche, M. Magno, L. Benini, "MI-BMInet: an efficient convolutional neural network
    for motor imagery brain-machine interfaces with EEG channel selection", IEEE Sensors J. 24(6),
    2024; in the form that BioTrain trains (arXiv 2604.13359): 8 channels x 1900 samples at 500 Hz,
    2 classes, 7938 parameters, 1858 of them in the classifier. Weights start as in Keras
    (`glorot_uniform_`).

    | layer | output at the paper's shape |
    |---|---|
    | spatial (n_chans, 1), norm1 | 32 x 1 x 1900 |
    | temporal (1, 128) depthwise "same", norm2, ReLU | 32 x 1 x 1900 |
    | pool2 8, dropout | 32 x 1 x 237 |
    | separable_depth (1, 16) "same", separable_point, norm3, ReLU | 32 x 1 x 237 |
    | pool3 8, dropout, classifier | 32 x 1 x 29 -> n_outputs |

    Filters scale with the sampling rate so that both span 0.256 s (at least 4 taps). The pools stay
    at 8 samples, so that a slower recording also gets a smaller network.

    Args:
        n_chans: channels of the recording.
        n_times: samples per window.
        n_outputs: classes.
        sfreq: sampling rate in Hz.
        norm: "batch" (BatchNorm, momentum 0.01) or "group" (GroupNorm); eps 1e-3 in both.
        F1: spatial filters.
        D: temporal filters per spatial filter.
        F2: pointwise filters; F1 * D by default.
        temporal_taps: length of the temporal filter in samples; 0.256 s by default.
        separable_taps: length of the separable filter in pooled samples; 0.256 s by default.
        pool_sizes: the two pools in samples.
        pool: "avg" (as published) or "max".
        groups: groups of the GroupNorm; 1 as in BioTrain.
        drop_prob: dropout after each pool while pretraining.

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
        F1: int = 32,
        D: int = 1,
        F2: int | None = None,
        temporal_taps: int | None = None,
        separable_taps: int | None = None,
        pool_sizes: tuple[int, int] = (8, 8),
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
        taps = temporal_taps or taps_for(128 / 500, sfreq, at_least=4)
        pooled_taps = separable_taps or taps_for(128 / 500, sfreq / pool_sizes[0], at_least=4)

        self.spatial = spatial_conv(1, F1, n_chans)
        self.norm1 = make_norm(norm, F1, groups)
        self.temporal = temporal_conv(F1, depth, taps, depthwise=True)
        self.norm2 = make_norm(norm, depth, groups)
        self.act2 = nn.ReLU()
        self.pool2 = make_pool(pool, pool_sizes[0])
        self.drop2 = nn.Dropout(drop_prob)
        self.separable_depth = temporal_conv(depth, depth, pooled_taps, depthwise=True)
        self.separable_point = temporal_conv(depth, width, 1)
        self.norm3 = make_norm(norm, width, groups)
        self.act3 = nn.ReLU()
        self.pool3 = make_pool(pool, pool_sizes[1])
        self.drop3 = nn.Dropout(drop_prob)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(width * left, n_outputs)
        glorot_uniform_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, n_outputs] of windows `x` [batch, n_chans, n_times]."""
        check_input(NETWORK, x, self.n_chans, self.n_times)
        x = x.unsqueeze(1)
        x = self.norm1(self.spatial(x))
        x = self.act2(self.norm2(self.temporal(x)))
        x = self.drop2(self.pool2(x))
        x = self.separable_point(self.separable_depth(x))
        x = self.act3(self.norm3(x))
        x = self.drop3(self.pool3(x))
        logits: Tensor = self.classifier(self.flatten(x))
        return logits
