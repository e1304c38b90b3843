# SPDX-License-Identifier: Apache-2.0
"""Reverse-mode differentiation, graph to graph; what no trained parameter needs is never built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from biotrain.graph.losses import starts_of, with_loss
from biotrain.ir.graph import Graph, Node, Value, verify
from biotrain.ir.op import OPS, Builder
from biotrain.ir.optimizer import SGD, Gradients, Optimizer

__all__ = ["differentiate", "gradient_name", "prune", "slot_name", "with_loss", "with_updates"]


def gradient_name(param: str) -> str:
    """Name of the buffer that accumulates the gradient of a parameter."""
    return f"g_{param}"


def slot_name(slot: str, param: str) -> str:
    """Name of an optimizer's state tensor of a parameter."""
    return f"{slot}_{param}"


def differentiate(
    graph: Graph, loss: Value, trainable: Sequence[str], shared: bool = False
) -> Graph:
    """Append the backward pass of `loss` with respect to the params named in `trainable`.

    Gradients are added to states `g_<param>`; an op that reduces adds to them itself. Nodes that
    write states while going forward (running statistics) move behind the loss, so that a sample
    whose loss is not finite leaves no trace. With `shared` the gradient of the loss, and so every
    other, is the window's part of the mean over its group.
    """
    wants: dict[str, bool] = {v.name: v.name in trainable for v in graph.params}
    for node in graph.nodes:
        any_wanted = any(wants.get(v.name, False) for v in node.inputs)
        for out in node.outputs:
            wants[out.name] = any_wanted
    forward = [n for n in graph.nodes if not any(o.kind == "state" for o in n.outputs)]
    late = [n for n in graph.nodes if any(o.kind == "state" for o in n.outputs)]
    gradients = {
        p.name: Value(gradient_name(p.name), p.shape, kind="state")
        for p in graph.params
        if p.name in trainable
    }
    b = Builder("d", [*(v.name for v in graph.values()), *(g.name for g in gradients.values())])
    starts = starts_of(graph, loss)
    flowing: dict[str, Value | None] = dict.fromkeys(v.name for v in starts)
    for node in reversed(forward):
        grads = [flowing.get(o.name) for o in node.outputs]
        reached = any(o.name in flowing for o in node.outputs)
        wanted = [wants.get(v.name, False) for v in node.inputs]
        if not reached or not any(wanted):
            continue
        b.origin = node.origin
        results = OPS[node.op].vjp(b, node, grads, wanted)
        if shared and node.outputs[0] in starts:
            results = [g and b.one("share", g, hint=g.name) for g in results]
        for value, grad in zip(node.inputs, results, strict=True):
            if grad is None or not wants.get(value.name, False):
                continue
            if value.kind == "param":
                alone = grad not in grads and list(results).count(grad) == 1
                _into_state(b, grad, gradients[value.name], alone)
            elif (other := flowing.get(value.name)) is not None:
                flowing[value.name] = b.one("add", other, grad, hint=f"d_{value.name}")
            else:
                flowing[value.name] = grad
    result = replace(
        graph,
        nodes=(*forward, *late, *b.nodes),
        states=(*graph.states, *gradients.values()),
    )
    result = prune(result)
    verify(result)
    return result


def _into_state(b: Builder, grad: Value, state: Value, alone: bool) -> None:
    """Let the node that made `grad` add to the state itself, or append a node that does.

    `alone` says that no other value's gradient is the same tensor.
    """
    at = next((i for i, n in enumerate(b.nodes) if grad in n.outputs), None)
    used = any(grad in n.inputs for n in b.nodes)
    if alone and not used and at is not None:
        node = b.nodes[at]
        if OPS[node.op].accumulates and len(node.outputs) == 1 and grad.shape == state.shape:
            b.nodes[at] = replace(node, outputs=(state,))
            return
    if grad.shape != state.shape:
        grad = b.one("reshape", grad, shape=state.shape)
    b.emit("accumulate", [grad], [state])


def prune(graph: Graph) -> Graph:
    """Drop the nodes that neither an output nor a state depends on."""
    alive: dict[str, None] = dict.fromkeys(v.name for v in graph.outputs)
    needed: list[Node] = []
    for node in reversed(graph.nodes):
        if any(o.kind in ("state", "param") or o.name in alive for o in node.outputs):
            needed.append(node)
            alive.update(dict.fromkeys(v.name for v in node.inputs))
    return graph.with_nodes(tuple(reversed(needed)))


def with_updates(
    graph: Graph, trainable: Sequence[str], optimizer: Optimizer, gradients: Gradients = "separate"
) -> Graph:
    """Add the optimizer step: one node per parameter, and the states that it needs.

    `separate` leaves the states `g_<param>`. `momentum` lets the backward pass add to the momentum
    instead. `update` makes gradients temps and appends the updates to the nodes; the planner moves
    each to where its gradient is complete and no node reads the parameter any more.
    """
    adapt = {"separate": _separate, "momentum": _into_momentum, "update": _at_once}[gradients]
    result = adapt(graph, trainable, optimizer)
    verify(result)
    return result


def _separate(graph: Graph, trainable: Sequence[str], optimizer: Optimizer) -> Graph:
    """Gradients in states of their own, and an update of each parameter after the group."""
    b = Builder(taken=[v.name for v in graph.values()])
    by_name = {v.name: v for v in (*graph.params, *graph.states)}
    states: list[Value] = []
    for name in trainable:
        p, g = by_name[name], by_name[gradient_name(name)]
        states += _update(b, optimizer, p, g)
    return replace(graph, states=(*graph.states, *states), updates=tuple(b.nodes))


def _into_momentum(graph: Graph, trainable: Sequence[str], optimizer: Optimizer) -> Graph:
    """Gradients are added to the momentum, which `carry` prepares before the first of a group."""
    assert isinstance(optimizer, SGD)
    params = [p for name in trainable for p in graph.params if p.name == name]
    momenta = {
        gradient_name(p.name): Value(slot_name("momentum", p.name), p.shape, kind="state")
        for p in params
    }
    opening, closing = Builder(), Builder()
    for p, v in zip(params, momenta.values(), strict=True):
        decay = optimizer.weight_decay
        opening.emit("carry", [p, v], [v], momentum=optimizer.momentum, weight_decay=decay)
        closing.emit("sgd_step", [p, v], [p])
    loss = graph.outputs[1]
    nodes: list[Node] = []
    for node in graph.nodes:
        outputs = tuple(momenta.get(v.name, v) for v in node.outputs)
        nodes.append(replace(node, outputs=outputs))
        if loss in outputs:
            nodes += opening.nodes  # a window whose loss is not finite leaves no trace
    return replace(
        graph,
        nodes=tuple(nodes),
        states=tuple(momenta.get(v.name, v) for v in graph.states),
        updates=tuple(closing.nodes),
    )


def _at_once(graph: Graph, trainable: Sequence[str], optimizer: Optimizer) -> Graph:
    """Gradients are temps, and an update of each parameter stands behind the backward pass."""
    owners = {gradient_name(name): name for name in trainable}
    b = Builder("d", [v.name for v in graph.values()])
    totals: dict[str, Value] = {}
    states = [v for v in graph.states if v.name not in owners]
    for node in graph.nodes:
        found = [(i, v) for i, v in enumerate(node.outputs) if v.name in owners]
        outputs, parts = list(node.outputs), list(node.inputs[:1])
        if not found or node.op != "accumulate":
            for i, v in found:  # several nodes may have written into one state
                first = owners[v.name] not in totals
                outputs[i] = replace(v, kind="temp") if first else b.value("part", v.shape)
            parts = [outputs[i] for i, _ in found]
            b.nodes.append(replace(node, outputs=tuple(outputs)))
        for (_, v), part in zip(found, parts, strict=True):
            other = totals.get(owners[v.name])
            totals[owners[v.name]] = b.one("add", other, part, hint="parts") if other else part
    for p in (p for name in trainable for p in graph.params if p.name == name):
        if p.name not in totals:  # the loss does not depend on it; it may still decay
            totals[p.name] = b.one("affine", p, hint="none", scale=0.0, shift=0.0)
        states += _update(b, optimizer, p, totals[p.name], at_once=True)
    return replace(graph, nodes=tuple(b.nodes), states=tuple(states))


def _update(
    b: Builder, optimizer: Optimizer, p: Value, g: Value, at_once: bool = False
) -> list[Value]:
    """Append the update of one parameter; returns its new states."""
    slots = [Value(slot_name(s, p.name), p.shape, kind="state") for s in optimizer.slots]
    if isinstance(optimizer, SGD):
        b.emit(
            "sgd",
            [p, g, *slots],
            [p, *slots],
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            nesterov=optimizer.nesterov,
            at_once=at_once,
        )
    else:
        b.emit(
            "adam",
            [p, g, *slots],
            [p, *slots],
            beta1=optimizer.betas[0],
            beta2=optimizer.betas[1],
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            decoupled=optimizer.decoupled,
            at_once=at_once,
        )
    return slots
