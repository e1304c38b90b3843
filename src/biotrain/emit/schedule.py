# SPDX-License-Identifier: Apache-2.0
"""Nodes as C: where values lie, and one call per node."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from biotrain.emit.routines import Routines
from biotrain.emit.source import CTYPE, Source
from biotrain.emit.team import Printed, clear_by_one, share_call
from biotrain.emit.text import wrap
from biotrain.ir.graph import Loop, Node, Span, Step, Value, Window, flat_nodes
from biotrain.ir.op import OPS, Call, Operand, rows_times
from biotrain.planner.place import L1, Buffer
from biotrain.planner.team import Team
from biotrain.writing.text import comment, identifier


class Places:
    """C expressions of values in one function."""

    def __init__(
        self,
        source: Source,
        buffers: Sequence[Buffer],
        tables: dict[tuple[int, ...], str] | None = None,
        arena: str = "arena",
    ) -> None:
        self._source = source
        self._arena = arena
        self.tables: dict[tuple[int, ...], str] = {} if tables is None else tables
        self._at = {m: b for b in buffers for m in b.members}

    def pointer(self, value: Value) -> str:
        """The expression that points at the tensor."""
        name = value.name
        if value.kind == "temp" or value.resident:
            return name
        if value.kind == "input":
            return f"&{name}"
        if value.kind == "state":
            for prefix, member in (("g_", "g"), *((f"{t}_", t) for t in self._source.slots)):
                if name.removeprefix(prefix) in self._source.trained and name.startswith(prefix):
                    return f"m->{member}.{name.removeprefix(prefix)}"
            return f"m->s.{name}"
        if value.kind == "param" and name in self._source.trained:
            return f"m->p.{name}"
        return f"bt_w_{name}"

    def index(self, numbers: Sequence[int]) -> str:
        """A number that depends on the iteration `i`: an expression, or an entry of a table."""
        text = affine(numbers)
        if text is not None:
            return text
        key = tuple(numbers)
        name = self.tables.setdefault(key, f"bt_index_{len(self.tables)}")
        return f"{name}[i]"

    def hint(self, node: Node) -> str:
        """A name for the geometry of a node: the module it stems from, or what it writes."""
        path = identifier(node.origin.rpartition(".")[2])
        return path if path and not path[0].isdigit() else node.outputs[0].name

    def offset(self, value: Value) -> int:
        """Byte offset in the arena."""
        return self._at[value.name].offset

    def declarations(self, nodes: Sequence[Node], inputs: Sequence[Value]) -> list[str]:
        """Pointers to the tensors of the arena that the nodes use, in order of offset."""
        used = {v.name: v for v in inputs if v.resident}
        used.update({v.name: v for n in nodes for v in n.outputs if v.kind == "temp"})
        for name in self._renamed(nodes):
            used.pop(name, None)
        used = {name: v for name, v in used.items() if not self.outside(v)}
        return [
            self.declaration(v, "x".join(map(str, v.shape)).replace("x", " x "))
            for v in sorted(used.values(), key=lambda v: (self.offset(v), v.name))
        ]

    def _renamed(self, nodes: Sequence[Node]) -> list[str]:
        """Names of tensors that no call takes: an alias of them does, under another name."""
        source = self._source
        last = [*source.train.outputs, *source.predict.outputs]
        last += source.features.values if source.features else ()
        alias = [n for n in nodes if not isinstance(n, Loop) and OPS[n.op].alias]
        calls = [n for n in nodes if isinstance(n, Loop) or not OPS[n.op].alias]
        taken = {v.name: None for n in flat_nodes(calls) for v in n.inputs}
        taken |= {v.name: None for v in last}
        read = {v.name: None for n in alias for v in n.inputs}
        made = [v.name for n in alias for v in n.outputs]
        return [name for name in made if name in read and name not in taken]

    def outside(self, value: Value) -> bool:
        """Whether something else declares the value."""
        return False

    def declaration(self, value: Value, shape: str) -> str:
        """A pointer to a tensor of the arena."""
        offset, ctype = self.offset(value), CTYPE[value.dtype]
        cast = "" if value.dtype == "f32" else f"({ctype} *)"
        buffer = self._at[value.name]
        memory = "bt_l1" if buffer.memory == L1 else f"m->{self._arena}"
        return (
            f"  {ctype} *const {value.name} = {cast}&{memory}[{offset // 4}]; "
            f"/* {shape}; steps {buffer.first} to {buffer.last} */"
        )


def affine(numbers: Sequence[int]) -> str | None:
    """`numbers[i]` as an expression in i: constant, linear, or linear within bounds."""
    n, first = len(numbers), numbers[0]
    if all(x == first for x in numbers):
        return str(first)
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    step = max(steps, key=lambda s: (steps.count(s), s))
    at = steps.index(step)
    shift = numbers[at] - step * at
    low, high = min(numbers), max(numbers)
    line = "i" if step == 1 else f"{step} * i"
    text = line + (f" + {shift}" if shift > 0 else f" - {-shift}" if shift < 0 else "")
    exact = [step * i + shift for i in range(n)]
    if exact == list(numbers):
        return text
    if [max(x, low) for x in exact] == list(numbers):
        return f"bt_max({text}, {low})"
    if [min(x, high) for x in exact] == list(numbers):
        return f"bt_min({text}, {high})"
    if [min(max(x, low), high) for x in exact] == list(numbers):
        return f"bt_min(bt_max({text}, {low}), {high})"
    return None


class Shapes:
    """The geometry constants of a file: `static const bt_conv temporal_conv = {...};`."""

    def __init__(self, routines: Routines | None = None) -> None:
        self.routines = routines
        """The functions that calls share; None: every call is its own."""
        self._names: dict[tuple[str, tuple[tuple[str, int | float | str], ...]], str] = {}
        self._taken: dict[str, None] = {}
        self.tables: dict[tuple[int, ...], str] = {}
        """Numbers per iteration of a loop that are no simple expression, and their arrays."""

    def name(self, call: Call, hint: str) -> str:
        """The constant that holds the geometry of a call, or the geometry itself if short."""
        if len(call.geometry) < 2 or any(isinstance(v, str) for _, v in call.geometry):
            return literal(call)
        key = (call.struct, call.geometry)
        if key not in self._names:
            family = call.struct.removeprefix("bt_")
            base = hint if hint.endswith(family) else f"{hint}_{family}"
            name, i = f"k_{base}", 1
            while name in self._taken:
                i += 1
                name = f"k_{base}_{i}"
            self._taken[name] = None
            self._names[key] = name
        return self._names[key]

    def lines(self) -> list[str]:
        """The definitions, in order of first use."""
        lines: list[str] = []
        for (struct, geometry), name in self._names.items():
            fields = ", ".join(f".{k} = {v}" for k, v in geometry)
            lines += wrap(f"static const {struct} {name} = {{{fields}}};", "", "    ")
        for numbers, name in self.tables.items():
            text = ", ".join(map(str, numbers))
            lines += wrap(f"static const int {name}[{len(numbers)}] = {{{text}}};", "", "    ")
        return lines


def shared_text(
    shapes: Shapes,
    call: Call,
    geometry: str,
    box: str,
    arguments: Sequence[str],
    indent: str = "  ",
) -> list[str]:
    """The call of a node, or of a function that several nodes share."""
    if shapes.routines is None:
        return call_text(call, geometry, box, arguments, indent)
    name, items = shapes.routines.call(call, geometry, box, arguments)
    return items_text(name, items, indent)


def literal(call: Call) -> str:
    """The geometry as a compound literal."""
    return f"({call.struct}){{{', '.join(f'.{k} = {v}' for k, v in call.geometry)}}}"


def view(operand: Operand, node: Node, places: Places, windows: Mapping[str, Window] = {}) -> str:
    """A kernel argument; a value of a loop is a window that moves with the iteration."""
    if operand.source == "null":
        return "NULL"
    value = (node.inputs if operand.source == "in" else node.outputs)[operand.index]
    pointer = places.pointer(value)
    if not operand.view:
        return pointer
    kind = "bt_read" if operand.source == "in" else "bt_write"
    kind += {"u8": "8", "i16": "16"}.get(value.dtype, "")
    window = windows.get(value.name)
    if window is None:
        return f"{kind}({pointer}, {rows_times(value.shape)[1]})"
    row = places.index([s.r0 for s in window.spans])
    time = places.index([s.t0 for s in window.spans])
    if row == time == "0":
        return f"{kind}({pointer}, {window.times})"
    return f"{kind}_at({pointer}, {window.times}, {row}, {time})"


def call_text(
    call: Call, geometry: str, box: str, arguments: Sequence[str], indent: str = "  "
) -> list[str]:
    """One kernel call, wrapped at 100 columns."""
    return items_text(call.function, [geometry, box, *arguments, *call.extra], indent)


def items_text(function: str, items: Sequence[str], indent: str) -> list[str]:
    """A call in C, wrapped between its arguments."""
    glued = [item.replace(" ", "\x00") for item in items]
    return wrap(f"{function}({', '.join(glued)});", indent, indent + "    ")


def _comment(node: Node, number: str, share: str = "") -> str:
    shape = " x ".join(map(str, node.outputs[0].shape))
    origin = f"  [{comment(node.origin)}]" if node.origin else ""
    names = ", ".join(v.name for v in node.outputs)
    inputs = ", ".join(v.name for v in node.inputs)
    return f"/* {number}{names} = {node.op}({inputs})  {share}{shape}{origin} */"


def _cleared(node: Node) -> list[str]:
    """Sums that do not lie in the context start at zero."""
    if not OPS[node.op].accumulates:
        return []
    return [
        f"  memset({v.name}, 0, {v.size} * sizeof *{v.name});"
        for v in node.outputs
        if v.kind == "temp"
    ]


def node_text(
    node: Node, index: int, places: Places, shapes: Shapes, team: Team | None = None
) -> list[str]:
    """A node as C: a comment, and the call; a loop with its body. team: where workers share it."""
    if isinstance(node, Loop):
        return _loop_text(node, index, places, shapes, team)
    rule = OPS[node.op]
    lines = wrap(_comment(node, f"{index}: "), "  ", "   * ")
    if rule.alias:
        return lines
    call = rule.call(node)
    arguments = [view(o, node, places) for o in call.operands]
    rows, times = call.box
    box = f"bt_all({rows}, {times})"
    if team is None:
        name = shapes.name(call, places.hint(node))
        text = shared_text(shapes, call, name, box, arguments)
        return [*lines, *_cleared(node), *text]
    lines += clear_by_one(team, index, -1, _cleared(node))
    printed = _printer(node, call, places, shapes)
    at = (index, -1)
    return [*lines, *share_call(team, at, node, call, box, arguments, _cleared(node), printed)]


def _printer(node: Node, call: Call, places: Places, shapes: Shapes) -> Printed:
    """Prints the call of a node with a box, arguments and a geometry of a worker."""

    def printed(box: str, arguments: Sequence[str], geometry: str | None) -> list[str]:
        name = shapes.name(call, places.hint(node)) if geometry is None else geometry
        return shared_text(shapes, call, name, box, arguments)

    return printed


def loop_title(loop: Loop) -> str:
    """What a fused loop runs over, and how often."""
    if loop.count == 1:
        return "fused"
    if loop.axis == "rows":
        return f"fused loop over rows, {loop.count} iterations"
    return f"fused loop over time, {loop.count} tiles"


def _loop_text(
    loop: Loop, index: int, places: Places, shapes: Shapes, team: Team | None
) -> list[str]:
    names = ", ".join(v.name for v in loop.outputs)
    windows = {w.value.name: w for w in loop.windows}
    lines = wrap(f"/* {index}: {loop_title(loop)}: {names} */", "  ", "   * ")
    for j, step in enumerate(loop.body if not loop.get("continued", False) else ()):
        cleared = _cleared(step.node)
        lines += clear_by_one(team, index, j, cleared) if team else cleared
    lines += [f"  for (int i = 0; i < {loop.count}; i++) {{" if loop.count > 1 else "  {"]
    lines += [
        "  " + places.declaration(w.value, f"{w.rows} x {w.times} at a time") for w in loop.windows
    ]
    for j, step in enumerate(loop.body):
        at = (index, j)
        lines += ["  " + line for line in _step_text(step, places, shapes, windows, team, at)]
    return [*lines, "  }"]


def _step_text(
    step: Step,
    places: Places,
    shapes: Shapes,
    windows: Mapping[str, Window],
    team: Team | None = None,
    at: tuple[int, int] = (0, 0),
) -> list[str]:
    node, call = step.node, OPS[step.node.op].call(step.node)
    lines = wrap(_comment(node, "", "tile of "), "  ", "   * ")
    arguments = [view(o, node, places, windows) for o in call.operands]
    box = _box(step.boxes, places)
    printed = _printer(node, call, places, shapes)
    if team is None:
        text = printed(box, arguments, None)
    else:
        text = share_call(team, at, node, call, box, arguments, (), printed)
    active = [not b.empty for b in step.boxes]
    if all(active):
        return [*lines, *text]
    condition = f"{places.index([int(a) for a in active])}"
    if active == sorted(active, reverse=True):
        condition = f"i < {active.count(True)}"
    return [*lines, f"  if ({condition}) {{", *("  " + line for line in text), "  }"]


def _box(boxes: Sequence[Span], places: Places) -> str:
    """The box of a call in iteration i."""
    filled = [b if not b.empty else None for b in boxes]
    known = next(b for b in filled if b is not None)
    spans: list[Span] = []
    for b in filled:  # an iteration without work repeats its neighbour: nobody reads it
        known = b or known
        spans.append(known)
    ends = [
        places.index(numbers)
        for numbers in (
            [s.r0 for s in spans],
            [s.r1 for s in spans],
            [s.t0 for s in spans],
            [s.t1 for s in spans],
        )
    ]
    return f"bt_part({', '.join(ends)})"
