# SPDX-License-Identifier: Apache-2.0
"""Code and cycles of a network's firmware, for `--optimize speed` and `size` and each compiler.

    python benchmarks/code_modes.py
    python benchmarks/code_modes.py --network mibminet --target cortex-m33 --functions 20

The package is the one of `biotrain compile NETWORK --target TARGET --optimize MODE`. Code is that
of the linked `main.elf`, instructions and vectors without weights and tables; cycles are counted in
the emulator while it trains on windows of noise. The CRC-32 of the weights after training must be
one for all rows and for the host. A row takes about half a minute, seconds where it is cached.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import biotrain as bt
from biotrain.cli.model import Model
from biotrain.cli.options import ModelOptions, TrainOptions
from biotrain.emit.project import Footprint
from biotrain.errors import CompilerError
from biotrain.planner.request import OPTIMIZE, Optimize
from biotrain.run.elf import Elf
from biotrain.run.emulator import EmulatorDevice
from biotrain.run.firmware import Compiler, find_cross_compiler, memories, session_elf
from biotrain.run.project import measured, project_files

COMPILERS: tuple[Compiler, ...] = ("gcc", "zig")


@dataclass(frozen=True)
class Mode:
    """One row: sizes in bytes, cycles of training on one window."""

    optimize: Optimize
    compiler: Compiler
    footprint: Footprint
    cycles: float
    crc32: int

    def __str__(self) -> str:
        f = self.footprint
        return (
            f"| {self.optimize} | {f.compiler} | {f.code_bytes:,} | {f.constant_bytes:,} "
            f"| {f.stack_bytes:,} | {self.cycles:,.0f} | {self.crc32:#010x} |"
        )


def package(network: str, target: str, optimize: Optimize) -> bt.Package:
    """The package of the command line's defaults."""
    return Model(network, ModelOptions()).compiled(TrainOptions(target=target, optimize=optimize))


def noise(pkg: bt.Package, samples: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Windows of noise and labels, as `biotrain run` makes them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, *pkg.graph.inputs[0].shape[1:])).astype(np.float32)
    return x, rng.integers(0, pkg.source.train.outputs[0].size, samples)


def mode(pkg: bt.Package, compiler: Compiler, samples: int) -> Mode:
    """Link the firmware, train on noise in the emulator and count."""
    found = measured(pkg, project_files(pkg), compiler)
    if found is None:
        raise CompilerError("pyelftools is missing: pip install 'biotrain[emulator]'")
    x, y = noise(pkg, samples)
    device = EmulatorDevice(pkg, compiler=compiler)
    device.begin()
    device.restart_count()
    device.train(x, y)
    executed, crc32 = device.executed(), device.crc32()
    device.close()
    return Mode(pkg.source.optimize, compiler, found, executed.cycles / samples, crc32)


def largest(pkg: bt.Package, compiler: Compiler, count: int) -> list[str]:
    """The largest functions of the firmware."""
    image = Elf(session_elf(pkg, *memories(pkg.target), compiler))
    sizes = sorted(((s.size, s.name) for s in image.symbols if s.kind == "FUNC"), reverse=True)
    return [f"{size:8,}  {name}" for size, name in sizes[:count]]


def main() -> int:
    """Print the table; 1 where the bits differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="epidenet")
    parser.add_argument("--target", default="nrf52840")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--only", metavar="MODE", choices=OPTIMIZE, help="one mode")
    parser.add_argument("--compiler", choices=COMPILERS, help="one compiler")
    parser.add_argument("--functions", type=int, default=0, help="largest functions to list")
    given = parser.parse_args()
    modes = [m for m in OPTIMIZE if given.only in (None, m)]
    packages = {m: package(given.network, given.target, m) for m in modes}
    first = packages[modes[0]]
    host = first.run("host")
    host.begin()
    host.train(*noise(first, given.samples))
    expected = host.crc32()
    print(f"{given.network} on {given.target}; the host's CRC-32 is {expected:#010x}\n")
    print("| mode | compiler | code | constants | stack | cycles per sample | CRC-32 |")
    print("|---|---|---:|---:|---:|---:|---|", flush=True)
    rows, build = [], first.target.build
    assert build is not None
    for pkg in packages.values():
        for compiler in COMPILERS if given.compiler is None else (given.compiler,):
            try:
                find_cross_compiler(build, compiler)
            except CompilerError:
                continue
            rows.append(mode(pkg, compiler, given.samples))
            print(rows[-1], flush=True)
            if given.functions:
                print("\n".join(largest(pkg, compiler, given.functions)), flush=True)
    return int(any(row.crc32 != expected for row in rows))


if __name__ == "__main__":
    sys.exit(main())
