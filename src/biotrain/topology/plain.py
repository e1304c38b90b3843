# SPDX-License-Identifier: Apache-2.0
"""Weights that are computed from others in every forward pass become weights of their own."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn.utils import parametrize

from biotrain.topology.copies import copied
from biotrain.topology.report import Rewrite
from biotrain.topology.walk import hooked, is_custom, replace_all, short_name

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def plain_weights(net: nn.Module) -> list[Rewrite]:
    """Replace each parametrised tensor of `net` (weight norm, a bound on its norm) by its value, in
    place."""
    rewrites = []
    for path, layer in list(net.named_modules()):
        if not parametrize.is_parametrized(layer):
            continue
        rules = layer.parametrizations.eval()  # a spectral norm would iterate in training
        trained = {
            name: any(t.requires_grad for t in own.parameters(recurse=False))
            for name, own in rules.items()
        }
        values = {name: getattr(layer, name).detach().clone() for name in trained}
        # As parametrize.remove_parametrizations does, but for the tensor's property, which that
        # takes off the class, and so off every copy of the layer.
        del layer.parametrizations
        layer.__class__ = type(layer).__bases__[0]
        for name, own in rules.items():
            setattr(layer, name, nn.Parameter(values[name], requires_grad=trained[name]))
            by = ", ".join(short_name(rule) for rule in own.children())
            where = f"{path}.{name}" if path else name
            effect = "its value is the parameter; nothing computes it anew in every pass"
            lost = "what the parametrisation enforces: training on does not"
            rewrites.append(Rewrite(where, f"parametrised by {by}", "plain", effect, None, lost))
    return rewrites


def apart(net: nn.Module) -> tuple[nn.Module, list[Rewrite]]:
    """`net` with each module that runs two convolutions as one, with the product of their kernels,
    replaced by the two in a row. Recognised by what it computes, not by its name."""
    rewrites: list[Rewrite] = []

    def visit(path: str, layer: nn.Module) -> nn.Module:
        parts = OrderedDict((name, child) for name, child in layer._modules.items() if child)
        convs = list(parts.values())
        if len(convs) != 2 or not is_custom(layer) or hooked(layer):
            return layer
        first, second = convs
        if not (isinstance(first, _CONVS) and type(first) is type(second)):
            return layer
        if dict(layer.named_parameters(recurse=False)) or not _equal(layer, first, second):
            return layer
        new = nn.Sequential(parts)
        new.training = layer.training
        after = f"{short_name(first)}, {short_name(second)}"
        effect = "one after the other: no kernel is multiplied out in every pass"
        rewrites.append(Rewrite(path, short_name(layer), after, effect))
        return new

    return replace_all(net, visit), rewrites


def _equal(layer: nn.Module, first: nn.Module, second: nn.Module) -> bool:
    """Whether `layer` gives what `first` and then `second` give, on noise in float64."""
    assert isinstance(first, _CONVS) and isinstance(second, _CONVS)
    sizes = [
        (a - 1) * d + (b - 1) * e * s + 4
        for a, d, b, e, s in zip(
            first.kernel_size,
            first.dilation,
            second.kernel_size,
            second.dilation,
            first.stride,
            strict=True,
        )
    ]
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(1, first.in_channels, *sizes, generator=draw, dtype=torch.float64)
    probe, one, other = (copied(part).double().eval() for part in (layer, first, second))
    with torch.no_grad():
        try:
            found, wanted = probe(noise), other(one(noise))
        except Exception:  # whatever a forward of the user's own objects to
            return False
    if not isinstance(found, torch.Tensor):
        return False
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-9, atol=1e-12)
