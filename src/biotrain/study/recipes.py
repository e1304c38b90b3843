# SPDX-License-Identifier: Apache-2.0
"""What a calibration does where nobody says otherwise: the settings that did best on people who
played the new one (`benchmarks/recipes.py`, `benchmarks/never_worse.py`, docs/study.md), each rule
with its own.

Without a bound of its steps, full fine-tuning at the published 5e-3 (arXiv 2604.13359) is too fast
with GroupNorm and with frozen statistics; bounded by a norm of 1 it bears more. Most is gained by
windows that are aligned session by session, BatchNorm's statistics re-estimated from the wearer's
windows and then frozen, and everything trained on top: the network starts where the wearer's
signals are, and needs neither a batch nor a norm's backward pass.
"""

from typing import Any

from biotrain.errors import BioTrainError
from biotrain.recipe import BEST, Chosen, Recipe
from biotrain.study.rules import NORMS, REFERENCE, Rule

UNLABELLED = "align+adabn"
"""The rule that helps most before the first label."""

ADAPTS = "align+adabn+full"
"""The rule that a device should calibrate by."""

COMPARED = ("none", UNLABELLED, "last", "full", ADAPTS, REFERENCE)
"""The strategies of a comparison, in the order of its table."""


def settled(rule: str, norm: str | None = None, lr: float | None = None) -> Chosen:
    """The `norm` and `lr` that a person named, completed by what does best for `rule`; the best
    rate counts with its own norm only."""
    best = BEST.get(rule, Chosen("frozen" if Rule.parse(rule).freezes_statistics else None))
    found = norm if norm is not None else best.norm
    if lr is None and (found is None or found in NORMS):
        own = NORMS[best.norm or "group"].norm
        lr = best.lr if found is None or NORMS[found].norm == own else None
    return Chosen(found, lr)


CALIBRATES = (
    *("epochs", "momentum", "weight_decay", "schedule", "accumulate", "batch", "replay"),
    *("clip_norm", "repeats", "artefacts", "lr", "norm"),
)
"""Fields that a recipe shares with the settings of a calibration."""


def calibration(recipe: Recipe, verb: str) -> dict[str, Any]:
    """The settings of a calibration that a recipe names; `lr` and `norm` only where it does not
    leave them to the rule. BioTrainError where `verb`, which trains by SGD, cannot follow it."""
    if recipe.optimizer != "sgd":
        raise BioTrainError(
            f"{verb} trains by SGD, recipe '{recipe.name}' by {recipe.optimizer}: bt.compile and "
            "DeviceClassifier can do that"
        )
    found = {name: getattr(recipe, name) for name in CALIBRATES}
    return {name: value for name, value in found.items() if value is not None}
