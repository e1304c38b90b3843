# SPDX-License-Identifier: Apache-2.0
"""Networks drawn at random, of the kind that biosignals are read with.

They are put together from the op families that BioTrain supports, and from none of the built-in
models: what helps those must help these. A seed always gives the same network; no seed is fixed in
the repository.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from itertools import count
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

MOST_MACS = 10_000_000
"""Of one forward pass, so that a test is quick."""
MOST_VALUES = 500_000
"""Of all layer outputs together, for the same reason."""
FEWEST = 24
"""Values that a norm is taken over: fewer amplify rounding, and everything behind them shows it."""
PARAMETERS = range(500, 30_001)


class Network(NamedTuple):
    """A network, one input for it, and what it is made of."""

    net: nn.Module
    example: Tensor
    text: str


def draw(seed: int, blocks: int = 8) -> Network:
    """The network that belongs to `seed`, in training mode, of two to `blocks` blocks.

    Its input is float32 [1, n_chans, n_times] with 1 to 16 channels and 128 to 2000 samples; its
    output [1, classes] with 2 to 11 classes. The state of torch's generator stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        for attempt in count():
            torch.manual_seed(seed + attempt)
            # A text, because Random takes an integer and its negative for the same seed.
            drawn = _Draw(random.Random(f"{seed}/{attempt}")).network(blocks)
            if drawn is not None:
                return drawn
    raise AssertionError("unreachable")


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


class Axis(nn.Module):
    """[batch, chans, times] with an axis of size 1: before the channels (they become rows), or
    behind them (they stay channels)."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(self.at)


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


class Log(nn.Module):
    """The logarithm of a power, which may be nothing at all."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(torch.clamp(x, min=1e-6))


class Mean(nn.Module):
    """Over everything but the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(-1)


class Residual(nn.Module):
    """The sum of two ways."""

    def __init__(self, body: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.body, self.skip = body, skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


class Branches(nn.Module):
    """Several ways, their channels side by side."""

    def __init__(self, *ways: nn.Module) -> None:
        super().__init__()
        self.ways = nn.ModuleList(ways)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([way(x) for way in self.ways], dim=1)


ACTIVATIONS: dict[str, tuple[int, Callable[[], nn.Module]]] = {  # name: (weight, maker)
    "relu": (8, nn.ReLU),
    "relu!": (2, lambda: nn.ReLU(inplace=True)),
    "elu": (5, nn.ELU),
    "gelu": (3, nn.GELU),
    "gelu~": (1, lambda: nn.GELU(approximate="tanh")),
    "leaky": (3, lambda: nn.LeakyReLU(0.1)),
    "silu": (2, nn.SiLU),
    "hardswish": (2, nn.Hardswish),
    "relu6": (1, nn.ReLU6),
    "tanh": (1, nn.Tanh),
    "sigmoid": (1, nn.Sigmoid),
    "softplus": (1, nn.Softplus),
}
NORMS = {"batch": 4, "group": 6, "instance": 2, "layer": 1, "none": 1}


class _TooLarge(Exception):
    """The network that is being drawn would not be quick, or its layers do not fit."""


class _Draw:
    """One attempt: the layers so far, the shape behind them, and what they cost."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.shape: tuple[int, ...] = ()
        self.macs = self.values = self.fan_in = 0
        self.norm = self.pick(NORMS)
        self.activation = self.pick({k: w for k, (w, _) in ACTIVATIONS.items()})

    # Chance.

    def pick(self, weights: dict[str, int]) -> str:
        return self.rng.choices(list(weights), list(weights.values()))[0]

    def often(self, share: float) -> bool:
        return self.rng.random() < share

    def log_uniform(self, low: int, high: int) -> int:
        """A whole number; each doubling is as likely as the next."""
        return min(high, int(low * ((high + 1) / low) ** self.rng.random())) if high > low else low

    # Layers. Each method that makes one knows the shape in front of it from `shape`.

    def add(self, layer: nn.Module) -> nn.Module:
        """Take a layer into account: the shape behind it and its cost."""
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            self.shape = _behind(layer, self.shape)
            self.fan_in = layer.weight[0].numel()
            self.macs += prod(self.shape) * self.fan_in
        elif isinstance(layer, nn.Linear):
            self.macs += layer.weight.numel()
            self.shape = (1, layer.out_features)
        else:
            self.shape = _behind(layer, self.shape)
        self.values += prod(self.shape)
        if self.macs > MOST_MACS or self.values > MOST_VALUES:
            raise _TooLarge
        return layer

    @property
    def times(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return self.shape[2] if len(self.shape) == 4 else 1

    @property
    def flat(self) -> bool:
        """Whether layers are one-dimensional."""
        return len(self.shape) == 3

    def conv(
        self,
        outputs: int,
        taps: int,
        *,
        rows: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: str | int = "valid",
    ) -> nn.Module:
        bias = self.norm == "none" or self.often(0.25)
        if self.flat:
            made: nn.Module = nn.Conv1d(
                self.shape[1], outputs, taps, stride, padding, dilation, groups, bias
            )
        else:
            pads = padding if isinstance(padding, str) else (0, padding)
            made = nn.Conv2d(
                self.shape[1],
                outputs,
                (rows, taps),
                (1, stride),
                pads,
                (1, dilation),
                groups,
                bias,
            )
        return self.add(made)

    def normed(self, final: bool = True) -> Iterator[nn.Module]:
        """A norm, or none. Norms of single rows are left to where gradients behind them are more
        than rounding: not where `final`, since no activation need follow and the mean over time
        would be a constant; not behind a few weights, of which they undo all but the direction."""
        kind = self.norm if self.often(0.9) else self.pick(NORMS)
        channels, per_channel = self.shape[1], self.rows * self.times
        groups = self.rng.choice([g for g in (1, 1, 2, 3, 4, 8) if channels % g == 0])
        if final or self.fan_in < 4:
            kind = "group" if kind in ("instance", "layer") else kind
            groups = 1 if groups == channels else groups
        if kind == "layer" and not FEWEST <= self.times <= 300:
            kind = "group"
        if kind == "instance" and per_channel < FEWEST:
            kind, groups = "group", 1
        if kind != "none" and channels // groups * per_channel < FEWEST:
            return
        eps = self.rng.choice([1e-5, 1e-5, 1e-3])
        made: nn.Module
        if kind == "batch":
            made = (nn.BatchNorm1d if self.flat else nn.BatchNorm2d)(channels, eps=eps)
            made.running_mean.normal_(0, 0.2)  # what prepare folds
            made.running_var.uniform_(0.5, 2.0)
        elif kind == "group":
            made = nn.GroupNorm(groups, channels, eps=eps)
        elif kind == "instance":
            layer = nn.InstanceNorm1d if self.flat else nn.InstanceNorm2d
            made = layer(channels, eps=eps, affine=self.often(0.7))
        elif kind == "layer":
            made = nn.LayerNorm(self.times, eps=eps)
        else:
            return
        if getattr(made, "weight", None) is not None:
            nn.init.uniform_(made.weight, 0.6, 1.4)
            nn.init.normal_(made.bias, 0.0, 0.2)
        yield self.add(made)

    def activated(self) -> nn.Module:
        name = self.activation if self.often(0.85) else self.pick(dict.fromkeys(ACTIVATIONS, 1))
        return self.add(ACTIVATIONS[name][1]())

    def pooled(self) -> Iterator[nn.Module]:
        """A pool now and then."""
        if self.times < 16 or not self.often(0.2 if self.times < 64 else 0.6):
            return
        size = self.log_uniform(2, min(8, self.times // 4))
        stride = size if self.often(0.75) else self.rng.randint(1, size)
        padding = self.rng.randint(0, size // 2) if self.often(0.1) else 0
        kind = nn.AvgPool2d if self.often(0.65) else nn.MaxPool2d
        if self.flat:
            one = nn.AvgPool1d if kind is nn.AvgPool2d else nn.MaxPool1d
            yield self.add(one(size, stride, padding))
        else:
            yield self.add(kind((1, size), (1, stride), (0, padding)))
        if self.often(0.3):
            yield self.add(nn.Dropout(0.25))

    def width(self) -> int:
        """Channels of the next layer."""
        return self.rng.choice([2, 3, 4, 6, 8, 8, 8, 12, 16, 16, 24, 32])

    def taps(self, most: int = 128) -> int:
        return self.log_uniform(3, min(most, max(3, self.times // 2)))

    # Blocks.

    def temporal(self) -> Iterator[nn.Module]:
        """Filters over time: dense, depthwise with a multiplier, or in groups."""
        channels = self.shape[1]
        groups, outputs = 1, self.width()
        if channels > 1 and self.often(0.4):
            groups = channels
            outputs = channels * self.rng.choice([1, 1, 2, 3])
        elif channels % 2 == 0 and self.often(0.1):
            groups, outputs = 2, 2 * self.width()
        taps = self.taps(128 if groups > 1 or channels <= 2 else 24)
        stride = self.rng.randint(2, 4) if self.often(0.12) else 1
        dilation = self.rng.choice([2, 3, 4]) if self.often(0.12) else 1
        while dilation * (taps - 1) + 1 > self.times // 2 and taps > 3:
            taps //= 2
        padding: str | int = self.rng.choice(["same", "same", "valid"])
        if stride > 1 and padding == "same":
            padding = dilation * (taps - 1) // 2
        yield self.conv(
            outputs, taps, stride=stride, dilation=dilation, groups=groups, padding=padding
        )

    def spatial(self) -> Iterator[nn.Module]:
        """Filters over all rows."""
        channels = self.shape[1]
        depthwise = channels > 1 and self.often(0.5)
        outputs = channels * self.rng.choice([1, 2, 2, 4]) if depthwise else self.width()
        yield self.conv(outputs, 1, rows=self.rows, groups=channels if depthwise else 1)

    def separable(self) -> Iterator[nn.Module]:
        """Depthwise over time, then pointwise."""
        channels = self.shape[1]
        if self.often(0.1):  # padding as a layer, which prepare folds
            taps = self.taps(32)
            left = (taps - 1) // 2
            pad = (left, taps - 1 - left)
            yield self.add(nn.ConstantPad1d(pad, 0.0) if self.flat else nn.ZeroPad2d((*pad, 0, 0)))
            yield self.conv(channels, taps, groups=channels)
        else:
            yield self.conv(channels, self.taps(64), groups=channels, padding="same")
        if self.often(0.3):
            yield from self.normed(final=False)
            yield self.activated()
        yield self.conv(self.width(), 1)

    def pointwise(self) -> Iterator[nn.Module]:
        yield self.conv(self.width(), 1)

    def residual(self) -> Iterator[nn.Module]:
        """One to three convolutions and a way around them."""
        before, inputs = self.shape, self.shape[1]
        outputs = inputs if inputs > 1 and self.often(0.5) else self.width()
        stride = 2 if outputs != inputs and self.times >= 32 and self.often(0.3) else 1
        body: list[nn.Module] = []
        depth = self.rng.randint(1, 3)
        for i in range(depth):
            taps, step = self.taps(16) | 1, stride if i == 0 else 1
            pad: str | int = "same" if step == 1 else taps // 2
            separate = self.often(0.3) and self.shape[1] > 1
            if separate:
                groups = self.shape[1]
                body.append(self.conv(groups, taps, stride=step, groups=groups, padding=pad))
                body.append(self.conv(outputs, 1))
            else:
                body.append(self.conv(outputs, taps, stride=step, padding=pad))
            body += self.normed()
            if i < depth - 1:
                body.append(self.activated())
        behind, self.shape = self.shape, before
        skip: list[nn.Module] = []
        if inputs != outputs or stride > 1 or self.often(0.1):
            skip.append(self.conv(outputs, 1, stride=stride))
            if self.often(0.5):
                skip += self.normed()
        if self.shape != behind:
            raise _TooLarge
        self.values += prod(behind)
        yield Residual(nn.Sequential(*body), nn.Sequential(*skip) if skip else nn.Identity())

    def inception(self) -> Iterator[nn.Module]:
        """Filters of several lengths side by side; one way may be a pool."""
        before, ways, channels = self.shape, [], 0
        for i in range(self.rng.randint(2, 3)):
            self.shape = before
            way: list[nn.Module] = []
            if i == 2 and self.often(0.5):
                way.append(self.add(nn.MaxPool1d(3, 1, 1) if self.flat else _smooth()))
                way.append(self.conv(self.rng.choice([2, 4, 8]), 1))
            elif before[1] > 1 and self.often(0.3):
                way.append(self.conv(before[1], self.taps(64), groups=before[1], padding="same"))
            else:
                dense = 64 if before[1] <= 2 else 16
                way.append(self.conv(self.rng.choice([2, 4, 8]), self.taps(dense), padding="same"))
            if self.often(0.3):
                way += self.normed(final=False)
                way.append(self.activated())
            channels += self.shape[1]
            ways.append(way[0] if len(way) == 1 else nn.Sequential(*way))
        self.shape = (1, channels, *before[2:])
        self.values += prod(self.shape)
        yield Branches(*ways)

    def power(self) -> Iterator[nn.Module]:
        """The log of band power."""
        size = self.log_uniform(4, max(4, self.times // 4))
        stride = max(1, size // self.rng.randint(1, 4))
        yield self.add(Square())
        flat = self.flat
        yield self.add(nn.AvgPool1d(size, stride) if flat else nn.AvgPool2d((1, size), (1, stride)))
        yield self.add(Log())

    def block(self, kind: str) -> Iterator[nn.Module]:
        yield from getattr(self, kind)()
        if kind == "residual":
            if self.often(0.85):
                yield self.activated()
        elif self.often(0.05) and kind != "inception":
            pass  # the next convolution follows directly
        elif self.often(0.08):
            yield self.activated()
            yield from self.normed()
        else:
            yield from self.normed(final=False)
            if self.times >= 32 and self.often(0.04):
                yield from self.power()
            else:
                yield self.activated()
        yield from self.pooled()

    def head(self, classes: int) -> Iterator[nn.Module]:
        """Features of the whole window, and what they say."""
        size = prod(self.shape)
        if size * classes <= 8000 and self.often(0.6):
            yield self.add(nn.Flatten())
        elif self.often(0.25):
            yield self.add(Mean())
        elif self.often(0.3) and self.times >= 8:
            short = self.rng.randint(2, 4)
            yield self.add(
                nn.AdaptiveAvgPool1d(short) if self.flat else nn.AdaptiveAvgPool2d((1, short))
            )
            yield self.add(nn.Flatten())
        else:
            yield self.add(nn.AdaptiveAvgPool1d(1) if self.flat else nn.AdaptiveAvgPool2d(1))
            yield self.add(nn.Flatten())
        if self.often(0.15):
            yield self.add(nn.Linear(self.shape[1], self.rng.choice([8, 16, 32])))
            yield self.activated()
        yield self.add(nn.Linear(self.shape[1], classes))

    def network(self, most: int) -> Network | None:
        """The network, or None where it would be too large, too small or of no use."""
        chans, times = self.rng.randint(1, 16), self.log_uniform(128, 2000)
        self.shape = (1, chans, times)
        layers: list[nn.Module] = []
        entry = self.pick({"rows": 5, "channels": 2, "flat": 2})
        if entry != "flat":
            layers.append(self.add(Axis(1 if entry == "rows" else 2)))
        blocks = self.rng.randint(2, most)
        try:
            for i in range(blocks):
                layers += self.next_block(last=i == blocks - 1)
            layers += self.head(self.rng.randint(2, 11))
        except _TooLarge:
            return None
        net = nn.Sequential(*layers).train()
        total = parameters(net)
        if total not in PARAMETERS:
            return None
        said = " | ".join(_text(layer) for layer in layers)
        size = f"{total} parameters, {self.macs / 1e6:.2f} MMAC"
        return Network(net, torch.zeros(1, chans, times), f"{chans} x {times}: {said} ({size})")

    def next_block(self, last: bool) -> list[nn.Module]:
        """A block that fits; the tenth attempt must."""
        before = self.shape, self.macs, self.values
        for _ in range(9):
            try:
                return list(self.block(self._kind(last)))
            except _TooLarge:
                self.shape, self.macs, self.values = before
        return list(self.block(self._kind(last)))

    def _kind(self, last: bool) -> str:
        """The kind of the next block."""
        kinds = {"temporal": 5, "residual": 3, "inception": 1}
        if self.shape[1] > 1:
            kinds |= {"separable": 3, "pointwise": 1}
        if self.rows > 1:
            return "spatial" if last or self.often(0.4) else self.pick(kinds)
        return self.pick(kinds)


def _smooth() -> nn.Module:
    """A pool that keeps the length."""
    return nn.AvgPool2d((1, 3), (1, 1), (0, 1))


def _behind(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a layer's output, without computing it."""
    try:
        ghost = copy.deepcopy(layer).to("meta").eval()
        out = tuple(ghost(torch.empty(shape, device="meta")).shape)
    except RuntimeError as error:
        raise _TooLarge from error
    if not prod(out):
        raise _TooLarge
    return out


def _text(layer: nn.Module) -> str:
    """A layer in a few characters."""
    match layer:
        case Residual():
            return f"[{_text(layer.body)} + {_text(layer.skip)}]"
        case Branches():
            return f"<{', '.join(_text(way) for way in layer.ways)}>"
        case nn.Sequential():
            return " ".join(_text(one) for one in layer)
        case nn.Identity():
            return "x"
        case Axis():
            return "rows" if layer.at == 1 else "channels"
        case nn.Conv1d() | nn.Conv2d():
            said = f"conv {layer.in_channels}>{layer.out_channels} k{_size(layer.kernel_size)}"
            for name, plain in (("stride", 1), ("dilation", 1), ("groups", 1), ("padding", 0)):
                value = getattr(layer, name)
                if value not in (plain, (plain,), (plain, plain), "valid"):
                    said += f" {name[0]}{value if isinstance(value, str) else _size(value)}"
            return said + " b" * (layer.bias is not None)
        case nn.GroupNorm():
            return f"group{layer.num_groups}"
        case nn.Linear():
            return f"linear {layer.in_features}>{layer.out_features}"
        case nn.AvgPool1d() | nn.AvgPool2d() | nn.MaxPool1d() | nn.MaxPool2d():
            size, stride = _size(layer.kernel_size), _size(layer.stride)
            padded = "" if not any(_pair(layer.padding)) else f" p{_size(layer.padding)}"
            return f"{type(layer).__name__[:3].lower()}{size}/{stride}{padded}"
        case _:
            return type(layer).__name__.lower()


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _size(value: int | tuple[int, ...]) -> str:
    return "x".join(map(str, _pair(value)))
