# SPDX-License-Identifier: Apache-2.0
"""Day-1 calibration of a new subject: pretrain on the others, adapt in the generated C, test.

Everything that a device would do runs in the C that the compiler emits, and so does pretraining
where the compiler takes the network; torch fine-tunes the conventional reference.
"""

import json
import statistics as stats
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from biotrain.errors import BioTrainError
from biotrain.study.calibrate import (
    NORMS,
    REFERENCE,
    Progress,
    Row,
    Rule,
    Task,
    accuracy,
    balanced_accuracy,
    calibrate,
)
from biotrain.study.data.recordings import Recordings
from biotrain.study.data.splits import SplitError, day1, default_split, replay_of
from biotrain.study.labelfree import transformed
from biotrain.study.pretrain import Factory, pretrain
from biotrain.study.recipes import COMPARED, settled

__all__ = [
    "REFERENCE",
    "STRATEGIES",
    "AdaptResult",
    "accuracy",
    "adapt",
    "balanced_accuracy",
    "dataset_name",
    "model_name",
    "summarize",
]

STRATEGIES = COMPARED
"""What a comparison holds, in the order of its table."""

LR = 5e-3
"""Published for every strategy (arXiv 2604.13359)."""


@dataclass(frozen=True)
class AdaptResult:
    """What `adapt` measured.

    rows: one dict per subject, seed and strategy, with the keys of a study (accuracies are
        fractions; ram_bytes and ops are None where nothing was compiled).
    curves: {subject, session, seed, strategy, accuracy, kept}; `accuracy` on the test part before
        the first epoch and after each, `kept` the epoch whose weights were tested (None: the last).
    settings: everything that was chosen, to repeat it.
    """

    rows: tuple[Row, ...]
    curves: tuple[Row, ...]
    settings: Row

    @property
    def summary(self) -> list[Row]:
        """Per strategy: means over seeds within each subject, then mean and SD over subjects."""
        return summarize(self.rows)

    def to_dict(self) -> Row:
        """`rows`, `summary`, `curves` and `settings` as plain lists and dicts."""
        return {
            "rows": list(self.rows),
            "summary": self.summary,
            "curves": list(self.curves),
            "settings": self.settings,
        }

    def to_json(self) -> str:
        """The same as JSON text; equal runs give equal text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


def adapt(
    rec: Recordings,
    model: str | Factory,
    subject: int | Iterable[int] | str,
    strategies: Sequence[str] = COMPARED[:-1],
    *,
    target: str = "host",
    memory: int | str | None = None,
    on: str = "host",
    epochs: int = 30,
    lr: float | None = None,
    lr_per_strategy: Mapping[str, float] | None = None,
    momentum: float = 0.9,
    weight_decay: float = 1e-3,
    schedule: str = "cosine",
    accumulate: int = 8,
    seeds: Sequence[int] = (0,),
    split: str | None = None,
    calibration: float = 0.8,
    test_repetition: int | None = None,
    norm: str | Mapping[str, str] | None = None,
    holdout: float = 0.0,
    best: str = "loss",
    patience: int = 0,
    replay: int = 0,
    pretrain_epochs: int = 40,
    pretrain_every: int = 1,
    progress: Progress | None = None,
    save_to: str | Path | None = None,
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
    subject: one, several, or "all".
    strategies: "none", "last", "bias", "norm", "full", a glob of parameter names (all of them in
        C), or REFERENCE (in torch, BatchNorm, batches of `accumulate`). Without labels: "align",
        "standardise" (in C, on transformed windows; "align+full" then trains), "adabn", "entropy"
        (in torch).
    memory: whole RAM, in bytes or as "256KiB"; by default what the target has.
    on: "host", or "emulator", "qemu", "rtl" for the firmware of the target.
    lr: learning rate of every strategy, and `lr_per_strategy` where one differs; by default each
        has the one that did best on pretraining subjects (`recipes.BEST`), else the published 5e-3.
    split: one of biotrain.study.data.splits.SPLITS; by default what fits the recordings.
    norm: "group" pretrains with GroupNorm (and average pooling, for built-in networks); "convert"
        pretrains with BatchNorm and lets bt.prepare turn it into GroupNorm; "frozen" and "batch"
        keep BatchNorm. One for all, or one per strategy; by default "frozen" for what trains after
        adabn, "group" for the others.
    holdout: share of the calibration windows that is held back; the epoch that does best on it (by
        `best`, "loss" or "accuracy") is kept, the pretrained weights too if no epoch is better.
    patience: epochs without a better one after which the calibration stops; 0: never.
    replay: windows of the other subjects that every epoch sees again, against forgetting them.
    save_to: a folder that gets the C and the plan of each strategy (of the first subject and seed).

    Raises:
        BioTrainError: an unknown subject, split or norm; a split that the recordings do not allow;
            only one subject; what bt.prepare and bt.compile raise.
    """
    subjects = _subjects(rec, subject)
    norms = norm if isinstance(norm, Mapping) else dict.fromkeys(strategies, norm)
    for way in norms.values():
        if way is not None and way not in NORMS:
            raise BioTrainError(f"norm is one of {', '.join(NORMS)}, not {way}")
    if min(epochs, pretrain_epochs) < 0 or min(accumulate, pretrain_every) < 1:
        raise BioTrainError("epochs must not be negative; accumulate and pretrain_every be above 0")
    if not 0 <= holdout < 1 or best not in ("loss", "accuracy") or min(patience, replay) < 0:
        raise BioTrainError(
            'holdout is a share from 0 to below 1, best is "loss" or "accuracy"; patience and '
            "replay must not be negative"
        )
    if patience and not holdout:
        raise BioTrainError("patience needs a holdout: the epochs are judged by what is held back")
    if not strategies or not seeds:
        raise BioTrainError("nothing to do: name at least one strategy and one seed")
    chosen = split or default_split(rec)
    own = lr_per_strategy or {}
    each = {s: settled(s, {"lr": own.get(s, lr), "norm": norms.get(s)}) for s in strategies}
    unknown = sorted(set(lr_per_strategy or {}) - set(strategies))
    if unknown:
        raise BioTrainError(
            f"a learning rate for {', '.join(unknown)}, but no such strategy is asked for"
        )
    # Every split first: a refusal should not come after an hour.
    parts = {s: day1(rec, s, chosen, calibration, test_repetition) for s in subjects}
    settings: Row = {
        "dataset": dataset_name(rec),
        "synthetic": rec.synthetic,
        "fs": rec.fs,
        "model": model_name(model),
        "scenario": "day1",
        "subjects": subjects,
        "strategies": list(strategies),
        "target": target,
        "memory": memory,
        "on": on,
        "epochs": epochs,
        "lr": {s: found.get("lr", LR) for s, found in each.items()},
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "accumulate": accumulate,
        "seeds": list(seeds),
        "split": chosen,
        "calibration": calibration,
        "test_repetition": test_repetition,
        "norm": {s: found.get("norm", "group") for s, found in each.items()},
        "holdout": holdout,
        "best": best,
        "patience": patience,
        "replay": replay,
        "pretrain_epochs": pretrain_epochs,
        "pretrain_every": pretrain_every,
        "windows": {str(s): [len(part) for part in parts[s]] for s in subjects},
    }
    rows: list[Row] = []
    curves: list[Row] = []
    notes: list[str] = []
    folder = None if save_to is None else Path(save_to)
    for person in subjects:
        others = np.flatnonzero(rec.subject != person)[::pretrain_every]
        for seed in seeds:
            start: dict[tuple[str, str], nn.Module] = {}
            for strategy in strategies:
                rule = Rule.of(strategy)
                parts_of = (*parts[person], progress or _silent, rule.transform)
                task = Task(rec, person, seed, *parts_of)
                of_one = {key: settings[key][strategy] for key in ("lr", "norm")}
                way = rule.pretrained_norm(of_one["norm"])
                if replay and rule.learns_labels:
                    again = replay_of(rec, others, (), replay, seed)
                    task.again = transformed(rec, rule.transform).signal(again), rec.y[again]
                if (way, rule.transform) not in start:
                    after = f", {rule.transform}" if rule.transform else ""
                    start[way, rule.transform] = pretrain(
                        transformed(rec, rule.transform),
                        model,
                        others,
                        norm=way,
                        epochs=pretrain_epochs,
                        seed=seed,
                        on_epoch=task.reporter(f"pretraining ({way} norm{after})"),
                    )
                settings_of_one = {**settings, **of_one}
                measured = calibrate(
                    task, start[way, rule.transform], strategy, settings_of_one, folder=folder
                )
                rows.append(task.row(settings_of_one, strategy, measured.logits, measured.cost))
                curves.append(
                    {
                        "subject": person,
                        "session": task.session,
                        "seed": seed,
                        "strategy": strategy,
                        "accuracy": measured.curve,
                        "kept": measured.kept,
                    }
                )
                notes += task.notes
            folder = None
    settings["notes"] = notes
    return AdaptResult(tuple(rows), tuple(curves), settings)


def _subjects(rec: Recordings, subject: int | Iterable[int] | str) -> list[int]:
    if isinstance(subject, str):
        if subject != "all":
            raise BioTrainError(f'subject is a number, several, or "all", not "{subject}"')
        subjects = rec.subjects
    elif isinstance(subject, Iterable):
        subjects = [int(s) for s in subject]
    else:
        subjects = [int(subject)]
    if not subjects:
        raise BioTrainError("nothing to do: name at least one subject")
    for s in subjects:
        rec.sessions(s)
    if len(rec.subjects) < 2:
        raise SplitError(f"{rec.name}: one subject only; there are no others to pretrain on")
    return subjects


def dataset_name(rec: Recordings) -> str:
    """What a table calls these recordings; synthetic ones say so."""
    if rec.synthetic and "synthetic" not in rec.name:
        return f"{rec.name} (synthetic)"
    return rec.name


def model_name(model: str | Factory) -> str:
    """What a table calls this network."""
    return model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)


def _silent(task: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def summarize(rows: Sequence[Row]) -> list[Row]:
    """One dict per (dataset, scenario, model, norm, strategy), in the order of their first rows.

    accuracy and balanced_accuracy are means over subjects of means over seeds and sessions, *_sd
    the standard deviation over subjects (None for one). gain_over_none is the mean over subjects of
    the difference from strategy "none" of the same data, paired by subject, gain_over_none_se its
    standard error; None where there is no such row. ram_bytes is the largest, ops the mean.
    """
    keys = ("dataset", "scenario", "model", "norm", "strategy")
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in keys), []).append(row)
    baseline = {
        key[:3]: _by_subject(found, "accuracy") for key, found in groups.items() if key[4] == "none"
    }
    out: list[Row] = []
    for key, found in groups.items():
        entry: Row = dict(zip(keys, key, strict=True))
        by_subject = _by_subject(found, "accuracy")
        entry["subjects"] = len(by_subject)
        entry["seeds"] = len({row["seed"] for row in found})
        for metric in ("accuracy", "balanced_accuracy"):
            values = list(_by_subject(found, metric).values())
            entry[metric] = stats.fmean(values)
            entry[f"{metric}_sd"] = stats.stdev(values) if len(values) > 1 else None
        entry["chance"] = found[0]["chance"]
        none = baseline.get(key[:3], {})
        gains = [value - none[s] for s, value in by_subject.items() if s in none]
        if key[4] == "none":
            gains = []
        entry["gain_over_none"] = stats.fmean(gains) if gains else None
        entry["gain_over_none_se"] = (
            stats.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None
        )
        ram = [row["ram_bytes"] for row in found if row["ram_bytes"] is not None]
        ops = [row["ops"] for row in found if row["ops"] is not None]
        entry["ram_bytes"] = max(ram) if ram else None
        entry["ops"] = stats.fmean(ops) if ops else None
        entry["steps"] = stats.fmean(row["steps"] for row in found)
        out.append(entry)
    return out


def _by_subject(rows: Sequence[Row], metric: str) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(row["subject"], []).append(row[metric])
    return {subject: stats.fmean(found) for subject, found in values.items()}
