# SPDX-License-Identifier: Apache-2.0
"""Cycles per multiply-add of the whole convolution kernels on Cortex-M55 with its vector unit.

The layers of kernels_small.py train on one sample as firmware on QEMU's board with a Cortex-M55.
QEMU logs each block that it executes; the blocks are priced by llvm-mca (19 or newer, with
`-mcpu=cortex-m55`; branches by the core's table), and by the table alone. No simulator that counts
cycles of the core is to be had: these are estimates, and assume memories without wait states.

    python benchmarks/mve.py
    python benchmarks/mve.py --only "depthwise 64" --json mve.json

Needs qemu-system-arm and llvm-mca. Two minutes on CPU time of one core.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from kernels_small import PASSES, SHAPES, Shape, package, sample

from biotrain.ir.graph import Loop
from biotrain.ir.op import OPS
from biotrain.run import mca
from biotrain.run.cycles import cycles
from biotrain.run.elf import Elf
from biotrain.run.histogram import Block
from biotrain.run.pipeline import load_table
from biotrain.run.profile import functions, profile
from biotrain.run.qemu import QemuDevice, QemuMachine

TARGET, CORE = "cortex-m55-mve", "cortex-m55"


class Trace:
    """Executed blocks of a log of QEMU (`log in_asm,exec,nochain`), as `Histogram` has them."""

    def __init__(self, lines: Iterable[str], schedule: list[tuple[int, int]]) -> None:
        self.blocks: defaultdict[Block, int] = defaultdict(int)
        self.taken: defaultdict[Block, int] = defaultdict(int)
        self.calls: defaultdict[tuple[Block, int], int] = defaultdict(int)
        last, call, back = (0, 0), 0, 0
        for block in self._executed(lines):
            at, size = block
            behind = sum(last)
            self.blocks[block] += 1
            if at != behind:
                self.taken[last] += 1
            if any(begin <= at < end for begin, end in schedule):
                if not call and any(at == begin for begin, _ in schedule):
                    back = behind
                call = at + size
            elif at == back:
                call = 0
            elif call:
                self.calls[block, call] += 1
            last = block
        self.taken.pop((0, 0), None)

    def _executed(self, lines: Iterable[str]) -> Iterator[Block]:
        ends: dict[int, int] = {}
        begin, end = 0, 0
        for line in lines:
            if line.startswith("IN:"):
                begin = 0
            elif match := re.match(r"0x([0-9a-f]{8}):  ((?:[0-9a-f]{4} ?)+)", line):
                at = int(match.group(1), 16)
                begin = begin or at
                end = at + sum(len(half) // 2 for half in match.group(2).split())
                ends[begin] = end
            elif match := re.match(r"Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]+)/", line):
                at = int(match.group(1), 16)
                yield at, ends[at] - at


def executed(device: QemuDevice, shape: Shape, schedule: list[tuple[int, int]]) -> Trace:
    """The blocks of a training sample."""
    machine = device.machine
    assert isinstance(machine, QemuMachine)
    device.accumulate(sample(shape), np.zeros(1, int))  # boots

    def monitor(line: str) -> None:
        machine._monitor("human-monitor-command", **{"command-line": line})

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        monitor(f"logfile {log}")
        monitor("log in_asm,exec,nochain")
        device.accumulate(sample(shape), np.zeros(1, int))
        monitor("log none")
        with log.open(errors="replace") as lines:
            return Trace(lines, schedule)


def measure(shape: Shape) -> dict[str, dict[str, float]]:
    """Cycles per multiply-add of the three passes, by llvm-mca and by the table."""
    pkg = package(shape, TARGET)
    source = pkg.files["model.c"]
    macs = {}
    for node in pkg.source.train.nodes:
        for each in [step.node for step in node.body] if isinstance(node, Loop) else [node]:
            if each.origin == "layer":
                macs[each.op] = OPS[each.op].macs(each)
    with QemuDevice(pkg, compiler="zig") as device:
        elf = device.elf.path
        names = functions(source)
        code = [(s.address & ~1, s.size) for s in Elf(elf).symbols if s.name in names]
        trace = executed(device, shape, [(at, at + size) for at, size in code])
    found = {}
    for name in ("mca", "table"):
        spent = cycles(CORE, elf, trace.blocks, trace.taken, mca=name == "mca")
        places = profile(spent, elf, source, calls=trace.calls).places
        found[name] = {
            op: sum(c for p, (_, c) in places.items() if p.layer == "layer" and p.kernel == op)
            / macs[op]
            for op in PASSES
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="shapes whose name begins so")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    llvm = mca.analyser(load_table(CORE))
    if llvm is None:
        parser.error("no llvm-mca that knows cortex-m55 (19 or newer) is installed")
    print(f"{TARGET}: cycles per multiply-add by llvm-mca {llvm[1]}, and by the table")
    print(f"{'layer':24}" + 2 * "".join(f"{s:>9}" for s in ("forward", "input", "weight")))
    rows = []
    for shape in [s for s in SHAPES if s.name.startswith(args.only)]:
        found = measure(shape)
        numbers = [found[name][op] for name in ("mca", "table") for op in PASSES]
        print(f"{shape.name:24}" + "".join(f"{n:9.2f}" for n in numbers), flush=True)
        rows.append({**asdict(shape), **found})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
