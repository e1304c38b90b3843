# SPDX-License-Identifier: Apache-2.0
"""Wide networks drawn at random: every kind of op, layout, head and loss, a few steps each.

`_networks` draws the convolutional networks of the field, deep; these are shallow and tiny, and
made of everything else too. Each step takes and returns [batch, channels, times], whatever layout
it works in; a head reads that and has its loss. A seed always gives the same network.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import biotrain as bt


@dataclass(frozen=True)
class Wide:
    """A network in training mode, an input for it, its loss, what it is made of, and a setting."""

    net: nn.Module
    example: Tensor
    loss: Any
    text: str
    strategy: str
    share: float
    """Of the arena between the smallest plan and everything stored, that the budget leaves."""


class Step(nn.Module):
    """A function of a signal and of modules or parameters."""

    def __init__(self, call: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.call, self.parts = call, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Any:
        return self.call(x, *self.parts)


class Weights(nn.Module):
    """A parameter of a shape, near `mean`."""

    def __init__(self, *shape: int, mean: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(mean + 0.3 * torch.randn(*shape))

    def forward(self) -> Tensor:
        return self.weight


def safe(x: Tensor) -> Tensor:
    """A positive signal that stays away from 0 and from large numbers."""
    return 0.3 + torch.sigmoid(x)


POINTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "softplus": F.softplus,
    "square": lambda x: 0.5 * torch.tanh(x).square(),
    "log": lambda x: torch.log(safe(x)),
    "sqrt": lambda x: torch.sqrt(safe(x)),
    "reciprocal": lambda x: torch.reciprocal(safe(x)),
    "exp": lambda x: torch.exp(torch.tanh(x)),
    "abs": torch.abs,
    "clamp": lambda x: torch.clamp(x, -1.1, 1.3),
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.7),
    "mish": F.mish,
    "logsigmoid": F.logsigmoid,
    "softshrink": lambda x: F.softshrink(x, 0.2) + x,
    "hardshrink": lambda x: F.hardshrink(x, 0.1) + x,
    "tanhshrink": lambda x: F.tanhshrink(x) + 0.3 * x,
    "threshold": lambda x: F.threshold(x, 0.1, -0.2),
    "rsqrt": lambda x: torch.rsqrt(safe(x)),
    "log10": lambda x: torch.log10(safe(x)),
    "log2": lambda x: torch.log2(safe(x)),
    "log1p": lambda x: torch.log1p(safe(x)),
    "exp2": lambda x: torch.exp2(torch.tanh(x)),
    "expm1": lambda x: torch.expm1(torch.tanh(x)),
    "pow": lambda x: torch.pow(safe(x), 1.7),
    "sin": torch.sin,
    "cos": torch.cos,
    "neg": lambda x: torch.neg(x) + 0.5,
    "rsub": lambda x: 1.0 - x,
    "div": lambda x: x / safe(x),
    "sign": lambda x: x + 0.1 * torch.sign(x),
}

Maker = Callable[[random.Random, int, int], Step | None]
STEPS: dict[str, Maker] = {}


def step(maker: Maker) -> Maker:
    """Put a maker of steps, which knows channels and times in front of it, into the table."""
    STEPS[maker.__name__] = maker
    return maker


def _some(rng: random.Random, c: int, t: int, fn: Callable[..., Any], *parts: nn.Module) -> Step:
    return Step(fn, *parts)


@step
def conv(rng: random.Random, c: int, t: int) -> Step:
    """Along time, with a mode of padding, a stride, a dilation, groups."""
    taps, groups = rng.choice([1, 3, 5, 8]), rng.choice([1, 1, c])
    out = c if groups == c else rng.randint(2, 6)
    mode = rng.choice(["zeros", "zeros", "reflect", "replicate", "circular"])
    made = nn.Conv1d(
        c, out, taps, rng.choice([1, 1, 2, 3]), taps // 2, rng.choice([1, 1, 2]), groups,
        rng.random() < 0.6, mode,
    )  # fmt: skip
    return Step(lambda x, m: m(x), made) if t > 4 * taps else None


@step
def conv2d(rng: random.Random, c: int, t: int) -> Step:
    """Channels as rows of a picture, then all of them at once."""
    filters, taps = rng.randint(2, 3), rng.choice([3, 5])
    one = nn.Conv2d(1, filters, (1, taps), padding=(0, taps // 2))
    two = nn.Conv2d(filters, rng.randint(2, 5), (c, 1))
    return Step(lambda x, a, b: b(F.elu(a(x[:, None]))).squeeze(2), one, two)


@step
def time_last(rng: random.Random, c: int, t: int) -> Step:
    """Channels along the last axis, time along the rows, as ShallowFBCSPNet has it."""
    taps = rng.choice([3, 4])
    one, two = nn.Conv2d(1, 3, (taps, 1)), nn.Conv2d(3, 4, (1, c), bias=False)
    return Step(lambda x, a, b: b(a(x.transpose(1, 2)[:, None])).squeeze(-1), one, two)


@step
def conv3d(rng: random.Random, c: int, t: int) -> Step | None:
    if c % 2:
        return None
    pool = rng.choice([nn.AvgPool3d, nn.MaxPool3d])((1, 2, 1))
    made = nn.Conv3d(1, 2, (1, 1, 3), padding=(0, 0, 1))
    return Step(lambda x, m, p: p(m(x.unflatten(1, (1, 1, -1)))).flatten(1, 3), made, pool)


@step
def transposed(rng: random.Random, c: int, t: int) -> Step:
    stride = rng.choice([1, 2])
    return Step(lambda x, m: m(x), nn.ConvTranspose1d(c, rng.randint(2, 5), 4, stride, 1))


@step
def upsample(rng: random.Random, c: int, t: int) -> Step | None:
    mode = rng.choice(["nearest", "linear"])
    return Step(lambda x, m: m(x), nn.Upsample(scale_factor=2, mode=mode)) if t < 100 else None


@step
def pool(rng: random.Random, c: int, t: int) -> Step:
    size = rng.choice([2, 3, 4])
    kinds: list[nn.Module] = [
        nn.AvgPool1d(size, rng.choice([size, 1, 2]), ceil_mode=t % size == 0),
        nn.MaxPool1d(size, size, ceil_mode=t % size == 0),
        nn.LPPool1d(2, size),
        nn.AdaptiveAvgPool1d(rng.choice([4, 7, 8])),
        nn.AdaptiveMaxPool1d(rng.choice([4, 7])),
    ]
    kind = rng.choice(kinds)
    if isinstance(kind, nn.LPPool1d):
        return Step(lambda x, m: m(safe(x)), kind)
    return Step(lambda x, m: m(x), kind)


@step
def norm(rng: random.Random, c: int, t: int) -> Step | None:
    """Of every kind; LayerNorm and RMSNorm over channels, sequence by sequence."""
    kinds: list[nn.Module] = [nn.GroupNorm(1, c), nn.BatchNorm1d(c), nn.InstanceNorm1d(c)]
    kinds += [nn.GroupNorm(2, c)] if c % 2 == 0 else []
    if c >= 4 and rng.random() < 0.4:
        over = rng.choice([nn.LayerNorm(c), nn.RMSNorm(c)])
        return Step(lambda x, m: m(x.transpose(1, 2)).transpose(1, 2), over)
    return Step(lambda x, m: m(x), rng.choice(kinds)) if t >= 24 else None


@step
def pointwise(rng: random.Random, c: int, t: int) -> Step:
    name = rng.choice(list(POINTWISE))
    made = Step(lambda x, f=POINTWISE[name]: f(x))
    made.said = name  # type: ignore[assignment]
    return made


@step
def prelu(rng: random.Random, c: int, t: int) -> Step:
    return Step(lambda x, m: m(x), nn.PReLU(rng.choice([1, c])))


@step
def glu(rng: random.Random, c: int, t: int) -> Step | None:
    return Step(lambda x: F.glu(x, 1)) if c % 2 == 0 and c >= 4 else None


@step
def gate(rng: random.Random, c: int, t: int) -> Step:
    """Squeeze and excite."""
    one, two = nn.Linear(c, 3), nn.Linear(3, c)
    return Step(
        lambda x, a, b: x * torch.sigmoid(b(torch.tanh(a(x.mean(-1))))).unsqueeze(-1), one, two
    )


@step
def residual(rng: random.Random, c: int, t: int) -> Step:
    body = nn.Conv1d(c, c, 3, padding=1)
    ways: list[Callable[..., Tensor]] = [
        lambda x, m: x + torch.tanh(m(x)),
        lambda x, m: m(x) - x,
        lambda x, m: torch.cat([x, m(x)], 1),
        lambda x, m: torch.maximum(x, m(x)) + torch.minimum(x, 0.5 * m(x)),
        lambda x, m: x / (1.5 + torch.tanh(m(x))),
    ]
    return Step(rng.choice(ways), body)


@step
def scaled(rng: random.Random, c: int, t: int) -> Step:
    """A learned scale and shift for each channel, or position."""
    shape = rng.choice([(1, c, 1), (1, c, t), (t,)])
    return Step(lambda x, w, b: x * w() - b(), Weights(*shape, mean=1.0), Weights(*shape))


@step
def choice(rng: random.Random, c: int, t: int) -> Step:
    """Comparisons and where."""
    ways: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.where(x > 0.1, x, 0.3 * x),
        lambda x: torch.where((x >= -0.5) & (x < 0.7), x, 0.2 * x),
        lambda x: x.masked_fill(~(x <= 1.0), 1.0),
        lambda x: torch.where((x < -0.4) | (x > x.mean(1, keepdim=True)), x, torch.zeros_like(x)),
        lambda x: torch.where((x == 0.0) | (x != x), 0.1 * x, x),
        lambda x: torch.where(x >= x.flip(-1), x, 0.1 * x),
        lambda x: torch.where(x == x.flip(1), 0.5 * x, x),
    ]
    return Step(rng.choice(ways))


@step
def moved(rng: random.Random, c: int, t: int) -> Step:
    """Copies, orders and cuts of the signal."""
    index = torch.tensor([rng.randrange(c) for _ in range(c)])
    ways: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.flip(-1) + 0.5 * x,
        lambda x: torch.roll(x, 3, -1) - 0.5 * x,
        lambda x: x.repeat(1, 2, 1),
        lambda x: x.repeat_interleave(2, 1),
        lambda x: torch.cat([x[..., ::2], x[..., 1::2]], -1),
        lambda x: F.pad(x, (2, 1)),
        lambda x: x[..., 1:-2],
        lambda x: x.unfold(-1, 4, 2).mean(-1),
        lambda x: x.index_select(1, index),
        lambda x: x + x.detach().mean(-1, keepdim=True),
        lambda x: x - x[:, :1].expand(-1, x.shape[1], -1),
    ]
    if c % 2 == 0:
        ways.append(lambda x: F.channel_shuffle(x[..., None], 2).squeeze(-1))
    return Step(rng.choice(ways))


@step
def reduced(rng: random.Random, c: int, t: int) -> Step:
    """A statistic over channels or time, back beside the signal."""
    axis = rng.choice([1, 2])
    ways: list[Callable[..., Tensor]] = [
        lambda x: x - x.mean(axis, keepdim=True),
        lambda x: x / (1 + x.square().sum(axis, keepdim=True)),
        lambda x: x / (0.5 + x.std(axis, keepdim=True)),
        lambda x: x - torch.log(0.1 + x.var(axis, keepdim=True)),
        lambda x: x - x.amax(axis, keepdim=True),
        lambda x: x + x.max(axis, keepdim=True).values,
        lambda x: x - torch.logsumexp(x, axis, keepdim=True),
        lambda x: torch.log_softmax(x, axis),
        lambda x: torch.softmax(x, axis) * 4 + 0.1 * x,
        lambda x: F.normalize(x, dim=axis, eps=1e-3) + 0.1 * x,
        lambda x: x / (0.5 + torch.linalg.vector_norm(x, dim=axis, keepdim=True)),
    ]
    return Step(rng.choice(ways))


@step
def linear(rng: random.Random, c: int, t: int) -> Step | None:
    """Over channels at each time (sequence layout), or over time."""
    if rng.random() < 0.6 or t > 64:
        made = nn.Linear(c, rng.randint(2, 6), bias=rng.random() < 0.7)
        return Step(lambda x, m: m(x.transpose(1, 2)).transpose(1, 2), made)
    return Step(lambda x, m: m(x), nn.Linear(t, rng.choice([8, 32])))


@step
def product(rng: random.Random, c: int, t: int) -> Step:
    """Matrix products: by einsum, matmul, and of the signal with itself."""
    ways: list[Callable[..., Tensor]] = [
        lambda x, w: torch.einsum("oc,bct->bot", w(), x),
        lambda x, w: w() @ x,
        lambda x, w: x.transpose(1, 2).matmul(w().t()).transpose(1, 2),
        lambda x, w: torch.addmm(w()[:, :1], w(), x[0])[None],
        lambda x, w: (torch.bmm(x, x.transpose(1, 2)) * 0.02) @ x + (w() @ x)[:, :1],
    ]
    return Step(rng.choice(ways), Weights(4, c))


@step
def attention(rng: random.Random, c: int, t: int) -> Step | None:
    if c % 2 or t > 80:
        return None
    kind = rng.choice(["module", "layer", "function", "causal", "hand"])
    if kind == "module":
        made: nn.Module = nn.MultiheadAttention(c, 2, batch_first=True)
        return Step(lambda x, m: (s := x.transpose(1, 2), m(s, s, s)[0])[1].transpose(1, 2), made)
    if kind == "layer":
        first = rng.random() < 0.5
        made = nn.TransformerEncoderLayer(c, 2, 2 * c, 0.0, batch_first=True, norm_first=first)
        return Step(lambda x, m: m(x.transpose(1, 2)).transpose(1, 2), made)
    if kind == "hand":

        def by_hand(x: Tensor, m: nn.Module) -> Tensor:
            q, k, v = m(x.transpose(1, 2)).chunk(3, -1)
            return ((q @ k.transpose(1, 2) * 0.5).softmax(-1) @ v).transpose(1, 2)

        return Step(by_hand, nn.Linear(c, 3 * c))
    causal = kind == "causal"

    def heads(x: Tensor, m: nn.Module) -> Tensor:
        q, k, v = (p.unflatten(1, (2, -1)).transpose(2, 3) for p in m(x).chunk(3, 1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return y.transpose(2, 3).flatten(1, 2)

    return Step(heads, nn.Conv1d(c, 3 * c, 1))


@step
def recurrent(rng: random.Random, c: int, t: int) -> Step | None:
    """LSTM, GRU or RNN, batch or sequence first, one or two directions."""
    if t > 60:
        return None
    kind = rng.choice([nn.LSTM, nn.GRU, nn.RNN, nn.RNN])
    more = {"nonlinearity": rng.choice(["tanh", "relu"])} if kind is nn.RNN else {}
    first = rng.random() < 0.5
    made = kind(
        c, rng.randint(2, 4), rng.choice([1, 1, 2]), batch_first=first,
        bidirectional=rng.random() < 0.4, **more,
    )  # fmt: skip
    if first:
        return Step(lambda x, m: m(x.transpose(1, 2))[0].transpose(1, 2), made)
    return Step(lambda x, m: m(x.permute(2, 0, 1))[0].permute(1, 2, 0), made)


@step
def folded(rng: random.Random, c: int, t: int) -> Step:
    """Each channel alone, folded into the batch."""
    made = nn.Conv1d(1, 2, 5, padding=2)
    return Step(lambda x, m: m(x.reshape(-1, 1, x.shape[-1])).reshape(1, -1, x.shape[-1]), made)


@step
def bounded(rng: random.Random, c: int, t: int) -> Step:
    """A layer under `weight_norm`."""
    made = nn.utils.parametrizations.weight_norm(nn.Conv1d(c, 4, 3, padding=1))
    return Step(lambda x, m: m(x), made)


@step
def spectrum(rng: random.Random, c: int, t: int) -> Step | None:
    """Power in windows, by a product with fixed cosines and sines."""
    if t < 32:
        return None
    angle = torch.outer(torch.arange(5) * (2 * math.pi / 16), torch.arange(16))
    filters = nn.Module()
    filters.register_buffer("bank", torch.cat([angle.cos(), angle.sin()])[:, None] / 4)

    def power(x: Tensor, m: Any) -> Tensor:
        y = F.conv1d(x.transpose(0, 1), m.bank, stride=4)
        return torch.log(0.1 + y[:, :5].square() + y[:, 5:].square()).mean(1)[None]

    return Step(power, filters)


@step
def covariances(rng: random.Random, c: int, t: int) -> Step | None:
    """The channels' covariance, its diagonal, its logarithm; back on the signal."""
    if c > 8:
        return None

    def gram(x: Tensor) -> Tensor:
        g = torch.bmm(x, x.transpose(1, 2)) / x.shape[-1]
        return torch.tanh(g + torch.diagonal(g[0])[None, :, None]) @ x

    def logarithm(x: Tensor) -> Tensor:
        return torch.tanh(bt.models.log_covariance(x, 0.3)) @ x

    return Step(rng.choice([gram, logarithm]))


HEADS: dict[str, Callable[[random.Random, int, int], tuple[nn.Module, Any]]] = {
    "classes": lambda r, c, t: (Step(_pooled, nn.Linear(c, 3)), "cross_entropy"),
    "flat": lambda r, c, t: (nn.Sequential(nn.Flatten(), nn.Linear(c * t, 4)), "cross_entropy"),
    "smooth": lambda r, c, t: (
        Step(_pooled, nn.Linear(c, 3)),
        bt.losses.CrossEntropy((1.0, 2.0, 0.5), label_smoothing=0.1),
    ),
    "soft": lambda r, c, t: (
        Step(_pooled, nn.Linear(c, 3)),
        bt.losses.CrossEntropy(soft=True),
    ),
    "dense": lambda r, c, t: (nn.Conv1d(c, 3, 1), bt.losses.CrossEntropy(ignore_index=2)),
    "labels": lambda r, c, t: (
        Step(_pooled, nn.Linear(c, 2)),
        bt.losses.BCEWithLogits((1.5, 0.5)),
    ),
    "mse": lambda r, c, t: (Step(_pooled, nn.Linear(c, 2)), bt.losses.MSE()),
    "dense_mse": lambda r, c, t: (nn.Conv1d(c, 2, 1), "mse"),
    "l1": lambda r, c, t: (Step(_pooled, nn.Linear(c, 2)), bt.losses.L1()),
    "huber": lambda r, c, t: (Step(_pooled, nn.Linear(c, 1)), bt.losses.Huber(0.7)),
    "tuple": lambda r, c, t: (
        Step(lambda x, a, b: (_pooled(x, a), b(x)), nn.Linear(c, 3), nn.Conv1d(c, 2, 1)),
        ("cross_entropy", bt.losses.Huber(1.0, factor=0.3)),
    ),
    "dict": lambda r, c, t: (
        Step(
            lambda x, a, b: {"stage": _pooled(x, a), "rate": b(x.amax(-1))},
            nn.Linear(c, 3),
            nn.Linear(c, 1),
        ),
        {"stage": "cross_entropy", "rate": bt.losses.MSE(factor=0.5)},
    ),
}


def _pooled(x: Tensor, m: nn.Module) -> Tensor:
    return m(x.mean(-1))


def draw(seed: int, force: str = "", steps: int = 4) -> Wide:
    """The network that belongs to `seed`: up to `steps` steps (`force` among them) and a head.

    Its input is float32 [1, 2 to 6, 24 to 96]. The state of torch's generator stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rng = random.Random(f"wide/{seed}/{force}")
        return _drawn(rng, force, steps)


def _drawn(rng: random.Random, force: str, steps: int) -> Wide:
    x = torch.randn(1, rng.randint(2, 6), rng.choice([24, 33, 50, 64, 96]))
    body: list[nn.Module] = [nn.Conv1d(x.shape[1], rng.choice([4, 4, 6]), 3, padding=1)]
    said, y = [f"{tuple(x.shape[1:])}"], body[0](x)
    wanted = [rng.choice(list(STEPS)) for _ in range(rng.randint(1, steps))]
    for name in [force, *wanted] if force else wanted:
        made = STEPS[name](rng, y.shape[1], y.shape[2])
        if made is None:
            continue
        out = made(y)
        if out.shape[1] > 16 or out.shape[2] < 8:
            continue
        body.append(made)
        said.append(getattr(made, "said", name))
        y = out.detach()
    kinds = list(HEADS)
    head = rng.choice(kinds)
    last, loss = HEADS[head](rng, y.shape[1], y.shape[2])
    strategy = rng.choice(["full", "full", "full", "last", "bias"])
    text = f"{' '.join(said)} | {head} {strategy}"
    net = nn.Sequential(*body, last).train()
    return Wide(net, x, loss, text, strategy, rng.random())
