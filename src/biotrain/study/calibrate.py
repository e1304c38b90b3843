# SPDX-License-Identifier: Apache-2.0
"""One calibration: pretrained weights and the windows of one session, in the generated C or in
torch. `adapt` and a study both come through here."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from biotrain.errors import BioTrainError, DeviceError
from biotrain.study.data.recordings import Recordings
from biotrain.study.data.splits import Indices, held_back
from biotrain.study.labelfree import TRANSFORMS, adabn, minimise_entropy
from biotrain.study.order import shuffled
from biotrain.study.pretrain import finetune_torch, predict

if TYPE_CHECKING:
    from biotrain.package import Package

REFERENCE = "full-bn8 (torch)"
"""Conventional full fine-tuning: BatchNorm, batches of 8, in torch."""

NORMS: Mapping[str, tuple[str, str, str]] = {
    "group": ("group", "group", "keep"),
    "convert": ("batch", "group", "avg"),
    "frozen": ("batch", "frozen", "keep"),
    "batch": ("batch", "batch", "keep"),
}
"""norm of `adapt` -> (norm while pretraining, norm and pool that bt.prepare makes of it)."""

Ints = NDArray[np.int64]
Row = dict[str, Any]
State = dict[str, NDArray[Any]]
"""Weights and running statistics by torch name."""
Progress = Callable[[str, int, int], None]
"""Called with a task ("subject 3, seed 0: full"), how much of it is done, and all of it."""


@dataclass(frozen=True)
class Rule:
    """What a strategy does: a transform of the windows ("" for none), whether BatchNorm's running
    statistics become those of the calibration windows first, and what then trains ("adabn": they
    do, and nothing trains)."""

    transform: str
    trains: str
    adabn: bool = False

    @classmethod
    def of(cls, text: str) -> "Rule":
        """ "align" is Rule("align", "none"); "align+full" is Rule("align", "full"); "adabn+full"
        is Rule("", "full", True), "adabn" Rule("", "adabn", True)."""
        first, plus, rest = text.partition("+")
        if first in TRANSFORMS:
            inner = cls.of(rest if plus else "none")
            return cls(first, inner.trains, inner.adabn)
        if first == "adabn":
            return cls("", rest or first, True)
        return cls("", text)

    @property
    def in_torch(self) -> bool:
        """Whether it runs in torch, not in the generated C."""
        return self.trains in IN_TORCH and self.trains != "adabn"

    @property
    def learns_labels(self) -> bool:
        """Whether it trains on labels: only then is there something to hold back or to replay."""
        return self.trains not in ("none", "adabn", "entropy")

    def trained_norm(self, norm: str) -> str:
        """The norm that a row names: BatchNorm where the rule lives on it."""
        return "batch" if self.trains in (REFERENCE, "adabn") else norm

    def pretrained_norm(self, norm: str) -> str:
        """The norm of the network that it starts from, for a `norm` of NORMS."""
        return NORMS[self.trained_norm(norm)][0]


class Task:
    """One subject, session and seed: its windows, and what a row about them says.

    `x`, `x_test` are float32 [windows, channels, time]; a transform is fitted to the calibration
    windows, without their labels, and applied to both. `unlabelled` are all calibration windows,
    for what needs no labels. `held` are windows and labels that `hold_back` took out of `x`, `y`;
    `again` are those of a sample store, seen in every epoch.
    """

    held: tuple[NDArray[np.float32], Ints] | None = None
    again: tuple[NDArray[np.float32], Ints] | None = None

    def __init__(
        self,
        rec: Recordings,
        subject: int,
        seed: int,
        calibration: Indices,
        test: Indices,
        progress: Progress,
        transform: str = "",
    ) -> None:
        self.rec, self.subject, self.seed, self.progress = rec, subject, seed, progress
        self.notes: list[str] = []
        self.calibration = calibration
        self.session = int(rec.session[test[0]])
        self.x, self.y = rec.signal(calibration), rec.y[calibration]
        self.x_test, self.y_test = rec.signal(test), rec.y[test]
        if transform:
            change = TRANSFORMS[transform](self.x)
            self.x, self.x_test = change(self.x), change(self.x_test)
        self.unlabelled = self.x

    def hold_back(self, share: float) -> None:
        """Take `share` of the calibration windows out of it, to choose the epoch by; see
        `held_back`."""
        trains, held = held_back(self.rec, self.calibration, share, self.seed)
        at, other = (np.flatnonzero(np.isin(self.calibration, part)) for part in (trains, held))
        self.held = self.x[other], self.y[other]
        self.x, self.y = self.x[at], self.y[at]
        self.calibration = self.calibration[at]

    def material(self) -> tuple[NDArray[np.float32], Ints]:
        """What an epoch sees: the calibration windows and labels, and those of the sample store."""
        if self.again is None:
            return self.x, self.y
        return np.concatenate([self.x, self.again[0]]), np.concatenate([self.y, self.again[1]])

    def reporter(self, what: str) -> Callable[[int, int], None]:
        """Called after each epoch of `what`."""
        task = f"subject {self.subject}, seed {self.seed}: {what}"
        self.progress(task, 0, 1)
        return lambda done, total: self.progress(task, done, total)

    def note(self, text: str) -> None:
        """Something that the reader of the results should know."""
        self.notes.append(f"subject {self.subject}, seed {self.seed}: {text}")

    def row(self, settings: Row, strategy: str, logits: NDArray[np.float32], cost: Row) -> Row:
        """The row of a study, its keys in the order of the contract."""
        labels = logits.argmax(1)
        return {
            "dataset": settings["dataset"],
            "scenario": settings["scenario"],
            "model": settings["model"],
            "norm": Rule.of(settings.get("rule", strategy)).trained_norm(settings["norm"]),
            "strategy": strategy,
            "subject": self.subject,
            "session": self.session,
            "seed": self.seed,
            "accuracy": accuracy(labels, self.y_test),
            "balanced_accuracy": balanced_accuracy(labels, self.y_test),
            "chance": 1 / self.rec.n_classes,
            **cost,
        }

    def steps_per_epoch(self, accumulate: int) -> int:
        """Optimizer steps of one epoch."""
        windows = len(self.x) + (0 if self.again is None else len(self.again[0]))
        return -(-windows // accumulate)


@dataclass(frozen=True)
class Measured:
    """What a calibration left: logits of the test part, its accuracy before the first epoch and
    after each, the last keys of a row, logits of each probe, the weights if they were asked for,
    and the epoch whose weights they are (None: those of the last one, nothing was held back)."""

    logits: NDArray[np.float32]
    curve: list[float]
    cost: Row
    probed: list[NDArray[np.float32]] = field(default_factory=list)
    state: State | None = None
    kept: int | None = None


class Choice:
    """The epoch whose weights do best on the windows held back; before the first one counts too,
    so a calibration that only harms leaves the weights as they were.

    settings: best, "loss" (mean cross-entropy) or "accuracy" (loss where that is equal); patience,
    after how many epochs without a better one to stop, 0: never.
    """

    def __init__(self, held: tuple[NDArray[np.float32], Ints], settings: Row) -> None:
        self.x, self.y = held
        self.by_accuracy = settings.get("best", "loss") == "accuracy"
        self.patience = int(settings.get("patience", 0))
        self.epoch = 0
        self.state: Any = None
        self._score: tuple[float, ...] = ()

    def look(
        self, epoch: int, logits_of: Callable[[Any], NDArray[np.float32]], save: Callable[[], Any]
    ) -> bool:
        """Judge the weights after `epoch`, and `save` them if none were better; True: enough."""
        logits = logits_of(self.x)
        loss = cross_entropy(logits, self.y)
        score = (-accuracy(logits.argmax(1), self.y), loss) if self.by_accuracy else (loss,)
        if not self._score or score < self._score:
            self.epoch, self.state, self._score = epoch, save(), score
        return 0 < self.patience <= epoch - self.epoch


def compiled(start: nn.Module, example: NDArray[np.float32], rule: str, settings: Row) -> "Package":
    """The package that adapts `start` (as pretrained) by `rule`; example [1, channels, time]."""
    import biotrain as bt

    asked = Rule.of(rule)
    alone = asked.trains == "adabn"
    _, norm, pool = NORMS["frozen" if alone else settings["norm"]]
    batch = 1 if alone else settings.get("batch", 1)
    more: Row = {"batch": batch} if batch > 1 else {}
    net = bt.prepare(start, norm=norm, pool=pool)
    if batch > 1:
        net.train()  # in eval mode the statistics would be frozen, and no batch would count
    return bt.compile(
        net,
        torch.from_numpy(example),
        target=settings["target"],
        strategy="none" if alone else asked.trains,
        optimizer=bt.SGD(
            lr=settings["lr"],
            momentum=settings["momentum"],
            weight_decay=settings["weight_decay"],
            schedule=settings["schedule"],
        ),
        accumulate=1 if batch > 1 else settings["accumulate"],
        memory=settings["memory"],
        adabn=asked.adabn,
        **more,
    )


def calibrate(
    task: Task,
    start: nn.Module,
    strategy: str,
    settings: Row,
    *,
    package: "Package | None" = None,
    weights: State | None = None,
    probes: Sequence[NDArray[np.float32]] = (),
    keep: bool = False,
    folder: Path | None = None,
) -> Measured:
    """Adapt `start` to the windows of `task` and test it.

    strategy: its rule (settings["rule"] where the name differs). package: what `compiled` made of
    `start`, else it is made here. weights: what an earlier session left. probes: more windows to
    predict afterwards. keep: also return the weights. folder: gets the C. With settings["holdout"]
    above 0 that share of the calibration windows is held back, and the epoch that does best on it
    kept (`Choice`).
    """
    text = settings.get("rule", strategy)
    rule = Rule.of(text)
    if settings.get("holdout") and rule.learns_labels:
        task.hold_back(settings["holdout"])
    if rule.in_torch:
        return _in_torch(task, start, rule.trains, settings, weights, probes, keep)
    try:
        package = package or compiled(start, task.x[:1], text, settings)
    except BioTrainError as error:
        if rule.trains != "adabn":
            raise
        task.note(f"{strategy} in torch, for the compiler refuses: {error}")
        return _in_torch(task, start, rule.trains, settings, weights, probes, keep)
    if folder is not None:
        package.save(folder / strategy.replace("*", "_"))
    return _in_c(task, package, strategy, rule, settings, weights, probes, keep)


def _in_c(
    task: Task,
    package: "Package",
    strategy: str,
    rule: Rule,
    settings: Row,
    weights: State | None,
    probes: Sequence[NDArray[np.float32]],
    keep: bool,
) -> Measured:
    """Calibrate in the generated C."""
    done = task.reporter(strategy)
    device = package.run(settings["on"])
    if weights is not None:
        device.load_parameters(weights)
    curve: list[float] = []
    if rule.trains == "adabn":  # what it gains is in its curve
        curve.append(accuracy(device.predict(task.x_test).argmax(1), task.y_test))
    if rule.adabn:
        device.adabn(task.unlabelled)
    epochs = settings["epochs"] if rule.trains not in ("none", "adabn") else 0
    batch = settings.get("batch", 1)
    group = batch if batch > 1 else settings["accumulate"]
    per_epoch = task.steps_per_epoch(group)
    logits = device.predict(task.x_test)
    curve.append(accuracy(logits.argmax(1), task.y_test))
    choice = Choice(task.held, settings) if task.held is not None and epochs else None
    if choice:
        choice.look(0, device.predict, device.save_state)
    if epochs:
        device.begin(total_steps=epochs * per_epoch)
    x, y = task.material()
    features: NDArray[np.float32] | None = None
    ran = epochs
    again = settings.get("adabn_every", 0) if rule.adabn else 0
    for epoch in range(epochs):
        order = shuffled(len(x), task.seed, epoch)
        try:
            if again and epoch and epoch % again == 0:
                device.adabn(task.unlabelled)
            if package.plan.feature_bytes:  # what is frozen runs once; the same bits, sooner
                features = device.features(x) if features is None else features
                device.train_features(features[order], y[order])
            else:
                device.train(x[order], y[order])
            if again and epoch + 1 == epochs:
                device.adabn(task.unlabelled)
        except DeviceError as error:  # the weights are those before the refused sample or group
            task.note(f"{strategy} diverged in epoch {epoch + 1}: {error}")
            curve += [curve[-1]] * (epochs - epoch)
            break
        logits = device.predict(task.x_test)
        curve.append(accuracy(logits.argmax(1), task.y_test))
        if choice and choice.look(epoch + 1, device.predict, device.save_state):
            ran = epoch + 1
            break
        done(epoch + 1, epochs)
    if choice:
        device.load_state(choice.state)
        logits = device.predict(task.x_test)
        curve += [accuracy(logits.argmax(1), task.y_test)] * (epochs + 1 - len(curve))
    if not epochs or ran < epochs:
        done(1, 1)
    plan, steps = package.plan, ran * per_epoch
    ops = plan.adabn_ops if rule.trains == "adabn" else plan.ops
    cost = {"ram_bytes": plan.ram_bytes, "ops": ops, "steps": steps, "crc32": device.crc32()}
    probed = [device.predict(x) for x in probes]
    state = dict(device.parameters()) if keep else None
    device.close()
    return Measured(logits, curve, cost, probed, state, choice.epoch if choice else None)


def _in_torch(
    task: Task,
    start: nn.Module,
    rule: str,
    settings: Row,
    weights: State | None,
    probes: Sequence[NDArray[np.float32]],
    keep: bool,
) -> Measured:
    """Calibrate in torch, by one of IN_TORCH."""
    done = task.reporter(rule)
    module = copy.deepcopy(start)
    if weights is not None:
        module.load_state_dict({name: torch.from_numpy(v.copy()) for name, v in weights.items()})
    curve = [accuracy(predict(module, task.x_test).argmax(1), task.y_test)]

    epochs = 1 if rule == "adabn" else settings["epochs"]
    ran = epochs
    choice = Choice(task.held, settings) if task.held is not None and epochs else None

    def look(epoch: int) -> bool:
        def of(x: NDArray[np.float32]) -> NDArray[np.float32]:
            return predict(module, x)

        return choice is not None and choice.look(
            epoch, of, lambda: copy.deepcopy(module.state_dict())
        )

    def after(epoch: int, epochs: int) -> None:
        curve.append(accuracy(predict(module, task.x_test).argmax(1), task.y_test))
        if look(epoch):
            raise _Enough
        done(epoch, epochs)

    look(0)
    try:
        IN_TORCH[rule](module, task, settings, after)
    except _Enough:
        ran = len(curve) - 1
        done(1, 1)
    except BioTrainError as error:
        task.note(f"{rule} diverged in epoch {len(curve)}: {error}")
        curve += [curve[-1]] * (epochs + 1 - len(curve))
    if choice:
        module.load_state_dict(choice.state)
    logits = predict(module, task.x_test)
    curve += [accuracy(logits.argmax(1), task.y_test)] * (epochs + 1 - len(curve))
    steps = 0 if rule == "adabn" else ran * task.steps_per_epoch(settings["accumulate"])
    cost = {"ram_bytes": None, "ops": None, "steps": steps, "crc32": None}
    state = {k: v.numpy().copy() for k, v in module.state_dict().items()} if keep else None
    probed = [predict(module, x) for x in probes]
    return Measured(logits, curve, cost, probed, state, choice.epoch if choice else None)


class _Enough(Exception):
    """No better epoch for as long as patience goes."""


After = Callable[[int, int], None]


def _conventional(module: nn.Module, task: Task, settings: Row, after: After) -> None:
    finetune_torch(
        module,
        *task.material(),
        epochs=settings["epochs"],
        lr=settings["lr"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
        schedule=settings["schedule"],
        batch=settings["accumulate"],
        seed=task.seed,
        on_epoch=after,
    )


def _adabn(module: nn.Module, task: Task, settings: Row, after: After) -> None:
    adabn(module, task.unlabelled)
    after(1, 1)


def _entropy(module: nn.Module, task: Task, settings: Row, after: After) -> None:
    minimise_entropy(
        module,
        task.x,
        epochs=settings["epochs"],
        lr=settings["lr"],
        momentum=settings["momentum"],
        batch=settings["accumulate"],
        seed=task.seed,
        on_epoch=after,
    )


IN_TORCH: Mapping[str, Callable[[nn.Module, Task, Row, After], None]] = {
    REFERENCE: _conventional,
    "adabn": _adabn,
    "entropy": _entropy,
}
"""What runs in torch: these rules, and `adabn` where the compiler does not take the network."""


def accuracy(labels: NDArray[Any], y: NDArray[Any]) -> float:
    """Share of `labels` that equal `y`."""
    return float(np.mean(labels == y))


def cross_entropy(logits: NDArray[np.float32], y: NDArray[Any]) -> float:
    """Mean over windows, in nats; infinite where a logit is not finite."""
    if not np.isfinite(logits).all():
        return float("inf")
    z = logits.astype(np.float64)
    z -= z.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]))


def balanced_accuracy(labels: NDArray[Any], y: NDArray[Any]) -> float:
    """Mean over the classes that `y` has of the share recognised."""
    return float(np.mean([np.mean(labels[y == c] == c) for c in np.unique(y)]))
