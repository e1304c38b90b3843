# SPDX-License-Identifier: Apache-2.0
"""One calibration: pretrained weights and the windows of one session, in the generated C or in
torch. `adapt` and a study both come through here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from biotrain.errors import BioTrainError
from biotrain.study.backends import Backend, DeviceBackend, State, TorchBackend, Windows
from biotrain.study.best_epoch import BestEpoch
from biotrain.study.metrics import cross_entropy
from biotrain.study.rules import NORMS, Rule
from biotrain.study.settings import CalibrationSettings, Strategy
from biotrain.study.task import Cost, Task
from biotrain.writing.files import Folder
from biotrain.writing.text import file_name

if TYPE_CHECKING:
    from biotrain.package import Package


@dataclass(frozen=True)
class Calibrated:
    """What a calibration left.

    logits: of the test part [windows, classes]. curve: accuracy on the test part before the first
    epoch and after each. probed: logits of each probe. state: the weights, if they were asked for.
    kept: the epoch whose weights they are (None: those of the last one, nothing was held back).
    """

    logits: NDArray[np.float32]
    curve: list[float]
    cost: Cost
    probed: list[NDArray[np.float32]]
    state: State | None = None
    kept: int | None = None


def compiled(
    start: nn.Module, example: Windows, rule: str, settings: CalibrationSettings
) -> "Package":
    """The package that adapts `start` (as pretrained) by `rule`; example [1, channels, time]."""
    import biotrain as bt

    asked = Rule.parse(rule)
    only_statistics = asked.trains == "adabn"
    path = NORMS["frozen" if only_statistics else settings.norm]
    batch = 1 if only_statistics else settings.batch
    several: dict[str, Any] = {"batch": batch} if batch > 1 else {}
    net = bt.prepare(start, norm=path.norm, pool=path.pool)
    if batch > 1:
        net.train()  # in eval mode the statistics would be frozen, and no batch would count
    return bt.compile(
        net,
        torch.from_numpy(example),
        target=settings.target,
        strategy="none" if only_statistics else asked.trains,
        optimizer=settings.optimizer(),
        accumulate=1 if batch > 1 else settings.accumulate,
        memory=settings.memory,
        adabn=asked.adabn,
        **several,
    )


def calibrate(
    task: Task,
    start: nn.Module,
    strategy: Strategy,
    *,
    package: "Package | None" = None,
    weights: State | None = None,
    probes: Sequence[Windows] = (),
    keep: bool = False,
    folder: Folder | None = None,
) -> Calibrated:
    """Adapt `start` to the windows of `task` and test it.

    package: what `compiled` made of `start`, else it is compiled here. weights: what an earlier
    session left. probes: more windows to predict afterwards. keep: also return the weights. folder:
    gets the C. With a `holdout` above 0 that share of the calibration windows is held back, and the
    epoch that does best on it is kept (`BestEpoch`).
    """
    settings, rule = strategy.recipe, Rule.parse(strategy.rule)
    if settings.holdout and rule.learns_labels:
        task.hold_back(settings.holdout)
    backend: DeviceBackend | TorchBackend
    if rule.in_torch:
        backend = TorchBackend(start, rule, settings, task.seed)
    else:
        try:
            package = package or compiled(start, task.x[:1], strategy.rule, settings)
        except BioTrainError as error:
            if rule.trains != "adabn":
                raise
            task.note(f"{strategy.name} in torch, for the compiler refuses: {error}")
            backend = TorchBackend(start, rule, settings, task.seed)
        else:
            if folder is not None:
                own = folder / file_name(strategy.name)
                package.save(own.path, force=own.force)
            backend = DeviceBackend(package, rule, settings, task.seed)
    if weights is not None:
        backend.load_weights(weights)
    loop = _Loop(task, backend, strategy.name, rule, settings)
    try:
        loop.run()
        cost = backend.cost(loop.steps)
        probed = [backend.predict(x) for x in probes]
        state = backend.weights() if keep else None
    finally:
        backend.close()
    kept = loop.best.epoch if loop.best else None
    return Calibrated(loop.logits, loop.curve, cost, probed, state, kept)


class _Loop:
    """The epochs of one calibration: training, statistics, the test after each epoch, the choice of
    the epoch, what is undone, progress. The same for every back end."""

    def __init__(
        self,
        task: Task,
        backend: Backend,
        name: str,
        rule: Rule,
        settings: CalibrationSettings,
    ) -> None:
        self.task, self.backend, self.name = task, backend, name
        self.rule, self.settings = rule, settings
        self.epochs = settings.epochs if rule.trains_in_epochs else 0
        self.ran = 0
        """Epochs that count as run, over all attempts; fewer where patience ended one."""
        self.reestimates = rule.adabn and not rule.in_torch
        """Whether BatchNorm's statistics are re-estimated from the calibration windows."""
        self.curve: list[float] = []
        self.logits: NDArray[np.float32]
        self.material = task.material()
        held = task.held if self.epochs else None
        self.best = None if held is None else BestEpoch(held, settings)

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.ran * -(-len(self.material.x) // self.backend.group)

    def run(self) -> None:
        """Train until the last epoch, or until patience or a refusal ends it; then go back to the
        best epoch, if one is chosen.

        A calibration that made things worse is undone and repeated at a quarter of the rate, as
        often as the settings say; then the weights stay as they were.
        """
        report = self.task.reporter(self.name)
        if self.rule.trains == "adabn":  # what re-estimating gains is in the curve
            self._test()
        try:
            if self.reestimates:
                self.backend.adabn(self.task.unlabelled)
        except self.backend.refusals as error:
            self.task.note(f"{self.name}: {error}")
        self._test()
        self._should_stop(0)
        undoes = self.rule.learns_labels and not self.rule.in_torch and self.epochs > 0
        repeats = self.settings.repeats if undoes else 0
        before = self._undoable() if repeats else None
        for attempt in range(repeats + 1):
            lr = self.settings.lr / 4**attempt
            refusal = self._train(lr, report, before is not None)
            if before is None or not self._is_worse(before, refusal):
                break
            last = attempt == repeats
            self.backend.load_state(before.state)
            self.curve[before.tests :] = []
            then = "the weights stay as they were" if last else f"repeated at {lr / 4:.2g}"
            self.task.note(f"{self.name} made things worse at a rate of {lr:.2g}: {then}")
            if last:
                self.logits = before.logits
                self.curve += [self.curve[-1]] * self.epochs
        if self.best:
            self.backend.load_state(self.best.state)
            self.logits = self.backend.predict(self.task.x_test)
            score = self.task.score(self.logits)
            self.curve += [score] * (self.epochs + 1 - len(self.curve))
        if self.ran < self.epochs or not self.epochs:
            report(1, 1)

    def _undoable(self) -> "_Before":
        """What a calibration that makes things worse goes back to."""
        state, tests = self.backend.save_state(), len(self.curve)
        return _Before(state, self.logits, tests, self._loss())

    def _is_worse(self, before: "_Before", refused: bool) -> bool:
        """Whether training has left a loss that is not finite, or is higher than before: of the
        held-back windows (of the best epoch), else of those that it has trained on."""
        if self.best:
            return self.best.epoch == 0
        after = self._loss()
        return refused or not (np.isfinite(after) and after <= before.loss)

    def _loss(self) -> float:
        """Mean cross-entropy of the windows that train."""
        if self.best:
            return 0.0  # the held-back ones decide
        try:
            return cross_entropy(self.backend.predict(self.material.x), self.material.y)
        except self.backend.refusals:  # weights that are not finite
            return float("inf")

    def _train(self, lr: float, report: Callable[[int, int], None], undoes: bool) -> bool:
        """All epochs, from the rate `lr` on; whether a refusal has ended them: of an epoch, or,
        where it can be undone, of a prediction by weights that give no numbers."""
        for epoch in range(self.epochs):
            self.ran += 1
            trained = False
            try:
                self._epoch(epoch, lr)
                trained = True
                self._test()
            except self.backend.refusals as error:
                if trained and not undoes:
                    raise
                self.task.note(f"{self.name} diverged in epoch {epoch + 1}: {error}")
                self.curve += [self.curve[-1]] * (self.epochs - epoch)
                self.ran += self.epochs - epoch - 1
                if self.backend.tests_after_refusal:
                    self.logits = self.backend.predict(self.task.x_test)
                return True
            if self._should_stop(epoch + 1):
                return False
            report(epoch + 1, self.epochs)
        return False

    def _epoch(self, epoch: int, lr: float) -> None:
        """One epoch, and the statistics where they are re-estimated while training."""
        task, backend = self.task, self.backend
        every = self.settings.adabn_every if self.reestimates else 0
        if epoch == 0:
            backend.begin(self.material, self.epochs, lr)
        if every and epoch and epoch % every == 0:
            backend.adabn(task.unlabelled)
        backend.epoch(epoch)
        if every and epoch + 1 == self.epochs:
            backend.adabn(task.unlabelled)

    def _test(self) -> None:
        """Predict the test part and note the accuracy."""
        self.logits = self.backend.predict(self.task.x_test)
        self.curve.append(self.task.score(self.logits))

    def _should_stop(self, epoch: int) -> bool:
        """Whether the held-back windows say that training should stop after `epoch`."""
        if self.best is None:
            return False
        return self.best.evaluate(epoch, self.backend.predict, self.backend.save_state)


@dataclass(frozen=True)
class _Before:
    """The network before it was trained: its weights, its logits of the test part, how many tests
    there were, and its loss."""

    state: Any
    logits: NDArray[np.float32]
    tests: int
    loss: float
