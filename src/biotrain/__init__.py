# SPDX-License-Identifier: Apache-2.0
"""BioTrain: fine-tune whole neural networks for biosignals on the microcontroller.

>>> import biotrain as bt
>>> net = bt.prepare(bt.models.build("epidenet", 8, 200, 7, 200.0))
>>> pkg = bt.compile(net, example, target="cortex-m4f", strategy="full", accumulate=8)
>>> dev = pkg.run("host")
>>> loss = dev.train(x, y)
"""

from __future__ import annotations

from biotrain import models
from biotrain.errors import BioTrainError
from biotrain.optim import SGD, Adam
from biotrain.package import Package
from biotrain.package import compile_model as compile
from biotrain.topology import prepare, report

__version__ = "0.1.0"
__all__ = [
    "SGD",
    "Adam",
    "BioTrainError",
    "Package",
    "__version__",
    "compile",
    "models",
    "prepare",
    "report",
    "verify",
]


def __getattr__(name: str) -> object:
    """`bt.verify` is loaded on first use: it needs the device."""
    if name == "verify":
        from biotrain.verify import verify

        return verify
    raise AttributeError(f"module 'biotrain' has no attribute '{name}'")
