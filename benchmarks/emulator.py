# SPDX-License-Identifier: Apache-2.0
"""Speed of the emulator: million instructions per second of CPU time, with and without counting.

A training sample of EpiDeNet as firmware of a Cortex-M4F, the fastest of some rounds.

    python benchmarks/emulator.py
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from unittest import mock

import numpy as np
import torch

import biotrain as bt
from biotrain.run import emulator
from biotrain.run.histogram import Histogram


class Uncounted(Histogram):
    """A histogram that hooks nothing."""

    def attach(self, *_: object) -> None:
        pass


HOOKS = {
    "hook in C": Histogram,
    "hook in Python": partial(Histogram, native=False),
    "no hook": Uncounted,
}


def package(target: str) -> tuple[bt.Package, np.ndarray]:
    """EpiDeNet at the published shape, and a window of noise."""
    torch.manual_seed(0)
    shape = bt.models.PAPER["epidenet"]
    net = bt.prepare(bt.models.build("epidenet", **{**shape, "norm": "group"}), pool="avg")
    x = np.random.default_rng(0).standard_normal((1, shape["n_chans"], shape["n_times"]))
    x = x.astype(np.float32)
    return bt.compile(net, torch.from_numpy(x), target=target, strategy="full", accumulate=1), x


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--target", default="cortex-m4f")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=8)
    options = parser.parse_args()
    pkg, x = package(options.target)
    windows, labels = np.repeat(x, options.samples, axis=0), np.zeros(options.samples, int)
    count = 0
    for name, histogram in HOOKS.items():
        with mock.patch.object(emulator, "Histogram", histogram), pkg.run("emulator") as device:
            device.accumulate(windows[:1], labels[:1])  # translated once
            best = float("inf")
            for _ in range(options.rounds):
                device.restart_count()
                start = time.process_time()
                device.accumulate(windows, labels)
                best = min(best, time.process_time() - start)
            count = device.machine.instructions or count
        print(f"{name:16}{count / best / 1e6:8.0f} MIPS   {count:,} instructions, {best:.3f} s")


if __name__ == "__main__":
    main()
