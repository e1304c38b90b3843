# SPDX-License-Identifier: Apache-2.0
"""The emitted C: deterministic, clean under strict warnings, no malloc, sizes as planned."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from test_networks import FLAGS

import biotrain as bt
from biotrain.package import Package
from biotrain.run.compiler import NUMERICS, STRICT, find_compiler

CASES = [("mibminet", "full"), ("epidenet", "last"), ("eegnet", "norm"), ("epidenet", "none")]

SCRIPT = """
import hashlib, sys, torch
import biotrain as bt
torch.manual_seed(3)
net = bt.prepare(bt.models.build("epidenet", 8, 200, 7, 200.0, norm="group"))
net.train()
pkg = bt.compile(net, torch.zeros(1, 8, 200), optimizer=bt.Adam(), target="nrf52840")
text = "".join(f"{n}\\n{t}" for n, t in sorted(pkg.files.items())) + str(pkg.plan)
print(hashlib.sha256(text.encode()).hexdigest())
"""


def package(name: str, strategy: str, **options: object) -> Package:
    torch.manual_seed(1)
    net = bt.prepare(bt.models.build(name, 4, 300, 3, 128.0, norm="group"), pool="avg")
    net.train()
    return bt.compile(
        net, torch.zeros(1, 4, 300), strategy=strategy, **{"accumulate": 1, **options}
    )


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_same_bytes_under_three_hash_seeds(seed: str) -> None:
    """And under that of this process, which Python draws."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    here = io.StringIO()
    with contextlib.redirect_stdout(here):
        exec(SCRIPT, {})
    assert done.stdout.split()[-1] == here.getvalue().split()[-1]


def compilers() -> list[list[str]]:
    commands = [list(find_compiler())]
    if find_spec("ziglang"):
        commands.append([sys.executable, "-m", "ziglang", "cc"])
    return commands


OPTIMIZERS = (bt.SGD(schedule="cosine", clip_norm=1.0), bt.Adam())
PAIRS = [
    pytest.param(*case, optimizer, marks=() if (i + j) % 2 == 0 else pytest.mark.full)
    for i, case in enumerate(CASES)
    for j, optimizer in enumerate(OPTIMIZERS)
]


@pytest.mark.sample(test=1, ci=3)
@pytest.mark.parametrize(("name", "strategy", "optimizer"), PAIRS)
def test_no_warning_from_two_compilers(
    name: str, strategy: str, optimizer: bt.SGD | bt.Adam, tmp_path: Path
) -> None:
    folder = package(name, strategy, optimizer=optimizer, accumulate=4).save(tmp_path / "c")
    for command in compilers():
        sources = ["model.c", "model_weights.c"]
        subprocess.run(
            [*command, "-O1", "-mfma", *STRICT, *NUMERICS, "-c", *sources], cwd=folder, check=True
        )


def test_no_malloc_and_no_libm(tmp_path: Path) -> None:
    folder = package("epidenet", "full").save(tmp_path / "c")
    command = [*find_compiler(), "-O2", "-march=native", *STRICT, *NUMERICS]
    subprocess.run([*command, "-c", "model.c"], cwd=folder, check=True)
    symbols = subprocess.run(
        ["nm", "-u", "model.o"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.split()
    wanted = [s for s in symbols if s not in ("U", "w") and not s.startswith("bt_w_")]
    allowed = ("memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail")
    allowed += ("bt_fingerprint", "bt_initial_lr")  # in model_weights.c
    assert [s for s in wanted if s not in allowed] == []


@pytest.mark.sample(test=3, ci=7)
@pytest.mark.parametrize("name", sorted(bt.models.PAPER))
@pytest.mark.parametrize("strategy", ["full", "last"])
def test_the_context_has_the_planned_size(name: str, strategy: str) -> None:
    pkg = package(name, strategy)
    pkg.run("host", flags=FLAGS)  # compares sizeof(bt_model) with the plan
    plan = pkg.plan
    parts = (plan.peak_bytes, plan.param_bytes, plan.gradient_bytes, plan.optimizer_bytes)
    assert plan.context_bytes == sum(parts) + plan.state_bytes + 36


def test_store_everything_plans_of_the_paper_networks() -> None:
    """The figures of the project: kB (1000 bytes), one sample, with parameters and gradients."""
    for name, bar in (("mibminet", 1371), ("epidenet", 161)):
        shape = bt.models.PAPER[name]
        net = bt.prepare(bt.models.build(name, **{**shape, "norm": "group"}), pool="avg")
        net.train()
        example = torch.zeros(1, shape["n_chans"], shape["n_times"])
        full = bt.compile(net, example, accumulate=1).plan
        last = bt.compile(net, example, strategy="last", accumulate=1).plan
        total = full.peak_bytes + full.param_bytes + full.gradient_bytes
        assert total <= bar * 1000
        assert full.peak_bytes == full.lower_bound_bytes
        assert last.peak_bytes + last.param_bytes + last.gradient_bytes < 0.6 * total


def test_what_a_strategy_does_not_need_is_not_there() -> None:
    full, last, none = (package("mibminet", s) for s in ("full", "last", "none"))
    assert [n.op for n in last.graph.nodes].count("conv_dw") == 0
    assert [n.op for n in none.graph.nodes if n.op.endswith(("_dx", "_dw", "_db"))] == []
    assert none.plan.macs < last.plan.macs < full.plan.macs
    assert none.plan.gradient_bytes == none.plan.optimizer_bytes == 0
    assert last.plan.gradient_bytes == 4 * last.plan.trained_params
    names = [v.name for v in last.graph.states]
    assert len(names) == 4, names


@pytest.mark.ci
def test_a_budget_that_is_too_small_says_what_would_do() -> None:
    with pytest.raises(bt.BioTrainError, match="the smallest plan needs") as error:
        package("eegnet", "full", memory=2000)
    assert str(error.value).count("\n") == 0
    assert str(error.value).split("largest buffers: ")[1].count(" B") == 3
    needed = int(
        str(error.value).split("the smallest plan needs ")[1].split(" B")[0].replace(",", "")
    )
    assert package("eegnet", "full", memory=needed).plan.ram_bytes <= needed


def test_weights_survive_the_text() -> None:
    pkg = package("eegnet", "none")
    device = pkg.run("host")
    assert pkg.module is not None
    for name, parameter in pkg.module.named_parameters():
        assert (device.parameters()[name] == parameter.detach().numpy()).all()
