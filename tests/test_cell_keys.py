# SPDX-License-Identifier: Apache-2.0
"""The keys of a study's cells are those that finished studies were stored under.

A key is the hash of all that decides a cell. Were it to change without need, every finished study
would be computed again. The recordings are integers from NumPy's generator, which gives the same
ones on every machine, and the version, which is a part of every key, is held fixed.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from torch import nn

from biotrain.study import Recordings, cells, recipes
from biotrain.study.spec import make_spec


def small(
    n_chans: int, n_times: int, n_outputs: int, sfreq: float, norm: str = "batch"
) -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(n_chans, 4, 8, bias=False),
        nn.BatchNorm1d(4) if norm == "batch" else nn.GroupNorm(1, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * (n_times - 7), n_outputs),
    )


def resolve(name: str) -> tuple[Any, bool]:
    return small, name != "fixed"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three people with two sessions of 24 windows."""
    rng = np.random.default_rng(5)
    count = 3 * 2 * 24
    rec = Recordings(
        x=rng.integers(-3000, 3000, (count, 2, 32)).astype(np.int16),
        scale=0.5,
        y=np.arange(count) % 3,
        subject=np.repeat([1, 2, 3], 48),
        session=np.tile(np.repeat([1, 2], 24), 3),
        fs=64.0,
        channels=("a", "b"),
        classes=("r", "s", "t"),
        unit="uV",
        name="golden",
    )
    return str(rec.save(tmp_path_factory.mktemp("data") / "golden.npz"))


EVERY = ["none", "last", "full", "full-bn8", "adabn", "align", "align+adabn+full", "entropy"]

STUDIES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "every strategy": {
        "strategies": EVERY,
        "scenarios": ["longitudinal", "sizes"],
        "seeds": [0, 3],
    },
    "holdout": {"calibrate": {"holdout": 0.25, "best": "accuracy", "patience": 2}},
    "off": {"calibrate": {"holdout": 0.0, "best": "accuracy", "patience": 0, "replay": 0}},
    "replay": {
        "strategies": ["none", "full"],
        "scenarios": ["longitudinal"],
        "calibrate": {"replay": 12, "epochs": 3, "lr": 0.01},
    },
    "adabn again": {
        "strategies": ["again", "full"],
        "strategy": {"again": {"rule": "adabn+full", "adabn_every": 2}},
        "calibrate": {"adabn_every": 3},
    },
    "on a board": {
        "strategies": ["full"],
        "calibrate": {"target": "nrf52840", "memory": "64KiB", "on": "emulator", "batch": 1},
        "pretrain": {"epochs": 7, "lr": 2e-3, "batch": 32, "every": 2, "engine": "torch"},
    },
    "batch": {"strategies": ["full"], "calibrate": {"norm": "batch", "batch": 8}},
}

RATES_OF_0_1 = {
    "full": recipes.Chosen("group", 2e-3),
    "align+full": recipes.Chosen("group", 2e-3),
    "adabn+full": recipes.Chosen("frozen", 1e-3),
    "align+adabn+full": recipes.Chosen("frozen", 2e-3),
}
"""Without a bound of the steps; what the stored keys hold."""

STORED: dict[str, tuple[int, str]] = {
    "defaults, small": (18, "dd4d0d1135d922795511ef76d45859dc"),
    "defaults, fixed": (18, "2f46bafa154dac5263fc45de4fbed5b3"),
    "every strategy, small": (144, "5053dfbdee9b0abbe1193f36fc4726d0"),
    "every strategy, fixed": (144, "a896e5f0f25a4931284c85f23bc12f63"),
    "holdout, small": (18, "326c05b63c5903a1e0bbcc4a9d1dcf85"),
    "holdout, fixed": (18, "36f3fc6207a5a9cd7258d08ae9d3b016"),
    "off, small": (18, "dd4d0d1135d922795511ef76d45859dc"),
    "off, fixed": (18, "2f46bafa154dac5263fc45de4fbed5b3"),
    "replay, small": (12, "87114839e1c9470cd05e8bfccfb96c77"),
    "replay, fixed": (12, "da277978f3bf04da7e5075460dc261c5"),
    "adabn again, small": (6, "3d3b855496cad1439ed8037f47b5f70c"),
    "adabn again, fixed": (6, "74600ef425c76064d03a1b26f40c0269"),
    "on a board, small": (3, "b1fb4ac5a755d49c402362b3fefa3aa3"),
    "on a board, fixed": (3, "6c859527ce66ca86e4d8a57b11660327"),
    "batch, small": (3, "1da4f71d3551b4958205fd3d7cf16ba2"),
    "batch, fixed": (3, "762ffc8a4d0649903dff1c81d3282650"),
}
"""Study and model -> number of cells, and the first 32 digits of the SHA-256 of a line per cell, in
their order: its key and that of its fold."""


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("model", ["small", "fixed"])
def test_keys_are_those_of_finished_studies(
    name: str, model: str, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "__version__", "0.1.0")
    monkeypatch.setattr(recipes, "BEST", {**recipes.BEST, **RATES_OF_0_1})
    one = {"source": data, "models": [model], "pretrain_every": 2, "pretrain_seed": 1}
    asked = STUDIES[name]
    calibrate = {"clip_norm": 0.0, "repeats": 0, **asked.get("calibrate", {})}
    spec = make_spec({"data": [one], "others": 10, **asked, "calibrate": calibrate})
    found = cells.expand(spec, resolve).cells
    lines = "".join(f"{cell.key} {cell.fold.key}\n" for cell in found)
    digest = hashlib.sha256(lines.encode()).hexdigest()[:32]
    assert (len(found), digest) == STORED[f"{name}, {model}"]


def test_what_is_clipped_or_undone_has_a_key_of_its_own(data: str) -> None:
    one = {"source": data, "models": ["small"]}
    strategies = ["none", "full", "full-bn8", "adabn"]

    def keys(**calibrate: Any) -> dict[str, str]:
        spec = make_spec({"data": [one], "strategies": strategies, "calibrate": calibrate})
        return {c.strategy.name: c.key for c in cells.expand(spec, resolve).cells}

    off = keys(clip_norm=0.0, repeats=0)
    for found in (keys(repeats=0), keys(clip_norm=0.0), keys()):
        assert {name for name in off if found[name] != off[name]} == {"full"}
