# SPDX-License-Identifier: Apache-2.0
"""Streaming: tensors that are not stored are recomputed, window by window, where they are needed.

Every node is either *stored* (its result lies whole in the arena) or *streamed* (its result lives
in a window inside the fused loops that need it). Given the streamed nodes, the stored ones fall
into *groups*: a stored node joins an earlier group with whose streamed nodes it shares the most
work, if all that it needs whole is complete before that group. A group becomes a fused loop over
rows or over tiles of time, or a block of plain nodes (`fused.py`).

All of it is neutral: a recomputed window has the bits of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from biotrain.ir.access import by_view, call_of
from biotrain.ir.graph import Graph, Node
from biotrain.ir.op import OPS
from biotrain.planner.dataflow import Cycles, equal_price, no_cycles
from biotrain.planner.fused import FusedLoop, FusedLoops, Group

__all__ = ["Stream", "equal_price"]


class Stream(FusedLoops):
    """The groups of one graph for any choice of streamed nodes, and the planned graph."""

    def __init__(
        self,
        graph: Graph,
        price: Callable[[str], float] = equal_price,
        cycles: Cycles = no_cycles,
    ) -> None:
        super().__init__(graph, price, cycles)
        self._by_tiles: dict[int, bool] = {}

    def groups(self, streamed: Sequence[bool]) -> list[Group]:
        """The groups of a choice, in order of execution. `streamed`: per node, whether it is."""
        stored: list[list[int]] = []
        needed: list[dict[int, None]] = []
        where: dict[int, int] = {}
        writers: dict[str, int] = {}
        updates: list[int] = []
        holders: dict[int, list[int]] = {}  # streamed node -> groups that need it
        ready: dict[int, int] = {}  # streamed node -> first group in which what it needs is there
        behind: dict[int, dict[int, None]] = {}  # streamed node -> it, and those that it needs
        for i in self._order:
            if self._updates[i] and not streamed[i]:
                updates.append(i)
                continue
            first = 0
            needs: dict[int, None] = {}
            for j in self.sources(i):
                if streamed[j]:
                    first = max(first, ready[j])
                    needs.update(behind[j])
                else:
                    first = max(first, where[j] + (0 if self._read_by_tiles(j) else 1))
            for name in self._states[i]:
                first = max(first, writers.get(name, -1) + 1, where.get(self.loss_at, -1) + 1)
            if streamed[i]:
                ready[i] = first
                needs[i] = None
                behind[i] = needs
                continue
            best, chosen = 0, -1
            shares: dict[int, int] = {}
            for j in needs:
                for p in holders.get(j, ()):
                    if p >= first:
                        shares[p] = shares.get(p, 0) + self._whole_ops[j]
            for p in sorted(shares):
                if shares[p] > best and self._fits(stored[p], needed[p], i, needs):
                    best, chosen = shares[p], p
            if chosen < 0:
                stored.append([])
                needed.append({})
                chosen = len(stored) - 1
            stored[chosen].append(i)
            for j in needs:
                if j not in needed[chosen]:
                    holders.setdefault(j, []).append(chosen)
            needed[chosen].update(needs)
            where[i] = chosen
            for name in self._states[i]:
                writers[name] = chosen
        made = [_group(s, n) for s, n in zip(stored, needed, strict=True)]
        return self._with_updates(made, where, updates) if updates else made

    def _with_updates(
        self, groups: list[Group], where: dict[int, int], updates: Sequence[int]
    ) -> list[Group]:
        """The groups with the updates of parameters among them, each as early as it may run.

        An update waits for its gradient and for every group that reads the parameter, those that
        recompute with it included; `ir.verify` refuses a graph that does otherwise.
        """
        behind: dict[int, list[Group]] = {}
        for i in sorted(updates, key=self._last_wait):
            params = dict.fromkeys(v.name for v in self.nodes[i].outputs if v.kind == "param")
            at = max((where[j] for j in self.sources(i)), default=0)
            for p, group in enumerate(groups):
                if any(v.name in params for k in group.order for v in self.nodes[k].inputs):
                    at = max(at, p)
            behind.setdefault(at, []).append(Group((i,), ()))
        return [q for p, group in enumerate(groups) for q in (group, *behind.get(p, ()))]

    def _last_wait(self, update: int) -> int:
        """The last node of the graph that an update waits for: updates keep that order."""
        params = dict.fromkeys(v.name for v in self.nodes[update].outputs if v.kind == "param")
        waits = [self.maker.get(v.name, 0) for v in self.nodes[update].inputs if v.kind == "temp"]
        for i, node in enumerate(self.nodes):
            if not self._updates[i] and any(v.name in params for v in node.inputs):
                waits.append(i)
        return max(waits, default=0)

    def _read_by_tiles(self, j: int) -> bool:
        """Whether tiles of the result of node j can be read before it is complete."""
        if j not in self._by_tiles:
            node = self.nodes[j]
            whole = self._alias(j) or OPS[node.op].accumulates
            self._by_tiles[j] = not whole and all(
                by_view(node, call_of(node, self.calls), v) for v in node.outputs
            )
        return self._by_tiles[j]

    def _fits(
        self, stored: Sequence[int], needed: dict[int, None], i: int, needs: dict[int, None]
    ) -> bool:
        """Whether node i can join a group (`stored`, `needed`) without costing it its loop."""
        together = self.loops(_group((*stored, i), {**needed, **needs}))
        if any(f.axis != "whole" for f in together):
            return True
        before = self.loops(_group(stored, needed))
        alone = self.loops(_group((i,), needs))
        return all(f.axis == "whole" for f in (*before, *alone))

    def assemble(self, loops: Sequence[FusedLoop]) -> Graph:
        """The nodes of the chosen loops in order; views stand behind what they are views of."""
        nodes: list[Node] = []
        views: dict[str, list[Node]] = {}
        for i, node in enumerate(self.nodes):
            if self._alias(i) and node.outputs[0].name in self.base:
                views.setdefault(self.root(node.inputs[0]).name, []).append(node)
        for v in self.graph.inputs:
            nodes += views.pop(v.name, [])
        for loop in loops:
            for node in self.nodes_of(loop):
                nodes.append(node)
                for v in node.outputs:
                    nodes += views.pop(v.name, [])
        return self.graph.with_nodes(tuple(nodes))


def _group(stored: Sequence[int], streamed: dict[int, None]) -> Group:
    return Group(tuple(sorted(stored)), tuple(sorted(streamed)))
