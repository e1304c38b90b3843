# SPDX-License-Identifier: Apache-2.0
"""Instructions and cycles of the kernels on each small core, by multiply-add and by operation.

One training sample of some networks runs as firmware in the emulator; the executed blocks are
priced by the core's table or model. With --write the cycles per operation go into
src/biotrain/targets/<core>/cycles.toml, where the planner's prices come from.

    python benchmarks/small_cores.py
    python benchmarks/small_cores.py --write

Some minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

import biotrain as bt
from biotrain.graph.rewrite import DEFAULT
from biotrain.run.cycles import cycles
from biotrain.run.op_cycles import Measured, cycles_per_op, measured, shared
from biotrain.run.profile import profile
from biotrain.targets.target import FOLDER, Target, load_target

CORES = ("cortex-m4f", "cortex-m7", "cortex-m55", "cv32e40p")
"""Cortex-M33 is taken as Cortex-M4, a generic RV32IMFC core as CV32E40P."""

EMULATED = {"cortex-m55": "cortex-m33"}
"""What runs where the emulator does not have the core: the same arithmetic, other scheduling."""

NETWORKS: tuple[tuple[str, bool, bool], ...] = (
    ("epidenet", True, False),
    ("epidenet", False, False),
    ("mibminet", True, False),
    ("mibminet", True, True),
    ("eegnet", True, False),
    ("shallow", True, False),
    ("resnet", True, False),
)
"""Model at its published shape, max pools made average pools, input of int16."""

FAST = (("fir", "fastconv"), ("fft", "fft"))
"""Kernels that MI-BMInet has with a rewrite, and the rewrite. They share functions, so that their
cycles are those of the functions; the mean of all kernels leaves them out."""

MARK = "\n# Cycles per operation of each kernel"


def emulated(core: str) -> Target:
    """A target that the emulator runs, with the core's arithmetic."""
    target = load_target(core)
    if core not in EMULATED:
        return target
    return replace(load_target(EMULATED[core]), numerics=target.numerics)


def run(core: str, name: str, avg: bool, int16: bool) -> tuple[int, list[Measured]]:
    """All cycles of a training sample, and its kernels."""
    torch.manual_seed(0)
    shape = bt.models.PAPER[name]
    model = bt.models.build(name, **{**shape, "norm": "group"})
    net = bt.prepare(model, pool="avg") if avg else bt.prepare(model)
    x = np.random.default_rng(0).standard_normal((1, shape["n_chans"], shape["n_times"]))
    x = x.astype(np.float32)
    given = {"input_type": "int16", "input_scale": 0.01} if int16 else {}
    pkg = bt.compile(
        net,
        torch.from_numpy(x),
        target=emulated(core),
        strategy="full",
        **{"accumulate": 1, **given},
    )
    if int16:
        x = np.round(100 * x).astype(np.int16)
    with pkg.run("emulator") as device:
        device.restart_count()
        device.accumulate(x, np.zeros(1, int))
        histogram = device.machine.histogram
        spent = cycles(core, device.elf.path, histogram.blocks(), histogram.taken())
        divided = profile(spent, device.elf.path, pkg.files["model.c"], calls=histogram.calls())
    return spent.total, measured(divided, pkg.source.train.nodes)


def run_fast(core: str, stem: str, rewrite: str) -> tuple[int, list[Measured]]:
    """All cycles of a training sample with fast convolutions, and these."""
    torch.manual_seed(0)
    shape = bt.models.PAPER["mibminet"]
    net = bt.prepare(bt.models.build("mibminet", **{**shape, "norm": "group"}), pool="avg")
    x = np.random.default_rng(0).standard_normal((1, shape["n_chans"], shape["n_times"]))
    x = x.astype(np.float32)
    target = replace(emulated(core), cycles_per_op=0.0)  # the variant that is asked for
    pkg = bt.compile(
        net, torch.from_numpy(x), target=target, rewrites=(*DEFAULT, rewrite), accumulate=1
    )
    with pkg.run("emulator") as device:
        device.restart_count()
        device.accumulate(x, np.zeros(1, int))
        histogram = device.machine.histogram
        spent = cycles(core, device.elf.path, histogram.blocks(), histogram.taken())
    return spent.total, shared(spent.functions, stem, pkg.source.train.nodes)


def table(title: str, runs: Sequence[Measured]) -> None:
    """Print the kernels that matter."""
    print(f"\n{title}")
    print(f"{'kernel':20}{'cycles':>14}{'cycles/op':>11}{'cycles/MAC':>12}{'instr./MAC':>12}")
    total = sum(m.cycles for m in runs)
    for m in sorted(runs, key=lambda m: -m.cycles):
        if m.cycles < 0.002 * total:
            break
        macs = f"{m.cycles / m.macs:12.2f}{m.instructions / m.macs:12.2f}" if m.macs else ""
        print(f"{m.op:20}{m.cycles:14,}{m.cycles / max(m.ops, 1):11.2f}{macs}")


def write(core: str, prices: Mapping[str, float]) -> None:
    """Put the cycles per operation at the end of the core's table."""
    path = FOLDER / core / "cycles.toml"
    start = path.read_text(encoding="utf-8").split(MARK)[0].rstrip("\n")
    names = ["default", *sorted(set(prices) - {"default"})]
    lines = [f"{op} = {prices[op]:.2f}" for op in names]
    note = (
        f"{MARK}, as the planner counts operations; `default`: the mean.\n"
        "# Measured by `python benchmarks/small_cores.py --write`.\n[ops]\n"
    )
    path.write_text(start + "\n" + note + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--core", action="append", choices=CORES, help="only this one")
    parser.add_argument("--write", action="store_true", help="update cycles.toml of each core")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for core in args.core or CORES:
        found: list[list[Measured]] = []
        for name, avg, int16 in NETWORKS:
            total, runs = run(core, name, avg, int16)
            title = f"{name}{'' if avg else ', max pools'}{', int16' if int16 else ''}"
            table(f"{core}, {title}: {total:,} cycles", runs)
            rows.append({"core": core, "network": title, "kernels": [asdict(m) for m in runs]})
            found.append(runs)
        prices = cycles_per_op(found)
        for stem, rewrite in FAST:
            total, runs = run_fast(core, stem, rewrite)
            table(f"{core}, mibminet, {rewrite}: {total:,} cycles", runs)
            rows.append({"core": core, "network": rewrite, "kernels": [asdict(m) for m in runs]})
            prices |= {m.op: m.cycles / m.ops for m in runs}
        print(f"\n{core}: cycles per operation")
        for op, value in prices.items():
            print(f"  {op:20}{value:6.2f}")
        if args.write:
            write(core, prices)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
