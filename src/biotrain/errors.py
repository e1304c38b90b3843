# SPDX-License-Identifier: Apache-2.0
"""Errors that a person can act on: one line with what was wrong, where, and what to do."""

from __future__ import annotations


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
