# SPDX-License-Identifier: Apache-2.0
"""Products of matrices, one for each element of the batch.

    y[n, i, t] = sum_k a[n, i, k] b[n, k, t]

is a convolution of the rows of b with one tap, whose weights are a and whose groups are the batch;
so are its gradients. Nothing is moved: the axes before the last become rows, as they lie. It is
planned, tiled along t and blocked as convolutions are; sums over t in the gradient of a run in
leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Shape, Value
from biotrain.ir.op import Builder, Composite, Sample, register
from biotrain.ops.binary import add, broadcast, mul
from biotrain.ops.reduce import reduce_to
from biotrain.ops.shape import reshaped


def transposed(b: Builder, x: Value, axes: Sequence[int] | None = None) -> Value:
    """`x` with its axes in another order; by default the last two change places."""
    rank = len(x.shape)
    dims = tuple(axes) if axes is not None else (*range(rank - 2), rank - 1, rank - 2)
    long = [d for d in dims if x.shape[d] > 1]
    if long == sorted(long):  # only axes of one element move
        return reshaped(b, x, tuple(x.shape[d] for d in dims))
    if len(x.shape) > 5:
        raise GraphError(f"a tensor of {rank} axes cannot be permuted: {x.shape}")
    return b.one("permute", x, dims=dims)


def _spread_to(b: Builder, x: Value, batch: Shape) -> Value:
    shape = (*batch, *x.shape[-2:])
    if x.size == prod(shape):
        return reshaped(b, x, shape)
    return b.one("expand", x, shape=shape, scale=1.0)


def product(b: Builder, x: Value, y: Value, hint: str = "") -> Value:
    """x y of two tensors of at least two axes; batches are broadcast as in torch."""
    if x.shape[-1] != y.shape[-2]:
        raise GraphError(f"matmul: {x.shape} and {y.shape} do not fit")
    batch = broadcast(x.shape[:-2], y.shape[:-2])
    shape = (*batch, x.shape[-2], y.shape[-1])
    if prod(y.shape[:-2]) == 1:  # one right factor: the batch of x is rows
        groups = 1
    else:
        groups = prod(batch)
        x, y = _spread_to(b, x, batch), _spread_to(b, y, batch)
    rows, terms = prod(shape[:-1]), groups * y.shape[-2]
    weights = reshaped(b, x, (rows, x.shape[-1], 1))
    result = b.one(
        "conv",
        reshaped(b, y, (1, terms, y.shape[-1])),
        weights,
        hint=hint,
        stride=(1, 1),
        dilation=(1, 1),
        padding=(0, 0, 0, 0),
        groups=groups,
    )
    return reshaped(b, result, shape)


@register("bt_conv.h")
class Matmul(Composite):
    """torch.matmul: vectors, matrices, and batches of matrices."""

    name = "matmul"
    captures = ("matmul", "bmm", "mm", "mv", "dot")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x, y = [v for v in args.values() if isinstance(v, Value)]
        return b.apply("matmul", x, y)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, y = shapes
        if not x or not y:
            raise GraphError(f"matmul: {x} and {y} do not fit")
        wide_x, wide_y = ((1, *x) if len(x) == 1 else x), ((*y, 1) if len(y) == 1 else y)
        if wide_x[-1] != wide_y[-2]:
            raise GraphError(f"matmul: {x} and {y} do not fit")
        batch = broadcast(wide_x[:-2], wide_y[:-2])
        rows = () if len(x) == 1 else (x[-2],)
        return ((*batch, *rows, *(() if len(y) == 1 else (y[-1],))),)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        x, y = inputs
        (shape,) = self.infer([x.shape, y.shape], attrs)
        if len(x.shape) == 1:
            x = reshaped(b, x, (1, *x.shape))
        if len(y.shape) == 1:
            y = reshaped(b, y, (*y.shape, 1))
        return reshaped(b, product(b, x, y), shape)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return inputs[0] @ inputs[1]

    def samples(self) -> tuple[Sample, ...]:
        shapes: tuple[tuple[Shape, Shape], ...] = (
            ((1, 2, 37, 8), (1, 2, 8, 70)),
            ((3, 5, 40), (3, 40, 33)),
            ((2, 5, 9), (9, 20)),
            ((5, 9), (2, 9, 20)),
            ((9,), (9, 20)),
            ((2, 5, 9), (9,)),
        )
        return tuple(Sample(s, {}) for s in shapes)


@register("bt_conv.h")
class Addmm(Composite):
    """beta input + alpha (x y): torch's addmm and baddbmm."""

    name = "addmm"
    captures = ("addmm", "baddbmm")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        given, x, y = [v for v in args.values() if isinstance(v, Value)]
        alpha, beta = float(args["alpha"]), float(args["beta"])
        return b.apply("addmm", given, x, y, alpha=alpha, beta=beta)

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        given, x, y = shapes
        return (broadcast(given, (*x[:-1], y[-1])),)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        given, x, y = inputs
        alpha, beta = float(attrs["alpha"]), float(attrs["beta"])  # type: ignore[arg-type]
        return add(b, product(b, x, y), given, alpha, beta)

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        return attrs["beta"] * inputs[0] + attrs["alpha"] * (inputs[1] @ inputs[2])

    def samples(self) -> tuple[Sample, ...]:
        numbers: dict[str, Attr] = {"alpha": 0.5, "beta": 2.0}
        return (Sample(((2, 5, 20), (2, 5, 9), (2, 9, 20)), numbers),)


def _letters(equation: str, count: int) -> tuple[list[str], str]:
    """The indices of the operands and of the result of an einsum."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if "." in equation or len(terms) != count or any(len(set(t)) < len(t) for t in terms):
        raise CaptureError(
            f"einsum '{equation}' is not supported: write one letter per axis, none twice in an "
            "operand"
        )
    if not arrow:
        every = "".join(terms)
        out = "".join(sorted(c for c in dict.fromkeys(every) if every.count(c) == 1))
    return terms, out


@register("bt_conv.h")
class Einsum(Composite):
    """torch.einsum over explicit indices: operands are multiplied from left to right."""

    name = "einsum"
    captures = ("einsum",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        return b.apply("einsum", *args["tensors"], equation=str(args["equation"]))

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        terms, out = _letters(str(attrs["equation"]), len(shapes))
        sizes: dict[str, int] = {}
        for term, shape in zip(terms, shapes, strict=True):
            if len(term) != len(shape):
                raise GraphError(f"einsum '{attrs['equation']}': '{term}' is not {shape}")
            for letter, n in zip(term, shape, strict=True):
                if sizes.setdefault(letter, n) != n:
                    raise GraphError(f"einsum '{attrs['equation']}': '{letter}' has two sizes")
        return (tuple(sizes[c] for c in out),)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        terms, out = _letters(str(attrs["equation"]), len(inputs))
        x, letters = inputs[0], terms[0]
        for i in range(1, len(inputs)):
            later = out + "".join(terms[i + 1 :])
            x, letters = _pair(b, (x, letters), (inputs[i], terms[i]), later)
        x, letters = _summed(b, x, letters, out)
        return transposed(b, x, [letters.index(c) for c in out]) if out else x

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        return torch.einsum(attrs["equation"], *inputs)

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 6, 2, 9), (1, 7, 2, 9)), {"equation": "bihd,bjhd->bhij"}),
            Sample(((3, 20), (4, 3)), {"equation": "ct,oc->ot"}),
            Sample(((2, 5, 9),), {"equation": "abc->cb"}),
            Sample(((2, 5), (5, 3), (2, 3)), {"equation": "ab,bc,ac->a"}),
        )


def _summed(b: Builder, x: Value, letters: str, wanted: str) -> tuple[Value, str]:
    """The sum over the axes whose letters are not wanted."""
    stay = "".join(c for c in letters if c in wanted)
    if stay == letters:
        return x, letters
    kept = tuple(n if c in wanted else 1 for n, c in zip(x.shape, letters, strict=True))
    if kept != x.shape:
        x = reduce_to(b, x, kept)
    shape = tuple(n for n, c in zip(kept, letters, strict=True) if c in wanted)
    return reshaped(b, x, shape), stay


def _pair(
    b: Builder, left: tuple[Value, str], right: tuple[Value, str], later: str
) -> tuple[Value, str]:
    """The product of two operands, summed over the letters that nothing later needs."""
    (x, a), (y, c) = left, right
    x, a = _summed(b, x, a, c + later)
    y, c = _summed(b, y, c, a + later)
    both = [k for k in a if k in c]
    terms, batch = [k for k in both if k not in later], [k for k in both if k in later]
    rows, columns = [k for k in a if k not in c], [k for k in c if k not in a]
    sizes = {**dict(zip(a, x.shape, strict=True)), **dict(zip(c, y.shape, strict=True))}

    def n(keys: Sequence[str]) -> int:
        return prod(sizes[k] for k in keys)

    def shape(keys: Sequence[str]) -> Shape:
        return tuple(sizes[k] for k in keys)

    result = [*batch, *rows, *columns]
    if not terms:  # nothing is summed: elements times elements
        x = transposed(b, x, [a.index(k) for k in (*batch, *rows)])
        y = transposed(b, y, [c.index(k) for k in (*batch, *columns)])
        x = reshaped(b, x, (*shape(batch), *shape(rows), *[1] * len(columns)))
        y = reshaped(b, y, (*shape(batch), *[1] * len(rows), *shape(columns)))
        return mul(b, x, y), "".join(result)
    x = transposed(b, x, [a.index(k) for k in (*batch, *rows, *terms)])
    y = transposed(b, y, [c.index(k) for k in (*batch, *terms, *columns)])
    x = reshaped(b, x, (n(batch), n(rows), n(terms)))
    y = reshaped(b, y, (n(batch), n(terms), n(columns)))
    return reshaped(b, product(b, x, y), shape(result)), "".join(result)
