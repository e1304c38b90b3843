# SPDX-License-Identifier: Apache-2.0
"""Full training of the two published networks on boards: RAM, flash, stack, time, energy.

`python benchmarks/boards.py` builds the firmware for each board, trains on one window in the
emulated core, and prints a table, the published GAP9 figures below. RAM, flash and instructions
are counted from the linked firmware; cycles, and with them time and energy, are those of the
executed instructions by core tables. `plan` is what the plan says of them without a run, with its
share of a step of the optimizer. The sources of clocks and powers stand in
`src/biotrain/targets/*/target.toml`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import biotrain as bt
from biotrain import models
from biotrain.graph.cost import cost_of
from biotrain.graph.rewrite import DEFAULT
from biotrain.package import Package
from biotrain.reports.battery import calibration
from biotrain.run.emulator import EmulatorDevice
from biotrain.run.memory import footprint, paint, painted_bytes

BOARDS = ("nrf52840", "nrf5340", "stm32l4+", "stm32h7", "apollo4")
NETWORKS = ("mibminet", "epidenet")
PUBLISHED = {
    "mibminet": ("GAP9, 8 cores (published)", 670_000, 58.7, 2.57),
    "epidenet": ("GAP9, 8 cores (published)", 280_000, 11.7, 0.564),
}
"""RAM in bytes, ms and mJ per sample: arXiv 2604.13359, 469.6 ms x 43.8 mW and 93.6 ms x 48.2 mW
for 8 samples."""


def window(name: str) -> np.ndarray:
    """Noise of the network's published shape."""
    shape = models.PAPER[name]
    x = np.random.default_rng(0).standard_normal((1, shape["n_chans"], shape["n_times"]))
    return x.astype(np.float32)


def package(name: str, board: str, fast: bool) -> Package:
    """A network as it trains on a board; `fast`: with transforms or fast FIR."""
    net = bt.prepare(models.build(name, **models.PAPER[name], norm="group", pool="avg"))
    return bt.compile(
        net,
        window(name),
        target=board,
        optimizer=bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3, schedule="cosine"),
        accumulate=8,
        gradients="momentum",
        input_type="int16",
        input_scale=0.001,
        rewrites=(*DEFAULT, "fastconv") if fast else DEFAULT,
        title=f"{name} on {board}",
    )


def measure(name: str, board: str, compiler: str | None, fast: bool) -> dict[str, Any]:
    """One window of training on a board, in the emulator."""
    pkg = package(name, board, fast)
    with EmulatorDevice(pkg, compiler=compiler) as device:  # type: ignore[arg-type]
        paint(device.machine, device.elf)
        device.restart_count()
        device.accumulate(window(name), [1])
        work = device.executed()
        stack = painted_bytes(device.machine, device.elf)
        found = footprint(device.elf, pkg.plan.context_bytes, "")
    target, once = pkg.target, calibration(pkg)
    each = cost_of(0, 0, work.cycles, target)
    return {
        "network": name,
        "board": board,
        "ram_bytes": pkg.plan.ram_bytes,
        "flash_bytes": found.code_bytes + found.constant_bytes,
        "stack_bytes": stack,
        "instructions": work.instructions,
        "cycles": work.cycles,
        "planned_cycles": pkg.plan.cycles,
        "cycles_source": work.cycles_source,
        "cycles_per_mac": work.cycles / pkg.plan.macs,
        "ms_per_sample": each.ms,
        "mj_per_sample": each.mj,
        "windows_that_fit": once.windows_that_fit if once else None,
    }


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--compiler", choices=("zig", "gcc"), help="by default zig, else gcc")
    options.add_argument("--board", action="append", help="only this one; may be repeated")
    options.add_argument("--network", action="append", choices=NETWORKS)
    options.add_argument("--fast-conv", action="store_true", help="as of biotrain compile")
    options.add_argument("--json", type=Path, help="write the figures there")
    given = options.parse_args()
    table = Table(box=None, pad_edge=False)
    for column in ("network", "board"):
        table.add_column(column)
    for column in (
        "RAM",
        "flash",
        "stack",
        "Minstr.",
        "Mcycles",
        "plan",
        "per MAC",
        "ms",
        "mJ",
        "windows",
    ):
        table.add_column(column, justify="right")
    rows = []
    for name in given.network or NETWORKS:
        for board in given.board or BOARDS:
            try:
                row = measure(name, board, given.compiler, given.fast_conv)
            except bt.BioTrainError as error:
                table.add_row(name, board, str(error))
                continue
            rows.append(row)
            table.add_row(
                name,
                board,
                f"{row['ram_bytes']:,}",
                f"{row['flash_bytes']:,}",
                f"{row['stack_bytes']:,}",
                f"{row['instructions'] / 1e6:.1f}",
                f"{row['cycles'] / 1e6:.1f}",
                f"{row['planned_cycles'] / 1e6:.1f}",
                f"{row['cycles_per_mac']:.2f}",
                f"{row['ms_per_sample']:,.0f}",
                f"{row['mj_per_sample']:.3g}",
                str(row["windows_that_fit"]),
            )
        label, ram, ms, mj = PUBLISHED[name]
        blank = "-"
        table.add_row(name, label, f"{ram:,}", *([blank] * 6), f"{ms:,.1f}", f"{mj:.3g}", blank)
    Console(width=130).print(table)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
