# SPDX-License-Identifier: Apache-2.0
"""What a linked firmware takes of its target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Footprint:
    """Figures of one ELF, in bytes."""

    compiler: str
    """Name and version."""
    code_bytes: int
    """Instructions and vectors."""
    constant_bytes: int
    """Initial weights, tables, and the initial values of `.data`."""
    context_bytes: int
    """`bt_model`."""
    rest: tuple[tuple[str, int], ...]
    """What else lies in `.data` and `.bss`, by symbol."""
    stack_bytes: int
    """Deepest path of the call graph."""
    stack_path: tuple[str, ...]

    @property
    def flash_bytes(self) -> int:
        """All of the flash."""
        return self.code_bytes + self.constant_bytes

    @property
    def rest_bytes(self) -> int:
        """RAM beside the context and the stack."""
        return sum(size for _, size in self.rest)
