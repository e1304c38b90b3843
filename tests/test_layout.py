# SPDX-License-Identifier: Apache-2.0
"""Layouts that Python and C both know: one table each, printed into C, asserted by compilers.

A table that is changed without its C, or the other way round, fails here, on the host and on the
cores that firmware is built for.
"""

import re
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import _layouts
import numpy as np
import pytest
import torch
from _cc import RUNTIME
from _layouts import Table

import biotrain as bt
from biotrain.emit.context import context, tensor_layout
from biotrain.frontend import FrontEnd
from biotrain.planner.context import RUNTIME_BYTES, SLICES_BYTES
from biotrain.planner.live_layout import COUNTERS, RECORD, STORE_CLASSES, STORE_SLOTS
from biotrain.run import live_box, mailbox
from biotrain.run.compiler import STRICT
from biotrain.run.firmware import command, core_of
from biotrain.targets.layout import (
    F32,
    U8,
    U32,
    Dim,
    Enumeration,
    Member,
    Opaque,
    Struct,
    pointer_to,
)
from biotrain.targets.target import load_target

CHECK = [*STRICT, "-O0", "-c", "-o", "checked.o"]
"""Assertions of sizes and offsets stop the compiler. (zig does not know -fsyntax-only.)"""
CORES = ("host", "cortex-m4f", "rv32imfc")

EXAMPLE = Struct(
    "example",
    (
        Member("byte", U8),
        Member("word", U32, "aligned to 4"),
        Member("pointer", pointer_to("const void"), "4 or 8 bytes"),
        Member("grid", U8, "three by two", (Dim(3), Dim(2, "WIDTH"))),
        Member("maybe", F32, only_if="HAVE_MAYBE", there=False),
        Member("inner", Struct("inner_example", (Member("value", F32),))),
    ),
)


def package(**options: object) -> bt.Package:
    """A small network; live with a front end unless told otherwise."""
    front = FrontEnd(200.0, 2, 64, 16, standardise="window", bandpass=(1.0, 40.0))
    torch.manual_seed(0)
    net = bt.prepare(bt.models.build("epidenet", 2, 400, 3, 200.0), norm="frozen")
    front = replace(front, window=400)
    chosen = {"live": bt.Live(front=front, store_pages=4, epochs=10), "input_type": "int16"}
    return bt.compile(
        net,
        torch.zeros(1, 2, 400),
        target="nrf52840",
        input_scale=0.1,
        **{"accumulate": 1, **chosen, **options},
    )


@pytest.fixture(scope="module")
def live() -> bt.Package:
    return package()


# ---------------------------------------------------------------- the tables


def test_offsets_and_sizes_follow_the_abi() -> None:
    assert EXAMPLE.offsets(4) == {"byte": 0, "word": 4, "pointer": 8, "grid": 12, "inner": 20}
    assert EXAMPLE.offsets(8) == {"byte": 0, "word": 4, "pointer": 8, "grid": 16, "inner": 24}
    assert (EXAMPLE.size(4), EXAMPLE.size(8)) == (24, 32)
    assert EXAMPLE.offset("inner.value", 8) == 24
    with pytest.raises(KeyError):
        EXAMPLE.offset("inner.nothing", 8)
    raw = np.arange(24, dtype=np.uint8)
    read = np.frombuffer(raw.tobytes(), EXAMPLE.dtype(4))[0]
    assert read["byte"] == 0
    assert read["word"] == int.from_bytes(raw[4:8].tobytes(), "little")
    assert read["grid"].tolist() == [[12, 13], [14, 15], [16, 17]]


def test_a_struct_is_printed_as_c() -> None:
    assert EXAMPLE.declaration() == "\n".join(
        [
            "typedef struct example {",
            "  uint8_t byte;",
            "  uint32_t word;          /* aligned to 4 */",
            "  const void *pointer;    /* 4 or 8 bytes */",
            "  uint8_t grid[3][WIDTH]; /* three by two */",
            "#if HAVE_MAYBE",
            "  float maybe;",
            "#endif",
            "  inner_example inner;",
            "} example;",
        ]
    )


@pytest.mark.parametrize(("name", "table"), _layouts.tables(), ids=lambda p: getattr(p, "name", p))
def test_the_c_in_rt_is_what_its_table_prints(name: str, table: Table) -> None:
    """After a change of a table: `python tests/_layouts.py --write`."""
    assert _layouts.declared(name, table) == _layouts.printed(name, table)


def test_no_struct_of_the_mailboxes_or_the_live_firmware_is_without_a_table() -> None:
    files = ("bt_flash.h", "bt_slots.h", "bt_live.h", "session.h", "sim_flash.h", "live_box.c")
    for name in files:
        text = (RUNTIME / name).read_text(encoding="utf-8")
        declared = re.findall(r"^typedef (?:struct|enum) (\w+)", text, re.M)
        assert declared == [table.name for table in _layouts.TABLES[name]]


def test_python_and_c_agree_on_the_limits_of_the_store() -> None:
    text = (RUNTIME / "bt_record.h").read_text(encoding="utf-8")
    for name, value in (("BT_STORE_SLOTS", STORE_SLOTS), ("BT_STORE_CLASSES", STORE_CLASSES)):
        assert f"#define {name} {value} " in text


def test_counts_that_others_rely_on() -> None:
    """Budgets of 0.1: a change of one of these changes the RAM of every package."""
    assert RUNTIME_BYTES == {"separate": 36, "momentum": 40, "update": 44}
    assert SLICES_BYTES == 80
    assert (RECORD.size(4), RECORD.size(8), COUNTERS.size(4)) == (52, 52, 96)


# ---------------------------------------------------------------- what C asserts


def compiler(core: str) -> list[str]:
    """A compiler for the core that stops at a warning."""
    if core == "host":
        return ["gcc", *CHECK]
    if not find_spec("ziglang"):
        pytest.skip("ziglang is not installed")
    start = command(core_of(load_target(core)), "zig")
    return [*start, *CHECK, "-Wno-unused-command-line-argument"]  # those of linking


def refused(core: str, folder: Path, name: str) -> str:
    """What the compiler says of a file; nothing where it accepts it."""
    done = subprocess.run(
        [*compiler(core), "-DBT_LIVE_HOSTED", name],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr if done.returncode else ""


def written(folder: Path, pkg: bt.Package) -> dict[str, tuple[str, tuple[Struct, ...]]]:
    """The C of a package with both mailboxes; per layout header its source and its structs."""
    outputs, size = pkg.source.train.outputs[0].size, pkg.plan.context_bytes
    files = {n: t for n, t in pkg.files.items() if n.endswith((".c", ".h"))}
    for name in ("session.c", "session.h", "live_box.c", "sim_flash.h"):
        files[name] = (RUNTIME / name).read_text(encoding="utf-8")
    files["front_alone.c"] = '#include "front.h"\n'
    files["session_layout.h"] = mailbox.layout_header(outputs, size)
    files["live_box_layout.h"] = live_box.layout_header(pkg.live_context)
    for name, text in files.items():
        (folder / name).write_text(text)
    box = live_box.box(pkg.live_context)
    front = pkg.live_context.member("front").kind
    assert isinstance(front, Struct)
    return {
        "model_layout.h": ("model.c", tuple(context(pkg.source).nested())),
        "live_layout.h": ("live.c", tuple(s for s in pkg.live_context.nested() if s is not front)),
        "front.h": ("front_alone.c", (front,)),
        "session_layout.h": ("session.c", (mailbox.session(outputs, size),)),
        "live_box_layout.h": ("live_box.c", (live_box.SIM_FLASH, live_box.event(outputs), box)),
    }


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("core", CORES)
def test_every_core_lays_the_structs_out_as_the_tables_say(
    core: str, live: bt.Package, tmp_path: Path
) -> None:
    for header, (source, structs) in written(tmp_path, live).items():
        text = (tmp_path / header).read_text()
        for struct in structs:
            assert f"BT_HAS_SIZE({struct.name}, " in text
            for member in struct.present:
                assert f"BT_HAS_MEMBER({struct.name}, {member.name}, " in text
        assert refused(core, tmp_path, source) == ""


@pytest.mark.parametrize("core", CORES)
def test_a_member_more_in_c_is_refused(core: str, live: bt.Package, tmp_path: Path) -> None:
    """Of each table one struct, whose C has a member that Python does not know."""
    found = written(tmp_path, live)
    places = {
        "model.c": ("model.h", "  uint32_t check_flat;"),
        "live.c": ("bt_live.h", "  uint32_t patience;"),
        "front_alone.c": ("bt_front.h", "  uint32_t phase;"),
        "session.c": ("session.h", "  uint32_t index;"),
        "live_box.c": ("sim_flash.h", "  uint32_t pages;"),
    }
    for source, _ in found.values():
        header, line = places[source]
        text = (tmp_path / header).read_text()
        assert text.count(line) == 1
        (tmp_path / header).write_text(text.replace(line, f"  uint32_t not_in_python;\n{line}"))
        assert "_there" in refused(core, tmp_path, source)
        (tmp_path / header).write_text(text)


def test_every_member_is_held_by_an_assertion_of_its_own(live: bt.Package, tmp_path: Path) -> None:
    """Tables with 8 bytes more in front: the compiler complains of each member and each size."""
    for header, (source, structs) in written(tmp_path, live).items():
        text = (tmp_path / header).read_text()
        names = []
        for struct in structs:
            more = Member("not_in_c", U32, dims=(Dim(2),))
            shifted = Struct(struct.name, (more, *struct.members)).assertions()
            wrong = [line for line in shifted if "not_in_c" not in line]
            right = "\n".join(struct.assertions())
            assert right in text
            text = text.replace(right, "\n".join(wrong))
            names += [f"{struct.name}_has_{m.name}_there" for m in struct.present]
            names += [f"{struct.name}_has_its_size"]
        (tmp_path / header).write_text(text)
        said = refused("host", tmp_path, source)
        assert [name for name in names if name not in said] == []


# ---------------------------------------------------------------- what Python reads


def test_the_size_of_the_context_is_that_of_the_plan(live: bt.Package) -> None:
    for pkg in (live, package(live=None), package(live=None, gradients="update")):
        assert pkg.context.size(4) == pkg.context.size(8) == pkg.plan.context_bytes
    assert live.live_context.size(4) == live.plan.placed_bytes


def test_tensors_are_where_the_context_has_them(live: bt.Package) -> None:
    layout, model = tensor_layout(live.source), live.context
    first = live.source.trained[0]
    assert layout[first] == (0, model.member(f"p.{first}").count * 4)
    assert layout[f"g_{first}"][0] == model.offset("g", 4)
    ends = [at + size for at, size in layout.values()]
    assert ends == sorted(ends)
    assert ends[-1] == model.offset("progress", 4)


def test_the_commands_of_the_mailbox_are_those_of_c() -> None:
    assert mailbox.COMMANDS.number("nothing") == 0
    text = (RUNTIME / "session.c").read_text(encoding="utf-8")
    asked = set(re.findall(r"case BT_DO_(\w+):", text))
    told = {name.upper() for name in mailbox.COMMANDS.names}
    assert told - asked == {"NOTHING", "WINDOW"}
    assert asked <= told


def test_an_enum_counts_from_zero() -> None:
    for _, table in _layouts.tables():
        if isinstance(table, Enumeration):
            assert [table.number(name) for name in table.names] == [*range(len(table.names))]
    assert Opaque("x", 12, 4).dtype(8).itemsize == 12
