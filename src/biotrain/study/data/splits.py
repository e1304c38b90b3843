# SPDX-License-Identifier: Apache-2.0
"""Which windows calibrate and which test: pure functions from recordings to index arrays.

Every function yields or returns pairs (calibration, test) of sorted indices into the recordings, as
scikit-learn's splitters do. In a session the first part calibrates and the last one tests; a
calibration window that overlaps a test window in time is left out.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from biotrain.errors import BioTrainError
from biotrain.study.data.recordings import Recordings

Indices = NDArray[np.int64]

SPLITS = ("chronological", "chronological-per-class", "repetition", "run")
"""Ways to cut a session.

chronological: the first 80 % in time against the last 20 %; every class must be in both.
chronological-per-class: the same within each class, for sessions recorded class after class; slow
    drift between the classes then inflates the accuracy.
repetition: the last repetition of every gesture tests.
run: the last runs of the session test, about 20 % of them and at least one; what calibrates and
    what tests then never come from one recording, whose slow changes both would share.
"""

SIZES = (5, 10, 20, 40)
"""Windows per class of a calibration-size curve."""


class SplitError(BioTrainError):
    """A split that these recordings do not allow; the message names one that they do."""


class OneClassError(SplitError):
    """What would be tested is of one class: there is nothing to tell apart, and any network that
    always names it would have an accuracy of 100 %."""


def day1(
    rec: Recordings,
    subject: int,
    split: str = "chronological",
    calibration: float = 0.8,
    test_repetition: int | None = None,
) -> tuple[Indices, Indices]:
    """Calibration and test windows of the first session of `subject`.

    split: one of SPLITS. calibration: share of the windows that calibrate (not for "repetition").
    test_repetition: which repetition tests; the last by default.

    Raises:
        SplitError: a class that is missing in one part ("chronological"), no repetitions
            ("repetition"), a part that is empty, an unknown split, a share outside 0 to 1; test
            windows of one class.
    """
    return within(rec, subject, rec.sessions(subject)[0], split, calibration, test_repetition)


def longitudinal(
    rec: Recordings,
    subject: int,
    split: str = "chronological",
    calibration: float = 0.8,
    test_repetition: int | None = None,
) -> Iterator[tuple[Indices, Indices]]:
    """The same for each later session of `subject`, in order; SplitError if there is only one."""
    later = rec.sessions(subject)[1:]
    if not later:
        raise SplitError(f"{rec.name}: subject {subject} has one session; nothing comes later")
    for session in later:
        yield within(rec, subject, session, split, calibration, test_repetition)


def calibration_sizes(
    rec: Recordings,
    subject: int,
    sizes: Sequence[int] = SIZES,
    split: str = "chronological",
    calibration: float = 0.8,
    test_repetition: int | None = None,
) -> Iterator[tuple[Indices, Indices]]:
    """Day-1 with less to calibrate on: for each of `sizes`, ascending, the first so many windows of
    every class (all of a class that has fewer), and always the same test windows.

    A size that no class reaches would repeat the whole calibration part and is not yielded.
    Raises SplitError for a size below 1, and what `day1` raises.
    """
    if min(sizes, default=1) < 1:
        raise SplitError(f"a calibration has at least one window per class, not {min(sizes)}")
    everything, test = day1(rec, subject, split, calibration, test_repetition)
    in_time = everything[np.argsort(rec.starts(everything), kind="stable")]
    of_class = [in_time[rec.y[in_time] == label] for label in np.unique(rec.y[in_time])]
    longest = max(len(own) for own in of_class)
    for size in sorted(set(sizes)):
        if size > longest:
            return
        yield np.sort(np.concatenate([own[:size] for own in of_class])), test


def leave_one_subject_out(rec: Recordings) -> Iterator[tuple[Indices, Indices]]:
    """For each subject in order: the windows of all others, and its own."""
    if len(rec.subjects) < 2:
        raise SplitError(f"{rec.name}: one subject only; there are no others to learn from")
    for subject in rec.subjects:
        own = rec.subject == subject
        yield np.flatnonzero(~own), np.flatnonzero(own)


def within(
    rec: Recordings,
    subject: int,
    session: int,
    split: str = "chronological",
    calibration: float = 0.8,
    test_repetition: int | None = None,
) -> tuple[Indices, Indices]:
    """Calibration and test windows of one session; see `day1`."""
    if split not in SPLITS:
        raise SplitError(f"no split {split}; there are {', '.join(SPLITS)}")
    if not 0 < calibration < 1:
        raise SplitError(f"the calibration share lies between 0 and 1, not at {calibration:g}")
    where = f"{rec.name}: subject {subject}, session {session}"
    if session not in rec.sessions(subject):
        raise SplitError(f"{where}: no such session")
    idx = np.flatnonzero((rec.subject == subject) & (rec.session == session))
    starts = rec.starts(idx)
    in_time = np.argsort(starts, kind="stable")
    idx, starts = idx[in_time], starts[in_time]
    if split == "repetition":
        tests = _last_repetition(rec, idx, test_repetition, where)
    elif split == "run":
        tests = _last_runs(rec, idx, calibration, where)
    elif split == "chronological":
        tests = np.arange(len(idx)) >= _border(len(idx), calibration)
    else:
        tests = np.zeros(len(idx), dtype=bool)
        for label in np.unique(rec.y[idx]):
            own = np.flatnonzero(rec.y[idx] == label)
            tests[own[_border(len(own), calibration) :]] = True
    keeps = ~tests & ~_overlap(starts, starts[tests], rec.duration_s - 0.5 / rec.fs)
    if not keeps.any() or not tests.any():
        part = "test" if keeps.any() else "calibration"
        raise SplitError(f"{where}: no {part} window is left of {len(idx)} by split {split}")
    if split != "chronological-per-class":
        _same_classes(rec, idx[keeps], idx[tests], split, where)
    tested = np.unique(rec.y[idx[tests]])
    if len(tested) < 2:
        raise OneClassError(
            f"{where}: all {tests.sum()} test windows are of class {rec.classes[tested[0]]}, so "
            "there is nothing to tell apart"
        )
    return np.sort(idx[keeps]), np.sort(idx[tests])


def held_back(
    rec: Recordings, calibration: Indices, share: float, seed: int
) -> tuple[Indices, Indices]:
    """A part of `calibration` to choose the epoch by: (what trains, what is held back).

    Of every class one stretch in time of `share` of its windows, at least one, beginning where
    `seed` says; training windows that overlap what is held back are left out. A class that would
    have no training window then holds nothing back.
    Raises SplitError for a share outside 0 to 1, and where no class can hold a window back.
    """
    if not 0 < share < 1:
        raise SplitError(f"the share that is held back lies between 0 and 1, not at {share:g}")
    starts = rec.starts(calibration)
    in_time = np.argsort(starts, kind="stable")
    idx, starts = np.asarray(calibration)[in_time], starts[in_time]
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(0, 1))))
    reach = rec.duration_s - 0.5 / rec.fs
    held = np.zeros(len(idx), dtype=bool)
    for label in np.unique(rec.y[idx]):
        own = np.flatnonzero(rec.y[idx] == label)
        count = max(1, int(np.floor(share * len(own) + 0.5)))
        first = int(draw.integers(max(1, len(own) - count + 1)))
        part = own[first : first + count]
        rest = np.setdiff1d(own, part)
        if (~_overlap(starts[rest], starts[part], reach)).any():
            held[part] = True
    if not held.any():
        raise SplitError(
            f"{rec.name}: nothing of {len(idx)} calibration windows can be held back; every class "
            "needs windows that do not overlap"
        )
    trains = ~held & ~_overlap(starts, starts[held], reach)
    return np.sort(idx[trains]), np.sort(idx[held])


def replay_of(
    rec: Recordings, others: Indices, sessions: Sequence[Indices], count: int, seed: int
) -> Indices:
    """`count` windows to see again: of other subjects (`others`), and half of them of the earlier
    `sessions` where there are any; fewer where there are not so many.

    Drawn by `seed`, as even over the classes as there are windows.
    """
    old = np.concatenate(sessions) if sessions else np.zeros(0, np.int64)
    own = _drawn(rec, old, min(count // 2, len(old)), seed)
    return np.sort(np.concatenate([own, _drawn(rec, others, count - len(own), seed)]))


def _drawn(rec: Recordings, candidates: Indices, count: int, seed: int) -> Indices:
    """Up to `count` of `candidates`, by turns of one from every class."""
    if not count:
        return np.zeros(0, np.int64)
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(0, 2))))
    mixed = draw.permutation(np.sort(candidates))
    turn = np.zeros(len(mixed), dtype=np.int64)
    for label in np.unique(rec.y[mixed]):
        own = rec.y[mixed] == label
        turn[own] = np.arange(own.sum())
    chosen: Indices = mixed[np.argsort(turn, kind="stable")[:count]]
    return chosen


def apart(rec: Recordings, candidates: Indices, tests: Indices) -> Indices:
    """Those of `candidates` that share no sample with a window of `tests`."""
    chosen = np.asarray(candidates)
    keep = np.ones(len(chosen), dtype=bool)
    both = np.stack([rec.subject, rec.session], 1)
    for key in np.unique(both[tests], axis=0):
        at = np.flatnonzero((both[chosen] == key).all(1))
        own = tests[(both[tests] == key).all(1)]
        together = np.concatenate([chosen[at], own])
        starts = rec.starts(together)
        reach = rec.duration_s - 0.5 / rec.fs
        keep[at[_overlap(starts[: len(at)], starts[len(at) :], reach)]] = False
    out: Indices = chosen[keep]
    return out


def _border(count: int, calibration: float) -> int:
    """How many of `count` windows calibrate; a single one does."""
    return max(1, int(np.floor(calibration * count + 1e-9)))


def _last_repetition(
    rec: Recordings, idx: Indices, test_repetition: int | None, where: str
) -> NDArray[np.bool_]:
    if rec.repetition is None:
        raise SplitError(f"{where}: no repetitions are marked; use split chronological-per-class")
    repetition = rec.repetition[idx]
    there = [int(r) for r in np.unique(repetition)]
    wanted = there[-1] if test_repetition is None else test_repetition
    if wanted not in there or len(there) < 2:
        raise SplitError(f"{where}: cannot test on repetition {wanted} of {there}")
    out: NDArray[np.bool_] = repetition == wanted
    return out


def _last_runs(rec: Recordings, idx: Indices, calibration: float, where: str) -> NDArray[np.bool_]:
    runs = np.unique(rec.run[idx]) if rec.run is not None else np.zeros(0, np.int64)
    if rec.run is None or len(runs) < 2:
        raise SplitError(
            f"{where}: there are not two runs to cut between; use split chronological-per-class"
        )
    count = max(1, round((1 - calibration) * len(runs)))
    out: NDArray[np.bool_] = np.isin(rec.run[idx], runs[-count:])
    return out


def _overlap(
    starts: NDArray[np.float64], others: NDArray[np.float64], duration_s: float
) -> NDArray[np.bool_]:
    """Which windows begin within `duration_s` of one of `others`."""
    if not len(others):
        return np.zeros(len(starts), dtype=bool)
    others = np.sort(others)
    after = np.searchsorted(others, starts)
    before = others[np.maximum(after - 1, 0)]
    behind = others[np.minimum(after, len(others) - 1)]
    nearest = np.minimum(np.abs(starts - before), np.abs(starts - behind))
    out: NDArray[np.bool_] = nearest < duration_s
    return out


def _same_classes(
    rec: Recordings, calibration: Indices, test: Indices, split: str, where: str
) -> None:
    """Every class of the session in both parts, or SplitError."""
    for part, other, name in (
        (calibration, test, "calibration"),
        (test, calibration, "test"),
    ):
        missing = sorted(set(rec.y[other].tolist()) - set(rec.y[part].tolist()))
        if missing:
            names = ", ".join(rec.classes[label] for label in missing)
            instead = "chronological-per-class"
            if split == "chronological" and rec.repetition is not None:
                instead = "repetition or chronological-per-class"
            raise SplitError(
                f"{where}: by split {split} the {name} part has no window of {names}; "
                f"use split {instead}"
            )


def default_split(rec: Recordings) -> str:
    """The split that fits every subject's first session, found from the data themselves.

    "run" where every first session has several runs and every class in both parts; "repetition"
    where repetitions are marked and each holds every class; otherwise "chronological" where that
    leaves every class in both parts; otherwise "chronological-per-class".
    """
    candidates = [] if rec.run is None else ["run"]
    candidates += [] if rec.repetition is None else ["repetition"]
    for split in (*candidates, "chronological"):
        try:
            for subject in rec.subjects:
                with suppress(OneClassError):  # no split fits such a subject
                    day1(rec, subject, split)
        except SplitError:
            continue
        return split
    return "chronological-per-class"
