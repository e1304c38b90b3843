# SPDX-License-Identifier: Apache-2.0
"""A calibration never makes it worse: steps are clipped, and what made things worse is undone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from biotrain.errors import BioTrainError
from biotrain.study.calibrate import calibrate
from biotrain.study.data.recordings import Recordings
from biotrain.study.metrics import cross_entropy
from biotrain.study.settings import CalibrationSettings, Strategy
from biotrain.study.task import Task

CHANS, TIMES, CLASSES, COUNT = 2, 40, 3, 48


def recordings(artefact: float = 0.0) -> Recordings:
    """One person: a sine whose frequency is its class, in noise; one window with an artefact."""
    rng = np.random.default_rng(4)
    y = np.arange(2 * COUNT) % CLASSES
    t = np.arange(TIMES)
    x = np.sin(0.2 * (1 + y[:, None, None]) * t + rng.uniform(0, 6, (2 * COUNT, CHANS, 1)))
    x = x + rng.standard_normal(x.shape)
    x[7, :, 5:30] += artefact
    return Recordings(
        x=(x * 100).astype(np.int16),
        scale=0.01,
        y=y,
        subject=np.ones(len(y), int),
        session=np.ones(len(y), int),
        fs=50.0,
        channels=("a", "b"),
        classes=("r", "s", "t"),
        unit="uV",
        name="made",
    )


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv1d(CHANS, 8, 9, padding=4),
        nn.GroupNorm(1, 8),
        nn.ReLU(),
        nn.AvgPool1d(8),
        nn.Flatten(),
        nn.Linear(8 * TIMES // 8, CLASSES),
    )


def task(artefact: float = 0.0) -> Task:
    parts = np.arange(COUNT), np.arange(COUNT, 2 * COUNT)
    return Task(recordings(artefact), 1, 0, parts)


def calibrated(one: Task, start: nn.Module, rule: str = "full", **more: Any) -> Any:
    settings = CalibrationSettings(**{"epochs": 6, "accumulate": 4, "lr": 0.05} | more)
    return calibrate(one, start, Strategy(rule, rule, settings), keep=True)


def loss(start: nn.Module, state: dict[str, NDArray[Any]] | None, one: Task) -> float:
    """By torch in float64."""
    module = network().double()
    module.load_state_dict(start.state_dict())
    if state:
        module.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    with torch.no_grad():
        logits = module.eval()(torch.from_numpy(one.x).double()).numpy()
    return cross_entropy(logits, one.y)


@pytest.mark.parametrize("rate", [0.05, 2.0, 1e4])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_no_calibration_ends_with_a_higher_loss(rate: float, clip: float) -> None:
    one, start = task(artefact=80.0), network()
    found = calibrated(one, start, lr=rate, clip_norm=clip)
    assert np.isfinite(found.logits).all()
    assert loss(start, dict(found.state), one) <= loss(start, None, one) * (1 + 1e-6)
    assert len(found.curve) == 7


def test_a_calibration_that_diverged_is_repeated_at_a_quarter_of_the_rate() -> None:
    one, start = task(), network()
    found = calibrated(one, start, lr=2.0, clip_norm=0.0, repeats=3)
    told = [note.partition(": ")[2] for note in one.notes if "made things worse" in note]
    assert told[:1] == ["full made things worse at a rate of 2: repeated at 0.5"]
    same = calibrated(task(), start, lr=2.0 / 4 ** len(told), clip_norm=0.0, repeats=0)
    assert found.cost.crc32 == same.cost.crc32
    assert found.curve == same.curve
    assert found.cost.steps == same.cost.steps * (1 + len(told))


def test_the_weights_stay_where_every_rate_makes_it_worse() -> None:
    one, start = task(), network()
    found = calibrated(one, start, lr=1e8, clip_norm=0.0)
    assert one.notes[-1].endswith("the weights stay as they were")
    before = calibrated(task(), start, rule="none")
    np.testing.assert_array_equal(found.logits, before.logits)
    assert found.curve == [before.curve[0]] * 7


def test_what_is_held_back_decides_where_there_is_some() -> None:
    one, start = task(), network()
    found = calibrated(one, start, lr=1e8, clip_norm=0.0, holdout=0.25)
    assert found.kept == 0
    assert len([note for note in one.notes if "made things worse" in note]) == 3


def test_without_repeats_nothing_is_undone() -> None:
    one, start = task(), network()
    calibrated(one, start, lr=2.0, clip_norm=0.0, repeats=0)
    assert not any("made things worse" in note for note in one.notes)


@pytest.mark.parametrize("clip", [-1.0, float("nan"), float("inf")])
def test_a_bound_that_is_none_is_refused(clip: float) -> None:
    with pytest.raises(BioTrainError, match="clip_norm must be a number from 0"):
        CalibrationSettings(clip_norm=clip).check()
