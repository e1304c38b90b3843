# SPDX-License-Identifier: Apache-2.0
"""TOML that a person wrote: read with bounds, so that whatever is in the file, it is a table or one
line about it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from biotrain.errors import BioTrainError

MOST_BYTES = 2**20
"""Bytes of a file that are read; settings are a few hundred."""

MOST_LEVELS = 12
"""Levels of tables and lists; settings have three."""


def load_toml(path: str | Path) -> dict[str, Any]:
    """The table in a TOML file, with or without a byte order mark.

    Raises
    ------
    BioTrainError
        where the file cannot be read, is too long, is no TOML, or nests beyond `MOST_LEVELS`.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise BioTrainError(f"cannot read '{path}': {why}") from error
    if len(data) > MOST_BYTES:
        raise BioTrainError(f"{path}: not TOML: it is longer than {MOST_BYTES:,} bytes")
    try:
        table = tomllib.loads(data.decode("utf-8-sig"))
    except RecursionError as error:
        raise BioTrainError(f"{path}: not TOML: it nests too deeply") from error
    except ValueError as error:  # a number of more digits than Python takes is one too
        raise BioTrainError(f"{path}: not TOML: {str(error).partition(';')[0]}") from error
    if too_deep(table):
        raise BioTrainError(f"{path}: it nests deeper than {MOST_LEVELS} levels")
    return table


def too_deep(root: Any) -> bool:
    """Whether a value of TOML or JSON nests deeper than `MOST_LEVELS`, found without recursion."""
    level = [root]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return True
