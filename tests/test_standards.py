# SPDX-License-Identifier: Apache-2.0
"""Emitted projects build without a warning: every compiler, every standard from C99 on.

Arduino, Zephyr and an engineer's own Makefile bring flags of their own. None of them may stop the
build or change a bit.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import biotrain as bt
from biotrain.graph.rewrite import DEFAULT
from biotrain.package import Package
from biotrain.targets.target import load_target

ZIG = (sys.executable, "-m", "ziglang", "cc", "-Wno-unused-command-line-argument")
X86 = platform.machine().lower() in ("x86_64", "amd64")
COMPILERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gcc": ("host", ("gcc", "-march=native", "-Wcast-align=strict")),
    "clang": ("host", ("clang", "-march=native", "-Wcast-align")),
    "zig": ("host", (*ZIG, "-march=native", "-Wcast-align")),
    "arm": ("cortex-m4f", ()),
    "arm-zig": ("cortex-m4f", ZIG),
    "riscv": ("rv32imfc", ()),
    "riscv-zig": ("rv32imfc", ZIG),
}
"""Target, and the command; empty: that of the target."""
STANDARDS = ("default", "gnu17", "gnu11", "gnu99", "c11", "c99")
WARNINGS = (
    *("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wdouble-promotion", "-Wshadow"),
    *("-Wcast-align", "-Wcast-qual", "-Wundef", "-Wstrict-prototypes", "-Wmissing-prototypes"),
    "-Werror",
)


class Net(nn.Module):
    """The network of the tutorial: depthwise convolution, norms, a pool."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.spatial = nn.Conv1d(8, 16, 1, bias=False)
        self.norm1 = nn.GroupNorm(1, 16)
        self.temporal = nn.Conv1d(16, 16, 25, padding=12, groups=16, bias=False)
        self.norm2 = nn.GroupNorm(1, 16)
        self.pool = pool
        self.head = nn.Linear(16 * 25, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm2(self.temporal(self.norm1(self.spatial(x))))
        return self.head(self.pool(nn.functional.elu(x)).flatten(1))  # type: ignore[no-any-return]


@cache
def packages(target: str) -> dict[str, Package]:
    """Packages that have every kind of kernel between them."""
    torch.manual_seed(0)
    x, size = torch.zeros(1, 8, 200), {"target": target, "accumulate": 8}
    epidenet = bt.prepare(bt.models.build("epidenet", 2, 400, 11, 200.0), norm="group", pool="avg")
    eegnet = bt.prepare(bt.models.build("eegnet", 8, 256, 4, 128.0), norm="batch")
    fft = {"rewrites": (*DEFAULT, "fastconv", "fft"), "batch": 4}
    found = {
        "tutorial": bt.compile(Net(nn.AvgPool1d(8)), x, **{"accumulate": 1, **size}),  # type: ignore[arg-type]
        "max": bt.compile(Net(nn.MaxPool1d(8)), x, optimize="size", **{"accumulate": 1, **size}),  # type: ignore[arg-type]
        "epidenet": bt.compile(epidenet, torch.zeros(1, 2, 400), **{"accumulate": 1, **size}),  # type: ignore[arg-type]
        "eegnet": bt.compile(
            eegnet, torch.zeros(1, 8, 256), target=target, **{"accumulate": 1, **fft}
        ),  # type: ignore[arg-type]
    }
    if target != "host":
        found["live"] = bt.compile(
            Net(nn.AvgPool1d(8)),
            x,
            target=target,
            input_type="int16",
            input_scale=0.1,
            live=bt.Live(hop=100, store_pages=4, epochs=10),
            accumulate=1,
        )
    return found


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("standards")


def written(folder: Path, target: str, name: str) -> Path:
    place = folder / target / name
    if not place.exists():
        packages(target)[name].save(place)
    return place


def command(compiler: str) -> tuple[str, ...]:
    """The compiler with the flags of the core; skips where it is not installed."""
    target, start = COMPILERS[compiler]
    core = load_target(target).build
    if core is not None:
        start = (*start, *core.zig) if start else (*core.gcc, "-ffreestanding")
    if start[0] == sys.executable:
        if not importlib.util.find_spec("ziglang"):
            pytest.skip("wants ziglang")
    elif not shutil.which(start[0]):
        pytest.skip(f"wants {start[0]}")
    return start


def build(start: Sequence[str], place: Path, *flags: str) -> None:
    """Every C file of a folder, without a warning."""
    around = "firmware" if (place / "firmware").is_dir() else "example"
    for source in sorted(place.rglob("*.c")):
        name = str(source.relative_to(place))
        warnings = WARNINGS if "/" not in name else [w for w in WARNINGS if "prototypes" not in w]
        done = subprocess.run(
            [*start, *warnings, *flags, "-I.", f"-I{around}", name],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, (place.name, name, done.stderr)


@pytest.mark.sample(test=1, ci=13)
@pytest.mark.parametrize("standard", STANDARDS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_standard(compiler: str, standard: str, folder: Path) -> None:
    start = command(compiler)
    flags = () if standard == "default" else (f"-std={standard}",)
    for name in packages(COMPILERS[compiler][0]):
        place = written(folder, COMPILERS[compiler][0], name)
        # zig has no -fsyntax-only
        how = ("-O1", "-c", "-o", str(folder / "o.o")) if ZIG[0] in start else ("-fsyntax-only",)
        build(start, place, *how, *flags)


@pytest.mark.sample(test=1, ci=5)
@pytest.mark.parametrize("level", ["-O2", "-Os", "-O3"])
@pytest.mark.parametrize("compiler", ["arm", "riscv", "gcc", "arm-zig"])
def test_no_warning_of_an_optimiser(compiler: str, level: str, folder: Path) -> None:
    """What gcc finds about arrays, it finds while it optimises."""
    start = command(compiler)
    for name in ("tutorial", "max"):
        place = written(folder, COMPILERS[compiler][0], name)
        build(start, place, level, "-c", "-o", str(folder / "o.o"))


def crc(package: Package, flags: Sequence[str] | None) -> int:
    rng = np.random.default_rng(0)
    device = package.run("host") if flags is None else package.run("host", flags=flags)
    device.train(rng.normal(size=(8, 8, 200)).astype(np.float32), np.arange(8) % 7)
    return device.crc32()


@pytest.mark.skipif(not X86 or not shutil.which("gcc"), reason="wants gcc on x86")
@pytest.mark.parametrize("standard", ["gnu17", "gnu99"])
def test_a_gnu_standard_keeps_the_bits(standard: str) -> None:
    """gcc would fuse a*b+c with these flags, which are Arduino's kind."""
    package = bt.compile(Net(nn.AvgPool1d(8)), torch.zeros(1, 8, 200), fused=False, accumulate=1)
    flags = ("-O1", "-march=native", "-fPIC", f"-std={standard}")
    assert crc(package, flags) == crc(package, None)


@pytest.mark.skipif(not X86 or not shutil.which("gcc"), reason="wants gcc on x86")
def test_a_machine_with_half_precision(folder: Path) -> None:
    """There __FLT_EVAL_METHOD__ is 16 with gcc's default standard, and float stays float."""
    place = written(folder, "host", "tutorial")
    build(("gcc", "-march=sapphirerapids"), place, "-fsyntax-only")
    with pytest.raises(AssertionError, match="float arithmetic in float"):
        build(("gcc", "-march=sapphirerapids", "-mfpmath=387", "-mfma"), place, "-fsyntax-only")


def test_model_h_behind_the_macros_of_others(folder: Path) -> None:
    """Arduino, CMSIS and Zephyr define `min`, `PI`, `OUTPUT`, `B1`."""
    cases = Path(os.environ.get("BIOTRAIN_CASES", "/nowhere")) / "b_arduino"
    if not cases.is_dir():
        pytest.skip("no inputs: BIOTRAIN_CASES does not name their folder")
    place = written(folder, "cortex-m4f", "live")
    for compiler, file in (("gcc", "sketch.c"), ("g++", "sketch.cpp"), ("clang++", "sketch.cpp")):
        if not shutil.which(compiler):
            continue
        text = '#include "arduino_like.h"\n#include "model.h"\n'
        (folder / file).write_text(f"{text}extern bt_model m;\nbt_model m;\n", encoding="utf-8")
        flags = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only")
        places = (f"-I{cases}", f"-I{place}")
        subprocess.run([compiler, *flags, *places, str(folder / file)], check=True, timeout=60)
