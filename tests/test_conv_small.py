# SPDX-License-Identifier: Apache-2.0
"""The convolutions in blocks of registers, scalar as on small cores and vectors as on the host,
against one output at a time: the same bits for odd shapes, whole and in parts, in both modes."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from _cc import fused_flags, has_fma, has_instructions, kernel_texts, write_kernels
from _thumb import Thumb, build, need_emulator

from biotrain.run.compiler import NUMERICS, STRICT, find_compiler

SHAPES: tuple[tuple[int, ...], ...] = (
    # channels, rows, times, out channels, groups, kernel rows, taps,
    # row stride, stride, row dilation, dilation, padding: top, bottom, left, right
    (4, 1, 200, 4, 4, 1, 64, 1, 1, 1, 1, 0, 0, 31, 32),
    (2, 1, 100, 4, 2, 1, 128, 1, 1, 1, 1, 0, 0, 63, 64),
    (3, 1, 61, 3, 3, 1, 11, 1, 1, 1, 1, 0, 0, 5, 5),
    (3, 1, 77, 5, 1, 1, 3, 1, 1, 1, 1, 0, 0, 1, 1),
    (5, 1, 90, 9, 1, 1, 4, 1, 1, 1, 1, 0, 0, 1, 2),
    (6, 1, 99, 4, 2, 1, 17, 1, 1, 1, 1, 0, 0, 8, 8),
    (2, 1, 70, 2, 1, 1, 13, 1, 1, 1, 1, 0, 0, 0, 0),
    (2, 1, 40, 2, 2, 1, 9, 1, 1, 1, 1, 0, 0, 20, 3),
    (1, 1, 15, 2, 1, 1, 8, 1, 1, 1, 1, 0, 0, 3, 4),
    (2, 1, 16, 2, 2, 1, 15, 1, 1, 1, 1, 0, 0, 7, 7),
    (2, 1, 150, 4, 1, 1, 10, 1, 1, 1, 3, 0, 0, 13, 14),
    (3, 1, 90, 3, 3, 1, 8, 1, 2, 1, 1, 0, 0, 3, 4),
    (4, 1, 160, 6, 2, 1, 9, 1, 3, 1, 1, 0, 0, 5, 4),
    (2, 1, 120, 2, 2, 1, 5, 1, 2, 1, 3, 0, 0, 6, 7),
    (4, 3, 60, 6, 2, 3, 9, 1, 1, 1, 1, 1, 1, 4, 4),
    (2, 5, 50, 3, 1, 2, 5, 2, 1, 1, 2, 1, 0, 4, 4),
    (1, 7, 66, 6, 1, 7, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    (1, 2, 66, 2, 1, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    (7, 1, 45, 9, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    (6, 1, 33, 6, 3, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    (5, 1, 7, 5, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    (5, 1, 3, 2, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    (4, 3, 34, 5, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    (17, 1, 37, 9, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    (3, 2, 141, 13, 1, 1, 16, 1, 1, 1, 1, 0, 0, 7, 8),
    (2, 1, 31, 8, 1, 2, 20, 1, 1, 1, 1, 1, 0, 40, 9),
    (2, 1, 300, 2, 2, 1, 200, 1, 1, 1, 1, 0, 0, 99, 100),
    (2, 1, 211, 2, 2, 1, 37, 1, 2, 1, 1, 0, 0, 18, 18),
    (2, 1, 180, 3, 1, 1, 16, 1, 3, 1, 1, 0, 0, 8, 8),
    (2, 1, 190, 2, 1, 1, 16, 1, 4, 1, 1, 0, 0, 7, 8),
    (1, 1, 170, 2, 1, 1, 5, 1, 4, 1, 1, 0, 0, 2, 2),
    (2, 1, 230, 2, 2, 1, 13, 1, 8, 1, 1, 0, 0, 0, 0),
    (2, 1, 90, 2, 1, 1, 2, 1, 3, 1, 1, 0, 0, 0, 1),
    (1, 1, 300, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    (3, 1, 260, 3, 3, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    (1, 1, 150, 3, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    (2, 1, 140, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    (10, 1, 190, 10, 10, 1, 37, 1, 1, 1, 1, 0, 0, 18, 18),
    (9, 2, 47, 9, 9, 1, 5, 1, 1, 1, 1, 0, 0, 2, 2),
    (9, 3, 70, 9, 9, 3, 18, 1, 1, 1, 1, 1, 1, 9, 8),
    (8, 1, 15, 8, 8, 1, 7, 1, 1, 1, 1, 0, 0, 3, 3),
    (2, 1, 90, 2, 2, 1, 24, 1, 1, 1, 1, 0, 0, 11, 12),
    (1, 1, 70, 2, 1, 1, 7, 1, 1, 1, 1, 0, 0, 3, 3),
    (2, 1, 70, 2, 2, 1, 18, 1, 1, 1, 1, 0, 0, 9, 8),
)

NAIVE = """
/* One output at a time, as the comment of bt_conv.h has them. */
static int time_of(bt_conv g, int t, int k) { return t * g.stride + k * g.dilation - g.padding; }
static int row_of(bt_conv g, int h, int kh)
{
  return h * g.row_stride + kh * g.row_dilation - g.row_padding;
}
static int within(int at, int size) { return at >= 0 && at < size; }

static void naive_forward(bt_conv g, const float *x, const float *w, const float *b, float *y)
{
  const int ins = g.channels / g.groups, outs = g.out_channels / g.groups;
  for (int o = 0; o < g.out_channels; o++)
    for (int h = 0; h < g.out_rows; h++)
      for (int t = 0; t < g.out_times; t++) {
        float sum = b[o];
        for (int i = 0; i < ins; i++)
          for (int kh = 0; kh < g.kernel_rows; kh++)
            for (int k = 0; k < g.taps; k++) {
              const int row = row_of(g, h, kh), at = time_of(g, t, k);
              if (within(row, g.rows) && within(at, g.times))
                sum = bt_fma(w[((o * ins + i) * g.kernel_rows + kh) * g.taps + k],
                             x[((o / outs * ins + i) * g.rows + row) * g.times + at], sum);
            }
        y[(o * g.out_rows + h) * g.out_times + t] = sum;
      }
}

static void naive_dx(bt_conv g, const float *dy, const float *w, float *dx)
{
  const int ins = g.channels / g.groups, outs = g.out_channels / g.groups;
  for (int c = 0; c < g.channels; c++)
    for (int row = 0; row < g.rows; row++)
      for (int at = 0; at < g.times; at++) {
        float sum = 0.0f;
        for (int o = c / ins * outs; o < (c / ins + 1) * outs; o++)
          for (int kh = 0; kh < g.kernel_rows; kh++)
            for (int k = 0; k < g.taps; k++)
              for (int h = 0; h < g.out_rows; h++) {
                const int from = at + g.padding - k * g.dilation, t = from / g.stride;
                if (row_of(g, h, kh) == row && from >= 0 && t < g.out_times &&
                    time_of(g, t, k) == at)
                  sum = bt_fma(w[((o * ins + c % ins) * g.kernel_rows + kh) * g.taps + k],
                               dy[(o * g.out_rows + h) * g.out_times + t], sum);
              }
        dx[(c * g.rows + row) * g.times + at] = sum;
      }
}

static void naive_dw(bt_conv g, const float *x, const float *dy, float *dw)
{
  const int ins = g.channels / g.groups, outs = g.out_channels / g.groups;
  for (int o = 0; o < g.out_channels; o++)
    for (int i = 0; i < ins; i++)
      for (int kh = 0; kh < g.kernel_rows; kh++)
        for (int k = 0; k < g.taps; k++)
          for (int leaf = 0; leaf < g.out_times; leaf += BT_LEAF)
            for (int h = 0; h < g.out_rows; h++) {
              const int row = row_of(g, h, kh);
              float sum = 0.0f;
              for (int t = leaf; t < bt_min(leaf + BT_LEAF, g.out_times); t++) {
                const int at = time_of(g, t, k);
                if (within(row, g.rows) && within(at, g.times))
                  sum = bt_fma(dy[(o * g.out_rows + h) * g.out_times + t],
                               x[((o / outs * ins + i) * g.rows + row) * g.times + at], sum);
              }
              if (within(row, g.rows))
                dw[((o * ins + i) * g.kernel_rows + kh) * g.taps + k] += sum;
            }
}
"""

HARNESS = """
static uint32_t seed = 1u;

static float *drawn(int n)
{
  float *p = malloc(sizeof *p * (size_t)n);
  for (int i = 0; i < n; i++) {
    seed = seed * 1664525u + 1013904223u;
    p[i] = (float)(int32_t)seed * 0x1p-31f;
  }
  return p;
}

static float *copy(const float *from, int n)
{
  float *p = malloc(sizeof *p * (size_t)n);
  memcpy(p, from, sizeof *p * (size_t)n);
  return p;
}

/* Times [t0, t1) of all rows alone in memory, so that a sanitizer sees a read outside. */
static float *part(const float *x, int rows, int times, int t0, int t1)
{
  float *p = malloc(sizeof *p * (size_t)(rows * (t1 - t0) + 1));
  for (int r = 0; r < rows; r++)
    memcpy(p + r * (t1 - t0), x + r * times + t0, sizeof *p * (size_t)(t1 - t0));
  return p;
}

static uint32_t crc(const float *p, int n) { return bt_crc32(0u, p, sizeof *p * (size_t)n); }

static int check(const char *what, const float *p, const float *q, int n)
{
  if (crc(p, n) == crc(q, n))
    return 0;
  printf("%s: %08x is not %08x\\n", what, (unsigned)crc(p, n), (unsigned)crc(q, n));
  return 1;
}

static int run(bt_conv g, int step)
{
  const int x_rows = g.channels * g.rows, y_rows = g.out_channels * g.out_rows;
  const int weights = g.out_channels * (g.channels / g.groups) * g.kernel_rows * g.taps;
  const int xs = x_rows * g.times, ys = y_rows * g.out_times, reach = (g.taps - 1) * g.dilation;
  float *x = drawn(xs), *dy = drawn(ys), *w = drawn(weights), *b = drawn(g.out_channels);
  float *y = drawn(ys), *dx = drawn(xs), *dw = drawn(weights), *other = copy(dw, weights);
  float *y0 = drawn(ys), *dx0 = drawn(xs), *dw0 = copy(dw, weights);
  int bad = 0;
  for (int t = 0; t < g.out_times; t += step) {
    const int end = bt_min(t + step, g.out_times);
    const int lo = bt_max(0, bt_min(g.times, t * g.stride - g.padding));
    const int hi = bt_max(lo, bt_min(g.times, (end - 1) * g.stride - g.padding + reach + 1));
    float *px = part(x, x_rows, g.times, lo, hi), *py = part(dy, y_rows, g.out_times, t, end);
    const bt_in from = bt_read_at(px, hi - lo, 0, lo), up = bt_read_at(py, end - t, 0, t);
    bt_conv_forward(g, bt_part(0, y_rows, t, end), from, w, b, bt_write(y, g.out_times));
    bt_conv_weight_gradient(g, bt_part(0, y_rows, t, end), from, up, dw);
    if (g.groups == 1)
      bt_conv_weight_gradient_by_input(g, bt_part(0, x_rows, t, end), from, up, other);
    free(px);
    free(py);
  }
  for (int t = 0; t < g.times; t += step) {
    const int end = bt_min(t + step, g.times);
    const int lo = bt_max(0, bt_min(g.out_times, bt_ceil_div(t + g.padding - reach, g.stride)));
    const int hi = bt_max(lo, bt_min(g.out_times, (end - 1 + g.padding) / g.stride + 1));
    float *py = part(dy, y_rows, g.out_times, lo, hi);
    bt_conv_input_gradient(g, bt_part(0, x_rows, t, end), bt_read_at(py, hi - lo, 0, lo), w,
                           bt_write(dx, g.times));
    free(py);
  }
  naive_forward(g, x, w, b, y0);
  naive_dx(g, dy, w, dx0);
  naive_dw(g, x, dy, dw0);
  bad += check("forward", y, y0, ys);
  bad += check("input gradient", dx, dx0, xs);
  bad += check("weight gradient", dw, dw0, weights);
  if (g.groups == 1)
    bad += check("weight gradient by input", other, dw0, weights);
  float *all[] = {x, dy, w, b, y, dx, dw, other, y0, dx0, dw0};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    free(all[i]);
  return bad;
}
"""


def numbers(shape: tuple[int, ...]) -> str:
    """A `bt_conv`'s."""
    channels, rows, times, outs, groups, kernel, taps, rs, s, rd, d, *pads = shape
    out_rows = (rows + pads[0] + pads[1] - rd * (kernel - 1) - 1) // rs + 1
    out_times = (times + pads[2] + pads[3] - d * (taps - 1) - 1) // s + 1
    found = (channels, rows, times, outs, out_rows, out_times, groups, kernel, taps)
    return ", ".join(map(str, (*found, rs, s, rd, d, pads[0], pads[2])))


WHOLE_AND_PARTS = ("1000", "BT_LEAF", "2 * BT_LEAF", "3 * BT_LEAF")


def program(steps: Sequence[str] = WHOLE_AND_PARTS) -> str:
    """All shapes, in parts of so many samples."""
    calls = []
    for shape in SHAPES:
        text = numbers(shape)
        calls += [
            f'  if (run((bt_conv){{{text}}}, {step}))\n    bad += printf("shape {text}\\n");'
            for step in steps
        ]
    head = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
    head += '#include "bt_crc.h"\n#include "bt_conv.h"\n'
    main = "\n".join(["int main(void)", "{", "  int bad = 0;", *calls, "  return bad != 0;", "}"])
    return f"{head}{NAIVE}{HARNESS}{main}\n"


BUILDS: dict[str, tuple[tuple[str, ...], str]] = {
    "loops": (("-DBT_SCALAR_TILES=0",), ""),
    "blocks": (("-DBT_SCALAR_TILES=1", "-DBT_WIDE_OUTPUTS=8"), ""),
    "small": (("-DBT_CONV_SMALL=1",), ""),
    "ring": (("-DBT_SCALAR_TILES=1", "-DBT_WIDE_OUTPUTS=8", "-DBT_SAMPLE_RING=1"), ""),
    "wide blocks": (("-DBT_SCALAR_TILES=1", "-DBT_WIDE_OUTPUTS=12"), ""),
    "avx2": (("-mavx2",), "avx2"),
    "avx512": (("-mavx512f",), "avx512f"),
}
"""Flags, and the instructions that the machine must have."""


SAMPLE = [("loops", True), ("blocks", True), ("wide blocks", False), ("avx2", False)]
SAMPLE += [("avx512", True), ("small", False)]
"""Kinds and modes of every run: each kind, and each mode scalar and in vectors."""


@pytest.mark.sample(test=2)
@pytest.mark.parametrize(
    ("kind", "fused"),
    [
        pytest.param(
            kind,
            fused,
            id=f"{kind}-{'fused' if fused else 'separate'}",
            marks=() if (kind, fused) in SAMPLE else pytest.mark.full,
        )
        for kind in BUILDS
        for fused in (False, True)
    ],
)
def test_odd_shapes_have_the_bits_of_one_output_at_a_time(
    kind: str, fused: bool, tmp_path: Path
) -> None:
    flags, needed = BUILDS[kind]
    if fused and not has_fma():
        pytest.skip("no fused multiply-add here")
    if needed and not has_instructions(needed):
        pytest.skip(f"no {needed} here")
    write_kernels(tmp_path, "bt_conv.h")
    (tmp_path / "main.c").write_text(program(), encoding="utf-8")
    mode = fused_flags() if fused else ["-DBT_FUSED=0"]
    sanitize = [] if "ziglang" in find_compiler() else ["-fsanitize=address,undefined"]
    command = [*find_compiler(), "-O0", "-Dalways_inline=unused", *STRICT, *NUMERICS]
    command += [*mode, *sanitize, *flags, "-Wno-unused-function"]
    subprocess.run([*command, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


THUMB = (
    (2, 1, 110, 2, 2, 1, 18, 1, 1, 1, 1, 0, 0, 9, 8),
    (1, 1, 110, 2, 1, 1, 7, 1, 1, 1, 1, 0, 0, 3, 3),
    (1, 1, 90, 1, 1, 1, 25, 1, 1, 1, 1, 0, 0, 12, 12),
    (1, 1, 170, 1, 1, 1, 9, 1, 3, 1, 1, 0, 0, 4, 4),
    (1, 1, 190, 1, 1, 1, 5, 1, 2, 1, 3, 0, 0, 6, 7),
    (3, 1, 141, 5, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    (2, 1, 75, 7, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
)
"""As `SHAPES`: rings of twelve with and without a rest, few taps, strides, tiles of products."""

FREESTANDING = {
    "stdio.h": "#define printf(...) 1\n",
    "stdlib.h": "#include <stddef.h>\nvoid *malloc(size_t n);\n#define free(p) ((void)(p))\n",
    "heap.c": """#include "stdlib.h"
static double heap[1 << 15];
static size_t used;
void *malloc(size_t n)
{
  void *const p = heap + used;
  used = (used + (n + 7) / 8) % (1 << 15); /* each shape begins anew */
  return p;
}
""",
}


@pytest.mark.sample(test=0, ci=1)
@pytest.mark.parametrize("core", ["cortex-m4f", "cortex-m7"])
def test_blocks_of_a_small_core_have_the_bits_of_one_output_at_a_time(core: str) -> None:
    """With the shape known and the order of instructions pinned, in the emulator."""
    need_emulator()
    headers = {k: text for k, text in kernel_texts("bt_conv.h").items() if k.endswith(".h")}
    files = {**FREESTANDING, **headers}
    harness = HARNESS.replace(
        "static int run(", "static inline __attribute__((always_inline)) int run("
    )
    head = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
    head += '#include "bt_crc.h"\n#include "bt_conv.h"\nint main(void);\nextern int bad[];\n'
    cases = "".join(
        f"static __attribute__((noinline)) int case_{i}(void)\n"
        f"{{\n  return run((bt_conv){{{numbers(shape)}}}, 1000);\n}}\n"
        for i, shape in enumerate(THUMB)
    )
    calls = "".join(f"  bad[{i}] = 1 + case_{i}();\n" for i in range(len(THUMB)))
    main = f"int bad[{len(THUMB)}];\nint main(void)\n{{\n{calls}  return 0;\n}}\n"
    files["main.c"] = f"{head}{NAIVE}{harness}{cases}{main}"
    thumb = Thumb(build(files, core, ["-O1", "-g0", "-DBT_FUSED=0"]), core)
    thumb.run()
    found = thumb.uc.mem_read(thumb.symbols["bad"], 4 * len(THUMB))
    assert list(found[::4]) == [1] * len(THUMB)
