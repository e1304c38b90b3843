# SPDX-License-Identifier: Apache-2.0
"""Algebraic rewrites: where they match, what they save, and that no accuracy is lost."""

from __future__ import annotations

import copy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from _cc import fused_flags, has_instructions, write_kernels
from _ops import VARIANTS, Case, run
from torch import nn

import biotrain as bt
from biotrain.graph.autodiff import differentiate, with_loss
from biotrain.graph.capture import capture
from biotrain.graph.cost import node_ops
from biotrain.graph.rewrite import (
    FORWARD,
    GRADIENT,
    NAMES,
    REWRITES,
    rewrite_forward,
    rewrite_training,
)
from biotrain.ir.graph import Graph, Value
from biotrain.ir.op import Sample
from biotrain.package import compile_model
from biotrain.run.compiler import NUMERICS, find_compiler

EPS = float(np.finfo(np.float32).eps)
ALGEBRAIC = (*FORWARD, *GRADIENT)
CHANNELS, TIMES, CLASSES = 4, 299, 3


class Images(nn.Module):
    """[batch, channels, times] -> [batch, 1, channels, times]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(1)


def spatial(bias: bool = False, groups: int = 1, pool: int = 8) -> nn.Sequential:
    """Spatial, then temporal conv, each under a norm."""
    return nn.Sequential(
        Images(),
        nn.Conv2d(1, 12, (CHANNELS, 1), bias=bias),
        nn.GroupNorm(groups, 12, eps=1e-3),
        nn.Conv2d(12, 12, (1, 16), groups=12, padding="same", bias=False),
        nn.GroupNorm(groups, 12, eps=1e-3),
        nn.ReLU(),
        nn.AvgPool2d((1, pool)),
        nn.Flatten(),
        nn.Linear(12 * (TIMES // pool), CLASSES),
    )


def pointwise(norm: nn.Module, bias: bool = True) -> nn.Sequential:
    """Mixed channels, norm, ReLU and pooling."""
    return nn.Sequential(
        nn.Conv1d(CHANNELS, 16, 1, bias=bias),
        norm,
        nn.ReLU(),
        nn.AvgPool1d(5),
        nn.Flatten(),
        nn.Linear(16 * (TIMES // 5), CLASSES),
    )


def rows() -> nn.Sequential:
    """Windows of several rows, with samples and rows that are in none."""
    return nn.Sequential(
        Images(),
        nn.Conv2d(1, 4, (1, 5)),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.AvgPool2d((3, 70)),
        nn.Flatten(),
        nn.Linear(4 * (CHANNELS // 3) * ((TIMES - 4) // 70), CLASSES),
    )


def bare() -> nn.Sequential:
    """Norms without weight or bias."""
    return nn.Sequential(
        nn.Conv1d(CHANNELS, 16, 1),
        nn.GroupNorm(4, 16, affine=False),
        nn.Conv1d(16, 8, 3, bias=False),
        nn.InstanceNorm1d(8),
        nn.ReLU(),
        nn.AvgPool1d(130),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


NETWORKS = {
    "spatial": lambda: spatial(),
    "spatial_bias": lambda: spatial(bias=True, groups=3),
    "spatial_rows": lambda: spatial(groups=12),
    "pointwise_group": lambda: pointwise(nn.GroupNorm(1, 16)),
    "pointwise_instance": lambda: pointwise(nn.InstanceNorm1d(16, affine=True), bias=False),
    "rows": rows,
    "bare": bare,
}
"""`spatial*`: all three rewrites; `pointwise*`: the gradient in one pass under pooled sums."""

MADE = {
    "spatial": ("pair_sums", "mix_moments", "norm_relu_pool", "mix_sums", "mix_dw"),
    "spatial_bias": ("pair_sums", "mix_moments", "norm_relu_pool", "mix_sums", "mix_dw", "mix_db"),
    "pointwise_group": ("mix_moments", "norm_relu_pool", "norm_relu_unpool", "mix_dw", "mix_db"),
    "rows": ("norm_relu_pool", "norm_relu_pool_dx"),
    "bare": ("mix_moments", "mix_sums", "mix_dw", "mix_db", "norm_relu_pool_dx"),
}


def network(name: str, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = NETWORKS[name]()
    for module in net:
        if isinstance(module, (nn.GroupNorm, nn.InstanceNorm1d)) and module.affine:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, 0.3)
    return net


def windows(seed: int, offset: float = 0.0, common: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """One window and its label: noise and drift, and what all channels have in common."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, CHANNELS, TIMES))
    x += 0.05 * np.cumsum(rng.standard_normal(x.shape), -1)
    x += common * rng.standard_normal((1, 1, TIMES)) + offset * rng.standard_normal((CHANNELS, 1))
    return x.astype(np.float32), rng.integers(0, CLASSES, 1)


def gradients(
    net: nn.Module, x: np.ndarray, y: np.ndarray, dtype: torch.dtype
) -> dict[str, np.ndarray]:
    net = copy.deepcopy(net).to(dtype)
    nn.functional.cross_entropy(net(torch.tensor(x).to(dtype)), torch.tensor(y)).backward()
    return {k: p.grad.double().numpy() for k, p in net.named_parameters()}


def errors(have: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> dict[str, float]:
    """Relative to the largest value; where that is rounding, to the largest of all gradients."""
    largest = max(float(np.abs(w).max()) for w in want.values())
    scales = {k: float(np.abs(w).max()) for k, w in want.items()}
    return {
        k: float(np.abs(have[k] - w).max()) / (scales[k] if scales[k] > 1e-9 * largest else largest)
        for k, w in want.items()
    }


def near_kink(net: nn.Sequential, x: np.ndarray) -> bool:
    """Whether a ReLU is asked within rounding of zero: the other side has another gradient."""
    net = copy.deepcopy(net).double()
    z = torch.tensor(x).double()
    for module in net:
        if isinstance(module, nn.ReLU) and (z.abs() < 16 * EPS * z.abs().max()).any():
            return True
        z = module(z)
    return False


def check(net: nn.Sequential, rewrites: tuple[str, ...], draws: int = 5, **kind: float) -> None:
    """Gradients of several windows within four times the float32 error of torch (design 3).

    A gradient that cancels may come close to that bar without any rewrite: twice the error of the
    C that none has touched is allowed too.
    """
    example = windows(0)[0]
    device = compile_model(net, example, rewrites=rewrites, accumulate=1).run("host")
    plain = compile_model(net, example, rewrites=(), accumulate=1).run("host")
    have: dict[str, float] = {}
    bar: dict[str, float] = {}
    given = (windows(seed, **kind) for seed in range(100))
    clear = [w for w in given if not near_kink(net, w[0])][:draws]
    for x, y in clear:
        want = gradients(net, x, y, torch.float64)
        single = errors(gradients(net, x, y, torch.float32), want)
        for d in (device, plain):
            d.reset()
            d.accumulate(x, y)
        untouched = errors(plain.gradients(), want)
        for name, error in errors(device.gradients(), want).items():
            have[name] = max(have.get(name, 0.0), error)
            bar[name] = max(bar.get(name, 16 * EPS), 4 * single[name], 2 * untouched[name])
    assert len(clear) == draws
    for name, error in have.items():
        assert error <= bar[name], f"{name}: {error:.2e} > {bar[name]:.2e}"


def training_graph(net: nn.Module, rewrites: tuple[str, ...]) -> Graph:
    """The differentiated graph after the named rewrites."""
    captured = capture(net, torch.zeros(1, CHANNELS, TIMES))
    trained = [v.name for v in captured.train.params]
    graph, loss = with_loss(rewrite_forward(captured.train, rewrites, trained), "cross_entropy")
    return rewrite_training(differentiate(graph, loss, trained), rewrites)


def names(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


# ---- where they match


@pytest.mark.parametrize("name", MADE)
def test_patterns_are_found_and_save_operations(name: str) -> None:
    net = network(name)
    plain = training_graph(net, tuple(REWRITES))
    graph = training_graph(net, NAMES)
    assert [op for op in MADE[name] if op not in names(graph)] == []
    cost = node_ops(plain.nodes)
    assert node_ops(graph.nodes) < cost
    for switch in ALGEBRAIC:
        assert node_ops(training_graph(net, (switch, *REWRITES)).nodes) <= cost


class Twice(nn.Module):
    """The normalised value, or what the ReLU makes of it, is read twice."""

    def __init__(self, after: bool) -> None:
        super().__init__()
        self.after = after
        self.conv = nn.Conv1d(CHANNELS, 16, 3)
        self.norm = nn.GroupNorm(1, 16)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        z = torch.relu(y)
        pooled = nn.functional.avg_pool1d(z, 200)
        mean = (z if self.after else y).mean(-1)
        return self.head(torch.cat([pooled[..., 0], mean], 1))


def pooled(norm: nn.Module, pool: nn.Module, act: nn.Module | None = None) -> nn.Sequential:
    layers = (nn.Conv1d(CHANNELS, 16, 3), norm, act or nn.ReLU(), pool, nn.Flatten())
    features = nn.Sequential(*layers)(torch.zeros(1, CHANNELS, TIMES)).shape[1]
    return nn.Sequential(*layers, nn.Linear(features, CLASSES))


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(lambda: Twice(False), id="norm_read_twice"),
        pytest.param(lambda: Twice(True), id="relu_read_twice"),
        pytest.param(lambda: pooled(nn.GroupNorm(1, 16), nn.AvgPool1d(4, padding=2)), id="padding"),
        pytest.param(lambda: pooled(nn.GroupNorm(1, 16), nn.AvgPool1d(4, 2)), id="overlap"),
        pytest.param(lambda: pooled(nn.GroupNorm(1, 16), nn.AvgPool1d(2, 4)), id="gaps"),
        pytest.param(lambda: pooled(nn.GroupNorm(1, 16), nn.AvgPool1d(256)), id="more_than_u8"),
        pytest.param(lambda: pooled(nn.GroupNorm(1, 16), nn.AdaptiveAvgPool1d(7)), id="uneven"),
        pytest.param(lambda: pooled(nn.GroupNorm(1, 16), nn.MaxPool1d(4)), id="max"),
        pytest.param(lambda: pooled(nn.GroupNorm(1, 16), nn.AvgPool1d(4), nn.ELU()), id="elu"),
        pytest.param(lambda: pooled(nn.BatchNorm1d(16).eval(), nn.AvgPool1d(4)), id="frozen"),
        pytest.param(lambda: pooled(nn.LayerNorm(TIMES - 2), nn.AvgPool1d(4)), id="each"),
    ],
)
def test_pooled_sums_leave_other_patterns_alone(net: object) -> None:
    assert names(training_graph(net(), ("pooled_sums",))) == names(training_graph(net(), ()))


def test_pooled_sums_need_a_gradient() -> None:
    captured = capture(network("rows"), torch.zeros(1, CHANNELS, TIMES))
    assert rewrite_forward(captured.train, ("pooled_sums",), ["v6_weight"]) == captured.train
    assert rewrite_forward(captured.train, ("pooled_sums",)) == captured.train


def mixed(conv: nn.Module, channels: int = 16) -> nn.Sequential:
    layers = (conv, nn.GroupNorm(1, channels), nn.ELU(), nn.Flatten())
    x = torch.zeros(1, CHANNELS, TIMES)
    features = nn.Sequential(*layers)(x if isinstance(conv, nn.Conv1d) else x[:, None]).shape[1]
    images = () if isinstance(conv, nn.Conv1d) else (Images(),)
    return nn.Sequential(*images, *layers, nn.Linear(features, CLASSES))


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(lambda: mixed(nn.Conv1d(CHANNELS, 16, 3)), id="taps"),
        pytest.param(lambda: mixed(nn.Conv1d(CHANNELS, 16, 1, stride=2)), id="stride"),
        pytest.param(lambda: mixed(nn.Conv1d(CHANNELS, 16, 1, padding=1)), id="padding"),
        pytest.param(lambda: mixed(nn.Conv1d(CHANNELS, 16, 1, groups=2)), id="groups"),
        pytest.param(lambda: mixed(nn.Conv2d(1, 16, (3, 1))), id="rows"),
        pytest.param(lambda: mixed(nn.Conv1d(CHANNELS, 2, 1), 2), id="dearer"),
        pytest.param(
            lambda: nn.Sequential(
                nn.Conv1d(CHANNELS, 16, 1), nn.BatchNorm1d(16).eval(), mixed_end()
            ),
            id="frozen",
        ),
    ],
)
def test_moments_and_one_pass_leave_other_patterns_alone(net: object) -> None:
    graph = training_graph(net(), ("moments", "one_pass"))
    assert names(graph) == names(training_graph(net(), ()))


def mixed_end() -> nn.Sequential:
    return nn.Sequential(nn.ELU(), nn.Flatten(), nn.Linear(16 * TIMES, CLASSES))


def test_one_pass_leaves_a_conv_alone_whose_input_needs_a_gradient() -> None:
    net = nn.Sequential(nn.Conv1d(CHANNELS, 4, 3), nn.ELU(), *mixed(nn.Conv1d(4, 16, 1)))
    net[-1] = nn.Linear(16 * (TIMES - 2), CLASSES)
    assert "centred_dw" not in names(training_graph(net, ("one_pass",)))
    assert "mix_moments" in names(training_graph(net, ("moments",)))


def test_predictions_use_moments_too() -> None:
    x = windows(0)[0]
    net = network("spatial")
    made = names(rewrite_forward(capture(net, torch.tensor(x)).predict, NAMES))
    assert "mix_moments" in made
    assert "norm_relu_pool" not in made
    want = copy.deepcopy(net).double()(torch.tensor(x).double()).detach().numpy()
    assert (
        np.abs(compile_model(net, x, accumulate=1).run("host").predict(x) - want).max()
        <= 32 * EPS * np.abs(want).max()
    )


# ---- accuracy


@pytest.mark.sample(test=3, ci=12)
@pytest.mark.parametrize("rewrites", [*((r,) for r in ALGEBRAIC), NAMES], ids=lambda r: r[-1])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_equal_torch(name: str, rewrites: tuple[str, ...]) -> None:
    check(network(name), rewrites)


@pytest.mark.parametrize("name", ["spatial", "spatial_bias", "spatial_rows", "pointwise_instance"])
def test_offsets_of_1000_deviations_cost_nothing(name: str) -> None:
    check(network(name), NAMES, offset=1000.0)


@pytest.mark.sample(test=3)
@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("name", ["spatial", "spatial_rows", "pointwise_group"])
def test_common_mode_costs_nothing(name: str, blind: bool) -> None:
    """30 times the rest; with `blind` the weights suppress it, so that moments of x cancel."""
    net = network(name)
    weight = next(m for m in net if isinstance(m, (nn.Conv1d, nn.Conv2d))).weight
    if blind:
        with torch.no_grad():
            weight -= weight.flatten(1).mean(1).reshape(-1, *[1] * (weight.dim() - 1))
    check(net, NAMES, common=30.0)


@pytest.mark.sample(test=2)
@pytest.mark.parametrize("seed", range(6))
def test_random_networks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    filters, groups = int(rng.choice([8, 12, 20])), int(rng.choice([1, 2, 4]))
    taps, pool = int(rng.integers(1, 30)), int(rng.integers(2, 40))
    depth = filters if rng.random() < 0.5 else 1
    layers = [
        Images(),
        nn.Conv2d(1, filters, (CHANNELS, 1), bias=bool(rng.random() < 0.5)),
        nn.GroupNorm(groups, filters),
        nn.Conv2d(filters, filters, (1, taps), groups=depth, bias=bool(rng.random() < 0.5)),
        nn.GroupNorm(groups, filters),
        nn.ReLU(),
        nn.AvgPool2d((1, pool)),
        nn.Conv2d(filters, filters, 1),
        nn.GroupNorm(groups, filters),
        nn.ELU(),
        nn.Flatten(),
    ]
    x = torch.zeros(1, CHANNELS, TIMES)
    net = nn.Sequential(*layers, nn.Linear(nn.Sequential(*layers)(x).shape[1], CLASSES))
    check(net, NAMES)


def test_running_statistics_from_moments() -> None:
    net = pointwise(nn.BatchNorm1d(16, momentum=0.3))
    x, y = windows(3)
    device = compile_model(
        net, x, optimizer=bt.SGD(lr=0.0, momentum=0.0, weight_decay=0.0), accumulate=1
    ).run()
    device.train(x, y)
    reference = copy.deepcopy(net).double()
    reference(torch.tensor(x).double())
    for key in ("1.running_mean", "1.running_var"):
        want = reference.state_dict()[key].numpy()
        assert np.abs(device.parameters()[key] - want).max() <= 16 * EPS * np.abs(want).max()


def test_values_that_are_not_finite_stay_so() -> None:
    net = network("spatial")
    with torch.no_grad():
        net[1].weight[3, 0, 2] = 3e38
    x, y = windows(0)
    device = compile_model(net, x, accumulate=1).run("host")
    with pytest.raises(bt.errors.DeviceError):
        device.accumulate(x, y)


# ---- kernels: whole training graphs, cut along time and rows, in place, by two compilers


def graph_case(name: str) -> tuple[Case, list[np.ndarray]]:
    net = network(name)
    graph = training_graph(net, NAMES)
    tensors = capture(net, torch.zeros(1, CHANNELS, TIMES)).tensors
    x, label = graph.inputs
    inputs = (x, label, *graph.params)
    arrays = [windows(1)[0], np.array([1], np.int32), *(tensors[p.name] for p in graph.params)]
    outputs: tuple[Value, ...] = graph.states
    case = Case(
        name, "linear", Sample((), {}), graph.nodes, inputs, graph.outputs[0], None, outputs
    )
    return case, arrays


@pytest.mark.ci
def test_cuts_and_compilers_keep_every_bit(tmp_path: Path) -> None:
    made = {name: graph_case(name) for name in ("spatial_bias", "pointwise_group", "rows")}
    cases = [case for case, _ in made.values()]
    arrays = {name: values for name, (_, values) in made.items()}
    flags = (*NUMERICS, "-std=c99", "-Wall", "-Wextra", "-Wshadow", "-Werror")
    flags += ("-Wno-unused-function", *fused_flags())
    flags += ("-Dalways_inline=unused", "-fno-inline")  # thousands of calls: compile a kernel once
    commands = {"plain": [*find_compiler(), "-O1", *flags]}
    if "ziglang" not in find_compiler():
        sanitizers = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
        commands["sanitized"] = [*find_compiler(), "-O1", *sanitizers, *flags]
    if find_spec("ziglang"):
        clang = [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=all"]
        commands["clang"] = [*clang, "-O1", *flags]
    results = {k: run(cases, arrays, c, tmp_path / k) for k, c in commands.items()}
    for built, by_case in results.items():
        for name, variants in by_case.items():
            for variant, values in zip(VARIANTS, variants, strict=True):
                for value, a, b in zip(
                    made[name][0].results, results["plain"][name][0], values, strict=True
                ):
                    assert a.tobytes() == b.tobytes(), f"{built} {name} {variant}: {value}"


CENTRED = """
#include <stdio.h>
#include <string.h>
#include "bt_crc.h"
#include "bt_one_pass.h"

static uint32_t seed = 1u;
static float drawn(void)
{
  seed = seed * 1664525u + 1013904223u;
  return (float)(int32_t)seed * 0x1p-31f;
}

static void one_row_at_a_time(bt_pairs g, bt_box box, bt_in x, bt_in d, const float *pairs,
                              float *raw)
{
  float first[BT_LEAF];
  for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
    const int n = bt_leaf_end(t, box.t1) - t;
    for (int i = 0; i < g.rows; i++)
      bt_centred_row(g, box, bt_at(x, i, t), i, d, t, n, pairs, first, raw);
    for (int o = box.r0; o < box.r1; o++)
      raw[o * (g.rows + 1) + g.rows] += bt_leaf_sum(bt_at(d, o, t), n);
  }
}

int main(void)
{
  static float x[16 * 75], d[19 * 75], pairs[64], raw[19 * 17], want[19 * 17];
  int bad = 0;
  for (int rows = 1; rows <= 16; rows++)
    for (int outs = 1; outs <= 19; outs += 6) {
      const bt_pairs g = {.rows = rows, .times = 75, .out_channels = outs, .groups = 1};
      for (int i = 0; i < 16 * 75; i++) x[i] = drawn();
      for (int i = 0; i < 19 * 75; i++) d[i] = drawn();
      for (int i = 0; i < 64; i++) pairs[i] = drawn();
      memset(raw, 0, sizeof raw);
      memset(want, 0, sizeof want);
      for (int t = 0; t < 75; t += 64) {
        const bt_box box = bt_part(0, outs, t, bt_min(75, t + 64));
        bt_centred_dw(g, box, bt_read(x, 75), bt_read(d, 75), pairs, raw);
        one_row_at_a_time(g, box, bt_read(x, 75), bt_read(d, 75), pairs, want);
      }
      if (memcmp(raw, want, sizeof raw))
        bad += printf("%d rows, %d outputs\\n", rows, outs);
    }
  return bad != 0;
}
"""


@pytest.mark.parametrize("kind", ["", "avx2", "avx512f"])
def test_one_pass_in_vectors_has_the_bits_of_one_row_at_a_time(kind: str, tmp_path: Path) -> None:
    if kind and not has_instructions(kind):
        pytest.skip(f"no {kind} here")
    write_kernels(tmp_path, "bt_one_pass.h")
    (tmp_path / "main.c").write_text(CENTRED, encoding="utf-8")
    flags = [*NUMERICS, "-O1", "-std=c99", *([f"-m{kind}"] if kind else []), *fused_flags()]
    subprocess.run([*find_compiler(), *flags, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
