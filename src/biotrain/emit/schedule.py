# SPDX-License-Identifier: Apache-2.0
"""Nodes as C: where values live, and one call per node."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from biotrain.emit.source import CTYPE, Source
from biotrain.ir import Node, Value
from biotrain.memory import Buffer
from biotrain.op import OPS, Call, Operand, rows_times


class Places:
    """C expressions of values in one function."""

    def __init__(self, source: Source, buffers: Sequence[Buffer]) -> None:
        self._source = source
        self._at = {m: b for b in buffers for m in b.members}

    def pointer(self, value: Value) -> str:
        """The expression that points at the tensor."""
        name = value.name
        if value.kind == "temp" or (value.kind == "input" and value.dtype == "f32"):
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

    def hint(self, node: Node) -> str:
        """A name for the geometry of a node: the module it stems from, or what it writes."""
        path = node.origin.rpartition(".")[2]
        return path if path.isidentifier() else node.outputs[0].name

    def offset(self, value: Value) -> int:
        """Byte offset in the arena."""
        return self._at[value.name].offset

    def declarations(self, nodes: Sequence[Node], inputs: Sequence[Value]) -> list[str]:
        """Pointers to the tensors of the arena that the nodes use, in order of offset."""
        used = {v.name: v for v in inputs if v.dtype == "f32"}
        used.update({v.name: v for n in nodes for v in n.outputs if v.kind == "temp"})
        lines = []
        for v in sorted(used.values(), key=lambda v: (self.offset(v), v.name)):
            offset, ctype = self.offset(v), CTYPE[v.dtype]
            cast = "" if v.dtype == "f32" else f"({ctype} *)"
            shape = " x ".join(map(str, v.shape))
            buffer = self._at[v.name]
            lines.append(
                f"  {ctype} *const {v.name} = {cast}&m->arena[{offset // 4}]; "
                f"/* {shape}; nodes {buffer.first} to {buffer.last} */"
            )
        return lines


class Shapes:
    """The geometry constants of a file: `static const bt_conv temporal_conv = {...};`."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, tuple[tuple[str, int | float], ...]], str] = {}
        self._taken: dict[str, None] = {}

    def name(self, call: Call, hint: str) -> str:
        """The constant that holds the geometry of a call, or the geometry itself if short."""
        if len(call.geometry) < 2:
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
        return lines


def literal(call: Call) -> str:
    """The geometry as a compound literal."""
    return f"({call.struct}){{{', '.join(f'.{k} = {v}' for k, v in call.geometry)}}}"


def wrap(text: str, first: str, rest: str) -> list[str]:
    """Break C text at 100 columns, between items and never inside one."""
    glued = text.replace(" = ", "\x00=\x00").replace(" */", "\x00*/")
    lines = fill(
        glued,
        width=100,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace("\x00", " ").split("\n")


def view(operand: Operand, node: Node, places: Places) -> str:
    """A kernel argument."""
    if operand.source == "null":
        return "NULL"
    value = (node.inputs if operand.source == "in" else node.outputs)[operand.index]
    pointer = places.pointer(value)
    if not operand.view:
        return pointer
    kind = "bt_read" if operand.source == "in" else "bt_write"
    return f"{kind}({pointer}, {rows_times(value.shape)[1]})"


def call_text(
    call: Call, geometry: str, box: str, arguments: Sequence[str], indent: str = "  "
) -> list[str]:
    """One kernel call, wrapped at 100 columns."""
    items = [geometry, box, *arguments, *call.extra]
    glued = [item.replace(" ", "\x00") for item in items]
    return wrap(f"{call.function}({', '.join(glued)});", indent, indent + "    ")


def node_text(node: Node, index: int, places: Places, shapes: Shapes) -> list[str]:
    """A node as C: a comment, and the call."""
    rule = OPS[node.op]
    shape = " x ".join(map(str, node.outputs[0].shape))
    origin = f"  [{node.origin}]" if node.origin else ""
    names = ", ".join(v.name for v in node.outputs)
    inputs = ", ".join(v.name for v in node.inputs)
    comment = f"/* {index}: {names} = {node.op}({inputs})  {shape}{origin} */"
    lines = wrap(comment, "  ", "   * ")
    if rule.alias:
        return lines
    if rule.accumulates:
        lines += [
            f"  memset({v.name}, 0, {v.size} * sizeof *{v.name});"
            for v in node.outputs
            if v.kind == "temp"
        ]
    call = rule.call(node)
    arguments = [view(o, node, places) for o in call.operands]
    hint = places.hint(node)
    rows, times = call.box
    return lines + call_text(call, shapes.name(call, hint), f"bt_all({rows}, {times})", arguments)
