# SPDX-License-Identifier: Apache-2.0
"""Firmware on the RTL of CV32E40P, clock by clock: every cycle is a cycle of the core.

The core's SystemVerilog comes from the PyPI package `pythondata-cpu-cv32e40p` (OpenHW Group, with
its FPU CVFPU), verilator turns it into C++, and `cv32e40p/bench.cpp` gives it memories that answer
in the next cycle, as tightly coupled ones do. The library is built once, in about a minute.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from biotrain.errors import CompilerError, EmulatorError
from biotrain.run.compiler import cache_folder, temporary, version
from biotrain.run.cv32e40p_cycles import Fpu, instruction_length
from biotrain.run.elf import Elf
from biotrain.run.machine import Machine

PACKAGE = "pythondata_cpu_cv32e40p"
BENCH = Path(__file__).parent / "cv32e40p"
MEMORIES = ((0x00000000, 1 << 20), (0x20000000, 16 << 20))
"""Origin and bytes of flash and RAM, where the caller gives no others."""
MAX_CYCLES = 2_000_000_000
"""Cycles of one run at most; the simulation takes more than an hour for them."""
INTERRUPTIBLE_CYCLES = 1 << 20
"""Cycles between two chances to interrupt a run."""

VERILATOR = (
    "--cc",
    "--top-module",
    "biotrain_core",
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--noassert",
    "-Wno-fatal",
    "-Wno-lint",
    "-Wno-BLKANDNBLK",  # element 0 of some pipelines is assigned at once, the others at the clock
)
CXX = ("-std=gnu++17", "-O2", "-fPIC", "-w", "-DVM_COVERAGE=0", "-DVM_TRACE=0")

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


def missing() -> str | None:
    """What to install before a machine can be built; None if all is there."""
    if find_spec(PACKAGE) is None:
        return "the RTL of the core is missing: pip install pythondata-cpu-cv32e40p"
    if shutil.which("verilator") is None or version(("verilator",)).split()[1] < "5":
        return "verilator 5 is missing: apt-get install verilator"
    if shutil.which("g++") is None:
        return "the C++ compiler is missing: apt-get install g++"
    return None


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
    if reason := missing():
        raise CompilerError(reason)
    fpu = fpu or Fpu()
    split, core, bench = (BENCH / name for name in ("split.vlt", "core.sv", "bench.cpp"))
    options = [
        *VERILATOR,
        f"-GADDMUL_LATENCY={fpu.addmul}",
        f"-GOTHERS_LATENCY={fpu.others}",
        f"-GZFINX={int(fpu.zfinx)}",
    ]
    rtl, includes = _sources()
    parts: list[object] = [options, CXX, version(("g++",)), version(("verilator",))]
    parts += [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*rtl, split, core, bench)]
    library = cache_folder() / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.so"
    if library.exists():
        return library
    unfinished = temporary(library)
    with tempfile.TemporaryDirectory(prefix="biotrain-") as name:
        folder = Path(name)
        paths = [*(f"+incdir+{path}" for path in includes), *map(str, (split, *rtl, core))]
        _run(["verilator", *options, "--Mdir", name, *paths], folder)
        root = Path(_run(["verilator", "--getenv", "VERILATOR_ROOT"], folder).strip()) / "include"
        sources = [*sorted(folder.glob("*.cpp")), bench]
        sources += [root / "verilated.cpp", root / "verilated_threads.cpp"]
        flags = [*CXX, "-I.", f"-I{root}", f"-I{root / 'vltstd'}"]
        with ThreadPoolExecutor(2) as pool:  # the jobs are compilers, the threads only wait
            jobs = [
                pool.submit(_run, ["g++", *flags, "-c", str(s), "-o", f"{s.stem}.o"], folder)
                for s in sorted(sources, key=lambda s: -s.stat().st_size)
            ]
        for job in jobs:
            job.result()
        objects = [f"{source.stem}.o" for source in sources]
        _run(["g++", "-shared", "-o", str(unfinished), *objects, "-lpthread"], folder)
    unfinished.replace(library)
    return library


def _sources() -> tuple[list[Path], list[Path]]:
    """Files and include folders of the core and its FPU, from the package's own list."""
    spec = find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent / "system_verilog"
    files, includes = [], []
    for line in (root / "cv32e40p_fpu_manifest.flist").read_text(encoding="utf-8").splitlines():
        line = line.strip().replace("${DESIGN_RTL_DIR}", str(root / "rtl"))
        if line.startswith("+incdir+"):
            includes.append(Path(line.removeprefix("+incdir+")))
        elif line.endswith((".sv", ".v")) and not line.startswith("//"):
            files.append(Path(line))
    # A wrapper and a tracer for simulation, and a clock gate: core.sv has what stands for them.
    not_used = ("cv32e40p_tb_wrapper", "cv32e40p_tracer_pkg", "cv32e40p_sim_clock_gate")
    return [path for path in files if path.stem not in not_used], includes


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [s for s in done.stderr.splitlines() if "rror" in s] or done.stderr.splitlines()
        first = lines[0] if lines else f"exit code {done.returncode}"
        raise CompilerError(f"{command[0]} cannot build the core: {first}")
    return done.stdout
