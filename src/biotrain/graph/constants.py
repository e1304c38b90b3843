# SPDX-License-Identifier: Apache-2.0
"""What depends neither on the input nor on parameters, evaluated once by torch in float64.

Position tables, masks, index arithmetic, windows, filter banks and their transforms: all of that is
computed while a network is captured and becomes a constant of the graph, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

WIDE = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
}
"""The type in which a constant of each type is computed."""

RANDOM = (
    "rand",
    "rand_like",
    "randn",
    "randn_like",
    "randint",
    "randint_like",
    "randperm",
    "normal",
    "normal_",
    "uniform",
    "uniform_",
    "bernoulli",
    "bernoulli_",
    "multinomial",
    "exponential_",
    "cauchy_",
    "geometric_",
    "log_normal_",
    "rrelu",
    "rrelu_with_noise",
)
"""Functions that draw random numbers: no constant."""


class Constants:
    """The constants of a graph while it is captured.

    A constant is a torch tensor on the CPU. It becomes a value of the graph where an op reads it
    that reads other things too.
    """

    def __init__(self) -> None:
        self._folded: dict[int, None] = {}
        self._held: dict[int, torch.Tensor] = {}

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the state dict as a constant that may be computed with, or written to."""
        wide = tensor.detach().cpu().to(WIDE.get(tensor.dtype, tensor.dtype), copy=True)
        self._held[id(wide)] = wide
        return wide

    def consumed(self, key: int) -> bool:
        """Whether another constant was computed from the one with this `id`."""
        return key in self._folded

    def evaluate(
        self, function: Callable[..., Any], args: list[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """The result of a torch function of constants."""
        for value in tensors_in([*args, *kwargs.values()]):
            self._folded[id(value)] = None
        wide = {key: _wide(value) for key, value in kwargs.items()}
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            with torch.no_grad():
                result = function(*map(_wide, args), **wide)
        finally:
            torch.set_default_dtype(before)
        for value in tensors_in(result):
            self._held[id(value)] = value  # ids stay unique while all of them live
        return result


def _wide(value: Any) -> Any:
    """An argument of a function that is evaluated in float64 on the CPU."""
    if isinstance(value, torch.dtype):
        return WIDE.get(value, value)
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors among arguments, those in lists included."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for one in value for t in tensors_in(one)]
    return []
