/* SPDX-License-Identifier: Apache-2.0 */
/* Pooling over windows of rows and time.
 *
 * Window i of an axis starts at i stride - padding. Samples outside the input are no sample; only
 * the mean may count them as zeros. Where n samples become m, an adaptive window i covers
 * [floor(i n / m), ceil((i + 1) n / m)). */
#ifndef BT_POOL_H
#define BT_POOL_H

#include "bt_kernel.h"

typedef struct bt_pool {
  int rows, times;         /* of one channel of x */
  int out_rows, out_times; /* of one channel of y */
  int kernel_rows, kernel, row_stride, stride, row_padding, padding, row_dilation, dilation;
} bt_pool;

/* ---- mean, all windows of one size -------------------------------------------------------- */

/* y[t] = sum of the window / size; samples in order of rows, then time, more than a leaf of them in
 * leaves; outside counts as zero */
BT_KERNEL void bt_avg_pool(bt_pool g, bt_box box, bt_in x, bt_out y)
{
  const float share = 1.0f / (float)(g.kernel_rows * g.kernel);
  for (int r = box.r0; r < box.r1; r++) {
    const int c = r / g.out_rows, top = r % g.out_rows * g.row_stride - g.row_padding;
    float *to = bt_to(y, r, box.t0);
    for (int t = box.t0; t < box.t1; t++) {
      const int first = t * g.stride - g.padding;
      const int lo = bt_max(first, 0);
      const int n = g.padding == 0 ? g.kernel : bt_min(first + g.kernel, g.times) - lo;
      float sum = 0.0f;
      for (int h = bt_max(top, 0); h < bt_min(top + g.kernel_rows, g.rows); h++) {
        const float *from = bt_at(x, c * g.rows + h, lo);
        if (g.kernel > BT_LEAF)
          for (int i = 0; i < n; i += BT_LEAF)
            BT_JOIN_LEAF(sum, bt_leaf_sum(from + i, bt_min(BT_LEAF, n - i)));
        else
          for (int i = 0; i < n; i++)
            sum += from[i];
      }
      to[t - box.t0] = sum * share;
    }
  }
}

/* dx[t] = dy of the one window that holds t / size, where windows do not overlap: the whole windows
 * of a row, then the samples of windows that the box cuts. */
BT_KERNEL void bt_avg_pool_dx_apart(bt_pool g, bt_box box, bt_in dy, bt_out dx)
{
  const float share = 1.0f / (float)(g.kernel_rows * g.kernel);
  for (int r = box.r0; r < box.r1; r++) {
    const int c = r / g.rows, row = r % g.rows / g.kernel_rows;
    const int end = row < g.out_rows ? bt_min(box.t1, g.out_times * g.kernel) : box.t0;
    const int lo = bt_min(bt_ceil_div(box.t0, g.kernel), bt_max(box.t0, end) / g.kernel);
    const int hi = bt_max(lo, end / g.kernel);
    float *restrict to = bt_to(dx, r, box.t0);
    for (int t = box.t0; t < bt_min(lo * g.kernel, end); t++)
      to[t - box.t0] = (0.0f + *bt_at(dy, c * g.out_rows + row, t / g.kernel)) * share;
    if (hi > lo) {
      const float *restrict from = bt_at(dy, c * g.out_rows + row, lo);
      float *restrict whole = to + (lo * g.kernel - box.t0);
      for (int i = 0; i < hi - lo; i++) {
        const float each = (0.0f + from[i]) * share;
        for (int j = 0; j < g.kernel; j++)
          whole[i * g.kernel + j] = each;
      }
    }
    for (int t = bt_max(box.t0, hi * g.kernel); t < end; t++)
      to[t - box.t0] = (0.0f + *bt_at(dy, c * g.out_rows + row, t / g.kernel)) * share;
    for (int t = bt_max(box.t0, end); t < box.t1; t++)
      to[t - box.t0] = 0.0f;
  }
}

/* dx[t] = sum over the windows that hold t of dy / size, windows in order */
BT_KERNEL void bt_avg_pool_dx(bt_pool g, bt_box box, bt_in dy, bt_out dx)
{
  if (g.kernel == g.stride && g.kernel_rows == g.row_stride && !g.padding && !g.row_padding) {
    bt_avg_pool_dx_apart(g, box, dy, dx);
    return;
  }
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

/* ---- mean, windows of several sizes ------------------------------------------------------- */

/* An axis whose windows have several sizes: adaptive (kernel 0), or clipped to the input. */
typedef struct bt_axis {
  int n, m, kernel, stride, padding; /* n samples become m */
} bt_axis;

BT_KERNEL int bt_axis_start(bt_axis a, int i)
{
  return a.kernel ? bt_max(0, i * a.stride - a.padding) : (int)((int64_t)i * a.n / a.m);
}

BT_KERNEL int bt_axis_end(bt_axis a, int i)
{
  return a.kernel ? bt_min(a.n, i * a.stride - a.padding + a.kernel)
                  : (int)(((int64_t)(i + 1) * a.n + a.m - 1) / a.m);
}

/* The windows [first, last) that hold sample t. */
BT_KERNEL int bt_axis_first(bt_axis a, int t)
{
  return a.kernel ? bt_max(0, bt_ceil_div(t + a.padding - a.kernel + 1, a.stride))
                  : (int)((int64_t)t * a.m / a.n);
}

BT_KERNEL int bt_axis_last(bt_axis a, int t)
{
  return a.kernel ? bt_min(a.m, (t + a.padding) / a.stride + 1)
                  : (int)(((int64_t)(t + 1) * a.m + a.n - 1) / a.n);
}

BT_KERNEL bt_axis bt_row_axis(bt_pool g)
{
  return (bt_axis){g.rows, g.out_rows, g.kernel_rows, g.row_stride, g.row_padding};
}

BT_KERNEL bt_axis bt_time_axis(bt_pool g)
{
  return (bt_axis){g.times, g.out_times, g.kernel, g.stride, g.padding};
}

/* y[t] = sum of the window / its samples inside the input; in order of rows, then time in leaves */
BT_KERNEL void bt_avg_pool_uneven(bt_pool g, bt_box box, bt_in x, bt_out y)
{
  const bt_axis rows = bt_row_axis(g), times = bt_time_axis(g);
  for (int r = box.r0; r < box.r1; r++) {
    const int c = r / g.out_rows;
    const int h0 = bt_axis_start(rows, r % g.out_rows), h1 = bt_axis_end(rows, r % g.out_rows);
    for (int t = box.t0; t < box.t1; t++) {
      const int lo = bt_axis_start(times, t), n = bt_axis_end(times, t) - lo;
      float sum = 0.0f;
      for (int h = h0; h < h1; h++) {
        const float *from = bt_at(x, c * g.rows + h, lo);
        for (int i = 0; i < n; i += BT_LEAF)
          BT_JOIN_LEAF(sum, bt_leaf_sum(from + i, bt_min(BT_LEAF, n - i)));
      }
      *bt_to(y, r, t) = sum / (float)((h1 - h0) * n);
    }
  }
}

/* dx[t] = sum over the windows that hold t of dy / their samples, windows in order */
BT_KERNEL void bt_avg_pool_uneven_dx(bt_pool g, bt_box box, bt_in dy, bt_out dx)
{
  const bt_axis rows = bt_row_axis(g), times = bt_time_axis(g);
  for (int r = box.r0; r < box.r1; r++) {
    const int c = r / g.rows;
    const int row0 = bt_axis_first(rows, r % g.rows), row1 = bt_axis_last(rows, r % g.rows);
    for (int t = box.t0; t < box.t1; t++) {
      float sum = 0.0f;
      for (int row = row0; row < row1; row++) {
        const int height = bt_axis_end(rows, row) - bt_axis_start(rows, row);
        for (int i = bt_axis_first(times, t); i < bt_axis_last(times, t); i++) {
          const int width = bt_axis_end(times, i) - bt_axis_start(times, i);
          sum += *bt_at(dy, c * g.out_rows + row, i) / (float)(height * width);
        }
      }
      *bt_to(dx, r, t) = sum;
    }
  }
}

/* ---- maximum ------------------------------------------------------------------------------ */

/* Whether v takes the place of the maximum so far: it is larger, or NaN. Where v <= best holds,
 * which is the rule, one comparison tells. */
BT_KERNEL bool bt_replaces(float v, float best)
{
  return !(v <= best) && (v > best || v != v);
}

/* y[t] = maximum of the window: the first of equal ones; NaN where there is one. Its place within
 * the window, row tap * kernel + tap, goes to one of the two maps (rows x out_times), or nowhere. */
BT_KERNEL void bt_max_pool(bt_pool g, bt_box box, bt_in x, bt_out y, uint8_t *small, int32_t *large)
{
  for (int r = box.r0; r < box.r1; r++) {
    const int c = r / g.out_rows, top = r % g.out_rows * g.row_stride - g.row_padding;
    const int kh0 = bt_max(0, bt_ceil_div(-top, g.row_dilation));
    const int kh1 = bt_min(g.kernel_rows, bt_floor_div(g.rows - 1 - top, g.row_dilation) + 1);
    for (int t = box.t0; t < box.t1; t++) {
      const int first = t * g.stride - g.padding;
      const int inside = g.padding == 0;
      const int k0 = inside ? 0 : bt_max(0, bt_ceil_div(-first, g.dilation));
      const int last = bt_floor_div(g.times - 1 - first, g.dilation) + 1;
      const int k1 = inside ? g.kernel : bt_min(g.kernel, last);
      float best = *bt_at(x, c * g.rows + top + kh0 * g.row_dilation, first + k0 * g.dilation);
      int place = kh0 * g.kernel + k0;
      for (int kh = kh0; kh < kh1; kh++) {
        const float *v = bt_at(x, c * g.rows + top + kh * g.row_dilation, first + k0 * g.dilation);
        for (int k = k0; k < k1; k++, v += g.dilation)
          if (bt_replaces(*v, best)) {
            best = *v;
            place = kh * g.kernel + k;
          }
      }
      *bt_to(y, r, t) = best;
      if (small)
        small[r * g.out_times + t] = (uint8_t)place;
      if (large)
        large[r * g.out_times + t] = (int32_t)place;
    }
  }
}

/* dx[t] = sum of dy over the windows whose maximum was t, windows in order */
BT_KERNEL void bt_max_pool_dx(bt_pool g, bt_box box, const uint8_t *small, const int32_t *large,
                              bt_in dy, bt_out dx)
{
  const int reach = (g.kernel - 1) * g.dilation, reach_rows = (g.kernel_rows - 1) * g.row_dilation;
  const int lo = bt_max(0, bt_ceil_div(box.t0 + g.padding - reach, g.stride));
  const int hi = bt_min(g.out_times, bt_floor_div(box.t1 - 1 + g.padding, g.stride) + 1);
  for (int r = box.r0; r < box.r1; r++) {
    const int c = r / g.rows, h = r % g.rows + g.row_padding;
    const int row0 = bt_max(0, bt_ceil_div(h - reach_rows, g.row_stride));
    const int row1 = bt_min(g.out_rows, h / g.row_stride + 1);
    float *to = bt_to(dx, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = 0.0f;
    for (int row = row0; row < row1; row++) {
      const int up = h - row * g.row_stride, kh = up / g.row_dilation;
      if (up % g.row_dilation != 0)
        continue;
      const ptrdiff_t map = (ptrdiff_t)(c * g.out_rows + row) * g.out_times;
      for (int i = lo; i < hi; i++) {
        const int k = (small ? (int)small[map + i] : (int)large[map + i]) - kh * g.kernel;
        const int t = i * g.stride + k * g.dilation - g.padding;
        if (k >= 0 && k < g.kernel && t >= box.t0 && t < box.t1)
          to[t - box.t0] += *bt_at(dy, c * g.out_rows + row, i);
      }
    }
  }
}

#endif
