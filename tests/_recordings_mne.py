# SPDX-License-Identifier: Apache-2.0
"""As much of MNE as the readers use."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest


class FakeRaw:
    """As much of mne.io.Raw as the reader uses: 2 channels, 10 s at 100 Hz, two annotations."""

    first_samp = 0
    ch_names = ("C3", "C4")

    def __init__(self) -> None:
        self.info = {"sfreq": 100.0}
        marks = [(1.0, 4.0, "left"), (6.0, 2.5, "right"), (9.5, 2.0, "left")]
        marks.append((8.6, 0.3, "BAD move"))
        rows = [dict(zip(("onset", "duration", "description"), m, strict=True)) for m in marks]
        self.annotations = type("Marks", (list,), {"orig_time": None})(rows)

    def get_channel_types(self) -> list[str]:
        return ["eeg", "eeg"]

    def get_data(self, picks: list[int]) -> np.ndarray:
        assert picks == [0, 1]
        return np.stack([np.arange(1000.0), -np.arange(1000.0)]) * 1e-6


def fake_mne(monkeypatch: pytest.MonkeyPatch, raise_on: str = "") -> None:
    def read_raw(path: Path, **options: object) -> FakeRaw:
        if raise_on and raise_on in path.name:
            raise RuntimeError("Bad EDF file\nmore")
        return FakeRaw()

    module = types.ModuleType("mne")
    module.io = types.SimpleNamespace(read_raw=read_raw)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mne", module)
