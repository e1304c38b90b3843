# SPDX-License-Identifier: Apache-2.0
"""The RTL of CV32E40P and its FPU as C++: verilated, compiled with a bench, cached by content.

The SystemVerilog comes from the PyPI package `pythondata-cpu-cv32e40p` (OpenHW Group, with CVFPU).
A verilated module takes half a minute and is cached apart from the bench, which takes seconds.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from biotrain.errors import CompilerError
from biotrain.run.compiler import cache_folder, temporary, version

PACKAGE = "pythondata_cpu_cv32e40p"
SPLIT = Path(__file__).parent / "cv32e40p" / "split.vlt"

VERILATOR = (
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--noassert",
    "-Wno-fatal",
    "-Wno-lint",
    "-Wno-BLKANDNBLK",  # element 0 of some pipelines is assigned at once, the others at the clock
)
CXX = ("-std=gnu++17", "-fPIC", "-w", "-DVM_COVERAGE=0", "-DVM_TRACE=0")
"""Beyond these, -O2; -O0 for what verilator calls slow, which runs once."""
MODEL_OBJECT = "model.o"


@dataclass(frozen=True)
class Top:
    """A module that becomes a C++ class, and its parameters as `-Gname=value`."""

    module: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Bench:
    """What is built: modules of one SystemVerilog file, and the C++ that clocks them."""

    rtl: Path
    tops: tuple[Top, ...]
    source: Path
    """The one C++ file with the functions that Python calls."""
    headers: tuple[Path, ...] = ()
    """What it includes."""


def missing() -> str | None:
    """What to install before a machine can be built; None if all is there."""
    if find_spec(PACKAGE) is None:
        return "the RTL of the core is missing: pip install pythondata-cpu-cv32e40p"
    if shutil.which("verilator") is None or version(("verilator",)).split()[1] < "5":
        return "verilator 5 is missing: apt-get install verilator"
    if shutil.which("g++") is None:
        return "the C++ compiler is missing: apt-get install g++"
    return None


def library(bench: Bench) -> Path:
    """The shared library of a bench, built or from the cache.

    Raises
    ------
    CompilerError
        where verilator, the RTL or a C++ compiler is missing, or one of them refuses.
    """
    if reason := missing():
        raise CompilerError(reason)
    models = [_model(bench.rtl, top) for top in bench.tops]
    read = (bench.source, *bench.headers)
    parts = [*_versions(), *(model.name for model in models), *map(_content, read)]
    found = cache_folder() / f"{_key(parts)}.so"
    if found.exists():
        return found
    unfinished = temporary(found)
    flags = [*CXX, "-O2", *(f"-I{model}" for model in models), *_runtime()[1]]
    objects = [str(model / MODEL_OBJECT) for model in models]
    with tempfile.TemporaryDirectory(prefix="biotrain-") as name:
        sources = [str(bench.source), *map(str, _runtime()[0])]
        _run(
            ["g++", *flags, "-shared", "-o", str(unfinished), *sources, *objects, "-lpthread"],
            Path(name),
        )
    unfinished.replace(found)
    return found


def _model(rtl: Path, top: Top) -> Path:
    """The folder in the cache with a module's C++ headers and its object."""
    core, includes = _core()
    parts = [*_versions(), VERILATOR, top, *map(_content, (*core, SPLIT, rtl))]
    found = cache_folder() / f"{_key(parts)}.verilated"
    if found.exists():
        return found
    unfinished = temporary(found)
    with tempfile.TemporaryDirectory(prefix="biotrain-") as name:
        folder = Path(name)
        paths = [*(f"+incdir+{path}" for path in includes), *map(str, (SPLIT, *core, rtl))]
        chosen = ["--cc", "--top-module", top.module, *VERILATOR, *top.parameters]
        _run(["verilator", *chosen, "--Mdir", name, *paths], folder)
        _compile(folder)
        unfinished.mkdir()
        for path in sorted(folder.glob("*.h")):
            shutil.copy(path, unfinished)
        shutil.copy(folder / MODEL_OBJECT, unfinished)
    try:
        unfinished.rename(found)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)
    return found


def _compile(folder: Path) -> None:
    """Compile what verilator wrote into the folder into one object."""
    sources = sorted(folder.glob("*.cpp"), key=lambda s: (-s.stat().st_size, s.name))
    flags = [*CXX, "-I.", *_runtime()[1]]
    with ThreadPoolExecutor(2) as pool:  # the jobs are compilers, the threads only wait
        jobs = [
            pool.submit(
                _run,
                ["g++", *flags, "-O0" if "__Slow" in s.name else "-O2", "-c", s.name],
                folder,
            )
            for s in sources
        ]
    for job in jobs:
        job.result()
    objects = [f"{s.stem}.o" for s in sources]
    _run(["g++", "-r", "-nostdlib", "-o", MODEL_OBJECT, *objects], folder)


@lru_cache
def _runtime() -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Sources of verilator's own run time, and the flags that find its headers."""
    command = ["verilator", "--getenv", "VERILATOR_ROOT"]
    root = Path(_run(command, Path.cwd()).strip()) / "include"
    sources = (root / "verilated.cpp", root / "verilated_threads.cpp")
    return sources, (f"-I{root}", f"-I{root / 'vltstd'}")


def _versions() -> tuple[object, ...]:
    return CXX, version(("g++",)), version(("verilator",))


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _key(parts: Sequence[object]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _core() -> tuple[list[Path], list[Path]]:
    """Files and include folders of the core and its FPU, from the package's own list."""
    spec = find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent / "system_verilog"
    files, includes = [], []
    for line in (root / "cv32e40p_fpu_manifest.flist").read_text(encoding="utf-8").splitlines():
        line = line.strip().replace("${DESIGN_RTL_DIR}", str(root / "rtl"))
        if line.startswith("+incdir+"):
            includes.append(Path(line.removeprefix("+incdir+")))
        elif line.endswith((".sv", ".v")) and not line.startswith("//"):
            files.append(Path(line))
    # A wrapper and a tracer for simulation, and a clock gate: the bench has what stands for them.
    not_used = ("cv32e40p_tb_wrapper", "cv32e40p_tracer_pkg", "cv32e40p_sim_clock_gate")
    return [path for path in files if path.stem not in not_used], includes


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [s for s in done.stderr.splitlines() if "rror" in s] or done.stderr.splitlines()
        first = lines[0] if lines else f"exit code {done.returncode}"
        raise CompilerError(f"{command[0]} cannot build the core: {first}")
    return done.stdout
