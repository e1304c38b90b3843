# SPDX-License-Identifier: Apache-2.0
"""What sharing one window over threads buys on this machine, and how evenly it is shared.

    python benchmarks/workers.py [NETWORK ...] [--workers N,N] [--rounds N]

One window of a built-in network at the paper's shape is trained (forward, backward and step) with
one worker and with more, in turn, so that what else the machine does meets all of them; the table
has the fastest and the median round, and the gain of the fastest. On a machine that others use a
thread waits for a core, not for its colleague: `cpu gain` is by CPU time instead, of one worker
against the mean of several, with threads that sleep at once where they wait. Beside it stand
counted operations: the share of their time in which the workers of a cluster would work if an
operation took the same time everywhere.
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median

import numpy as np
import torch

import biotrain as bt
from biotrain import models
from biotrain.planner.team import team_of
from biotrain.planner.team_work import team_work
from biotrain.run.host import OPTIMISED

SHAPES = {"mibminet": (8, 1900, 2), "epidenet": (2, 1000, 11), "eegnet": (8, 1125, 4)}


def package(network: str, workers: int) -> bt.Package:
    """The whole network, GroupNorm, SGD with momentum, everything stored."""
    chans, times, classes = SHAPES[network]
    torch.manual_seed(0)
    net = bt.prepare(models.build(network, chans, times, classes, 500.0))
    optimizer = bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3)
    return bt.compile(
        net, torch.zeros(1, chans, times), optimizer=optimizer, workers=workers, accumulate=1
    )


def measure(network: str, numbers: list[int], rounds: int) -> None:
    """Print a row per number of workers."""
    chans, times, classes = SHAPES[network]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, chans, times)).astype(np.float32)
    y = rng.integers(0, classes, 1)
    packages = {n: package(network, n) for n in numbers}
    devices = {n: pkg.run("host" if n == 1 else "threads") for n, pkg in packages.items()}
    asleep = (*OPTIMISED, "-DBT_SPINS=0")
    sleepers = {n: pkg.run("threads", flags=asleep) for n, pkg in packages.items()}
    taken: dict[int, list[float]] = {n: [] for n in numbers}
    cpu: dict[int, list[float]] = {n: [] for n in numbers}
    for _ in range(rounds):
        for n, device in devices.items():
            begin = time.perf_counter()
            device.train(x, y)
            taken[n].append(1000 * (time.perf_counter() - begin))
    for _ in range(rounds):
        for n, device in sleepers.items():
            begin = time.process_time()
            device.train(x, y)
            cpu[n].append((time.process_time() - begin) / n)
    assert len({d.crc32() for d in devices.values()}) == 1
    for n, pkg in packages.items():
        team = team_of(pkg.source.train, pkg.plan.buffers, n)
        work = team_work(pkg.source.train, team)
        best, middle = min(taken[n]), median(taken[n])
        gain = min(taken[numbers[0]]) / best
        by_cpu = median(cpu[numbers[0]]) / median(cpu[n])
        print(
            f"| {network} | {n} | {best:.2f} | {middle:.2f} | {gain:.2f} | {by_cpu:.2f} | "
            f"{100 * work.balance:.1f} | {len(team.barriers)} |"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=["mibminet", "epidenet"])
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| network | workers | fastest ms | median ms | gain | cpu gain | balance % | barriers |")
    print("|---|---|---|---|---|---|---|---|")
    for network in given.networks:
        measure(network, [int(n) for n in given.workers.split(",")], given.rounds)


if __name__ == "__main__":
    main()
