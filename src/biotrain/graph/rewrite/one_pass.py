# SPDX-License-Identifier: Apache-2.0
"""The weight gradient of a conv under a norm, accumulated while the norm's upstream gradient is
made. Algebraic: rounding changes.

    sums = norm_sums(y, stats, d); means = group_sums(sums, gamma)
    dy = norm_dx(y, stats, means, d, gamma); dw += conv_dw(x, dy); db += conv_db(dy)
    ->  raw = centred_dw(x, d, pairs); sums = mix_sums(raw, ...); means as before
        dw += mix_dw(raw, means, ...); db += mix_db(raw, means, ...)

where y = conv(x, w[, b]) mixes the rows of x at one time and no other gradient needs dy. Neither y
nor a second pass over d is needed. Under `norm_relu_pool` d = active ds, and the sums come from
windows already. Applied where it is no more work, the pair moments of x included where they are
not there yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from biotrain.graph.cost import node_ops
from biotrain.graph.rewrite.match import Matcher
from biotrain.graph.rewrite.moments import emit_pairs, mixes_rows
from biotrain.ir.graph import Attr, Graph, Node, Value
from biotrain.ir.op import Builder


@dataclass(frozen=True)
class _Match:
    """The backward of one norm and of the conv before it."""

    conv: Node
    moments: Value
    """Row moments of y."""
    sums: Node | None
    """`norm_sums`; None where the sums come from windows."""
    dx: Node
    """`norm_dx` or `norm_relu_pool_dx`."""
    gradients: tuple[Node, ...]
    """`conv_dw` and `conv_db`."""

    @property
    def old(self) -> tuple[Node, ...]:
        """The nodes that are replaced."""
        return (*((self.sums,) if self.sums else ()), self.dx, *self.gradients)


def one_pass(graph: Graph) -> Graph:
    """Rewrite a differentiated graph where that takes no more operations."""
    match = Matcher(graph)
    pairs: dict[str, Value] = {}
    for node in graph.nodes:
        sums = match.maker(node.inputs[0], "pair_sums") if node.op == "pair_moments" else None
        if sums:
            pairs[sums.inputs[0].name] = node.outputs[0]
    b = Builder("d", [v.name for v in graph.values()])
    changed: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        found = _find(match, node)
        if found and _worth(found, pairs):
            changed.update(_rewrite(b, found, pairs))
    nodes = tuple(new for node in graph.nodes for new in changed.get(node, [node]))
    return replace(graph, nodes=nodes)


def _find(match: Matcher, dx: Node) -> _Match | None:
    """The nodes of the gradient of a norm's input, if all of them can be replaced."""
    if dx.op not in ("norm_dx", "norm_relu_pool_dx") or dx.get("each", False):
        return None
    y, stats, means, d = dx.inputs[:4]
    conv, group = match.maker(y, "conv"), match.maker(stats, "group_stats")
    if conv is None or group is None or not mixes_rows(conv):
        return None
    readers = match.readers(dx.outputs[0])
    if [r.op for r in readers] not in (["conv_dw"], ["conv_dw", "conv_db"]):
        return None
    sums = None
    if dx.op == "norm_dx":
        weighed = match.maker(means, "group_sums")
        sums = weighed and match.maker(weighed.inputs[0], "norm_sums")
        if sums is None or sums.inputs != (y, stats, d):
            return None
    if readers[0].inputs[0] != conv.inputs[0]:
        return None
    return _Match(conv, group.inputs[0], sums, dx, tuple(readers))


def _rewrite(b: Builder, m: _Match, pairs: dict[str, Value]) -> dict[Node, list[Node]]:
    """The new nodes by the old ones; they include the pair moments of x where there are none."""
    changed: dict[Node, list[Node]] = {node: [] for node in m.old}

    def at(node: Node) -> None:
        b.nodes = changed.setdefault(node, [])
        b.origin = node.origin

    x, w = m.conv.inputs[:2]
    y, stats, means, d, *affine = m.dx.inputs
    gamma = affine
    sizes: dict[str, Attr] = {"times": y.shape[-1], "groups": stats.shape[0]}
    if x.name not in pairs:
        at(m.conv)
        pairs[x.name] = emit_pairs(b, x)
        b.nodes.append(m.conv)
    pair = pairs[x.name]
    at(m.sums or m.dx)
    if m.sums is None:  # ds holds gamma
        hint = f"d_{m.dx.inputs[0].name}"
        attrs = dict(m.dx.attrs)
        d, gamma = b.one("norm_relu_unpool", y, stats, d, *affine, hint=hint, **attrs), []
    raw = b.one("centred_dw", x, d, pair, hint=f"raw_{w.name}")
    if m.sums:
        b.emit("mix_sums", [raw, pair, w, m.moments, stats], m.sums.outputs, "", **sizes)
    for node in m.gradients:
        at(node)
        rest = [m.moments, stats, means, *gamma]
        if node.op == "conv_dw":
            b.emit("mix_dw", [raw, pair, w, *rest], node.outputs, "", w_shape=w.shape, **sizes)
        else:
            b.emit("mix_db", [raw, *rest], node.outputs, "", **sizes)
    return changed


def _worth(m: _Match, pairs: dict[str, Value]) -> bool:
    """Whether it takes no more operations than it saves."""
    new = _rewrite(Builder(), m, dict(pairs))
    old = [node for node in (m.conv, *m.old) if node in new]
    return node_ops([n for nodes in new.values() for n in nodes]) <= node_ops(old)
