# SPDX-License-Identifier: Apache-2.0
"""Training that diverges: no rate, step or prediction leaves or gives NaN, and the line says what
to do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_device import CHANS, CLASSES, TIMES, one_line, package, payload, windows

import biotrain as bt
from biotrain.errors import BioTrainError, DeviceError
from biotrain.ir.optimizer import RATE_MOST, Optimizer
from biotrain.run.host import HostDevice
from biotrain.run.status import status_number

RATES = (float("nan"), float("inf"), float("-inf"), -1e-3, 1.1 * RATE_MOST)
HUGE = 3e38
"""A finite float32; times any rate above 2 it is none."""

SEPARATE: dict[str, Optimizer] = {
    "plain": bt.SGD(momentum=0.0),
    "momentum": bt.SGD(momentum=0.9),
    "nesterov": bt.SGD(momentum=0.9, nesterov=True),
    "cosine": bt.SGD(momentum=0.9, schedule="cosine"),
    "adam": bt.Adam(),
    "adamw": bt.Adam(decoupled=True, weight_decay=1e-2),
}


def host(**options: object) -> HostDevice:
    device = package(**options).run("host")
    assert isinstance(device, HostDevice)
    return device


def said(call: Callable[[], object]) -> str:
    """The line of a refusal; without one numbers came back, and this says what the test wants."""
    try:
        numbers = call()
    except DeviceError as error:
        return str(error)
    assert np.isfinite(numbers).all()
    return "lower learning rate, NaN or infinity in the logits"


def poisoned(device: HostDevice, name: str, value: float) -> None:
    """One number of a tensor in the context."""
    values = device.read(name)
    values.flat[-1] = value
    device.write(name, values)


@pytest.mark.parametrize("rate", RATES)
def test_absurd_rates_are_refused(rate: float) -> None:
    device = host()
    device.train(*windows())
    before = payload(device)
    with pytest.raises(DeviceError, match="learning rate") as error:
        device.begin(10, rate)
    assert error.value.status == status_number("BT_ERR_RATE")
    assert payload(device) == before
    for optimizer in (bt.SGD, bt.Adam):
        with pytest.raises(BioTrainError, match="lr must be"):
            optimizer(lr=rate)


@pytest.mark.parametrize("name", SEPARATE)
def test_a_step_that_would_leave_infinity_is_not_done(name: str) -> None:
    """With gradients of their own everything is as it was, but for the group, which is dropped."""
    device = host(optimizer=SEPARATE[name], accumulate=4)
    x, y = windows()
    device.begin(100, 1e3)
    device.load_state(device.save_state())
    before = payload(device)
    device.accumulate(x[:4], y[:4])
    poisoned(device, f"g_{device.package.source.trained[-1]}", HUGE)
    with pytest.raises(DeviceError, match="weights after this step") as error:
        device.step()
    one_line(error.value)
    assert "lower learning rate" in str(error.value)
    assert error.value.status == status_number("BT_ERR_WEIGHT_NONFINITE")
    assert payload(device) == before
    assert device.rejected == 1
    with pytest.raises(DeviceError, match="nothing to step with"):
        device.step()
    undisturbed = host(optimizer=SEPARATE[name], accumulate=4)
    for each in (device, undisturbed):
        each.begin(100, 1e-3)
        each.train(x, y)
    assert device.crc32() == undisturbed.crc32()


def test_in_the_momentum_the_weights_stay_and_the_momentum_starts_from_zero() -> None:
    device = host(optimizer=bt.SGD(momentum=0.9), accumulate=4, gradients="momentum")
    x, y = windows()
    device.train(x, y)
    before = device.crc32()
    device.begin(100, 1e3)
    device.accumulate(x[:4], y[:4])
    poisoned(device, f"momentum_{device.package.source.trained[0]}", HUGE)
    with pytest.raises(DeviceError) as error:
        device.step()
    assert error.value.status == status_number("BT_ERR_WEIGHT_NONFINITE")
    assert device.crc32() == before
    assert not any(device.read(f"momentum_{n}").any() for n in device.package.source.trained)


@pytest.mark.parametrize("optimizer", [bt.SGD(momentum=0.9), bt.Adam()], ids=["sgd", "adam"])
def test_in_an_update_one_parameter_stays_and_the_others_are_updated(optimizer: Optimizer) -> None:
    device = host(optimizer=optimizer, gradients="update", accumulate=1)
    names = device.package.source.trained
    slot = optimizer.slots[0]
    x, y = windows(1)
    device.begin(100, 10.0)
    poisoned(device, f"{slot}_{names[0]}", HUGE)
    before = {n: device.read(n) for n in names}
    with pytest.raises(DeviceError) as error:
        device.train(x, y)
    assert error.value.status == status_number("BT_ERR_GRADIENT_SKIPPED")
    after = {n: device.read(n) for n in names}
    assert [n for n in names if (after[n] == before[n]).all()] == [names[0]]
    assert all(np.isfinite(a).all() for a in after.values())


@pytest.mark.ci
def test_in_slices_too() -> None:
    torch.manual_seed(0)
    net = bt.prepare(bt.models.build("eegnet", CHANS, TIMES, CLASSES, 128.0, norm="group"))
    pkg = bt.compile(
        net.train(),
        torch.zeros(1, CHANS, TIMES),
        target="nrf52840",
        optimizer=bt.Adam(),
        input_type="int16",
        input_scale=0.1,
        live=bt.Live(hop=80, epochs=10),
        accumulate=1,
    )
    device = pkg.run("host")
    assert isinstance(device, HostDevice)
    x, y = windows(4)
    steps = (10 * x).astype(np.int16)
    device.begin(100, 1e3)
    before = payload(device)
    device.accumulate(steps, y)
    poisoned(device, f"g_{pkg.source.trained[-1]}", HUGE)
    with pytest.raises(DeviceError) as error:
        device.step()
    assert error.value.status == status_number("BT_ERR_WEIGHT_NONFINITE")
    assert payload(device) == before
    poisoned(device, pkg.source.trained[-1], HUGE)
    poisoned(device, pkg.source.trained[0], HUGE)
    with pytest.raises(DeviceError, match="no prediction"):
        device.predict(steps)


@pytest.mark.parametrize("gradients", ["separate", "momentum", "update"])
def test_no_rate_leaves_numbers_that_are_none(gradients: str) -> None:
    accumulate = 1 if gradients == "update" else 4
    device = host(optimizer=bt.SGD(), gradients=gradients, accumulate=accumulate)
    x, y = windows(4)
    for rate in (1.0, 1e5, RATE_MOST):
        device.reset()
        device.begin(0, rate)
        for _ in range(10):
            assert "lower learning rate" in said(lambda: device.train(x, y))
            assert all(np.isfinite(p).all() for p in device.parameters().values()), rate
            assert "NaN or infinity in the logits" in said(lambda: device.predict(x))


@pytest.mark.parametrize("value", [np.nan, np.inf, HUGE])
def test_a_prediction_says_that_there_is_none(value: float) -> None:
    device = host()
    x, _ = windows(2)
    name = device.package.source.trained[-1]
    device.write(name, np.full_like(device.read(name), value))
    if value == HUGE:  # the last layer's input: large too
        first = device.package.source.trained[-2]
        device.write(first, np.full_like(device.read(first), value))
    with pytest.raises(DeviceError, match="sample 0: NaN or infinity in the logits") as error:
        device.predict(x)
    assert error.value.status == status_number("BT_ERR_OUTPUT_NONFINITE")
    one_line(error.value)
