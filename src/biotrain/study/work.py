# SPDX-License-Identifier: Apache-2.0
"""What a worker of a study does, wherever it runs: pretrain a fold, compute a cell. Its results
depend on nothing but its arguments; weights are exchanged as bytes (safetensors)."""

import multiprocessing
import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import safetensors.numpy
import safetensors.torch
from torch import nn

from biotrain.errors import BioTrainError
from biotrain.study.backends import State
from biotrain.study.calibrate import Calibrated, calibrate, compiled
from biotrain.study.cells import Cell, Fold, Resolve
from biotrain.study.data.recordings import Recordings
from biotrain.study.labelfree import transformed
from biotrain.study.metrics import accuracy, confusion, packed
from biotrain.study.plateau import is_near_chance, own_accuracy, warning
from biotrain.study.pretrain import pretrain, untrained
from biotrain.study.rows import EarlierSession, StudyRow
from biotrain.study.rules import Rule
from biotrain.study.task import Labelled, Task
from biotrain.study.torch_training import one_thread

if TYPE_CHECKING:
    from biotrain.package import Package

T = TypeVar("T")
CACHED_PER_KIND = 4
"""Recordings, networks and packages that a worker caches, of each kind."""

_torch_lock = threading.Lock()  # torch's generator and its number of threads belong to the process
_cache: OrderedDict[tuple[Any, ...], Any] = OrderedDict()


def _cached(key: tuple[Any, ...], make: Callable[[], T]) -> T:
    """What `make` made for `key`, cached while it is among the last CACHED_PER_KIND of its kind."""
    if key not in _cache:
        _cache[key] = make()
        same = [k for k in _cache if k[0] == key[0]]
        if len(same) > CACHED_PER_KIND:
            del _cache[same[0]]
    _cache.move_to_end(key)
    found: T = _cache[key]
    return found


@dataclass(frozen=True)
class Pretrained:
    """The weights of a fold, and the seconds that pretraining took."""

    weights: bytes
    seconds: float


@dataclass(frozen=True)
class Computed:
    """The result of a cell, the weights that it left where a later session needs them, and the
    seconds that it took."""

    row: StudyRow
    weights: bytes | None
    seconds: float


def pretrain_fold(fold: Fold, resolve: Resolve) -> Pretrained:
    """Pretrain the network of `fold` on everybody else."""
    began = time.perf_counter()
    with _torch_lock, one_thread():
        rec = _recordings(fold)
        module = pretrain(
            rec,
            resolve(fold.model)[0],
            np.flatnonzero(rec.subject != fold.subject)[:: fold.pretrain.every],
            fold.pretrain,
            norm=fold.norm,
            seed=fold.seed,
        )
        state = {k: v.contiguous() for k, v in module.state_dict().items()}
        return Pretrained(safetensors.torch.save(state), time.perf_counter() - began)


def _recordings(fold: Fold) -> Recordings:
    """The recordings of a fold, after its transform."""
    plain = _cached(("recordings", fold.source), fold.source.load)
    if not fold.transform:
        return plain
    key = ("transformed", fold.source, fold.transform)
    return _cached(key, lambda: transformed(plain, fold.transform))


def _pretrained(fold: Fold, weights: bytes, resolve: Resolve) -> nn.Module:
    """The network of a fold with its pretrained weights, in eval mode."""

    def make() -> nn.Module:
        module = untrained(_recordings(fold), resolve(fold.model)[0], fold.norm)
        module.load_state_dict(safetensors.torch.load(weights))
        return module.eval()

    return _cached(("network", fold.key), make)


def _package(cell: Cell, rule: Rule, start: nn.Module, example: Any) -> "Package | None":
    """The package of a cell, shared by cells that differ in their windows only; None where it runs
    in torch."""
    if rule.in_torch:
        return None
    strategy = cell.strategy
    key = ("package", cell.fold.key, strategy.rule, strategy.recipe)
    try:
        return _cached(key, lambda: compiled(start, example, strategy.rule, strategy.recipe))
    except BioTrainError:
        if rule.trains != "adabn":
            raise
        return None


def compute(
    cell: Cell, resolve: Resolve, weights: bytes, before: bytes | None, keep: bool
) -> Computed:
    """Calibrate and test a cell; `keep`: also return the weights that it leaves.

    weights: of its fold. before: of the session before it.
    """
    began = time.perf_counter()
    with _torch_lock, one_thread():
        fold = cell.fold
        rec = _cached(("recordings", fold.source), fold.source.load)
        start = _pretrained(fold, weights, resolve)
        rule = Rule.parse(cell.strategy.rule)
        task, *earlier = (
            Task(
                rec,
                fold.subject,
                cell.seed,
                split,
                transform=fold.transform,
                bound=cell.strategy.recipe.artefacts,
            )
            for split in (cell.split, *cell.earlier)
        )
        if len(cell.replay):
            task.replayed = Labelled(_recordings(fold).signal(cell.replay), rec.y[cell.replay])
        probes = [one.x_test for one in earlier]
        if len(cell.others):
            probes.append(_recordings(fold).signal(cell.others))
        package = _package(cell, rule, start, task.x[:1])
        measured = calibrate(
            task,
            start,
            cell.strategy,
            package=package,
            weights=None if before is None else _state(before),
            probes=probes,
            keep=keep and rule.trains != "none",
        )
        row = _row(cell, task, earlier, measured, package, start)
        left = None if measured.state is None else safetensors.numpy.save(dict(measured.state))
        if keep and left is None:  # nothing trained: what it started from
            left = before or b""
        return Computed(row, left, time.perf_counter() - began)


def _row(
    cell: Cell,
    task: Task,
    earlier: Sequence[Task],
    measured: Calibrated,
    package: "Package | None",
    start: nn.Module,
) -> StudyRow:
    """The line of a cell in results.jsonl."""
    rule, norm = Rule.parse(cell.strategy.rule), cell.strategy.recipe.norm
    name = cell.strategy.name
    result = task.row(
        cell.experiment, name, rule.trained_norm(norm), measured.logits, measured.cost
    )
    own = _own(cell, start)
    if own is not None and is_near_chance(own, result.chance):
        task.note(warning(own, result.chance))
    predicted = [logits.argmax(1) for logits in measured.probed]
    others = accuracy(predicted[-1], task.rec.y[cell.others]) if len(cell.others) else None
    plan = None if package is None else package.plan
    labels = measured.logits.argmax(1)
    counts = confusion(labels, task.y_test, task.rec.n_classes)
    return StudyRow(
        **vars(result),
        key=cell.key,
        ms_per_sample=(plan.ms_per_sample or None) if plan else None,
        mj_per_sample=(plan.mj_per_sample or None) if plan else None,
        windows_per_class=cell.size,
        windows=tuple(len(part) for part in cell.split),
        replayed=len(cell.replay),
        kept=measured.kept,
        before=measured.curve[0],
        curve=tuple(measured.curve),
        confusion=tuple(map(tuple, counts)),
        others=others,
        earlier=tuple(
            EarlierSession(one.session, accuracy(theirs, one.y_test))
            for one, theirs in zip(earlier, predicted, strict=False)
        ),
        notes=tuple(task.notes),
        own_people=own,
        hits=packed(labels == task.y_test),
    )


def _own(cell: Cell, start: nn.Module) -> float | None:
    """Accuracy of the pretrained network on its own people; None where nobody asked for them."""
    if not len(cell.others):
        return None
    key = ("own", cell.fold.key, cell.others.tobytes())
    return _cached(key, lambda: own_accuracy(start, _recordings(cell.fold), cell.others))


def _state(weights: bytes) -> State | None:
    return safetensors.numpy.load(weights) if weights else None


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
