# SPDX-License-Identifier: Apache-2.0
"""Beside the packages of the field, where they are installed: MNE's epochs, MOABB's evaluations and
data sets, braindecode's networks."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import biotrain as bt
from biotrain.cli import main
from biotrain.study import Recordings, generate, load

pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra sklearn)")
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from biotrain.sklearn import DeviceClassifier

# Other packages may warn about each other.
pytestmark = pytest.mark.filterwarnings("default")


def power(n_chans: int, n_times: int, n_outputs: int) -> nn.Module:
    """Filters, their power, and a line through it."""
    return nn.Sequential(
        nn.Conv1d(n_chans, 4, 9, bias=False),
        nn.GroupNorm(1, 4),
        nn.ReLU(),
        nn.AvgPool1d(16),
        nn.Flatten(),
        nn.Linear(4 * ((n_times - 8) // 16), n_outputs),
    )


# ---------------------------------------------------------------- MNE


def test_epochs_of_mne_are_windows() -> None:
    mne = pytest.importorskip("mne", reason="MNE is not installed (extra data)")
    rec = generate("emg", subjects=1, sessions=1, trials=8)
    at = np.flatnonzero(rec.y < 2)
    x, y = rec.signal(at).astype(np.float64) * 1e-6, rec.y[at]
    info = mne.create_info(rec.n_chans, rec.fs, "emg")
    events = np.stack([1000 * np.arange(len(y)), 0 * y, y + 1], 1)
    epochs = mne.EpochsArray(x, info, events, event_id={"a": 1, "b": 2}, verbose="error")
    clf = DeviceClassifier(power, epochs=2, lr=0.02)
    by_epochs = clf.fit(epochs, y).predict_proba(epochs[:5])
    by_arrays = clf.fit(x, y).predict_proba(x[:5])
    np.testing.assert_array_equal(by_epochs, by_arrays)
    assert cross_val_score(clf, x, y, cv=2).shape == (2,)


# ---------------------------------------------------------------- MOABB


@pytest.mark.extras
def test_a_data_set_of_moabb_by_name() -> None:
    """MOABB's own fake set through the reader that reads BNCI2014-004."""
    pytest.importorskip("moabb.datasets", reason="MOABB is not installed (extra moabb)")
    rec = load("moabb:FakeDataset")
    assert rec.n_classes == 3
    assert len(rec.subjects) == 10
    assert rec.sessions(1) == [1, 2]
    assert rec.synthetic
    with pytest.raises(bt.BioTrainError, match=r"no data set of that name \(did you mean BNCI"):
        load("moabb:BNCI2014-0004")


@pytest.mark.extras
def test_it_runs_in_the_evaluations_of_moabb(tmp_path: Path) -> None:
    pytest.importorskip("moabb.datasets", reason="MOABB is not installed (extra moabb)")
    from moabb.datasets.fake import FakeDataset
    from moabb.evaluations import CrossSubjectEvaluation, WithinSessionEvaluation
    from moabb.paradigms import LeftRightImagery

    fake = FakeDataset(
        ["left_hand", "right_hand"], n_subjects=2, n_sessions=1, n_runs=1, seed=1, n_events=20,
        duration=40, sfreq=128,
    )  # fmt: skip
    paradigm = LeftRightImagery(tmin=0, tmax=1)
    pipelines = {"device": make_pipeline(DeviceClassifier(power, epochs=2, lr=0.02))}
    for kind, more in ((WithinSessionEvaluation, {"n_splits": 2}), (CrossSubjectEvaluation, {})):
        evaluation = kind(
            paradigm=paradigm,
            datasets=[fake],
            overwrite=True,
            hdf5_path=str(tmp_path / kind.__name__),
            **more,
        )
        found = evaluation.process(pipelines)
        assert len(found) == 2
        assert found["score"].between(0, 1).all()


# ---------------------------------------------------------------- braindecode


@pytest.fixture(scope="module")
def eegnet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = pytest.importorskip(
            "braindecode.models", reason="braindecode is not installed", exc_type=ImportError
        )
    return models.EEGNet


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three gestures of two people."""
    rec = generate("emg", subjects=2, sessions=1, trials=8)
    rec = rec.take(np.flatnonzero(rec.y < 3))
    few = Recordings(**{**vars(rec), "classes": rec.classes[:3], "name": "brief"})
    return str(few.save(tmp_path_factory.mktemp("brief") / "brief.npz"))


@pytest.mark.extras
def test_braindecodes_eegnet_compiles_and_equals_torch(eegnet: Any) -> None:
    torch.manual_seed(0)
    net = eegnet(n_chans=4, n_outputs=3, n_times=128).eval()
    ready = bt.prepare(net, norm="frozen", example_input=torch.zeros(1, 4, 128))
    x = torch.randn(2, 4, 128)
    torch.testing.assert_close(ready(x), net(x))
    assert "parametrised" in str(bt.report(ready))
    pkg = bt.compile(bt.prepare(net), torch.zeros(1, 4, 128), accumulate=2)
    assert bt.verify(pkg, steps=2, seeds=2).ok


@pytest.mark.extras
def test_braindecodes_eegnet_as_module_factory(eegnet: Any, brief: str, tmp_path: Path) -> None:
    name = f"braindecode.models:{eegnet.__name__}"
    told = tmp_path / "told.json"
    options = ["--data", brief, "--subject", "1", "--epochs", "1", "--pretrain-epochs", "1"]
    asked = ["adapt", "--model", name, "--strategies", "last,full", *options, "--json", str(told)]
    assert main(asked) == 0
    rows = json.loads(told.read_text())["rows"]
    assert [(r["model"], r["strategy"]) for r in rows] == [(name, "last"), (name, "full")]
    rec = load(brief)
    clf = DeviceClassifier(eegnet, sfreq=rec.fs, epochs=1).fit(rec.signal(), rec.y)
    assert clf.predict(rec.signal()).shape == (len(rec),)
