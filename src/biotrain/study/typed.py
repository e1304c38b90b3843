# SPDX-License-Identifier: Apache-2.0
"""A dataclass from JSON that somebody may have edited or cut: every key and type is checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def strict_json(text: str | bytes) -> Any:
    """The value of a JSON text without NaN and infinity; ValueError where it is none, nests too
    deeply for Python, or holds a number of more digits than Python takes."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def typed(kind: type[T], given: object, where: str = "") -> T:
    """The dataclass `kind` with the fields that `given` has; others have their defaults, and keys
    that are unknown are left out, so that files of other versions can be read.

    Raises ValueError, naming the place below `where`, for a value of another type, a field that is
    missing, and a number that is not finite.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where or 'it'} is no table")
    hints = get_type_hints(kind)
    prefix = f"{where}." if where else ""
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]  # a dataclass
        if field.name in given:
            name = f"{prefix}{field.name}"
            values[field.name] = _value(given[field.name], hints[field.name], name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{prefix}{field.name} is missing")
    return kind(**values)


def _value(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`; lists become tuples where that is the type."""
    if hint is Any:
        return value
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal and value in inside and type(value) is type(inside[0]):
        return value
    if origin in (UnionType, Union):  # `Literal[...] | None` is the older of the two
        if value is None and type(None) in inside:
            return None
        return _first([one for one in inside if one is not type(None)], value, where)
    if origin in (tuple, list) and isinstance(value, list | tuple):
        return origin(_value(v, inside[0], f"{where}[{k}]") for k, v in enumerate(value))
    if origin is dict and isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {k: _value(v, inside[1], f"{where}.{k}") for k, v in value.items()}
    if is_dataclass(hint) and isinstance(hint, type):
        return typed(hint, value, where)
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint in (str, int, bool) and type(value) is hint:
        return value
    raise ValueError(f"{where} is no {getattr(hint, '__name__', hint)}")


def _first(kinds: list[Any], value: Any, where: str) -> Any:
    """`value` as the first of several types that it has."""
    problem: ValueError | None = None
    for kind in kinds:
        try:
            return _value(value, kind, where)
        except ValueError as error:
            problem = problem or error
    assert problem is not None
    raise problem
