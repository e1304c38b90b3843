# SPDX-License-Identifier: Apache-2.0
"""Pretraining in the generated C: the same network, optimizer, batches and dropout as in torch,
several times sooner.

Dropout needs random numbers, which a device has no use for. Here the host draws the masks and hands
them over behind the signal, as further samples of each window.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from biotrain.errors import BioTrainError, CaptureError
from biotrain.study.order import shuffled
from biotrain.study.settings import PretrainSettings

Array = NDArray[np.float32]
BATCHES_PER_CHUNK = 32
"""Batches whose masks are drawn at a time."""
WEIGHT_DECAY = 1e-2
"""Default weight decay of torch.optim.AdamW."""


class Masked(nn.Module):
    """`module` with every dropout replaced by masks that come with the input.

    Input: float32 [batch, n_chans, n_times + extra]; the `extra` last samples of all channels, read
    channel after channel, are the masks (0 or 1 / (1 - p)) of one window. `masks` draws them.

    Raises BioTrainError for a dropout other than nn.Dropout.
    """

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.module = module
        self.n_chans, self.n_times = example.shape[1:]
        self._masks: list[Tensor] = []
        self._places: list[tuple[nn.Module, str, nn.Module]] = []
        self.shapes: list[tuple[int, ...]] = []
        self.rates: list[float] = []
        self._replace(example)
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.size = sum(sizes)
        self.extra = -(-self.size // self.n_chans)
        self._starts = np.cumsum([0, *sizes]).tolist()

    def _replace(self, example: Tensor) -> None:
        found: dict[nn.Module, tuple[int, ...]] = {}

        def seen(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if layer in found:
                raise BioTrainError("a dropout that is used twice is not pretrained in C")
            found[layer] = tuple(output.shape[1:])

        for layer in self.module.modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd) and type(layer) is not nn.Dropout:
                raise BioTrainError(f"{type(layer).__name__} is not pretrained in C")
        dropouts = [m for m in self.module.modules() if isinstance(m, nn.Dropout) and m.p > 0]
        hooks = [m.register_forward_hook(seen) for m in dropouts]
        mode = self.module.training
        with torch.no_grad():
            self.module.eval()(example[:1])
        self.module.train(mode)
        for hook in hooks:
            hook.remove()
        for parent in list(self.module.modules()):
            for name, child in list(parent.named_children()):
                if child in found and isinstance(child, nn.Dropout):
                    self._places.append((parent, name, child))
                    parent._modules[name] = _Mask(self._masks, len(self.shapes))
                    self.shapes.append(found[child])
                    self.rates.append(child.p)

    def restore(self) -> nn.Module:
        """The module as it was, with its dropouts."""
        for parent, name, child in self._places:
            parent._modules[name] = child
        return self.module

    def forward(self, x: Tensor) -> Tensor:
        """Logits of windows with their masks behind them."""
        self._masks.clear()
        if self.shapes:
            flat = x[:, :, self.n_times :].reshape(x.shape[0], -1)
            for shape, first in zip(self.shapes, self._starts, strict=False):
                mask = flat[:, first : first + int(np.prod(shape))]
                self._masks.append(mask.reshape(x.shape[0], *shape))
            x = x[:, :, : self.n_times]
        logits: Tensor = self.module(x)
        return logits

    def masks(self, windows: int, generator: np.random.Generator) -> Array:
        """The masks of so many windows, [windows, n_chans, extra]."""
        out = np.zeros((windows, self.n_chans * self.extra), np.float32)
        for rate, first, end in zip(self.rates, self._starts, self._starts[1:], strict=False):
            kept = generator.random((windows, end - first), np.float32) >= rate
            out[:, first:end] = kept * np.float32(1 / (1 - rate) if rate < 1 else 0)
        return out.reshape(windows, self.n_chans, self.extra)


class _Mask(nn.Module):
    """Stands in for a dropout: multiplies by the mask that the window brought."""

    def __init__(self, masks: list[Tensor], index: int) -> None:
        super().__init__()
        self.masks, self.index = masks, index

    def forward(self, x: Tensor) -> Tensor:
        return x * self.masks[self.index]


def batches(
    masked: Masked, x: Array, y: NDArray[np.int64], batch: int, seed: int, epoch: int
) -> Iterator[tuple[Array, NDArray[np.int64]]]:
    """The windows of an epoch in its order, BATCHES_PER_CHUNK batches at a time, each window with
    its masks behind it."""
    order = shuffled(len(x), seed, epoch)
    stream = np.random.SeedSequence(seed, spawn_key=(epoch, 1))
    generator = np.random.Generator(np.random.Philox(stream))
    for first in range(0, len(order), BATCHES_PER_CHUNK * batch):
        part = order[first : first + BATCHES_PER_CHUNK * batch]
        yield np.concatenate([x[part], masked.masks(len(part), generator)], 2), y[part]


def train_in_c(
    module: nn.Module,
    x: Array,
    y: NDArray[np.int64],
    settings: PretrainSettings,
    *,
    schedule: str = "constant",
    on_epoch: Callable[[int, int], None] | None = None,
    ends: Callable[[], bool] | None = None,
) -> nn.Module:
    """Train `module` in place on windows x [trials, channels, time] with labels y: AdamW, batches
    of `settings.batch`, cross-entropy, in the generated C on this machine.

    BatchNorm takes the statistics of each batch and moves the running ones. `settings.seed` (0
    where it is None) is that of the order and the dropout. ends: asked after every epoch, when
    `module` has the weights so far; True ends it.

    Raises:
        CaptureError, BioTrainError: the compiler does not take the network; it is unchanged.
        DeviceError: the loss is not finite.
    """
    import biotrain as bt

    epochs, batch, seed = settings.epochs, settings.batch, settings.seed or 0
    module.train()
    masked = Masked(module, torch.from_numpy(x[:1]))
    try:
        group = not any(isinstance(m, _BatchNorm) for m in module.modules())
        example = np.concatenate([x[:1], np.ones((1, x.shape[1], masked.extra), np.float32)], 2)
        package = bt.compile(
            masked,
            torch.from_numpy(example),
            strategy="full",
            optimizer=bt.Adam(
                lr=settings.lr,
                weight_decay=WEIGHT_DECAY,
                decoupled=True,
                schedule=schedule,  # type: ignore[arg-type]
            ),
            accumulate=batch if group else 1,
            batch=1 if group else batch,
        )
        if package.notes:  # a dropout without a layer of its own, so without masks
            raise BioTrainError(package.notes[0])
        device = package.run("host")
    finally:
        masked.restore()
    device.begin(total_steps=epochs * -(-len(x) // batch))
    for epoch in range(epochs):
        for windows, labels in batches(masked, x, y, batch, seed, epoch):
            device.train(windows, labels)
        if on_epoch is not None:
            on_epoch(epoch + 1, epochs)
        if ends is not None:
            _load(module, device.parameters())
            if ends():
                break
    _load(module, device.parameters())
    device.close()
    return module


def _load(module: nn.Module, trained: "dict[str, Array]") -> None:
    """Copy the weights and running statistics of the device into the module."""
    state = module.state_dict()
    named = {name.removeprefix("module."): value for name, value in trained.items()}
    unknown = sorted(set(named) - set(state))
    if unknown:
        raise CaptureError(f"the device has no place for {unknown[0]}")
    for name, value in named.items():
        state[name].copy_(torch.from_numpy(value.copy()).reshape(state[name].shape))
