# SPDX-License-Identifier: Apache-2.0
"""What a call of `adapt` is asked, and the record of it that its results carry."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from biotrain.errors import BioTrainError
from biotrain.recipe import DEFAULT, PUBLISHED_LR, recipe_of
from biotrain.study.recipes import calibration, settled
from biotrain.study.rules import NORMS
from biotrain.study.settings import (
    CRITERIA,
    CalibrationSettings,
    PretrainSettings,
    Strategy,
    check_seeds,
)


@dataclass(frozen=True)
class AdaptSettings:
    """How `adapt` pretrains, cuts the sessions and calibrates.

    memory: whole RAM, in bytes or as "256KiB"; by default what the target has.
    on: "host", or "emulator", "qemu", "rtl" for the firmware of the target.
    lr: learning rate of every strategy, and `lr_per_strategy` where one differs; by default each
        has the one that did best on pretraining subjects (`recipes.BEST`), else PUBLISHED_LR.
    split: one of biotrain.study.data.splits.SPLITS; by default what fits the recordings.
    calibration: share of the session that calibrates. test_repetition: which one tests, with split
        "repetition"; by default the last.
    norm: "group" pretrains with GroupNorm (and average pooling, for built-in networks); "convert"
        pretrains with BatchNorm and lets bt.prepare turn it into GroupNorm; "frozen" and "batch"
        keep BatchNorm. One for all, or one per strategy; by default "frozen" for what trains after
        adabn, "group" for the others.
    holdout: share of the calibration windows that is held back; the epoch that does best on it (by
        `best`, "loss" or "accuracy") is kept, the pretrained weights too if no epoch is better.
    patience: epochs without a better one after which the calibration stops; 0: never.
    replay: windows of the other subjects added to every epoch, against forgetting them.
    pretrain_epochs, pretrain_every: epochs on the other subjects, over every n-th window only.
    pretrain_steps, pretrain_plateau: optimizer steps at least, and epochs without a gain on
        held-out people that end it; see `pretrain`. 0: by epochs alone.
    clip_norm: most of the norm of a step's mean gradient; 0: no bound. repeats: how often a
        calibration that made things worse is repeated, each time at a quarter of the rate, before
        the weights stay as they were.
    batch: windows that share BatchNorm's statistics (norm "batch"), and make one step.
    artefacts: robust z-score above which a window is left out of the calibration; 0: none is.
    recipe: what the recipe is called that the settings began with.
    """

    target: str = "host"
    memory: int | str | None = None
    on: str = "host"
    epochs: int = DEFAULT.epochs
    lr: float | None = None
    lr_per_strategy: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    momentum: float = DEFAULT.momentum
    weight_decay: float = DEFAULT.weight_decay
    schedule: str = DEFAULT.schedule
    accumulate: int = DEFAULT.accumulate
    seeds: Sequence[int] = (0,)
    split: str | None = None
    calibration: float = 0.8
    test_repetition: int | None = None
    norm: str | Mapping[str, str] | None = None
    holdout: float = 0.0
    best: str = "loss"
    patience: int = 0
    replay: int = DEFAULT.replay
    pretrain_epochs: int = 40
    pretrain_every: int = 1
    clip_norm: float = DEFAULT.clip_norm
    repeats: int = DEFAULT.repeats
    pretrain_steps: int = 0
    pretrain_plateau: int = 0
    batch: int = DEFAULT.batch
    artefacts: float = DEFAULT.artefacts
    recipe: str = DEFAULT.name

    @classmethod
    def by(cls, recipe: Any, **named: Any) -> "AdaptSettings":
        """The settings of a recipe (`biotrain.recipe.recipe_of` says how it may be given), and
        single fields by name in place of its own."""
        found = recipe_of(recipe)
        return cls(**{**calibration(found, "adapt"), "recipe": found.name, **named})

    @property
    def pretraining(self) -> PretrainSettings:
        """How the network is pretrained."""
        return PretrainSettings(
            epochs=self.pretrain_epochs,
            steps=self.pretrain_steps,
            plateau=self.pretrain_plateau,
        )

    def norm_of(self, strategy: str) -> str | None:
        """The norm that was asked for `strategy`; None where it was left open."""
        return self.norm.get(strategy) if isinstance(self.norm, Mapping) else self.norm

    def check(self, strategies: Sequence[str]) -> None:
        """Raise BioTrainError for settings that make no sense with these strategies."""
        norms = self.norm.values() if isinstance(self.norm, Mapping) else (self.norm,)
        for norm in norms:
            if norm is not None and norm not in NORMS:
                raise BioTrainError(f"norm is one of {', '.join(NORMS)}, not {norm}")
        if (
            min(self.epochs, self.pretrain_epochs) < 0
            or min(self.accumulate, self.pretrain_every) < 1
        ):
            raise BioTrainError(
                "epochs must not be negative; accumulate and pretrain_every be above 0"
            )
        share = 0 <= self.holdout < 1
        if not share or self.best not in CRITERIA or min(self.patience, self.replay) < 0:
            raise BioTrainError(
                'holdout is a share from 0 to below 1, best is "loss" or "accuracy"; patience and '
                "replay must not be negative"
            )
        if self.patience and not self.holdout:
            raise BioTrainError(
                "patience needs a holdout: the epochs are compared on what is held back"
            )
        if not strategies or not self.seeds:
            raise BioTrainError("nothing to do: name at least one strategy and one seed")
        check_seeds(self.seeds)
        self.pretraining.check()
        for name in strategies:
            self.strategy(name).recipe.check()
        unknown = sorted(set(self.lr_per_strategy) - set(strategies))
        if unknown:
            raise BioTrainError(
                f"a learning rate for {', '.join(unknown)}, but no such strategy is asked for"
            )

    def strategy(self, name: str) -> Strategy:
        """The strategy `name`, which is its rule too, with its norm and its learning rate."""
        chosen = settled(name, self.norm_of(name), self.lr_per_strategy.get(name, self.lr))
        recipe = CalibrationSettings(
            epochs=self.epochs,
            lr=PUBLISHED_LR if chosen.lr is None else chosen.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            accumulate=self.accumulate,
            batch=self.batch,
            holdout=self.holdout,
            best=self.best,
            patience=self.patience,
            replay=self.replay,
            norm=chosen.norm or "group",
            target=self.target,
            memory=self.memory,
            on=self.on,
            clip_norm=self.clip_norm,
            repeats=self.repeats,
            artefacts=self.artefacts,
        )
        return Strategy(name, name, recipe)


@dataclass(frozen=True)
class AdaptRecord:
    """Everything that was chosen in a call of `adapt`, to repeat it; in the order of its JSON.

    lr, norm: by strategy. windows: (calibration, test) by subject. subject_names: how each is
    called in the files. own_people: accuracy of the pretrained networks on the people they were
    pretrained on, by strategy. notes: what a reader of the results should know.
    """

    dataset: str
    synthetic: bool
    fs: float
    model: str
    scenario: str
    subjects: list[int]
    strategies: list[str]
    target: str
    memory: int | str | None
    on: str
    epochs: int
    lr: dict[str, float]
    momentum: float
    weight_decay: float
    schedule: str
    accumulate: int
    seeds: list[int]
    split: str
    calibration: float
    test_repetition: int | None
    norm: dict[str, str]
    holdout: float
    best: str
    patience: int
    replay: int
    pretrain_epochs: int
    pretrain_every: int
    windows: dict[str, list[int]]
    subject_names: dict[str, str]
    notes: list[str]
    clip_norm: float = 0.0
    repeats: int = 0
    batch: int = 1
    artefacts: float = 0.0
    recipe: str = ""
    pretrain_steps: int = 0
    pretrain_plateau: int = 0
    own_people: dict[str, float] = field(default_factory=dict)

    def name_of(self, subject: int) -> str:
        """How a subject is called."""
        return self.subject_names.get(str(subject), str(subject))

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as plain values."""
        return asdict(self)
