/* SPDX-License-Identifier: Apache-2.0 */
/* Convolution of rows of samples: forward, input gradient, weight gradient, bias gradient.
 *
 *   y[o, h, t]     = b[o] + sum_i sum_kh sum_k w[o, i, kh, k] x[i, h', t']
 *   dx[i, h', t']  =        sum_o sum_kh sum_k w[o, i, kh, k] dy[o, h, t]
 *   dw[o, i, kh, k] +=      sum_t sum_h dy[o, h, t] x[i, h', t']
 *
 * with h' = h row_stride + kh row_dilation - row_padding and t' = t stride + k dilation - padding,
 * over the i of o's group. A term outside the input is skipped. Sums run in the order written (the
 * one over t in dw in leaves), one multiply-add a term; blocks of outputs share the loads. */
#ifndef BT_CONV_H
#define BT_CONV_H

#include "bt_conv_product.h"
#include "bt_conv_vector.h"

typedef struct bt_conv {
  int channels, rows, times;             /* of x */
  int out_channels, out_rows, out_times; /* of y */
  int groups, kernel_rows, taps;         /* of w: out_channels x channels/groups x kernel_rows x taps */
  int row_stride, stride, row_dilation, dilation, row_padding, padding;
} bt_conv;

typedef struct bt_channels {
  int channels, rows;
} bt_channels;

/* Taps that one pass over a row applies: enough to hide the load and store of the sum. */
#define BT_CONV_TAPS 8
/* Weights whose gradients one pass over a leaf keeps on the stack. */
#define BT_CONV_SUMS 64

/* The samples that outputs t, t + dilation, ... of a convolution of stride 1 read. */
BT_KERNEL bt_block_row bt_conv_block_row(bt_conv g, int t, const float *x, int x0)
{
  const int first = t - g.padding;
  const bt_block_row v = {x, first - x0, g.dilation, bt_ceil_div(-first, g.dilation),
                          bt_floor_div(g.times - 1 - first, g.dilation) + 1};
  return v;
}

/* Of its transposed: the gradients for inputs t, t - dilation, ... */
BT_KERNEL bt_block_row bt_conv_block_row_transposed(bt_conv g, int t, const float *dy, int y0)
{
  const int first = t + g.padding;
  const bt_block_row v = {dy, first - y0, -g.dilation,
                          bt_ceil_div(first - (g.out_times - 1), g.dilation),
                          bt_floor_div(first, g.dilation) + 1};
  return v;
}

/* Whether blocks of outputs can slide along rows of so many samples. */
BT_KERNEL int bt_conv_slides(bt_conv g, int times)
{
  return BT_BLOCK && g.stride == 1 && times >= BT_BLOCK_SAMPLES * g.dilation;
}

/* Whether y is a matrix times the rows of x, group by group: taps and rows of y are one. */
BT_KERNEL int bt_conv_is_matrix(bt_conv g)
{
  return g.taps == 1 && g.stride == 1 && g.padding == 0 && g.times == g.out_times &&
         g.out_rows == 1 && g.kernel_rows == g.rows && g.row_padding == 0 &&
         (g.rows == 1 || g.row_dilation == 1);
}

BT_KERNEL int bt_conv_is_product(bt_conv g) { return BT_BLOCK && bt_conv_is_matrix(g); }

#include "bt_conv_stride.h"

/* y[t] += w[k] x[t stride + k dilation - padding] for t in [a, b) where that is inside the input. x
 * points at time x0 of the input row, y at time t0. */
BT_KERNEL void bt_conv_tap(bt_conv g, int a, int b, int k, const float *x, int x0, const float *w,
                           float *y, int t0)
{
  const int shift = k * g.dilation - g.padding;
  const int lo = bt_max(a, bt_ceil_div(-shift, g.stride));
  const int hi = bt_min(b, bt_floor_div(g.times - 1 - shift, g.stride) + 1);
  const float wk = w[k];
  if (hi > lo) {
    const float *restrict from = x + (lo * g.stride + shift - x0);
    float *restrict to = y + (lo - t0);
    for (int t = 0; t < hi - lo; t++)
      to[t] = bt_fma(wk, from[t * g.stride], to[t]);
  }
}

/* y[t] += sum_j w[j] x[t stride + j step] for BT_CONV_TAPS taps in order; of step -1 too. */
BT_KERNEL void bt_conv_taps(int n, const float *x, const float *w, float *restrict y, int stride,
                            int step)
{
  const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
  const float w4 = w[4], w5 = w[5], w6 = w[6], w7 = w[7];
  const float *restrict from = x;
  for (int t = 0; t < n; t++) {
    const float *p = from + t * stride;
    float sum = y[t];
    sum = bt_fma(w0, p[0], sum);
    sum = bt_fma(w1, p[step], sum);
    sum = bt_fma(w2, p[2 * step], sum);
    sum = bt_fma(w3, p[3 * step], sum);
    sum = bt_fma(w4, p[4 * step], sum);
    sum = bt_fma(w5, p[5 * step], sum);
    sum = bt_fma(w6, p[6 * step], sum);
    sum = bt_fma(w7, p[7 * step], sum);
    y[t] = sum;
  }
}

/* Rising and falling by one sample a tap: apart from their callers, so that weights stay in registers,
 * and four outputs at a time, so that no vector is a part of one. */
BT_PART void bt_conv_taps_up(int n, const float *x, const float *w, float *y)
{
  bt_conv_taps(n / 4 * 4, x, w, y, 1, 1);
  bt_conv_taps(n % 4, x + n / 4 * 4, w, y + n / 4 * 4, 1, 1);
}

BT_PART void bt_conv_taps_down(int n, const float *x, const float *w, float *y)
{
  bt_conv_taps(n / 4 * 4, x, w, y, 1, -1);
  bt_conv_taps(n % 4, x + n / 4 * 4, w, y + n / 4 * 4, 1, -1);
}

/* y[t] += sum_k w[k] x[t stride + k dilation - padding] for t in [t0, t1), taps in order.
 * x points at time x0 of the input row, y at time t0. */
BT_KERNEL void bt_conv_row(bt_conv g, int t0, int t1, const float *x, int x0, const float *w, float *y)
{
  const int width = BT_BLOCK_OUTPUTS * g.dilation;
  if (bt_conv_slides(g, g.times))
    for (; t1 - t0 >= width; t0 += width, y += width)
      for (int phase = 0; phase < g.dilation; phase++) {
        float s[BT_BLOCK_OUTPUTS], *const to = y + phase;
        bt_block_load(s, to, g.dilation);
        bt_block_edge(s, g.taps, w, bt_conv_block_row(g, t0 + phase, x, x0));
        bt_block_store(s, to, g.dilation);
      }
  int k = 0;
  for (; k + BT_CONV_TAPS <= g.taps; k += BT_CONV_TAPS) {
    /* outputs [lo, hi) have all taps of the block inside the input */
    const int last = k + BT_CONV_TAPS - 1;
    const int lo = bt_min(t1, bt_max(t0, bt_ceil_div(g.padding - k * g.dilation, g.stride)));
    const int hi = bt_max(
        lo, bt_min(t1, bt_floor_div(g.times - 1 + g.padding - last * g.dilation, g.stride) + 1));
    for (int j = k; j <= last; j++)
      bt_conv_tap(g, t0, lo, j, x, x0, w, y, t0);
    if (hi > lo) {
      const float *from = x + (lo * g.stride + k * g.dilation - g.padding - x0);
      if (g.stride == 1 && g.dilation == 1)
        bt_conv_taps_up(hi - lo, from, w + k, y + (lo - t0));
      else
        bt_conv_taps(hi - lo, from, w + k, y + (lo - t0), g.stride, g.dilation);
    }
    for (int j = k; j <= last; j++)
      bt_conv_tap(g, hi, t1, j, x, x0, w, y, t0);
  }
  for (; k < g.taps; k++)
    bt_conv_tap(g, t0, t1, k, x, x0, w, y, t0);
}

/* y[t] += sum_j w[j] x_j[t] for n samples of up to BT_CONV_TAPS rows, in order: what a kernel of one
 * tap makes of its rows. */
BT_KERNEL void bt_conv_mix(int count, const float *const *x, const float *w, float *restrict y, int n)
{
  if (count == BT_CONV_TAPS) {
    const float *restrict x0 = x[0], *restrict x1 = x[1], *restrict x2 = x[2], *restrict x3 = x[3];
    const float *restrict x4 = x[4], *restrict x5 = x[5], *restrict x6 = x[6], *restrict x7 = x[7];
    const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
    const float w4 = w[4], w5 = w[5], w6 = w[6], w7 = w[7];
    for (int t = 0; t < n; t++) {
      float sum = y[t];
      sum = bt_fma(w0, x0[t], sum);
      sum = bt_fma(w1, x1[t], sum);
      sum = bt_fma(w2, x2[t], sum);
      sum = bt_fma(w3, x3[t], sum);
      sum = bt_fma(w4, x4[t], sum);
      sum = bt_fma(w5, x5[t], sum);
      sum = bt_fma(w6, x6[t], sum);
      sum = bt_fma(w7, x7[t], sum);
      y[t] = sum;
    }
    return;
  }
  for (int j = 0; j < count; j++) {
    const float *restrict from = x[j];
    const float wj = w[j];
    for (int t = 0; t < n; t++)
      y[t] = bt_fma(wj, from[t], y[t]);
  }
}

/* The terms of outputs t, t + dilation, ... of row r, added to s: eight, or, `wide`, BT_BLOCK_WIDE, no
 * tap of which leaves the input. */
BT_KERNEL void bt_conv_forward_terms(bt_conv g, int r, int t, bool wide, bt_in x, const float *w,
                                     float *s)
{
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int o = r / g.out_rows, h = r % g.out_rows;
  for (int i = 0; i < per_group; i++)
    for (int kh = 0; kh < g.kernel_rows; kh++) {
      const int from = h * g.row_stride + kh * g.row_dilation - g.row_padding;
      if (from < 0 || from >= g.rows)
        continue;
      const float *row = bt_at(x, (o / outs * per_group + i) * g.rows + from, x.t0);
      const float *wk = w + ((o * per_group + i) * g.kernel_rows + kh) * g.taps;
      const bt_block_row v = bt_conv_block_row(g, t, row, x.t0);
      if (wide)
        bt_block_slide_wide(s, g.taps, wk, row + v.first, v.step);
      else
        bt_block_edge(s, g.taps, wk, v);
    }
}

/* These outputs, with all their terms in registers. */
BT_KERNEL void bt_conv_forward_block(bt_conv g, int r, int t, bool wide, bt_in x, const float *w,
                                     const float *b, bt_out y)
{
  const float z = b ? b[r / g.out_rows] : 0.0f;
  if (wide) {
    float s[BT_BLOCK_WIDE];
    BT_BLOCK_EACH(j, BT_BLOCK_WIDE)
      s[j] = z;
    bt_conv_forward_terms(g, r, t, true, x, w, s);
    bt_block_store_wide(s, bt_to(y, r, t), g.dilation);
  } else {
    float s[BT_BLOCK_OUTPUTS] = {z, z, z, z, z, z, z, z};
    bt_conv_forward_terms(g, r, t, false, x, w, s);
    bt_block_store(s, bt_to(y, r, t), g.dilation);
  }
}

/* Row r of y in blocks. The last one begins where it ends with the row: it makes some outputs again. */
BT_KERNEL void bt_conv_forward_row(bt_conv g, bt_box box, int r, bt_in x, const float *w,
                                   const float *b, bt_out y)
{
  const int width = BT_BLOCK_OUTPUTS * g.dilation, wide = BT_BLOCK_WIDE * g.dilation;
  const int end = bt_min(box.t1, g.times + g.padding - (g.taps - 1) * g.dilation);
  for (int t = box.t0; t < box.t1; t += width) {
    for (; t >= g.padding && t + wide <= end; t += wide)
      for (int phase = 0; phase < g.dilation; phase++)
        bt_conv_forward_block(g, r, t + phase, true, x, w, b, y);
    const int at = bt_min(t, box.t1 - width);
    for (int phase = 0; phase < g.dilation && t < box.t1; phase++)
      bt_conv_forward_block(g, r, at + phase, false, x, w, b, y);
  }
}

/* The rows of the box by groups, as matrix products: forward, or with the matrix turned. */
BT_KERNEL void bt_conv_product(bt_conv g, bt_box box, bt_in x, const float *w, const float *b,
                               bt_out y, int turned)
{
  const int ins = g.channels / g.groups * g.rows, outs = g.out_channels / g.groups;
  const int rows = turned ? ins : outs, terms = turned ? outs : ins;
  for (int r = box.r0; r < box.r1; r = (r / rows + 1) * rows) {
    const int group = r / rows, end = bt_min(box.r1, (group + 1) * rows);
    const float *from = w + group * outs * ins + r % rows * (turned ? 1 : ins);
    const bt_block_mix m = {end - r, terms, box.t1 - box.t0, from, turned ? 1 : ins,
                            turned ? ins : 1, b ? b + r : 0, bt_at(x, group * terms, box.t0),
                            x.stride, bt_to(y, r, box.t0), y.stride};
    bt_block_mix_all(m);
  }
}

#if BT_VECTOR

/* Rows of y in vectors; the stride is 1. */
BT_KERNEL void bt_conv_forward_vectors(bt_conv g, bt_box box, bt_in x, const float *w,
                                       const float *b, bt_out y)
{
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int one = g.kernel_rows * g.taps, first = box.t0 - g.padding;
  const int depthwise = per_group == 1 && outs == 1; /* all groups at once */
  const int together = depthwise ? g.groups : outs;
  for (int h = 0; h < g.out_rows; h++) {
    const int top = h * g.row_stride - g.row_padding;
    const bt_vec_reach k = bt_vec_reach_of(top, g.row_dilation, g.kernel_rows, g.rows);
    for (int at = 0; at < g.out_channels; at += together) {
      const bt_vec_reach o = bt_vec_channels(box, g.out_rows, h, at, at + together);
      const int channel = depthwise ? o.from : at / outs * per_group;
      const int row = channel * g.rows + top + k.from * g.row_dilation;
      const bt_vec_sum m = {
          .terms = per_group, .rows = k.end - k.from, .taps = g.taps, .step = g.dilation,
          .w = w + o.from * per_group * one + k.from * g.taps, .w_out = per_group * one,
          .w_term = one, .w_row = g.taps,
          .x = bt_at(x, row, first), .x_term = (ptrdiff_t)g.rows * x.stride,
          .x_row = (ptrdiff_t)g.row_dilation * x.stride,
          .x_out = depthwise ? (ptrdiff_t)g.rows * x.stride : 0, .first = first, .times = g.times,
          .b = b ? b + o.from : NULL, .y = bt_to(y, o.from * g.out_rows + h, box.t0),
          .y_out = (ptrdiff_t)g.out_rows * y.stride};
      bt_vec_sums(&m, o.end - o.from, box.t1 - box.t0);
    }
  }
}

/* Rows of dx in vectors; both strides are 1. */
BT_KERNEL void bt_conv_input_gradient_vectors(bt_conv g, bt_box box, bt_in dy, const float *w,
                                              bt_out dx)
{
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int one = g.kernel_rows * g.taps, first = box.t0 + g.padding;
  const int depthwise = per_group == 1 && outs == 1; /* all groups at once */
  const int together = depthwise ? g.groups : per_group;
  for (int at = 0; at < g.rows; at++) {
    /* kernel row kh meets row at + padding - kh dilation of dy: the same with rows upside down */
    const int top = g.out_rows - 1 - (at + g.row_padding);
    const bt_vec_reach k = bt_vec_reach_of(top, g.row_dilation, g.kernel_rows, g.out_rows);
    for (int from = 0; from < g.channels; from += together) {
      const bt_vec_reach c = bt_vec_channels(box, g.rows, at, from, from + together);
      const int up = depthwise ? c.from : from / per_group * outs; /* the first channel of dy */
      const int row = up * g.out_rows + at + g.row_padding - k.from * g.row_dilation;
      const bt_vec_sum m = {
          .terms = outs, .rows = k.end - k.from, .taps = g.taps, .step = -g.dilation,
          .w = w + (up * per_group + (depthwise ? 0 : c.from - from)) * one + k.from * g.taps,
          .w_out = one, .w_term = per_group * one, .w_row = g.taps,
          .x = bt_at(dy, row, first), .x_term = (ptrdiff_t)g.out_rows * dy.stride,
          .x_row = -(ptrdiff_t)g.row_dilation * dy.stride,
          .x_out = depthwise ? (ptrdiff_t)g.out_rows * dy.stride : 0, .first = first,
          .times = g.out_times,
          .b = NULL, .y = bt_to(dx, c.from * g.rows + at, box.t0),
          .y_out = (ptrdiff_t)g.rows * dx.stride};
      bt_vec_sums(&m, c.end - c.from, box.t1 - box.t0);
    }
  }
}

#endif

BT_KERNEL void bt_conv_forward(bt_conv g, bt_box box, bt_in x, const float *w, const float *b,
                               bt_out y)
{
#if BT_VECTOR
  if (g.stride == 1) {
    bt_conv_forward_vectors(g, box, x, w, b, y);
    return;
  }
#endif
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int width = BT_BLOCK_OUTPUTS * g.dilation;
  if (bt_conv_is_product(g)) {
    bt_conv_product(g, box, x, w, b, y, 0);
    return;
  }
  for (int r = box.r0; r < box.r1; r++) {
    const int o = r / g.out_rows, h = r % g.out_rows;
    if (bt_conv_slides(g, g.times) && box.t1 - box.t0 >= width) {
      bt_conv_forward_row(g, box, r, x, w, b, y);
      continue;
    }
    if (BT_BLOCK && g.stride > 1) {
      bt_conv_stride_row(g, box, r, x, w, b, y);
      continue;
    }
    float *to = bt_to(y, r, box.t0);
    const float start = b ? b[o] : 0.0f;
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = start;
    const int time_local = g.taps == 1 && g.stride == 1 && g.padding == 0;
    const float *rows[BT_CONV_TAPS];
    float weights[BT_CONV_TAPS];
    int count = 0;
    for (int i = 0; i < per_group; i++)
      for (int kh = 0; kh < g.kernel_rows; kh++) {
        const int from = h * g.row_stride + kh * g.row_dilation - g.row_padding;
        if (from < 0 || from >= g.rows)
          continue;
        const int row = (o / outs * per_group + i) * g.rows + from;
        if (time_local) {
          rows[count] = bt_at(x, row, box.t0);
          weights[count++] = w[(o * per_group + i) * g.kernel_rows + kh];
          if (count == BT_CONV_TAPS) {
            bt_conv_mix(count, rows, weights, to, box.t1 - box.t0);
            count = 0;
          }
          continue;
        }
        bt_conv_row(g, box.t0, box.t1, bt_at(x, row, x.t0), x.t0,
                    w + ((o * per_group + i) * g.kernel_rows + kh) * g.taps, to);
      }
    bt_conv_mix(count, rows, weights, to, box.t1 - box.t0);
  }
}

/* dx[t'] += w[k] dy[t] for t' in [a, b), where t stride + k dilation - padding = t'. dy points at time
 * y0 of the gradient row, dx at time t0. */
BT_KERNEL void bt_conv_tap_transposed(bt_conv g, int a, int b, int k, const float *dy, int y0,
                                      const float *w, float *dx, int t0)
{
  const int shift = g.padding - k * g.dilation; /* t stride = t' + shift */
  const int lo = bt_max(0, bt_ceil_div(a + shift, g.stride));
  const int hi = bt_min(g.out_times, bt_floor_div(b - 1 + shift, g.stride) + 1);
  const float wk = w[k];
  if (hi > lo) {
    const float *restrict from = dy + (lo - y0);
    float *restrict to = dx + (lo * g.stride - shift - t0);
    for (int t = 0; t < hi - lo; t++)
      to[t * g.stride] = bt_fma(wk, from[t], to[t * g.stride]);
  }
}

/* dx[t'] += sum_k w[k] dy[t], taps in order, for t' in [t0, t1). */
BT_KERNEL void bt_conv_row_transposed(bt_conv g, int t0, int t1, const float *dy, int y0,
                                      const float *w, float *dx)
{
  int k = 0;
  if (g.stride == 1)
    for (; k + BT_CONV_TAPS <= g.taps; k += BT_CONV_TAPS) {
      const int last = k + BT_CONV_TAPS - 1, d = g.dilation;
      const int lo = bt_min(t1, bt_max(t0, last * d - g.padding));
      const int hi = bt_max(lo, bt_min(t1, g.out_times + k * d - g.padding));
      for (int j = k; j <= last; j++)
        bt_conv_tap_transposed(g, t0, lo, j, dy, y0, w, dx, t0);
      if (hi > lo) {
        const float *from = dy + (lo + g.padding - k * d - y0);
        if (d == 1)
          bt_conv_taps_down(hi - lo, from, w + k, dx + (lo - t0));
        else
          bt_conv_taps(hi - lo, from, w + k, dx + (lo - t0), 1, -d);
      }
      for (int j = k; j <= last; j++)
        bt_conv_tap_transposed(g, hi, t1, j, dy, y0, w, dx, t0);
    }
  for (; k < g.taps; k++)
    bt_conv_tap_transposed(g, t0, t1, k, dy, y0, w, dx, t0);
}

/* The terms of inputs t, t - dilation, ... of row r, added to s: eight, or, `wide`, BT_BLOCK_WIDE, no
 * tap of which leaves the gradient. */
BT_KERNEL void bt_conv_input_gradient_terms(bt_conv g, int r, int t, bool wide, bt_in dy,
                                            const float *w, float *s)
{
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int c = r / g.rows, at = r % g.rows;
  const int group = c / per_group, i = c % per_group;
  for (int o = group * outs; o < (group + 1) * outs; o++)
    for (int kh = 0; kh < g.kernel_rows; kh++) {
      const int up = at + g.row_padding - kh * g.row_dilation;
      if (up < 0 || up % g.row_stride != 0 || up / g.row_stride >= g.out_rows)
        continue;
      const float *row = bt_at(dy, o * g.out_rows + up / g.row_stride, dy.t0);
      const float *wk = w + ((o * per_group + i) * g.kernel_rows + kh) * g.taps;
      const bt_block_row v = bt_conv_block_row_transposed(g, t, row, dy.t0);
      if (wide)
        bt_block_slide_wide(s, g.taps, wk, row + v.first, v.step);
      else
        bt_block_edge(s, g.taps, wk, v);
    }
}

/* Those of t, t + dilation, ..., with all their terms in registers. */
BT_KERNEL void bt_conv_input_gradient_block(bt_conv g, int r, int t, bool wide, bt_in dy,
                                            const float *w, bt_out dx)
{
  if (wide) {
    const int last = t + (BT_BLOCK_WIDE - 1) * g.dilation;
    float s[BT_BLOCK_WIDE] = {0.0f};
    bt_conv_input_gradient_terms(g, r, last, true, dy, w, s);
    bt_block_store_wide(s, bt_to(dx, r, last), -g.dilation);
  } else {
    const int last = t + (BT_BLOCK_OUTPUTS - 1) * g.dilation;
    float s[BT_BLOCK_OUTPUTS] = {0.0f};
    bt_conv_input_gradient_terms(g, r, last, false, dy, w, s);
    bt_block_store(s, bt_to(dx, r, last), -g.dilation);
  }
}

/* Row r of dx in blocks, as bt_conv_forward_row. */
BT_KERNEL void bt_conv_input_gradient_row(bt_conv g, bt_box box, int r, bt_in dy, const float *w,
                                          bt_out dx)
{
  const int width = BT_BLOCK_OUTPUTS * g.dilation, wide = BT_BLOCK_WIDE * g.dilation;
  const int start = (g.taps - 1) * g.dilation - g.padding;
  const int end = bt_min(box.t1, g.out_times - g.padding);
  for (int t = box.t0; t < box.t1; t += width) {
    for (; t >= start && t + wide <= end; t += wide)
      for (int phase = 0; phase < g.dilation; phase++)
        bt_conv_input_gradient_block(g, r, t + phase, true, dy, w, dx);
    const int at = bt_min(t, box.t1 - width);
    for (int phase = 0; phase < g.dilation && t < box.t1; phase++)
      bt_conv_input_gradient_block(g, r, at + phase, false, dy, w, dx);
  }
}

BT_KERNEL void bt_conv_input_gradient(bt_conv g, bt_box box, bt_in dy, const float *w, bt_out dx)
{
#if BT_VECTOR
  if (g.stride == 1 && g.row_stride == 1) {
    bt_conv_input_gradient_vectors(g, box, dy, w, dx);
    return;
  }
#endif
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int width = BT_BLOCK_OUTPUTS * g.dilation;
  if (bt_conv_is_product(g)) {
    bt_conv_product(g, box, dy, w, 0, dx, 1);
    return;
  }
  for (int r = box.r0; r < box.r1; r++) {
    const int c = r / g.rows, at = r % g.rows;
    const int group = c / per_group, i = c % per_group;
    if (bt_conv_slides(g, g.out_times) && box.t1 - box.t0 >= width) {
      bt_conv_input_gradient_row(g, box, r, dy, w, dx);
      continue;
    }
    if (BT_BLOCK && g.stride > 1) {
      bt_conv_stride_row_dx(g, box, r, dy, w, dx);
      continue;
    }
    float *to = bt_to(dx, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = 0.0f;
    const int time_local = g.taps == 1 && g.stride == 1 && g.padding == 0 && g.times == g.out_times;
    const float *rows[BT_CONV_TAPS];
    float weights[BT_CONV_TAPS];
    int count = 0;
    for (int o = group * outs; o < (group + 1) * outs; o++)
      for (int kh = 0; kh < g.kernel_rows; kh++) {
        const int up = at + g.row_padding - kh * g.row_dilation;
        if (up < 0 || up % g.row_stride != 0 || up / g.row_stride >= g.out_rows)
          continue;
        if (time_local) {
          rows[count] = bt_at(dy, o * g.out_rows + up / g.row_stride, box.t0);
          weights[count++] = w[(o * per_group + i) * g.kernel_rows + kh];
          if (count == BT_CONV_TAPS) {
            bt_conv_mix(count, rows, weights, to, box.t1 - box.t0);
            count = 0;
          }
          continue;
        }
        bt_conv_row_transposed(g, box.t0, box.t1,
                               bt_at(dy, o * g.out_rows + up / g.row_stride, dy.t0), dy.t0,
                               w + ((o * per_group + i) * g.kernel_rows + kh) * g.taps, to);
      }
    bt_conv_mix(count, rows, weights, to, box.t1 - box.t0);
  }
}

BT_KERNEL void bt_conv_bias_gradient(bt_channels g, bt_box box, bt_in dy, float *db)
{
  for (int c = box.r0 / g.rows; c * g.rows < box.r1; c++)
    for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1))
      for (int r = bt_max(box.r0, c * g.rows); r < bt_min(box.r1, (c + 1) * g.rows); r++)
        db[c] += bt_leaf_sum(bt_at(dy, r, t), bt_leaf_end(t, box.t1) - t);
}

#include "bt_conv_dw.h"

#endif
