# SPDX-License-Identifier: Apache-2.0
"""Several outputs of a network: one after another in one tensor (1, n), and their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from biotrain.errors import CaptureError
from biotrain.ir.graph import Shape, Value
from biotrain.ir.op import Builder
from biotrain.ops.cat import FAN_IN
from biotrain.ops.shape import reshaped


@dataclass(frozen=True, slots=True)
class Heads:
    """The outputs of a network, in the order in which it returns them."""

    shapes: tuple[Shape, ...]
    """Torch's shapes, the batch axis of one window included."""
    names: tuple[str, ...] = ()
    """Keys, where it returns a dict."""
    several: bool = False
    """Whether it returns a tuple or dict."""

    def split(self, rows: Any) -> Any:
        """Rows of the joined outputs, array [batch, n], as what the network returns."""
        parts, at = [], 0
        for shape in self.shapes:
            size = prod(shape)
            parts.append(rows[:, at : at + size].reshape(len(rows), *shape[1:]))
            at += size
        if not self.several:
            return rows
        return dict(zip(self.names, parts, strict=True)) if self.names else tuple(parts)


def joined(b: Builder, outputs: Sequence[Value]) -> Value:
    """One tensor (1, n) of all outputs; a single one as it is."""
    if len(outputs) == 1:
        return outputs[0]
    parts = [reshaped(b, v, (1, v.size)) for v in outputs]
    while len(parts) > 1:
        groups = [parts[i : i + FAN_IN] for i in range(0, len(parts), FAN_IN)]
        parts = [b.one("cat", *g, axis=1, hint="outputs") if len(g) > 1 else g[0] for g in groups]
    return parts[0]


def heads_of(returned: object, outputs: Sequence[Value]) -> Heads:
    """What the outputs are; `returned` is the structure of what the network returns.

    Raises CaptureError for a structure that is neither a tensor, a tuple or list, nor a dict.
    """
    shapes = tuple(v.shape for v in outputs)
    if isinstance(returned, Mapping):
        if len(returned) == len(shapes):
            return Heads(shapes, tuple(map(str, returned)), True)
    elif not isinstance(returned, (list, tuple)):
        return Heads(shapes)
    elif len(shapes) > 1:
        return Heads(shapes, (), True)
    else:
        return Heads(shapes)
    raise CaptureError("the model must return a tensor, or a tuple or dict of tensors")
