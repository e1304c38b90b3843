# SPDX-License-Identifier: Apache-2.0
"""Compile C for the tests and load it."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from biotrain.emit import RUNTIME_FILES, kernel_sources
from biotrain.ops import SOURCES

RUNTIME = Path(__file__).resolve().parents[1] / "src" / "biotrain" / "rt"

WARNINGS = ("all", "extra", "pedantic", "conversion", "double-promotion", "shadow", "error")
STRICT = ["-std=c99", "-fno-math-errno", *(f"-W{warning}" for warning in WARNINGS)]

_own = tempfile.TemporaryDirectory(prefix="biotrain-tests-")
BUILDS = Path(os.environ.get("BIOTRAIN_TEST_BUILDS", _own.name))
"""Shared by the workers of a run (conftest.py); a program that is no test has its own."""


class CompileError(Exception):
    """The compiler refused; the message is its own."""


@cache
def compilers() -> tuple[str, ...]:
    """Those of "gcc" and "zig" (clang from the ziglang package) that are here."""
    found = ["gcc"] if shutil.which("gcc") else []
    if importlib.util.find_spec("ziglang"):
        found.append("zig")
    return tuple(found)


def fused_flags() -> tuple[str, ...]:
    """Flags for BT_FUSED=1 on this machine; it may lack the instruction (see `has_fma`)."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return ("-DBT_FUSED=1", "-mfma") if x86 else ("-DBT_FUSED=1",)


@cache
def has_fma() -> bool:
    """Whether the machine that runs the tests has a fused multiply-add."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return platform.machine().lower() in ("aarch64", "arm64")
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and " fma " in cpuinfo.read_text()


def has_instructions(name: str) -> bool:
    """Whether this is an x86 machine with an instruction set, such as "avx2"."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and f" {name} " in cpuinfo.read_text()


def kernel_texts(*stems: str) -> dict[str, str]:
    """The runtime's files and the headers of some kernels, with what they include, by name."""
    texts = {name: (RUNTIME / name).read_text(encoding="utf-8") for name in RUNTIME_FILES}
    for stem in kernel_sources(list(stems)):
        texts[stem] = (SOURCES / stem).read_text(encoding="utf-8")
    return texts


def write_kernels(folder: Path, *stems: str) -> None:
    """The same as files in a folder."""
    for name, text in kernel_texts(*stems).items():
        (folder / name).write_text(text, encoding="utf-8")


def shared_library(
    sources: str | Sequence[Path], flags: Sequence[str] = (), compiler: str = "gcc"
) -> ctypes.CDLL:
    """Compile C text, or C files, strictly with `flags` and load the result.

    `compiler` is "gcc" or "zig". The same text and flags are compiled once in a test run.
    Raises CompileError with the compiler's words.
    """
    command = [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=all"]
    command = command if compiler == "zig" else [compiler]
    command = [*command, *STRICT, "-fPIC", "-shared", f"-I{RUNTIME}", *flags]
    texts = [sources] if isinstance(sources, str) else [str(path) for path in sources]
    if not isinstance(sources, str):
        texts += [path.read_text() for path in sources]
    key = hashlib.sha256("\0".join([*command, *texts]).encode()).hexdigest()[:24]
    library = BUILDS / f"{key}.so"
    if not library.exists():
        unfinished = library.with_suffix(
            f".{uuid.uuid4().hex}.so"
        )  # another worker may build it too
        if isinstance(sources, str):
            source = unfinished.with_suffix(".c")
            source.write_text(sources)
            sources = [source]
        done = subprocess.run(
            [*command, *map(str, sources), "-o", str(unfinished)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CompileError(done.stderr)
        unfinished.replace(library)
    return ctypes.CDLL(str(library))


def compiler_notes(text: str, flags: Sequence[str]) -> str:
    """What gcc says about C text that it accepts, such as -fopt-info notes."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "notes.c"
        source.write_text(text)
        command = ["gcc", *STRICT, f"-I{RUNTIME}", *flags, "-c", str(source)]
        command += ["-o", str(source.with_suffix(".o"))]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr
