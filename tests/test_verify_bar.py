# SPDX-License-Identifier: Apache-2.0
"""The bar of `verify` is where the design puts it: an error just above it fails, one below passes.

The bar of a tensor is four times the largest float32 error of torch, and not below 16 eps (design,
section 3). Errors are seeded into what the device answers, three times the bar and a third of it,
so that a bar wider or narrower by more than that shows here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from _small import tiny

import biotrain as bt
from biotrain.ops.half import EPS as HALF_EPS
from biotrain.run.host import HostDevice
from biotrain.verification import TensorError, VerifyReport

EPS = 2.0**-23
SEEDED = "0.weight"
"""The parameter that gets the error."""


@pytest.mark.parametrize("torch_error", [1e-5, 3e-4])
def test_the_bar_is_four_times_the_error_of_torch(torch_error: float) -> None:
    assert TensorError("w", 3.99 * torch_error, torch_error).ok
    assert not TensorError("w", 4.01 * torch_error, torch_error).ok


def test_no_bar_is_below_sixteen_roundings() -> None:
    assert TensorError("w", 15.9 * EPS, 0.0).ok
    assert not TensorError("w", 16.1 * EPS, 0.0).ok
    assert TensorError("w", 16 * EPS, 0.0).bar == 16 * EPS


def test_not_a_number_is_not_ok() -> None:
    assert not TensorError("w", float("nan"), 1.0).ok


def test_a_package_of_16_bits_is_measured_against_torch_with_16_bits() -> None:
    floor = 4 * HALF_EPS["fp16"]
    assert TensorError("w", 3.9e-2, 1e-9, 1e-2, floor).ok
    assert not TensorError("w", 4.1e-2, 1e-9, 1e-2, floor).ok
    assert not TensorError("w", 1.01 * floor, 1.0, 0.0, floor).ok


def test_one_bad_tensor_is_enough_and_the_worst_is_the_nearest_to_its_bar() -> None:
    good, near = TensorError("a", 1e-4, 1e-4), TensorError("b", 15 * EPS, 0.0)
    bad = TensorError("c", 17 * EPS, 0.0)
    assert VerifyReport(1, 1, (good, near), 0, 0).ok
    assert not VerifyReport(1, 1, (good, near, bad), 0, 0).ok
    assert VerifyReport(1, 1, (good, near), 0, 0).worst == near


@pytest.fixture(scope="module")
def package() -> bt.Package:
    torch.manual_seed(0)
    net = tiny(3, 65, 2).train()
    return bt.compile(net, torch.zeros(1, 3, 65), optimizer=bt.SGD(lr=0.01), accumulate=2)


def off(values: np.ndarray, by: float) -> np.ndarray:
    """The same, with the largest value off by a share of itself."""
    wrong = values.copy()
    at = np.unravel_index(np.abs(values).argmax(), values.shape)
    wrong[at] *= np.float32(1.0 + by)
    return wrong


def seeded_gradient(device: HostDevice, by: float, call: Callable[..., Any]) -> Any:
    return {k: off(g, by) if k == SEEDED else g for k, g in call(device).items()}


def seeded_logits(device: HostDevice, by: float, call: Callable[..., Any], x: Any) -> Any:
    return off(call(device, x), by)


def seeded_loss(device: HostDevice, by: float, call: Callable[..., Any], *given: Any) -> Any:
    return off(call(device, *given), by)


PLACES: dict[str, tuple[str, Callable[..., Any], str]] = {
    "gradient": ("gradients", seeded_gradient, f"{SEEDED}.grad"),
    "weights": ("parameters", seeded_gradient, SEEDED),
    "logits": ("predict", seeded_logits, "logits"),
    "loss": ("accumulate", seeded_loss, "loss"),
}
"""Where an error is seeded: the device's call, how, and the tensor that must not pass."""


@pytest.mark.parametrize("place", PLACES)
def test_an_error_just_above_the_bar_is_noticed(
    place: str, package: bt.Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, seeded, tensor = PLACES[place]
    clean = {t.name: t for t in bt.verify(package, seeds=1, steps=2).tensors}
    assert all(t.ok for t in clean.values())
    bar, original = clean[tensor].bar, getattr(HostDevice, call)
    assert bar < 1e-4  # the network is well conditioned: the floor, or near it
    for by, ok in ((3 * bar, False), (bar / 3, True)):
        monkeypatch.setattr(
            HostDevice, call, lambda self, *args, by=by: seeded(self, by, original, *args)
        )
        report = bt.verify(package, seeds=1, steps=2)
        bad = [t.name for t in report.tensors if not t.ok]
        assert bad == ([] if ok else [tensor]), (by, bar)
        assert report.ok == ok
