# SPDX-License-Identifier: Apache-2.0
"""Programs for the cluster: C with start-up, registers and linker script, built into an ELF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from biotrain.run import firmware
from biotrain.run.cluster import settings as places
from biotrain.run.cluster.settings import L1_ORIGIN, L2_ORIGIN, ClusterSettings
from biotrain.targets.target import FOLDER as TARGETS
from biotrain.targets.target import Target, load_target

FOLDER = Path(__file__).parent
STACK_BYTES = 2048
"""Bytes of each core's stack, where the caller gives no other number."""
STACK_SKEW = 16
"""Bytes, four banks: what keeps the stack pointers aligned as the ABI wants them."""

REGISTERS = ("BARRIER_WAIT", "DMA_COMMAND", "DMA_STATUS", "DMA_DONE", "MARK", "END")


def target_of(settings: ClusterSettings) -> Target:
    """The target whose compiler makes code for these cores."""
    return load_target("rv32imc_zfinx" if settings.fpu.zfinx else "cv32e40p")


def map_header(settings: ClusterSettings) -> str:
    """`bt_cluster_map.h`: the registers' addresses and the number of cores, for C."""
    lines = [f"#define BT_{name} 0x{getattr(places, name):08x}u" for name in REGISTERS]
    guard = "BT_CLUSTER_MAP_H"
    return "\n".join(
        [
            "/* SPDX-License-Identifier: Apache-2.0 */",
            f"#ifndef {guard}",
            f"#define {guard}",
            *lines,
            f"#define BT_CORES {settings.cores}",
            "#endif",
            "",
        ]
    )


def linker_script(settings: ClusterSettings, stack_bytes: int = STACK_BYTES) -> str:
    """`link.ld`: the memories and the sections."""
    sections = (FOLDER / "sections.ld").read_text(encoding="utf-8")
    spdx, _, rest = sections.partition("\n")
    return (
        f"{spdx}\n/* Memories of the cluster; the stacks. */\n"
        "MEMORY\n{\n"
        f"  L1 (rwx) : ORIGIN = {L1_ORIGIN:#010x}, LENGTH = {settings.l1_bytes}\n"
        f"  L2 (rwx) : ORIGIN = {L2_ORIGIN:#010x}, LENGTH = {settings.l2_bytes}\n"
        "}\n"
        f"BT_STACK_BYTES = {stack_bytes};\nBT_STACK_SKEW = {STACK_SKEW};\n"
        f"BT_CORES = {settings.cores};\n\n{rest}"
    )


def start_files(settings: ClusterSettings) -> dict[str, str]:
    """The start-up, its headers, and what a compiler without a C library lacks."""
    files = {name: (FOLDER / name).read_text("utf-8") for name in ("start.c", "bt_cluster.h")}
    files["string.c"] = (TARGETS / "riscv" / "string.c").read_text("utf-8")
    return files | {"bt_cluster_map.h": map_header(settings)}


def build(
    files: Mapping[str, str],
    settings: ClusterSettings,
    *,
    compiler: firmware.Compiler | None = None,
    flags: Sequence[str] = firmware.OPTIMISED,
    stack_bytes: int = STACK_BYTES,
) -> Path:
    """The ELF of a program with `bt_cluster_main`, built or from the cache.

    Raises
    ------
    CompilerError
        where no compiler is there, or it refuses, or the program does not fit the memories.
    """
    script = linker_script(settings, stack_bytes)
    everything = {**start_files(settings), **files}
    return firmware.build(everything, target_of(settings), script, compiler, flags)
