# SPDX-License-Identifier: Apache-2.0
"""Pretraining in the generated C against torch: CPU milliseconds per window and epoch, as ratios of
one run on one thread. AdamW, batches of 64, dropout; windows of noise in the shapes of the four
public recordings.

    OMP_NUM_THREADS=1 python benchmarks/pretrain.py
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import torch

from biotrain.study.data.recordings import Recordings, from_signal
from biotrain.study.pretrain import pretrain

SHAPES = (
    ("epidenet", 8, 200, 200.0, 7),
    ("epidenet", 2, 1280, 128.0, 6),
    ("mibminet", 3, 500, 125.0, 2),
    ("mibminet", 8, 512, 128.0, 2),
    ("eegnet", 3, 500, 125.0, 2),
    ("eegnet", 8, 512, 128.0, 2),
)
"""Network, channels, samples, rate in Hz, classes."""

WINDOWS = 512


def noise(channels: int, samples: int, rate: float, classes: int) -> Recordings:
    """Windows of one person."""
    rng = np.random.default_rng(0)
    return from_signal(
        rng.standard_normal((WINDOWS, channels, samples)),
        y=rng.integers(0, classes, WINDOWS),
        subject=np.ones(WINDOWS, int),
        session=np.ones(WINDOWS, int),
        fs=rate,
        channels=[f"C{k}" for k in range(channels)],
        classes=[str(k) for k in range(classes)],
        unit="uV (x*scale)",
        name="noise",
    )


def seconds(rec: Recordings, network: str, norm: str, engine: str) -> float:
    """CPU time of one epoch: the median difference of runs with three epochs and with one."""

    def spent(epochs: int) -> float:
        begun = time.process_time()
        pretrain(rec, network, np.arange(WINDOWS), norm=norm, epochs=epochs, engine=engine)
        return time.process_time() - begun

    spent(1)
    return median((spent(3) - spent(1)) / 2 for _ in range(3))


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'network':9}  {'window':9}  {'norm':5}  {'torch ms':>8}  {'C ms':>6}  {'ratio':>5}")
    for network, channels, samples, rate, classes in SHAPES:
        rec = noise(channels, samples, rate, classes)
        for norm in ("batch", "group"):
            ours, theirs = (seconds(rec, network, norm, engine) for engine in ("c", "torch"))
            print(
                f"{network:9}  {f'{channels} x {samples}':9}  {norm:5}  "
                f"{1e3 * theirs / WINDOWS:8.3f}  {1e3 * ours / WINDOWS:6.3f}  {theirs / ours:5.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
