# SPDX-License-Identifier: Apache-2.0
"""Adaptation end to end, small: the C learns a new subject, and equals torch while it does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from biotrain.errors import BioTrainError
from biotrain.study import adapt, generate
from biotrain.study.adapt import REFERENCE, AdaptResult
from biotrain.study.data.splits import day1, held_back

KEYS = [
    "dataset", "scenario", "model", "norm", "strategy", "subject", "session", "seed",
    "accuracy", "balanced_accuracy", "chance", "ram_bytes", "ops", "steps", "crc32",
]  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> AdaptResult:
    rec = generate("emg", subjects=3, sessions=1, trials=12)
    folder = tmp_path_factory.mktemp("c")
    found = adapt(
        rec,
        "epidenet",
        2,
        ("none", "last", "full", REFERENCE),
        epochs=8,
        pretrain_epochs=8,
        save_to=folder,
    )
    assert sorted(p.name for p in folder.iterdir()) == ["full", "last", "none"]
    assert Path(folder, "full", "model.c").is_file()
    return found


@pytest.mark.ci
def test_rows_have_the_keys_of_the_contract(result: AdaptResult) -> None:
    rows = json.loads(result.to_json())["rows"]
    assert [list(r) for r in rows] == [KEYS] * 4
    by_strategy = {r["strategy"]: r for r in rows}
    assert by_strategy["none"]["ram_bytes"] < by_strategy["full"]["ram_bytes"]
    assert by_strategy["none"]["steps"] == 0 < by_strategy["full"]["steps"]
    assert all("synthetic" in r["dataset"] for r in rows)


@pytest.mark.ci
def test_full_learns_more_than_none(result: AdaptResult) -> None:
    accuracy = {r.strategy: r.accuracy for r in result.rows}
    assert accuracy["full"] > accuracy["none"] + 0.05
    assert [len(c.accuracy) for c in result.curves] == [1, 9, 9, 9]


@pytest.mark.ci
def test_a_diverging_calibration_is_reported_and_does_not_end_the_run() -> None:
    rec = generate("emg", subjects=2, sessions=1, trials=8)
    found = adapt(rec, "epidenet", 1, ("full", REFERENCE), epochs=3, pretrain_epochs=1, lr=1e9)
    assert len(found.rows) == 2
    assert [len(c.accuracy) for c in found.curves] == [4, 4]
    assert any("full diverged in epoch" in note for note in found.settings.notes)
    json.loads(found.to_json())


def test_holdout_and_replay_reach_the_c() -> None:
    rec = generate("emg", subjects=3, sessions=1, trials=8)
    more = {"epochs": 2, "pretrain_epochs": 1, "holdout": 0.25, "replay": 16}
    found = adapt(rec, "epidenet", 2, ("none", "full"), **more)  # type: ignore[arg-type]
    none, full = found.rows
    calibration, _ = day1(rec, 2, found.settings.split)
    trains, held = held_back(rec, calibration, 0.25, 0)
    assert len(held) > 0
    assert full.steps == 2 * -(-(len(trains) + 16) // 8)
    assert none.steps == 0
    assert [c.kept is None for c in found.curves] == [True, False]
    assert 0 <= found.curves[1].kept <= 2
    for wrong in ({"holdout": 1.0}, {"best": "luck"}, {"replay": -1}, {"patience": 2}):
        with pytest.raises(BioTrainError, match="holdout"):
            adapt(rec, "epidenet", 2, **wrong)  # type: ignore[arg-type]


@pytest.mark.ci
def test_firmware_learns_the_same_to_the_last_digit() -> None:
    """A new subject in the emulated nRF52840: losses, accuracy and weights are the host's."""
    pytest.importorskip("unicorn")
    rec = generate("emg", subjects=2, sessions=1, trials=12)
    settings = {
        "target": "nrf52840",
        "epochs": 2,
        "pretrain_epochs": 1,
        "holdout": 0.25,  # the best epoch goes through a checkpoint of the chip
        "replay": 8,
        "strategies": ("last", "full"),
    }
    host, firmware = (
        adapt(rec, "epidenet", 2, on=on, **settings)  # type: ignore[arg-type]
        for on in ("host", "emulator")
    )
    assert firmware.rows == host.rows
    assert firmware.curves == host.curves
    assert len({row.crc32 for row in host.rows}) == 2
