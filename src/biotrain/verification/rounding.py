# SPDX-License-Identifier: Apache-2.0
"""What rounding can do to a network: kinks within its reach, and random rounding.

One float32 error of torch is one draw; where torch was lucky, four times that draw is no bar.
Random rounding draws others: every result of an operation, forward and backward, is multiplied by
1 + u eps / 2 with u uniform in [-1, 1), which is the least that keeping it in float32 does (Monte
Carlo arithmetic: D. S. Parker, *Monte Carlo Arithmetic*, UCLA CSD-970002, 1997).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

EPS = float(np.finfo(np.float32).eps)
FLOOR = 16 * EPS
"""The lowest bar: a lower one would ask more than float32 can give. An activation that is closer to
a kink than that, as a part of its tensor's largest, counts as at the kink."""

_AT_ZERO = ("relu", "relu_", "leaky_relu", "leaky_relu_", "abs", "threshold")


def _name(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")


def _near(x: torch.Tensor, kink: float) -> torch.Tensor:
    """Where x lies within rounding of the kink."""
    return (x - kink).abs() < FLOOR * x.abs().max()


class Kinks(TorchDispatchMode):
    """Counts activations that lie within rounding of a point where the function has no gradient."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _name(func)
        if name in _AT_ZERO:
            self.count += int(_near(args[0], 0.0).sum())
        elif name in ("hardtanh", "clamp", "clamp_min", "clamp_max"):
            for limit in args[1:]:
                if isinstance(limit, (int, float)):
                    self.count += int(_near(args[0], float(limit)).sum())
        elif name == "max_pool2d_with_indices":
            self.count += _ties(*args)
        return func(*args, **(kwargs or {}))


def _ties(
    x: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> int:
    """Windows of a max pool whose two largest values lie within rounding of each other."""
    size, pad, gap = _pair(kernel), _pair(padding), _pair(dilation)
    step = _pair(stride) if stride else size
    if size == (1, 1):
        return 0
    # A window that only ceil_mode adds reaches past the end by less than a step.
    more = [p + (s - 1 if ceil_mode else 0) for p, s in zip(pad, step, strict=True)]
    sides = (pad[1], more[1], pad[0], more[0])
    padded = torch.nn.functional.pad(x, sides, value=-torch.inf).reshape(1, -1, *_behind(x, sides))
    channels = padded.shape[1]
    windows = torch.nn.functional.unfold(padded, size, dilation=gap, stride=step)
    top = windows.unflatten(1, (channels, -1)).topk(2, 2).values
    apart = top[:, :, 0] - top[:, :, 1]
    # Equal zeros of a ReLU do not matter; the distance from padding is infinite, or no number.
    return int(((apart > 0) & (apart < FLOOR * x.abs().max())).sum())


def _behind(x: torch.Tensor, sides: Sequence[int]) -> tuple[int, int]:
    """Height and width of x with so many values more to the left, right, top and bottom."""
    return x.shape[-2] + sides[2] + sides[3], x.shape[-1] + sides[0] + sides[1]


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    both = [size] if isinstance(size, int) else list(size)
    return both[0], both[-1]


class RandomRounding(TorchDispatchMode):
    """Rounds every floating-point result at random; views and changes in place stay as they are."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = generator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if any(r.alias_info is not None for r in func._schema.returns):
            return results
        if isinstance(results, (tuple, list)):
            return type(results)(map(self._rounded, results))
        return self._rounded(results)

    def _rounded(self, x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            return x
        u = 2 * torch.rand(x.shape, generator=self.generator, dtype=x.dtype) - 1
        return x * (1 + EPS / 2 * u)


class OtherSide(TorchDispatchMode):
    """Puts what lies within rounding of a kink on the other side of it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _name(func)
        if name in ("leaky_relu_backward", "hardtanh_backward"):
            x = args[1]
            for kink in [0.0] if name.startswith("leaky") else args[2:4]:
                x = torch.where(_near(args[1], kink), 2 * kink - args[1], x)
            args = (args[0], x, *args[2:])
        if name not in ("relu", "relu_"):
            return func(*args, **(kwargs or {}))
        x = args[0]  # the gradient of a ReLU is taken where its result is above 0
        other = (x <= 0) * torch.finfo(x.dtype).tiny
        passed = torch.where(_near(x, 0.0), other, x.clamp(min=0))
        return x.copy_(passed) if name == "relu_" else passed
