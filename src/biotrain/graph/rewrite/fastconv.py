# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions of many taps become fast FIR or FFT. Algebraic: rounding changes.

The package says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from biotrain.ir.graph import Graph, Node, Value
from biotrain.ir.op import OPS, Builder
from biotrain.ops.fft import SIZES, step
from biotrain.ops.fir import fits

FAST: dict[str, str] = {"conv": "fir", "conv_dx": "fir_dx", "conv_dw": "fir_dw"}
"""An op and the one that does the same with fewer multiplies."""

FFT: dict[str, str] = {"conv": "fft", "conv_dx": "fft_dx", "conv_dw": "fft_dw"}
"""The same by transforms, which need scratch memory."""

MIN_TAPS = 64
"""A convolution of at least so many taps may become fast FIR: with fewer, the additions and the
moving of samples take as long as what is saved (`benchmarks/fir.py`)."""

MOST_OPS_SHARE = 0.7
"""Where the target's cycles are not known, a convolution is replaced if at most this share of its
operations is left."""

MOST_CYCLES_SHARE = 0.7
"""Where they are known, it is replaced if at most this share of the estimate is left: the price of
direct ones is that of all their shapes, and long depthwise ones are faster than that
(`benchmarks/kernels_small.py`)."""

FIR_LEVELS = (2,)
"""Levels of fast FIR to choose from. A third level has fewer operations still, but its sums are so
short that it takes longer than two (`benchmarks/fir.py`)."""

Price = Callable[[str], float]
"""Cycles per operation of an op."""


def fastconv(
    graph: Graph, levels: tuple[int, ...] = FIR_LEVELS, price: Price | None = None
) -> Graph:
    """Replace every depthwise convolution along time, and its gradients, where it saves enough.

    With the prices of a target, the variant with the fewest estimated cycles, forward and backward,
    is taken. Without, operations are all worth the same; transforms, whose operations fill vectors
    badly, are left out.
    """
    return _replaced(graph, lambda node: faster(node, levels, price))


def fft(graph: Graph) -> Graph:
    """Replace every such convolution by transforms where these save enough operations."""
    return _replaced(graph, lambda node: _least(node, by_fft(node), MOST_OPS_SHARE))


def faster(node: Node, levels: tuple[int, ...], price: Price | None = None) -> Node:
    """The node, or the one that takes its place."""
    if price is None:
        return _least(node, by_fir(node, levels), MOST_OPS_SHARE)
    return _least(node, [*by_fir(node, levels), *by_fft(node)], MOST_CYCLES_SHARE, price)


def by_fir(node: Node, levels: Sequence[int]) -> list[Node]:
    """The node as fast FIR, with each number of levels."""
    taps = _taps(node)
    return [_like(node, FAST, levels=n) for n in levels] if taps >= MIN_TAPS else []


def by_fft(node: Node) -> list[Node]:
    """The node as transforms of each size; their scratch operand is still missing."""
    taps = _taps(node)
    return [_like(node, FFT, size=n) for n in SIZES if taps and step(n, taps) > 0]


def cycles(node: Node, price: Price | None = None) -> float:
    """Estimated cycles of a node; of a forward convolution with those of both gradients. Without
    prices: the operations of the node alone."""
    if price is None:
        return OPS[node.op].ops(node)
    nodes = [node]
    if node.op in ("conv", "fir", "fft"):
        b, y = Builder(), node.outputs[0]
        OPS[node.op].vjp(b, node, [Value("dy", y.shape)], [True, True])
        nodes += b.nodes
    return sum(OPS[n.op].ops(n) * price(n.op) for n in nodes)


def _least(node: Node, others: Sequence[Node], most: float, price: Price | None = None) -> Node:
    """The variant with the fewest cycles, where at most the share `most` of the node's is left."""
    best = min(others, key=lambda n: cycles(n, price), default=node)
    return best if cycles(best, price) <= most * cycles(node, price) else node


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
            scratch = b.one("fft_workspace", hint="workspace", size=best.int("size"))
            nodes.append(b.nodes[-1])
            best = replace(best, inputs=(*best.inputs[:2], scratch, *best.inputs[2:]))
        nodes.append(best)
    return graph.with_nodes(tuple(nodes))
