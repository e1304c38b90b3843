# SPDX-License-Identifier: Apache-2.0
"""The pace of networks of the field: a step of the generated C against PyTorch, eager and compiled.

    OMP_NUM_THREADS=1 python benchmarks/pace.py
    OMP_NUM_THREADS=1 python benchmarks/pace.py --zoo     and the small networks of braindecode

8 windows forward and backward and one SGD step, one thread each; rounds alternate between them, so
that a busy machine slows all. CPU time, medians of the rounds. PyTorch takes the 8 windows as one
batch (which is less work for it than the device's one by one), or window by window where a network
takes no batch.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
import torch
from test_field import LOSSES, NETWORKS, SHAPES
from torch import nn

import biotrain as bt
from biotrain.run.host import HostDevice

BATCH = 8
SLICE = 0.02
"""Seconds that each works in a round, at least."""


@dataclass(frozen=True)
class Pace:
    """One network: CPU milliseconds of a step; nan for what cannot run it."""

    network: str
    ms: float
    low: float
    high: float
    """The tenth and the ninetieth of a hundred rounds of the generated C."""
    eager: float
    compiled: float

    @property
    def ratio(self) -> float:
        """How many times faster than the faster one of the two."""
        return min(v for v in (self.eager, self.compiled) if not math.isnan(v)) / self.ms


def torch_loss(name: str) -> Callable[[Any, Any], torch.Tensor]:
    """The loss of a network of the table, in torch."""
    f = nn.functional
    by_name: dict[str, Callable[[Any, Any], torch.Tensor]] = {
        "ppg_rate": lambda y, t: f.huber_loss(y, t, delta=2.0),
        "unet": nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]), reduction="none"),
        "ecg_residual": f.binary_cross_entropy_with_logits,
        "two_heads": lambda y, t: (
            f.cross_entropy(y["stage"], t["stage"]) + f.huber_loss(y["rate"], t["rate"])
        ),
    }
    found = by_name.get(name, f.cross_entropy)
    return lambda y, t: found(y, t).mean()


def stepper(
    forward: Callable[..., Any], net: nn.Module, loss: Any, x: torch.Tensor, y: Any
) -> Callable[[], object]:
    """A training step of PyTorch: one batch, or window by window where the network asks for it."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    try:
        loss(net(x), y)
        parts = [(x, y)]
    except (ValueError, RuntimeError):
        parts = [(x[i : i + 1], y[i : i + 1]) for i in range(BATCH)]

    def step() -> None:
        optimizer.zero_grad()
        for window, target in parts:
            (loss(forward(window), target) / len(parts)).backward()
        optimizer.step()

    return step


def targets(pkg: bt.Package) -> Any:
    """Targets of 8 windows, as `train` takes them."""
    rng = np.random.default_rng(3)
    if "label" in [v.name for v in pkg.source.train.inputs]:
        return np.arange(BATCH) % 3
    ys = []
    for loss, logits in zip(pkg.source.loss.heads, pkg.source.heads.shapes, strict=True):
        size = (BATCH, *loss.target(logits))
        ys.append(rng.integers(0, 3, size) if loss.labels else rng.random(size, np.float32))
    names = pkg.source.heads.names
    return dict(zip(names, ys, strict=True)) if names else ys[0]


def as_tensors(y: Any) -> Any:
    if isinstance(y, dict):
        return {k: as_tensors(v) for k, v in y.items()}
    return torch.as_tensor(y)


def seconds(work: Callable[[], object], count: int = 1) -> float:
    """CPU seconds of one of `count` calls."""
    start = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - start) / count


def timed(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds by round; what fails is left out."""
    counts: dict[str, int] = {}
    for name, work in works.items():
        try:
            work()
            counts[name] = max(1, int(SLICE / max(seconds(work), 1e-6)))
        except Exception as error:  # a network that torch.compile or a batch does not suit
            print(f"  {name}: {type(error).__name__}", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in counts}
    for _ in range(rounds):
        for name, count in counts.items():
            times[name].append(seconds(works[name], count))
    return times


def pace(name: str, net: nn.Module, x: torch.Tensor, loss: Any, rounds: int) -> Pace:
    """Time one network."""
    optimizer = bt.SGD(lr=0.01, momentum=0.9)
    options = {} if loss is None else {"loss": loss}
    pkg = bt.compile(net, x[:1], optimizer=optimizer, accumulate=BATCH, **options)
    y, device = targets(pkg), HostDevice(pkg)
    asked, windows = as_tensors(y), x.numpy()
    compiled = torch.compile(net)
    goal = torch_loss(name)
    works: dict[str, Callable[[], object]] = {
        "generated C": lambda: device.train(windows, y),
        "eager": stepper(net, net, goal, x, asked),
        "torch.compile": stepper(compiled, net, goal, x, asked),
    }
    times = timed(works, rounds)
    ms = {k: 1e3 * median(v) for k, v in times.items()}
    low, high = np.percentile(times["generated C"], (10, 90)) * 1e3
    nan = float("nan")
    return Pace(
        name, ms["generated C"], float(low), float(high), ms.get("eager", nan),
        ms.get("torch.compile", nan),
    )  # fmt: skip


def field(name: str) -> tuple[nn.Module, torch.Tensor, Any]:
    """A network of the tests, 8 windows, its loss."""
    torch.manual_seed(1)
    return NETWORKS[name]().train(), torch.randn(BATCH, *SHAPES[name]), LOSSES.get(name)


def of_the_zoo(name: str) -> tuple[nn.Module, torch.Tensor, Any]:
    """The same of braindecode."""
    import zoo

    shape = dict(zoo.SHAPE) | dict(zoo.OPTIONS.get(name, {}))
    x = torch.randn(BATCH, shape["n_chans"], shape["n_times"])
    return bt.prepare(zoo.built(name), example_input=x[:1]).train(), x, None


def row(found: Pace) -> str:
    """A line of the table."""
    cells = [f"{found.ms:.3f}", f"{found.low:.3f} to {found.high:.3f}"]
    cells += [
        "-" if math.isnan(other) else f"{other:.2f} ({other / found.ms:.1f}x)"
        for other in (found.eager, found.compiled)
    ]
    return f"| {found.network} | {' | '.join(cells)} | {found.ratio:.2f} |"


def main() -> int:
    """Print the table, the geometric mean and the worst."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--zoo", action="store_true", help="and the networks of braindecode")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=Path("build/pace.json"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    makers: dict[str, Callable[[str], Any]] = dict.fromkeys(NETWORKS, field)
    if given.zoo and find_spec("braindecode"):
        import zoo

        makers |= dict.fromkeys(zoo.NETWORKS, of_the_zoo)
    print("| network | C, ms | 10 to 90 % | PyTorch eager | torch.compile | over the faster |")
    print("|---|---:|---:|---:|---:|---:|")
    rows: list[Pace] = []
    for name in given.only or makers:
        try:
            found = pace(name, *makers[name](name), given.rounds)
        except bt.BioTrainError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        rows.append(found)
        print(row(found), flush=True)
    mean = math.exp(sum(math.log(r.ratio) for r in rows) / len(rows))
    worst = min(rows, key=lambda r: r.ratio)
    print(f"geometric mean {mean:.2f}, worst {worst.network} {worst.ratio:.2f}")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
