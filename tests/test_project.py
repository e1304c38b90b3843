# SPDX-License-Identifier: Apache-2.0
"""The folder that `compile` writes: it builds everywhere, and takes what the plan says."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import biotrain as bt
from biotrain.cli import app
from biotrain.emit.project import Footprint, readme
from biotrain.frontend.live import Live
from biotrain.package import Package
from biotrain.run.compiler import STRICT
from biotrain.run.memory import footprint, painted_stack
from biotrain.run.project import measured, project_files
from biotrain.run.stack import Function, functions, worst_stack
from biotrain.targets.target import load_target

GCC = {"nrf52840": "arm-none-eabi-gcc", "rv32imfc": "riscv64-unknown-elf-gcc"}
WARNINGS = STRICT[:-1]

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"accumulate": 4},
    "momentum": {"accumulate": 4, "gradients": "momentum"},
    "update": {"gradients": "update"},
    "int16": {"accumulate": 4, "input_type": "int16", "input_scale": 0.001},
    "mse": {"accumulate": 4, "loss": "mse"},
    "none": {"strategy": "none"},
    "last": {"strategy": "last", "accumulate": 4},
    "batch": {"batch": 4},
    "live": {
        "accumulate": 4,
        "input_type": "int16",
        "input_scale": 0.001,
        "live": Live(hop=8, slice_cycles=2000, epochs=10),
    },
}


def need(*tools: str) -> None:
    """Skip where a program is missing; `zig` stands for the package ziglang."""
    for tool in tools:
        if tool in ("ziglang", "elftools", "unicorn"):
            if not importlib.util.find_spec(tool):
                pytest.skip(f"the package '{tool}' is not installed")
        elif not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")


class Small(torch.nn.Module):
    """The smallest network with every kind of layer that a main.c could notice."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(2, 4, 5, padding=2, bias=False)
        self.norm = torch.nn.BatchNorm1d(4) if norm == "batch" else torch.nn.GroupNorm(1, 4)
        self.pool = torch.nn.AvgPool1d(8)
        self.classifier = torch.nn.Linear(4 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(torch.relu(self.norm(self.conv(x)))).flatten(1))


def small(variant: str, target: str = "nrf52840") -> Package:
    options = VARIANTS[variant]
    net = Small("batch" if "batch" in options else "group")
    return bt.compile(net, torch.zeros(1, 2, 32), target=target, **{"accumulate": 1, **options})


def run(*command: str, cwd: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def made(package: Package, folder: Path) -> Path:
    """The folder of a package, with planned figures."""
    return package.save(folder)


# ---------------------------------------------------------------- what is there


def test_the_folder_has_what_an_engineer_expects(tmp_path: Path) -> None:
    folder = made(small("plain"), tmp_path)
    inside = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert inside >= {
        *("model.c", "model.h", "model_weights.c", "bt_status.h", "README.md", "plan.json"),
        *(
            f"firmware/{name}"
            for name in (
                *(
                    "main.c",
                    "board.c",
                    "board.h",
                    "start.c",
                    "vectors.c",
                    "link.ld",
                    "session.c",
                    "session.h",
                ),
                *("Makefile", "CMakeLists.txt", "gcc.cmake", "zig.cmake"),
            )
        ),
        *("zephyr/module.yml", "zephyr/CMakeLists.txt", "zephyr/Kconfig"),
        *("library.properties", "library.json"),
    }
    assert not (folder / "src").exists()  # Arduino's flat layout: only the root is compiled


def test_no_placeholder_is_left() -> None:
    for variant in VARIANTS:
        for name, text in project_files(small(variant)).items():
            assert not re.search(r"@[A-Z_]+@", text), name


def test_files_name_their_licence() -> None:
    for name, text in project_files(small("plain")).items():
        if not name.startswith("library."):  # formats without comments
            assert "SPDX-License-Identifier: Apache-2.0" in text[:400], name


@pytest.mark.parametrize("variant", VARIANTS)
def test_main_is_short_enough_to_read(variant: str) -> None:
    files = project_files(small(variant))
    assert len(files["firmware/main.c"].splitlines()) <= 60
    assert len(files["firmware/start.c"].splitlines()) <= 60
    assert len(files["firmware/vectors.c"].splitlines()) <= 60


def test_host_gets_a_program_and_no_board(tmp_path: Path) -> None:
    need("make", "gcc")
    folder = made(small("plain", "host"), tmp_path)
    assert not (folder / "firmware").exists()
    run("make", "CC=gcc", "EXTRA=-Werror", cwd=folder / "example")
    run("./main", cwd=folder / "example")


def test_a_board_with_a_boot_header_says_that_it_would_not_start(tmp_path: Path) -> None:
    need("make")
    note = "firmware alone does not start on rp2350: its boot ROM expects an image definition block"
    files = project_files(small("plain", "rp2350"))
    assert note in files["README.md"]
    for name in ("Makefile", "link.ld"):
        (tmp_path / name).write_text(files[f"firmware/{name}"], encoding="utf-8")
    done = subprocess.run(
        ["make", "hex"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert note in done.stderr
    assert "hex: $(BUILD)/main.hex" in project_files(small("plain"))["firmware/Makefile"]
    assert not load_target("nrf52840").boot_note


def test_a_core_that_is_only_described_gets_a_library() -> None:
    files = project_files(small("plain", "esp32-s3"))
    assert {"example/main.c", "library.json", "library.properties"} <= set(files)
    assert not [name for name in files if name.startswith("firmware/")]
    assert "for this core the C is a library" in files["README.md"]


def test_library_manifests() -> None:
    files = project_files(small("plain"))
    build = json.loads(files["library.json"])["build"]
    assert build["srcFilter"] == ["-<*>", "+<model.c>", "+<model_weights.c>"]
    properties = dict(line.split("=", 1) for line in files["library.properties"].splitlines())
    assert properties["includes"] == "model.h"
    asked = ("name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url")
    assert set(properties) >= {*asked, "architectures"}
    assert "cmake: zephyr\n" in files["zephyr/module.yml"]
    assert "kconfig: zephyr/Kconfig\n" in files["zephyr/module.yml"]


def test_header_goes_into_cpp(tmp_path: Path) -> None:
    need("g++")
    folder = made(small("plain"), tmp_path)
    text = '#include "model.h"\nbt_model m;\nint main() { bt_init(&m); }\n'
    (folder / "sketch.cpp").write_text(text)
    run("g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-c", "sketch.cpp", cwd=folder)


@pytest.mark.ci
def test_the_same_bytes_under_any_hash_seed() -> None:
    program = (
        "import sys; sys.path[:0] = {path!r}\n"
        "import hashlib, torch, test_project as t\n"
        "torch.manual_seed(0)\n"
        "files = t.project_files(t.small('momentum'))\n"
        "print(hashlib.sha256(repr(list(files.items())).encode()).hexdigest())"
    )
    here = Path(__file__).parent
    path = [str(here), str(here.parent / "src")]
    found = {
        subprocess.run(
            [sys.executable, "-c", program.format(path=path)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "77")
    }
    assert len(found) == 1


# ---------------------------------------------------------------- it builds


BUILT = [*(("nrf52840", variant) for variant in VARIANTS), ("rv32imfc", "momentum")]
"""Targets and variants whose folders are built."""


@pytest.mark.sample(test=1, ci=4)
@pytest.mark.parametrize(("target", "variant"), BUILT)
def test_makefile_with_gcc(variant: str, target: str, tmp_path: Path) -> None:
    need("make", GCC[target])
    package = small(variant, target)
    folder = made(package, tmp_path) / "firmware"
    run("make", "EXTRA=-Werror", "all", "session", "hex", cwd=folder)
    assert (folder / "build" / "main.hex").stat().st_size > 1000
    if importlib.util.find_spec("elftools"):
        found = footprint(folder / "build" / "main.elf", package.plan.placed_bytes)
        assert found == replaced(measured(package, project_files(package), "gcc"))
        assert found.rest_bytes == 0


def replaced(found: Any) -> Any:
    """A footprint without the compiler's name."""
    return dataclasses.replace(found, compiler="")


SAMPLE = ("momentum", "batch", "live")
"""Variants that the second compiler builds in every run."""


def sampled(*values: str) -> Any:
    """Parameters whose last one is a variant; those outside the sample are for `make full`."""
    marks = () if values[-1] in SAMPLE else pytest.mark.full
    return pytest.param(*values, marks=marks)


@pytest.mark.sample(test=0, ci=4)
@pytest.mark.parametrize(("target", "variant"), [sampled(*case) for case in BUILT])
def test_makefile_with_zig(variant: str, target: str, tmp_path: Path) -> None:
    need("make", "ziglang")
    folder = made(small(variant, target), tmp_path) / "firmware"
    python = f"PYTHON={sys.executable}"
    run("make", "ZIG=1", python, "EXTRA=-Werror", "all", "session", "hex", cwd=folder)
    assert (folder / "build-zig" / "main.hex").stat().st_size > 1000


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("compiler", ["gcc", "zig"])
@pytest.mark.parametrize("target", GCC)
def test_cmake(compiler: str, target: str, tmp_path: Path) -> None:
    need("cmake", "make", GCC[target] if compiler == "gcc" else "ziglang")
    folder = made(small("momentum", target), tmp_path)
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={compiler}.cmake"
    run("cmake", "-G", "Unix Makefiles", "-S", "firmware", "-B", "build", toolchain, cwd=folder)
    run("cmake", "--build", "build", cwd=folder)
    assert (folder / "build" / "main.elf").exists()
    assert (folder / "build" / "session.elf").exists()


@pytest.mark.sample(test=2, ci=5)
@pytest.mark.parametrize("variant", VARIANTS)
def test_clang_accepts_every_file(variant: str, tmp_path: Path) -> None:
    need("clang")
    folder = made(small(variant), tmp_path)
    arm = ("--target=thumbv7em-none-eabihf", "-mfpu=fpv4-sp-d16", "-ffreestanding", "-fsyntax-only")
    sources = [str(p) for p in sorted(folder.rglob("*.c"))]
    run("clang", *arm, *STRICT, "-I.", "-Ifirmware", *sources, cwd=folder)


# ---------------------------------------------------------------- it takes what the plan says


def windows(package: Package, count: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    shape = package.graph.inputs[0].shape[1:]
    x = rng.standard_normal((count, *shape))
    scaled = x / package.source.input_scale if package.source.input_scale else x
    kind = np.int16 if package.source.input_scale else np.float32
    outputs = package.source.train.outputs[0].size
    if package.source.train.inputs[1].dtype == "f32":
        return scaled.astype(kind), rng.standard_normal((count, outputs)).astype(np.float32)
    return scaled.astype(kind), np.arange(count) % outputs


def check_memory(package: Package, compiler: Any, count: int = 9) -> None:
    """Context, stack and symbols of the session firmware against the plan."""
    x, y = windows(package, count)
    touched, elf = painted_stack(package, x, y, compiler)
    found = footprint(elf, package.plan.context_bytes)
    outputs = package.source.train.outputs[0].size
    assert found.rest == (("session", 32 + 4 * outputs),)  # the mailbox around the context
    data = sum(elf.sections.get(name, (0, 0))[1] for name in (".data", ".bss"))
    assert data == package.plan.context_bytes + found.rest_bytes
    assert elf.sections[".stack"][1] == package.target.stack_bytes
    assert 0 < touched <= found.stack_bytes <= package.target.stack_bytes
    assert found.stack_bytes <= 1.25 * touched + 64  # the call graph is not far above the truth
    assert not {"malloc", "_malloc_r", "calloc", "sbrk", "_sbrk"} & {s.name for s in elf.symbols}


@pytest.mark.sample(test=2, ci=6)
@pytest.mark.parametrize(
    ("compiler", "variant"),
    [*(pytest.param("gcc", v) for v in VARIANTS), *(sampled("zig", v) for v in VARIANTS)],
)
def test_plan_and_firmware_agree(variant: str, compiler: str) -> None:
    need("elftools", "unicorn", GCC["nrf52840"] if compiler == "gcc" else "ziglang")
    check_memory(small(variant), compiler)


def published(name: str, target: str, **options: Any) -> Package:
    shape = bt.models.PAPER[name]
    net = bt.prepare(bt.models.build(name, **shape))
    example = torch.zeros(1, int(shape["n_chans"]), int(shape["n_times"]))
    return bt.compile(net, example, target=target, accumulate=8, **options)


@pytest.mark.sample(test=0, ci=2)
@pytest.mark.parametrize("compiler", ["gcc", "zig"])
@pytest.mark.parametrize("target", ["cortex-m7", "rv32imfc"])
def test_epidenet_takes_what_is_planned(target: str, compiler: str) -> None:
    core = load_target(target).build
    assert core is not None
    need("elftools", "unicorn", core.gcc[0] if compiler == "gcc" else "ziglang")
    check_memory(published("epidenet", target), compiler)


@pytest.mark.sample(test=0, ci=1)
@pytest.mark.parametrize("compiler", ["gcc", "zig"])
def test_mibminet_fits_the_nrf52840(compiler: str) -> None:
    need("elftools", "unicorn", GCC["nrf52840"] if compiler == "gcc" else "ziglang")
    options = {"gradients": "momentum", "input_type": "int16", "input_scale": 0.001}
    check_memory(published("mibminet", "nrf52840", memory="256KiB", **options), compiler, 3)


def test_frames_are_those_of_the_compiler(tmp_path: Path) -> None:
    """Against gcc's own figures, in the `.su` files of -fstack-usage."""
    need("make", "elftools", GCC["nrf52840"])
    for target in GCC:
        need(GCC[target])
        folder = made(small("momentum", target), tmp_path / target) / "firmware"
        run("make", "EXTRA=-fstack-usage", "session", cwd=folder)
        known = functions(folder / "build" / "session.elf")
        compared = 0
        for path in sorted((folder / "build").glob("*.su")):
            for line in path.read_text().splitlines():
                place, size, kind = line.split("\t")
                name = place.rpartition(":")[2]
                if name in known:
                    assert kind == "static", line
                    assert known[name].frame_bytes == int(size), line
                    compared += 1
        assert compared > 10


def test_worst_path() -> None:
    def f(name: str, frame: int, *calls: str, by_pointer: bool = False) -> Function:
        return Function(name, frame, calls, by_pointer)

    known = {
        g.name: g
        for g in (
            f("Reset_Handler", 0, "main"),
            f("main", 8, "a", "b"),
            f("a", 100),
            f("b", 16, by_pointer=True),
            f("callback", 96),
        )
    }
    assert worst_stack(known) == (120, ("Reset_Handler", "main", "b", "callback"))
    known["a"] = f("a", 100, "main")
    with pytest.raises(bt.BioTrainError, match="calls itself"):
        worst_stack(known)


# ---------------------------------------------------------------- the README, and the verbs


def cli(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def figures(text: str, rows: Sequence[str]) -> list[int]:
    return [
        int(re.search(rf"^\| {re.escape(row)} \| \**([\d,]+)", text, re.M)[1].replace(",", ""))  # type: ignore[index]
        for row in rows
    ]


def test_readme_has_the_measured_figures() -> None:
    need("elftools", GCC["nrf52840"])
    package = small("plain")
    files = project_files(package, measure=True)
    text = files["README.md"]
    found = measured(package, files)
    assert found is not None
    assert found.compiler in text
    rows = ("**`bt_model`**", "stack", "**whole RAM**", "flash, bytes", "deepest stack, bytes")
    plan = package.plan
    asked = [plan.context_bytes, plan.stack_bytes, plan.ram_bytes + found.rest_bytes]
    assert figures(text, rows) == [*asked, found.flash_bytes, found.stack_bytes]


def test_readme_says_when_nothing_was_linked() -> None:
    text = project_files(small("plain"))["README.md"]
    assert "As planned: no firmware was linked" in text
    assert "| deepest stack" not in text


def test_readme_says_when_the_stack_is_too_small() -> None:
    package = small("plain")
    deep = Footprint("gcc", 0, 0, package.plan.context_bytes, (), 5000, ("main",))
    assert "The reserve of 4,096 bytes is too small" in readme(package.source, package.target, deep)


def test_compile_writes_a_folder_that_runs(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shape = ("--chans", "4", "--times", "256", "--classes", "3", "--sfreq", "64")
    options = ("--target", "nrf52840", "--strategy", "last", "--json", "-")
    said = json.loads(cli("compile", "epidenet", *shape, *options, "-o", str(folder)))
    listed = {file["name"] for file in said["files"]}
    assert listed == {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    first = json.loads(cli("run", str(folder), "--samples", "2", "--json", "-"))
    assert first["target"] == "nrf52840"
    if importlib.util.find_spec("unicorn") and importlib.util.find_spec("elftools"):
        again = cli("run", str(folder), "--samples", "2", "--on", "emulator", "--json", "-")
        assert json.loads(again)["crc32"] == first["crc32"]


@pytest.mark.ci
def test_compile_makes_firmware_that_lives(tmp_path: Path) -> None:
    shape = ("--chans", "4", "--times", "128", "--classes", "3", "--sfreq", "64")
    live = ("--live", "--hop", "32", "--slice-cycles", "20000", "--target", "nrf52840")
    plain = ("compile", "epidenet", *shape, "-o", str(tmp_path / "out"))
    scale = ("--input-type", "int16", "--input-scale", "0.1")
    plan = json.loads(cli(*plain, *scale, *live, "--json", "-"))["plan"]
    assert plan["longest_slice_cycles"] > 0
    assert plan["ram_bytes"] > plan["live_bytes"] + plan["predict_arena_bytes"]
    assert "bt_live_work" in (tmp_path / "out" / "firmware" / "main.c").read_text()
    for options, message in (((*live,), "input_type='int16'"), (("--hop", "32"), "--live")):
        done = CliRunner().invoke(app, [*plain, *options])
        assert message in str(done.exception)


def test_makefile_warns_as_the_contract_says() -> None:
    files = project_files(small("plain"))
    for name in ("firmware/Makefile", "firmware/CMakeLists.txt"):
        for flag in WARNINGS:
            assert flag in files[name], (name, flag)
    assert "-DBT_NO_CONTRACTION" in files["library.json"]
