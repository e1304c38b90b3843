# SPDX-License-Identifier: Apache-2.0
"""Wide networks drawn at random train as in torch, in every plan with one CRC, and compile quickly.

CI runs the same seeds each time; `make exhaustive` draws new ones, and a failure names its own:

    BIOTRAIN_SEED=<seed> BIOTRAIN_WIDE=1 pytest -m exhaustive tests/test_wide.py
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import pytest
import torch
from _plans import smallest_plan
from _wide import HEADS, POINTWISE, STEPS, Wide, draw
from test_networks import FLAGS, a_seed, beyond, verified
from torch.overrides import TorchFunctionMode

import biotrain as bt
from biotrain.ir.op import OPS
from biotrain.package import Package
from biotrain.run.host import HostDevice

WIDE = int(os.environ.get("BIOTRAIN_WIDE", "2000"))
CI = 60
MOST_SECONDS = 30.0
"""CPU time of one compilation."""


def compiled(net: torch.nn.Module, drawn: Wide, **options: Any) -> Package:
    before = time.process_time()
    pkg = bt.compile(
        net, drawn.example, loss=drawn.loss, strategy=drawn.strategy, accumulate=2,
        optimizer=bt.SGD(lr=0.01, momentum=0.9), **options,
    )  # fmt: skip
    taken = time.process_time() - before
    assert taken <= MOST_SECONDS, f"{taken:.0f} s to compile"
    return pkg


def trained(pkg: Package) -> int:
    """CRC-32 of the weights after two steps."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, *pkg.source.train.inputs[0].shape[1:]), np.float32)
    device = HostDevice(pkg, flags=FLAGS)
    if "label" in [v.name for v in pkg.source.train.inputs]:
        y: Any = np.arange(4) % 3
    else:
        ys = []
        for loss, logits in zip(pkg.source.loss.heads, pkg.source.heads.shapes, strict=True):
            size = (4, *loss.target(logits))
            numbers = rng.integers(0, 3, size) if loss.labels else rng.random(size, np.float32)
            ys.append(numbers)
        names = pkg.source.heads.names
        y = dict(zip(names, ys, strict=True)) if names else tuple(ys) if len(ys) > 1 else ys[0]
    device.train(x, y)
    return device.crc32()


def check(seed: int, plans: int = 3, force: str = "") -> str:
    """Everything that holds for a drawn network; `refused` where BioTrain says no in one line."""
    drawn = draw(seed, force)
    again = f"\nBIOTRAIN_SEED={seed} {force}\n{drawn.text}"
    print(again)
    try:
        net = bt.prepare(drawn.net, example_input=drawn.example).train()
        stored = compiled(net, drawn)
    except bt.BioTrainError as error:
        return f"refused: {error}"
    small = smallest_plan(lambda *, memory: compiled(net, drawn, memory=memory))
    low, high = small.plan.ram_bytes, stored.plan.ram_bytes
    made = [stored, small]
    if high > low and plans > 2:
        budget = int(low + drawn.share * (high - low))
        between = compiled(net, drawn, memory=budget)
        assert between.plan.ram_bytes <= budget, again
        made.append(between)
    # Plans that are the same file for file need no second build.
    crcs = {p.plan.ram_bytes: trained(p) for p in made}
    assert len(set(crcs.values())) == 1, f"{crcs}{again}"
    bad = beyond(report := verified(stored, seed))
    assert not bad, f"{bad}, {report.kinks} activations near a kink{again}"
    return "ok"


NOT_DRAWN = {
    "numpy_T": "`.T`, an attribute that no function mode sees; `t` is drawn",
}
"""Ops with torch functions that no drawn network calls, each with its reason."""
ALSO = {
    "log_covariance.default": ("biotrain::log_covariance",),
    "interpolate": ("upsample_nearest1d", "upsample_linear1d"),
    "invert": ("logical_not",),
}
"""What Python's functions call inside of torch."""


class Seen(TorchFunctionMode):
    """Writes down the names of the functions that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").strip("_")
        self.names |= dict.fromkeys((name, *ALSO.get(name, ())))
        return func(*args, **(kwargs or {}))


def test_every_op_is_drawn() -> None:
    """A new op that the generator does not know fails here: add it to a step, or say why not."""
    with Seen() as seen:
        for name in STEPS:
            for seed in range(60):
                drawn = draw(seed, name, steps=1)
                drawn.net(drawn.example)
        for function in POINTWISE.values():
            function(torch.randn(1, 2, 8))
    missing = [
        name
        for name, op in OPS.items()
        if op.captures and not any(f.strip("_") in seen.names for f in op.captures)
    ]
    assert sorted(missing) == sorted(NOT_DRAWN)


def test_every_head_is_drawn() -> None:
    texts = [draw(seed, steps=1).text.split("| ")[1].split()[0] for seed in range(200)]
    assert sorted(dict.fromkeys(texts)) == sorted(HEADS)


@pytest.mark.ci
@pytest.mark.parametrize("index", range(CI))
def test_the_same_wide_networks(index: int) -> None:
    said = check(index, plans=2)
    assert said == "ok", said


@pytest.mark.exhaustive
@pytest.mark.parametrize("index", range(WIDE))
def test_new_wide_networks(index: int) -> None:
    said = check(a_seed(index))
    assert said == "ok" or said.startswith("refused: "), said


def test_a_seed_makes_one_wide_network() -> None:
    one, two = draw(7), draw(7)
    assert one.text == two.text
    weights = one.net.state_dict(), two.net.state_dict()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
