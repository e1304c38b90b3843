# SPDX-License-Identifier: Apache-2.0
"""Covariances by their matrix logarithm: against scipy, pyriemann and torch, and as networks."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg, signal

import biotrain as bt
from biotrain import study
from biotrain.models import CovarianceNet, log_covariance
from biotrain.models.covariance import band_filters
from biotrain.package import Package

SHAPE = {"n_chans": 3, "n_times": 160, "n_outputs": 2, "sfreq": 100.0}
OPTIMIZER = bt.SGD(lr=1e-2, momentum=0.9, weight_decay=1e-3, clip_norm=1.0)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shrinkage", [0.0, 1e-3])
def test_the_logarithm_is_that_of_scipy(shrinkage: float) -> None:
    x = drawn(5, 4, 300)
    found = log_covariance(torch.from_numpy(x).double(), shrinkage).numpy()
    for window, have in zip(x.astype(np.float64), found, strict=True):
        cov = window @ window.T / window.shape[-1]
        cov += shrinkage * np.trace(cov) / 4 * np.eye(4)
        np.testing.assert_allclose(have, linalg.logm(cov), atol=1e-12)


def test_its_gradient_is_that_of_differences() -> None:
    x = torch.from_numpy(drawn(2, 3, 40)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: log_covariance(v, 1e-2), x)


def test_its_gradient_is_finite_where_eigenvalues_coincide() -> None:
    """d log(c) = dc / w where all eigenvalues are w."""
    x = 3 * torch.eye(4, dtype=torch.float64)[None]
    x.requires_grad_()
    up = torch.from_numpy(drawn(1, 4, 4)).double()
    log_covariance(x, 0.0).backward(up)
    assert x.grad is not None
    w = 9 / 4
    want = (up + up.mT) @ x.detach() / (4 * w)
    torch.testing.assert_close(x.grad, want)


def test_triangles_are_the_tangent_vectors_of_pyriemann() -> None:
    tangentspace = pytest.importorskip("pyriemann.tangentspace", reason="needs pyriemann")
    net = CovarianceNet(**SHAPE, bands=0, delays=1).double()
    x = drawn(6, 3, 160)
    found = net.features(torch.from_numpy(x).double()).numpy()
    centred = x.astype(np.float64) - x.astype(np.float64).mean(-1, keepdims=True)
    cov = centred @ centred.transpose(0, 2, 1) / 160
    cov += 1e-3 * np.trace(cov, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3)
    space = tangentspace.TangentSpace(metric="logeuclid")
    space.reference_ = np.eye(3)
    np.testing.assert_allclose(found, space.transform(cov), atol=1e-9)


def test_a_band_passes_its_octave_and_no_other() -> None:
    rate, taps = 128.0, 65
    filters = band_filters(rate, 4, taps).numpy().astype(np.float64)
    for k, row in enumerate(filters):
        high = 0.4 * rate / 2**k
        at, gain = signal.freqz(row, fs=rate, worN=4096)
        size = np.abs(gain)
        middle = size[np.argmin(np.abs(at - high / sqrt(2)))]
        assert middle == pytest.approx(1.0, abs=1e-3)
        if k < 3:  # 65 taps tell 2 Hz apart: the lowest band has soft edges
            assert size[at < high / 4].max() < 0.05
            assert size[at > 2 * high].max(initial=0.0) < 0.05


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return bt.models.build("covariance", **SHAPE).train()


def package(net: torch.nn.Module, norm: str = "group", **options: object) -> Package:
    made = bt.prepare(net, norm=norm)
    x = torch.zeros(1, SHAPE["n_chans"], SHAPE["n_times"])
    return bt.compile(made, x, **{"accumulate": 1, "optimizer": OPTIMIZER, **options})


@pytest.mark.parametrize("strategy", ["full", "last", "norm"])
def test_it_trains_as_in_torch(net: torch.nn.Module, strategy: str) -> None:
    assert bt.verify(package(net, strategy=strategy), steps=3, seeds=1).ok


@pytest.mark.parametrize("name", ["mibminet+covariance", "epidenet+covariance"])
def test_it_trains_beside_a_network(name: str) -> None:
    torch.manual_seed(0)
    both = bt.models.build(name, **SHAPE).train()
    free = package(both)
    tight = package(both, memory=int(0.7 * free.plan.ram_bytes))
    reports = [bt.verify(p, steps=2, seeds=1) for p in (free, tight)]
    assert all(r.ok for r in reports)
    assert reports[0].crc32 == reports[1].crc32


class Learned(torch.nn.Module):
    """Filters in front of the covariance that are trained through it."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = torch.nn.Conv1d(3, 4, 1, bias=False)
        self.temporal = torch.nn.Conv1d(4, 4, 9, groups=4, bias=False)
        self.head = torch.nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.temporal(self.spatial(x))
        y: torch.Tensor = self.head(log_covariance(x, 1e-2).flatten(1))
        return y


def test_gradients_go_through_it() -> None:
    torch.manual_seed(0)
    pkg = bt.compile(Learned().train(), torch.zeros(1, 3, 160), optimizer=OPTIMIZER, accumulate=1)
    assert bt.verify(pkg, steps=3, seeds=2).ok


def test_statistics_of_a_wearer_are_taken_again_on_the_device(net: torch.nn.Module) -> None:
    x = drawn(12, 3, 160)
    device = package(net, "frozen", adabn=True).run("host")
    device.adabn(x)
    have = device.predict(x)
    module = bt.prepare(net, norm="batch").double().train()
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean over what follows
    with torch.no_grad():
        module(torch.from_numpy(x).double())
        want = module.eval()(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(have, want, atol=2e-5 * np.abs(want).max())


def test_a_batch_of_windows_with_one_number_each(net: torch.nn.Module) -> None:
    """Batch norm over features has one number per window: torch refuses a single one."""
    pkg = package(net, "batch", batch=4)
    assert bt.verify(pkg, steps=2, seeds=1).ok


@pytest.mark.parametrize("engine", ["c", "torch"])
def test_a_last_batch_of_one_window_trains_nothing_wrong(engine: str) -> None:
    rec = study.load("synthetic-emg")
    few = np.flatnonzero(rec.subject != 6)[:17]  # two batches of eight, and one
    made = study.pretrain(rec, "covariance", few, norm="batch", epochs=2, batch=8, engine=engine)
    assert all(v.isfinite().all() for v in made.state_dict().values())


def test_workers_share_it_with_the_same_bits(net: torch.nn.Module) -> None:
    x, y = drawn(3, 3, 160), np.array([0, 1, 1])
    found = []
    for workers in (1, 3):
        device = package(net, workers=workers).run("threads" if workers > 1 else "host")
        device.train(x, y)
        found.append((device.crc32(), device.predict(x).tobytes()))
    assert found[0] == found[1]


def test_a_program_that_was_exported_has_it(net: torch.nn.Module, tmp_path: Path) -> None:
    made = bt.prepare(net, norm="group").eval()
    program = torch.export.export(made, (torch.zeros(1, 3, 160),))
    file = tmp_path / "covariance.pt2"
    torch.export.save(program, file)
    pkg = bt.compile(file, torch.zeros(1, 3, 160), optimizer=OPTIMIZER, accumulate=1)
    assert pkg.run("host").predict(drawn(2, 3, 160)).shape == (2, 2)


@pytest.mark.parametrize(
    "given",
    [{"bands": 0, "delays": 0}, {"n_times": 8}, {"bands": -1}, {"delays": 160}],
)
def test_what_no_covariance_is_made_of_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="take 16 samples at least"):
        CovarianceNet(**{**SHAPE, **given})


def test_a_flat_window_is_refused_and_nothing_is_lost(net: torch.nn.Module) -> None:
    device = package(net).run("host")
    before = device.crc32()
    with pytest.raises(bt.BioTrainError):
        device.train(np.zeros((1, 3, 160), np.float32), np.zeros(1, int))
    assert device.crc32() == before
