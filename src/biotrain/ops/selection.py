# SPDX-License-Identifier: Apache-2.0
"""Elements by constant indices: what lowers to slices, flips, joins and broadcasts, such as index
selection, padding that repeats or mirrors, roll, repeat, tile, unfold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from biotrain.errors import CaptureError, GraphError
from biotrain.ir.graph import Attr, Shape, Value
from biotrain.ir.op import (
    Builder,
    Composite,
    Sample,
    args_input,
    register,
)
from biotrain.ops.cat import FAN_IN
from biotrain.ops.shape import axis_index, ints, reshaped

RUNS = 256
"""Runs of evenly spaced indices to which a selection may come: each is a node of the graph."""


def part(b: Builder, x: Value, axis: int, start: int, size: int, step: int = 1) -> Value:
    """`size` elements of x along an axis, from `start` on, `step` apart."""
    if (start, size, step) == (0, x.shape[axis], 1):
        return x
    rank = len(x.shape)
    starts, sizes, steps = [0] * rank, list(x.shape), [1] * rank
    starts[axis], sizes[axis], steps[axis] = start, size, step
    return b.one("slice", x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))


def joined(b: Builder, parts: Sequence[Value], axis: int) -> Value:
    """Tensors one after the other along an axis."""
    tensors = list(parts)
    while len(tensors) > 1:
        groups = [tensors[i : i + FAN_IN] for i in range(0, len(tensors), FAN_IN)]
        tensors = [b.one("cat", *g, axis=axis) if len(g) > 1 else g[0] for g in groups]
    return tensors[0]


def selected(b: Builder, x: Value, axis: int, index: Sequence[int]) -> Value:
    """The elements of x along an axis that a list of indices names, by runs that are evenly spaced:
    slices, slices in reverse, and one element many times."""
    n = x.shape[axis]
    wanted = [i % n if -n <= i < n else _outside(i, n) for i in index]
    parts: list[Value] = []
    at = 0
    while at < len(wanted):
        step = wanted[at + 1] - wanted[at] if at + 1 < len(wanted) else 1
        end = at + 1
        while end < len(wanted) and wanted[end] - wanted[end - 1] == step:
            end += 1
        count = end - at
        if count == 2 and abs(step) > 1 and end < len(wanted):
            count = 1  # the second may begin a longer run
        parts.append(_run(b, x, axis, wanted[at], count, step))
        at += count
    if len(parts) > RUNS:
        raise GraphError(
            f"{len(wanted)} indices without order make {len(parts)} slices: sort them, or multiply "
            "by a constant matrix of zeros and ones"
        )
    return joined(b, parts, axis)


def _outside(index: int, n: int) -> int:
    raise GraphError(f"index {index} is not among {n} elements")


def _run(b: Builder, x: Value, axis: int, start: int, count: int, step: int) -> Value:
    if count == 1 or step > 0:
        return part(b, x, axis, start, count, step if count > 1 else 1)
    if step < 0:
        low = part(b, x, axis, start + (count - 1) * step, count, -step)
        axes = tuple(int(i == axis) for i in range(len(x.shape)))
        return b.one("flip", low, axes=axes)
    one = part(b, x, axis, start, 1)
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    return b.one("expand", one, shape=shape, scale=1.0)


def _indices(value: Any, what: str) -> list[int]:
    """A constant index as a list."""
    if isinstance(value, Value) or not hasattr(value, "tolist"):
        raise CaptureError(f"{what} needs an index that is known when compiling")
    found = value.reshape(-1).tolist()
    if value.dtype.is_floating_point or not all(isinstance(i, int) for i in found):
        raise CaptureError(f"{what} needs an index of integers")
    return found


class _Selecting(Composite):
    """Elements chosen along an axis by the attribute `index`."""

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        x, axis = shapes[0], int(attrs["axis"])  # type: ignore[arg-type]
        return ((*x[:axis], len(ints(attrs, "index")), *x[axis + 1 :]),)

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        return selected(b, inputs[0], int(attrs["axis"]), ints(attrs, "index"))  # type: ignore[arg-type]

    def reference(self, attrs: Mapping[str, Attr], *inputs: Any) -> Any:
        import torch

        index = torch.tensor(ints(attrs, "index"))
        return inputs[0].index_select(int(attrs["axis"]), index)  # type: ignore[arg-type]


@register("bt_shape.h")
class IndexSelect(_Selecting):
    """torch.index_select with a constant index, and indexing by constant lists of integers."""

    name = "index_select"
    captures = ("index_select", "index", "embedding")
    constants = ("index", "indices")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        if "weight" in args:  # embedding: rows of a table
            index = _indices(args["indices"], "an embedding")
            y = b.apply(self.name, args["weight"], axis=0, index=tuple(index))
            return reshaped(b, y, args["_output_shape"])
        x = args_input(args)
        if "dim" in args:
            axis = axis_index(args["dim"], len(x.shape))
            index = _indices(args["index"], "index_select")
            return b.apply(self.name, x, axis=axis, index=tuple(index))
        given = [(i, v) for i, v in enumerate(args["indices"]) if v is not None]
        return _indexed(b, x, given, args["_output_shape"])

    def samples(self) -> tuple[Sample, ...]:
        return (
            Sample(((1, 6, 131),), {"axis": 1, "index": (0, 2, 4, 5, 3, 1, 1, 1)}),
            Sample(((1, 3, 20),), {"axis": 2, "index": (19, 0, 3, 4, 5, 9, 7, 5)}),
        )


def _indexed(b: Builder, x: Value, given: Sequence[tuple[int, Any]], shape: Shape) -> Value:
    """x[..., index, ...] with constant indices of one shape on neighbouring axes."""
    axes = [axis for axis, _ in given]
    if axes != list(range(axes[0], axes[0] + len(axes))):
        raise CaptureError("indices on axes that are not neighbours are not supported")
    import torch

    tensors = [v for _, v in given]
    if any(isinstance(v, Value) or not hasattr(v, "dtype") for v in tensors):
        raise CaptureError("an index that depends on the input is not supported: use a mask")
    if any(v.dtype == torch.bool for v in tensors):
        tensors = [v.nonzero()[:, 0] if v.dtype == torch.bool else v for v in tensors]
    sizes = [x.shape[a] for a in axes]
    flat = torch.zeros((), dtype=torch.long)
    for size, index in zip(sizes, torch.broadcast_tensors(*tensors), strict=True):
        flat = flat * size + index % size
    merged = (*x.shape[: axes[0]], prod(sizes), *x.shape[axes[-1] + 1 :])
    y = b.apply(
        "index_select",
        reshaped(b, x, merged),
        axis=axes[0],
        index=tuple(_indices(flat, "indexing")),
    )
    return reshaped(b, y, shape)


class _Indexed(Composite):
    """A function that reads its input along one axis at constant places."""

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        raise GraphError(f"{self.name} is lowered when it is captured")


def mirrored(n: int, before: int, after: int) -> list[int]:
    """Indices of an axis of n elements with its inside mirrored at both ends."""
    return [*range(before, 0, -1), *range(n), *range(n - 2, n - 2 - after, -1)]


def padded(b: Builder, x: Value, pads: Sequence[int], mode: str) -> Value:
    """Padding of the last axes (from the last on: before, after) by what x holds."""
    for i in range(0, len(pads), 2):
        axis, before, after = len(x.shape) - 1 - i // 2, pads[i], pads[i + 1]
        n = x.shape[axis]
        if mode == "reflect":
            index = mirrored(n, before, after)
        elif mode == "replicate":
            index = [0] * before + list(range(n)) + [n - 1] * after
        elif mode == "circular":
            index = [*range(n - before, n), *range(n), *range(after)]
        else:
            raise CaptureError(f"padding of mode '{mode}' is not supported")
        x = selected(b, x, axis, index)
    return x


@register("bt_shape.h")
class Roll(_Indexed):
    """torch.roll along any axes."""

    name = "roll"
    captures = ("roll",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x, dims, shifts = args_input(args), list(args["dims"] or []), list(args["shifts"])
        shape = x.shape
        if not dims:
            x, dims = reshaped(b, x, (x.size,)), [0]
        for d, shift in zip(dims, shifts, strict=True):
            axis = axis_index(d, len(x.shape))
            n = x.shape[axis]
            x = selected(b, x, axis, [(i - shift) % n for i in range(n)])
        return reshaped(b, x, shape)


@register("bt_shape.h")
class Repeat(_Indexed):
    """Tensor.repeat and torch.tile: the whole tensor again and again along axes."""

    name = "repeat"
    captures = ("repeat", "tile")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x = args_input(args)
        times = list(args.get("repeats") or args["dims"])
        rank = max(len(times), len(x.shape))
        times = [1] * (rank - len(times)) + times
        shape = (1,) * (rank - len(x.shape)) + x.shape
        x = reshaped(b, x, shape)
        for axis, count in enumerate(times):
            if count > 1 and x.shape[axis] == 1:
                wide = (*x.shape[:axis], count, *x.shape[axis + 1 :])
                x = b.one("expand", x, shape=wide, scale=1.0)
            elif count > 1:
                x = joined(b, [x] * count, axis)
        return x


@register("bt_shape.h")
class RepeatInterleave(_Indexed):
    """torch.repeat_interleave: each element along an axis so many times in a row."""

    name = "repeat_interleave"
    captures = ("repeat_interleave",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x, count, dim = args_input(args), args["repeats"], args.get("dim")
        if not isinstance(count, int):
            raise CaptureError("repeat_interleave takes one number of repeats")
        if dim is None:
            x, dim = reshaped(b, x, (x.size,)), 0
        axis = axis_index(dim, len(x.shape))
        shape = (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :])
        wide = (*x.shape[: axis + 1], count, *x.shape[axis + 1 :])
        y = b.one("expand", reshaped(b, x, shape), shape=wide, scale=1.0)
        return reshaped(b, y, args["_output_shape"])


@register("bt_shape.h")
class Unfold(_Indexed):
    """Tensor.unfold: windows along an axis, which become a last axis."""

    name = "unfold"
    captures = ("unfold",)

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x = args_input(args)
        axis = axis_index(args["dimension"], len(x.shape))
        size, step = args["size"], args["step"]
        count = (x.shape[axis] - size) // step + 1
        if size == step:
            y = part(b, x, axis, 0, count * size)
        else:
            y = selected(b, x, axis, [i * step + j for i in range(count) for j in range(size)])
        y = reshaped(b, y, (*x.shape[:axis], count, size, *x.shape[axis + 1 :]))
        order = [i for i in range(len(y.shape)) if i != axis + 1] + [axis + 1]
        return y if order == sorted(order) else b.one("permute", y, dims=tuple(order))


@register("bt_shape.h")
class ChannelShuffle(_Indexed):
    """torch.channel_shuffle: channels of groups, in turn."""

    name = "channel_shuffle"
    captures = ("channel_shuffle", "native_channel_shuffle")

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        x, groups = args_input(args), args["groups"]
        n = x.shape[1]
        return selected(
            b, x, 1, [j * (n // groups) + i for i in range(n // groups) for j in range(groups)]
        )
