# SPDX-License-Identifier: Apache-2.0
"""One training step on this machine: the generated C against PyTorch eager, one thread each.

Both train the same network with the same samples: 8 samples forward and backward, one SGD step.
Rounds alternate between the two, so that a busy machine slows both; CPU time, median and spread.

    make bench
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

import biotrain as bt

ROUNDS = 15


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(name: str, rounds: int) -> dict[str, object]:
    """Median CPU milliseconds of 8 samples, and the ratio within each round."""
    torch.manual_seed(0)
    shape = bt.models.PAPER[name]
    net = bt.prepare(bt.models.build(name, **{**shape, "norm": "group"}), pool="avg")
    net.train()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, shape["n_chans"], shape["n_times"])).astype(np.float32)
    y = rng.integers(0, shape["n_outputs"], 8)
    pkg = bt.compile(net, torch.from_numpy(x), accumulate=8)
    device = pkg.run("host")
    optimizer = torch.optim.SGD(net.parameters(), lr=5e-3, momentum=0.9, weight_decay=1e-3)
    xt, yt = torch.from_numpy(x), torch.from_numpy(y)

    def accumulated() -> None:
        optimizer.zero_grad()
        for i in range(8):
            logits = net(xt[i : i + 1])
            (torch.nn.functional.cross_entropy(logits, yt[i : i + 1]) / 8).backward()
        optimizer.step()

    def batched() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(xt), yt).backward()
        optimizer.step()

    works = {
        "biotrain": lambda: device.train(x, y),
        "torch_accumulated": accumulated,
        "torch_batch": batched,
    }
    for work in works.values():
        work()
    times: dict[str, list[float]] = {k: [] for k in works}
    for _ in range(rounds):
        for key, work in works.items():
            times[key].append(1e3 * seconds(work))
    row: dict[str, object] = {"model": name}
    for key, values in times.items():
        row[f"{key}_ms"] = round(median(values), 3)
        row[f"{key}_spread_ms"] = [round(float(q), 3) for q in np.percentile(values, (10, 90))]
    for key in ("torch_accumulated", "torch_batch"):
        ratios = [t / c for t, c in zip(times[key], times["biotrain"], strict=True)]
        row[f"{key}_over_biotrain"] = round(median(ratios), 2)
    row["nominal_gmacs"] = round(8 * pkg.plan.macs / median(times["biotrain"]) * 1e-6, 2)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [compare(name, args.rounds) for name in ("mibminet", "epidenet", "eegnet")]
    print("8 samples, forward + backward + SGD step, CPU ms (median)")
    heads = ("BioTrain C", "torch accum.", "torch batch 8", "ratio")
    print(f"{'model':10} {heads[0]:>11} {heads[1]:>13} {heads[2]:>14} {heads[3]:>14}")
    for r in rows:
        ratio = f"{r['torch_accumulated_over_biotrain']} / {r['torch_batch_over_biotrain']}"
        print(
            f"{r['model']:10} {r['biotrain_ms']:11} {r['torch_accumulated_ms']:13} "
            f"{r['torch_batch_ms']:14} {ratio:>14}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
