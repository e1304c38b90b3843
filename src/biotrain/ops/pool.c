/* SPDX-License-Identifier: Apache-2.0 */
/* Pooling over windows of rows and time. */
#ifndef BT_POOL_H
#define BT_POOL_H

#include "bt_kernel.h"

typedef struct bt_pool {
  int rows, times;         /* of one channel of x */
  int out_rows, out_times; /* of one channel of y */
  int kernel_rows, kernel, row_stride, stride, row_padding, padding;
} bt_pool;

/* y[t] = sum of the window / size; samples in order of rows, then time; outside counts as zero */
BT_KERNEL void bt_avg_pool(bt_pool g, bt_box box, bt_in x, bt_out y)
{
  const float share = 1.0f / (float)(g.kernel_rows * g.kernel);
  for (int r = box.r0; r < box.r1; r++) {
    const int c = r / g.out_rows, top = r % g.out_rows * g.row_stride - g.row_padding;
    float *to = bt_to(y, r, box.t0);
    for (int t = box.t0; t < box.t1; t++) {
      const int first = t * g.stride - g.padding;
      const int lo = bt_max(first, 0), hi = bt_min(first + g.kernel, g.times);
      float sum = 0.0f;
      for (int h = bt_max(top, 0); h < bt_min(top + g.kernel_rows, g.rows); h++) {
        const float *from = bt_at(x, c * g.rows + h, lo);
        for (int i = 0; i < hi - lo; i++)
          sum += from[i];
      }
      to[t - box.t0] = sum * share;
    }
  }
}

/* dx[t] = sum over the windows that hold t of dy / size, windows in order */
BT_KERNEL void bt_avg_pool_dx(bt_pool g, bt_box box, bt_in dy, bt_out dx)
{
  const float share = 1.0f / (float)(g.kernel_rows * g.kernel);
  for (int r = box.r0; r < box.r1; r++) {
    const int c = r / g.rows, h = r % g.rows + g.row_padding;
    const int row0 = bt_max(0, bt_ceil_div(h - g.kernel_rows + 1, g.row_stride));
    const int row1 = bt_min(g.out_rows, h / g.row_stride + 1);
    float *to = bt_to(dx, r, box.t0);
    for (int t = box.t0; t < box.t1; t++) {
      const int at = t + g.padding;
      const int lo = bt_max(0, bt_ceil_div(at - g.kernel + 1, g.stride));
      const int hi = bt_min(g.out_times, at / g.stride + 1);
      float sum = 0.0f;
      for (int row = row0; row < row1; row++)
        for (int i = lo; i < hi; i++)
          sum += *bt_at(dy, c * g.out_rows + row, i);
      to[t - box.t0] = sum * share;
    }
  }
}

#endif
