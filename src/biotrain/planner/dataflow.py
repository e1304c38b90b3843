# SPDX-License-Identifier: Apache-2.0
"""What the planner asks of a graph: who computes a tensor, what a box of it reads, what it costs.

Nodes are called by their number in the graph. A view with the rows and times of its source has no
bytes of its own: `root` gives the value that it is a view of.
"""

from __future__ import annotations

from collections.abc import Callable

from biotrain.ir.access import by_view, call_of, reads
from biotrain.ir.graph import ITEM_BYTES, Graph, Node, Span, Value
from biotrain.ir.op import OPS, Call, rows_times
from biotrain.planner.loops import Box

SMALLEST_STREAMED_BYTES = 256
"""Tensors of fewer bytes are always stored: a window of one would save nothing."""


Cycles = Callable[[Node, Span], float | None]
"""Estimated cycles of a call of a node over a box; None where only its operations have a price."""


def no_cycles(node: Node, box: Span) -> None:
    """The cycles of a call where time is not modelled."""


def equal_price(op: str) -> float:
    """The price of an operation where none is better than another."""
    return 1.0


class Dataflow:
    """Facts about one graph, computed once."""

    def __init__(
        self,
        graph: Graph,
        price: Callable[[str], float] = equal_price,
        cycles: Cycles = no_cycles,
    ) -> None:
        """`price`: what an operation of an op costs, by default they are all worth the same;
        `cycles`: what a call costs, where that is known."""
        self.graph = graph
        self.nodes = graph.nodes
        self.calls: dict[Node, Call] = {}
        self.maker: dict[str, int] = {}
        """The node that computes a tensor, by the tensor's name."""
        self.base: dict[str, Value] = {}
        """The value that a view with the same rows and times is a view of."""
        self._cycles = cycles
        self._call_costs: dict[tuple[int, int, int, int], float | None] = {}
        self._price = [price(node.op) for node in graph.nodes]
        self._whole_ops: list[int] = []
        self._shared_ops: list[int] = []
        self._sizes: list[tuple[int, int]] = []
        self._sources: dict[int, tuple[int, ...]] = {}
        self._reads: dict[tuple[int, Box], tuple[tuple[str, Box], ...]] = {}
        for i, node in enumerate(self.nodes):
            self._add(i, node)
        self._order = [
            i
            for i, node in enumerate(self.nodes)
            if not (OPS[node.op].alias and node.outputs[0].name in self.base)
        ]
        """Nodes without the views that stand with their source."""
        self._item_bytes = [[ITEM_BYTES[v.dtype] for v in n.outputs] for n in self.nodes]
        self._updates = [any(v.kind == "param" for v in n.outputs) for n in self.nodes]
        self._states = [
            tuple(v.name for v in n.outputs if v.kind in ("state", "param")) for n in self.nodes
        ]
        self.streamable = self._find_streamable()
        self.loss_at = max(
            (self.maker[v.name] for v in graph.outputs if v.name in self.maker), default=-1
        )

    def _add(self, i: int, node: Node) -> None:
        """Note what a node computes, and its price."""
        for v in node.outputs:
            if v.kind == "temp":
                self.maker[v.name] = i
        rule = OPS[node.op]
        if rule.alias and rows_times(node.inputs[0].shape) == rows_times(node.outputs[0].shape):
            source = node.inputs[0]
            self.base[node.outputs[0].name] = self.base.get(source.name, source)
        self._sizes.append((0, 0) if rule.alias else call_of(node, self.calls).box)
        whole = Span(0, self._sizes[i][0], 0, self._sizes[i][1])
        cycles = None if rule.alias else self._call_cost(i, (0, whole.r1, 0, whole.t1))
        cost = rule.ops(node) * self._price[i] if cycles is None else cycles
        self._whole_ops.append(0 if rule.alias else round(cost))
        self._shared_ops.append(round(rule.shared_ops(node, whole) * self._price[i]))

    def _call_cost(self, i: int, box: Box) -> float | None:
        """Estimated cycles of a call of node i over a box; None where they are not known."""
        r0, r1, t0, t1 = box
        key = (i, r1 - r0, t0, t1)  # as many rows at the same times do the same work
        if key not in self._call_costs:
            self._call_costs[key] = self._cycles(self.nodes[i], Span(r0, r1, t0, t1))
        return self._call_costs[key]

    def root(self, value: Value) -> Value:
        """The value whose bytes `value` is another view of."""
        return self.base.get(value.name, value)

    def sources(self, i: int) -> tuple[int, ...]:
        """Nodes whose results node i reads, views looked through."""
        if i not in self._sources:
            found: dict[int, None] = {}
            for v in self.nodes[i].inputs:
                at = self.maker.get(self.root(v).name)
                if at is not None:
                    found[at] = None
            self._sources[i] = tuple(found)
        return self._sources[i]

    def _alias(self, i: int) -> bool:
        return OPS[self.nodes[i].op].alias

    def _find_streamable(self) -> tuple[int, ...]:
        """Nodes that need not be stored: all their results are read as windows only."""
        forced: dict[str, None] = dict.fromkeys(self.root(v).name for v in self.graph.outputs)
        for i, node in enumerate(self.nodes):
            if self._alias(i):
                if node.outputs[0].name not in self.base:  # other rows: the bytes must be there
                    forced[self.root(node.inputs[0]).name] = None
                continue
            call = call_of(node, self.calls)
            for v in node.inputs:
                if not by_view(node, call, v):
                    forced[self.root(v).name] = None
        found = []
        for i, node in enumerate(self.nodes):
            rule = OPS[node.op]
            if rule.alias or rule.accumulates:
                continue
            call = call_of(node, self.calls)
            if all(
                v.kind == "temp"
                and v.name not in forced
                and v.nbytes >= SMALLEST_STREAMED_BYTES
                and by_view(node, call, v)
                for v in node.outputs
            ):
                found.append(i)
        return tuple(found)

    def _reads_of(self, i: int, box: Box) -> tuple[tuple[str, Box], ...]:
        """The windows of tensors of other nodes that a box of node i reads, by name."""
        key = (i, box)
        if key not in self._reads:
            node = self.nodes[i]
            found: list[tuple[str, Box]] = []
            for index, span in reads(node, call_of(node, self.calls), Span(*box)):
                name = self.root(node.inputs[index]).name
                if name in self.maker and not span.empty:
                    found.append((name, (span.r0, span.r1, span.t0, span.t1)))
            self._reads[key] = tuple(found)
        return self._reads[key]
