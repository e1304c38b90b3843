# SPDX-License-Identifier: Apache-2.0
"""What a worker of a study does, wherever it runs: pretrain a fold, compute a cell. Its results
depend on nothing but its arguments; weights come and go as bytes (safetensors)."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy
import safetensors.torch
from torch import nn

from biotrain.errors import BioTrainError
from biotrain.study.calibrate import (
    Row,
    Rule,
    State,
    Task,
    accuracy,
    calibrate,
    compiled,
)
from biotrain.study.cells import Cell, Fold, Resolve
from biotrain.study.data.recordings import Recordings
from biotrain.study.labelfree import transformed
from biotrain.study.pretrain import one_thread, pretrain, untrained

T = TypeVar("T")
HELD = 4
"""Recordings, networks and packages that a worker keeps of each kind."""

_alone = threading.Lock()  # torch's generator and its number of threads belong to the process
_kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()


def _keep(key: tuple[Any, ...], make: Callable[[], T]) -> T:
    """What `make` made for `key`, remembered while it is among the last HELD of its kind."""
    if key not in _kept:
        _kept[key] = make()
        same = [k for k in _kept if k[0] == key[0]]
        if len(same) > HELD:
            del _kept[same[0]]
    _kept.move_to_end(key)
    found: T = _kept[key]
    return found


def pretrain_fold(fold: Fold, resolve: Resolve) -> tuple[bytes, float]:
    """The pretrained weights of `fold`, and the seconds that it took."""
    began = time.perf_counter()
    with _alone, one_thread():
        rec = _recordings(fold)
        module = pretrain(
            rec,
            resolve(fold.model)[0],
            np.flatnonzero(rec.subject != fold.subject)[:: fold.pretrain.every],
            norm=fold.norm,
            epochs=fold.pretrain.epochs,
            lr=fold.pretrain.lr,
            batch=fold.pretrain.batch,
            seed=fold.seed,
            engine=fold.pretrain.engine,
        )
        state = {k: v.contiguous() for k, v in module.state_dict().items()}
        return safetensors.torch.save(state), time.perf_counter() - began


def _recordings(fold: Fold) -> Recordings:
    """The recordings of a fold, after its transform."""
    plain = _keep(("recordings", fold.source), fold.source.load)
    if not fold.transform:
        return plain
    key = ("transformed", fold.source, fold.transform)
    return _keep(key, lambda: transformed(plain, fold.transform))


def _pretrained(fold: Fold, weights: bytes, resolve: Resolve) -> nn.Module:
    def make() -> nn.Module:
        module = untrained(_recordings(fold), resolve(fold.model)[0], fold.norm)
        module.load_state_dict(safetensors.torch.load(weights))
        return module.eval()

    return _keep(("network", fold.key), make)


def _silent(task: str, done: int, total: int) -> None:
    """A worker's progress is seen cell by cell."""


def compute(
    cell: Cell, resolve: Resolve, weights: bytes, before: bytes | None, keep: bool
) -> tuple[Row, bytes | None, float]:
    """The row of a cell, the weights that it leaves (with `keep`), and the seconds that it took.

    weights: of its fold. before: of the session before it.
    """
    began = time.perf_counter()
    with _alone, one_thread():
        fold, settings = cell.fold, cell.settings
        rec = _keep(("recordings", fold.source), fold.source.load)
        start = _pretrained(fold, weights, resolve)
        rule = Rule.of(settings["rule"])

        def task_of(calibration: Any, test: Any) -> Task:
            return Task(rec, fold.subject, cell.seed, calibration, test, _silent, fold.transform)

        task = task_of(cell.calibration, cell.test)
        if len(cell.replay):
            task.again = _recordings(fold).signal(cell.replay), rec.y[cell.replay]
        earlier = [task_of(*pair) for pair in cell.earlier]
        package = None
        if not rule.in_torch:
            options = {k: v for k, v in settings.items() if k not in ("scenario", "dataset")}
            key = ("package", fold.key, json.dumps(options, sort_keys=True))
            try:
                package = _keep(
                    key, lambda: compiled(start, task.x[:1], settings["rule"], settings)
                )
            except BioTrainError:
                if rule.trains != "adabn":
                    raise
        probes = [one.x_test for one in earlier]
        if len(cell.others):
            probes.append(_recordings(fold).signal(cell.others))
        measured = calibrate(
            task,
            start,
            cell.strategy,
            settings,
            package=package,
            weights=None if before is None else _state(before),
            probes=probes,
            keep=keep and rule.trains != "none",
        )
        right = [logits.argmax(1) for logits in measured.probed]
        plan = None if package is None else package.plan
        row = {
            "key": cell.key,
            **task.row(settings, cell.strategy, measured.logits, measured.cost),
            "ms_per_sample": (plan.ms_per_sample or None) if plan else None,
            "mj_per_sample": (plan.mj_per_sample or None) if plan else None,
            "windows_per_class": cell.size,
            "windows": [len(cell.calibration), len(cell.test)],
            "replayed": len(cell.replay),
            "kept": measured.kept,
            "before": measured.curve[0],
            "curve": measured.curve,
            "confusion": _confusion(measured.logits.argmax(1), task.y_test, rec.n_classes),
            "others": accuracy(right[-1], rec.y[cell.others]) if len(cell.others) else None,
            "earlier": [
                {"session": one.session, "accuracy": accuracy(labels, one.y_test)}
                for one, labels in zip(earlier, right, strict=False)
            ],
            "notes": task.notes,
        }
        left = None if measured.state is None else safetensors.numpy.save(measured.state)
        if keep and left is None:  # nothing trained: what it started from
            left = before or b""
        return row, left, time.perf_counter() - began


def _state(weights: bytes) -> State | None:
    return safetensors.numpy.load(weights) if weights else None


def _confusion(labels: Any, y: Any, classes: int) -> list[list[int]]:
    """How often class i (row) was taken for class j (column)."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (y, labels), 1)
    return [[int(n) for n in row] for row in counts]


def leave_with_parent() -> None:
    """End this worker when the process that started it has ended, however it ended; that process,
    not this one, answers an interruption from the keyboard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
