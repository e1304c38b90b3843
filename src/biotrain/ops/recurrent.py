# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers: RNN, LSTM and GRU over the rows of (steps, features), forward or backward.

What the input contributes to the gates is a linear layer before (`layers` below), so that an op
here is the recurrence alone, with backpropagation through all steps: states and gates of every step
are stored. Gradients of the recurrent weights are those of a linear layer, from the states of each
step to the gates of the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import NULL, Builder, Call, Op, Sample, p_in, p_out, register

GATE_OPS = 30
"""Multiplies and adds of one gate's function and its part in the state."""


class _Recurrence(Op):
    """What the cells and their gradients share."""

    gates: ClassVar[int]
    """Blocks of rows of the weights."""

    def tiles(self, node: Node) -> bool:
        return False

    def row_step(self, node: Node) -> int:
        return 0

    def _weights(self, node: Node) -> Shape:
        """Shape of the recurrent weights, (gates x features, features)."""
        raise NotImplementedError

    def macs(self, node: Node) -> int:
        rows, size = self._weights(node)
        return node.outputs[0].shape[0] * rows * size

    def ops(self, node: Node) -> int:
        return 2 * self.macs(node) + GATE_OPS * self.gates * node.outputs[0].size

    def _call(self, node: Node, function: str, *operands: Any) -> Call:
        steps, size = node.outputs[0].shape[0], self._weights(node)[1]
        geometry = (
            ("steps", steps),
            ("size", size),
            ("reverse", int(bool(node["reverse"]))),
            ("relu", int(bool(node.get("relu", False)))),
        )
        return Call(function, "bt_recurrent", geometry, operands, (1, node.outputs[0].size))


class _Cell(_Recurrence):
    """A recurrence over what the input contributes, x (steps, gates x features)."""

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, w = shapes[:2]
        size = w[-1]
        if len(x) != 2 or w != (self.gates * size, size) or x[1] != self.gates * size:
            raise GraphError(f"{self.name}: {x} does not match the weights {w}")
        return self.results(x[0], size)

    def results(self, steps: int, size: int) -> tuple[Shape, ...]:
        """Shapes of the states, and of what the gradient needs."""
        raise NotImplementedError

    def _weights(self, node: Node) -> Shape:
        return node.inputs[1].shape

    def _states(self, b: Builder, node: Node, grad: Value | None) -> Value:
        """The gradient of the states of all steps."""
        h = node.outputs[0]
        return grad if grad is not None else b.one("affine", h, scale=0.0, shift=0.0)

    def _dw(self, b: Builder, node: Node, up: Value) -> Value | None:
        """Gradient of the recurrent weights: states of a step times gates of the next."""
        h, w = node.outputs[0], node.inputs[1]
        steps = h.shape[0]
        if steps == 1:
            return None

        def part(x: Value, start: int) -> Value:
            sizes = (steps - 1, x.shape[1])
            return b.one("slice", x, starts=(start, 0), sizes=sizes, steps=(1, 1))

        late = int(not node["reverse"])
        return b.one("linear_dw", part(h, 1 - late), part(up, late), hint=f"d_{w.name}")

    def _case(self, steps: int, size: int, *more: Shape, **attrs: Attr) -> Sample:
        shapes = ((steps, self.gates * size), (self.gates * size, size), *more)
        return Sample(shapes, {"reverse": False, **attrs}, low=-1.0, high=1.0)


@register("bt_recurrent.h")
class Rnn(_Cell):
    """h = act(x + w h'), act tanh or (`relu`) max(., 0)."""

    name = "rnn"
    gates = 1
    inplace = ((0, 0),)

    def results(self, steps: int, size: int) -> tuple[Shape, ...]:
        return ((steps, size),)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        h, w = node.outputs[0], node.inputs[1]
        dh = self._states(b, node, grads[0])
        dx = b.one("rnn_dx", h, dh, w, hint=f"d_{node.inputs[0].name}", **dict(node.attrs))
        return dx, self._dw(b, node, dx) if wanted[1] else None

    def call(self, node: Node) -> Call:
        return self._call(node, "bt_rnn", p_in(0), p_in(1), p_out())

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        x, w = inputs
        act = torch.relu if attrs["relu"] else torch.tanh
        h, rows = torch.zeros(w.shape[1], dtype=x.dtype), []
        for t in _order(len(x), attrs):
            h = act(x[t] + w @ h)
            rows.append(h)
        return torch.stack(rows[::-1] if attrs["reverse"] else rows)

    def samples(self) -> tuple[Sample, ...]:
        return (self._case(9, 5, relu=False), self._case(7, 4, relu=True, reverse=True))


def _order(steps: int, attrs: Mapping[str, Attr]) -> range:
    return range(steps - 1, -1, -1) if attrs["reverse"] else range(steps)


@register("bt_recurrent.h")
class RnnDx(_Recurrence):
    """What reaches x, from the states, their gradient and the weights."""

    name = "rnn_dx"
    gates = 1

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return shapes[0], (shapes[2][1],)

    def _weights(self, node: Node) -> Shape:
        return node.inputs[2].shape

    def call(self, node: Node) -> Call:
        return self._call(node, "bt_rnn_dx", p_in(0), p_in(1), p_in(2), p_out(0), p_out(1))


@register("bt_recurrent.h")
class Lstm(_Cell):
    """States h and c of every step, and its gates i, f, g, o."""

    name = "lstm_cells"
    gates = 4
    inplace = ((2, 0),)

    def results(self, steps: int, size: int) -> tuple[Shape, ...]:
        return (steps, size), (steps, size), (steps, 4 * size)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        _, c, gates = node.outputs
        dh, dc = self._states(b, node, grads[0]), grads[1]
        given = (gates, c, dh, node.inputs[1]) if dc is None else (gates, c, dh, node.inputs[1], dc)
        dx = b.one("lstm_dx", *given, hint=f"d_{node.inputs[0].name}", **dict(node.attrs))
        return dx, self._dw(b, node, dx) if wanted[1] else None

    def call(self, node: Node) -> Call:
        return self._call(node, "bt_lstm", p_in(0), p_in(1), p_out(0), p_out(1), p_out(2))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        x, w = inputs
        h = c = torch.zeros(w.shape[1], dtype=x.dtype)
        rows = []
        for t in _order(len(x), attrs):
            i, f, g, o = (x[t] + w @ h).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            rows.append(h)
        return torch.stack(rows[::-1] if attrs["reverse"] else rows)

    def samples(self) -> tuple[Sample, ...]:
        return (self._case(9, 5), self._case(4, 37, reverse=True))


@register("bt_recurrent.h")
class LstmDx(_Recurrence):
    """What reaches x, from gates, c, the gradients of h and perhaps of c, and the weights."""

    name = "lstm_dx"
    gates = 4
    inplace = ((0, 0),)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return shapes[0], (2 * shapes[3][1],)

    def _weights(self, node: Node) -> Shape:
        return node.inputs[3].shape

    def call(self, node: Node) -> Call:
        dc = p_in(4) if len(node.inputs) > 4 else NULL
        operands = (p_in(0), p_in(1), p_in(2), dc, p_in(3), p_out(0), p_out(1))
        return self._call(node, "bt_lstm_dx", *operands)


@register("bt_recurrent.h")
class Gru(_Cell):
    """States of every step, its gates r, z, n, and what r multiplies; inputs x, w[, bias]."""

    name = "gru_cells"
    gates = 3

    def results(self, steps: int, size: int) -> tuple[Shape, ...]:
        return (steps, size), (steps, 4 * size)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        h, gates = node.outputs
        dh, hint = self._states(b, node, grads[0]), f"d_{node.inputs[0].name}"
        given = (gates, h, dh, node.inputs[1])
        dx, up, _ = b.emit("gru_dx", given, None, hint, **dict(node.attrs))
        dw = self._dw(b, node, up) if wanted[1] else None
        if len(wanted) < 3:
            return dx, dw
        bias = node.inputs[2]
        return dx, dw, b.one("linear_db", up, hint=f"d_{bias.name}") if wanted[2] else None

    def call(self, node: Node) -> Call:
        bias = p_in(2) if len(node.inputs) > 2 else NULL
        return self._call(node, "bt_gru", p_in(0), p_in(1), bias, p_out(0), p_out(1))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        x, w = inputs[:2]
        bias = inputs[2] if len(inputs) > 2 else torch.zeros(len(w), dtype=x.dtype)
        h, rows = torch.zeros(w.shape[1], dtype=x.dtype), []
        for t in _order(len(x), attrs):
            (x_r, x_z, x_n), (r, z, q) = x[t].chunk(3), (bias + w @ h).chunk(3)
            z = (x_z + z).sigmoid()
            n = (x_n + (x_r + r).sigmoid() * q).tanh()
            h = (1 - z) * n + z * h
            rows.append(h)
        return torch.stack(rows[::-1] if attrs["reverse"] else rows)

    def samples(self) -> tuple[Sample, ...]:
        return (self._case(9, 5, (15,)), self._case(4, 37, reverse=True))


@register("bt_recurrent.h")
class GruDx(_Recurrence):
    """What reaches x, and the gates from the step before; scratch."""

    name = "gru_dx"
    gates = 3

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        steps, size = shapes[1]
        return (steps, 3 * size), (steps, 3 * size), (size,)

    def _weights(self, node: Node) -> Shape:
        return node.inputs[3].shape

    def call(self, node: Node) -> Call:
        operands = (p_in(0), p_in(1), p_in(2), p_in(3), p_out(0), p_out(1), p_out(2))
        return self._call(node, "bt_gru_dx", *operands)
