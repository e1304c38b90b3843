# SPDX-License-Identifier: Apache-2.0
"""Fast FIR: rounding against float64 and PyTorch, equal bits in every layout, and its rewrite."""

from __future__ import annotations

import ctypes
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from _cc import compilers, fused_flags, has_fma, shared_library

import biotrain as bt
from biotrain.emit import kernel_sources
from biotrain.graph.autodiff import differentiate, with_loss
from biotrain.graph.capture import capture
from biotrain.graph.cost import node_macs, node_ops
from biotrain.graph.rewrite.fastconv import FAST, fastconv
from biotrain.ir.graph import Graph, Value, verify
from biotrain.ir.op import OPS, Builder
from biotrain.ops import SOURCES

ROWS, TIMES = 3, 1900
PASSES = ("forward", "input gradient", "weight gradient")

TEXT = """
#include "bt_kernel.h"
#include "bt_conv.h"
#include "bt_fir.h"
#define PASSES(name, struct_name, kind, ...)                                                      \\
  void name##_all(int rows, int t, int k, int p, int levels, const float *x, const float *w,      \\
                  const float *dy, float *y, float *dx, float *dw)                                \\
  {                                                                                               \\
    const struct_name g = __VA_ARGS__;                                                            \\
    (void)levels;                                                                                 \\
    bt_##kind##_forward(g, bt_all(rows, t), bt_read(x, t), w, NULL, bt_write(y, t));              \\
    bt_##kind##_input_gradient(g, bt_all(rows, t), bt_read(dy, t), w, bt_write(dx, t));           \\
    bt_##kind##_weight_gradient(g, bt_all(rows, t), bt_read(x, t), bt_read(dy, t), dw);           \\
  }                                                                                               \\
  void name##_all(int, int, int, int, int, const float *, const float *, const float *, float *,  \\
                  float *, float *)
PASSES(conv, bt_conv, conv, {rows, 1, t, rows, 1, t, rows, 1, k, 1, 1, 1, 1, 0, p});
PASSES(fir, bt_fir, fir, {1, 1, t, t, k, p, levels});
"""

Arrays = tuple[np.ndarray, ...]


_folder = tempfile.TemporaryDirectory(prefix="biotrain-fir-")


@cache
def library(compiler: str, flags: tuple[str, ...]) -> ctypes.CDLL:
    for stem in kernel_sources(["bt_conv.h", "bt_fir.h"]):
        Path(_folder.name, stem).write_text((SOURCES / stem).read_text())
    return shared_library(TEXT, (*flags, f"-I{_folder.name}", "-ffp-contract=off"), compiler)


def host(*flags: str) -> ctypes.CDLL:
    fused = fused_flags() if has_fma() else ()
    return library(compilers()[0], ("-O2", *fused, *flags))


def run(lib: ctypes.CDLL, kind: str, levels: int, x: np.ndarray, w: np.ndarray, dy: np.ndarray):
    """(y, dx, dw) of one depthwise convolution of rows, padded on both sides."""
    results = [np.zeros_like(a) for a in (x, x, w)]
    arrays = [a.ctypes.data_as(ctypes.c_void_p) for a in (x, w, dy, *results)]
    rows, times = x.shape
    taps = w.shape[1]
    getattr(lib, f"{kind}_all")(rows, times, taps, (taps - 1) // 2, levels, *arrays)
    return tuple(results)


def by_torch(x: np.ndarray, w: np.ndarray, dy: np.ndarray, dtype: torch.dtype) -> Arrays:
    taps = w.shape[1]
    tx, tw = (torch.tensor(a, dtype=dtype, requires_grad=True) for a in (x, w))
    sides = ((taps - 1) // 2, taps - 1 - (taps - 1) // 2)
    y = F.conv1d(F.pad(tx[None], sides), tw[:, None], groups=len(x))[0]
    y.backward(torch.tensor(dy, dtype=dtype))
    assert tx.grad is not None
    assert tw.grad is not None
    return tuple(t.detach().numpy() for t in (y, tx.grad, tw.grad))


def draw(taps: int, seed: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = ((ROWS, TIMES), (ROWS, taps), (ROWS, TIMES))
    x, w, dy = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    return x + np.float32(offset), w, dy


def errors(results: Arrays, exact: Arrays) -> list[float]:
    pairs = zip(results, exact, strict=True)
    return [float(np.abs(a - e).max() / np.abs(e).max()) for a, e in pairs]


@pytest.mark.sample(test=2)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("taps", [32, 101, 128])
@pytest.mark.parametrize("levels", [2, 3])
def test_rounding_is_within_four_times_that_of_torch(
    levels: int, taps: int, offset: float, record_property: pytest.RecordProperty
) -> None:
    worst = {name: np.zeros(3) for name in ("fir", "conv", "torch")}
    for seed in range(5):
        x, w, dy = draw(taps, seed, offset)
        exact = by_torch(x, w, dy, torch.float64)
        found = {
            "fir": run(host(), "fir", levels, x, w, dy),
            "conv": run(host(), "conv", levels, x, w, dy),
            "torch": by_torch(x, w, dy, torch.float32),
        }
        for name, results in found.items():
            worst[name] = np.maximum(worst[name], errors(results, exact))
    for i, what in enumerate(PASSES):
        line = {name: float(values[i]) for name, values in worst.items()}
        record_property(what, line)
        print(what, {k: f"{v:.1e}" for k, v in line.items()})
        bar = max(4 * line["torch"], 16 * float(np.finfo(np.float32).eps))
        assert line["fir"] <= bar, (what, line)
        assert line["fir"] <= 4 * line["torch"], (what, line)


@pytest.mark.sample(test=3, ci=8)
@pytest.mark.parametrize("taps", [5, 19, 32, 64, 100, 127, 128, 200])
@pytest.mark.parametrize("levels", [2, 3])
def test_every_layout_gives_the_same_bits(levels: int, taps: int) -> None:
    x, w, dy = draw(taps, taps)
    wide = run(host("-march=native"), "fir", levels, x, w, dy)
    for flags in ((), ("-DBT_FIR_LANES=1",), ("-DBT_FIR_LANES=4",)):
        other = run(host(*flags), "fir", levels, x, w, dy)
        for what, a, b in zip(PASSES, wide, other, strict=True):
            assert a.tobytes() == b.tobytes(), (what, flags)


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("compiler", compilers())
@pytest.mark.parametrize("lanes", ["", "-DBT_FIR_LANES=1"])
def test_compiles_clean_and_gives_the_same_bits_separately(compiler: str, lanes: str) -> None:
    flags = ("-O2", "-DBT_FUSED=0", *([lanes] if lanes else []))
    x, w, dy = draw(50, 7)
    one = run(library(compiler, flags), "fir", 3, x, w, dy)
    two = run(library(compilers()[0], ("-O1", "-DBT_FUSED=0")), "fir", 3, x, w, dy)
    assert [a.tobytes() for a in one] == [b.tobytes() for b in two]


def depthwise(taps: int, **changes: object) -> Graph:
    """A forward convolution and its two gradients."""
    rows, groups = 8, changes.pop("groups", 8)
    b = Builder("v")
    x = Value("x", (1, rows, 1000), kind="input")
    w = Value("w", (rows, rows // int(groups), taps), kind="input")  # type: ignore[call-overload]
    attrs = {
        "stride": (1, 1),
        "dilation": (1, 1),
        "padding": (0, 0, taps // 2, taps - taps // 2 - 1),
        "groups": groups,
        **changes,
    }
    y = b.one("conv", x, w, **attrs)
    dy = Value("dy", y.shape, kind="input")
    outs = (
        y,
        b.one("conv_dx", dy, w, x_shape=x.shape, **attrs),
        b.one("conv_dw", x, dy, w_shape=w.shape, **attrs),
    )
    return Graph(tuple(b.nodes), (x, w, dy), outs)


@pytest.mark.parametrize(("taps", "left"), [(64, 0.66), (128, 0.64)])
def test_rewrite_saves_operations(taps: int, left: float) -> None:
    plain = depthwise(taps)
    fast = fastconv(plain)
    verify(fast)
    assert [n.op for n in fast.nodes] == list(FAST.values())
    assert node_macs(fast.nodes) == node_macs(plain.nodes)
    for a, b in zip(fast.nodes, plain.nodes, strict=True):
        assert OPS[a.op].ops(a) <= left * OPS[b.op].ops(b)
    three = fastconv(plain, levels=(2, 3))
    assert node_ops(three.nodes) < node_ops(fast.nodes) < node_ops(plain.nodes)


@pytest.mark.parametrize(
    "changes", [{"groups": 1}, {"groups": 4}, {"stride": (1, 2)}, {"dilation": (1, 2)}]
)
def test_rewrite_leaves_other_convolutions_alone(changes: dict[str, object]) -> None:
    plain = depthwise(64, **changes)
    assert fastconv(plain) == plain


def test_rewrite_leaves_short_convolutions_alone() -> None:
    plain = depthwise(33)
    assert fastconv(plain) == plain


def test_rewrite_of_a_training_graph() -> None:
    torch.manual_seed(0)
    shape = bt.models.PAPER["mibminet"]
    net = bt.prepare(bt.models.build("mibminet", **{**shape, "norm": "group"}), pool="avg")
    net.train()
    captured = capture(net, torch.zeros(1, shape["n_chans"], shape["n_times"]))
    graph, loss = with_loss(captured.train, "cross_entropy")
    graph = differentiate(graph, loss, [v.name for v in captured.train.params])
    fast = fastconv(graph)
    verify(fast)
    made = [n.op for n in fast.nodes]
    assert [name for name in made if name in FAST.values()] == ["fir", "fir_dw", "fir_dx"]
    assert node_ops(fast.nodes) < 0.75 * node_ops(graph.nodes)


def test_more_levels_are_refused() -> None:
    node = depthwise(32).nodes[0]
    with pytest.raises(bt.BioTrainError, match="2 or 3 levels"):
        Builder("v").one("fir", *node.inputs, levels=4, **dict(node.attrs))
