# SPDX-License-Identifier: Apache-2.0
"""A training sample, an optimizer step and a prediction in slices: functions that may pause.

Where a function is, stands in a `bt_slice` of the context. It asks `bt_goes` before each slice; a
refusal leaves everything where it is, and the next call goes on there. The calls are those of the
uninterrupted functions, in their order, so the bits are too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from biotrain.emit.schedule import (
    Places,
    Shapes,
    _box,
    _cleared,
    _comment,
    _step_text,
    call_text,
    loop_title,
    node_text,
    shared_text,
    view,
)
from biotrain.emit.text import wrap
from biotrain.ir.graph import Loop, Node, Step, Window
from biotrain.ir.op import OPS, Call
from biotrain.planner.slices import Blocks, NodeSlices, flat, slices_of
from biotrain.targets.target import Target

GOES = """\
/* May a slice of so many cycles run now? The first of a call always may. */
static int bt_goes(bt_slice *s, uint32_t cycles)
{
  if (s->left == UINT32_MAX)
    return 1;
  if (s->goes && cycles > s->left)
    return 0;
  s->goes = 1;
  s->left = cycles < s->left ? s->left - cycles : 0;
  return 1;
}

static void bt_opened(bt_slice *s, uint32_t what)
{
  s->open = what;
  s->node = s->part = s->step = s->block = 0;
}

static void bt_resumed(bt_slice *s, uint32_t max_cycles)
{
  s->left = max_cycles;
  s->goes = 0;
}
"""


class Slices:
    """The slices of one function, printed."""

    def __init__(self, places: Places, shapes: Shapes, limit: int, target: Target) -> None:
        self.places, self.shapes = places, shapes
        self.limit, self.target = limit, target
        self.count = 0
        """Nodes so far; `s->node` counts them."""
        self.longest = 0

    def lines(self, text: Sequence[str], cycles: int) -> list[str]:
        """Statements that run once."""
        return self._guarded([*self._ask(cycles, "    "), *("  " + line for line in text)])

    def flat(self, text: Sequence[str], count: int, most: int, cycles: int) -> list[str]:
        """Statements over a flat array, for `n` elements from `at` on, `most` in a slice."""
        blocks = -(-count // most)
        return self._guarded(
            [
                f"    for (; s->block < {blocks}; s->block++) {{",
                *self._ask(cycles, "      "),
                f"      const int at = {most} * (int)s->block, n = bt_min({most}, {count} - at);",
                *(f"      {line}" for line in text),
                "    }",
                "    s->block = 0;",
            ]
        )

    def node(self, node: Node, index: int, behind: Sequence[str] = ()) -> list[str]:
        """A node of the graph; `behind` runs in the same slice, where the node is not cut."""
        if not isinstance(node, Loop) and OPS[node.op].alias:
            return node_text(node, index, self.places, self.shapes)
        slices = slices_of(node, self.limit, self.target)
        if isinstance(node, Loop):
            body = self._loop(node, index, slices)
        elif slices.blocks is None or slices.blocks.whole:
            text = node_text(node, index, self.places, self.shapes)
            body = [*self._ask(slices.cycles, "    "), *("  " + line for line in text)]
        else:
            body = self._blocks(node, index, slices.blocks)
        return self._guarded([*body, *("  " + line for line in behind)])

    def _ask(self, cycles: int, indent: str) -> list[str]:
        self.longest = max(self.longest, cycles)
        return [f"{indent}if (!bt_goes(s, {cycles}u))", f"{indent}  return BT_MORE;"]

    def _guarded(self, body: Sequence[str]) -> list[str]:
        at = self.count
        self.count += 1
        return [f"  if (s->node == {at}) {{", *body, f"    s->node = {at + 1};", "  }"]

    def _blocks(self, node: Node, index: int, cut: Blocks) -> list[str]:
        """A node in blocks of rows and times."""
        call = OPS[node.op].call(node)
        rows, times = call.box
        lines = [
            *wrap(_comment(node, f"{index}: ", f"in {cut.count} blocks "), "    ", "     * "),
            f"    for (; s->block < {cut.count}; s->block++) {{",
            *self._ask(cut.cycles, "      "),
            "      const int b = (int)s->block;",
        ]
        cleared = [line.strip() for line in _cleared(node)]
        if cleared:
            lines += ["      if (b == 0) {", *(f"        {line}" for line in cleared), "      }"]
        if flat(node):
            lines += self._flat(node, call, cut)
        else:
            lines += _ranges(cut, rows, times)
            arguments = [view(o, node, self.places) for o in call.operands]
            name = self.shapes.name(call, self.places.hint(node))
            box = "bt_part(r0, r1, t0, t1)"
            lines += shared_text(self.shapes, call, name, box, arguments, "      ")
        return [*lines, "    }", "    s->block = 0;"]

    def _flat(self, node: Node, call: Call, cut: Blocks) -> list[str]:
        """A call over a flat array, from its element `at` on."""
        count = node.outputs[0].size
        part = replace(call, geometry=(("count", f"bt_min({cut.times}, {count} - at)"),))
        arguments = [f"{view(o, node, self.places)} + at" for o in call.operands]
        text = call_text(
            part,
            f"(bt_flat){{.count = bt_min({cut.times}, {count} - at)}}",
            f"bt_all(1, {count})",
            arguments,
            "      ",
        )
        return [f"      const int at = {cut.times} * b;", *text]

    def _loop(self, loop: Loop, index: int, slices: NodeSlices) -> list[str]:
        names = ", ".join(v.name for v in loop.outputs)
        windows = {w.value.name: w for w in loop.windows}
        lines = wrap(f"/* {index}: {loop_title(loop)}: {names} */", "    ", "     * ")
        cleared = [
            line.strip()
            for step in (loop.body if not loop.get("continued", False) else ())
            for line in _cleared(step.node)
        ]
        lines += [f"    for (; s->part < {loop.count}; s->part++) {{"]
        if not slices.steps:
            lines += self._ask(slices.cycles, "      ")
        used = any("i" in _words(line) for line in self._body(loop, windows))
        if used:
            lines += ["      const int i = (int)s->part;"]
        lines += [
            "    " + self.places.declaration(w.value, f"{w.rows} x {w.times} at a time")
            for w in loop.windows
        ]
        if cleared:
            first = "s->part == 0" + (" && s->step == 0 && s->block == 0" if slices.steps else "")
            lines += [f"      if ({first}) {{", *(f"        {line}" for line in cleared), "      }"]
        if not slices.steps:
            lines += ["    " + line for line in self._body(loop, windows)]
            return [*lines, "    }", "    s->part = 0;"]
        for number, (steps, cut, cycles) in enumerate(slices.steps):
            lines += [f"      if (s->step == {number}) {{"]
            if cut is None:
                lines += self._ask(cycles, "        ")
                for k in steps:
                    text = _step_text(loop.body[k], self.places, self.shapes, windows)
                    lines += ["      " + line for line in text]
            else:
                lines += self._cut_step(loop, steps[0], cut, cycles)
            lines += [f"        s->step = {number + 1};", "      }"]
        return [*lines, "      s->step = 0;", "    }", "    s->part = 0;"]

    def _body(self, loop: Loop, windows: Mapping[str, Window]) -> list[str]:
        lines: list[str] = []
        for step in loop.body:
            lines += _step_text(step, self.places, self.shapes, windows)
        return lines

    def _cut_step(self, loop: Loop, k: int, cut: Blocks, cycles: int) -> list[str]:
        """A step of an iteration in blocks of rows."""
        step = loop.body[k]
        node, call = step.node, OPS[step.node.op].call(step.node)
        windows = {w.value.name: w for w in loop.windows}
        arguments = [view(o, node, self.places, windows) for o in call.operands]
        name = self.shapes.name(call, self.places.hint(node))
        active = " && ".join(
            [
                *([] if all(not b.empty for b in step.boxes) else [self._active(step)]),
                "box.r0 < box.r1",
            ]
        )
        text = [
            "bt_box box = " + _box(step.boxes, self.places) + ";",
            f"box.r0 += {cut.rows} * (int)s->block;",
            f"box.r1 = bt_min(box.r1, box.r0 + {cut.rows});",
            f"if ({active}) {{",
            *shared_text(self.shapes, call, name, "box", arguments, "  "),
            "}",
        ]
        return [
            *wrap(_comment(node, "", f"in {cut.count} blocks "), "        ", "         * "),
            f"        for (; s->block < {cut.count}; s->block++) {{",
            *self._ask(cycles, "          "),
            *("          " + line for line in text),
            "        }",
            "        s->block = 0;",
        ]

    def _active(self, step: Step) -> str:
        flags = [int(not b.empty) for b in step.boxes]
        return f"({self.places.index(flags)})"


def _words(line: str) -> list[str]:
    code = line.split("/*")[0]
    return "".join(c if c.isalnum() or c == "_" else " " for c in code).split()


def _ranges(cut: Blocks, rows: int, times: int) -> list[str]:
    """r0, r1, t0, t1 of block b."""
    if cut.across == 1:
        low = [f"const int r0 = {cut.rows} * b, t0 = 0;"]
    elif cut.rows >= rows:
        low = [f"const int r0 = 0, t0 = {cut.times} * b;"]
    else:
        low = [
            f"const int r0 = {cut.rows} * (b / {cut.across});",
            f"const int t0 = {cut.times} * (b % {cut.across});",
        ]
    high = (
        f"const int r1 = bt_min(r0 + {cut.rows}, {rows}), t1 = bt_min(t0 + {cut.times}, {times});"
    )
    return [f"      {line}" for line in (*low, high)]
