# SPDX-License-Identifier: Apache-2.0
"""Torch modules with permute, slice, pad, cat, pooling and layer norm, captured and run in C."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biotrain.errors import CaptureError
from biotrain.ir.graph import flat_nodes
from biotrain.package import compile_model

EPS = float(np.finfo(np.float32).eps)
CHANNELS, TIMES, CLASSES = 4, 45, 3


class Net(nn.Module):
    """A conv, the function under test, and a linear layer on all that it returns."""

    def __init__(self, function: Callable[[Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv1d(CHANNELS, 6, 4)
        self.layers = nn.Sequential(*layers)
        self.function = function
        with torch.no_grad():
            n = self.body(torch.zeros(1, CHANNELS, TIMES)).shape[1]
        self.out = nn.Linear(n, CLASSES)

    def body(self, x: Tensor) -> Tensor:
        return self.function(self.layers(self.conv(x))).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x))


def check(net: nn.Module) -> None:
    """Losses, gradients and logits of two samples, C against torch in float64."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, CHANNELS, TIMES)).astype(np.float32)
    y = np.array([0, 2])
    device = compile_model(net, x, accumulate=1).run("host")
    device.accumulate(x, y)
    reference = copy.deepcopy(net).double()
    for window, label in zip(torch.tensor(x).double(), torch.tensor(y), strict=True):
        F.cross_entropy(reference(window[None]), label[None]).backward()
    gradients = device.gradients()
    largest = max(float(p.grad.abs().max()) for p in reference.parameters())
    for name, p in reference.named_parameters():
        want = p.grad.numpy()
        scale = max(float(np.abs(want).max()), 0.05 * largest)  # a bias before a norm has none
        assert np.abs(gradients[name] - want).max() / scale < 32 * EPS, name
    logits = torch.cat([reference(w[None]) for w in torch.tensor(x).double()]).detach().numpy()
    assert np.abs(device.predict(x) - logits).max() / np.abs(logits).max() < 32 * EPS


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "permute": lambda x: x.permute(0, 2, 1),
    "transpose": lambda x: x.transpose(1, 2)[:, 3:9].transpose(-1, 1),
    "movedim": lambda x: x.unflatten(1, (2, 3)).movedim(1, -1),
    "movedims": lambda x: x.unflatten(1, (2, 3)).movedim((1, 2), (3, 1)),
    "swapaxes_of_one": lambda x: x.unsqueeze(1).swapaxes(1, 2),
    "mT": lambda x: x.mT,
    "slice": lambda x: x[:, 1:5:2, -20:-3],
    "slice_step": lambda x: x[..., 1::3],
    "slice_nothing": lambda x: x[:, :, :],
    "select": lambda x: x[:, 2] * x[:, -1],
    "select_time": lambda x: x[..., 4],
    "narrow": lambda x: x.narrow(2, 5, 10),
    "chunk": lambda x: torch.cat(x.chunk(4, 2)[1:3], 1),
    "split": lambda x: torch.cat([F.relu(p) for p in x.split(10, 2)], 2),
    "split_sizes": lambda x: x.split([2, 1, 3], 1)[2],
    "unbind": lambda x: torch.stack(x.unbind(1)[::-1], 2),
    "cat_rows": lambda x: torch.cat([x, F.relu(x), x], 1),
    "cat_many": lambda x: torch.cat([x[:, i % 6] for i in range(9)], 1),
    "stack": lambda x: torch.stack([x, F.relu(x)], 1),
    "stack_last": lambda x: torch.stack([x[:, 0], x[:, 1]], -1),
    "pad": lambda x: F.pad(x, (2, 5)),
    "pad_two_axes": lambda x: F.pad(x, (-3, 4, 1, 0), value=0.5),
    "reflect": lambda x: F.pad(x, (3, 2), mode="reflect"),
    "replicate": lambda x: F.pad(x, (3, 2), mode="replicate"),
    "circular": lambda x: F.pad(x, (3, 2), mode="circular"),
    "flip": lambda x: x.flip(1, 2) * x,
    "roll": lambda x: x.roll((3, -1), (2, 1)),
    "repeat": lambda x: x.repeat(1, 2, 1),
    "tile": lambda x: torch.tile(x[:, :1], (1, 3, 2)),
    "repeat_interleave": lambda x: x.repeat_interleave(3, 1),
    "unfold": lambda x: x.unfold(2, 8, 4).amax(-1),
    "unfold_apart": lambda x: x.unfold(2, 5, 5).mean(-1),
    "index_list": lambda x: x[:, [0, 2, 5, 1]] * x[:, torch.tensor([1, 1, 3, 2])],
    "nothing_chosen": lambda x: torch.cat(
        [x.index_select(1, torch.tensor([], dtype=torch.long)).exp(), x[:, [3, 1]]], 1
    ),
    "two_indices": lambda x: x[:, [0, 2, 5], [1, 7, 30]],
    "channel_shuffle": lambda x: F.channel_shuffle(x.unsqueeze(-1), 3).squeeze(-1),
    "inner_batch": lambda x: F.conv1d(
        x.reshape(3, 2, 42), x.new_ones(4, 2, 3) / 6, stride=2
    ).reshape(1, -1),
    "inner_batch_of_rows": lambda x: F.conv2d(
        x.reshape(3, 1, 2, 42), x.new_ones(4, 1, 1, 3) / 3, padding=(0, 1)
    ).reshape(1, -1),
    "inner_group_norm": lambda x: F.group_norm(
        x.reshape(3, 2, 42), 1, x.new_full((2,), 2.0), x.new_full((2,), 0.5)
    ).reshape(1, -1),
    "crop": lambda x: F.pad(x, (-3, -4)),
}


@pytest.mark.sample(test=10, ci=24)
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    check(Net(SHAPES[name]))


LAYERS: dict[str, list[nn.Module]] = {
    "max_pool": [nn.MaxPool1d(4)],
    "max_pool_overlapping": [nn.MaxPool1d(5, 2, padding=2)],
    "max_pool_dilated": [nn.MaxPool1d(3, 2, dilation=2)],
    "max_pool_2d": [nn.Unflatten(1, (2, 3)), nn.MaxPool2d((2, 5), (1, 4), (1, 2))],
    "max_pool_ceil_of_no_effect": [nn.MaxPool1d(6, ceil_mode=True)],
    "max_pool_ceil": [nn.MaxPool1d(5, ceil_mode=True)],
    "max_pool_ceil_2d": [
        nn.Unflatten(1, (2, 3)),
        nn.MaxPool2d((2, 5), (2, 4), (1, 2), ceil_mode=True),
    ],
    "avg_pool": [nn.AvgPool1d(4)],
    "avg_pool_padded": [nn.AvgPool1d(5, 3, 2)],
    "avg_pool_without_padding": [nn.AvgPool1d(5, 3, 2, count_include_pad=False)],
    "global_avg_pool": [nn.AdaptiveAvgPool1d(1)],
    "adaptive_avg_pool": [nn.AdaptiveAvgPool1d(5)],
    "adaptive_avg_pool_2d": [nn.Unflatten(1, (2, 3)), nn.AdaptiveAvgPool2d((None, 7))],
    "adaptive_max_pool": [nn.AdaptiveMaxPool1d(7)],
    "zero_pad_2d": [nn.Unflatten(1, (2, 3)), nn.ZeroPad2d((1, 2, 3, 4))],
    "layer_norm": [nn.LayerNorm(42)],
    "layer_norm_two_axes": [nn.LayerNorm([6, 42], bias=False), nn.ReLU()],
    "instance_norm": [nn.InstanceNorm1d(6, affine=True), nn.ReLU()],
}


@pytest.mark.sample(test=8)
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    check(Net(lambda x: x, *LAYERS[name]))


class Attentive(nn.Module):
    """A parameter that is seen under another shape, and channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.2, 0.3, 6 * CHANNELS * 4))
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(42 * 6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv1d(x, self.weight.view(6, CHANNELS, 4))
        return self.out(self.norm(x.transpose(1, 2)).flatten(1))


def test_views_of_parameters_and_channels_last() -> None:
    check(Attentive())


LEADING: dict[str, Callable[[Tensor, int], Tensor]] = {
    "expand": lambda p, batch: p.expand(batch, -1, -1),
    "broadcast_to": lambda p, batch: p.broadcast_to(batch, *p.shape),
    "unsqueeze": lambda p, batch: p.unsqueeze(0).expand(batch, -1, -1),
    "index": lambda p, batch: p[None].expand(batch, -1, -1),
    "mean": lambda p, batch: p[None].mean(0, keepdim=True),
}


class Embedded(nn.Module):
    """A position is added to what each channel of each sample is, and a token stands before it."""

    def __init__(self, way: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.way = way
        self.conv = nn.Conv1d(CHANNELS, 6, 4)
        self.position = nn.Parameter(torch.linspace(-0.2, 0.3, 6 * 42).view(6, 42))
        self.token = nn.Parameter(torch.linspace(-0.2, 0.3, 6).view(6, 1))
        self.out = nn.Linear(43 * 6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) + self.way(self.position, x.shape[0])
        x = torch.cat([self.way(self.token, x.shape[0]), x], 2)
        return self.out(F.relu(x).flatten(1))


@pytest.mark.parametrize("way", LEADING)
def test_parameters_over_a_new_leading_axis(way: str) -> None:
    """Positional embeddings and class tokens, for any batch."""
    check(Embedded(LEADING[way]))


def test_a_mean_over_axes_of_one_element_of_a_parameter() -> None:
    """It is the parameter under another shape."""

    class Scaled(Embedded):
        def forward(self, x: Tensor) -> Tensor:
            position = self.position.unflatten(0, (6, 1)).mean(1)
            x = torch.cat([self.token[None], self.conv(x) * position], 2)
            return self.out(F.relu(x).flatten(1))

    check(Scaled(LEADING["expand"]))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: F.avg_pool1d(x, 4, ceil_mode=True), "ceil_mode"),
        (lambda x: F.adaptive_max_pool1d(x, 5), "evenly"),
        (lambda x: F.max_pool2d(x, 2), "does not fit"),
        (lambda x: F.avg_pool2d(x, (1, 2), (2, 2)), "pooling takes x"),
    ],
)
def test_what_is_not_supported_names_the_line(
    function: Callable[[Tensor], Tensor], words: str
) -> None:
    with pytest.raises(CaptureError, match=words) as raised:
        compile_model(Net(function), torch.zeros(1, CHANNELS, TIMES), accumulate=1)
    assert "test_shape_capture.py:" in str(raised.value)


@pytest.mark.parametrize(("times", "first", "dtype"), [(40, 4, "u8"), (700, 300, "i32")])
def test_max_pool_takes_the_first_of_equals_and_keeps_only_an_index(
    times: int, first: int, dtype: str
) -> None:
    net = nn.Sequential(nn.Conv1d(2, 2, 1), nn.MaxPool1d(first), nn.Flatten(), nn.LazyLinear(2))
    x = np.ones((1, 2, times), np.float32)
    net(torch.tensor(x))
    package = compile_model(net, x, accumulate=1)
    pool = next(n for n in flat_nodes(package.graph.nodes) if n.op == "max_pool")
    assert pool.outputs[1].dtype == dtype
    back = next(n for n in flat_nodes(package.graph.nodes) if n.op == "max_pool_dx")
    assert back.inputs[0].dtype == dtype
    assert (
        len(next(n for n in flat_nodes(package.source.predict.nodes) if n.op == "max_pool").outputs)
        == 1
    )
    device = package.run("host")
    x[0, :, 1] = 1.0
    device.accumulate(x, np.array([1]))
    F.cross_entropy(net(torch.tensor(x)), torch.tensor([1])).backward()
    for name, p in net.named_parameters():
        np.testing.assert_allclose(device.gradients()[name], p.grad.numpy(), rtol=1e-5, atol=1e-7)
