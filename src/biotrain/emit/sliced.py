# SPDX-License-Identifier: Apache-2.0
"""`bt_predict_slice`, `bt_train_slice` and `bt_step_slice`, and the calls without an end."""

from __future__ import annotations

from biotrain.emit.labels import REFUSE, check_labels, wrong_label
from biotrain.emit.schedule import Places, Shapes
from biotrain.emit.slices import GOES, Slices
from biotrain.emit.source import Source, running_values, trained_values
from biotrain.emit.step import REFUSED, corrections, finite_logits, fits, new_group, rate
from biotrain.ir.graph import Value
from biotrain.ir.op import float_literal
from biotrain.planner.slices import CALL_CYCLES, SAMPLE_CYCLES

SLICES = [*GOES.splitlines(), ""]

_WINDOW, _STEP, _LOOK = 1, 2, 3

_TRIED, _TRY_CYCLES = 64, 30 * 64 + CALL_CYCLES
"""Elements of an update that are tried in one slice, and its cycles (an estimate: Adam divides and
takes a root for each)."""


def _slices(source: Source, places: Places, shapes: Shapes) -> Slices:
    assert source.live is not None and source.target is not None
    return Slices(places, shapes, source.live.live.slice_cycles, source.target)


def _taken(x: Value) -> list[str]:
    """The check of a window counts as the first slice."""
    return [f"    bt_goes(s, {SAMPLE_CYCLES * x.size}u);"]


def predict_functions(source: Source, shapes: Shapes) -> list[str]:
    """Predictions, in an arena of their own: between two slices of training too."""
    graph = source.predict
    places = Places(source, source.plan.predict_buffers, shapes.tables, "predict_arena")
    slices = _slices(source, places, shapes)
    x, logits = graph.inputs[0], graph.outputs[0]
    kind = source.sample_type
    cast = "" if kind == "float" else f"({kind} *)"
    body = [line for i, node in enumerate(graph.nodes) for line in slices.node(node, i)]
    return [
        f"{kind} *bt_predict_window(bt_model *m)",
        "{",
        f"  return {cast}&m->predict_arena[{places.offset(x) // 4}];",
        "}",
        "",
        (
            f"bt_status bt_predict_slice(bt_model *m, const {kind} *x_in, float *logits, "
            "uint32_t max_cycles)"
        ),
        "{",
        *places.declarations(graph.nodes, graph.inputs),
        "  bt_slice *const s = &m->predict_slice;",
        "",
        "  bt_resumed(s, max_cycles);",
        "  if (s->open == 0) {",
        f"    const bt_status status = bt_take(m, x_in, {x.name});",
        "    if (status != BT_OK)",
        "      return status;",
        f"    bt_opened(s, {_LOOK});",
        *_taken(x),
        "  }",
        *body,
        "  s->open = 0;",
        *finite_logits(logits.name, logits.size),
        "  return BT_OK;",
        "}",
        "",
        f"bt_status bt_predict(bt_model *m, const {kind} *x_in, float *logits)",
        "{",
        "  m->predict_slice.open = 0;",
        "  return bt_predict_slice(m, x_in, logits, UINT32_MAX);",
        "}",
        "",
    ]


def train_functions(source: Source, shapes: Shapes) -> list[str]:
    """A training sample in slices, and at one go."""
    graph = source.train
    places = Places(source, source.plan.buffers, shapes.tables)
    slices = _slices(source, places, shapes)
    x, target, loss = graph.inputs[0], graph.inputs[-1], graph.outputs[1]
    integer = target.dtype == "i32"
    kind = source.sample_type
    given = "int32_t label_in" if integer else "const float *target_in"
    name = "label_in" if integer else "target_in"
    body: list[str] = []
    for i, node in enumerate(graph.nodes):
        body += slices.node(node, i, _loss_check(source, loss) if loss in node.outputs else [])
    check = (
        [
            f"    if ({wrong_label(source, 'label_in')}) {{",
            *(f"      {line}" for line in REFUSE),
            "    }",
        ]
        if integer
        else check_labels(source, "target_in", REFUSE, "    ")
    )
    keep = (
        ["    s->label = label_in;"]
        if integer
        else [f"    memcpy({target.name}, target_in, {target.size} * sizeof *{target.name});"]
    )
    done = ["  m->samples++;", "  return BT_OK;"]
    if source.gradients == "update":
        done = ["  return bt_close_step(m);"]
    return [
        (
            f"bt_status bt_train_slice(bt_model *m, const {kind} *x_in, {given}, float *loss_out, "
            "uint32_t max_cycles)"
        ),
        "{",
        *places.declarations(graph.nodes, graph.inputs),
        "  bt_slice *const s = &m->slice;",
        "",
        f"  if (s->open > {_WINDOW})",
        "    return BT_ERR_BUSY;",
        "  bt_resumed(s, max_cycles);",
        "  if (s->open == 0) {",
        *check,
        f"    const bt_status status = bt_take(m, x_in, {x.name});",
        "    if (status != BT_OK) {",
        "      m->rejected++;",
        "      return status;",
        "    }",
        *keep,
        f"    bt_opened(s, {_WINDOW});",
        *_taken(x),
        "  }",
        *([f"  const int32_t {target.name} = s->label;"] if integer else []),
        *body,
        "  s->open = 0;",
        *done,
        "}",
        "",
        f"bt_status bt_train_sample(bt_model *m, const {kind} *x_in, {given}, float *loss_out)",
        "{",
        "  if (m->slice.open)",
        "    return BT_ERR_BUSY;",
        f"  return bt_train_slice(m, x_in, {name}, loss_out, UINT32_MAX);",
        "}",
        "",
    ]


def _loss_check(source: Source, loss: Value) -> list[str]:
    """Behind the node of the loss: hand it out, and refuse the window where it is not finite."""
    return [
        f"  *loss_out = {loss.name}[0];",
        f"  if (!bt_isfinite({loss.name}[0])) {{",
        "    m->rejected++;",
        "    s->open = 0;",
        "    return BT_ERR_LOSS_NONFINITE;",
        "  }",
        *(["  bt_open_step(m);"] if source.gradients == "update" else []),
    ]


def step_functions(source: Source, shapes: Shapes) -> list[str]:
    """An optimizer step in slices, and at one go."""
    return [
        *_step_slice(source, shapes),
        "bt_status bt_step(bt_model *m)",
        "{",
        "  if (m->slice.open)",
        "    return BT_ERR_BUSY;",
        "  return bt_step_slice(m, UINT32_MAX);",
        "}",
        "",
    ]


def _step_slice(source: Source, shapes: Shapes) -> list[str]:
    trained = trained_values(source)
    lines = ["bt_status bt_step_slice(bt_model *m, uint32_t max_cycles)", "{"]
    if not trained:
        return [*lines, "  (void)m, (void)max_cycles;", "  return BT_ERR_NO_GRADIENT;", "}", ""]
    if source.gradients == "update":
        return [
            *lines,
            "  (void)max_cycles;",
            "  if (m->samples == 0)",
            "    return BT_ERR_NO_GRADIENT;",
            "  m->samples = 0; /* bt_train_sample has done the step */",
            "  return BT_OK;",
            "}",
            "",
        ]
    optimizer = source.optimizer
    slices = _slices(source, Places(source, (), shapes.tables), shapes)
    separate, clip = source.gradients == "separate", optimizer.clip_norm
    into = "m->g" if separate else "m->momentum"
    lines += [
        "  bt_slice *const s = &m->slice;",
        "",
        f"  if (s->open == {_WINDOW})",
        "    return BT_ERR_BUSY;",
        "  if (m->samples == 0)",
        "    return BT_ERR_NO_GRADIENT;",
        "  bt_resumed(s, max_cycles);",
        "  if (s->open == 0) {",
        f"    bt_opened(s, {_STEP});",
        "    s->scale = 0.0f;",
        "  }",
    ]
    for v in trained:
        text = [
            "  uint32_t finite = 1;",
            f"  for (int i = 0; i < {v.size}; i++)",
            f"    finite &= bt_isfinite({into}.{v.name}[i]) ? 1u : 0u;",
            "  if (!finite) {",
            "    bt_drop(m);",
            "    m->rejected++;",
            "    return BT_ERR_GRADIENT_NONFINITE;",
            "  }",
        ]
        lines += slices.lines(text, 6 * v.size + CALL_CYCLES)
    for v in trained if clip is not None else ():
        lines += slices.lines(_square_sum(v), 6 * v.size + CALL_CYCLES)
    text = []
    if separate and clip is None:
        text += ["  s->scale = 1.0f / (float)m->samples;"]
    if clip is not None:
        text += [
            "  float scale = 1.0f / (float)m->samples;",
            "  const float norm = bt_sqrtf(s->scale) * scale;",
            f"  scale *= bt_minf(1.0f, {float_literal(clip)} / (norm + 1e-6f));",
            "  s->scale = scale;",
        ]
    text += [*rate(source), "  s->rate = lr;"]
    lines += slices.lines(text, 4 * CALL_CYCLES)
    lines += ["  const float lr = s->rate;", "  (void)lr;"]
    lines += ["  const float scale = s->scale;", "  (void)scale;"] if separate else []
    for node in source.train.updates:
        text = ["bool fits = true;", *fits(node, slices.places, "n", at=" + at", indent="")]
        text += ["if (!fits) {", *(f"  {line}" for line in REFUSED), "}"]
        lines += slices.flat_blocks(text, node.outputs[0].size, _TRIED, _TRY_CYCLES)
    if corrections(source):
        lines += slices.lines(corrections(source), CALL_CYCLES)
    for i, node in enumerate(source.train.updates):
        lines += slices.node(node, i)
    return [
        *lines,
        *new_group(source),
        "  m->progress.steps++;",
        "  s->open = 0;",
        "  return BT_OK;",
        "}",
        "",
    ]


def _square_sum(value: Value) -> list[str]:
    """Add a gradient's squares to the sum for the global norm, leaf by leaf."""
    return [
        "  float square = s->scale; /* global norm of the mean gradient, in leaves */",
        f"  for (int i = 0; i < {value.size}; i += BT_LEAF)",
        (
            f"    square += bt_leaf_square(&m->g.{value.name}[i], 0.0f, "
            f"bt_min(BT_LEAF, {value.size} - i));"
        ),
        "  s->scale = square;",
    ]


def state_segments(source: Source) -> list[str]:
    """The segments of a live package's checkpoints."""
    if source.live is None:
        return []
    members = [
        *(["p"] if trained_values(source) else []),
        *(["s"] if running_values(source) else []),
    ]
    lines = [
        "",
        "size_t bt_state_segments(bt_model *m, bt_segment *segments)",
        "{",
        "  bt_segments(m, segments);",
        "  return BT_SEGMENTS;",
        "}",
        "",
        "size_t bt_weight_segments(bt_model *m, bt_segment *segments)",
        "{",
    ]
    lines += [
        f"  segments[{i}] = (bt_segment){{&m->{name}, sizeof m->{name}}};"
        for i, name in enumerate(members)
    ]
    lines += ["  (void)m, (void)segments;"] if not members else []
    return [*lines, f"  return {len(members)};", "}"]


def segment_count(source: Source) -> int:
    """Members of `bt_model` in a checkpoint."""
    running, trained = running_values(source), trained_values(source)
    inside = 2 if source.gradients == "momentum" else 0
    return bool(trained) + len(source.slots) + bool(running) + 1 + inside
