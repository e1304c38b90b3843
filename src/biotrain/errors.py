# SPDX-License-Identifier: Apache-2.0
"""Errors that a person can act on: one line with what was wrong, where, and what to do."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class BioTrainError(Exception):
    """Base of every error raised on purpose; the command line prints it as one line."""

    exit_code = 2


class CaptureError(BioTrainError):
    """The torch module cannot be turned into a graph (unknown op, unsupported argument)."""


class GraphError(BioTrainError):
    """A graph violates an invariant of the intermediate representation."""


class DoesNotFitError(BioTrainError):
    """No plan stays within the budget (RAM, deadline, energy) or the memory of the target."""


class CompilerError(BioTrainError):
    """No C compiler was found, or it refused the generated C."""


class DeviceError(BioTrainError):
    """The device returned a status other than BT_OK; the weights are as they were."""

    def __init__(self, message: str, status: int = -1) -> None:
        super().__init__(message)
        self.status = status


class EmulatorError(BioTrainError):
    """Emulated firmware faulted, left its memories, or did not come to an end."""


class CheckpointError(BioTrainError):
    """A checkpoint is truncated, corrupt, or belongs to another model; nothing was loaded."""


MOST_SHOWN = 80
"""Characters of a wrong value that a message repeats."""


def shown(value: object) -> str:
    """A value of the user's in a message: its `repr`, cut where it is long or nests too deeply."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # ValueError: a number of more digits than Python prints
        return f"a {type(value).__name__}"
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 4]} ..."


@contextmanager
def users_code(name: str) -> Iterator[None]:
    """Where code of the user runs, a factory or a module called `name`: what it raises, or that it
    ends the process, becomes one line with the place in its source."""
    try:
        yield
    except (BioTrainError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        said = str(error).strip().partition("\n")[0]
        kind = type(error).__name__
        where = f"{frame.filename}, line {frame.lineno}"
        raise BioTrainError(
            f"'{name}' raised {kind}{': ' if said else ''}{said} ({where})"
        ) from error
