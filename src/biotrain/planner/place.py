# SPDX-License-Identifier: Apache-2.0
"""Static memory: which values share a buffer, when it is in use, and its offset in the arena.

`lifetimes` groups values that occupy the same bytes (views, and outputs that may overwrite an
input that is read for the last time) and `place` gives every group an offset. `validate.py` checks
the result. Time is counted in *schedule steps*: one per node, or per node of a loop's body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from biotrain.ir.access import call_of, reads
from biotrain.ir.graph import Graph, Loop, Node, Span
from biotrain.ir.op import OPS, Call, rows_times

ALIGNMENT = 16
"""Bytes that offsets are multiples of: what the widest vector load of a small core needs."""


L1 = "l1"
"""`Buffer.memory` of windows in the near one of two memories; all else lies in `ram`."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A run of bytes of the arena, in use from schedule step `first` to `last` inclusive."""

    value: str
    """Name of the first value that lies here."""
    members: tuple[str, ...]
    """All values that share the bytes, in order of their first use."""
    memory: str
    offset: int
    """Bytes from the start of the arena."""
    size: int
    """Bytes."""
    first: int
    last: int


def aligned(size: int) -> int:
    """`size` rounded up to the alignment of buffers."""
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def positions(graph: Graph) -> list[tuple[int, int]]:
    """First and last schedule step of every node; a loop has one step per node of its body."""
    spans: list[tuple[int, int]] = []
    at = 0
    for node in graph.nodes:
        length = len(node.body) if isinstance(node, Loop) else 1
        spans.append((at, at + length - 1))
        at += length
    return spans


class _Groups:
    """Values that share their bytes."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        self.members: dict[str, list[str]] = {}

    def add(self, name: str, nbytes: int, first: int, last: int) -> None:
        """Note a value of `nbytes` bytes, in use from schedule step `first` to `last`."""
        self.first[name], self.last[name], self.bytes[name] = first, last, nbytes
        self.members[name] = [name]

    def join(self, a: str, b: str) -> None:
        """Let the values that share the bytes of a, and of b, share all of them."""
        merged = self.members[a] + self.members[b]
        for name in merged:
            self.members[name] = merged

    def last_use(self, name: str) -> int:
        """The schedule step at which the last of the values that share its bytes is read."""
        return max(self.last[n] for n in self.members[name])

    def may_join(self, a: str, b: str, first: int, last: int, others: Sequence[str]) -> bool:
        """Whether b, written at step `first`, may take over the bytes of a, read last at `last`.

        `others`: values that are read at the same time and must not lie in these bytes.
        """
        if a not in self.first or b not in self.first or self.members[a] is self.members[b]:
            return False
        earliest = min(self.members[b], key=lambda n: self.first[n])
        if b != earliest or self.first[b] != first or self.bytes[a] != self.bytes[b]:
            return False
        return self.last_use(a) == last and not any(o in self.members[a] for o in others)


def lifetimes(graph: Graph, inplace: bool = True) -> tuple[Buffer, ...]:
    """Buffers of the temps and inputs of a graph, without offsets (all zero).

    The input is there before the first node and outputs are read after the last one. What a loop
    reads or writes outside is there as long as the loop runs; its windows only from the node of
    the body that writes them to the last one that reads them. Output i of a node takes over the
    bytes of an input where the op allows it, the sizes agree and nothing that lies in them is read
    later; in a loop where every iteration has read what it overwrites.
    """
    spans = positions(graph)
    groups = _Groups()
    for v in graph.inputs:
        if v.resident:
            groups.add(v.name, v.nbytes, 0, 0)
    for node, (first, last) in zip(graph.nodes, spans, strict=True):
        for v in (*node.inputs, *node.outputs):
            if v.kind == "temp" and v.name not in groups.first:
                groups.add(v.name, v.nbytes, first, last)
            if v.name in groups.first:
                groups.last[v.name] = last
        if isinstance(node, Loop):
            _add_windows(groups, node, first)
    end = spans[-1][1] + 1 if spans else 0
    for v in graph.outputs:
        if v.name in groups.first:
            groups.last[v.name] = end
    for node in graph.nodes:
        view = not isinstance(node, Loop) and OPS[node.op].alias
        if view and node.inputs[0].name in groups.first:
            groups.join(node.inputs[0].name, node.outputs[0].name)
    for node, (first, last) in zip(graph.nodes, spans, strict=True) if inplace else ():
        if isinstance(node, Loop):
            _share_in_loop(groups, node, first, last)
            continue
        for out, into in OPS[node.op].inplace:
            a, b = node.inputs[into].name, node.outputs[out].name
            others = [v.name for j, v in enumerate(node.inputs) if j != into]
            if groups.may_join(a, b, first, first, others):
                groups.join(a, b)
    seen: dict[int, None] = {}
    buffers: list[Buffer] = []
    for name in groups.first:
        members = groups.members[name]
        if id(members) in seen:
            continue
        seen[id(members)] = None
        start, final = min(groups.first[n] for n in members), groups.last_use(name)
        size = max(aligned(groups.bytes[n]) for n in members)
        buffers.append(Buffer(members[0], tuple(members), "ram", 0, size, start, final))
    return tuple(buffers)


def _add_windows(groups: _Groups, loop: Loop, first: int) -> None:
    local = {w.value.name: w for w in loop.windows}
    for i, step in enumerate(loop.body):
        for v in (*step.node.inputs, *step.node.outputs):
            if v.name in local:
                if v.name not in groups.first:
                    groups.add(v.name, local[v.name].nbytes, first + i, first + i)
                groups.last[v.name] = first + i


def _share_in_loop(groups: _Groups, loop: Loop, first: int, last: int) -> None:
    """In-place results inside a body, and outputs that overwrite what the loop reads last."""
    local = {w.value.name: w for w in loop.windows}
    for i, step in enumerate(loop.body):
        for out, into in OPS[step.node.op].inplace:
            if into >= len(step.node.inputs) or out >= len(step.node.outputs):
                continue
            a, b = step.node.inputs[into].name, step.node.outputs[out].name
            if a not in local or b not in local or local[a].spans != local[b].spans:
                continue
            others = [v.name for j, v in enumerate(step.node.inputs) if j != into]
            if groups.may_join(a, b, first + i, first + i, others):
                groups.join(a, b)
    for v in loop.outputs:
        for source in loop.inputs:
            same = rows_times(v.shape) == rows_times(source.shape) and v.dtype == source.dtype
            may = same and groups.may_join(source.name, v.name, first, last, ())
            if may and all(follows(loop, a, v.name) for a in groups.members[source.name]):
                groups.join(source.name, v.name)
                break


def follows(loop: Loop, source: str, target: str) -> bool:
    """Whether `target` may overwrite `source` element by element while the loop runs.

    True where every part of it is written after the last read of the same part of `source`.
    """
    writers = [i for i, s in enumerate(loop.body) if any(o.name == target for o in s.node.outputs)]
    if len(writers) != 1 or OPS[loop.body[writers[0]].node.op].accumulates:
        return False
    at = writers[0]
    allowed = OPS[loop.body[at].node.op].inplace
    later = Span(0, 0, 0, 0)  # what the iterations after this one read
    calls: dict[Node, Call] = {}
    for k in reversed(range(loop.count)):
        written, now = loop.body[at].boxes[k], Span(0, 0, 0, 0)
        for i, step in enumerate(loop.body):
            call = call_of(step.node, calls)
            for index, span in reads(step.node, call, step.boxes[k]):
                if step.node.inputs[index].name != source:
                    continue
                now = now.hull(span)
                own = i == at and any(into == index for _, into in allowed) and span == written
                if i >= at and not own and _meet(span, written):
                    return False
        if _meet(later, written):
            return False
        later = later.hull(now)
    return True


def _meet(a: Span, b: Span) -> bool:
    if a.empty or b.empty:
        return False
    return a.r0 < b.r1 and b.r0 < a.r1 and a.t0 < b.t1 and b.t0 < a.t1


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """Most bytes that are in use at one time: no placement needs less."""
    buffers = [b for b in buffers if b.memory != L1]
    times = sorted({b.first for b in buffers})
    return max((sum(b.size for b in buffers if b.first <= t <= b.last) for t in times), default=0)


def peak(buffers: Sequence[Buffer]) -> int:
    """Bytes of the arena that holds the placed buffers; those in L1 are not in it."""
    return max((b.offset + b.size for b in buffers if b.memory != L1), default=0)


def near_peak(buffers: Sequence[Buffer]) -> int:
    """Bytes of L1 that hold the placed windows there."""
    return max((b.offset + b.size for b in buffers if b.memory == L1), default=0)


def _neighbours(buffers: Sequence[Buffer]) -> list[list[int]]:
    """For each buffer, which others are in use at one of its times."""
    first = np.array([b.first for b in buffers])
    last = np.array([b.last for b in buffers])
    return [
        [j for j in np.flatnonzero((first <= b.last) & (b.first <= last)).tolist() if j != i]
        for i, b in enumerate(buffers)
    ]


def _first_fit(
    buffers: Sequence[Buffer], near: Sequence[Sequence[int]], order: Sequence[int], limit: int
) -> list[int] | None:
    """Lowest free offset for each buffer in `order`; None as soon as `limit` is reached.

    `near`: the neighbours of each buffer.
    """
    offsets = [-1] * len(buffers)
    sizes = [b.size for b in buffers]
    for i in order:
        size, at = sizes[i], 0
        taken = [(offsets[j], offsets[j] + sizes[j]) for j in near[i] if offsets[j] >= 0]
        taken.sort()
        for start, stop in taken:
            if at + size <= start:
                break
            at = max(at, stop)
        if at + size >= limit:
            return None
        offsets[i] = at
    return offsets


MOST_EXACT = 7
"""Buffers up to which every order of first fit is tried, which is optimal."""


MOST_PLACED = 100_000
"""Buffers that the exchanges of one search place."""


def place(buffers: Sequence[Buffer], effort: int = 400) -> tuple[Buffer, ...]:
    """Give every buffer an offset; the arena is as small as the search finds it.

    First fit along several orders, then along every order (up to `MOST_EXACT` buffers) or along
    `effort` seeded exchanges in the best order (fewer where buffers are very many). Some order is
    optimal: that of the offsets of an optimal placement. Deterministic.
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
    best_order, near = orders[0], _neighbours(buffers)
    best = _first_fit(buffers, near, best_order, 1 << 62) or []
    size = max((o + b.size for o, b in zip(best, buffers, strict=True)), default=0)

    def attempt(order: list[int]) -> None:
        nonlocal best, best_order, size
        offsets = _first_fit(buffers, near, order, size)
        if offsets is not None:
            best, best_order = offsets, order
            size = max(o + b.size for o, b in zip(offsets, buffers, strict=True))

    for order in orders[1:]:
        attempt(order)
    if n <= MOST_EXACT and size > bound:
        best, size = _exact(buffers, near, best, size, bound)
    elif size > bound:
        rng = np.random.Generator(np.random.PCG64(n))
        for _ in range(min(effort, MOST_PLACED // n)):
            order = list(best_order)
            i, j = (int(k) for k in rng.integers(0, n, 2))
            order.insert(i, order.pop(j))
            attempt(order)
            if size == bound:
                break
    return tuple(replace(b, offset=o) for b, o in zip(buffers, best, strict=True))


def _exact(
    buffers: Sequence[Buffer], near: list[list[int]], best: list[int], size: int, bound: int
) -> tuple[list[int], int]:
    """Depth-first over all orders of first fit."""
    stack: list[tuple[int, ...]] = [()]
    while stack and size > bound:
        order = stack.pop()
        offsets = _first_fit(buffers, near, order, size)
        if offsets is None:
            continue
        if len(order) == len(buffers):
            best = offsets
            size = max(o + b.size for o, b in zip(offsets, buffers, strict=True))
            continue
        rest = [i for i in range(len(buffers)) if i not in order]
        stack.extend((*order, i) for i in reversed(rest))
    return best, size
