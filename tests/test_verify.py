# SPDX-License-Identifier: Apache-2.0
"""The models at their published shapes: ten steps of the generated C against torch."""

from __future__ import annotations

import pytest
import torch

import biotrain as bt
from biotrain.graph.strategy import STRATEGIES
from biotrain.package import Package

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
    return bt.compile(net, example, **options)


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
