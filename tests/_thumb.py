# SPDX-License-Identifier: Apache-2.0
"""Small bare-metal Thumb programs for the tests of the emulator's tools."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

FLASH, FLASH_BYTES = 0x0, 1 << 20
RAM, RAM_BYTES = 0x20000000, 1 << 20

CPUS = {
    "cortex-m4f": "cortex_m4+vfp4d16sp-slowfpvfmx-slowfpvmlx",
    "cortex-m7": "cortex_m7+fp_armv8d16sp",
    "cortex-m33": "cortex_m33+fp_armv8d16sp",
    "cortex-m55": "cortex_m55+fp_armv8d16sp",
}
"""What zig calls the cores."""

START = """
void _start(void);
int main(void);
void stop(void);
__attribute__((naked, noinline)) void stop(void) { __asm volatile("bx lr"); }
__attribute__((naked)) void _start(void)
{
  __asm volatile("bl main\\n bl stop\\n 1: b 1b");
}
void *memset(void *to, int value, unsigned n)
{
  unsigned char *p = to;
  while (n--) {
    *p++ = (unsigned char)value;
    __asm volatile("" ::: "memory");
  }
  return to;
}
void *memcpy(void *to, const void *from, unsigned n)
{
  unsigned char *p = to;
  const unsigned char *q = from;
  while (n--) {
    *p++ = *q++;
    __asm volatile("" ::: "memory");
  }
  return to;
}
"""

STRING_H = """
#include <stddef.h>
void *memset(void *, int, size_t);
void *memcpy(void *, const void *, size_t);
"""

LINK = f"""
MEMORY {{
  flash (rx) : ORIGIN = {FLASH:#x}, LENGTH = {FLASH_BYTES:#x}
  ram (rwx) : ORIGIN = {RAM:#x}, LENGTH = {RAM_BYTES // 2:#x}
}}
SECTIONS {{
  .text 0x100 : {{ *(.text .text.* .rodata .rodata.*) }} > flash
  .data : {{ *(.data .data.*) }} > ram
  .bss : {{ *(.bss .bss.* COMMON) }} > ram
  /DISCARD/ : {{ *(.ARM.exidx*) *(.ARM.attributes) *(.comment) }}
}}
"""

_folder = tempfile.TemporaryDirectory(prefix="biotrain-thumb-")


def need_emulator() -> None:
    """Skip the test with a plain reason where a package is missing."""
    for name in ("unicorn", "capstone", "elftools", "ziglang"):
        if not importlib.util.find_spec(name):
            pytest.skip(f"the package '{name}' is not installed")


def build(files: Mapping[str, str], core: str = "cortex-m4f", flags: Sequence[str] = ()) -> Path:
    """An ELF file of C texts and the start above; `.h` and other files lie beside them."""
    texts = {"start.c": START, "string.h": STRING_H, "link.ld": LINK, **files}
    key = hashlib.sha256(repr((sorted(texts.items()), core, tuple(flags))).encode()).hexdigest()
    folder = Path(_folder.name) / key[:16]
    elf = folder / "out.elf"
    if elf.exists():
        return elf
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabihf"]
    command += [f"-mcpu={CPUS[core]}", "-O2", "-g", "-std=c99", "-ffreestanding"]
    command += ["-fno-sanitize=all", "-fno-math-errno", "-ffp-contract=off", "-I.", *flags]
    command += [name for name in texts if name.endswith(".c")]
    command += ["-Wl,-T,link.ld", "-Wl,-e,_start", "-o", "out.elf"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return elf


class Thumb:
    """A program in unicorn."""

    def __init__(self, elf: Path, core: str = "cortex-m4f") -> None:
        import unicorn as u
        from elftools.elf.elffile import ELFFile
        from unicorn import arm_const as arm

        self.uc: Any = u.Uc(u.UC_ARCH_ARM, u.UC_MODE_THUMB | u.UC_MODE_MCLASS)
        models = {
            "cortex-m4f": arm.UC_CPU_ARM_CORTEX_M4,
            "cortex-m7": arm.UC_CPU_ARM_CORTEX_M7,
            "cortex-m33": arm.UC_CPU_ARM_CORTEX_M33,
        }
        self.uc.ctl_set_cpu_model(models[core])
        self.uc.mem_map(FLASH, FLASH_BYTES, u.UC_PROT_READ | u.UC_PROT_EXEC)
        self.uc.mem_map(RAM, RAM_BYTES)
        self.symbols: dict[str, int] = {}
        with elf.open("rb") as stream:
            file = ELFFile(stream)
            for segment in file.iter_segments("PT_LOAD"):
                if segment["p_filesz"]:
                    self.uc.mem_write(segment["p_paddr"], segment.data())
            for symbol in file.get_section_by_name(".symtab").iter_symbols():
                self.symbols[symbol.name] = symbol["st_value"] & ~1
        self.begin, self.end = FLASH, FLASH + FLASH_BYTES
        self._arm = arm
        self.start()

    def start(self) -> None:
        """Back to the first instruction, with the FPU on."""
        self.uc.reg_write(self._arm.UC_ARM_REG_SP, RAM + RAM_BYTES)
        enable_fpu(self.uc)
        self.pc = self.symbols["_start"]

    def run(self) -> None:
        """Until the program calls `stop`."""
        self.uc.emu_start(self.pc | 1, self.symbols["stop"])


def enable_fpu(uc: Any) -> None:
    """Full access to coprocessors 10 and 11."""
    from unicorn import arm_const as arm

    uc.reg_write(arm.UC_ARM_REG_C1_C0_2, 0xF << 20)
    uc.reg_write(arm.UC_ARM_REG_FPEXC, 1 << 30)
