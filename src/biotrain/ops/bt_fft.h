/* SPDX-License-Identifier: Apache-2.0 */
/* A depthwise convolution of long taps along time, stride 1, by Fourier transforms of blocks.
 *
 *   y[o, t]  = b[o] + sum_k w[o, k] x[c, t + k - padding]      c = o / outs
 *   dx[c, t] =        sum_o sum_k w[o, k] dy[o, t + padding - k]
 *   dw[o, k] +=       sum_t dy[o, t] x[c, t + k - padding]
 *
 * are all y[n] = sum_j f[j] s[n + j]: f is w, w backwards, or a block of dy (and n is then k), and
 * `size` samples of s give the first outputs (overlap and save). Blocks of `step` outputs lie at
 * absolute times, so a call over a part gives the bits of the whole. In dw the products of all
 * blocks are added up before the way back: its boxes hold all times. */
#ifndef BT_FFT_H
#define BT_FFT_H

#include "bt_fft_transform.h"

typedef struct bt_fft {
  int rows, outs, times; /* of x: rows per channel; channels of y per channel of x; samples */
  int out_times, taps, padding;
  int size, step; /* samples of a transform; outputs of a block (of dw: samples of dy) */
} bt_fft;

/* A row of samples [lo, hi), zero elsewhere; data[0] is sample `at`. */
typedef struct bt_fft_line {
  const float *data;
  int at, lo, hi;
} bt_fft_line;

/* Room to work in is a tensor of the arena, of which nothing is wanted before and after a call. */
typedef struct bt_fft_size {
  int size;
} bt_fft_size;

BT_KERNEL void bt_fft_workspace(bt_fft_size g, bt_box box, float *workspace)
{
  (void)g;
  (void)box;
  (void)workspace;
}

BT_KERNEL void bt_fft_zeros(int n, float *restrict z)
{
  for (int i = 0; i + 8 <= n; i += 8)
    BT_UNROLLED_LANES
      z[i + j] = 0.0f;
  for (int i = n - n % 8; i < n; i++)
    z[i] = 0.0f;
}

/* z[i] = from[i step] */
BT_KERNEL void bt_fft_copy(int n, const float *from, int step, float *restrict z)
{
  for (int i = 0; i + 8 <= n; i += 8) {
    float v[BT_LANES];
    BT_UNROLLED_LANES
      v[j] = from[(i + j) * step];
    BT_UNROLLED_LANES
      z[i + j] = v[j];
  }
  for (int i = n - n % 8; i < n; i++)
    z[i] = from[i * step];
}

/* The transform of samples [start, start + count), zeros behind them. */
BT_OUTLINED void bt_fft_load(int size, int count, bt_fft_line x, int start, float *z)
{
  const int filled = bt_fft_filled(size, count), length = filled * size / 4;
  const int lo = bt_min(count, bt_max(0, x.lo - start));
  const int hi = bt_max(lo, bt_min(count, x.hi - start));
  const float *from = z;
  if (lo == 0 && hi == length)
    from = x.data + (start - x.at);
  else {
    bt_fft_zeros(lo, z);
    if (lo < hi)
      bt_fft_copy(hi - lo, x.data + (start + lo - x.at), 1, z + lo);
    bt_fft_zeros(length - hi, z + hi);
  }
  bt_fft_there(size / 2, filled, from, z);
}

/* to[i] = from[i] + start, or += from[i] */
BT_OUTLINED void bt_fft_put(int n, const float *from, bool add, float start, float *restrict to)
{
  int i = 0;
  if (add)
    for (; i < n; i++)
      to[i] = from[i] + to[i];
  for (; i + 8 <= n; i += 8) {
    float v[BT_LANES];
    BT_UNROLLED_LANES
      v[j] = from[i + j] + start;
    BT_UNROLLED_LANES
      to[i + j] = v[j];
  }
  for (; i < n; i++)
    to[i] = from[i] + start;
}

/* The taps w[j ws] as bt_fft_filter takes them, behind the block in `workspace`. */
BT_OUTLINED void bt_fft_ready(int size, int taps, const float *w, int ws, float *workspace)
{
  const int filled = bt_fft_filled(size, taps);
  float *const f = workspace + size;
  bt_fft_copy(taps, w, ws, f);
  bt_fft_zeros(size - taps, f + taps);
  bt_fft_there(size / 2, filled, f, f);
  bt_fft_taps(size / 2, f, f + size);
}

/* to[t - t0] = start + (or +=) sum_j w[j] x[t + shift + j] for t in [t0, t1); taps in `workspace`. */
BT_OUTLINED void bt_fft_blocks(bt_fft g, int t0, int t1, bt_fft_line x, int shift, bool add,
                               float start, float *to, float *workspace)
{
  for (int t = t0 / g.step * g.step; t < t1; t += g.step) {
    const int from = bt_max(t0, t), end = bt_min(t1, t + g.step);
    bt_fft_load(g.size, g.size, x, t + shift, workspace);
    bt_fft_filter(g.size / 2, workspace + g.size, workspace + 2 * g.size, workspace);
    bt_fft_back(g.size / 2, workspace);
    bt_fft_put(end - from, workspace + (from - t), add, start, to + (from - t0));
  }
}

/* The samples of a row of `times` that the outputs [t0, t1) read, as Fft.window says. */
BT_KERNEL bt_fft_line bt_fft_span(bt_fft g, bt_in x, int row, int times, int t0, int t1, int shift)
{
  const int lo = t0 / g.step * g.step + shift;
  const int hi = (t1 - 1) / g.step * g.step + shift + g.size;
  const bt_fft_line line = {bt_at(x, row, x.t0), x.t0, bt_max(0, lo), bt_min(times, hi)};
  return line;
}

BT_KERNEL void bt_fft_forward(bt_fft g, bt_box box, bt_in x, const float *w, const float *b,
                               float *workspace, bt_out y)
{
  for (int r = box.r0; r < box.r1; r++) {
    const int o = r / g.rows, row = o / g.outs * g.rows + r % g.rows;
    const bt_fft_line line = bt_fft_span(g, x, row, g.times, box.t0, box.t1, -g.padding);
    if (r == box.r0 || r % g.rows == 0)
      bt_fft_ready(g.size, g.taps, w + o * g.taps, 1, workspace);
    bt_fft_blocks(g, box.t0, box.t1, line, -g.padding, false, b ? b[o] : 0.0f,
                  bt_to(y, r, box.t0), workspace);
  }
}

BT_KERNEL void bt_fft_input_gradient(bt_fft g, bt_box box, bt_in dy, const float *w, float *workspace,
                                     bt_out dx)
{
  const int shift = g.padding - (g.taps - 1);
  for (int c = box.r0 / g.rows; c * g.rows < box.r1; c++)
    for (int i = 0; i < g.outs; i++) {
      const int o = c * g.outs + i;
      bt_fft_ready(g.size, g.taps, w + (o + 1) * g.taps - 1, -1, workspace);
      for (int r = bt_max(box.r0, c * g.rows); r < bt_min(box.r1, (c + 1) * g.rows); r++) {
        const int row = o * g.rows + r % g.rows;
        const bt_fft_line line = bt_fft_span(g, dy, row, g.out_times, box.t0, box.t1, shift);
        bt_fft_blocks(g, box.t0, box.t1, line, shift, i > 0, 0.0f, bt_to(dx, r, box.t0), workspace);
      }
    }
}

/* The box holds whole channels and all times. */
BT_KERNEL void bt_fft_weight_gradient(bt_fft g, bt_box box, bt_in x, bt_in dy, float *workspace,
                                      float *dw)
{
  float *const f = workspace + g.size, *const sum = workspace + 2 * g.size;
  for (int o = box.r0 / g.rows; o * g.rows < box.r1; o++) {
    for (int r = o * g.rows; r < (o + 1) * g.rows; r++) {
      const int row = o / g.outs * g.rows + r % g.rows;
      const bt_fft_line from = {bt_at(x, row, x.t0), x.t0, 0, g.times};
      const bt_fft_line by = {bt_at(dy, r, dy.t0), dy.t0, 0, g.out_times};
      for (int t = 0; t < g.out_times; t += g.step) {
        bt_fft_load(g.size, g.size, from, t - g.padding, workspace);
        bt_fft_load(g.size, g.step, by, t, f);
        bt_fft_add(g.size / 2, r % g.rows == 0 && t == 0, f, workspace, sum);
      }
    }
    bt_fft_total(g.size / 2, sum);
    bt_fft_back(g.size / 2, sum);
    bt_fft_put(g.taps, sum, true, 0.0f, dw + o * g.taps);
  }
}

#endif
