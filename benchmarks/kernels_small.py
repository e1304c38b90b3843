# SPDX-License-Identifier: Apache-2.0
"""Cycles per multiply-add of the convolution kernels on small cores, shape by shape.

One layer between a scaling and a norm trains on one sample as firmware in the emulator; the
executed blocks are priced by the core's table or model (the CV32E40P model agrees with the RTL
within 0.2 %; --rtl runs a small depthwise layer there too). Forward, input gradient and weight
gradient stand apart. --sweep goes over taps, channels, samples and strides to look for cliffs:
where cycles per multiply-add more than double from one shape to the next, or are more than twice
the least that the shape allows. --json keeps what is measured, and what is there already is not
measured again; --figure draws it.

    python benchmarks/kernels_small.py
    python benchmarks/kernels_small.py --sweep --json sweep.json --figure sweep.png

Half a minute per core; the sweep five. On CPU time of one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import biotrain as bt
from biotrain.ir.graph import Loop
from biotrain.ir.op import OPS
from biotrain.package import Package
from biotrain.run.emulator import EmulatorDevice
from biotrain.run.firmware import Compiler
from biotrain.run.rtl_device import RtlDevice

CORES = ("cv32e40p", "cortex-m4f", "cortex-m7")
PASSES = ("conv", "conv_dx", "conv_dw")
CLIFF = 2.0
"""Times the rate of the neighbouring shape, or the least that the shape allows."""


@dataclass(frozen=True)
class Shape:
    """A convolution along time, "same", of `rows` rows at once."""

    name: str
    channels: int
    outputs: int
    taps: int
    samples: int
    groups: int = 1
    rows: int = 1
    """Rows of the kernel and of x, whose channels these are then not."""
    stride: int = 1

    @property
    def sweeps(self) -> str:
        """What a sweep changes: the dimension that its name says, and the kind of layer."""
        kind, _, what = self.name.partition(", ")
        return f"{kind}: {what.split()[-1]}" if what else kind

    def least(self, core: str) -> dict[str, float]:
        """Cycles per multiply-add of each pass below which no kernel gets: its multiply-adds, each
        operand loaded once and each result stored once, however many registers there are.

        CV32E40P begins an instruction per cycle; Cortex-M4F too, and multiplies and adds apart;
        Cortex-M7 begins two, one of them arithmetic, and stores one.
        """
        x = self.channels * self.rows * self.samples
        w = self.outputs * self.channels * self.rows * self.taps // self.groups
        y = self.outputs * -(-self.samples // self.stride)
        macs = w * y // self.outputs  # the few that padding saves stay in
        found = {}
        for op, stored in zip(PASSES, (y, x, w), strict=True):
            moved = x + w + y
            if core == "cortex-m7":
                cycles = max(macs, (macs + moved) / 2, stored)
            else:
                cycles = (2 * macs if core == "cortex-m4f" else macs) + moved
            found[op] = cycles / macs
        return found


SHAPES = (
    Shape("depthwise 64", 8, 8, 64, 512, groups=8),
    Shape("depthwise 128", 8, 8, 128, 1900, groups=8),
    Shape("depthwise 16", 8, 8, 16, 237, groups=8),
    Shape("grouped 32, 2 of 4", 8, 16, 32, 512, groups=2),
    Shape("dense 16", 4, 16, 16, 500),
    Shape("dense 8", 16, 16, 8, 250),
    Shape("dense 4", 1, 4, 4, 1000),
    Shape("dense 3", 16, 16, 3, 256),
    Shape("pointwise", 32, 32, 1, 237),
    Shape("spatial 8", 1, 32, 1, 500, rows=8),
)


def sweep() -> Iterator[Shape]:
    """Shapes around each default, one dimension at a time."""
    for taps in (3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 25, 31, 32, 33, 63, 64, 65, 100, 127, 128):
        yield Shape(f"depthwise, {taps} taps", 4, 4, taps, 500, groups=4)
        if taps <= 33:
            yield Shape(f"dense, {taps} taps", 4, 8, taps, 250)
    for channels in (1, 2, 3, 5, 8, 13, 16, 32, 64):
        yield Shape(f"depthwise 16, {channels} channels", channels, channels, 16, 200, channels)
        yield Shape(f"dense 8, {channels} channels", channels, channels, 8, 100)
        yield Shape(f"pointwise, {channels} channels", channels, channels, 1, 200)
        yield Shape(f"spatial, {channels} rows", 1, 8, 1, 300, rows=channels)
    for samples in (100, 101, 127, 128, 250, 333, 500, 1000, 1999, 2000):
        yield Shape(f"depthwise 64, {samples} samples", 2, 2, 64, samples, groups=2)
        yield Shape(f"dense 8, {samples} samples", 4, 4, 8, samples)
    for stride in (1, 2, 3, 4, 8):
        yield Shape(f"depthwise 16, {stride} stride", 4, 4, 16, 500, 4, stride=stride)
        yield Shape(f"dense 8, {stride} stride", 8, 8, 8, 250, stride=stride)


def cliffs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line per shape and pass of a core that takes CLIFF times its neighbour or its least."""
    found = []
    for op in PASSES:
        before: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            other = before.get(row["sweeps"], row)
            before[row["sweeps"]] = row
            low, high = sorted((row, other), key=lambda r: float(r[op]))
            line = f"{op:8} {high['name']:30}{high[op]:6.2f}: "
            if high[op] > CLIFF * low[op]:
                found.append(f"{line}{high[op] / low[op]:.1f} x {low['name']}")
            least = row["least"][op]
            if row[op] > CLIFF * least:
                line = f"{op:8} {row['name']:30}{row[op]:6.2f}: "
                found.append(f"{line}{row[op] / least:.1f} x the least, {least:.2f}")
    return found


def figure(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Cycles per multiply-add over each swept dimension, a panel per pass and core, and the least
    that each shape allows."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    cores = list(dict.fromkeys(row["core"] for row in rows))
    size = (4.2 * len(PASSES), 3.4 * len(cores))
    fig, panels = plt.subplots(len(cores), len(PASSES), squeeze=False, sharex=True, figsize=size)
    for core, line in zip(cores, panels, strict=True):
        for op, axes in zip(PASSES, line, strict=True):
            mine = [row for row in rows if row["core"] == core]
            for kind in dict.fromkeys(row["sweeps"] for row in mine):
                some = [row for row in mine if row["sweeps"] == kind]
                at = [int(row["name"].split()[-2]) for row in some]
                (drawn,) = axes.plot(at, [row[op] for row in some], "o-", ms=3, lw=1, label=kind)
                least = [row["least"][op] for row in some]
                axes.plot(at, least, ":", lw=0.8, color=drawn.get_color())
            axes.set(xscale="log", ylim=(0, None), title=f"{core}, {op}")
            axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("cycles per multiply-add")
    panels[-1][0].set_xlabel("taps, channels, rows, samples or stride; dotted: the least")
    panels[0][-1].legend(fontsize=6)
    fig.tight_layout()
    fig.savefig(path, dpi=120)


class _Net(nn.Module):
    """The layer, with a layer before it that wants the gradient of its input."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        rows = shape.rows * shape.channels
        self.scale = nn.Conv1d(rows, rows, 1, groups=rows, bias=False)
        self.image = shape.rows > 1
        self.layer: nn.Module
        if self.image:
            self.layer = nn.Conv2d(1, shape.outputs, (shape.rows, 1), bias=False)
        else:
            self.layer = nn.Conv1d(
                shape.channels,
                shape.outputs,
                shape.taps,
                stride=shape.stride,
                padding="same" if shape.stride == 1 else shape.taps // 2,
                groups=shape.groups,
                bias=False,
            )
        self.norm = nn.GroupNorm(1, shape.outputs)  # wants the whole output, not tiles of it
        self.last = nn.Linear(shape.outputs, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.scale(x)
        y = self.layer(x.unsqueeze(1))[:, :, 0] if self.image else self.layer(x)
        y = self.last(self.norm(y).relu().mean(-1))
        assert isinstance(y, torch.Tensor)
        return y


def package(shape: Shape, core: str) -> Package:
    """The layer compiled as it stands: no rewrites."""
    torch.manual_seed(0)
    x = torch.zeros(1, shape.rows * shape.channels, shape.samples)
    return bt.compile(_Net(shape), x, target=core, rewrites=(), accumulate=1)


def sample(shape: Shape) -> np.ndarray:
    rng = np.random.default_rng(0)
    size = (1, shape.rows * shape.channels, shape.samples)
    return rng.standard_normal(size).astype(np.float32)


def measure(shape: Shape, core: str, compiler: Compiler) -> dict[str, float]:
    """Cycles per multiply-add of the three passes."""
    pkg = package(shape, core)
    macs = {}
    for node in pkg.source.train.nodes:
        for each in [step.node for step in node.body] if isinstance(node, Loop) else [node]:
            if each.origin == "layer":
                macs[each.op] = OPS[each.op].macs(each)
    with EmulatorDevice(pkg, compiler=compiler) as device:
        device.restart_count()
        device.accumulate(sample(shape), np.zeros(1, int))
        places = device.profile().places
        found = {
            op: sum(c for p, (_, c) in places.items() if p.layer == "layer" and p.kernel == op)
            for op in PASSES
        }
        return {op: found[op] / macs[op] for op in PASSES}


def on_rtl(shape: Shape) -> tuple[int, float]:
    """Cycles of a training sample in the RTL, and what the model of the core says."""
    pkg = package(shape, "cv32e40p")
    x, y = sample(shape), np.zeros(1, int)
    with RtlDevice(pkg, compiler="zig") as device:
        device.restart_count()
        device.accumulate(x, y)
        counted = device.executed().cycles
    with EmulatorDevice(pkg, compiler="zig") as emulated:
        emulated.restart_count()
        emulated.accumulate(x, y)
        predicted = emulated.executed().cycles
    return counted, predicted / counted


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--core", action="append", choices=CORES, help="only this one")
    parser.add_argument("--compiler", choices=("zig", "gcc"), default="zig")
    parser.add_argument("--sweep", action="store_true", help="look for cliffs")
    parser.add_argument("--rtl", action="store_true", help="check the first layer in the RTL")
    parser.add_argument("--only", default="", help="shapes whose name begins so")
    parser.add_argument("--json", type=Path, help="keep what is measured; go on where it ends")
    parser.add_argument("--figure", type=Path, help="draw the sweep")
    args = parser.parse_args()
    shapes = [s for s in (tuple(sweep()) if args.sweep else SHAPES) if s.name.startswith(args.only)]
    kept = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    known = {(row["core"], row["compiler"], row["name"]): row for row in kept}
    rows = []
    for core in args.core or CORES:
        print(f"\n{core}, {args.compiler}: cycles per multiply-add")
        print(f"{'layer':34}{'forward':>9}{'input':>9}{'weight':>9}")
        for shape in shapes:
            key = (core, args.compiler, shape.name)
            if key not in known:
                more = {"sweeps": shape.sweeps, "least": shape.least(core)}
                known[key] = {"core": core, "compiler": args.compiler, **asdict(shape), **more}
                known[key].update(measure(shape, core, args.compiler))
                if args.json:
                    args.json.write_text(json.dumps([*known.values()], indent=1) + "\n")
            rows.append(known[key])
            found = "".join(f"{known[key][op]:9.2f}" for op in PASSES)
            print(f"{shape.name:34}{found}", flush=True)
        if args.sweep:
            print(f"more than {CLIFF:g} times the neighbour, or the least that the shape allows:")
            for line in cliffs([row for row in rows if row["core"] == core]):
                print(f"  {line}")
    if args.rtl:
        counted, ratio = on_rtl(SHAPES[0])
        print(f"\n{SHAPES[0].name} in the RTL: {counted:,} cycles; the model: {ratio:.4f} of that")
    if args.figure:
        figure(rows, args.figure)


if __name__ == "__main__":
    main()
