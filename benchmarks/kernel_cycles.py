# SPDX-License-Identifier: Apache-2.0
"""What one of each kind of work of each kernel costs on small cores: a fit to counted cycles.

Networks of many shapes, whole and under budgets (so that kernels are called on small boxes), train
on one sample as firmware in the emulator. Of every node of their schedules there is then the work
that its op counts (`Op.work`: calls, rows, tiles, taps, ...) and its cycles. Cycles per kind, none
below zero, are fitted to them by least squares; with --write they go into
src/biotrain/targets/<core>/kernels.toml, where the plan's cycles come from; with --missing only
those of kernels that have none there. None of the shapes is that of a network in the README:
`python benchmarks/estimates.py` compares those with the estimates.

    python benchmarks/kernel_cycles.py --json sweep.json
    python benchmarks/kernel_cycles.py --json sweep.json --write

--json keeps what is counted, and what is there already is not counted again. A minute per network
and core on two busy cores. --loo leaves each network out of the fit in turn and prints its error.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

import biotrain as bt
from biotrain import models
from biotrain.emit.project import OPTIMIZE_FLAG
from biotrain.errors import DoesNotFitError
from biotrain.graph.rewrite import DEFAULT
from biotrain.package import Package
from biotrain.run.compiler import version
from biotrain.run.emulator import EmulatorDevice
from biotrain.run.firmware import command
from biotrain.run.profile import Profile
from biotrain.run.work_cycles import Counted, counted
from biotrain.targets.target import FOLDER, load_target

CORES = ("cortex-m4f", "cortex-m7", "cv32e40p")
"""Cortex-M33 is taken as Cortex-M4F, the generic RISC-V cores as CV32E40P."""

WIDE = {"cv32e40p": 12}
"""Results of the widest tile of a convolution where they are not eight (BT_WIDE_OUTPUTS)."""

FLOOR = 300.0
"""A node counts in the fit by its error over (cycles + FLOOR): relative, but for small ones."""

PULL = 0.05
"""How much a kind of work stays near what is known of it, beside one node's relative error."""

CONVOLUTIONS = ("conv", "conv_dx", "conv_dw", "conv_int16", "conv_dw_int16")

MACS: Mapping[str, float] = {
    "wide_taps": 8,
    "edge_eights": 64,
    "edge_taps": 8,
    "edge_parts": 1,
    "single_macs": 2,
    "stride_macs": 1,
    "mix_steps": 16,
    "mix1_steps": 8,
    "mix2_steps": 16,
    "mix3_steps": 12,
    "few_steps": 6,
    "dot_macs": 2,
    "dot_steps": 16,
    "dot_rest_macs": 1.5,
    "dot_leaves": 160,
    "slid_leaves": 256,
    "few_leaves": 32,
    "clipped": 4,
    **{f"few{n}_leaves": 32.0 * n for n in range(1, 9)},
    **{f"few{n}_eights": 8.0 * n for n in range(1, 9)},
    **{f"few{n}_taps": 1.5 * n for n in range(1, 9)},
    "samples": 1,
    "twin_dots": 64,
    "lone_dots": 32,
    "rest_macs": 1.5,
    "totals": 1,
}
"""Multiply-adds of one of a kind of work of a convolution, about: what its cycles are taken to be
in proportion to until nodes say more."""

Layer = tuple[str, int, int, int, int, int]
"""Kind (`time`, or `space` for a kernel over all rows), channels, outputs, taps, stride, groups."""


@dataclass(frozen=True)
class Case:
    """A network of the sweep and how it is compiled."""

    name: str
    model: str = ""
    """A built-in network; empty: `layers` side by side."""
    shape: tuple[int, int, int, float] = (1, 1, 2, 250.0)
    """Channels, samples, classes, Hz."""
    options: tuple[tuple[str, Any], ...] = ()
    """Of the network."""
    int16: bool = False
    fast: bool = False
    """With `fastconv`."""
    frozen: bool = False
    """With the statistics of its BatchNorms kept."""
    share: float = 1.0
    """Budget, as a share of the RAM that the fastest plan takes; a tenth more where that fails."""
    layers: tuple[Layer, ...] = ()


CASES = (
    Case("mi-a", "mibminet", (6, 800, 3, 400.0), (("F1", 16),), int16=True),
    Case("epi-a", "epidenet", (3, 640, 5, 400.0), int16=True),
    Case("mi-b", "mibminet", (5, 1200, 2, 500.0), int16=True, share=0.45),
    Case("eeg-b", "eegnet", (16, 320, 4, 160.0), int16=True, share=0.45),
    Case("mi-d", "mibminet", (8, 1000, 2, 500.0), int16=True, share=0.3),
    Case("mi-f", "mibminet", (6, 1400, 2, 500.0), int16=True, fast=True),
    Case(
        "bk-2",
        shape=(8, 150, 2, 250.0),
        layers=(
            ("time", 6, 6, 12, 1, 6),
            ("time", 4, 4, 16, 1, 4),
            ("time", 8, 8, 8, 1, 1),
            ("time", 8, 8, 15, 1, 1),
            ("time", 16, 8, 1, 1, 1),
            ("space", 8, 16, 1, 1, 1),
        ),
    ),
    Case("mi-fb", "mibminet", (4, 1500, 2, 500.0), (("F1", 24),), int16=True, fast=True, share=0.5),
    Case("eeg-e", "eegnet", (12, 192, 3, 120.0), (("F1", 5),), int16=True),
    Case("epi-c", "epidenet", (2, 600, 11, 500.0), int16=True, share=0.7),
    Case(
        "epi-m",
        "epidenet",
        (3, 800, 5, 500.0),
        (("norm", "batch"), ("pool", "max")),
        frozen=True,
    ),
    Case("cov-a", "covariance", (6, 300, 3, 100.0), frozen=True),
    Case("cov-b", "covariance", (2, 900, 5, 250.0), frozen=True),
    Case("cov-c", "covariance", (12, 250, 2, 125.0), frozen=True, share=0.7),
    Case("cov-d", "covariance", (3, 400, 2, 200.0), (("delays", 6),), frozen=True),
)


class Bank(nn.Module):
    """Layers side by side, each between a scaling, which wants its gradient, and a norm."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.kinds = [(kind, ins) for kind, ins, *_ in layers]
        self.scales = nn.ModuleList(
            nn.Conv1d(ins, ins, 1, groups=ins, bias=False) for _, ins, *_ in layers
        )
        self.layers = nn.ModuleList(self._layer(layer) for layer in layers)
        self.norms = nn.ModuleList(nn.GroupNorm(1, layer[2]) for layer in layers)
        self.last = nn.Linear(sum(layer[2] for layer in layers), 2)

    @staticmethod
    def _layer(layer: Layer) -> nn.Module:
        kind, ins, outs, taps, stride, groups = layer
        if kind == "space":
            return nn.Conv2d(1, outs, (ins, 1), bias=False)
        padding: Any = "same" if stride == 1 else taps // 2
        return nn.Conv1d(ins, outs, taps, stride=stride, padding=padding, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = []
        for (kind, ins), scale, layer, norm in zip(
            self.kinds, self.scales, self.layers, self.norms, strict=True
        ):
            h = scale(x[:, :ins])
            y = layer(h.unsqueeze(1))[:, :, 0] if kind == "space" else layer(h)
            means.append(norm(y).relu().mean(-1))
        logits = self.last(torch.cat(means, 1))
        assert isinstance(logits, torch.Tensor)
        return logits


def window(case: Case) -> np.ndarray:
    """Noise of the case's shape."""
    chans = max((ins for _, ins, *_ in case.layers), default=case.shape[0])
    rng = np.random.default_rng(0)
    return rng.standard_normal((1, chans, case.shape[1])).astype(np.float32)


def package(case: Case, core: str) -> Package:
    """The network compiled for a core without bounds, then within the case's share of its RAM."""
    torch.manual_seed(0)
    x = window(case)
    if case.layers:
        return bt.compile(Bank(case.layers), x, target=core, rewrites=(), accumulate=8)
    chans, times, classes, hz = case.shape
    shape = {"n_chans": chans, "n_times": times, "n_outputs": classes, "sfreq": hz}
    options = {"norm": "group", **models.averaging(case.model), **dict(case.options)}
    model = models.build(case.model, **shape, **options)  # type: ignore[arg-type]
    net = bt.prepare(model, norm="frozen") if case.frozen else bt.prepare(model)
    given: dict[str, Any] = {"input_type": "int16", "input_scale": 0.001} if case.int16 else {}

    def within(memory: int | None) -> Package:
        return bt.compile(
            net,
            x,
            target=core,
            optimizer=bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3, schedule="cosine"),
            accumulate=8,
            gradients="momentum",
            memory=memory,
            rewrites=(*DEFAULT, "fastconv") if case.fast else DEFAULT,
            **given,
        )

    free = within(None)
    share = case.share
    while share < 1:
        try:
            return within(int(free.plan.ram_bytes * share))
        except DoesNotFitError:
            share += 0.1
    return free


def profiles(pkg: Package, x: np.ndarray) -> tuple[Profile, Profile]:
    """Where the cycles of a training sample and of a step went, in the emulator."""
    with EmulatorDevice(pkg) as device:
        device.restart_count()
        device.accumulate(x, np.ones(1, int))
        sample = device.profile()
        device.restart_count()
        device.step()
        return sample, device.profile()


def nodes(pkg: Package, x: np.ndarray, core: str) -> list[Counted]:
    """The work and the cycles of every node of a training sample and a step.

    `core`: the one whose `kernels.toml` prices them.
    """
    return counted(pkg, *profiles(pkg, x), WIDE.get(core, 8))


def fit(rows: Iterable[Counted]) -> dict[str, dict[str, float]]:
    """Cycles of each kind of work, by op: not negative, with the least weighted squares.

    What too few nodes tell apart stays near what is known of more of them: an op near all ops whose
    kernels are one family, a family near so many cycles per operation.
    """
    by_family: defaultdict[str, list[Counted]] = defaultdict(list)
    for row in rows:
        by_family[_family(row.op)].append(row)
    found = {}
    for family in sorted(by_family):
        some = by_family[family]
        kinds = sorted({kind for row in some for kind in row.work})
        macs = {"ops": 1.0} if "ops" in kinds else {k: MACS.get(k, 0.0) for k in (*kinds, *MACS)}
        start = _least_squares(some, macs)
        ops = sorted({row.op for row in some})
        near = _near(some, start) if len(ops) > 1 else start
        for op in ops:
            model = _near([row for row in some if row.op == op], near)
            found[op] = {k: float(f"{c:.4g}") for k, c in model.items() if c > 0.0}
    return dict(sorted(found.items()))


def _family(op: str) -> str:
    """Ops whose kernels share what counts."""
    return "conv" if op in CONVOLUTIONS else op


def _weights(rows: Sequence[Counted]) -> tuple[np.ndarray, np.ndarray]:
    """Cycles, and the weight of each node's error."""
    spent = np.array([row.cycles for row in rows])
    return spent, 1.0 / (spent + FLOOR)


def _least_squares(rows: Sequence[Counted], shape: Mapping[str, float]) -> dict[str, float]:
    """The multiple of `shape` that is nearest to the cycles."""
    spent, weight = _weights(rows)
    work = np.array([sum(c * row.work.get(k, 0.0) for k, c in shape.items()) for row in rows])
    size = float((weight * work) @ (weight * work))
    scale = float((weight * work) @ (weight * spent)) / size if size else 0.0
    return {kind: scale * value for kind, value in shape.items()}


def _near(rows: Sequence[Counted], start: Mapping[str, float]) -> dict[str, float]:
    """Least squares with a pull towards `start` where the nodes say little."""
    kinds = sorted({kind for row in rows for kind in row.work} | set(start))
    spent, weight = _weights(rows)
    work = np.array([[row.work.get(kind, 0.0) for kind in kinds] for row in rows])
    scaled = work * weight[:, None]
    size = np.linalg.norm(scaled, axis=0)
    size[size == 0.0] = 1.0
    toward = np.array([start.get(kind, 0.0) for kind in kinds]) * size
    left = np.vstack([scaled / size, PULL * np.eye(len(kinds))])
    right = np.concatenate([spent * weight, PULL * toward])
    cycles = nnls(left, right, maxiter=100 * len(kinds))[0] / size
    return dict(zip(kinds, (float(c) for c in cycles), strict=True))


def estimate(model: Mapping[str, Mapping[str, float]], rows: Iterable[Counted]) -> float:
    """What a model gives for some nodes."""
    return sum(
        cycles * row.work.get(kind, 0.0)
        for row in rows
        for kind, cycles in model.get(row.op, {}).items()
    )


def write(core: str, model: Mapping[str, Mapping[str, float]], cases: Sequence[str]) -> None:
    """The core's `kernels.toml`."""
    target = load_target(core)
    assert target.build is not None
    compiler = version(command(target.build, "zig")[:4])
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        "# Cycles of one of each kind of work of each kernel (`Op.work`), fitted to the cycles",
        f"# that the emulator counts by {core}'s table or model, in networks of many shapes",
        f"# ({', '.join(cases)}).",
        "# Written by `python benchmarks/kernel_cycles.py --write`.",
        f"# Compiler: {compiler.splitlines()[0]};",
        f"# {OPTIMIZE_FLAG['speed']}, {' '.join(target.build.zig)}, numerics {target.numerics}.",
        "",
        f"wide_outputs = {WIDE.get(core, 8)}    # BT_WIDE_OUTPUTS of bt_conv_block.h",
    ]
    lines += _entries(model)
    (FOLDER / core / "kernels.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def add(core: str, model: Mapping[str, Mapping[str, float]], cases: Sequence[str]) -> None:
    """Kernels without an entry, at the end of the core's `kernels.toml`."""
    known = dict(load_target(core).kernel_cycles)
    found = {op: kinds for op, kinds in model.items() if op not in known}
    lines = ["", f"# Of kernels that these lack, in {', '.join(cases)} (--only, --missing)."]
    with (FOLDER / core / "kernels.toml").open("a", encoding="utf-8") as file:
        file.write("\n".join([*lines, *_entries(found)]) + "\n")


def _entries(model: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Lines of `kernels.toml`, a table for each kernel."""
    lines: list[str] = []
    for op, kinds in model.items():
        lines += ["", f"[kernels.{op}]", *(f"{kind} = {value:g}" for kind, value in kinds.items())]
    return lines


def report(core: str, counts: Mapping[str, Sequence[Counted]], leave_out: bool) -> None:
    """The error of the fit in each network, which is part of it or left out."""
    everything = [row for rows in counts.values() for row in rows]
    model = fit(everything)
    for name, rows in counts.items():
        if leave_out:
            model = fit(row for other, some in counts.items() if other != name for row in some)
        known = [row for row in rows if row.op in model]
        total = sum(row.cycles for row in rows)
        print(f"{core:12}{name:8}{total:14,.0f} cycles{estimate(model, known) / total - 1:+8.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--core", action="append", choices=CORES, help="only this one")
    parser.add_argument("--json", type=Path, help="keep what is counted; go on where it ends")
    parser.add_argument("--kept", action="store_true", help="of --json alone: count nothing")
    parser.add_argument("--loo", action="store_true", help="leave each network out in turn")
    parser.add_argument("--write", action="store_true", help="write kernels.toml of each core")
    names = [case.name for case in CASES]
    parser.add_argument("--only", action="append", choices=names, help="only this network")
    parser.add_argument("--missing", action="store_true", help="write only what has no entry yet")
    args = parser.parse_args()
    if args.missing and not args.write:
        parser.error("--missing says what --write writes: give both")
    store = add if args.missing else write
    kept = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    for core in args.core or CORES:
        counts: dict[str, list[Counted]] = {}
        for case in CASES:
            if args.only and case.name not in args.only:
                continue
            key = f"{core} {case.name}"
            if args.kept and key not in kept:
                continue
            if key not in kept:
                rows = nodes(package(case, core), window(case), core)
                kept[key] = [asdict(row) for row in rows]
                if args.json:
                    args.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            counts[case.name] = [Counted(**row) for row in kept[key]]
        report(core, counts, args.loo)
        if args.write:
            store(core, fit(row for rows in counts.values() for row in rows), list(counts))


if __name__ == "__main__":
    main()
