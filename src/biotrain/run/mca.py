# SPDX-License-Identifier: Apache-2.0
"""Cycles of blocks by LLVM's machine code analyser, where the program is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache

from biotrain.run.decode import Instruction
from biotrain.run.pipeline import Table

ITERATIONS = 100
"""A block is analysed as if it ran so many times in a row; the mean is its cost."""
MOST_RUNS = 12
"""Runs of llvm-mca: after each, the instructions that it refuses are replaced by `nop`."""


@cache
def _programs() -> tuple[str, ...]:
    """llvm-mca under its plain name and under those of Debian, the newest first."""
    names = ("llvm-mca", *(f"llvm-mca-{version}" for version in range(25, 13, -1)))
    return tuple(found for name in names if (found := shutil.which(name)))


def analyser(table: Table) -> tuple[str, str] | None:
    """The program that knows the core, and its version; None where there is none."""
    return _find(table.mca, table.mca_units) if table.mca else None


@cache
def _find(core: str, units: str) -> tuple[str, str] | None:
    for program in _programs():
        done = _process(program, core, "nop\n", ())
        if not done.returncode and units in done.stdout:
            return program, _version(program)
    return None


def mca_cycles(
    blocks: Mapping[tuple[int, int], Sequence[Instruction]], table: Table
) -> dict[tuple[int, int], float]:
    """Cycles of one execution of each block; blocks that LLVM cannot read are left out."""
    found = analyser(table)
    if found is None or not blocks:
        return {}
    lines: list[str] = []
    keys = list(blocks)
    for number, key in enumerate(keys):
        lines.append(f"@ LLVM-MCA-BEGIN {number}")
        lines += [_text(one) for one in blocks[key]]
        lines.append("@ LLVM-MCA-END")
    vectors = _vectors(found[0], table.mca, [s for s in lines if s.startswith(".inst ")])
    lines = [vectors.get(line, line) for line in lines]
    bad: set[int] = set()
    for _ in range(MOST_RUNS):
        text = "\n".join("nop" if at in bad else line for at, line in enumerate(lines, 1))
        done = _process(found[0], table.mca, text, ("-json",))
        wrong = _refused(done.stderr, lines)
        if not done.returncode or not wrong - bad:
            break
        bad |= wrong
    if done.returncode:
        return {}
    cycles: dict[tuple[int, int], float] = {}
    for region in json.loads(done.stdout[done.stdout.index("{") :])["CodeRegions"]:
        summary = region.get("SummaryView", {})
        if "TotalCycles" in summary:
            cycles[keys[int(region["Name"])]] = summary["TotalCycles"] / ITERATIONS
    return cycles


def _refused(complaints: str, lines: Sequence[str]) -> set[int]:
    """Numbers of the lines that LLVM complains about; line 1 is the directive before them."""
    wrong = {int(m) - 1 for m in re.findall(r"^<stdin>:(\d+):\d+: error", complaints, re.M)}
    for name in re.findall(r"^note: instruction:\s*(\S+)", complaints, re.M):
        wrong |= {at for at, line in enumerate(lines, 1) if line.split(" ", 1)[0] == name}
    return wrong


def _text(one: Instruction) -> str:
    """An instruction for the assembler, as if its condition held.

    The figures know no IT, and where a branch goes does not matter to them.
    """
    if one.text.startswith("bl"):
        return "nop"  # LLVM takes a call for 100 cycles; what a branch costs is added
    if one.jumps == "direct":
        return re.sub(r"#?-?(0x)?[0-9a-f]+$", "elsewhere", one.text)
    if one.kind == "it":
        return ""
    if one.conditional:
        return re.sub(r"^([a-z0-9]+)[a-z]{2}(?=[. ]|$)", r"\1", one.text)
    return one.text


def _vectors(program: str, core: str, lines: Sequence[str]) -> dict[str, str]:
    """The vector instructions, which our decoder writes as `.inst`, in LLVM's words, as if a
    condition (VPT) held."""
    words = {line: bytes.fromhex(line.split()[1]) for line in lines}
    nops = "\n0x00 0xbf" * 4  # what a VPT before them would hold for
    text = "\n".join(" ".join(map(hex, word)) + nops for word in words.values())
    disassembler = re.sub("mca(?=[^/]*$)", "mc", program)
    if not words or not shutil.which(disassembler):
        return {}
    command = [disassembler, "-disassemble", "-show-encoding"]
    command += ["-triple=thumbv8.1m.main-none-eabihf", f"-mcpu={core}"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    named = {
        bytes.fromhex(encoding.replace("0x", "").replace(",", "")): name.strip()
        for name, encoding in re.findall(r"^(.*?)@ encoding: \[(.*)\]", done.stdout, re.M)
    }
    return {
        line: "nop" if re.match("vps?t", named[word]) else named[word].replace("\t", " ")
        for line, word in words.items()
        if word in named
    }


def _process(
    program: str, core: str, text: str, flags: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    command = [program, "-mtriple=thumbv8.1m.main-none-eabihf", f"-mcpu={core}"]
    command += [f"-iterations={ITERATIONS}", *flags]
    return subprocess.run(
        command, input=f".syntax unified\n{text}\n", capture_output=True, text=True, check=False
    )


def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"version (\d+)", done.stdout)
    return match.group(1) if match else "?"
