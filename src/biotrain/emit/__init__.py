# SPDX-License-Identifier: Apache-2.0
"""Graphs and a plan become C99: the kernels copied, the schedule printed.

`model.h` is the interface, `model.c` the schedule (one call per node), `model_weights.c` the
initial values. Everything is deterministic text; weights are hex floats and lose no bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill

from biotrain.emit.context import layout_header
from biotrain.emit.header import header
from biotrain.emit.live import LIVE_SOURCES, live_files
from biotrain.emit.model import model, window_offset
from biotrain.emit.prefix import prefixed, public_names, renamed, with_prefix
from biotrain.emit.schedule import Places, Shapes, call_text, literal, node_text
from biotrain.emit.source import (
    Source,
    fingerprint,
    running_values,
    trained_values,
)
from biotrain.emit.text import titled
from biotrain.emit.trim import trimmed
from biotrain.ir.graph import flat_nodes
from biotrain.ir.op import OPS, float_literal
from biotrain.ops import SOURCES
from biotrain.writing.text import comment

RUNTIME = Path(__file__).parent.parent / "rt"
RUNTIME_FILES = (
    "bt_math.h",
    "bt_kernel.h",
    "bt_string.h",
    "bt_status.h",
    "bt_crc.h",
    "bt_checkpoint.h",
    "bt_layout.h",
)

PORT_FILES = ("bt_port.h", "port_threads.c", "port_bare.c", "port_pmsis.c")
"""How workers run: the layer and its back ends, of which `-DBT_PORT=...` chooses one."""

__all__ = [
    "LIVE_SOURCES",
    "PORT_FILES",
    "RUNTIME_FILES",
    "Places",
    "Shapes",
    "Source",
    "call_text",
    "emit",
    "fingerprint",
    "in_words_of",
    "kernel_sources",
    "literal",
    "node_text",
    "prefixed",
    "running_values",
    "trained_values",
    "window_offset",
]


def in_words_of(source: Source, files: Mapping[str, str]) -> dict[str, str]:
    """Files around the C (mailbox, firmware, build systems) with the names of the model."""
    if not source.prefix:
        return dict(files)
    own = {
        "model.h": header(source),
        "model_layout.h": layout_header(source),
        "model_weights.c": _weights(source),
    }
    names = public_names(own)
    return {name: with_prefix(text, names, source) for name, text in files.items()}


def emit(source: Source) -> dict[str, str]:
    """All files of the package by name."""
    stems = _stems(source)
    names = (*RUNTIME_FILES, *(("bt_align.h",) if source.adabn else ()))
    names += PORT_FILES if source.uses_port else ()
    files = {name: (RUNTIME / name).read_text(encoding="utf-8") for name in names}
    for stem in stems:
        files[stem] = (SOURCES / stem).read_text(encoding="utf-8")
    files["model.h"] = header(source)
    files["model_layout.h"] = layout_header(source)
    files["model.c"] = model(source, stems)
    if source.target is not None and source.target.core != "host":
        whole = {stem: files.pop(stem) for stem in stems}
        macros = {"BT_VECTOR": False}
        if not source.prefix:  # another model of the firmware may be for the other
            macros["BT_CONV_SMALL"] = source.optimize == "size"
        kernels = trimmed(whole, files["model.c"], macros, shared=bool(source.prefix))
        files["model.c"] = model(source, list(kernels))
        files |= kernels
    files["model_weights.c"] = _weights(source)
    return renamed({**live_files(source), **files}, source)


def _stems(source: Source) -> list[str]:
    nodes = [*source.train.nodes, *source.train.updates, *source.predict.nodes]
    for schedule in (source.batch, source.adabn):
        for phase in schedule.phases if schedule else ():
            nodes += [*phase.before, *phase.graph.nodes]
        nodes += schedule.after if schedule else ()
    found = [OPS[n.op] for n in flat_nodes(nodes) if not OPS[n.op].alias]
    other = "bt_conv_leaf.h" if source.optimize == "size" else "bt_conv_small.h"
    return kernel_sources([op.source for op in found], without=(other,))


def kernel_sources(stems: Iterable[str], without: Sequence[str] = ()) -> list[str]:
    """The kernel files and those that they include, each once, sorted; not those `without`, which
    the macros of a package leave out."""
    found: dict[str, None] = dict.fromkeys(without)
    waiting = list(stems)
    while waiting:
        stem = waiting.pop()
        if stem not in found:
            found[stem] = None
            text = (SOURCES / stem).read_text(encoding="utf-8")
            included = re.findall(r'#include "(bt_\w+\.h)"', text)
            waiting += [name for name in included if (SOURCES / name).is_file()]
    return sorted(name for name in found if name not in without)


def _weights(source: Source) -> str:
    lines = [
        "/* SPDX-License-Identifier: Apache-2.0 */",
        *titled(source.title, ": initial values (hex floats: exact). */"),
        "",
        "#include <stdint.h>",
        "",
        "/* What differs between packages of one network stands here, not in the schedule. */",
        "extern const uint32_t bt_fingerprint; /* of the model, in checkpoints */",
        f"const uint32_t bt_fingerprint = {fingerprint(source):#010x}u;",
        "extern const float bt_initial_lr; /* learning rate, until bt_begin says another */",
        f"const float bt_initial_lr = {float_literal(source.optimizer.lr)};",
        "",
    ]
    values = (*source.train.params, *source.train.consts, *running_values(source))
    for v in values:
        shape = " x ".join(map(str, v.shape))
        data = source.tensors[v.name].reshape(-1).tolist()
        numbers = ", ".join(float_literal(x) for x in data)
        body = fill(numbers, 100, initial_indent="  ", subsequent_indent="  ")
        known = source.torch_names.get(v.name, "a constant that was computed when compiling")
        lines += [
            f"/* {comment(known)}: {shape} */",
            f"extern const float bt_w_{v.name}[{v.size}];",
            f"const float bt_w_{v.name}[{v.size}] = {{",
            body,
            "};",
            "",
        ]
    return "\n".join(lines)
