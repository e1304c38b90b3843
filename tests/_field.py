# SPDX-License-Identifier: Apache-2.0
"""Small networks of the field, as they are written in papers, for tests of layers and losses."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


def sinusoids(positions: int, dim: int) -> torch.Tensor:
    """The fixed positional embedding of the transformer, (1, positions, dim)."""
    at = torch.arange(positions)[:, None] * torch.exp(
        torch.arange(0, dim, 2) * (-math.log(10000.0) / dim)
    )
    return torch.stack([at.sin(), at.cos()], -1).flatten(1)[None]


class EmgTransformer(nn.Module):
    """Patches of the window, a class token, learned positions, one encoder layer."""

    def __init__(self, n_chans: int = 4, n_times: int = 200, n_outputs: int = 5, dim: int = 16):
        super().__init__()
        self.patches = nn.Conv1d(n_chans, dim, 5, stride=5)
        tokens = n_times // 5 + 1
        self.token = nn.Parameter(0.1 * torch.randn(1, 1, dim))
        self.position = nn.Parameter(0.1 * torch.randn(1, tokens, dim))
        layer = nn.TransformerEncoderLayer(
            dim, 2, 2 * dim, 0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.encoder(x))[:, 0])


class Conformer(nn.Module):
    """A convolution and attention written by hand: einsum, softmax over keys, RMS norms."""

    def __init__(self, n_chans: int = 4, n_times: int = 180, n_outputs: int = 4, dim: int = 8):
        super().__init__()
        self.temporal = nn.Conv1d(n_chans, dim, 15, padding=7)
        self.pool = nn.AvgPool1d(6)
        self.register_buffer("position", sinusoids(n_times // 6, dim))
        self.norm1, self.norm2 = nn.RMSNorm(dim), nn.RMSNorm(dim, eps=1e-5)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.depthwise = nn.Conv1d(dim, dim, 5, padding=2, groups=dim)
        self.head = nn.Linear(dim, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.silu(self.temporal(x))).transpose(1, 2) + self.position
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (2, -1)) for t in (q, k, v))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
        x = x + self.out((scores.softmax(-1) @ v.transpose(1, 2)).transpose(1, 2).flatten(2))
        x = x + F.silu(self.depthwise(self.norm2(x).transpose(1, 2))).transpose(1, 2)
        return self.head(x.mean(1))


class Causal(nn.Module):
    """Self-attention in which a sample sees its past only, on the module that returns weights."""

    def __init__(self, n_chans: int = 6, n_times: int = 70, n_outputs: int = 3):
        super().__init__()
        self.attention = nn.MultiheadAttention(n_chans, 2, batch_first=True)
        self.head = nn.Linear(n_chans, n_outputs)
        self.register_buffer("mask", torch.full((n_times, n_times), float("-inf")).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2)
        x = x + self.attention(x, x, x, attn_mask=self.mask)[0]
        y = F.scaled_dot_product_attention(x, x, x, is_causal=True)
        return self.head((x + y).mean(1))


class SleepLstm(nn.Module):
    """A convolution over an epoch, a bidirectional LSTM over its features, a stage at the end."""

    def __init__(self, n_chans: int = 2, n_times: int = 240, n_outputs: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(n_chans, 8, 12, stride=6)
        self.conv2 = nn.Conv1d(8, 10, 3, padding=1)
        self.lstm = nn.LSTM(10, 7, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(14, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.conv2(torch.tanh(self.conv1(x))))
        return self.head(self.lstm(x.transpose(1, 2))[0][:, -1])


class PpgRate(nn.Module):
    """Heart rate from a pulse wave: convolutions, a GRU and an RNN, their last states."""

    def __init__(self, n_chans: int = 3, n_times: int = 160) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_chans, 6, 9, stride=4)
        self.gru = nn.GRU(6, 8, batch_first=True)
        self.rnn = nn.RNN(8, 5, batch_first=True, nonlinearity="tanh")
        self.head = nn.Linear(8 + 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, last = self.gru(torch.tanh(self.conv(x)).transpose(1, 2))
        return self.head(torch.cat([last[-1], self.rnn(states)[1][-1]], 1))


class UNet(nn.Module):
    """A class for each step: down by strides, up by a transposed convolution and a line."""

    def __init__(self, n_chans: int = 2, n_times: int = 160, n_outputs: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv1d(n_chans, 6, 5, padding=2)
        self.down = nn.Conv1d(6, 8, 4, stride=2, padding=1)
        self.deep = nn.Conv1d(8, 10, 4, stride=2, padding=1)
        self.up = nn.Upsample(scale_factor=2, mode="linear")
        self.middle = nn.Conv1d(18, 8, 3, padding=1)
        self.out = nn.ConvTranspose1d(8, 6, 4, stride=2, padding=1)
        self.head = nn.Conv1d(12, n_outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = torch.tanh(self.first(x))
        two = torch.tanh(self.down(one))
        three = torch.cat([self.up(torch.tanh(self.deep(two))), two], 1)
        four = torch.tanh(self.out(torch.tanh(self.middle(three))))
        return self.head(torch.cat([four, one], 1))
