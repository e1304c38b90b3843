# SPDX-License-Identifier: Apache-2.0
"""Copies of torch modules, of those too that hold a tensor which a forward pass has computed."""

import copy
from typing import TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module) -> Module:
    """A deep copy of a module.

    torch copies no tensor that was computed from parameters. What a forward pass has left in an
    attribute or buffer (a map of attention, say) is copied as numbers: the next one writes it anew.
    """
    memo: dict[int, object] = {}
    for part in module.modules():
        for value in (*vars(part).values(), list(part._buffers.values())):
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, Tensor) and not tensor.is_leaf:
                    memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(module, memo)
