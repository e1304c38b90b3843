# SPDX-License-Identifier: Apache-2.0
"""The independent validator of a plan: it replays the schedule on a model of the memory.

Every word of the arena remembers which element of which value was written to it last. A node that
reads an element must find it there; a node that writes must not hit what the same call still
reads, unless the op allows that very pair to share. Loops are replayed iteration by iteration with
their windows, so that halos, carried sums and recomputed tensors are validated too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from biotrain.errors import GraphError
from biotrain.ir.access import call_of, reads, whole
from biotrain.ir.graph import Graph, Loop, Node, Span, Value, Window, verify
from biotrain.ir.op import OPS, Call, rows_times
from biotrain.planner.place import ALIGNMENT, L1, Buffer, near_peak, peak

WORD = 4
"""Bytes of a word of the model; every float is one."""
Words = npt.NDArray[np.int64]


class _Memory:
    """The arena, word by word: which element of which tensor was written there last."""

    def __init__(self, graph: Graph, buffers: Sequence[Buffer]) -> None:
        self.at = {m: b for b in buffers for m in b.members}
        self.near = peak(buffers) // WORD  # words of L1 come behind those of the arena
        size = self.near + near_peak(buffers) // WORD
        self.owner = np.full(size, -1, np.int64)
        self.element = np.zeros(size, np.int64)
        self.ids: dict[str, int] = {}
        self.alias: dict[str, str] = {}
        self.calls: dict[Node, Call] = {}
        self.added: dict[tuple[str, str, int], tuple[Node, Words]] = {}
        for node in graph.nodes:
            if not isinstance(node, Loop) and OPS[node.op].alias:
                source, out = node.inputs[0].name, node.outputs[0].name
                self.alias[out] = self.alias.get(source, source)
                if out in self.at and self.at[out].offset != self.at[source].offset:
                    raise GraphError(f"%{out} is a view of %{source} but lies elsewhere")

    def id(self, name: str) -> int:
        """The number of a tensor; views have that of their source."""
        return self.ids.setdefault(self.alias.get(name, name), len(self.ids))

    def words(self, value: Value, span: Span, window: Window | None, k: int) -> tuple[Words, Words]:
        """Addresses and element numbers of a span of a tensor, in words."""
        buffer = self.at[value.name]
        base = buffer.offset // WORD + (self.near if buffer.memory == L1 else 0)
        if buffer.offset % ALIGNMENT:
            raise GraphError(f"{value} is not aligned")
        if value.dtype in ("u8", "i16"):  # elements are not told apart
            size = window.nbytes if window else value.nbytes
            if size > buffer.size:
                raise GraphError(f"{value} does not fit its buffer")
            count = -(-size // WORD)
            return base + np.arange(count), np.arange(count)
        times = rows_times(value.shape)[1]
        here = window.spans[k] if window else whole(value)
        if value.stored_rows and not window:
            here = replace(here, r1=value.stored_rows)
        stride = window.times if window else times
        inside = (
            here.r0 <= span.r0 and span.r1 <= here.r1 and here.t0 <= span.t0 and span.t1 <= here.t1
        )
        if not inside:
            raise GraphError(f"{value}: {span} is used where only {here} is stored")
        rows, cols = np.arange(span.r0, span.r1)[:, None], np.arange(span.t0, span.t1)[None, :]
        address = base + (rows - here.r0) * stride + (cols - here.t0)
        if address.size and int(address.max()) + 1 > base + buffer.size // WORD:
            raise GraphError(f"{value} does not fit its buffer")
        return address.ravel(), (rows * times + cols).ravel()

    def write(self, value: Value, address: Words, element: Words) -> None:
        """Note that elements of a tensor are written to addresses."""
        self.owner[address] = self.id(value.name)
        self.element[address] = element

    def run(self, node: Node, box: Span, windows: Mapping[str, Window], k: int) -> None:
        """Replay one call: check what it reads, and note what it writes."""
        rule, call = OPS[node.op], call_of(node, self.calls)
        busy: list[tuple[int, Words]] = []
        for index, span in reads(node, call, box):
            value = node.inputs[index]
            if value.name not in self.at:
                continue
            address, element = self.words(value, span, windows.get(value.name), k)
            here = self.owner[address] == self.id(value.name)
            if not (here & (self.element[address] == element)).all():
                raise GraphError(f"{value} was overwritten, or never made, before {node} at {span}")
            busy.append((index, address))
        written: list[tuple[Value, Words, Words]] = []
        for out, value in enumerate(node.outputs):
            if value.name not in self.at:
                continue
            same = rows_times(value.shape) == call.box and not rule.accumulates
            span = box if same else whole(value)
            address, element = self.words(value, span, windows.get(value.name), k)
            for index, taken in busy:
                if (out, index) in rule.inplace:
                    stays = np.isin(address, taken)
                    mine = self.element[address[stays]] == element[stays]
                    if mine.all():
                        continue
                if np.isin(address, taken).any():
                    raise GraphError(f"{value} overwrites what {node.op} still reads: {node}")
            written.append((value, address, element))
        for value, address, element in written:
            self.write(value, address, element)

    def add(self, key: tuple[str, str, int], node: Node, box: Span) -> None:
        """Note one call of a sum in a loop.

        A sum takes every leaf once, along time in order, and is divided only where the kernel
        divides it too: otherwise its rounding would be another one.
        """
        rule, (rows, times) = OPS[node.op], call_of(node, self.calls).box
        at = self.added.setdefault(key, (node, np.zeros(rows, np.int64)))[1]
        step = rule.row_step(node) or rows
        leaf = rule.leaf if rule.reduces_time else 1
        whole_rows = not box.r0 % step and (box.r1 == rows or not box.r1 % step)
        whole_leaves = not box.t0 % leaf and (box.t1 == times or not box.t1 % leaf)
        if not whole_rows or not whole_leaves:
            raise GraphError(f"the sum is not divided at multiples of {step} x {leaf}: {node}")
        if (at[box.r0 : box.r1] != box.t0).any():
            raise GraphError(f"the sum does not take its leaves once and in order: {node} at {box}")
        at[box.r0 : box.r1] = box.t1

    def complete(self) -> None:
        """Raise where a sum that was begun has not taken all of its leaves."""
        for node, at in self.added.values():
            if (at != call_of(node, self.calls).box[1]).any():
                raise GraphError(f"the sum is not complete: {node}")
        self.added.clear()


def validate(graph: Graph, buffers: Sequence[Buffer]) -> None:
    """Raise `GraphError` where a plan is not correct: the rules of the IR, then `replay`."""
    verify(graph)
    replay(graph, buffers)


def replay(graph: Graph, buffers: Sequence[Buffer]) -> None:
    """Raise `GraphError` where a tensor does not fit its buffer, and where a node, or an iteration
    of a loop, would read anything else than what it needs."""
    memory = _Memory(graph, buffers)
    for value in graph.inputs:
        if value.name in memory.at:
            memory.write(value, *memory.words(value, whole(value), None, 0))
    for node in graph.nodes:
        if isinstance(node, Loop):
            _replay_loop(memory, node)
        elif not OPS[node.op].alias:
            rows, times = call_of(node, memory.calls).box
            memory.run(node, Span(0, rows, 0, times), {}, 0)
    memory.complete()
    for value in graph.outputs:
        if value.name in memory.at:
            address, element = memory.words(value, whole(value), None, 0)
            here = memory.owner[address] == memory.id(value.name)
            if not (here & (memory.element[address] == element)).all():
                raise GraphError(f"output {value} was overwritten")


def _replay_loop(memory: _Memory, loop: Loop) -> None:
    """Replay a loop, iteration by iteration."""
    windows = {w.value.name: w for w in loop.windows}
    sums: dict[int, tuple[str, str, int]] = {}
    for i, step in enumerate(loop.body):
        if OPS[step.node.op].accumulates:
            name = (step.node.op, step.node.outputs[0].name)
            sums[i] = (*name, sum(key[:2] == name for key in sums.values()))
    if not loop.get("continued", False):
        memory.complete()
    for step in loop.body if not loop.get("continued", False) else ():  # sums start at zero
        if OPS[step.node.op].accumulates:
            for value in step.node.outputs:
                if value.name in memory.at and value.kind == "temp":
                    memory.write(value, *memory.words(value, whole(value), None, 0))
    for k in range(loop.count):
        for i, step in enumerate(loop.body):
            if not step.boxes[k].empty:
                if i in sums:
                    memory.add(sums[i], step.node, step.boxes[k])
                memory.run(step.node, step.boxes[k], windows, k)
