# SPDX-License-Identifier: Apache-2.0
"""Losses, several outputs and weights of windows: the C against torch, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import biotrain as bt
from biotrain.errors import BioTrainError, DeviceError
from biotrain.ir.loss import parse_loss

CrossEntropy, Huber = bt.losses.CrossEntropy, bt.losses.Huber
X = torch.zeros(1, 3, 40)


class Vector(nn.Module):
    """One vector."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 6, 5, padding=2), nn.Linear(6, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.conv(x)).mean(2))


class Steps(nn.Module):
    """Logits of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 6, 5, padding=2), nn.Conv1d(6, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.conv(x)))


class Heads(nn.Module):
    """A dict of three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.stage = nn.Conv1d(3, 6, 5, padding=2), nn.Linear(6, 4)
        self.rate, self.steps = nn.Linear(6, 1), nn.Conv1d(6, 3, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = torch.tanh(self.conv(x))
        m = h.mean(2)
        return {"stage": self.stage(m), "rate": self.rate(m), "steps": self.steps(h)}


@dataclass(frozen=True)
class Case:
    net: type[nn.Module]
    loss: Any
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "heads": Case(
        Heads,
        {
            "rate": Huber(2.0, factor=0.3),
            "stage": "cross_entropy",
            "steps": CrossEntropy((1, 2, 3)),
        },
        {"accumulate": 2, "sample_weights": True},
    ),
    "weights": Case(
        Vector, nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.0, 0.5]), label_smoothing=0.1)
    ),
    "soft": Case(Vector, CrossEntropy(soft=True)),
    "labels": Case(
        Vector,
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0, 0.5])),
        {"sample_weights": True},
    ),
    "huber": Case(Vector, nn.SmoothL1Loss(beta=0.3), {"gradients": "momentum"}),
    "l1": Case(Vector, "l1"),
    "weighted mse": Case(Vector, "mse", {"sample_weights": True}),
    "steps": Case(Steps, "cross_entropy:ignore_index=7,class_weights=1/2/3"),
    "soft steps": Case(
        Heads,
        {"rate": "mse", "stage": "cross_entropy", "steps": CrossEntropy(soft=True)},
        {"gradients": "update"},
    ),
}


@pytest.mark.sample(test=2)
@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name: str) -> None:
    case = CASES[name]
    pkg = bt.compile(case.net(), X, loss=case.loss, **{"accumulate": 1, **case.options})
    report = bt.verify(pkg, steps=2, seeds=1)
    assert report.ok, [t for t in report.tensors if not t.ok]


def test_a_step_that_is_ignored_and_a_class_that_is_not_there() -> None:
    """The loss is that of torch over the other steps; 3 of 3 classes is refused."""
    net = Steps()
    pkg = bt.compile(net, X, loss=CrossEntropy(ignore_index=9), strategy="last", accumulate=1)
    device = pkg.run("host")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 3, 40), np.float32)
    y = rng.integers(0, 3, (1, 40))
    y[0, :30] = 9
    with torch.no_grad():
        want = nn.functional.cross_entropy(
            net(torch.as_tensor(x)), torch.as_tensor(y), ignore_index=9
        )
    assert device.accumulate(x, y)[0] == pytest.approx(float(want), rel=1e-5)
    y[0, 39] = 3
    before = device.crc32()
    with pytest.raises(DeviceError, match="label out of range"):
        device.train(x, y)
    assert device.crc32() == before


def test_outputs_come_back_as_the_network_returns_them() -> None:
    net = Heads().eval()
    losses = {"rate": "mse", "stage": "cross_entropy", "steps": "cross_entropy"}
    device = bt.compile(net, X, loss=losses, strategy="none", accumulate=1).run("host")
    x = np.random.default_rng(0).standard_normal((2, 3, 40), np.float32)
    found = device.predict(x)
    with torch.no_grad():
        want = net(torch.as_tensor(x))
    assert list(found) == list(want)
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "loss", "message"),
    [
        (Vector, "focal", "the loss is one of"),
        (Vector, nn.NLLLoss(), "the loss is one of"),
        (Vector, "huber:delta=x", "huber: delta"),
        (Vector, "huber:size=1", "has the settings"),
        (Vector, Huber, "the loss is one of"),
        (Vector, CrossEntropy((1.0, 2.0)), "2 class weights for 4 classes"),
        (Vector, nn.MSELoss(reduction="sum"), "mean"),
        (Vector, ["mse", "mse"], "returns 1 tensors"),
        (Heads, "cross_entropy", "the model returns stage, rate, steps"),
        (Heads, {"rate": "mse", "stage": "mse", "other": "mse"}, "the model returns"),
    ],
)
def test_what_does_not_fit_gets_one_line(net: type[nn.Module], loss: Any, message: str) -> None:
    with pytest.raises(BioTrainError, match=message) as caught:
        bt.compile(net(), X, loss=loss, accumulate=1)
    assert "\n" not in str(caught.value)


def test_targets_that_do_not_fit() -> None:
    losses = {"rate": "mse", "stage": "cross_entropy", "steps": "cross_entropy"}
    device = bt.compile(Heads(), X, loss=losses, strategy="last", accumulate=1).run("host")
    x = np.zeros((2, 3, 40), np.float32)
    good = {
        "rate": np.zeros((2, 1)),
        "stage": np.zeros(2, int),
        "steps": np.zeros((2, 40), int),
    }
    device.train(x, good)
    for change, message in (
        ({"stage": np.zeros(2)}, r"y\['stage'\] must be integers \[2\]"),
        ({"steps": np.zeros(2, int)}, r"y\['steps'\] must be integers \[2, 40\]"),
        ({"rate": np.zeros(2)}, r"y\['rate'\] must be numbers \[2, 1\]"),
    ):
        with pytest.raises(BioTrainError, match=message):
            device.train(x, {**good, **change})
    with pytest.raises(BioTrainError, match="dict of"):
        device.train(x, np.zeros(2, int))
    with pytest.raises(BioTrainError, match="sample_weight"):
        device.train(x, good, sample_weight=np.ones(2))


def test_a_loss_is_read_from_text() -> None:
    (loss,) = parse_loss("cross_entropy:class_weights=1/2.5,label_smoothing=0.1,soft").heads
    assert loss == CrossEntropy((1.0, 2.5), 0.1, None, soft=True)
