# SPDX-License-Identifier: Apache-2.0
"""Walking, replacing and measuring the layers of any torch module."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from biotrain.topology.copies import copied


@dataclass
class Size:
    """Values and bytes per sample that pass a layer, summed over its calls."""

    in_bytes: int = 0
    out_values: int = 0
    out_bytes: int = 0
    smallest_in: int = 0  # values per sample of its smallest input


def replace_all(net: nn.Module, visit: Callable[[str, nn.Module], nn.Module]) -> nn.Module:
    """`net` with each layer replaced by `visit(path, layer)`, once per layer, in all its uses."""
    done: dict[int, nn.Module] = {}
    layers = list(net.named_modules())
    for path, layer in layers:
        done[id(layer)] = visit(path, layer)
    for _, parent in layers:
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = done[id(child)]
    return done[id(net)]


def measure(net: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Size]:
    """Run a copy of `net` and note what passes each layer, per sample of the example."""
    batched = next((x for x in inputs if isinstance(x, Tensor) and x.dim() > 0), None)
    if batched is None or batched.shape[0] == 0:
        raise ValueError("example_input must hold a tensor [batch, ...] with at least one sample")
    batch = batched.shape[0]
    probe = copied(net)
    sizes: dict[str, Size] = {}
    for path, layer in probe.named_modules():
        size = sizes[path] = Size()

        def note(_: nn.Module, args: Any, output: Any, size: Size = size) -> None:
            if args and isinstance(args[0], Tensor):
                values = args[0].numel() // batch
                size.in_bytes += values * args[0].element_size()
                size.smallest_in = min(size.smallest_in or values, values)
            if isinstance(output, Tensor):
                size.out_values += output.numel() // batch
                size.out_bytes += output.numel() // batch * output.element_size()

        layer.register_forward_hook(note)
    try:
        with torch.no_grad():
            probe.eval()(*inputs)
    except Exception as error:
        raise ValueError(f"the module does not run on the example input: {error}") from error
    return sizes


def run_copy(net: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """Outputs of a throw-away copy of `net` in eval mode, so that no buffer of `net` moves."""
    probe = copied(net).eval()
    with torch.no_grad():
        return probe(*inputs)


def same_output(outputs: Any, inputs: tuple[Any, ...], net: nn.Module) -> bool:
    """Whether `net` still gives `outputs`, up to rounding; outputs of other kinds must just run."""
    try:
        again = run_copy(net, inputs)
    except Exception:
        return False
    if not (isinstance(outputs, Tensor) and isinstance(again, Tensor)):
        return True
    return outputs.shape == again.shape and torch.allclose(outputs, again, rtol=1e-3, atol=1e-5)


def is_custom(layer: nn.Module) -> bool:
    """Whether the layer's arithmetic is not torch's own: a subclass, by the user or by a library,
    that overrides `forward` (or a convolution's `_conv_forward`)."""
    for method in ("forward", "_conv_forward"):
        mine = getattr(type(layer), method, None)
        if mine is not None and not str(mine.__module__).startswith("torch."):
            return True
    return False


def hooked(layer: nn.Module) -> bool:
    """Whether somebody watches the layer's input or output."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def short_name(layer: nn.Module) -> str:
    """The name of its class."""
    return type(layer).__name__


def as_tuple(size: Any) -> tuple[Any, ...]:
    """A size that torch takes as a number or as one per dimension, as the latter."""
    return tuple(size) if isinstance(size, (tuple, list)) else (size,)


def extent(size: Any) -> str:
    """(1, 8) as "1x8"."""
    return "x".join(str(s) for s in as_tuple(size))
