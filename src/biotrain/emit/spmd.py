# SPDX-License-Identifier: Apache-2.0
"""The functions of a package whose calls are shared by workers (SPMD).

A public function checks its arguments and brings the window in, enters the team once with a
function that every worker runs, and says what came of it. Steps of the schedule are the same as for
one worker; `planner.team` says how each is cut and where the team waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from biotrain.emit.labels import take_target
from biotrain.emit.schedule import Places, Shapes, node_text
from biotrain.emit.source import Source
from biotrain.emit.team import barrier
from biotrain.ir.graph import Graph, Value, flat_nodes
from biotrain.ir.op import OPS
from biotrain.planner.judge_team import judge_team
from biotrain.planner.place import Buffer
from biotrain.planner.team import Team, team_of

SHARED = """\
/* A call that the workers share: its arguments, and what comes of it. */
typedef struct bt_shared {
  bt_model *m;
  int32_t label;
  float *loss;
  bt_status status;
  uint32_t finite[BT_WORKERS], fits[BT_WORKERS]; /* in the part of each worker */
} bt_shared;

/* Of all workers: whether each says yes. */
static uint32_t bt_agree(uint32_t *said, int worker, uint32_t yes)
{
  said[worker] = yes;
  bt_barrier();
  for (int i = 0; i < BT_WORKERS; i++)
    yes &= said[i];
  return yes;
}

/* The call, before it is shared. */
static bt_shared bt_share_call(bt_model *m, int32_t label, float *loss)
{
  bt_shared call = {m, label, loss, BT_OK, {0}, {0}};
  for (int i = 0; i < BT_WORKERS; i++)
    call.finite[i] = call.fits[i] = 1;
  return call;
}
"""


@lru_cache(maxsize=16)
def _team(graph: Graph, buffers: tuple[Buffer, ...], workers: int) -> Team:
    """How the workers run a graph, checked."""
    team = team_of(graph, buffers, workers)
    judge_team(graph, buffers, team)
    return team


def part_function(
    source: Source, name: str, graph: Graph, buffers: Sequence[Buffer], shapes: Shapes
) -> list[str]:
    """The function `name` that every worker runs: all nodes of a graph."""
    places = Places(source, buffers, shapes.tables)
    team = _team(graph, tuple(buffers), source.workers)
    calls = [n for n in flat_nodes(graph.nodes) if not OPS[n.op].alias]
    used = {v.name: None for n in calls for v in n.inputs}
    lines = [
        "/* What each worker does of it. */",
        f"static void {name}(void *shared, int worker)",
        "{",
        "  bt_shared *const call = shared;",
        "  bt_model *const m = call->m;",
        *places.declarations(graph.nodes, [v for v in graph.inputs if v.name in used]),
    ]
    label = next((v for v in graph.inputs if v.dtype == "i32"), None)
    if label is not None:
        lines += [f"  const int32_t {label.name} = call->label;"]
    lines += [""]
    loss = graph.outputs[1] if len(graph.outputs) > 1 else None
    for i, node in enumerate(graph.nodes):
        lines += node_text(node, i, places, shapes, team)
        if loss is not None and loss in node.outputs:
            lines += _checked(source, loss, barrier(team, i, kind="check"))
    return [*lines, "}", ""]


def _checked(source: Source, loss: Value, wait: Sequence[str]) -> list[str]:
    """Behind the loss: all workers go on, or all of them return."""
    opened = ["    bt_open_step(m);"] if source.gradients == "update" else []
    return [
        *wait,
        "  if (worker == 0)",
        f"    *call->loss = {loss.name}[0];",
        f"  if (!bt_isfinite({loss.name}[0])) {{",
        "    if (worker == 0)",
        "      call->status = BT_ERR_LOSS_NONFINITE;",
        "    return;",
        "  }",
        *(["  if (worker == 0)", *opened] if opened else []),
    ]


def enter(name: str, label: str = "0", loss: str = "NULL") -> list[str]:
    """Lines that enter the team with a function of `part_function`."""
    return [
        f"  bt_shared call = bt_share_call(m, {label}, {loss});",
        f"  bt_team_run(BT_WORKERS, {name}, &call);",
    ]


def outer_declarations(places: Places, values: Sequence[Value]) -> list[str]:
    """Pointers to tensors of the arena that the public function reads or writes itself."""
    once = list({v.name: v for v in values}.values())
    return [places.declaration(v, " x ".join(map(str, v.shape))) for v in once]


def training(
    source: Source,
    graph: Graph,
    buffers: Sequence[Buffer],
    shapes: Shapes,
    start: str,
    take: Sequence[str],
    given: Sequence[Value] = (),
) -> list[str]:
    """A function that trains on one window, which the lines `take` bring into the arena.

    start : its prototype up to the target. given : tensors that `take` writes, beside the window.
    """
    places = Places(source, buffers, shapes.tables)
    target = graph.inputs[-1]
    integer = target.dtype == "i32"
    argument = f"int32_t {target.name}" if integer else "const float *target_in"
    part = f"{start.partition('(')[0]}_part"
    written = [*(given or graph.inputs[:1]), *(() if integer else (target,))]
    lines = [
        *part_function(source, part, graph, buffers, shapes),
        f"bt_status {start}, {argument}, float *loss_out)",
        "{",
        *outer_declarations(places, written),
        "",
    ]
    lines += take_target(source, target, take)
    lines += [
        *enter(part, target.name if integer else "0", "loss_out"),
        "  if (call.status != BT_OK) {",
        "    m->rejected++;",
        "    return call.status;",
        "  }",
    ]
    if source.gradients == "update":
        return [*lines, "  return bt_close_step(m);", "}", ""]
    return [*lines, "  m->samples++;", "  return BT_OK;", "}", ""]
