# SPDX-License-Identifier: Apache-2.0
"""`bt_step` where workers share it: each has a range of all parameters.

The structs of parameters, gradients and optimizer state are floats without gaps, in one order.
"""

from __future__ import annotations

from biotrain.emit.schedule import Places, items_text
from biotrain.emit.source import Source, trained_values
from biotrain.emit.spmd import enter
from biotrain.emit.step import EACH_PARAMETER, REFUSED, alike, corrections, new_group, rate
from biotrain.emit.team import BARRIER, own_box
from biotrain.ir.op import OPS, Call, float_literal
from biotrain.ir.split import ELEMENT_STEP, Grid
from biotrain.ops.optim import Update

_FLAT = """\
/* All numbers of a struct of parameters, one after the other. */
static float *bt_flat_floats(bt_params *of)
{
  return (float *)(void *)of;
}
"""


def step_functions(source: Source) -> list[str]:
    """`bt_step`, and what each worker does of it."""
    lines = ["bt_status bt_step(bt_model *m)", "{"]
    if not trained_values(source):
        return [*lines, "  (void)m;", "  return BT_ERR_NO_GRADIENT;", "}", ""]
    lines += ["  if (m->samples == 0)", "    return BT_ERR_NO_GRADIENT;"]
    if source.gradients == "update":
        done = "  m->samples = 0; /* bt_train_sample has done the step */"
        return [*lines, done, "  return BT_OK;", "}", ""]
    cleared = [line for line in new_group(source) if "memset" not in line]
    return [
        *_FLAT.splitlines(),
        "",
        *_part(source),
        *lines,
        *enter("bt_step_part"),
        "  if (call.status != BT_OK) {",
        *(f"    {line}" for line in REFUSED if not line.startswith("return")),
        "    return call.status;",
        "  }",
        *cleared,
        "  m->progress.steps++;",
        "  return BT_OK;",
        "}",
        "",
    ]


def _part(source: Source) -> list[str]:
    """The step of the optimizer as each worker does it."""
    separate = source.gradients == "separate"
    into = "m->g" if separate else "m->momentum"
    lines = [
        "/* What each worker does of it: a range of all parameters. */",
        "static void bt_step_part(void *shared, int worker)",
        "{",
        "  bt_shared *const call = shared;",
        "  bt_model *const m = call->m;",
        f"  const bt_box part = {_range(source)};",
        f"  float *const gradient = bt_flat_floats(&{into});",
        "  uint32_t finite = 1;",
        "  for (int i = part.t0; i < part.t1; i++)",
        "    finite &= bt_isfinite(gradient[i]) ? 1u : 0u;",
        *_refuse("bt_agree(call->finite, worker, finite)", "BT_ERR_GRADIENT_NONFINITE"),
        *(_scale(source) if separate else ()),
        *rate(source),
        *_tried(source),
        *_refuse("bt_agree(call->fits, worker, fits ? 1u : 0u)", "BT_ERR_WEIGHT_NONFINITE"),
    ]
    if moved := corrections(source):  # all workers read them
        lines += ["  if (worker == 0) {", *("  " + line for line in moved), "  }", f"  {BARRIER}"]
    lines += _updates(source)
    if separate:
        lines += [
            "  memset(gradient + part.t0, 0, (size_t)(part.t1 - part.t0) * sizeof *gradient);"
        ]
    return [*lines, "}", ""]


def _range(source: Source) -> str:
    """The worker's range of all parameters, empty where there are fewer ranges than workers."""
    units = -(-sum(v.size for v in trained_values(source)) // ELEMENT_STEP)
    across = min(units, source.workers)
    grid = Grid(across=across, time_step=ELEMENT_STEP, elements=True)
    own = own_box("bt_all(1, BT_TRAINED)", grid)
    return own if across == source.workers else f"worker < {across} ? {own} : bt_all(0, 0)"


def _refuse(agreed: str, status: str) -> list[str]:
    """All workers return where one of them says no."""
    return [
        f"  if (!{agreed}) {{",
        "    if (worker == 0)",
        f"      call->status = {status};",
        "    return;",
        "  }",
    ]


def _scale(source: Source) -> list[str]:
    """What makes the mean of the sum of gradients; the norm is that of all, in one order."""
    if source.optimizer.clip_norm is None:
        return ["  const float scale = 1.0f / (float)m->samples;"]
    most = float_literal(source.optimizer.clip_norm)
    return [
        "  float scale = 1.0f / (float)m->samples;",
        "  float square = 0.0f; /* global norm of the mean gradient, in leaves */",
        *EACH_PARAMETER,
        "    const float *const all = bt_floats(&m->g, t);",
        "    for (int i = 0; i < t->count; i += BT_LEAF)",
        "      square += bt_leaf_square(&all[i], 0.0f, bt_min(BT_LEAF, t->count - i));",
        "  }",
        "  const float norm = bt_sqrtf(square) * scale;",
        f"  scale *= bt_minf(1.0f, {most} / (norm + 1e-6f));",
    ]


def _pointers(source: Source, call: Call) -> list[str]:
    """The worker's range of what the update of the first parameter takes."""
    places, node = Places(source, ()), source.train.updates[0]
    found = []
    for operand in call.operands:
        value = (node.inputs if operand.source == "in" else node.outputs)[operand.index]
        struct = places.pointer(value).rpartition(".")[0]
        found.append(f"bt_flat_floats(&{struct}) + part.t0")
    return found


def _tried(source: Source) -> list[str]:
    """`fits`: whether no weight or state of the worker's range becomes NaN or infinite."""
    updates = source.train.updates
    assert alike(source, Places(source, ())), "every optimizer updates its parameters alike"
    lines = ["  bool fits = true; /* no weight or state becomes NaN or infinite */"]
    rule = OPS[updates[0].op]
    assert isinstance(rule, Update)
    call = rule.fits(updates[0])
    items = ["part.t1 - part.t0", *_pointers(source, call), *call.extra]
    return [*lines, *items_text(f"fits &= {call.function}", items, "  ")]


def _updates(source: Source) -> list[str]:
    """The update of the worker's range."""
    call = OPS[source.train.updates[0].op].call(source.train.updates[0])
    geometry = "(bt_flat){.count = part.t1 - part.t0}"
    items = [geometry, "part", *_pointers(source, call), *call.extra]
    return items_text(call.function, items, "  ")
