# SPDX-License-Identifier: Apache-2.0
"""What a window and an optimizer step of a whole network cost on the RTL cluster.

    python benchmarks/cluster_networks.py [--only NAME] [--nodes N] [--times T] [--two]

EpiDeNet at 2 x 1000, all weights, SGD with momentum added up in the momentum's own tensor, a step
after each window; weights, state, arena and eight stacks in 128 kB of L1. The second window is
counted: from the command in the mailbox to the answer, with the check of the window. The weights'
CRC-32 has to be that of one worker on the host. The table has cycles, those that the plan foresaw,
windows a second at 370 MHz, what the cycles of all cores went into, and the bytes of the deepest
stack; --nodes adds the intervals between barriers that took longest, from a run that records
counters at each barrier.

--two: MI-BMInet at 8 x 1900 instead, its arena and weights in L2 and windows in L1.

Two minutes a configuration, of which compiling and the plan take half.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from dataclasses import dataclass, fields, replace
from itertools import takewhile

import numpy as np
import torch

import biotrain as bt
from biotrain import models
from biotrain.run.cluster import ClusterSettings, Spent
from biotrain.run.cluster.device import ClusterDevice
from biotrain.run.firmware import Compiler
from biotrain.targets.target import load_target

CLOCK_HZ = 370e6
"""GAP9 at 0.80 V, as the publication runs it."""
STACK_BYTES = 1024
"""Of each core; the table says what was touched at most."""
MEMORY = (128 << 10) - 512
"""RAM of the plan; the rest of L1 is the mailbox and what aligns the stacks."""
CALL = re.compile(r"\s+(?:bt|do)_(\w+)\((?:k_)?(\w+)")
"""A call of a kernel in `model.c`."""


@dataclass(frozen=True)
class Configuration:
    """Cores, FPUs and compiler."""

    target: str
    compiler: Compiler
    fpus: int = 8


CONFIGURATIONS = {
    "F registers, gcc": Configuration("cv32e40p", "gcc"),
    "F registers, zig": Configuration("cv32e40p", "zig"),
    "zfinx, zig": Configuration("rv32imc_zfinx", "zig"),
    "F registers, gcc, four FPUs": Configuration("cv32e40p", "gcc", 4),
    "zfinx, zig, four FPUs": Configuration("rv32imc_zfinx", "zig", 4),
}


@dataclass(frozen=True)
class Network:
    """A network, its windows, and the memories of its plan in bytes."""

    name: str
    title: str
    chans: int
    times: int
    classes: int
    memory: int = MEMORY
    l2_memory: int | None = None
    stack_bytes: int = STACK_BYTES


EPIDENET = Network("epidenet", "EpiDeNet", 2, 1000, 11)
MIBMINET = Network("mibminet", "MI-BMInet", 8, 1900, 4, 127 << 10, 1400 << 10, 4096)
RATE_HZ = 500.0


def package(target: str, workers: int, of: Network) -> bt.Package:
    """The network with GroupNorm; with one worker as large as it likes."""
    torch.manual_seed(0)
    net = bt.prepare(models.build(of.name, of.chans, of.times, of.classes, RATE_HZ))
    return bt.compile(
        net,
        torch.zeros(1, of.chans, of.times),
        target=replace(load_target(target), stack_bytes=of.stack_bytes),
        optimizer=bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3),
        gradients="momentum",
        memory=of.memory if workers > 1 else None,
        l2_memory=of.l2_memory if workers > 1 else None,
        workers=workers,
        accumulate=1,
    )


def windows(of: Network) -> tuple[np.ndarray, np.ndarray]:
    """Two windows of noise and their classes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, of.chans, of.times)).astype(np.float32)
    return x, np.array([3, 7]) % of.classes


def trained(pkg: bt.Package, chosen: Configuration, of: Network, marks: bool) -> ClusterDevice:
    """The device behind the second window; counters run since the first."""
    x, y = windows(of)
    settings = ClusterSettings(fpus=chosen.fpus)
    device = pkg.run("rtl", compiler=chosen.compiler, settings=settings, marks=marks)
    assert isinstance(device, ClusterDevice)
    device.begin(2)
    device.train(x[:1], y[:1])
    device.restart_count()
    device.train(x[1:], y[1:])
    return device


def expected(target: str, of: Network) -> int:
    """The CRC-32 of one worker on the host."""
    device = package(target, 1, of).run("host")
    device.begin(2)
    device.train(*windows(of))
    return device.crc32()


def print_nodes(pkg: bt.Package, device: ClusterDevice, most: int) -> None:
    """The intervals between barriers that took longest, by the line of their barrier."""
    source = pkg.files["model.c"].splitlines()
    cycles: defaultdict[int, int] = defaultdict(int)
    count: defaultdict[int, int] = defaultdict(int)
    spent: defaultdict[int, Spent] = defaultdict(Spent)
    for one in device.intervals():
        cycles[one.line] += one.cycles
        count[one.line] += 1
        spent[one.line] = sum(one.spent, spent[one.line])
    print(
        "\n| cycles | times | instructions | barrier | pipeline | what |\n|---|---|---|---|---|---|"
    )
    for line in sorted(cycles, key=lambda at: -cycles[at])[:most]:
        body = takewhile(lambda text: "bt_barrier()" not in text, source[line : line + 40])
        found = filter(None, (CALL.match(text) for text in body))
        what = [f"{call[1]}({call[2]})" for call in found if call[1] != "own"]
        parts = (spent[line].instructions, spent[line].barrier, spent[line].pipeline)
        shares = " | ".join(f"{100 * part / spent[line].cycles:.0f} %" for part in parts)
        name = ", ".join(what) if line else "first calls of the team"
        print(f"| {cycles[line]} | {count[line]} | {shares} | {name} |")
    print(flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="configurations whose name contains this")
    parser.add_argument("--times", type=int, help="of a window; else 1000, or 1900")
    parser.add_argument("--two", action="store_true", help="MI-BMInet in two memories")
    parser.add_argument("--nodes", type=int, default=0, metavar="N")
    args = parser.parse_args()
    reasons = [f.name for f in fields(Spent)]
    of = MIBMINET if args.two else EPIDENET
    of = replace(of, times=args.times or of.times)
    print(f"{of.title} {of.chans} x {of.times}, full, momentum, 8 workers")
    print(f"| configuration | cycles | plan | windows/s | {' | '.join(reasons)} | RAM | stack |")
    print("|---" * (len(reasons) + 6) + "|")
    for name, chosen in CONFIGURATIONS.items():
        if args.only not in name:
            continue
        pkg = package(chosen.target, 8, of)
        device = trained(pkg, chosen, of, marks=False)
        found = device.worker_cycles()
        assert device.crc32() == expected(chosen.target, of), name
        total = sum(found.spent, Spent())
        parts = [f"{100 * getattr(total, reason) / total.cycles:.1f} %" for reason in reasons]
        stack = max(device.touched_stacks())
        rate = CLOCK_HZ / found.cycles
        print(
            f"| {name} | {found.cycles} | {pkg.plan.cycles:.0f} | {rate:.0f} | {' | '.join(parts)} "
            f"| {pkg.plan.ram_bytes + pkg.plan.l1_bytes} | {stack} |",
            flush=True,
        )
        if args.nodes:
            print_nodes(pkg, trained(pkg, chosen, of, marks=True), args.nodes)


if __name__ == "__main__":
    main()
