# SPDX-License-Identifier: Apache-2.0
"""The intermediate representation: values, nodes and graphs, immutable and in order.

A `Graph` is a list of nodes in execution order. A node reads values and writes values; what it
does is named by `op` and described by `attrs`. Shapes are those of torch, the leading batch axis
of one sample included, so that an axis number means the same here and in the user's model.

Values of kind `temp` are written once. Values of kind `state` (gradients, momentum, running
statistics) and `param` are buffers: several nodes may update them, in the order of the list.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal, TypeAlias

from biotrain.errors import GraphError

Kind = Literal["input", "param", "state", "const", "temp"]
DType = Literal["f32", "i32", "i16", "u8"]
Shape: TypeAlias = tuple[int, ...]
Attr: TypeAlias = int | float | bool | str | tuple[int, ...]

ITEM_BYTES: dict[str, int] = {"f32": 4, "i32": 4, "i16": 2, "u8": 1}


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor: its name is unique in a graph, its shape is torch's."""

    name: str
    shape: Shape
    dtype: DType = "f32"
    kind: Kind = "temp"
    stored_rows: int = 0
    """Where it is not 0, only so many of the first rows are stored."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tensor."""
        size = self.stored_rows * self.shape[-1] if self.stored_rows else self.size
        return size * ITEM_BYTES[self.dtype]

    @property
    def resident(self) -> bool:
        """Whether it is an input that lies in the arena; a label comes as an argument."""
        return self.kind == "input" and self.dtype != "i32"

    def __str__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. `origin` is the path of the torch module it stems from."""

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attrs: tuple[tuple[str, Attr], ...] = ()
    origin: str = ""

    def __getitem__(self, key: str) -> Attr:
        for name, value in self.attrs:
            if name == key:
                return value
        raise KeyError(f"{self.op} has no attribute '{key}'")

    def get(self, key: str, default: Attr) -> Attr:
        """The attribute `key`, or `default` where the node does not have it."""
        return next((value for name, value in self.attrs if name == key), default)

    def int(self, key: str) -> builtins.int:
        """The attribute `key` as an integer."""
        value = self[key]
        assert isinstance(value, builtins.int), (self.op, key, value)
        return value

    def ints(self, key: str) -> tuple[builtins.int, ...]:
        """The attribute `key` as a tuple of integers."""
        value = self[key]
        assert isinstance(value, tuple), (self.op, key, value)
        return value

    def float(self, key: str) -> builtins.float:
        """The attribute `key` as a float."""
        value = self[key]
        assert isinstance(value, (builtins.int, builtins.float)), (self.op, key, value)
        return builtins.float(value)

    def __str__(self) -> str:
        outs = ", ".join(str(v) for v in self.outputs)
        ins = ", ".join(str(v) for v in self.inputs)
        attrs = ", ".join(f"{k}={v}" for k, v in self.attrs)
        shape = " ".join("x".join(map(str, v.shape)) or "scalar" for v in self.outputs)
        origin = f"  # {self.origin}" if self.origin else ""
        return f"{outs} = {self.op}({ins}){' {' + attrs + '}' if attrs else ''} : {shape}{origin}"


@dataclass(frozen=True, slots=True)
class Span:
    """Rows `[r0, r1)` and times `[t0, t1)` of a tensor or of an iteration space, absolute."""

    r0: int
    r1: int
    t0: int
    t1: int

    @property
    def empty(self) -> bool:
        """Whether it has no element."""
        return self.r0 >= self.r1 or self.t0 >= self.t1

    @property
    def size(self) -> int:
        """Number of elements."""
        return 0 if self.empty else (self.r1 - self.r0) * (self.t1 - self.t0)

    def hull(self, other: Span) -> Span:
        """The smallest span that holds both."""
        if self.empty:
            return other
        if other.empty:
            return self
        return Span(
            min(self.r0, other.r0),
            max(self.r1, other.r1),
            min(self.t0, other.t0),
            max(self.t1, other.t1),
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One node of a loop's body and, per iteration, the box that it covers.

    Where the box is empty, the node does not run.
    """

    node: Node
    boxes: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """A value that exists inside a loop only, and which span of it is there in each iteration.

    Its buffer holds the largest span, row after row, `times` apart.
    """

    value: Value
    spans: tuple[Span, ...]

    @property
    def rows(self) -> int:
        """Rows of the buffer."""
        return max(s.r1 - s.r0 for s in self.spans)

    @property
    def times(self) -> int:
        """Samples of each of its rows."""
        return max(s.t1 - s.t0 for s in self.spans)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return self.rows * self.times * ITEM_BYTES[self.value.dtype]


@dataclass(frozen=True, slots=True)
class Loop(Node):
    """A node whose body is a graph that runs once per iteration, on a window of each tensor.

    `inputs` and `outputs` are the values that come from and go to the outside; `windows` are those
    that do not outlive an iteration. Sums (weight gradients, statistics) are outputs that are
    carried from one iteration to the next. Along `rows` every iteration writes rows of its own, so
    that iterations may run on several cores, each with buffers of its own for the windows; along
    `time` the sums go in order.
    """

    axis: Literal["rows", "time"] = "rows"
    body: tuple[Step, ...] = ()
    windows: tuple[Window, ...] = ()

    @property
    def count(self) -> int:
        """Number of iterations."""
        return len(self.body[0].boxes)

    @property
    def parallel(self) -> bool:
        """Whether iterations may run at the same time: no sum goes from one to the next."""
        return self.axis == "rows"

    def __str__(self) -> str:
        head = f"loop over {self.axis}, {self.count} iterations"
        sizes = {w.value.name: f"{w.rows}x{w.times}" for w in self.windows}
        lines = [
            f"  {step.node}"
            + "".join(f"  [{sizes[v.name]}]" for v in step.node.outputs if v.name in sizes)
            for step in self.body
        ]
        return "\n".join([head, *lines])


def flat_nodes(nodes: Iterable[Node]) -> Iterator[Node]:
    """The nodes, those inside loops in place of the loops."""
    for node in nodes:
        if isinstance(node, Loop):
            yield from (step.node for step in node.body)
        else:
            yield node


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in execution order.

    `inputs` are given by the caller, `outputs` are handed back, `params` are the model's parameters
    in torch's order, and `updates` are the nodes of the optimizer step.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    params: tuple[Value, ...] = ()
    states: tuple[Value, ...] = ()
    consts: tuple[Value, ...] = ()
    updates: tuple[Node, ...] = field(default=())

    def values(self) -> Iterator[Value]:
        """Every value once, in order of first appearance."""
        seen: dict[str, None] = {}
        roots = (*self.inputs, *self.params, *self.states, *self.consts)
        in_nodes = (v for n in (*self.nodes, *self.updates) for v in (*n.inputs, *n.outputs))
        for value in (*roots, *in_nodes):
            if value.name not in seen:
                seen[value.name] = None
                yield value

    def with_nodes(self, nodes: tuple[Node, ...]) -> Graph:
        """The same graph with other nodes."""
        return replace(self, nodes=nodes)

    def __str__(self) -> str:
        lines = [f"inputs  {', '.join(f'{v}: {list(v.shape)}' for v in self.inputs)}"]
        lines += [f"params  {', '.join(f'{v}: {list(v.shape)}' for v in self.params)}"]
        if self.states:
            lines += [f"states  {', '.join(f'{v}: {list(v.shape)}' for v in self.states)}"]
        lines += [str(node) for node in self.nodes]
        lines += [f"outputs {', '.join(map(str, self.outputs))}"]
        if self.updates:
            lines += ["updates", *[f"  {node}" for node in self.updates]]
        return "\n".join(lines)


def verify(graph: Graph) -> None:
    """Check the structure of a graph; raise `GraphError` with the offending node.

    Every name stands for one value, every value is defined before it is used, a temp is written
    exactly once, and a parameter is not read once it is updated: gradients, and activations that
    are recomputed for them, are those of one state of the model.
    """
    by_name: dict[str, Value] = {}

    def same(value: Value, where: str) -> None:
        known = by_name.setdefault(value.name, value)
        if known != value:
            raise GraphError(f"{where}: two values are called '{value.name}': {known} and {value}")

    for value in (*graph.inputs, *graph.params, *graph.states, *graph.consts):
        same(value, "graph")
    defined = dict.fromkeys(by_name)
    updated: dict[str, None] = {}
    for node in (*graph.nodes, *graph.updates):
        for value in node.inputs:
            same(value, str(node))
            if value.name in updated:
                raise GraphError(f"{value} is read after its update: {node}")
            if value.name not in defined:
                raise GraphError(f"{value} is used before it is defined: {node}")
        if isinstance(node, Loop):
            _verify_body(node)
        for value in node.outputs:
            same(value, str(node))
            begun = isinstance(node, Loop) and node.get("continued", False)
            if value.kind == "temp" and value.name in defined and not begun:
                raise GraphError(f"{value} is written twice: {node}")
            if value.kind in ("input", "const"):
                raise GraphError(f"{value} is read-only: {node}")
            if value.kind in ("param", "state") and value.name not in defined:
                raise GraphError(f"{value} is not declared in the graph: {node}")
            defined[value.name] = None
            if value.kind == "param":
                if isinstance(node, Loop):
                    raise GraphError(f"{value} is updated inside a loop: {node}")
                updated[value.name] = None
    for value in graph.outputs:
        if value.name not in defined:
            raise GraphError(f"output {value} is never written")


def _verify_body(loop: Loop) -> None:
    """Check that a body reads only inputs and what it computes before, and computes all outputs."""
    made = dict.fromkeys(v.name for v in loop.inputs)
    local = dict.fromkeys(w.value.name for w in loop.windows)
    outside = dict.fromkeys(v.name for v in loop.outputs)
    written = {w.value.name: None for w in loop.windows if all(s.empty for s in w.spans)}
    made.update(written)  # no element of these is read
    for step in loop.body:
        if len(step.boxes) != loop.count:
            raise GraphError(f"{step.node} does not say what it does in each iteration")
        for value in step.node.inputs:
            if value.name not in made:
                raise GraphError(f"{value} is used before it is defined: {step.node}")
        for value in step.node.outputs:
            if value.name not in local and value.name not in outside:
                raise GraphError(f"{value} is neither a window nor an output of its loop")
            made[value.name] = written[value.name] = None
    for name in (*local, *outside):
        if name not in written:
            raise GraphError(f"%{name} is never written in its loop")
