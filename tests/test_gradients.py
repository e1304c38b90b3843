# SPDX-License-Identifier: Apache-2.0
"""The two ways to train without a copy of the gradients: into the momentum, and update at once."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import biotrain as bt
from biotrain.cli import main
from biotrain.errors import BioTrainError, CheckpointError, DeviceError, DoesNotFitError
from biotrain.package import Package
from biotrain.run.compiler import NUMERICS, STRICT, find_compiler
from biotrain.run.device import Device
from biotrain.run.host import HostDevice

CHANS, TIMES, CLASSES = 3, 160, 4
NAMES = ("eegnet", "epidenet", "mibminet")
SGD = bt.SGD(schedule="cosine")
FIELDS = {"separate": 36, "momentum": 40, "update": 44}
"""Bytes of the context beside tensors and arena."""


def package(name: str = "eegnet", norm: str = "group", **options: object) -> Package:
    torch.manual_seed(0)
    net = bt.models.build(name, CHANS, TIMES, CLASSES, 128.0, norm=norm)
    net = bt.prepare(net, pool="avg" if norm == "group" else "keep", norm="keep")
    net.train()
    return bt.compile(net, torch.zeros(1, CHANS, TIMES), **{"accumulate": 1, **options})


def windows(n: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, CHANS, TIMES)).astype(np.float32)
    return x, rng.integers(0, CLASSES, n)


def check(pkg: Package, **options: int) -> None:
    report = bt.verify(pkg, **options)
    if not report.ok:
        report = bt.verify(pkg, steps=options.get("steps", 10), seeds=5)
    assert report.ok, [t for t in report.tensors if not t.ok]


def close(device: Device, want: dict[str, np.ndarray], bar: float = 1e-5) -> None:
    for name, have in device.parameters().items():
        if name in want:
            error = np.abs(have - want[name]).max() / np.abs(want[name]).max()
            assert error < bar, (name, error)


MODES = [("momentum", 1), ("momentum", 8), ("update", 1)]


@pytest.mark.sample(test=3, ci=6)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("gradients", "accumulate"), MODES)
def test_ten_steps_against_torch(name: str, gradients: str, accumulate: int) -> None:
    pkg = package(name, gradients=gradients, accumulate=accumulate, optimizer=SGD)
    check(pkg, seeds=1)


@pytest.mark.sample(test=3, ci=6)
@pytest.mark.parametrize("strategy", ["last", "bias", "norm", "none"])
@pytest.mark.parametrize("gradients", ["momentum", "update"])
def test_every_strategy(gradients: str, strategy: str) -> None:
    check(package(gradients=gradients, strategy=strategy, optimizer=SGD), seeds=1, steps=4)


@pytest.mark.sample(test=2)
@pytest.mark.parametrize(
    "optimizer",
    [
        bt.SGD(momentum=0.0),
        bt.SGD(momentum=0.8, nesterov=True, weight_decay=0.01),
        bt.Adam(weight_decay=0.01, schedule="cosine"),
        bt.Adam(lr=1e-2, betas=(0.8, 0.95), weight_decay=0.01, decoupled=True),
    ],
    ids=["plain", "nesterov", "adam", "adamw"],
)
def test_update_with_other_optimizers(optimizer: bt.SGD | bt.Adam) -> None:
    check(package(gradients="update", optimizer=optimizer), seeds=1)


@pytest.mark.parametrize("gradients", ["momentum", "update"])
def test_running_statistics_and_mse(gradients: str) -> None:
    check(package(norm="batch", gradients=gradients, loss="mse"), seeds=1, steps=4)


class Odd(nn.Module):
    """One weight at two places, one in a sum with itself, and a layer that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(3, 3, 5, padding=2)
        self.spare = nn.Linear(4, 2)
        self.offset = nn.Parameter(torch.zeros(3, 1))
        self.head = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(self.a(x).tanh()) + self.offset
        return self.head((y.tanh() * self.offset + y).mean(-1))


@pytest.mark.sample(test=3, ci=4)
@pytest.mark.parametrize(("gradients", "accumulate"), MODES)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_shared_and_unread_parameters(gradients: str, accumulate: int, decay: float) -> None:
    torch.manual_seed(0)
    pkg = bt.compile(
        Odd(),
        torch.zeros(1, 3, 40),
        gradients=gradients,
        accumulate=accumulate,
        optimizer=bt.SGD(weight_decay=decay),
    )
    check(pkg, seeds=2, steps=4)


@pytest.mark.sample(test=2, ci=4)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("optimizer", [SGD, bt.Adam(weight_decay=0.01)], ids=["sgd", "adam"])
def test_update_has_the_bits_of_separate(name: str, optimizer: bt.SGD | bt.Adam) -> None:
    x, y = windows(16)
    devices = [
        package(name, gradients=g, optimizer=optimizer).run("host") for g in ("separate", "update")
    ]
    for device in devices:
        device.begin(16)
        device.train(x, y)
    assert devices[0].crc32() == devices[1].crc32()


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_batch_that_does_not_fill_its_groups(drop_last: bool) -> None:
    """Eleven windows in groups of four, twice, as torch takes their means."""
    pkg = package(gradients="momentum", accumulate=4, optimizer=bt.SGD(lr=0.05))
    assert pkg.module is not None
    net = copy.deepcopy(pkg.module).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    device = pkg.run("host")
    x, y = windows(11)
    for _ in range(2):
        losses = []
        for first in range(0, 8 if drop_last else 11, 4):
            part = slice(first, min(first + 4, 11))
            optimizer.zero_grad()
            outputs = [net(torch.tensor(w[None], dtype=torch.float64)) for w in x[part]]
            each = nn.functional.cross_entropy(torch.cat(outputs), torch.tensor(y[part]))
            each.backward()
            losses += [each.item()] * len(outputs)
            optimizer.step()
        assert abs(device.train(x, y, drop_last=drop_last) - np.mean(losses)) < 1e-5
    close(device, {n: p.detach().numpy() for n, p in net.named_parameters()})


def test_groups_announced_by_hand() -> None:
    x, y = windows(11)
    devices = [package(gradients=g, accumulate=4).run("host") for g in ("separate", "momentum")]
    for device in devices:
        for first, size in ((0, 4), (4, 5), (9, 2)):
            device.group(size)
            device.accumulate(x[first : first + size], y[first : first + size])
            device.step()
    close(devices[1], devices[0].parameters())
    device = devices[1]
    device.group(5)
    device.train(x[:7], y[:7])  # five, and the rest of two
    devices[0].accumulate(x[:5], y[:5])
    devices[0].step()
    devices[0].accumulate(x[5:7], y[5:7])
    devices[0].step()
    close(device, devices[0].parameters())
    device.accumulate(x[:1], y[:1])
    with pytest.raises(DeviceError, match="before its first window"):
        device.group(3)
    with pytest.raises(BioTrainError, match="at least one window"):
        device.group(0)


@pytest.mark.parametrize("gradients", ["momentum", "update"])
def test_a_checkpoint_at_any_window_continues_the_training(gradients: str) -> None:
    accumulate = 4 if gradients == "momentum" else 1
    pkg = package(gradients=gradients, accumulate=accumulate, optimizer=SGD)
    x, y = windows(16)
    whole = pkg.run("host")
    whole.begin(16 // accumulate)
    states = []
    for i in range(16):
        whole.accumulate(x[i : i + 1], y[i : i + 1])
        states.append(whole.save_state())  # in the middle of a group, too
        if (i + 1) % accumulate == 0:
            whole.step()
    for done in (1, 4, 6):
        other = pkg.run("host")
        other.load_state(states[done - 1])
        if done % accumulate == 0 and gradients == "momentum":
            other.step()
        other.train(x[done:], y[done:])
        assert other.crc32() == whole.crc32(), done
    foreign = package(accumulate=accumulate, optimizer=SGD).run("host")
    with pytest.raises(CheckpointError, match="another model"):
        foreign.load_state(states[0])


def test_a_dropped_group_takes_the_momentum_and_no_weight() -> None:
    pkg = package(gradients="momentum", accumulate=4)
    x, y = windows()
    device = pkg.run("host")
    assert isinstance(device, HostDevice)
    device.train(x, y)
    before, name = device.parameters(), f"momentum_{pkg.source.trained[0]}"
    assert device.read(name).any()
    with pytest.raises(DeviceError):
        device.train(x[:1] * np.nan, y[:1])
    assert device.read(name).any(), "the group had no window yet"
    device.accumulate(x[:2], y[:2])
    broken = device.read(name)
    broken.flat[0] = np.inf
    device.write(name, broken)
    with pytest.raises(DeviceError, match="group dropped"):
        device.step()
    assert device.rejected == 2
    assert not device.read(name).any()
    with pytest.raises(DeviceError, match="nothing to step with"):
        device.step()
    for key, value in device.parameters().items():
        assert (value == before[key]).all()
    other = pkg.run("host")
    other.load_parameters(before)
    for each in (device, other):
        each.train(x, y)
    assert device.crc32() == other.crc32(), "what follows starts from a momentum of zero"


class Steep(nn.Module):
    """The loss stays finite where the gradient of the first weight does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, 4, bias=False), nn.Linear(4, 3)
        with torch.no_grad():
            self.first.weight *= 1e-37

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.first(x.flatten(1)) * 1e37)


@pytest.mark.parametrize("gradients", ["separate", "momentum", "update"])
def test_a_gradient_that_overflows(gradients: str) -> None:
    torch.manual_seed(0)
    net = Steep()
    pkg = bt.compile(net, torch.zeros(1, 1, 8), gradients=gradients, accumulate=1)
    device = pkg.run("host")
    assert isinstance(device, HostDevice)
    before = device.parameters()
    x = np.full((1, 1, 8), 1e3, np.float32)
    y = device.predict(x).argmin(1)  # so that the gradient of the loss is not small
    text = "its parameter not updated" if gradients == "update" else "group dropped"
    with pytest.raises(DeviceError, match=text):
        device.train(x, y)
    assert device.rejected == 1
    after = device.parameters()
    assert (after["first.weight"] == before["first.weight"]).all()
    if gradients != "update":
        assert (after["head.weight"] == before["head.weight"]).all()
        return
    optimizer = torch.optim.SGD(net.head.parameters(), lr=5e-3, momentum=0.9, weight_decay=1e-3)
    nn.functional.cross_entropy(net(torch.tensor(x)), torch.tensor(y)).backward()
    assert not net.first.weight.grad.isfinite().all()  # type: ignore[union-attr]
    optimizer.step()
    close(device, {f"head.{n}": p.detach().numpy() for n, p in net.head.named_parameters()})
    slot = device.read(f"momentum_{pkg.source.trained[0]}")
    assert not slot.any()


def test_a_window_whose_loss_is_not_finite_leaves_no_trace() -> None:
    for gradients in ("momentum", "update"):
        pkg = package(gradients=gradients)
        device, other = pkg.run("host"), pkg.run("host")
        x, y = windows()
        for each in (device, other):
            each.train(x, y)
        with pytest.raises(DeviceError, match="loss"):
            device.train(3e38 * np.sign(x[:1]), y[:1])
        assert device.save_state()[20:-4] == other.save_state()[20:-4]


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("name", NAMES)
def test_no_tensor_of_gradients_is_left(name: str) -> None:
    plans = {}
    for gradients, fields in FIELDS.items():
        pkg = package(name, gradients=gradients)
        pkg.run("host")  # compares sizeof(bt_model) with the plan
        plan = plans[gradients] = pkg.plan
        own = plan.param_bytes if gradients == "separate" else 0
        assert plan.gradient_bytes == own
        parts = (plan.peak_bytes, plan.param_bytes, own, plan.optimizer_bytes, plan.state_bytes)
        assert plan.context_bytes == sum(parts) + fields
        assert ("bt_params g;" in pkg.files["model.h"]) == bool(own)
        assert any(c.startswith("gradients") for c in plan.choices) == (gradients != "separate")
    separate = plans["separate"]
    assert plans["momentum"].ram_bytes == separate.ram_bytes - separate.gradient_bytes + 4
    assert plans["update"].ram_bytes < separate.ram_bytes
    assert plans["momentum"].trained_params == separate.trained_params


@pytest.mark.ci
@pytest.mark.parametrize("gradients", ["momentum", "update"])
def test_the_smallest_plan_has_the_bits_of_the_fastest(gradients: str) -> None:
    """What is made again must be made before the update of its weights."""
    with pytest.raises(DoesNotFitError) as error:
        package("mibminet", gradients=gradients, memory=1024)
    found = re.search(r"smallest plan needs ([\d,]+) B", str(error.value))
    assert found
    small = package("mibminet", gradients=gradients, memory=int(found[1].replace(",", "")))
    fast = package("mibminet", gradients=gradients)
    assert small.plan.ram_bytes < fast.plan.ram_bytes
    x, y = windows(16)
    devices = [pkg.run("host") for pkg in (small, fast)]
    for device in devices:
        device.train(x, y)
    assert devices[0].crc32() == devices[1].crc32()


@pytest.mark.sample(test=2, ci=5)
@pytest.mark.parametrize("strategy", ["full", "last", "none"])
@pytest.mark.parametrize(
    ("gradients", "optimizer"),
    [("momentum", SGD), ("update", SGD), ("update", bt.SGD(momentum=0)), ("update", bt.Adam())],
    ids=["momentum", "update", "plain", "adam"],
)
def test_no_warning(
    gradients: str, optimizer: bt.SGD | bt.Adam, strategy: str, tmp_path: Path
) -> None:
    pkg = package(gradients=gradients, optimizer=optimizer, strategy=strategy)
    folder = pkg.save(tmp_path / "c")
    command = [*find_compiler(), "-O1", "-mfma", *STRICT, *NUMERICS, "-c"]
    subprocess.run([*command, "model.c", "model_weights.c"], cwd=folder, check=True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"gradients": "update", "optimizer": bt.SGD(clip_norm=1.0)}, "clip_norm"),
        ({"gradients": "momentum", "optimizer": bt.SGD(clip_norm=1.0)}, "clip_norm"),
        ({"gradients": "update", "accumulate": 8}, "accumulate must be 1"),
        ({"gradients": "momentum", "optimizer": bt.Adam()}, "needs SGD with a momentum"),
        ({"gradients": "momentum", "optimizer": bt.SGD(momentum=0)}, "needs SGD with a momentum"),
        ({"gradients": "momentum", "optimizer": bt.SGD(nesterov=True)}, "Nesterov"),
        ({"gradients": "nowhere"}, "separate, momentum, update"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(BioTrainError, match=text) as error:
        package(**options)
    assert "\n" not in str(error.value)


def test_there_are_no_gradients_to_read() -> None:
    with pytest.raises(BioTrainError, match="no tensors of gradients"):
        package(gradients="momentum").run("host").gradients()


def test_the_command_line_takes_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = ["mibminet", "--chans", "2", "--times", "64", "--classes", "3", "--sfreq", "125"]

    def run(*arguments: str) -> dict[str, object]:
        assert main([*arguments, "--json", "-"]) == 0
        result: dict[str, object] = json.loads(capsys.readouterr().out)
        return result

    plan = run("plan", *small, "--gradients", "momentum")
    assert plan["gradients"] == "momentum"
    assert plan["gradient_bytes"] == 0
    at_once = ["--gradients", "update", "--accumulate", "1"]
    assert run("verify", *small, *at_once, "--steps", "2", "--seeds", "1")["ok"]
    folder = str(tmp_path / "c")
    run("compile", *small, *at_once, "-o", folder)
    direct, from_folder = (
        run("run", *what, "--samples", "8") for what in ([*small, *at_once], [folder])
    )
    assert direct["crc32"] == from_folder["crc32"]
    assert direct["ram_bytes"] == from_folder["ram_bytes"]
    assert run("plan", *small, "--gradients", "update")["gradients"] == "update"  # every window
    assert main(["plan", *small, "--gradients", "update", "--accumulate", "8"]) == 2
    assert "accumulate must be 1, not 8" in capsys.readouterr().err
