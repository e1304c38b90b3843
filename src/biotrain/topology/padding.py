# SPDX-License-Identifier: Apache-2.0
"""Zero padding folded into the convolution that reads it."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from torch import fx, nn

from biotrain.topology.copies import copied
from biotrain.topology.report import Rewrite, left_alone
from biotrain.topology.walk import (
    Size,
    hooked,
    is_custom,
    replace_all,
    run_copy,
    same_output,
    short_name,
)

_Pad = nn.ConstantPad1d | nn.ConstantPad2d | nn.ConstantPad3d  # ZeroPad is a subclass
_Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


def fold_padding(
    net: nn.Module, inputs: tuple[Any, ...] | None, sizes: dict[str, Size] | None
) -> list[Rewrite]:
    """Give each zero padding in `net` to the convolution that reads it, in place.

    An nn.Identity takes the place of the padding. With `inputs` each fold is checked and, where
    the outputs change, undone; with `sizes` its bytes are counted.
    """
    pads = {path: layer for path, layer in net.named_modules() if isinstance(layer, _Pad)}
    readers = _readers(net, {id(pad) for pad in pads.values()}) if pads else {}
    rewrites = []
    for path, pad in pads.items():
        before = f"{short_name(pad)}{tuple(pad.padding)}"
        why = ""
        if pad.value != 0:
            why = "it does not pad with zeros"
        elif id(pad) not in readers:
            why = "no convolution is certain to be its only reader"
        else:
            name, conv = readers[id(pad)]
            padding, why = _sum(tuple(pad.padding), conv)
            if padding is not None and not _fold(net, pad, conv, padding, inputs):
                why = "something besides the convolution reads it"
        if why:
            rewrites.append(left_alone(path, before, why))
            continue
        after = f"{name}.padding={conv.padding}"
        effect = "the convolution pads as it reads; no padded copy is made or stored"
        saved = None if sizes is None else sizes.get(path, Size()).out_bytes
        rewrites.append(Rewrite(path, before, after, effect, saved))
    return rewrites


def _fold(
    net: nn.Module,
    pad: nn.Module,
    conv: _Conv,
    padding: tuple[int, ...] | str,
    inputs: tuple[Any, ...] | None,
) -> bool:
    """Do it; with `inputs`, undo it and return False if the outputs are no longer the same."""
    before = None if inputs is None else run_copy(net, inputs)
    old, identity = conv.padding, nn.Identity()
    conv.padding = padding
    replace_all(net, lambda _, layer: identity if layer is pad else layer)
    if inputs is not None and not same_output(before, inputs, net):
        conv.padding = old
        replace_all(net, lambda _, layer: pad if layer is identity else layer)
        return False
    return True


def _sum(pad: tuple[int, ...], conv: _Conv) -> tuple[tuple[int, ...] | str | None, str]:
    """`pad` (left and right of the last dimension, then of the one before, ...) and the padding of
    `conv` in one, as the convolution takes it; or None and why it cannot."""
    if conv.padding_mode != "zeros":
        return None, f'the convolution that reads it pads with "{conv.padding_mode}"'
    if any(p < 0 for p in pad):
        return None, "it crops"
    dims = len(conv.kernel_size)
    outer = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)][::-1]  # first dimension first
    if any(p != (0, 0) for p in outer[:-dims]):
        return None, "it pads the channels"
    outer = [(0, 0)] * (dims - len(outer)) + outer[-dims:]
    spans = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    same = [(span // 2, span - span // 2) for span in spans]
    if conv.padding == "same":
        inner = same
    elif isinstance(conv.padding, str):  # "valid"
        inner = [(0, 0)] * dims
    else:
        inner = [(p, p) for p in conv.padding]
    total = [(a + c, b + d) for (a, b), (c, d) in zip(outer, inner, strict=True)]
    if all(left == right for left, right in total):
        return tuple(left for left, _ in total), ""
    if total == same and all(s == 1 for s in conv.stride):
        return "same", ""
    return None, "a torch convolution takes no such asymmetric padding (the compiler's does)"


def _readers(net: nn.Module, pads: set[int]) -> dict[int, tuple[str, _Conv]]:
    """By id of a padding, path and module of the convolution that certainly is its only reader.

    From the graph where torch.fx can trace the module, else from neighbours in an nn.Sequential.
    Padding and convolution must be called (there: registered) exactly once, without hooks.
    """
    paths = {id(layer): path for path, layer in net.named_modules()}
    graph = _trace(net)
    pairs = _sequential_pairs(net) if graph is None else _graph_pairs(net, graph)
    found: dict[int, tuple[str, _Conv]] = {}
    for pad, conv in pairs:
        if id(pad) not in pads or hooked(pad) or hooked(conv):
            continue
        if isinstance(conv, _Conv) and not is_custom(conv):
            found[id(pad)] = (paths[id(conv)], conv)
    return found


def _graph_pairs(net: nn.Module, graph: fx.Graph) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Layers called once whose output goes to one other layer called once, and nowhere else."""
    calls = [node for node in graph.nodes if node.op == "call_module"]
    layers = {node: net.get_submodule(str(node.target)) for node in calls}
    times = Counter(id(layer) for layer in layers.values())
    for node, layer in layers.items():
        users = list(node.users)
        while len(users) == 1 and isinstance(layers.get(users[0]), nn.Identity):
            users = list(users[0].users)
        reader = layers.get(users[0]) if len(users) == 1 else None
        if reader is not None and times[id(layer)] == times[id(reader)] == 1:
            yield layer, reader


def _sequential_pairs(net: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Neighbours in an nn.Sequential, each registered there only."""
    parents = list(net.modules())
    times = Counter(id(child) for p in parents for child in p._modules.values())
    for parent in parents:
        if isinstance(parent, nn.Sequential) and not is_custom(parent):
            layers = [layer for layer in parent if not isinstance(layer, nn.Identity)]
            for layer, reader in pairwise(layers):
                if times[id(layer)] == times[id(reader)] == 1:
                    yield layer, reader


def _trace(net: nn.Module) -> fx.Graph | None:
    """The calls of `net` as a graph, layers whole; None if its forward branches on values."""
    try:
        return fx.Tracer().trace(copied(net))
    except Exception:  # whatever a user's forward raises when it meets a proxy
        return None
