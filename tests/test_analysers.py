# SPDX-License-Identifier: Apache-2.0
"""Static analysers over emitted packages, and TSan over two models that train in two threads."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import biotrain as bt
from biotrain.frontend import FrontEnd

pytestmark = pytest.mark.ci

TIDY = {
    "bugprone-easily-swappable-parameters": (
        "kernels take indices side by side, r0, r1, t0, t1; structures cost registers"
    ),
    "bugprone-implicit-widening-of-multiplication-result": (
        "products of indices into the arena fit int32, for the planner bounds the arena's bytes; "
        "wider products would cost cycles on the host and change nothing on 32-bit cores"
    ),
    "bugprone-macro-parentheses": (
        "arguments of BT_UNROLLED, BT_EACH_... and of kernels made by macros are types, names that "
        "are declared and lists of statements, which take no parentheses"
    ),
}
"""Checks of clang-tidy that are off, and why."""
CPPCHECK = {
    "invalidPointerCast": "the arena holds floats or int16 by plan; both are aligned to 4 bytes",
}
"""Messages of cppcheck that are suppressed, and why."""


def package(name: str, shape: tuple[int, int, int], norm: str, **options: Any) -> bt.Package:
    """A built-in network with fixed weights at a small shape."""
    torch.manual_seed(0)
    net = bt.prepare(bt.models.build(name, *shape, 200.0), norm=norm)
    return bt.compile(
        net, torch.zeros(1, *shape[:2]), target="nrf52840", **{"accumulate": 1, **options}
    )


MOMENTUM = bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3, schedule="cosine")
INT16: dict[str, Any] = {"input_type": "int16", "input_scale": 0.1}


@cache
def live() -> bt.Package:
    """Firmware around a network, with store, slots and sessions."""
    options = {"live": bt.Live(hop=100, store_pages=4, epochs=10), "optimizer": MOMENTUM, **INT16}
    return package("epidenet", (2, 400, 3), "frozen", **options)


@cache
def filtered() -> bt.Package:
    """The same behind a front end."""
    front = FrontEnd(200.0, 2, 400, 100, bandpass=(20.0, 90.0), scale=0.5, unit=0.1)
    options = {
        "live": bt.Live(front=front, store_pages=4, epochs=10),
        "optimizer": MOMENTUM,
        **INT16,
    }
    return package("epidenet", (2, 400, 3), "frozen", **options)


@cache
def small() -> bt.Package:
    """A plan with windows that are streamed, for int16 input."""
    return package("eegnet", (4, 128, 2), "group", memory="40KiB", optimizer=MOMENTUM, **INT16)


@cache
def prefixed() -> bt.Package:
    """A model whose names have a prefix."""
    return package("epidenet", (2, 400, 3), "group", prefix="emg_", optimizer=bt.Adam(lr=1e-3))


LIVE = ("live.c", "live_learn.c", "live_sessions.c")
UNITS = [(live, (*LIVE, "model.c")), (small, ("model.c",)), (prefixed, ("emg_model.c",))]
"""Packages, and the sources of each that are analysed."""


def needs(tool: str) -> None:
    """Skip where a tool is missing."""
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")


def written(pkg: bt.Package, folder: Path) -> Path:
    """The C of a package, in a folder."""
    for name, text in pkg.files.items():
        if name.endswith((".c", ".h")):
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def said(command: Sequence[str], folder: Path) -> str:
    """What a command that must succeed says."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize(("pkg", "units"), UNITS, ids=["live", "small", "prefix"])
def test_gcc_finds_nothing(pkg: Any, units: tuple[str, ...], tmp_path: Path) -> None:
    needs("gcc")
    written(pkg(), tmp_path)
    flags = ["-std=c99", "-O1", "-ffp-contract=off", "-fanalyzer", "-Werror"]
    for unit in units:
        said(["gcc", *flags, "-c", unit, "-o", "unit.o"], tmp_path)


@pytest.mark.parametrize(("pkg", "units"), UNITS, ids=["live", "small", "prefix"])
def test_clang_tidy_finds_nothing(pkg: Any, units: tuple[str, ...], tmp_path: Path) -> None:
    needs("clang-tidy")
    written(pkg(), tmp_path)
    checks = ["-*", "bugprone-*", "cert-*", "clang-analyzer-*", *(f"-{name}" for name in TIDY)]
    flags = [f"-checks={','.join(checks)}", "--header-filter=.*", "--warnings-as-errors=*"]
    said(["clang-tidy", "--quiet", *flags, *units, "--", "-std=c99"], tmp_path)


USER = """
#include "live.h"
#include "model.h"
static bt_live live;
int main(int argc, char **)
{
  return argc > 1 ? (int)bt_live_work(&live, 1000u) + (int)bt_step(&live.model) : 0;
}
"""


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("pkg", [live, filtered], ids=["live", "filtered"])
def test_cxx_takes_the_headers(pkg: Any, compiler: str, tmp_path: Path) -> None:
    """A program in C++ includes both headers without a warning, and finds the C's functions."""
    needs(compiler)
    cxx = {"gcc": "g++", "clang": "clang++"}[compiler]
    needs(cxx)
    written(pkg(), tmp_path)
    (tmp_path / "user.cpp").write_text(USER)
    sources = [path.name for path in tmp_path.glob("*.c")]
    said([compiler, "-std=c99", "-O0", "-Dalways_inline=unused", "-w", "-c", *sources], tmp_path)
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
    plain = pkg is live  # the headers of a front end have hexadecimal floats, which are C++17's
    for standard in ("c++98", "c++17") if plain else ("c++17",):
        said([cxx, f"-std={standard}", *warnings, "-c", "user.cpp"], tmp_path)
    objects = [path.name for path in tmp_path.glob("*.o")]
    said([cxx, *objects, "-o", "user", "-lm"], tmp_path)


def test_cppcheck_finds_nothing(tmp_path: Path) -> None:
    """One configuration of the macros: with every one, a model takes minutes."""
    needs("cppcheck")
    for name, pkg in {"live": live(), "small": small()}.items():
        (tmp_path / name).mkdir()
        written(pkg, tmp_path / name)
    flags = [
        "-q",
        "--max-configs=1",
        "--std=c99",
        "--enable=warning,portability,performance",
        "--error-exitcode=1",
    ]
    flags += [f"--suppress={name}" for name in CPPCHECK]
    said(
        ["cppcheck", *flags, *(f"live/{n}" for n in LIVE), "live/model.c", "small/model.c"],
        tmp_path,
    )


THREADS = """
#include <pthread.h>
#include <stdio.h>
#include "emg_model.h"
#include "eeg_model.h"

static emg_model emg;
static eeg_model eeg;

#define TRAINS(name, NAME)                                                                    \\
  static void *train_##name(void *status)                                                     \\
  {                                                                                           \\
    float loss;                                                                               \\
    name##_init(&name);                                                                       \\
    for (int i = 0; i < 3; i++) {                                                             \\
      for (int j = 0; j < NAME##_INPUT_ROWS * NAME##_INPUT_TIMES; j++)                        \\
        name##_window(&name)[j] = (float)((j * 37 + i * 11) % 64) * 0x1p-5f - 1.0f;           \\
      *(int *)status |= (int)name##_train_sample(&name, name##_window(&name), i % 2, &loss);  \\
      *(int *)status |= (int)name##_step(&name);                                              \\
    }                                                                                         \\
    return NULL;                                                                              \\
  }
TRAINS(emg, EMG)
TRAINS(eeg, EEG)

int main(int argc, char **argv)
{
  pthread_t one, two;
  int status[2] = {0, 0};
  (void)argv;
  if (argc > 1) { /* one after the other */
    train_emg(&status[0]);
    train_eeg(&status[1]);
  } else if (pthread_create(&one, NULL, train_emg, &status[0]) != 0 ||
             pthread_create(&two, NULL, train_eeg, &status[1]) != 0 ||
             pthread_join(one, NULL) != 0 || pthread_join(two, NULL) != 0)
    return 2;
  printf("%d %08lx %08lx\\n", status[0] | status[1], (unsigned long)emg_weights_crc32(&emg),
         (unsigned long)eeg_weights_crc32(&eeg));
  return 0;
}
"""


def test_two_models_train_in_two_threads(tmp_path: Path) -> None:
    """TSan sees no race, and the weights are those of one thread."""
    needs("gcc")
    written(package("epidenet", (2, 400, 3), "group", prefix="emg_"), tmp_path)
    written(package("mibminet", (4, 160, 2), "group", prefix="eeg_"), tmp_path)
    (tmp_path / "threads.c").write_text(THREADS)
    sources = sorted(path.name for path in tmp_path.glob("*.c"))
    flags = ["-std=c99", "-O1", "-g", "-ffp-contract=off", "-fno-math-errno", "-fsanitize=thread"]
    command = ["gcc", *flags, *sources, "-o", "threads", "-pthread", "-lm"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "tsan" in built.stderr:
        pytest.skip("this gcc has no TSan (libtsan)")
    assert built.returncode == 0, built.stderr
    together = said(["./threads"], tmp_path)
    assert together.startswith("0 ")
    assert together == said(["./threads", "alone"], tmp_path)
