# SPDX-License-Identifier: Apache-2.0
"""The C compiler of this machine: gcc, clang, or the one in the `ziglang` package."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from biotrain.errors import CompilerError

STRICT = (
    "-std=c99",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wdouble-promotion",
    "-Wshadow",
    "-Werror",
)
"""The contract's warnings (design 5)."""

NUMERICS = ("-fno-math-errno", "-ffp-contract=off")
"""Flags that keep the bits: no contraction but the `fmaf` that is written."""


@lru_cache
def find_compiler() -> tuple[str, ...]:
    """The command of the compiler: `BIOTRAIN_CC`, else gcc, clang, or `python -m ziglang cc`."""
    if chosen := os.environ.get("BIOTRAIN_CC"):
        return tuple(chosen.split())
    for name in ("gcc", "clang"):
        if shutil.which(name):
            return (name,)
    if find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc")
    raise CompilerError("no C compiler found: install gcc or clang, or `pip install biotrain[zig]`")


def cache_folder() -> Path:
    """The folder of built libraries: `BIOTRAIN_CACHE`, else one in the user's cache.

    `BIOTRAIN_CACHE=off`: a folder that goes with this process. It may be deleted at any time.
    """
    if chosen := os.environ.get("BIOTRAIN_CACHE"):
        return Path(_temporary_folder().name if chosen == "off" else chosen)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "biotrain"


@lru_cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="biotrain-cache-")


def further_flags() -> tuple[str, ...]:
    """`BIOTRAIN_CFLAGS`: what stands after BioTrain's own flags where C is built to run here.

    `-O0 -Dalways_inline=unused` builds a package in a fourth of the time; the bits stay.
    """
    return tuple(os.environ.get("BIOTRAIN_CFLAGS", "").split())


def run_compiler(command: Sequence[str], cwd: Path) -> None:
    """Run a compiler; the first error that it prints is raised as CompilerError."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompilerError(f"cannot run '{command[0]}': {error.strerror}") from error
    if done.returncode:
        lines = [s for s in done.stderr.splitlines() if "error" in s] or done.stderr.splitlines()
        first = lines[0] if lines else f"exit code {done.returncode}"
        raise CompilerError(f"{command[0]} refused the generated C: {first}")


def shared_library(
    files: Mapping[str, str], flags: Sequence[str], compiler: Sequence[str] | None = None
) -> Path:
    """Build all `.c` files into one shared library, cached by the content of what goes in.

    Each `.c` file is an object of its own, which depends on the headers that it includes: new
    weights do not recompile the schedule. What is missing is compiled side by side, and appears
    whole or not at all, so that several processes may build the same at once.
    """
    command = tuple(compiler or find_compiler())
    key = _content(command, flags, files)
    if (known := _libraries.get(key)) is not None and known.exists():
        return known
    library = _shared_library(files, flags, command)
    _libraries[key] = library
    return library


_libraries: dict[str, Path] = {}
"""Libraries that this process has asked for, by command, flags and files: opening a device again
neither looks for included headers nor starts threads."""


def _content(command: Sequence[str], flags: Sequence[str], files: Mapping[str, str]) -> str:
    """A hash of what goes into a library, and of the folder that it is built in."""
    found = hashlib.sha256(repr((command, tuple(flags), str(cache_folder()))).encode())
    for name in sorted(files):
        text = files[name].encode()
        found.update(f"\0{name}\0{len(text)}\0".encode())
        found.update(text)
    return found.hexdigest()


def _shared_library(
    files: Mapping[str, str], flags: Sequence[str], command: tuple[str, ...]
) -> Path:
    """The library, from objects that are built or cached."""
    machine = _machine(command)
    folder = cache_folder()
    sources = sorted(name for name in files if name.endswith(".c"))

    def build(name: str) -> Path:
        parts = [files[f] for f in (name, *_included(files, name))]
        return _object(command, flags, files, name, _key(command, flags, machine, *parts))

    with ThreadPoolExecutor(max_workers=len(sources)) as pool:
        objects = list(pool.map(build, sources))
    key = _key(command, flags, machine, "shared", *[o.stem for o in objects])
    linked = [flag for flag in flags if flag == "-pthread"]
    library = folder / f"{key}.so"
    if not library.exists():
        unfinished = temporary(library)
        run_compiler(
            [*command, "-shared", *linked, "-o", str(unfinished), *[str(o) for o in objects]],
            library.parent,
        )
        unfinished.replace(library)
    return library


def _included(files: Mapping[str, str], name: str) -> list[str]:
    """The headers among the files that a file includes, directly or through others, sorted."""
    found: dict[str, None] = {}
    waiting = [name]
    while waiting:
        for header in re.findall(r'^ *#include "([^"]+)"', files[waiting.pop()], re.M):
            if header in files and header not in found:
                found[header] = None
                waiting.append(header)
    return sorted(found)


def _object(
    command: Sequence[str], flags: Sequence[str], files: Mapping[str, str], name: str, key: str
) -> Path:
    target = cache_folder() / f"{key}.o"
    if target.exists():
        return target
    unfinished = temporary(target)
    with tempfile.TemporaryDirectory(prefix="biotrain-") as folder:
        for other, text in files.items():
            if other.endswith(".h") or other == name:
                Path(folder, other).write_text(text, encoding="utf-8")
        run_compiler([*command, *flags, "-c", "-o", str(unfinished), name], Path(folder))
    unfinished.replace(target)
    return target


def temporary(target: Path) -> Path:
    """A name in the same folder, so that the finished file appears whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CompilerError(
            f"cannot write the cache '{target.parent}': {error.strerror}; set BIOTRAIN_CACHE"
        ) from error
    return target.with_suffix(f".{uuid.uuid4().hex}{target.suffix}")


@lru_cache
def version(command: tuple[str, ...]) -> str:
    """The text that a compiler prints for `--version`."""
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, check=False)
    except OSError as error:
        raise CompilerError(f"cannot run '{command[0]}': {error.strerror}") from error
    return done.stdout.decode(errors="replace")


@lru_cache
def _machine(command: tuple[str, ...]) -> str:
    """A hash of the compiler's version and of this CPU's instruction set."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    flags = next((s for s in lines if s.startswith(("flags", "Features"))), platform.machine())
    return hashlib.sha256((version(command) + flags).encode()).hexdigest()


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
