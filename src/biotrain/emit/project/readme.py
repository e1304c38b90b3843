# SPDX-License-Identifier: Apache-2.0
"""`README.md` of a package's folder."""

from __future__ import annotations

from biotrain.emit.live import LIVE_SOURCES
from biotrain.emit.project.footprint import Footprint
from biotrain.emit.project.template import filled
from biotrain.emit.source import Source
from biotrain.targets.target import Target
from biotrain.writing.text import markdown

Row = tuple[str, str, str]


def readme(source: Source, target: Target, footprint: Footprint | None) -> str:
    """The page; with the figures of a linked firmware where there is one, else the plan's."""
    core = target.firmware
    run = ["biotrain run .                  # this C, on this computer"]
    if core is not None and core.unicorn:
        run.append(f"biotrain run . --on emulator    # as firmware, on an emulated {target.core}")
    if target.sdk:
        run.append("biotrain run . --on rtl         # on BioTrain's own RTL of such a cluster")
    values = {
        "TITLE": markdown(source.title),
        "PREFIX_NOTE": _prefix_note(source),
        "DESCRIPTION": target.description,
        "ORIGIN": _origin(target, footprint),
        "RAM": _table(("RAM", "bytes", ""), _ram(source, target, footprint)),
        "ELSE": _table(("else", "", ""), _else(source, target, footprint)),
        "NOTES": "".join(f"\n{note}\n" for note in _notes(target, footprint)),
        "CALL": _call(source),
        "BUILD": "\n\n".join(_build(source, target, footprint)),
        "TRY": "\n".join(run),
        "FILES": "\n".join([*_live_files(source), *_folders(target)]),
    }
    return filled("README.md", values)


def _prefix_note(source: Source) -> str:
    if source.prefix:
        return (
            f"Every name begins with `{source.prefix}`: other models in the firmware have theirs."
        )
    return "A second model in the firmware needs `--prefix`, which gives its names a beginning."


def _code(source: Source, footprint: Footprint | None) -> tuple[str, str, str]:
    """The option that code was made with, and what it came to."""
    size = f"{footprint.code_bytes:,} bytes" if footprint else "not linked"
    other = "size" if source.optimize == "speed" else "speed"
    return "code", size, f"`--optimize {source.optimize}`; `--optimize {other}` for the other"


def _build(source: Source, target: Target, footprint: Footprint | None) -> list[str]:
    core = target.firmware
    blocks: list[str] = []
    if target.sdk:
        return [filled("gap9/build.md", {}).rstrip()]
    if core is not None:
        blocks.append(filled("build.md", {"GCC": core.gcc[0] if core.gcc else "gcc"}).rstrip())
    else:
        blocks.append("A program for this machine:\n\n```\nmake -C example && example/main\n```")
    if target.core != "host":
        stack = footprint.stack_bytes if footprint is not None else target.stack_bytes
        blocks.append(
            filled(
                "libraries.md",
                {
                    "STACK": f"{stack:,}",
                    "LIVE_NAMES": live_names(source),
                    "OPTIMIZE": "-Os" if source.optimize == "size" else "-O2",
                },
            ).rstrip()
        )
    return blocks


def live_names(source: Source) -> str:
    """What is compiled beside the model, as words."""
    return "".join(f", `{name}`" for name in (LIVE_SOURCES if source.live is not None else ()))


def _folders(target: Target) -> list[str]:
    if target.sdk:
        return ["| `gap9/` | a project for the vendor's SDK: `program.c`, `board.c`, CMake |"]
    rows = ["| `example/` | a program for this machine |"]
    if target.build is not None:
        rows = ["| `firmware/` | start-up, linker script, `main.c`, `board.c`, Makefile, CMake |"]
    if target.core != "host":
        rows.append("| `zephyr/`, `library.*` | Zephyr, Arduino and PlatformIO |")
    return rows


def _table(head: Row, rows: list[Row]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---|---:|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _origin(target: Target, footprint: Footprint | None) -> str:
    if footprint is not None:
        return (
            f"RAM, flash and stack as {footprint.compiler} links them (the `main.elf` of "
            "`firmware/Makefile`); time and energy are estimates."
        )
    if target.core == "host":
        return "As planned; the code comes on top, and the stack is the operating system's."
    if target.firmware is None:
        return (
            "As planned: for this core the C is a library, and no firmware was linked, so the "
            "flash of the code and the deepest stack are missing. Time and energy are estimates."
        )
    return (
        "As planned: no firmware was linked, so the flash of the code and the deepest "
        "stack are missing (`make -C firmware size` tells). Time and energy are estimates."
    )


def _ram(source: Source, target: Target, footprint: Footprint | None) -> list[Row]:
    plan = source.plan
    parts = [
        ("parameters", plan.param_bytes, f"{plan.trained_params:,} of {plan.params:,} train"),
        ("gradients", plan.gradient_bytes, ""),
        ("optimizer", plan.optimizer_bytes, ", ".join(source.slots)),
        ("running statistics", plan.state_bytes, ""),
        ("arena", plan.peak_bytes, f"activations; the window's {plan.input_bytes:,} among them"),
        ("arena of predictions", plan.predict_arena_bytes, "beside a half-done training sample"),
    ]
    counters = plan.context_bytes - sum(size for _, size, _ in parts)
    parts += [("counters", counters, "fields of `bt_model`")]
    rows = [(name, f"{size:,}", note) for name, size, note in parts if size]
    rows.append(("**`bt_model`**", f"**{plan.context_bytes:,}**", ""))
    rows += _live(source)
    if plan.stack_bytes:
        where = "reserved in `link.ld`" if target.firmware else "reserve"
        where += f" of {target.workers} workers" if target.workers > 1 else ""
        rows.append(("stack", f"{plan.stack_bytes:,}", where))
    rest = 0
    if footprint is not None:
        rest = footprint.rest_bytes
        named = ", ".join(f"`{name}` {size}" for name, size in footprint.rest)
        rows.append(("rest of `.data` and `.bss`", f"{rest:,}", named))
    whole = plan.ram_bytes + rest
    limit = target.memory("ram").bytes
    share = f"{whole / limit:.0%} of {limit:,}" if limit else ""
    return [*rows, ("**whole RAM**", f"**{whole:,}**", share)]


def _live(source: Source) -> list[Row]:
    if source.live is None:
        return []
    parts = dict(source.live.parts)
    parts["session"] += source.plan.live_bytes - sum(parts.values())
    live = source.live
    notes = {
        "capture ring": f"{live.ring_frames} frames, of which {live.live.ring} may wait",
        "front end": "filters and the newest window",
        "sample store": f"{live.live.store_pages} pages of flash",
        "session": "calibration, checkpoints, guards, counters",
    }
    rows = [(name, f"{size:,}", notes[name]) for name, size in parts.items()]
    return [*rows, ("**`bt_live`**", f"**{source.plan.placed_bytes:,}**", "the model within it")]


def _else(source: Source, target: Target, footprint: Footprint | None) -> list[Row]:
    plan = source.plan
    rows: list[Row] = []
    if footprint is not None:
        limit = target.memory("flash").bytes
        share = f"; {footprint.flash_bytes / limit:.0%} of {limit:,}" if limit else ""
        parts = f"code {footprint.code_bytes:,}, constants {footprint.constant_bytes:,}"
        rows.append(("flash, bytes", f"{footprint.flash_bytes:,}", parts + share))
        path = " > ".join(f"`{name}`" for name in footprint.stack_path)
        rows.append(("deepest stack, bytes", f"{footprint.stack_bytes:,}", path))
    else:
        rows.append(("flash, bytes", f"{plan.flash_bytes:,}", "weights and constants alone"))
    rows.append(_code(source, footprint))
    rows.append(("operations per window", f"{plan.ops:,}", "multiplies and adds of one training"))
    if plan.cycles:
        speed = ", for `--optimize speed`" if plan.optimize == "size" else ""
        place = "rtl" if target.sdk else "emulator"
        counts = f"; `biotrain run . --on {place}` counts" if target.build else ""
        each = f"estimate from the shapes of the kernels{speed}{counts}"
        rows.append(("cycles per window", f"{plan.cycles:,.0f}", each))
    if plan.ms_per_sample:
        clock = f"estimate: those cycles at {target.clock_hz / 1e6:g} MHz"
        rows.append(("time per window, ms", f"{plan.ms_per_sample:,.1f}", clock))
    if source.live is not None:
        longest = plan.longest_slice_cycles
        rows.append(("longest slice, cycles", f"{longest:,}", f"estimate: `{plan.longest_slice}`"))
        pages = f"{source.live.pages} pages of windows and checkpoints"
        rows.append(("flash it writes, bytes", f"{source.live.flash_bytes:,}", pages))
    if plan.mj_per_sample:
        whose = "all of the chip" if target.sdk else "the core alone"
        power = f"estimate: that time at {target.mw_per_mhz:g} mW per MHz, {whose}"
        rows.append(("energy per window, mJ", f"{plan.mj_per_sample:.3g}", power))
    return rows


def _notes(target: Target, footprint: Footprint | None) -> list[str]:
    if target.firmware is None:
        return []
    exception = " (an exception with FPU registers is 104 bytes)" if _arm(target) else ""
    notes = [f"Interrupt handlers of yours need stack too{exception}: add it to the reserve."]
    if footprint is not None and footprint.stack_bytes > target.stack_bytes:
        notes.insert(
            0,
            f"**The reserve of {target.stack_bytes:,} bytes is too small**: raise `BT_STACK_BYTES` "
            "in `firmware/link.ld`.",
        )
    if target.boot:
        note = target.boot_note
        notes.insert(0, f"**{note[0].upper()}{note[1:]}.**")
    if not target.memory("ram").bytes:
        notes.append(
            f"{target.name} is a core without a board: put the memories of yours into "
            "`firmware/link.ld`."
        )
    return notes


def _arm(target: Target) -> bool:
    return target.build is not None and target.build.family == "arm"


def _live_files(source: Source) -> list[str]:
    if source.live is None:
        return []
    return [
        "| `live.h`, `bt_live.h` | the interface of the live firmware around the model |",
        "| `live.c`, `live_learn.c`, `live_sessions.c` | its code |",
        "| `bt_store.h`, `bt_slots.h` | the stored windows and the checkpoints in flash |",
    ]


_CALL_LIVE = """\
```c
static bt_live live;
bt_live_start(&live, &flash);                      /* three calls of your flash: bt_flash.h */
bt_live_push(&live, frame, label);                 /* from the converter's interrupt */
for (;;)
  switch (bt_live_work(&live, 100000)) {           /* at most about so many cycles */
  case BT_LIVE_PREDICTED: ... live.predicted
  case BT_LIVE_IDLE: ...                           /* sleep */
  }
bt_live_calibrate(&live);                          /* learn from what is stored, meanwhile */
```

`bt_live.h` tells the rest. Without the live firmware around it the model is called so:

"""


def _call(source: Source) -> str:
    life = _CALL_LIVE if source.live is not None else ""
    return life + _call_model(source)


def _call_model(source: Source) -> str:
    by_class = source.train.inputs[-1].dtype == "i32"
    lines = ["static bt_model model;", "float loss, logits[BT_OUTPUTS];", "bt_init(&model);"]
    label = "label" if by_class else "target"
    if source.adabn or (source.trained and source.batch):
        lines += [
            "const bt_source source = {window, context};      /* window() gives one of them */"
        ]
    if source.adabn:
        lines += [
            "bt_adabn(&model, &source, n);                    /* statistics; without labels */"
        ]
    if source.trained and source.batch:
        lines += [
            "bt_begin(&model, steps, lr);                     /* of the whole calibration */",
            "bt_train_batch(&model, &source, BT_BATCH, &loss);",
            "bt_step(&model);",
        ]
    elif source.trained:
        announce = "  bt_group(&model, n);                           /* if n < BT_GROUP windows */"
        lines += [
            "bt_begin(&model, steps, lr);                     /* of the whole calibration */",
            "for (each group of BT_GROUP windows) {",
            *([announce] if source.gradients == "momentum" else []),
            "  for (each window of the group)",
            f"    bt_train_sample(&model, x, {label}, &loss);",
            "  bt_step(&model);",
            "}",
            "bt_save(&model, slot, slot_bytes);               /* bt_load() after the next start */",
        ]
    lines += ["bt_predict(&model, x, logits);"]
    return "\n".join(["```c", *lines, "```"])
