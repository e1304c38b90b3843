/* SPDX-License-Identifier: Apache-2.0 */
/* Softmax along time, or along one of the axes that make the rows.
 *
 *   y_i = exp(x_i - top) / sum_k exp(x_k - top)     dx_i = y_i (dy_i - sum_k y_k dy_k)
 *
 * with top the largest x_k. Sums over k run in leaves of BT_LEAF: along time in lanes, along rows in
 * order. A box that covers a part of the axis reads all of it, so that a part has the bits of the
 * whole. Causal: column t of the tensor takes part in the entries k <= t only; the others are 0. */
#ifndef BT_SOFTMAX_H
#define BT_SOFTMAX_H

#include "bt_kernel.h"

/* The axis has n entries, `inner` rows apart; inner 0: it is time. */
typedef struct bt_softmax {
  int n, inner, causal;
} bt_softmax;

/* Columns that are worked on side by side. */
#define BT_SOFTMAX_COLUMNS 16

BT_KERNEL void bt_softmax_time(bt_softmax g, bt_box box, bt_in x, bt_out y)
{
  const int whole = box.t0 == 0 && box.t1 == g.n;
  for (int r = box.r0; r < box.r1; r++) {
    const float *from = bt_at(x, r, 0);
    float *to = bt_to(y, r, box.t0);
    float top = from[0], sum = 0.0f, leaf[BT_LEAF];
    for (int i = 1; i < g.n; i++)
      top = bt_maxf(top, from[i]);
    for (int i = 0; i < g.n; i += BT_LEAF) {
      const int n = bt_min(BT_LEAF, g.n - i);
      float *e = whole ? to + i : leaf;
      for (int j = 0; j < n; j++)
        e[j] = bt_expf(from[i + j] - top);
      BT_JOIN_LEAF(sum, bt_leaf_sum(e, n));
    }
    const float share = 1.0f / sum;
    for (int t = box.t0; t < box.t1; t++)
      to[t - box.t0] = share * (whole ? to[t] : bt_expf(from[t] - top));
  }
}

BT_KERNEL void bt_softmax_time_dx(bt_softmax g, bt_box box, bt_in y, bt_in dy, bt_out dx)
{
  for (int r = box.r0; r < box.r1; r++) {
    const float *p = bt_at(y, r, 0), *up = bt_at(dy, r, 0);
    float *to = bt_to(dx, r, box.t0);
    float sum = 0.0f;
    for (int i = 0; i < g.n; i += BT_LEAF)
      BT_JOIN_LEAF(sum, bt_leaf_dot(p + i, up + i, bt_min(BT_LEAF, g.n - i)));
    for (int t = box.t0; t < box.t1; t++)
      to[t - box.t0] = p[t] * (up[t] - sum);
  }
}

/* exp(x - top), or 0 where entry k of column t takes no part. */
BT_KERNEL float bt_softmax_term(bt_softmax g, int k, int t, float x, float top)
{
  const float e = bt_expf(x - top);
  return g.causal ? bt_selectf(k <= t, e, 0.0f) : e;
}

/* Entries [k0, k1) of so many neighbouring columns, from time t on; row 0 of x and of y is that of
 * entry 0 of the column. */
BT_KERNEL void bt_softmax_columns(bt_softmax g, int count, int t, int k0, int k1, const float *x,
                                  ptrdiff_t x_step, float *y, ptrdiff_t y_step)
{
  float top[BT_SOFTMAX_COLUMNS], sum[BT_SOFTMAX_COLUMNS], leaf[BT_SOFTMAX_COLUMNS];
  const int whole = k0 == 0 && k1 == g.n;
  for (int j = 0; j < count; j++) {
    top[j] = x[j];
    sum[j] = 0.0f;
  }
  for (int k = 1; k < g.n; k++)
    for (int j = 0; j < count; j++) {
      const float next = bt_maxf(top[j], x[k * x_step + j]);
      top[j] = g.causal ? bt_selectf(k <= t + j, next, top[j]) : next;
    }
  for (int k = 0; k < g.n; k += BT_LEAF) {
    for (int j = 0; j < count; j++)
      leaf[j] = 0.0f;
    for (int i = k; i < bt_min(k + BT_LEAF, g.n); i++)
      for (int j = 0; j < count; j++) {
        const float e = bt_softmax_term(g, i, t + j, x[i * x_step + j], top[j]);
        leaf[j] += e;
        if (whole)
          y[i * y_step + j] = e;
      }
    for (int j = 0; j < count; j++)
      BT_JOIN_LEAF(sum[j], leaf[j]);
  }
  for (int j = 0; j < count; j++)
    sum[j] = 1.0f / sum[j];
  for (int k = k0; k < k1; k++)
    for (int j = 0; j < count; j++) {
      float *to = y + k * y_step + j;
      *to = sum[j] * (whole ? *to : bt_softmax_term(g, k, t + j, x[k * x_step + j], top[j]));
    }
}

/* The entries of the axis that rows [r0, r1) have of the column of rows that begins with `row`. */
BT_KERNEL int bt_softmax_entry(bt_softmax g, int row, int r)
{
  return bt_min(g.n, bt_max(0, bt_ceil_div(r - row, g.inner)));
}

BT_KERNEL void bt_softmax_rows(bt_softmax g, bt_box box, bt_in x, bt_out y)
{
  const int group = g.n * g.inner;
  for (int first = box.r0 / group * group; first < box.r1; first += group)
    for (int row = first; row < first + g.inner; row++) {
      const int k0 = bt_softmax_entry(g, row, box.r0), k1 = bt_softmax_entry(g, row, box.r1);
      const ptrdiff_t x_step = (ptrdiff_t)g.inner * x.stride, y_step = (ptrdiff_t)g.inner * y.stride;
      for (int t = box.t0; k0 < k1 && t < box.t1; t += BT_SOFTMAX_COLUMNS) {
        const float *from = bt_at(x, row, t);
        float *to = y.data + (ptrdiff_t)(row - y.r0) * y.stride + (t - y.t0);
        if (t + BT_SOFTMAX_COLUMNS <= box.t1)
          bt_softmax_columns(g, BT_SOFTMAX_COLUMNS, t, k0, k1, from, x_step, to, y_step);
        else
          bt_softmax_columns(g, box.t1 - t, t, k0, k1, from, x_step, to, y_step);
      }
    }
}

BT_KERNEL void bt_softmax_columns_dx(bt_softmax g, int count, int k0, int k1, const float *y,
                                     ptrdiff_t y_step, const float *dy, ptrdiff_t dy_step, float *dx,
                                     ptrdiff_t dx_step)
{
  float sum[BT_SOFTMAX_COLUMNS], leaf[BT_SOFTMAX_COLUMNS];
  for (int j = 0; j < count; j++)
    sum[j] = 0.0f;
  for (int k = 0; k < g.n; k += BT_LEAF) {
    for (int j = 0; j < count; j++)
      leaf[j] = 0.0f;
    for (int i = k; i < bt_min(k + BT_LEAF, g.n); i++)
      for (int j = 0; j < count; j++)
        leaf[j] = bt_fma(y[i * y_step + j], dy[i * dy_step + j], leaf[j]);
    for (int j = 0; j < count; j++)
      BT_JOIN_LEAF(sum[j], leaf[j]);
  }
  for (int k = k0; k < k1; k++)
    for (int j = 0; j < count; j++)
      dx[k * dx_step + j] = y[k * y_step + j] * (dy[k * dy_step + j] - sum[j]);
}

BT_KERNEL void bt_softmax_rows_dx(bt_softmax g, bt_box box, bt_in y, bt_in dy, bt_out dx)
{
  const int group = g.n * g.inner;
  for (int first = box.r0 / group * group; first < box.r1; first += group)
    for (int row = first; row < first + g.inner; row++) {
      const int k0 = bt_softmax_entry(g, row, box.r0), k1 = bt_softmax_entry(g, row, box.r1);
      const ptrdiff_t y_step = (ptrdiff_t)g.inner * y.stride;
      const ptrdiff_t dy_step = (ptrdiff_t)g.inner * dy.stride;
      const ptrdiff_t dx_step = (ptrdiff_t)g.inner * dx.stride;
      for (int t = box.t0; k0 < k1 && t < box.t1; t += BT_SOFTMAX_COLUMNS) {
        const float *p = bt_at(y, row, t), *up = bt_at(dy, row, t);
        float *to = dx.data + (ptrdiff_t)(row - dx.r0) * dx.stride + (t - dx.t0);
        if (t + BT_SOFTMAX_COLUMNS <= box.t1)
          bt_softmax_columns_dx(g, BT_SOFTMAX_COLUMNS, k0, k1, p, y_step, up, dy_step, to, dx_step);
        else
          bt_softmax_columns_dx(g, box.t1 - t, k0, k1, p, y_step, up, dy_step, to, dx_step);
      }
    }
}

#endif
