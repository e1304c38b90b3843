# SPDX-License-Identifier: Apache-2.0
"""A day of an emulated nRF52840, in short: front end, store, learning in the gaps, power lost."""

import importlib.util
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from _thumb import need_emulator
from torch import nn

import biotrain as bt
from biotrain.frontend import read_front
from biotrain.frontend.live import Live
from biotrain.live import PacedDevice, Played
from biotrain.models import standardized
from biotrain.run.front_stream import windows_of
from biotrain.run.live_clock import ClockedDevice, FlashTime
from biotrain.run.live_device import LiveDevice
from biotrain.study.data.continuous import Part
from biotrain.study.data.synthetic_raw import STEP_UV, continuous

FRONT = read_front(
    {"bandpass": [20, 90], "notch": 50, "decimate": 1, "window": 100, "hop": 50, "unit": 0.5}
)


@pytest.fixture(scope="module")
def day() -> ModuleType:
    """benchmarks/day.py."""
    path = Path(__file__).parents[1] / "benchmarks" / "day.py"
    spec = importlib.util.spec_from_file_location("day", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["day"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(day: ModuleType) -> object:
    """A small network, and 13 s of one synthetic person."""
    need_emulator()
    rec = continuous("emg", subjects=1, sessions=1, trials=4)
    (part,) = rec.parts
    keep = part.end <= 2600
    spans = (part.begin[keep], part.end[keep], part.label[keep])
    rec = replace(rec, parts=(Part(1, 1, part.x[:, :2600], *spans),))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv1d(8, 6, 9, stride=4), nn.ReLU(), nn.AvgPool1d(4), nn.Flatten(), nn.Linear(30, 7)
        )
        net = standardized(net, np.zeros(8), np.full(8, 60.0))
    package = bt.compile(
        net,
        np.zeros((1, 8, 100), np.float32),
        target="nrf52840",
        optimizer=bt.SGD(lr=0.05, momentum=0.9, schedule="cosine"),
        accumulate=4,
        input_type="int16",
        input_scale=0.5,
        live=Live(
            front=rec.front(FRONT), converter_bits=24, ring=150, epochs=4, patience=0,
            held_back=0, store_pages=24, seed=3,
        ),
        title="a small network",
    )  # fmt: skip
    return day.Made(package, Played(rec, 1), rec.classes, 100, 50)


@pytest.mark.ci
def test_three_devices_end_with_the_same_weights(day: ModuleType, made) -> None:
    asked = day.Day("synthetic-emg", 1, calibrate=24)
    result, life = day.run(made, asked, after=2, step=900)
    assert result["ok"], result
    assert result["missed"] == 0
    assert len(result["crc32"]) == 3
    assert len(set(result["crc32"].values())) == 1
    assert result["factory_crc32"] not in result["crc32"].values()  # it has learned
    assert result["cut_crc32"] not in result["crc32"].values()  # and went on after the cut
    assert len(result["lives_s"]) == 2  # before the cut, and after it
    assert "power lost while flash was written" in [note.text for note in life.notes]
    counted = result["counters"]
    assert counted["lost"] == 0
    assert counted["windows"] == counted["predicted"]
    assert 0 < result["latest_ms"] < 250  # a hop
    assert result["deepest_ring"] <= 150


def test_a_ring_that_is_too_short_is_told(made) -> None:
    """Flash that takes longer than the ring can wait loses frames, and the device counts them."""
    slow = FlashTime(erase_ms=2000.0, word_us=41.0)
    device = ClockedDevice(made.package, fs=200.0, flash_time=slow)
    part = made.feed.parts[0]
    device.stream(part.x[:, :2400], part.labels()[:2400])
    assert device.counters["lost"] > 0
    assert device.deepest == 150


def test_the_device_sees_what_the_lab_sees(made) -> None:
    """The emulated firmware predicts what the host's C does, and torch from the lab's windows."""
    part = made.feed.parts[0]
    device = ClockedDevice(made.package, fs=200.0)
    events = device.stream(part.x[:, :1600], part.labels()[:1600])
    got = np.array([e.logits for e in events if e.name == "predicted"], np.float32)
    assert len(got) >= 29
    host = LiveDevice(made.package).play(part.x[:, :1600], part.labels()[:1600])
    want = np.array([e.logits for e in host if e.name == "predicted"], np.float32)
    np.testing.assert_array_equal(got, want[: len(got)])
    windows = windows_of(FRONT.front(200.0, 8, STEP_UV), part.x[:, :1600])[: len(got)]
    reference = deepcopy(made.package.module).eval().double()
    with torch.no_grad():
        exact = reference(torch.from_numpy(windows * 0.5)).numpy()
    assert np.abs(got - exact).max() <= 1e-5 * np.abs(exact).max()


def test_time_passes_while_it_works(made) -> None:
    device = ClockedDevice(made.package, fs=200.0)
    part = made.feed.parts[0]
    events = device.stream(part.x[:, :400], part.labels()[:400])
    assert device.t >= 399 / 200
    assert [e.event.window for e in events] == [0, 1, 2, 3, 4, 5, 6]
    assert all(0 < e.late_s < 0.05 for e in events)
    assert 1.0 < device.price() < 3.0
    assert device.busy_s < 0.5 * device.t
    host = PacedDevice(LiveDevice(made.package), 200.0)
    seen = host.play(part.x[:, :400], part.labels()[:400])
    assert [e.predicted for e in seen] == [e.predicted for e in events][: len(seen)]
