# SPDX-License-Identifier: Apache-2.0
"""One CRC-32 of all weights after training, whatever core, compiler and emulator: the table.

    python benchmarks/matrix.py            the published shapes, three steps: most of an hour
    python benchmarks/matrix.py --short    short windows, one step: what CI runs

A row is a package, trained on each place from the same windows. `--model` and `--variant` take
some of them, `--json FILE` writes every run. Exit code 1 where two places disagree. A place whose
compiler or emulator is not installed is left out, and named.

With the vector unit of a Cortex-M55 (`cortex-m55-mve`) the bits are those of the others only as
long as no denormal occurs, which it flushes to zero: it is listed and decides nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import biotrain as bt
from biotrain.package import Package, fused_on
from biotrain.run.device import Device
from biotrain.run.firmware import OPTIMISED
from biotrain.run.session import SessionDevice
from biotrain.targets.target import load_target

SHORT = {
    "mibminet": (4, 200, 2, 100.0),
    "epidenet": (2, 256, 4, 128.0),
    "eegnet": (3, 160, 4, 128.0),
}
"""Channels, samples, classes and sampling rate of windows that take no time."""

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "int16": {"input_type": "int16", "input_scale": 0.01},
    "momentum": {"gradients": "momentum", "accumulate": 2},
    "batch": {"batch": 2},
    "fp16": {"store": "fp16"},
}
"""Ways of `bt.compile` that have code of their own."""

CORES = ("cortex-m4f", "cortex-m7", "cortex-m33", "rv32imfc")
VECTOR = "cortex-m55-mve"


@dataclass(frozen=True)
class Case:
    """A package: a network, its numeric mode, its variant."""

    model: str
    fused: bool
    variant: str = "plain"
    short: bool = False

    def __str__(self) -> str:
        mode = "fused" if self.fused else "separate"
        return f"{self.model} {mode}" + (f" {self.variant}" * (self.variant != "plain"))


@dataclass(frozen=True)
class Place:
    """Where it trains, and what built it there."""

    core: str
    on: str
    compiler: str

    def __str__(self) -> str:
        return f"{self.core} {self.on} {self.compiler}"

    @property
    def missing(self) -> str:
        """What is not installed here; empty: nothing."""
        core = load_target(self.core).build
        if core is None:
            return "" if shutil.which(self.compiler) else f"{self.compiler} is not installed"
        wanted: list[tuple[str, bool]] = []
        if self.compiler == "zig":
            wanted.append(("the package ziglang", bool(find_spec("ziglang"))))
        else:
            wanted.append((core.gcc[0], bool(shutil.which(core.gcc[0]))))
        if self.on == "qemu":
            wanted.append((core.qemu[0], bool(shutil.which(core.qemu[0]))))
        else:
            wanted.append(("the package unicorn", bool(find_spec("unicorn"))))
        wanted.append(("the package pyelftools", bool(find_spec("elftools"))))
        return ", ".join(f"{name} is not installed" for name, there in wanted if not there)


HOST = Place("host", "host", "gcc")


def places() -> Iterator[Place]:
    """All of them."""
    yield HOST
    yield replace(HOST, compiler="clang")
    for on in ("emulator", "qemu"):
        for core in (*CORES, "cortex-m55")[: None if on == "qemu" else len(CORES)]:
            for compiler in ("zig", "gcc"):
                yield Place(core, on, compiler)
    yield Place(VECTOR, "qemu", "zig")


def cases() -> Iterator[Case]:
    """Every network in both modes, and every variant in one."""
    for at, model in enumerate(SHORT):
        for fused in (True, False):
            yield Case(model, fused)
        for number, variant in enumerate(list(VARIANTS)[1:]):
            yield Case(model, (at + number) % 2 == 0, variant)


def shape(case: Case) -> tuple[int, int, int, float]:
    """Channels, samples, classes and sampling rate."""
    if case.short:
        return SHORT[case.model]
    paper = bt.models.PAPER[case.model]
    return paper["n_chans"], paper["n_times"], paper["n_outputs"], paper["sfreq"]


def compiled(case: Case) -> Package:
    """The package of a case; the target says nothing but where it runs."""
    torch.manual_seed(0)
    chans, times, classes, sfreq = shape(case)
    norm = "batch" if case.variant == "batch" else "group"
    net = bt.models.build(case.model, chans, times, classes, sfreq, norm=norm)
    return bt.compile(
        bt.prepare(net, norm=norm).train(),
        torch.zeros(1, chans, times),
        target=CORES[0],
        fused=case.fused,
        **{"accumulate": 1, **VARIANTS[case.variant]},
    )


def trained(package: Package, place: Place, steps: int, **options: Any) -> Device:
    """The package after so many steps on a place; `options` of that place."""
    _, chans, times = package.graph.inputs[0].shape
    classes = package.source.train.outputs[0].size
    batch = package.source.batch
    windows = steps * (batch.size if batch else package.source.accumulate)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((windows, chans, times)).astype(np.float32)
    y = rng.integers(0, classes, windows)
    compiler = (place.compiler,) if place.on == "host" else place.compiler
    device = replace(package, target=load_target(place.core)).run(
        place.on, compiler=compiler, **options
    )
    device.train(x, y)
    return device


def crc32(package: Package, place: Place, steps: int, **options: Any) -> int:
    """CRC-32 of the weights after so many steps on a place."""
    device = trained(package, place, steps, **options)
    try:
        return device.crc32()
    finally:
        if isinstance(device, SessionDevice):
            device.close()


def short_flags(compiler: str) -> tuple[str, ...]:
    """Of a build that must be quick: gcc saves a third with -O1, zig nothing."""
    kept = tuple(flag for flag in OPTIMISED if flag != "-g")
    return kept if compiler == "zig" else ("-O1", *kept[1:])


def row(case: Case, there: list[Place], steps: int) -> list[dict[str, Any]]:
    """The runs of a case, one line each as they end."""
    package = compiled(case)
    runs: list[dict[str, Any]] = []
    for place in there:
        start = time.perf_counter()
        crc = crc32(package, place, steps)
        seconds = round(time.perf_counter() - start, 1)
        print(f"{case!s:32} {place!s:30} {crc:08x} {seconds:7.1f} s", flush=True)
        runs.append({**asdict(case), **asdict(place), "crc32": f"{crc:08x}", "seconds": seconds})
    return runs


def main() -> int:
    """Print the runs, then the table as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="short windows")
    parser.add_argument("--model", choices=list(SHORT), help="one network only")
    parser.add_argument("--variant", choices=list(VARIANTS), help="one variant only")
    parser.add_argument("--steps", type=int, help="optimizer steps; 3, or 1 with --short")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run")
    given = parser.parse_args()
    steps = given.steps or (1 if given.short else 3)
    there = [place for place in places() if not place.missing]
    for place in places():
        if place.missing:
            print(f"left out: {place}: {place.missing}")
    if not there or there[0] != HOST:
        print("gcc, the reference, is not installed")
        return 1
    runs: list[dict[str, Any]] = []
    table = [
        f"| package, {steps} step{'s' * (steps > 1)} | CRC-32 | places that agree | others |",
        "|---|---|---|---|",
    ]
    failed = False
    for case in cases():
        if given.model not in (None, case.model) or given.variant not in (None, case.variant):
            continue
        if case.fused and not fused_on(load_target("host")):
            print(f"left out: {case}: this machine has no fused multiply-add")
            continue
        done = row(replace(case, short=given.short), there, steps)
        want = done[0]["crc32"]
        same = [run for run in done if run["crc32"] == want]
        others = [
            f"{Place(run['core'], run['on'], run['compiler'])}: {run['crc32']}"
            for run in done
            if run["crc32"] != want
        ]
        failed |= any(run["crc32"] != want and run["core"] != VECTOR for run in done)
        table.append(
            f"| {case} | `{want}` | {len(same)} of {len(done)} | {', '.join(others) or '-'} |"
        )
        runs += done
        if given.json:
            given.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    print("\n" + "\n".join(table))
    print(f"\nplaces: {', '.join(map(str, there))}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
