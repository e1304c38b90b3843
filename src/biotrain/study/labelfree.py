# SPDX-License-Identifier: Apache-2.0
"""Adaptation without labels: alignment and standardisation of the windows, BatchNorm
statistics re-estimated, and entropy minimisation on the norm layers.

Windows are float32 [windows, channels, time]; no function here takes a label.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from biotrain.errors import BioTrainError
from biotrain.study.data.recordings import Recordings, quantize
from biotrain.study.order import shuffled
from biotrain.study.torch_training import one_thread, run_epochs

Windows = NDArray[np.float32]
Transform = Callable[[Windows], Windows]

SHRINKAGE = 1e-6
"""Added to the covariance's diagonal, as a share of its mean: a channel that is a sum of others
(common average reference) would otherwise be divided by zero."""


def alignment(x: Windows) -> NDArray[np.float64]:
    """R^-1/2 [channels, channels], R the mean covariance of the windows `x`."""
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    r = np.einsum("nct,ndt->cd", centred, centred) / (len(x) * x.shape[-1])
    r[np.diag_indices_from(r)] += SHRINKAGE * np.trace(r) / len(r) + np.finfo(np.float64).tiny
    values, vectors = np.linalg.eigh(r)
    root: NDArray[np.float64] = (vectors / np.sqrt(values)) @ vectors.T
    return root


def align(x: Windows) -> Transform:
    """Euclidean alignment: x -> R^-1/2 x, R the mean covariance of the windows `x` (He and Wu,
    IEEE TBME 67(2), 2020). Afterwards the mean covariance of every session is the identity."""
    root = alignment(x)
    return lambda windows: np.einsum("cd,ndt->nct", root, windows).astype(np.float32)


def standardise(x: Windows) -> Transform:
    """Per channel: each window's own mean out, divided by the standard deviation of the windows
    `x` of this session."""
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    std = np.sqrt((centred**2).mean((0, 2)))[:, None]
    std[std == 0] = 1.0

    def change(windows: Windows) -> Windows:
        own = windows.mean(-1, keepdims=True, dtype=np.float64)
        return ((windows - own) / std).astype(np.float32)

    return change


TRANSFORMS: Mapping[str, Callable[[Windows], Transform]] = {
    "align": align,
    "standardise": standardise,
}
"""Fitted to the windows of one session; pretraining transforms every session by its own."""


def transformed(rec: Recordings, name: str) -> Recordings:
    """`rec` with every session of every subject transformed by its own statistics, and stored as
    integers like it; `rec` itself where `name` is ""."""
    if not name:
        return rec
    out = np.empty(rec.x.shape, np.float32)
    for person, session in np.unique(np.stack([rec.subject, rec.session], 1), axis=0):
        at = np.flatnonzero((rec.subject == person) & (rec.session == session))
        own = rec.signal(at)
        out[at] = TRANSFORMS[name](own)(own)
    x, scale = quantize(out)
    times = rec.time_s if rec.time_s is not None else rec.starts()
    return replace(rec, x=x, scale=scale, unit=f"after {name}", time_s=times)


@one_thread()
def adabn(module: nn.Module, x: Windows, batch: int = 256) -> nn.Module:
    """AdaBN: re-estimate the running statistics of every BatchNorm of `module`, in place, from the
    windows `x` (Li et al., Pattern Recognition 80, 2018); batches count by their size.

    BioTrainError if there is no BatchNorm with running statistics.
    """
    norms = _batch_norms(module)
    before = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    seen = 0
    with torch.no_grad():
        for part in torch.from_numpy(x).split(batch):
            seen += len(part)
            for norm in norms:
                norm.momentum = len(part) / seen
            module(part)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return module.eval()


def _batch_norms(module: nn.Module) -> list[_BatchNorm]:
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        raise BioTrainError("adabn re-estimates the statistics of BatchNorm; this network has none")
    return norms


NORM_LAYERS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)


class EntropyTrainer:
    """Minimises the entropy of predictions by SGD through the weight and bias of norm layers.

    BatchNorm's statistics are re-estimated from `x` first, and then kept.
    BioTrainError without norm parameters.
    """

    def __init__(
        self, module: nn.Module, x: Windows, *, lr: float, momentum: float, batch: int, seed: int
    ) -> None:
        layers = [m for m in module.modules() if isinstance(m, NORM_LAYERS)]
        chosen = [p for layer in layers for p in layer.parameters()]
        if not chosen:
            raise BioTrainError(
                "entropy trains the parameters of norm layers; this network has none"
            )
        if any(isinstance(layer, _BatchNorm) for layer in layers):
            adabn(module, x)
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(any(parameter is p for p in chosen))
        self.module, self.windows = module, torch.from_numpy(x)
        self.optimizer = torch.optim.SGD(chosen, lr=lr, momentum=momentum)
        self.batch, self.seed = batch, seed

    @one_thread()
    def epoch(self, number: int) -> None:
        """Raises BioTrainError where the entropy is not finite; that batch makes no step."""
        self.module.eval()
        order = torch.from_numpy(shuffled(len(self.windows), self.seed, number))
        for part in order.split(self.batch):
            loss = _entropy(self.module(self.windows[part]))
            if not torch.isfinite(loss):
                raise BioTrainError(f"the entropy became {loss.item()} in epoch {number + 1}")
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def minimise_entropy(
    module: nn.Module,
    x: Windows,
    *,
    epochs: int = 1,
    lr: float = 1e-3,
    momentum: float = 0.9,
    batch: int = 8,
    seed: int = 0,
    on_epoch: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """TENT: SGD on the entropy of the predictions for `x`, through the weight and bias of the norm
    layers of `module` only, in place (Wang et al., ICLR 2021). BatchNorm's statistics are
    re-estimated from all of `x` first, and then kept.

    BioTrainError without norm parameters, or where the entropy is not finite.
    """
    trainer = EntropyTrainer(module, x, lr=lr, momentum=momentum, batch=batch, seed=seed)
    run_epochs(trainer, epochs, on_epoch)
    return module.eval()


def _entropy(logits: Tensor) -> Tensor:
    """Mean over the batch of -sum p log p, in nats."""
    log_p = torch.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1).mean()
