# SPDX-License-Identifier: Apache-2.0
"""What a topology rewrite did to a module: a list of rewrites that prints as a table."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

ATTRIBUTE = "_biotrain_report"
"""Where `prepare` leaves the report on the module."""


@dataclass(frozen=True)
class Rewrite:
    """One layer that was changed, or, with `before == after`, left alone for a reason.

    `path` is the layer's name in the module (`""` is the module itself); a layer that is reachable
    under several names is listed once. `bytes_saved` is per training sample, float32 or whatever
    dtype the example had; None without an example input, or where nothing changed.
    """

    path: str
    before: str
    after: str
    effect: str
    bytes_saved: int | None = None
    lost: str = ""

    @property
    def changed(self) -> bool:
        """False for a layer that was left as it is; `effect` then says why."""
        return self.before != self.after


@dataclass(frozen=True)
class Report:
    """What `prepare` did to a module, layer by layer. `str(report)` is a plain-text table."""

    rewrites: tuple[Rewrite, ...] = ()

    def __iter__(self) -> Iterator[Rewrite]:
        return iter(self.rewrites)

    def __len__(self) -> int:
        return len(self.rewrites)

    @property
    def bytes_saved(self) -> int | None:
        """Sum over the rewrites, per training sample; None if no rewrite was measured."""
        known = [r.bytes_saved for r in self.rewrites if r.bytes_saved is not None]
        return sum(known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """`rewrites[] {path, before, after, effect, bytes_saved, lost, changed}`, `bytes_saved`."""
        return {
            "rewrites": [asdict(r) | {"changed": r.changed} for r in self.rewrites],
            "bytes_saved": self.bytes_saved,
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        if not self.rewrites:
            return "no rewrites"
        notes: dict[str, int] = {}
        rows = [("layer", "before", "after", "bytes saved", "notes")]
        for r in self.rewrites:
            texts = [r.effect] + ([f"lost: {r.lost}"] if r.lost else [])
            numbers = [notes.setdefault(text, len(notes) + 1) for text in texts]
            saved = "-" if r.bytes_saved is None else str(r.bytes_saved)
            after = r.after if r.changed else "as is"
            rows.append((r.path or ".", r.before, after, saved, ", ".join(map(str, numbers))))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        aligned = [
            [row[i].rjust(widths[i]) if i == 3 else row[i].ljust(widths[i]) for i in range(5)]
            for row in rows
        ]
        lines = ["  ".join(row).rstrip() for row in aligned]
        lines.insert(1, "  ".join("-" * width for width in widths))
        lines += [f"[{number}] {text}" for text, number in notes.items()]
        if self.bytes_saved is not None:
            lines.append(f"saved per training sample: {self.bytes_saved} bytes")
        return "\n".join(lines)


def left_alone(path: str, layer: str, why: str) -> Rewrite:
    """The line for a layer that stays, and why."""
    return Rewrite(path, layer, layer, f"left as it is: {why}")


def report(module: nn.Module) -> Report:
    """What `prepare` did to `module`; an empty report if it never saw it."""
    found = getattr(module, ATTRIBUTE, None)
    return found if isinstance(found, Report) else Report()
