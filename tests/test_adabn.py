# SPDX-License-Identifier: Apache-2.0
"""BatchNorm's running statistics taken anew in the generated C: what torch makes of one batch."""

from __future__ import annotations

import copy
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import biotrain as bt
from biotrain.errors import BioTrainError, CaptureError, DeviceError
from biotrain.frontend.live import Live
from biotrain.package import Package
from biotrain.run.compiler import NUMERICS, STRICT, find_compiler
from biotrain.run.device import Device
from biotrain.run.host import HostDevice
from biotrain.study.labelfree import adabn

CHANS, TIMES, CLASSES = 3, 120, 3
Floats = NDArray[np.float32]


class Small(nn.Module):
    """Norms over time, without affine parameters, and over one value per window."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(CHANS, 4, 5, bias=False)
        self.norm1 = nn.BatchNorm1d(4)
        self.mix = nn.Conv1d(4, 6, 1)
        self.norm2 = nn.BatchNorm1d(6, affine=False)
        self.hidden = nn.Linear(6, 5)
        self.norm3 = nn.BatchNorm1d(5)
        self.out = nn.Linear(5, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv(x)))
        y = torch.tanh(self.norm2(self.mix(y))).mean(-1)
        return self.out(torch.relu(self.norm3(self.hidden(y))))


class Branches(nn.Module):
    """A norm that is used twice, and two side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(CHANS, 4, 3, padding=1)
        self.conv2 = nn.Conv1d(4, 4, 3, padding=1)
        self.norm, self.left, self.right = (nn.BatchNorm1d(4) for _ in range(3))
        self.out = nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv2(torch.relu(self.norm(self.conv1(x))))))
        return self.out((self.left(self.conv2(y)) + self.right(y)).mean(-1))


def small() -> nn.Module:
    torch.manual_seed(5)
    return Small().eval()


def package(start: nn.Module | None = None, times: int = TIMES, **options: object) -> Package:
    net = bt.prepare(start or small(), norm="frozen")
    return bt.compile(
        net, torch.zeros(1, CHANS, times), **{"accumulate": 1, "adabn": True, **options}
    )


def windows(count: int, times: int = TIMES, seed: int = 1) -> Floats:
    """Far from zero and each at a level of its own."""
    rng = np.random.default_rng(seed)
    x = 4 + 3 * rng.standard_normal((count, CHANS, times)) + rng.standard_normal((count, 1, 1))
    return x.astype(np.float32)


def close(device: Device, start: nn.Module, x: Floats) -> None:
    """Statistics and predictions are those of torch in float64."""
    module = adabn(copy.deepcopy(start).double(), x.astype(np.float64), batch=len(x))  # type: ignore[arg-type]
    have, want = device.parameters(), dict(module.named_buffers())
    spread = {name: v.sqrt().numpy() for name, v in want.items() if name.endswith("var")}
    assert spread
    for name, deviation in spread.items():
        mean = name.replace("var", "mean")
        assert np.abs((have[mean] - want[mean].numpy()) / deviation).max() < 2e-5, mean
        assert np.abs(np.sqrt(have[name]) / deviation - 1).max() < 2e-5, name
    logits = module(torch.from_numpy(x).double()).detach().numpy()
    assert np.abs(device.predict(x) - logits).max() < 1e-4 * np.abs(logits).max()


@pytest.mark.sample(test=1)
@pytest.mark.parametrize(("name", "share"), [("eegnet", 0.6), ("epidenet", 0.7), ("mibminet", 0.6)])
def test_equals_torch_in_every_budget(name: str, share: float) -> None:
    torch.manual_seed(3)
    start = bt.models.build(name, CHANS, 200, CLASSES, 128.0, norm="batch").eval()
    x = windows(9, 200)
    free = package(start, 200)
    tight = package(start, 200, memory=int(free.plan.ram_bytes * share))
    assert tight.plan.ram_bytes <= free.plan.ram_bytes * share
    assert tight.plan.adabn_ops > 0
    said = next(words for words in tight.plan.choices if words.startswith("adabn: "))
    assert tight.source.adabn is not None
    loops = len(tight.source.adabn.phases)
    assert f" in {loops} loop{'s' if loops > 1 else ''} over the windows" in said
    found: list[int] = []
    for pkg in (free, tight):
        device = pkg.run("host")
        device.adabn(x)
        close(device, start, x)
        found.append(device.crc32())
    assert found[0] == found[1]


def test_branches_are_one_loop_and_the_last_use_counts() -> None:
    torch.manual_seed(1)
    start, x = Branches().eval(), windows(7)
    pkg = package(start)
    assert pkg.source.adabn is not None
    assert len(pkg.source.adabn.phases) == 3
    assert any("in 3 loops over the windows" in words for words in pkg.plan.choices)
    device = pkg.run("host")
    device.adabn(x)
    close(device, start, x)


def test_what_it_refuses_changes_nothing() -> None:
    device = package().run("host")
    assert isinstance(device, HostDevice)
    x, before = windows(6), device.crc32()
    bad = x.copy()
    bad[-1, 1, 7] = np.nan
    with pytest.raises(DeviceError, match="NaN"):
        device.adabn(bad)
    with pytest.raises(DeviceError, match="statistics of the windows overflow"):
        device.adabn(x * np.float32(1e25))
    assert device.rejected == 2
    for count in (0, 1):  # one value per window has no variance
        with pytest.raises(BioTrainError, match=f"of 2 to .* windows, not of {count}"):
            device.adabn(x[:count])
    device.accumulate(x[:2], np.array([0, 1]))
    with pytest.raises(DeviceError, match="group"):
        device.adabn(x)
    assert device.crc32() == before
    device.step()
    trained = device.crc32()
    device.adabn(x)
    assert device.crc32() not in (before, trained)


def test_training_goes_on_with_the_statistics_as_they_are() -> None:
    """As a package that was compiled with them, to the bit; checkpoints hold them."""
    start, x = small(), windows(8)
    y = np.arange(8) % CLASSES
    pkg = package(start, accumulate=2)
    device = pkg.run("host")
    factory = device.crc32()
    device.adabn(x)
    close(device, start, x)
    state, estimated = device.save_state(), device.parameters()
    device.train(x, y)
    with torch.no_grad():
        for name, value in start.state_dict().items():
            if name in estimated:
                value.copy_(torch.from_numpy(estimated[name]))
    other = package(start, accumulate=2, adabn=False).run("host")
    other.train(x, y)
    trained = device.parameters()
    for name, value in other.parameters().items():
        assert np.array_equal(value, trained[name]), name
    assert all(np.array_equal(estimated[n], trained[n]) for n in estimated if "running" in n)
    assert np.array_equal(device.predict(x), other.predict(x))
    crc = device.crc32()
    device.reset()
    assert device.crc32() == factory
    device.load_state(state)
    assert all(np.array_equal(v, estimated[n]) for n, v in device.parameters().items())
    device.train(x, y)
    assert device.crc32() == crc
    report = bt.verify(pkg, steps=2, seeds=1)
    assert report.ok


def test_features_of_frozen_layers_follow() -> None:
    pkg = package(strategy="out.*")
    assert pkg.plan.feature_bytes
    x, y = windows(6), np.arange(6) % CLASSES
    found: list[int] = []
    for by_features in (False, True):
        device = pkg.run("host")
        stale = device.features(x)
        device.adabn(x)
        if by_features:
            device.train_features(device.features(x), y)
            assert not np.array_equal(device.features(x), stale)
        else:
            device.train(x, y)
        found.append(device.crc32())
    assert found[0] == found[1]


def test_integers_have_the_bits_of_floats() -> None:
    scale = 0.125
    x = np.rint(windows(5) / scale).astype(np.int16)
    found: list[int] = []
    for options in ({}, {"input_type": "int16", "input_scale": scale}):
        device = package(**options).run("host")
        device.adabn(x if options else x.astype(np.float32) * np.float32(scale))
        found.append(device.crc32())
    assert found[0] == found[1]


def test_gradients_in_the_momentum() -> None:
    """The size of a group that was announced stays announced."""
    device = package(gradients="momentum", accumulate=4).run("host")
    x = windows(4)
    device.group(2)
    device.adabn(x)
    close(device, small(), x)
    device.accumulate(x[:2], np.array([0, 1]))
    device.step()


def test_a_batch_norm_that_trains_can_be_reestimated_too() -> None:
    start = small()
    net = bt.prepare(start, norm="batch").train()
    example, x = torch.zeros(1, CHANS, TIMES), windows(8)
    pkg = bt.compile(net, example, batch=4, adabn=True)
    device = pkg.run("host")
    device.adabn(x)
    close(device, start, x)
    assert device.train(x, np.arange(8) % CLASSES) > 0


def test_strict_warnings_and_a_target_of_floats(tmp_path: Path) -> None:
    pkg = package(loss="mse", strategy="none", fused=False)
    pkg.save(tmp_path)
    assert "bt_adabn(&model, &source, n);" in (tmp_path / "README.md").read_text(encoding="utf-8")
    command = [*find_compiler(), *STRICT, *NUMERICS, "-c", "model.c", "-o", "model.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    device = pkg.run("host")
    device.adabn(windows(4))
    close(device, small(), windows(4))


def test_what_cannot_be_estimated() -> None:
    net = bt.prepare(small(), norm="group")
    with pytest.raises(CaptureError, match="this network has none"):
        bt.compile(net, torch.zeros(1, CHANS, TIMES), adabn=True, accumulate=1)
    with pytest.raises(BioTrainError, match="compile the package with adabn=True"):
        package(adabn=False).run("host").adabn(windows(4))
    with pytest.raises(BioTrainError, match="without live"):
        package(input_type="int16", input_scale=0.1, live=Live(epochs=10))


@pytest.mark.ci
def test_the_bits_of_the_host_in_an_emulator() -> None:
    for needed in ("unicorn", "elftools", "ziglang"):
        if not find_spec(needed):
            pytest.skip(f"the package {needed} is not installed")
    pkg = package(target="cortex-m4f", memory="64KiB")
    found: list[int] = []
    for on in ("host", "emulator"):
        device = pkg.run(on)
        device.adabn(windows(3))
        found.append(device.crc32())
        device.close()
    assert found[0] == found[1]
