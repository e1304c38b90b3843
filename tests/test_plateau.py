# SPDX-License-Identifier: Apache-2.0
"""Pretraining by steps, or until people who are held out say that it gains no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import biotrain as bt
from biotrain.study import Recordings
from biotrain.study.cells import expand
from biotrain.study.data.recordings import RecordingError
from biotrain.study.data.sources import load
from biotrain.study.plateau import epochs_for, held_people, is_near_chance
from biotrain.study.pretrain import pretrain
from biotrain.study.settings import PretrainSettings
from biotrain.study.spec import make_spec


@pytest.fixture(scope="module")
def rec() -> Recordings:
    return load("synthetic-emg")


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        (PretrainSettings(epochs=7), (7, 7)),
        (PretrainSettings(epochs=7, steps=1000), (100, 100)),  # 640 windows: 10 batches of 64
        (PretrainSettings(epochs=7, steps=1001), (101, 101)),
        (PretrainSettings(epochs=200, steps=1000), (200, 200)),
        (PretrainSettings(epochs=7, steps=1000, plateau=5), (100, 400)),
    ],
)
def test_epochs_are_enough_for_the_steps(settings: PretrainSettings, want: tuple[int, int]) -> None:
    assert epochs_for(settings, 640) == want


def test_whole_people_are_held_out(rec: Recordings) -> None:
    idx = np.flatnonzero(rec.subject != rec.subjects[0])
    held = held_people(rec, idx, 0)
    people = set(rec.subject[idx][held])
    assert len(people) == 1  # of five
    assert people.isdisjoint(rec.subject[idx][~held])
    drawn = {tuple(held_people(rec, idx, seed)) for seed in range(8)}
    assert len(drawn) > 1
    with pytest.raises(RecordingError, match="holds people out, and there is one to train on"):
        held_people(rec, np.flatnonzero(rec.subject == rec.subjects[0]), 0)


@pytest.mark.parametrize("engine", ["c", "torch"])
def test_it_ends_on_a_plateau_with_the_best_weights(rec: Recordings, engine: str) -> None:
    """The losses are computed anew by PyTorch, from runs of so many epochs without a plateau."""
    idx = np.flatnonzero(rec.subject != rec.subjects[0])[::6]
    held = held_people(rec, idx, 3)
    how: dict[str, Any] = {"engine": engine, "seed": 3, "lr": 0.02, "batch": 32}
    ran: list[int] = []
    net = pretrain(
        rec, "epidenet", idx, epochs=2, plateau=2, on_epoch=lambda done, _: ran.append(done), **how
    )
    x, y = torch.from_numpy(rec.signal(idx[held])), torch.from_numpy(rec.y[idx[held]])

    def loss(module: nn.Module) -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(module(x), y))

    alone = [
        loss(pretrain(rec, "epidenet", idx[~held], epochs=n, **how)) for n in range(1, len(ran) + 1)
    ]
    best = int(np.argmin(alone))
    assert loss(net) == pytest.approx(alone[best], rel=1e-5)
    assert len(ran) == max(2, best + 1 + 2) or len(ran) == 8


def test_steps_are_run(rec: Recordings) -> None:
    idx = np.flatnonzero(rec.subject != rec.subjects[0])[::20]
    ran: list[int] = []
    pretrain(rec, "epidenet", idx, epochs=1, steps=9, on_epoch=lambda done, _: ran.append(done))
    assert len(ran) == -(-9 // -(-len(idx) // 64))


def test_a_key_changes_only_where_it_is_asked_for() -> None:
    def keys(**pretraining: Any) -> set[str]:
        data = [{"source": "synthetic-emg", "models": ["epidenet"], "subjects": [1]}]
        asked = {"strategies": ["none"], "data": data, "pretrain": pretraining}
        return {cell.fold.key for cell in expand(make_spec(asked)).cells}

    assert keys() == keys(steps=0, plateau=0)
    assert len({*keys(), *keys(steps=1000), *keys(plateau=5)}) == 3
    with pytest.raises(bt.BioTrainError, match="pretraining: steps and plateau must lie in"):
        keys(steps=-1)


def test_a_network_that_knows_nothing_is_told(rec: Recordings) -> None:
    how: dict[str, Any] = {"pretrain_every": 10, "epochs": 1}
    told = bt.adapt(rec, "epidenet", 1, ["none"], pretrain_epochs=0, **how).settings
    assert is_near_chance(told.own_people["none"], 1 / rec.n_classes)
    assert "pretrain longer (pretrain steps = 1000, plateau = 10)" in told.notes[0]
    better = bt.adapt(
        rec, "epidenet", 1, ["none"], pretrain_epochs=0, pretrain_steps=150, **how
    ).settings
    assert better.own_people["none"] > 0.6
    assert not better.notes


def test_a_study_has_it_in_its_table(rec: Recordings, tmp_path: Any) -> None:
    from biotrain.study.results.statistics import summary
    from biotrain.study.run import run

    data = [{"source": "synthetic-emg", "models": ["epidenet"], "subjects": [1]}]
    spec = {"strategies": ["none"], "pretrain": {"epochs": 2, "every": 5}, "data": data}
    rows = run(make_spec(spec), tmp_path).rows
    (row,) = rows
    assert row.own_people == row.others  # `none` trains nothing: the same network
    assert summary(rows)[0].own_people == row.own_people
