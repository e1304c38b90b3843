# SPDX-License-Identifier: Apache-2.0
"""Firmware on the cluster, clock by clock: every cycle of every core, and what it went into.

Cores and FPUs are RTL (`core.sv`), verilated once each; memories, arbitration, caches, DMA and
barrier are C++ beside them (`parts.hpp`, `cache.hpp`, `dma.hpp`, `cluster.hpp`). The library is
built once, in about a minute, and simulates some 300 000 core cycles a second.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from pathlib import Path

from biotrain.errors import EmulatorError
from biotrain.run.cluster.settings import REASONS, ClusterSettings
from biotrain.run.cv32e40p_cycles import Fpu
from biotrain.run.elf import Elf
from biotrain.run.machine import Machine
from biotrain.run.rtl import INTERRUPTIBLE_CYCLES, MAX_CYCLES, TRAPS
from biotrain.run.verilated import Bench, Top, library

FOLDER = Path(__file__).parent
MOST_CORES = 8

_STOPS = ("idle", "cycles", "load", "store", "trap", "sleep", "fetch", "finished", "stuck", "dma")
"""`Stop` in cluster.hpp."""


class _Settings(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint32)
        for name in (
            *("cores", "fpus", "l1_bytes", "l1_banks", "l2_bytes", "l2_latency"),
            *("private_bytes", "private_ways", "shared_bytes", "shared_ways", "shared_banks"),
            *("shared_latency", "barrier_latency", "dma_start", "equal_fpu_latencies"),
        )
    ]


class _Mark(ctypes.Structure):
    _fields_ = [
        ("cycle", ctypes.c_uint64),
        ("core", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("spent", ctypes.c_uint64 * len(REASONS) * MOST_CORES),
    ]


@dataclass(frozen=True)
class Spent:
    """Cycles of one core, by what they went into (`REASONS`); they add up to all its cycles."""

    instructions: int = 0
    conflict: int = 0
    l2: int = 0
    icache: int = 0
    fpu: int = 0
    barrier: int = 0
    dma: int = 0
    pipeline: int = 0

    @property
    def cycles(self) -> int:
        """All of them, from reset until the core ended."""
        return sum(astuple(self))

    def __sub__(self, before: Spent) -> Spent:
        return Spent(*(a - b for a, b in zip(astuple(self), astuple(before), strict=True)))

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Mark:
    """A core wrote `value` to the MARK register: the cycle, and what each core's cycles were."""

    value: int
    core: int
    cycle: int
    spent: tuple[Spent, ...]


@dataclass(frozen=True)
class Events:
    """What happened in caches, DMA and at L2's port since the start."""

    private_misses: int
    shared_misses: int
    prefetches: int
    """Lines that private caches fetched ahead."""
    dma_bytes: int
    l2_by_cores: int
    """Accesses of L2's port: by loads and stores, for instructions, by the DMA."""
    l2_by_caches: int
    l2_by_dma: int


class ClusterMachine(Machine):
    """Cores with the firmware of an ELF in their memories, held in reset until the first run."""

    name = "cluster"

    def __init__(
        self,
        elf: Path,
        settings: ClusterSettings | None = None,
        *,
        command_address: int = 0,
        idle_address: int = 0,
        max_cycles: int = MAX_CYCLES,
    ) -> None:
        """Load the ELF.

        `command_address`, `idle_address`: of the word that core 0 waits for and of the function
        that it calls meanwhile (`RtlMachine`); without them a run goes on until all cores ended.
        `max_cycles`: of one run.
        """
        self._cluster: int | None = None
        self.settings = settings or ClusterSettings()
        self._library = _load(self.settings.fpu)
        self._wait = command_address, idle_address
        self._max_cycles = max_cycles
        image = Elf(elf)
        if image.entry % 4:
            raise EmulatorError(f"{elf.name} starts at {image.entry:#x}, not on a whole word")
        self._cluster = self._library.bt_cluster_new(_c_settings(self.settings), image.entry)
        for segment in image.segments:
            self.write(segment.address, segment.data)

    def read(self, address: int, count: int) -> bytes:
        buffer = ctypes.create_string_buffer(count)
        if not self._library.bt_cluster_read(self._handle(), address, count, buffer):
            raise EmulatorError(f"cannot read {count} bytes at {address:#010x}: no memory there")
        return buffer.raw

    def write(self, address: int, data: bytes) -> None:
        if not self._library.bt_cluster_write(self._handle(), address, len(data), bytes(data)):
            raise EmulatorError(
                f"cannot write {len(data)} bytes at {address:#010x}: no memory there"
            )

    def run(self) -> None:
        """Run until all cores have ended, or core 0 waits for a command.

        Raises
        ------
        EmulatorError
            with core, program counter and what happened; where a core ended with an exit code
            other than 0; or where all cores wait for something that cannot come.
        """
        why, left = "cycles", self._max_cycles
        while why == "cycles" and left > 0:
            cycles = min(INTERRUPTIBLE_CYCLES // 8, left)
            why = _STOPS[self._library.bt_cluster_run(self._handle(), *self._wait, cycles)]
            left -= cycles
        if why == "idle":
            return
        if why == "finished":
            for core in range(self.settings.cores):
                if code := self._library.bt_cluster_exit_code(self._handle(), core):
                    raise EmulatorError(f"core {core} ended with exit code {code}")
            return
        raise EmulatorError(self._what(why))

    def _what(self, why: str) -> str:
        """One line on a run that went wrong."""
        four = (ctypes.c_uint32 * 4)()
        self._library.bt_cluster_stop(self._handle(), four)
        core, pc, address, cause = four
        if why == "stuck":
            return "all cores wait at the barrier or for a transfer, and nothing will wake them"
        what = {
            "cycles": f"no end after {self._max_cycles} cycles",
            "load": f"a load at {address:#010x}, outside the memories",
            "store": f"a store at {address:#010x}, outside the memories",
            "trap": TRAPS.get(cause, f"a trap of cause {cause}"),
            "sleep": "wfi, and nothing wakes the core",
            "fetch": "code outside the memories",
            "dma": "a DMA command without bytes, with a byte outside the memories, or without a "
            "number",
        }[why]
        return f"core {core} stopped at {pc:#010x}: {what}"

    def close(self) -> None:
        if self._cluster is not None:
            self._library.bt_cluster_delete(self._cluster)
            self._cluster = None

    def __del__(self) -> None:
        with suppress(AttributeError):  # where loading the library failed
            self.close()

    @property
    def cycles(self) -> int:
        return int(self._library.bt_cluster_cycles(self._handle()))

    @property
    def instructions(self) -> int:
        """Instructions that all cores have executed since the start."""
        return sum(one.instructions for one in self.spent())

    def spent(self) -> tuple[Spent, ...]:
        """What the cycles of each core went into, since the start."""
        found = []
        for core in range(self.settings.cores):
            counts = (ctypes.c_uint64 * len(REASONS))()
            self._library.bt_cluster_spent(self._handle(), core, counts)
            found.append(Spent(*counts))
        return tuple(found)

    def events(self) -> Events:
        """What happened in caches, DMA and at L2's port since the start."""
        counts = (ctypes.c_uint64 * len(fields(Events)))()
        self._library.bt_cluster_events(self._handle(), counts)
        return Events(*counts)

    def marks(self) -> tuple[Mark, ...]:
        """What the firmware wrote to the MARK register, in order."""
        found = []
        for index in range(self._library.bt_cluster_marks(self._handle())):
            one = _Mark()
            self._library.bt_cluster_mark(self._handle(), index, ctypes.byref(one))
            spent = tuple(Spent(*one.spent[core]) for core in range(self.settings.cores))
            found.append(Mark(one.value, one.core, one.cycle, spent))
        return tuple(found)

    def _handle(self) -> int:
        if self._cluster is None:
            raise EmulatorError("the machine is closed")
        return self._cluster


def _c_settings(settings: ClusterSettings) -> _Settings:
    fpu = settings.fpu
    more = {"equal_fpu_latencies": int(fpu.addmul == fpu.others)}
    return _Settings(
        **{name: more.get(name, getattr(settings, name, None)) for name, *_ in _Settings._fields_}
    )


def build(fpu: Fpu) -> Path:
    """The library of cores and FPUs with these latencies and registers, built or cached.

    Raises
    ------
    CompilerError
        where verilator, the RTL or a C++ compiler is missing, or one of them refuses.
    """
    latencies = (f"-GADDMUL_LATENCY={fpu.addmul}", f"-GOTHERS_LATENCY={fpu.others}")
    tops = (
        Top("biotrain_cluster_core", (*latencies, f"-GZFINX={int(fpu.zfinx)}")),
        Top("biotrain_cluster_fpu", latencies),
    )
    headers = tuple(sorted(FOLDER.glob("*.hpp")))
    return library(Bench(FOLDER / "core.sv", tops, FOLDER / "cluster.cpp", headers))


@lru_cache
def _load(fpu: Fpu) -> ctypes.CDLL:
    library = ctypes.CDLL(str(build(fpu)))
    cluster, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    for name, result, arguments in (
        ("new", cluster, (ctypes.POINTER(_Settings), u32)),
        ("delete", None, (cluster,)),
        ("read", integer, (cluster, u32, u32, pointer)),
        ("write", integer, (cluster, u32, u32, ctypes.c_char_p)),
        ("run", integer, (cluster, u32, u32, u64)),
        ("cycles", u64, (cluster,)),
        ("stop", None, (cluster, pointer)),
        ("exit_code", u32, (cluster, u32)),
        ("spent", None, (cluster, u32, pointer)),
        ("events", None, (cluster, pointer)),
        ("marks", u64, (cluster,)),
        ("mark", None, (cluster, u64, pointer)),
    ):
        function = getattr(library, f"bt_cluster_{name}")
        function.restype, function.argtypes = result, arguments
    return library
