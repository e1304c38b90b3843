# SPDX-License-Identifier: Apache-2.0
"""Runs the samples of the ops in C: whole, cut into tiles with windows of exact size, in place, and
shared by workers.

All samples go into one C program that reads inputs from a file and writes results to another, so
that it can be built with sanitizers. Its calls are printed by the emitter that prints packages.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import biotrain.ops  # noqa: F401
from biotrain.emit import RUNTIME_FILES, call_text, kernel_sources, literal
from biotrain.ir.graph import ITEM_BYTES, Node, Span, Value
from biotrain.ir.op import OPS, Builder, Sample, rows_times
from biotrain.ir.split import grid_of
from biotrain.ops import SOURCES

RUNTIME = SOURCES.parent / "rt"
CTYPE = {"f32": "float", "u8": "uint8_t", "i16": "int16_t", "i32": "int32_t"}
WIDTH = {"u8": "8", "i16": "16"}
"""Of the views that are not of floats."""
DTYPE = {"f32": np.float32, "u8": np.uint8, "i16": np.int16, "i32": np.int32}


@dataclass(frozen=True)
class Case:
    """One sample as nodes: the op (lowered where it is a composite) and its gradient."""

    name: str
    op: str
    sample: Sample
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    output: Value
    upstream: Value | None
    gradients: tuple[Value | None, ...]

    @property
    def given(self) -> tuple[Value, ...]:
        return (*self.inputs, *([self.upstream] if self.upstream else []))

    @property
    def results(self) -> tuple[Value, ...]:
        return (self.output, *[g for g in self.gradients if g is not None])


def case(op: str, index: int, sample: Sample) -> Case:
    b = Builder("v")
    labels = op == "cross_entropy" or bool(sample.attrs.get("integer", False))
    inputs = tuple(
        Value(b.name(f"in{i}"), s, "i32" if labels and i == 1 else "f32", "input")
        for i, s in enumerate(sample.shapes)
    )
    output = b.apply(op, *inputs, **dict(sample.attrs))
    forward = list(b.nodes)
    wanted = sample.grad if sample.grad is not None else tuple(range(len(inputs)))
    terminal = op in ("cross_entropy", "mse") or getattr(OPS[op], "terminal", False)
    upstream = None if terminal else Value(b.name("upstream"), output.shape, "f32", "input")
    flowing: dict[str, Value | None] = {output.name: upstream}
    needs = {v.name: i in wanted and v.dtype == "f32" for i, v in enumerate(inputs)}
    for node in forward:
        for out in node.outputs:
            needs[out.name] = any(needs.get(v.name, False) for v in node.inputs)
    for node in reversed(forward):
        if not any(o.name in flowing for o in node.outputs):
            continue
        asked = [needs.get(v.name, False) for v in node.inputs]
        if not any(asked):
            continue
        grads = OPS[node.op].vjp(b, node, [flowing.get(o.name) for o in node.outputs], asked)
        for value, grad in zip(node.inputs, grads, strict=True):
            if grad is not None and needs.get(value.name, False):
                before = flowing.get(value.name)
                flowing[value.name] = grad if before is None else b.one("add", before, grad)
    gradients = tuple(flowing.get(v.name) if needs[v.name] else None for v in inputs)
    return Case(f"{op}_{index}", op, sample, tuple(b.nodes), inputs, output, upstream, gradients)


def cases() -> list[Case]:
    return [
        case(name, i, sample)
        for name, rule in OPS.items()
        for i, sample in enumerate(rule.samples())
    ]


def draw(case: Case, rng: np.random.Generator) -> list[np.ndarray]:
    """Inputs of a case; the upstream gradient is normal."""
    arrays = []
    low, high = case.sample.low, case.sample.high
    for i, value in enumerate(case.inputs):
        if value.dtype == "i32":
            arrays.append(rng.integers(0, case.inputs[0].shape[-1], value.shape).astype(np.int32))
        elif i == 1 and case.sample.attrs.get("soft", True) is False:  # numbers of classes
            classes = case.inputs[0].shape[1]
            arrays.append(rng.integers(0, classes, value.shape).astype(np.float32))
        elif low is not None and high is not None:
            arrays.append(rng.uniform(low, high, value.shape).astype(np.float32))
        else:
            arrays.append(rng.standard_normal(value.shape).astype(np.float32))
    if case.upstream:
        arrays.append(rng.standard_normal(case.upstream.shape).astype(np.float32))
    return arrays


def borders(times: int, tiles: int, leaf: int) -> list[tuple[int, int]]:
    """Ranges of time that begin at leaves."""
    cuts = [min(times, -(-round(times * i / tiles) // leaf) * leaf) for i in range(tiles + 1)]
    return [(a, z) for a, z in itertools.pairwise(cuts) if z > a]


def function(case: Case, variant: Variant) -> list[str]:
    name = f"{case.name}_{variant.suffix}"
    lines = [f"static void {name}(void)", "{"]
    values = {v.name: v for n in case.nodes for v in (*n.inputs, *n.outputs)}
    values.update({v.name: v for v in case.given})
    for v in values.values():
        ctype = CTYPE[v.dtype]
        lines.append(f"  {ctype} *{v.name} = grab({max(v.nbytes, 1)});")
    lines += [f"  take({v.name}, sizeof *{v.name} * {v.size});" for v in case.given]
    for node in case.nodes:
        rule = OPS[node.op]
        if rule.alias:
            out, source = node.outputs[0], node.inputs[0]
            lines.append(f"  memcpy({out.name}, {source.name}, {out.nbytes});")
            continue
        if variant.inplace and rule.inplace and node.inputs[rule.inplace[0][1]].dtype == "f32":
            lines += in_place(node)
        else:
            lines += whole(node, variant.tiles, variant.parts)
    lines += [f"  give({v.name}, sizeof *{v.name} * {v.size});" for v in case.results]
    lines += [f"  free({v.name});" for v in values.values()]
    return [*lines, "}", ""]


def shared(case: Case) -> list[str]:
    """The same calls by so many workers, one after the other in an order."""
    lines = [f"static void {case.name}_shared(const int *order, int workers)", "{"]
    lines += ["  (void)order, (void)workers;"]
    values = {v.name: v for n in case.nodes for v in (*n.inputs, *n.outputs)}
    values.update({v.name: v for v in case.given})
    lines += [f"  {CTYPE[v.dtype]} *{v.name} = grab({max(v.nbytes, 1)});" for v in values.values()]
    lines += [f"  take({v.name}, sizeof *{v.name} * {v.size});" for v in case.given]
    for node in case.nodes:
        if OPS[node.op].alias:
            out, source = node.outputs[0], node.inputs[0]
            lines.append(f"  memcpy({out.name}, {source.name}, {out.nbytes});")
        else:
            lines += by_workers(node)
    lines += [f"  give({v.name}, sizeof *{v.name} * {v.size});" for v in case.results]
    lines += [f"  free({v.name});" for v in values.values()]
    return [*lines, "}", ""]


def by_workers(node: Node) -> list[str]:
    """A call cut among the workers of `order`, each number of them with a grid of its own."""
    rule = OPS[node.op]
    call, split = rule.call(node), rule.split(node)
    rows, times = call.box
    whole_box = Span(0, rows, 0, times)
    grids = [grid_of(split, [whole_box], workers) for workers in ORDERS]
    table = ", ".join(f"{{{g.down}, {g.across}}}" for g in grids)
    arguments = []
    for operand in call.operands:
        inward = operand.source == "in"
        if operand.source == "null":
            arguments.append("NULL")
            continue
        value = (node.inputs if inward else node.outputs)[operand.index]
        kind = ("bt_in" if inward else "bt_out") + WIDTH.get(value.dtype, "")
        view = f"({kind}){{{value.name}, {rows_times(value.shape)[1]}, 0, 0}}"
        shifted = f"{value.name} + part.t0" if split.elements else value.name
        arguments.append(view if operand.view else shifted)
    geometry = f"({call.struct}){{part.t1 - part.t0}}" if split.elements else literal(call)
    steps = f"{split.rows or 1}, across, {split.times or 1}"
    return [
        "  for (int k = 0; k < workers; k++) {",
        f"    static const int grid[{len(ORDERS)}][2] = {{{table}}};",
        f"    const int *size = grid[{len(ORDERS)} - 1];",
        *(f"    size = workers == {n} ? grid[{i}] : size;" for i, n in enumerate(ORDERS)),
        "    const int down = size[0], across = size[1];",
        "    if (order[k] >= down * across)",
        "      continue;",
        f"    const bt_box part = bt_own(bt_all({rows}, {times}), order[k], down, {steps});",
        *call_text(call, geometry, "part", arguments, "    "),
        "  }",
    ]


def in_place(node: Node) -> list[str]:
    """The same call with the output lying on a copy of the input."""
    out, into = OPS[node.op].inplace[0]
    target, source = node.outputs[out], node.inputs[into]
    if target.nbytes != source.nbytes:
        return whole(node, 1)
    moved = replace(
        node, inputs=tuple(target if i == into else v for i, v in enumerate(node.inputs))
    )
    return [f"  memcpy({target.name}, {source.name}, {target.nbytes});", *whole(moved, 1)]


def row_borders(node: Node, parts: int) -> list[tuple[int, int]]:
    """Ranges of rows, cut where the op may be cut."""
    rule = OPS[node.op]
    rows, step = rule.call(node).box[0], rule.row_step(node)
    if parts == 1 or not step or rows % step:
        return [(0, rows)]
    cuts = [round(rows // step * i / parts) * step for i in range(parts + 1)]
    return [(a, z) for a, z in itertools.pairwise(cuts) if z > a]


def clip(span: tuple[int, int] | None, size: int) -> tuple[int, int]:
    """A range within a tensor; None: all of it."""
    lo, hi = span if span is not None else (0, size)
    lo = max(0, min(size, lo))
    return lo, max(lo, min(size, hi))


def whole(node: Node, tiles: int, parts: int = 1) -> list[str]:
    rule = OPS[node.op]
    call = rule.call(node)
    times = call.box[1]
    ranges = [(0, times)]
    if tiles > 1 and rule.tiles(node):
        ranges = borders(times, tiles, rule.leaf if rule.reduces_time else 1)
    lines: list[str] = []
    boxes = [(r0, r1, t0, t1) for t0, t1 in ranges for r0, r1 in row_borders(node, parts)]
    for r0, r1, t0, t1 in boxes:
        lines.append("  {")
        arguments, after = [], []
        for i, operand in enumerate(call.operands):
            if operand.source == "null":
                arguments.append("NULL")
                continue
            inward = operand.source == "in"
            value = (node.inputs if inward else node.outputs)[operand.index]
            if not operand.view:
                arguments.append(value.name)
                continue
            n_rows, n_times = rows_times(value.shape)
            lo, hi, top, end = 0, n_times, 0, n_rows
            if len(boxes) > 1:
                window = rule.window(node, operand.index, t0, t1) if inward else (t0, t1)
                lo, hi = clip(window, n_times)
                span = rule.rows(node, operand.index, r0, r1) if inward else (r0, r1)
                top, end = clip(span, n_rows)
            kind = ("bt_in" if inward else "bt_out") + WIDTH.get(value.dtype, "")
            ctype, item = CTYPE[value.dtype], ITEM_BYTES[value.dtype]
            if (lo, hi, top, end) == (0, n_times, 0, n_rows):
                arguments.append(f"({kind}){{{value.name}, {n_times}, 0, 0}}")
                continue
            width, high = hi - lo, end - top
            at = f"{value.name} + {top * n_times + lo if width * high else 0}"
            lines.append(f"    {ctype} *w{i} = grab({max(item * high * width, 1)});")
            copy = f"window(w{i}, {at}, {high}, {width}, {width}, {n_times}, {item});"
            back = f"window({at}, w{i}, {high}, {width}, {n_times}, {width}, {item});"
            lines.append(f"    {copy}")
            if not inward:
                after.append(f"    {back}")
            after.append(f"    free(w{i});")
            arguments.append(f"({kind}){{w{i}, {width}, {top}, {lo}}}")
        box = f"(bt_box){{{r0}, {r1}, {t0}, {t1}}}"
        lines += call_text(call, literal(call), box, arguments, "    ")
        lines += [*after, "  }"]
    return lines


@dataclass(frozen=True)
class Variant:
    """How the calls of a case are made: cut along time, cut along rows, in place."""

    tiles: int = 1
    parts: int = 1
    inplace: bool = False

    @property
    def suffix(self) -> str:
        return f"{self.tiles}_{self.parts}{'_inplace' if self.inplace else ''}"


VARIANTS = (
    Variant(),
    Variant(tiles=2, parts=3),
    Variant(tiles=5, parts=2),
    Variant(inplace=True),
)


ORDERS = {1: (0,), 2: (1, 0), 3: (0, 1, 2), 8: (5, 2, 7, 0, 3, 6, 1, 4)}
"""Workers, and in which order they run: rising, falling, at random."""
ALL = (*(v.suffix for v in VARIANTS), *(f"{n}_workers" for n in ORDERS))
"""How a case is run, by name: results come in this order."""


def program(all_cases: Sequence[Case], fused: bool, workers: bool) -> dict[str, str]:
    nodes = [n for c in all_cases for n in c.nodes if not OPS[n.op].alias]
    stems = kernel_sources(OPS[n.op].source for n in nodes)
    files = {name: (RUNTIME / name).read_text() for name in (*RUNTIME_FILES, "bt_port.h")}
    files.update({s: (SOURCES / s).read_text() for s in stems})
    lines = [
        "#define BT_PORT BT_PORT_THREADS /* bt_own divides; nobody waits */",
        "#undef BT_FUSED",
        f"#define BT_FUSED {int(fused)}",
        "#include <stdio.h>",
        "#include <stdlib.h>",
        "#include <string.h>",
        '#include "bt_kernel.h"',
        '#include "bt_port.h"',
        *[f'#include "{s}"' for s in stems],
        "static FILE *in, *out;",
        "void *grab(size_t n);",
        "static inline void take(void *to, size_t n) { if (fread(to, 1, n, in) != n) exit(3); }",
        "static inline void give(const void *from, size_t n)",
        "{ if (fwrite(from, 1, n, out) != n) exit(4); }",
        "static inline void window(void *to, const void *from, int rows, int n, int to_stride,",
        "                   int from_stride, int item)",
        "{",
        "  for (int r = 0; r < rows && n > 0; r++)",
        "    memcpy((char *)to + r * to_stride * item,",
        "           (const char *)from + r * from_stride * item,",
        "           (size_t)(n * item));",
        "}",
    ]
    declared = "#include <stdlib.h>\nvoid *grab(size_t n);\n"
    grab = f"{declared}void *grab(size_t n) {{ return calloc(1, n); }}\n"
    for c in all_cases:
        for variant in VARIANTS:
            lines += function(c, variant)
        lines += shared(c) if workers else []
    for n, order in ORDERS.items() if workers else ():
        lines.append(f"static const int order_{n}[] = {{{', '.join(map(str, order))}}};")
    lines += ["int main(int argc, char **argv)", "{", "  if (argc != 3) return 2;"]
    lines += ['  in = fopen(argv[1], "rb"); out = fopen(argv[2], "wb");']
    for c in all_cases:
        lines += [f"  {c.name}_{variant.suffix}();" for variant in VARIANTS]
        lines += [f"  {c.name}_shared(order_{n}, {n});" for n in ORDERS if workers]
    lines += ["  return fclose(in) || fclose(out);", "}"]
    return {**files, "grab.c": grab, "samples.c": "\n".join(lines) + "\n"}


def run(
    all_cases: Sequence[Case],
    arrays: Mapping[str, Sequence[np.ndarray]],
    command: Sequence[str],
    folder: Path,
    fused: bool = True,
    workers: bool = False,
) -> dict[str, list[list[np.ndarray]]]:
    """Results per case and variant: the output, then the gradients; workers: those of all `ALL`."""
    variants = ALL if workers else ALL[: len(VARIANTS)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in program(all_cases, fused, workers).items():
        (folder / name).write_text(text)
    subprocess.run([*command, "-o", "samples", "samples.c", "grab.c"], cwd=folder, check=True)
    with (folder / "in.bin").open("wb") as file:
        for c in all_cases:
            for _ in variants:
                for array in arrays[c.name]:
                    file.write(np.ascontiguousarray(array).tobytes())
    done = subprocess.run(
        ["./samples", "in.bin", "out.bin"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[:4000]
    data = (folder / "out.bin").read_bytes()
    at = 0
    results: dict[str, list[list[np.ndarray]]] = {}
    for c in all_cases:
        results[c.name] = []
        for _ in variants:
            row = []
            for v in c.results:
                count = v.size * ITEM_BYTES[v.dtype]
                row.append(np.frombuffer(data[at : at + count], DTYPE[v.dtype]).reshape(v.shape))
                at += count
            results[c.name].append(row)
    assert at == len(data)
    return results
