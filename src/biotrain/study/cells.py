# SPDX-License-Identifier: Apache-2.0
"""A study as cells: each is one calibration and one test, named by the hash of all that decides
it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from biotrain import __version__
from biotrain.errors import BioTrainError
from biotrain.frontend import FrontSpec, read_front
from biotrain.study.data.recordings import Recordings
from biotrain.study.data.sources import recordings
from biotrain.study.data.splits import (
    Indices,
    SplitError,
    apart,
    calibration_sizes,
    day1,
    default_split,
    replay_of,
    within,
)
from biotrain.study.decisive import decisive
from biotrain.study.experiment import Experiment, dataset_name
from biotrain.study.pretrain import Factory, has_batch_norm, untrained
from biotrain.study.rules import NORMS, Rule
from biotrain.study.settings import PretrainSettings, Strategy
from biotrain.study.spec import Data, Spec

Network = str | Factory
Resolve = Callable[[str], tuple[Network, bool]]
"""The network that a study's model names, and whether it takes `norm`."""

Split = tuple[Indices, Indices]
"""Windows that calibrate, and windows that test."""


@dataclass(frozen=True)
class Source:
    """Where recordings come from, through which front end, and the hash of what is in them."""

    source: str
    decimate: float | None
    among: tuple[int | str, ...] | None
    front: FrontSpec | None
    content: str

    def load(self) -> Recordings:
        """The recordings; BioTrainError where they are not those of the study."""
        rec, _ = part_of(self.source, self.decimate, self.front, self.among)
        if content_of(rec) != self.content:
            raise BioTrainError(f"{self.source}: here are other recordings than the study has")
        return rec


@dataclass(frozen=True)
class Fold:
    """One network pretrained on everybody but `subject`; strategies and sessions share it."""

    key: str
    source: Source
    model: str
    norm: str  # while pretraining
    transform: str
    subject: int
    seed: int  # of the pretraining
    pretrain: PretrainSettings

    @property
    def text(self) -> str:
        """What a progress bar says of it."""
        after = f", {self.transform}" if self.transform else ""
        return f"{self.model} without subject {self.subject}, seed {self.seed}: pretraining{after}"


@dataclass(frozen=True, eq=False)
class Cell:
    """One calibration and its test.

    seed: of the order of the windows. split: windows that calibrate, and those that test. size:
    windows per class, None for all. before: key of the cell whose weights it starts from; None: the
    pretrained ones. earlier: (calibration, test) of the sessions before. others, replay: windows of
    other people that are tested afterwards, and windows of other people and earlier sessions that
    every epoch sees too.
    """

    key: str
    fold: Fold
    experiment: Experiment
    strategy: Strategy
    seed: int
    session: int
    split: Split
    size: int | None
    before: str | None
    earlier: tuple[Split, ...]
    others: Indices
    replay: Indices

    @property
    def text(self) -> str:
        """What a progress bar says of it."""
        fold = self.fold
        size = f", {self.size} per class" if self.size else ""
        return (
            f"{self.experiment.dataset}, {fold.model}, subject {fold.subject}, session "
            f"{self.session}{size}, seed {self.seed}: {self.strategy.name}"
        )


@dataclass(frozen=True)
class SetFacts:
    """What a report says of a set of recordings; `front` is a line on its front end."""

    windows: int
    subjects: int
    channels: int
    samples: int
    fs: float
    classes: list[str]
    split: str
    content: str
    front: str = ""

    def to_json(self) -> dict[str, Any]:
        """The facts as study.json holds them: `front` only where there is one."""
        return {k: v for k, v in asdict(self).items() if k != "front" or v}


def part_of(
    source: str, hz: float | None, front: FrontSpec | None, among: Sequence[int | str] | None
) -> tuple[Recordings, str]:
    """The recordings of a source, with the subjects `among` only (None: all); and a line about the
    front end, "" without one."""
    rec, note = recordings(source, hz, front)
    if among is not None:
        rec = rec.take(np.flatnonzero(np.isin(rec.subject, rec.people(among))))
    return rec, note


def builtin(name: str) -> tuple[Network, bool]:
    """Resolve built-in models only."""
    return name, True


def digest(*parts: Any) -> str:
    """sha256 of `parts` as JSON, in hex; the same for equal values whatever their order of keys."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


TOLD_ONLY = ("subject_names", "session_names", "run_names", "notes", "left_out")
"""Fields of recordings that people read and no result depends on."""


def content_of(rec: Recordings) -> str:
    """sha256 of every array and number of recordings, whatever file they came from."""
    sha = hashlib.sha256()
    for f in fields(rec):
        if f.name in TOLD_ONLY:
            continue
        value = getattr(rec, f.name)
        if isinstance(value, np.ndarray):
            sha.update(f"{f.name} {value.dtype.str} {value.shape}\n".encode())
            sha.update(np.ascontiguousarray(value).tobytes())
        else:
            sha.update(f"{f.name} {value!r}\n".encode())
    return sha.hexdigest()


@dataclass(frozen=True)
class Expanded:
    """The cells of a study in the order of its tables, what is left out and why, what a report
    says of each set of recordings, and a line on each front end."""

    cells: list[Cell]
    left_out: list[str]
    sets: dict[str, SetFacts]
    notes: list[str]


def expand(spec: Spec, resolve: Resolve = builtin) -> Expanded:
    """All cells of a study.

    Raises BioTrainError for recordings that cannot be read or an unknown subject, and where no cell
    is left.
    """
    cells: list[Cell] = []
    left_out: dict[str, None] = {}
    sets: dict[str, SetFacts] = {}
    notes: list[str] = []
    for data in spec.data:
        front = None if data.front is None else read_front(data.front)
        rec, note = part_of(data.source, data.decimate, front, data.among)
        notes += [note] if note else []
        if len(rec.subjects) < 2:
            raise SplitError(f"{rec.name}: one subject only; there are no others to pretrain on")
        for model in data.models:
            source = Source(data.source, data.decimate, data.among, front, content_of(rec))
            expansion = _Expansion(spec, data, _Loaded(rec, source, note), model, resolve, left_out)
            cells += expansion.cells()
            sets[dataset_name(rec)] = expansion.facts
    if not cells:
        raise BioTrainError(f"nothing to do: {'; '.join(left_out)}")
    seen: dict[str, Cell] = {}
    for cell in cells:
        seen.setdefault(cell.key, cell)
    return Expanded(list(seen.values()), list(left_out), sets, notes)


@dataclass(frozen=True)
class _Loaded:
    """Recordings, where they came from, and a line about the front end."""

    rec: Recordings
    source: Source
    note: str


@dataclass(frozen=True)
class _Part:
    """One scenario's split of one session; size: windows per class, None for all."""

    scenario: str
    session: int
    split: Split
    size: int | None = None


class _Expansion:
    """One set of recordings with one model."""

    def __init__(
        self,
        spec: Spec,
        data: Data,
        loaded: _Loaded,
        model: str,
        resolve: Resolve,
        left_out: dict[str, None],
    ) -> None:
        self.spec, self.data, self.model, self.left_out = spec, data, model, left_out
        self.network, self.takes_norm = resolve(model)
        self.rec, self.source, self.note = loaded.rec, loaded.source, loaded.note
        rec = self.rec
        self.split = data.split or default_split(rec)
        self.scenarios = data.scenarios or spec.scenarios
        self.fingerprints: dict[str, str] = {}
        self.people: dict[int, Indices] = {}
        self.single: list[int] = []  # subjects with one session
        strategies = data.strategies or spec.strategies
        takes = has_batch_norm(rec, self.network)
        self.strategies = [s for s in strategies if takes or not Rule.parse(s.rule).adabn]
        if len(self.strategies) < len(strategies):
            text = f"{model} has no BatchNorm: no statistics to re-estimate, so nothing with adabn"
            self.left_out[text] = None
        self.tested = rec.people(data.subjects) if data.subjects else rec.subjects

    @property
    def facts(self) -> SetFacts:
        """What a report says of the recordings."""
        return SetFacts(
            windows=len(self.rec),
            subjects=len(self.rec.subjects),
            channels=self.rec.n_chans,
            samples=self.rec.n_times,
            fs=self.rec.fs,
            classes=list(self.rec.classes),
            split=self.split,
            content=self.source.content,
            front=self.note,
        )

    def cells(self) -> Iterator[Cell]:
        """The cells of every subject, seed and strategy."""
        for subject in self.tested:
            parts = list(self.parts(subject))
            everybody = np.flatnonzero(self.rec.subject != subject)
            count = min(self.spec.others, len(everybody))
            others = everybody[np.linspace(0, len(everybody) - 1, count).astype(int)]
            for seed in self.spec.seeds:
                for strategy in self.strategies:
                    yield from self.chain(subject, seed, strategy, parts, others)
        if self.single:
            who = ", ".join(self.rec.name_of("subject", one) for one in self.single)
            text = f"{self.rec.name}: one session only, so nothing longitudinal, of subject {who}"
            self.left_out[text] = None

    def parts(self, subject: int) -> Iterator[_Part]:
        """The splits of the scenarios, those of sessions in their order."""
        rec, data = self.rec, self.data
        options = (self.split, data.calibration, data.test_repetition)
        first, *later = rec.sessions(subject)
        try:
            if {"day1", "longitudinal"} & set(self.scenarios):
                yield _Part("day1", first, day1(rec, subject, *options))
            if "sizes" in self.scenarios:
                for size, pair in zip(
                    self.spec.sizes,
                    calibration_sizes(rec, subject, self.spec.sizes, *options),
                    strict=False,
                ):
                    yield _Part("sizes", first, pair, size)
        except SplitError as error:
            self.left_out[str(error)] = None
            return
        if "longitudinal" not in self.scenarios:
            return
        if not later:
            self.single.append(subject)
        for session in later:
            try:
                yield _Part("longitudinal", session, within(rec, subject, session, *options))
            except SplitError as error:
                self.left_out[str(error)] = None

    def untested(self, subject: int, others: Indices) -> Indices:
        """Windows of everybody but `subject` that share nothing with the tested ones, `others`."""
        if subject not in self.people:
            everybody = np.flatnonzero(self.rec.subject != subject)
            self.people[subject] = apart(self.rec, everybody, others)
        return self.people[subject]

    def fold(self, subject: int, seed: int, rule: Rule, norm: str) -> Fold:
        """The pretraining that a strategy of `rule` and `norm` starts from."""
        way = rule.pretrained_norm(norm)
        if way not in self.fingerprints:
            self.fingerprints[way] = digest(repr(untrained(self.rec, self.network, way)))
        data, pretraining = self.data, self.spec.pretrain
        if data.pretrain_every is not None:
            pretraining = replace(pretraining, every=data.pretrain_every)
        shared = pretraining.seed if data.pretrain_seed is None else data.pretrain_seed
        seed = seed if shared is None else shared
        pretraining = replace(pretraining, seed=None)
        key = digest(
            "pretrained",
            __version__,
            self.source.content,
            self.model,
            self.fingerprints[way],
            way,
            rule.transform,
            subject,
            seed,
            pretraining.decisive(),
        )
        more = (self.model, way, rule.transform, subject, seed, pretraining)
        return Fold(key, self.source, *more)

    def chain(
        self,
        subject: int,
        seed: int,
        strategy: Strategy,
        parts: list[_Part],
        others: Indices,
    ) -> Iterator[Cell]:
        """The cells of one strategy: each session starts where the one before it ended."""
        rule = Rule.parse(strategy.rule)
        if not self.takes_norm and NORMS[strategy.recipe.norm].pretrained == "group":
            strategy = replace(strategy, recipe=replace(strategy.recipe, norm="convert"))
        fold = self.fold(subject, seed, rule, strategy.recipe.norm)
        wanted = strategy.recipe.replay if rule.learns_labels else 0
        before: str | None = None
        earlier: tuple[Split, ...] = ()
        for part in parts:
            alone = part.scenario == "sizes"
            replay = np.zeros(0, np.int64)
            if wanted:
                people = self.untested(subject, others)
                sessions = [] if alone else [calibration for calibration, _ in earlier]
                replay = replay_of(self.rec, people, sessions, wanted, seed)
            cell = Cell(
                "",
                fold,
                Experiment(dataset_name(self.rec), part.scenario, self.model),
                strategy,
                seed,
                part.session,
                part.split,
                part.size,
                None if alone else before,
                () if alone else earlier,
                others,
                replay,
            )
            key = key_of(cell)
            yield replace(cell, key=key)
            if not alone:
                before = key
                earlier = (*earlier, part.split)


def key_of(cell: Cell) -> str:
    """The hash of all that decides the result of a cell. Finished studies hold their results under
    it: what is hashed, and how, must stay."""
    split = [indices.tolist() for indices in cell.split]
    return digest(
        "cell",
        cell.fold.key,
        cell.experiment.dataset,
        cell.experiment.scenario,
        cell.strategy.name,
        cell.strategy.rule,
        decisive(cell.strategy.recipe, Rule.parse(cell.strategy.rule)),
        cell.size,
        cell.before,
        split,
        cell.others.tolist(),
        *([cell.seed] if cell.seed != cell.fold.seed else []),
        *([cell.replay.tolist()] if len(cell.replay) else []),
    )


def needed_before(cells: list[Cell]) -> Mapping[str, list[Cell]]:
    """Key of a cell -> the cells that start from its weights."""
    out: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.before is not None:
            out.setdefault(cell.before, []).append(cell)
    return out
