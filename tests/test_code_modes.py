# SPDX-License-Identifier: Apache-2.0
"""`--optimize speed|size`: whole packages without a warning from five compilers, and what the plan
says of the code. Their bits are those of the host, their sizes within the bars of
`benchmarks/code_modes.py`."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from _thumb import need_emulator

import biotrain as bt
from biotrain.package import Package
from biotrain.planner.request import OPTIMIZE, Optimize
from biotrain.run.compiler import NUMERICS, STRICT
from biotrain.run.firmware import Compiler, command, core_of, find_cross_compiler
from biotrain.run.project import linked, measured, project_files
from biotrain.targets.target import load_target

NETWORKS = ("epidenet", "mibminet", "eegnet")
BUILDS: dict[str, tuple[str, str]] = {
    "arm gcc": ("nrf52840", "gcc"),
    "arm zig": ("nrf52840", "zig"),
    "risc-v gcc": ("cv32e40p", "gcc"),
    "risc-v zig": ("cv32e40p", "zig"),
    "gcc": ("nrf52840", "/usr/bin/gcc"),
    "clang": ("nrf52840", "clang"),
}
"""The target of the package, and what compiles it: for the target, or for this machine."""

CODE_BYTES: dict[Optimize, int] = {"speed": 58_000, "size": 32_000}
"""Most code of EpiDeNet at the paper's shape on the nRF52840, with either compiler."""


def package(network: str, target: str, optimize: Optimize, live: bool = False) -> Package:
    torch.manual_seed(1)
    net = bt.prepare(bt.models.build(network, 4, 300, 3, 128.0, norm="group"), pool="avg")
    options: dict[str, object] = {}
    if live:
        options = {"live": bt.Live(epochs=10), "input_type": "int16", "input_scale": 1e-3}
    x = torch.zeros(1, 4, 300)
    return bt.compile(net, x, target=target, optimize=optimize, accumulate=2, **options)


def compiler_command(target: str, name: str) -> list[str]:
    """The compiler of a build; skips the test where it is missing."""
    if name in ("gcc", "zig"):
        core = core_of(load_target(target))
        there = find_spec("ziglang") if name == "zig" else core.gcc and shutil.which(core.gcc[0])
        if not there:
            pytest.skip(f"no {name} for {target}")
        which: Compiler = "zig" if name == "zig" else "gcc"
        return [*command(core, which), "-ffreestanding"]
    if not shutil.which(name):
        pytest.skip(f"no {name}")
    return [name]


def refuse_warnings(pkg: Package, start: list[str], optimize: Optimize, folder: Path) -> None:
    for file, text in pkg.files.items():
        (folder / file).write_text(text, encoding="utf-8")
    sources = [file for file in pkg.files if file.endswith(".c")]
    flag = "-Os" if optimize == "size" else "-O2"
    done = subprocess.run(
        [*start, flag, *STRICT, *NUMERICS, "-c", *sources],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:4000]


CASES = [
    pytest.param(network, build, optimize, id=f"{network}-{build.replace(' ', '-')}-{optimize}")
    for network in NETWORKS
    for build in BUILDS
    for optimize in OPTIMIZE
]


@pytest.mark.sample(test=3, ci=9)
@pytest.mark.parametrize(("network", "build", "optimize"), CASES)
def test_no_warning_in_either_mode(
    network: str, build: str, optimize: Optimize, tmp_path: Path
) -> None:
    target, name = BUILDS[build]
    start = compiler_command(target, name)
    refuse_warnings(package(network, target, optimize), start, optimize, tmp_path)


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("optimize", OPTIMIZE)
def test_no_warning_from_a_live_package_of_integers(optimize: Optimize, tmp_path: Path) -> None:
    start = compiler_command("nrf52840", "gcc")
    refuse_warnings(package("epidenet", "nrf52840", optimize, live=True), start, optimize, tmp_path)


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("optimize", OPTIMIZE)
def test_the_plan_says_what_the_code_is_for(optimize: Optimize) -> None:
    pkg = package("epidenet", "nrf52840", optimize)
    plan = pkg.plan.to_json()
    assert (plan["optimize"], plan["code_bytes"]) == (optimize, None)
    find_cross_compiler(core_of(pkg.target))
    files = project_files(pkg, measure=True)
    code = linked(pkg, files).plan.to_json()["code_bytes"]
    assert code > 10_000
    assert f"| code | {code:,} bytes | `--optimize {optimize}`" in files["README.md"]


def published(optimize: Optimize) -> Package:
    """EpiDeNet as `biotrain compile epidenet --target nrf52840` makes it."""
    from biotrain.cli.model import Model
    from biotrain.cli.options import ModelOptions, TrainOptions

    options = TrainOptions(target="nrf52840", optimize=optimize)
    return Model("epidenet", ModelOptions()).compiled(options)


@pytest.mark.sample(test=0, ci=1)
@pytest.mark.parametrize("name", ["gcc", "zig"])
def test_size_is_smaller_and_has_the_same_bits(name: Compiler) -> None:
    """Code within the bars, and at most 1.5 times the cycles, counted over one window."""
    need_emulator()
    compiler_command("nrf52840", name)
    from biotrain.run.emulator import EmulatorDevice

    cycles, bits = {}, {}
    for optimize in OPTIMIZE:
        pkg = published(optimize)
        found = measured(pkg, project_files(pkg), name)
        assert found is not None
        assert found.code_bytes <= CODE_BYTES[optimize]
        assert found.stack_bytes <= pkg.target.stack_bytes
        shape = pkg.graph.inputs[0].shape[1:]
        x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
        device = EmulatorDevice(pkg, compiler=name)
        device.begin()
        device.restart_count()
        device.train(x, np.array([1]))
        cycles[optimize], bits[optimize] = device.executed().cycles, device.crc32()
        device.close()
        host = pkg.run("host")
        host.begin()
        host.train(x, np.array([1]))
        assert bits[optimize] == host.crc32()
    assert cycles["size"] <= 1.5 * cycles["speed"]
