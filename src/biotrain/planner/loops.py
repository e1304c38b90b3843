# SPDX-License-Identifier: Apache-2.0
"""A pass as a loop: nodes and their boxes become the body, the rest its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from biotrain.ir.graph import Loop, Node, Span, Step, Value, Window

Box = tuple[int, int, int, int]
"""A span as a plain tuple: the search makes millions of them."""

NOTHING: Box = (0, 0, 0, 0)


def hull(a: Box, b: Box) -> Box:
    """The smallest box that holds both."""
    return min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3])


@dataclass(frozen=True)
class Part:
    """The iterations of one loop: which nodes run, on which boxes."""

    order: Sequence[int]
    sinks: Mapping[int, None]
    boxes: Mapping[int, tuple[Box, ...]]
    axis: str
    mark: str
    """Behind the names of what lives in the loop only."""
    stored: Value | None = None
    """A tensor of which some rows are kept: this loop reads or writes those."""
    continued: bool = False
    """Another loop before this one has begun the same results."""


def make_loop(nodes: Sequence[Node], part: Part, root: Callable[[Value], Value]) -> Loop:
    """The loop of some iterations of a pass."""
    order = [i for i in part.order if any(b is not NOTHING for b in part.boxes[i])]
    made = {v.name: i for i in order for v in nodes[i].outputs if v.kind == "temp"}
    unread = dict.fromkeys(
        v.name
        for i in part.order
        if i not in part.sinks
        for v in nodes[i].outputs
        if v.name not in made
    )
    """What no iteration needs a part of, though a node that runs names it (an input of a cat)."""

    def here(value: Value) -> Value:
        base = root(value)
        if part.stored is not None and base.name == part.stored.name:
            return replace(part.stored, shape=value.shape)
        if base.name in unread:
            return replace(value, name=base.name + part.mark)
        if base.name not in made:
            return value
        name = base.name if made[base.name] in part.sinks else base.name + part.mark
        return replace(value, name=name)

    body: list[Step] = []
    windows: list[Window] = []
    inputs: dict[str, Value] = {}
    outputs: dict[str, Value] = {}
    for i in order:
        boxes = tuple(Span(*b) for b in part.boxes[i])
        ins = tuple(map(here, nodes[i].inputs))
        outs = tuple(map(here, nodes[i].outputs))
        for old, new in zip(nodes[i].inputs, ins, strict=True):
            stored = part.stored is not None and new.name == part.stored.name
            if root(old).name in unread and not stored:
                empty = Window(new, (Span(0, 0, 0, 0),) * len(boxes))
                windows += [] if empty in windows else [empty]
            elif root(old).name not in made:
                inputs[new.name] = new
        for v in outs:
            if i in part.sinks or v == part.stored:
                outputs[v.name] = v
            else:
                windows.append(Window(v, boxes))
        body.append(Step(replace(nodes[i], inputs=ins, outputs=outs), boxes))
    for v in outputs.values():  # sums into buffers of the context read them too
        if v.kind != "temp":
            inputs.setdefault(v.name, v)
    return Loop(
        "loop",
        tuple(inputs.values()),
        tuple(outputs.values()),
        (("continued", True),) if part.continued else (),
        axis="time" if part.axis == "time" else "rows",
        body=tuple(body),
        windows=tuple(windows),
    )


def window_peak(
    nodes: Sequence[Node],
    part: Part,
    sources: Callable[[int], tuple[int, ...]],
    item_bytes: Sequence[Sequence[int]],
    aligned: Callable[[int], int],
) -> int:
    """Most bytes of windows that are alive at one moment of the body."""
    order = part.order
    inner = [i for i in order if i not in part.sinks and not _is(nodes[i], part.stored)]
    position = {i: at for at, i in enumerate(order)}
    last = {i: position[i] for i in inner}
    for i in order:
        for j in sources(i):
            if j in last:
                last[j] = position[i]
    change = [0] * (len(order) + 1)
    for i in inner:
        rows = max(b[1] - b[0] for b in part.boxes[i])
        times = max(b[3] - b[2] for b in part.boxes[i])
        size = sum(aligned(n * rows * times) for n in item_bytes[i])
        change[position[i]] += size
        change[last[i] + 1] -= size
    most = now = 0
    for step in change:
        now += step
        most = max(most, now)
    return most


def _is(node: Node, value: Value | None) -> bool:
    return value is not None and any(v.name == value.name for v in node.outputs)
