# SPDX-License-Identifier: Apache-2.0
"""Packages whose every byte is remembered: a change that is meant to change nothing shows that.

`python tests/_behaviour.py` prints the hashes of this state, `--write` keeps them in
`tests/behaviour.json`. A commit that changes what is emitted writes the file again and says why;
the CRCs of the weights after ten steps change only where the numerics of the project do.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import biotrain as bt
from biotrain.frontend import FrontEnd
from biotrain.graph.rewrite import DEFAULT
from biotrain.run.compiler import NUMERICS
from biotrain.run.project import project_files

FILE = Path(__file__).with_name("behaviour.json")
STEPS = 10


@dataclass(frozen=True)
class Case:
    """One package: a built-in network at a short shape, and what it is compiled with."""

    network: str
    norm: str
    shape: tuple[int, int, int]
    """Channels, times, classes."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of `bt.compile`."""


SHAPES = {
    "mibminet": (8, 320, 2),
    "epidenet": (2, 400, 11),
    "eegnet": (8, 256, 4),
}
INT16 = {"input_type": "int16", "input_scale": 0.1}
MOMENTUM = bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3, schedule="cosine")


def cases() -> dict[str, Case]:
    """Every case by its name."""
    live = bt.Live(hop=100, store_pages=4, epochs=10)
    front = FrontEnd(200.0, 2, 400, 100, bandpass=(1.0, 40.0))
    group: dict[str, tuple[str, str, dict[str, Any]]] = {
        "mibminet": ("mibminet", "group", {"optimizer": MOMENTUM, "accumulate": 8}),
        "mibminet-board": ("mibminet", "group", {"target": "nrf52840", "memory": "96KiB", **INT16}),
        "mibminet-fp16": ("mibminet", "group", {"store": "fp16", "memory": "80kB"}),
        "mibminet-batch": ("mibminet", "batch", {"batch": 4, "optimizer": bt.Adam(lr=1e-3)}),
        "mibminet-adabn": ("mibminet", "frozen", {"adabn": True, "optimizer": MOMENTUM}),
        "mibminet-fft": (
            "mibminet",
            "group",
            {"rewrites": (*DEFAULT, "fft"), "gradients": "update"},
        ),
        "epidenet": ("epidenet", "group", {"optimizer": bt.SGD(lr=1e-2, clip_norm=1.0)}),
        "epidenet-momentum": (
            "epidenet",
            "group",
            {"gradients": "momentum", "optimizer": MOMENTUM, "target": "stm32h7", "accumulate": 4},
        ),
        "epidenet-live": (
            "epidenet",
            "frozen",
            {"live": live, "target": "nrf52840", "optimizer": MOMENTUM, **INT16},
        ),
        "epidenet-front": ("epidenet", "group", {"front": front, "target": "cortex-m7"}),
        "epidenet-last": ("epidenet", "group", {"strategy": "last", "optimizer": bt.Adam(lr=1e-3)}),
        "eegnet": ("eegnet", "group", {"optimizer": bt.Adam(lr=1e-3), "accumulate": 2}),
        "eegnet-small": ("eegnet", "group", {"memory": "72kB", "rewrites": (*DEFAULT, "fastconv")}),
        "eegnet-norm": ("eegnet", "frozen", {"strategy": "norm", "target": "cv32e40p"}),
    }
    return {name: Case(n, norm, SHAPES[n], o) for name, (n, norm, o) in group.items()}


def package(case: Case) -> bt.Package:
    """The package of a case, with weights that its name decides."""
    chans, times, classes = case.shape
    torch.manual_seed(0)
    net = bt.models.build(case.network, chans, times, classes, 200.0)
    net = bt.prepare(net, norm=case.norm)
    return bt.compile(
        net, torch.zeros(1, chans, times), title="behaviour", **{"accumulate": 1, **case.options}
    )


def crc(pkg: bt.Package, case: Case) -> str:
    """CRC-32 of the weights after ten steps on windows drawn once."""
    chans, times, classes = case.shape
    rng = np.random.default_rng(1)
    group = pkg.source.accumulate if pkg.source.batch is None else pkg.source.batch.size
    x = rng.normal(size=(STEPS * group, chans, times)).astype(np.float32)
    y = rng.integers(0, classes, len(x)).astype(np.int32)
    dev = pkg.run("host", flags=("-O1", "-march=native", "-fPIC", "-std=c99", *NUMERICS))
    dev.begin(STEPS)
    dev.train(x, y)
    return f"{dev.crc32():08x}"


def hashed(text: str) -> str:
    """A short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def behaviour(case: Case) -> dict[str, Any]:
    """Hashes of all files of a package and of its plan, and the CRC of its weights."""
    pkg = package(case)
    files = {**project_files(pkg), **pkg.files}
    plan = json.dumps(pkg.plan.to_json(), sort_keys=True)
    return {
        "crc32": crc(pkg, case),
        "plan": hashed(plan),
        "files": {name: hashed(text) for name, text in sorted(files.items())},
    }


def main() -> None:
    """Print the behaviour of this state, or keep it."""
    found = {name: behaviour(case) for name, case in cases().items()}
    text = json.dumps(found, indent=1) + "\n"
    if "--write" in sys.argv:
        FILE.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
