# SPDX-License-Identifier: Apache-2.0
"""A calibration task: the windows and labels of one subject, session and seed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biotrain.frontend.screen import artefacts
from biotrain.study.data.recordings import Recordings
from biotrain.study.data.splits import Indices, held_back
from biotrain.study.experiment import Experiment
from biotrain.study.labelfree import TRANSFORMS
from biotrain.study.metrics import accuracy, balanced_accuracy
from biotrain.study.rows import ResultRow

Labels = NDArray[np.int64]
Progress = Callable[[str, int, int], None]
"""Called with a task ("subject 3, seed 0: full"), how much of it is done, and all of it."""


def silent(task: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Labelled:
    """Windows, float32 [windows, channels, time], and their labels [windows]."""

    x: NDArray[np.float32]
    y: Labels


@dataclass(frozen=True)
class Cost:
    """What a calibration takes: bytes of RAM and operations per window (None where nothing was
    compiled), optimizer steps, and the CRC-32 of the weights that it left."""

    ram_bytes: int | None
    ops: int | None
    steps: int
    crc32: int | None


class Task:
    """One subject, session and seed: its windows, and what a row about them says.

    `x`, `x_test` are float32 [windows, channels, time]; a transform is fitted to the calibration
    windows, without their labels, and applied to both. `unlabelled` are all calibration windows,
    for what needs no labels. `held` is what `hold_back` took out of `x`, `y`; `replayed` is a
    sample store of other windows, which every epoch sees too.
    """

    held: Labelled | None = None
    replayed: Labelled | None = None

    def __init__(
        self,
        rec: Recordings,
        subject: int,
        seed: int,
        split: tuple[Indices, Indices],
        progress: Progress = silent,
        transform: str = "",
        bound: float = 0.0,
    ) -> None:
        """`split`: the windows that calibrate and those that test; of the first, artefacts are left
        out whose robust z-score is above `bound`, unless that is 0."""
        calibration, test = split
        self.rec, self.subject, self.seed, self.progress = rec, subject, seed, progress
        self.notes: list[str] = []
        found = artefacts(rec.x[calibration], bound)
        few = 2 * found.sum() <= len(found)
        if found.any():
            what = "left out" if few else "too many to leave out"
            self.note(f"{found.sum()} of {len(found)} calibration windows are artefacts: {what}")
        if few:
            calibration = calibration[~found]
        self.calibration = calibration
        self.session = int(rec.session[test[0]])
        self.x, self.y = rec.signal(calibration), rec.y[calibration]
        self.x_test, self.y_test = rec.signal(test), rec.y[test]
        if transform:
            change = TRANSFORMS[transform](self.x)
            self.x, self.x_test = change(self.x), change(self.x_test)
        self.unlabelled = self.x

    def hold_back(self, share: float) -> None:
        """Take `share` of the calibration windows out of it, to choose the epoch by; see
        `held_back`."""
        trains, held = held_back(self.rec, self.calibration, share, self.seed)
        at, other = (np.flatnonzero(np.isin(self.calibration, part)) for part in (trains, held))
        self.held = Labelled(self.x[other], self.y[other])
        self.x, self.y = self.x[at], self.y[at]
        self.calibration = self.calibration[at]

    def material(self) -> Labelled:
        """What an epoch sees: the calibration windows and labels, and those of the sample store."""
        if self.replayed is None:
            return Labelled(self.x, self.y)
        x, y = self.replayed.x, self.replayed.y
        return Labelled(np.concatenate([self.x, x]), np.concatenate([self.y, y]))

    def reporter(self, what: str) -> Callable[[int, int], None]:
        """Called after each epoch of `what`."""
        task = f"subject {self.subject}, seed {self.seed}: {what}"
        self.progress(task, 0, 1)
        return lambda done, total: self.progress(task, done, total)

    def note(self, text: str) -> None:
        """Something that the reader of the results should know."""
        self.notes.append(f"subject {self.subject}, seed {self.seed}: {text}")

    def score(self, logits: NDArray[np.float32]) -> float:
        """Accuracy of `logits` [windows, classes] on the test part."""
        return accuracy(logits.argmax(1), self.y_test)

    def row(
        self,
        experiment: Experiment,
        strategy: str,
        norm: str,
        logits: NDArray[np.float32],
        cost: Cost,
    ) -> ResultRow:
        """The row about `logits` on the test part; `norm` is that the network trained with."""
        labels = logits.argmax(1)
        return ResultRow(
            dataset=experiment.dataset,
            scenario=experiment.scenario,
            model=experiment.model,
            norm=norm,
            strategy=strategy,
            subject=self.subject,
            session=self.session,
            seed=self.seed,
            accuracy=accuracy(labels, self.y_test),
            balanced_accuracy=balanced_accuracy(labels, self.y_test),
            chance=1 / self.rec.n_classes,
            ram_bytes=cost.ram_bytes,
            ops=cost.ops,
            steps=cost.steps,
            crc32=cost.crc32,
        )
