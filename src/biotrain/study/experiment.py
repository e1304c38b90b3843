# SPDX-License-Identifier: Apache-2.0
"""What tables call the recordings and the network of an experiment."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from biotrain.study.data.recordings import Recordings


@dataclass(frozen=True)
class Experiment:
    """What the rows of one table have in common."""

    dataset: str
    scenario: str
    model: str


def dataset_name(rec: Recordings) -> str:
    """What a table calls these recordings; synthetic ones say so."""
    if rec.synthetic and "synthetic" not in rec.name:
        return f"{rec.name} (synthetic)"
    return rec.name


def model_name(model: str | Callable[..., nn.Module]) -> str:
    """What a table calls this network."""
    return model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)
