# SPDX-License-Identifier: Apache-2.0
"""Day-1 calibration of a new subject: pretrain on the others, adapt in the generated C, test.

Everything that a device would do runs in the C that the compiler emits, and so does pretraining
where the compiler takes the network; torch fine-tunes the conventional reference.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from biotrain.errors import BioTrainError
from biotrain.recipe import recipe_of
from biotrain.study.adapt_settings import AdaptRecord, AdaptSettings
from biotrain.study.calibrate import calibrate
from biotrain.study.data.recordings import Recordings
from biotrain.study.data.splits import Indices, SplitError, day1, default_split, replay_of
from biotrain.study.experiment import Experiment, dataset_name, model_name
from biotrain.study.labelfree import transformed
from biotrain.study.metrics import accuracy, balanced_accuracy
from biotrain.study.plateau import is_near_chance, own_accuracy, warning
from biotrain.study.pretrain import Factory, pretrain
from biotrain.study.recipes import COMPARED
from biotrain.study.rows import ResultRow
from biotrain.study.rules import REFERENCE, Rule
from biotrain.study.settings import Strategy
from biotrain.study.summary import Summary, summarize
from biotrain.study.task import Labelled, Progress, Task, silent
from biotrain.writing.files import Folder

__all__ = [
    "REFERENCE",
    "STRATEGIES",
    "AdaptResult",
    "AdaptSettings",
    "accuracy",
    "adapt",
    "balanced_accuracy",
    "dataset_name",
    "model_name",
    "summarize",
]

STRATEGIES = COMPARED
"""The strategies of a comparison, in the order of its table."""


@dataclass(frozen=True)
class Curve:
    """Accuracy on the test part before the first epoch and after each; `kept` is the epoch whose
    weights were tested (None: the last)."""

    subject: int
    session: int
    seed: int
    strategy: str
    accuracy: list[float]
    kept: int | None


@dataclass(frozen=True)
class AdaptResult:
    """What `adapt` measured.

    rows: one per subject, seed and strategy, with the fields of a study's (accuracies are
        fractions; ram_bytes and ops are None where nothing was compiled).
    curves: one per row. settings: everything that was chosen, to repeat it.
    """

    rows: tuple[ResultRow, ...]
    curves: tuple[Curve, ...]
    settings: AdaptRecord

    @property
    def summary(self) -> list[Summary]:
        """Per strategy: means over seeds within each subject, then mean and SD over subjects."""
        return summarize(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """`rows`, `summary`, `curves` and `settings` as plain lists and dicts."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "summary": [one.to_json() for one in self.summary],
            "curves": [asdict(curve) for curve in self.curves],
            "settings": self.settings.to_json(),
        }

    def to_json(self) -> str:
        """The result as JSON text; equal runs give equal text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


def adapt(
    rec: Recordings,
    model: str | Factory,
    subject: int | str | Iterable[int | str],
    strategies: Sequence[str] | None = None,
    settings: AdaptSettings | None = None,
    *,
    recipe: Any = None,
    progress: Progress | None = None,
    save_to: str | Path | Folder | None = None,
    **named: Any,
) -> AdaptResult:
    """Adapt `model` to `subject`, a subject that it has never seen, and test it.

    For each subject and seed: pretrain on all windows of the other subjects (every
    `pretrain_every`-th of them); cut the subject's first session by `split`; then, for each
    strategy, start from the pretrained weights, train `epochs` times over the calibration part in
    the generated C, one sample after the other, stepping every `accumulate` samples, and test.
    The C runs on the host, whatever `target` it is planned for, or where `on` says: the bits are
    the same everywhere.

    model: name of a built-in network, or a callable that takes n_chans, n_times, n_outputs, sfreq
        and norm and returns a torch module.
    subject: one, several, or "all"; by number, or by the name in the files.
    strategies: "none", "last", "bias", "norm", "full", a glob of parameter names (all of them in
        C), or REFERENCE (in torch, BatchNorm, batches of `accumulate`). Without labels: "align",
        "standardise" (in C, on transformed windows; "align+full" then trains), "adabn", "entropy"
        (in torch).
        By default COMPARED without REFERENCE; with a recipe, "none" and the recipe's own rule.
    recipe: a `bt.Recipe` or the name of one, a package or its folder: how each strategy calibrates.
        A norm or a rate that it leaves open is the one that did best for the strategy.
    settings, named: an `AdaptSettings`, and single fields of it by name (epochs=10, seeds=(0, 1)).
    save_to: a folder that gets the C and the plan of each strategy (of the first subject and seed).

    Raises:
        BioTrainError: an unknown subject, split or norm; a split that the recordings do not allow;
            only one subject; what bt.prepare and bt.compile raise.
    """
    how = _settings(settings, recipe, named)
    subjects = _subjects(rec, subject)
    if strategies is None:
        strategies = COMPARED[:-1] if recipe is None else ("none", recipe_of(recipe).rule)
    strategies = list(dict.fromkeys(strategies))
    how = replace(how, seeds=tuple(dict.fromkeys(how.seeds)))
    how.check(strategies)
    # Every split first: a refusal should not come after an hour.
    split = how.split or default_split(rec)
    options = (split, how.calibration, how.test_repetition)
    parts = {s: day1(rec, s, *options) for s in subjects}
    run = _Adaptation(rec, model, how, [how.strategy(name) for name in strategies])
    folder = Folder(Path(save_to)) if isinstance(save_to, str | Path) else save_to
    for person in subjects:
        for seed in how.seeds:
            run.subject(person, seed, parts[person], progress or silent, folder)
            folder = None
    return AdaptResult(tuple(run.rows), tuple(run.curves), run.record(parts, split))


def _settings(
    settings: AdaptSettings | None, recipe: Any, named: Mapping[str, Any]
) -> AdaptSettings:
    """The settings of a call of `adapt`; BioTrainError where two of them say how to calibrate."""
    if recipe is None:
        return replace(settings or AdaptSettings(), **named)
    if settings is not None:
        raise BioTrainError(
            "settings and recipe both say how to calibrate: give the recipe, and single fields by "
            "name"
        )
    return AdaptSettings.by(recipe, **named)


class _Adaptation:
    """The rows, curves and notes of one call of `adapt`, as they grow."""

    def __init__(
        self,
        rec: Recordings,
        model: str | Factory,
        how: AdaptSettings,
        strategies: Sequence[Strategy],
    ) -> None:
        self.rec, self.model, self.how, self.strategies = rec, model, how, strategies
        self.experiment = Experiment(dataset_name(rec), "day1", model_name(model))
        self.rows: list[ResultRow] = []
        self.curves: list[Curve] = []
        self.notes: list[str] = []
        self.own: dict[str, list[float]] = {}

    def subject(
        self,
        person: int,
        seed: int,
        split: tuple[Indices, Indices],
        progress: Progress,
        folder: Folder | None,
    ) -> None:
        """Every strategy on one subject with one seed; networks pretrained alike are shared."""
        others = np.flatnonzero(self.rec.subject != person)[:: self.how.pretrain_every]
        started: dict[tuple[str, str], nn.Module] = {}
        knows: dict[tuple[str, str], float] = {}
        for strategy in self.strategies:
            rule, recipe = Rule.parse(strategy.rule), strategy.recipe
            options = (progress, rule.transform, recipe.artefacts)
            task = Task(self.rec, person, seed, split, *options)
            if recipe.replay and rule.learns_labels:
                store = replay_of(self.rec, others, (), recipe.replay, seed)
                windows = transformed(self.rec, rule.transform).signal(store)
                task.replayed = Labelled(windows, self.rec.y[store])
            start = (rule.pretrained_norm(recipe.norm), rule.transform)
            if start not in started:
                started[start] = self._pretrained(task, others, *start)
                knows[start] = own_accuracy(
                    started[start], transformed(self.rec, rule.transform), others
                )
            self._know(task, strategy.name, knows[start])
            measured = calibrate(task, started[start], strategy, folder=folder)
            norm = rule.trained_norm(recipe.norm)
            self.rows.append(
                task.row(self.experiment, strategy.name, norm, measured.logits, measured.cost)
            )
            self.curves.append(
                Curve(person, task.session, seed, strategy.name, measured.curve, measured.kept)
            )
            self.notes += task.notes

    def _know(self, task: Task, strategy: str, own: float) -> None:
        """Note what the network that a strategy starts from knows of its own people."""
        self.own.setdefault(strategy, []).append(own)
        chance = 1 / self.rec.n_classes
        if is_near_chance(own, chance):
            task.note(f"{strategy}: {warning(own, chance)}")

    def _pretrained(self, task: Task, others: Indices, norm: str, transform: str) -> nn.Module:
        """The network pretrained on the windows `others`, after `transform`."""
        after = f", {transform}" if transform else ""
        return pretrain(
            transformed(self.rec, transform),
            self.model,
            others,
            self.how.pretraining,
            norm=norm,
            seed=task.seed,
            on_epoch=task.reporter(f"pretraining ({norm} norm{after})"),
        )

    def record(self, parts: Mapping[int, tuple[Indices, Indices]], split: str) -> AdaptRecord:
        """What was chosen, with the notes so far."""
        how, recipes = self.how, {s.name: s.recipe for s in self.strategies}
        return AdaptRecord(
            dataset=self.experiment.dataset,
            synthetic=self.rec.synthetic,
            fs=self.rec.fs,
            model=self.experiment.model,
            scenario=self.experiment.scenario,
            subjects=list(parts),
            strategies=list(recipes),
            target=how.target,
            memory=how.memory,
            on=how.on,
            epochs=how.epochs,
            lr={name: recipe.lr for name, recipe in recipes.items()},
            momentum=how.momentum,
            weight_decay=how.weight_decay,
            schedule=how.schedule,
            accumulate=how.accumulate,
            seeds=list(how.seeds),
            split=split,
            calibration=how.calibration,
            test_repetition=how.test_repetition,
            norm={name: recipe.norm for name, recipe in recipes.items()},
            holdout=how.holdout,
            best=how.best,
            patience=how.patience,
            replay=how.replay,
            pretrain_epochs=how.pretrain_epochs,
            pretrain_every=how.pretrain_every,
            windows={str(s): [len(part) for part in split] for s, split in parts.items()},
            subject_names={str(s): self.rec.name_of("subject", s) for s in parts},
            notes=self.notes,
            clip_norm=how.clip_norm,
            repeats=how.repeats,
            batch=how.batch,
            artefacts=how.artefacts,
            recipe=how.recipe,
            pretrain_steps=how.pretrain_steps,
            pretrain_plateau=how.pretrain_plateau,
            own_people={name: sum(own) / len(own) for name, own in self.own.items()},
        )


def _subjects(rec: Recordings, subject: int | str | Iterable[int | str]) -> list[int]:
    """The numbers of the subjects that were asked for."""
    if subject == "all":
        subjects = rec.subjects
    elif isinstance(subject, str):
        subjects = rec.people([subject])
    elif isinstance(subject, Iterable):
        asked = (s if isinstance(s, str) else int(s) for s in subject)
        subjects = list(dict.fromkeys(rec.people(asked)))
    else:
        subjects = rec.people([int(subject)])
    if not subjects:
        raise BioTrainError("nothing to do: name at least one subject")
    if len(rec.subjects) < 2:
        raise SplitError(f"{rec.name}: one subject only; there are no others to pretrain on")
    return subjects
