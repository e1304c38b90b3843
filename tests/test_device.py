# SPDX-License-Identifier: Apache-2.0
"""The device's C on the host: what bad input gets, and that it leaves no trace."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import biotrain as bt
from biotrain.errors import BioTrainError, CaptureError, CheckpointError, DeviceError
from biotrain.package import Package
from biotrain.run.device import Device
from biotrain.run.host import OPTIMISED, HostDevice

CHANS, TIMES, CLASSES = 3, 160, 4


def package(strategy: str = "full", seed: int = 0, **options: object) -> Package:
    torch.manual_seed(seed)
    net = bt.prepare(bt.models.build("eegnet", CHANS, TIMES, CLASSES, 128.0, norm="group"))
    net.train()
    return bt.compile(
        net, torch.zeros(1, CHANS, TIMES), strategy=strategy, **{"accumulate": 1, **options}
    )


@pytest.fixture(scope="module")
def pkg() -> Package:
    return package(accumulate=4)


@pytest.fixture
def device(pkg: Package) -> HostDevice:
    running = pkg.run("host")
    assert isinstance(running, HostDevice)
    return running


def windows(n: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, CHANS, TIMES)).astype(np.float32)
    return x, rng.integers(0, CLASSES, n)


def payload(device: Device) -> bytes:
    """A checkpoint without header and CRC, which hold the sequence number."""
    return device.save_state()[20:-4]


def one_line(error: Exception) -> None:
    """A message that a person can act on: one line, and more than a word."""
    assert "\n" not in str(error)
    assert len(str(error)) > 20


def broken(kind: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = windows(1, 9)
    if kind == "nan":
        x[0, 1, 7] = np.nan
    elif kind == "inf":
        x[0, 2, 3] = -np.inf
    elif kind == "label":
        y[0] = CLASSES
    elif kind == "negative label":
        y[0] = -1
    elif kind == "huge label":
        y = np.array([2**40])
    elif kind == "overflow":
        x[0] = 3e38 * np.sign(x[0])
    elif kind == "shape":
        x = x[:, :, :-1]
    elif kind == "rank":
        x = x[0]
    elif kind == "count":
        y = np.zeros(2, np.int64)
    elif kind == "float label":
        y = y.astype(np.float32)
    elif kind == "text":
        x = x.astype(str)
    return x, y


KINDS = [
    "nan", "inf", "label", "negative label", "huge label", "overflow", "shape", "rank", "count",
    "float label", "text",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_bad_samples_end_in_one_line_and_leave_the_weights(device: HostDevice, kind: str) -> None:
    x, y = windows()
    device.train(x, y)
    before = payload(device)
    with pytest.raises(BioTrainError) as error:
        device.train(*broken(kind))
    one_line(error.value)
    assert payload(device) == before
    device.train(x, y)
    undisturbed = device.package.run("host")
    undisturbed.train(x, y)
    undisturbed.train(x, y)
    assert device.crc32() == undisturbed.crc32()


def test_a_flat_channel_is_refused_when_asked(device: HostDevice) -> None:
    x, y = windows(1)
    x[0, 1] = 4.0
    device.predict(x)
    device.check_flat()
    with pytest.raises(DeviceError, match="flat channel"):
        device.train(x, y)
    with pytest.raises(DeviceError, match="flat channel"):
        device.predict(x)
    device.check_flat(False)
    device.train(x, y)


def test_a_group_with_a_broken_gradient_is_dropped_whole(device: HostDevice) -> None:
    x, y = windows(3)
    device.accumulate(x, y)
    before = device.crc32()
    name = device.package.source.trained[0]
    gradient = device.read(f"g_{name}")
    gradient.flat[0] = np.inf
    device.write(f"g_{name}", gradient)
    with pytest.raises(DeviceError, match="group"):
        device.step()
    assert device.crc32() == before
    assert not device.read(f"g_{name}").any()
    with pytest.raises(DeviceError, match="nothing to step with"):
        device.step()
    assert device.rejected == 1


def test_mse_targets_are_checked() -> None:
    torch.manual_seed(0)
    net = bt.prepare(bt.models.build("eegnet", CHANS, TIMES, CLASSES, 128.0, norm="group"))
    device = bt.compile(net.train(), torch.zeros(1, CHANS, TIMES), loss="mse", accumulate=1).run(
        "host"
    )
    x, _ = windows(4)
    for shape in ((4,), (4, 1), (4, CLASSES + 1), (3, CLASSES), (4, CLASSES, 1)):
        with pytest.raises(BioTrainError, match="y must be numbers"):
            device.train(x, np.zeros(shape, np.float32))
    device.train(x, np.zeros((4, CLASSES), np.float32))


def test_a_refused_sample_drops_its_group(pkg: Package) -> None:
    x, y = windows(8)
    device, other = pkg.run("host"), pkg.run("host")
    bad = x.copy()
    bad[6] = np.nan
    with pytest.raises(DeviceError, match="sample 6"):
        device.train(bad, y)
    other.train(x[:4], y[:4])
    assert device.crc32() == other.crc32(), "the step before the refused sample stays"
    device.train(x, y)
    other.train(x, y)
    assert device.crc32() == other.crc32(), "nothing of the refused group is left"


def test_groups_and_the_rest(pkg: Package) -> None:
    """Steps every `accumulate` samples and at the end of a batch with the mean over the rest."""
    x, y = windows(6)
    whole, parts, dropped, four = (pkg.run("host") for _ in range(4))
    whole.train(x, y)
    parts.accumulate(x[:4], y[:4])
    parts.step()
    parts.accumulate(x[4:], y[4:])
    parts.step()
    assert whole.crc32() == parts.crc32()
    dropped.train(x, y, drop_last=True)
    four.train(x[:4], y[:4])
    assert dropped.crc32() == four.crc32() != whole.crc32()
    dropped.train(x, y)
    four.train(x, y)
    assert dropped.crc32() == four.crc32(), "the rest that was left out is gone"


def test_checkpoint_continues_the_training(pkg: Package) -> None:
    x, y = windows(16)
    device, other = pkg.run("host"), pkg.run("host")
    device.begin(8)
    device.train(x[:8], y[:8])
    state = device.save_state()
    device.train(x[8:], y[8:])
    other.load_state(state)
    other.train(x[8:], y[8:])
    assert other.crc32() == device.crc32()


def test_a_bad_checkpoint_changes_nothing(pkg: Package) -> None:
    device = pkg.run("host")
    x, y = windows()
    state = device.save_state()
    device.train(x, y)
    before = payload(device)

    def refuse(bad: bytes) -> None:
        with pytest.raises(CheckpointError) as error:
            device.load_state(bad)
        assert "\n" not in str(error.value)
        assert payload(device) == before

    for cut in (0, 1, 19, 20, 100, len(state) - 1):
        refuse(state[:cut])
    rng = np.random.default_rng(0)
    for _ in range(200):
        mutated = bytearray(state)
        mutated[int(rng.integers(len(state)))] ^= 1 << int(rng.integers(8))
        refuse(bytes(mutated))
    refuse(package(accumulate=4, strategy="last").run("host").save_state())
    refuse(rng.bytes(len(state)))
    device.load_state(state)


def test_safetensors_round_trip(pkg: Package, tmp_path: Path) -> None:
    x, y = windows()
    device, other = pkg.run("host"), pkg.run("host")
    device.train(x, y)
    device.save(tmp_path / "w.safetensors")
    other.load(tmp_path / "w.safetensors")
    assert other.crc32() == device.crc32()
    assert (other.predict(x) == device.predict(x)).all()
    assert pkg.module is not None
    shapes = {n: tuple(p.shape) for n, p in pkg.module.named_parameters()}
    assert {n: a.shape for n, a in device.parameters().items()} == shapes


def test_bad_weight_files(pkg: Package, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    device = pkg.run("host")
    good = device.parameters()
    crc = device.crc32()
    name = next(iter(good))
    cases: dict[str, Callable[[], object]] = {
        "missing": lambda: None,
        "foreign": lambda: save_file({"other": np.zeros(3, np.float32)}, tmp_path / "foreign"),
        "shape": lambda: save_file({**good, name: good[name][:1]}, tmp_path / "shape"),
        "nan": lambda: save_file({**good, name: good[name] * np.nan}, tmp_path / "nan"),
        "garbage": lambda: (tmp_path / "garbage").write_bytes(b"\x80\x04 not tensors"),
        "folder": lambda: (tmp_path / "folder").mkdir(),
    }
    for case, make in cases.items():
        make()
        with pytest.raises(CheckpointError) as error:
            device.load(tmp_path / case)
        assert "\n" not in str(error.value), case
        assert device.crc32() == crc
    with pytest.raises(BioTrainError):
        device.save(tmp_path / "no" / "such" / "folder.safetensors")


def test_frozen_weights_cannot_be_loaded_over(tmp_path: Path) -> None:
    full, last = package(accumulate=1).run("host"), package("last").run("host")
    full.train(*windows())
    full.save(tmp_path / "w")
    with pytest.raises(CheckpointError, match="keeps in flash"):
        last.load(tmp_path / "w")


def test_strategy_none_predicts_and_never_steps() -> None:
    device = package("none").run("host")
    x, y = windows()
    before = device.predict(x)
    assert device.train(x, y) > 0
    assert (device.predict(x) == before).all()


def test_predict_equals_torch_and_keeps_a_pending_group(pkg: Package) -> None:
    x, y = windows()
    device, other = pkg.run("host"), pkg.run("host")
    assert pkg.module is not None
    with torch.no_grad():
        want = pkg.module.double()(torch.tensor(x, dtype=torch.float64)).numpy()
    pkg.module.float()
    assert np.abs(device.predict(x) - want).max() < 1e-5 * np.abs(want).max()
    device.accumulate(x[:2], y[:2])
    device.predict(x)
    device.accumulate(x[2:4], y[2:4])
    device.step()
    other.train(x[:4], y[:4])
    assert device.crc32() == other.crc32()


def test_devices_share_nothing(pkg: Package) -> None:
    x, y = windows(64)
    alone = pkg.run("host")
    for _ in range(3):
        alone.train(x, y)
    devices = [pkg.run("host") for _ in range(4)]

    def work(device: object) -> None:
        for _ in range(3):
            device.train(x, y)  # type: ignore[attr-defined]

    threads = [threading.Thread(target=work, args=(d,)) for d in devices]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert {d.crc32() for d in devices} == {alone.crc32()}


def test_unknown_functions_name_the_source_line() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.rfft(x).abs().flatten(1)  # the odd line

    with pytest.raises(CaptureError) as error:
        bt.compile(Odd(), torch.zeros(1, 2, 16), accumulate=1)
    text = str(error.value)
    assert all(part in text for part in ("test_device.py", "torch.fft.rfft(x)", "real tensors"))
    one_line(error.value)


def test_dropout_in_training_mode_is_off_and_named() -> None:
    net = bt.models.build("eegnet", CHANS, TIMES, CLASSES, 128.0, norm="group")
    net.train()
    pkg = bt.compile(net, torch.zeros(1, CHANS, TIMES), accumulate=1)
    assert any("dropout is off" in note for note in pkg.notes), pkg.notes
    assert bt.verify(pkg, steps=2, seeds=1).ok  # the reference draws nothing either


@pytest.mark.parametrize(
    "options",
    [
        {"target": "no-such-board"},
        {"strategy": "no.such.parameter*"},
        {"memory": "much"},
        {"memory": "1KiB"},
        {"accumulate": 0},
    ],
    ids=str,
)
def test_wrong_options_end_in_one_line(options: dict[str, object]) -> None:
    strategy = options.pop("strategy", "full")
    with pytest.raises(BioTrainError) as error:
        package(str(strategy), **options)
    one_line(error.value)


def test_two_numeric_flavours_of_the_compiler_give_the_same_bits(pkg: Package) -> None:
    x, y = windows(32)
    fast = HostDevice(pkg, flags=OPTIMISED)
    slow = HostDevice(pkg, flags=(*OPTIMISED, "-O0"))
    fast.train(x, y)
    slow.train(x, y)
    assert fast.crc32() == slow.crc32()
    assert payload(fast) == payload(slow)
