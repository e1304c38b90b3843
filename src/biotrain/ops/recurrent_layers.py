# SPDX-License-Identifier: Apache-2.0
"""torch's recurrent layers: several of them, in one or two directions, on one sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from biotrain.errors import CaptureError
from biotrain.ir.graph import Value
from biotrain.ir.op import Builder, Composite, register
from biotrain.ops.binary import add
from biotrain.ops.shape import reshaped


@dataclass(frozen=True, slots=True)
class _Direction:
    """The parameters of one layer in one direction."""

    w_ih: Value
    w_hh: Value
    b_ih: Value | None = None
    b_hh: Value | None = None


class _Layers(Composite):
    """What LSTM, GRU and RNN share."""

    constants: ClassVar[tuple[str, ...]] = ("hx",)
    outputs: ClassVar[int] = 1
    """Kinds of states: h, and c of an LSTM."""

    def cells(self, b: Builder, x: Value, p: _Direction, reverse: bool) -> tuple[Value, ...]:
        """The states of all steps of x (steps, features)."""
        raise NotImplementedError

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Any:
        x, layers = args["input"], int(args["num_layers"])
        ways = 2 if args["bidirectional"] else 1
        _check_start(args["hx"])
        if args["dropout"] and args["train"] and layers > 1:
            raise CaptureError(
                "dropout between recurrent layers would run on the device: set the layer's "
                "dropout to 0"
            )
        batch_axis = 0 if args["batch_first"] else 1
        if len(x.shape) == 3 and x.shape[batch_axis] != 1:
            raise CaptureError(
                f"a recurrent layer takes one sequence, not {x.shape[batch_axis]} side by side: "
                f"{list(x.shape)}"
            )
        steps = x.shape[1 - batch_axis] if len(x.shape) == 3 else x.shape[0]
        y = reshaped(b, x, (steps, x.shape[-1]))
        last: list[list[Value]] = [[] for _ in range(self.outputs)]
        params = _directions(args["params"], layers * ways, bool(args["has_biases"]))
        for layer in range(layers):
            results: list[Value] = []
            for way in range(ways):
                states = self.cells(b, y, params[layer * ways + way], way == 1)
                results.append(states[0])
                at = 0 if way else steps - 1
                for found, state in zip(last, states, strict=True):
                    sizes = (1, state.shape[1])
                    found.append(b.one("slice", state, starts=(at, 0), sizes=sizes, steps=(1, 1)))
            y = results[0] if ways == 1 else b.one("cat", *results, axis=1)
        shape = (*x.shape[:-1], y.shape[1])
        finals = [_stacked(b, found, len(x.shape)) for found in last]
        return (reshaped(b, y, shape), *finals)


def _check_start(hx: Any) -> None:
    """Raise where the states before the first step are not 0."""
    import torch

    given = hx if isinstance(hx, (list, tuple)) else [hx]
    if not all(isinstance(h, torch.Tensor) and not bool(h.any()) for h in given):
        raise CaptureError("a recurrent layer starts from states of 0: give it no other ones")


def _directions(params: Sequence[Value], count: int, biases: bool) -> list[_Direction]:
    each = 4 if biases else 2
    if len(params) != each * count:
        raise CaptureError("an LSTM with a projection (proj_size) is not supported")
    return [_Direction(*params[i * each : (i + 1) * each]) for i in range(count)]


def _stacked(b: Builder, finals: list[Value], rank: int) -> Value:
    """The last states of all layers and directions, (layers x directions, [1,] features)."""
    from biotrain.ops.cat import FAN_IN

    parts, size = finals, finals[0].shape[-1]
    while len(parts) > 1:
        groups = [parts[i : i + FAN_IN] for i in range(0, len(parts), FAN_IN)]
        parts = [b.one("cat", *g, axis=0) if len(g) > 1 else g[0] for g in groups]
    shape = (len(finals), 1, size) if rank == 3 else (len(finals), size)
    return reshaped(b, parts[0], shape)


def _from_input(b: Builder, x: Value, p: _Direction, both: bool) -> Value:
    """What the input contributes to the gates; `both`: with the biases of both sums."""
    bias = p.b_ih
    if bias is not None and both and p.b_hh is not None:
        bias = add(b, bias, p.b_hh)
    return b.one("linear", *((x, p.w_ih) if bias is None else (x, p.w_ih, bias)))


@register("bt_recurrent.h")
class LstmLayers(_Layers):
    """torch.nn.LSTM."""

    name = "lstm"
    captures = ("lstm",)
    outputs = 2

    def cells(self, b: Builder, x: Value, p: _Direction, reverse: bool) -> tuple[Value, ...]:
        given = _from_input(b, x, p, both=True)
        return b.emit("lstm_cells", (given, p.w_hh), reverse=reverse)[:2]


@register("bt_recurrent.h")
class GruLayers(_Layers):
    """torch.nn.GRU."""

    name = "gru"
    captures = ("gru",)

    def cells(self, b: Builder, x: Value, p: _Direction, reverse: bool) -> tuple[Value, ...]:
        given = _from_input(b, x, p, both=False)
        inputs = (given, p.w_hh) if p.b_hh is None else (given, p.w_hh, p.b_hh)
        return b.emit("gru_cells", inputs, reverse=reverse)[:1]


class _RnnLayers(_Layers):
    """torch.nn.RNN."""

    relu: ClassVar[bool] = False

    def cells(self, b: Builder, x: Value, p: _Direction, reverse: bool) -> tuple[Value, ...]:
        given = _from_input(b, x, p, both=True)
        return b.emit("rnn", (given, p.w_hh), reverse=reverse, relu=self.relu)


@register("bt_recurrent.h")
class RnnTanh(_RnnLayers):
    """torch.nn.RNN with tanh."""

    name = "rnn_tanh"
    captures = ("rnn_tanh",)


@register("bt_recurrent.h")
class RnnRelu(_RnnLayers):
    """torch.nn.RNN with ReLU."""

    name = "rnn_relu"
    captures = ("rnn_relu",)
    relu = True
