# SPDX-License-Identifier: Apache-2.0
"""The files around the C of a package: firmware, build systems, README.

`firmware/` holds what a target needs to start, or `example/` a program for this machine; the
folder itself is a Zephyr module (`zephyr/`), an Arduino library in the flat layout (only the root
is compiled) and a PlatformIO library. Templates have `@NAME@` where the package fills in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from biotrain.emit.live import LIVE_SOURCES
from biotrain.emit.project.footprint import Footprint
from biotrain.emit.project.readme import readme
from biotrain.emit.project.template import filled
from biotrain.emit.source import Source
from biotrain.targets.target import Target
from biotrain.writing.text import build_line, visible

__all__ = [
    "THREADS",
    "Footprint",
    "filled",
    "firmware_files",
    "library_files",
    "live_values",
    "main_files",
    "readme",
    "sdk_files",
]

OPTIMIZE_FLAG = {"speed": "-O2", "size": "-Os"}
"""The compiler's flag of `optimize`."""

THREADS = ("-DBT_PORT=BT_PORT_THREADS", "-pthread")
"""Flags that choose POSIX threads as the workers."""

_STORED = """/* How many windows of the calibration are stored. */
uint32_t stored_windows(void);
/* Writes window `index` to x{unless}, and {what} to `label`. */
void stored_window(uint32_t index, {sample} *x, {label});
"""
_STORED_C = """uint32_t stored_windows(void)
{{
  return 32;
}}

void stored_window(uint32_t index, {sample} *x, {label})
{{
  for (int i = 0; {there}i < BT_INPUT_ROWS * BT_INPUT_TIMES; i++)
    x[i] = 0; /* read it from flash, a card or a link */
{fill}}}

"""
_FILL_CLASS = "  *label = (int32_t)(index % BT_OUTPUTS);\n"
_FILL_VALUES = """  (void)index;
  for (int i = 0; i < BT_TARGETS; i++)
    label[i] = 0.0f;
"""
_ANNOUNCE = """      if (i % BT_GROUP == 0) /* the last group may have fewer windows */
        done(bt_group(&model, count - i < BT_GROUP ? count - i : BT_GROUP));
"""


def live_values(source: Source) -> dict[str, str]:
    """The sources beside the model, as the build systems name them."""
    names = LIVE_SOURCES if source.live is not None else ()
    return {
        "OPTIMIZE": OPTIMIZE_FLAG[source.optimize],
        "LIVE_OBJECTS": "".join(f" {name.replace('.c', '.o')}" for name in names),
        "LIVE_SOURCES": "".join(f" ../{name}" for name in names),
        "LIVE_ZEPHYR": "".join(f"\n    ${{CMAKE_CURRENT_LIST_DIR}}/../{name}" for name in names),
        "PORT_FLAGS": "".join(f" {flag}" for flag in THREADS) if source.workers > 1 else "",
        "THREADS_SOURCES": " ../port_threads.c" if source.workers > 1 else "",
    }


def main_files(source: Source) -> dict[str, str]:
    """`main.c`, and the board's part with the functions that a person fills in."""
    if source.live is not None:
        names = {"main.c": "main_live.c", "board.c": "board_live.c", "board.h": "board_live.h"}
        return {name: filled(template, {}) for name, template in names.items()}
    by_class = source.train.inputs[-1].dtype == "i32"
    sample = source.sample_type
    label = "int32_t *label" if by_class else "float *label"
    what = "its class" if by_class else "its BT_TARGETS values"
    trains = bool(source.trained)
    rate = str(np.float32(source.optimizer.lr))
    values = {
        "RATE": (rate if set(rate) & set(".en") else f"{rate}.0") + "f",
        "SAMPLE": sample,
        "LABEL": "int32_t label" if by_class else "float label[BT_TARGETS]",
        "GIVE": "&label" if by_class else "label",
        "ANNOUNCE": _ANNOUNCE if source.gradients == "momentum" else "",
        "ASKED": "int32_t *label" if by_class else "const float **label",
        "HELD": "" if by_class else "  static float held[BT_TARGETS];\n",
        "PASSED": "label" if by_class else "held",
        "POINTED": "" if by_class else "  *label = held;\n",
        "STORED": _STORED.format(
            sample=sample,
            label=label,
            what=what,
            unless=" (unless it is 0)" if source.batch else "",
        )
        if trains
        else "",
    }
    fill = _FILL_CLASS if by_class else _FILL_VALUES
    stored = (
        _STORED_C.format(
            sample=sample, label=label, fill=fill, there="x && " if source.batch else ""
        )
        if trains
        else ""
    )
    kind = ("batch" if source.batch else "train") if trains else "predict"
    return {
        "main.c": filled(f"main_{kind}.c", values),
        "board.c": filled("board.c", {**values, "STORED": stored}),
        "board.h": filled("board.h", values),
    }


_ON_CLUSTER = (
    ('#include "board.h"\n', '#include "board.h"\n#include "pmsis.h"\n#include "program.h"\n'),
    ("static bt_model model;", "static PI_L1 bt_model model;"),
    ("int main(void)", "int program(void)"),
)
"""What `main.c` says otherwise on a cluster's controller: the SDK has a `main` of its own."""


def sdk_files(source: Source, target: Target) -> dict[str, str]:
    """`gap9/`: a project for the vendor's SDK, whose start-up, linker and drivers it uses."""
    own = main_files(source)
    program = own["main.c"]
    for plain, there in _ON_CLUSTER:
        program = program.replace(plain, there)
    port = " ../port_pmsis.c" if source.workers > 1 else ""
    values = {
        "STACK": str(target.stack_bytes),
        "CONTROLLER_STACK": str(target.controller_stack_bytes),
        "PORT_SOURCES": port,
        **live_values(source),
    }
    names = ("main.c", "program.h", "CMakeLists.txt", "sdk.config")
    files = {"program.c": program, "board.c": own["board.c"], "board.h": own["board.h"]}
    files |= {name: filled(f"gap9/{name}", values) for name in names}
    return {f"gap9/{name}": text for name, text in files.items()}


def firmware_files(
    source: Source, target: Target, start: Mapping[str, str], zig_flags: tuple[str, ...]
) -> dict[str, str]:
    """`firmware/`: `start` are the files of the core (start-up, linker script, mailbox)."""
    core = target.build
    if core is None:
        raise ValueError(f"no firmware is built for {target.name}")
    gcc, *gcc_flags = core.gcc or ("arm-none-eabi-gcc",)
    sources = [name for name in start if name.endswith(".c") and name != "session.c"]
    values = {
        "TARGET": target.name,
        "CORE_NAME": target.core,
        "FAMILY": core.family,
        "GCC": gcc,
        "GCC_CORE": " ".join(gcc_flags),
        "GCC_PREFIX": gcc.removesuffix("gcc"),
        "ZIG_CORE": " ".join(core.zig),
        "ZIG_FLAGS": " ".join(zig_flags),
        "FLASH": _flash_hint(target),
        "HEX_RULE": _hex_rule(target),
        "START_SOURCES": " ".join(sources),
        "START_OBJECTS": " ".join(name.replace(".c", ".o") for name in sources),
        **live_values(source),
    }
    files = {**main_files(source), **start}
    for name in ("Makefile", "CMakeLists.txt", "gcc.cmake", "zig.cmake"):
        files[name] = filled(name, values)
    return {f"firmware/{name}": text for name, text in files.items()}


def _hex_rule(target: Target) -> str:
    """The rule of `make hex`; it refuses where the board would not start from the file."""
    if target.boot:
        return f'hex:\n\t@echo "{target.boot_note}" >&2; exit 1'
    return "hex: $(BUILD)/main.hex"


def _flash_hint(target: Target) -> str:
    if target.boot:
        return "#                      (refused: the boot ROM of this board expects a header)"
    if target.name.startswith("nrf"):
        return "#                      nrfjprog --program build/main.hex --sectorerase --reset"
    return (
        '#                      openocd -f BOARD.cfg -c "program build/main.hex verify reset exit"'
    )


def library_files(source: Source, stack_bytes: int) -> dict[str, str]:
    """What makes the folder a library for Zephyr, Arduino and PlatformIO."""
    values = {
        "TITLE": build_line(source.title),
        "STACK": f"{stack_bytes:,}",
        "CONTEXT": str(source.plan.context_bytes),
        **live_values(source),
    }
    names = ("zephyr/module.yml", "zephyr/CMakeLists.txt", "zephyr/Kconfig", "library.properties")
    files = {name: filled(name, values) for name in names}
    compiled = ("model.c", "model_weights.c", *(LIVE_SOURCES if source.live is not None else ()))
    manifest = {
        "name": "biotrain_model",
        "version": "1.0.0",
        "description": f"{visible(source.title)}: a network that predicts and trains on the device",
        "keywords": ["biosignals", "training"],
        "headers": "model.h" if source.live is None else "live.h",
        "frameworks": "*",
        "platforms": "*",
        "build": {
            "srcDir": ".",
            "includeDir": ".",
            "srcFilter": ["-<*>", *(f"+<{name}>" for name in compiled)],
            "flags": [
                OPTIMIZE_FLAG[source.optimize],
                "-fno-math-errno",
                "-ffp-contract=off",
                "-DBT_NO_CONTRACTION",
            ],
        },
    }
    files["library.json"] = json.dumps(manifest, indent=2) + "\n"
    return files
