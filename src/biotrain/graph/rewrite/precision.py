# SPDX-License-Identifier: Apache-2.0
"""Activations that the backward pass reads are stored in 16 bits. Algebraic: off by default.

    y = f(x); ... d = g_dx(y, dy)
    ->  y = f(x); h = to_fp16(y); ... d = g_dx(from_fp16(h), dy)

The forward pass goes on with the exact y, but for a node that must wait for a sum over y (a norm of
y, which needs its statistics): that one too reads h, so that y itself need not be stored, and
forward and backward agree on which side of a kink an element lies. Each reader converts for itself;
as any other tensor, h is stored or recomputed, as the plan has it.

By default those tensors are chosen that lie behind a norm: the scale and the offset of the others
are those of the recording, which 16 bits may not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from biotrain.errors import BioTrainError
from biotrain.ir.access import by_view
from biotrain.ir.graph import Graph, Node, Value, flat_nodes, verify
from biotrain.ir.op import OPS, Builder, rows_times
from biotrain.ops.half import EPS

SMALLEST_BYTES = 1024
"""Tensors of fewer bytes stay as they are."""

NORMS = ("norm_apply", "norm_relu_pool")
"""Ops whose result has a scale of its own, whatever that of the input."""


@dataclass(frozen=True, slots=True)
class Store:
    """A format, and which torch modules it is for."""

    half: str
    """`fp16` or `bf16`."""
    modules: str = ""
    """A glob of module paths; empty: whatever lies behind a norm."""


def parse_store(text: str) -> Store | None:
    """`float32` (None), `fp16`, `bf16`, or one of these with a glob: `fp16:block2.*`."""
    half, colon, modules = text.partition(":") if isinstance(text, str) else ("", "", "")
    if text == "float32":
        return None
    if half not in EPS or (colon and not modules):
        raise BioTrainError(
            f"what is stored is float32, fp16 or bf16, or fp16:GLOB of module paths, not '{text}'"
        )
    return Store(half, modules)


def keep_half(graph: Graph, loss: Value, store: Store) -> Graph:
    """Rewrite a differentiated graph; `loss` is where its forward pass ends.

    Raises BioTrainError where no module has a path as `store` names it.
    """
    end = next(i for i, node in enumerate(graph.nodes) if loss in node.outputs)
    paths = list(dict.fromkeys(node.origin for node in graph.nodes[:end] if node.origin))
    if store.modules and not any(fnmatchcase(path, store.modules) for path in paths):
        raise BioTrainError(
            f"store: no module's path matches '{store.modules}'; there are {', '.join(paths)}"
        )
    views = _views(graph)
    b = Builder("h", [v.name for v in graph.values()])
    halves: dict[str, Value] = {}
    """The 16-bit copy of a tensor, by the tensor's name."""
    half_readers: dict[int, dict[str, None]] = {}
    """Per node, the tensors of which it reads the 16-bit copy."""
    for value in _candidates(graph, end, store):
        readers = _readers(graph, value, end, views)
        if readers and all(_may_read(graph.nodes[j], value, views) for j in readers):
            halves[value.name] = b.value(f"{value.name}_{store.half}", value.shape, "i16")
            for j in readers:
                half_readers.setdefault(j, {})[value.name] = None
    nodes: list[Node] = []
    b.nodes = nodes
    for i, node in enumerate(graph.nodes):
        b.origin = node.origin
        inputs = _restored(b, node, half_readers.get(i, {}), halves, views, store.half)
        nodes.append(replace(node, inputs=inputs))
        for value in node.outputs:
            if value.name in halves:
                b.emit(f"to_{store.half}", [value], [halves[value.name]])
    result = graph.with_nodes(tuple(nodes))
    verify(result)
    return result


def _restored(
    b: Builder,
    node: Node,
    wanted: Mapping[str, None],
    halves: Mapping[str, Value],
    views: Mapping[str, Node],
    half: str,
) -> tuple[Value, ...]:
    """The inputs of a node: floats converted back from the tensors `wanted`, or views of these."""
    made: dict[str, Value] = {}

    def restored(value: Value) -> Value:
        if value.name not in made:
            view, hint = views.get(value.name), f"{value.name}_again"
            if view:
                source = restored(view.inputs[0])
                result = b.value(hint, value.shape)
                b.nodes.append(replace(view, inputs=(source,), outputs=(result,)))
            else:
                result = b.one(f"from_{half}", halves[value.name], hint=hint)
            made[value.name] = result
        return made[value.name]

    return tuple(restored(v) if _root(v, views).name in wanted else v for v in node.inputs)


def _views(graph: Graph) -> dict[str, Node]:
    """Values that are views, and the nodes that make them."""
    return {n.outputs[0].name: n for n in graph.nodes if OPS[n.op].alias}


def _root(value: Value, views: Mapping[str, Node]) -> Value:
    """The value that `value` is a view of."""
    while value.name in views:
        value = views[value.name].inputs[0]
    return value


def _candidates(graph: Graph, end: int, store: Store) -> list[Value]:
    """Tensors of the forward pass that may be stored in 16 bits."""
    raw = {graph.inputs[0].name: None}
    """Tensors that have the scale of the recording."""
    found = []
    for node in graph.nodes[:end]:
        raws = any(v.name in raw for v in node.inputs) and node.op not in NORMS
        raw.update(dict.fromkeys(v.name for v in node.outputs) if raws else {})
        chosen = fnmatchcase(node.origin, store.modules) if store.modules else not raws
        if chosen and not OPS[node.op].alias and not OPS[node.op].accumulates:
            found += [
                v
                for v in node.outputs
                if v.kind == "temp" and v.dtype == "f32" and v.nbytes >= SMALLEST_BYTES
            ]
    return found


def _readers(graph: Graph, value: Value, end: int, views: Mapping[str, Node]) -> list[int]:
    """Nodes that are to read the copy: those of the backward pass, and those before it that
    wait for a sum over the tensor; nothing where the backward pass does not read it."""
    found, backward = [], False
    reached = {value.name: None}
    summed: dict[str, None] = {}
    for i, node in enumerate(graph.nodes):
        names = dict.fromkeys(v.name for v in node.inputs)
        reads = any(_root(v, views) == value for v in node.inputs)
        if reads and node.outputs[0].name not in views:
            if i > end:
                backward = True
                found.append(i)
            elif any(name in summed for name in names):
                found.append(i)
        if any(name in reached for name in names):
            outputs = dict.fromkeys(v.name for v in node.outputs)
            reached.update(outputs)
            if OPS[node.op].accumulates or any(name in summed for name in names):
                summed.update(outputs)
    return found if backward else []


def _may_read(node: Node, value: Value, views: Mapping[str, Node]) -> bool:
    """Whether a window of the tensor at a time is enough for the node."""
    call = OPS[node.op].call(node)
    return all(
        by_view(node, call, v) and rows_times(v.shape) == rows_times(value.shape)
        for v in node.inputs
        if _root(v, views) == value
    )


def modules_of(graph: Graph) -> tuple[str, ...]:
    """Paths of the torch modules whose results are stored in 16 bits."""
    halves = (n for n in flat_nodes(graph.nodes) if n.op.startswith("to_") and n.op[3:] in EPS)
    return tuple(dict.fromkeys(n.origin for n in halves))


def in_words(graph: Graph, store: Store, stored_bytes: Mapping[str, int]) -> str:
    """What a planned graph stores in 16 bits; `stored_bytes`: bytes of all that it stores."""
    made = {n.outputs[0].name: n for n in flat_nodes(graph.nodes) if n.op == f"to_{store.half}"}
    stored: Sequence[Node] = [n for name, n in made.items() if name in stored_bytes]
    if not made:
        return f"stored as {store.half}: nothing; no large tensor behind a norm is read backwards"
    if not stored:
        return f"stored as {store.half}: nothing in this plan; what is recomputed is rounded alike"
    size = sum(stored_bytes[n.outputs[0].name] for n in stored)
    names = ", ".join(n.inputs[0].name for n in stored[:5])
    more = f" and {len(stored) - 5} more" if len(stored) > 5 else ""
    return (
        f"stored as {store.half}: {names}{more}, {size:,} B instead of {2 * size:,} B; rounding "
        f"{EPS[store.half]:.1g} of a value (biotrain verify tells what it does to the gradients)"
    )
