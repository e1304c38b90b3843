# SPDX-License-Identifier: Apache-2.0
"""Attention, as products of matrices and a softmax in which the queries lie along time.

    s = k (scale q)^T        (keys x queries)
    p = softmax of s over the keys
    y = (v^T p)^T

Queries along time, the axis of keys is one of rows: everything from the scores on can run in tiles
of queries, forward and backward, and the sums over queries (the gradients of k and v) are carried
from tile to tile in leaves. The planner then stores no tensor of keys x queries: it recomputes the
scores of a tile where the backward pass needs them. `causal` lets query t see the keys up to t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod, sqrt
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Shape, Value
from biotrain.ir.op import Builder, Composite, Sample, register
from biotrain.ops.binary import add
from biotrain.ops.matmul import product, transposed
from biotrain.ops.shape import reshaped


@register("bt_softmax.h")
class Attention(Composite):
    """torch.nn.functional.scaled_dot_product_attention(q, k, v[, mask]); a mask is added."""

    name = "attention"
    captures = ("scaled_dot_product_attention",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        if args.get("dropout_p"):
            raise CaptureError(
                "dropout of attention weights would run on the device: give dropout_p=0, or "
                "MultiheadAttention(dropout=0)"
            )
        q, k, v, mask = (args[key] for key in ("query", "key", "value", "attn_mask"))
        heads = [x.shape[-3] if len(x.shape) > 2 else 1 for x in (q, k)]
        if args.get("enable_gqa") and heads[0] != heads[1]:
            raise CaptureError("attention with groups of queries is not supported")
        scale = args.get("scale")
        given = (q, k, v) if mask is None else (q, k, v, mask)
        return b.apply(
            "attention",
            *given,
            scale=1.0 / sqrt(q.shape[-1]) if scale is None else float(scale),
            causal=bool(args.get("is_causal")),
        )

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        q, k, v = shapes[:3]
        if q[-1] != k[-1] or k[-2] != v[-2] or not q[:-2] == k[:-2] == v[:-2]:
            raise GraphError(f"attention: queries {q}, keys {k} and values {v} do not fit")
        return ((*q[:-1], v[-1]),)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        q, k, v = inputs[:3]
        (shape,) = self.infer([x.shape for x in inputs], attrs)
        batch = prod(q.shape[:-2])
        q, k, v = (reshaped(b, x, (batch, *x.shape[-2:])) for x in (q, k, v))
        if float(attrs["scale"]) != 1.0:  # type: ignore[arg-type]
            q = b.one("affine", q, scale=attrs["scale"], shift=0.0)
        scores = product(b, k, transposed(b, q), hint="scores")
        if len(inputs) > 3:
            mask = transposed(b, inputs[3])
            wide = (*shape[:-2], *scores.shape[-2:])
            scores = add(b, reshaped(b, scores, wide), mask)
            scores = reshaped(b, scores, (batch, *wide[-2:]))
        weights = b.one("softmax", scores, hint="attention", axis=1, causal=bool(attrs["causal"]))
        return reshaped(b, transposed(b, product(b, transposed(b, v), weights)), shape)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        mask = inputs[3] if len(inputs) > 3 else None
        scale, causal = attrs["scale"], bool(attrs["causal"])
        assert isinstance(scale, float)
        q, k, v = inputs[:3]
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)

    def samples(self) -> tuple[Sample, ...]:
        numbers: dict[str, Attr] = {"scale": 0.25, "causal": False}
        return (
            Sample(((1, 2, 40, 8), (1, 2, 40, 8), (1, 2, 40, 8)), numbers),
            Sample(((1, 21, 4), (1, 70, 4), (1, 70, 6)), numbers),
            Sample(((2, 9, 4), (2, 9, 4), (2, 9, 4), (9, 9)), numbers, grad=(0, 1, 2)),
            Sample(((1, 2, 37, 5),) * 3, {"scale": 1.0, "causal": True}),
        )


@register("bt_pointwise.h")
class RmsNorm(Composite):
    """torch.nn.functional.rms_norm: x / sqrt(mean of x^2 + eps) [gamma] over the last axes."""

    name = "rms_norm"
    captures = ("rms_norm",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        axes, eps = len(args["normalized_shape"]), args["eps"]
        weight = () if args["weight"] is None else (args["weight"],)
        eps = 2.0**-23 if eps is None else float(eps)  # torch's default: that of float32
        return b.apply("rms_norm", args["input"], *weight, axes=axes, eps=eps)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, axes = shapes[0], attrs["axes"]
        assert isinstance(axes, int)
        if not 0 < axes <= len(x) or any(w != x[-axes:] for w in shapes[1:]):
            raise GraphError(f"rms_norm: {list(shapes)} over {axes} axes")
        return (x,)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        x, axes, eps = inputs[0], attrs["axes"], attrs["eps"]
        assert isinstance(axes, int) and isinstance(eps, float)
        dims = tuple(range(len(x.shape) - axes, len(x.shape)))
        mean = b.apply("mean", b.one("square", x), dims=dims, keepdim=True)
        size = b.one("sqrt", b.one("affine", mean, scale=1.0, shift=eps))
        y = b.one("div" if size.shape == x.shape else "div_broadcast", x, size)
        if len(inputs) == 1:
            return y
        return b.one("mul" if inputs[1].shape == y.shape else "mul_broadcast", y, inputs[1])

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch.nn.functional as F

        axes, weight = attrs["axes"], inputs[1] if len(inputs) > 1 else None
        assert isinstance(axes, int)
        return F.rms_norm(inputs[0], inputs[0].shape[-axes:], weight, attrs["eps"])  # type: ignore[arg-type]

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 11, 40), (40,)), {"axes": 1, "eps": 1e-5}),
            Sample(((1, 3, 5, 7),), {"axes": 2, "eps": 1e-3}),
        )
