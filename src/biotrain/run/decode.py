# SPDX-License-Identifier: Apache-2.0
"""Thumb-2 instructions of executed blocks: length, kind, registers, as cycle tables need them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from biotrain.errors import BioTrainError
from biotrain.run.histogram import instruction_length

Registers = tuple[str, ...]

# Base mnemonics by kind. What is in none of them is `alu`, or `fp_alu` where it begins with v.
_KINDS = {
    "load": "ldr ldrb ldrh ldrsb ldrsh ldrt ldrbt ldrht ldrsbt ldrsht ldrex ldrexb ldrexh",
    "load_double": "ldrd",
    "load_multiple": "ldm ldmdb pop",
    "store": "str strb strh strt strbt strht strex strexb strexh",
    "store_double": "strd",
    "store_multiple": "stm stmdb push",
    "mul": "mul smmul smmulr smulbb smulbt smultb smultt smulwb smulwt smuad smusd",
    "mla": "mla mls smmla smmls smlabb smlabt smlatb smlatt smlawb smlawt smlad smlsd",
    "mul_long": "smull umull",
    "mla_long": "smlal umlal umaal smlalbb smlalbt smlaltb smlaltt smlald smlsld",
    "div": "sdiv udiv",
    "branch": "b bl cbz cbnz le",
    "branch_register": "bx blx",
    "branch_table": "tbb tbh",
    "it": "it",
    "nop": "nop hint",
    "system": "mrs msr dmb dsb isb cps svc bkpt wfi wfe sev clrex udf",
    "fp_mul": "vmul vnmul",
    "fp_mla": "vmla vmls vnmla vnmls",
    "fp_fma": "vfma vfms vfnma vfnms",
    "fp_div": "vdiv",
    "fp_sqrt": "vsqrt",
    "fp_move": "vmov vmrs vmsr fmstat",
    "fp_load": "vldr",
    "fp_load_multiple": "vldmia vldmdb vpop",
    "fp_store": "vstr",
    "fp_store_multiple": "vstmia vstmdb vpush",
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}
_MULTIPLE = ("load_multiple", "store_multiple", "fp_load_multiple", "fp_store_multiple")

KINDS = (
    *_KINDS,
    "alu",
    "fp_alu",
    "fp_load_double",
    "fp_store_double",
    "fp_move_double",
    "store_register",
    "vector",
)
"""All kinds. `store_register` is a store whose address is a sum of registers."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction."""

    address: int
    size: int
    text: str
    """The text that an assembler reads, without the labels of branches."""
    kind: str
    reads: Registers = ()
    writes: Registers = ()
    at: Registers = ()
    """The registers among `reads` that make an address."""
    count: int = 1
    """Registers that a load or store of several moves."""
    jumps: str = ""
    """`direct` or `indirect`, where it may leave the sequence."""
    target: int | None = None
    conditional: bool = False


@cache
def _decoder() -> Any:
    try:
        import capstone as cs
    except ImportError:
        raise BioTrainError(
            "instructions are decoded by capstone, which is missing: "
            "pip install 'biotrain[emulator]'"
        ) from None
    # V8 decodes vmaxnm, vrint and vsel too, which the FPU of M7 and M33 has.
    decoder = cs.Cs(cs.CS_ARCH_ARM, cs.CS_MODE_THUMB | cs.CS_MODE_MCLASS | cs.CS_MODE_V8)
    decoder.detail = True
    return decoder


def decode(code: bytes, address: int) -> list[Instruction]:
    """The instructions of a block at an address."""
    found: list[Instruction] = []
    at = 0
    while at < len(code):
        if (special := _armv81(code, at, address)) is not None:
            found.append(special)
            at += special.size
            continue
        # A block is decoded in one go: an IT instruction holds for those behind it.
        for one in _decoder().disasm(code[at:], address + at):
            offset = one.address - address
            if _armv81(code, offset, address) is not None:
                break
            found.append(_instruction(one))
            at = offset + one.size
        else:
            if at < len(code):
                size = instruction_length(_half(code, at))
                words = code[at : at + size].hex()
                kind = "vector" if _half(code, at) >> 10 == 0b111011 else "alu"
                found.append(Instruction(address + at, size, f".inst {words}", kind))
                at += size
    return found


def _half(code: bytes, at: int) -> int:
    return int.from_bytes(code[at : at + 2], "little")


def _armv81(code: bytes, at: int, address: int) -> Instruction | None:
    """What Armv8.1-M adds to the integer instructions, which capstone 5 does not know.

    Encodings: Armv8-M ARM (DDI0553), LE and LETP T1 to T3, WLS and DLS, CSEL and its family, and of
    the vector instructions those in the space of coprocessors 14 and 15.
    """
    first, second = _half(code, at), _half(code, at + 2)
    here = address + at
    if first & 0xFFC0 == 0xF000 and second & 0xF001 == 0xC001:
        offset = (second >> 1 & 0x3FF) << 2 | (second >> 11 & 1) << 1
        if first & 0xF == 0xF:
            target = here + 4 - offset
            name = "le lr, 0"
        elif first & 0x40 == 0:
            target = here + 4 + offset
            name = f"wls lr, r{first & 15}, 0"
        else:
            return None
        return Instruction(here, 4, name, "branch", ("lr",), ("lr",), (), 1, "direct", target, True)
    if first & 0xFFF0 == 0xF040 and second == 0xE001:
        return Instruction(here, 4, f"dls lr, r{first & 15}", "alu", (f"r{first & 15}",), ("lr",))
    if first & 0xFFF0 == 0xEA50 and second & 0x8000:
        reads = (f"r{first & 15}", f"r{second & 15}")
        to = f"r{second >> 8 & 15}"
        text = f"csel {to}, {reads[0]}, {reads[1]}, eq".replace("r15", "zr")
        return Instruction(here, 4, text, "alu", reads, (to,))
    if first & 0xEC00 == 0xEC00 and second >> 8 & 15 >= 14:
        words = code[at : at + 4].hex()  # capstone reads them as instructions of a coprocessor
        return Instruction(here, 4, f".inst {words}", "vector")
    return None


def _instruction(one: Any) -> Instruction:
    """An instruction of capstone as an `Instruction`."""
    from capstone import arm_const as arm

    name = one.insn_name()
    kind = _KIND_OF.get(name, "fp_alu" if name.startswith("v") else "alu")
    used, made = one.regs_access()
    reads = [one.reg_name(r) for r in used]
    writes = [one.reg_name(r) for r in made]
    places: list[str] = []
    names = [one.reg_name(o.reg) for o in one.operands if o.type == arm.ARM_OP_REG]
    target: int | None = None
    for operand in one.operands:
        if operand.type == arm.ARM_OP_MEM:
            places += [one.reg_name(r) for r in (operand.mem.base, operand.mem.index) if r]
            if kind == "store" and operand.mem.index:
                kind = "store_register"
        elif operand.type == arm.ARM_OP_IMM:
            target = operand.imm
    if kind in _MULTIPLE:
        base = "sp" if name in ("push", "pop", "vpush", "vpop") else names[0]
        moved = names if base == "sp" and names[0] != "sp" else names[1:]
        places = [base]
        (writes if "load" in kind else reads).extend(moved)
        count = sum(2 if m.startswith("d") else 1 for m in moved)
    else:
        count = 1
    if kind in ("fp_load", "fp_store", "fp_move") and any(n.startswith("d") for n in names):
        kind += "_double"
    jumps = ""
    if kind == "branch":
        jumps = "direct"
    elif kind in ("branch_register", "branch_table") or "pc" in writes:
        jumps = "indirect"
    always = one.cc in (arm.ARM_CC_AL, arm.ARM_CC_INVALID) or kind == "it"
    conditional = name in ("cbz", "cbnz") or not always
    if kind == "mla_long":
        reads += writes
    return Instruction(
        one.address,
        one.size,
        f"{one.mnemonic} {one.op_str}".strip(),
        kind,
        _singles(reads),
        _singles(writes),
        tuple(places),
        count,
        jumps,
        target if jumps == "direct" else None,
        conditional,
    )


def _singles(names: list[str]) -> Registers:
    """A double register as its two single ones; each register once."""
    found: dict[str, None] = {}
    for name in names:
        if name[0] == "d" and name[1:].isdigit():
            found.update({f"s{2 * int(name[1:])}": None, f"s{2 * int(name[1:]) + 1}": None})
        else:
            found[name] = None
    return tuple(found)
