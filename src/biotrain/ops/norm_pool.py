# SPDX-License-Identifier: Apache-2.0
"""Norm, ReLU and average pooling by windows (made by `rewrite.pooled_sums`).

`norm_relu_pool` gives, per window, the sum s of the active normalised values and their number n;
`pooled_affine` makes the pooled value of them. What the norm's backward needs of the long tensor,
two sums per channel, then comes from s, n and the gradient of the pooled value. Windows lie side by
side, without padding; samples beyond the last one belong to none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import ClassVar

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, DType, Node, Shape, Span, Value
from biotrain.ir.op import (
    NULL,
    Builder,
    Call,
    Op,
    Operand,
    float_literal,
    p_in,
    p_out,
    register,
    rows_times,
    x_in,
    x_out,
)


def _image(shape: Shape) -> tuple[int, int, int]:
    """(channels, rows of one channel, times)."""
    return (shape[1], 1, shape[2]) if len(shape) == 3 else (shape[1], shape[2], shape[3])


def _kernel(attrs: Mapping[str, Attr]) -> tuple[int, int]:
    value = attrs["kernel"]
    assert isinstance(value, tuple) and len(value) == 2, value
    return value[0], value[1]


def _x_shape(attrs: Mapping[str, Attr]) -> Shape:
    value = attrs["x_shape"]
    assert isinstance(value, tuple)
    return value


def pooled_shape(x: Shape, kernel: tuple[int, int]) -> Shape:
    """The shape of windows of `kernel` (rows, times) over x."""
    if len(x) not in (3, 4) or x[0] != 1:
        raise GraphError(f"pooling takes x (1, C, [H,] T), not {x}")
    channels, rows, times = _image(x)
    out = (rows // kernel[0], times // kernel[1])
    if min(out) < 1:
        raise GraphError(f"pooling {kernel} does not fit into {x[2:]}")
    return (1, channels, out[1]) if len(x) == 3 else (1, channels, *out)


class _Pooled(Op):
    """An op of this family; attributes `kernel` and `groups`, and `x_shape` where x is no input."""

    long: ClassVar[bool] = True
    """True: the box runs over x; False: over the windows."""

    def x_shape(self, node: Node) -> Shape:
        """The shape of the tensor that is normalised."""
        return node.inputs[0].shape

    def geometry(self, node: Node) -> dict[str, int]:
        """Fields of `bt_norm_pool`."""
        x, kernel = self.x_shape(node), _kernel(dict(node.attrs))
        channels, rows, times = _image(x)
        _, out_rows, out_times = _image(pooled_shape(x, kernel))
        return {
            "channels": channels,
            "rows": rows,
            "times": times,
            "out_rows": out_rows,
            "out_times": out_times,
            "kernel_rows": kernel[0],
            "kernel": kernel[1],
            "groups": node.int("groups"),
        }

    def kernel_call(self, node: Node, function: str, *operands: Operand) -> Call:
        """The call with the box over x, or over the windows."""
        x, kernel = self.x_shape(node), _kernel(dict(node.attrs))
        box = rows_times(x if self.long else pooled_shape(x, kernel))
        geometry = tuple(self.geometry(node).items())
        return Call(function, "bt_norm_pool", geometry, operands, box)

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        kernel_rows, kernel = _kernel(dict(node.attrs))
        windows = box.size
        if self.long:
            windows = (box.r1 - box.r0) // kernel_rows * -(-(box.t1 - box.t0) // kernel)
        return super().work(node, box, wide_outputs) | {"windows": windows}

    def affine(self, node: Node, first: int) -> tuple[Operand, ...]:
        """Gamma and beta, which are the inputs from `first` on; both may be absent."""
        return tuple(p_in(i) if len(node.inputs) > i else NULL for i in (first, first + 1))

    def window_of(self, node: Node, t0: int, t1: int) -> tuple[int, int]:
        """Windows that hold the samples [t0, t1)."""
        kernel = _kernel(dict(node.attrs))[1]
        return t0 // kernel, (t1 - 1) // kernel + 1

    def window_rows(self, node: Node, r0: int, r1: int) -> tuple[int, int]:
        """Rows of windows that hold the rows [r0, r1) of x."""
        g = self.geometry(node)
        lo, hi = (
            r // g["rows"] * g["out_rows"]
            + min(r % g["rows"] // g["kernel_rows"], g["out_rows"] - 1)
            for r in (r0, r1 - 1)
        )
        return lo, hi + 1


@register("bt_norm_pool.h")
class NormReluPool(_Pooled):
    """Inputs x, stats[, gamma[, beta]] -> per window s = sum of active xhat, n = their number (u8).

    The statistics were computed from x: the gradient of x accounts for the path through them.
    """

    name = "norm_relu_pool"
    long = False

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        kernel = _kernel(attrs)
        if prod(kernel) > 255:
            raise GraphError(f"norm_relu_pool counts up to 255 samples in a window, not {kernel}")
        if shapes[0][1] % shapes[1][0]:
            raise GraphError(f"{shapes[1][0]} groups do not divide the channels of {shapes[0]}")
        shape = pooled_shape(shapes[0], kernel)
        return shape, shape

    def dtypes(self, attrs: Mapping[str, Attr]) -> tuple[DType, ...] | None:
        return "f32", "u8"

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        result: list[Value | None] = [None] * len(wanted)
        ds = grads[0]
        if not wanted[0] or ds is None:
            return result
        x, stats, *affine = node.inputs
        sums, gamma = _sums(b, node, ds)
        _, rows, times = _image(x.shape)
        means = b.one(
            "group_sums",
            sums,
            *gamma,
            hint=f"means_{x.name}",
            groups=stats.shape[0],
            times=rows * times,
        )
        attrs = dict(node.attrs)
        hint = f"d_{x.name}"
        result[0] = b.one("norm_relu_pool_dx", x, stats, means, ds, *affine, hint=hint, **attrs)
        return result

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        kernel = _kernel(dict(node.attrs))[1]
        return t0 * kernel, t1 * kernel

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        g = self.geometry(node)
        lo, hi = (
            r // g["out_rows"] * g["rows"] + r % g["out_rows"] * g["kernel_rows"]
            for r in (r0, r1 - 1)
        )
        return lo, hi + g["kernel_rows"]

    def ops(self, node: Node) -> int:
        inside = node.outputs[0].size * prod(node.ints("kernel"))
        return 7 * inside  # xhat 3, the sign 2, the sum and the number

    def call(self, node: Node) -> Call:
        operands = (x_in(0), p_in(1), *self.affine(node, 2), x_out(0), x_out(1))
        return self.kernel_call(node, "bt_norm_relu_pool", *operands)


def _sums(b: Builder, node: Node, ds: Value) -> tuple[Value, tuple[Value, ...]]:
    """Sums per channel that give the means of dy and of dy xhat, and the gamma that weighs them.

    Where the gradients of gamma and beta are wanted, `pooled_affine` has made them already.
    """
    s, n = node.outputs
    maker = next((m for m in reversed(b.nodes) if ds in m.outputs), None)
    if maker and maker.op == "pooled_affine_dx":
        dp, *gamma = maker.inputs
        for known in b.nodes:
            if known.op == "pooled_sums" and known.inputs == (dp, s, n):
                return known.outputs[0], tuple(gamma)
    x = node.inputs[0]
    attrs = dict(node.attrs)
    hint = f"sums_{x.name}"
    return b.one("pooled_sums", ds, s, n, hint=hint, x_shape=x.shape, scaled=True, **attrs), ()


class _Windows(_Pooled):
    """An op whose box runs over the windows; `x_shape` says over what they lie."""

    long = False

    def x_shape(self, node: Node) -> Shape:
        return _x_shape(dict(node.attrs))

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        shape = pooled_shape(_x_shape(attrs), _kernel(attrs))
        if shapes[0] != shape:
            raise GraphError(f"{self.name}: {shapes[0]} are not the windows {shape}")
        return (shape,)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return t0, t1

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return r0, r1


@register("bt_norm_pool.h")
class PooledAffine(_Windows):
    """p = (gamma s + beta n) / k; inputs s, n[, gamma[, beta]]."""

    name = "pooled_affine"
    inplace = ((0, 0),)

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dp,) = grads
        assert dp is not None
        s, n, *affine = node.inputs
        attrs = dict(node.attrs)
        result: list[Value | None] = [None] * len(wanted)
        if any(wanted[2:]):
            hint = f"sums_{node.outputs[0].name}"
            sums = b.one("pooled_sums", dp, s, n, hint=hint, scaled=False, **attrs)
            for i, which in ((2, 1), (3, 0)):
                if len(wanted) > i and wanted[i]:
                    size, hint = affine[i - 2].size, f"d_{affine[i - 2].name}"
                    result[i] = b.one(
                        "norm_affine_gradient", sums, hint=hint, channels=size, which=which
                    )
        if wanted[0]:
            result[0] = b.one("pooled_affine_dx", dp, *affine[:1], hint=f"d_{s.name}", **attrs)
        return result

    def ops(self, node: Node) -> int:
        return 4 * node.outputs[0].size

    def call(self, node: Node) -> Call:
        operands = (x_in(0), x_in(1), *self.affine(node, 2), x_out())
        return self.kernel_call(node, "bt_pooled_affine", *operands)


@register("bt_norm_pool.h")
class PooledAffineDx(_Windows):
    """ds = gamma dp / k; inputs dp[, gamma]."""

    name = "pooled_affine_dx"
    inplace = ((0, 0),)

    def ops(self, node: Node) -> int:
        return node.outputs[0].size

    def call(self, node: Node) -> Call:
        operands = (x_in(0), self.affine(node, 1)[0], x_out())
        return self.kernel_call(node, "bt_pooled_affine_dx", *operands)


@register("bt_norm_pool.h")
class PooledSums(_Windows):
    """Per channel: sum of up n and of up s over the windows, (channels, 2).

    They are the sums of dy and of dy xhat over the samples: up is the gradient of s (`scaled`), or
    that of p, which is divided by the samples of a window.
    """

    name = "pooled_sums"
    accumulates = True
    reduces_time = True

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        (shape,) = super().infer(shapes, attrs)
        return ((shape[1], 2),)

    def row_step(self, node: Node) -> int:
        return self.geometry(node)["out_rows"]

    def ops(self, node: Node) -> int:
        return 4 * node.inputs[0].size

    def call(self, node: Node) -> Call:
        operands = (x_in(0), x_in(1), x_in(2), p_out())
        call = self.kernel_call(node, "bt_pooled_sums", *operands)
        share = 1.0 if node["scaled"] else 1.0 / prod(node.ints("kernel"))
        return replace(call, extra=(float_literal(share),))


class _Spread(_Pooled):
    """Element by element over x; ds (input `windows`) is spread over the samples."""

    inplace = ((0, 0),)
    windows: ClassVar[int]

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        shape = pooled_shape(shapes[0], _kernel(attrs))
        if shapes[self.windows] != shape:
            raise GraphError(f"{self.name}: {shapes[self.windows]} are not the windows {shape}")
        return (shapes[0],)

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        return self.window_of(node, t0, t1) if index == self.windows else (t0, t1)

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        return self.window_rows(node, r0, r1) if index == self.windows else (r0, r1)


@register("bt_norm_pool.h")
class NormReluPoolDx(_Spread):
    """dx = rstd (active ds - mean1 - xhat mean2); inputs x, stats, means, ds[, gamma[, beta]]."""

    name = "norm_relu_pool_dx"
    windows = 3

    def ops(self, node: Node) -> int:
        return 8 * node.outputs[0].size + node.inputs[3].size  # xhat 3, the sign 2, and 3

    def call(self, node: Node) -> Call:
        operands = (x_in(0), p_in(1), p_in(2), *self.affine(node, 4), x_in(3), x_out())
        return self.kernel_call(node, "bt_norm_relu_pool_dx", *operands)


@register("bt_norm_pool.h")
class NormReluUnpool(_Spread):
    """d = active ds; inputs x, stats, ds[, gamma[, beta]]."""

    name = "norm_relu_unpool"
    windows = 2

    def ops(self, node: Node) -> int:
        return 5 * node.outputs[0].size

    def call(self, node: Node) -> Call:
        operands = (x_in(0), p_in(1), *self.affine(node, 3), x_in(2), x_out())
        return self.kernel_call(node, "bt_norm_relu_unpool", *operands)
