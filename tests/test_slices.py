# SPDX-License-Identifier: Apache-2.0
"""A training sample, a step and a prediction in slices: the bits of the uninterrupted calls."""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import biotrain as bt
from biotrain.ondevice import Live
from biotrain.package import Package
from biotrain.run.host import HostDevice
from biotrain.run.status import status_number

MORE, BUSY = status_number("BT_MORE"), status_number("BT_ERR_BUSY")
FLAGS = ("-O1", "-march=native", "-fPIC", "-std=c99", "-ffp-contract=off", "-fno-math-errno")
SCALE = 0.01

CASES: dict[str, dict[str, Any]] = {
    "all stored": {"memory": None},
    "loops": {"memory": 0.0},
    "pieces of 3000 cycles": {"memory": 0.0, "slice": 3000},
    "pieces of 900 cycles": {"slice": 900, "optimizer": bt.SGD(clip_norm=0.1)},
    "adam": {"slice": 2000, "optimizer": bt.Adam(), "memory": 0.5},
    "in the momentum": {"gradients": "momentum", "memory": 0.3},
    "update at once": {"gradients": "update", "slice": 4000, "accumulate": 1},
    "half": {"store": "fp16", "slice": 5000},
    "last layer": {"strategy": "last"},
}


def net(name: str = "epidenet", norm: str = "group") -> torch.nn.Module:
    torch.manual_seed(3)
    made = bt.prepare(bt.models.build(name, 4, 160, 3, 100.0, norm=norm), norm=norm, pool="avg")
    made.train()
    return made


def package(case: str, live: bool, model: str = "epidenet") -> Package:
    options = dict(CASES[case])
    limit, share = options.pop("slice", 0), options.pop("memory", None)
    options = {"accumulate": 2, "target": "nrf52840", "fused": False} | options
    if share is not None:  # between the smallest and the largest arena
        points = made(model, options, limit, None, True).plan.points
        sizes = [p.ram_bytes for p in points]
        options["memory"] = round(min(sizes) + share * (max(sizes) - min(sizes)))
    return made(model, options, limit if live else None, options.get("memory"), False)


def made(
    model: str, options: dict[str, Any], limit: int | None, memory: int | None, frontier: bool
) -> Package:
    around = Live(hop=40, slice_cycles=limit) if limit is not None else None
    if around is None:
        memory = None
    return bt.compile(
        net(model),
        torch.zeros(1, 4, 160),
        input_type="int16",
        input_scale=SCALE,
        live=around,
        frontier=frontier,
        **{**options, "memory": memory},
    )


def windows(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.integers(-300, 300, (count, 4, 160)).astype(np.int16), rng.integers(0, 3, count)


class Sliced:
    """The calls in slices, on the host's build."""

    def __init__(self, pkg: Package) -> None:
        self.device = HostDevice(pkg, flags=FLAGS)
        self.c, self.m = self.device._c, self.device._m
        self.loss = ctypes.c_float(0.0)

    def more(self, call: Callable[[int], int], budgets: Iterator[int]) -> int:
        """Calls until it is done; returns the number of slices."""
        slices = 1
        while (status := call(next(budgets))) == MORE:
            slices += 1
        assert status == 0
        return slices

    def train(self, x: np.ndarray, y: int, budget: int) -> int:
        at = ctypes.c_void_p(x.ctypes.data)
        return int(self.c.bt_train_slice(self.m, at, int(y), ctypes.byref(self.loss), u32(budget)))

    def step(self, budget: int) -> int:
        return int(self.c.bt_step_slice(self.m, u32(budget)))

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.device.predict(x[None])[0]


def u32(value: int) -> ctypes.c_uint32:
    return ctypes.c_uint32(value)


def ones() -> Iterator[int]:
    while True:
        yield 1


def drawn(seed: int) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    while True:
        yield int(10 ** rng.uniform(0, 5.5))


@pytest.mark.parametrize("case", CASES)
def test_slices_have_the_bits_of_the_whole(case: str) -> None:
    pkg = package(case, True)
    plain = package(case, False).run("host", flags=FLAGS)
    size = pkg.source.accumulate
    x, y = windows(2 * size + 1)
    look, _ = windows(1)
    plain.train(x, y)
    answer = plain.predict(look)
    for budgets in (ones(), drawn(1), drawn(2)):
        sliced = Sliced(pkg)
        count = 0
        for i in range(len(x)):
            while (status := sliced.train(x[i], y[i], next(budgets))) == MORE:
                count += 1
                if count % 7 == 0:  # a prediction in between
                    sliced.predict(look[0])
            assert status == 0
            if (i + 1) % size == 0 or i == len(x) - 1:
                if pkg.source.gradients == "momentum" and i == len(x) - 1:
                    pass
                sliced.more(sliced.step, budgets)
            if pkg.source.gradients == "momentum" and i == len(x) - 2:
                sliced.device.group(1)
        assert sliced.device.crc32() == plain.crc32()
        np.testing.assert_array_equal(sliced.predict(look[0]), answer[0])
        assert count > 20


@pytest.mark.parametrize("model", ["mibminet", "eegnet"])
def test_other_networks(model: str) -> None:
    pkg = package("pieces of 3000 cycles", True, model)
    plain = package("pieces of 3000 cycles", False, model).run("host", flags=FLAGS)
    x, y = windows(4)
    plain.train(x, y)
    sliced = Sliced(pkg)
    for i in range(4):
        sliced.more(lambda b, i=i: sliced.train(x[i], y[i], b), ones())
        if i % 2:
            sliced.more(sliced.step, ones())
    assert sliced.device.crc32() == plain.crc32()
    whole = pkg.run("host", flags=FLAGS)  # the calls without an end
    whole.train(x, y)
    assert whole.crc32() == plain.crc32()
