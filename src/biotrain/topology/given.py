# SPDX-License-Identifier: Apache-2.0
"""What may stand for a network: the torch module itself, or a trained estimator that holds it."""

from pathlib import Path
from typing import Any

from torch import nn


def network_of(given: Any) -> Any:
    """The torch module of a skorch estimator (braindecode's `EEGClassifier`); anything else as it
    is. ValueError for an estimator whose network was not built yet."""
    if isinstance(given, (nn.Module, str)) or not hasattr(given, "get_params"):
        return given
    built = getattr(given, "module_", None)
    if isinstance(built, nn.Module):
        return built
    if hasattr(given, "module") and hasattr(given, "initialize"):
        raise ValueError(
            f"this {type(given).__name__} has no network yet: call its initialize() or fit() first"
        )
    return given


def called(model: Any) -> str:
    """What to call a network that was given no title: its class, or its file."""
    if isinstance(model, (str, Path)):
        return Path(model).stem
    return str(getattr(model, "title", type(model).__name__))
