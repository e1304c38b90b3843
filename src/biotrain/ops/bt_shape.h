/* SPDX-License-Identifier: Apache-2.0 */
/* Ops that only move elements. Tensors have up to five axes: four that make the rows, and time. */
#ifndef BT_SHAPE_H
#define BT_SHAPE_H

#include "bt_kernel.h"

/* The rows of y, split into four axes: row = ((i0 n1 + i1) n2 + i2) n3 + i3. */
typedef struct bt_strided {
  int n1, n2, n3;
  int row, time;      /* where in x the first element of y lies */
  int r0, r1, r2, r3; /* rows of x that a step along each axis of y crosses */
  int t0, t1, t2, t3; /* times of x that it crosses */
  int row_step, time_step; /* the same for a step along the time of y */
} bt_strided;

/* y[i0, i1, i2, i3, t] = x at the element that the steps reach: permute, slice. */
BT_KERNEL void bt_strided_copy(bt_strided g, bt_box box, bt_in x, bt_out y)
{
  const ptrdiff_t step = (ptrdiff_t)g.row_step * x.stride + g.time_step;
  for (int r = box.r0; r < box.r1; r++) {
    const int i3 = r % g.n3, i2 = r / g.n3 % g.n2, i1 = r / (g.n3 * g.n2) % g.n1;
    const int i0 = r / (g.n3 * g.n2 * g.n1);
    const int row = g.row + i0 * g.r0 + i1 * g.r1 + i2 * g.r2 + i3 * g.r3;
    const int time = g.time + i0 * g.t0 + i1 * g.t1 + i2 * g.t2 + i3 * g.t3;
    const float *restrict from =
        bt_at(x, row + box.t0 * g.row_step, time + box.t0 * g.time_step);
    float *restrict to = bt_to(y, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = from[t * step];
  }
}

typedef struct bt_placed {
  int n1, n2, n3;                             /* axes of the rows of y, as above */
  int m0, m1, m2, m3, times;                  /* axes of x */
  int before0, before1, before2, before3, before; /* where in y the first element of x lies */
  int step0, step1, step2, step3, step;       /* distance in y of neighbours in x */
} bt_placed;

/* Index in x of index i in y, or -1 where y holds no element of x. */
BT_KERNEL int bt_placed_at(int i, int before, int step, int size)
{
  const int from = i - before;
  return from >= 0 && from % step == 0 && from / step < size ? from / step : -1;
}

/* y = value, with the elements of x placed in it: pad, and the gradient of slice. Each element is
 * written once: gcc 12 (-O3, AVX) lets a fill win over a later conditional store. */
BT_KERNEL void bt_place(bt_placed g, bt_box box, bt_in x, bt_out y, float value)
{
  const int first = bt_max(0, bt_ceil_div(box.t0 - g.before, g.step));
  const int last = bt_min(g.times, bt_floor_div(box.t1 - 1 - g.before, g.step) + 1);
  for (int r = box.r0; r < box.r1; r++) {
    const int i3 = bt_placed_at(r % g.n3, g.before3, g.step3, g.m3);
    const int i2 = bt_placed_at(r / g.n3 % g.n2, g.before2, g.step2, g.m2);
    const int i1 = bt_placed_at(r / (g.n3 * g.n2) % g.n1, g.before1, g.step1, g.m1);
    const int i0 = bt_placed_at(r / (g.n3 * g.n2 * g.n1), g.before0, g.step0, g.m0);
    const int n = i0 < 0 || i1 < 0 || i2 < 0 || i3 < 0 ? 0 : bt_max(0, last - first);
    const int lo = n > 0 ? g.before + first * g.step : box.t1; /* y holds x in [lo, hi) */
    const int hi = n > 0 ? lo + (n - 1) * g.step + 1 : box.t1;
    float *to = bt_to(y, r, box.t0);
    for (int t = box.t0; t < lo; t++)
      to[t - box.t0] = value;
    if (n > 0) {
      const float *from = bt_at(x, ((i0 * g.m1 + i1) * g.m2 + i2) * g.m3 + i3, first);
      float *part = to + (lo - box.t0);
      for (int i = 0; i < n - 1; i++) {
        part[i * g.step] = from[i];
        for (int gap = 1; gap < g.step; gap++)
          part[i * g.step + gap] = value;
      }
      part[(n - 1) * g.step] = from[n - 1];
    }
    for (int t = hi; t < box.t1; t++)
      to[t - box.t0] = value;
  }
}

/* Joins along one axis: of the rows (`inner` rows of y to a step along it), or, with inner 0, time.
 * n0 ... n3 are the sizes of the inputs. */
typedef struct bt_joined {
  int inner, n0, n1, n2, n3;
} bt_joined;

/* The part of y that comes from one input, which begins at index `first` of the axis. */
BT_KERNEL void bt_join(bt_joined g, bt_box box, bt_in x, int first, int n, bt_out y)
{
  const int size = g.n0 + g.n1 + g.n2 + g.n3;
  const int lo = g.inner ? box.t0 : bt_max(box.t0, first);
  const int hi = g.inner ? box.t1 : bt_min(box.t1, first + n);
  for (int r = box.r0; r < box.r1; r++) {
    int row = r;
    if (g.inner) {
      const int i = r / g.inner % size - first;
      if (i < 0 || i >= n)
        continue;
      row = (r / g.inner / size * n + i) * g.inner + r % g.inner;
    }
    if (hi <= lo)
      continue;
    const float *restrict from = bt_at(x, row, g.inner ? lo : lo - first);
    float *restrict to = bt_to(y, r, lo);
    for (int t = 0; t < hi - lo; t++)
      to[t] = from[t];
  }
}

BT_KERNEL void bt_join2(bt_joined g, bt_box box, bt_in x0, bt_in x1, bt_out y)
{
  bt_join(g, box, x0, 0, g.n0, y);
  bt_join(g, box, x1, g.n0, g.n1, y);
}

BT_KERNEL void bt_join3(bt_joined g, bt_box box, bt_in x0, bt_in x1, bt_in x2, bt_out y)
{
  bt_join2(g, box, x0, x1, y);
  bt_join(g, box, x2, g.n0 + g.n1, g.n2, y);
}

BT_KERNEL void bt_join4(bt_joined g, bt_box box, bt_in x0, bt_in x1, bt_in x2, bt_in x3, bt_out y)
{
  bt_join3(g, box, x0, x1, x2, y);
  bt_join(g, box, x3, g.n0 + g.n1 + g.n2, g.n3, y);
}

#endif
