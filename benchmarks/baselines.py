# SPDX-License-Identifier: Apache-2.0
"""What classifiers without a network and without backpropagation reach on the same windows.

    python benchmarks/baselines.py

Every person of the four recordings (BIOTRAIN_DATA) is new in turn, within one session: the first
four fifths calibrate and the last fifth tests, as in a study's `day1` (docs/study.md). Nothing is
chosen on anybody.

- riemann-own: covariances of the wearer's windows, tangent space at their Riemannian mean, logistic
  regression (pyriemann, scikit-learn), of the window and of its octave bands.
- riemann: the same of the other people's windows and the wearer's, the wearer's as heavy as all
  others together.
- riemann-recentred: each person's covariances recentred to the identity by their own mean before
  (P. Zanini et al., IEEE TBME 65(5), 2018); of the wearer, that of the calibration windows.
- csp-lda: common spatial patterns of the wearer's windows and shrinkage LDA.
- lda: logarithm of the power of each channel in each octave band, shrinkage LDA on the wearer's.

Needs pyriemann and scikit-learn. Some ten minutes of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from pyriemann.estimation import Covariances
from pyriemann.spatialfilters import CSP
from pyriemann.tangentspace import TangentSpace
from pyriemann.utils.base import invsqrtm
from pyriemann.utils.mean import mean_riemann
from scipy.signal import butter, sosfiltfilt
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from biotrain.study import Recordings, decimate
from biotrain.study.data.sources import load
from biotrain.study.data.splits import day1, default_split
from biotrain.study.metrics import balanced_accuracy

SETS = {"emg_myo": None, "eog_office": None, "mi_graz2b": 125.0, "eeg_arithmetic": None}
"""Recordings, and the rate in Hz that they are brought to."""

OCTAVES, HIGHEST = 4, 0.4
"""Octave bands, the highest up to this share of the sampling rate."""

MOST_SOURCE = 2500
"""Windows of other people that are taken, evenly."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def banded(x: Floats, rate: float) -> Iterator[Floats]:
    """The windows, and each octave band of them."""
    yield x
    high = HIGHEST * rate
    for _ in range(OCTAVES):
        sos = butter(3, (high / 2, high), "band", fs=rate, output="sos")
        yield sosfiltfilt(sos, x, axis=-1)
        high /= 2


def covariances(x: Floats) -> Floats:
    """Shrunk covariances [windows, n, n]."""
    return Covariances("lwf").transform(x)


class Set:
    """A recording: its windows, and their covariances by band."""

    def __init__(self, name: str, rate: float | None) -> None:
        rec = load(name)
        self.rec: Recordings = decimate(rec, rate) if rate else rec
        self.split = default_split(self.rec)
        self.y = self.rec.y
        every = np.arange(len(self.y))
        self.x = self.rec.signal(every).astype(np.float64)
        self.bands = list(banded(self.x, self.rec.fs))
        self.covs = [covariances(b) for b in self.bands]
        self._centred: dict[int, list[Floats]] = {}

    def source(self, subject: int) -> Ints:
        """Windows of everybody else."""
        others = np.flatnonzero(self.rec.subject != subject)
        return others[:: -(-len(others) // MOST_SOURCE)]

    def recentred(self, at: Ints, mean_of: Ints) -> list[Floats]:
        """Covariances of windows `at`, the mean of `mean_of` moved to the identity, by band."""
        found = []
        for cov in self.covs:
            root = invsqrtm(mean_riemann(cov[mean_of]))
            found.append(root @ cov[at] @ root)
        return found

    def centred(self, subject: int) -> list[Floats]:
        """Covariances of all windows of a person by band, each session recentred."""
        if subject not in self._centred:
            mine = np.flatnonzero(self.rec.subject == subject)
            parts = [
                (at := mine[self.rec.session[mine] == s], self.recentred(at, at))
                for s in self.rec.sessions(subject)
            ]
            order = np.argsort(np.concatenate([at for at, _ in parts]))
            self._centred[subject] = [
                np.concatenate([c[k] for _, c in parts])[order] for k in range(len(self.covs))
            ]
        return self._centred[subject]


def logistic(
    train: list[Floats], y: NDArray[np.int64], test: list[Floats], weight: Floats | None = None
) -> NDArray[np.int64]:
    """Labels by logistic regression on tangent vectors of each band."""
    ins, outs = [], []
    for a, b in zip(train, test, strict=True):
        space = TangentSpace("riemann").fit(a)
        ins.append(space.transform(a))
        outs.append(space.transform(b))
    scale = StandardScaler().fit(np.concatenate(ins, 1))
    model = LogisticRegression(C=0.1, max_iter=500)
    model.fit(scale.transform(np.concatenate(ins, 1)), y, sample_weight=weight)
    return model.predict(scale.transform(np.concatenate(outs, 1)))


def weights(source: int, own: int) -> Floats:
    """The wearer's windows as heavy as all others together."""
    return np.concatenate([np.full(source, own / source), np.ones(own)])


def riemann_own(data: Set, subject: int, own: Ints, test: Ints) -> NDArray[np.int64]:
    return logistic([c[own] for c in data.covs], data.y[own], [c[test] for c in data.covs])


def riemann(data: Set, subject: int, own: Ints, test: Ints) -> NDArray[np.int64]:
    source = data.source(subject)
    both = np.concatenate([source, own])
    heavy = weights(len(source), len(own))
    return logistic([c[both] for c in data.covs], data.y[both], [c[test] for c in data.covs], heavy)


def riemann_recentred(data: Set, subject: int, own: Ints, test: Ints) -> NDArray[np.int64]:
    source = data.source(subject)
    rec, labels, train = data.rec, [], [[] for _ in data.covs]  # type: ignore[var-annotated]
    for other in rec.subjects:
        if other == subject:
            continue
        mine = np.flatnonzero(rec.subject == other)
        taken = np.isin(mine, source)
        labels.append(data.y[mine[taken]])
        for parts, cov in zip(train, data.centred(int(other)), strict=True):
            parts.append(cov[taken])
    for parts, cov in zip(train, data.recentred(own, own), strict=True):
        parts.append(cov)
    y = np.concatenate([*labels, data.y[own]])
    heavy = weights(len(y) - len(own), len(own))
    return logistic([np.concatenate(p) for p in train], y, data.recentred(test, own), heavy)


def csp_lda(data: Set, subject: int, own: Ints, test: Ints) -> NDArray[np.int64]:
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    count = min(6, data.covs[0].shape[-1])
    model = make_pipeline(CSP(nfilter=count), lda)
    ins = np.concatenate([model[0].fit_transform(c[own], data.y[own]) for c in data.covs], 1)
    outs = []
    for c in data.covs:
        model[0].fit(c[own], data.y[own])
        outs.append(model[0].transform(c[test]))
    return lda.fit(ins, data.y[own]).predict(np.concatenate(outs, 1))


def lda(data: Set, subject: int, own: Ints, test: Ints) -> NDArray[np.int64]:
    powers = np.concatenate([np.log(b.var(-1) + 1e-30) for b in data.bands], 1)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return model.fit(powers[own], data.y[own]).predict(powers[test])


METHODS: dict[str, Callable[[Set, int, Ints, Ints], NDArray[np.int64]]] = {
    "riemann-own": riemann_own,
    "riemann": riemann,
    "riemann-recentred": riemann_recentred,
    "csp-lda": csp_lda,
    "lda": lda,
}


def main() -> None:
    """Print a line for each set: the mean of the balanced accuracy over people."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    given = parser.parse_args()
    print("| set (people) | " + " | ".join(METHODS) + " |")
    print("|---" * (len(METHODS) + 1) + "|", flush=True)
    for name in given.sets:
        data = Set(name, SETS[name])
        found: dict[str, list[float]] = {method: [] for method in METHODS}
        people = [int(s) for s in data.rec.subjects]
        for subject in people:
            own, test = day1(data.rec, subject, data.split)
            for method, classify in METHODS.items():
                labels = classify(data, subject, own, test)
                found[method].append(balanced_accuracy(labels, data.y[test]))
        means = " | ".join(f"{100 * np.mean(found[m]):.1f}" for m in METHODS)
        print(f"| {name} ({len(people)}) | {means} |", flush=True)


if __name__ == "__main__":
    main()
