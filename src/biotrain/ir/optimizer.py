# SPDX-License-Identifier: Apache-2.0
"""Optimizers and schedules as the user states them; semantics are those of torch.optim."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from biotrain.errors import BioTrainError
from biotrain.recipe import Recipe

Schedule = Literal["constant", "cosine"]

Gradients = Literal["separate", "momentum", "update"]
"""Where gradients go: into tensors of their own, into the momentum, or into the update at once."""
GRADIENTS: tuple[Gradients, ...] = ("separate", "momentum", "update")


RATE_MOST = 1e10
"""The largest learning rate: `BT_RATE_MOST` of `model.h`."""


@dataclass(frozen=True, slots=True)
class SGD:
    """`torch.optim.SGD`: momentum, L2 weight decay, Nesterov; the defaults are the paper's.

    `schedule` is `constant` or `cosine` (to zero over the steps that the caller announces with
    `Device.begin`, as `torch.optim.lr_scheduler.CosineAnnealingLR` stepped once per update).
    `clip_norm` bounds the global norm of the mean gradient (`torch.nn.utils.clip_grad_norm_`).
    """

    lr: float = 5e-3
    momentum: float = 0.9
    weight_decay: float = 1e-3
    nesterov: bool = False
    schedule: Schedule = "constant"
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _check(self)
        if self.nesterov and not self.momentum:
            raise BioTrainError("Nesterov needs a momentum above zero")

    @property
    def slots(self) -> tuple[str, ...]:
        """State tensors per parameter."""
        return ("momentum",) if self.momentum else ()


@dataclass(frozen=True, slots=True)
class Adam:
    """`torch.optim.Adam`, or `AdamW` where `decoupled`."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False
    schedule: Schedule = "constant"
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _check(self)
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise BioTrainError(f"Adam's betas must lie in [0, 1), not {self.betas}")
        if not (isfinite(self.eps) and self.eps >= 0.0):
            raise BioTrainError(f"Adam's eps must be a number from 0, not {self.eps}")

    @property
    def slots(self) -> tuple[str, ...]:
        """State tensors per parameter."""
        return ("mean", "square")


Optimizer = SGD | Adam


def optimizer_of(recipe: Recipe) -> Optimizer:
    """The optimizer of a recipe, at the rate that it names or leaves to its rule."""
    common: dict[str, Any] = {
        "lr": recipe.rate,
        "weight_decay": recipe.weight_decay,
        "schedule": recipe.schedule,
        "clip_norm": recipe.clip_norm or None,
    }
    return Adam(**common) if recipe.optimizer == "adam" else SGD(**common, momentum=recipe.momentum)


def check_gradients(gradients: Gradients, optimizer: Optimizer, accumulate: int) -> None:
    """Raise `BioTrainError` where gradients cannot go there with this optimizer and group."""
    if gradients not in GRADIENTS:
        raise BioTrainError(f"gradients '{gradients}' is not one of {', '.join(GRADIENTS)}")
    if gradients == "separate":
        return
    if optimizer.clip_norm is not None:
        raise BioTrainError(
            f"clip_norm needs all gradients at one time, which gradients='{gradients}' does not "
            "keep: use gradients='separate'"
        )
    if gradients == "update" and accumulate != 1:
        raise BioTrainError(
            f"gradients='update' steps after every window: accumulate must be 1, not {accumulate}"
        )
    if gradients == "momentum" and not (isinstance(optimizer, SGD) and optimizer.momentum):
        raise BioTrainError("gradients='momentum' needs SGD with a momentum above zero")
    if gradients == "momentum" and getattr(optimizer, "nesterov", False):
        raise BioTrainError(
            "Nesterov adds the gradient to the step once more, which gradients='momentum' does "
            "not keep: use gradients='separate' or 'update'"
        )


def _check(optimizer: Any) -> None:
    for name in ("lr", "weight_decay"):
        value = getattr(optimizer, name)
        if not (isfinite(value) and value >= 0):
            raise BioTrainError(f"{name} must be a number from 0, not {value}")
    if optimizer.lr > RATE_MOST:
        raise BioTrainError(f"lr must be {RATE_MOST:g} at most, not {optimizer.lr}")
    if not 0 <= getattr(optimizer, "momentum", 0.0) < 1:
        raise BioTrainError(f"momentum must lie in [0, 1), not {optimizer.momentum}")
    if optimizer.schedule not in ("constant", "cosine"):
        raise BioTrainError(f"schedule '{optimizer.schedule}' is not one of constant, cosine")
    if optimizer.clip_norm is not None and not 0 < optimizer.clip_norm < float("inf"):
        raise BioTrainError("clip_norm must be above zero")
