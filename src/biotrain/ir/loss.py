# SPDX-License-Identifier: Apache-2.0
"""Losses as the user states them; semantics are those of torch, of one window.

The loss of a window is a mean over its elements or steps; a step of the optimizer takes the mean
over its windows. `class_weights` multiply the loss of an element by the weight of its class
(torch's `reduction="none"`): nothing is divided by the sum of the weights, which one window does
not know.

`factor` multiplies a loss, so that several heads can have weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from typing import Any, ClassVar

from biotrain.errors import BioTrainError
from biotrain.ir.graph import Shape


@dataclass(frozen=True)
class Loss:
    """What the losses share."""

    name: ClassVar[str] = ""
    factor: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, (list, tuple)):
                object.__setattr__(self, f.name, tuple(value))
            numbers = value if isinstance(value, (list, tuple)) else (value,)
            if not all(isinstance(v, (bool, int)) or _finite(v) for v in numbers if v is not None):
                raise BioTrainError(f"{self.name}: {f.name} must be a number, not {value!r}")
        self.check()

    def check(self) -> None:
        """Raise `BioTrainError` for settings that are not valid."""

    @property
    def labels(self) -> bool:
        """Whether the target of an element is the number of a class."""
        return False

    def target(self, logits: Shape) -> Shape:
        """Shape of the target of one window: that of the output, without its first axis."""
        return logits[1:]

    @property
    def weights(self) -> tuple[float, ...]:
        """A constant for each class or output; empty: none."""
        return ()

    def check_logits(self, logits: Shape) -> None:
        """Raise `BioTrainError` where the loss does not fit what the network returns."""


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """`torch.nn.functional.cross_entropy` of logits (1, classes) or (1, classes, steps).

    `soft` targets are probabilities of the classes; others are numbers of classes, one for a window
    or one for each step. Elements of class `ignore_index` do not count.
    """

    name: ClassVar[str] = "cross_entropy"
    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    ignore_index: int | None = None
    soft: bool = False

    def check(self) -> None:
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise BioTrainError(f"label_smoothing lies in 0 to 1, not {self.label_smoothing}")
        if any(w < 0.0 for w in self.class_weights):
            raise BioTrainError("class weights are not negative")
        if self.soft and self.ignore_index is not None:
            raise BioTrainError("ignore_index is a class: it does not go with soft labels")

    @property
    def labels(self) -> bool:
        return not self.soft

    def target(self, logits: Shape) -> Shape:
        return logits[1:] if self.soft else logits[2:]

    @property
    def weights(self) -> tuple[float, ...]:
        return self.class_weights

    def check_logits(self, logits: Shape) -> None:
        if len(logits) < 2:
            raise BioTrainError(
                f"cross-entropy needs logits [batch, classes]; the model returns {list(logits)}"
            )
        if self.class_weights and len(self.class_weights) != logits[1]:
            raise BioTrainError(
                f"there are {len(self.class_weights)} class weights for {logits[1]} classes"
            )


@dataclass(frozen=True)
class BCEWithLogits(Loss):
    """`torch.nn.functional.binary_cross_entropy_with_logits`: several labels of 0 to 1.

    `pos_weight`: one number, or one for each output (axis 1).
    """

    name: ClassVar[str] = "bce"
    pos_weight: tuple[float, ...] = ()

    @property
    def weights(self) -> tuple[float, ...]:
        return self.pos_weight

    def check_logits(self, logits: Shape) -> None:
        if len(self.pos_weight) > 1 and self.pos_weight and len(logits) < 2:
            raise BioTrainError("pos_weight needs outputs [batch, labels]")
        if len(self.pos_weight) > 1 and len(self.pos_weight) != logits[1]:
            raise BioTrainError(f"there are {len(self.pos_weight)} pos_weights for {logits[1]}")


@dataclass(frozen=True)
class MSE(Loss):
    """`torch.nn.functional.mse_loss`."""

    name: ClassVar[str] = "mse"


@dataclass(frozen=True)
class L1(Loss):
    """`torch.nn.functional.l1_loss`: the mean absolute error."""

    name: ClassVar[str] = "l1"


@dataclass(frozen=True)
class Huber(Loss):
    """`torch.nn.functional.huber_loss`: d^2 / 2 up to `delta`, delta (|d| - delta / 2) beyond."""

    name: ClassVar[str] = "huber"
    delta: float = 1.0

    def check(self) -> None:
        if not self.delta > 0.0:
            raise BioTrainError(f"delta of the Huber loss is above 0, not {self.delta}")


BY_NAME: Mapping[str, type[Loss]] = {
    kind.name: kind for kind in (CrossEntropy, BCEWithLogits, MSE, L1, Huber)
}


@dataclass(frozen=True)
class Objective:
    """What training minimises: the sum of the losses of all heads.

    `names` are those of a dict of heads. With `sample_weights` every window has a weight, which
    multiplies its loss.
    """

    heads: tuple[Loss, ...] = (CrossEntropy(),)
    names: tuple[str, ...] = ()
    several: bool = False
    """Whether the network returns a tuple or dict."""
    sample_weights: bool = False

    def takes_label(self, logits: Sequence[Shape]) -> bool:
        """Whether the target of a window is one class, handed over as an integer."""
        (first, *more), shape = self.heads, logits[0]
        return first.labels and len(shape) == 2 and not more and not self.sample_weights

    def sizes(self, logits: Sequence[Shape]) -> list[int]:
        """Numbers of the target of a window, head by head."""
        found = []
        for loss, shape in zip(self.heads, logits, strict=True):
            size = 1
            for n in loss.target(shape):
                size *= n
            found.append(size)
        return found


def parse_loss(given: object, sample_weights: bool = False) -> Objective:
    """The objective that a user states: a name (`huber`, `huber:delta=5`), a loss, a torch loss, or
    one of these for each head in a tuple, list or dict.

    Raises `BioTrainError` for anything else.
    """
    if isinstance(given, Objective):
        return replace(given, sample_weights=sample_weights or given.sample_weights)
    if isinstance(given, Mapping):
        heads = tuple(_one(v) for v in given.values())
        return Objective(heads, tuple(map(str, given)), True, sample_weights)
    if isinstance(given, (list, tuple)):
        return Objective(tuple(map(_one, given)), (), True, sample_weights)
    return Objective((_one(given),), (), False, sample_weights)


def _one(given: object) -> Loss:
    if isinstance(given, Loss):
        return given
    if isinstance(given, str):
        return _named(given)
    kind = type(given).__name__
    if kind in _TORCH:
        return _TORCH[kind](given)
    raise BioTrainError(
        f"the loss is one of {', '.join(BY_NAME)}, a loss of biotrain.losses or of torch.nn, "
        f"not {given!r}"
    )


def _named(text: str) -> Loss:
    """`huber:delta=5`, `cross_entropy:class_weights=1/2/3,label_smoothing=0.1`."""
    name, _, rest = text.partition(":")
    if name not in BY_NAME:
        raise BioTrainError(f"the loss is one of {', '.join(BY_NAME)}, not '{text}'")
    kind = BY_NAME[name]
    settings: dict[str, Any] = {}
    known = {f.name: f for f in fields(kind)}
    for part in rest.split(",") if rest else ():
        key, _, value = part.partition("=")
        if key not in known:
            raise BioTrainError(f"{name} has the settings {', '.join(known)}, not '{key}'")
        settings[key] = _value(f"{name}: {key}", known[key].default, value)
    return kind(**settings)


def _value(what: str, default: object, text: str) -> object:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False, "1": True, "0": False, "": True}[text.lower()]
        if isinstance(default, tuple):
            return tuple(float(v) for v in text.split("/"))
        return int(text) if default is None else float(text)
    except (KeyError, ValueError):
        raise BioTrainError(f"{what} is no '{text}'") from None


def _numbers(tensor: Any) -> tuple[float, ...]:
    return () if tensor is None else tuple(float(v) for v in tensor.detach().reshape(-1).tolist())


def _cross_entropy(loss: Any) -> Loss:
    ignored = None if loss.ignore_index == -100 else int(loss.ignore_index)
    smoothing = float(loss.label_smoothing)
    return CrossEntropy(_numbers(loss.weight), smoothing, ignored, **_mean(loss))


def _mean(loss: Any) -> dict[str, Any]:
    if loss.reduction != "mean":
        raise BioTrainError(f"{type(loss).__name__}: the loss of a window is a mean, not a sum")
    return {}


def _bce(loss: Any) -> Loss:
    if loss.weight is not None:
        raise BioTrainError("BCEWithLogitsLoss: weight is not supported, pos_weight is")
    return BCEWithLogits(_numbers(loss.pos_weight), **_mean(loss))


def _smooth(loss: Any) -> Loss:
    beta = float(loss.beta)
    if beta == 0.0:
        return L1(**_mean(loss))
    return Huber(beta, factor=1.0 / beta, **_mean(loss))


_TORCH: Mapping[str, Any] = {
    "CrossEntropyLoss": _cross_entropy,
    "BCEWithLogitsLoss": _bce,
    "MSELoss": lambda loss: MSE(**_mean(loss)),
    "L1Loss": lambda loss: L1(**_mean(loss)),
    "HuberLoss": lambda loss: Huber(float(loss.delta), **_mean(loss)),
    "SmoothL1Loss": _smooth,
}
"""Losses of `torch.nn` by the names of their classes, so that torch need not be there."""
