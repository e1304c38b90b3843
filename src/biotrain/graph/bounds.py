# SPDX-License-Identifier: Apache-2.0
"""Bounds that a network keeps by writing to `param.data` in its forward pass, lifted out of it.

`self.w.data = torch.renorm(self.w.data, p=2, dim=0, maxnorm=1.0)` and `self.w.data.clamp_(min=0)`
are no part of a function that can be differentiated, and `torch.export` refuses them. What they
mean is a bound on the parameter: it holds for the weights that the network begins with, and again
behind every step of the optimizer. The forward pass is exported without them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite, prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.overrides import TorchFunctionMode

from biotrain.errors import CaptureError
from biotrain.ir.graph import Attr, Graph
from biotrain.ir.op import Builder

_GET, _SET = torch.Tensor.data.__get__, torch.Tensor.data.__set__  # type: ignore[attr-defined]
MOST_AXES = 8
"""Axes that a parameter may have."""
SUPPORTED = "torch.renorm(p=2), clamp, clamp_min and clamp_max with numbers"


@dataclass(frozen=True, slots=True)
class Bound:
    """What a parameter is kept to: parts along `axis` whose norm is at most `most`, or elements
    from `low` to `high` where `most` is None."""

    axis: int = 0
    most: float | None = None
    low: float = -inf
    high: float = inf

    def apply(self, p: torch.Tensor) -> torch.Tensor:
        """The parameter within the bound."""
        if self.most is not None:
            return torch.renorm(p, 2, self.axis, self.most)
        return p.clamp(self.low, self.high)


Bounds = Mapping[str, tuple[Bound, ...]]
"""What each parameter is kept to, by its name in the module, in the order of application."""


def bounded(
    bounds: Bounds, tensors: dict[str, npt.NDArray[np.float32]], names: Mapping[str, str]
) -> Bounds:
    """The bounds by value name, those of values that there are, with axes counted from the front;
    their initial values, in `tensors`, are put within them. CaptureError for an axis that a
    parameter has not."""
    found: dict[str, tuple[Bound, ...]] = {}
    for value, name in names.items():
        if name not in bounds:
            continue
        rank = tensors[value].ndim
        if any(b.most is not None and not -rank <= b.axis < rank for b in bounds[name]):
            raise CaptureError(f"'{name}' has {rank} axes, and a bound is along another one")
        kept = tuple(b if b.most is None else replace(b, axis=b.axis % rank) for b in bounds[name])
        found[value] = kept
        tensors[value] = within(torch.from_numpy(tensors[value]), kept).numpy()
    return found


def within(p: torch.Tensor, bounds: Sequence[Bound]) -> torch.Tensor:
    """A parameter within all its bounds."""
    for bound in bounds:
        p = bound.apply(p)
    return p


def with_bounds(
    graph: Graph, trainable: Sequence[str], bounds: Bounds, shapes: Mapping[str, Sequence[int]]
) -> Graph:
    """The graph with the bounds of the parameters that are trained, behind all updates.

    `shapes`: of parameters by value name as the module has them; a graph may have the same elements
    under another shape.
    """
    b = Builder(taken=[v.name for v in graph.values()])
    kept = [name for name in trainable if name in bounds]
    for p in (p for name in kept for p in graph.params if p.name == name):
        shape = tuple(shapes[p.name])
        for one in bounds[p.name]:
            if one.most is None:
                attrs: dict[str, Attr] = {"outer": 1, "parts": 1, "inner": p.size}
                attrs |= {"low": one.low, "high": one.high}
                b.emit("clamp_parameter", [], [p], "", shape=p.shape, **attrs)
                continue
            before, along, after = shape[: one.axis], shape[one.axis], shape[one.axis + 1 :]
            attrs = {"outer": prod(before), "parts": along, "inner": prod(after)}
            b.emit("renorm", [], [p], "", shape=p.shape, axis=one.axis, most=one.most, **attrs)
    return replace(graph, updates=(*graph.updates, *b.nodes))


def bounds_in(graph: Graph) -> Bounds:
    """What `with_bounds` has put into a graph."""
    found: dict[str, tuple[Bound, ...]] = {}
    for node in graph.updates:
        if node.op == "renorm":
            one = Bound(axis=node.int("axis"), most=node.float("most"))
        elif node.op == "clamp_parameter":
            one = Bound(low=node.float("low"), high=node.float("high"))
        else:
            continue
        name = node.outputs[0].name
        found[name] = (*found.get(name, ()), one)
    return found


def to_json(bounds: Bounds) -> str:
    """Bounds as text; infinite limits are null."""
    rows = {
        name: [{k: v if isfinite(v or 0.0) else None for k, v in asdict(b).items()} for b in kept]
        for name, kept in bounds.items()
    }
    return json.dumps(rows)


def from_json(text: str | bytes) -> Bounds:
    """What `to_json` wrote; CaptureError for anything else."""
    try:
        rows = json.loads(text)
        return {str(n): tuple(_read(row) for row in kept) for n, kept in rows.items()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise CaptureError(f"its bounds of parameters cannot be read: {error}") from error


def _read(row: Mapping[str, Any]) -> Bound:
    axis, most = row["axis"], row["most"]
    if not isinstance(axis, int) or isinstance(axis, bool) or not 0 <= axis < MOST_AXES:
        raise ValueError(f"axis {axis!r}")
    if most is not None and not 0 < float(most) < inf:
        raise ValueError(f"norm {most!r}")
    low = -inf if row["low"] is None else float(row["low"])
    high = inf if row["high"] is None else float(row["high"])
    if not low <= high:
        raise ValueError(f"limits {low} and {high}")
    return Bound(axis, None if most is None else float(most), low, high)


class _Data:
    """`param.data` while a forward pass is looked at: what is done to it is written down."""

    def __init__(self, mode: Lifted, name: str, steps: tuple[Bound, ...] = ()) -> None:
        self.mode, self.name, self.steps = mode, name, steps

    def __getattr__(self, function: str) -> Callable[..., _Data]:
        return lambda *args, **kwargs: self.after(function, args, kwargs)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        first = args[0] if args else None
        if not isinstance(first, _Data):
            raise _refused(getattr(func, "__name__", "a function"))
        return first.after(func.__name__, tuple(args[1:]), dict(kwargs or {}))

    def after(self, function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Data:
        """The data behind one more function."""
        plain = function.removesuffix("_")
        given = _named(plain, args, kwargs)
        if plain == "renorm" and float(given.get("p", 0)) == 2.0:
            step = Bound(axis=int(given["dim"]), most=float(given["maxnorm"]))
        elif plain in ("clamp", "clip", "clamp_min", "clamp_max"):
            low, high = given.get("min"), given.get("max")
            step = Bound(
                low=-inf if low is None else float(low),
                high=inf if high is None else float(high),
            )
        else:
            raise _refused(function)
        new = _Data(self.mode, self.name, (*self.steps, step))
        if function.endswith("_"):
            self.steps = new.steps
            self.mode.found[self.name] = new.steps
        return new


def _operator(name: str) -> Callable[..., Any]:
    """What an arithmetic operator of `param.data` does."""

    def refuse(self: _Data, *args: object) -> Any:
        raise _refused(name.strip("_"))

    return refuse


for _name in ("add", "sub", "mul", "truediv", "pow", "matmul", "neg", "getitem", "setitem"):
    for _form in (f"__{_name}__", f"__r{_name}__", f"__i{_name}__"):
        setattr(_Data, _form, _operator(_form))


_NAMES: dict[str, tuple[str, ...]] = {
    "renorm": ("p", "dim", "maxnorm"),
    "clamp": ("min", "max"),
    "clip": ("min", "max"),
    "clamp_min": ("min",),
    "clamp_max": ("max",),
}


def _named(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a function by name; numbers only."""
    given = {**dict(zip(_NAMES.get(function, ()), args, strict=False)), **kwargs}
    if any(isinstance(v, (torch.Tensor, _Data)) for v in given.values()):
        raise _refused(function)
    return given


def _refused(function: str) -> CaptureError:
    return CaptureError(
        f"the forward pass changes a parameter's data by '{function}'; what a device can keep to "
        f"behind every step is {SUPPORTED}"
    )


class Lifted(TorchFunctionMode):
    """Runs a module's forward pass without its writes to the data of its parameters, and collects
    what they bound."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._module = module
        self.found: dict[str, tuple[Bound, ...]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func == _GET and (name := self._name(args[0])) is not None:
            return _Data(self, name)
        if func == _SET and (name := self._name(args[0])) is not None:
            value = args[1]
            if not isinstance(value, _Data) or value.name != name:
                raise _refused("an assignment of another tensor")
            self.found[name] = value.steps
            return None
        if any(isinstance(a, _Data) for a in args):
            return _Data.__torch_function__(func, types, args, kwargs)
        return func(*args, **dict(kwargs or {}))

    def _name(self, tensor: object) -> str | None:
        """The name of a parameter of the module."""
        return next((n for n, p in self._module.named_parameters() if p is tensor), None)
