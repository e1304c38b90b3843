# SPDX-License-Identifier: Apache-2.0
"""`bt_train_batch` and `bt_adabn`: the phases of a batch, one loop over the samples each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from biotrain.emit.labels import check_labels, wrong_label
from biotrain.emit.schedule import Places, Shapes, call_text, node_text
from biotrain.emit.source import CTYPE, Source
from biotrain.emit.text import wrap
from biotrain.ir.graph import ITEM_BYTES, Value
from biotrain.ir.op import OPS
from biotrain.planner.adabn import adabn_windows
from biotrain.planner.batch_schedule import BatchSchedule, Outer, Phase
from biotrain.planner.place import Buffer, aligned


class BatchPlaces(Places):
    """Values that outlive a phase are variables of the function, or of the loop over samples."""

    def __init__(
        self,
        source: Source,
        buffers: Sequence[Buffer],
        tables: dict[tuple[int, ...], str],
        outers: Sequence[Outer],
    ) -> None:
        super().__init__(source, buffers, tables)
        self._outers = {o.value.name: o for o in outers}
        self._within = {
            member: name
            for b in buffers
            for name in b.members
            if name in self._outers and self._outers[name].copies > 1
            for member in b.members
            if member != name
        }
        """Values of a phase that lie in this sample's copy of a tensor that outlives it."""

    def declaration(self, value: Value, shape: str) -> str:
        if value.name in self._within:
            ctype = CTYPE[value.dtype]
            return f"  {ctype} *const {value.name} = {self._within[value.name]}; /* {shape} */"
        return super().declaration(value, shape)

    def pointer(self, value: Value) -> str:
        return value.name if value.name in self._outers else super().pointer(value)

    def outside(self, value: Value) -> bool:
        """Whether a value outlives its phase."""
        return value.name in self._outers

    def shared(self, outer: Outer) -> str:
        """The declaration of a value over the batch, or of this sample's tensor."""
        value, ctype = outer.value, CTYPE[outer.value.dtype]
        cast = "" if value.dtype == "f32" else f"({ctype} *)"
        step = ""
        if outer.copies > 1:
            step = f" + sample * {aligned(value.nbytes) // ITEM_BYTES[value.dtype]}"
        shape = " x ".join(map(str, value.shape))
        times = f"{outer.copies} times " if outer.copies > 1 else ""
        return (
            f"  {ctype} *const {value.name} = {cast}&m->arena[{self.offset(value) // 4}]{step}; "
            f"/* {times}{shape}; phases {outer.first} to {outer.last} */"
        )


def train_batch_function(source: Source, schedule: BatchSchedule, shapes: Shapes) -> list[str]:
    """The function, with the struct that says where the windows come from in `model.h`."""
    everywhere = BatchPlaces(source, schedule.buffers, shapes.tables, schedule.outers)
    lines = [
        (
            "bt_status bt_train_batch(bt_model *m, const bt_source *source, uint32_t n, "
            "float *loss_out)"
        ),
        "{",
        *[everywhere.shared(o) for o in schedule.outers if o.copies == 1],
        "",
        "  if (n == 0 || n > BT_BATCH)",
        "    return BT_ERR_GROUP;",
        "  float total = 0.0f;",
    ]
    for q, phase in enumerate(schedule.phases):
        lines += _phase(source, schedule, q, phase, shapes)
    for i, node in enumerate(schedule.after):
        lines += node_text(node, i, everywhere, shapes)
    lines += ["  *loss_out = total / (float)n;", "  m->samples += n;", "  return BT_OK;", "}", ""]
    return lines


def adabn_function(source: Source, schedule: BatchSchedule, shapes: Shapes) -> list[str]:
    """The function that re-estimates running statistics; they change at its end, or not at all."""
    everywhere = BatchPlaces(source, schedule.buffers, shapes.tables, schedule.outers)
    lines = [
        "bt_status bt_adabn(bt_model *m, const bt_source *source, uint32_t n)",
        "{",
        *[everywhere.shared(o) for o in schedule.outers],
        "",
        "  if (m->samples > 0 || n < BT_ADABN_LEAST || n > BT_ADABN_MOST)",
        "    return BT_ERR_GROUP;",
    ]
    for q, phase in enumerate(schedule.phases):
        lines += _phase(source, schedule, q, phase, shapes, trains=False)
    lines += ["", "  int finite = 1;"]
    for node in schedule.after:
        call = OPS[node.op].call(node)
        call = replace(call, function="finite\x00&=\x00bt_finite_moments", extra=())
        box = f"bt_all({call.box[0]}, {call.box[1]})"
        arguments = [everywhere.pointer(node.inputs[0])]
        lines += call_text(call, shapes.name(call, ""), box, arguments)
    lines += ["  if (!finite) {", "    m->rejected++;", "    return BT_ERR_STATISTICS;", "  }"]
    for i, node in enumerate(schedule.after):
        lines += node_text(node, i, everywhere, shapes)
    return [*lines, "  return BT_OK;", "}", ""]


def _phase(
    source: Source,
    schedule: BatchSchedule,
    q: int,
    phase: Phase,
    shapes: Shapes,
    trains: bool = True,
) -> list[str]:
    places = BatchPlaces(source, phase.buffers, shapes.tables, schedule.outers)
    everywhere = BatchPlaces(source, schedule.buffers, shapes.tables, schedule.outers)
    x, target = source.train.inputs
    integer = target.dtype == "i32"
    loss = source.train.outputs[1]
    lines = ["", f"  /* phase {q} of {len(schedule.phases)} */"]
    for i, node in enumerate(phase.before):
        lines += node_text(node, i, everywhere, shapes)
    for o in phase.outers:
        if (
            o.copies == 1
            and o.first == q
            and any(o.value.name == v.name for n in phase.graph.nodes for v in n.outputs)
        ):
            lines.append(f"  memset({o.value.name}, 0, {o.value.size} * sizeof *{o.value.name});")
    lines += ["  for (uint32_t sample = 0; sample < n; sample++) {"]
    body: list[str] = []
    read = any(v.name == target.name for n in phase.graph.nodes for v in n.inputs)
    inner = [v for v in phase.graph.inputs if v.name == x.name]
    vector = [v for v in phase.graph.inputs if v.name == target.name and read and not integer]
    body += [
        everywhere.shared(o)
        for o in phase.outers
        if o.copies > 1
        and any(o.value.name == v.name for n in phase.graph.nodes for v in (*n.inputs, *n.outputs))
    ]
    body += places.declarations(phase.graph.nodes, [*inner, *vector])
    body += [f"  const {source.sample_type} *x_in;"]
    if integer:
        body += [f"  int32_t {target.name};"]
        given = f"&x_in, &{target.name}"
    else:
        body += ["  const float *target_in;"]
        given = "&x_in, &target_in"
    place = x.name if inner else "0"
    body += [f"  bt_status status = source->window(source->context, sample, {place}, {given});"]
    if integer and trains:
        body += [
            f"  if (status == BT_OK && ({wrong_label(source, target.name)}))",
            "    status = BT_ERR_LABEL;",
        ]
    elif trains and source.labels:
        body += ["  if (status == BT_OK) {"]
        body += check_labels(source, "target_in", ("status = BT_ERR_LABEL;", "break;"), "    ")
        body += ["  }"]
    if inner:
        body += ["  if (status == BT_OK)", f"    status = bt_take(m, x_in, {x.name});"]
    if trains:
        body += ["  if (status != BT_OK)", "    return bt_refuse(m, status);"]
    else:
        body += ["  if (status != BT_OK) {", "    m->rejected++;", "    return status;", "  }"]
    if not integer and read:
        body += [f"  memcpy({target.name}, target_in, {target.size} * sizeof *{target.name});"]
    for i, node in enumerate(phase.graph.nodes):
        body += node_text(node, i, places, shapes)
        if loss in node.outputs:
            body += [
                f"  if (!bt_isfinite({loss.name}[0]))",
                "    return bt_refuse(m, BT_ERR_LOSS_NONFINITE);",
                f"  total += {loss.name}[0];",
            ]
    return [*lines, *("  " + line for line in body), "  }"]


def refuse_function() -> list[str]:
    """What happens to a batch with a window that is refused."""
    return [
        "/* A batch with a window that is refused is dropped whole. */",
        "static bt_status bt_refuse(bt_model *m, bt_status status)",
        "{",
        "  bt_drop(m);",
        "  m->rejected++;",
        "  return status;",
        "}",
        "",
    ]


def batch_interface(source: Source) -> list[str]:
    """Lines of `model.h`."""
    integer = source.train.inputs[1].dtype == "i32"
    given = "int32_t *label" if integer else "const float **target"
    lines: list[str] = []
    if source.batch:
        lines += [f"#define BT_BATCH {source.batch.size} /* most windows of a batch */"]
    if source.adabn:
        least, most = adabn_windows(source.adabn)
        lines += [
            f"#define BT_ADABN_LEAST {least} /* least windows of bt_adabn */",
            f"#define BT_ADABN_MOST {most} /* most */",
        ]
    kind = source.sample_type
    window = f"{kind} *place, const {kind} **x, {given}"
    return [
        *lines,
        "",
        "/* Where the windows of a batch come from. Each is asked for several times. window writes",
        " * BT_INPUT_ROWS rows of BT_INPUT_TIMES samples at place and points *x there, or points",
        " * *x at samples that stay until the next call. Where place is 0, *x is not read. */",
        "typedef struct bt_source {",
        *wrap(f"bt_status (*window)(void *context, uint32_t index, {window});", "  ", " " * 22),
        "  void *context;",
        "} bt_source;",
        "",
    ]
