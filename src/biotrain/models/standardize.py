# SPDX-License-Identifier: Apache-2.0
"""Standardisation of the recording, as a layer: what pretraining did, the device repeats."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """Per channel: subtract a mean, multiply by a stored scale (1 / standard deviation).

    center=True:  y = (x - mean of this window over time) * scale
    center=False: y = (x - mean) * scale

    The former follows slow drift and electrode offsets and needs no `mean`. The reciprocal is taken
    once, in float64, and stored, so the device multiplies by the same bits. Mean and standard
    deviation come from the pretraining subjects only, in the unit of the recording.

    Args:
        mean: one value per channel, [n_chans] or [n_chans, 1] (tensor, array or list).
        std: likewise; every value positive and finite.
        center: subtract each window's own mean instead of the stored one.

    Buffers: `mean`, `std`, `scale`, float32 [n_chans, 1]; nothing is trained.
    Input and output: float32 [batch, n_chans, n_times].

    Raises:
        ValueError: lengths that differ, or a standard deviation that is zero, negative, NaN or
            infinite (a flat channel), named by its index.
    """

    mean: Tensor
    std: Tensor
    scale: Tensor

    def __init__(self, mean: Any, std: Any, center: bool = True) -> None:
        super().__init__()
        mean64 = torch.as_tensor(mean, dtype=torch.float64).detach().reshape(-1, 1).clone()
        std64 = torch.as_tensor(std, dtype=torch.float64).detach().reshape(-1, 1).clone()
        if mean64.shape != std64.shape:
            raise ValueError(f"Standardize: {len(mean64)} means, {len(std64)} standard deviations")
        if not bool(torch.isfinite(mean64).all()):
            raise ValueError("Standardize: a mean is not finite")
        scale = (1.0 / std64).float()
        usable = torch.isfinite(scale) & torch.isfinite(std64) & (std64 > 0)
        if not bool(usable.all()):
            bad = [i for i, ok in enumerate(usable.flatten().tolist()) if not ok]
            raise ValueError(
                f"Standardize: the standard deviation of channel {', '.join(map(str, bad))} is "
                "zero or not finite; a flat channel carries no signal, leave it out"
            )
        self.center = bool(center)
        self.register_buffer("mean", mean64.float())
        self.register_buffer("std", std64.float())
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [batch, n_chans, n_times], standardised."""
        mean = x.mean(-1, keepdim=True) if self.center else self.mean
        return (x - mean) * self.scale

    def extra_repr(self) -> str:
        """What print(module) shows."""
        return f"n_chans={len(self.std)}, center={self.center}"


def standardized(network: nn.Module, mean: Any, std: Any, center: bool = True) -> nn.Sequential:
    """`network` behind a `Standardize`, as nn.Sequential with the names `standardize` and
    `network` (parameters are then called `network.<name>`). The network is not copied."""
    layers = OrderedDict[str, nn.Module]()
    layers["standardize"] = Standardize(mean, std, center)
    layers["network"] = network
    return nn.Sequential(layers)
