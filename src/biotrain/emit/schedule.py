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
            if name.startswith("g_"):
                return f"m->g.{name.removeprefix('g_')}"
            slots = [s for s in self._source.optimizer.slots if name.startswith(f"{s}_")]
            if slots and name.removeprefix(f"{slots[0]}_") in self._source.trained:
                return f"m->{slots[0]}.{name.removeprefix(slots[0] + '_')}"
            return f"m->s.{name}"
        if value.kind == "param" and name in self._source.trained:
            return f"m->p.{name}"
        return f"bt_w_{name}"

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


def view(operand: Operand, node: Node, places: Places) -> str:
    """A kernel argument."""
    if operand.source == "null":
        return "NULL"
    value = (node.inputs if operand.source == "in" else node.outputs)[operand.index]
    pointer = places.pointer(value)
    if not operand.view:
        return pointer
    kind = "bt_in" if operand.source == "in" else "bt_out"
    return f"({kind}){{{pointer}, {rows_times(value.shape)[1]}, 0, 0}}"


def call_text(call: Call, box: str, arguments: Sequence[str], indent: str = "  ") -> str:
    """One kernel call, wrapped at 100 columns."""
    geometry = ", ".join(f".{k} = {v}" for k, v in call.geometry)
    items = [f"({call.struct}){{{geometry}}}", box, *arguments, *call.extra]
    text = fill(
        f"{call.function}({', '.join(items)});",
        width=100,
        initial_indent=indent,
        subsequent_indent=indent + "    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return text


def node_text(node: Node, index: int, places: Places) -> list[str]:
    """A node as C: a comment, and the call."""
    rule = OPS[node.op]
    shape = " x ".join(map(str, node.outputs[0].shape))
    origin = f"  [{node.origin}]" if node.origin else ""
    names = ", ".join(v.name for v in node.outputs)
    inputs = ", ".join(v.name for v in node.inputs)
    lines = [f"  /* {index}: {names} = {node.op}({inputs})  {shape}{origin} */"]
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
    lines.append(call_text(call, f"(bt_box){{0, {call.box[0]}, 0, {call.box[1]}}}", arguments))
    return lines
