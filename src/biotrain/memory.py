# SPDX-License-Identifier: Apache-2.0
"""Static memory: which values share a buffer, how long each lives, and where it lies.

`lifetimes` groups values that occupy the same bytes (views, and outputs that may overwrite an
input that dies), `place` gives every group an offset, and `check` is an independent judge of the
result: it looks at the graph and the offsets only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from biotrain.errors import GraphError
from biotrain.ir import Graph, Value
from biotrain.op import OPS

ALIGNMENT = 16
"""Bytes; a multiple of every vector load that compilers emit unasked on small cores."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A run of bytes of the arena, used from node `first` to node `last` inclusive."""

    value: str
    """Name of the first value that lies here."""
    members: tuple[str, ...]
    """All values that share the bytes, in order of their birth."""
    memory: str
    offset: int
    size: int
    first: int
    last: int


def aligned(size: int) -> int:
    """`size` rounded up to the alignment of buffers."""
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def lifetimes(graph: Graph, inplace: bool = True) -> tuple[Buffer, ...]:
    """Buffers of the temps and inputs of a graph, without offsets (all zero).

    The input is there before the first node and outputs are read after the last one. Output i of a
    node takes over the bytes of an input where the op allows it, the sizes agree and nothing that
    lies in them is read later.
    """
    end = len(graph.nodes)
    birth: dict[str, int] = {v.name: 0 for v in graph.inputs if v.dtype == "f32"}
    sizes: dict[str, int] = {v.name: aligned(v.nbytes) for v in graph.inputs}
    exact: dict[str, int] = {v.name: v.nbytes for v in graph.values()}
    last: dict[str, int] = dict.fromkeys(birth, 0)
    for i, node in enumerate(graph.nodes):
        for v in (*node.inputs, *node.outputs):
            if v.kind == "temp" and v.name not in birth:
                birth[v.name] = i
                sizes[v.name] = aligned(v.nbytes)
            if v.name in birth:
                last[v.name] = i
    for v in graph.outputs:
        if v.name in birth:
            last[v.name] = end
    group: dict[str, list[str]] = {name: [name] for name in birth}

    def join(a: str, b: str) -> None:
        merged = group[a] + group[b]
        for name in merged:
            group[name] = merged

    for node in graph.nodes:
        if OPS[node.op].alias and node.inputs[0].name in birth:
            join(node.inputs[0].name, node.outputs[0].name)
    for i, node in enumerate(graph.nodes) if inplace else ():
        for out, into in OPS[node.op].inplace:
            if into >= len(node.inputs) or out >= len(node.outputs):
                continue
            a, b = node.inputs[into].name, node.outputs[out].name
            if a not in birth or b not in birth or group[a] is group[b]:
                continue
            if b != min(group[b], key=lambda n: birth[n]) or birth[b] != i:
                continue
            others = [v.name for j, v in enumerate(node.inputs) if j != into]
            clash = any(o in group[a] for o in others)
            if max(last[n] for n in group[a]) == i and exact[a] == exact[b] and not clash:
                join(a, b)
    seen: dict[int, None] = {}
    buffers: list[Buffer] = []
    for name in birth:
        members = group[name]
        if id(members) in seen:
            continue
        seen[id(members)] = None
        first, final = min(birth[n] for n in members), max(last[n] for n in members)
        size = max(sizes[n] for n in members)
        buffers.append(Buffer(members[0], tuple(members), "ram", 0, size, first, final))
    return tuple(buffers)


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """Most bytes that are in use at one time: no placement needs less."""
    times = sorted({b.first for b in buffers})
    return max((sum(b.size for b in buffers if b.first <= t <= b.last) for t in times), default=0)


def peak(buffers: Sequence[Buffer]) -> int:
    """Bytes of the arena that holds the placed buffers."""
    return max((b.offset + b.size for b in buffers), default=0)


def _overlap(a: Buffer, b: Buffer) -> bool:
    return a.first <= b.last and b.first <= a.last


def _first_fit(buffers: Sequence[Buffer], order: Sequence[int], limit: int) -> list[int] | None:
    """Lowest free offset for each buffer in `order`; None as soon as `limit` is reached."""
    offsets = [-1] * len(buffers)
    placed: list[int] = []
    for i in order:
        taken = sorted(
            (offsets[j], offsets[j] + buffers[j].size)
            for j in placed
            if _overlap(buffers[i], buffers[j])
        )
        at = 0
        for start, stop in taken:
            if at + buffers[i].size <= start:
                break
            at = max(at, stop)
        if at + buffers[i].size >= limit:
            return None
        offsets[i] = at
        placed.append(i)
    return offsets


EXACT = 7
"""Up to this many buffers every order is tried, which is optimal."""


def place(buffers: Sequence[Buffer], effort: int = 400) -> tuple[Buffer, ...]:
    """Give every buffer an offset; the arena is as small as the search finds it.

    First fit along several orders, then along every order (up to `EXACT` buffers) or along
    `effort` seeded exchanges in the best order. Some order is optimal: that of the offsets of an
    optimal placement. Deterministic.
    """
    n = len(buffers)
    bound = lower_bound(buffers)
    length = [b.last - b.first + 1 for b in buffers]
    index = list(range(n))
    orders = [
        sorted(index, key=lambda i: (-buffers[i].size, buffers[i].first)),
        sorted(index, key=lambda i: (-buffers[i].size * length[i], buffers[i].first)),
        sorted(index, key=lambda i: (-length[i], -buffers[i].size, buffers[i].first)),
        sorted(index, key=lambda i: (buffers[i].first, -buffers[i].size)),
        sorted(index, key=lambda i: (-buffers[i].last, -buffers[i].size)),
    ]
    best_order = orders[0]
    best = _first_fit(buffers, best_order, 1 << 62) or []
    size = max((o + b.size for o, b in zip(best, buffers, strict=True)), default=0)

    def attempt(order: list[int]) -> None:
        nonlocal best, best_order, size
        offsets = _first_fit(buffers, order, size)
        if offsets is not None:
            best, best_order = offsets, order
            size = max(o + b.size for o, b in zip(offsets, buffers, strict=True))

    for order in orders[1:]:
        attempt(order)
    if n <= EXACT and size > bound:
        best, size = _exact(buffers, best, size, bound)
    elif size > bound:
        rng = np.random.Generator(np.random.PCG64(n))
        for _ in range(effort):
            order = list(best_order)
            i, j = (int(k) for k in rng.integers(0, n, 2))
            order.insert(i, order.pop(j))
            attempt(order)
            if size == bound:
                break
    return tuple(replace(b, offset=o) for b, o in zip(buffers, best, strict=True))


def _exact(
    buffers: Sequence[Buffer], best: list[int], size: int, bound: int
) -> tuple[list[int], int]:
    """Depth-first over all orders of first fit."""
    stack: list[tuple[int, ...]] = [()]
    while stack and size > bound:
        order = stack.pop()
        offsets = _first_fit(buffers, order, size)
        if offsets is None:
            continue
        if len(order) == len(buffers):
            best = offsets
            size = max(o + b.size for o, b in zip(offsets, buffers, strict=True))
            continue
        rest = [i for i in range(len(buffers)) if i not in order]
        stack.extend((*order, i) for i in reversed(rest))
    return best, size


def check(graph: Graph, buffers: Sequence[Buffer]) -> None:
    """Judge a placement by the graph alone: replay it and see that no read value was overwritten.

    Every node must find each of its inputs as its writer left it. Bytes are tracked as intervals
    of owners; views and in-place outputs take over the bytes of their input.
    """
    at = {m: b for b in buffers for m in b.members}
    owner: dict[str, tuple[int, int]] = {}
    alive: dict[str, None] = {}

    def write(value: Value, kept: Sequence[str]) -> None:
        buffer = at.get(value.name)
        if buffer is None:
            return
        start, stop = buffer.offset, buffer.offset + value.nbytes
        if buffer.offset % ALIGNMENT or value.nbytes > buffer.size:
            raise GraphError(f"{value} does not fit its buffer")
        for name in list(alive):
            a, z = owner[name]
            if name not in kept and a < stop and start < z:
                del alive[name]
        owner[value.name] = (start, stop)
        alive[value.name] = None

    for value in graph.inputs:
        write(value, ())
    for node in graph.nodes:
        for value in node.inputs:
            if value.name in at and value.name not in alive:
                raise GraphError(f"{value} was overwritten before {node}")
        rule = OPS[node.op]
        allowed = [node.inputs[i].name for _, i in rule.inplace if i < len(node.inputs)]
        for out in node.outputs if not rule.alias else ():
            buffer = at.get(out.name)
            if buffer is None:
                continue
            for value in node.inputs:
                if value.name not in at:
                    continue
                a, z = owner[value.name]
                hit = a < buffer.offset + out.nbytes and buffer.offset < z
                if hit and (value.name not in allowed or a != buffer.offset):
                    raise GraphError(f"{out} overwrites {value}, which {node.op} still reads")
        if rule.alias:  # no byte is written: the result is the input under another shape
            out, source = node.outputs[0], node.inputs[0]
            if out.name in at and source.name in at:
                if at[out.name].offset != at[source.name].offset:
                    raise GraphError(f"{out} is a view of {source} but lies elsewhere")
                owner[out.name] = owner[source.name]
                alive[out.name] = None
            continue
        kept: list[str] = []
        for out in node.outputs:
            write(out, kept)
            kept = [*kept, out.name]
    for value in graph.outputs:
        if value.name in at and value.name not in alive:
            raise GraphError(f"output {value} was overwritten")
