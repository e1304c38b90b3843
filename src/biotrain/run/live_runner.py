# SPDX-License-Identifier: Apache-2.0
"""Where the live firmware runs behind its mailbox: in this process, or in the emulator."""

from __future__ import annotations

import ctypes
import struct
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from biotrain.emit import RUNTIME
from biotrain.emit.build import Build
from biotrain.run.compiler import further_flags, shared_library
from biotrain.run.host import OPTIMISED
from biotrain.run.live_box import COMMANDS, box, layout_header
from biotrain.targets.layout import Struct

if TYPE_CHECKING:
    from biotrain.run.elf import Elf
    from biotrain.run.emulator import EmulatorMachine


def live_files(build: Build) -> dict[str, str]:
    """The C of a live package with the mailbox around it."""
    files = {name: text for name, text in build.files.items() if name.endswith((".c", ".h"))}
    for name in ("live_box.c", "sim_flash.h"):
        files[name] = (RUNTIME / name).read_text(encoding="utf-8")
    files["live_box_layout.h"] = layout_header(build.live_context)
    return files


class Runner(ABC):
    """Memory that the C works in, and a way to run a command of the mailbox."""

    on: str
    pointer: int
    """Bytes of a pointer."""
    box: int
    """Address of the mailbox."""

    def __init__(self, build: Build) -> None:
        self._struct: Struct = box(build.live_context)
        self._found: dict[str, tuple[int, np.dtype[np.generic]]] = {}

    @abstractmethod
    def take(self, size: int) -> int:
        """Address of so many new bytes."""

    @abstractmethod
    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of memory."""

    @abstractmethod
    def write(self, address: int, data: bytes) -> None:
        """Write bytes into memory."""

    @abstractmethod
    def run(self, command: int) -> None:
        """Run a command of the mailbox to its end."""

    def do(self, command: str) -> int:
        """Run one of `COMMANDS`; returns its result."""
        self.run(COMMANDS.number(command))
        return int(self.get("result"))

    def address(self, path: str) -> int:
        """Address of a member of the mailbox, or of a member of members: `live.record.epoch`."""
        return self._find(path)[0]

    def get(self, path: str) -> Any:
        """The value of a member; of a struct a tuple-like record with its members as fields."""
        address, kind = self._find(path)
        return np.frombuffer(self.read(address, kind.itemsize), kind)[0]

    def put(self, path: str, value: float) -> None:
        """Overwrite a member that is a number."""
        address, kind = self._find(path)
        self.write(address, np.asarray(value, kind).tobytes())

    def _find(self, path: str) -> tuple[int, np.dtype[np.generic]]:
        """Address and numpy type of a member; remembered, for some are read after every frame."""
        if path not in self._found:
            kind = self._struct.member(path).kind.dtype(self.pointer)
            self._found[path] = self.box + self._struct.offset(path, self.pointer), kind
        return self._found[path]


class HostRunner(Runner):
    """A shared library in this process."""

    on, pointer = "host", 8

    def __init__(self, build: Build) -> None:
        super().__init__(build)
        flags = (*OPTIMISED, *further_flags(), "-DBT_LIVE_HOSTED")
        library = shared_library(live_files(build), flags)
        self._c = ctypes.CDLL(str(library))
        self._c.bt_live_box_bytes.restype = ctypes.c_size_t
        self._held: list[npt.NDArray[np.uint64]] = []
        self.box = self.take(int(self._c.bt_live_box_bytes()))

    def take(self, size: int) -> int:
        self._held.append(np.zeros(size // 8 + 8, np.uint64))
        return int(self._held[-1].ctypes.data)

    def read(self, address: int, size: int) -> bytes:
        return ctypes.string_at(address, size)

    def write(self, address: int, data: bytes) -> None:
        ctypes.memmove(address, data, len(data))

    def run(self, command: int) -> None:
        self.write(self.box, struct.pack("<I", command))
        self._c.bt_live_do(ctypes.c_void_p(self.box))


class EmulatorRunner(Runner):
    """Firmware of the target in unicorn, with memory beside its own."""

    on, pointer = "emulator", 4

    def __init__(self, build: Build, flash_bytes: int) -> None:
        """`flash_bytes`: of the simulated flash, which lies in that memory."""
        from biotrain.run.elf import Elf
        from biotrain.run.emulator import SLOT, EmulatorMachine
        from biotrain.run.firmware import build as build_firmware
        from biotrain.run.firmware import linker_script, memories, start_files
        from biotrain.targets.target import Memory

        super().__init__(build)
        target = build.target
        flash, ram = memories(target)
        files = live_files(build) | start_files(target)
        elf = build_firmware(files, target, linker_script(target, flash, ram))
        size = 3 * flash_bytes + (1 << 20)
        regions = (flash, ram, Memory("slot", size, SLOT))
        self.machine: EmulatorMachine = EmulatorMachine(elf, target, regions)
        self.elf: Elf = Elf(elf)
        self.box = self.elf.symbol("live_box")[0]
        self._next = SLOT
        self.machine.run()

    def take(self, size: int) -> int:
        at = self._next
        self._next += -(-size // 64) * 64
        return at

    def read(self, address: int, size: int) -> bytes:
        return self.machine.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        self.machine.write(address, data)

    def run(self, command: int) -> None:
        self.write(self.box, struct.pack("<I", command))
        self.machine.run()
