# SPDX-License-Identifier: Apache-2.0
"""What a user calls y, as the C takes it: one integer for a window, or one row of floats.

A row has the targets of all heads, one after another, classes as floats too, and behind them the
weight of the window where the package has such weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from biotrain.emit.source import Source
from biotrain.errors import BioTrainError

MOST_LABEL = 2**24
"""Floats are every integer up to here."""


def encoded(source: Source, y: Any, count: int, sample_weight: Any = None) -> npt.NDArray[Any]:
    """int32 [count], or float32 [count, numbers of a target].

    Raises BioTrainError for other shapes and kinds than the losses take.
    """
    objective, heads = source.loss, source.heads
    if (sample_weight is not None) != objective.sample_weights:
        asked = "with sample_weights=True" if sample_weight is not None else "for sample_weight"
        raise BioTrainError(f"the package is not compiled {asked}; weights of windows need both")
    parts = split(source, y)
    both = zip(objective.heads, heads.shapes, strict=True)
    shapes = [(count, *loss.target(logits)) for loss, logits in both]
    if objective.takes_label(heads.shapes):
        return _labels(parts[0], (count,))
    rows: list[npt.NDArray[Any]] = []
    for i, (loss, part, shape) in enumerate(zip(objective.heads, parts, shapes, strict=True)):
        name = _name(source, i)
        values = _labels(part, shape, name) if loss.labels else _numbers(part, shape, name)
        rows.append(values.reshape(count, -1).astype(np.float32))
    if sample_weight is not None:
        rows.append(_numbers(sample_weight, (count,), "sample_weight").reshape(count, 1))
    return np.ascontiguousarray(np.concatenate(rows, 1), np.float32)


def split(source: Source, y: Any) -> list[Any]:
    """The targets head by head."""
    names = source.heads.names
    if names:
        if not isinstance(y, Mapping) or sorted(map(str, y)) != sorted(names):
            raise BioTrainError(f"y must be a dict of {', '.join(names)}")
        by_name = {str(k): v for k, v in y.items()}
        return [by_name[name] for name in names]
    if not source.heads.several:
        return [y]
    if not isinstance(y, (list, tuple)) or len(y) != len(source.heads.shapes):
        raise BioTrainError(f"y must be a tuple of {len(source.heads.shapes)} arrays")
    return list(y)


def _name(source: Source, head: int) -> str:
    if source.heads.names:
        return f"y['{source.heads.names[head]}']"
    return f"y[{head}]" if source.heads.several else "y"


def _labels(y: Any, shape: tuple[int, ...], name: str = "y") -> npt.NDArray[np.int32]:
    targets = np.asarray(y)
    if not np.issubdtype(targets.dtype, np.integer) or targets.shape != shape:
        wanted = f"[{', '.join(map(str, shape))}]"
        raise BioTrainError(
            f"{name} must be integers {wanted}, not {targets.dtype} {list(targets.shape)}"
        )
    limits = np.iinfo(np.int32)
    if len(shape) > 1:
        return np.clip(targets, -MOST_LABEL, MOST_LABEL).astype(np.int32)
    labels: npt.NDArray[np.int32] = np.clip(targets, limits.min, limits.max).astype(np.int32)
    return labels


def _numbers(y: Any, shape: tuple[int, ...], name: str) -> npt.NDArray[np.float32]:
    targets = np.asarray(y)
    if targets.shape != shape or not np.issubdtype(targets.dtype, np.number):
        wanted = f"[{', '.join(map(str, shape))}]"
        raise BioTrainError(
            f"{name} must be numbers {wanted}, not {targets.dtype} {list(targets.shape)}"
        )
    return np.ascontiguousarray(targets, np.float32)
