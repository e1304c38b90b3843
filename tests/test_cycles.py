# SPDX-License-Identifier: Apache-2.0
"""Cycle tables against the sequences in the manuals; profiles against their totals."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from _thumb import Thumb, build, need_emulator

import biotrain as bt
from biotrain.errors import BioTrainError
from biotrain.run import mca
from biotrain.run.cycles import Cycles, cycles
from biotrain.run.decode import KINDS, Instruction, decode
from biotrain.run.elf import Elf
from biotrain.run.emulator import EmulatorDevice
from biotrain.run.histogram import Histogram
from biotrain.run.lines import Lines
from biotrain.run.op_cycles import cycles_per_op, measured
from biotrain.run.pipeline import block_cycles, branch_cycles, load_table
from biotrain.run.profile import functions, profile
from biotrain.run.symbols import Program

CORES = ("cortex-m4f", "cortex-m33", "cortex-m7", "cortex-m55")

needs_capstone = pytest.mark.skipif(
    not importlib.util.find_spec("capstone"), reason="the package 'capstone' is not installed"
)


def code(*halves: int) -> bytes:
    return b"".join(half.to_bytes(2, "little") for half in halves)


def spent(core: str, *halves: int, looped: bool = False) -> float:
    return sum(block_cycles(decode(code(*halves), 0x100), load_table(core), looped))


@needs_capstone
def test_decode() -> None:
    block = decode(
        code(
            *(0xEEA0, 0x0A81),  # vfma.f32 s0, s1, s2
            *(0xECB0, 0x0A08),  # vldmia r0!, {s0-s7}
            0xBFC8,  # it gt
            *(0xEE30, 0x0A81),  # vaddgt.f32 s0, s1, s2
            *(0xF851, 0x0022),  # ldr.w r0, [r1, r2, lsl #2]
            *(0xED91, 0x0B00),  # vldr d0, [r1]
            *(0xEEF1, 0xFA10),  # vmrs apsr_nzcv, fpscr
            0xBD10,  # pop {r4, pc}
        ),
        0x1000,
    )
    assert [one.kind for one in block] == [
        "fp_fma",
        "fp_load_multiple",
        "it",
        "fp_alu",
        "load",
        "fp_load_double",
        "fp_move",
        "load_multiple",
    ]
    assert [one.address - 0x1000 for one in block] == [0, 4, 8, 10, 14, 18, 22, 26]
    fma, several, _, add, load, double, _, pop = block
    assert fma.reads == ("s0", "s1", "s2")
    assert fma.writes == ("s0",)
    assert several.count == 8
    assert several.at == ("r0",)
    assert "s7" in several.writes
    assert add.conditional
    assert not fma.conditional
    assert load.at == ("r1", "r2")
    assert load.writes == ("r0",)
    assert double.writes == ("s0", "s1")
    assert pop.jumps == "indirect"
    assert pop.count == 2


@needs_capstone
def test_decode_of_armv81() -> None:
    """Loops with low overhead, conditional select and vectors, which capstone 5 does not know."""
    block = decode(
        code(
            *(0xF040, 0xE001),  # dls lr, r0
            *(0xEA51, 0x8002),  # csel r0, r1, r2, eq
            *(0xECB0, 0x1F04),  # vldrw.u32 q0, [r0], #16
            *(0xF00F, 0xC807),  # le lr, 14 bytes before
        ),
        0x64,
    )
    assert [one.kind for one in block] == ["alu", "alu", "vector", "branch"]
    assert block[-1].target == 0x70 + 4 - 14


# What TI SWCU185 ("Instruction set timing") prints for pairs, and the tables say for one.
SEQUENCES = [
    ("LDR R0,[R1]; LDR R1,[R2]", (0x6808, 0x6811), 3),
    ("LDR R0,[R1,R2]; STR R0,[R3,#20]", (0x5888, 0x6158), 3),
    ("LDR R0,[R1,R2]; STR R1,[R3,R2]", (0x5888, 0x5099), 3),
    ("LDR R0,[R1,R5]; LDR R1,[R2]; LDR R2,[R3,#4]", (0x5948, 0x6811, 0x685A), 4),
    ("STR R0,[R3,#20]", (0x6158,), 1),
    ("LDR R1,[R2]; LDR R0,[R1]: the address is loaded", (0x6811, 0x6808), 4),
    ("ADDS R1,R2,R3; LDR R0,[R1]: no forwarding to an address", (0x18D1, 0x6808), 4),
    ("ADDS R4,R2,R3; LDR R0,[R1]", (0x18D4, 0x6808), 3),
    ("LDM R0!,{R1-R4}: 1 + N", (0xC81E,), 5),
    ("VLDMIA R0!,{S0-S7}: 1 + N", (0xECB0, 0x0A08), 9),
    ("VFMA.F32", (0xEEA0, 0x0A81), 3),
    ("VMUL.F32 S0,S1,S2; VADD.F32 S3,S4,S5", (0xEE20, 0x0A81, 0xEE72, 0x1A22), 2),
    (
        "VMUL.F32 S0,S1,S2; VADD.F32 S3,S4,S0: its result is read",
        (0xEE20, 0x0A81, 0xEE72, 0x1A00),
        3,
    ),
    ("VDIV; then an integer", (0xEE80, 0x0A81, 0x18D4), 2),
    ("VDIV; then its result", (0xEE80, 0x0A81, 0xEE70, 0x1A00), 15),
    ("IT behind 16 bits folds", (0x18D4, 0xBFC8, 0x18D4), 2),
]


@pytest.mark.sample(test=4)
@needs_capstone
@pytest.mark.parametrize(("name", "halves", "expected"), SEQUENCES, ids=[s[0] for s in SEQUENCES])
def test_sequences_of_cortex_m4(name: str, halves: tuple[int, ...], expected: float) -> None:
    assert spent("cortex-m4f", *halves) == expected
    assert spent("cortex-m33", *halves) == expected, "taken as Cortex-M4"


@needs_capstone
def test_cortex_m7_issues_two() -> None:
    vmul, load, add = (0xEE20, 0x0A81), (0xED91, 0x4A00), (0x18D4,)
    assert spent("cortex-m7", *vmul, *load) == 1, "a multiply beside a load"
    assert spent("cortex-m7", *vmul, *vmul) == 2, "one FPU"
    assert spent("cortex-m7", *vmul, *add, *load) == 2
    # A sum in one register: 6 cycles for a multiply-add, the addend read 3 later.
    fma = (0xEEA0, 0x0A81)
    assert spent("cortex-m7", *fma, *fma, *fma, looped=True) == 9


@needs_capstone
def test_branches() -> None:
    table = load_table("cortex-m4f")
    loop = decode(code(0x3801, 0xD1FD), 0x100)  # 1: subs r0, #1; bne 1b
    each = block_cycles(loop, table, True)
    assert loop[-1].target == 0x100
    assert loop[-1].conditional
    total = 10 * sum(each) + branch_cycles(loop[-1], table, 10, 9, False)
    assert total == 10 * 2 + 9
    assert branch_cycles(loop[-1], table, 10, 9, True) == 18
    last = decode(code(0xBD10), 0x100)[-1]
    assert branch_cycles(last, table, 1, 1, False) == 3
    predicted = load_table("cortex-m7")
    assert branch_cycles(loop[-1], predicted, 10, 9, False) == 4


@pytest.mark.parametrize("core", CORES)
def test_tables_are_whole(core: str) -> None:
    table = load_table(core)
    assert set(KINDS) - set(table.kinds) <= {"vector"}
    assert set(table.kinds) <= set(KINDS)
    assert table.source


def test_no_table() -> None:
    with pytest.raises(BioTrainError, match="no table of cycles for the core 'z80'"):
        load_table("z80")


SCHEDULE = """/* SPDX-License-Identifier: Apache-2.0 */
static inline __attribute__((always_inline)) float one(float a, float b) { return a * b; }
static inline __attribute__((always_inline)) void kernel(int n, const float *x, float w, float *y)
{
  for (int i = 0; i < n; i++)
    y[i] += one(x[i], w);
}
float x[512], y[512];
__attribute__((noinline)) int bt_step(int n);
int main(void);

int bt_step(int n)
{
  int odd = 0;
  for (int i = 0; i < n; i++)
    odd += ((int)x[i] & 1) + i;
  /* 0: y = conv(x, w)  1 x 512  [features.conv1] */
  kernel(512, x, 0.3f, y);
  /* 1: rows, 4 parts: z */
  for (int i = 0; i < 4; i++) {
    /* z = relu(y)  part of 1 x 512
     * [features.act1] */
    kernel(64, y + 64 * i, 0.7f,
        x + 64 * i);
  }
  return odd;
}

int main(void)
{
  return bt_step(100);
}
"""


def counted(core: str = "cortex-m4f") -> tuple[Path, Histogram]:
    need_emulator()
    elf = build({"model.c": SCHEDULE}, core)
    thumb = Thumb(elf, core)
    histogram = Histogram()
    histogram.attach(thumb.uc, thumb.begin, thumb.end)
    thumb.run()
    return elf, histogram


def check_sums(found: Cycles, histogram: Histogram) -> None:
    assert found.instructions == histogram.instructions
    assert sum(found.functions.values()) == pytest.approx(found.total, abs=2)
    assert sum(cost for _, cost in found.addresses.values()) == pytest.approx(found.total, abs=1)
    assert found.estimate
    assert found.source


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("core", CORES)
def test_cycles_of_a_firmware(core: str) -> None:
    elf, histogram = counted("cortex-m33" if core == "cortex-m55" else core)
    found = cycles(core, elf, histogram.blocks(), histogram.taken())
    check_sums(found, histogram)
    assert next(iter(found.functions)) == "bt_step"
    assert 0.5 < found.total / found.instructions < 3


@pytest.mark.parametrize("core", ["cortex-m7", "cortex-m55"])
def test_llvm_mca(core: str) -> None:
    if mca.analyser(load_table(core)) is None:
        pytest.skip(f"no llvm-mca that knows {core} is installed")
    elf, histogram = counted("cortex-m33" if core == "cortex-m55" else core)
    found = cycles(core, elf, histogram.blocks(), histogram.taken(), mca=True)
    check_sums(found, histogram)
    assert "llvm-mca" in found.source
    ours = cycles(core, elf, histogram.blocks(), histogram.taken())
    assert found.total > 0.9 * ours.total, "it lets results be written in order only"


@needs_capstone
def test_llvm_mca_reads_vectors() -> None:
    """What capstone does not know, LLVM prices; a call is a branch, not its 100 cycles."""
    table = load_table("cortex-m55")
    if mca.analyser(table) is None:
        pytest.skip("no llvm-mca that knows cortex-m55 is installed")
    load, fma, loop = (0xECBC, 0x9F04), (0xEE39, 0x6E4A), (0xF00F, 0xC007)
    blocks = {
        (0x100, 4): decode(code(*load), 0x100),
        (0x200, 16): decode(code(*fma, *fma, *fma, *loop), 0x200),  # into one register
        (0x300, 4): decode(code(0xF000, 0xF800), 0x300),  # bl
    }
    assert [one.kind for one in blocks[0x100, 4]] == ["vector"]
    found = mca.mca_cycles(blocks, table)
    assert set(found) == set(blocks)
    assert 2 <= found[0x100, 4] < 3, "two beats"
    assert 6 <= found[0x200, 16] <= 10, "two beats, and the next one waits for the result"
    assert found[0x300, 4] < 3


def test_firmware_of_another_run() -> None:
    elf, _ = counted()
    with pytest.raises(BioTrainError, match="no code at 0x90000"):
        cycles("cortex-m4f", elf, {(0x90000, 4): 1}, {})


def test_profile(tmp_path: Path) -> None:
    elf, histogram = counted()
    spent = cycles("cortex-m4f", elf, histogram.blocks(), histogram.taken())
    found = profile(spent, elf, SCHEDULE)
    nodes = {row.name: row for row in found.rows()}
    assert [n for n in nodes if n[0] != "("] == ["y = conv", "z = relu"]  # the loop is unrolled
    for by in ("node", "layer", "kernel", "function"):
        rows = found.rows(by)
        assert sum(row.instructions for row in rows) == histogram.instructions
        assert sum(row.cycles for row in rows) == pytest.approx(spent.total, abs=len(rows))
        assert sum(row.share for row in rows) == pytest.approx(1.0, abs=1e-3)
    # 512 and 4 x 64 elements of the same kernel.
    ratio = nodes["y = conv"].instructions / nodes["z = relu"].instructions
    assert 1.5 < ratio < 2.5
    assert [row.name for row in found.rows("layer")][:2] == ["features.conv1", "features.act1"]
    assert [row.name for row in found.rows("kernel")][:2] == ["conv", "relu"]
    data = found.to_json()
    assert data["cycles"] == spent.total
    assert data["estimate"]
    assert len(data["nodes"]) >= 3
    found.save(tmp_path / "profile.png")
    found.save(tmp_path / "nodes.svg", "node")
    assert (tmp_path / "profile.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="not by 'colour'"):
        found.rows("colour")


def test_profile_without_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilers give no line to what they make of several: it belongs to the node around it."""
    elf, histogram = counted()
    spent = cycles("cortex-m4f", elf, histogram.blocks(), histogram.taken())
    whole = {row.name: row for row in profile(spent, elf, SCHEDULE).rows()}
    program, known = Program(elf), Lines.line
    often = max(count for count, _ in spent.addresses.values())
    loop = [at for at, (count, _) in sorted(spent.addresses.items()) if count == often]
    assert {program.function(at) for at in loop} == {"bt_step"}
    lost = loop[1:]
    monkeypatch.setattr(Lines, "line", lambda self, at: 0 if at in lost else known(self, at))
    assert {row.name: row for row in profile(spent, elf, SCHEDULE).rows()} == whole


APART = """/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel.h"
float x[512], y[512];
__attribute__((noinline)) int bt_step(int n);
int main(void);

int bt_step(int n)
{
  /* 0: y = conv(x, w)  1 x 512  [features.conv1] */
  kernel(512, x, 0.3f, y);
  /* 1: z = relu(y)  1 x 64  [features.act1] */
  kernel(64, y, 0.7f, x);
  return n;
}

int main(void)
{
  return bt_step(1) + bt_step(2);
}
"""

KERNEL = (
    "\n" * 8  # lines that the schedule has too
    + """static inline __attribute__((always_inline)) float one(float a, float b) { return a * b; }
static __attribute__((noinline)) float far(float a, float b) { return a + one(b, b); }
static __attribute__((noinline)) void kernel(int n, const float *x, float w, float *y)
{
  for (int i = 0; i < n; i++)
    y[i] += i % 3 ? one(x[i], w) : far(x[i], w);
}
"""
)


@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
def test_profile_of_a_kernel_apart(native: bool) -> None:
    """Where a kernel is a function, each call of the schedule has its own share of it."""
    need_emulator()
    import unicorn

    elf = build({"model.c": APART, "kernel.h": KERNEL})
    program = Program(elf)
    thumb = Thumb(elf)
    steps: list[int] = []
    thumb.uc.hook_add(unicorn.UC_HOOK_CODE, lambda uc, at, size, user: steps.append(at))
    thumb.run()
    apart = [0, 0]  # single steps in the first kernel, and in the second
    turn, before = -1, "main"
    for at in steps:
        function = program.function(at)
        turn += function == "kernel" and before == "bt_step"
        if function in ("kernel", "far"):
            apart[turn % 2] += 1
        before = function
    assert turn == 3

    thumb = Thumb(elf)
    symbols = {s.name: (s.address & ~1, (s.address & ~1) + s.size) for s in Elf(elf).symbols}
    assert functions(APART) == ("bt_step",)
    histogram = Histogram(native)
    histogram.attach(thumb.uc, thumb.begin, thumb.end, [symbols["bt_step"]])
    thumb.run()
    found = cycles("cortex-m4f", elf, histogram.blocks(), histogram.taken())
    assert found.instructions == len(steps)
    alone = {row.name: row for row in profile(found, elf, APART).rows("kernel")}
    divided = profile(found, elf, APART, calls=histogram.calls())
    rows = {row.name: row for row in divided.rows("kernel")}
    assert not {"(kernel)", "(far)"} & set(rows)
    for op, count in zip(("conv", "relu"), apart, strict=True):
        assert rows[op].instructions - alone[op].instructions == count
    assert sum(row.instructions for row in rows.values()) == histogram.instructions
    assert sum(row.cycles for row in rows.values()) == pytest.approx(found.total, abs=len(rows))


@pytest.mark.ci
def test_package_in_the_emulator() -> None:
    """A training sample of a network: its layers are found, its kernels have a price."""
    need_emulator()
    torch.manual_seed(0)
    shape = {**bt.models.PAPER["epidenet"], "n_times": 256, "n_outputs": 3}
    model = bt.models.build("epidenet", **{**shape, "norm": "group"})
    net = bt.prepare(model, pool="avg")
    x = np.random.default_rng(0).standard_normal((1, 2, 256)).astype(np.float32)
    pkg = bt.compile(net, torch.from_numpy(x), target="cortex-m4f", strategy="full", accumulate=1)
    with EmulatorDevice(pkg) as device:
        device.restart_count()
        device.accumulate(x, np.zeros(1, int))
        spent, found = device.cycles(), device.profile()
        assert spent.instructions == device.machine.instructions
    layers = {row.name for row in found.rows("layer")}
    assert {"temporal1", "temporal2", "norm1", "classifier"} <= layers
    nodes = sum(row.share for row in found.rows("kernel") if not row.name.startswith("("))
    assert nodes > 0.95, "the rest of the firmware is small"
    kernels = measured(found, pkg.source.train.nodes)
    assert sum(m.macs for m in kernels) == pkg.cost.macs
    prices = cycles_per_op([kernels])
    assert 1.0 < prices["conv"] < 10.0
    assert prices["default"] == pytest.approx(spent.total / sum(m.ops for m in kernels), rel=0.1)


@pytest.mark.parametrize("core", [*CORES, "cv32e40p", "rv32imfc"])
def test_prices_of_the_planner(core: str) -> None:
    ops = load_table(core).ops
    assert {"default", "conv", "conv_dw", "conv_dx"} <= set(ops)
    assert 0.3 < ops["conv"] < 6.0


def test_unknown_kinds_cost_one() -> None:
    one = Instruction(0, 4, "?", "unheard of")
    assert block_cycles([one], load_table("cortex-m4f"), False) == [1]
