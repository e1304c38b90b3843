# SPDX-License-Identifier: Apache-2.0
"""How a verb takes options that are the fields of dataclasses."""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any, get_type_hints

from biotrain.errors import BioTrainError

LARGEST = 2**31 - 1
"""Largest whole number that an option takes: counts in the C have 32 bits."""


class ReaderGone(Exception):
    """The reader of standard output (head, less) has closed it."""


def _spelling(parameter: inspect.Parameter) -> str:
    """How an option is written on the command line; an argument by its name."""
    for told in getattr(parameter.annotation, "__metadata__", ()):
        spelled = [name for name in getattr(told, "param_decls", None) or () if name[:2] == "--"]
        if spelled:
            return str(spelled[0])
    return f"--{parameter.name.replace('_', '-')}"


def _check_value(name: str, value: object) -> None:
    """Raise BioTrainError for a value that no option has a use for."""
    for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, float) and not isfinite(one):
            raise BioTrainError(f"{name} is a number, not {one}")
        if isinstance(one, int) and abs(one) > LARGEST:
            raise BioTrainError(f"{name} is at most {LARGEST:,}")
        if isinstance(one, str | Path) and "\0" in str(one):
            raise BioTrainError(f"{name} holds a NUL character")


def options(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter of `verb` that is a dataclass by the options that are its fields."""
    signature = inspect.signature(verb, eval_str=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        group = parameter.annotation
        if not is_dataclass(group):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = group
        hints = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name]
            )
            for f in fields(group)
        ]

    said = {p.name: _spelling(p) for p in parameters}

    def call(**given: Any) -> None:
        for name, value in given.items():
            _check_value(said[name], value)
        for name, group in groups.items():
            given[name] = group(**{f.name: given.pop(f.name) for f in fields(group)})
        try:
            verb(**given)
        except BrokenPipeError as error:  # typer would exit with 1, which means a failed check
            raise ReaderGone from error

    call.__name__, call.__doc__, call.__module__ = verb.__name__, verb.__doc__, verb.__module__
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call
