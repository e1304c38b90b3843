# SPDX-License-Identifier: Apache-2.0
"""Convolutions by FFT: the transform against numpy, rounding against float64 and PyTorch, when the
rewrite picks them, and packages that train with them."""

from __future__ import annotations

import ctypes
import re
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from _cc import compilers, fused_flags, has_fma, shared_library
from test_fir import PASSES, Arrays, by_torch, depthwise, draw, errors
from torch import nn

import biotrain as bt
from biotrain.emit import kernel_sources
from biotrain.graph.cost import node_macs, node_ops
from biotrain.graph.rewrite import DEFAULT
from biotrain.graph.rewrite.fastconv import FFT, fastconv, fft
from biotrain.ir.graph import Span, flat_nodes, verify
from biotrain.ir.op import OPS, Builder
from biotrain.ops import SOURCES
from biotrain.ops.fft import SIZES, step
from biotrain.targets.target import load_target

TEXT = """
#include "bt_kernel.h"
#include "bt_fft.h"
void there(int values, int filled, const float *s, float *z);
void there(int values, int filled, const float *s, float *z)
{
  bt_fft_there(values, filled, s, z);
}
void back(int values, float *z);
void back(int values, float *z) { bt_fft_back(values, z); }
void fft_all(int rows, int t, int k, int p, int size, int step, const float *x, const float *w,
             const float *dy, float *y, float *dx, float *dw, float *workspace);
void fft_all(int rows, int t, int k, int p, int size, int step, const float *x, const float *w,
             const float *dy, float *y, float *dx, float *dw, float *workspace)
{
  const bt_fft g = {1, 1, t, t, k, p, size, step};
  bt_fft_forward(g, bt_all(rows, t), bt_read(x, t), w, NULL, workspace, bt_write(y, t));
  bt_fft_input_gradient(g, bt_all(rows, t), bt_read(dy, t), w, workspace, bt_write(dx, t));
  bt_fft_weight_gradient(g, bt_all(rows, t), bt_read(x, t), bt_read(dy, t), workspace, dw);
}
"""

_folder = tempfile.TemporaryDirectory(prefix="biotrain-fft-")


@cache
def library(compiler: str, flags: tuple[str, ...]) -> ctypes.CDLL:
    for stem in kernel_sources(["bt_fft.h"]):
        Path(_folder.name, stem).write_text((SOURCES / stem).read_text())
    return shared_library(TEXT, (*flags, f"-I{_folder.name}", "-ffp-contract=off"), compiler)


def host(*flags: str) -> ctypes.CDLL:
    fused = fused_flags() if has_fma() else ()
    return library(compilers()[0], ("-O2", *fused, *flags))


def at(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def run(lib: ctypes.CDLL, size: int, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> Arrays:
    """(y, dx, dw) of one depthwise convolution of rows, padded on both sides."""
    results = [np.zeros_like(a) for a in (x, x, w)]
    workspace = np.full(3 * size, np.nan, np.float32)
    (rows, times), taps = x.shape, w.shape[1]
    numbers = (rows, times, taps, (taps - 1) // 2, size, step(size, taps))
    lib.fft_all(*numbers, *map(at, (x, w, dy, *results, workspace)))
    return tuple(results)


def turned(place: int, values: int) -> int:
    """The frequency at a place: its digits, to the bases (values / 64, 8, 8), turned round."""
    last, middle, first = place % 8, place // 8 % 8, place // 64
    return first + values // 64 * (middle + 8 * last)


def table(name: str) -> np.ndarray:
    text = (SOURCES / "bt_fft_table.h").read_text()
    found = re.search(rf"{name}\[\d+\] = {{([^}}]*)}}", text)
    assert found
    numbers = [n.strip().removesuffix("f") for n in found[1].split(",") if n.strip()]
    return np.array([float.fromhex(n) for n in numbers]).view(np.complex128)


def test_the_tables_are_those_of_double_precision() -> None:
    factors = np.outer(np.arange(64), (1, 2, 3)) / 256
    eight = np.outer(np.arange(1, 8), np.arange(1, 8)) / 64
    pairs = [*range(1, 4), *range(8, 36), *range(64, 160)]
    places = np.array([-turned(p, 256) / 256 for p in pairs])
    tables = {"turns": factors, "turns_eight": eight, "places": places}
    for name, part in tables.items():
        exact = np.exp(-2j * np.pi * part).ravel()
        found = table(f"bt_fft_{name}")
        assert len(found) == len(exact)
        assert np.abs(found - exact).max() <= 2.0**-25
        assert (found == found.astype(np.complex64)).all()


@pytest.mark.parametrize("filled", [1, 3, 4])
@pytest.mark.parametrize("values", [n // 2 for n in SIZES])
def test_the_transform_is_that_of_numpy(values: int, filled: int) -> None:
    rng = np.random.default_rng(filled)
    s = rng.standard_normal(2 * values).astype(np.float32)
    z = np.zeros_like(s)
    host().there(values, filled, at(s), at(z))
    s[(filled if values == 256 else 4) * values // 2 :] = 0.0  # the others read everything
    exact = np.fft.fft(s[::2].astype(float) + 1j * s[1::2])
    order = [turned(p, values) for p in range(values)]
    assert np.abs(z[::2] + 1j * z[1::2] - exact[order]).max() <= 2e-7 * np.abs(exact).max()
    host().back(values, at(z))
    assert np.abs(z / values - s).max() <= 4e-7 * np.abs(s).max()


@pytest.mark.sample(test=2)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize(("taps", "size"), [(32, 128), (101, 256), (128, 512), (256, 512)])
def test_rounding_is_within_four_times_that_of_torch(
    taps: int, size: int, offset: float, record_property: pytest.RecordProperty
) -> None:
    worst = {name: np.zeros(3) for name in ("fft", "torch")}
    for seed in range(5):
        x, w, dy = draw(taps, seed, offset)
        exact = by_torch(x, w, dy, torch.float64)
        found = {
            "fft": run(host(), size, x, w, dy),
            "torch": by_torch(x, w, dy, torch.float32),
        }
        for name, results in found.items():
            worst[name] = np.maximum(worst[name], errors(results, exact))
    for i, what in enumerate(PASSES):
        line = {name: float(values[i]) for name, values in worst.items()}
        record_property(what, line)
        print(what, {k: f"{v:.1e}" for k, v in line.items()})
        bar = max(4 * line["torch"], 16 * float(np.finfo(np.float32).eps))
        assert line["fft"] <= bar, (what, line)


@pytest.mark.parametrize("compiler", compilers())
def test_compiles_clean_and_gives_the_same_bits(compiler: str) -> None:
    x, w, dy = draw(100, 7)
    one = run(library(compiler, ("-O3", "-DBT_FUSED=0")), 512, x, w, dy)
    two = run(library(compilers()[0], ("-O1", "-DBT_FUSED=0")), 512, x, w, dy)
    assert [a.tobytes() for a in one] == [b.tobytes() for b in two]


@pytest.mark.parametrize("target", ["cv32e40p", "cortex-m4f", "cortex-m7"])
def test_long_taps_are_transformed_where_the_target_says_so(target: str) -> None:
    price = load_target(target).price
    plain = depthwise(128)
    fast = fastconv(plain, price=price)
    verify(fast)
    assert [n.op for n in fast.nodes if n.op != "fft_workspace"] == list(FFT.values())
    assert node_macs(fast.nodes) == node_macs(plain.nodes)
    assert node_ops(fast.nodes) < 0.35 * node_ops(plain.nodes)
    assert fastconv(depthwise(17), price=price) == depthwise(17)


def test_without_prices_nothing_is_transformed_unless_asked_for() -> None:
    plain = depthwise(128)
    assert not any(n.op in FFT.values() for n in fastconv(plain).nodes)
    assert [n.op for n in fft(plain).nodes if n.op != "fft_workspace"] == list(FFT.values())
    assert fft(depthwise(3)) == depthwise(3)
    for changes in ({"groups": 1}, {"stride": (1, 2)}, {"dilation": (1, 2)}):
        assert fft(depthwise(64, **changes)) == depthwise(64, **changes)


def test_what_a_part_costs_is_counted_in_whole_blocks() -> None:
    node = next(n for n in fft(depthwise(128)).nodes if n.op == "fft")
    rule = OPS["fft"]
    rows, times = rule.call(node).box
    block = step(512, 128)
    one = rule.shared_ops(node, Span(0, 1, 0, block)) - block
    assert rule.shared_ops(node, Span(0, 1, 10, 11)) - 1 == one
    assert rule.shared_ops(node, Span(0, 1, block - 1, block + 1)) - 2 > 1.6 * one
    assert rule.ops(node) == rule.shared_ops(node, Span(0, rows, 0, times))


def test_too_many_taps_are_refused() -> None:
    node = next(n for n in fft(depthwise(64)).nodes if n.op == "fft")
    attrs = {**dict(node.attrs), "size": 1024}
    with pytest.raises(bt.BioTrainError, match="1024 samples is not possible"):
        Builder("v").one("fft", *node.inputs, **attrs)


class Net(nn.Module):
    """A long depthwise convolution between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(3, 4, 1, bias=False)
        self.long = nn.Conv1d(4, 8, 64, groups=4, padding="same")
        self.norm: nn.Module = nn.GroupNorm(2, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.norm(self.long(self.mix(x))).relu().mean(-1))
        return y


def package(norm: nn.Module | None = None, **options: object) -> bt.Package:
    torch.manual_seed(0)
    net, names = Net(), (*DEFAULT, "fft")
    net.norm = norm or net.norm
    return bt.compile(net, torch.zeros(1, 3, 500), rewrites=names, **{"accumulate": 1, **options})  # type: ignore[arg-type]


def test_a_network_trains_and_every_plan_has_its_bits() -> None:
    full = package(frontier=True)
    assert {n.op for n in flat_nodes(full.graph.nodes)} >= set(FFT.values())
    least = min(p.ram_bytes for p in full.plan.frontier)
    small = package(memory=least)
    assert small.plan.ram_bytes < full.plan.ram_bytes
    report = bt.verify(full, steps=10)
    assert report.ok
    assert bt.verify(small, steps=10).crc32 == report.crc32


def test_the_workspace_goes_with_the_op_that_works_in_it() -> None:
    """It is no feature of the frozen layers, and no window of a batch has one of its own."""
    last = package(strategy="last*")
    assert last.plan.feature_bytes == 4 * 8
    batch = package(nn.BatchNorm1d(8), batch=4)
    assert "fft_workspace" in {n.op for n in flat_nodes(batch.graph.nodes)}
    assert not any("workspace" in line for line in batch.plan.choices)
