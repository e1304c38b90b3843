# SPDX-License-Identifier: Apache-2.0
"""What a calibration does where nobody says otherwise: the settings that did best on people who
played the new one (`benchmarks/recipes.py`, docs/study.md), each rule with its own.

Full fine-tuning at the published 5e-3 (arXiv 2604.13359) is too fast with GroupNorm and with kept
statistics, the last layer alone bears ten times as much. Most is gained by windows that are
aligned session by session, BatchNorm's statistics taken again from the wearer's windows and then
kept, and everything trained on top: the network starts where the wearer's signals are, and needs
neither a batch nor a norm's backward pass.
"""

from collections.abc import Mapping
from typing import Any

from biotrain.study.calibrate import NORMS, REFERENCE, Rule

UNLABELLED = "align+adabn"
"""What helps most before the first label."""

ADAPTS = "align+adabn+full"
"""The rule that a device should calibrate by."""

COMPARED = ("none", UNLABELLED, "last", "full", ADAPTS, REFERENCE)
"""What a comparison holds, in the order of its table."""

BEST: Mapping[str, Mapping[str, Any]] = {
    "last": {"norm": "group", "lr": 5e-2},
    "norm": {"norm": "group", "lr": 2e-2},
    "full": {"norm": "group", "lr": 2e-3},
    "align+full": {"norm": "group", "lr": 2e-3},
    "adabn+full": {"norm": "frozen", "lr": 1e-3},
    "align+adabn+full": {"norm": "frozen", "lr": 2e-3},
}
"""Rule -> norm and learning rate."""


def settled(rule: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """`asked`, completed by what does best for `rule`; its rate counts with its norm only.

    asked: what was named of `norm`, `lr` and other settings, by a person.
    """
    parts = Rule.of(rule)
    keeps = parts.adabn and parts.trains != "adabn"
    best = dict(BEST.get(rule, {"norm": "frozen"} if keeps else {}))
    norm = asked.get("norm", best.get("norm"))
    if norm is not None and NORMS.get(norm, ("",) * 3)[1] != NORMS[best.get("norm", "group")][1]:
        best.pop("lr", None)
    return {**best, **{k: v for k, v in asked.items() if v is not None}}
