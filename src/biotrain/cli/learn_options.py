# SPDX-License-Identifier: Apache-2.0
"""The options that `adapt` and `study` share: what is compared, and how it calibrates."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from biotrain.cli.options import RecipeName, names, option
from biotrain.errors import BioTrainError

CALIBRATION, LEARNING = "Calibration", "Pretraining and comparison"
"""Panels of the help."""


@dataclass(frozen=True)
class LearnOptions:
    """What is compared and how it calibrates; what is not given is left to `adapt` or the study."""

    recipe: RecipeName = None
    strategies: Annotated[
        str | None,
        option(
            "--strategies",
            "none, last, bias, norm, full, globs; full-bn8 is BatchNorm at batch 8 in torch; "
            "align, standardise, adabn, entropy take no labels; align+full, adabn+full.",
            LEARNING,
            metavar="S,S",
        ),
    ] = None
    seeds: Annotated[
        str | None,
        option("--seeds", "Of weights and order: 0 or 0,1,2.", LEARNING, metavar="S,S"),
    ] = None
    pretrain_epochs: Annotated[
        int | None, option("--pretrain-epochs", "On the other subjects; 40.", LEARNING)
    ] = None
    pretrain_every: Annotated[
        int | None,
        option("--pretrain-every", "Pretrain on every N-th window only.", LEARNING),
    ] = None
    pretrain_steps: Annotated[
        int | None, option("--pretrain-steps", "Optimizer steps at least; 0: by epochs.", LEARNING)
    ] = None
    pretrain_plateau: Annotated[
        int | None,
        option(
            "--pretrain-plateau",
            "Hold source people out, and go on until N epochs gain nothing on them; 0: no.",
            LEARNING,
            metavar="N",
        ),
    ] = None
    norm: Annotated[
        Literal["group", "convert", "frozen", "batch"] | None,
        option(
            "--norm",
            "group (default; frozen for adabn+...); convert: pretrain with BatchNorm, calibrate "
            "with GroupNorm; batch or frozen BatchNorm.",
            LEARNING,
        ),
    ] = None
    epochs: Annotated[int | None, option("--epochs", "Of each calibration; 30.", CALIBRATION)] = (
        None
    )
    lr: Annotated[float | None, option("--lr", "Learning rate; by strategy.", CALIBRATION)] = None
    lr_for: Annotated[
        list[str] | None,
        option("--lr-for", "Another one for a strategy.", CALIBRATION, metavar="STRATEGY=LR"),
    ] = None
    momentum: Annotated[float | None, option("--momentum", "0.9.", CALIBRATION)] = None
    weight_decay: Annotated[float | None, option("--weight-decay", "1e-3.", CALIBRATION)] = None
    schedule: Annotated[
        Literal["constant", "cosine"] | None,
        option("--schedule", "Of the learning rate; cosine.", CALIBRATION),
    ] = None
    accumulate: Annotated[
        int | None,
        option("--accumulate", "Samples whose mean gradient makes a step; 8.", CALIBRATION),
    ] = None
    clip_norm: Annotated[
        float | None,
        option(
            "--clip-norm", "Most of the gradient's norm in a step; 1, 0: no bound.", CALIBRATION
        ),
    ] = None
    repeats: Annotated[
        int | None,
        option(
            "--repeats",
            "Times that a calibration which made things worse is repeated, each at a quarter of "
            "the rate, before the weights stay as they were; 2.",
            CALIBRATION,
        ),
    ] = None
    artefacts: Annotated[
        float | None,
        option(
            "--artefacts",
            "Leave windows out whose power in a channel is so many robust z-scores off; 0: none.",
            CALIBRATION,
            metavar="Z",
        ),
    ] = None
    holdout: Annotated[
        float | None,
        option(
            "--holdout",
            "Share of the calibration that is held back; the epoch best on it is kept.",
            CALIBRATION,
        ),
    ] = None
    best: Annotated[
        Literal["loss", "accuracy"] | None,
        option("--best", "By what; loss.", CALIBRATION),
    ] = None
    patience: Annotated[
        int | None,
        option("--patience", "Stop after so many epochs without a better one.", CALIBRATION),
    ] = None
    replay: Annotated[
        int | None,
        option(
            "--replay",
            "Windows of other subjects and earlier sessions that every epoch sees too.",
            CALIBRATION,
        ),
    ] = None
    target: Annotated[
        str | None, option("--target", "What the C is planned for; host.", CALIBRATION)
    ] = None
    memory: Annotated[
        str | None, option("--memory", "Whole RAM to stay within: 256KiB.", CALIBRATION)
    ] = None
    on: Annotated[
        str | None,
        option(
            "--on",
            "Where the C runs: host, or the target's emulator, qemu, rtl.",
            CALIBRATION,
            metavar="PLACE",
        ),
    ] = None

    @property
    def calibration(self) -> dict[str, Any]:
        """What was given of a calibration, by the names that `adapt` and a study's `[calibrate]`
        share."""
        found = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in NOT_OF_A_CALIBRATION
        }
        return {key: value for key, value in found.items() if value is not None}

    @property
    def pretraining(self) -> dict[str, Any]:
        """What was given of the pretraining, by the names that `adapt` takes."""
        found = {key: getattr(self, key) for key in PRETRAINING}
        return {key: value for key, value in found.items() if value is not None}

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates by the strategy's name, as it was given."""
        found: dict[str, float] = {}
        for text in self.lr_for or ():
            name, _, value = text.partition("=")
            try:
                found[names(name)[0]] = float(value)
            except (ValueError, IndexError):
                message = f"--lr-for takes STRATEGY=LR (last=0.02), not '{text}'"
                raise BioTrainError(message) from None
        return found


PRETRAINING = ("pretrain_epochs", "pretrain_every", "pretrain_steps", "pretrain_plateau")
"""Fields of LearnOptions on the pretraining."""

NOT_OF_A_CALIBRATION = (
    *("recipe", "strategies", "seeds", "lr_for"),
    *PRETRAINING,
)
"""Fields of LearnOptions that name what is compared, not how it calibrates."""
