# SPDX-License-Identifier: Apache-2.0
"""The state of a package in `model.c`: its tables of tensors, start, checkpoints and CRC-32."""

from __future__ import annotations

from collections.abc import Sequence

from biotrain.emit.sliced import state_segments
from biotrain.emit.source import Source, running_values, trained_values
from biotrain.emit.step import new_group
from biotrain.emit.text import wrap
from biotrain.ir.graph import Value

_TENSOR = """\
/* A tensor in RAM. */
typedef struct bt_tensor {
  size_t offset;        /* in bt_params or bt_running, bytes */
  int count;            /* of floats */
  const float *initial; /* its values after bt_init, in flash */
} bt_tensor;
"""

_FLOATS = """\
/* The floats of a trained tensor: parameters, gradients or state of the optimizer. */
static float *bt_floats(bt_params *of, const bt_tensor *t)
{
  return (float *)(void *)((char *)of + t->offset);
}
"""

_FILL = """\
static void bt_fill(void *to, const bt_tensor *tensors, int count)
{
  for (const bt_tensor *t = tensors; t < tensors + count; t++)
    memcpy((char *)to + t->offset, t->initial, (size_t)t->count * sizeof(float));
}
"""


def tensor_tables(source: Source) -> list[str]:
    """The tables over which `bt_init` and `bt_step` loop."""
    trained, running = trained_values(source), running_values(source)
    if not trained and not running:
        return []
    lines = _TENSOR.splitlines()
    if trained:
        lines += ["", "/* Trained parameters. */", f"#define BT_PARAMETERS {len(trained)}"]
        lines += _table("bt_parameters[BT_PARAMETERS]", "bt_params", trained)
    if running:
        lines += ["", "/* Running statistics. */", f"#define BT_STATISTICS {len(running)}"]
        lines += _table("bt_statistics[BT_STATISTICS]", "bt_running", running)
    each = source.workers == 1 or source.optimizer.clip_norm is not None  # else ranges of all
    if trained and source.live is None and source.gradients != "update" and each:
        lines += ["", *_FLOATS.splitlines()]
    return [*lines, ""]


def _table(name: str, struct: str, values: Sequence[Value]) -> list[str]:
    rows = [
        line
        for v in values
        for line in wrap(
            f"{{offsetof({struct}, {v.name}),\x00{v.size},\x00bt_w_{v.name}}},".replace(
                ", ", ",\x00"
            ),
            "  ",
            "   ",
        )
    ]
    return [f"static const bt_tensor {name} = {{", *rows, "};"]


def group_functions(source: Source) -> list[str]:
    """`bt_drop`, and `bt_group` where a group announces its size."""
    lines = ["void bt_drop(bt_model *m)", "{"]
    lines += ["  m->slice.open = 0;"] if source.live is not None else []
    if source.gradients == "momentum":
        lines += ["  if (m->samples > 0)", "    memset(&m->momentum, 0, sizeof m->momentum);"]
    lines += [*new_group(source), "}", ""]
    if source.gradients == "momentum":
        lines += [
            "bt_status bt_group(bt_model *m, uint32_t windows)",
            "{",
            "  if (m->samples > 0 || windows == 0)",
            "    return BT_ERR_GROUP;",
            "  m->group = windows;",
            "  return BT_OK;",
            "}",
            "",
        ]
    return lines


def _start_functions(source: Source) -> list[str]:
    trained, running = trained_values(source), running_values(source)
    inside = source.gradients == "momentum"
    return [
        *([*_FILL.splitlines(), ""] if trained or running else []),
        "void bt_init(bt_model *m)",
        "{",
        "  memset(m, 0, sizeof *m);",
        *(["  bt_fill(&m->p, bt_parameters, BT_PARAMETERS);"] if trained else []),
        *(["  bt_fill(&m->s, bt_statistics, BT_STATISTICS);"] if running else []),
        "  m->progress.lr = bt_initial_lr;",
        *(["  m->group = BT_GROUP;"] if inside else []),
        "}",
        "",
        "bt_status bt_begin(bt_model *m, uint32_t steps, float lr)",
        "{",
        "  if (!(lr >= 0.0f && lr <= BT_RATE_MOST)) /* NaN neither */",
        "    return BT_ERR_RATE;",
        "  m->progress.steps = 0;",
        "  m->progress.horizon = steps;",
        "  m->progress.lr = lr;",
        "  m->progress.correction1 = m->progress.correction2 = 0.0f;",
        *(["  m->slice.open = 0;"] if source.live is not None else []),
        *[f"  memset(&m->{s}, 0, sizeof m->{s});" for s in source.slots],
        *new_group(source),
        "  return BT_OK;",
        "}",
        "",
    ]


def _saved(source: Source) -> list[tuple[str, str]]:
    """Members of `bt_model` in a checkpoint, and their types."""
    members = [("p", "bt_params")] if source.trained else []
    members += [(slot, "bt_params") for slot in source.slots]
    members += [("s", "bt_running")] if running_values(source) else []
    members += [("progress", "bt_progress")]
    if source.gradients == "momentum":  # the windows of an open group are in the momentum
        members += [("group", "uint32_t"), ("samples", "uint32_t")]
    return members


def state_functions(source: Source) -> list[str]:
    """Start, group, CRC-32 and checkpoints."""
    trained, running = trained_values(source), running_values(source)
    opened = new_group(source) if source.gradients != "momentum" else []
    live = source.live is not None
    busy = ["  if (m->slice.open)", "    return BT_ERR_BUSY;"] if live else []
    saved = _saved(source)
    lines = [
        *_start_functions(source),
        *group_functions(source),
        "uint32_t bt_weights_crc32(const bt_model *m)",
        "{",
        "  uint32_t crc = 0;",
        *(["  crc = bt_crc32(crc, &m->p, sizeof m->p);"] if trained else []),
        *(["  crc = bt_crc32(crc, &m->s, sizeof m->s);"] if running else []),
        *([] if trained or running else ["  (void)m;"]),
        "  return crc;",
        "}",
        "",
        "/* Members of bt_model in a checkpoint. */",
        f"#define BT_SEGMENTS {len(saved)}",
        "static const struct bt_saved {",
        "  size_t offset, bytes;",
        "} bt_saved[BT_SEGMENTS] = {",
        *[f"  {{offsetof(bt_model, {name}), sizeof({kind})}}," for name, kind in saved],
        "};",
        "",
        "static void bt_segments(bt_model *m, bt_segment *segments)",
        "{",
        "  for (int i = 0; i < BT_SEGMENTS; i++)",
        "    segments[i] = (bt_segment){(char *)m + bt_saved[i].offset, bt_saved[i].bytes};",
        "}",
        "",
        "size_t bt_save_bytes(void)",
        "{",
        "  size_t bytes = BT_CHECKPOINT_HEADER_BYTES + BT_CHECKPOINT_CRC_BYTES;",
        "  for (int i = 0; i < BT_SEGMENTS; i++)",
        "    bytes += bt_saved[i].bytes;",
        "  return bytes;",
        "}",
        "",
        "bt_status bt_save(bt_model *m, void *slot, size_t slot_bytes)",
        "{",
        "  bt_segment segments[BT_SEGMENTS];",
        *busy,
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
        *busy,
        "  bt_segments(m, segments);",
        "  const bt_status status =",
        "      bt_checkpoint_read(slot, slot_bytes, segments, BT_SEGMENTS, BT_FINGERPRINT);",
        "  if (status == BT_OK) {",
        "    m->sequence = bt_checkpoint_sequence(slot);",
        *[f"  {line}" for line in opened],
        "  }",
        "  return status;",
        "}",
    ]
    return [*lines, *state_segments(source)]
