# SPDX-License-Identifier: Apache-2.0
"""Executed instructions are counted exactly, whatever the emulator makes of the code."""

from __future__ import annotations

import ctypes
from collections import Counter

import pytest
from _thumb import RAM, Thumb, build, need_emulator

from biotrain.errors import BioTrainError, CompilerError
from biotrain.run import histogram as module
from biotrain.run.decode import decode
from biotrain.run.histogram import Histogram, instruction_count
from biotrain.run.symbols import Program

PROGRAM = """
#include <string.h>
static float x[256], y[256];
static int odd(int n) { return n & 1; }
static int (*volatile which)(int) = odd;
int out;
int main(void)
{
  memset(y, 0, sizeof y);
  for (int i = 0; i < 256; i++)
    x[i] = (float)(i % 17) * 0.37f - 1.1f;
  for (int r = 0; r < 8; r++)
    for (int i = 0; i < 248; i++) {
      float sum = 0.0f;
      for (int k = 0; k < 8; k++)
        sum += x[k + r] * x[i + k];
      y[i] = sum > y[i] ? sum : y[i] * 0.5f; /* IT blocks */
      if (which(i))
        out += (int)y[i] % 7;
      switch (i % 5) {
      case 0: out += 3; break;
      case 1: out -= i; break;
      case 2: out ^= 5; break;
      case 3: out *= 3; break;
      default: break;
      }
    }
  return 0;
}
"""


def attached(thumb: Thumb, native: bool = True) -> Histogram:
    counted = Histogram(native)
    counted.attach(thumb.uc, thumb.begin, thumb.end)
    return counted


def single_steps(thumb: Thumb) -> Counter[int]:
    """Counts executed instructions one by one, by address."""
    import unicorn

    count: Counter[int] = Counter()

    def step(uc: object, address: int, size: int, user: object) -> None:
        count[address] += 1

    thumb.uc.hook_add(unicorn.UC_HOOK_CODE, step, None, thumb.begin, thumb.end - 1)
    return count


def by_address(counted: Histogram, program: Program) -> tuple[Counter[int], set[int]]:
    """The same from a histogram; and where an IT instruction may skip one, which does not call
    the emulator's hook for single instructions, but takes its cycle and counts for us."""
    count: Counter[int] = Counter()
    skipped: set[int] = set()
    for (address, size), times in counted.blocks().items():
        for one in decode(program.code(address, size), address):
            count[one.address] += times
            if one.conditional and one.jumps != "direct":
                skipped.add(one.address)
    return count, skipped


def test_lengths() -> None:
    # it ne; movne r0, r1; vfma.f32 s0, s1, s2; bl
    assert instruction_count(bytes.fromhex("18bf0846a0ee810a00f000f8")) == 4
    # c.nop; fmadd.s fa0, fa1, fa2, fa3
    assert instruction_count(bytes.fromhex("010043f5c568"), riscv=True) == 2


@pytest.mark.parametrize("core", ["cortex-m4f", "cortex-m7", "cortex-m33"])
@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
def test_equals_single_steps(core: str, native: bool) -> None:
    need_emulator()
    elf = build({"program.c": PROGRAM}, core)
    thumb = Thumb(elf, core)
    stepped = single_steps(thumb)
    thumb.run()

    thumb = Thumb(elf, core)
    counted = attached(thumb, native)
    assert counted.native == native
    thumb.run()
    found, skipped = by_address(counted, Program(elf))
    assert counted.instructions == found.total() > 100_000
    assert {at for at in found if found[at] != stepped[at]} <= skipped
    assert all(stepped[at] <= found[at] for at in skipped)
    assert len(skipped) < 10 < len(found)


def test_both_hooks_agree() -> None:
    need_emulator()
    elf = build({"program.c": PROGRAM})
    found = []
    for native in (True, False):
        thumb = Thumb(elf)
        counted = attached(thumb, native)
        thumb.run()
        found.append((counted.blocks(), counted.taken()))
        thumb.start()
        thumb.run()
        assert counted.instructions > 0
        counted.reset()
        assert counted.blocks() == {}
        assert counted.instructions == 0
    assert found[0] == found[1]
    blocks, taken = found[0]
    assert list(blocks) == sorted(blocks)
    assert all(taken[key] <= count for key, count in blocks.items())


@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
def test_stops_within_blocks_are_cut(native: bool) -> None:
    """Stops from a memory hook and from a timer; the pieces add up to the whole run."""
    need_emulator()
    import unicorn
    from unicorn import arm_const as arm

    elf = build({"program.c": PROGRAM})
    thumb = Thumb(elf)
    counted = attached(thumb, native)
    thumb.run()
    whole = counted.instructions

    for timeout in (0, 300):
        thumb = Thumb(elf)
        counted = attached(thumb, native)
        writes = [0]

        def stop(uc: object, *_: object, writes: list[int] = writes, thumb: Thumb = thumb) -> None:
            writes[0] += 1
            if writes[0] % 101 == 0:
                thumb.uc.emu_stop()

        thumb.uc.hook_add(unicorn.UC_HOOK_MEM_WRITE, stop)
        pieces, pc, doubtful = 0, thumb.pc, 0
        while pc != thumb.symbols["stop"]:
            before = writes[0] // 101
            thumb.uc.emu_start(pc | 1, thumb.symbols["stop"], timeout=timeout)
            pc = thumb.uc.reg_read(arm.UC_ARM_REG_PC) & ~1
            entered = counted.instructions
            counted.cut(pc)
            if writes[0] // 101 == before:  # by the timer, which stops before a block is counted:
                doubtful += entered - counted.instructions  # one that loops may have been done
            counted.cut(pc)  # the second time there is nothing left to cut
            pieces += 1
        assert pieces > 5
        assert whole - doubtful <= counted.instructions <= whole
        assert timeout or not doubtful


@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
def test_fault(native: bool) -> None:
    """The instruction that faults does not count."""
    need_emulator()
    import unicorn
    from unicorn import arm_const as arm

    wild = """
    int main(void)
    {
      volatile int *p = (volatile int *)0x20000000;
      for (int i = 0; ; i++)
        p[i * 1024] = i + (i << 3);
    }
    """
    elf = build({"wild.c": wild})
    thumb = Thumb(elf)
    stepped = single_steps(thumb)
    with pytest.raises(unicorn.UcError):
        thumb.run()

    thumb = Thumb(elf)
    counted = attached(thumb, native)
    with pytest.raises(unicorn.UcError):
        thumb.run()
    counted.cut(thumb.uc.reg_read(arm.UC_ARM_REG_PC) & ~1)
    assert counted.instructions == stepped.total() - 1


@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
def test_attached_after_a_run(native: bool) -> None:
    """Code that was translated before is counted too."""
    need_emulator()
    elf = build({"program.c": PROGRAM})
    thumb = Thumb(elf)
    thumb.run()
    thumb.start()
    late = attached(thumb, native)
    thumb.run()
    thumb = Thumb(elf)
    early = attached(thumb, native)
    thumb.run()
    assert late.blocks() == early.blocks()


def test_table_grows() -> None:
    """Many more blocks than the first table has slots."""
    try:
        counter = module._Native()
    except CompilerError as error:
        pytest.skip(str(error))
    hook = counter._lib.bt_histogram_block
    hook.argtypes = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
    hook.restype = None
    state = ctypes.addressof(counter._state.contents)
    for turn in range(2):
        for i in range(40_000):
            hook(None, RAM + 6 * i, 4 + 2 * (i % 2), state)
        assert len(counter.table()) == 40_000, turn
    table = counter.table()
    assert {count for count, _ in table.values()} == {2}
    # Blocks of 6 bytes end where the next begins; the last one is followed by the first.
    assert table[(RAM, 4), 0] == (2, 2)
    assert table[(RAM + 6, 6), 0] == (2, 0)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise CompilerError("no C compiler found")

    monkeypatch.setattr(module, "_library", missing)
    assert not Histogram().native


def test_one_engine_each() -> None:
    need_emulator()
    thumb = Thumb(build({"program.c": PROGRAM}))
    counted = attached(thumb)
    with pytest.raises(BioTrainError, match="attached already"):
        counted.attach(thumb.uc, thumb.begin, thumb.end)
