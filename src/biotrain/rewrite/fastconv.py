# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions of long taps become fast FIR or FFT. These round otherwise: the package
says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from biotrain.ir import Graph, Node, Value
from biotrain.op import OPS, Builder
from biotrain.ops.fft import SIZES, step
from biotrain.ops.fir import fits

FAST: dict[str, str] = {"conv": "fir", "conv_dx": "fir_dx", "conv_dw": "fir_dw"}
"""An op and the one that does the same with fewer multiplies."""

FFT: dict[str, str] = {"conv": "fft", "conv_dx": "fft_dx", "conv_dw": "fft_dw"}
"""The same by transforms, which need room to work in."""

TAPS, SAVING = 64, 0.7
"""A convolution of at least so many taps becomes fast FIR where at most this part of its operations
is left. With fewer taps, what the additions and the moving of samples take eats the gain."""

LEVELS = (2,)
"""Levels to choose from. A third level has fewer operations still, but its sums are so short that
it takes longer than two (`benchmarks/fir.py`)."""

CYCLES = 0.7
"""On a target whose cycles are known, a convolution is replaced where at most this part of the
estimate is left: the price of direct ones is that of all their shapes, and long depthwise ones are
faster than that (`benchmarks/kernels_small.py`)."""

Price = Callable[[str], float]
"""Cycles per operation of an op."""


def fastconv(graph: Graph, levels: tuple[int, ...] = LEVELS, price: Price | None = None) -> Graph:
    """Replace every depthwise convolution along time, and its gradients, where it saves enough.

    With the prices of a target, the variant with the fewest estimated cycles of all passes is
    taken. Without, operations are all worth the same; transforms, whose operations fill vectors
    badly, are left out.
    """
    return _replaced(graph, lambda node: faster(node, levels, price))


def fft(graph: Graph) -> Graph:
    """Replace every such convolution by transforms where they have fewer operations."""
    return _replaced(graph, lambda node: _best([node, *by_fft(node)], lambda op: 1.0))


def faster(node: Node, levels: tuple[int, ...], price: Price | None = None) -> Node:
    """The node, or the one that takes its place."""
    firs = by_fir(node, levels)
    if price is None:
        best = _best(firs or [node], lambda op: 1.0, alone=True)
        return best if OPS[best.op].ops(best) <= SAVING * OPS[node.op].ops(node) else node
    best = _best([*firs, *by_fft(node), node], price)
    return best if cycles(best, price) <= CYCLES * cycles(node, price) else node


def by_fir(node: Node, levels: Sequence[int]) -> list[Node]:
    """The node as fast FIR, with each number of levels."""
    taps = _taps(node)
    return [_like(node, FAST, levels=n) for n in levels] if taps >= TAPS else []


def by_fft(node: Node) -> list[Node]:
    """The node as transforms of each size; their room is still missing."""
    taps = _taps(node)
    return [_like(node, FFT, size=n) for n in SIZES if taps and step(n, taps) > 0]


def cycles(node: Node, price: Price, alone: bool = False) -> float:
    """Estimated cycles of a node; of a forward convolution unless `alone`, with both gradients."""
    nodes = [node]
    if node.op in ("conv", "fir", "fft") and not alone:
        b, y = Builder(), node.outputs[0]
        OPS[node.op].vjp(b, node, [Value("dy", y.shape)], [True, True])
        nodes += b.nodes
    return sum(OPS[n.op].ops(n) * price(n.op) for n in nodes)


def _best(nodes: Sequence[Node], price: Price, alone: bool = False) -> Node:
    return min(nodes, key=lambda n: cycles(n, price, alone))


def _taps(node: Node) -> int:
    """Taps of a convolution that a variant can do; 0: none can."""
    if node.op not in FAST:
        return 0
    x, w, _ = OPS[node.op]._shapes(node)  # type: ignore[attr-defined]
    return w[-1] if fits(dict(node.attrs), x, w) else 0


def _like(node: Node, ops: dict[str, str], **more: int) -> Node:
    return replace(node, op=ops[node.op], attrs=tuple(sorted([*node.attrs, *more.items()])))


def _replaced(graph: Graph, chosen: Callable[[Node], Node]) -> Graph:
    b = Builder(taken=[v.name for v in graph.values()])
    nodes: list[Node] = []
    for node in graph.nodes:
        best = chosen(node)
        if best.op in FFT.values() and best is not node:
            b.origin = node.origin
            room = b.one("fft_room", hint="room", size=best.int("size"))
            nodes.append(b.nodes[-1])
            best = replace(best, inputs=(*best.inputs[:2], room, *best.inputs[2:]))
        nodes.append(best)
    return graph.with_nodes(tuple(nodes))
