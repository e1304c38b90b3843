# SPDX-License-Identifier: Apache-2.0
"""Run a study: compute the cells that its folder does not hold yet, on this machine or a cluster.

The leader hands out work and writes what comes back; a worker needs the recordings and BioTrain,
but no common file system. Pretraining goes before the cells that start from it, a session before
the next one.
"""

import multiprocessing
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biotrain import __version__
from biotrain.errors import BioTrainError
from biotrain.study.calibrate import Row
from biotrain.study.cells import Cell, Fold, Resolve, builtin, expand, needed_before
from biotrain.study.spec import Spec
from biotrain.study.store import Store
from biotrain.study.work import compute, leave_with_parent, pretrain_fold


@dataclass(frozen=True)
class Event:
    """One piece of work is done; before the first one, what there is to do."""

    text: str
    done: int  # pieces, those that were found done included
    total: int
    seconds: float  # that this one took
    seconds_left: float | None  # an estimate
    row: Row | None = None


Watch = Callable[[Event], None]


@dataclass(frozen=True)
class Outcome:
    """rows: of every cell that has a result, in the order of the study. failures: cell or fold and
    why. left_out: what the recordings do not allow. notes: what front ends did. computed, found:
    cells."""

    rows: list[Row]
    failures: list[str]
    left_out: list[str]
    notes: list[str]
    computed: int
    found: int


def run(
    spec: Spec,
    folder: str | Path,
    *,
    resolve: Resolve = builtin,
    jobs: int = 1,
    cluster: str | None = None,
    watch: Watch | None = None,
    command: str = "",
) -> Outcome:
    """Compute what is missing of `spec` in `folder`.

    resolve: a function of a module (workers import it) that turns a model's name into a network.
    jobs: processes on this machine; 1 works in this one. cluster: "dask://HOST:PORT" in their
    place. command: what the report says it was made with. Results depend on neither.

    Raises:
        BioTrainError: recordings or networks that cannot be had; a folder that cannot be written,
            or in which another study runs; no such cluster; a worker that died. An error of one
            cell does not end the study; it is among the failures.
    """
    if jobs < 1:
        raise BioTrainError(f"jobs is the number of processes, from 1; not {jobs}")
    expanded = expand(spec, resolve)
    cells, left_out = expanded.cells, expanded.left_out
    with Store(folder) as store:
        found = sum(cell.key in store.rows for cell in cells)
        study: Row = {
            "title": spec.title,
            "biotrain": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "machine": f"{platform.system()} {platform.machine()}",
            "command": command,
            "spec": spec.to_dict(),
            "sets": expanded.sets,
            "left_out": left_out,
            "failures": [],
            "keys": [cell.key for cell in cells],
        }
        store.describe(study)
        lead = _Lead(cells, store, resolve, watch or _unseen)
        if lead.total:
            with _workers(jobs, cluster) as (executor, width):
                lead.work(executor, width)
        if lead.failures:
            store.describe({**study, "failures": lead.failures})
        rows = [store.rows[cell.key] for cell in cells if cell.key in store.rows]
    return Outcome(rows, lead.failures, left_out, expanded.notes, len(rows) - found, found)


def _unseen(event: Event) -> None:
    """Progress that nobody watches."""


Piece = Fold | Cell


@dataclass
class _Clock:
    """How long the pieces of one kind take."""

    seconds: list[float] = field(default_factory=list)
    left: int = 0

    def estimate(self) -> float | None:
        """Seconds of work that are left."""
        if not self.left:
            return 0.0
        return self.left * float(np.mean(self.seconds)) if self.seconds else None


class _Lead:
    """Hands out work and writes down what comes back."""

    def __init__(self, cells: list[Cell], store: Store, resolve: Resolve, watch: Watch) -> None:
        self.store, self.resolve, self.watch = store, resolve, watch
        self.failures: list[str] = []
        self.followers = needed_before(cells)
        self.missing = self._missing(cells)
        folds = {cell.fold.key: cell.fold for cell in cells if cell.key in self.missing}
        self.waiting: dict[str, list[Cell]] = {}
        self.ready: list[Piece] = []
        for cell in reversed(cells):  # the last of the list is taken first
            if cell.key not in self.missing:
                continue
            if cell.before in self.missing:
                self.waiting.setdefault(str(cell.before), []).append(cell)
            elif store.has_weights("pretrained", cell.fold.key):
                self.ready.append(cell)
            else:
                self.waiting.setdefault(cell.fold.key, []).append(cell)
        todo = [fold for key, fold in folds.items() if key in self.waiting]
        self.ready += reversed(todo)
        self.clocks = {Fold: _Clock(left=len(todo)), Cell: _Clock(left=len(self.missing))}
        self.total, self.done = len(todo) + len(self.missing), 0

    def _missing(self, cells: list[Cell]) -> dict[str, Cell]:
        """Cells without a result, and those whose weights such a one needs."""
        missing: dict[str, Cell] = {}
        for cell in reversed(cells):  # a session comes before those that start from it
            needed = any(later.key in missing for later in self.followers.get(cell.key, ()))
            has_weights = self.store.has_weights("adapted", cell.key)
            if cell.key not in self.store.rows or (needed and not has_weights):
                missing[cell.key] = cell
        return missing

    def work(self, executor: Executor, width: int) -> None:
        """Until nothing is left."""
        folds = self.clocks[Fold].left
        text = f"{len(self.missing)} cells to compute"
        text += f", {folds} networks to pretrain first" if folds else ""
        self.watch(Event(text, 0, self.total, 0.0, None))
        running: dict[Future[Any], Piece] = {}
        while self.ready or running:
            while self.ready and len(running) < width:
                piece = self.ready.pop()
                running[self._submit(executor, piece)] = piece
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                self._finish(running.pop(future), future, width)

    def _submit(self, executor: Executor, piece: Piece) -> Future[Any]:
        if isinstance(piece, Fold):
            return executor.submit(pretrain_fold, piece, self.resolve)
        before = None if piece.before is None else self.store.weights("adapted", piece.before)
        weights = self.store.weights("pretrained", piece.fold.key)
        keep = piece.key in self.followers
        return executor.submit(compute, piece, self.resolve, weights, before, keep)

    def _finish(self, piece: Piece, future: Future[Any], width: int) -> None:
        row: Row | None = None
        seconds = 0.0
        dropped = 1
        try:
            if isinstance(piece, Fold):
                weights, seconds = future.result()
                self.store.put_weights("pretrained", piece.key, weights)
            else:
                row, left, seconds = future.result()
                assert row is not None
                if left is not None:
                    self.store.put_weights("adapted", piece.key, left)
                self.store.add(row)
        except BrokenProcessPool as error:
            raise BioTrainError(
                "a worker died (out of memory?); what is done is kept: run the same command again, "
                "with fewer --jobs"
            ) from error
        except BioTrainError as error:
            self.failures.append(f"{piece.text}: {error}")
            dropped += self._drop(piece.key)
        else:
            self.store.time(piece.key, seconds)
            self.ready += self.waiting.pop(piece.key, [])
        clock = self.clocks[type(piece)]
        clock.left -= 1
        self.clocks[Cell].left -= dropped - 1
        if seconds:
            clock.seconds.append(seconds)
        self.done += dropped
        self.watch(Event(piece.text, self.done, self.total, seconds, self._left(width), row))

    def _drop(self, key: str) -> int:
        """Forget the cells that wait for what failed; how many."""
        dropped = self.waiting.pop(key, [])
        return len(dropped) + sum(self._drop(cell.key) for cell in dropped)

    def _left(self, width: int) -> float | None:
        parts = [clock.estimate() for clock in self.clocks.values()]
        known = [part for part in parts if part is not None]
        return sum(known) / width if len(known) == len(parts) else None


class _Here(Executor):
    """Works in this process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn`; an error is told by the future, an interruption is not."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def _workers(jobs: int, cluster: str | None) -> Iterator[tuple[Executor, int]]:
    """Whoever does the work, and how many pieces at a time."""
    if cluster is not None:
        with _dask(cluster) as both:
            yield both
        return
    if jobs == 1:
        yield _Here(), 1
        return
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=leave_with_parent
    )
    try:
        yield pool, jobs
    except BaseException:
        _end(pool)
        raise
    pool.shutdown()


def _end(pool: ProcessPoolExecutor) -> None:
    """Do not wait for pieces whose results nobody will write."""
    workers = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.terminate()


@contextmanager
def _dask(address: str) -> Iterator[tuple[Executor, int]]:
    """The workers of an existing Dask cluster; "dask://HOST:PORT" is its scheduler."""
    kind, _, where = address.partition("://")
    if kind != "dask" or not where:
        raise BioTrainError(f"a cluster is dask://HOST:PORT, not '{address}'")
    try:
        distributed: Any = import_module("dask.distributed")
    except ImportError as error:
        raise BioTrainError("a cluster needs Dask: pip install 'biotrain[cluster]'") from error
    try:
        client = distributed.Client(f"tcp://{where}", timeout=10)
    except (OSError, TimeoutError, ValueError) as error:
        raise BioTrainError(f"no Dask scheduler answers at {where}: {error}") from error
    with client:
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
        if not workers:
            raise BioTrainError(f"the Dask cluster at {where} has no worker")
        yield client.get_executor(pure=False, retries=2), workers


__all__ = ["Event", "Outcome", "run"]
