# SPDX-License-Identifier: Apache-2.0
"""The models at their published shapes: ten steps of the generated C against torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import biotrain as bt
from biotrain.graph.strategy import STRATEGIES
from biotrain.package import Package
from biotrain.verification.rounding import Kinks

pytestmark = pytest.mark.usefixtures("optimised_build")

SGD = bt.SGD(schedule="cosine")
ADAM = bt.Adam(lr=1e-3)
SMALL = ("eegnet", "epidenet", "mibminet")
OTHERS = sorted(name for name in bt.models.PAPER if name not in SMALL)
"""Larger ones, which take longer: the full update stands for all."""


def package(name: str, norm: str = "group", seed: int = 0, **options: object) -> Package:
    torch.manual_seed(seed)
    shape = bt.models.PAPER[name]
    net = bt.models.build(name, **{**shape, "norm": "group" if norm == "group" else "batch"})
    if norm != "group":
        warm_up(net, shape)
    net = bt.prepare(net, norm="frozen" if norm == "frozen" else "keep")
    net.train()
    example = torch.zeros(1, shape["n_chans"], shape["n_times"])
    return bt.compile(net, example, **{"accumulate": 1, **options})


def warm_up(net: torch.nn.Module, shape: dict[str, int]) -> None:
    """Running statistics that are not the initial ones."""
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(2 * torch.randn(4, shape["n_chans"], shape["n_times"]))


def check(pkg: Package, **options: int) -> None:
    """Within the bar; one or two seeds stand for the five that define it where they suffice."""
    report = bt.verify(pkg, **options)
    if not report.ok:
        report = bt.verify(pkg, steps=options.get("steps", 10), seeds=5)
    bad = [t for t in report.tensors if not t.ok]
    assert not bad, (bad, f"{report.kinks} activations near a kink")


@pytest.mark.sample(test=1, ci=8)
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy(name: str, strategy: str) -> None:
    check(package(name, strategy=strategy, optimizer=SGD), seeds=2)


@pytest.mark.sample(test=0, ci=1)
@pytest.mark.parametrize("name", OTHERS)
def test_larger_models(name: str) -> None:
    check(package(name, optimizer=SGD), seeds=1, steps=2)


@pytest.mark.sample(test=1, ci=4)
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("optimizer", "accumulate"), [(SGD, 8), (ADAM, 1), (ADAM, 8)], ids=["sgd8", "adam1", "adam8"]
)
def test_optimizers_and_accumulation(
    name: str, optimizer: bt.SGD | bt.Adam, accumulate: int
) -> None:
    check(package(name, optimizer=optimizer, accumulate=accumulate), seeds=1)


@pytest.mark.sample(test=1, ci=6)
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("strategy", ["full", "norm", "last"])
def test_batch_norm(name: str, norm: str, strategy: str) -> None:
    check(package(name, norm, strategy=strategy, optimizer=SGD), seeds=1)


@pytest.mark.sample(test=1, ci=5)
@pytest.mark.parametrize(
    "optimizer",
    [
        bt.SGD(momentum=0.0),
        bt.SGD(momentum=0.8, nesterov=True, weight_decay=0.01),
        bt.SGD(clip_norm=0.05),
        bt.Adam(weight_decay=0.01, decoupled=True, schedule="cosine"),
        bt.Adam(lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.01, clip_norm=0.1),
    ],
    ids=["plain", "nesterov", "clip", "adamw", "adam-clip"],
)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_other_optimizers(optimizer: bt.SGD | bt.Adam, accumulate: int) -> None:
    check(package("eegnet", optimizer=optimizer, accumulate=accumulate), seeds=1)


def test_both_numeric_modes_pass_and_differ() -> None:
    reports = [bt.verify(package("eegnet", fused=fused), seeds=1, steps=3) for fused in (0, 1)]
    assert all(r.ok for r in reports)
    assert reports[0].crc32 != reports[1].crc32


def test_a_glob_trains_what_it_names() -> None:
    pkg = package("mibminet", strategy="separable_*")
    assert {pkg.source.torch_names[n] for n in pkg.source.trained} == {
        "separable_depth.weight",
        "separable_point.weight",
    }
    check(pkg, seeds=1, steps=3)


def test_verify_notices_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is off by one part in ten thousand does not pass."""
    pkg = package("eegnet", optimizer=SGD)
    files = dict(pkg.files)
    join = "((total) += (leaf))"
    assert join in files["bt_kernel.h"]
    files["bt_kernel.h"] = files["bt_kernel.h"].replace(join, "((total) += (leaf) * 1.0001f)")
    monkeypatch.setitem(pkg.__dict__, "files", files)
    assert not bt.verify(pkg, seeds=1, steps=2).ok


class Symmetric(torch.nn.Module):
    """A factor before a norm: its gradient is what eps leaves of a sum that cancels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(3, 8, 5, padding=2, bias=False)
        self.factor = torch.nn.Parameter(torch.ones(1))
        self.norm = torch.nn.GroupNorm(1, 8)
        self.linear = torch.nn.Linear(8 * 64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.conv(x) * self.factor)
        y = self.linear(torch.nn.functional.elu(y).flatten(1))
        return y


def test_a_gradient_that_vanishes_by_symmetry_is_no_fault() -> None:
    """Float32 has no digit of it, in torch neither: random rounding says how large it may be."""
    torch.manual_seed(4)
    pkg = bt.compile(Symmetric().train(), torch.zeros(1, 3, 64), strategy="factor", accumulate=1)
    report = bt.verify(pkg, steps=3, seeds=1)
    (factor,) = [t for t in report.tensors if t.name == "factor.grad"]
    assert factor.max_rel_error > 4 * factor.torch_fp32_error  # this draw needs it
    assert factor.rounding_error > factor.torch_fp32_error
    assert report.ok


def test_a_gradient_that_is_zero_is_measured_against_those_that_are_not_trained() -> None:
    """A bias before an instance norm moves nothing, and it is all that trains."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv1d(3, 8, 5),
        torch.nn.GroupNorm(8, 8),
        torch.nn.ELU(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 60, 4),
    )
    pkg = bt.compile(net.train(), torch.zeros(1, 3, 64), strategy="0.bias", accumulate=1)
    report = bt.verify(pkg, steps=2, seeds=1)
    (bias,) = [t for t in report.tensors if t.name == "0.bias.grad"]
    assert bias.max_rel_error < 1e-5
    assert report.ok


def test_outputs_with_time() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv1d(3, 8, 5, padding=2), torch.nn.Tanh(), torch.nn.Conv1d(8, 2, 1)
    )
    pkg = bt.compile(net.train(), torch.zeros(1, 3, 64), loss="mse", accumulate=1)
    check(pkg, steps=3, seeds=1)


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (torch.nn.MaxPool1d(3, 1, 1), (1, 2, 2)),
        (torch.nn.MaxPool1d(5, 2, 2), (1, 2, 4)),
        (torch.nn.MaxPool1d(3, 2, dilation=2), (1, 2, 9)),
        (torch.nn.MaxPool2d((3, 4), (2, 1), (1, 2)), (1, 2, 2, 3)),
        (torch.nn.MaxPool2d(3, 2, 1, ceil_mode=True), (1, 2, 5, 6)),
    ],
    ids=["same", "strided", "dilated", "2d", "ceil"],
)
def test_ties_are_those_of_the_pool(pool: torch.nn.Module, shape: tuple[int, ...]) -> None:
    """Against the windows of torch: raising the second largest value of one moves its index."""
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad(), Kinks() as none:
        pool(x)
    assert none.count == 0
    _, index = torch.nn.functional.max_pool2d_with_indices(
        x if x.dim() == 4 else x.unsqueeze(2), *two_axes(pool), return_indices=True
    )
    top = int(index.flatten()[0])
    tied = x.clone()
    plane = tied.flatten(2)[0, 0]
    others = [i for i in range(len(plane)) if i != top]
    plane[others] = plane[top] - 1e-9  # next to the largest in each window that holds it
    holds = int((index[0, 0] == top).sum())
    with torch.no_grad(), Kinks() as some:
        pool(tied)
    assert some.count >= max(1, holds)


def two_axes(pool: torch.nn.Module) -> tuple[Any, ...]:
    """Arguments of a pool over two axes that does the same."""
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    if isinstance(pool, torch.nn.MaxPool1d):
        plain = (1, 1, 0, 1)
        return (*((p, s) for p, s in zip(plain, settings, strict=True)), pool.ceil_mode)
    return (*settings, pool.ceil_mode)


def test_padded_pools() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv1d(3, 8, 5),
        torch.nn.MaxPool1d(9, 2, 4),
        torch.nn.Conv1d(8, 8, 8),
        torch.nn.MaxPool1d(3, 1, 1),  # of one sample
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    )
    pkg = bt.compile(net.train(), torch.zeros(1, 3, 20), optimizer=SGD, accumulate=1)
    check(pkg, steps=2, seeds=1)
