# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds per cycle of the depthwise convolution on the RTL cluster of eight cores.

Rows are split over the cores; the three passes run on data in L1 with the instruction caches cold,
as in a training step, where each layer's code comes once. Results must have the bits of one core.
A line per configuration: F registers or zfinx, private or four shared FPUs; --stalls adds what the
cycles of the cores went into, --warm a second run of each pass.

    python benchmarks/cluster_kernels.py --stalls

Two minutes; the first run builds two simulators more, a minute each.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from biotrain.emit import RUNTIME, kernel_sources
from biotrain.ops import SOURCES
from biotrain.run.cluster import ClusterMachine, ClusterSettings, Spent, firmware
from biotrain.run.cv32e40p_cycles import Fpu
from biotrain.run.elf import Elf
from biotrain.run.firmware import Compiler

PASSES = ("forward", "input_gradient", "weight_gradient")
RESULTS = ("y", "dx", "dw")
RUNS = 2
"""Of each pass: the first one with cold instruction caches."""


@dataclass(frozen=True)
class Shape:
    """A depthwise convolution of `rows` rows that keeps their length."""

    rows: int = 8
    samples: int = 512
    taps: int = 64

    @property
    def macs(self) -> int:
        """Multiply-adds of a pass, those that the padding saves included."""
        return self.rows * self.samples * self.taps

    def program(self) -> str:
        """Inputs come from L2 by DMA, then each pass runs between two marks."""
        r, t, k = self.rows, self.samples, self.taps
        g = f"(bt_conv){{{r}, 1, {t}, {r}, 1, {t}, {r}, 1, {k}, 1, 1, 1, 1, 0, {(k - 1) // 2}}}"
        box, x, dy = f"bt_part(from, to, 0, {t})", f"bt_read(x, {t})", f"bt_read(dy, {t})"
        calls = (
            f"bt_conv_forward({g}, {box}, {x}, w, NULL, bt_write(y, {t}))",
            f"bt_conv_input_gradient({g}, {box}, {dy}, w, bt_write(dx, {t}))",
            f"bt_conv_weight_gradient({g}, {box}, {x}, {dy}, dw)",
        )
        sizes = {"x": r * t, "dy": r * t, "w": r * k, "y": r * t, "dx": r * t, "dw": r * k}
        lines = [f"float {name}[{n}];" for name, n in sizes.items()]
        lines += [
            f"float {name}_there[{sizes[name]}] BT_IN_L2({name});" for name in ("x", "dy", "w")
        ]
        for name, call in zip(PASSES, calls, strict=True):
            lines += [f"__attribute__((noinline)) static void {name}(int from, int to)"]
            lines += [f"{{ {call}; }}"]
        lines += [
            "static void get(float *to, float *from, uint32_t n)",
            "{ bt_cluster_wait(bt_cluster_move(1, to, from, 4 * n, 4 * n, 0, 0)); }",
            "int bt_cluster_main(int worker)",
            "{",
            f"  const int from = worker * {r} / BT_CORES, to = (worker + 1) * {r} / BT_CORES;",
            "  if (worker == 0) {",
            *(f"    get({name}, {name}_there, {sizes[name]});" for name in ("x", "dy", "w")),
            "  }",
        ]
        clear = f"    for (int i = from * {k}; i < to * {k}; i++) dw[i] = 0;"
        for i, name in enumerate(PASSES):
            lines += [
                f"  for (int run = 0; run < {RUNS}; run++) {{",
                *([clear] * (name == "weight_gradient")),
                "    bt_cluster_barrier();",
                f"    if (worker == 0) bt_cluster_mark({2 * RUNS * i}u + 2u * (uint32_t)run);",
                f"    {name}(from, to);",
                "    bt_cluster_barrier();",
                f"    if (worker == 0) bt_cluster_mark({2 * RUNS * i + 1}u + 2u * (uint32_t)run);",
                "  }",
            ]
        return "\n".join([*lines, "  return 0;", "}", ""])


@dataclass(frozen=True)
class Pass:
    """One run of one pass."""

    name: str
    run: int
    cycles: int
    spent: Spent
    """Of all cores together."""


def files(shape: Shape, defines: dict[str, int]) -> dict[str, str]:
    """The C of the program and of the kernels."""
    stems = kernel_sources(["bt_conv.h"])
    found = {
        name: (RUNTIME / name).read_text("utf-8")
        for name in ("bt_math.h", "bt_kernel.h", "bt_string.h")
    }
    found |= {stem: (SOURCES / stem).read_text("utf-8") for stem in stems}
    head = [f"#define {name} {value}" for name, value in ({"BT_FUSED": 1} | defines).items()]
    head += [f'#include "{stem}"' for stem in stems]
    found["main.c"] = "\n".join([*head, '#include "bt_cluster.h"', shape.program()])
    return found


def measure(
    shape: Shape,
    settings: ClusterSettings,
    compiler: Compiler = "zig",
    defines: dict[str, int] | None = None,
) -> tuple[list[Pass], dict[str, npt.NDArray[np.float32]]]:
    """The passes on a cluster, and what they computed."""
    elf = firmware.build(files(shape, defines or {}), settings, compiler=compiler)
    machine = ClusterMachine(elf, settings)
    image = Elf(elf)
    rng = np.random.default_rng(0)
    for name, count in (("x", shape.samples), ("dy", shape.samples), ("w", shape.taps)):
        values = rng.standard_normal((shape.rows, count)).astype("<f4")
        machine.write(image.symbol(f"{name}_there")[0], values.tobytes())
    machine.run()
    marks = {mark.value: mark for mark in machine.marks()}
    passes = []
    for i, name in enumerate(PASSES):
        for run in range(RUNS):
            begin, end = (marks[2 * RUNS * i + 2 * run + j] for j in (0, 1))
            spent = sum((b - a for a, b in zip(begin.spent, end.spent, strict=True)), Spent())
            passes.append(Pass(name, run, end.cycle - begin.cycle, spent))
    results = {}
    for name in RESULTS:
        at, size = image.symbol(name)
        results[name] = np.frombuffer(machine.read(at, size), "<f4").copy()
    machine.close()
    return passes, results


def configurations() -> dict[str, tuple[ClusterSettings, Compiler]]:
    """The clusters that are measured, and the compiler of each."""
    whole, zfinx = ClusterSettings(), ClusterSettings(fpu=Fpu(zfinx=True))
    return {
        "F registers, gcc": (whole, "gcc"),
        "F registers, zig": (whole, "zig"),
        "zfinx, zig": (zfinx, "zig"),
        "F registers, gcc, four FPUs": (replace(whole, fpus=4), "gcc"),
        "zfinx, zig, four FPUs": (replace(zfinx, fpus=4), "zig"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="configurations whose name contains this")
    parser.add_argument("--stalls", action="store_true", help="what the cores' cycles went into")
    parser.add_argument("--warm", action="store_true", help="a second run of each pass too")
    parser.add_argument("--define", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    shape, rows = Shape(), []
    defines = {name: int(value) for name, value in (d.split("=") for d in args.define)}
    print(f"{shape.rows} x {shape.samples} samples, {shape.taps} taps; MAC per cycle")
    print(f"{'':30}" + "".join(f"{name.replace('_', ' '):>17}" for name in PASSES))
    for name, (settings, compiler) in configurations().items():
        if args.only not in name:
            continue
        one, expected = measure(shape, replace(settings, cores=1, fpus=1), compiler, defines)
        passes, results = measure(shape, settings, compiler, defines)
        for key, values in results.items():
            assert values.tobytes() == expected[key].tobytes(), f"{name}: {key}"
        for run in range(RUNS if args.warm else 1):
            shown = [p for p in passes if p.run == run]
            rates = "".join(f"{shape.macs / p.cycles:17.2f}" for p in shown)
            print(f"{name + (', warm' if run else ''):30}{rates}", flush=True)
        cold = [p for p in one if p.run == 0]
        shown = [p for p in passes if p.run == 0]
        ratios = [a.cycles / b.cycles for a, b in zip(cold, shown, strict=True)]
        print(f"{'  times one core':30}" + "".join(f"{ratio:17.2f}" for ratio in ratios))
        if args.stalls:
            for field in fields(Spent):
                parts = [getattr(p.spent, field.name) / p.spent.cycles for p in shown]
                print(f"{'  ' + field.name:30}" + "".join(f"{part:17.1%}" for part in parts))
        rows += [asdict(p) | {"configuration": name} for p in passes]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
