# SPDX-License-Identifier: Apache-2.0
"""Firmware on the RTL of CV32E40P, clock by clock: every cycle is a cycle of the core.

`verilated.py` turns the core's SystemVerilog into C++, and `cv32e40p/bench.cpp` gives it memories
that answer in the next cycle, as tightly coupled ones do. The library is built once, in about a
minute.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from biotrain.errors import EmulatorError
from biotrain.run.cv32e40p_cycles import Fpu, instruction_length
from biotrain.run.elf import Elf
from biotrain.run.machine import Machine
from biotrain.run.verilated import Bench, Top, library

BENCH = Path(__file__).parent / "cv32e40p"
MEMORIES = ((0x00000000, 1 << 20), (0x20000000, 16 << 20))
"""Origin and bytes of flash and RAM, where the caller gives no others."""
MAX_CYCLES = 2_000_000_000
"""Cycles of one run at most; the simulation takes more than an hour for them."""
INTERRUPTIBLE_CYCLES = 1 << 20
"""Cycles between two chances to interrupt a run."""

TRAPS = {0: "a fetch at an odd address", 1: "a fetch fault", 2: "an illegal instruction"}
TRAPS |= {3: "ebreak", 8: "ecall", 11: "ecall"}
"""mcause, RISC-V privileged architecture table 3.6."""


class RtlMachine(Machine):
    """CV32E40P with the firmware of an ELF in its memories, held in reset until the first run."""

    name = "rtl"

    def __init__(
        self,
        elf: Path,
        command_address: int,
        idle_address: int,
        memories: Sequence[tuple[int, int]] = MEMORIES,
        max_cycles: int = MAX_CYCLES,
        fpu: Fpu | None = None,
    ) -> None:
        """Load the ELF.

        `command_address`: the word that the firmware waits for. `idle_address`: the function that
        it calls while it waits; the firmware waits when this is executed with the word at 0.
        `memories`: origin and bytes of each. `max_cycles`: of one run.
        """
        self._core: int | None = None
        self._library = _load(fpu or Fpu())
        self._command = command_address
        self._idle = idle_address
        self._max_cycles = max_cycles
        self._profile: Profile | None = None
        image = Elf(elf)
        if image.entry % 4:
            raise EmulatorError(f"{elf.name} starts at {image.entry:#x}, not on a whole word")
        self._core = self._library.bt_rtl_new(image.entry)
        for origin, size in memories:
            if origin % 4 or size % 4:
                raise EmulatorError(f"memory of {size} bytes at {origin:#x}: not whole words")
            self._library.bt_rtl_add(self._core, origin, size)
        for segment in image.segments:
            self.write(segment.address, segment.data)

    def read(self, address: int, count: int) -> bytes:
        buffer = ctypes.create_string_buffer(count)
        if not self._library.bt_rtl_read(self._handle(), address, count, buffer):
            raise EmulatorError(f"cannot read {count} bytes at {address:#010x}: no memory there")
        return buffer.raw

    def write(self, address: int, data: bytes) -> None:
        if not self._library.bt_rtl_write(self._handle(), address, len(data), bytes(data)):
            raise EmulatorError(
                f"cannot write {len(data)} bytes at {address:#010x}: no memory there"
            )

    def run(self) -> None:
        library, core = self._library, self._handle()
        why, left = 1, self._max_cycles
        while why == 1 and left > 0:
            why = library.bt_rtl_run(
                core, self._command, self._idle, min(INTERRUPTIBLE_CYCLES, left)
            )
            left -= INTERRUPTIBLE_CYCLES
        if why == 0:
            return
        address = library.bt_rtl_stop_address(core)
        cause = library.bt_rtl_stop_cause(core)
        what = {
            1: f"it did not wait after {self._max_cycles} cycles",
            2: f"a load at {address:#010x}, outside the memories",
            3: f"a store at {address:#010x}, outside the memories",
            4: TRAPS.get(cause, f"a trap of cause {cause}"),
            5: "wfi, and nothing wakes the core",
            6: "code outside the memories",
        }[why]
        pc = library.bt_rtl_stop_pc(core)
        raise EmulatorError(f"the firmware stopped at {pc:#010x}: {what}")

    def close(self) -> None:
        if self._core is not None:
            self._library.bt_rtl_delete(self._core)
            self._core = None

    def __del__(self) -> None:
        with suppress(AttributeError):  # where loading the library failed
            self.close()

    @property
    def instructions(self) -> int:
        return int(self._library.bt_rtl_instructions(self._handle()))

    @property
    def cycles(self) -> int:
        return int(self._library.bt_rtl_cycles(self._handle()))

    def profile(self, origin: int, size: int) -> Profile:
        """Count from now on per instruction what runs in `size` bytes of code at `origin`."""
        arrays = [np.zeros(size // 2, np.uint64) for _ in range(3)]
        self._library.bt_rtl_profile(
            self._handle(), origin, size, *(array.ctypes.data for array in arrays)
        )
        self._profile = Profile(origin, *arrays)  # held: the bench writes into its arrays
        return self._profile

    def _handle(self) -> int:
        if self._core is None:
            raise EmulatorError("the machine is closed")
        return self._core


@dataclass(frozen=True)
class Profile:
    """What was executed, per half-word of code.

    A cycle counts for the instruction that was issued last: a taken branch pays for the pipeline
    that it empties, a load for the wait of the instruction that uses it at once.
    """

    origin: int
    executed: npt.NDArray[np.uint64]
    taken: npt.NDArray[np.uint64]
    """How often another instruction than the one behind it came next."""
    cycles: npt.NDArray[np.uint64]

    def cycles_of(self, address: int, size: int) -> int:
        """Cycles of the instructions in `size` bytes of code at `address`."""
        first = (address - self.origin) // 2
        return int(self.cycles[first : first + size // 2].sum())

    def blocks(self, code: bytes) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]]:
        """Executed blocks and how often each was left by a jump, as `Histogram` tells them.

        `code`: the profiled bytes. Control enters a block at its first instruction only.
        """
        blocks: dict[tuple[int, int], int] = {}
        taken: dict[tuple[int, int], int] = {}
        running: list[tuple[int, int]] = []  # start and entries of the blocks not left yet
        at = 0
        while at < len(code):
            entries = int(self.executed[at // 2]) - sum(count for _, count in running)
            if entries > 0:
                running.append((at, entries))
            end = at + instruction_length(code, at)
            left = int(self.taken[at // 2])
            after = int(self.executed[end // 2]) if end < len(code) else 0
            if left or after < sum(count for _, count in running):
                for start, count in running:
                    key = (self.origin + start, end - start)
                    blocks[key] = count
                    taken[key] = share = min(left, count)
                    left -= share
                running = []
            at = end
        return blocks, taken


@lru_cache
def _load(fpu: Fpu) -> ctypes.CDLL:
    library = ctypes.CDLL(str(build(fpu)))
    machine, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    for name, result, arguments in (
        ("new", machine, (u32,)),
        ("delete", None, (machine,)),
        ("add", None, (machine, u32, u32)),
        ("read", integer, (machine, u32, u32, pointer)),
        ("write", integer, (machine, u32, u32, ctypes.c_char_p)),
        ("profile", None, (machine, u32, u32, pointer, pointer, pointer)),
        ("run", integer, (machine, u32, u32, u64)),
        ("cycles", u64, (machine,)),
        ("instructions", u64, (machine,)),
        ("stop_pc", u32, (machine,)),
        ("stop_address", u32, (machine,)),
        ("stop_cause", u32, (machine,)),
    ):
        function = getattr(library, f"bt_rtl_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def build(fpu: Fpu | None = None) -> Path:
    """The library of the core, built or from the cache.

    Raises
    ------
    CompilerError
        where verilator, the RTL or a C++ compiler is missing, or one of them refuses.
    """
    fpu = fpu or Fpu()
    core = Top(
        "biotrain_core",
        (
            f"-GADDMUL_LATENCY={fpu.addmul}",
            f"-GOTHERS_LATENCY={fpu.others}",
            f"-GZFINX={int(fpu.zfinx)}",
        ),
    )
    return library(Bench(BENCH / "core.sv", (core,), BENCH / "bench.cpp"))
