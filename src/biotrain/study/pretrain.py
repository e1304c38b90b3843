# SPDX-License-Identifier: Apache-2.0
"""Pretraining on other subjects, in the generated C or in torch; fine-tuning in torch as the
reference.

Weights start and dropout falls from `seed` alone, and torch's global generator is left as it was.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from biotrain.errors import BioTrainError, DeviceError
from biotrain.models import build, standardized
from biotrain.study.data.recordings import RecordingError, Recordings
from biotrain.study.order import shuffled
from biotrain.study.pretrain_c import WEIGHT_DECAY, train_in_c
from biotrain.topology import prepare

Epoch = Callable[[int, int], None]
"""Called after each epoch with the epochs that are done, and all of them."""

Factory = Callable[..., nn.Module]
"""Takes n_chans, n_times, n_outputs, sfreq and norm="batch"|"group", as the built-in models do."""


ENGINES = ("auto", "c", "torch")
"""Where pretraining may run."""


def statistics(rec: Recordings, idx: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation per channel, in the unit of the recording, over the windows
    `idx`.

    The deviation is that of each window from its own mean, which is what the front of the network
    sees; offsets and slow drift between windows do not count. Sums of integers are exact.
    Raises RecordingError for a flat channel.
    """
    chosen = np.asarray(idx)
    total = np.zeros(rec.n_chans)
    squares = np.zeros(rec.n_chans)
    for first in range(0, len(chosen), 512):
        x = rec.x[chosen[first : first + 512]].astype(np.float64)
        means = x.mean(-1, keepdims=True)
        total += means.sum((0, 2))
        squares += ((x - means) ** 2).mean(-1).sum(0)
    deviation = np.sqrt(squares / len(chosen))
    flat = [rec.channels[c] for c in np.flatnonzero(deviation == 0)]
    if flat:
        raise RecordingError(f"{rec.name}: channel {', '.join(flat)} is flat; leave it out")
    return total / len(chosen) * rec.scale, deviation * rec.scale


def device_options(model: str | Factory, norm: str) -> dict[str, str]:
    """Options of a built-in model beside its norm: average pooling with GroupNorm, as a device
    trains it; as published with BatchNorm."""
    return {"pool": "avg"} if norm == "group" and isinstance(model, str) else {}


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: networks this small run slower on several, and sums change with them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pretrain(
    rec: Recordings,
    model: str | Factory,
    idx: ArrayLike,
    *,
    norm: str = "group",
    epochs: int = 40,
    lr: float = 1e-3,
    batch: int = 64,
    seed: int = 0,
    engine: str = "auto",
    on_epoch: Epoch | None = None,
) -> nn.Sequential:
    """A network that has learned the windows `idx` (those of all subjects but one).

    AdamW, learning rate 1e-3, batches of 64, 40 epochs (arXiv 2604.13359). The result is a
    Sequential of `standardize` (statistics of `idx`) and `network`, in eval mode; its input is the
    physical signal, float32 [batch, n_chans, n_times].

    engine: "c", in the generated C, two to nine times sooner on one core and with the same bits on
        every machine; "torch"; "auto": C where the compiler takes the network. Both do the same,
        but draw their dropouts apart.

    Raises:
        BioTrainError: the network cannot be built for these windows, or its loss is not finite.
        RecordingError: no windows, or a flat channel.
    """
    chosen = np.asarray(idx)
    if engine not in ENGINES:
        raise BioTrainError(f"pretraining runs in {', '.join(ENGINES)}, not in '{engine}'")
    if not len(chosen):
        raise RecordingError(f"{rec.name}: no windows to pretrain on")
    mean, std = statistics(rec, chosen)
    x, y = torch.from_numpy(rec.signal(chosen)), torch.from_numpy(rec.y[chosen].copy())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = standardized(_network(rec, model, norm), mean, std)
        if engine != "torch":
            try:
                train_in_c(
                    module,
                    x.numpy(),
                    y.numpy(),
                    epochs=epochs,
                    lr=lr,
                    batch=batch,
                    seed=seed,
                    on_epoch=on_epoch,
                )
                return module.eval()
            except DeviceError as error:
                raise BioTrainError(
                    f"pretraining: {error}; a lower learning rate may help"
                ) from error
            except BioTrainError:
                if engine == "c":
                    raise
        optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
        _train(module, x, y, optimizer, None, epochs, batch, seed, on_epoch)
    return module.eval()


def untrained(rec: Recordings, model: str | Factory, norm: str) -> nn.Sequential:
    """The module that `pretrain` returns, in eval mode, before any statistics or training: what a
    saved state dict is loaded into."""
    ones = np.ones(rec.n_chans)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return standardized(_network(rec, model, norm), 0 * ones, ones).eval()


def has_batch_norm(rec: Recordings, model: str | Factory) -> bool:
    """Whether the network has statistics that adabn can take again."""
    layers = untrained(rec, model, "batch").modules()
    return any(isinstance(m, _BatchNorm) and m.track_running_stats for m in layers)


def _network(rec: Recordings, model: str | Factory, norm: str) -> nn.Module:
    shape = {
        "n_chans": rec.n_chans,
        "n_times": rec.n_times,
        "n_outputs": rec.n_classes,
        "sfreq": rec.fs,
    }
    try:
        if isinstance(model, str):
            return build(model, norm=norm, **shape, **device_options(model, norm))  # type: ignore[arg-type]
        module = model(norm=norm, **shape)
    except (ValueError, TypeError) as error:
        raise BioTrainError(f"{rec.name}: no network for it: {error}") from error
    if norm == "group" and any(isinstance(m, _BatchNorm) for m in module.modules()):
        # What adapts must be what was pretrained: the rewrite changes the function.
        module = prepare(module, norm="group")
    return module


def trainable(module: nn.Module, strategy: str) -> list[nn.Parameter]:
    """The parameters that "last" (the last layer that has any) or "full" trains."""
    if strategy == "full":
        return list(module.parameters())
    if strategy != "last":
        raise BioTrainError(f'the torch reference trains "last" or "full", not "{strategy}"')
    owners = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    return list(owners[-1].parameters(recurse=False))


def finetune_torch(
    module: nn.Module,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    *,
    strategy: str = "full",
    epochs: int = 30,
    lr: float = 5e-3,
    momentum: float = 0.9,
    weight_decay: float = 1e-3,
    schedule: str = "cosine",
    batch: int = 8,
    seed: int = 0,
    on_epoch: Epoch | None = None,
) -> nn.Module:
    """Conventional fine-tuning of `module` in place, in batches: BatchNorm takes the statistics of
    the batch and updates the running ones (only where "full" trains it), dropout is off.

    SGD with momentum and a "cosine" or "constant" schedule over all steps, `x` in physical units
    [trials, channels, time]; a new order of the samples in every epoch, from `seed`.
    Raises BioTrainError for another strategy or schedule, and where the loss is not finite.
    """
    chosen = trainable(module, strategy)
    for parameter in module.parameters():
        parameter.requires_grad_(any(parameter is p for p in chosen))
    optimizer = torch.optim.SGD(chosen, lr=lr, momentum=momentum, weight_decay=weight_decay)
    annealing = None
    if schedule == "cosine":
        steps = max(1, epochs * -(-len(x) // batch))
        annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    elif schedule != "constant":
        raise BioTrainError(f'a schedule is "cosine" or "constant", not "{schedule}"')

    def prepare() -> None:
        module.train(strategy == "full")
        for layer in module.modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd):
                layer.eval()

    _train(
        module,
        torch.from_numpy(x),
        torch.from_numpy(y.copy()),
        optimizer,
        annealing,
        epochs,
        batch,
        seed,
        on_epoch,
        prepare,
    )
    return module.eval()


@one_thread()
def _train(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    epochs: int,
    batch: int,
    seed: int,
    on_epoch: Epoch | None,
    prepare: Callable[[], None] | None = None,
) -> None:
    """Cross-entropy over shuffled batches; before each epoch `prepare` puts layers into their mode
    (all into train mode by default)."""
    for epoch in range(epochs):
        (prepare or module.train)()
        for part in torch.from_numpy(shuffled(len(x), seed, epoch)).split(batch):
            loss = nn.functional.cross_entropy(module(x[part]), y[part])
            if not torch.isfinite(loss):
                raise BioTrainError(
                    f"the loss became {loss.item()} in epoch {epoch + 1}; a lower learning rate "
                    "may help"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
        if on_epoch is not None:
            on_epoch(epoch + 1, epochs)


def predict(module: nn.Module, x: NDArray[np.float32], batch: int = 256) -> NDArray[np.float32]:
    """Logits [trials, classes] in eval mode."""
    module.eval()
    with torch.no_grad():
        parts = [module(part) for part in torch.from_numpy(x).split(batch)]
    logits: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits
