# SPDX-License-Identifier: Apache-2.0
"""Loops whose windows lie in L1: `get` and `put` steps around what a loop touches in L2.

The arena is planned in L2. What a loop reads of it is brought into a window before its first use in
an iteration, and what it writes is brought back behind its call. Both are steps like others: they
are shared by workers, and judged with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from biotrain.ir.access import by_view, call_of, reads
from biotrain.ir.graph import Loop, Node, Span, Step, Value, Window
from biotrain.ir.op import OPS, Call, rows_times

NOTHING = Span(0, 0, 0, 0)


@dataclass
class _Use:
    """What a loop does with a tensor of L2."""

    value: Value
    read: list[Span]
    """Hull of what each iteration reads."""
    written: list[Span]
    writer: int = -1
    first: int = -1
    """Step that touches it first."""
    views: bool = True
    """Whether windows will do for what is written. Who reads by a pointer reads the whole, of which
    the window is a copy."""


@dataclass
class _Uses:
    loop: Loop
    found: dict[str, _Use] = field(default_factory=dict)

    def of(self, value: Value, step: int) -> _Use | None:
        """The use of a tensor that may have a window in L1, else None."""
        outside = value.kind in ("temp", "param", "const") or value.resident
        if any(w.value.name == value.name for w in self.loop.windows) or not outside:
            return None
        if value.name not in self.found:
            none = [NOTHING] * self.loop.count
            self.found[value.name] = _Use(value, none, list(none), first=step)
        return self.found[value.name]


def _uses(loop: Loop, calls: dict[Node, Call]) -> list[_Use]:
    """What a loop touches in L2, in order of first use; only what windows will do for."""
    uses = _Uses(loop)
    for i, step in enumerate(loop.body):
        call, rule = call_of(step.node, calls), OPS[step.node.op]
        spans = [dict(reads(step.node, call, box)) for box in step.boxes]
        for index, value in enumerate(step.node.inputs):
            use = uses.of(value, i)
            if use is None:
                continue
            use.read = [a.hull(s.get(index, NOTHING)) for a, s in zip(use.read, spans, strict=True)]
        for value in step.node.outputs:
            use = uses.of(value, i)
            if use is None:
                continue
            same = rows_times(value.shape) == call.box and not rule.accumulates
            temp = value.kind == "temp"
            use.views &= temp and same and by_view(step.node, call, value)
            use.writer, use.written = i, list(step.boxes)
    return [u for u in uses.found.values() if _moves(u)]


def _moves(use: _Use) -> bool:
    """Whether a tensor goes through a window: floats, whole in L2, by views, read or written."""
    value = use.value
    either = (use.writer >= 0) != any(not s.empty for s in use.read)
    return value.dtype == "f32" and not value.stored_rows and use.views and either


def with_transfers(loop: Loop, taken: dict[str, None]) -> Loop:
    """The loop with a window for every tensor of L2 that it reads or writes by views.

    taken : names of values, to which those of the windows are added.
    """
    renamed: dict[str, Value] = {}
    before: dict[int, list[Step]] = {}
    behind: dict[int, list[Step]] = {}
    windows: list[Window] = []
    for use in _uses(loop, {}):
        name, number = f"{use.value.name}_near", 1
        while name in taken:
            number += 1
            name = f"{use.value.name}_near{number}"
        taken[name] = None
        near = replace(use.value, name=name, kind="temp")
        renamed[use.value.name] = near
        if use.writer < 0:
            boxes = tuple(use.read)
            step = Step(Node("get", (use.value,), (near,)), boxes)
            before.setdefault(use.first, []).append(step)
        else:
            boxes = tuple(use.written)
            step = Step(Node("put", (near,), (use.value,)), boxes)
            behind.setdefault(use.writer, []).append(step)
        windows.append(Window(near, boxes))
    body: list[Step] = []
    for i, step in enumerate(loop.body):
        ins = tuple(renamed.get(v.name, v) for v in step.node.inputs)
        outs = tuple(renamed.get(v.name, v) for v in step.node.outputs)
        node = replace(step.node, inputs=ins, outputs=outs)
        body += [*before.get(i, ()), Step(node, step.boxes), *behind.get(i, ())]
    return replace(loop, body=tuple(body), windows=(*loop.windows, *windows))
