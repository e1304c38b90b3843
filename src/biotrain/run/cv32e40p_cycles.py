# SPDX-License-Identifier: Apache-2.0
"""Cycles of CV32E40P from executed blocks: what its pipeline does, without running the RTL.

The core issues one instruction per cycle in order, so an instruction costs the cycles until the
next one can be issued. The rules are those of "Pipeline Details" and "FPU" in the CV32E40P user
manual, and for divisions of its RTL; `rtl.py` runs that RTL and is what this is checked against.
Memories answer in the next cycle; there are no caches and no interrupts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Block = tuple[int, int]
"""Address and size in bytes of instructions that are entered at the first and left at the last."""

Kind = Literal[
    "alu", "mulh", "div", "load", "store", "branch", "jump", "call",
    "addmul", "other", "divsqrt", "csr", "trap",
]  # fmt: skip
"""What an instruction keeps busy. `call`: jump through a register; `other`: comparisons,
conversions and moves of the FPU."""


@dataclass(frozen=True)
class Fpu:
    """How the core's FPU was built. Latencies of 0 and 1 are predicted exactly."""

    addmul: int = 1
    """FPU_ADDMUL_LAT, pipeline registers of additions, multiplications, fused ones."""
    others: int = 1
    """FPU_OTHERS_LAT, pipeline registers of comparisons, conversions, moves."""
    zfinx: bool = False
    """ZFINX: floats lie in the integer registers, as in the cores of GAP9."""


# "Cycle counts per instruction type" in the manual.
TAKEN_CYCLES = 3
"""Cycles of a taken branch, where one fetch brings the target; 1 more where it takes two."""
JUMP_CYCLES = 2
"""Cycles of a jump, where one fetch brings the target; 1 more where it takes two."""
MULH_CYCLES = 5
"""Cycles of a multiplication for the upper word."""
CSR_CYCLES = 4
"""Cycles of an access to mstatus or to a counter; the float flags take 1."""
FLOAT_DIVIDE_CYCLES = 19
"""Cycles until the result of a float division or square root may be read. Zeros, infinities and NaN
take 3, which the blocks do not tell."""
DIVIDE_CYCLES = 29
"""Cycles of an integer division or remainder: 3, and 1 for each leading zero of the divisor, which
the blocks do not tell either; this is right for 32 to 63, the middle of 1 to 2000."""


@dataclass(frozen=True)
class Instruction:
    """What the pipeline sees of an instruction; registers are x0 to x31, then f0 to f31."""

    kind: Kind
    length: int
    writes: int = 0
    """The register that gets the result; 0: no later instruction waits for one."""
    reads: tuple[int, ...] = ()
    offset: int | None = None
    """From the instruction to where it jumps or branches."""


# ------------------------------------------------------------ decoding


def instruction_length(code: bytes, at: int) -> int:
    """Bytes of the instruction at this offset."""
    return 4 if code[at] & 3 == 3 else 2


def decode(code: bytes, at: int, zfinx: bool = False) -> Instruction:
    """The RV32IMFC instruction at this offset, or with `zfinx` the one of RV32IMC_Zfinx; anything
    else is a `trap`."""
    if instruction_length(code, at) == 2:
        return _short(int.from_bytes(code[at : at + 2], "little"), zfinx)
    return _long(int.from_bytes(code[at : at + 4], "little"), zfinx)


F0 = 32
"""Number of the register f0; x0 to x31 come before it."""

# What an instruction writes = reads, in letters: the register in the field rd (d), rs1 (1), rs2 (2)
# and, of the short forms, in the upper (h) and lower (l) field of three bits; sp (s) and ra (r);
# capitals are float registers (rs1 is A, rs2 is B, rs3 is C).

# By opcode.
_LONG: dict[int, tuple[Kind, str]] = {
    0x03: ("load", "d=1"),
    0x07: ("load", "D=1"),
    0x0F: ("alu", "="),
    0x13: ("alu", "d=1"),
    0x17: ("alu", "d="),
    0x23: ("store", "=12"),
    0x27: ("store", "=1B"),
    0x33: ("alu", "d=12"),
    0x37: ("alu", "d="),
    0x43: ("addmul", "D=ABC"),
    0x47: ("addmul", "D=ABC"),
    0x4B: ("addmul", "D=ABC"),
    0x4F: ("addmul", "D=ABC"),
    0x63: ("branch", "=12"),
    0x67: ("call", "d=1"),
    0x6F: ("jump", "d="),
    0x73: ("csr", "d=1"),
}
# OP-FP, by funct7.
_FLOAT: dict[int, tuple[Kind, str]] = {
    0x00: ("addmul", "D=AB"),
    0x04: ("addmul", "D=AB"),
    0x08: ("addmul", "D=AB"),
    0x0C: ("divsqrt", "D=AB"),
    0x2C: ("divsqrt", "D=A"),
    0x10: ("other", "D=AB"),
    0x14: ("other", "D=AB"),
    0x50: ("other", "d=AB"),
    0x60: ("other", "d=A"),
    0x68: ("other", "D=1"),
    0x70: ("other", "d=A"),
    0x78: ("other", "D=1"),
}
_FLOAT_MEMORY = (0x07, 0x27)
"""Opcodes of flw and fsw."""
# By quadrant and funct3.
_SHORT: dict[tuple[int, int], tuple[Kind, str]] = {
    (0, 0): ("alu", "l=s"),
    (0, 2): ("load", "l=h"),
    (0, 3): ("load", "L=h"),
    (0, 6): ("store", "=hl"),
    (0, 7): ("store", "=hL"),
    (1, 0): ("alu", "d=d"),
    (1, 1): ("jump", "r="),
    (1, 2): ("alu", "d="),
    (1, 3): ("alu", "d=d"),
    (1, 4): ("alu", "h=h"),
    (1, 5): ("jump", "="),
    (1, 6): ("branch", "=h"),
    (1, 7): ("branch", "=h"),
    (2, 0): ("alu", "d=d"),
    (2, 2): ("load", "d=s"),
    (2, 3): ("load", "D=s"),
    (2, 6): ("store", "=s2"),
    (2, 7): ("store", "=sB"),
}
# Where the bits of an offset come from: (bit of the instruction, bit of the offset).
_BRANCH = (
    (31, 12),
    (7, 11),
    *((25 + i, 5 + i) for i in range(6)),
    *((8 + i, 1 + i) for i in range(4)),
)
_JUMP = (
    (31, 20),
    *((12 + i, 12 + i) for i in range(8)),
    (20, 11),
    *((21 + i, 1 + i) for i in range(10)),
)
_SHORT_BRANCH = ((12, 8), (6, 7), (5, 6), (2, 5), (11, 4), (10, 3), (4, 2), (3, 1))
_SHORT_JUMP = (
    (12, 11), (8, 10), (10, 9), (9, 8), (6, 7), (7, 6), (2, 5), (11, 4), (5, 3), (4, 2), (3, 1)
)  # fmt: skip


def _long(word: int, zfinx: bool) -> Instruction:
    opcode, funct3, funct7 = word & 0x7F, word >> 12 & 7, word >> 25
    kind, operands = _LONG.get(opcode, ("trap", "="))
    offset = None
    if opcode == 0x53:
        kind, operands = _FLOAT.get(funct7, ("trap", "="))
    elif opcode == 0x33 and funct7 == 1 and funct3:
        kind = "div" if funct3 & 4 else "mulh"
    elif opcode == 0x73:
        if funct3 == 0:
            kind, operands = "trap", "="
        elif word >> 20 in (1, 2, 3):  # fflags, frm, fcsr
            kind = "alu"
        if funct3 & 4:
            operands = "d="
    elif kind == "branch":
        offset = _offset(word, _BRANCH)
    elif kind == "jump":
        offset = _offset(word, _JUMP)
    rd, rs1, rs2 = word >> 7 & 31, word >> 15 & 31, word >> 20 & 31
    if zfinx and opcode in _FLOAT_MEMORY:
        kind, operands = "trap", "="
    f0 = 0 if zfinx else F0
    names = {"d": rd, "1": rs1, "2": rs2}
    names |= {"D": f0 + rd, "A": f0 + rs1, "B": f0 + rs2, "C": f0 + (word >> 27)}
    return _instruction(kind, 4, operands, names, offset)


def _short(word: int, zfinx: bool) -> Instruction:
    quadrant, funct3 = word & 3, word >> 13
    rd, rs2, low, high = word >> 7 & 31, word >> 2 & 31, 8 + (word >> 2 & 7), 8 + (word >> 7 & 7)
    kind, operands = _SHORT.get((quadrant, funct3), ("trap", "="))
    offset = None
    if word == 0 or (zfinx and funct3 & 3 == 3 and quadrant != 1):  # c.flw, c.fsw and with sp
        kind, operands = "trap", "="
    elif (quadrant, funct3) == (1, 4) and word >> 10 & 3 == 3:  # sub, xor, or, and
        operands = "h=hl"
    elif (quadrant, funct3) == (2, 4):
        second = word >> 12 & 1
        if rs2:
            kind, operands = "alu", "d=d2" if second else "d=2"
        elif rd:
            kind, operands = "call", "r=d" if second else "=d"
    elif kind == "branch":
        offset = _offset(word, _SHORT_BRANCH)
    elif kind == "jump":
        offset = _offset(word, _SHORT_JUMP)
    names = {"d": rd, "2": rs2, "l": low, "h": high, "s": 2, "r": 1}
    names |= {"D": F0 + rd, "B": F0 + rs2, "L": F0 + low}
    return _instruction(kind, 2, operands, names, offset)


def _instruction(
    kind: Kind, length: int, operands: str, names: Mapping[str, int], offset: int | None
) -> Instruction:
    writes, _, reads = operands.partition("=")
    return Instruction(
        kind, length, names[writes] if writes else 0, tuple(names[r] for r in reads), offset
    )


def _offset(word: int, moves: tuple[tuple[int, int], ...]) -> int:
    """Bits of a word put together to an offset, whose highest bit, the first, is its sign."""
    value = sum((word >> source & 1) << target for source, target in moves)
    return value - (2 << moves[0][1]) * (value >> moves[0][1])


# ------------------------------------------------------------ the pipeline


class _Pipeline:
    """When the next instruction leaves the decoder; cycle 0 is the first of the block."""

    def __init__(self, fpu: Fpu) -> None:
        self.fpu = fpu
        self.free = 0
        """When the execution stage takes the next instruction."""
        self.ready = [0] * 64
        """When an instruction that reads the register may be issued."""
        self.jump_ready = [0] * 64
        """The same for a jump through it, which reads it in the decoder."""
        self.float_ready = 0
        """When the last result of the FPU may be read."""
        self.float_latency = 0

    def issue(self, one: Instruction) -> int:
        """The cycle in which this instruction is issued; note what it keeps busy."""
        ready = self.jump_ready if one.kind == "call" else self.ready
        cycle = max([self.free, *(ready[r] for r in one.reads)])
        self.free = cycle + 1
        if one.kind in ("addmul", "other", "divsqrt"):
            delay = self._float(one, cycle)
        else:
            delay = {"load": 2, "mulh": MULH_CYCLES, "div": DIVIDE_CYCLES}.get(one.kind, 1)
            self.free += {"mulh": MULH_CYCLES, "div": DIVIDE_CYCLES, "csr": CSR_CYCLES}.get(
                one.kind, 1
            ) - 1
            # A late result of the FPU takes the port to the registers before the integer unit.
            late = self.float_latency > 1 and cycle + 1 == self.float_ready
            self.free += late and one.writes != 0 and one.kind != "load"
        if one.writes:
            self.ready[one.writes] = cycle + delay
            self.jump_ready[one.writes] = cycle + delay + 1
        return cycle

    def _float(self, one: Instruction, cycle: int) -> int:
        """Cycles until the result of an instruction of the FPU may be read."""
        stages = {"addmul": self.fpu.addmul, "other": self.fpu.others}
        latency = stages.get(one.kind, FLOAT_DIVIDE_CYCLES - 1)
        start = cycle
        # What could overtake the one before it, or is iterative, waits in the execution stage
        # until the FPU is empty (cv32e40p_apu_disp.sv: stall_type).
        if latency != 1 or self.float_latency > 1:
            start = max(cycle, self.float_ready)
        self.free = start + 1
        if latency:
            self.float_ready = start + latency + 1
            self.float_latency = latency
        return start - cycle + latency + 1

    def leave(self, last: Instruction, issued: int, jumps: bool) -> int:
        """When the next block begins."""
        end = self.free
        if jumps:
            end = max(end, issued + (TAKEN_CYCLES if last.kind == "branch" else JUMP_CYCLES))
            # The decoder still holds a jump through the register that its link goes to while the
            # link is written, and waits for it in vain.
            end += last.kind == "call" and last.writes in last.reads and last.writes != 0
        # Who divides wants the result: if not in this block, then early in the next one.
        return max(end, self.float_ready) if self.float_latency > 4 else end


def block_costs(
    code: bytes, origin: int, block: Block, jumps: bool, fpu: Fpu
) -> list[tuple[int, Instruction, int]]:
    """Address, instruction and cycles until the next one, of each in a block.

    `jumps`: the block is left by a taken branch or a jump, which finds its target in one fetch.
    """
    pipeline = _Pipeline(fpu)
    at, end = block[0] - origin, sum(block) - origin
    addresses: list[int] = []
    instructions: list[Instruction] = []
    times: list[int] = []
    while at < end:
        instructions.append(decode(code, at, fpu.zfinx))
        addresses.append(origin + at)
        times.append(pipeline.issue(instructions[-1]))
        at += instructions[-1].length
    times.append(pipeline.leave(instructions[-1], times[-1], jumps))
    costs = (after - time for time, after in pairwise(times))
    return list(zip(addresses, instructions, costs, strict=True))


def cycles_by_address(
    code: bytes,
    origin: int,
    blocks: Mapping[Block, int],
    taken: Mapping[Block, int],
    fpu: Fpu | None = None,
) -> dict[int, int]:
    """Predicted cycles of each executed instruction, summed over its executions.

    `code`: the bytes from `origin` on. `blocks`: how often each was executed. `taken`: how often
    each was left by a taken branch or jump (`Histogram` and `Profile` tell both). A block may
    begin inside another one, where control enters it there.
    """
    fpu = fpu or Fpu()
    cycles: dict[int, int] = {}
    entered: dict[int, int] = {}  # by jumps through a register
    for block, count in blocks.items():
        left, start, behind = taken.get(block, 0), block[0], sum(block)
        entered[start] = entered.get(start, 0) + count
        entered[behind] = entered.get(behind, 0) - (count - left)
        for jumps, times in ((False, count - left), (True, left)):
            if not times:
                continue
            costs = block_costs(code, origin, block, jumps, fpu)
            for address, _, cost in costs:
                cycles[address] = cycles.get(address, 0) + cost * times
            address, last, _ = costs[-1]
            if jumps and last.offset is not None:
                target = address + last.offset
                entered[target] = entered.get(target, 0) - times
                cycles[address] += _straddles(code, origin, target) * times
    for address, count in entered.items():
        if count > 0 and _straddles(code, origin, address):
            cycles[address] += count
    return cycles


def _straddles(code: bytes, origin: int, address: int) -> bool:
    """Whether a jump here needs two fetches: 4 bytes that begin in the middle of a word."""
    at = address - origin
    return address % 4 == 2 and 0 <= at < len(code) and instruction_length(code, at) == 4
