# SPDX-License-Identifier: Apache-2.0
"""What the networks share: kernels in seconds, the two norms, Keras' initialisation, checks."""

import math
import warnings
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

NORM_EPS = 1e-3
"""Added to the variance in a norm, unless told otherwise: Keras' value, in which most appeared."""

NORM_MOMENTUM = 0.01
"""Weight of a new batch in the running statistics (Keras calls the complement 0.99 momentum)."""

MOST: Mapping[str, int] = MappingProxyType({"n_chans": 2**14, "n_times": 2**22, "n_outputs": 2**16})
"""Largest shape that is built, far beyond any recording: a larger number is a slip, and the network
of one would fill the memory of the machine."""

MOST_VALUES = 2**26
"""Values of one window, and of an output for each of its samples."""

MOST_HZ = 1_000_000
"""Largest sampling rate; kernels span seconds."""


def taps_for(seconds: float, rate_hz: float, at_least: int = 1) -> int:
    """Kernel length in samples: `seconds` at `rate_hz`, to the nearest sample."""
    return max(at_least, math.floor(seconds * rate_hz + 0.5))


def pooled_length(network: str, n_times: int, sfreq: float, *pools: int) -> int:
    """Samples left after the pools (stride = size, no padding).

    Raises ValueError if none would be left, or if a pool spans less than one sample.
    """
    if min(pools) < 1:
        raise ValueError(f"{network}: a pool must span at least 1 sample, not {min(pools)}")
    left = n_times
    for pool in pools:
        left //= pool
    if left < 1:
        needed = math.prod(pools)
        raise ValueError(
            f"{network}: n_times={n_times} is too short for its pools "
            f"({' x '.join(map(str, pools))}): take n_times >= {needed} ({needed / sfreq:.3g} s at "
            f"{sfreq:g} Hz) or smaller pool_sizes"
        )
    return left


def check_shape(network: str, n_chans: int, n_times: int, n_outputs: int, sfreq: float) -> None:
    """Raises ValueError unless every dimension is at least 1 and the sampling rate positive,
    and none is beyond all recordings."""
    for name, value in (("n_chans", n_chans), ("n_times", n_times), ("n_outputs", n_outputs)):
        if value < 1:
            raise ValueError(f"{network}: {name} must be at least 1, not {value}")
        if value > MOST[name]:
            raise ValueError(f"{network}: {name} is at most {MOST[name]:,}, not {value}")
    if not 0 < sfreq <= MOST_HZ:
        raise ValueError(
            f"{network}: sfreq must be a positive number of Hz, at most {MOST_HZ:,}, not {sfreq}"
        )
    for values, of in ((n_chans, "a window"), (n_outputs, "the scores over time")):
        if values * n_times > MOST_VALUES:
            raise ValueError(
                f"{network}: {of} of {values:,} x {n_times:,} values are more than {MOST_VALUES:,}"
            )


def check_input(network: str, x: Tensor, n_chans: int, n_times: int) -> None:
    """Raises ValueError unless `x` is [batch, n_chans, n_times]. Its branches are on shapes only,
    so torch.export takes it; the batch may be dynamic."""
    if x.dim() != 3 or x.shape[1] != n_chans or x.shape[2] != n_times:
        raise ValueError(
            f"{network} takes [batch, {n_chans}, {n_times}], not {list(map(int, x.shape))}"
        )


def make_norm(
    kind: str,
    channels: int,
    groups: int,
    *,
    eps: float = NORM_EPS,
    momentum: float = NORM_MOMENTUM,
) -> nn.Module:
    """BatchNorm2d for "batch", GroupNorm for "group"; both with weight and bias.

    Raises ValueError for another kind, or if `groups` does not divide `channels`.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels, eps=eps, momentum=momentum)
    if kind != "group":
        raise ValueError(f'norm must be "batch" or "group", not "{kind}"')
    if groups < 1 or channels % groups:
        raise ValueError(
            f"GroupNorm: {channels} channels cannot be divided into groups={groups}; "
            "choose a divisor of every layer's channels (1 always works)"
        )
    return nn.GroupNorm(groups, channels, eps=eps)


def make_pool(kind: str, size: int) -> nn.Module:
    """Pooling by `size` samples of time, stride = size; nothing at all for a size of 1."""
    if kind not in ("max", "avg"):
        raise ValueError(f'pool must be "max" or "avg", not "{kind}"')
    if size == 1:
        return nn.Identity()
    return nn.MaxPool2d((1, size)) if kind == "max" else nn.AvgPool2d((1, size))


def temporal_conv(inputs: int, outputs: int, taps: int, *, depthwise: bool = False) -> nn.Conv2d:
    """Convolution over time, [batch, inputs, rows, time] -> [batch, outputs, rows, time], no bias.

    "Same" padding; an even number of taps gets the extra zero at the end, as in TensorFlow.
    """
    if taps < 1:
        raise ValueError(f"a kernel needs at least 1 tap, not {taps}")
    groups = inputs if depthwise else 1
    return nn.Conv2d(inputs, outputs, (1, taps), padding="same", groups=groups, bias=False)


def spatial_conv(inputs: int, outputs: int, n_chans: int, *, depthwise: bool = False) -> nn.Conv2d:
    """Convolution over all channels, [batch, inputs, n_chans, time] -> [batch, outputs, 1, time],
    no padding, no bias."""
    groups = inputs if depthwise else 1
    return nn.Conv2d(inputs, outputs, (n_chans, 1), groups=groups, bias=False)


def glorot_uniform_(module: nn.Module) -> None:
    """Initialise every convolution and linear layer as Keras does: weights uniform in
    +-sqrt(6 / (fan_in + fan_out)), biases zero. Norms keep weight 1 and bias 0.

    X. Glorot and Y. Bengio, AISTATS 2010. For a depthwise kernel Keras counts
    fan_in = taps * inputs and fan_out = taps * depth multiplier, torch
    fan_in = taps and fan_out = taps * outputs; the networks were published with the former.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            taps = math.prod(layer.kernel_size)
            if layer.groups == layer.in_channels:
                fans = taps * (layer.in_channels + layer.out_channels // layer.groups)
            else:
                fans = taps * (layer.in_channels // layer.groups + layer.out_channels)
        elif isinstance(layer, nn.Linear):
            fans = layer.in_features + layer.out_features
        else:
            continue
        limit = math.sqrt(6.0 / fans)
        nn.init.uniform_(layer.weight, -limit, limit)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _spend_one_time_warning() -> None:
    """torch warns once per process that "same" padding of an even kernel may copy its input.
    Nobody who uses these networks can act on it, so it is spent here, unseen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.functional.conv1d(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), padding="same")


_spend_one_time_warning()
