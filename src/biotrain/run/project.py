# SPDX-License-Identifier: Apache-2.0
"""The files around the C of a package: `biotrain.emit.project` with start-up and measured sizes."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from biotrain.emit import in_words_of
from biotrain.emit.build import Build
from biotrain.emit.project import (
    Footprint,
    filled,
    firmware_files,
    library_files,
    live_values,
    main_files,
    readme,
    sdk_files,
)
from biotrain.errors import CompilerError
from biotrain.run.compiler import version
from biotrain.run.firmware import (
    ZIG,
    Compiler,
    build,
    command,
    find_cross_compiler,
    linker_script,
    mailbox_files,
    memories,
    optimised,
    start_files,
)
from biotrain.run.memory import footprint

Compiled = TypeVar("Compiled", bound=Build)


def project_files(package: Build, *, measure: bool = False) -> dict[str, str]:
    """Files beside `package.files`, by their path in the folder.

    `measure`: link the firmware, where a compiler for its core is there, and say in the README
    what it takes; else the README has the plan's figures.
    """
    source, target = package.source, package.target
    if target.build is None:
        files = {f"example/{name}": text for name, text in main_files(source).items()}
        files["example/Makefile"] = filled("host.mk", live_values(source))
        if target.core != "host":
            files |= library_files(source, target.stack_bytes)
        return in_words_of(source, {**files, "README.md": readme(source, target, None)})
    if target.sdk:
        files = {**sdk_files(source, target), "README.md": readme(source, target, None)}
        return in_words_of(source, files)
    flash, ram = memories(target)
    start = start_files(target)
    start["link.ld"] = linker_script(target, flash, ram)
    start |= mailbox_files(package)
    files = firmware_files(source, target, start, ZIG)
    files = in_words_of(source, files)
    found = measured(package, files) if measure else None
    stack = found.stack_bytes if found else target.stack_bytes
    around = {**library_files(source, stack), "README.md": readme(source, target, found)}
    return {**files, **in_words_of(source, around)}


def measured(
    package: Build, files: dict[str, str], compiler: Compiler | None = None
) -> Footprint | None:
    """What `main.elf` takes; None where no compiler (or no reader of ELF files) is there."""
    core = package.target.firmware
    if core is None or not find_spec("elftools"):
        return None
    try:
        which = compiler or find_cross_compiler(core, "gcc")
    except CompilerError:
        try:
            which = find_cross_compiler(core)
        except CompilerError:
            return None
    flat = {name: text for name, text in package.files.items() if name.endswith((".c", ".h"))}
    flat |= {
        Path(name).name: text
        for name, text in files.items()
        if name.endswith((".c", ".h")) and not Path(name).stem.startswith("session")
    }
    script = files["firmware/link.ld"]
    elf = build(flat, package.target, script, which, optimised(package))
    return footprint(elf, package.plan.placed_bytes, compiler_name(package, which))


def linked(package: Compiled, files: dict[str, str]) -> Compiled:
    """The package whose plan says how many bytes of code `main.elf` has, where it can be linked."""
    found = measured(package, files)
    if found is None:
        return package
    plan = replace(package.plan, code_bytes=found.code_bytes)
    return replace(package, source=replace(package.source, plan=plan))


def compiler_name(package: Build, which: Compiler) -> str:
    """Name and version of a cross compiler."""
    assert package.target.build is not None
    start = command(package.target.build, which)
    text = version(start[:1] if which == "gcc" else start[:4])
    number = re.search(r"\d+\.\d+\.\d+", text)
    name = start[0] if which == "gcc" else "clang (ziglang)"
    return f"{name} {number[0]}" if number else name
