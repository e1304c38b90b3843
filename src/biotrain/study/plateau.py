# SPDX-License-Identifier: Apache-2.0
"""How long a network is pretrained: by epochs, by steps, or until people that it does not train on
say that it gains no more."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from biotrain.study.data.recordings import RecordingError, Recordings
from biotrain.study.metrics import accuracy, cross_entropy
from biotrain.study.settings import PretrainSettings
from biotrain.study.task import Labelled
from biotrain.study.torch_training import one_thread, predict

HELD_PEOPLE = 5
"""One of so many source people is held out, one at least."""
MOST_TIMES = 4
"""Without a plateau it ends after so many times the epochs that it has to run."""


def held_people(rec: Recordings, idx: NDArray[Any], seed: int) -> NDArray[np.bool_]:
    """Which of the windows `idx` belong to the people who are held out, drawn by `seed`.

    Raises RecordingError where there is one person only.
    """
    people = np.unique(rec.subject[idx])
    if len(people) < 2:
        raise RecordingError(
            f"{rec.name}: pretraining to a plateau holds people out, and there is one to train on"
        )
    drawn = np.random.default_rng(seed).permutation(people)[: max(1, len(people) // HELD_PEOPLE)]
    found: NDArray[np.bool_] = np.isin(rec.subject[idx], drawn)
    return found


def epochs_for(settings: PretrainSettings, windows: int) -> tuple[int, int]:
    """Epochs over so many windows: those that are run at least, and at most."""
    by_step = -(-windows // settings.batch)
    least = max(settings.epochs, -(-settings.steps // by_step))
    return least, least * MOST_TIMES if settings.plateau else least


class Plateau:
    """Watches a network while it is pretrained: its loss on held-out people after every epoch.

    module: what is trained. held: windows and labels of the people who are held out. least: epochs
    before which it does not end. patience: epochs without a lower loss that end it.
    """

    def __init__(self, module: nn.Module, held: Labelled, least: int, patience: int) -> None:
        self.module, self.held, self.least, self.patience = module, held, least, patience
        self.losses: list[float] = []
        self._best: dict[str, Any] = {}

    @one_thread()
    def ends(self) -> bool:
        """Evaluate the network after an epoch; whether it was the last one."""
        training = self.module.training
        loss = cross_entropy(predict(self.module, self.held.x), self.held.y)
        self.module.train(training)
        if not self.losses or loss < min(self.losses):
            self._best = copy.deepcopy(self.module.state_dict())
        self.losses.append(loss)
        stale = len(self.losses) - 1 - int(np.argmin(self.losses))
        return len(self.losses) >= self.least and stale >= self.patience

    def restore(self) -> None:
        """Give the network the weights of its best epoch."""
        if self._best:
            self.module.load_state_dict(self._best)


NEAR_CHANCE = 0.2
"""A network that knows less than this share of what there is above chance knows hardly anything."""


def own_accuracy(module: nn.Module, rec: Recordings, idx: NDArray[Any]) -> float:
    """Accuracy of a network on windows of the people it was pretrained on, or for."""
    with torch.no_grad(), one_thread():
        labels = predict(module, rec.signal(idx)).argmax(1)
    return accuracy(labels, rec.y[idx])


def is_near_chance(own: float, chance: float) -> bool:
    """Whether an accuracy on its own people says that a network was hardly pretrained."""
    return own < chance + NEAR_CHANCE * (1 - chance)


def warning(own: float, chance: float) -> str:
    """What to tell of a network that knows its own people hardly better than chance."""
    return (
        f"the pretrained network is right in {100 * own:.0f} % of its own people's windows, chance "
        f"is {100 * chance:.0f} %: pretrain longer (pretrain steps = 1000, plateau = 10)"
    )
