# SPDX-License-Identifier: Apache-2.0
"""The decisions of a plan in words: one line each, against the plan that stores everything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from biotrain.graph.cost import node_ops
from biotrain.ir.graph import Graph, Loop, Node, Value, flat_nodes
from biotrain.ir.op import OPS
from biotrain.planner.place import Buffer, lifetimes, lower_bound, peak

MOST_NAMED = 5
"""Fused loops, and recomputed tensors, that are named one by one."""


def in_words(
    chosen: Graph, buffers: Sequence[Buffer], stored: Graph, stored_peak: int
) -> tuple[str, ...]:
    """The choices of a schedule; `stored` is the graph of the one that stores everything."""
    loops = [n for n in chosen.nodes if isinstance(n, Loop)]
    if peak(buffers) >= stored_peak and not loops:
        head = f"everything stored: {len(buffers)} buffers, arena {peak(buffers):,} B"
    else:
        more = node_ops(chosen.nodes) / max(node_ops(stored.nodes), 1) - 1
        head = (
            f"arena {peak(buffers):,} B instead of {stored_peak:,} B with everything stored, "
            f"operations {more:+.1%}"
        )
    return (head, *_loops(loops), *_recomputed(chosen, stored), *_in_place(chosen, buffers))


def _loops(loops: Sequence[Loop]) -> list[str]:
    """The fused loops whose windows save most one by one, and the others together."""

    def saved(at: int) -> int:
        return sum(w.value.nbytes - w.nbytes for w in loops[at].windows)

    def sizes(some: Sequence[Loop]) -> str:
        windows = [w for loop in some for w in loop.windows]
        here, whole = sum(w.nbytes for w in windows), sum(w.value.nbytes for w in windows)
        return f"windows {_kb(here)} instead of {_kb(whole)}"

    order = sorted(range(len(loops)), key=lambda at: (-saved(at), at))
    named = sorted(order[: MOST_NAMED if len(order) > MOST_NAMED + 1 else MOST_NAMED + 1])
    lines = []
    for loop in (loops[at] for at in named):
        names = [step.node.outputs[0].name for step in loop.body]
        span = names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}"
        over, tiles = ("rows", "rows") if loop.axis == "rows" else ("time", "tiles")
        what = tiles if loop.windows else f"{tiles}, no windows"
        tail = f": {sizes([loop])}" if loop.windows else ""
        lines.append(f"fused loop over {over}, {span} ({loop.count} {what}){tail}")
    rest = [loops[at] for at in sorted(order[len(named) :])]
    if rest:
        lines.append(f"{len(rest)} smaller fused loops: {sizes(rest)}")
    return lines


def computations(nodes: Iterable[Node]) -> list[tuple[str, int]]:
    """Per node: the tensor that it computes, and how often that was computed before.

    A node that does the same to the same inputs as one before it recomputes that one's tensor.
    """
    same: dict[str, str] = {}
    first: dict[tuple[object, ...], tuple[Value, ...]] = {}
    count: dict[str, int] = {}
    found: list[tuple[str, int]] = []
    for node in nodes:
        sources = tuple(same.get(v.name, v.name) for v in node.inputs)
        made = first.setdefault((node.op, node.attrs, sources), node.outputs)
        same.update((mine.name, one.name) for mine, one in zip(node.outputs, made, strict=True))
        if OPS[node.op].alias:
            same[node.outputs[0].name] = sources[0]
        found.append((made[0].name, count.get(made[0].name, 0)))
        count[made[0].name] = found[-1][1] + 1
    return found


def _recomputed(chosen: Graph, stored: Graph) -> list[str]:
    """Recomputed tensors, and the operations that this adds."""
    before, now = _work(stored), _work(chosen)
    more = [
        (ops - before[name], name, ops / max(before[name], 1) - 1)
        for name, ops in now.items()
        if name in before and ops > before[name]
    ]
    if not more:
        return []
    more.sort(key=lambda m: (-m[0], m[1]))
    named = more[: MOST_NAMED if len(more) > MOST_NAMED + 1 else MOST_NAMED + 1]
    parts = []
    for ops, name, times in named:
        often = "once" if abs(times - 1) < 0.005 else f"{times:.2g} times"
        parts.append(f"{name} {often} (+{_short(ops)})")
    if len(more) > len(named):
        rest = sum(m[0] for m in more[len(named) :])
        parts.append(f"{len(more) - len(named)} others (+{_short(rest)})")
    return [f"recomputed, operations: {', '.join(parts)}"]


def _work(graph: Graph) -> dict[str, int]:
    """Per tensor: the operations of all nodes that compute it, or windows of it."""
    found: dict[str, int] = {}
    made = iter(computations(flat_nodes(graph.nodes)))
    for node in graph.nodes:
        parts: list[Node] = [node]
        if isinstance(node, Loop):
            parts = [replace(node, body=(step,)) for step in node.body]
        for part in parts:
            name, _ = next(made)
            found[name] = found.get(name, 0) + node_ops((part,))
    return found


def _in_place(chosen: Graph, buffers: Sequence[Buffer]) -> list[str]:
    """Tensors that overwrite one another, and the bytes that this saves."""
    views = dict.fromkeys(
        v.name for n in flat_nodes(chosen.nodes) if OPS[n.op].alias for v in n.outputs
    )
    pairs: list[tuple[int, str]] = []
    for buffer in buffers:
        own = [name for name in buffer.members if name not in views]
        pairs += [(buffer.size, f"{b} over {a}") for a, b in pairwise(own)]
    if not pairs:
        return []
    pairs.sort(key=lambda p: -p[0])
    more = f", {len(pairs) - 3} more" if len(pairs) > 3 else ""
    saved = lower_bound(lifetimes(chosen, inplace=False)) - lower_bound(buffers)
    saves = f": {saved:,} B less at the peak" if saved > 0 else ""
    return [f"in place: {', '.join(text for _, text in pairs[:3])}{more}{saves}"]


def _kb(size: int) -> str:
    return f"{size:,} B" if size < 10_000 else f"{size / 1e3:,.0f} kB"


def _short(count: int) -> str:
    """A count in three digits: `1.92 M`."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count}"
