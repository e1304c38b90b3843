# SPDX-License-Identifier: Apache-2.0
"""A training sample, a step and a prediction in slices: the bits of the uninterrupted calls."""

import ctypes
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import biotrain as bt
from biotrain.frontend.live import Live
from biotrain.ir.graph import Loop
from biotrain.package import Package
from biotrain.run.host import OPTIMISED, HostDevice
from biotrain.run.status import status_number

MORE, BUSY = status_number("BT_MORE"), status_number("BT_ERR_BUSY")
FLAGS = (*OPTIMISED, "-O0", "-Dalways_inline=unused")
SCALE = 0.01

CASES: dict[str, dict[str, Any]] = {
    "loops": {"share": 0.75},
    "iterations in parts": {"share": 0.75, "slice": 700},
    "blocks of rows and times": {"slice": 400, "optimizer": bt.SGD(clip_norm=0.1)},
    "adam": {"slice": 2000, "optimizer": bt.Adam(), "share": 0.8},
    "in the momentum": {"gradients": "momentum", "slice": 1000},
    "update at once": {"gradients": "update", "slice": 1000, "accumulate": 1},
    "half": {"store": "fp16", "slice": 1500},
}


class Two(torch.nn.Module):
    """Two convolutions, so that there is something to stream."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv1d(2, 6, 5, padding=2, bias=False)
        self.norm1 = torch.nn.GroupNorm(1, 6)
        self.pool1 = torch.nn.AvgPool1d(4)
        self.second = torch.nn.Conv1d(6, 8, 3, padding=1)
        self.norm2 = torch.nn.GroupNorm(2, 8)
        self.pool2 = torch.nn.AvgPool1d(4)
        self.classifier = torch.nn.Linear(8 * 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool1(torch.relu(self.norm1(self.first(x))))
        x = self.pool2(torch.relu(self.norm2(self.second(x))))
        return self.classifier(x.flatten(1))


def compiled(options: dict[str, Any], live: Live | None) -> Package:
    torch.manual_seed(3)
    net = Two()
    net.train()
    example = torch.zeros(1, 2, 128)
    given = {"accumulate": 2, "target": "nrf52840", "fused": False} | options
    return bt.compile(
        net, example, input_type="int16", input_scale=SCALE, live=live, **{"accumulate": 1, **given}
    )


def packages(case: str) -> tuple[Package, Package]:
    """With slices and without."""
    options = dict(CASES[case])
    live = Live(hop=40, slice_cycles=options.pop("slice", 0), epochs=10)
    share = options.pop("share", None)
    plain = compiled(options, None)
    pkg = compiled(options, live)
    if share is not None:
        options["memory"] = round(share * (pkg.plan.ram_bytes - pkg.plan.stack_bytes)) + 4096
        pkg = compiled(options, live)
        assert any(isinstance(n, Loop) and n.count > 1 for n in pkg.graph.nodes)
    return pkg, plain


def windows(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.integers(-300, 300, (count, 2, 128)).astype(np.int16), rng.integers(0, 3, count)


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

    def predict_in_slices(self, x: np.ndarray, budgets: Iterator[int]) -> np.ndarray:
        logits = np.zeros(3, np.float32)
        into = ctypes.c_void_p(logits.ctypes.data)
        at = ctypes.c_void_p(x.ctypes.data)
        self.more(lambda b: int(self.c.bt_predict_slice(self.m, at, into, u32(b))), budgets)
        return logits

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


@pytest.mark.sample(test=2, ci=5)
@pytest.mark.parametrize("case", CASES)
def test_slices_have_the_bits_of_the_whole(case: str) -> None:
    pkg, package = packages(case)
    plain = package.run("host", flags=FLAGS)
    size = pkg.source.accumulate
    x, y = windows(2 * size + 1)
    look = windows(1)[0]
    plain.train(x, y)
    answer = plain.predict(look)[0]
    for budgets in (ones(), drawn(1), drawn(2)):
        sliced = Sliced(pkg)
        count = 0
        for i in range(len(x)):
            if pkg.source.gradients == "momentum" and i == len(x) - 1:
                sliced.device.group(1)
            while (status := sliced.train(x[i], y[i], next(budgets))) == MORE:
                count += 1
                if count % 7 == 0:  # a prediction in between
                    sliced.predict(look[0])
            assert status == 0
            if (i + 1) % size == 0 or i == len(x) - 1:
                sliced.more(sliced.step, budgets)
        assert sliced.device.crc32() == plain.crc32()
        np.testing.assert_array_equal(sliced.predict(look[0]), answer)
        np.testing.assert_array_equal(sliced.predict_in_slices(look[0], budgets), answer)
        assert count > 20
    whole = pkg.run("host", flags=FLAGS)  # the calls without an end
    whole.train(x, y)
    assert whole.crc32() == plain.crc32()


@pytest.mark.ci
@pytest.mark.parametrize("name", ["mibminet", "epidenet", "eegnet"])
def test_networks(name: str) -> None:
    torch.manual_seed(3)
    net = bt.prepare(bt.models.build(name, 4, 160, 3, 100.0, norm="group"), pool="avg")
    net.train()
    options: dict[str, Any] = {"target": "nrf52840", "fused": False, "accumulate": 2}
    options |= {"input_type": "int16", "input_scale": SCALE}
    example = torch.zeros(1, 4, 160)
    plain = bt.compile(net, example, **{"accumulate": 1, **options}).run("host", flags=FLAGS)
    pkg = bt.compile(
        net,
        example,
        **{"accumulate": 1, **options},
        live=Live(hop=40, slice_cycles=3000, epochs=10),
    )
    rng = np.random.default_rng(7)
    x, y = rng.integers(-300, 300, (4, 4, 160)).astype(np.int16), rng.integers(0, 3, 4)
    plain.train(x, y)
    sliced = Sliced(pkg)
    for i in range(4):
        sliced.more(lambda b, i=i: sliced.train(x[i], y[i], b), ones())
        if i % 2:
            sliced.more(sliced.step, ones())
    assert sliced.device.crc32() == plain.crc32()


def test_a_window_lies_where_it_is_said_to_lie() -> None:
    """Live firmware writes it there, without a copy."""
    pkg = compiled({}, Live(hop=40, epochs=10))
    sliced, window = Sliced(pkg), windows(1)[0]
    sliced.c.bt_predict_window.restype = ctypes.c_void_p
    logits = np.zeros(3, np.float32)
    at = [ctypes.c_void_p(a.ctypes.data) for a in (window, logits)]
    assert sliced.c.bt_predict_slice(sliced.m, *at, u32(1)) == MORE
    there = sliced.c.bt_predict_window(sliced.m)
    assert ctypes.string_at(there, window.nbytes) == window.tobytes()
    (buffer,) = [
        b for b in pkg.plan.predict_buffers if pkg.source.predict.inputs[0].name in b.members
    ]
    inside = there - sliced.m.value - pkg.context.offset("predict_arena", 8)
    assert inside == buffer.offset


def test_what_would_disturb_a_slice_is_refused() -> None:
    sliced = Sliced(packages("loops")[0])
    device, (x, y) = sliced.device, windows(1)
    before = device.crc32()
    assert sliced.train(x[0], y[0], 1) == MORE
    at = ctypes.c_void_p(x.ctypes.data)
    loss = ctypes.byref(sliced.loss)
    assert sliced.c.bt_train_sample(sliced.m, at, 0, loss) == BUSY
    assert sliced.c.bt_step(sliced.m) == BUSY
    assert sliced.step(1) == BUSY
    with pytest.raises(bt.BioTrainError, match="in slices is not finished"):
        device.save_state()
    device.begin()  # forgets it
    state = device.save_state()
    device.load_state(state)
    assert device.crc32() == before
    assert sliced.train(x[0], 7, 1) == status_number("BT_ERR_LABEL")
    sliced.more(lambda b: sliced.train(x[0], y[0], b), ones())
    assert sliced.step(1) == MORE
    assert sliced.train(x[0], y[0], 1) == BUSY
    sliced.more(sliced.step, ones())
    assert device.crc32() != before


def test_no_piece_is_longer_than_asked_or_it_is_named() -> None:
    longest = {}
    for limit in (0, 5000, 800):
        pkg = compiled({}, Live(hop=40, slice_cycles=limit, epochs=10))
        plan = pkg.plan
        asked = [int(n) for n in re.findall(r"bt_goes\(s, (\d+)u\)", pkg.files["model.c"])]
        assert max(asked) == plan.longest_slice_cycles
        longest[limit] = plan.longest_slice_cycles
        values = {v.name for n in pkg.graph.nodes for v in n.outputs}
        named = plan.longest_slice in values  # a leaf of a sum, which has no border inside
        assert not limit or plan.longest_slice_cycles <= limit or (limit == 800 and named)
        define = f"#define BT_LIVE_LONGEST {plan.longest_slice_cycles}u"
        assert define in pkg.files["live.h"]
    assert longest[0] > longest[5000] > longest[800]


def test_a_slice_spends_what_it_may() -> None:
    """Pieces of a call add up to the cycles given, or there is one."""
    sliced = Sliced(packages("blocks of rows and times")[0])
    x, y = windows(1)
    few = sliced.more(lambda b: sliced.train(x[0], y[0], b), iter([1 << 30]))
    assert few == 1
    counts = [
        sliced.more(lambda b: sliced.train(x[0], y[0], b), constant(budget))
        for budget in (1, 3000, 30000)
    ]
    assert counts[0] > 4 * counts[1] > 16 * counts[2] / 2


def constant(value: int) -> Iterator[int]:
    while True:
        yield value


@pytest.mark.parametrize(("count", "blocks"), [(1, 1), (64, 1), (65, 2), (128, 2), (129, 3)])
def test_a_flat_array_takes_as_few_blocks_as_it_can(count: int, blocks: int) -> None:
    from biotrain.emit.slices import Slices

    slices = Slices(None, None, 0, None)  # type: ignore[arg-type]
    text = "\n".join(slices.flat_blocks(["f(at, n);"], count, 64, 100))
    assert f"s->block < {blocks};" in text
    assert f"bt_min(64, {count} - at)" in text


def test_a_flat_array_is_never_cut_along_rows() -> None:
    """Rows of a weight are not elements: a block of them would be a wrong range of the array."""
    from biotrain.ir.graph import Span
    from biotrain.ir.op import OPS
    from biotrain.planner.slices import blocks_of, flat

    pkg = compiled({}, Live(hop=40, epochs=10))
    updates = [n for n in pkg.graph.updates if not OPS[n.op].alias and flat(n)]
    weights = [n for n in updates if n.outputs[0].shape[0] > 1]
    assert weights
    for node in weights:
        rows = node.outputs[0].shape[0]
        blocks = blocks_of(node, [Span(0, rows, 0, node.outputs[0].size // rows)], 1, pkg.target)
        assert (blocks.rows, blocks.count) == (rows, blocks.across)
