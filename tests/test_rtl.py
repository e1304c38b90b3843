# SPDX-License-Identifier: Apache-2.0
"""Firmware on the RTL of CV32E40P, and the model of its cycles against it."""

from __future__ import annotations

import shutil
import struct
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import biotrain as bt
from biotrain.errors import CompilerError, EmulatorError
from biotrain.package import Package
from biotrain.run import rtl, verilated
from biotrain.run.compiler import run_compiler
from biotrain.run.cv32e40p_cycles import Fpu, block_costs, cycles_by_address, decode
from biotrain.run.firmware import Compiler

Build = Callable[[str, str], Path]

START = """
#include <stdint.h>
struct { volatile uint32_t command; float a[256], b[256], c[256], d[256]; } box;
void bt_idle(void);
void work(uint32_t command, const float *a, const float *b, float *c, float *d);

__attribute__((naked, section(".start"), used)) void start(void)
{
  __asm__ volatile("lui sp, 0x20010\\n lui t0, 2\\n csrs mstatus, t0\\n j wait");
}

__attribute__((noinline)) void bt_idle(void) { __asm__ volatile("" ::: "memory"); }

__attribute__((used)) void wait(void)
{
  for (uint32_t *p = (uint32_t *)&box; p < (uint32_t *)(&box + 1); p++)
    *(volatile uint32_t *)p = 0; /* as a start clears .bss: this is not the end of a command */
  for (;;) {
    while (!box.command)
      bt_idle();
    work(box.command, box.a, box.b, box.c, box.d);
    box.command = 0;
  }
}
"""

SCRIPT = """
SECTIONS {
  .text 0x00000000 : { KEEP(*(.start)) *(.text*) *(.rodata*) *(.srodata*) }
  .bss 0x20000000 (NOLOAD) : { *(.bss*) *(.sbss*) *(.data*) *(.sdata*) }
  /DISCARD/ : { *(.comment) *(.riscv.attributes) *(.note*) *(.eh_frame*) }
}
"""

ARITHMETIC = """
#include <stdint.h>
void work(uint32_t command, const float *a, const float *b, float *c, float *d)
{
  float s = 0;
  for (int i = 0; i < 256; i++) {
    switch (command) {
    case 1: c[i] = a[i] + b[i]; d[i] = a[i] - b[i]; break;
    case 2: c[i] = a[i] * b[i]; d[i] = a[i] / b[i]; break;
    case 3: c[i] = __builtin_fmaf(a[i], b[i], 1.0f); d[i] = __builtin_sqrtf(b[i] * b[i]); break;
    case 4: c[i] = (float)(int32_t)a[i]; d[i] = a[i] < b[i] ? a[i] : b[i]; break;
    default: s += a[i] * b[i]; c[i] = s; break;
    }
  }
}
"""

KERNELS = {
    "dot product": """
  float s = 0;
  for (int i = 0; i < 256; i++)
    s += a[i] * b[i];
  d[0] = s;""",
    "convolution": """
  for (int t = 0; t < 128; t++) {
    float s = 0;
    for (int j = 0; j < 16; j++)
      s = __builtin_fmaf(a[t + j], b[j], s);
    c[t] = s;
  }""",
    "blocked convolution": """
  for (int t = 0; t < 128; t += 4) {
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0, v0 = a[t], v1 = a[t + 1], v2 = a[t + 2];
    for (int j = 0; j < 16; j++) {
      const float v3 = a[t + j + 3], k = b[j];
      s0 = __builtin_fmaf(v0, k, s0);
      s1 = __builtin_fmaf(v1, k, s1);
      s2 = __builtin_fmaf(v2, k, s2);
      s3 = __builtin_fmaf(v3, k, s3);
      v0 = v1;
      v1 = v2;
      v2 = v3;
    }
    c[t] = s0;
    c[t + 1] = s1;
    c[t + 2] = s2;
    c[t + 3] = s3;
  }""",
    "weight gradient": """
  for (int j = 0; j < 16; j++) {
    float s = 0;
    for (int t = 0; t < 128; t++)
      s = __builtin_fmaf(a[t + j], b[t], s);
    c[j] += s;
  }""",
    "copy": """
  const char *from = (const char *)a;
  char *to = (char *)c;
  for (int i = 0; i < 1024; i++)
    ((volatile char *)to)[i] = from[i];""",
    "exponential": """
  for (int i = 0; i < 256; i++) {
    const float v = a[i] * 1.44269504f;
    const int32_t k = (int32_t)(v + (v < 0 ? -0.5f : 0.5f));
    const float r = __builtin_fmaf((float)k, -0.693147182f, a[i]);
    float e = 0.0416666667f;
    e = __builtin_fmaf(e, r, 0.166666667f);
    e = __builtin_fmaf(e, r, 0.5f);
    e = __builtin_fmaf(e, r, 1.0f);
    e = __builtin_fmaf(e, r, 1.0f);
    union { uint32_t u; float f; } scale = {(uint32_t)(k + 127) << 23};
    c[i] = e * scale.f;
  }""",
    "division": """
  for (int i = 0; i < 256; i++)
    c[i] = a[i] / b[i];""",
    "sort": """
  for (int i = 0; i < 64; i++) {
    int j = i;
    for (; j > 0 && c[j - 1] > a[i]; j--)
      c[j] = c[j - 1];
    c[j] = a[i];
  }""",
    "calls": """
  static float (*const table[])(float) = {twice, square, inverse};
  for (int i = 0; i < 256; i++)
    c[i] = table[i & 1 ? 0 : i % 8 ? 1 : 2](b[i]);""",
}

FUNCTIONS = """
#include <stdint.h>
__attribute__((noinline)) static float twice(float v) { return v + v; }
__attribute__((noinline)) static float square(float v) { return v * v; }
__attribute__((noinline)) static float inverse(float v) { return 1.0f / v; }
"""

FAULTS = {
    "*(volatile float *)0x40000000;": "a load at 0x40000000, outside the memories",
    "*(volatile float *)0x40000000 = 1;": "a store at 0x40000000, outside the memories",
    '__asm__ volatile(".word 0");': "an illegal instruction",
    '__asm__ volatile("ebreak");': "ebreak",
    '__asm__ volatile("ecall");': "ecall",
    '__asm__ volatile("wfi");': "wfi, and nothing wakes the core",
    "((void (*)(void))0x40000000)();": "stopped at 0x40000000: code outside the memories",
    'for (;;) __asm__ volatile("");': "it did not wait after 200000 cycles",
}

ZIG = ["-target", "riscv32-freestanding-none", "-fno-sanitize=all"]
CORE = {
    "zig": [*ZIG, "-mcpu=generic_rv32+m+f+c+zicsr", "-mabi=ilp32f"],
    "zfinx": [*ZIG, "-mcpu=generic_rv32+m+c+zfinx+zicsr", "-mabi=ilp32"],  # by zig too
    "gcc": ["-march=rv32imfc", "-mabi=ilp32f", "-nostdlib"],
}
COMMON = ["-ffreestanding", "-fno-math-errno", "-ffp-contract=off"]


@pytest.fixture(scope="module")
def needed() -> None:
    if reason := verilated.missing():
        pytest.skip(reason)
    if find_spec("elftools") is None:
        pytest.skip("reading firmware needs pyelftools")


@pytest.fixture
def build(tmp_path: Path, needed: None) -> Build:
    """Firmware of START and a `work`, by "zig" or "gcc", or by zig for "zfinx"."""

    def build(text: str, compiler: str) -> Path:
        if compiler == "gcc":
            name = "riscv64-unknown-elf-gcc"
            if shutil.which(name) is None:
                pytest.skip(f"{name} is not installed")
            command = [
                name,
                *CORE["gcc"],
                "-fno-tree-loop-distribute-patterns",
                "-Wl,--no-warn-rwx-segments",
            ]
        else:
            if find_spec("ziglang") is None:
                pytest.skip("the ziglang package is not installed")
            command = [sys.executable, "-m", "ziglang", "cc", *CORE[compiler]]
        for file, content in {"start.c": START, "work.c": text, "link.ld": SCRIPT}.items():
            (tmp_path / file).write_text(content, encoding="utf-8")
        link = ["-Wl,-T,link.ld", "-Wl,-e,start", "-nostdlib", "-o", "work.elf"]
        run_compiler([*command, *COMMON, "-O2", *link, "start.c", "work.c"], tmp_path)
        return tmp_path / "work.elf"

    return build


class Firmware:
    """The machine with the firmware of START, and its arrays."""

    def __init__(self, elf: Path, max_cycles: int = rtl.MAX_CYCLES, fpu: Fpu | None = None) -> None:
        image = rtl.Elf(elf)
        self.box = image.symbol("box")[0]
        self.code = image.segments[0].data
        idle = image.symbol("bt_idle")[0]
        self.machine = rtl.RtlMachine(elf, self.box, idle, max_cycles=max_cycles, fpu=fpu)
        self.profile = self.machine.profile(image.segments[0].address, len(self.code))
        self.machine.run()

    def do(self, command: int) -> None:
        self.machine.write(self.box, struct.pack("<I", command))
        self.machine.run()
        assert self.machine.read(self.box, 4) == bytes(4)

    def put(self, at: int, values: np.ndarray) -> None:
        self.machine.write(self.box + 4 + 1024 * at, values.astype("<f4").tobytes())

    def get(self, at: int) -> np.ndarray:
        return np.frombuffer(self.machine.read(self.box + 4 + 1024 * at, 1024), "<f4")


def work(body: str) -> str:
    """A `work` that does this."""
    return (
        f"{FUNCTIONS}void work(uint32_t command, const float *restrict a, const float *restrict b,"
        f" float *restrict c, float *restrict d)\n{{\n  (void)command, (void)d;{body}\n}}\n"
    )


@pytest.mark.ci
def test_float_arithmetic_has_the_bits_of_the_host(build: Build, rng: np.random.Generator) -> None:
    firmware = Firmware(build(ARITHMETIC, "zig"))
    a, b = (rng.standard_normal(256).astype("f4") for _ in range(2))
    a[:16] *= np.float32(1e-41)  # denormals
    firmware.put(0, a)
    firmware.put(1, b)
    wide = a.astype("f8"), b.astype("f8")
    expected = [
        (a + b, a - b),
        (a * b, a / b),
        ((wide[0] * wide[1] + 1).astype("f4"), np.sqrt(b * b)),
        (np.trunc(a), np.minimum(a, b)),
        (np.cumsum(a * b, dtype="f4"), None),
    ]
    for command, (c, d) in enumerate(expected, 1):
        before = firmware.machine.instructions, firmware.machine.cycles
        firmware.do(command)
        assert firmware.machine.instructions - before[0] > 256 * 4
        assert firmware.machine.cycles - before[1] > firmware.machine.instructions - before[0]
        # trunc of -0.3 is -0.0, the conversion through an integer gives 0.0
        np.testing.assert_array_equal(firmware.get(2) + 0, c + 0)
        if d is not None:
            np.testing.assert_array_equal(firmware.get(3).view("u4"), d.view("u4"))
    firmware.machine.close()
    with pytest.raises(EmulatorError, match="closed"):
        firmware.machine.run()


@pytest.mark.ci
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_its_place(build: Build, fault: str) -> None:
    elf = build(work(fault), "zig")
    firmware = Firmware(elf, max_cycles=200_000)
    address, size = rtl.Elf(elf).symbol("work")
    with pytest.raises(EmulatorError) as caught:
        firmware.do(1)
    assert FAULTS[fault] in str(caught.value)
    pc = int(str(caught.value).split("stopped at ")[1].split(":")[0], 16)
    assert address <= pc < address + size or pc == 0x40000000


@pytest.mark.ci
def test_memory_is_where_the_caller_says(build: Build) -> None:
    elf = build(work(""), "zig")
    machine = rtl.RtlMachine(elf, 0, 0, [(0, 65536), (0x20000000, 16), (0x60000000, 8)])
    machine.write(0x60000002, b"abc")
    assert machine.read(0x60000000, 8) == b"\0\0abc\0\0\0"
    with pytest.raises(EmulatorError, match="no memory there"):
        machine.read(0x60000004, 5)
    with pytest.raises(EmulatorError, match="no memory there"):
        machine.write(0x5FFFFFFF, b"ab")
    with pytest.raises(EmulatorError, match="no memory there"):
        rtl.RtlMachine(elf, 0, 0, [(0, 16)])


@pytest.mark.sample(test=0, ci=14)
@pytest.mark.parametrize("compiler", ["zig", "gcc", "zfinx"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_cycles_are_predicted(
    build: Build, rng: np.random.Generator, kernel: str, compiler: str
) -> None:
    fpu = Fpu(zfinx=compiler == "zfinx")
    firmware = Firmware(build(work(KERNELS[kernel]), compiler), fpu=fpu)
    profile = firmware.profile
    firmware.put(0, rng.standard_normal(256))
    firmware.put(1, rng.standard_normal(256))
    for counts in (profile.executed, profile.taken, profile.cycles):
        counts[:] = 0
    before = firmware.machine.cycles, firmware.machine.instructions
    firmware.do(1)
    cycles = firmware.machine.cycles - before[0]
    assert profile.cycles_of(0, len(firmware.code)) == cycles
    assert int(profile.executed.sum()) == firmware.machine.instructions - before[1]
    blocks, taken = profile.blocks(firmware.code)
    predicted = cycles_by_address(firmware.code, 0, blocks, taken, fpu)
    assert sum(predicted.values()) == pytest.approx(cycles, rel=0.02)


def small(target: str) -> Package:
    """A small EpiDeNet whose step takes a million cycles."""
    torch.manual_seed(0)
    net = bt.models.build("epidenet", 2, 128, 3, 64.0, norm="group", pool="avg")
    net = bt.prepare(net, pool="avg").train()
    return bt.compile(net, torch.zeros(1, 2, 128), target=target, accumulate=2)


@pytest.mark.ci
def test_floats_in_integer_registers_have_the_same_bits(needed: None) -> None:
    """The cores of GAP9 have no float registers: in the RTL, built with ZFINX, and in QEMU."""
    if find_spec("ziglang") is None:
        pytest.skip("the ziglang package is not installed")
    x = np.random.default_rng(1).standard_normal((2, 2, 128)).astype(np.float32)
    y = np.array([0, 2])
    host = small("cv32e40p").run("host")
    host.train(x, y)
    pkg = small("rv32imc_zfinx")
    for on in ("rtl", "qemu"):
        if on == "qemu" and not shutil.which("qemu-system-riscv32"):
            continue
        device = pkg.run(on)
        device.train(x, y)
        assert device.crc32() == host.crc32(), on
        device.close()


@pytest.mark.ci
@pytest.mark.parametrize("compiler", ["zig", "gcc"])
def test_a_training_step(needed: None, compiler: Compiler) -> None:
    """Two windows of a small EpiDeNet: the host's bits, and within 2 % the predicted cycles."""
    pkg = small("cv32e40p")
    if compiler == "gcc" and not shutil.which("riscv64-unknown-elf-gcc"):
        pytest.skip("riscv64-unknown-elf-gcc is not installed")
    x = np.random.default_rng(1).standard_normal((2, 2, 128)).astype(np.float32)
    y = np.array([0, 2])
    host = pkg.run("host")
    host.train(x, y)
    found = {}
    for on in ("rtl", "emulator"):
        device = pkg.run(on, compiler=compiler)
        device.restart_count()
        device.train(x, y)
        found[on] = device.executed()
        assert device.crc32() == host.crc32()
        device.close()
    assert not found["rtl"].estimate
    assert found["emulator"].cycles == pytest.approx(found["rtl"].cycles, rel=0.02)
    assert found["emulator"].instructions == pytest.approx(found["rtl"].instructions, rel=0.001)


@pytest.mark.parametrize(
    ("code", "kind", "writes", "reads", "offset"),
    [
        (
            "7347f7c3",
            "addmul",
            32 + 15,
            (32 + 15, 32 + 20, 32 + 14),
            None,
        ),  # fmadd.s fa5,fa5,fs4,fa4
        ("0007a707", "load", 32 + 14, (15,), None),  # flw fa4, 0(a5)
        ("00f72027", "store", 0, (14, 32 + 15), None),  # fsw fa5, 0(a4)
        ("18e7f7d3", "divsqrt", 32 + 15, (32 + 15, 32 + 14), None),  # fdiv.s fa5, fa5, fa4
        ("a0f717d3", "other", 15, (32 + 14, 32 + 15), None),  # flt.s a5, fa4, fa5
        ("02f74733", "div", 14, (14, 15), None),  # div a4, a4, a5
        ("02f70733", "alu", 14, (14, 15), None),  # mul a4, a4, a5
        ("3002a073", "csr", 0, (5,), None),  # csrs mstatus, t0
        ("fec798e3", "branch", 0, (15, 12), -16),  # bne a5, a2, -16
        ("0140006f", "jump", 0, (), 20),  # j 20
        ("fbc080e7", "call", 1, (1,), None),  # jalr -68(ra)
        ("8082", "call", 0, (1,), None),  # ret
        ("d975", "branch", 0, (10,), -12),  # beqz a0, -12
        ("b7ed", "jump", 0, (), -22),  # j -22
        ("2118", "trap", 0, (), None),  # c.fld needs double precision
        ("86aa", "alu", 13, (10,), None),  # mv a3, a0
        ("962a", "alu", 12, (12, 10), None),  # add a2, a2, a0
        ("c606", "store", 0, (2, 1), None),  # sw ra, 12(sp)
        ("40b2", "load", 1, (2,), None),  # lw ra, 12(sp)
        ("0000", "trap", 0, (), None),
    ],
)
def test_instructions_are_decoded(
    code: str, kind: str, writes: int, reads: tuple[int, ...], offset: int | None
) -> None:
    one = decode(bytes.fromhex(code)[::-1], 0)
    assert (one.kind, one.writes, one.reads, one.offset) == (kind, writes, reads, offset)
    assert one.length == len(code) // 2


def test_floats_are_decoded_in_integer_registers() -> None:
    one = decode(bytes.fromhex("7347f7c3")[::-1], 0, zfinx=True)  # fmadd.s a5, a5, s4, a4
    assert (one.kind, one.writes, one.reads) == ("addmul", 15, (15, 20, 14))
    for code in ("0007a707", "00f72027", "6398", "e398"):  # flw, fsw, c.flw, c.fsw
        assert decode(bytes.fromhex(code)[::-1], 0, zfinx=True).kind == "trap"
        assert decode(bytes.fromhex(code)[::-1], 0).kind != "trap"


@pytest.mark.parametrize(
    ("words", "jumps", "latency", "costs"),
    [
        (("0007a707", "18e7f7d3"), False, 1, [2, 19]),  # a load is used at once; a division
        (("00f777d3", "18e7f7d3"), False, 0, [1, 19]),  # fadd.s fa5, fa4, fa5 without latency
        (("00f777d3", "18e7f7d3"), False, 1, [2, 19]),  # and with one
        (("40b2", "8082"), True, 1, [3, 2]),  # lw ra; ret
        (("86aa", "962a", "d975"), True, 1, [1, 1, 3]),  # a taken branch
        (("86aa", "962a", "d975"), False, 1, [1, 1, 1]),  # and one that is not
        (("fbc080e7",), True, 1, [3]),  # jalr ra, ra
    ],
)
def test_hazards(words: tuple[str, ...], jumps: bool, latency: int, costs: list[int]) -> None:
    code = b"".join(bytes.fromhex(word)[::-1] for word in words)
    found = block_costs(code, 0x100, (0x100, len(code)), jumps, Fpu(latency, latency))
    assert [cost for _, _, cost in found] == costs


def test_a_jump_to_a_straddling_instruction_costs_a_fetch() -> None:
    code = bytes.fromhex("aa86" + "07a70700" + "75d9")  # mv; at 2: flw, then beqz
    at_two = cycles_by_address(code, 2, {(4, 6): 10}, {(4, 6): 0})
    straddles = cycles_by_address(code, 0, {(2, 6): 10}, {(2, 6): 0})
    assert sum(straddles.values()) == sum(at_two.values()) + 10


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verilated, "find_spec", lambda name: None)
    with pytest.raises(CompilerError, match="pip install pythondata-cpu-cv32e40p"):
        rtl.build()
    monkeypatch.setattr(verilated, "find_spec", lambda name: True)
    monkeypatch.setattr(verilated.shutil, "which", lambda name: None)
    with pytest.raises(CompilerError, match="apt-get install verilator"):
        rtl.build()
