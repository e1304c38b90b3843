# SPDX-License-Identifier: Apache-2.0
"""How well predictions agree with labels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def accuracy(labels: NDArray[Any], y: NDArray[Any]) -> float:
    """Share of `labels` that equal `y`."""
    return float(np.mean(labels == y))


def balanced_accuracy(labels: NDArray[Any], y: NDArray[Any]) -> float:
    """Mean over the classes that `y` has of the share recognised."""
    return float(np.mean([np.mean(labels[y == c] == c) for c in np.unique(y)]))


def cross_entropy(logits: NDArray[np.float32], y: NDArray[Any]) -> float:
    """Mean over windows, in nats; infinite where a logit is not finite."""
    if not np.isfinite(logits).all():
        return float("inf")
    z = logits.astype(np.float64)
    z -= z.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]))


def confusion(labels: NDArray[Any], y: NDArray[Any], classes: int) -> list[list[int]]:
    """How often class i (row) was predicted as class j (column)."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (y, labels), 1)
    return [[int(n) for n in row] for row in counts]


def packed(right: NDArray[np.bool_]) -> str:
    """Which windows are right, as hexadecimal digits, the first window in the highest bit."""
    return np.packbits(right).tobytes().hex()


def unpacked(text: str, count: int) -> NDArray[np.bool_]:
    """The `count` windows that `packed` wrote. ValueError where it did not write so many."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))
    if not count <= len(bits) < count + 8:
        raise ValueError(f"{len(text)} digits are not {count} windows")
    return bits[:count].astype(np.bool_)
