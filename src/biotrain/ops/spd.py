# SPDX-License-Identifier: Apache-2.0
"""Covariances of channels and their matrix logarithm.

The logarithm maps covariances to a flat space where differences between people are shifts, so that
a linear layer behind it classifies (log-Euclidean metric: V. Arsigny et al., "Log-Euclidean metrics
for fast and simple calculus on diffusion tensors", 2006; for EEG: A. Barachant et al., 2012). The
products over time are those of a convolution's weight gradient: leaves, tiles and blocks alike. The
logarithm of a matrix of n channels is a call on one worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, Node, Shape, Span, Value
from biotrain.ir.op import (
    Builder,
    Call,
    Composite,
    Op,
    Sample,
    float_literal,
    p_in,
    p_out,
    register,
)
from biotrain.ir.split import SERIAL, Split
from biotrain.ops.conv import ConvDw
from biotrain.ops.matmul import product, transposed
from biotrain.ops.shape import reshaped

SWEEPS = 6
"""Rounds of Jacobi rotations that are counted; few matrices take more."""


@register("bt_conv.h")
class Gram(ConvDw):
    """c[m, i, j] = sum over time of y[m, i] x[m, j], for `groups` blocks of rows."""

    name = "gram"

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dc,) = grads
        assert dc is not None
        x, y = node.inputs
        count = node.int("groups")
        n, times = x.shape[1] // count, x.shape[-1]
        square = reshaped(b, dc, (count, n, n))

        def times_rows(factor: Value, rows: Value) -> Value:
            matrix = reshaped(b, rows, (count, n, times))
            return reshaped(b, product(b, factor, matrix, hint=f"d_{rows.name}"), rows.shape)

        dx = times_rows(transposed(b, square), y) if wanted[0] else None
        return dx, times_rows(square, x) if wanted[1] else None


class _Spd(Op):
    """What the logarithm and its gradient share."""

    def tiles(self, node: Node) -> bool:
        return False

    def row_step(self, node: Node) -> int:
        return 0

    def split(self, node: Node) -> Split:
        return SERIAL

    def _matrices(self, node: Node) -> tuple[int, int]:
        """How many matrices there are, and of how many rows."""
        count, n, _ = node.outputs[0].shape
        return count, n

    def _call(self, node: Node, function: str, *operands: Any) -> Call:
        count, n = self._matrices(node)
        numbers = tuple(float_literal(node.float(key)) for key in ("scale", "shrinkage"))
        geometry = (("count", count), ("n", n))
        return Call(function, "bt_spd", geometry, operands, (count * n, n), numbers)


@register("bt_spd.h")
class SpdLog(_Spd):
    """log(scale x + shrinkage (mean of its diagonal) I) of symmetric matrices (m, n, n), and their
    eigenvectors and eigenvalues (m, n + 1, n)."""

    name = "spd_log"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        (x,) = shapes
        if len(x) != 3 or x[1] != x[2]:
            raise GraphError(f"spd_log takes square matrices (m, n, n), not {x}")
        return x, (x[0], x[1] + 1, x[1])

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        (dy, _), eigen = grads, node.outputs[1]
        assert dy is not None
        hint = f"d_{node.inputs[0].name}"
        return (b.one("spd_log_dx", eigen, dy, hint=hint, **dict(node.attrs)),)

    def ops(self, node: Node) -> int:
        count, n = self._matrices(node)
        return count * (SWEEPS * n * (n - 1) // 2 * 16 * n + 3 * n**3)

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        count, n = self._matrices(node)
        turns = count * SWEEPS * n * (n - 1) // 2
        return {"calls": 1, "turns": turns, "turned": turns * n, "products": count * n**3}

    def call(self, node: Node) -> Call:
        return self._call(node, "bt_spd_log", p_in(0), p_out(0), p_out(1))


@register("bt_spd.h")
class SpdLogDx(_Spd):
    """Gradient of the matrices, from their eigenvectors and the gradient of the logarithm; the
    second result is scratch."""

    name = "spd_log_dx"

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        _, dy = shapes
        return dy, dy[1:]

    def ops(self, node: Node) -> int:
        count, n = self._matrices(node)
        return count * 8 * n**3

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        count, n = self._matrices(node)
        return {"calls": 1, "slopes": count * n * n, "products": count * n**3}

    def call(self, node: Node) -> Call:
        return self._call(node, "bt_spd_log_dx", p_in(0), p_in(1), p_out(0), p_out(1))


@register("bt_spd.h")
class LogCovariance(Composite):
    """log(c + shrinkage (trace(c) / n) I), c = x x' / times, of x (..., n, times)."""

    name = "log_covariance"
    captures = ("biotrain::log_covariance",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        return b.apply(self.name, args["x"], shrinkage=float(args["shrinkage"]))

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        (x,) = shapes
        if len(x) < 2:
            raise GraphError(f"log_covariance takes channels and times (..., n, times), not {x}")
        return ((*x[:-1], x[-2]),)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        (x,) = inputs
        *_, n, times = x.shape
        count = x.size // (n * times)
        rows = reshaped(b, x, (1, count * n, times))
        gram = b.one(
            "gram",
            rows,
            rows,
            w_shape=(count * n, n, 1),
            stride=(1, 1),
            dilation=(1, 1),
            padding=(0, 0, 0, 0),
            groups=count,
        )
        matrices = reshaped(b, gram, (count, n, n))
        log = b.one("spd_log", matrices, scale=1.0 / times, shrinkage=attrs["shrinkage"])
        return reshaped(b, log, (*x.shape[:-1], n))

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        (x,) = inputs
        c = x @ x.mT / x.shape[-1]
        level = c.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        c = c + attrs["shrinkage"] * level * torch.eye(x.shape[-2], dtype=x.dtype)
        values, vectors = torch.linalg.eigh(c)
        return (vectors * values.log()[..., None, :]) @ vectors.mT

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 3, 131),), {"shrinkage": 0.0}),
            Sample(((4, 8, 200),), {"shrinkage": 1e-3}),
            Sample(((1, 2, 1, 50),), {"shrinkage": 0.0}),
            Sample(((1, 17, 300),), {"shrinkage": 0.01}),
        )
