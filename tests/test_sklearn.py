# SPDX-License-Identifier: Apache-2.0
"""DeviceClassifier: scikit-learn's own checks, and that it is the generated C that runs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from torch import nn

pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra sklearn)")
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

import biotrain as bt
from biotrain.sklearn import DeviceClassifier
from biotrain.study import generate
from biotrain.study.order import shuffled


def linear(n_chans: int, n_times: int, n_outputs: int) -> nn.Module:
    """Small enough that scikit-learn's checks, with windows of 2 to 10 samples, take seconds."""
    return nn.Sequential(nn.Flatten(), nn.Linear(n_chans * n_times, n_outputs))


def checked() -> DeviceClassifier:
    return DeviceClassifier(linear, center=False, epochs=10, lr=0.02, accumulate=4)


# Every check applies but those for packages that may not be installed, which skip themselves
# (pandas, array_api): nothing is excluded here.


@pytest.mark.sample(test=15)
@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(e, c, id=getattr(getattr(c, "func", c), "__name__", str(c)))
        for e, c in estimator_checks_generator(checked())
    ],
)
def test_scikit_learns_checks(estimator: DeviceClassifier, check: Any) -> None:
    check(estimator)


# ---------------------------------------------------------------- it is the C that runs


@pytest.fixture(scope="module")
def emg() -> tuple[np.ndarray, np.ndarray]:
    """Three gestures of one person, by name."""
    rec = generate("emg", subjects=1, sessions=1, trials=12)
    at = np.flatnonzero(rec.y < 3)
    return rec.signal(at), np.array(rec.classes)[rec.y[at]]


def power(n_chans: int, n_times: int, n_outputs: int, sfreq: float, norm: str) -> nn.Module:
    """Filters, their power, and a line through it."""
    assert norm == "group"
    width = round(sfreq / 25)
    return nn.Sequential(
        nn.Conv1d(n_chans, 4, width, bias=False),
        nn.GroupNorm(1, 4),
        nn.ReLU(),
        nn.AvgPool1d(16),
        nn.Flatten(),
        nn.Linear(4 * ((n_times - width + 1) // 16), n_outputs),
    )


def quick(**more: Any) -> DeviceClassifier:
    return DeviceClassifier(power, **({"sfreq": 200.0, "epochs": 3, "lr": 0.02} | more))


def test_the_device_trains_and_predicts(emg: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = emg
    clf = quick(epochs=10).fit(x, y)
    assert clf.score(x, y) > 0.8
    assert sorted(clf.classes_) == sorted(set(y))
    logits = clf.device_.predict(x)
    assert clf.predict(x).tolist() == clf.classes_[logits.argmax(1)].tolist()
    shares = clf.predict_proba(x)
    assert np.allclose(shares.sum(1), 1)
    assert "bt_train_sample" in clf.package_.files["model.h"]
    # The same, by hand: the package, and the order of the windows.
    dev = clf.package_.run("host")
    labels = np.searchsorted(clf.classes_, y)
    dev.begin(total_steps=10 * -(-len(x) // 8))
    for epoch in range(10):
        order = shuffled(len(x), clf._seed, epoch)
        dev.train(x[order], labels[order])
    assert dev.crc32() == clf.device_.crc32()


def test_flat_rows_are_the_same_windows(emg: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = emg
    whole = quick(epochs=1).fit(x, y)
    flat = quick(epochs=1, n_chans=8).fit(x.reshape(len(x), -1), y)
    assert whole.device_.crc32() == flat.device_.crc32()
    with pytest.raises(ValueError, match="no whole number of 7 channels"):
        quick(n_chans=7).fit(x.reshape(len(x), -1), y)
    with pytest.raises(ValueError, match="but fit had"):
        whole.predict(x[:, :, :150])


def test_partial_fit_goes_on_from_fit_and_from_nothing(
    emg: tuple[np.ndarray, np.ndarray],
) -> None:
    x, y = emg
    clf = quick(epochs=2).fit(x, y)
    package, before = clf.package_, clf.device_.crc32()
    clf.partial_fit(x[:9], y[:9]).partial_fit(x[:9], y[:9])
    assert clf.package_ is package
    assert clf.device_.crc32() != before
    fresh = quick()
    with pytest.raises(ValueError, match="classes must be passed"):
        fresh.partial_fit(x, y)
    names = np.unique(y)
    fresh.partial_fit(x[:5], y[:5], classes=names)
    with pytest.raises(ValueError, match="not the same as on the last call"):
        fresh.partial_fit(x, y, classes=["left", "right"])
    with pytest.raises(ValueError, match="class jump is not among"):
        fresh.partial_fit(x[:1], ["jump"])
    none = quick(strategy="none").fit(x, y)
    assert none.device_.crc32() == none.partial_fit(x, y).device_.crc32()


def test_a_copy_keeps_what_was_learned_and_goes_on_alike(
    emg: tuple[np.ndarray, np.ndarray],
) -> None:
    x, y = emg
    clf = quick().fit(x, y).partial_fit(x, y)
    copied = copy.deepcopy(clf)  # as pickle does
    assert not hasattr(copied, "device_")
    assert np.array_equal(copied.predict_proba(x), clf.predict_proba(x))
    assert copied.device_.crc32() == clf.device_.crc32()
    assert copied.partial_fit(x, y).device_.crc32() == clf.partial_fit(x, y).device_.crc32()


def test_a_module_is_trained_on_from_its_weights(emg: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = emg
    net = power(8, 200, 3, 200.0, "group")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    clf = DeviceClassifier(net, epochs=0).fit(x, y)
    held = clf.device_.parameters()
    assert all(np.array_equal(held[k], v.numpy()) for k, v in before.items())
    clf = DeviceClassifier(net, epochs=1, lr=1e-3).fit(x * 0.01, y)
    assert not np.array_equal(clf.device_.parameters()["5.weight"], before["5.weight"].numpy())
    assert all((net.state_dict()[k] == v).all() for k, v in before.items())


def test_it_goes_where_classifiers_go(emg: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = emg
    pipeline = make_pipeline(FunctionTransformer(lambda v: v * 2.0), quick())
    assert cross_val_score(pipeline, x, y, cv=2).shape == (2,)
    search = GridSearchCV(quick(), {"lr": [1e-4, 2e-2]}, cv=2).fit(x, y)
    assert search.best_params_["lr"] == 2e-2
    again = clone(search.best_estimator_)
    assert again.get_params()["lr"] == 2e-2
    assert again.set_params(strategy="last").strategy == "last"


class Epochs:
    """What DeviceClassifier takes of MNE's."""

    def __init__(self, data: np.ndarray, sfreq: float) -> None:
        self.data, self.info = data, {"sfreq": sfreq}

    def get_data(self, copy: bool) -> np.ndarray:
        return self.data


def test_mne_epochs_bring_their_sampling_rate(emg: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = emg
    given = quick(epochs=1).fit(x, y)
    brought = quick(epochs=1, sfreq=None).fit(Epochs(x, 200.0), y)
    assert brought.device_.crc32() == given.device_.crc32()
    assert np.array_equal(brought.predict(Epochs(x, 200.0)), given.predict(x))


def test_built_in_networks_need_a_sampling_rate(emg: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = emg
    with pytest.raises(ValueError, match="give sfreq: epidenet"):
        DeviceClassifier("epidenet").fit(x, y)
    with pytest.raises(ValueError, match="no built-in model"):
        DeviceClassifier("resnet50", sfreq=200.0).fit(x, y)
    with pytest.raises(bt.BioTrainError, match="no target"):
        quick(target="abacus").fit(x, y)
