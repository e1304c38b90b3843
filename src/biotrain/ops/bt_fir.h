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

/* to[t - t0] = sum_j w[j ws] x[t + shift + j] for t in [t0, t1), added to what is there or to a
 * start. Tiles begin at multiples of 2^levels. */
BT_KERNEL void bt_fir_tiles(int levels, int t0, int t1, const float *w, int ws, int taps,
                            bt_fir_line x, int shift, bool add, float start, float *to)
{
  bt_fir_work work;
  BT_FIR_CLEAR(work);
  for (int first = 0; first < taps; first += BT_FIR_TAPS) {
    const int n = bt_min(BT_FIR_TAPS, taps - first);
    bt_fir_apart(levels, w + first * ws, ws, n, work.w);
    const bool sum = add || first > 0;
    for (int t = (t0 >> levels) << levels, end; t < t1; t = end) {
      const int from = bt_max(t0, t);
      end = bt_min(t1, t + BT_FIR_OUTPUTS(levels, t1 - t));
      const float *y = bt_fir_tile(levels, end - t, n, x, t + shift + first, &work) + (from - t);
      float *restrict const at = to + (from - t0);
      int i = 0;
      for (; BT_FIR_LANES == 1 && i + 4 <= end - from; i += 4) {
        float v[4];
        BT_UNROLLED_FOUR
          v[j] = y[i + j] + (sum ? at[i + j] : start);
        BT_UNROLLED_FOUR
          at[i + j] = v[j];
      }
      for (; i < end - from; i++)
        at[i] = y[i] + (sum ? at[i] : start);
    }
  }
}

/* Functions of their own: the scratch is on the stack only while it is in use. */
BT_OUTLINED void bt_fir_filter2(int t0, int t1, const float *w, int ws, int taps, bt_fir_line x,
                                int shift, bool add, float start, float *to)
{
  bt_fir_tiles(2, t0, t1, w, ws, taps, x, shift, add, start, to);
}

BT_OUTLINED void bt_fir_filter3(int t0, int t1, const float *w, int ws, int taps, bt_fir_line x,
                                int shift, bool add, float start, float *to)
{
  bt_fir_tiles(3, t0, t1, w, ws, taps, x, shift, add, start, to);
}

BT_KERNEL void bt_fir_filter(int levels, int t0, int t1, const float *w, int ws, int taps,
                             bt_fir_line x, int shift, bool add, float start, float *to)
{
  if (levels == 2)
    bt_fir_filter2(t0, t1, w, ws, taps, x, shift, add, start, to);
  else
    bt_fir_filter3(t0, t1, w, ws, taps, x, shift, add, start, to);
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
  for (int r = box.r0; r < box.r1; r++) {
    const int o = r / g.rows, row = o / g.outs * g.rows + r % g.rows;
    const bt_fir_line line = bt_fir_span(g, x, row, g.times, box.t0, box.t1, -g.padding);
    bt_fir_filter(g.levels, box.t0, box.t1, w + o * g.taps, 1, g.taps, line, -g.padding, false,
                  b ? b[o] : 0.0f, bt_to(y, r, box.t0));
  }
}

BT_KERNEL void bt_fir_input_gradient(bt_fir g, bt_box box, bt_in dy, const float *w, bt_out dx)
{
  const int shift = g.padding - (g.taps - 1);
  for (int r = box.r0; r < box.r1; r++)
    for (int i = 0; i < g.outs; i++) {
      const int o = r / g.rows * g.outs + i, row = o * g.rows + r % g.rows;
      const bt_fir_line line = bt_fir_span(g, dy, row, g.out_times, box.t0, box.t1, shift);
      bt_fir_filter(g.levels, box.t0, box.t1, w + (o + 1) * g.taps - 1, -1, g.taps, line, shift,
                    i > 0, 0.0f, bt_to(dx, r, box.t0));
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
                      0.0f, dw + o * g.taps);
      }
    }
}

#endif
