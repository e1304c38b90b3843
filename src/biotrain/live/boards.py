# SPDX-License-Identifier: Apache-2.0
"""Boards of BrainFlow: names, scales, what its library needs to load, and their samples."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biotrain.errors import BioTrainError
from biotrain.live.feeds import CHUNK_S, WAIT_S, Chunk, Ints, divided, steps_of
from biotrain.live.gaps import counter_gaps

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


class BrainFlow:
    """A board of BrainFlow (extra `brainflow`), by its name ("synthetic", "cyton") or number.

    Labels come from markers: k from 1 on begins class k - 1, any other ends it. Lost packages are
    found by the board's counter.
    """

    seconds: float | None = None

    def __init__(
        self,
        board: int | str,
        scale: float | None,
        classes: int,
        *,
        kind: str = "eeg",
        channels: int | None = None,
        wait_s: float = WAIT_S,
        **parameters: str,
    ) -> None:
        """`scale`: units per converter step; None: the board's own. `kind`: eeg, emg, eog or ecg
        channels, the first `channels` of them; `parameters`: of BrainFlowInputParams, such as
        serial_port."""
        try:
            from brainflow.board_shim import BoardIds, BoardShim, BrainFlowInputParams
            from brainflow.exit_codes import BrainFlowError
        except ImportError as error:
            raise BioTrainError(
                "a board needs brainflow: pip install 'biotrain[brainflow]'"
            ) from error
        given = BrainFlowInputParams()
        for key, value in parameters.items():
            if not hasattr(given, key):
                raise BioTrainError(f"BrainFlow has no parameter '{key}'")
            setattr(given, key, value)
        name, number = board_of(board, {one.name: int(one.value) for one in BoardIds})
        try:
            with pkg_resources_there():
                BoardShim.disable_board_logger()
                described = BoardShim.get_board_descr(number)
            if not described.get(f"{kind}_channels"):
                kinds = ", ".join(
                    key.removesuffix("_channels")
                    for key in described
                    if key in ("eeg_channels", "emg_channels", "eog_channels", "ecg_channels")
                )
                raise BioTrainError(
                    f"the board {board} of BrainFlow has no {kind} channels; it has: {kinds}"
                )
            self._board = BoardShim(number, given)
            self._board.prepare_session()
            self._board.start_stream()
        except BrainFlowError as error:
            ports = ", ".join(str(p) for g in ("ttyUSB*", "ttyACM*") for p in DEVICES.glob(g))
            raise BioTrainError(
                f"BrainFlow cannot start board {board}: {error}; serial ports: {ports or 'none'}"
            ) from error
        self._rows = list(described[f"{kind}_channels"])[:channels]
        self._marks = int(described["marker_channel"])
        self._counter: int | None = described.get("package_num_channel")
        self._stamps: int | None = described.get("timestamp_channel")
        self.name = f"BrainFlow {described['name']}"
        self.fs, self.n_chans = float(described["sampling_rate"]), len(self._rows)
        self.scale = BOARD_UV.get(name, STEP_UV) if scale is None else scale
        self.classes, self._label, self._wait_s = classes, -1, wait_s

    def chunks(self) -> Iterator[Chunk]:
        """The samples from now on, until the loop ends; then the board is released. Samples from
        before, while the network was compiled, are left out."""
        last_sample_at = time.monotonic()
        self._board.get_board_data()
        last: float | None = None
        try:
            while True:
                time.sleep(CHUNK_S)
                data = self._board.get_board_data()
                if not data.shape[1]:
                    if time.monotonic() - last_sample_at > self._wait_s:
                        raise BioTrainError(f"{self.name}: no sample for {self._wait_s:g} s")
                    continue
                last_sample_at = time.monotonic()
                x = steps_of(data[self._rows], self.scale)
                age_s = 0.0
                if self._stamps is not None:
                    age_s = max(0.0, time.time() - float(data[self._stamps][-1]))
                gaps: list[tuple[int, int]] = []
                if self._counter is not None:
                    gaps = counter_gaps(data[self._counter], last)
                    last = float(data[self._counter][-1])
                chunk = Chunk(x, self._labels(data[self._marks]), age_s=age_s)
                yield from divided(chunk, gaps)
        finally:
            if self._board.is_prepared():
                self._board.release_session()

    def _labels(self, marks: npt.NDArray[Any]) -> Ints:
        labels = np.empty(len(marks), np.int64)
        for i, mark in enumerate(marks):
            if mark:
                k = int(mark) - 1
                self._label = k if 0 <= k < self.classes else -1
            labels[i] = self._label
        return labels
