# SPDX-License-Identifier: Apache-2.0
"""The lines that refuse a window whose classes are not there."""

from __future__ import annotations

from collections.abc import Sequence

from biotrain.emit.source import Source


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
