# SPDX-License-Identifier: Apache-2.0
"""How fast MI-BMInet trains on this machine in ever less RAM, against everything stored.

One thread, CPU time, 8 windows a round; rounds alternate between the plans, so that a busy machine
slows all of them; medians of the ratios within a round.

    python benchmarks/budget_speed.py
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import torch

import biotrain as bt
from biotrain.graph.rewrite import DEFAULT, NAMES

MOMENTUM = 31_752
"""Bytes of the optimizer's state, beside arena, parameters and gradients."""

PLANS: tuple[tuple[str, dict[str, object]], ...] = (
    ("direct algorithms, everything stored", {"rewrites": ("fuse",)}),
    ("everything stored", {}),
    ("670 kB", {"memory": 670_000 + MOMENTUM}),
    ("435 kB", {"memory": 435_000 + MOMENTUM}),
    ("200 kB", {"memory": 200_000 + MOMENTUM}),
    ("fast convolutions, everything stored", {"rewrites": NAMES}),
    ("fast convolutions, 256 KiB with momentum", {"rewrites": NAMES, "memory": 262_144}),
)
"""Sizes are those of arena, parameters and gradients unless momentum is named."""


def main(rounds: int = 30) -> None:
    """Print the table."""
    shape = bt.models.PAPER["mibminet"]
    net = bt.prepare(bt.models.build("mibminet", **{**shape, "norm": "group"}), pool="avg")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, shape["n_chans"], shape["n_times"])).astype(np.float32)
    y = rng.integers(0, shape["n_outputs"], 8)
    torch.manual_seed(0)
    packages = {
        name: bt.compile(net, x[:1], **{"accumulate": 1, "rewrites": DEFAULT, **options})
        for name, options in PLANS
    }
    devices = {name: pkg.run("host") for name, pkg in packages.items()}
    times: dict[str, list[float]] = {name: [] for name in devices}
    for _ in range(rounds):
        for name, device in devices.items():
            start = time.process_time()
            device.train(x, y)
            times[name].append(time.process_time() - start)
    base = times[PLANS[0][0]]
    print(f"{'plan':42s} {'kB':>8s} {'operations':>11s} {'ms / 8':>7s} {'ratio':>6s}")
    for name, taken in times.items():
        plan = packages[name].plan
        size = (plan.ram_bytes - plan.optimizer_bytes) / 1e3
        ratio = median(t / b for t, b in zip(taken, base, strict=True))
        work = plan.ops / plan.base_ops - 1
        print(f"{name:42s} {size:8.1f} {work:+11.1%} {1e3 * median(taken):7.2f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
