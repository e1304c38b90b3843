/* SPDX-License-Identifier: Apache-2.0 */
/* Fast FIR: a depthwise convolution of long taps along time, stride 1, in 3/4 of the multiplies per
 * level.
 *
 *   y[o, t]  = b[o] + sum_k w[o, k] x[c, t + k - padding]      c = o / outs
 *   dx[c, t] =        sum_o sum_k w[o, k] dy[o, t + padding - k]
 *   dw[o, k] +=       sum_t dy[o, t] x[c, t + k - padding]     t in leaves
 *
 * are all y[n] = sum_j f[j] s[n + j]: f is w, w backwards, or a leaf of dy (and n is then k). A row
 * is done in tiles, whose sums are made by halves (bt_fir_sum.h). Samples mix only within blocks of
 * 2^levels outputs, which lie at absolute times: a call over a part gives the bits of the whole. */
#ifndef BT_FIR_H
#define BT_FIR_H

#include "bt_fir_sum.h"

typedef struct bt_fir {
  int rows, outs, times; /* of x: rows per channel; channels of y per channel of x; samples */
  int out_times, taps, padding, levels;
} bt_fir;

/* A row of samples [lo, hi), zero elsewhere; data[0] is sample `at`. */
typedef struct bt_fir_line {
  const float *data;
  int at, lo, hi;
} bt_fir_line;

/* to[r * ts + i] = from[i * fs + r] for r < rows, i < columns. */
BT_KERNEL void bt_fir_turn(int rows, int columns, const float *from, int fs, float *restrict to,
                           int ts)
{
  for (int i = 0; i < columns; i++)
    for (int r = 0; r < rows; r++)
      to[r * ts + i] = from[i * fs + r];
}

/* Phases from samples: s[r][i] = x[start + i rows + r] for i < width. */
BT_KERNEL void bt_fir_load(int rows, int width, int n, bt_fir_line x, int start, bt_fir_work *work)
{
  const int columns = BT_FIR_LANES > 1 ? 16 : 1, count = columns * rows;
  for (int i = 0; i < width; i += columns) {
    const int from = start + i * rows;
    const float *column = work->y;
    if (from < x.lo || from + count > x.hi) { /* through y, which is still free */
      const int lo = bt_min(count, bt_max(0, x.lo - from));
      const int hi = bt_max(lo, bt_min(count, x.hi - from));
      for (int k = 0; k < lo; k++)
        work->y[k] = 0.0f;
      for (int k = lo; k < hi; k++)
        work->y[k] = x.data[from - x.at + k];
      for (int k = hi; k < count; k++)
        work->y[k] = 0.0f;
    } else
      column = x.data + (from - x.at);
    if (BT_FIR_LANES > 1 && rows == 32)
      for (int top = 0; top < rows; top += 16) {
        for (int l = 0; l < 16; l++)
          for (int r = 0; r < 16; r++)
            work->s1[l * 16 + r] = column[l * 32 + top + r];
        bt_fir_turn(16, 16, work->s1, 16, work->s + top * n + i, n);
      }
    else
      bt_fir_turn(rows, columns, column, rows, work->s + i, n);
  }
}

/* Samples from phases: s[i rows + r] = y[r][i]. */
BT_KERNEL void bt_fir_line_up(int rows, int m, bt_fir_work *work)
{
  if (BT_FIR_LANES > 1 && rows == 32)
    for (int top = 0; top < rows; top += 16) {
      bt_fir_turn(16, 16, work->y + top * m, m, work->s1, 16);
      for (int l = 0; l < 16; l++)
        for (int r = 0; r < 16; r++)
          work->s[l * 32 + top + r] = work->s1[l * 16 + r];
    }
  else
    bt_fir_turn(m, rows, work->y, m, work->s, rows);
}

BT_KERNEL void bt_fir_phases(int rows, int levels, int outputs, const float *w, int ws, int taps,
                             bt_fir_line x, int start, bt_fir_work *work)
{
  const int m = BT_FIR_M((outputs + rows - 1) / rows);
  const int width = m + (taps + rows - 2) / rows, n = BT_FIR_N(width);
  const int block = 1 << levels, span = (taps + block - 1) / block * block;
  const bt_fir_sum all = {rows, m, n, w, ws, taps, span, work->s, n, work->y, m};
  bt_fir_load(rows, width, n, x, start, work);
  bt_fir_first(levels, all, work);
  bt_fir_line_up(rows, m, work);
}

/* work.s[n] = sum_j w[j ws] x[start + n + j] for n < outputs <= BT_FIR_TILE. */
BT_FIR_PART void bt_fir_tile(int levels, int outputs, const float *w, int ws, int taps,
                             bt_fir_line x, int start, bt_fir_work *work)
{
#if BT_FIR_LANES > 1
  if (outputs <= 128)
    bt_fir_phases(8, levels, outputs, w, ws, taps, x, start, work);
  else if (outputs <= 256)
    bt_fir_phases(16, levels, outputs, w, ws, taps, x, start, work);
  else
    bt_fir_phases(32, levels, outputs, w, ws, taps, x, start, work);
#else
  int rows = 4 << levels;
  while (rows > 1 << levels && outputs <= rows / 2)
    rows /= 2;
  bt_fir_phases(rows, levels, outputs, w, ws, taps, x, start, work);
#endif
}

/* to[t - t0] = sum_j w[j ws] x[t + shift + j] for t in [t0, t1), added to what is there or to a
 * start. Tiles begin at multiples of 2^levels. */
BT_KERNEL void bt_fir_filter(int levels, int t0, int t1, const float *w, int ws, int taps,
                             bt_fir_line x, int shift, bool add, float start, float *to,
                             bt_fir_work *work)
{
  const int tile = BT_FIR_OUTPUTS(levels);
  for (int j = 0; j < taps; j += BT_FIR_TAPS) {
    const int n = bt_min(BT_FIR_TAPS, taps - j);
    const float *tap = w + j * ws;
    int step = ws;
#if BT_FIR_APART
    bt_fir_apart(levels, tap, ws, n, work->w);
    tap = work->w;
    step = 1;
#endif
    const bool sum = add || j > 0;
    for (int t = (t0 >> levels) << levels; t < t1; t += tile) {
      const int from = bt_max(t0, t), end = bt_min(t1, t + tile);
      bt_fir_tile(levels, end - t, tap, step, n, x, t + shift + j, work);
      const float *y = work->s + (from - t);
      float *restrict const at = to + (from - t0);
      for (int i = 0; i < end - from; i++)
        at[i] = y[i] + (sum ? at[i] : start);
    }
  }
}

/* The samples of a row of `times` that the outputs [t0, t1) read, as Fir.window says. */
BT_KERNEL bt_fir_line bt_fir_span(bt_fir g, bt_in x, int row, int times, int t0, int t1, int shift)
{
  const int block = 1 << g.levels;
  const int lo = t0 / block * block + shift;
  const int hi = (t1 + block - 1) / block * block + shift + g.taps - 1;
  const bt_fir_line line = {bt_at(x, row, x.t0), x.t0, bt_max(0, lo), bt_min(times, hi)};
  return line;
}

BT_KERNEL void bt_fir_forward(bt_fir g, bt_box box, bt_in x, const float *w, const float *b,
                              bt_out y)
{
  bt_fir_work work;
  memset(&work, 0, sizeof work);
  for (int r = box.r0; r < box.r1; r++) {
    const int o = r / g.rows, row = o / g.outs * g.rows + r % g.rows;
    const bt_fir_line line = bt_fir_span(g, x, row, g.times, box.t0, box.t1, -g.padding);
    bt_fir_filter(g.levels, box.t0, box.t1, w + o * g.taps, 1, g.taps, line, -g.padding, false,
                  b ? b[o] : 0.0f, bt_to(y, r, box.t0), &work);
  }
}

BT_KERNEL void bt_fir_input_gradient(bt_fir g, bt_box box, bt_in dy, const float *w, bt_out dx)
{
  bt_fir_work work;
  memset(&work, 0, sizeof work);
  const int shift = g.padding - (g.taps - 1);
  for (int r = box.r0; r < box.r1; r++)
    for (int i = 0; i < g.outs; i++) {
      const int o = r / g.rows * g.outs + i, row = o * g.rows + r % g.rows;
      const bt_fir_line line = bt_fir_span(g, dy, row, g.out_times, box.t0, box.t1, shift);
      bt_fir_filter(g.levels, box.t0, box.t1, w + (o + 1) * g.taps - 1, -1, g.taps, line, shift,
                    i > 0, 0.0f, bt_to(dx, r, box.t0), &work);
    }
}

/* End of the leaf that holds time t, or `end` where that comes first. */
BT_KERNEL int bt_fir_leaf_end(int t, int end)
{
  return bt_min((t / BT_FIR_TAPS + 1) * BT_FIR_TAPS, end);
}

/* A leaf of BT_FIR_TAPS samples of dy filters x, and the outputs are those of the taps. */
BT_KERNEL void bt_fir_weight_gradient(bt_fir g, bt_box box, bt_in x, bt_in dy, float *dw)
{
  bt_fir_work work;
  memset(&work, 0, sizeof work);
  const int block = 1 << g.levels;
  const int taps = (g.taps + block - 1) / block * block; /* whole blocks are computed */
  for (int o = box.r0 / g.rows; o * g.rows < box.r1; o++)
    for (int t = box.t0; t < box.t1; t = bt_fir_leaf_end(t, box.t1)) {
      const int end = bt_fir_leaf_end(t, box.t1);
      for (int r = bt_max(box.r0, o * g.rows); r < bt_min(box.r1, (o + 1) * g.rows); r++) {
        const bt_fir_line line = {bt_at(x, o / g.outs * g.rows + r % g.rows, x.t0), x.t0,
                                  bt_max(0, t - g.padding),
                                  bt_min(g.times, end - 1 - g.padding + taps)};
        bt_fir_filter(g.levels, 0, g.taps, bt_at(dy, r, t), 1, end - t, line, t - g.padding, true,
                      0.0f, dw + o * g.taps, &work);
      }
    }
}

#endif
