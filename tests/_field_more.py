# SPDX-License-Identifier: Apache-2.0
"""More small networks of the field, as papers write them, for tests of layers and losses."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


class EcgResidual(nn.Module):
    """Residual blocks with strides over leads of an ECG; diagnoses that may hold together."""

    def __init__(self, n_chans: int = 3, n_times: int = 200, n_outputs: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv1d(n_chans, 8, 7, stride=2, padding=3)
        self.norms = nn.ModuleList(nn.GroupNorm(2, 8) for _ in range(2))
        self.first = nn.ModuleList(nn.Conv1d(8, 8, 5, stride=2, padding=2) for _ in range(2))
        self.second = nn.ModuleList(nn.Conv1d(8, 8, 5, padding=2) for _ in range(2))
        self.beside = nn.ModuleList(nn.Conv1d(8, 8, 1, stride=2) for _ in range(2))
        self.head = nn.Linear(8, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.elu(self.stem(x))
        for norm, first, second, beside in zip(
            self.norms, self.first, self.second, self.beside, strict=True
        ):
            x = F.elu(second(F.elu(norm(first(x)))) + beside(x))
        return self.head(x.mean(-1))


class EcgLstm(nn.Module):
    """Pooled convolutions and an LSTM, whose states are averaged: the rhythm of a strip."""

    def __init__(self, n_chans: int = 1, n_times: int = 240, n_outputs: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_chans, 8, 9, padding=4)
        self.lstm = nn.LSTM(8, 9, batch_first=True)
        self.head = nn.Linear(9, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool1d(F.softplus(self.conv(x)), 6)
        return self.head(self.lstm(x.transpose(1, 2))[0].mean(1))


class SleepSequence(nn.Module):
    """Epochs of a night one after another: each through the same encoder, a GRU over them, a stage
    for each."""

    def __init__(
        self, n_chans: int = 2, n_times: int = 320, n_outputs: int = 5, epochs: int = 4
    ) -> None:
        super().__init__()
        self.epochs = epochs
        self.conv1 = nn.Conv1d(n_chans, 6, 10, stride=5)
        self.conv2 = nn.Conv1d(6, 8, 3)
        self.gru = nn.GRU(8, 6, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unflatten(-1, (self.epochs, -1)).transpose(1, 2).flatten(0, 1)
        x = torch.tanh(self.conv2(torch.tanh(self.conv1(x)))).mean(-1)
        return self.head(self.gru(x[None])[0]).transpose(1, 2)


class Tcn(nn.Module):
    """Dilated causal convolutions with a way around them."""

    def __init__(self, n_chans: int = 4, n_times: int = 150, n_outputs: int = 3) -> None:
        super().__init__()
        self.widen = nn.Conv1d(n_chans, 8, 1)
        self.convs = nn.ModuleList(nn.Conv1d(8, 8, 3, dilation=2**i) for i in range(4))
        self.head = nn.Linear(8, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.widen(x)
        for i, conv in enumerate(self.convs):
            x = x + torch.tanh(conv(F.pad(x, (2 ** (i + 1), 0))))
        return self.head(x[..., -1])


class Spectrogram(nn.Module):
    """The logarithm of the power in frames of the window, by fixed filters, as an image."""

    def __init__(self, n_chans: int = 2, n_times: int = 256, n_outputs: int = 3) -> None:
        super().__init__()
        frame, bins = 32, 12
        at = 2 * math.pi * torch.arange(1, bins + 1)[:, None] * torch.arange(frame) / frame
        window = torch.hann_window(frame)
        bank = torch.cat([at.cos() * window, at.sin() * window])
        self.register_buffer("bank", bank[:, None].repeat(n_chans, 1, 1))
        self.n_chans, self.bins = n_chans, bins
        self.conv = nn.Conv2d(n_chans, 6, (3, 3), padding=1)
        self.head = nn.Linear(6, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.conv1d(x, self.bank, stride=8, groups=self.n_chans)
        y = y.unflatten(1, (self.n_chans, 2, self.bins)).square().sum(2)
        return self.head(torch.tanh(self.conv(torch.log(y + 1e-2))).mean((-1, -2)))


class TwoHeads(nn.Module):
    """A stage and a rate from one trunk."""

    def __init__(self, n_chans: int = 3, n_times: int = 160, n_outputs: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_chans, 8, 9, stride=2)
        self.stage, self.rate = nn.Linear(8, n_outputs), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = F.mish(self.conv(x)).mean(-1)
        return {"stage": self.stage(x), "rate": self.rate(x)}


class SubjectEmbedding(nn.Module):
    """What is known of the wearer is a row of a table, whose number is fixed on a device."""

    def __init__(
        self, n_chans: int = 3, n_times: int = 120, n_outputs: int = 3, people: int = 6
    ) -> None:
        super().__init__()
        self.people = nn.Embedding(people, 8)
        self.register_buffer("wearer", torch.tensor([4]))
        self.conv = nn.Conv1d(n_chans, 8, 11, padding=5)
        self.head = nn.Linear(8, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.conv(x) + self.people(self.wearer)[:, :, None])
        return self.head(x.mean(-1))


class SqueezeExcite(nn.Module):
    """Channels weighted by a gate that their means decide."""

    def __init__(self, n_chans: int = 4, n_times: int = 128, n_outputs: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_chans, 12, 7, padding=3)
        self.squeeze, self.excite = nn.Linear(12, 4), nn.Linear(4, 12)
        self.pool = nn.MaxPool1d(4)
        self.head = nn.Linear(12 * (n_times // 4), n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.conv(x))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean(-1)))))
        return self.head(self.pool(x * gate[:, :, None]).flatten(1))
