# SPDX-License-Identifier: Apache-2.0
"""Results: one row per subject, session, seed and strategy, with the keys that others rely on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from biotrain.study.metrics import unpacked
from biotrain.study.typed import typed


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """What one calibration gave.

    norm: that the network trained with. chance: accuracy of a guess. Accuracies are fractions.
    ram_bytes, ops (per window), crc32 (of the weights): None where nothing was compiled. steps: of
    the optimizer.
    """

    dataset: str
    scenario: str
    model: str
    norm: str
    strategy: str
    subject: int
    session: int
    seed: int
    accuracy: float
    balanced_accuracy: float
    chance: float
    ram_bytes: int | None
    ops: int | None
    steps: int
    crc32: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of the contract in their order."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """The row that `to_json` gave; fields that an earlier version did not write have their
        defaults, and keys that are unknown are left out. ValueError names a field that no row can
        have."""
        row = typed(cls, found)
        for name in ("accuracy", "balanced_accuracy", "chance"):
            if not 0 <= getattr(row, name) <= 1:
                raise ValueError(f"{name} is no fraction")
        return row


@dataclass(frozen=True)
class EarlierSession:
    """Accuracy on the test part of an earlier session, after this one."""

    session: int
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class StudyRow(ResultRow):
    """What one cell of a study gave: a line of results.jsonl.

    key: the cell's. ms_per_sample, mj_per_sample: estimates for the target, None where it has none.
    windows_per_class: of a calibration-size curve, None for all. windows: (calibration, test).
    replayed: windows of the sample store. kept: epoch whose weights were tested (None: the last).
    before: accuracy of the weights that the session started from. curve: accuracy on the test part
    before the first epoch and after each. confusion: counts [true class][predicted class].
    others: accuracy on windows of other subjects afterwards; None where none were tested.
    own_people: accuracy of the pretrained network on the same windows, before. hits: which windows
    of the test part are right (`metrics.packed`); empty in rows of earlier versions.
    """

    key: str = ""
    ms_per_sample: float | None = None
    mj_per_sample: float | None = None
    windows_per_class: int | None = None
    windows: tuple[int, ...] = ()
    replayed: int = 0
    kept: int | None = None
    before: float | None = None
    curve: tuple[float, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    others: float | None = None
    earlier: tuple[EarlierSession, ...] = ()
    notes: tuple[str, ...] = ()
    own_people: float | None = None
    hits: str = ""

    def to_json(self) -> dict[str, Any]:
        """The line of results.jsonl: its key first, sequences as lists."""
        own = asdict(self)
        lists = {name: _lists(value) for name, value in own.items()}
        return {"key": lists.pop("key"), **lists}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """The row of a line of results.jsonl, as `ResultRow.from_json`; it has a key."""
        row = super().from_json(found)
        if not row.key:
            raise ValueError("key is missing")
        if any(len(counts) != len(row.confusion) for counts in row.confusion):
            raise ValueError("confusion is no square of counts")
        if row.hits:
            unpacked(row.hits, sum(map(sum, row.confusion)))
        return row


def _lists(value: Any) -> Any:
    return [_lists(one) for one in value] if isinstance(value, tuple | list) else value
