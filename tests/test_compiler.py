# SPDX-License-Identifier: Apache-2.0
"""The cache of built libraries: by content, for several processes, and none."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from _small import tiny

import biotrain as bt
from biotrain.errors import CompilerError
from biotrain.frontend import FrontEnd
from biotrain.run import compiler
from biotrain.run.compiler import cache_folder, shared_library
from biotrain.run.front_stream import FrontStream
from biotrain.run.host import OPTIMISED

FILES = {
    "unused.h": "#define UNUSED 1\n",
    "number.h": "#define NUMBER 7\n",
    "through.h": '#include "number.h"\n',
    "a.c": '#include "through.h"\nextern int a(void);\nint a(void) { return NUMBER; }\n',
    "b.c": "extern int b(void);\nint b(void) { return 2; }\n",
}
FLAGS = ("-O1", "-fPIC")

BUILD = f"""
from biotrain.run.compiler import shared_library
print(shared_library({FILES!r}, {FLAGS!r}))
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BIOTRAIN_CACHE", str(tmp_path))
    return tmp_path


def number(path: Path) -> int:
    return int(ctypes.CDLL(str(path)).a())


def test_what_went_in_is_built_once_and_what_changed_is_built_again(cache: Path) -> None:
    first = shared_library(FILES, FLAGS)
    built = {p.name: p.stat().st_mtime_ns for p in cache.iterdir()}
    assert number(first) == 7
    assert shared_library(FILES, FLAGS) == first
    assert {p.name: p.stat().st_mtime_ns for p in cache.iterdir()} == built
    assert shared_library({**FILES, "unused.h": "#define UNUSED 2\n"}, FLAGS) == first
    other = shared_library({**FILES, "number.h": "#define NUMBER 8\n"}, FLAGS)
    assert number(other) == 8
    assert len([p for p in cache.iterdir() if p.suffix == ".o"]) == 3  # b.c only once
    assert shared_library(FILES, (*FLAGS, "-DX")) not in (first, other)


def test_processes_that_build_the_same_at_once_find_one_whole_library(cache: Path) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", BUILD], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    paths = {p.communicate(timeout=120)[0].strip() for p in running}
    assert all(p.returncode == 0 for p in running)
    assert len(paths) == 1
    assert number(Path(paths.pop())) == 7
    assert sorted(p.suffix for p in cache.iterdir()) == [".o", ".o", ".so"]


def test_off_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOTRAIN_CACHE", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert number(shared_library(FILES, FLAGS)) == 7
    assert not list(tmp_path.iterdir())
    script = f"from biotrain.run.compiler import cache_folder\nprint(cache_folder())\n{BUILD}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert cache_folder() != Path(done.stdout.split()[0])
    assert not Path(done.stdout.split()[0]).exists()


def test_a_library_that_this_process_has_is_found_without_a_search(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that is opened again neither looks for included headers nor starts threads."""
    first = shared_library(FILES, FLAGS)
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "_shared_library", None)
        assert shared_library(dict(reversed(FILES.items())), list(FLAGS)) == first
        for files, flags in (
            ({**FILES, "number.h": "#define NUMBER 9\n"}, FLAGS),
            (FILES, (*FLAGS, "-DX")),
        ):
            with pytest.raises(TypeError):
                shared_library(files, flags)
    assert number(shared_library({**FILES, "number.h": "#define NUMBER 9\n"}, FLAGS)) == 9


def test_a_library_that_was_deleted_is_built_again(cache: Path) -> None:
    first = shared_library(FILES, FLAGS)
    first.unlink()
    assert shared_library(FILES, FLAGS) == first
    assert number(first) == 7


def test_every_cache_folder_has_libraries_of_its_own(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shared_library(FILES, FLAGS)
    monkeypatch.setenv("BIOTRAIN_CACHE", str(tmp_path / "other"))
    other = shared_library(FILES, FLAGS)
    assert (first.parent, other.parent) == (cache, tmp_path / "other")


def test_own_flags_reach_every_build_of_this_machine(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come after BioTrain's; flags that are asked for in Python stand alone."""
    monkeypatch.setenv("BIOTRAIN_CFLAGS", "-O0 -include not_there.h")
    plain = bt.compile(tiny(2, 33, 2), torch.zeros(1, 2, 33), accumulate=1)
    with pytest.raises(CompilerError, match=r"not_there\.h"):
        plain.run("host")
    plain.run("host", flags=(*OPTIMISED, "-O0", "-Dalways_inline=unused"))
    with pytest.raises(CompilerError, match=r"not_there\.h"):
        FrontStream(FrontEnd(200.0, 2, 64, 16, bandpass=(1.0, 40.0)))
    monkeypatch.delenv("BIOTRAIN_CFLAGS")
    assert compiler.further_flags() == ()
