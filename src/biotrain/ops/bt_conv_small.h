/* SPDX-License-Identifier: Apache-2.0 */
/* The convolutions of bt_conv.h in little code: one loop over terms for all three directions, which
 * takes its geometry at run time. The sums run in the order of bt_conv.h, so the bits are the same. */
#ifndef BT_CONV_SMALL_H
#define BT_CONV_SMALL_H

#include "bt_conv.h"

/* Sums that are in registers at a time. */
#define BT_SMALL 8

/* s[j] += sum over k of w[k w_step] x[first + j gap + k step], for j in [0, outputs) and terms k in
 * order. A term whose index is not in [low, high) is skipped. */
typedef struct bt_small_terms {
  const float *w, *x;
  int terms, w_step, first, step, gap, low, high;
} bt_small_terms;

/* Eight sums and one term; x is of the first sum, the others' follow it upwards. */
#define BT_SMALL_TERM(wk, x0, x1, x2, x3, x4, x5, x6, x7) \
  s0 = bt_fma(wk, x0, s0), s1 = bt_fma(wk, x1, s1), s2 = bt_fma(wk, x2, s2); \
  s3 = bt_fma(wk, x3, s3), s4 = bt_fma(wk, x4, s4), s5 = bt_fma(wk, x5, s5); \
  s6 = bt_fma(wk, x6, s6), s7 = bt_fma(wk, x7, s7)

/* Eight neighbouring sums, every term of which is there. Four terms at a time share their loads where
 * terms neighbour each other too: of step 1, and, for the gradient of the input, -1. */
BT_OUTLINED void bt_small_eight(float s[BT_SMALL], const float *w, int w_step, const float *x, int step,
                            int terms)
{
  float s0 = s[0], s1 = s[1], s2 = s[2], s3 = s[3], s4 = s[4], s5 = s[5], s6 = s[6], s7 = s[7];
  if (step == 1)
    for (; terms >= 4; terms -= 4, w += 4 * w_step, x += 4) {
      const float x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3], x4 = x[4], x5 = x[5], x6 = x[6];
      const float x7 = x[7], x8 = x[8], x9 = x[9], x10 = x[10];
      const float w0 = w[0], w1 = w[w_step], w2 = w[2 * w_step], w3 = w[3 * w_step];
      BT_SMALL_TERM(w0, x0, x1, x2, x3, x4, x5, x6, x7);
      BT_SMALL_TERM(w1, x1, x2, x3, x4, x5, x6, x7, x8);
      BT_SMALL_TERM(w2, x2, x3, x4, x5, x6, x7, x8, x9);
      BT_SMALL_TERM(w3, x3, x4, x5, x6, x7, x8, x9, x10);
    }
  else if (step == -1)
    for (; terms >= 4; terms -= 4, w += 4 * w_step, x -= 4) {
      const float *const p = x - 3;
      const float x0 = p[0], x1 = p[1], x2 = p[2], x3 = p[3], x4 = p[4], x5 = p[5], x6 = p[6];
      const float x7 = p[7], x8 = p[8], x9 = p[9], x10 = p[10];
      const float w0 = w[0], w1 = w[w_step], w2 = w[2 * w_step], w3 = w[3 * w_step];
      BT_SMALL_TERM(w0, x3, x4, x5, x6, x7, x8, x9, x10);
      BT_SMALL_TERM(w1, x2, x3, x4, x5, x6, x7, x8, x9);
      BT_SMALL_TERM(w2, x1, x2, x3, x4, x5, x6, x7, x8);
      BT_SMALL_TERM(w3, x0, x1, x2, x3, x4, x5, x6, x7);
    }
  for (; terms > 0; terms--, w += w_step, x += step) {
    BT_SMALL_TERM(*w, x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]);
  }
  s[0] = s0, s[1] = s1, s[2] = s2, s[3] = s3, s[4] = s4, s[5] = s5, s[6] = s6, s[7] = s7;
}

/* Up to eight neighbouring sums and the terms [k, end), clipped one by one. */
BT_OUTLINED void bt_small_clipped(float s[BT_SMALL], int outputs, const bt_small_terms *m, int k, int end)
{
  for (int at = m->first + k * m->step; k < end; k++, at += m->step) {
    const float wk = m->w[k * m->w_step];
    const int hi = bt_min(outputs, m->high - at);
    for (int j = bt_max(0, m->low - at); j < hi; j++)
      s[j] = bt_fma(wk, m->x[at + j], s[j]);
  }
}

/* Sums that do not neighbour each other, one at a time. */
BT_OUTLINED void bt_small_apart(float s[BT_SMALL], int outputs, const bt_small_terms *m)
{
  for (int j = 0; j < outputs; j++) {
    float sum = s[j];
    int at = m->first + j * m->gap;
    for (int k = 0; k < m->terms; k++, at += m->step)
      if (at >= m->low && at < m->high)
        sum = bt_fma(m->w[k * m->w_step], m->x[at], sum);
    s[j] = sum;
  }
}

BT_OUTLINED void bt_small_sums(float s[BT_SMALL], int outputs, const bt_small_terms *m)
{
  if (m->gap != 1 || outputs == 1) {
    bt_small_apart(s, outputs, m);
    return;
  }
  int from = 0, end = m->terms; /* the terms that all eight sums have */
  if (outputs < BT_SMALL)
    end = 0;
  while (from < end && (m->first + from * m->step < m->low ||
                        m->first + from * m->step + BT_SMALL > m->high))
    from++;
  while (from < end && (m->first + (end - 1) * m->step < m->low ||
                        m->first + (end - 1) * m->step + BT_SMALL > m->high))
    end--;
  bt_small_clipped(s, outputs, m, 0, from);
  if (from < end)
    bt_small_eight(s, m->w + from * m->w_step, m->w_step, m->x + (m->first + from * m->step),
                   m->step, end - from);
  bt_small_clipped(s, outputs, m, bt_max(from, end), m->terms);
}

/* Whether a kernel has one tap, which neither strides nor leaves the row: rows or channels are its
 * terms then. */
BT_KERNEL int bt_small_point(bt_conv g)
{
  return g.taps == 1 && g.stride == 1 && g.padding == 0 && g.row_padding == 0 &&
         g.row_stride == 1 && g.times == g.out_times;
}

BT_KERNEL void bt_small_forward(bt_conv g, bt_box box, bt_in x, const float *w, const float *b,
                                bt_out y)
{
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int point = bt_small_point(g), rows = point && g.kernel_rows > 1;
  const int channels = point && g.kernel_rows == 1;
  for (int r = box.r0; r < box.r1; r++) {
    const int o = r / g.out_rows, h = r % g.out_rows;
    for (int t = box.t0, n = 0; t < box.t1; t += n) {
      n = bt_min(BT_SMALL, box.t1 - box.t0);
      t = bt_min(t, box.t1 - n); /* the last block begins where it ends with the row */
      float s[BT_SMALL];
      for (int j = 0; j < BT_SMALL; j++)
        s[j] = b ? b[o] : 0.0f;
      for (int i = 0; i < (channels ? 1 : per_group); i++)
        for (int kh = 0; kh < (rows ? 1 : g.kernel_rows); kh++) {
          const int from = h * g.row_stride + kh * g.row_dilation - g.row_padding;
          if (from < 0 || from >= g.rows)
            continue;
          const int row = (o / outs * per_group + i) * g.rows + from;
          bt_small_terms m = {w + ((o * per_group + i) * g.kernel_rows + kh) * g.taps,
                              bt_at(x, row, x.t0), g.taps, 1, t * g.stride - g.padding - x.t0,
                              g.dilation, g.stride, -x.t0, g.times - x.t0};
          if (point) {
            m.terms = rows ? g.kernel_rows : per_group;
            m.step = (rows ? g.row_dilation : g.rows) * x.stride;
            m.low = 0, m.high = INT32_MAX;
          }
          bt_small_sums(s, n, &m);
        }
      float *const to = bt_to(y, r, t);
      for (int j = 0; j < n; j++)
        to[j] = s[j];
    }
  }
}

/* Inputs that a stride apart reach: one at a time. */
BT_KERNEL float bt_small_strided(bt_conv g, int t, const float *dy, int y0, const float *w, float sum)
{
  for (int k = 0; k < g.taps; k++) {
    const int up = t + g.padding - k * g.dilation;
    if (up >= 0 && up % g.stride == 0 && up / g.stride < g.out_times)
      sum = bt_fma(w[k], dy[up / g.stride - y0], sum);
  }
  return sum;
}

BT_KERNEL void bt_small_input_gradient(bt_conv g, bt_box box, bt_in dy, const float *w, bt_out dx)
{
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  for (int r = box.r0; r < box.r1; r++) {
    const int c = r / g.rows, at = r % g.rows;
    const int group = c / per_group, i = c % per_group;
    for (int t = box.t0, n = 0; t < box.t1; t += n) {
      n = bt_min(BT_SMALL, box.t1 - box.t0);
      t = bt_min(t, box.t1 - n); /* the last block begins where it ends with the row */
      float s[BT_SMALL] = {0.0f};
      for (int o = group * outs; o < (group + 1) * outs; o++)
        for (int kh = 0; kh < g.kernel_rows; kh++) {
          const int up = at + g.row_padding - kh * g.row_dilation;
          if (up < 0 || up % g.row_stride != 0 || up / g.row_stride >= g.out_rows)
            continue;
          const float *const row = bt_at(dy, o * g.out_rows + up / g.row_stride, dy.t0);
          const float *const wk = w + ((o * per_group + i) * g.kernel_rows + kh) * g.taps;
          const bt_small_terms m = {wk, row, g.taps, 1, t + g.padding - dy.t0, -g.dilation, 1,
                                    -dy.t0, g.out_times - dy.t0};
          if (g.stride == 1)
            bt_small_sums(s, n, &m);
          else
            for (int j = 0; j < n; j++)
              s[j] = bt_small_strided(g, t + j, row, dy.t0, wk, s[j]);
        }
      float *const to = bt_to(dx, r, t);
      for (int j = 0; j < n; j++)
        to[j] = s[j];
    }
  }
}

/* dw[o, i, kh, k .. k + n - 1] gets what the samples of one leaf of row r of dy add to it. */
BT_OUTLINED void bt_small_weight_leaf(const bt_conv *g, int t, int end, int r, int row, int k, int n,
                                  bt_in x, bt_in dy, float *to)
{
  float s[BT_SMALL] = {0.0f};
  const bt_small_terms m = {bt_at(dy, r, t),
                            bt_at(x, row, x.t0),
                            end - t,
                            1,
                            t * g->stride + k * g->dilation - g->padding - x.t0,
                            g->stride,
                            g->dilation,
                            -x.t0,
                            g->times - x.t0};
  bt_small_sums(s, n, &m);
  for (int j = 0; j < n; j++)
    to[j] += s[j];
}

/* The gradient of w[o, i] from the rows [r0, r1) of channel o; i is that of the group. */
BT_OUTLINED void bt_small_weights(const bt_conv *g, bt_box box, int o, int i, bt_in x, bt_in dy, float *dw)
{
  const int per_group = g->channels / g->groups, outs = g->out_channels / g->groups;
  for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1))
    for (int kh = 0; kh < g->kernel_rows; kh++)
      for (int k = 0; k < g->taps; k += BT_SMALL)
        for (int h = box.r0; h < box.r1; h++) {
          const int from = h * g->row_stride + kh * g->row_dilation - g->row_padding;
          if (from < 0 || from >= g->rows)
            continue;
          bt_small_weight_leaf(g, t, bt_leaf_end(t, box.t1), o * g->out_rows + h,
                               (o / outs * per_group + i) * g->rows + from, k,
                               bt_min(BT_SMALL, g->taps - k), x, dy,
                               dw + ((o * per_group + i) * g->kernel_rows + kh) * g->taps + k);
        }
}

BT_KERNEL void bt_small_weight_gradient(bt_conv g, bt_box box, bt_in x, bt_in dy, float *dw)
{
  for (int o = box.r0 / g.out_rows; o * g.out_rows < box.r1; o++) {
    const bt_box rows = {bt_max(box.r0 - o * g.out_rows, 0),
                         bt_min(box.r1 - o * g.out_rows, g.out_rows), box.t0, box.t1};
    for (int i = 0; i < g.channels / g.groups; i++)
      bt_small_weights(&g, rows, o, i, x, dy, dw);
  }
}

/* With boxes over the rows of x, for one group. */
BT_KERNEL void bt_small_weight_gradient_by_input(bt_conv g, bt_box box, bt_in x, bt_in dy, float *dw)
{
  const bt_box rows = {0, g.out_rows, box.t0, box.t1};
  for (int o = 0; o < g.out_channels; o++)
    for (int i = box.r0 / g.rows; i * g.rows < box.r1; i++)
      bt_small_weights(&g, rows, o, i, x, dy, dw);
}

#endif
