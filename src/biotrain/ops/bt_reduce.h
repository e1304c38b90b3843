/* SPDX-License-Identifier: Apache-2.0 */
/* Sums over axes, added to the output, and the mirror image. */
#ifndef BT_REDUCE_H
#define BT_REDUCE_H

#include "bt_kernel.h"

typedef struct bt_reduce {
  int n0, n1, n2;          /* rows of x as three axes */
  int k0, k1, k2;          /* 1: y has this axis; 0: it is summed */
  int f0, f1, f2, f_times; /* row strides of a factor; f_times 0: one value for all times */
} bt_reduce;

typedef struct bt_expansion {
  int n1, n2;              /* inner two of the three axes of the rows of y */
  int x0, x1, x2, x_times; /* row strides of x; x_times 0: one value for all times */
} bt_expansion;

/* Number of rows of x that one row of y adds up. */
BT_KERNEL int bt_reduce_count(bt_reduce g)
{
  return (g.k0 ? 1 : g.n0) * (g.k1 ? 1 : g.n1) * (g.k2 ? 1 : g.n2);
}

/* Row of x, and of the factor, that is summand j of row r of y. */
BT_KERNEL int bt_reduce_row(bt_reduce g, int r, int j, int *factor)
{
  const int kept1 = g.k1 ? g.n1 : 1, kept2 = g.k2 ? g.n2 : 1;
  const int gone1 = g.k1 ? 1 : g.n1, gone2 = g.k2 ? 1 : g.n2;
  const int i0 = g.k0 ? r / (kept1 * kept2) : j / (gone1 * gone2);
  const int i1 = g.k1 ? r / kept2 % kept1 : j / gone2 % gone1;
  const int i2 = g.k2 ? r % kept2 : j % gone2;
  *factor = i0 * g.f0 + i1 * g.f1 + i2 * g.f2;
  return (i0 * g.n1 + i1) * g.n2 + i2;
}

/* Sum of n <= BT_LEAF products, in the order of bt_leaf_sum. */
BT_KERNEL float bt_leaf_product(const float *a, const float *b, int n)
{
  float lane[BT_LANES] = {0.0f};
  int i = 0;
  for (; i + BT_LANES <= n; i += BT_LANES)
    for (int j = 0; j < BT_LANES; j++)
      lane[j] = bt_fma(a[i + j], b[i + j], lane[j]);
  for (int j = 0; i + j < n; j++)
    lane[j] = bt_fma(a[i + j], b[i + j], lane[j]);
  return bt_fold(lane);
}

/* y[r] += scale sum over the rows j of r, and over time, of x: leaf by leaf, the rows of a leaf
 * first. The box has the rows of y and the times of x. */
BT_KERNEL void bt_sum_to(bt_reduce g, bt_box box, bt_in x, float *y, float scale)
{
  for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
    const int n = bt_leaf_end(t, box.t1) - t;
    for (int r = box.r0; r < box.r1; r++) {
      float sum = 0.0f;
      for (int j = 0; j < bt_reduce_count(g); j++) {
        int unused;
        sum += bt_leaf_sum(bt_at(x, bt_reduce_row(g, r, j, &unused), t), n);
      }
      BT_JOIN_SCALED_LEAF(y[r], scale, sum);
    }
  }
}

/* The same sum of x f. */
BT_KERNEL void bt_sum_to_product(bt_reduce g, bt_box box, bt_in x, bt_in f, float *y, float scale)
{
  for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
    const int n = bt_leaf_end(t, box.t1) - t;
    for (int r = box.r0; r < box.r1; r++) {
      float sum = 0.0f;
      for (int j = 0; j < bt_reduce_count(g); j++) {
        int row;
        const float *p = bt_at(x, bt_reduce_row(g, r, j, &row), t);
        if (g.f_times)
          sum += bt_leaf_product(p, bt_at(f, row, t), n);
        else
          sum = bt_fma(*bt_at(f, row, 0), bt_leaf_sum(p, n), sum);
      }
      BT_JOIN_SCALED_LEAF(y[r], scale, sum);
    }
  }
}

/* y[r, t] += scale x[j, t] for each row j of r in order. */
BT_KERNEL void bt_sum_rows(bt_reduce g, bt_box box, bt_in x, bt_out y, float scale)
{
  for (int r = box.r0; r < box.r1; r++) {
    float *restrict to = bt_to(y, r, box.t0);
    for (int j = 0; j < bt_reduce_count(g); j++) {
      int unused;
      const float *restrict from = bt_at(x, bt_reduce_row(g, r, j, &unused), box.t0);
      for (int t = 0; t < box.t1 - box.t0; t++)
        to[t] = bt_fma(scale, from[t], to[t]);
    }
  }
}

/* y[r, t] += scale f[j, t] x[j, t] for each row j of r in order. */
BT_KERNEL void bt_sum_rows_product(bt_reduce g, bt_box box, bt_in x, bt_in f, bt_out y, float scale)
{
  for (int r = box.r0; r < box.r1; r++) {
    float *restrict to = bt_to(y, r, box.t0);
    for (int j = 0; j < bt_reduce_count(g); j++) {
      int row;
      const float *restrict from = bt_at(x, bt_reduce_row(g, r, j, &row), box.t0);
      if (g.f_times) {
        const float *restrict factor = bt_at(f, row, box.t0);
        for (int t = 0; t < box.t1 - box.t0; t++)
          to[t] = bt_fma(scale * factor[t], from[t], to[t]);
      } else {
        const float factor = scale * *bt_at(f, row, 0);
        for (int t = 0; t < box.t1 - box.t0; t++)
          to[t] = bt_fma(factor, from[t], to[t]);
      }
    }
  }
}

/* y[r, t] = scale x[row of r, t or 0] */
BT_KERNEL void bt_expand(bt_expansion g, bt_box box, bt_in x, bt_out y, float scale)
{
  for (int r = box.r0; r < box.r1; r++) {
    const int row = r / (g.n1 * g.n2) * g.x0 + r / g.n2 % g.n1 * g.x1 + r % g.n2 * g.x2;
    float *restrict to = bt_to(y, r, box.t0);
    if (g.x_times) {
      const float *restrict from = bt_at(x, row, box.t0);
      for (int t = 0; t < box.t1 - box.t0; t++)
        to[t] = scale * from[t];
    } else {
      const float value = scale * *bt_at(x, row, 0);
      for (int t = 0; t < box.t1 - box.t0; t++)
        to[t] = value;
    }
  }
}

#endif
