# SPDX-License-Identifier: Apache-2.0
"""Optimizers, one update per parameter tensor. Semantics are torch.optim's.

The gradient of the step is the mean of what was accumulated: sum / number of samples. The learning
rate and that number are run-time values of `bt_step` (`lr`, `scale`). Where gradients go into the
momentum, `share` makes the loss's gradient the window's part of the mean, `carry` prepares the
momentum for a group and `sgd_step` is all that is left to do. With `at_once` an update stands in
`bt_train_sample`: its rate is in the context, its gradient is of one window, and an update that
would leave NaN or infinity is not applied. `bt_step` asks the updates of all parameters (`fits`)
before it applies one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from biotrain.ir.graph import Attr, Node, Shape
from biotrain.ir.op import Call, Op, Operand, float_literal, p_in, p_out, register
from biotrain.ir.split import ELEMENTS, SERIAL, Split


class _Flat(Op):
    """An op over a parameter as a flat array."""

    def tiles(self, node: Node) -> bool:
        return False

    def split(self, node: Node) -> Split:
        """By elements; an update that may be skipped as a whole is tried by one worker."""
        return SERIAL if node.get("at_once", False) else ELEMENTS

    def flat(self, node: Node, function: str, operands: tuple[Operand, ...], *extra: str) -> Call:
        count = node.outputs[0].size
        geometry = (("count", count),)
        return Call(function, "bt_flat", geometry, operands, (1, count), extra)


class Update(_Flat):
    """The update of a parameter."""

    def fits(self, node: Node) -> Call:
        """The C expression that is true where the update leaves no NaN and no infinity.

        Its first argument is the number of elements, and it changes nothing.
        """
        call = self.call(node)
        extra = tuple(e for e in call.extra if e != _NOBODY)
        return replace(call, function=f"{call.function}_fits", extra=extra)


@register("bt_optim.h")
class Accumulate(Op):
    """out += x: how a gradient that no kernel adds up itself reaches its buffer."""

    name = "accumulate"
    accumulates = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def tiles(self, node: Node) -> bool:
        return False

    def split(self, node: Node) -> Split:
        return ELEMENTS

    def call(self, node: Node) -> Call:
        count = node.outputs[0].size
        geometry = (("count", count),)
        return Call("bt_accumulate", "bt_flat", geometry, (p_in(0), p_out()), (1, count))


@register("bt_optim.h")
class Share(_Flat):
    """The gradient of a loss times the window's part in its group: 1 / windows of the group."""

    name = "share"
    inplace = ((0, 0),)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def call(self, node: Node) -> Call:
        return self.flat(node, "bt_share", (p_in(0), p_out()), "1.0f / (float)m->group")


@register("bt_optim.h")
class Carry(_Flat):
    """The momentum before the first gradient of a group: inputs (p, v), output v."""

    name = "carry"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[1],)

    def ops(self, node: Node) -> int:
        return 0  # once in a group: `sgd_step` counts it

    def call(self, node: Node) -> Call:
        momentum, decay = node.float("momentum"), node.float("weight_decay")
        extra = (float_literal(momentum), float_literal(decay), "m->samples")
        return self.flat(node, "bt_carry", (p_in(0), p_out()), *extra)


@register("bt_optim.h")
class SgdStep(Update):
    """The step of SGD whose momentum holds the gradients already: inputs (p, v), output p."""

    name = "sgd_step"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def ops(self, node: Node) -> int:
        return 5 * node.outputs[0].size

    def call(self, node: Node) -> Call:
        return self.flat(node, "bt_sgd_step", (p_in(1), p_out()), "lr")


def _run_time(node: Node) -> tuple[str, str, str]:
    """C expressions: the rate, what makes the sum a mean, and where to count what is skipped."""
    return ("m->rate", "1.0f", "&m->skipped") if node["at_once"] else _IN_STEP


_NOBODY = "NULL"
_IN_STEP = ("lr", "scale", _NOBODY)


@register("bt_optim.h")
class Sgd(Update):
    """SGD with momentum, weight decay and Nesterov: inputs (p, g[, v]), outputs (p[, v])."""

    name = "sgd"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0], *shapes[2:])

    def ops(self, node: Node) -> int:
        return 7 * node.outputs[0].size

    def call(self, node: Node) -> Call:
        momentum, decay = node.float("momentum"), node.float("weight_decay")
        lr, scale, skipped = _run_time(node)
        if len(node.outputs) == 1:
            extra: tuple[str, ...] = (lr, scale, float_literal(decay), skipped)
            return self.flat(node, "bt_sgd_plain", (p_in(1), p_out(0)), *extra)
        nesterov = "1" if node["nesterov"] else "0"
        operands = (p_in(1), p_out(0), p_out(1))
        extra = (lr, scale, float_literal(decay), float_literal(momentum), nesterov, skipped)
        return self.flat(node, "bt_sgd", operands, *extra)


@register("bt_optim.h")
class Adam(Update):
    """Adam (or AdamW where `decoupled`): inputs (p, g, m, v), outputs (p, m, v)."""

    name = "adam"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[0], shapes[2], shapes[3])

    def ops(self, node: Node) -> int:
        return 14 * node.outputs[0].size

    def call(self, node: Node) -> Call:
        beta1, beta2 = node.float("beta1"), node.float("beta2")
        lr, scale, skipped = _run_time(node)
        extra = (
            lr,
            scale,
            float_literal(node.float("weight_decay")),
            "1" if node["decoupled"] else "0",
            float_literal(1.0 - beta1),
            float_literal(beta2),
            float_literal(1.0 - beta2),
            "m->progress.correction1",
            "m->progress.correction2",
            float_literal(node.float("eps")),
            skipped,
        )
        return self.flat(node, "bt_adam", (p_in(1), p_out(0), p_out(1), p_out(2)), *extra)

    def fits(self, node: Node) -> Call:
        """As for every update; the corrections of the step are not in the context yet."""
        call = super().fits(node)
        names = {f"m->progress.correction{i}": node.float(f"beta{i}") for i in (1, 2)}
        extra = tuple(_next(e, names[e]) if e in names else e for e in call.extra)
        return replace(call, extra=extra)


def _next(correction: str, beta: float) -> str:
    """Adam's 1 - beta^steps, one step on."""
    return f"bt_fma({float_literal(beta)}, {correction}, {float_literal(1.0 - beta)})"
