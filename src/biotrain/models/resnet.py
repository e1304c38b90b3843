# SPDX-License-Identifier: Apache-2.0
"""A residual network over time."""

from torch import Tensor, nn

from biotrain.models.common import (
    check_input,
    check_shape,
    glorot_uniform_,
    make_norm,
    make_pool,
    pooled_length,
    taps_for,
    temporal_conv,
)

NETWORK = "ResNet"


class Stage(nn.Module):
    """Three temporal convolutions and a way around them, [batch, inputs, 1, time] -> [batch,
    outputs, 1, time]: norm and ReLU after the first two, ReLU after the sum.

    The way around is the input itself, or a pointwise convolution where the channels differ, with
    a norm of its own.
    """

    def __init__(
        self, inputs: int, outputs: int, taps: tuple[int, int, int], norm: str, groups: int
    ) -> None:
        super().__init__()
        self.conv1 = temporal_conv(inputs, outputs, taps[0])
        self.norm1 = make_norm(norm, outputs, groups)
        self.act1 = nn.ReLU()
        self.conv2 = temporal_conv(outputs, outputs, taps[1])
        self.norm2 = make_norm(norm, outputs, groups)
        self.act2 = nn.ReLU()
        self.conv3 = temporal_conv(outputs, outputs, taps[2])
        self.norm3 = make_norm(norm, outputs, groups)
        self.skip = nn.Identity() if inputs == outputs else temporal_conv(inputs, outputs, 1)
        self.skip_norm = make_norm(norm, outputs, groups)
        self.act3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The stage's output for `x` [batch, inputs, 1, time]."""
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.act2(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        total: Tensor = self.act3(y + self.skip_norm(self.skip(x)))
        return total


class ResNet(nn.Module):
    """Three residual stages of temporal convolutions, a pool after the first two, and the mean over
    time.

    Stages, their kernels (8, 5, 3) and the mean at the end: Z. Wang, W. Yan, T. Oates, "Time series
    classification from scratch with deep neural networks: a strong baseline", IJCNN 2017 (arXiv
    1611.06455). Theirs has 64, 128 and 128 filters and no pool, some half a million parameters;
    here it is as narrow as a microcontroller asks for, and the pools shorten what the later stages
    see. All channels of the recording enter the first convolution together. Weights start as in
    Keras (`glorot_uniform_`).

    | layer | output at 8 channels x 1000 samples |
    |---|---|
    | stage1 (1, 8), (1, 5), (1, 3) "same", pool1 4 | 16 x 1 x 250 |
    | stage2, pool2 4 | 32 x 1 x 62 |
    | stage3, global average | 32 |
    | dropout, classifier | n_outputs |

    Filters scale with the sampling rate: in (pooled) samples they are 8, 5 and 3 at 250 Hz, and at
    least 3. The pools stay at 4 samples, so that a slower recording also gets a smaller network.

    Args:
        n_chans: channels of the recording.
        n_times: samples per window.
        n_outputs: classes.
        sfreq: sampling rate in Hz.
        norm: "batch" (BatchNorm, momentum 0.01) or "group" (GroupNorm); eps 1e-3 in both.
        filters: filters of the three stages.
        taps: lengths of the three temporal filters of each stage in (pooled) samples.
        pool_sizes: the two pools in samples.
        pool: "avg" or "max".
        groups: groups of the GroupNorm.
        drop_prob: dropout before the classifier while pretraining.

    Input: float32 [batch, n_chans, n_times]. Output: logits, float32 [batch, n_outputs].

    Raises:
        ValueError: a dimension below 1, a window shorter than the pools, groups that do not divide
            the filters, an unknown norm or pool; in `forward`, an input of another shape.
    """

    def __init__(
        self,
        *,
        n_chans: int,
        n_times: int,
        n_outputs: int,
        sfreq: float,
        norm: str = "batch",
        filters: tuple[int, int, int] = (16, 32, 32),
        taps: tuple[int, int, int] | None = None,
        pool_sizes: tuple[int, int] = (4, 4),
        pool: str = "avg",
        groups: int = 1,
        drop_prob: float = 0.5,
    ) -> None:
        super().__init__()
        check_shape(NETWORK, n_chans, n_times, n_outputs, sfreq)
        self.n_chans, self.n_times, self.n_outputs = n_chans, n_times, n_outputs
        self.sfreq = sfreq
        pooled_length(NETWORK, n_times, sfreq, *pool_sizes)
        lengths = taps or (
            taps_for(8 / 250, sfreq, at_least=3),
            taps_for(5 / 250, sfreq, at_least=3),
            taps_for(3 / 250, sfreq, at_least=3),
        )

        self.stage1 = Stage(n_chans, filters[0], lengths, norm, groups)
        self.pool1 = make_pool(pool, pool_sizes[0])
        self.stage2 = Stage(filters[0], filters[1], lengths, norm, groups)
        self.pool2 = make_pool(pool, pool_sizes[1])
        self.stage3 = Stage(filters[1], filters[2], lengths, norm, groups)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.drop = nn.Dropout(drop_prob)
        self.classifier = nn.Linear(filters[2], n_outputs)
        glorot_uniform_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, n_outputs] of windows `x` [batch, n_chans, n_times]."""
        check_input(NETWORK, x, self.n_chans, self.n_times)
        x = x.unsqueeze(2)
        x = self.pool1(self.stage1(x))
        x = self.pool2(self.stage2(x))
        x = self.flatten(self.global_pool(self.stage3(x)))
        logits: Tensor = self.classifier(self.drop(x))
        return logits
