# SPDX-License-Identifier: Apache-2.0
"""Calls that workers share, as C: the worker's part of a box, serial calls, and barriers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from biotrain.ir.graph import Node
from biotrain.ir.op import OPS, Call
from biotrain.ir.split import Grid
from biotrain.planner.team import Team

BARRIER = "bt_barrier();"

Printed = Callable[[str, Sequence[str], str | None], list[str]]
"""Prints a call with this box and these arguments, and this geometry where it is another one."""


def own_box(box: str, grid: Grid) -> str:
    """The expression of the worker's part of a box."""
    return f"bt_own({box}, worker, {grid.down}, {grid.row_step}, {grid.across}, {grid.time_step})"


def only(workers: int, lines: Sequence[str], indent: str = "  ") -> list[str]:
    """Lines that only the first so many workers run."""
    condition = "worker == 0" if workers == 1 else f"worker < {workers}"
    return [f"{indent}if ({condition}) {{", *("  " + line for line in lines), f"{indent}}}"]


def barrier(team: Team, node: int, body: int = -1, kind: str = "call") -> list[str]:
    """The barrier before a slot of the schedule, where there is one."""
    return [f"  {BARRIER}"] if team.waits(node, body, kind) else []


def clear_by_one(team: Team, node: int, body: int, cleared: Sequence[str]) -> list[str]:
    """Sums of a call that one worker sets to zero before the team calls it."""
    if team.clears.get((node, body)) is not False:
        return []
    return [*barrier(team, node, body, "clear"), *only(1, cleared)]


def share_call(
    team: Team,
    at: tuple[int, int],
    node: Node,
    call: Call,
    box: str,
    arguments: Sequence[str],
    cleared: Sequence[str],
    printed: Printed,
) -> list[str]:
    """The call of a node by all workers, each its part of the box; the barrier before it included.

    at : number of the node, and of the step in its loop (else -1).
    cleared : lines that set its sums to zero; not those of `clear_by_one`.
    """
    grid = team.grids[at]
    lines = barrier(team, *at)
    own = bool(team.clears.get(at))
    if grid.parts == 1:
        once = [*(cleared if own else ()), *printed(box, arguments, None)]
        return [*lines, *only(1, once)]
    text = [*(_clear_own(node, call, grid) if own else ())]
    if grid.elements:
        text += _elements(box, grid, arguments, printed)
    else:
        text += printed(own_box(box, grid), arguments, None)
    return [*lines, *(only(grid.parts, text) if grid.parts < team.workers else text)]


def _elements(box: str, grid: Grid, arguments: Sequence[str], printed: Printed) -> list[str]:
    """A call of a kernel that ignores its box: shifted pointers, and a smaller number."""
    shifted = [a if a == "NULL" else f"{a} + part.t0" for a in arguments]
    count = "(bt_flat){.count = part.t1 - part.t0}"
    return [
        "  {",
        f"    const bt_box part = {own_box(box, grid)};",
        *("  " + line for line in printed("part", shifted, count)),
        "  }",
    ]


def _clear_own(node: Node, call: Call, grid: Grid) -> list[str]:
    """Zero into the sums that the worker adds to."""
    if grid.elements:
        return [
            f"  {{ const bt_box part = {own_box(f'bt_all(1, {call.box[1]})', grid)};",
            *(
                f"    bt_clear({v.name} + part.t0, bt_all(part.t1 - part.t0, 1), 1, 1);"
                for v in node.outputs
                if v.kind == "temp"
            ),
            "  }",
        ]
    rows = call.box[0]
    step = OPS[node.op].split(node).rows
    part = own_box(f"bt_all({rows}, 1)", grid)
    return [
        f"  bt_clear({v.name}, {part}, {step}, {v.size // (rows // step)});"
        for v in node.outputs
        if v.kind == "temp"
    ]
