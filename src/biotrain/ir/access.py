# SPDX-License-Identifier: Apache-2.0
"""Which span of each tensor a call reads: what `Op.rows` and `Op.window` say, for a whole node."""

from __future__ import annotations

from biotrain.ir.graph import Node, Span, Value
from biotrain.ir.op import OPS, Call, rows_times


def call_of(node: Node, cache: dict[Node, Call]) -> Call:
    """The kernel call of a node, computed once."""
    call = cache.get(node)
    if call is None:
        call = cache[node] = OPS[node.op].call(node)
    return call


def whole(value: Value) -> Span:
    """The span of all rows and times of a tensor."""
    rows, times = rows_times(value.shape)
    return Span(0, rows, 0, times)


def _clip(span: tuple[int, int] | None, size: int) -> tuple[int, int]:
    if span is None:
        return 0, size
    lo = max(0, min(size, span[0]))
    return lo, max(lo, min(size, span[1]))


def reads(node: Node, call: Call, box: Span) -> list[tuple[int, Span]]:
    """(input, what the box reads of it) for every input that is handed to the kernel."""
    rule = OPS[node.op]
    found: list[tuple[int, Span]] = []
    if box.empty:
        return found
    for operand in call.operands:
        if operand.source != "in":
            continue
        value = node.inputs[operand.index]
        if not operand.view:
            found.append((operand.index, whole(value)))
            continue
        rows, times = rows_times(value.shape)
        r0, r1 = _clip(rule.rows(node, operand.index, box.r0, box.r1), rows)
        t0, t1 = _clip(rule.window(node, operand.index, box.t0, box.t1), times)
        span = Span(r0, r1, t0, t1)
        if not span.empty:
            found.append((operand.index, span))
    return found


def by_view(node: Node, call: Call, value: Value) -> bool:
    """Whether every use of `value` by the call is a view, so that a window of it will do."""
    given = {("in", i) for i, v in enumerate(node.inputs) if v == value}
    given |= {("out", i) for i, v in enumerate(node.outputs) if v == value}
    uses = [o for o in call.operands if (o.source, o.index) in given]
    return bool(uses) and all(o.view for o in uses)
