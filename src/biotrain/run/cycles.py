# SPDX-License-Identifier: Apache-2.0
"""Cycles of a run from the histogram of its blocks, by a core's table, its model or llvm-mca.

No free simulator of a Cortex-M counts cycles, so its cycles are estimates. All of them assume
memories without wait states, or caches that hit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from biotrain.run.cv32e40p_cycles import cycles_by_address
from biotrain.run.decode import Instruction, decode
from biotrain.run.histogram import Block, instruction_length
from biotrain.run.mca import analyser, mca_cycles
from biotrain.run.pipeline import Table, block_cycles, branch_cycles, load_table
from biotrain.run.symbols import Program

MCA_SHARE = 0.999
"""Share of the executed instructions whose blocks llvm-mca analyses; the table prices the rest."""

Spent = Mapping[int, tuple[int, float]]
"""Executions of an instruction and the cycles of all of them, by its address."""

RISCV = {
    "cv32e40p": ("CV32E40P user manual, pipeline details, on the executed blocks", False),
    "rv32imfc": ("taken as CV32E40P: a generic core has no cycles of its own", True),
}
"""Source of the cycles, and whether they are an estimate. The model of CV32E40P is checked against
its RTL."""


@dataclass(frozen=True)
class Cycles:
    """Cycles of a run, and where they went."""

    core: str
    total: int
    functions: Mapping[str, int]
    """Cycles by function of the firmware, the most expensive first."""
    source: str
    estimate: bool
    """True where no cycle-exact model of the core is behind it."""
    instructions: int
    addresses: Spent
    """Executions of each instruction and the cycles of all of them, by its address."""


def cycles(
    core: str,
    elf: Path,
    blocks: Mapping[Block, int],
    taken: Mapping[Block, int],
    *,
    mca: bool = False,
) -> Cycles:
    """Cycles of the executed `blocks` of a firmware on a core.

    `blocks` and `taken` are those of `Histogram`.

    `mca=True` asks llvm-mca about the hot blocks, where a version that knows the core is there.
    Its pipeline writes results in the order of the program, so that a load behind a multiply-add
    waits for it, which the cores do not do: an upper bound. The table has the same figures of LLVM
    without that, and is there everywhere.
    """
    program = Program(elf)
    if core in RISCV:
        found = _riscv(program, blocks, taken)
        source, estimate = RISCV[core]
    else:
        table = load_table(core)
        found, asked = _arm(program, table, blocks, taken, mca)
        source, estimate = asked or table.source, True
    functions: defaultdict[str, float] = defaultdict(float)
    for address, (_, cost) in found.items():
        functions[program.function(address)] += cost
    ordered = sorted(functions.items(), key=lambda item: (-item[1], item[0]))
    return Cycles(
        core,
        round(sum(functions.values())),
        {name: round(cost) for name, cost in ordered},
        source,
        estimate,
        sum(count for count, _ in found.values()),
        found,
    )


def _arm(
    program: Program,
    table: Table,
    blocks: Mapping[Block, int],
    taken: Mapping[Block, int],
    mca: bool,
) -> tuple[Spent, str]:
    """Cycles by the table of a Cortex-M, and their source where llvm-mca was asked too."""
    decoded = {key: decode(program.code(*key), key[0]) for key, n in blocks.items() if n}
    program_of_llvm = analyser(table) if mca else None
    analysed = mca_cycles(_hot(decoded, blocks), table) if program_of_llvm else {}
    spent: defaultdict[int, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for key, block in decoded.items():
        count, last = blocks[key], block[-1]
        if key in analysed:
            each = [analysed[key] / len(block)] * len(block)
        else:
            each = block_cycles(block, table, looped=last.target == key[0])
        wide = last.target is not None and _wide(program, last.target)
        each[-1] += branch_cycles(last, table, count, taken.get(key, 0), wide) / count
        for one, cost in zip(block, each, strict=True):
            executed, before = spent[one.address]
            spent[one.address] = executed + count, before + count * cost
    if not analysed or not program_of_llvm:
        return dict(spent), ""
    version = program_of_llvm[1]
    return dict(spent), f"llvm-mca {version} -mcpu={table.mca} on the executed blocks"


def _riscv(program: Program, blocks: Mapping[Block, int], taken: Mapping[Block, int]) -> Spent:
    """Cycles by the model of the pipeline of CV32E40P."""
    origin, code = program.text()
    cost = cycles_by_address(code, origin, blocks, taken)
    executed: defaultdict[int, int] = defaultdict(int)
    for (address, size), count in blocks.items():
        at = address
        while at < address + size:
            executed[at] += count
            first = int.from_bytes(program.code(at, 2), "little")
            at += instruction_length(first, riscv=True)
    return {at: (count, cost.get(at, 0.0)) for at, count in executed.items()}


def _hot(
    decoded: Mapping[Block, Sequence[Instruction]], blocks: Mapping[Block, int]
) -> dict[Block, Sequence[Instruction]]:
    """The blocks in which nearly all instructions were executed."""
    work = {key: blocks[key] * len(block) for key, block in decoded.items()}
    left = MCA_SHARE * sum(work.values())
    found: dict[Block, Sequence[Instruction]] = {}
    for key in sorted(work, key=lambda k: (-work[k], k)):
        if left <= 0:
            break
        found[key] = decoded[key]
        left -= work[key]
    return found


def _wide(program: Program, target: int) -> bool:
    """Whether a 32-bit instruction lies across a word border at the target."""
    first = int.from_bytes(program.code(target, 2), "little")
    return target % 4 == 2 and instruction_length(first) == 4
