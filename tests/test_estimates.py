# SPDX-License-Identifier: Apache-2.0
"""The plan's cycles, which are estimated without running anything, against counted ones; and what
the convolutions count of their own work against the multiply-adds that their shapes have."""

from __future__ import annotations

import numpy as np
import pytest
from _thumb import need_emulator

import biotrain as bt
from biotrain import models
from biotrain.graph.cost import node_work
from biotrain.graph.rewrite import DEFAULT
from biotrain.ir.graph import Node, Span, Value
from biotrain.ir.op import OPS
from biotrain.package import Package
from biotrain.run.emulator import EmulatorDevice
from biotrain.targets.target import load_target

CORES = ("cortex-m4f", "cortex-m7", "cv32e40p")
ACCURATE = 0.05
"""The error of the plan's cycles that the README promises."""
LESS_ACCURATE = {("eegnet", "stm32h7"): 0.08, ("eegnet", "cv32e40p"): 0.08}
"""EEGNet is not on the README's boards. Compilers schedule its loops of 64 taps over integers
better than those of the lengths that the fit saw."""

MACS = {"wide_taps": 8, "edge_eights": 64, "edge_taps": 8, "edge_parts": 1, "single_macs": 1}
PRODUCT_MACS = {"mix_steps": 16, "mix1_steps": 8, "mix2_steps": 16, "mix3_steps": 12, "dot_macs": 1}
LEAF_MACS = {"slid_leaves": 256, "dot_steps": 16, "dot_rest_macs": 1, "dot_leaves": 128}


def conv(op: str, x: tuple[int, ...], w: tuple[int, ...], padding: int, groups: int) -> Node:
    """A convolution along time, or one of its gradients; `padding` at both ends."""
    attrs = {
        "stride": (1, 1),
        "dilation": (1, 1),
        "padding": (0, 0, padding, padding),
        "groups": groups,
    }
    y = OPS["conv"].infer([x, w], attrs)[0]
    if op == "conv":
        ins, outs = (Value("x", x), Value("w", w)), Value("y", y)
    elif op == "conv_dx":
        ins, outs, attrs["x_shape"] = (Value("dy", y), Value("w", w)), Value("dx", x), x  # type: ignore[assignment]
    else:
        ins, outs, attrs["w_shape"] = (Value("x", x), Value("dy", y)), Value("dw", w), w  # type: ignore[assignment]
    return Node(op, ins, (outs,), tuple(sorted(attrs.items())))  # type: ignore[arg-type]


def whole(node: Node) -> Span:
    rows, times = OPS[node.op].call(node).box
    return Span(0, rows, 0, times)


@pytest.mark.parametrize("op", ["conv", "conv_dx"])
@pytest.mark.parametrize(
    ("x", "w", "padding", "groups"),
    [
        ((1, 4, 1, 64), (4, 1, 1, 9), 4, 4),
        ((1, 4, 1, 400), (4, 1, 1, 33), 16, 4),
        ((1, 3, 2, 80), (8, 3, 1, 17), 8, 1),
        ((1, 8, 48), (16, 8, 1), 0, 1),
        ((1, 8, 48), (12, 8, 1), 0, 1),
    ],
)
def test_convolutions_count_their_multiply_adds(
    op: str, x: tuple[int, ...], w: tuple[int, ...], padding: int, groups: int
) -> None:
    """Where results fill their tiles, the tiles have the multiply-adds of the shape, no more."""
    node = conv(op, x, w, padding, groups)
    work = OPS[op].work(node, whole(node), 8)
    counted = sum(n * work.get(kind, 0) for kind, n in (MACS | PRODUCT_MACS).items())
    assert counted == OPS[op].macs(node)


@pytest.mark.parametrize(
    ("x", "w"),
    [((1, 8, 128), (12, 8, 1)), ((1, 4, 1, 160), (4, 1, 1, 8)), ((1, 1, 256), (2, 1, 1))],
)
def test_weight_gradients_count_their_multiply_adds(x: tuple[int, ...], w: tuple[int, ...]) -> None:
    groups = 4 if w[1] == 1 and w[0] == 4 else 1
    node = conv("conv_dw", x, w, 0, groups)
    work = OPS["conv_dw"].work(node, whole(node), 8)
    kinds = MACS | LEAF_MACS
    assert sum(n * work.get(kind, 0) for kind, n in kinds.items()) == OPS["conv_dw"].macs(node)


def test_calls_count_together() -> None:
    """Boxes count once each: two halves do the work of the rows of the whole, and one more call."""
    node = conv("conv", (1, 4, 1, 400), (4, 1, 1, 33), 16, 4)
    one = node_work(node, [Span(0, 4, 0, 400)], 8)
    two = node_work(node, [Span(0, 2, 0, 400), Span(2, 4, 0, 400)], 8)
    assert two["calls"] == 2 * one["calls"]
    assert two["wide_taps"] == one["wide_taps"]
    tiles = node_work(node, [Span(0, 4, 0, 200), Span(0, 4, 200, 400)], 8)
    assert tiles["calls"] == 2


@pytest.mark.parametrize("core", CORES)
def test_kernels_have_cycles(core: str) -> None:
    """Every core of the README has cycles for the kinds of work of its kernels, none below zero."""
    target = load_target(core)
    assert {"conv", "conv_dx", "conv_dw", "row_moments"} <= {op for op, _ in target.kernel_cycles}
    for op, kinds in target.kernel_cycles:
        assert all(cycles >= 0 for _, cycles in kinds), op
    tap = dict(target.kinds("conv") or ())["wide_taps"] / target.wide_outputs
    assert 0.8 < tap < 3.0, "cycles of a multiply-add"


def package(network: str, board: str, memory: str | None, fast: bool) -> tuple[Package, np.ndarray]:
    shape = models.PAPER[network]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, shape["n_chans"], shape["n_times"])).astype(np.float32)
    pkg = bt.compile(
        bt.prepare(models.build(network, **shape, norm="group", pool="avg")),
        x,
        target=board,
        memory=memory,
        optimizer=bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3, schedule="cosine"),
        accumulate=8,
        gradients="momentum",
        input_type="int16",
        input_scale=0.001,
        rewrites=(*DEFAULT, "fastconv") if fast else DEFAULT,
    )
    return pkg, x


ci, full = pytest.mark.ci, pytest.mark.full


@pytest.mark.parametrize(
    ("network", "board", "memory", "fast"),
    [
        pytest.param("epidenet", "nrf52840", None, False, marks=ci),
        pytest.param("eegnet", "nrf52840", None, False, marks=full),
        *(
            pytest.param("mibminet", board, None, fast, marks=full)
            for board in ("nrf52840", "nrf5340", "stm32l4+", "stm32h7", "apollo4")
            for fast in (False, True)
        ),
        *(
            pytest.param(network, board, None, False, marks=full)
            for network in ("epidenet", "eegnet")
            for board in ("nrf5340", "stm32h7", "cv32e40p")
        ),
        pytest.param("mibminet", "cv32e40p", None, False, marks=full),
    ],
)
def test_plans_tell_their_cycles(network: str, board: str, memory: str | None, fast: bool) -> None:
    """The plan's cycles of a window and its share of a step are the counted ones within 5 %."""
    need_emulator()
    pkg, x = package(network, board, memory, fast)
    with EmulatorDevice(pkg) as device:
        device.restart_count()
        device.accumulate(x, np.ones(1, int))
        sample = device.cycles().total
        device.restart_count()
        device.step()
        counted = sample + device.cycles().total / pkg.source.accumulate
    most = LESS_ACCURATE.get((network, board), ACCURATE)
    assert pkg.plan.cycles == pytest.approx(counted, rel=most)
