# SPDX-License-Identifier: Apache-2.0
"""How much the gradients of the C err, in units of what PyTorch's float32 errs.

For every parameter of a network: the largest relative error of its gradient against float64, of the
C and of PyTorch, each the median over networks and windows, and the median of their ratio.

    python benchmarks/exactness.py --seeds 12
    python benchmarks/exactness.py epidenet --norm group --strategy norm --shapes random --fused no

`--shapes random` draws channels, samples, classes and sampling rate as well as weights and windows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

import biotrain as bt

NETWORKS = ("epidenet", "eegnet", "mibminet")


@dataclass(frozen=True)
class Setting:
    """What a table is about."""

    network: str
    norm: str
    strategy: str
    shapes: str
    fused: bool


@dataclass(frozen=True)
class Row:
    """One gradient: errors relative to its largest element, medians over seeds."""

    name: str
    error: float
    torch_error: float
    ratio: float
    """Median of error / torch_error."""
    worst: float
    """Largest of error / torch_error."""


def package(setting: Setting, seed: int) -> bt.Package:
    """The network of a seed."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    shape = bt.models.PAPER[setting.network]
    if setting.shapes == "random":
        shape = bt.models.Shape(
            n_chans=int(rng.integers(2, 17)),
            n_times=int(rng.integers(250, 2000)),
            n_outputs=int(rng.integers(2, 12)),
            sfreq=float(rng.choice([128, 250, 500])),
        )
    net = bt.models.build(setting.network, **shape, norm=setting.norm)
    net = bt.prepare(net, norm="keep").train()
    example = torch.zeros(1, shape["n_chans"], shape["n_times"])
    return bt.compile(net, example, strategy=setting.strategy, fused=setting.fused, accumulate=1)


def gradient_errors(packages: Sequence[bt.Package]) -> list[Row]:
    """The gradients of networks of one kind, one draw of windows each."""
    found: dict[str, list[tuple[float, float]]] = {}
    for seed, pkg in enumerate(packages):
        for t in bt.verify(pkg, steps=1, seeds=1, seed=100 * seed).tensors:
            if t.name.endswith(".grad"):
                pair = (t.max_rel_error, max(t.torch_fp32_error, 1e-12))
                found.setdefault(t.name.removesuffix(".grad"), []).append(pair)
    rows = []
    for name, pairs in found.items():
        ratios = [c / of_torch for c, of_torch in pairs]
        errors = (median(c for c, _ in pairs), median(of_torch for _, of_torch in pairs))
        rows.append(Row(name, *errors, median(ratios), max(ratios)))
    return rows


def settings(args: argparse.Namespace) -> Iterator[Setting]:
    """Every table that was asked for."""
    for network in args.network or NETWORKS:
        for norm in args.norm:
            for strategy in args.strategy:
                for fused in args.fused:
                    yield Setting(network, norm, strategy, args.shapes, fused == "yes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="*", choices=[*NETWORKS, []], default=[])
    parser.add_argument("--norm", nargs="+", choices=["group", "batch"], default=["group", "batch"])
    parser.add_argument("--strategy", nargs="+", default=["full", "norm"])
    parser.add_argument("--shapes", choices=["paper", "random"], default="paper")
    parser.add_argument("--fused", nargs="+", choices=["yes", "no"], default=["yes", "no"])
    parser.add_argument("--seeds", type=int, default=12, help="networks per table")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tables = []
    for setting in settings(args):
        rows = gradient_errors([package(setting, seed) for seed in range(args.seeds)])
        tables.append({**asdict(setting), "seeds": args.seeds, "rows": [asdict(r) for r in rows]})
        said = "one rounding" if setting.fused else "two roundings"
        print(
            f"{setting.network}, {setting.norm} norm, {setting.strategy}, {setting.shapes} shapes, "
            f"{said} per multiply-add, {args.seeds} networks"
        )
        print(f"{'gradient':32s}{'C':>10s}{'PyTorch':>10s}{'ratio':>7s}{'worst':>7s}")
        for r in rows:
            errors = f"{r.error:10.1e}{r.torch_error:10.1e}"
            print(f"{r.name:32s}{errors}{r.ratio:7.2f}{r.worst:7.1f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
