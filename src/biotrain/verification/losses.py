# SPDX-License-Identifier: Apache-2.0
"""The objective of a package in torch, and targets to verify it with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from biotrain.emit.source import Source
from biotrain.ir.loss import L1, BCEWithLogits, CrossEntropy, Huber, Loss

Array = npt.NDArray[Any]


def outputs_of(source: Source, returned: Any) -> list[torch.Tensor]:
    """What a module returned, head by head."""
    if isinstance(returned, torch.Tensor):
        return [returned]
    if isinstance(returned, Mapping):
        by_name = {str(k): v for k, v in returned.items()}
        return [by_name[name] for name in source.heads.names]
    return [v for v in returned if v is not None]


def joined(source: Source, returned: Any) -> torch.Tensor:
    """What `Device.predict` returns of it: one row for each window."""
    outputs = outputs_of(source, returned)
    if len(outputs) == 1:
        return outputs[0]
    return torch.cat([v.flatten(1) for v in outputs], 1)


def objective(source: Source, returned: Any, y: Array) -> torch.Tensor:
    """The mean loss of windows; `y`: their targets as the C takes them."""
    outputs = outputs_of(source, returned)
    if source.loss.takes_label(source.heads.shapes):
        return _loss(source.loss.heads[0], outputs[0], torch.as_tensor(y).long()).mean()
    targets = torch.as_tensor(y).to(outputs[0].dtype)
    total = torch.zeros(len(targets), dtype=outputs[0].dtype)
    at = 0
    sizes = source.loss.sizes(source.heads.shapes)
    for loss, output, size in zip(source.loss.heads, outputs, sizes, strict=True):
        part = targets[:, at : at + size].reshape(len(targets), *loss.target(output.shape))
        total = total + _loss(loss, output, part.long() if loss.labels else part)
        at += size
    if source.loss.sample_weights:
        total = total * targets[:, -1]
    return total.mean()


def _loss(loss: Loss, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loss of each window, [batch]."""
    weights = torch.tensor(loss.weights, dtype=x.dtype) if loss.weights else None
    if isinstance(loss, CrossEntropy):
        ignore = -100 if loss.ignore_index is None else loss.ignore_index
        each = F.cross_entropy(
            x,
            y,
            weights,
            ignore_index=ignore,
            reduction="none",
            label_smoothing=loss.label_smoothing,
        )
        counted = torch.full_like(each, 1.0) if loss.soft else (y != ignore).to(x.dtype)
        each, counted = each.reshape(len(x), -1), counted.reshape(len(x), -1)
        return loss.factor * each.sum(1) / counted.sum(1).clamp(min=1)
    if isinstance(loss, BCEWithLogits):
        if weights is not None:
            weights = weights.reshape(-1, *[1] * (x.dim() - 2))
        each = F.binary_cross_entropy_with_logits(x, y, pos_weight=weights, reduction="none")
    elif isinstance(loss, Huber):
        each = F.huber_loss(x, y, reduction="none", delta=loss.delta)
    elif isinstance(loss, L1):
        each = F.l1_loss(x, y, reduction="none")
    else:
        each = F.mse_loss(x, y, reduction="none")
    return loss.factor * each.flatten(1).mean(1)


def draw_targets(source: Source, rng: np.random.Generator) -> list[Array]:
    """Targets of one window, head by head, that do not cancel over windows: classes and 0 or 1."""
    found: list[Array] = []
    for loss, shape in zip(source.loss.heads, source.heads.shapes, strict=True):
        target = loss.target(shape)
        if loss.labels:
            found.append(rng.integers(0, shape[1], target))
        elif isinstance(loss, CrossEntropy):
            found.append(rng.dirichlet(np.ones(shape[1]), target[1:]).swapaxes(0, -1))
        else:
            found.append(rng.integers(0, 2, target).astype(np.float32))
    return found


def drawn(
    source: Source, fixed: Sequence[Array], count: int, rng: np.random.Generator
) -> tuple[Any, Array | None]:
    """y of `count` windows as a user gives it, and their weights.

    Numbers of regression are drawn for each window; the others are `fixed` ones of a draw.
    """
    parts: list[Array] = []
    heads = source.heads
    for loss, shape, one in zip(source.loss.heads, heads.shapes, fixed, strict=True):
        if loss.labels or isinstance(loss, (CrossEntropy, BCEWithLogits)):
            parts.append(np.repeat(np.asarray(one)[None], count, 0))
        else:
            size = (count, *loss.target(shape))
            parts.append(rng.standard_normal(size).astype(np.float32))
    weights = None
    if source.loss.sample_weights:
        weights = rng.uniform(0.5, 2.0, count).astype(np.float32)
    if heads.names:
        return dict(zip(heads.names, parts, strict=True)), weights
    return (tuple(parts) if heads.several else parts[0]), weights


def flat(predicted: Any) -> Array:
    """What `Device.predict` returned, one row for each window."""
    if isinstance(predicted, Mapping):
        predicted = tuple(predicted.values())
    if isinstance(predicted, tuple):
        return np.concatenate([v.reshape(len(v), -1) for v in predicted], 1)
    found: Array = predicted
    return found
