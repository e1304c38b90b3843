# SPDX-License-Identifier: Apache-2.0
"""What the frozen layers make of a window, once for all epochs: same bits, less work."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from _networks import draw
from test_networks import FLAGS

import biotrain as bt
from biotrain.errors import BioTrainError, DeviceError, DoesNotFitError
from biotrain.ir.graph import flat_nodes
from biotrain.package import Package
from biotrain.run.compiler import NUMERICS, STRICT, find_compiler
from biotrain.run.device import Device
from biotrain.run.host import HostDevice
from biotrain.study import adapt, generate

CHANS, TIMES, CLASSES = 3, 128, 4


class Skipping(torch.nn.Module):
    """Several values cross from the frozen layers to the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv1d(CHANS, 4, 5, stride=4)
        self.second = torch.nn.Conv1d(4, 4, 3, stride=2)
        self.late = torch.nn.Conv1d(4, 4, 3, stride=2)
        self.out = torch.nn.Linear(4 * 15, CLASSES)
        self.beside = torch.nn.Linear(4 * 15, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = torch.relu(self.first(x))
        high = self.second(low)
        both = self.late(low) + high
        return self.out(both.flatten(1)) + self.beside(high.flatten(1))


class Running(torch.nn.Module):
    """A frozen batch norm, whose running statistics every window still changes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(CHANS, 4, 8, stride=4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.out = torch.nn.Linear(4 * 31, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.norm(self.conv(x))).flatten(1))


def package(
    net: str | torch.nn.Module = "eegnet", strategy: str = "last", **how: object
) -> Package:
    torch.manual_seed(2)
    if isinstance(net, str):
        net = bt.prepare(bt.models.build(net, CHANS, TIMES, CLASSES, 128.0, norm="group"))
    return bt.compile(
        net.train(), torch.zeros(1, CHANS, TIMES), strategy=strategy, **{"accumulate": 1, **how}
    )


def start(pkg: Package) -> Device:
    """Built quickly; the bits do not depend on it."""
    return pkg.run("host", flags=FLAGS)


def windows(n: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, CHANS, TIMES), np.float32), rng.integers(0, CLASSES, n)


def learn(device: Device, x: np.ndarray, y: np.ndarray, cached: bool, epochs: int = 3) -> float:
    """Several epochs in changing order; the loss of the last one."""
    device.begin(100)
    features = device.features(x) if cached else x
    loss = 0.0
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(x))
        train = device.train_features if cached else device.train
        loss = train(features[order], y[order], drop_last=epoch == 1)
    return loss


def same(pkg: Package, x: np.ndarray, y: np.ndarray) -> None:
    whole, parts = start(pkg), start(pkg)
    factory = whole.crc32()
    assert learn(whole, x, y, False) == learn(parts, x, y, True)
    assert whole.crc32() == parts.crc32() != factory
    assert whole.save_state() == parts.save_state()
    assert whole.samples == parts.samples


@pytest.mark.sample(test=3, ci=6)
@pytest.mark.parametrize(
    "how",
    [
        {"accumulate": 3},
        {"accumulate": 3, "gradients": "momentum"},
        {"gradients": "update"},
        {"optimizer": bt.Adam(), "loss": "mse"},
        {"input_type": "int16", "input_scale": 0.001},
        {"optimizer": bt.SGD(schedule="cosine", clip_norm=0.1), "strategy": "*class*"},
        {"net": "epidenet", "strategy": "norm5*"},
        {"net": Skipping(), "strategy": "[ob]*"},
        {"net": Skipping(), "strategy": "late*"},
        {"net": Running()},
    ],
    ids=str,
)
def test_epochs_on_features_have_the_bits_of_epochs_on_windows(how: dict[str, object]) -> None:
    pkg = package(**how)
    assert 0 < pkg.plan.feature_bytes < CHANS * TIMES * 4
    x, y = windows()
    same(pkg, x, np.eye(CLASSES, dtype=np.float32)[y] if how.get("loss") == "mse" else y)


def test_a_network_drawn_at_random() -> None:
    seed = int(np.random.default_rng().integers(0, 2**31))
    drawn = draw(seed)
    pkg = bt.compile(bt.prepare(drawn.net), drawn.example, strategy="last", accumulate=1)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((5, *drawn.example.shape[1:]), np.float32)
    if not pkg.plan.feature_bytes:
        pytest.skip(f"seed {seed}: {pkg.plan.choices[-1]}")
    same(pkg, x, np.arange(5) % 2)


def test_what_crosses_is_what_the_rest_reads() -> None:
    """Not the label, nor weights; a view is made by whoever reads it."""
    pkg = package(Skipping(), "late*")
    features = pkg.source.features
    assert features
    assert [v.size for v in features.values] == [4 * 31, 4 * 15, CLASSES]
    assert pkg.plan.feature_bytes == 4 * features.size == 4 * (4 * 31 + 4 * 15 + CLASSES)
    plain = package(Skipping(), "[ob]*").source.features
    assert plain
    assert [v.size for v in plain.values] == [4 * 15] * 2
    trunk, head = ([n.op for n in flat_nodes(g.graph.nodes)] for g in (plain.trunk, plain.head))
    assert "reshape" not in trunk
    assert "conv" not in head


def test_the_plan_says_what_it_saves() -> None:
    pkg = package("epidenet", accumulate=2)
    plan = pkg.plan
    assert plan.feature_bytes == 16 * 4
    assert plan.head_ops * 10 < plan.ops
    assert plan.ops == plan.trunk_ops + plan.head_ops
    (line,) = [c for c in plan.choices if c.startswith("features: ")]
    assert line == (
        f"features: 64 B per window instead of {CHANS * TIMES * 4:,} B; later epochs need "
        f"{plan.head_ops:,} of {plan.ops:,} operations"
    )
    assert {"feature_bytes", "trunk_ops", "head_ops"} <= plan.to_json().keys()
    assert "#define BT_FEATURES 16 " in pkg.files["model.h"]


@pytest.mark.parametrize(
    "how",
    [
        {"strategy": "full"},
        {"strategy": "none"},
        {"strategy": "norm"},
        {"strategy": "*bias", "net": Skipping()},
    ],
    ids=str,
)
def test_no_features_where_nothing_is_won(how: dict[str, object]) -> None:
    pkg = package(**how)
    assert (pkg.plan.feature_bytes, pkg.plan.trunk_ops, pkg.plan.head_ops) == (0, 0, 0)
    assert "bt_features" not in pkg.files["model.h"] + pkg.files["model.c"]
    said = [c for c in pkg.plan.choices if c.startswith("features")]
    assert len(said) == (how["strategy"] == "norm"), "the maps in front of the norm are too large"
    device = start(pkg)
    with pytest.raises(BioTrainError, match="has no features here"):
        device.features(windows()[0])
    with pytest.raises(BioTrainError, match="has no features here"):
        device.train_features(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))


def test_no_features_with_a_batch() -> None:
    pkg = package(Running(), batch=4)
    assert pkg.plan.feature_bytes == 0
    assert "bt_features" not in pkg.files["model.h"]


def test_the_smallest_plan_has_the_same_bits() -> None:
    free = package("mibminet")
    with pytest.raises(DoesNotFitError) as error:
        package("mibminet", memory=1)
    least = int(str(error.value).split("needs ")[1].split(" B")[0].replace(",", ""))
    x, y = windows()
    crcs = []
    for pkg in (free, package("mibminet", memory=least)):
        features = pkg.source.features
        assert pkg.plan.ram_bytes <= least or pkg is free
        if features:
            assert max(features.trunk.peak, features.head.peak) <= pkg.plan.peak_bytes
            same(pkg, x, y)
        device = start(pkg)
        learn(device, x, y, bool(features))
        crcs.append(device.crc32())
    assert crcs[0] == crcs[1]


def test_bad_features_leave_no_trace() -> None:
    pkg = package(accumulate=2)
    device, other = start(pkg), start(pkg)
    assert isinstance(device, HostDevice)
    x, y = windows(4)
    f = device.features(x)
    device.train_features(f, y)
    other.train_features(f, y)
    bad = f.copy()
    bad[1, 3] = np.nan
    for broken, labels, words in (
        (bad, y, "sample 1: .*NaN or infinity"),
        (f, np.array([0, CLASSES, 0, 0]), "sample 1: .*label"),
        (np.full_like(f, 3e38) * np.sign(f + 0.5), y, "finite"),
    ):
        with pytest.raises(DeviceError, match=words):
            device.train_features(broken, labels)
    assert device.rejected == 3
    for shape in ((len(x), f.shape[1] - 1), (f.shape[1],), x.shape):
        with pytest.raises(BioTrainError, match="f has shape"):
            device.train_features(np.zeros(shape, np.float32), y)
    with pytest.raises(BioTrainError, match="f must be floats"):
        device.train_features(f.astype(np.int32), y)
    with pytest.raises(BioTrainError, match="y must be integers"):
        device.train_features(f, y[:-1])
    x[2, 0, 5] = np.inf
    with pytest.raises(DeviceError, match="sample 2"):
        device.features(x)
    assert device.save_state()[20:-4] == other.save_state()[20:-4]
    assert device.train_features(f[:0], y[:0]) == 0.0


@pytest.mark.sample(test=1, ci=3)
@pytest.mark.parametrize(
    "how",
    [
        {"gradients": "momentum", "accumulate": 2},
        {"gradients": "update", "loss": "mse"},
        {"input_type": "int16", "input_scale": 0.001},
        {"net": Skipping(), "strategy": "late*"},
    ],
    ids=str,
)
def test_no_warning_from_two_compilers(how: dict[str, object], tmp_path: Path) -> None:
    folder = package(**how).save(tmp_path / "c")
    commands = [list(find_compiler())]
    if find_spec("ziglang"):
        commands.append([sys.executable, "-m", "ziglang", "cc"])
    for command in commands:
        subprocess.run(
            [*command, "-O1", "-mfma", *STRICT, *NUMERICS, "-c", "model.c"],
            cwd=folder,
            check=True,
        )


def test_adaptation_uses_them_and_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rec = generate("emg", subjects=2, sessions=1, trials=8)
    compiled, run = bt.compile, Package.run
    devices: list[Device] = []

    def watched(self: Package, on: str = "host", **options: object) -> Device:
        device = run(self, on, **options)
        if self.strategy == "last":  # not that of the pretraining
            devices.append(device)
        return device

    def without(*args: object, **options: object) -> Package:
        made = compiled(*args, **options)
        plan = replace(made.plan, feature_bytes=0)
        return replace(made, source=replace(made.source, plan=plan, features=None))

    monkeypatch.setattr(Package, "run", watched)
    results = []
    for compile_model in (compiled, without):
        monkeypatch.setattr(bt, "compile", compile_model)
        results.append(adapt(rec, "epidenet", 1, ("last",), epochs=4, pretrain_epochs=2))
    assert devices[0].package.plan.feature_bytes > 0 == devices[1].package.plan.feature_bytes
    assert devices[0].crc32() == devices[1].crc32()
    assert devices[0].samples == devices[1].samples > 0
    assert results[0].rows == results[1].rows
    assert results[0].curves == results[1].curves
