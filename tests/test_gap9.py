# SPDX-License-Identifier: Apache-2.0
"""The project for GAP9's SDK: built against a stand-in of the SDK's interface (`tests/pmsis`), run
with threads as its workers, with the bits of one worker on the host."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import biotrain as bt
from biotrain.errors import BioTrainError, DoesNotFitError
from biotrain.frontend.live import Live
from biotrain.run.compiler import find_compiler
from biotrain.run.project import project_files

CHANS, TIMES, CLASSES, WINDOWS, NEXT = 2, 128, 11, 5, 2
STUB = Path(__file__).parent / "pmsis"
FLAGS = ("-std=gnu99", "-O2", "-fno-math-errno", "-ffp-contract=off", "-D__GAP9__", "-pthread")
STRICT = ("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wdouble-promotion")

BOARD = """
#include "board.h"
#include <stdio.h>
static void make(uint32_t index, float *x)
{
  for (int i = 0; i < BT_INPUT_ROWS * BT_INPUT_TIMES; i++)
    x[i] = (float)((int)((i * 7919 + (int)index * 104729) % 2003) - 1001) / 500.0f;
}
uint32_t stored_windows(void) { return WINDOWS; }
void stored_window(uint32_t index, float *x, int32_t *label)
{
  make(index, x);
  *label = (int32_t)(index % BT_OUTPUTS);
}
int next_window(float *x)
{
  static uint32_t given = 0;
  make(WINDOWS + given, x);
  return given++ < NEXT;
}
void predicted(const float *logits)
{
  for (int i = 0; i < BT_OUTPUTS; i++)
    printf("%a ", (double)logits[i]);
  printf("\\n");
}
void refused(bt_status status) { printf("refused %d\\n", (int)status); }
"""


def package(**more: Any) -> bt.Package:
    """EpiDeNet with GroupNorm."""
    torch.manual_seed(0)
    net = bt.prepare(bt.models.build("epidenet", CHANS, TIMES, CLASSES, 500.0))
    sgd = bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3)
    options = {"target": "gap9", "optimizer": sgd, "gradients": "momentum", "accumulate": 2} | more
    return bt.compile(net, torch.zeros(1, CHANS, TIMES), **{"accumulate": 1, **options})


def window(index: int) -> npt.NDArray[np.float32]:
    """What `make` of the board's C makes."""
    i = np.arange(CHANS * TIMES)
    numbers = (i * 7919 + index * 104729) % 2003 - 1001
    return (numbers.astype(np.float32) / np.float32(500)).reshape(CHANS, TIMES)


def built(pkg: bt.Package, folder: Path, *more: str) -> Path:
    """The program of an emitted project, with the board's part above."""
    if find_compiler() != ("gcc",):
        pytest.skip("gcc speaks the dialect of the SDK's compiler")
    project = project_files(pkg)
    for name, text in {**pkg.files, **project}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "gap9" / "board.c").write_text(BOARD, encoding="utf-8")
    cmake = project["gap9/CMakeLists.txt"]
    listed = re.search(r"add_executable\(\$\{TARGET_NAME\} (.*)\)", cmake)
    assert listed
    sources = [str(folder / "gap9" / name) for name in listed[1].split()]
    around = (f"-I{STUB}", f"-I{folder}", f"-I{folder / 'gap9'}", f"-DWINDOWS={WINDOWS}")
    program = folder / "program"
    stacks = re.findall(r"(BT_\w*STACK_BYTES=\d+)", cmake)
    assert len(stacks) == 2
    port = ("-DBT_PORT=BT_PORT_PMSIS", *(f"-D{stack}" for stack in stacks))
    flags = (*FLAGS, *STRICT, *port, f"-DNEXT={NEXT}", *more, *around)
    files = (*sources, str(STUB / "pmsis.c"), "-lm", "-o", str(program))
    subprocess.run(["gcc", *flags, *files], check=True)
    return program


def expected(pkg: bt.Package) -> list[str]:
    """The predictions of the same program on the host."""
    device = pkg.run("host")
    x = np.stack([window(i) for i in range(WINDOWS)])
    epochs, groups = 10, -(-WINDOWS // pkg.source.accumulate)
    device.begin(epochs * groups, 5e-3)
    for _ in range(epochs):
        device.train(x, np.arange(WINDOWS) % CLASSES)
    logits = device.predict(np.stack([window(WINDOWS + i) for i in range(NEXT)]))
    return [" ".join(float(v).hex() for v in row) for row in logits]


def said(program: Path) -> list[str]:
    """Lines of the program, numbers as Python writes them."""
    out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    *rows, last = out.splitlines()
    return [" ".join(float.fromhex(v).hex() for v in row.split()) for row in rows] + [last]


@pytest.mark.parametrize("workers", [8, 3, 1])
def test_the_project_has_the_bits_of_the_host(workers: int, tmp_path: Path) -> None:
    pkg = package(workers=workers)
    *rows, last = said(built(pkg, tmp_path))
    host = package(workers=1, target="host", fused=True)
    assert rows == expected(host)
    # One fork a window that is trained, a step, or a window that is predicted.
    forks = (10 * (WINDOWS + 3) + NEXT) if workers > 1 else 0
    assert last == f"forked {forks} at 370000000 Hz, 800 mV"


def test_clock_and_voltage_have_names(tmp_path: Path) -> None:
    """The stand-in ends a program that asks for a clock before its voltage."""
    program = built(package(), tmp_path, "-DBT_POINT=BT_240MHZ_650MV")
    assert said(program)[-1].endswith("at 240000000 Hz, 650 mV")


def test_what_does_not_fit_into_the_cluster_is_refused() -> None:
    net = bt.prepare(bt.models.build("mibminet", 8, 1900, 2, 250.0))
    with pytest.raises(DoesNotFitError, match="gap9"):
        bt.compile(net, torch.zeros(1, 8, 1900), target="gap9", accumulate=1)


def test_more_workers_than_there_are_are_refused() -> None:
    with pytest.raises(BioTrainError, match="from 1 to 8, not 16; gap9 has no more"):
        package(workers=16)


def test_floats_in_integer_registers_are_known_by_the_compilers_name(tmp_path: Path) -> None:
    """GAP9's compiler has no `__riscv_zfinx`: its kernels have the tiles of that core."""
    for name, text in package().files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    probe = '#include "bt_conv_block.h"\nBT_WIDE_OUTPUTS BT_SAMPLE_RING BT_LEAF_RING\n'
    (tmp_path / "probe.c").write_text(probe, encoding="utf-8")

    def tiles(*defined: str) -> str:
        flags = ("-E", "-P", "-DBT_FUSED=1", *defined, "probe.c")
        done = subprocess.run(["gcc", *flags], cwd=tmp_path, check=True, stdout=subprocess.PIPE)
        return done.stdout.decode().splitlines()[-1]

    gap9 = tiles("-D__GAP9__")
    assert gap9 == tiles("-D__GAP9__", "-D__riscv_flen=32") == tiles("-D__riscv_zfinx")
    assert gap9 != tiles("-D__riscv_flen=32")


def test_live_is_refused_in_one_line() -> None:
    live = Live(hop=64, store_pages=8, epochs=10)
    with pytest.raises(BioTrainError, match="live has no project for gap9"):
        package(workers=1, live=live, input_type="int16", input_scale=0.01)


def test_the_plan_counts_the_stacks_and_shares_the_time() -> None:
    """Eight workers take between an eighth of one worker's time and all of it."""
    eight, one = package().plan, package(workers=1).plan
    assert (eight.stack_bytes, one.stack_bytes) == (9 * 1296, 2 * 1296)  # the controller's, too
    assert one.cycles / 8 < eight.cycles < one.cycles
    assert eight.ms_per_sample == pytest.approx(eight.cycles / 370e3)
