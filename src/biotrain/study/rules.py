# SPDX-License-Identifier: Apache-2.0
"""Rules: what a strategy does with the windows of a calibration, read from its name."""

from collections.abc import Mapping
from dataclasses import dataclass

from biotrain.study.labelfree import TRANSFORMS

REFERENCE = "full-bn8 (torch)"
"""Conventional full fine-tuning: BatchNorm, batches of 8, in torch."""

IN_TORCH = (REFERENCE, "adabn", "entropy")
"""What runs in torch; `adabn` only where the compiler does not take the network."""


@dataclass(frozen=True)
class NormPath:
    """The norm of a network while it is pretrained, and what `bt.prepare` makes of it afterwards:
    its norm, and what becomes of max pooling ("keep" or "avg")."""

    pretrained: str
    norm: str
    pool: str


NORMS: Mapping[str, NormPath] = {
    "group": NormPath("group", "group", "keep"),
    "convert": NormPath("batch", "group", "avg"),
    "frozen": NormPath("batch", "frozen", "keep"),
    "batch": NormPath("batch", "batch", "keep"),
}
"""What the setting `norm` of a calibration stands for."""


@dataclass(frozen=True)
class Rule:
    """What a strategy does: a transform of the windows ("" for none), whether BatchNorm's running
    statistics are re-estimated from the calibration windows first, and what then trains ("adabn":
    the statistics are re-estimated, and nothing trains)."""

    transform: str
    trains: str
    adabn: bool = False

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """ "align" is Rule("align", "none"); "align+full" is Rule("align", "full"); "adabn+full"
        is Rule("", "full", True), "adabn" Rule("", "adabn", True)."""
        first, plus, rest = text.partition("+")
        if first in TRANSFORMS:
            inner = cls.parse(rest if plus else "none")
            return cls(first, inner.trains, inner.adabn)
        if first == "adabn":
            return cls("", rest or first, True)
        return cls("", text)

    @property
    def in_torch(self) -> bool:
        """Whether it runs in torch, not in the generated C."""
        return self.trains in IN_TORCH and self.trains != "adabn"

    @property
    def learns_labels(self) -> bool:
        """Whether it trains on labels: only then is there something to hold back or to replay."""
        return self.trains not in ("none", "adabn", "entropy")

    @property
    def trains_in_epochs(self) -> bool:
        """Whether it passes over the windows epoch by epoch, with labels or without."""
        return self.trains not in ("none", "adabn")

    @property
    def freezes_statistics(self) -> bool:
        """Whether something trains on top of re-estimated statistics, which then stay fixed."""
        return self.adabn and self.trains != "adabn"

    def trained_norm(self, norm: str) -> str:
        """The norm that a result names: BatchNorm where the rule needs it."""
        return "batch" if self.trains in (REFERENCE, "adabn") else norm

    def pretrained_norm(self, norm: str) -> str:
        """The norm of the network that it starts from, for a `norm` of NORMS."""
        return NORMS[self.trained_norm(norm)].pretrained
