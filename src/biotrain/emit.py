# SPDX-License-Identifier: Apache-2.0
"""Graphs and a plan become C99: the kernels copied, the schedule printed.

`model.h` is the interface, `model.c` the schedule (one call per node), `model_weights.c` the
initial values. Everything is deterministic text; weights are hex floats and lose no bit.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np
import numpy.typing as npt

from biotrain.ir import ITEM_BYTES, Graph, Node, Value
from biotrain.memory import Buffer
from biotrain.op import LEAF, OPS, Call, Operand, rows_times
from biotrain.ops import SOURCES
from biotrain.optim import SGD, Optimizer
from biotrain.plan import Plan

RUNTIME = Path(__file__).parent / "rt"
RUNTIME_FILES = ("bt_math.h", "bt_kernel.h", "bt_status.h", "bt_crc.h", "bt_checkpoint.h")
_CTYPE = {"f32": "float", "u8": "uint8_t", "i32": "int32_t"}


@dataclass(frozen=True)
class Source:
    """What the emitter needs to know."""

    train: Graph
    predict: Graph
    plan: Plan
    tensors: Mapping[str, npt.NDArray[np.float32]]
    torch_names: Mapping[str, str]
    trained: tuple[str, ...]
    optimizer: Optimizer
    accumulate: int
    fused: bool
    title: str
    loss: str


def kernel_file(source: str) -> str:
    """Name of a kernel file in a package: `conv.c` is included as `bt_conv.h`."""
    return f"bt_{source.removesuffix('.c')}.h"


def emit(source: Source) -> dict[str, str]:
    """All files of the package by name."""
    stems = _stems(source)
    files = {name: (RUNTIME / name).read_text(encoding="utf-8") for name in RUNTIME_FILES}
    for stem in stems:
        files[kernel_file(stem)] = (SOURCES / stem).read_text(encoding="utf-8")
    files["model.h"] = _header(source)
    files["model.c"] = _model(source, stems)
    files["model_weights.c"] = _weights(source)
    return files


def _stems(source: Source) -> list[str]:
    nodes = (*source.train.nodes, *source.train.updates, *source.predict.nodes)
    used = {OPS[n.op].source: None for n in nodes if not OPS[n.op].alias}
    return sorted(used)


def float_literal(value: float) -> str:
    """A C99 hex float literal that is exactly the float32 nearest to `value`."""
    exact = struct.unpack("<f", struct.pack("<f", value))[0]
    return f"{float(exact).hex()}f"


# ---------------------------------------------------------------- where values live


class Places:
    """C expressions of values in one function."""

    def __init__(self, source: Source, buffers: Sequence[Buffer]) -> None:
        self._source = source
        self._at = {m: b for b in buffers for m in b.members}

    def pointer(self, value: Value) -> str:
        """The expression that points at the tensor."""
        name = value.name
        if value.kind == "temp" or (value.kind == "input" and value.dtype == "f32"):
            return name
        if value.kind == "input":
            return f"&{name}"
        if value.kind == "state":
            if name.startswith("g_"):
                return f"m->g.{name.removeprefix('g_')}"
            slots = [s for s in self._source.optimizer.slots if name.startswith(f"{s}_")]
            if slots and name.removeprefix(f"{slots[0]}_") in self._source.trained:
                return f"m->{slots[0]}.{name.removeprefix(slots[0] + '_')}"
            return f"m->s.{name}"
        if value.kind == "param" and name in self._source.trained:
            return f"m->p.{name}"
        return f"bt_w_{name}"

    def offset(self, value: Value) -> int:
        """Byte offset in the arena."""
        return self._at[value.name].offset

    def declarations(self, nodes: Sequence[Node], inputs: Sequence[Value]) -> list[str]:
        """Pointers to the tensors of the arena that the nodes use, in order of offset."""
        used = {v.name: v for v in inputs if v.dtype == "f32"}
        used.update({v.name: v for n in nodes for v in n.outputs if v.kind == "temp"})
        lines = []
        for v in sorted(used.values(), key=lambda v: (self.offset(v), v.name)):
            offset, ctype = self.offset(v), _CTYPE[v.dtype]
            cast = "" if v.dtype == "f32" else f"({ctype} *)"
            shape = " x ".join(map(str, v.shape))
            buffer = self._at[v.name]
            lines.append(
                f"  {ctype} *const {v.name} = {cast}&m->arena[{offset // 4}]; "
                f"/* {shape}; nodes {buffer.first} to {buffer.last} */"
            )
        return lines


def view(operand: Operand, node: Node, places: Places) -> str:
    """A kernel argument."""
    if operand.source == "null":
        return "NULL"
    value = (node.inputs if operand.source == "in" else node.outputs)[operand.index]
    pointer = places.pointer(value)
    if not operand.view:
        return pointer
    kind = "bt_in" if operand.source == "in" else "bt_out"
    return f"({kind}){{{pointer}, {rows_times(value.shape)[1]}, 0, 0}}"


def call_text(call: Call, box: str, arguments: Sequence[str], indent: str = "  ") -> str:
    """One kernel call, wrapped at 100 columns."""
    geometry = ", ".join(f".{k} = {v}" for k, v in call.geometry)
    items = [f"({call.struct}){{{geometry}}}", box, *arguments, *call.extra]
    text = fill(
        f"{call.function}({', '.join(items)});",
        width=100,
        initial_indent=indent,
        subsequent_indent=indent + "    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return text


def node_text(node: Node, index: int, places: Places) -> list[str]:
    """A node as C: a comment, and the call."""
    rule = OPS[node.op]
    shape = " x ".join(map(str, node.outputs[0].shape))
    origin = f"  [{node.origin}]" if node.origin else ""
    names = ", ".join(v.name for v in node.outputs)
    inputs = ", ".join(v.name for v in node.inputs)
    lines = [f"  /* {index}: {names} = {node.op}({inputs})  {shape}{origin} */"]
    if rule.alias:
        return lines
    if rule.accumulates:
        lines += [
            f"  memset({v.name}, 0, {v.size} * sizeof *{v.name});"
            for v in node.outputs
            if v.kind == "temp"
        ]
    call = rule.call(node)
    arguments = [view(o, node, places) for o in call.operands]
    lines.append(call_text(call, f"(bt_box){{0, {call.box[0]}, 0, {call.box[1]}}}", arguments))
    return lines


# ---------------------------------------------------------------- model.h


def _fields(values: Sequence[Value]) -> list[str]:
    return [f"  {_CTYPE[v.dtype]} {v.name}[{v.size}];" for v in values]


def trained_values(source: Source) -> list[Value]:
    """The parameters in RAM."""
    return [v for v in source.train.params if v.name in source.trained]


def running_values(source: Source) -> list[Value]:
    """Running statistics."""
    kept = {v.name for n in source.train.updates for v in n.outputs}
    return [
        v for v in source.train.states if not v.name.startswith("g_") and v.name not in kept
    ]


def _header(source: Source) -> str:
    x, logits, target = source.train.inputs[0], source.train.outputs[0], source.train.inputs[1]
    rows, times = rows_times(x.shape)
    plan = source.plan
    trained, running = trained_values(source), running_values(source)
    label = "int32_t label" if target.dtype == "i32" else "const float *target"
    lines = [
        "/* SPDX-License-Identifier: Apache-2.0 */",
        f"/* {source.title}",
        " * Generated by BioTrain. One context holds everything: place a bt_model where you like.",
        f" * Context {plan.context_bytes} bytes: arena {plan.peak_bytes}, "
        f"parameters {plan.param_bytes}, gradients {plan.gradient_bytes},",
        f" * optimizer {plan.optimizer_bytes}, running statistics {plan.state_bytes}. */",
        "#ifndef BT_MODEL_H",
        "#define BT_MODEL_H",
        "",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "",
        '#include "bt_status.h"',
        "",
        f"#define BT_INPUT_ROWS {rows}   /* channels of one window */",
        f"#define BT_INPUT_TIMES {times} /* samples of one window */",
        f"#define BT_OUTPUTS {logits.size}",
        f"#define BT_GROUP {source.accumulate} /* windows whose mean gradient makes one step */",
        f"#define BT_FINGERPRINT {fingerprint(source):#010x}u /* of the model, in checkpoints */",
        "",
    ]
    if trained:
        lines += [
            "/* Trained parameters; gradients and optimizer state have the same layout. */",
            "typedef struct bt_params {",
            *_fields(trained),
            "} bt_params;",
            "",
        ]
    if running:
        lines += [
            "/* Running statistics. */",
            "typedef struct bt_running {",
            *_fields(running),
            "} bt_running;",
            "",
        ]
    lines += [
        "typedef struct bt_progress {",
        "  uint32_t steps;   /* optimizer steps done */",
        "  uint32_t horizon; /* steps that the cosine schedule spans; 0: constant rate */",
        "  float lr;         /* learning rate at the start */",
        "  float correction1, correction2; /* Adam: 1 - beta^steps */",
        "} bt_progress;",
        "",
        "typedef struct bt_model {",
        *(["  bt_params p; /* parameters */"] if trained else []),
        *(["  bt_params g; /* sum of the gradients of this group */"] if trained else []),
        *([f"  bt_params {s};" for s in source.optimizer.slots] if trained else []),
        *(["  bt_running s;"] if running else []),
        "  bt_progress progress;",
        "  uint32_t samples;    /* windows in the gradients now */",
        "  uint32_t check_flat; /* 1: refuse a window with a constant channel */",
        "  uint32_t rejected;   /* windows and groups that were refused since bt_init */",
        "  uint32_t sequence;   /* of the last checkpoint */",
        f"  float arena[{plan.peak_bytes // 4}];",
        "} bt_model;",
        "",
        "/* Every call but bt_init leaves the weights as they were unless it returns BT_OK. */",
        "",
        "/* Factory weights, no steps done. */",
        "void bt_init(bt_model *m);",
        "/* Announces the number of steps of a calibration; the cosine schedule spans them. */",
        "void bt_begin(bt_model *m, uint32_t steps, float lr);",
        "/* x: BT_INPUT_ROWS rows of BT_INPUT_TIMES samples; logits: BT_OUTPUTS. */",
        "bt_status bt_predict(bt_model *m, const float *x, float *logits);",
        "/* Adds the gradient of one window to the group. */",
        f"bt_status bt_train_sample(bt_model *m, const float *x, {label}, float *loss);",
        "/* One optimizer step with the mean gradient of the group; the group starts anew. */",
        "bt_status bt_step(bt_model *m);",
        "/* CRC-32 of the trained parameters and running statistics. */",
        "uint32_t bt_weights_crc32(const bt_model *m);",
        "/* Checkpoint of the training state: its size, written to and read from a slot. */",
        "size_t bt_save_bytes(void);",
        "bt_status bt_save(bt_model *m, void *slot, size_t slot_bytes);",
        "bt_status bt_load(bt_model *m, const void *slot, size_t slot_bytes);",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def fingerprint(source: Source) -> int:
    """Identifies the model of a checkpoint: architecture, optimizer layout and frozen weights."""
    parts = [f"{n.op} {n.attrs} {[v.shape for v in n.outputs]}" for n in source.predict.nodes]
    parts += [*source.trained, type(source.optimizer).__name__, *source.optimizer.slots]
    crc = zlib.crc32("\n".join(parts).encode())
    frozen = [*source.train.params, *source.train.consts]
    for v in frozen:
        if v.name not in source.trained:
            crc = zlib.crc32(np.ascontiguousarray(source.tensors[v.name], "<f4").tobytes(), crc)
    return crc


# ---------------------------------------------------------------- model.c


def _model(source: Source, stems: Sequence[str]) -> str:
    lines = [
        "/* SPDX-License-Identifier: Apache-2.0 */",
        f"/* {source.title}",
        " * Generated by BioTrain: the schedule, one call per node. */",
        f"#define BT_FUSED {int(source.fused)} /* 1: a multiply-add rounds once (fmaf) */",
        "",
        '#include "model.h"',
        "",
        "#include <string.h>",
        "",
        '#include "bt_checkpoint.h"',
        '#include "bt_kernel.h"',
        *[f'#include "{kernel_file(s)}"' for s in stems],
        "",
    ]
    frozen = [v for v in (*source.train.params, *source.train.consts)]
    lines += ["/* Initial values, in flash (model_weights.c). */"]
    lines += [f"extern const float bt_w_{v.name}[{v.size}];" for v in frozen]
    lines += [f"extern const float bt_w_{v.name}[{v.size}];" for v in running_values(source)]
    lines += ["", *_input_function(source), *_predict_function(source)]
    lines += _train_function(source)
    lines += _step_function(source)
    lines += _state_functions(source)
    return "\n".join(lines) + "\n"


def _input_function(source: Source) -> list[str]:
    return [
        "/* Copies a window into the arena and refuses what no electrode should deliver. */",
        "static bt_status bt_take(const bt_model *m, const float *x, float *to)",
        "{",
        "  for (int r = 0; r < BT_INPUT_ROWS; r++) {",
        "    int flat = BT_INPUT_TIMES > 1;",
        "    for (int t = 0; t < BT_INPUT_TIMES; t++) {",
        "      const float sample = x[r * BT_INPUT_TIMES + t];",
        "      if (!bt_isfinite(sample))",
        "        return BT_ERR_INPUT_NONFINITE;",
        "      flat &= !(sample < x[r * BT_INPUT_TIMES] || sample > x[r * BT_INPUT_TIMES]);",
        "      to[r * BT_INPUT_TIMES + t] = sample;",
        "    }",
        "    if (flat && m->check_flat)",
        "      return BT_ERR_INPUT_FLAT;",
        "  }",
        "  return BT_OK;",
        "}",
        "",
    ]


def _predict_function(source: Source) -> list[str]:
    graph = source.predict
    places = Places(source, source.plan.predict_buffers)
    x, logits = graph.inputs[0], graph.outputs[0]
    lines = [
        "bt_status bt_predict(bt_model *m, const float *x_in, float *logits)",
        "{",
        *places.declarations(graph.nodes, graph.inputs),
        "",
        f"  const bt_status status = bt_take(m, x_in, {x.name});",
        "  if (status != BT_OK)",
        "    return status;",
    ]
    for i, node in enumerate(graph.nodes):
        lines += node_text(node, i, places)
    lines += [
        f"  memcpy(logits, {logits.name}, {logits.size} * sizeof *logits);",
        "  return BT_OK;",
        "}",
        "",
    ]
    return lines


def _train_function(source: Source) -> list[str]:
    graph = source.train
    places = Places(source, source.plan.buffers)
    x, target = graph.inputs
    loss = graph.outputs[1]
    classes = graph.outputs[0].size
    integer = target.dtype == "i32"
    argument = f"int32_t {target.name}" if integer else "const float *target_in"
    lines = [
        f"bt_status bt_train_sample(bt_model *m, const float *x_in, {argument}, float *loss_out)",
        "{",
        *places.declarations(graph.nodes, graph.inputs),
        "",
    ]
    if integer:
        lines += [
            f"  if ({target.name} < 0 || {target.name} >= {classes}) {{",
            "    m->rejected++;",
            "    return BT_ERR_LABEL;",
            "  }",
        ]
    lines += [
        f"  const bt_status status = bt_take(m, x_in, {x.name});",
        "  if (status != BT_OK) {",
        "    m->rejected++;",
        "    return status;",
        "  }",
    ]
    if not integer:
        lines += [f"  memcpy({target.name}, target_in, {target.size} * sizeof *{target.name});"]
    for i, node in enumerate(graph.nodes):
        lines += node_text(node, i, places)
        if loss in node.outputs:
            lines += [
                f"  *loss_out = {loss.name}[0];",
                f"  if (!bt_isfinite({loss.name}[0])) {{",
                "    m->rejected++;",
                "    return BT_ERR_LOSS_NONFINITE;",
                "  }",
            ]
    return [*lines, "  m->samples++;", "  return BT_OK;", "}", ""]


def _rate(source: Source) -> list[str]:
    rate = "m->progress.lr"
    if source.optimizer.schedule == "cosine":
        return [
            f"  float lr = {rate};",
            "  if (m->progress.horizon > 0) { /* lr (1 + cos(pi step / horizon)) / 2 */",
            "    const uint32_t step = m->progress.steps < m->progress.horizon ? m->progress.steps",
            "                                                                : m->progress.horizon;",
            "    lr *= 0.5f * (1.0f + bt_cospif((float)step / (float)m->progress.horizon));",
            "  }",
        ]
    return [f"  const float lr = {rate};"]


def _step_function(source: Source) -> list[str]:
    trained = trained_values(source)
    lines = ["bt_status bt_step(bt_model *m)", "{"]
    if not trained:
        return [*lines, "  (void)m;", "  return BT_ERR_NO_GRADIENT;", "}", ""]
    optimizer = source.optimizer
    places = Places(source, ())
    clip = optimizer.clip_norm is not None
    scale = "  float scale" if clip else "  const float scale"
    lines += [
        "  if (m->samples == 0)",
        "    return BT_ERR_NO_GRADIENT;",
        f"{scale} = 1.0f / (float)m->samples;",
        "  uint32_t finite = 1;",
    ]
    for v in trained:
        lines += [
            f"  for (int i = 0; i < {v.size}; i++)",
            f"    finite &= bt_isfinite(m->g.{v.name}[i]) ? 1u : 0u;",
        ]
    lines += [
        "  if (!finite) {",
        "    memset(&m->g, 0, sizeof m->g);",
        "    m->samples = 0;",
        "    m->rejected++;",
        "    return BT_ERR_GRADIENT_NONFINITE;",
        "  }",
    ]
    if clip:
        lines += ["  float square = 0.0f; /* global norm of the mean gradient, in leaves */"]
        for v in trained:
            lines += [
                f"  for (int i = 0; i < {v.size}; i += BT_LEAF)",
                f"    square += bt_leaf_square(&m->g.{v.name}[i], 0.0f, "
                f"bt_min(BT_LEAF, {v.size} - i));",
            ]
        lines += [
            "  const float norm = bt_sqrtf(square) * scale;",
            f"  scale *= bt_minf(1.0f, {float_literal(optimizer.clip_norm or 0.0)} / "
            "(norm + 1e-6f));",
        ]
    lines += _rate(source)
    if not isinstance(optimizer, SGD):
        for i, beta in enumerate(optimizer.betas, 1):
            name = f"m->progress.correction{i}"
            lines += [
                f"  {name} = bt_fma({float_literal(beta)}, {name}, {float_literal(1.0 - beta)});"
            ]
    for i, node in enumerate(source.train.updates):
        lines += node_text(node, i, places)
    lines += [
        "  memset(&m->g, 0, sizeof m->g);",
        "  m->samples = 0;",
        "  m->progress.steps++;",
        "  return BT_OK;",
        "}",
        "",
    ]
    return lines


def _state_functions(source: Source) -> list[str]:
    trained, running = trained_values(source), running_values(source)
    slots = source.optimizer.slots if trained else ()
    members = [*(["p"] if trained else []), *slots, *(["s"] if running else []), "progress"]
    lines = [
        "void bt_init(bt_model *m)",
        "{",
        "  memset(m, 0, sizeof *m);",
        *[f"  memcpy(m->p.{v.name}, bt_w_{v.name}, sizeof m->p.{v.name});" for v in trained],
        *[f"  memcpy(m->s.{v.name}, bt_w_{v.name}, sizeof m->s.{v.name});" for v in running],
        f"  m->progress.lr = {float_literal(source.optimizer.lr)};",
        "}",
        "",
        "void bt_begin(bt_model *m, uint32_t steps, float lr)",
        "{",
        "  m->progress.steps = 0;",
        "  m->progress.horizon = steps;",
        "  m->progress.lr = lr;",
        "  m->progress.correction1 = m->progress.correction2 = 0.0f;",
        *[f"  memset(&m->{s}, 0, sizeof m->{s});" for s in slots],
        *(["  memset(&m->g, 0, sizeof m->g);"] if trained else []),
        "  m->samples = 0;",
        "}",
        "",
        "uint32_t bt_weights_crc32(const bt_model *m)",
        "{",
        "  uint32_t crc = 0;",
        "  (void)m;",
        *[f"  crc = bt_crc32(crc, m->p.{v.name}, sizeof m->p.{v.name});" for v in trained],
        *[f"  crc = bt_crc32(crc, m->s.{v.name}, sizeof m->s.{v.name});" for v in running],
        "  return crc;",
        "}",
        "",
        f"#define BT_SEGMENTS {len(members)}",
        "static void bt_segments(bt_model *m, bt_segment *segments)",
        "{",
    ]
    lines += [
        f"  segments[{i}] = (bt_segment){{&m->{member}, sizeof m->{member}}};"
        for i, member in enumerate(members)
    ]
    total = " + ".join(f"sizeof ((bt_model *)0)->{member}" for member in members)
    lines += [
        "}",
        "",
        "size_t bt_save_bytes(void)",
        "{",
        f"  return BT_CHECKPOINT_HEADER_BYTES + BT_CHECKPOINT_CRC_BYTES + {total};",
        "}",
        "",
        "bt_status bt_save(bt_model *m, void *slot, size_t slot_bytes)",
        "{",
        "  bt_segment segments[BT_SEGMENTS];",
        "  bt_segments(m, segments);",
        "  const bt_status status = bt_checkpoint_write(slot, slot_bytes, segments, BT_SEGMENTS,",
        "                                               BT_FINGERPRINT, m->sequence + 1);",
        "  if (status == BT_OK)",
        "    m->sequence++;",
        "  return status;",
        "}",
        "",
        "bt_status bt_load(bt_model *m, const void *slot, size_t slot_bytes)",
        "{",
        "  bt_segment segments[BT_SEGMENTS];",
        "  bt_segments(m, segments);",
        "  const bt_status status =",
        "      bt_checkpoint_read(slot, slot_bytes, segments, BT_SEGMENTS, BT_FINGERPRINT);",
        "  if (status == BT_OK) {",
        "    m->sequence = bt_checkpoint_sequence(slot);",
        *(["    memset(&m->g, 0, sizeof m->g);"] if trained else []),
        "    m->samples = 0;",
        "  }",
        "  return status;",
        "}",
    ]
    return lines


def _weights(source: Source) -> str:
    lines = [
        "/* SPDX-License-Identifier: Apache-2.0 */",
        f"/* {source.title}: initial values (hex floats: exact). */",
        "",
    ]
    values = (*source.train.params, *source.train.consts, *running_values(source))
    for v in values:
        shape = " x ".join(map(str, v.shape))
        data = source.tensors[v.name].reshape(-1).tolist()
        numbers = ", ".join(float_literal(x) for x in data)
        body = fill(numbers, 100, initial_indent="  ", subsequent_indent="  ")
        lines += [
            f"/* {source.torch_names[v.name]}: {shape} */",
            f"extern const float bt_w_{v.name}[{v.size}];",
            f"const float bt_w_{v.name}[{v.size}] = {{",
            body,
            "};",
            "",
        ]
    return "\n".join(lines)


assert ITEM_BYTES["f32"] == 4 and LEAF % 16 == 0
