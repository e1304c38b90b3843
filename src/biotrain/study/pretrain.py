# SPDX-License-Identifier: Apache-2.0
"""Pretraining on other subjects, in the generated C or in torch.

Weights start and dropout falls from `seed` alone, and torch's global generator is left as it was.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from biotrain.errors import BioTrainError, DeviceError, users_code
from biotrain.models import averaging, build, standardized
from biotrain.study.data.recordings import RecordingError, Recordings
from biotrain.study.plateau import Plateau, epochs_for, held_people
from biotrain.study.pretrain_c import WEIGHT_DECAY, train_in_c
from biotrain.study.settings import ENGINES, PretrainSettings
from biotrain.study.task import Labelled
from biotrain.study.torch_training import CrossEntropyTrainer, Epoch, run_epochs
from biotrain.topology import prepare

Factory = Callable[..., nn.Module]
"""Takes n_chans, n_times, n_outputs, sfreq and norm="batch"|"group", as the built-in models do."""


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
    """Options of a built-in model that go with its norm: average pooling with GroupNorm, as a
    device trains it; as published with BatchNorm."""
    return averaging(model) if norm == "group" and isinstance(model, str) else {}


def pretrain(
    rec: Recordings,
    model: str | Factory,
    idx: ArrayLike,
    settings: PretrainSettings | None = None,
    *,
    norm: str = "group",
    seed: int = 0,
    on_epoch: Epoch | None = None,
    **named: Any,
) -> nn.Sequential:
    """A network that has learned the windows `idx` (those of all subjects but one).

    AdamW, learning rate 1e-3, batches of 64, 40 epochs (arXiv 2604.13359). The result is a
    Sequential of `standardize` (statistics of `idx`) and `network`, in eval mode; its input is the
    physical signal, float32 [batch, n_chans, n_times].

    settings, named: how, and single fields of it by name (epochs, lr, batch, steps, plateau,
        engine). The caller has taken every n-th window already. steps: at least so many optimizer
        steps, in more epochs where it takes more. plateau: one of five people of `idx` (one at
        least) is held out; once `epochs` and `steps` have run it ends where so many epochs have
        not lowered the loss on them, or after four times as many, and the best epoch's weights
        are returned. engine: "c", in the generated C, two to nine times
        sooner on one core and with the same bits on every machine; "torch"; "auto": C where the
        compiler takes the network. Both do the same, but draw their dropouts apart.
    seed: of the initial weights, the dropout and the order of the windows.

    Raises:
        BioTrainError: the network cannot be built for these windows, or its loss is not finite.
        RecordingError: no windows, or a flat channel.
    """
    how = replace(settings or PretrainSettings(), **named, seed=seed)
    chosen = np.asarray(idx)
    if how.engine not in ENGINES:
        raise BioTrainError(f"pretraining runs in {', '.join(ENGINES)}, not in '{how.engine}'")
    if not len(chosen):
        raise RecordingError(f"{rec.name}: no windows to pretrain on")
    how.check()
    apart = held_people(rec, chosen, seed) if how.plateau else np.zeros(len(chosen), np.bool_)
    held, chosen = chosen[apart], chosen[~apart]
    mean, std = statistics(rec, chosen)
    x, y = rec.signal(chosen), rec.y[chosen].copy()
    least, most = epochs_for(how, len(chosen))
    how = replace(how, epochs=most)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = standardized(_network(rec, model, norm), mean, std)
        watch = Plateau(module, Labelled(rec.signal(held), rec.y[held]), least, how.plateau)
        ends = watch.ends if how.plateau else None
        if how.engine != "torch":
            try:
                train_in_c(module, x, y, how, on_epoch=on_epoch, ends=ends)
                watch.restore()
                return module.eval()
            except DeviceError as error:
                raise BioTrainError(
                    f"pretraining: {error}; a lower learning rate may help"
                ) from error
            except BioTrainError:
                if how.engine == "c":
                    raise
        optimizer = torch.optim.AdamW(module.parameters(), lr=how.lr, weight_decay=WEIGHT_DECAY)
        windows, labels = torch.from_numpy(x), torch.from_numpy(y)
        trainer = CrossEntropyTrainer(module, windows, labels, optimizer, how.batch, seed)
        run_epochs(trainer, how.epochs, on_epoch, ends)
        watch.restore()
    return module.eval()


def untrained(rec: Recordings, model: str | Factory, norm: str) -> nn.Sequential:
    """The module that `pretrain` returns, in eval mode, before any statistics or training: what a
    saved state dict is loaded into."""
    ones = np.ones(rec.n_chans)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return standardized(_network(rec, model, norm), 0 * ones, ones).eval()


def has_batch_norm(rec: Recordings, model: str | Factory) -> bool:
    """Whether the network has running statistics, which adabn re-estimates."""
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
        with users_code(name := getattr(model, "__name__", "the model")):
            module = model(norm=norm, **shape)
    except ValueError as error:
        raise BioTrainError(f"{rec.name}: no network for it: {error}") from error
    check_outputs(module, torch.zeros(1, rec.n_chans, rec.n_times), rec.n_classes, name)
    if norm == "group" and any(isinstance(m, _BatchNorm) for m in module.modules()):
        # What adapts must be what was pretrained: the rewrite changes the function.
        module = prepare(module, norm="group")
    return module


def check_outputs(module: nn.Module, window: torch.Tensor, classes: int, name: str) -> None:
    """Raise BioTrainError unless `module` turns one `window` [1, n_chans, n_times] into a score for
    each of so many classes: with more outputs than classes, or fewer, a network still trains, and
    its accuracy says nothing. `name`: what the message calls it."""
    if not isinstance(module, nn.Module):
        raise BioTrainError(f"'{name}' returned a {type(module).__name__}, not a torch module")
    modes = [(layer, layer.training) for layer in module.modules()]
    kind = next((p.dtype for p in module.parameters()), window.dtype)
    try:
        with users_code(name), torch.no_grad():
            scores = module.eval()(window.to(kind))
    finally:
        for layer, training in modes:
            layer.training = training
    if not isinstance(scores, torch.Tensor):
        raise BioTrainError(f"'{name}' returns a {type(scores).__name__}, not one tensor of scores")
    if tuple(scores.shape) != (1, classes):
        raise BioTrainError(
            f"'{name}' returns {list(scores.shape)} for one window, and there are {classes} "
            f"classes: its last layer needs {classes} outputs, [batch, {classes}]"
        )
