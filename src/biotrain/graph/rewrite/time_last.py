# SPDX-License-Identifier: Apache-2.0
"""Time on the last axis, where a network has put it in front of another one.

Kernels see a tensor as rows of samples: sums over time run in leaves along the last axis, and the
planner tiles time along it. A network that computes on (batch, 1, time, channels) has its time
across rows instead. From the node on that puts the longer axis last but one, this rewrite computes
with the last two axes swapped, as far as the ops say how (`Op.swapped`), and swaps back where one
does not. The order of sums changes with the layout, so the rewrite is algebraic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations

import numpy as np
import numpy.typing as npt

from biotrain.ir.graph import Attr, Graph, Node, Shape, Value
from biotrain.ir.op import LEAF, OPS, Builder, Swapped, swap_last
from biotrain.ops.shape import reshaped

Order = npt.NDArray[np.int64]


def time_last(graphs: list[Graph]) -> list[Graph]:
    """The graphs of one network, which share their parameters, with time last; as they are where
    there is nothing to swap. A parameter may come back under another shape of the same elements."""
    turned = [_TimeLast(graph).rewritten() for graph in graphs]
    shapes = [{v.name: v.shape for v in graph.params} for graph in turned]
    return turned if all(found == shapes[0] for found in shapes) else graphs


class _TimeLast:
    """One graph while it is rewritten."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._b = Builder(taken=[v.name for v in graph.values()])
        self._plain: dict[str, Value] = {
            v.name: v for v in (*graph.inputs, *graph.params, *graph.states, *graph.consts)
        }
        """The values that there are with their axes in order, by their old names."""
        self._turned: dict[str, Value] = {}
        """Those that there are with the last two axes swapped."""
        self._views: dict[str, tuple[Value, Order]] = {}
        """For a value that only moves elements: whose elements these are, and in which order."""
        self._times: dict[str, int] = {}
        """Samples of each row whose moments a value holds, where that has changed."""
        self._uses: dict[str, int] = {}
        for node in graph.nodes:
            for value in node.inputs:
                self._uses[value.name] = self._uses.get(value.name, 0) + 1

    def rewritten(self) -> Graph:
        """The graph with time last."""
        for node in self._graph.nodes:
            self._b.origin = node.origin
            if node.op in ("reshape", "permute"):
                self._move(node)
            elif not any(v.name in self._turned for v in node.inputs) or not self._swap(node):
                self._keep(node)
        if not self._turned:
            return self._graph
        outputs = tuple(self._in_order(v) for v in self._graph.outputs)
        params = tuple(self._plain[v.name] for v in self._graph.params)
        return replace(
            self._graph, nodes=_alive(self._b.nodes, outputs), outputs=outputs, params=params
        )

    # ------------------------------------------------------------ values

    def _in_order(self, value: Value) -> Value:
        """The value with its axes in order."""
        if value.name not in self._plain:
            turned = self._turned[value.name]
            self._plain[value.name] = self._view(turned, swap_last(self._order(turned)[1]))
        return self._plain[value.name]

    def _swapped(self, value: Value) -> Value:
        """The value with its last two axes swapped."""
        if value.name not in self._turned:
            plain = self._in_order(value)
            self._turned[value.name] = self._view(plain, swap_last(self._order(plain)[1]))
        return self._turned[value.name]

    def _order(self, value: Value) -> tuple[Value, Order]:
        """Whose elements a value has, and in which order."""
        own = np.arange(value.size, dtype=np.int64).reshape(value.shape)
        return self._views.get(value.name, (value, own))

    def _view(self, source: Value, order: Order, hint: str = "") -> Value:
        """The elements of `source`'s root in an order that is that of `source` up to a reshape and
        a permutation of its axes."""
        root = self._order(source)[0]
        shape = tuple(order.shape)
        if _free(order):
            return reshaped(self._b, root, shape)
        dims = _permutation(self._order(source)[1], order)
        if dims is None:
            raise AssertionError(f"{source} is no permutation of {shape}")
        y = self._b.one("permute", source, hint=hint, dims=dims)
        self._views[y.name] = (root, order)
        return y

    # ------------------------------------------------------------ nodes

    def _move(self, node: Node) -> None:
        """A reshape or a permute: elements in another order, for nothing where that is none."""
        x, y = node.inputs[0], node.outputs[0]
        kept = x.name in self._plain
        source = self._plain[x.name] if kept else self._turned[x.name]
        order = self._order(source)[1]
        order = _moved(node, order if kept else swap_last(order))
        if _long_before_last(y.shape):
            turned = swap_last(order)
            if _free(turned) or (node.op == "permute" and not _free(order)):
                self._turned[y.name] = self._view(source, turned, f"{y.name}_turned")
                return
        if _free(order):
            self._plain[y.name] = self._view(source, order)
            return
        if node.op == "reshape" and x.shape[-2:] == y.shape[-2:] and not kept:
            shape = (*y.shape[:-2], y.shape[-1], y.shape[-2])
            self._turned[y.name] = reshaped(self._b, source, shape)
            self._views[self._turned[y.name].name] = self._order(source)[0], swap_last(order)
            return
        self._keep(node)

    def _swap(self, node: Node) -> bool:
        """Append the node on swapped operands; False where its op does not say how."""
        said = OPS[node.op].swapped(node)
        if said is None or (node.op == "row_moments" and not self._by_channel(node)):
            return False
        inputs = tuple(
            self._operand(v, turn, node) for v, turn in zip(node.inputs, said.turns, strict=True)
        )
        if said.op == "conv" and node.op == "linear":
            self._pointwise(node, inputs, said)
            return True
        attrs = dict(said.attrs)
        shapes = OPS[said.op].infer([v.shape for v in inputs], attrs)
        outputs = tuple(
            replace(v, shape=shape) for v, shape in zip(node.outputs, shapes, strict=True)
        )
        self._append(said.op, inputs, outputs, attrs, node.origin)
        for old, new in zip(node.outputs, outputs, strict=True):
            if node.op == "row_moments":
                self._plain[old.name] = new
                self._times[new.name] = inputs[0].shape[-1]
            else:
                self._turned[old.name] = new
        return True

    def _by_channel(self, node: Node) -> bool:
        """Whether the statistics of these moments are of whole channels, so that the order of the
        rows within a channel does not matter."""
        x, moments = node.inputs[0].shape, node.outputs[0].name
        readers = [n for n in self._graph.nodes if any(v.name == moments for v in n.inputs)]
        groups = [int(n.get("groups", n.get("channels", 0))) for n in readers]  # type: ignore[arg-type]
        return len(x) == 4 and x[0] == 1 and all(g and x[1] % g == 0 for g in groups)

    def _operand(self, value: Value, turn: bool, node: Node) -> Value:
        """An operand, swapped where `turn`; a parameter that is used once changes its shape."""
        if not turn:
            return self._in_order(value)
        if value.kind != "param":
            return self._swapped(value)
        shape: Shape = (*value.shape, 1)
        if node.op != "linear":
            shape = (*value.shape[:-2], value.shape[-1], value.shape[-2])
        if self._uses[value.name] == 1 and (node.op == "linear" or 1 in value.shape[-2:]):
            self._plain[value.name] = replace(value, shape=shape)
            return self._plain[value.name]
        if node.op == "linear":
            return reshaped(self._b, value, shape)
        order = tuple(range(len(shape)))
        dims = (*order[:-2], order[-1], order[-2])
        return self._b.one("permute", value, hint=f"{value.name}_turned", dims=dims)

    def _pointwise(self, node: Node, inputs: tuple[Value, ...], said: Swapped) -> None:
        """A linear layer over the last axis, as a convolution of one tap over swapped time."""
        x, y = inputs[0], node.outputs[0]
        flat = reshaped(self._b, x, (1, *x.shape[-2:]))
        shape = (*y.shape[:-2], y.shape[-1], y.shape[-2])
        whole = (1, *shape[-2:])
        name = y.name if whole == shape else self._b.name(f"{y.name}_conv")
        out = replace(y, name=name, shape=whole)
        self._append("conv", (flat, *inputs[1:]), (out,), dict(said.attrs), node.origin)
        self._turned[y.name] = reshaped(self._b, out, shape)

    def _keep(self, node: Node) -> None:
        """Append the node on operands with their axes in order."""
        inputs = tuple(self._in_order(v) for v in node.inputs)
        attrs = dict(node.attrs)
        times = next((self._times[v.name] for v in inputs if v.name in self._times), None)
        if times is not None and "times" in attrs:
            attrs["times"] = times
        self._append(node.op, inputs, node.outputs, attrs, node.origin)
        self._plain |= {v.name: v for v in node.outputs}
        if node.op in ("reshape", "permute"):
            root, order = self._order(inputs[0])
            self._views[node.outputs[0].name] = root, _moved(node, order)

    def _append(
        self,
        op: str,
        inputs: tuple[Value, ...],
        outputs: tuple[Value, ...],
        attrs: Mapping[str, Attr],
        origin: str,
    ) -> None:
        """Append a node with outputs of its own."""
        self._b.nodes.append(Node(op, inputs, outputs, tuple(sorted(attrs.items())), origin))


def _moved(node: Node, order: Order) -> Order:
    """The order of elements behind a reshape or a permute."""
    if node.op == "reshape":
        return order.reshape(node.ints("shape"))
    return order.transpose(node.ints("dims"))


def _long_before_last(shape: Shape) -> bool:
    """Whether the last axis but one is the long one: at least a leaf, and longer than the last."""
    if len(shape) < 2 or (len(shape) < 4 and shape[-1] == 1):
        return False
    return shape[-2] >= LEAF and shape[-2] > shape[-1]


def _free(order: Order) -> bool:
    """Whether elements lie as they lay."""
    return bool((order.ravel() == np.arange(order.size)).all())


def _permutation(source: Order, target: Order) -> tuple[int, ...] | None:
    """The order of axes that makes `target` of `source`; None where there is none."""
    for dims in permutations(range(source.ndim)):
        moved = source.transpose(dims)
        if moved.shape == target.shape and (moved == target).all():
            return dims
    return None


def _alive(nodes: list[Node], outputs: tuple[Value, ...]) -> tuple[Node, ...]:
    """The nodes without those that moved elements for nobody."""
    alive = dict.fromkeys(v.name for v in outputs)
    found: list[Node] = []
    for node in reversed(nodes):
        moves = node.op in ("reshape", "permute", "slice")
        if not moves or any(v.name in alive for v in node.outputs):
            found.append(node)
            alive.update(dict.fromkeys(v.name for v in node.inputs))
    return tuple(reversed(found))
