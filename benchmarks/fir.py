# SPDX-License-Identifier: Apache-2.0
"""Fast FIR and FFT against the direct convolution on this machine: depthwise, the three passes.

Both kernels stand in one program with their shapes as constants, as in a package. Rounds alternate
between them, so that a busy machine slows both; one thread, CPU time, medians of rounds.

    python benchmarks/fir.py
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from biotrain.emit import RUNTIME, kernel_sources
from biotrain.ir.graph import Value
from biotrain.ir.op import OPS, Builder
from biotrain.ops import SOURCES
from biotrain.ops.fft import SCRATCH_TRANSFORMS, step
from biotrain.package import fused_on
from biotrain.run.compiler import NUMERICS, STRICT, shared_library
from biotrain.targets.target import load_target

ROUNDS = 31
SHAPES = ((32, 1900, 128), (32, 1900, 64), (32, 1900, 32), (16, 500, 128), (22, 1000, 250))
PASSES = ("forward", "input_gradient", "weight_gradient")
KERNELS = ("conv", "fir2", "fir3", "fft")
SIZE = 512
"""Samples of a transform."""


@dataclass(frozen=True)
class Shape:
    """A depthwise convolution of rows that keeps their length."""

    rows: int
    times: int
    taps: int

    def program(self) -> str:
        """One C function per kernel and pass."""
        r, t, k = self.rows, self.times, self.taps
        p = (k - 1) // 2
        conv = f"(bt_conv){{{r}, 1, {t}, {r}, 1, {t}, {r}, 1, {k}, 1, 1, 1, 1, 0, {p}}}"
        box, ends = f"bt_all({r}, {t})", "const float *a, const float *b, float *to"
        lines = []
        block = step(SIZE, k)
        for name in KERNELS:
            kind = name.rstrip("23")
            g = conv if name == "conv" else f"(bt_fir){{1, 1, {t}, {t}, {k}, {p}, {name[-1]}}}"
            calls: tuple[str, ...] = (
                f"{g}, {box}, bt_read(a, {t}), b, NULL, bt_write(to, {t})",
                f"{g}, {box}, bt_read(a, {t}), b, bt_write(to, {t})",
                f"{g}, {box}, bt_read(a, {t}), bt_read(b, {t}), to",
            )
            if name == "fft":
                lines += [f"static float room[{SCRATCH_TRANSFORMS * SIZE}];"]
                g = f"(bt_fft){{1, 1, {t}, {t}, {k}, {p}, {SIZE}, {block}}}"
                calls = (
                    f"{g}, {box}, bt_read(a, {t}), b, NULL, room, bt_write(to, {t})",
                    f"{g}, {box}, bt_read(a, {t}), b, room, bt_write(to, {t})",
                    f"{g}, {box}, bt_read(a, {t}), bt_read(b, {t}), room, to",
                )
            for which, call in zip(PASSES, calls, strict=True):
                lines += [f"void {name}_{which}({ends});", f"void {name}_{which}({ends})"]
                lines += [f"{{ bt_{kind}_{which}({call}); }}"]
        return "\n".join(lines)

    def ops(self) -> dict[str, list[int]]:
        """Multiplies and adds of each pass, by kernel."""
        left = (self.taps - 1) // 2
        attrs = {
            "padding": (0, 0, left, self.taps - 1 - left),
            "stride": (1, 1),
            "dilation": (1, 1),
            "groups": self.rows,
        }
        x = Value("x", (1, self.rows, self.times), kind="input")
        w = Value("w", (self.rows, 1, self.taps), kind="input")
        found = {}
        for name in KERNELS:
            b = Builder()
            op = name.rstrip("23")
            more = {"fir": {"levels": 2 + (name == "fir3")}, "fft": {"size": SIZE}}.get(op, {})
            room = (
                (Value("room", (SCRATCH_TRANSFORMS * SIZE,), kind="input"),)
                if name == "fft"
                else ()
            )
            b.one(op, x, w, *room, **attrs, **more)
            b.one(f"{op}_dx", x, w, *room, x_shape=x.shape, **attrs, **more)
            b.one(f"{op}_dw", x, x, *room, w_shape=w.shape, **attrs, **more)
            found[name] = [OPS[n.op].ops(n) for n in b.nodes]
        return found


def measure(shape: Shape, rounds: int) -> list[dict[str, object]]:
    """One row per pass: median milliseconds, and the ratios to the direct kernel."""
    stems = kernel_sources(["bt_conv.h", "bt_fir.h", "bt_fft.h"])
    files = {
        name: (RUNTIME / name).read_text() for name in ("bt_math.h", "bt_kernel.h", "bt_string.h")
    }
    files.update({s: (SOURCES / s).read_text() for s in stems})
    head = [f"#define BT_FUSED {int(fused_on(load_target('host')))}"]
    head += [f'#include "{s}"' for s in stems]
    files["bench.c"] = "\n".join([*head, shape.program(), ""])
    flags = ("-O3", "-march=native", "-fPIC", *STRICT, *NUMERICS)
    lib = ctypes.CDLL(str(shared_library(files, flags)))
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, shape.rows, shape.times)).astype(np.float32)
    w = rng.standard_normal((shape.rows, shape.taps)).astype(np.float32)
    y, dw = np.zeros_like(x), np.zeros_like(w)
    operands = ((x, w, y), (dy, w, y), (x, dy, dw))
    rows = []
    ops = shape.ops()
    for i, which in enumerate(PASSES):
        pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in operands[i]]
        times: dict[str, list[float]] = {name: [] for name in KERNELS}
        for _ in range(rounds):
            for name in KERNELS:
                start = time.process_time_ns()
                getattr(lib, f"{name}_{which}")(*pointers)
                times[name].append(1e-6 * (time.process_time_ns() - start))
        row: dict[str, object] = {"shape": [shape.rows, shape.times, shape.taps], "pass": which}
        for name in KERNELS:
            row[f"{name}_ms"] = round(median(times[name]), 4)
            ratios = [a / b for a, b in zip(times["conv"], times[name], strict=True)]
            row[f"{name}_speedup"] = round(median(ratios), 2)
            row[f"{name}_ops"] = round(ops[name][i] / ops["conv"][i], 3)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [row for shape in SHAPES for row in measure(Shape(*shape), args.rounds)]
    print("rows x samples x taps; speed against the direct kernel (and its operations)")
    names = f"{'2 levels':>16} {'3 levels':>16} {'FFT':>16}"
    print(f"{'shape':>16} {'pass':>16} {'direct ms':>10} {names}")
    for r in rows:
        shape = "x".join(map(str, r["shape"]))  # type: ignore[call-overload]
        others = [f"{r[f'{n}_speedup']}x ({r[f'{n}_ops']})" for n in KERNELS[1:]]
        columns = " ".join(f"{text:>16}" for text in others)
        print(f"{shape:>16} {r['pass']:>16} {r['conv_ms']:>10} {columns}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
