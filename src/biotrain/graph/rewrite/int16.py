# SPDX-License-Identifier: Apache-2.0
"""The input stays in the arena as the converter's int16: half the bytes. Keeps every bit.

    y = conv(x, w)  ->  y = conv_int16(q, w)                     where an op reads integers
    y = f(x)        ->  x = from_int16(q); y = f(x)              elsewhere

The value of a sample is by definition q times the scale in float32, which makes a package with a
float input that is fed these values the same to the bit. What `from_int16` makes is stored, or
recomputed in tiles, as the plan has it.
"""

from __future__ import annotations

from dataclasses import replace

from biotrain.graph.autodiff import prune
from biotrain.ir.graph import Graph, Node, Value, verify
from biotrain.ir.op import OPS, Builder
from biotrain.ops.int16 import reads_int16


def keep_int16(graph: Graph, scale: float) -> Graph:
    """Rewrite a finished graph whose first input is the window."""
    x = graph.inputs[0]
    q = replace(x, dtype="i16")
    b = Builder(taken=[v.name for v in graph.values()])
    floats = b.value(f"{x.name}_float", x.shape)
    nodes = [Node("from_int16", (q,), (floats,), (("scale", scale),))]
    integers: dict[str, Value] = {x.name: q}
    """The integer tensors of x and of its views, by the name of the float one."""

    for node in graph.nodes:
        source = integers.get(node.inputs[0].name) if node.inputs else None
        if source is not None and OPS[node.op].alias:
            (view,) = node.outputs
            integers[view.name] = b.value(f"{view.name}_int16", view.shape, "i16")
            nodes.append(replace(node, inputs=(source,), outputs=(integers[view.name],)))
        fused = reads_int16(node) if source is not None else None
        if source is not None and fused:
            attrs = tuple(sorted([*node.attrs, ("scale", scale)]))
            inputs = (source, *node.inputs[1:])
            nodes.append(replace(node, op=fused, inputs=inputs, attrs=attrs))
        else:
            inputs = tuple(floats if v == x else v for v in node.inputs)
            nodes.append(replace(node, inputs=inputs))
    result = prune(replace(graph, nodes=tuple(nodes), inputs=(q, *graph.inputs[1:])))
    verify(result)
    return result
