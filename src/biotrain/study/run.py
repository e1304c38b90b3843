# SPDX-License-Identifier: Apache-2.0
"""Run a study: compute the cells that its folder does not hold yet, on this machine or a cluster.

The leader hands out jobs and writes their results; a worker needs the recordings and BioTrain,
but no common file system. Pretraining goes before the cells that start from it, a session before
the next one.
"""

import multiprocessing
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biotrain import __version__
from biotrain.errors import BioTrainError
from biotrain.study.cells import Cell, Fold, Resolve, builtin, expand, needed_before
from biotrain.study.rows import StudyRow
from biotrain.study.spec import Spec
from biotrain.study.store import Store, StoreError, StudyRecord
from biotrain.study.work import Computed, Pretrained, compute, leave_with_parent, pretrain_fold


@dataclass(frozen=True)
class Event:
    """A job is done; before the first one, what there is to do."""

    text: str
    done: int  # jobs, dropped ones included
    total: int
    seconds: float  # that this one took
    seconds_left: float | None  # an estimate
    row: StudyRow | None = None


Watch = Callable[[Event], None]
MOST_JOBS = 256
"""Processes that a study starts on one machine; all of them are started at once."""


@dataclass(frozen=True)
class Outcome:
    """What a run of a study gave.

    rows: of every cell that has a result, in the order of the study. failures: a line per cell or
    fold that failed. left_out: what the recordings do not allow. notes: a line per front end, and
    on what was mended in the folder.
    computed, found: cells that were computed now, and those that had a result already.
    """

    rows: list[StudyRow]
    failures: list[str]
    left_out: list[str]
    notes: list[str]
    computed: int
    found: int

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain lists and dicts."""
        return {**vars(self), "rows": [row.to_json() for row in self.rows]}


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
    if not 1 <= jobs <= MOST_JOBS:
        raise BioTrainError(f"jobs is the number of processes, 1 to {MOST_JOBS}; not {jobs}")
    expanded = expand(spec, resolve)
    cells, left_out = expanded.cells, expanded.left_out
    with Store(folder) as store:
        found = sum(cell.key in store.rows for cell in cells)
        study = StudyRecord(
            title=spec.title,
            biotrain=__version__,
            python=platform.python_version(),
            torch=torch.__version__,
            numpy=np.__version__,
            machine=f"{platform.system()} {platform.machine()}",
            command=command,
            spec=spec.to_dict(),
            sets={name: facts.to_json() for name, facts in expanded.sets.items()},
            left_out=left_out,
            failures=[],
            keys=[cell.key for cell in cells],
        )
        store.describe(study)
        leader = _Leader(cells, store, resolve, watch or _unseen)
        if leader.total:
            with _workers(jobs, cluster) as (executor, width):
                leader.work(executor, width)
        if leader.failures:
            store.describe(replace(study, failures=leader.failures))
        rows = [store.rows[cell.key] for cell in cells if cell.key in store.rows]
    notes = [*store.notes, *expanded.notes]
    return Outcome(rows, leader.failures, left_out, notes, len(rows) - found, found)


def _unseen(event: Event) -> None:
    """Progress that nobody watches."""


Job = Fold | Cell


@dataclass
class _Durations:
    """How long the jobs of one kind (folds or cells) took, and how many are left."""

    seconds: list[float] = field(default_factory=list)
    left: int = 0

    def estimate(self) -> float | None:
        """Seconds of work that are left."""
        if not self.left:
            return 0.0
        return self.left * float(np.mean(self.seconds)) if self.seconds else None


class _Leader:
    """Hands out jobs and stores their results."""

    def __init__(self, cells: list[Cell], store: Store, resolve: Resolve, watch: Watch) -> None:
        self.store, self.resolve, self.watch = store, resolve, watch
        self.failures: list[str] = []
        self.followers = needed_before(cells)
        self.missing = self._missing(cells)
        folds = {cell.fold.key: cell.fold for cell in cells if cell.key in self.missing}
        self.waiting: dict[str, list[Cell]] = {}
        self.ready: list[Job] = []
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
        self.durations = {
            Fold: _Durations(left=len(todo)),
            Cell: _Durations(left=len(self.missing)),
        }
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
        """Hand out jobs to `width` workers until none is left."""
        folds = self.durations[Fold].left
        text = f"{len(self.missing)} cells to compute"
        text += f", {folds} networks to pretrain first" if folds else ""
        self.watch(Event(text, 0, self.total, 0.0, None))
        running: dict[Future[Any], Job] = {}
        while self.ready or running:
            while self.ready and len(running) < width:
                job = self.ready.pop()
                running[self._submit(executor, job)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                self._finish(running.pop(future), future, width)

    def _submit(self, executor: Executor, job: Job) -> Future[Any]:
        if isinstance(job, Fold):
            return executor.submit(pretrain_fold, job, self.resolve)
        before = None if job.before is None else self.store.weights("adapted", job.before)
        weights = self.store.weights("pretrained", job.fold.key)
        keep = job.key in self.followers
        return executor.submit(compute, job, self.resolve, weights, before, keep)

    def _finish(self, job: Job, future: Future[Any], width: int) -> None:
        row: StudyRow | None = None
        seconds = 0.0
        dropped = 1
        try:
            result: Pretrained | Computed = future.result()
            seconds = result.seconds
            if isinstance(result, Pretrained):
                self.store.put_weights("pretrained", job.key, result.weights)
            else:
                row = result.row
                if result.weights is not None:
                    self.store.put_weights("adapted", job.key, result.weights)
                self.store.add(row)
        except BrokenProcessPool as error:
            raise BioTrainError(
                "a worker died (out of memory?); finished cells are stored: run the same command "
                "again, with fewer --jobs"
            ) from error
        except StoreError:  # no other cell could be stored either
            raise
        except BioTrainError as error:
            self.failures.append(f"{job.text}: {error}")
            dropped += self._drop(job.key)
        else:
            self.store.time(job.key, seconds)
            self.ready += self.waiting.pop(job.key, [])
        durations = self.durations[type(job)]
        durations.left -= 1
        self.durations[Cell].left -= dropped - 1
        if seconds:
            durations.seconds.append(seconds)
        self.done += dropped
        self.watch(Event(job.text, self.done, self.total, seconds, self._left(width), row))

    def _drop(self, key: str) -> int:
        """Forget the cells that wait for a job that failed; returns how many there were."""
        dropped = self.waiting.pop(key, [])
        return len(dropped) + sum(self._drop(cell.key) for cell in dropped)

    def _left(self, width: int) -> float | None:
        parts = [one.estimate() for one in self.durations.values()]
        known = [part for part in parts if part is not None]
        return sum(known) / width if len(known) == len(parts) else None


class _InProcess(Executor):
    """Runs each job in this process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn`; the future holds an error, an interruption is raised."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def _workers(jobs: int, cluster: str | None) -> Iterator[tuple[Executor, int]]:
    """The executor that runs the jobs, and how many at a time."""
    if cluster is not None:
        with _dask(cluster) as both:
            yield both
        return
    if jobs == 1:
        yield _InProcess(), 1
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
    """Do not wait for jobs whose results nobody will write."""
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
