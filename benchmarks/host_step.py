# SPDX-License-Identifier: Apache-2.0
"""One training step on this machine: the generated C against other frameworks, one thread each.

All train the same network with the same samples: 8 samples forward and backward, one SGD step.
Rounds alternate between them, so that a busy machine slows all; CPU time, medians. Beside it the
fraction of the core's measured peak, layer by layer, and how the cost grows.

    make bench
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from _frameworks import FRAMEWORKS, Missing
from _nodes import Core, NodeTime, node_times
from matplotlib.figure import Figure

import biotrain as bt
from biotrain.run.host import HostDevice

ROUNDS = 15
BATCH = 8
SLICE = 0.02
"""Seconds that each framework works in a round, at least."""
MOMENTUM = 31_752
"""Bytes of MI-BMInet's momentum, which the sizes of its plans leave out."""

PLANS: dict[str, dict[str, dict[str, Any]]] = {
    "mibminet": {
        "everything stored": {},
        "405 kB": {"memory": 405_000 + MOMENTUM, "input_type": "int16", "input_scale": 2.0**-10},
        "405 kB, float input": {"memory": 405_000 + MOMENTUM},
    },
    "epidenet": {"everything stored": {}},
    "eegnet": {"everything stored": {}},
}


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def repeated(work: Callable[[], object], count: int) -> Callable[[], object]:
    """So many times: a short step is not to find its caches cold."""

    def works() -> None:
        for _ in range(count):
            work()

    return works


def step_us(device: HostDevice, x: np.ndarray, y: np.ndarray, rounds: int) -> float:
    """Median CPU microseconds of a window of a batch, of which all windows make one step."""

    def work() -> None:
        device.accumulate(x, y)
        device.step()

    work()
    return 1e6 * median(seconds(work) for _ in range(rounds)) / len(x)


def network(name: str, **shape: int) -> tuple[torch.nn.Module, np.ndarray, np.ndarray]:
    """A network, ready to train, with 8 samples and labels."""
    torch.manual_seed(0)
    numbers = {**bt.models.PAPER[name], **shape}
    net = bt.prepare(bt.models.build(name, **{**numbers, "norm": "group"}), pool="avg")
    net.train()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, numbers["n_chans"], numbers["n_times"])).astype(np.float32)
    return net, x, rng.integers(0, numbers["n_outputs"], BATCH)


def compare(name: str, core: Core, rounds: int, without: tuple[str, ...]) -> dict[str, Any]:
    """Median CPU milliseconds of 8 samples, ratios within each round, and the share of the peak."""
    net, x, y = network(name)
    integers = np.clip(np.rint(x * 1024.0), -32768, 32767).astype(np.int16)
    packages = {k: bt.compile(net, x[:1], accumulate=BATCH, **o) for k, o in PLANS[name].items()}
    works: dict[str, Callable[[], object]] = {}
    for plan, pkg in packages.items():
        device, data = pkg.run("host"), integers if pkg.source.input_scale is not None else x
        works[plan] = lambda device=device, data=data: device.train(data, y)  # type: ignore[misc]
    absent: dict[str, str] = {}
    for title, make in FRAMEWORKS.items():
        if any(word in title for word in without):
            absent[title] = "left out"
            continue
        try:
            works[title] = make(net, x, y)
        except Missing as reason:
            absent[title] = str(reason)
    counts = {}
    for key, work in works.items():
        work()
        counts[key] = max(1, int(SLICE / max(seconds(work), 1e-6)))
        works[key] = repeated(work, counts[key])
    times: dict[str, list[float]] = {k: [] for k in works}
    peaks = []
    for _ in range(rounds):
        peaks.append(core.gflops(seconds))
        for key, work in works.items():
            times[key].append(1e3 * seconds(work) / counts[key])
    peak = max(peaks)
    present = [k for k in FRAMEWORKS if k in works]
    fastest = min(present, key=lambda k: median(times[k]), default="")
    plans = {}
    for plan, pkg in packages.items():
        ms = median(times[plan])
        ratios = {
            k: round(median(t / c for t, c in zip(times[k], times[plan], strict=True)), 2)
            for k in present
        }
        plans[plan] = {
            "ms": round(ms, 3),
            "spread_ms": [round(float(q), 3) for q in np.percentile(times[plan], (10, 90))],
            "ram_kb": round((pkg.plan.ram_bytes - pkg.plan.optimizer_bytes) / 1e3, 1),
            "nominal_gflops": round(2 * BATCH * pkg.plan.macs / ms * 1e-6, 1),
            "peak_share": round(2 * BATCH * pkg.plan.macs / ms * 1e-6 / peak, 3),
            "executed_over_nominal": round(pkg.plan.ops / (2 * pkg.plan.macs), 3),
            "over": ratios,
        }
    return {
        "model": name,
        "plans": plans,
        "frameworks_ms": {k: round(median(times[k]), 3) for k in present},
        "absent": absent,
        "fastest": fastest,
        "peak_gflops": round(peak, 1),
    }


def layers(name: str, rounds: int) -> tuple[list[dict[str, Any]], list[NodeTime]]:
    """One sample of the plan that stores everything, by layer and pass."""
    net, x, y = network(name)
    nodes = node_times(bt.compile(net, x[:1], accumulate=BATCH), x, y, 4 * rounds)
    passes = {"conv": "forward", "conv_dx": "input gradient", "conv_dw": "weight gradient"}
    total = sum(n.microseconds for n in nodes)
    groups: dict[tuple[str, str], list[NodeTime]] = {}
    for node in nodes:
        what = passes.get(node.op, "norm, activation, pool" if node.layer else "the rest")
        where = node.layer if node.op in passes else "" if what == "the rest" else "all"
        groups.setdefault((where, what), []).append(node)
    rows = []
    for (layer, what), part in groups.items():
        us, macs = sum(n.microseconds for n in part), sum(n.macs for n in part)
        rows.append(
            {
                "layer": layer,
                "pass": what,
                "us": round(us, 2),
                "share": round(us / total, 4),
                "macs": macs,
                "ops": sum(n.ops for n in part),
                "nominal_gflops": round(2 * macs / us * 1e-3, 1) if us else 0.0,
            }
        )
    return rows, nodes


def growth(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """CPU microseconds per window of MI-BMInet by channels, samples, and windows per step."""
    found: dict[str, list[dict[str, Any]]] = {"channels": [], "samples": [], "batch": []}
    shapes = [("channels", {"n_chans": n}) for n in (8, 16, 32)]
    shapes += [("samples", {"n_times": n}) for n in (950, 1900, 3800)]
    for axis, shape in shapes:
        net, x, y = network("mibminet", **shape)
        pkg = bt.compile(net, x[:1], accumulate=BATCH)
        us = step_us(HostDevice(pkg), x, y, rounds)
        rate = round(2 * pkg.plan.macs / us * 1e-3, 1)
        (value,) = shape.values()
        found[axis].append({"n": value, "us_per_window": round(us, 1), "nominal_gflops": rate})
    net, x, y = network("mibminet")
    device = HostDevice(bt.compile(net, x[:1], accumulate=BATCH))
    for n in (1, 2, 4, 8, 16, 32):
        us = step_us(device, np.resize(x, (n, *x.shape[1:])), np.resize(y, n), rounds)
        found["batch"].append({"n": n, "us_per_window": round(us, 1)})
    return found


def trained(device: HostDevice, x: np.ndarray, y: np.ndarray, windows: int) -> float:
    """Wall seconds in which one worker trains on so many windows."""
    device.train(x, y)
    start = time.perf_counter()
    for _ in range(windows // BATCH):
        device.train(x, y)
    return time.perf_counter() - start


def subject(windows: int) -> float:
    """The same in a process of its own."""
    net, x, y = network("mibminet")
    return trained(HostDevice(bt.compile(net, x[:1], accumulate=BATCH)), x, y, windows)


def workers(windows: int = 1600) -> list[dict[str, Any]]:
    """Windows per second of several subjects at once, each in a thread or a process of its own."""
    net, x, y = network("mibminet")
    pkg = bt.compile(net, x[:1], accumulate=BATCH)
    rows = []
    for count in sorted({1, 2, os.cpu_count() or 1}):
        devices = [HostDevice(pkg) for _ in range(count)]
        with ThreadPoolExecutor(count) as threads:
            taken = list(threads.map(lambda d: trained(d, x, y, windows), devices))
        rate = sum(windows / t for t in taken)
        rows.append({"kind": "threads", "workers": count, "windows_per_second": round(rate)})
    for count in sorted({1, 2, os.cpu_count() or 1}):
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as processes:
            taken = list(processes.map(subject, [windows] * count))
        rate = sum(windows / t for t in taken)
        rows.append({"kind": "processes", "workers": count, "windows_per_second": round(rate)})
    return rows


def picture(result: dict[str, Any], nodes: dict[str, list[NodeTime]]) -> Figure:
    """The roofline of the nodes, and how the cost grows."""
    figure = Figure(figsize=(11, 4.6), dpi=120, layout="constrained")
    roof, grow = figure.subplots(1, 2, width_ratios=(3, 2))
    peak, bandwidth = result["peak_gflops"], result["gbytes"]
    reach = np.geomspace(0.05, 300, 200)
    for label, rate in bandwidth.items():
        roof.plot(reach, np.minimum(peak, rate * reach), lw=1, label=f"{label}: {rate:.0f} GB/s")
    colours = {"mibminet": "#0072B2", "epidenet": "#D55E00", "eegnet": "#009E73"}
    for name, part in nodes.items():
        busy = [n for n in part if n.ops and n.bytes and n.microseconds > 0.05]
        roof.scatter(
            [n.ops / n.bytes for n in busy],
            [n.ops / n.microseconds * 1e-3 for n in busy],
            s=[6 + 60 * n.microseconds / sum(p.microseconds for p in part) for n in busy],
            color=colours[name],
            alpha=0.7,
            label=name,
        )
    roof.set(xscale="log", yscale="log", ylim=(0.3, 1.5 * peak))
    roof.set_xlabel("executed multiplies and adds per byte of a node's tensors")
    roof.set_ylabel("GFLOP/s, one thread")
    roof.set_title(f"nodes of a training step; measured peak {peak:.0f} GFLOP/s", fontsize=9)
    roof.legend(fontsize=7, loc="lower right")
    for axis, marker in (("channels", "o"), ("samples", "s"), ("batch", "^")):
        rows = result["growth"][axis]
        base = rows[0]["n"]
        grow.plot(
            [r["n"] / base for r in rows],
            [r["us_per_window"] for r in rows],
            marker=marker,
            label=f"{axis} from {base}",
        )
    grow.set(xscale="log", yscale="log")
    grow.set_xlabel("times the first")
    grow.set_ylabel("us per window")
    grow.set_title("MI-BMInet, growing one dimension", fontsize=9)
    grow.legend(fontsize=7)
    return figure


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    print(
        "8 samples, forward + backward + SGD step, one thread, CPU ms (median); x: ours is faster"
    )
    for row in result["models"]:
        print(
            f"\n{row['model']}: peak {row['peak_gflops']} GFLOP/s, fastest other {row['fastest']}"
        )
        for title, ms in row["frameworks_ms"].items():
            print(f"  {title:32} {ms:9.3f}")
        for title, reason in row["absent"].items():
            print(f"  {title:32} {reason}")
        for title, plan in row["plans"].items():
            ratios = ", ".join(f"{k} {v}x" for k, v in plan["over"].items())
            print(
                f"  generated C, {title:19} {plan['ms']:9.3f}  {plan['ram_kb']} kB, "
                f"{plan['peak_share']:.1%} of the peak in nominal MACs, executed "
                f"{plan['executed_over_nominal']} of them; {ratios}"
            )
    for name, rows in result["layers"].items():
        print(f"\n{name}, one window, everything stored")
        for r in rows:
            print(
                f"  {r['layer']:17} {r['pass']:23} {r['us']:8.2f} us {r['share']:6.1%} "
                f"{r['nominal_gflops'] / result['peak_gflops']:6.1%} of the peak"
            )
    for axis, rows in result["growth"].items():
        text = ", ".join(f"{r['n']}: {r['us_per_window']}" for r in rows)
        print(f"\nMI-BMInet, us per window by {axis}: {text}")
    for r in result["workers"]:
        print(f"{r['workers']} {r['kind']}: {r['windows_per_second']} windows per second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--models", nargs="*", default=list(PLANS))
    parser.add_argument("--without", nargs="*", default=[], help="frameworks, by a word of theirs")
    parser.add_argument("--json", type=Path, default=Path("build/host_step.json"))
    parser.add_argument("--figure", type=Path, default=Path("build/host_step.png"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    core = Core()
    print("a few minutes: compilers first, then rounds", file=sys.stderr, flush=True)
    models = [compare(n, core, args.rounds, tuple(args.without)) for n in args.models]
    divided = {n: layers(n, args.rounds) for n in args.models}
    result = {
        "machine": platform.processor() or platform.machine(),
        "lanes": core.lanes,
        "peak_gflops": max(row["peak_gflops"] for row in models),
        "gbytes": {f"{k} kB": round(core.gbytes(seconds, k), 1) for k in (16, 256, 8192)},
        "models": models,
        "layers": {n: rows for n, (rows, _) in divided.items()},
        "growth": growth(args.rounds),
        "workers": workers(),
    }
    show(result)
    for path in (args.json, args.figure):
        path.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    picture(result, {n: nodes for n, (_, nodes) in divided.items()}).savefig(args.figure)


if __name__ == "__main__":
    main()
