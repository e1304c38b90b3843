# SPDX-License-Identifier: Apache-2.0
"""Training in torch, epoch by epoch: what pretraining falls back to, and the reference of a study.

Networks of this size run on one thread, with the same numbers however many cores there are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from biotrain.errors import BioTrainError
from biotrain.study.order import shuffled
from biotrain.study.settings import FinetuneSettings

Epoch = Callable[[int, int], None]
"""Called after each epoch with the epochs that are done, and all of them."""


class EpochTrainer(Protocol):
    """Trains a module in place, one epoch at a time."""

    def epoch(self, number: int) -> None:
        """Train over all windows once, in the order of epoch `number` (from 0)."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: networks this small run slower on several, and sums change with them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_epochs(
    trainer: EpochTrainer,
    epochs: int,
    on_epoch: Epoch | None = None,
    ends: Callable[[], bool] | None = None,
) -> None:
    """All epochs in turn, each told to `on_epoch`, until `ends` says after one that it was the
    last."""
    with one_thread():
        for number in range(epochs):
            trainer.epoch(number)
            if on_epoch is not None:
                on_epoch(number + 1, epochs)
            if ends is not None and ends():
                break


@dataclass
class CrossEntropyTrainer:
    """Minimises cross-entropy over shuffled batches of windows x [windows, channels, time].

    mode: puts the layers into their mode before each epoch; all into train mode by default.
    """

    module: nn.Module
    x: Tensor
    y: Tensor
    optimizer: torch.optim.Optimizer
    batch: int
    seed: int
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None
    mode: Callable[[], object] | None = None

    @one_thread()
    def epoch(self, number: int) -> None:
        """Raises BioTrainError where the loss is not finite; that batch makes no step. A last batch
        of one window makes none either where a batch norm has one number per window: torch refuses
        to take its variance."""
        (self.mode or self.module.train)()
        order = torch.from_numpy(shuffled(len(self.x), self.seed, number))
        for part in order.split(self.batch):
            try:
                logits = self.module(self.x[part])
            except ValueError:
                if len(part) > 1:
                    raise
                continue
            loss = nn.functional.cross_entropy(logits, self.y[part])
            if not torch.isfinite(loss):
                raise BioTrainError(
                    f"the loss became {loss.item()} in epoch {number + 1}; a lower learning rate "
                    "may help"
                )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()


def trainable(module: nn.Module, strategy: str) -> list[nn.Parameter]:
    """The parameters that "last" (the last layer that has any) or "full" trains."""
    if strategy == "full":
        return list(module.parameters())
    if strategy != "last":
        raise BioTrainError(f'the torch reference trains "last" or "full", not "{strategy}"')
    owners = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    return list(owners[-1].parameters(recurse=False))


def finetuner(
    module: nn.Module,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    settings: FinetuneSettings,
) -> CrossEntropyTrainer:
    """The trainer of `finetune_torch`, before its first epoch."""
    chosen = trainable(module, settings.strategy)
    for parameter in module.parameters():
        parameter.requires_grad_(any(parameter is p for p in chosen))
    optimizer = torch.optim.SGD(
        chosen, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    annealing = None
    if settings.schedule == "cosine":
        steps = max(1, settings.epochs * -(-len(x) // settings.batch))
        annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    elif settings.schedule != "constant":
        raise BioTrainError(f'a schedule is "cosine" or "constant", not "{settings.schedule}"')

    def mode() -> None:
        module.train(settings.strategy == "full")
        for layer in module.modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd):
                layer.eval()

    windows, labels = torch.from_numpy(x), torch.from_numpy(y.copy())
    return CrossEntropyTrainer(
        module, windows, labels, optimizer, settings.batch, settings.seed, annealing, mode
    )


def finetune_torch(
    module: nn.Module,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    settings: FinetuneSettings | None = None,
    *,
    on_epoch: Epoch | None = None,
    **named: Any,
) -> nn.Module:
    """Conventional fine-tuning of `module` in place, in batches: BatchNorm takes the statistics of
    the batch and updates the running ones (only where "full" trains it), dropout is off.

    SGD with momentum and a "cosine" or "constant" schedule over all steps, `x` in physical units
    [trials, channels, time]; a new order of the samples in every epoch, from `seed`.

    settings, named: how, and single fields of it by name.
    Raises BioTrainError for another strategy or schedule, and where the loss is not finite.
    """
    chosen = replace(settings or FinetuneSettings(), **named)
    run_epochs(finetuner(module, x, y, chosen), chosen.epochs, on_epoch)
    return module.eval()


def predict(module: nn.Module, x: NDArray[np.float32], batch: int = 256) -> NDArray[np.float32]:
    """Logits [trials, classes] in eval mode."""
    module.eval()
    with torch.no_grad():
        parts = [module(part) for part in torch.from_numpy(x).split(batch)]
    logits: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits
