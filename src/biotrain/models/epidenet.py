# SPDX-License-Identifier: Apache-2.0
"""EpiDeNet: from seizures in EEG to eye movements in EOG."""

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

NETWORK = "EpiDeNet"


class EpiDeNet(nn.Module):
    """Three temporal convolutions, shared by the channels, then one across the channels, one
    pointwise, and the mean over time.

    T. M. Ingolfsson, U. Chakraborty, X. Wang, S. Beniczky, P. Ducouret, S. Benatti, P. Ryvlin,
    A. Cossettini, L. Benini, "EpiDeNet: an energy-efficient approach to seizure detection for
    embedded systems", IEEE BioCAS 2023; in the form that BioTrain trains (arXiv 2604.13359):
    2 channels x 1000 samples at 500 Hz, 11 classes, 4179 parameters, 187 of them in the classifier.
    Weights start as in Keras (`glorot_uniform_`).

    | layer | output at the paper's shape |
    |---|---|
    | temporal1 (1, 4) "same", norm1, ReLU, pool1 8 | 4 x 2 x 125 |
    | temporal2 (1, 16) "same", norm2, ReLU, pool2 4 | 16 x 2 x 31 |
    | temporal3 (1, 8) "same", norm3, ReLU, pool3 4 | 16 x 2 x 7 |
    | spatial (n_chans, 1), norm4, ReLU | 16 x 1 x 7 |
    | pointwise (1, 1), norm5, ReLU, global average | 16 |
    | dropout, classifier | n_outputs |

    Filters scale with the sampling rate so that they span 8, 256 and 512 ms (at least 4 taps). The
    pools stay at 8, 4 and 4 samples, so that a slower recording also gets a smaller network.

    Args:
        n_chans: channels of the recording; the spatial kernel spans them all.
        n_times: samples per window.
        n_outputs: classes.
        sfreq: sampling rate in Hz.
        norm: "batch" (BatchNorm, momentum 0.01) or "group" (GroupNorm); eps 1e-3 in both.
        F1: filters of the first convolution.
        F2: filters of the other convolutions.
        taps: lengths of the three temporal filters in (pooled) samples; 8, 256 and 512 ms by
            default.
        pool_sizes: the three pools in samples.
        pool: "max" or "avg"; by default "max" with norm="batch", as published, and "avg" with
            norm="group", which needs no index maps.
        groups: groups of the GroupNorm; 1 as in BioTrain.
        drop_prob: dropout before the classifier while pretraining.

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
        F1: int = 4,
        F2: int = 16,
        taps: tuple[int, int, int] | None = None,
        pool_sizes: tuple[int, int, int] = (8, 4, 4),
        pool: str | None = None,
        groups: int = 1,
        drop_prob: float = 0.5,
    ) -> None:
        super().__init__()
        check_shape(NETWORK, n_chans, n_times, n_outputs, sfreq)
        self.n_chans, self.n_times, self.n_outputs = n_chans, n_times, n_outputs
        self.sfreq = sfreq
        kind = pool or ("max" if norm == "batch" else "avg")
        pooled_length(NETWORK, n_times, sfreq, *pool_sizes)
        rate2 = sfreq / pool_sizes[0]
        lengths = taps or (
            taps_for(4 / 500, sfreq, at_least=4),
            taps_for(128 / 500, rate2, at_least=4),
            taps_for(256 / 500, rate2 / pool_sizes[1], at_least=4),
        )

        self.temporal1 = temporal_conv(1, F1, lengths[0])
        self.norm1 = make_norm(norm, F1, groups)
        self.act1 = nn.ReLU()
        self.pool1 = make_pool(kind, pool_sizes[0])
        self.temporal2 = temporal_conv(F1, F2, lengths[1])
        self.norm2 = make_norm(norm, F2, groups)
        self.act2 = nn.ReLU()
        self.pool2 = make_pool(kind, pool_sizes[1])
        self.temporal3 = temporal_conv(F2, F2, lengths[2])
        self.norm3 = make_norm(norm, F2, groups)
        self.act3 = nn.ReLU()
        self.pool3 = make_pool(kind, pool_sizes[2])
        self.spatial = spatial_conv(F2, F2, n_chans)
        self.norm4 = make_norm(norm, F2, groups)
        self.act4 = nn.ReLU()
        self.pointwise = temporal_conv(F2, F2, 1)
        self.norm5 = make_norm(norm, F2, groups)
        self.act5 = nn.ReLU()
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.drop = nn.Dropout(drop_prob)
        self.classifier = nn.Linear(F2, n_outputs)
        glorot_uniform_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, n_outputs] of windows `x` [batch, n_chans, n_times]."""
        check_input(NETWORK, x, self.n_chans, self.n_times)
        x = x.unsqueeze(1)
        x = self.pool1(self.act1(self.norm1(self.temporal1(x))))
        x = self.pool2(self.act2(self.norm2(self.temporal2(x))))
        x = self.pool3(self.act3(self.norm3(self.temporal3(x))))
        x = self.act4(self.norm4(self.spatial(x)))
        x = self.act5(self.norm5(self.pointwise(x)))
        x = self.drop(self.flatten(self.global_pool(x)))
        logits: Tensor = self.classifier(x)
        return logits
