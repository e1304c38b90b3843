# SPDX-License-Identifier: Apache-2.0
"""The plan's estimate of cycles beside those that the emulator counts, on all boards of the README.

One window of training and its share of a step of the optimizer, by the same tables of cycles. The
plan runs nothing: its cycles are those of `kernels.toml` of the core, which was fitted to other
networks (`python benchmarks/kernel_cycles.py`). --nodes shows where the estimate errs most.

    python benchmarks/estimates.py
    python benchmarks/estimates.py --network eegnet --board nrf52840 --nodes 10

Two minutes per network and board where nothing is built yet.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from boards import BOARDS, package, window
from kernel_cycles import profiles

from biotrain.package import Package
from biotrain.run.work_cycles import Counted, counted

NETWORKS = ("epidenet", "mibminet", "eegnet")
ACCURATE = 0.05
"""The error that an estimate may have."""


def compare(pkg: Package, x: np.ndarray) -> tuple[float, list[Counted]]:
    """Counted cycles of a window with its share of a step, and of the nodes."""
    sample, step = profiles(pkg, x)
    found = counted(pkg, sample, step, pkg.target.wide_outputs)
    return sample.cycles + step.cycles / pkg.source.accumulate, found


def show(pkg: Package, rows: Sequence[Counted], total: float, most: int) -> None:
    """The nodes whose estimates are farthest from what was counted."""
    estimates = [(pkg.target.work_cycles(r.op, r.work), r) for r in rows]
    known = sorted(
        ((e - r.cycles, e, r) for e, r in estimates if e is not None), key=lambda f: -abs(f[0])
    )
    for error, estimate, row in known[:most]:
        print(f"    {row.name:46}{row.cycles:14,.0f}{estimate:14,.0f}{error / total:+8.2%}")
    for _, row in (f for f in estimates if f[0] is None):
        print(f"    {row.name:46}{row.cycles:14,.0f}   no entry in kernels.toml")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", action="append", choices=NETWORKS)
    parser.add_argument("--board", action="append", help="a board or a core; may be repeated")
    parser.add_argument("--plain", action="store_true", help="without --fast-conv")
    parser.add_argument("--nodes", type=int, default=0, help="so many of the worst nodes")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    kept: list[dict[str, Any]] = []
    print(f"{'network':12}{'board':12}{'':12}{'plan':>14}{'counted':>14}{'error':>8}")
    for name in args.network or NETWORKS:
        for board in args.board or (*BOARDS, "cv32e40p"):
            for fast in (False, True) if name == "mibminet" and not args.plain else (False,):
                pkg = package(name, board, fast)
                total, rows = compare(pkg, window(name))
                error = pkg.plan.cycles / total - 1
                kept.append(
                    {
                        "network": name,
                        "board": board,
                        "fast_conv": fast,
                        "plan": pkg.plan.cycles,
                        "counted": total,
                    }
                )
                print(
                    f"{name:12}{board:12}{'--fast-conv' if fast else '':12}"
                    f"{pkg.plan.cycles:14,.0f}{total:14,.0f}{error:+8.1%}"
                    f"{'   more than 5 %' if abs(error) > ACCURATE else ''}",
                    flush=True,
                )
                show(pkg, rows, total, args.nodes) if args.nodes else None
    if args.json:
        args.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
