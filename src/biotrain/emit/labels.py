# SPDX-License-Identifier: Apache-2.0
"""The lines that take the target of a window, and refuse one whose classes are not there."""

from __future__ import annotations

from collections.abc import Sequence

from biotrain.emit.source import Source
from biotrain.ir.graph import Value

REFUSE = ("m->rejected++;", "return BT_ERR_LABEL;")
"""What happens to a window with a number that is no class."""


def wrong_label(source: Source, name: str) -> str:
    """A C condition: the integer `name` is no class."""
    (part,) = source.labels
    text = f"{name} < 0 || {name} >= {part.classes}"
    return text if part.ignore is None else f"({text}) && {name} != {part.ignore}"


def check_labels(source: Source, name: str, refuse: Sequence[str], indent: str) -> list[str]:
    """Lines that go through the classes of the target `name`, which is a vector of floats.

    `refuse`: statements for a window that has a number that is no class.
    """
    lines: list[str] = []
    for part in source.labels:
        at = f"{name}[{part.start} + i]" if part.start else f"{name}[i]"
        ignored = "" if part.ignore is None else f" || {at} == {part.ignore}.0f"
        fits = f"({at} >= 0.0f && {at} < {part.classes}.0f){ignored}"
        lines += [
            f"{indent}for (int i = 0; i < {part.count}; i++)",
            f"{indent}  if (!({fits})) {{",
            *(f"{indent}    {line}" for line in refuse),
            f"{indent}  }}",
        ]
    return lines


def take_target(source: Source, target: Value, take: Sequence[str]) -> list[str]:
    """Lines that look at the target of a window, bring the window in by the lines `take`, and copy
    a target of floats (`target_in`) into the arena."""
    if target.dtype == "i32":
        refuse = (f"    {line}" for line in REFUSE)
        return [f"  if ({wrong_label(source, target.name)}) {{", *refuse, "  }", *take]
    copied = f"  memcpy({target.name}, target_in, {target.size} * sizeof *{target.name});"
    return [*check_labels(source, "target_in", REFUSE, "  "), *take, copied]
