# SPDX-License-Identifier: Apache-2.0
"""What a window and an optimizer step of a whole network cost on the RTL cluster.

    python benchmarks/cluster_networks.py [--only NAME] [--nodes N] [--times T]

EpiDeNet at 2 x 1000, all weights, SGD with momentum added up in the momentum's own tensor, a step
after each window; weights, state, arena and eight stacks in 128 kB of L1. The second window is
counted: from the command in the mailbox to the answer, with the check of the window. The weights'
CRC-32 has to be that of one worker on the host. The table has cycles, those that the plan foresaw,
windows a second at 370 MHz, what the cycles of all cores went into, and the bytes of the deepest
stack; --nodes adds the intervals between barriers that took longest, from a run that records
counters at each barrier.

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
CHANS, CLASSES, RATE_HZ = 2, 11, 500.0
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


def package(target: str, workers: int, times: int) -> bt.Package:
    """EpiDeNet with GroupNorm; with one worker as large as it likes."""
    torch.manual_seed(0)
    net = bt.prepare(models.build("epidenet", CHANS, times, CLASSES, RATE_HZ))
    return bt.compile(
        net,
        torch.zeros(1, CHANS, times),
        target=replace(load_target(target), stack_bytes=STACK_BYTES),
        optimizer=bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3),
        gradients="momentum",
        memory=MEMORY if workers > 1 else None,
        workers=workers,
    )


def windows(times: int) -> tuple[np.ndarray, np.ndarray]:
    """Two windows of noise and their classes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, CHANS, times)).astype(np.float32)
    return x, np.array([3, 7])


def trained(pkg: bt.Package, chosen: Configuration, times: int, marks: bool) -> ClusterDevice:
    """The device behind the second window; counters run since the first."""
    x, y = windows(times)
    settings = ClusterSettings(fpus=chosen.fpus)
    device = pkg.run("rtl", compiler=chosen.compiler, settings=settings, marks=marks)
    assert isinstance(device, ClusterDevice)
    device.begin(2)
    device.train(x[:1], y[:1])
    device.restart_count()
    device.train(x[1:], y[1:])
    return device


def expected(target: str, times: int) -> int:
    """The CRC-32 of one worker on the host."""
    device = package(target, 1, times).run("host")
    device.begin(2)
    device.train(*windows(times))
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
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=0, metavar="N")
    args = parser.parse_args()
    reasons = [f.name for f in fields(Spent)]
    print(f"EpiDeNet {CHANS} x {args.times}, full, momentum, 8 workers")
    print(f"| configuration | cycles | plan | windows/s | {' | '.join(reasons)} | RAM | stack |")
    print("|---" * (len(reasons) + 6) + "|")
    for name, chosen in CONFIGURATIONS.items():
        if args.only not in name:
            continue
        pkg = package(chosen.target, 8, args.times)
        device = trained(pkg, chosen, args.times, marks=False)
        found = device.worker_cycles()
        assert device.crc32() == expected(chosen.target, args.times), name
        total = sum(found.spent, Spent())
        parts = [f"{100 * getattr(total, reason) / total.cycles:.1f} %" for reason in reasons]
        stack = max(device.touched_stacks())
        rate = CLOCK_HZ / found.cycles
        print(
            f"| {name} | {found.cycles} | {pkg.plan.cycles:.0f} | {rate:.0f} | {' | '.join(parts)} "
            f"| {pkg.plan.ram_bytes} | {stack} |",
            flush=True,
        )
        if args.nodes:
            print_nodes(pkg, trained(pkg, chosen, args.times, marks=True), args.nodes)


if __name__ == "__main__":
    main()
