# SPDX-License-Identifier: Apache-2.0
"""Firmware of a package: its C with start-up and linker script, built for a core into an ELF."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from biotrain.emit import RUNTIME, in_words_of
from biotrain.emit.build import Build
from biotrain.emit.project import OPTIMIZE_FLAG
from biotrain.errors import BioTrainError, CompilerError
from biotrain.run.compiler import NUMERICS, cache_folder, run_compiler, temporary, version
from biotrain.run.mailbox import layout_header
from biotrain.targets.target import FOLDER, Core, Memory, Target

Compiler = Literal["zig", "gcc"]

OPTIMISED = ("-O2", "-g", "-std=c99", *NUMERICS)
"""Flags of firmware that is to be fast."""
FREESTANDING = ("-ffunction-sections", "-fdata-sections")
LINKED = ("-Wl,--gc-sections", "-Wl,-e,Reset_Handler", "-Wl,-T,link.ld")
"""zig ignores ENTRY of the script, hence `-e`."""
ZIG = (
    "-fno-sanitize=all",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fno-unroll-loops",
)
"""Kernels say which loops are to be unrolled. clang would unroll the others too: a third of the
code for a hundredth of the cycles."""
BARE = ("-DBT_PORT=BT_PORT_BARE", "-Wl,-u,bt_worker_entry")
"""Flags that choose the harts of a cluster as workers (`rt/port_bare.c`), and keep their entry:
nothing but the machine calls it."""
UNBOUNDED_BYTES = 16 << 20
"""Bytes of a memory that a target without a board does not state."""


def optimised(package: Build) -> tuple[str, ...]:
    """Flags of a package's firmware: for speed, or for size."""
    return (OPTIMIZE_FLAG[package.source.optimize], *OPTIMISED[1:])


def core_of(target: Target) -> Core:
    """How firmware for the target is built."""
    if target.build is None:
        raise BioTrainError(
            f"no firmware is built for '{target.name}': "
            + (
                "it is this machine"
                if target.core == "host"
                else f"its core {target.core} is only described"
            )
        )
    return target.build


def memories(target: Target) -> tuple[Memory, Memory]:
    """Flash and RAM of a target."""
    found = []
    for name in ("flash", "ram"):
        memory = target.memory(name)
        found.append(Memory(name, memory.bytes or UNBOUNDED_BYTES, memory.origin))
    return found[0], found[1]


def linker_script(target: Target, flash: Memory, ram: Memory) -> str:
    """`link.ld`: the memories, and the sections of the family."""
    sections = (FOLDER / core_of(target).family / "sections.ld").read_text(encoding="utf-8")
    spdx, _, rest = sections.partition("\n")
    return (
        f"{spdx}\n/* Memories of {target.name}; the stack's reserve. */\n"
        "MEMORY\n{\n"
        f"  FLASH (rx) : ORIGIN = {flash.origin:#010x}, LENGTH = {flash.bytes}\n"
        f"  RAM (rwx) : ORIGIN = {ram.origin:#010x}, LENGTH = {ram.bytes}\n"
        "}\n"
        f"BT_STACK_BYTES = {target.stack_bytes};\n\n{rest}"
    )


def find_cross_compiler(core: Core, compiler: Compiler | None = None) -> Compiler:
    """`zig` where the `ziglang` package is there, else the core's gcc; or the one asked for."""
    there: list[Compiler] = []
    if core.zig and find_spec("ziglang"):
        there.append("zig")
    if core.gcc and shutil.which(core.gcc[0]):
        there.append("gcc")
    if compiler in there or (compiler is None and there):
        return compiler or there[0]
    wanted = core.gcc[0] if compiler == "gcc" else "ziglang"
    raise CompilerError(
        f"no compiler for this core ({wanted} is missing): pip install 'biotrain[emulator]'"
        + (f", or install {core.gcc[0]}" if core.gcc else "")
    )


def command(core: Core, compiler: Compiler) -> tuple[str, ...]:
    """The compiler with the flags of the core and of bare metal."""
    if compiler == "zig":
        return (sys.executable, "-m", "ziglang", "cc", *ZIG, *core.zig, *FREESTANDING)
    return (*core.gcc, *FREESTANDING)


def session_files(package: Build, target: Target) -> dict[str, str]:
    """The C of a package with start-up and mailbox."""
    files = {name: text for name, text in package.files.items() if name.endswith((".c", ".h"))}
    mailbox = in_words_of(package.source, mailbox_files(package))
    return {**files, **mailbox, **start_files(target)}


def mailbox_files(package: Build) -> dict[str, str]:
    """The C of the mailbox around a package."""
    files = {n: (RUNTIME / n).read_text(encoding="utf-8") for n in ("session.c", "session.h")}
    outputs = package.source.train.outputs[0].size
    return files | {"session_layout.h": layout_header(outputs, package.plan.context_bytes)}


def start_files(target: Target) -> dict[str, str]:
    """The C of a family: the start-up, and what compilers for it come without."""
    folder = FOLDER / core_of(target).family
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.c"))}


def build(
    files: Mapping[str, str],
    target: Target,
    script: str,
    compiler: Compiler | None = None,
    flags: Sequence[str] = OPTIMISED,
) -> Path:
    """The ELF of a firmware, built or from the cache.

    Raises
    ------
    CompilerError
        where no compiler is there, or it refuses, or the firmware does not fit the memories.
    """
    core = core_of(target)
    which = find_cross_compiler(core, compiler)
    start = command(core, which)
    linked = LINKED if which == "zig" else ("-nostartfiles", *LINKED)
    libraries = () if which == "zig" else ("-lgcc",)  # -nostdlib leaves it out
    sources = sorted(name for name in files if name.endswith(".c"))
    parts = (start, flags, linked, libraries, version(start[:1] if which == "gcc" else start[:4]))
    texts = [(name, files[name]) for name in sorted(files)]
    key = hashlib.sha256(repr((parts, script, texts)).encode()).hexdigest()[:32]
    elf = cache_folder() / f"{key}.elf"
    if elf.exists():
        return elf
    unfinished = temporary(elf)
    with tempfile.TemporaryDirectory(prefix="biotrain-") as folder:
        for name, text in {**files, "link.ld": script}.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        run_compiler(
            [*start, *flags, *linked, "-o", str(unfinished), *sources, *libraries], Path(folder)
        )
    unfinished.replace(elf)
    return elf


def session_elf(
    package: Build,
    flash: Memory,
    ram: Memory,
    compiler: Compiler | None = None,
    flags: Sequence[str] | None = None,
) -> Path:
    """The firmware with the mailbox, linked into these memories."""
    target = package.target
    script = linker_script(target, flash, ram)
    chosen = optimised(package) if flags is None else flags
    return build(session_files(package, target), target, script, compiler, chosen)
