# SPDX-License-Identifier: Apache-2.0
"""What the C runs on: a core, its memories, its clock and its power, read from `target.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from biotrain.errors import BioTrainError

NUMERICS = ("fused", "separate", "native")
MOST_WORKERS = 64
"""Workers that a package may have: as many as an `int64` has bits (`planner.team`)."""
FOLDER = Path(__file__).parent
INHERITED = ("numerics", "stack_bytes", "cycles_per_op", "build")
"""What a board has from its core, unless it says otherwise."""


@dataclass(frozen=True, slots=True)
class Memory:
    """One memory; `bytes` 0 means that nothing bounds it."""

    name: str
    bytes: int
    origin: int = 0
    """Address of its first byte."""


@dataclass(frozen=True, slots=True)
class Core:
    """How firmware for a core is built and emulated; the tables of a target that is a core."""

    family: str
    """Folder of the start-up and of the linker script: `arm` or `riscv`."""
    gcc: tuple[str, ...] = ()
    """The cross compiler and its flags, as Debian's packages have it."""
    zig: tuple[str, ...] = ()
    """Flags of `python -m ziglang cc`."""
    unicorn: str = ""
    """Name of the CPU model in unicorn; empty: it has none."""
    qemu: tuple[str, ...] = ()
    """QEMU's program and machine, and more options."""
    qemu_memories: tuple[Memory, ...] = ()
    """Flash and RAM of that machine."""
    rtl: str = ""
    """Name of the register-transfer description, where there is one."""
    emulated_as: str = ""
    """What is run where no emulator has this core's vector unit."""


@dataclass(frozen=True, slots=True)
class Target:
    """A core or a board. Every constant has its source beside it in `target.toml`."""

    name: str
    core: str
    description: str
    numerics: str
    """`fused`, `separate`, or `native`: fused where this machine has FMA in hardware."""
    stack_bytes: int
    cycles_per_op: float
    """Estimated cycles per executed multiply or add of an op without a figure of its own; 0: time
    is not modelled."""
    memories: tuple[Memory, ...]
    clock_hz: int = 0
    mw_per_mhz: float = 0.0
    build: Core | None = None
    """None where no firmware can be built (the host, or a core that is only described)."""
    op_cycles: tuple[tuple[str, float], ...] = ()
    """Cycles per operation of kernels as measured on the core, by op, in order of their names."""
    kernel_cycles: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()
    """Cycles of each kind of work of a kernel (`Op.work`), by op: fitted to measured calls of many
    shapes. Of an op without an entry, cycles are operations times `price`."""
    wide_outputs: int = 8
    """Results of the widest tile of a convolution in the core's registers (BT_WIDE_OUTPUTS)."""
    workers: int = 1
    """Cores that run one schedule together; each has a stack of `stack_bytes`."""
    most_workers: int = MOST_WORKERS
    """How many of them there are at most."""
    controller_stack_bytes: int = 0
    """The stack of a core beside the workers, which lets them run; it lies in the RAM, too."""
    sdk: str = ""
    """The vendor's SDK that builds the firmware (`pmsis`); empty: BioTrain's start-up code does."""
    boot: str = ""
    """The header that the boot ROM expects in front of the program, and its source. The emitted
    firmware has none, so it would not start; empty: the core starts at the vectors in flash."""

    @property
    def firmware(self) -> Core | None:
        """How BioTrain builds firmware; None where there is none, or a vendor's SDK builds it."""
        return None if self.sdk else self.build

    @property
    def stacks_bytes(self) -> int:
        """The stack reserve of all workers and of their controller, in bytes."""
        return self.workers * self.stack_bytes + self.controller_stack_bytes

    def with_workers(self, workers: int | None) -> Target:
        """The same target with so many workers; None: as many as it has."""
        return self if workers is None else replace(self, workers=workers)

    @property
    def boot_note(self) -> str:
        """One line for a board whose ROM does not start the emitted firmware; else empty."""
        if not self.boot:
            return ""
        return (
            f"the firmware alone does not start on {self.name}: its boot ROM expects {self.boot}; "
            "link the C as a library with the vendor's SDK, Zephyr or Arduino, which bring it"
        )

    def price(self, op: str) -> float:
        """Estimated cycles per operation of an op; 0 where time is not modelled."""
        return dict(self.op_cycles).get(op, self.cycles_per_op)

    def kinds(self, op: str) -> tuple[tuple[str, float], ...] | None:
        """Cycles of one of each kind of work of an op; None where the core has no entry for it."""
        return next((kinds for name, kinds in self.kernel_cycles if name == op), None)

    def work_cycles(self, op: str, work: Mapping[str, float]) -> float | None:
        """Estimated cycles of what a call does; None where the core has no entry for the op."""
        kinds = self.kinds(op)
        return None if kinds is None else sum(c * work.get(kind, 0.0) for kind, c in kinds)

    def memory(self, name: str) -> Memory:
        """The memory called `name`, without limit where the target does not state one."""
        return next((m for m in self.memories if m.name == name), Memory(name, 0))


def targets() -> tuple[str, ...]:
    """Names of all targets."""
    return tuple(sorted(p.parent.name for p in FOLDER.glob("*/target.toml")))


def load_target(name: str | Target) -> Target:
    """The target of that name (or the object itself)."""
    if isinstance(name, Target):
        return name
    data = _read(name) if isinstance(name, str) and name in targets() else None
    if data is None:
        raise BioTrainError(f"no target is called '{name}'; there are: {', '.join(targets())}")
    try:
        if data["core"] != name and (core := _read(data["core"])):
            data = {key: core[key] for key in INHERITED if key in core} | data
        memories = tuple(Memory(**m) for m in data.pop("memories", []))
        build = _core(data.pop("build", None))
        measured = _op_cycles(data["core"])
        if default := measured.pop("default", None):
            data.setdefault("cycles_per_op", default)
        prices = tuple(sorted(measured.items()))
        model = _kernel_cycles(data["core"])
        found = Target(**data, **model, memories=memories, build=build, op_cycles=prices)
    except (TypeError, KeyError) as error:
        raise BioTrainError(f"target '{name}', target.toml: {error}") from error
    if found.numerics not in NUMERICS:
        raise BioTrainError(
            f"target '{name}': numerics '{found.numerics}' is not one of {', '.join(NUMERICS)}"
        )
    return found


def places(target: Target) -> tuple[str, ...]:
    """Where packages for a target run."""
    core = target.build
    if core is None:
        return ("host", "threads") if target.core == "host" else ()
    found = (("emulator", core.unicorn), ("qemu", core.qemu), ("rtl", core.rtl))
    return tuple(name for name, there in found if there)


def _op_cycles(core: str) -> dict[str, float]:
    """`[ops]` of the core's `cycles.toml`, or of the core that it is like."""
    path = FOLDER / core / "cycles.toml"
    if not path.is_file():
        return {}
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    return data["ops"] if "ops" in data else _op_cycles(data["like"]) if "like" in data else {}


@cache
def _kernel_cycles(core: str) -> Mapping[str, Any]:
    """What `kernels.toml` of the core says, or that of the core that its cycles are like."""
    path = FOLDER / core / "kernels.toml"
    if path.is_file():
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        found = {op: tuple(kinds.items()) for op, kinds in data["kernels"].items()}
        return {"kernel_cycles": tuple(found.items()), "wide_outputs": data["wide_outputs"]}
    path = FOLDER / core / "cycles.toml"
    like = tomllib.loads(path.read_text(encoding="utf-8")).get("like") if path.is_file() else None
    return _kernel_cycles(like) if like else {}


def _read(name: str) -> dict[str, Any] | None:
    path = FOLDER / name / "target.toml"
    if not path.is_file():
        return None
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise BioTrainError(f"target '{name}', target.toml: {error}") from error


def _core(data: dict[str, Any] | None) -> Core | None:
    if data is None:
        return None
    memories = tuple(Memory(**m) for m in data.pop("qemu_memories", ()))
    lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return Core(**lists, qemu_memories=memories)


LEAST_BYTES = 1024
"""An amount of memory below this is taken to lack its unit: `256` for `256KiB`. The stack alone has
more on every board."""


def parse_bytes(text: str | int | None) -> int | None:
    """Bytes from `256KiB`, `64 kB`, `1.5MB`, or a plain number, which is no smaller than
    `LEAST_BYTES` where it is text; BioTrainError for anything else."""
    if text is None or (isinstance(text, int) and not isinstance(text, bool)):
        return text
    if not isinstance(text, str):
        raise BioTrainError(f"memory is a text such as 256KiB or a whole number, not {text!r}")
    units = {"kib": 1024, "mib": 1024**2, "kb": 1000, "mb": 1000**2, "b": 1, "": 1}
    number = text.strip().lower().replace("_", "")
    unit = number.lstrip("0123456789. ")
    try:
        found = int(float(number[: len(number) - len(unit)]) * units[unit.strip()])
    except (KeyError, ValueError, OverflowError):
        raise BioTrainError(
            f"'{text}' is no amount of memory; write for example 256KiB, 64kB or 65536"
        ) from None
    if not unit.strip() and found < LEAST_BYTES:
        raise BioTrainError(
            f"'{text}' bytes of memory hold no firmware; write the unit: {number.strip()}KiB, or "
            f"{number.strip()}B if it is meant"
        )
    return found
