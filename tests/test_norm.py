# SPDX-License-Identifier: Apache-2.0
"""Norms in whole models: running statistics, refused samples, and inputs with a large offset."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from biotrain.errors import CaptureError, DeviceError
from biotrain.ir.optimizer import SGD
from biotrain.package import compile_model
from biotrain.topology import prepare

EPS = float(np.finfo(np.float32).eps)
CHANNELS, TIMES, CLASSES = 3, 150, 3
PLAIN = SGD(lr=0.05, momentum=0.0, weight_decay=0.0)


def model(*norm: nn.Module, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = (*norm, nn.Flatten(), nn.Linear(CHANNELS * TIMES, CLASSES))
    return nn.Sequential(*layers)


def windows(n: int, offset: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, CHANNELS, TIMES)) + offset
    return x.astype(np.float32), rng.integers(0, CLASSES, n)


def torch_steps(
    net: nn.Module, x: np.ndarray, y: np.ndarray, lr: float, dtype: torch.dtype
) -> dict[str, np.ndarray]:
    """State dict after one plain step per sample."""
    net = copy.deepcopy(net).to(dtype)
    for window, label in zip(torch.tensor(x, dtype=dtype), torch.tensor(y), strict=True):
        net.zero_grad()
        nn.functional.cross_entropy(net(window[None]), label[None]).backward()
        with torch.no_grad():
            for p in net.parameters():
                p -= lr * p.grad
    return {k: v.detach().double().numpy() for k, v in net.state_dict().items()}


def torch_gradients(net: nn.Module, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Gradients in float64."""
    net = copy.deepcopy(net).double()
    nn.functional.cross_entropy(net(torch.tensor(x).double()), torch.tensor(y)).backward()
    return {k: p.grad.numpy() for k, p in net.named_parameters()}


def error(have: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(have - want).max() / max(np.abs(want).max(), 1e-30))


def check(
    have: dict[str, np.ndarray], want: dict[str, np.ndarray], single: dict[str, np.ndarray]
) -> None:
    for name, value in have.items():
        bar = max(4 * error(single[name], want[name]), 16 * EPS)
        assert error(value, want[name]) <= bar, (
            f"{name}: {error(value, want[name]):.2e} > {bar:.2e}"
        )


@pytest.mark.parametrize("affine", [True, False])
def test_running_statistics_follow_torch(affine: bool) -> None:
    x, y = windows(5, offset=0.5)
    net = nn.Sequential(
        nn.Conv1d(CHANNELS, 4, 5),
        nn.BatchNorm1d(4, momentum=0.3, eps=1e-3, affine=affine),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * (TIMES - 4), CLASSES),
    )
    device = compile_model(net, x, optimizer=PLAIN, accumulate=1).run("host")
    device.train(x, y)
    have = device.parameters()
    assert {"1.running_mean", "1.running_var"} < set(have)
    want = torch_steps(net, x, y, PLAIN.lr, torch.float64)
    check(have, want, torch_steps(net, x, y, PLAIN.lr, torch.float32))
    net.load_state_dict({k: torch.tensor(v) for k, v in want.items()})
    net = net.eval().double()
    logits = net(torch.tensor(x, dtype=torch.float64)).detach().numpy()
    assert error(device.predict(x), logits) < 64 * EPS


def test_bad_samples_leave_running_statistics_alone() -> None:
    x, y = windows(2)
    net = model(nn.BatchNorm1d(CHANNELS))
    with torch.no_grad():
        net[2].weight.fill_(3e38)  # logits overflow
    device = compile_model(net, x, accumulate=1).run("host")
    before = device.parameters()
    with pytest.raises(DeviceError):
        device.train(x, y)
    for name, value in device.parameters().items():
        assert np.array_equal(value, before[name]), name
    device = compile_model(model(nn.BatchNorm1d(CHANNELS)), x, accumulate=1).run("host")
    before = device.parameters()
    x[0] = np.where(np.arange(TIMES) % 2, -1e20, 1e20)  # the variance overflows, the loss does not
    device.train(x[:1], y[:1])
    after = device.parameters()
    for name in ("0.running_mean", "0.running_var"):
        assert np.array_equal(after[name], before[name])


def test_running_statistics_travel_in_a_checkpoint() -> None:
    x, y = windows(3)
    device = compile_model(model(nn.BatchNorm1d(CHANNELS)), x, accumulate=1).run("host")
    device.train(x, y)
    saved, crc = device.save_state(), device.crc32()
    device.train(x, y)
    assert device.crc32() != crc
    device.load_state(saved)
    assert device.crc32() == crc


NORMS = {
    "group": lambda: nn.GroupNorm(1, CHANNELS),
    "layer": lambda: nn.LayerNorm(TIMES),
    "layer_all": lambda: nn.LayerNorm([CHANNELS, TIMES]),
    "layer_no_bias": lambda: nn.LayerNorm(TIMES, bias=False),
    "instance": lambda: nn.InstanceNorm1d(CHANNELS, affine=True),
    "batch": lambda: nn.BatchNorm1d(CHANNELS),
    "batch_untracked": lambda: nn.BatchNorm1d(CHANNELS, track_running_stats=False),
    "batch_frozen": lambda: nn.BatchNorm1d(CHANNELS).eval(),
}


@pytest.mark.sample(test=6)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("name", NORMS)
def test_offset_costs_no_accuracy(name: str, offset: float) -> None:
    """1000 standard deviations on every channel, the first layer a norm."""
    norm = NORMS[name]()
    if name == "batch_frozen":
        norm.running_mean.fill_(offset + 0.25)
        norm.running_var.fill_(1.5)
    net = model(norm)
    x, y = windows(1, offset)
    device = compile_model(net, x, accumulate=1).run("host")
    device.accumulate(x, y)
    want = torch_gradients(net, x, y)
    for param, value in device.gradients().items():
        assert error(value, want[param]) <= 16 * EPS, param


def test_frozen_layers_of_prepare() -> None:
    x, y = windows(2)
    net = nn.Sequential(
        nn.Conv1d(CHANNELS, 4, 5),
        nn.BatchNorm1d(4),
        nn.Flatten(),
        nn.Linear(4 * (TIMES - 4), 6),
        nn.BatchNorm1d(6),
        nn.Linear(6, CLASSES),
    )
    net[1].running_var.fill_(0.7)
    net[4].running_mean.fill_(0.2)
    frozen = prepare(net, norm="frozen")
    device = compile_model(frozen, x, accumulate=1).run("host")
    losses = device.accumulate(x, y)
    reference = copy.deepcopy(frozen).double()
    total = nn.functional.cross_entropy(
        reference(torch.tensor(x, dtype=torch.float64)), torch.tensor(y), reduction="none"
    )
    assert error(losses, total.detach().numpy()) < 32 * EPS
    total.sum().backward()
    gradients = device.gradients()
    for name, p in reference.named_parameters():
        assert error(gradients[name.removeprefix("net.")], p.grad.numpy()) < 64 * EPS, name
    kept = [v for k, v in device.parameters().items() if "running" in k]
    assert not kept


@pytest.mark.parametrize(
    ("momentum", "said"), [(0.1, r"torch\.export refuses"), (None, "decides by values")]
)
def test_what_cannot_train_is_refused(momentum: float | None, said: str) -> None:
    """One value per channel; a cumulative average."""
    norm = nn.BatchNorm1d(CLASSES, momentum=momentum)
    net = nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * TIMES, CLASSES), norm)
    with pytest.raises(CaptureError, match=said):
        compile_model(net, windows(1)[0], accumulate=1)
