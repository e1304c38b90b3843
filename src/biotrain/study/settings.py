# SPDX-License-Identifier: Apache-2.0
"""The settings of pretraining and of calibration, as `adapt` and the file of a study name them.

The names and the order of the fields are those of study.json, and decide the keys of its cells.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from biotrain.errors import BioTrainError
from biotrain.ir.optimizer import SGD
from biotrain.planner.budget import Budget
from biotrain.recipe import DEFAULT, MOST, PUBLISHED_LR
from biotrain.run import check_place
from biotrain.targets.target import load_target, parse_bytes

MOST_SEED = 2**32 - 1
"""Largest seed; torch and numpy both take it."""

SCHEDULES = ("constant", "cosine")
"""Learning rate over the steps of a calibration."""

CRITERIA = ("loss", "accuracy")
"""By what the best epoch is chosen on held-back windows: mean cross-entropy, or accuracy (the loss
where that is equal)."""

ENGINES = ("auto", "c", "torch")
"""Where pretraining may run; "auto" is C where the compiler takes the network."""


@dataclass(frozen=True)
class CalibrationSettings:
    """How a strategy calibrates; as the default recipe where nothing else is said.

    Where a study names neither lr nor norm, they are those of `recipes.BEST`.
    """

    epochs: int = DEFAULT.epochs
    lr: float = PUBLISHED_LR
    momentum: float = DEFAULT.momentum
    weight_decay: float = DEFAULT.weight_decay
    schedule: str = DEFAULT.schedule
    accumulate: int = (
        DEFAULT.accumulate
    )  # samples whose mean gradient makes a step; in torch, the batch
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
    clip_norm: float = (
        DEFAULT.clip_norm
    )  # most of the norm of a step's mean gradient in the C; 0: no bound
    repeats: int = DEFAULT.repeats  # at a quarter of the rate, where it made things worse
    artefacts: float = DEFAULT.artefacts  # robust z above which a window is left out; 0: none

    def check(self) -> None:
        """Raise BioTrainError for what no device could calibrate with: asked before a network is
        pretrained, not after it."""
        counts = (self.epochs, self.accumulate - 1, self.batch - 1, self.patience, self.replay)
        more = (self.adabn_every, self.repeats)
        if not all(0 <= count <= MOST for count in (*counts, *more)):
            raise BioTrainError(
                "epochs, patience, replay, adabn_every and repeats must not be negative, "
                f"accumulate and batch be above 0, and all at most {MOST:,}"
            )
        if not (isfinite(self.artefacts) and self.artefacts >= 0):
            raise BioTrainError(f"artefacts is a z-score from 0, not {self.artefacts}")
        self.optimizer()
        target = load_target(self.target)
        Budget(parse_bytes(self.memory)).check(target)
        check_place(self.on, target)

    def optimizer(self) -> SGD:
        """The optimizer of the generated C; BioTrainError for one that there is not."""
        if not (isfinite(self.clip_norm) and self.clip_norm >= 0):
            raise BioTrainError(f"clip_norm must be a number from 0, not {self.clip_norm}")
        return SGD(
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=self.schedule,  # type: ignore[arg-type]
            clip_norm=self.clip_norm or None,
        )

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
    steps: int = 0  # optimizer steps at least; 0: as many as `epochs` make
    plateau: int = 0  # epochs without a lower loss on held-out people that end it; 0: none held out

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the result, by name; those that came later only where they are
        on, so that a key without them is what it was before they were there."""
        own = asdict(self)
        return {k: v for k, v in own.items() if v or k not in ("steps", "plateau")}

    def check(self) -> None:
        """Raise BioTrainError for what cannot train."""
        if not (0 <= self.steps <= MOST and 0 <= self.plateau <= MOST):
            raise BioTrainError(
                f"pretraining: steps and plateau must lie in 0 to {MOST:,}, not {self.steps} and "
                f"{self.plateau}"
            )
        if not (0 <= self.epochs <= MOST and 1 <= self.batch <= MOST and self.every >= 1):
            raise BioTrainError(
                f"pretraining: epochs must lie in 0 to {MOST:,}, batch in 1 to {MOST:,}, and every "
                "be above 0"
            )
        if not (isfinite(self.lr) and self.lr > 0):
            raise BioTrainError(f"pretraining: lr must be a number above 0, not {self.lr}")
        check_seeds([self.seed or 0])


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


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise BioTrainError for a seed that torch or numpy would refuse."""
    wrong = [seed for seed in seeds if not isinstance(seed, int) or not 0 <= seed <= MOST_SEED]
    if wrong:
        raise BioTrainError(f"a seed is a whole number from 0 to {MOST_SEED:,}, not {wrong[0]}")
