# SPDX-License-Identifier: Apache-2.0
"""Softmax over the last axis between two products of matrices, turned to columns. Algebraic.

    s = q k^T; p = softmax of s over its columns; y = p v
    ->  s^T = k q^T; p^T = softmax of s^T over its rows; y = (v^T p^T)^T

The sums of the softmax get another order. Rows of s become samples of time, so that everything from
the scores on, the gradients of k and v included, can run in tiles of rows of s: attention that is
written by hand is planned as `scaled_dot_product_attention` is. What stands between the product and
the softmax may scale, or add what is broadcast to the scores (a mask).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from biotrain.graph.autodiff import prune
from biotrain.graph.rewrite.match import Matcher
from biotrain.ir.graph import Attr, Graph, Node, Shape, Value
from biotrain.ir.op import Builder
from biotrain.ops.matmul import transposed
from biotrain.ops.shape import reshaped


@dataclass(frozen=True)
class _Match:
    """The nodes from one product to the other."""

    scores: Node
    between: tuple[Node, ...]
    """From the scores to the softmax, in order: views, scales, sums."""
    softmax: Node
    views: tuple[Node, ...]
    """From the softmax to the second product."""
    result: Node

    @property
    def old(self) -> tuple[Node, ...]:
        """The nodes that are replaced, by the order of the graph."""
        return (self.scores, *self.between, self.softmax, *self.views, self.result)


def columns(given: Graph, trained: Sequence[str]) -> Graph:
    """Rewrite a forward graph; what trains does not matter."""
    graph = prune(given)  # weights of attention that are returned and not used
    match = Matcher(graph)
    makers = {v.name: n for n in graph.nodes for v in n.outputs}
    found = [m for node in graph.nodes if (m := _find(match, makers, node))]
    if not found:
        return given
    ends = {m.result.outputs[0].name: m for m in found}
    gone = dict.fromkeys(id(node) for m in found for node in m.old)
    b = Builder(taken=[v.name for v in graph.values()])
    for node in graph.nodes:
        m = ends.get(node.outputs[0].name)
        if m is not None and node is m.result:
            b.origin = m.softmax.origin
            _emit(b, makers, m)
        elif id(node) not in gone:
            b.nodes.append(node)
    return replace(graph, nodes=tuple(b.nodes))


def is_product(node: Node | None) -> bool:
    """Whether a node is a convolution whose groups are products of computed matrices."""
    if node is None or node.op != "conv" or len(node.inputs) != 2:
        return False
    x, w = node.inputs
    plain = node.ints("stride") == (1, 1) and not any(node.ints("padding"))
    return plain and w.kind == "temp" and len(x.shape) == 3 and w.shape[-1] == 1


def _find(match: Matcher, makers: dict[str, Node], node: Node) -> _Match | None:
    """The products around a softmax over its last axis, if nobody else reads what lies between."""
    if node.op != "softmax" or node.int("axis") != len(node.inputs[0].shape) - 1:
        return None
    if len(node.inputs[0].shape) < 3:
        return None
    tail = node.inputs[0].shape[-2:]
    between: list[Node] = []
    at = makers.get(node.inputs[0].name)
    reader = node
    while at is not None and not is_product(at):
        value = at.outputs[0]
        first = at.inputs[0] if at.inputs else None
        if at.op not in ("reshape", "affine", "add", "add_broadcast") or first is None:
            return None
        if match.readers(value) != [reader] or value.shape[-2:] != tail:
            return None
        if at.op in ("add", "add_broadcast") and at.inputs[1].kind != "const":
            return None
        between.insert(0, at)
        reader, at = at, makers.get(first.name) if first.kind == "temp" else None
    if at is None or match.readers(at.outputs[0]) != [reader]:
        return None
    views: list[Node] = []
    value = node.outputs[0]
    while len(readers := match.readers(value)) == 1 and readers[0].op == "reshape":
        views.append(readers[0])
        value = readers[0].outputs[0]
    if len(readers) != 1 or not is_product(readers[0]) or readers[0].inputs[1] != value:
        return None
    m = _Match(at, tuple(between), node, tuple(views), readers[0])
    return m if _fits(m, tail) else None


def _fits(m: _Match, tail: Shape) -> bool:
    """Whether both products have the same batch, and the scores are the larger tensor."""
    groups = m.scores.int("groups")
    rows = m.scores.outputs[0].shape[1] // groups
    depth = m.scores.inputs[1].shape[1]
    return (
        groups == m.result.int("groups")
        and (rows, m.scores.outputs[0].shape[2]) == tail
        and tail[1] >= depth
    )


def _matrices(b: Builder, makers: dict[str, Node], x: Value, shape: Shape) -> Value:
    """`x` seen as matrices (batch, rows, columns), transposed: what it was made from, where it is
    itself a transposed tensor."""
    at = makers.get(x.name)
    while at is not None and at.op == "reshape":
        at = makers.get(at.inputs[0].name)
    if at is not None and at.op == "permute":
        dims, source = at.ints("dims"), at.inputs[0]
        rank = len(dims)
        last = dims == (*range(rank - 2), rank - 1, rank - 2)
        if last and at.outputs[0].shape[-2:] == shape[-2:] and source.kind == "temp":
            return reshaped(b, source, (shape[0], shape[2], shape[1]))
    return transposed(b, reshaped(b, x, shape))


def _emit(b: Builder, makers: dict[str, Node], m: _Match) -> None:
    """The nodes in columns; the last gives the result of the old ones."""
    groups = m.scores.int("groups")
    k, q = m.scores.inputs
    v, result = m.result.inputs[0], m.result.outputs[0]
    rows, depth, keys = q.shape[0] // groups, q.shape[1], k.shape[2]
    attrs: dict[str, Attr] = {**dict(m.scores.attrs), "groups": groups}
    q_t = reshaped(b, _matrices(b, makers, q, (groups, rows, depth)), (1, groups * depth, rows))
    k_t = reshaped(b, _matrices(b, makers, k, (groups, depth, keys)), (groups * keys, depth, 1))
    s = b.one("conv", q_t, k_t, hint="scores", **attrs)
    s = reshaped(b, s, (groups, keys, rows))
    for node in m.between:
        if node.op == "reshape":
            s = reshaped(b, s, (*node.outputs[0].shape[:-2], keys, rows))
        elif node.op == "affine":
            s = b.one("affine", s, hint="", **dict(node.attrs))
        else:
            mask = node.inputs[1]
            wide = (*(1,) * (2 - len(mask.shape)), *mask.shape)
            turned = transposed(b, reshaped(b, mask, wide))
            op = "add" if turned.shape == s.shape else "add_broadcast"
            s = b.one(op, s, turned, hint="", **dict(node.attrs))
    axis = len(s.shape) - 2
    p = b.one("softmax", s, hint="attention", axis=axis, causal=False)
    v_t = _matrices(b, makers, v, (groups, keys, v.shape[2]))
    y = b.one(
        "conv",
        reshaped(b, p, (1, groups * keys, rows)),
        reshaped(b, v_t, (groups * v.shape[2], keys, 1)),
        hint="",
        **attrs,
    )
    y = transposed(b, reshaped(b, y, (groups, v.shape[2], rows)))
    b.emit("reshape", [y], [result], shape=result.shape)
