# SPDX-License-Identifier: Apache-2.0
"""Wall time from a PyTorch network to a running host library: nothing cached, and everything.

Each run is a process of its own: capture, gradients, plan, C, compiler, one trained window. What
the imports take stands apart. Wall time: on a busy machine it says what the machine does.

    python benchmarks/first_build.py

A minute on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

NETWORKS = ("mibminet", "epidenet", "eegnet")
RUN = """
import sys, time
start = time.perf_counter()
import numpy as np
import torch
import biotrain as bt
imported = time.perf_counter()
shape = bt.models.PAPER[sys.argv[1]]
net = bt.prepare(bt.models.build(sys.argv[1], **{**shape, "norm": "group"}), pool="avg")
x = np.zeros((1, shape["n_chans"], shape["n_times"]), np.float32)
x[..., ::2] = 1
pkg = bt.compile(net, x)
compiled = time.perf_counter()
pkg.run("host").train(x, np.zeros(1, int))
print(imported - start, compiled - imported, time.perf_counter() - compiled)
"""


def seconds(network: str, cache: str) -> tuple[float, float, float]:
    """Of the imports, of `bt.compile`, and from there to a trained window."""
    command = [sys.executable, "-c", RUN, network]
    env = {**os.environ, "BIOTRAIN_CACHE": cache}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    imports, compile_, run = map(float, done.stdout.split())
    return imports, compile_, run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print("seconds of wall time (median, least to most): capture to a trained window")
    print(f"{'':10}{'imports':>9}{'nothing cached':>26}{'of it compile':>15}{'cached':>24}")
    rows = []
    for network in NETWORKS:
        cold = [seconds(network, "off") for _ in range(args.rounds)]
        with tempfile.TemporaryDirectory() as cache:
            warm = [seconds(network, cache) for _ in range(args.rounds + 1)][1:]
        row = {"network": network}
        texts = []
        for name, runs in (("cold", cold), ("cached", warm)):
            took = [compile_ + run for _, compile_, run in runs]
            row[name] = {"median": median(took), "least": min(took), "most": max(took)}
            texts.append(f"{median(took):.2f} ({min(took):.2f} to {max(took):.2f})")
        imports, compile_ = (median(run[i] for run in cold) for i in (0, 1))
        print(f"{network:10}{imports:9.2f}{texts[0]:>26}{compile_:15.2f}{texts[1]:>24}", flush=True)
        rows.append({**row, "imports": imports, "compile": compile_})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
