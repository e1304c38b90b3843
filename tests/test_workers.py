# SPDX-License-Identifier: Apache-2.0
"""Work shared by workers: one set of bits for any number of them, on threads and in the emulator,
in whatever order they run between barriers; and the validator of a team's schedule.

That every op gives the same bits when its box is shared is in test_ops.py."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _cc import shared_library
from _plans import smallest_plan
from torch import nn

import biotrain as bt
from biotrain.errors import BioTrainError, DeviceError, GraphError
from biotrain.ir.graph import Span, Value
from biotrain.ir.op import OPS, Builder
from biotrain.ir.split import Grid, Split, grid_of
from biotrain.planner.judge_team import judge_team
from biotrain.planner.team import Team, team_of
from biotrain.run.compiler import NUMERICS, STRICT, find_compiler

CHANS, TIMES, CLASSES, WINDOWS = 3, 150, 5, 6
FLAGS = ("-O0", "-Dalways_inline=unused", "-march=native", "-fPIC", *STRICT, *NUMERICS)
FLAGS = (*FLAGS, "-Wno-unused-function")  # kernels are static functions where nothing is inlined
SGD = bt.SGD(lr=1e-2, momentum=0.9, schedule="cosine")

OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": SGD, "accumulate": 2},
    "adam-clip": {"optimizer": bt.Adam(lr=1e-3, clip_norm=0.1)},
    "momentum": {"optimizer": SGD, "gradients": "momentum", "accumulate": 3},
    "update": {"optimizer": SGD, "gradients": "update"},
    "norm": {"optimizer": SGD, "strategy": "norm"},  # fewer ranges of parameters than workers
    "last-mse": {"optimizer": SGD, "strategy": "last", "loss": "mse"},
    "smallest": {"optimizer": SGD},
}


class Stacked(nn.Module):
    """Dense, depthwise and pointwise convolutions, both kinds of pooling, norms and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, (1, 9), padding=(0, 4), bias=False),
            nn.GroupNorm(2, 6),
            nn.ELU(),
            nn.Conv2d(6, 12, (CHANS, 1), groups=6, bias=False),
            nn.GroupNorm(1, 12),
            nn.ReLU(),
            nn.MaxPool2d((1, 3)),
            nn.Conv2d(12, 10, 1),
            nn.ReLU(),
            nn.AvgPool2d((1, 10)),
            nn.Flatten(),
            nn.Linear(10 * (TIMES // 30), CLASSES),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x.unsqueeze(1))


def package(name: str, workers: int, **more: Any) -> bt.Package:
    """The network with one of `OPTIONS`."""
    torch.manual_seed(0)
    net = Stacked()

    def compiles(**budget: Any) -> bt.Package:
        given = {**OPTIONS[name], **budget, **more}
        return bt.compile(
            net,
            torch.zeros(1, CHANS, TIMES),
            title="t",
            workers=workers,
            **{"accumulate": 1, **given},
        )

    return smallest_plan(compiles) if name == "smallest" else compiles()


def windows(name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((WINDOWS, CHANS, TIMES)).astype(np.float32)
    if name == "last-mse":
        return x, rng.standard_normal((WINDOWS, CLASSES)).astype(np.float32)
    return x, rng.integers(0, CLASSES, WINDOWS)


def trained(device: Any, name: str, count: int = WINDOWS) -> tuple[int, float, bytes]:
    """CRC of the weights after training, the mean loss, and the logits behind it."""
    x, y = (values[:count] for values in windows(name))
    device.begin(count)
    loss = device.train(x, y)
    if device.package.plan.feature_bytes:
        loss = device.train_features(device.features(x), y)
    return device.crc32(), loss, device.predict(x).tobytes()


@pytest.mark.sample(test=2, ci=3)
@pytest.mark.parametrize("name", OPTIONS)
def test_one_set_of_bits_on_threads(name: str) -> None:
    want = trained(package(name, 1).run("host", flags=FLAGS), name)
    for workers in (3, 8):
        device = package(name, workers).run("threads", flags=FLAGS)
        assert trained(device, name) == want, workers


@pytest.mark.ci
@pytest.mark.parametrize("name", ["smallest", pytest.param("sgd", marks=pytest.mark.full)])
def test_memory_comes_out_equal_in_whatever_order_workers_run(name: str) -> None:
    if not find_spec("unicorn") or not find_spec("ziglang"):
        pytest.skip("the emulator needs unicorn and ziglang")
    pkg = package(name, 8, target="cv32e40p")
    want = trained(pkg.run("host", flags=FLAGS), name, 1)  # all parts on one core
    contexts = []
    for order in ("rising", "falling", "random"):
        with pkg.run("emulator", order=order, flags=("-O1", "-std=c99", *NUMERICS)) as device:
            assert trained(device, name, 1) == want, order
            contexts.append(device.context())
            assert min(device.instructions()) > 0  # every worker has worked
    assert contexts[0] == contexts[1] == contexts[2]


@pytest.mark.ci
def test_threads_race_for_nothing(tmp_path: Path) -> None:
    """Under ThreadSanitizer, which reports a race whether or not it does harm in that run."""
    if "ziglang" in find_compiler():
        pytest.skip("zig ships no ThreadSanitizer run time")
    pkg = package("sgd", 3)
    for name, text in pkg.files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "main.c").write_text(MAIN, encoding="utf-8")
    flags = ["-O1", "-g", "-fsanitize=thread", "-std=c99", "-march=native", *NUMERICS, "-pthread"]
    command = [*find_compiler(), *sorted(p.name for p in tmp_path.glob("*.c")), *flags]
    subprocess.run([*command, "-DBT_PORT=BT_PORT_THREADS", "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer does not run on this kernel")
    assert done.returncode == 0, done.stderr[:3000]


MAIN = """
#include "model.h"
static bt_model m;
int main(void)
{
  static float x[BT_INPUT_ROWS * BT_INPUT_TIMES], loss, logits[BT_OUTPUTS];
  for (int i = 0; i < BT_INPUT_ROWS * BT_INPUT_TIMES; i++)
    x[i] = (float)((i * 7919) % 101) / 50.0f - 1.0f;
  bt_init(&m);
  for (int i = 0; i < 12; i++)
    if (bt_train_sample(&m, x, i % BT_OUTPUTS, &loss) || (i % 4 == 3 && bt_step(&m)) ||
        bt_predict(&m, x, logits))
      return 1;
  return 0;
}
"""


def plans() -> Iterator[bt.Package]:
    """Packages with and without loops."""
    yield package("sgd", 4)
    yield package("smallest", 4)


def refusal(graph: Any, buffers: Any, team: Team) -> str:
    """What the validator says of a team's schedule; nothing where it is correct."""
    try:
        judge_team(graph, buffers, team)
    except GraphError as error:
        return str(error)
    return ""


def test_the_example_of_a_package_runs_on_threads(tmp_path: Path) -> None:
    """Its Makefile chooses the port and compiles it; before, one core ran the parts of all."""
    if find_compiler() != ("gcc",):
        pytest.skip("the Makefile's compiler is asked for threads here")
    package("sgd", 3).save(tmp_path)
    make = ["make", "-C", str(tmp_path / "example"), "CC=gcc", "EXTRA=-Werror"]
    subprocess.run(make, check=True, capture_output=True)
    subprocess.run([tmp_path / "example" / "main"], check=True)
    symbols = subprocess.run(
        ["nm", "-u", tmp_path / "example" / "main"], check=True, capture_output=True, text=True
    ).stdout
    assert "pthread_create" in symbols


def test_a_schedule_without_one_of_its_barriers_is_refused() -> None:
    """Every barrier is needed; in a loop another one may do instead of it in later iterations."""
    for pkg in plans():
        graph, buffers = pkg.source.train, pkg.plan.buffers
        team = team_of(graph, buffers, 4)
        judge_team(graph, buffers, team)
        assert team.barriers
        loops = 0
        for slot in team.barriers:
            fewer = replace(team, barriers=tuple(s for s in team.barriers if s != slot))
            found = refusal(graph, buffers, fewer)
            assert slot.body >= 0 or "without a barrier between" in found, slot
            loops += slot.body >= 0 and bool(found)
    assert loops > 0


def test_calls_cut_otherwise_than_their_op_says_are_refused() -> None:
    pkg = package("sgd", 4)
    graph, buffers = pkg.source.train, pkg.plan.buffers
    team = team_of(graph, buffers, 4)

    def grid(op: str, other: Grid) -> Team:
        at = max(i for i, n in enumerate(graph.nodes) if n.op == op)
        return replace(team, grids={**team.grids, (at, -1): other})

    for op, other, text in (
        ("cross_entropy_dx", Grid(across=2), "one worker must run it"),
        ("row_moments", Grid(across=4, time_step=32), "time is cut"),
        ("conv_dw", Grid(down=4, row_step=2), "rows are cut"),
        ("norm_apply", Grid(down=2, across=2, time_step=5), "time is cut"),
        ("norm_apply", Grid(down=8), "the parts of 4 workers are not"),
    ):
        with pytest.raises(GraphError, match=text):
            judge_team(graph, buffers, grid(op, other))


def test_parts_in_c_are_those_of_the_compiler() -> None:
    """`bt_own` against `Grid.part`, and every element belongs to one worker."""
    text = """
#define BT_PORT BT_PORT_THREADS
#include "bt_port.h"
void own(int *box, const int *n);
void own(int *box, const int *n)
{
  const bt_box part = bt_own(bt_part(box[0], box[1], box[2], box[3]), n[0], n[1], n[2], n[3], n[4]);
  box[0] = part.r0, box[1] = part.r1, box[2] = part.t0, box[3] = part.t1;
}
"""
    own = shared_library(text).own
    rng = np.random.default_rng(0)
    for workers, step in itertools.product((1, 2, 3, 8, 64), (0, 1, 3)):
        r0, t0 = (int(rng.integers(0, 5)) * max(step, 1), int(rng.integers(0, 200)))
        box = Span(
            r0, r0 + int(rng.integers(1, 9)) * max(step, 1), t0, t0 + int(rng.integers(1, 400))
        )
        grid = grid_of(Split(step, 32), [box], workers)
        assert grid.parts <= workers
        seen = np.zeros((box.r1, box.t1), int)
        for worker in range(grid.parts):
            part = grid.part(box, worker)
            assert not part.empty
            seen[part.r0 : part.r1, part.t0 : part.t1] += 1
            found = (ctypes.c_int * 4)(box.r0, box.r1, box.t0, box.t1)
            sizes = (worker, grid.down, grid.row_step, grid.across, grid.time_step)
            own(found, (ctypes.c_int * 5)(*sizes))
            assert tuple(found) == (part.r0, part.r1, part.t0, part.t1)
        assert (seen[box.r0 :, box.t0 :] == 1).all()
        assert seen.sum() == box.size


def test_one_worker_leaves_no_trace() -> None:
    """What is emitted for one worker knows nothing of a port."""
    plain, one = package("sgd", 1), package("sgd", 1, target="host")
    assert plain.files == one.files
    assert not any("bt_port" in text or "worker" in text for text in plain.files.values())


def test_what_does_not_go_with_workers_is_refused_in_one_line() -> None:
    for more, text in (
        ({"batch": 4}, "batch works with one worker"),
        ({"adabn": True}, "adabn works with one worker"),
    ):
        with pytest.raises(BioTrainError, match=text):
            package("norm", 2, **more)
    for workers in (0, 65, True):
        with pytest.raises(BioTrainError, match="workers must be a whole number from 1 to 64"):
            package("sgd", workers)


def test_sums_are_never_cut_along_what_they_add_up() -> None:
    """An op that reduces time says so to workers too."""
    for op in OPS.values():
        if op.reduces_time:
            for sample in op.samples():
                b = Builder("v")
                values = [Value(f"x{i}", s, kind="input") for i, s in enumerate(sample.shapes)]
                b.emit(op.name, values, None, **dict(sample.attrs))
                assert op.split(b.nodes[-1]).times == 0, op.name


class Steps(nn.Module):
    """A class for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(CHANS, 4, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.mark.parametrize("each_step", [False, True])
def test_labels_are_looked_at_as_with_one_worker(each_step: bool) -> None:
    """A class that is ignored is taken, one that is not there is refused."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, CHANS, 40)).astype(np.float32)
    net = Steps() if each_step else nn.Sequential(nn.Flatten(), nn.Linear(CHANS * 40, 4))
    y = rng.integers(0, 4, (2, 40) if each_step else 2)
    y.flat[0] = 9
    crcs = []
    for workers in (1, 3):
        torch.manual_seed(2)
        made = net.__class__() if each_step else net
        pkg = bt.compile(
            made,
            torch.zeros(1, CHANS, 40),
            loss="cross_entropy:ignore_index=9",
            strategy="full",
            optimizer=SGD,
            workers=workers,
            accumulate=1,
        )
        device = pkg.run("host")
        device.train(x, y)
        crcs.append(device.crc32())
        y_wrong = y.copy()
        y_wrong.flat[-1] = 4
        with pytest.raises(DeviceError, match="label out of range"):
            device.train(x[1:], y_wrong[1:])
        assert device.crc32() == crcs[-1]
    assert crcs[0] == crcs[1]
