# SPDX-License-Identifier: Apache-2.0
"""The settings of pretraining and of calibration, as `adapt` and the file of a study name them.

The names and the order of the fields are those of study.json, and decide the keys of its cells.
"""

from dataclasses import dataclass

SCHEDULES = ("constant", "cosine")
"""Learning rate over the steps of a calibration."""

CRITERIA = ("loss", "accuracy")
"""By what the best epoch is chosen on held-back windows: mean cross-entropy, or accuracy (the loss
where that is equal)."""

ENGINES = ("auto", "c", "torch")
"""Where pretraining may run; "auto" is C where the compiler takes the network."""


@dataclass(frozen=True)
class CalibrationSettings:
    """How a strategy calibrates; arXiv 2604.13359's where nothing else is said.

    Where a study names neither lr nor norm, they are those of `recipes.BEST`.
    """

    epochs: int = 30
    lr: float = 5e-3
    momentum: float = 0.9
    weight_decay: float = 1e-3
    schedule: str = "cosine"
    accumulate: int = 8  # samples whose mean gradient makes a step; in torch, the batch
    batch: int = 1  # windows that share BatchNorm's statistics in the C (norm = "batch")
    holdout: float = 0.0  # share of the calibration windows held back to choose the epoch by
    best: str = "loss"  # one of CRITERIA
    patience: int = 0  # epochs without a better one after which it stops; 0: all are run
    replay: int = 0  # windows of other subjects and earlier sessions added to every epoch
    adabn_every: int = 0  # epochs after which adabn+... re-estimates statistics; 0: only once
    norm: str = "group"
    target: str = "host"
    memory: str | int | None = None
    on: str = "host"

    @property
    def group(self) -> int:
        """Samples of one optimizer step in the generated C: a batch is a group of its own."""
        return self.batch if self.batch > 1 else self.accumulate


@dataclass(frozen=True)
class Strategy:
    """A column of a table: a name, the rule that it follows, and how it calibrates."""

    name: str
    rule: str
    recipe: CalibrationSettings


@dataclass(frozen=True)
class PretrainSettings:
    """How a network is pretrained on all other subjects; arXiv 2604.13359's settings."""

    epochs: int = 40
    lr: float = 1e-3
    batch: int = 64
    every: int = 1  # every n-th window only
    engine: str = "auto"  # one of ENGINES
    seed: int | None = None  # one pretraining for all seeds of the study; None: one for each seed


@dataclass(frozen=True)
class FinetuneSettings:
    """Conventional fine-tuning in torch (`finetune_torch`).

    strategy: "full" or "last". schedule: one of SCHEDULES. batch: windows of a step. seed: the
    order of the windows.
    """

    strategy: str = "full"
    epochs: int = 30
    lr: float = 5e-3
    momentum: float = 0.9
    weight_decay: float = 1e-3
    schedule: str = "cosine"
    batch: int = 8
    seed: int = 0
