# SPDX-License-Identifier: Apache-2.0
"""The worst stack of a firmware: frames and direct calls read from its instructions.

A frame is the sum of all that the function's instructions take from the stack pointer, which is
its size or more. A call through a pointer may reach every function that nobody calls directly
(the linker keeps a function only because it is called, or because its address is taken).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from biotrain.errors import BioTrainError
from biotrain.run.elf import Elf

ENTRY = "Reset_Handler"

Effect = tuple[str, int]
"""What an instruction does: `takes` bytes of stack, `calls` or `jumps` to an address, `pointer`."""


@dataclass(frozen=True)
class Function:
    """The stack that a function takes, and the functions that it calls."""

    name: str
    frame_bytes: int
    calls: tuple[str, ...]
    """Names of the functions that it calls or jumps to, in the order of the code."""
    by_pointer: bool


def functions(elf: Path | Elf) -> dict[str, Function]:
    """All functions of a firmware by name.

    Raises
    ------
    BioTrainError
        where a function moves the stack pointer by an amount that its code does not state.
    """
    image = elf if isinstance(elf, Elf) else Elf(elf)
    odd = 1 if image.is_arm else 0
    ranges: dict[int, tuple[str, int]] = {}
    for s in image.symbols:
        at = s.address & ~odd
        if s.kind == "FUNC" and s.size > ranges.get(at, ("", 0))[1]:
            ranges[at] = s.name.rpartition(".")[2] if "compiler_rt" in s.name else s.name, s.size
    starts = sorted(ranges)
    marks = sorted((s.address, s.name[1]) for s in image.symbols if s.name[:2] in ("$d", "$t"))

    def owner(address: int) -> str | None:
        i = bisect_right(starts, address) - 1
        return ranges[starts[i]][0] if i >= 0 else None

    found: dict[str, Function] = {}
    for at in starts:
        name, size = ranges[at]
        frame, pointer = 0, False
        calls: dict[str, None] = {}
        for what, value in _effects(image, at, size, marks):
            if what == "takes":
                frame += value
            elif what == "pointer":
                pointer = True
            elif what == "unknown":
                raise BioTrainError(f"the stack of '{name}' depends on values at run time")
            elif (other := owner(value)) and (what == "calls" or other != name):
                calls[other] = None
        found[name] = Function(name, frame, tuple(calls), pointer)
    return found


def worst_stack(known: dict[str, Function], entry: str = ENTRY) -> tuple[int, tuple[str, ...]]:
    """Bytes of the deepest path from a function, and its functions."""
    called = {name for f in known.values() for name in f.calls}
    pointed = [name for name in known if name not in called and name != ENTRY]
    done: dict[str, tuple[int, tuple[str, ...]]] = {}

    def depth(name: str, above: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
        if name in above:
            raise BioTrainError(f"'{name}' calls itself: no bound of the stack")
        if name not in done:
            f = known[name]
            callees = [*f.calls, *(pointed if f.by_pointer else ())]
            deeper = [depth(n, (*above, name)) for n in callees if n != name or n in f.calls]
            most, path = max(deeper, key=lambda d: d[0], default=(0, ()))
            done[name] = f.frame_bytes + most, (name, *path)
        return done[name]

    return depth(entry, ())


def _effects(image: Elf, at: int, size: int, marks: list[tuple[int, str]]) -> Iterator[Effect]:
    code = next(
        (
            s.data[at - s.address : at - s.address + size]
            for s in image.segments
            if s.address <= at < s.address + len(s.data)
        ),
        b"",
    )
    if not image.is_arm:
        yield from _riscv(code, at)
        return
    inside = [(a, kind) for a, kind in marks if at < a < at + size]
    begin = at
    kind = "t"
    for a, after in [*inside, (at + size, "")]:
        if kind == "t":
            yield from _thumb(code[begin - at : a - at], begin)
        begin, kind = a, after


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


# ---------------------------------------------------------------- Thumb-2 (ARMv7-M ARM, A6, A7)


def _expanded(word: int) -> int:
    """The constant of a modified-immediate instruction (ThumbExpandImm)."""
    twelve = word >> 15 & 0x800 | word >> 4 & 0x700 | word & 0xFF
    low = twelve & 0xFF
    if twelve < 0x400:
        return low * (1, 0x00010001, 0x01000100, 0x01010101)[twelve >> 8]
    low |= 0x80
    turn = twelve >> 7
    return (low >> turn | low << (32 - turn)) & 0xFFFFFFFF


def _thumb(code: bytes, at: int) -> Iterator[Effect]:
    held: dict[int, int] = {}
    i = 0
    while i + 2 <= len(code):
        half = int.from_bytes(code[i : i + 2], "little")
        here, i = at + i, i + 2
        if half >> 11 < 0b11101:
            if half & 0xFE00 == 0xB400:  # push
                yield "takes", 4 * (half & 0x1FF).bit_count()
            elif half & 0xFF80 == 0xB080:  # sub sp, #
                yield "takes", 4 * (half & 0x7F)
            elif half & 0xFF80 == 0x4780:  # blx register
                yield "pointer", 0
            elif half & 0xF800 == 0xE000:  # b
                yield "jumps", here + 4 + 2 * _signed(half & 0x7FF, 11)
            continue
        word = half << 16 | int.from_bytes(code[i : i + 2], "little")
        i += 2
        if word & 0xFFFF0000 == 0xE92D0000:  # stmdb sp!
            yield "takes", 4 * (word & 0xFFFF).bit_count()
        elif word & 0xFFBF0E00 == 0xED2D0A00:  # vpush
            yield "takes", 4 * (word & 0xFF)
        elif word & 0xFFFF0F00 == 0xF84D0D00:  # str [sp, #-]!
            yield "takes", word & 0xFF
        elif word & 0xFFFF0000 == 0xE96D0000:  # strd [sp, #-]!
            yield "takes", 4 * (word & 0xFF)
        elif word & 0xFBFF8F00 == 0xF1AD0D00:  # sub.w sp, sp, #
            yield "takes", _expanded(word)
        elif word & 0xFBFF8F00 == 0xF2AD0D00:  # subw sp, sp, #
            yield "takes", word >> 15 & 0x800 | word >> 4 & 0x700 | word & 0xFF
        elif word & 0xFFFFFFF0 == 0xEBAD0D00:  # sub.w sp, sp, register
            yield ("takes", held[word & 15]) if word & 15 in held else ("unknown", 0)
        elif word & 0xFBF08000 == 0xF2400000:  # movw
            low = word >> 15 & 0x800 | word >> 4 & 0x700 | word & 0xFF
            held[word >> 8 & 15] = word >> 4 & 0xF000 | low
        elif word & 0xFBEF8000 == 0xF04F0000:  # mov.w register, #
            held[word >> 8 & 15] = _expanded(word)
        elif word & 0xF8009000 == 0xF0009000:  # bl, b.w
            sign = word >> 26 & 1
            i1, i2 = 1 - (word >> 13 & 1 ^ sign), 1 - (word >> 11 & 1 ^ sign)
            offset = sign << 24 | i1 << 23 | i2 << 22 | (word >> 16 & 0x3FF) << 12
            offset |= (word & 0x7FF) << 1
            yield "calls" if word >> 14 & 1 else "jumps", here + 4 + _signed(offset, 25)


# ---------------------------------------------------------------- RV32IMFC (unprivileged ISA)

RA, SP = 1, 2

Moved = Callable[[int, int, int | None], Iterator[Effect]]
"""What follows from `register = base + by`; None: by what is not known."""


def _riscv(code: bytes, at: int) -> Iterator[Effect]:
    held: dict[int, int] = {0: 0}

    def moved(register: int, base: int, by: int | None) -> Iterator[Effect]:
        if register == SP and base == SP:
            if by is None:
                yield "unknown", 0
            elif by < 0:
                yield "takes", -by
        elif register:
            held.pop(register, None)
            if by is not None and base in held:
                held[register] = _signed(held[base] + by & 0xFFFFFFFF, 32)

    i = 0
    while i + 2 <= len(code):
        here = at + i
        word = int.from_bytes(code[i : i + 4], "little")
        if word & 3 != 3:
            i += 2
            yield from _compressed(word & 0xFFFF, here, held, moved)
            continue
        i += 4
        kind, rd, rs1, rs2 = word & 0x7F, word >> 7 & 31, word >> 15 & 31, word >> 20 & 31
        immediate, upper = _signed(word >> 20, 12), _signed(word & 0xFFFFF000, 32)
        if kind == 0x13 and word >> 12 & 7 == 0:  # addi
            yield from moved(rd, rs1, immediate)
        elif kind == 0x37:  # lui
            yield from moved(rd, 0, upper)
        elif kind == 0x17:  # auipc
            yield from moved(rd, 0, here + upper)
        elif kind == 0x33 and word & 0xFE007000 in (0, 0x40000000):  # add, sub
            value = held.get(rs2)
            subtracts = word >> 30 & 1
            yield from moved(rd, rs1, value if value is None or not subtracts else -value)
        elif kind == 0x6F:  # jal
            offset = word >> 11 & 0x100000 | word & 0xFF000 | word >> 9 & 0x800 | word >> 20 & 0x7FE
            yield "calls" if rd == RA else "jumps", here + _signed(offset, 21)
        elif kind == 0x67:  # jalr
            if rs1 in held:
                yield "calls" if rd == RA else "jumps", held[rs1] + immediate
            elif rd == RA:
                yield "pointer", 0
        elif kind not in (0x23, 0x27, 0x63, 0x07, 0x43, 0x47, 0x4B, 0x4F, 0x53):
            held.pop(rd or -1, None)


def _compressed(half: int, here: int, held: dict[int, int], moved: Moved) -> Iterator[Effect]:
    which, rd, rs2 = (half & 3, half >> 13), half >> 7 & 31, half >> 2 & 31
    six = _signed(half >> 7 & 0x20 | rs2, 6)
    if which == (1, 0):  # c.addi
        yield from moved(rd, rd, six)
    elif which == (1, 2):  # c.li
        yield from moved(rd, 0, six)
    elif which == (1, 3) and rd == SP:  # c.addi16sp
        value = half >> 3 & 0x200 | half >> 2 & 0x10 | half << 1 & 0x40
        value |= half << 4 & 0x180 | half << 3 & 0x20
        yield from moved(SP, SP, _signed(value, 10))
    elif which == (1, 3):  # c.lui
        yield from moved(rd, 0, six << 12)
    elif which in ((1, 1), (1, 5)):  # c.jal, c.j
        offset = half >> 1 & 0xB40 | half >> 7 & 0x10 | half << 2 & 0x400 | half << 1 & 0x80
        offset |= half >> 2 & 0xE | half << 3 & 0x20
        yield "calls" if which[1] == 1 else "jumps", here + _signed(offset, 12)
    elif which == (2, 4):
        if rs2 == 0 and half >> 12 & 1:  # c.jalr
            yield ("calls", held[rd]) if rd in held else ("pointer", 0)
        elif rs2 and half >> 12 & 1:  # c.add
            yield from moved(rd, rd, held.get(rs2))
        elif rs2:  # c.mv
            yield from moved(rd, rs2, 0)
    elif which in ((2, 0), (2, 2)):  # c.slli, c.lwsp
        held.pop(rd or -1, None)
    elif which[0] == 0 and half >> 13 in (0, 2):  # c.addi4spn, c.lw
        held.pop(8 + (half >> 2 & 7), None)
    elif which == (1, 4):  # arithmetic
        held.pop(8 + (half >> 7 & 7), None)
