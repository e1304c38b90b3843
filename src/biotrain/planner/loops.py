# SPDX-License-Identifier: Apache-2.0
"""A fused loop as a node of the graph: its nodes and their boxes become the body of a `Loop`.

What the body reads or writes outside are the inputs and outputs of the loop; the rest are windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from biotrain.ir.graph import Loop, Node, Span, Step, Value, Window

Box = tuple[int, int, int, int]
"""A span as a plain tuple `(r0, r1, t0, t1)`: the search makes millions of them."""

NOTHING: Box = (0, 0, 0, 0)


def hull(a: Box, b: Box) -> Box:
    """The smallest box that holds both."""
    return min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3])


@dataclass(frozen=True)
class Iterations:
    """The iterations of one loop: which nodes run, on which boxes."""

    order: Sequence[int]
    """Nodes by number, in order of execution."""
    stored: Mapping[int, None]
    """Those whose results are stored."""
    boxes: Mapping[int, tuple[Box, ...]]
    axis: str
    mark: str
    """What is appended to the names of tensors that exist in this loop only."""
    first_rows: Value | None = None
    """A streamed tensor of which the first rows are stored: this loop reads or writes those."""
    continued: bool = False
    """Whether another loop before this one has begun the same results."""


def make_loop(nodes: Sequence[Node], run: Iterations, root: Callable[[Value], Value]) -> Loop:
    """The loop node of some iterations."""
    order = [i for i in run.order if any(b is not NOTHING for b in run.boxes[i])]
    made = {v.name: i for i in order for v in nodes[i].outputs if v.kind == "temp"}
    unread = dict.fromkeys(
        v.name
        for i in run.order
        if i not in run.stored
        for v in nodes[i].outputs
        if v.name not in made
    )
    """Tensors that a node names but of which no iteration reads anything (an input of a cat)."""

    def here(value: Value) -> Value:
        base = root(value)
        if run.first_rows is not None and base.name == run.first_rows.name:
            return replace(run.first_rows, shape=value.shape)
        if base.name in unread:
            return replace(value, name=base.name + run.mark)
        if base.name not in made:
            return value
        name = base.name if made[base.name] in run.stored else base.name + run.mark
        return replace(value, name=name)

    body: list[Step] = []
    windows: list[Window] = []
    inputs: dict[str, Value] = {}
    outputs: dict[str, Value] = {}
    for i in order:
        boxes = tuple(Span(*b) for b in run.boxes[i])
        ins = tuple(map(here, nodes[i].inputs))
        outs = tuple(map(here, nodes[i].outputs))
        for old, new in zip(nodes[i].inputs, ins, strict=True):
            stored = run.first_rows is not None and new.name == run.first_rows.name
            if root(old).name in unread and not stored:
                empty = Window(new, (Span(0, 0, 0, 0),) * len(boxes))
                windows += [] if empty in windows else [empty]
            elif root(old).name not in made:
                inputs[new.name] = new
        for v in outs:
            if i in run.stored or v == run.first_rows:
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
        (("continued", True),) if run.continued else (),
        axis="time" if run.axis == "time" else "rows",
        body=tuple(body),
        windows=tuple(windows),
    )


def window_peak(
    nodes: Sequence[Node],
    run: Iterations,
    sources: Callable[[int], tuple[int, ...]],
    item_bytes: Sequence[Sequence[int]],
    aligned: Callable[[int], int],
) -> int:
    """Most bytes of windows that are in use at one step of the body."""
    order = run.order
    inner = [i for i in order if i not in run.stored and not _is(nodes[i], run.first_rows)]
    position = {i: at for at, i in enumerate(order)}
    last = {i: position[i] for i in inner}
    for i in order:
        for j in sources(i):
            if j in last:
                last[j] = position[i]
    change = [0] * (len(order) + 1)
    for i in inner:
        rows = max(b[1] - b[0] for b in run.boxes[i])
        times = max(b[3] - b[2] for b in run.boxes[i])
        size = sum(aligned(n * rows * times) for n in item_bytes[i])
        change[position[i]] += size
        change[last[i] + 1] -= size
    most = now = 0
    for more in change:
        now += more
        most = max(most, now)
    return most


def _is(node: Node, value: Value | None) -> bool:
    return value is not None and any(v.name == value.name for v in node.outputs)
