# SPDX-License-Identifier: Apache-2.0
"""A machine that runs firmware: its memory is read and written from outside, and it can be run."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Machine(ABC):
    """Firmware on a core, emulated or simulated.

    The firmware waits in a loop for `bt_session.command` to become something else than 0, does
    what it says, and sets it back to 0 (`rt/session.c`). A machine is driven through that word.
    """

    name: str

    @abstractmethod
    def read(self, address: int, count: int) -> bytes:
        """`count` bytes of memory."""

    @abstractmethod
    def write(self, address: int, data: bytes) -> None:
        """Write bytes into memory."""

    @abstractmethod
    def run(self) -> None:
        """Run until the firmware waits for a command.

        Raises
        ------
        EmulatorError
            with the program counter and what happened: a fault, an access outside the memories,
            or too many instructions.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what the machine holds."""

    @property
    def instructions(self) -> int | None:
        """Instructions executed since the start; None where the machine does not count them."""
        return None

    @property
    def cycles(self) -> int | None:
        """Cycles since the start, where the machine knows them."""
        return None
