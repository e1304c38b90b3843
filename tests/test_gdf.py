# SPDX-License-Identifier: Apache-2.0
"""GDF by its bytes: against MNE, its units, and what is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from _formats import Example, gdf

from biotrain.study import RecordingError, load
from biotrain.study.data.raw import CutRequest
from biotrain.study.data.readers import table
from biotrain.study.data.readers.gdf import _unit


@pytest.mark.parametrize("version", ["GDF 1.25", "GDF 2.10"])
def test_the_bytes_say_what_mne_says(version: str, tmp_path: Path) -> None:
    """And the unit of the file, which MNE reads as volts where it does not know it."""
    mne = pytest.importorskip("mne", reason="the extra `data` is not installed")
    path = Path(gdf(tmp_path, Example(), version).partition("?")[0])
    found = mne.io.read_raw(path, verbose="error")
    raw = table.READERS[".gdf"](path, CutRequest())
    np.testing.assert_allclose(raw.x, found.get_data() * 1e6, rtol=1e-5, atol=1e-3)
    assert [(m.onset_s, m.text) for m in raw.marks] == [
        (float(a["onset"]), str(a["description"])) for a in found.annotations
    ]
    assert [m.duration_s for m in raw.marks] == [2.0] * 9
    (tmp_path / "other").mkdir()
    path = Path(gdf(tmp_path / "other", Example(unit="mV"), version).partition("?")[0])
    again = table.READERS[".gdf"](path, CutRequest())
    np.testing.assert_allclose(again.x, raw.x, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("code", "unit"), [(4256, "V"), (4274, "mV"), (4275, "uV"), (4276, "nV"), (0, ""), (512, "")]
)
def test_units(code: int, unit: str) -> None:
    assert _unit(code) == unit


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = Path(gdf(tmp_path, Example()).partition("?")[0])
    whole = path.read_bytes()
    for size, words in ((300, "header is cut short"), (5000, "records are there")):
        path.write_bytes(whole[:size])
        with pytest.raises(RecordingError, match=words):
            load(path)
    path.write_bytes(whole[:-3])
    with pytest.raises(RecordingError, match="table of 9 events is cut short"):
        load(path)
