# SPDX-License-Identifier: Apache-2.0
"""The cost of a choice: operations exactly, memory nearly (`place` says the last word)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from biotrain.ir.graph import Loop
from biotrain.ir.op import OPS, rows_times
from biotrain.planner.fused import FusedLoop, Group
from biotrain.planner.place import aligned, follows
from biotrain.planner.stream import Stream

UNBOUNDED = 1 << 62
"""A budget in bytes that every choice stays within."""

MOST_CHOICES = 8000
"""Most choices that are weighed for one budget."""

LARGE_GRAPH_TENSORS = 40
"""In a graph with more streamable tensors fewer choices are weighed, for each takes longer: the
number falls with the square of the tensors."""

Streaming = tuple[bool, ...]
"""A choice: per node, True where its result is streamed and False where it is stored."""


@dataclass(frozen=True, slots=True)
class Structure:
    """What follows from a choice before any budget is known."""

    groups: tuple[Group, ...]
    stored_bytes: tuple[int, ...]
    """Bytes of the stored tensors in use in each group."""
    overwrites: tuple[tuple[tuple[str, str], ...], ...]
    """Per group: pairs (tensor read last, tensor written first) of one size, which may share."""
    first: dict[str, int]
    """The group that writes a stored tensor."""
    last: dict[str, int]
    """The group that reads it last."""


@dataclass(frozen=True, slots=True)
class Score:
    """The cost of a choice under a budget."""

    streaming: Streaming
    over: int
    """Bytes above the budget, summed over the groups."""
    peak: int
    """Bytes of the fullest group."""
    ops: int
    groups: tuple[Group, ...]
    loops: tuple[FusedLoop, ...]
    rows: tuple[int, int] | None = None
    """A streamed node, and how many rows of its result are stored all the same."""

    @property
    def rank(self) -> tuple[int, int, int]:
        """The lower the better: bytes above the budget, then operations, then the peak."""
        return self.over, self.ops, self.peak


class Scorer:
    """Weighs the choices of one graph; what was weighed once is remembered."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._io: dict[Group, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._pairs: dict[tuple[Group, str, int, str, str], bool] = {}
        self._size: dict[str, int] = {}
        self._inputs = [v.name for v in stream.graph.inputs if v.resident]
        self._outputs = [stream.root(v).name for v in stream.graph.outputs]
        for v in stream.graph.values():
            if v.kind in ("temp", "input") and stream.root(v) is v:
                self._size[v.name] = aligned(v.nbytes)
        self._scores: dict[tuple[Streaming, int], Score] = {}
        self._structures: dict[Streaming, Structure] = {}
        size = len(stream.streamable)
        large = size > LARGE_GRAPH_TENSORS
        self._most = MOST_CHOICES * LARGE_GRAPH_TENSORS**2 // size**2 if large else MOST_CHOICES
        self._effort = self._most
        """Choices that may still be weighed for the present budget."""

    def all_stored(self) -> Streaming:
        """The choice that stores every tensor."""
        return (False,) * len(self.stream.nodes)

    def all_streamed(self) -> Streaming:
        """The choice that streams every tensor that can be."""
        streamable = dict.fromkeys(self.stream.streamable)
        return tuple(i in streamable for i in range(len(self.stream.nodes)))

    def score(self, streaming: Streaming, budget: int) -> Score:
        """Weigh a choice: the fastest loop of each group that stays within `budget` bytes."""
        key = (streaming, budget)
        if key not in self._scores:
            self._scores[key] = self._weigh(streaming, budget, 0, {}, range(0))
        return self._scores[key]

    def _weigh(
        self,
        streaming: Streaming,
        budget: int,
        more: int,
        given: Mapping[int, FusedLoop],
        during: range,
    ) -> Score:
        """The fastest loop that fits for each group, but for those whose loop is `given`.

        In the groups `during`, `more` bytes are in use beyond those of the stored tensors.
        """
        structure = self._structure(streaming)
        over, peak, ops = 0, 0, 0
        loops: list[FusedLoop] = []
        for p, group in enumerate(structure.groups):
            here = structure.stored_bytes[p] + (more if p in during else 0)
            overwrites = structure.overwrites[p]
            options = self.stream.loops(group)
            if p in given:
                options, overwrites = (given[p],), ()
            for loop in options:
                used = here + loop.window_bytes
                if overwrites:
                    used -= self._saved(loop, overwrites)
                if used <= budget:
                    break
            over += max(0, used - budget)
            peak = max(peak, used)
            ops += loop.ops
            loops.append(loop)
        return Score(streaming, over, peak, ops, structure.groups, tuple(loops))

    def _structure(self, streaming: Streaming) -> Structure:
        """The groups of a choice, and the lifetimes of its stored tensors in terms of groups."""
        if streaming in self._structures:
            return self._structures[streaming]
        groups = tuple(self.stream.groups(streaming))
        first: dict[str, int] = dict.fromkeys(self._inputs, 0)
        last: dict[str, int] = dict.fromkeys(self._inputs, 0)
        for p, group in enumerate(groups):
            ins, outs = self._ports(group)
            for name in outs:
                first[name] = last[name] = p
            for name in ins:
                last[name] = p
        for name in self._outputs:
            if name in last:
                last[name] = len(groups)
        change = [0] * (len(groups) + 2)
        for name, p in first.items():
            change[p] += self._size[name]
            change[last[name] + 1] -= self._size[name]
        overwrites: list[tuple[tuple[str, str], ...]] = []
        for p, group in enumerate(groups):
            ins, outs = self._ports(group)
            overwrites.append(
                tuple(
                    (source, target)
                    for target in outs
                    if first[target] == p
                    for source in ins
                    if last[source] == p and self._size[source] == self._size[target]
                )
            )
        self._effort -= 1
        found = Structure(groups, tuple(accumulate(change)), tuple(overwrites), first, last)
        self._structures[streaming] = found
        return found

    def _ports(self, group: Group) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the stored tensors that a group reads, and of those that it writes."""
        if group not in self._io:
            stream = self.stream
            members = (*group.stored, *group.streamed)
            inside = dict.fromkeys(v.name for i in members for v in stream.nodes[i].outputs)
            ins: dict[str, None] = {}
            for i in members:
                for v in stream.nodes[i].inputs:
                    root = stream.root(v).name
                    if root in self._size and root not in inside:
                        ins[root] = None
            outs = [
                stream.root(v).name
                for i in group.stored
                for v in stream.nodes[i].outputs
                if v.kind == "temp" and stream.root(v) is v
            ]
            self._io[group] = (tuple(ins), tuple(outs))
        return self._io[group]

    def _saved(self, loop: FusedLoop, overwrites: Sequence[tuple[str, str]]) -> int:
        """Bytes of results that overwrite what the group reads last."""
        total = 0
        taken: dict[str, None] = {}
        for source, target in overwrites:
            free = source not in taken and target not in taken
            if free and self._may_overwrite(loop, source, target):
                total += self._size[target]
                taken[source] = taken[target] = None
        return total

    def _may_overwrite(self, loop: FusedLoop, source: str, target: str) -> bool:
        """Whether a loop may write `target` over `source`."""
        key = (loop.group, loop.axis, loop.window_bytes, source, target)
        if key not in self._pairs:
            self._pairs[key] = self._find_overwrite(loop, source, target)
        return self._pairs[key]

    def _find_overwrite(self, loop: FusedLoop, source: str, target: str) -> bool:
        for node in self.stream.nodes_of(loop):
            for out, v in enumerate(node.outputs):
                for index, u in enumerate(node.inputs):
                    if v.name != target or self.stream.root(u).name != source:
                        continue
                    if isinstance(node, Loop):
                        same = rows_times(u.shape) == rows_times(v.shape) and u.dtype == v.dtype
                        return same and follows(node, u.name, v.name)
                    return OPS[node.op].alias or (out, index) in OPS[node.op].inplace
        return False
