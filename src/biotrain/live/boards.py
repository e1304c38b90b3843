# SPDX-License-Identifier: Apache-2.0
"""Boards of BrainFlow: their names and scales, and what its library needs to load."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from biotrain.errors import BioTrainError

BOARD_UV = {
    "CYTON": 4.5 / 24 / (2**23 - 1) * 1e6,
    "CYTON_DAISY": 4.5 / 24 / (2**23 - 1) * 1e6,
    "GANGLION": 1.2 / 1.5 / 51 / (2**23 - 1) * 1e6,
}
"""Microvolts per converter step of boards (OpenBCI's documentation of Cyton and Ganglion)."""

STEP_UV = 0.1
"""The same of any other board, whose values BrainFlow gives in microvolts."""


@contextmanager
def pkg_resources_there() -> Iterator[None]:
    """BrainFlow loads its library through pkg_resources, which setuptools 82 took away: while it
    does, a module with the one function that it calls."""
    if "pkg_resources" in sys.modules or find_spec("pkg_resources") is not None:
        yield
        return
    stand_in = types.ModuleType("pkg_resources")

    def resource_filename(module: str, name: str) -> str:
        return str(Path(str(sys.modules[module].__file__)).parent / name)

    stand_in.resource_filename = resource_filename  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = stand_in
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]


DEVICES = Path("/dev")
"""Where serial ports are."""


def board_of(board: int | str, known: dict[str, int]) -> tuple[str, int]:
    """Name without its "_BOARD", and number; BioTrainError names what is near."""
    short = {name.removesuffix("_BOARD"): number for name, number in known.items()}
    text = str(board).strip()
    if text.lstrip("-").isdigit():
        number = int(text)
        return next((name for name, n in short.items() if n == number), text), number
    name = text.upper().replace("-", "_").removesuffix("_BOARD")
    if name not in short:
        near = ", ".join(get_close_matches(name, short, 3, 0.4)).lower() or "synthetic, cyton"
        raise BioTrainError(f"BrainFlow has no board '{board}'; there are {near} and others")
    return name, short[name]
