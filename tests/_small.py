# SPDX-License-Identifier: Apache-2.0
"""A network that compiles in a moment, for tests of what lies around it."""

from torch import nn


def tiny(n_chans: int, n_times: int, n_outputs: int, sfreq: float = 0.0) -> nn.Module:
    """One convolution, one linear layer."""
    left = (n_times - 9) // 4 + 1
    return nn.Sequential(
        nn.Conv1d(n_chans, 6, 9, stride=4),
        nn.ReLU(),
        nn.AvgPool1d(4),
        nn.Flatten(),
        nn.Linear(6 * (left // 4), n_outputs),
    )
