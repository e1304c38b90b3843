# SPDX-License-Identifier: Apache-2.0
"""Topology rewrites: any torch module -> a torch module that a microcontroller can train.

BatchNorm -> GroupNorm (or frozen), MaxPool -> AvgPool, dropout removed, zero padding folded into
the convolution behind it. `prepare` works on a copy; `report` tells what changed, what it saves and
what was lost. Rewrites look at submodules only: an operation called as a function inside a
`forward` (`F.dropout`, `F.max_pool2d`) is out of their reach and is left to the compiler.
"""

from typing import Any

from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy

from biotrain.topology.copies import copied
from biotrain.topology.given import network_of
from biotrain.topology.layers import rewrite_layer
from biotrain.topology.padding import fold_padding
from biotrain.topology.plain import apart, plain_weights
from biotrain.topology.report import ATTRIBUTE, Report, Rewrite, report
from biotrain.topology.walk import Size, measure, replace_all, run_copy

__all__ = ["NORMS", "POOLS", "Report", "Rewrite", "network_of", "prepare", "report"]

NORMS = ("group", "batch", "frozen", "keep")
POOLS = ("keep", "avg")


def prepare(
    module: nn.Module,
    *,
    norm: str = "group",
    groups: int = 1,
    pool: str = "keep",
    example_input: Tensor | tuple[Any, ...] | None = None,
) -> nn.Module:
    """A copy of `module` that a device can train; `module` itself stays as it is. A fitted or
    initialised skorch estimator (braindecode's `EEGClassifier`) stands for its `module_`.

    norm:
        "group": BatchNorm -> GroupNorm(groups), eps kept. One sample at a time can be trained. The
            running statistics, which GroupNorm has not, are folded into weight and bias so that a
            sample whose own statistics equal the running ones passes as it did in eval mode:
            weight' = weight S / sqrt(var + eps), bias' = bias + weight (M - mean) / sqrt(var + eps)
            with M = mean of `mean` over the group, S^2 = mean of var + (mean - M)^2, + eps.
            An untrained BatchNorm (mean 0, var 1) keeps its weight and bias bit for bit.
        "frozen": BatchNorm kept, statistics fixed even under `.train()`; weight and bias train.
        "batch": BatchNorm kept as it is; the report says what that costs.
        "keep": norms are not looked at.
    groups: groups of each GroupNorm; must divide the channels of every BatchNorm.
    pool: "avg" turns max pools into average pools of the same geometry; "keep" leaves them.
    example_input: one input, or the tuple of arguments, float [batch, ...]. It is run through the
        module (eval mode, no gradient) to measure `bytes_saved` and to check each folded padding.

    Dropout is always removed, and zero padding folded where a convolution's own padding can say the
    same. A parametrised weight (weight norm, max norm) becomes its value, and a module that runs
    two convolutions as one becomes the two. A module that is used twice is replaced once, for all
    its uses. Hooks of a replaced layer go with it. Rewrites of a module that was prepared before
    are added to its report.

    Raises:
        ValueError: an unknown option; `groups` that does not divide a layer's channels; a module
            that cannot be copied; an uninitialised lazy layer; "frozen" without running statistics;
            a module that no longer runs on `example_input` after the rewrites.
    """
    module = network_of(module)
    _check(module, norm, groups, pool)
    try:
        net = copied(module)
    except RuntimeError as error:
        raise ValueError(f"{type(module).__name__} cannot be copied: {error}") from error

    rewrites = plain_weights(net)
    net, split = apart(net)
    rewrites += split
    inputs = None
    if example_input is not None:
        inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    sizes = None if inputs is None else measure(net, inputs)

    def visit(path: str, layer: nn.Module) -> nn.Module:
        size = None if sizes is None else sizes.get(path, Size())
        new, rewrite = rewrite_layer(path, layer, norm, groups, pool, size)
        if rewrite is not None:
            rewrites.append(rewrite)
        return new

    net = replace_all(net, visit)
    rewrites += fold_padding(net, inputs, sizes)
    if inputs is not None:
        try:
            run_copy(net, inputs)
        except Exception as error:
            raise ValueError(
                f"{type(module).__name__} no longer runs on the example input after its rewrites "
                f"(does its forward read attributes of a replaced layer?): {error}"
            ) from error
    setattr(net, ATTRIBUTE, Report(report(module).rewrites + tuple(rewrites)))
    return net


def _check(module: nn.Module, norm: str, groups: int, pool: str) -> None:
    """Raise ValueError for what `prepare` cannot take."""
    if not isinstance(module, nn.Module) or isinstance(module, ScriptModule):
        raise ValueError(
            f"prepare takes a torch module written in Python, not a {type(module).__name__}"
        )
    if norm not in NORMS:
        raise ValueError(f'norm must be one of {", ".join(NORMS)}, not "{norm}"')
    if pool not in POOLS:
        raise ValueError(f'pool must be one of {", ".join(POOLS)}, not "{pool}"')
    if groups < 1:
        raise ValueError(f"groups must be at least 1, not {groups}")
    for path, layer in module.named_modules():
        if any(is_lazy(t) for t in (*layer._parameters.values(), *layer._buffers.values())):
            raise ValueError(
                f"{path or 'the module'}: a lazy layer has no shape yet; run the module once first"
            )
