# SPDX-License-Identifier: Apache-2.0
"""The epoch whose weights do best on windows that were held back."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.study.metrics import accuracy, cross_entropy
from biotrain.study.settings import CalibrationSettings
from biotrain.study.task import Labelled


class BestEpoch:
    """Remembers the weights of the epoch that does best on held-back windows. The weights before
    the first epoch count too, so a calibration that only harms leaves them as they were.

    settings: `best` names the criterion, `patience` the epochs without a better one after which to
    stop (0: never).
    """

    def __init__(self, held: Labelled, settings: CalibrationSettings) -> None:
        self.held, self.patience = held, settings.patience
        self.by_accuracy = settings.best == "accuracy"
        self.epoch = 0
        self.state: Any = None
        self._score: tuple[float, ...] = ()

    def evaluate(
        self,
        epoch: int,
        predict: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        save: Callable[[], Any],
    ) -> bool:
        """Score the weights after `epoch` and `save` them if none were better; returns whether
        training should stop."""
        logits = predict(self.held.x)
        loss = cross_entropy(logits, self.held.y)
        right = accuracy(logits.argmax(1), self.held.y)
        score = (-right, loss) if self.by_accuracy else (loss,)
        if not self._score or score < self._score:
            self.epoch, self.state, self._score = epoch, save(), score
        return 0 < self.patience <= epoch - self.epoch
