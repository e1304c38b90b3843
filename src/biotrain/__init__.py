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

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from biotrain import models
    from biotrain.errors import BioTrainError
    from biotrain.ondevice import Live
    from biotrain.optim import SGD, Adam
    from biotrain.package import Package
    from biotrain.package import compile_model as compile  # noqa: A004  (bt.compile)
    from biotrain.topology import prepare, report
    from biotrain.verify import verify

__version__ = "0.1.0"
__all__ = [
    "SGD",
    "Adam",
    "BioTrainError",
    "Live",
    "Package",
    "compile",
    "models",
    "prepare",
    "report",
    "verify",
]

_HOME = {
    "SGD": "optim",
    "Adam": "optim",
    "BioTrainError": "errors",
    "Live": "ondevice",
    "Package": "package",
    "prepare": "topology",
    "report": "topology",
}


def __getattr__(name: str) -> Any:
    if name == "models":
        return import_module("biotrain.models")
    if name == "compile":
        return import_module("biotrain.package").compile_model
    if name in _HOME:
        return getattr(import_module(f"biotrain.{_HOME[name]}"), name)
    raise AttributeError(f"module 'biotrain' has no attribute '{name}'")


class _Package(ModuleType):
    """`bt.verify` is the function, although importing its module would put the module there."""

    @property
    def verify(self) -> Any:
        return import_module("biotrain.verify").verify

    @verify.setter
    def verify(self, value: object) -> None:
        pass


sys.modules[__name__].__class__ = _Package
