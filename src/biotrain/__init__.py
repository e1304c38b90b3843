# SPDX-License-Identifier: Apache-2.0
"""BioTrain: fine-tune whole neural networks for biosignals on the microcontroller.

>>> import biotrain as bt
>>> net = bt.prepare(bt.models.build("epidenet", 8, 200, 7, 200.0))
>>> pkg = bt.compile(net, example, target="cortex-m4f", strategy="full", accumulate=8)
>>> dev = pkg.run("host")
>>> loss = dev.train(x, y)
>>> bt.verify(pkg).ok

Names are loaded on first use, so that the command line answers before torch is there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from biotrain import models
    from biotrain.errors import BioTrainError
    from biotrain.frontend.live import Live
    from biotrain.ir import loss as losses
    from biotrain.ir.optimizer import SGD, Adam
    from biotrain.package import Package
    from biotrain.package import compile_model as compile  # noqa: A004  (bt.compile)
    from biotrain.recipe import Recipe
    from biotrain.study.adapt import adapt
    from biotrain.topology import prepare, report
    from biotrain.verification import verify

__version__ = "0.2.0.dev0"
__all__ = [
    "SGD",
    "Adam",
    "BioTrainError",
    "Live",
    "Package",
    "Recipe",
    "adapt",
    "compile",
    "losses",
    "models",
    "prepare",
    "report",
    "verify",
]

_HOME = {
    "SGD": "ir.optimizer",
    "Adam": "ir.optimizer",
    "BioTrainError": "errors",
    "Live": "frontend.live",
    "Package": "package",
    "Recipe": "recipe",
    "adapt": "study.adapt",
    "prepare": "topology",
    "report": "topology",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name == "models":
        return import_module("biotrain.models")
    if name == "losses":
        return import_module("biotrain.ir.loss")
    if name == "compile":
        return import_module("biotrain.package").compile_model
    if name in _HOME:
        return getattr(import_module(f"biotrain.{_HOME[name]}"), name)
    raise AttributeError(f"module 'biotrain' has no attribute '{name}'")
