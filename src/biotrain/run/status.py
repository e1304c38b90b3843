# SPDX-License-Identifier: Apache-2.0
"""The statuses of the C by number, read from bt_status.h, which alone defines them."""

from __future__ import annotations

import re
from functools import lru_cache

from biotrain.emit import RUNTIME


@lru_cache
def _statuses() -> tuple[tuple[str, str], ...]:
    header = (RUNTIME / "bt_status.h").read_text(encoding="utf-8")
    names = re.findall(r"^  (BT_(?:OK|MORE|ERR_\w+))", header, re.MULTILINE)
    texts = dict(re.findall(r'case (BT_\w+): return "([^"]+)"', header))
    return tuple((name, texts[name]) for name in names)


def status_text(status: int) -> str:
    """One line for a person: what `bt_status_text` returns."""
    known = _statuses()
    return known[status][1] if 0 <= status < len(known) else "unknown status"


_DIVERGED = (
    "BT_ERR_LOSS_NONFINITE",
    "BT_ERR_GRADIENT_NONFINITE",
    "BT_ERR_GRADIENT_SKIPPED",
    "BT_ERR_WEIGHT_NONFINITE",
    "BT_ERR_OUTPUT_NONFINITE",
)
_ADVICE = "if training diverged: back with reset() or load_state(), then a lower learning rate"


def refusal(status: int, text: str | None = None) -> str:
    """The line of an error: `text` or the status's own, and what to do, where that is known."""
    line = status_text(status) if text is None else text
    known = 0 <= status < len(_statuses()) and _statuses()[status][0] in _DIVERGED
    return f"{line}; {_ADVICE}" if known else line


def status_number(name: str) -> int:
    """The number of a status by its name in C."""
    return [known for known, _ in _statuses()].index(name)


def status_name(status: int) -> str:
    """The name in C of a status."""
    return _statuses()[status][0]
