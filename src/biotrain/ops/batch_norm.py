# SPDX-License-Identifier: Apache-2.0
"""Norms with running statistics: batch norm, and instance norm, which of one sample is the same.

A device sees one sample at a time, so the statistics of the batch are those of the sample over
time (and rows), per channel. With frozen statistics a sample only passes through a scale and a
shift per channel, and gamma and beta still train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Node, Shape, Value
from biotrain.ir.op import (
    NULL,
    Builder,
    Call,
    Composite,
    Op,
    Sample,
    float_literal,
    p_in,
    p_out,
    register,
    rows_times,
    x_in,
    x_out,
)
from biotrain.ops.norm import Small, norm_geometry
from biotrain.ops.norm_layers import affine_of, affine_tensors, channels_as_rows, normalise


@register("bt_batch_norm.h")
class FrozenStats(Small):
    """Running mean and variance -> the statistics of every channel, (channels, 3)."""

    name = "frozen_stats"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return ((shapes[0][0], 3),)

    def call(self, node: Node) -> Call:
        channels = node.inputs[0].shape[0]
        geometry = (
            ("rows", channels),
            ("times", 1),
            ("rows_per_channel", 1),
            ("groups", channels),
        )
        extra = (float_literal(node.float("eps")),)
        operands = (p_in(0), p_in(1), p_out())
        return Call("bt_frozen_stats", "bt_norm", geometry, operands, (channels, 1), extra)


@register("bt_batch_norm.h")
class RunningUpdate(Small):
    """Running mean and variance <- (1 - momentum) old + momentum new, variance unbiased."""

    name = "running_update"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        channels = int(attrs["channels"])  # type: ignore[arg-type]
        return ((channels,), (channels,))

    def call(self, node: Node) -> Call:
        rows = node.inputs[0].shape[0]
        channels = node.int("channels")
        geometry = (
            ("rows", rows),
            ("times", node.int("times")),
            ("rows_per_channel", rows // channels),
            ("groups", channels),
        )
        momentum = node.float("momentum")
        extra = (float_literal(momentum), float_literal(1.0 - momentum))
        operands = (p_in(0), p_out(0), p_out(1))
        return Call("bt_running_update", "bt_norm", geometry, operands, (channels, 1), extra)


@register("bt_batch_norm.h")
class NormDxFrozen(Op):
    """dx = gamma rstd dy, for statistics that do not depend on x."""

    name = "norm_dx_frozen"
    inplace = ((0, 1),)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        return (shapes[1],)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return (t0, t1) if index == 1 else None

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return r0, r1

    def call(self, node: Node) -> Call:
        x = node.outputs[0].shape
        gamma = p_in(2) if len(node.inputs) > 2 else NULL
        operands = (p_in(0), gamma, x_in(1), x_out())
        geometry = norm_geometry(x, node.inputs[0].shape[0])
        return Call("bt_norm_frozen_gradient", "bt_norm", geometry, operands, rows_times(x))


class _ChannelNorm(Composite):
    """Inputs x[, gamma[, beta]][, mean, variance]; attributes running, frozen, eps, momentum.

    `running` says that mean and variance are given. They are used (`frozen`, and where the graph
    of evaluation is built) or moved towards those of the sample, which are used.
    """

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        from_sample = args["training"] if "training" in args else args["use_input_stats"]
        running = [args["running_mean"], args["running_var"]]
        given = all(v is not None for v in running)
        if not given and not from_sample:
            raise CaptureError(f"{self.name} in eval mode needs running statistics")
        reestimated = b.adabn and given and self.name == "batch_norm"
        frozen = not from_sample and not reestimated
        momentum = 1.0 if reestimated else args["momentum"]
        if not frozen and not isinstance(momentum, (int, float)):
            raise CaptureError(
                f"{self.name} with momentum=None (a cumulative average) is not supported: "
                "give it a momentum"
            )
        if given and not frozen and any(v.kind != "state" for v in running):
            raise CaptureError(
                f"{self.name} with running statistics cannot be trained with its own: "
                "set track_running_stats=False, or freeze it with eval()"
            )
        return b.apply(
            self.name,
            args["input"],
            *affine_of(args),
            *(running if given else ()),
            running=given,
            frozen=frozen,
            eps=float(args["eps"]),
            momentum=0.0 if frozen else float(momentum),
            batch=b.batch if self.name == "batch_norm" else 1,
        )

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x = shapes[0]
        if len(x) < 2 or x[0] != 1:
            raise GraphError(f"{self.name} takes x (1, C, ...), not {x}")
        if any(shape != (x[1],) for shape in shapes[1:]):
            raise GraphError(f"{self.name} of {x[1]} channels does not fit {list(shapes[1:])}")
        if not attrs["frozen"] and prod(x[2:]) * int(attrs.get("batch", 1)) == 1:  # type: ignore[arg-type]
            raise GraphError(
                f"{self.name} needs more than one value per channel to train, and x is {x}: "
                "freeze its statistics with eval(), or use bt.prepare, which makes it a GroupNorm"
            )
        return (x,)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        eps, momentum = attrs["eps"], attrs["momentum"]
        assert isinstance(eps, float) and isinstance(momentum, float)
        split = len(inputs) - (2 if attrs["running"] else 0)
        affine, running = inputs[1:split], inputs[split:]
        x = channels_as_rows(b, inputs[0])
        channels, times = x.shape[1], x.shape[-1]
        # AdaBN re-estimates running statistics; a norm without them has those of each window.
        batch = self.name == "batch_norm" and (bool(running) or not b.adabn)
        if attrs["frozen"] or (b.predict and running and not (b.adabn and batch)):
            hint = b.stem("norm")
            stats = b.one("frozen_stats", *running, hint=f"{hint}_stats", eps=eps)
            y = b.one("norm_apply", x, stats, *affine, hint=hint, through_stats=False)
        else:
            y, moments = normalise(b, x, channels, eps, affine, batch=batch)
            if running:
                b.emit(
                    "running_update",
                    [moments],
                    running,
                    channels=channels,
                    times=times,
                    momentum=momentum,
                )
        return y if x is inputs[0] else b.one("reshape", y, shape=inputs[0].shape)


@register("bt_batch_norm.h")
class BatchNorm(_ChannelNorm):
    """torch.nn.functional.batch_norm of one sample."""

    name = "batch_norm"
    captures = ("batch_norm",)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        split = len(inputs) - (2 if attrs["running"] else 0)
        weight, bias = affine_tensors(inputs[1:split])
        mean, variance = inputs[split:] if attrs["running"] else (None, None)
        training, eps = not attrs["frozen"], attrs["eps"]
        return F.batch_norm(inputs[0], mean, variance, weight, bias, training, 0.1, eps)  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        def case(x: Shape, affine: int, frozen: bool) -> Sample:
            shapes = (x, *[(x[1],)] * (affine + 2 * frozen))
            attrs: dict[str, Attr] = {"eps": 1e-3, "momentum": 0.1}
            attrs |= {"running": frozen, "frozen": frozen}
            low, high = (0.5, 2.0) if frozen else (None, None)
            return Sample(shapes, attrs, low, high, grad=tuple(range(affine + 1)))

        return (
            case((1, 5, 700), 2, True),
            case((1, 3, 4, 33), 1, True),
            case((1, 2, 2, 9), 0, True),
            case((1, 7), 2, True),
            case((1, 5, 700), 2, False),
            case((1, 3, 4, 33), 1, False),
            case((1, 2, 131), 0, False),
        )


@register("bt_batch_norm.h")
class InstanceNorm(_ChannelNorm):
    """torch.nn.functional.instance_norm of one sample."""

    name = "instance_norm"
    captures = ("instance_norm",)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        if len(shapes[0]) < 3:
            raise GraphError(f"instance_norm takes x (1, C, [H,] T), not {shapes[0]}")
        return super().infer(shapes, attrs)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        weight, bias = affine_tensors(inputs[1:])
        return F.instance_norm(inputs[0], None, None, weight, bias, True, 0.1, attrs["eps"])  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        attrs: dict[str, Attr] = {"eps": 1e-5, "momentum": 0.1, "running": False, "frozen": False}
        return (
            Sample(((1, 4, 237),), attrs),
            Sample(((1, 3, 2, 40), (3,), (3,)), attrs),
        )
