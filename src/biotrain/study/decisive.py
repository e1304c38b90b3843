# SPDX-License-Identifier: Apache-2.0
"""Which settings of a calibration decide its result: what the key of a cell is made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from biotrain.study.rules import Rule
from biotrain.study.settings import CalibrationSettings

TRAINING_ONLY = (
    *("epochs", "lr", "momentum", "weight_decay", "schedule", "accumulate", "batch"),
    *("clip_norm", "repeats"),
)
"""Settings that decide nothing where nothing trains."""

HOLDOUT_ONLY = ("holdout", "best", "patience")
"""Settings that decide nothing while no windows are held back. They are then left out of a key, so
that a cell without them has the key that it had before they were there."""

ANYWHERE = ("artefacts",)
"""Settings that came later and decide under any rule: left out of a key where they are off."""

NEWER = ("clip_norm", "repeats")
"""Settings that came later: left out of a key where they are off, or where no C learns labels."""


def decisive(recipe: CalibrationSettings, rule: Rule) -> dict[str, Any]:
    """The settings that decide the result of a calibration by `rule`, by name."""
    off: tuple[str, ...] = ("replay",)  # the windows themselves are hashed
    if not recipe.holdout or not rule.learns_labels:
        off += HOLDOUT_ONLY
    if not (recipe.adabn_every and rule.adabn):
        off += ("adabn_every",)
    if rule.trains == "none":
        off += TRAINING_ONLY
    in_c = rule.learns_labels and not rule.in_torch
    off += tuple(name for name in NEWER if not (in_c and getattr(recipe, name)))
    changes = bool(rule.transform) or rule.trains != "none"
    off += tuple(name for name in ANYWHERE if not (changes and getattr(recipe, name)))
    return {name: value for name, value in asdict(recipe).items() if name not in off}
