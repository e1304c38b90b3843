/* SPDX-License-Identifier: Apache-2.0 */
/* Convolutions that read the converter's integers: bt_conv_forward and bt_conv_weight_gradient of
 * x = q scale, with their bits. A run of a row of x is converted once for all rows of the box. */
#ifndef BT_CONV_INT16_H
#define BT_CONV_INT16_H

#include "bt_conv.h"
#include "bt_int16.h"

/* The row of the kernel with which row r of y reads row `row` of x, or -1. */
BT_KERNEL int bt_conv_meets(bt_conv g, int r, int row)
{
  const int up = row % g.rows + g.row_padding - r % g.out_rows * g.row_stride;
  return up >= 0 && up % g.row_dilation == 0 && up / g.row_dilation < g.kernel_rows
             ? up / g.row_dilation
             : -1;
}

/* The group that row r of y belongs to. */
BT_KERNEL int bt_conv_group(bt_conv g, int r)
{
  return r / g.out_rows / (g.out_channels / g.groups);
}

/* Samples of all rows of a group that a matrix product converts at a time, on the stack. */
#if BT_VECTOR
#define BT_INT16_PRODUCT_SAMPLES (8 * BT_INT16_SAMPLES)
#else
#define BT_INT16_PRODUCT_SAMPLES BT_INT16_SAMPLES
#endif

/* A matrix product of so many rows per group, all of which are converted together. */
BT_KERNEL void bt_conv_product_int16(bt_conv g, bt_box box, bt_in16 x, const float *w,
                                     const float *b, bt_out y, float scale, int ins)
{
  const int outs = g.out_channels / g.groups, length = BT_INT16_PRODUCT_SAMPLES / ins;
  float samples[BT_INT16_PRODUCT_SAMPLES];
  for (int t = box.t0; t < box.t1; t += length) {
    const int end = bt_min(t + length, box.t1);
    for (int r = box.r0; r < box.r1; r = (r / outs + 1) * outs) {
      const int first = r / outs * ins, last = bt_min(box.r1, (r / outs + 1) * outs);
      for (int i = 0; i < ins; i++)
        bt_int16_take(x, first + i, t, end, scale, samples + i * length);
      bt_conv_forward(g, bt_part(r, last, t, end), bt_read_at(samples, length, first, t), w, b, y);
    }
  }
}

/* Needs (taps - 1) dilation <= BT_INT16_SAMPLES / 2. */
BT_KERNEL void bt_conv_forward_int16(bt_conv g, bt_box box, bt_in16 x, const float *w,
                                     const float *b, bt_out y, float scale)
{
  const int per_group = g.channels / g.groups, group_rows = g.out_channels / g.groups * g.out_rows;
  if (bt_conv_is_matrix(g) && per_group * g.rows <= BT_INT16_SAMPLES / 8) {
    bt_conv_product_int16(g, box, x, w, b, y, scale, per_group * g.rows);
    return;
  }
  const int reach = (g.taps - 1) * g.dilation;
  const int first = bt_conv_group(g, box.r0) * per_group * g.rows;
  const int last = (bt_conv_group(g, box.r1 - 1) + 1) * per_group * g.rows;
  const int length = (BT_INT16_SAMPLES - reach - 1) / g.stride + 1;
  float samples[BT_INT16_SAMPLES] = {0.0f};
  for (int t = box.t0; t < box.t1; t += length) {
    const int end = bt_min(t + length, box.t1);
    const int x0 = bt_max(0, t * g.stride - g.padding);
    const int x1 = bt_min(g.times, (end - 1) * g.stride - g.padding + reach + 1);
    for (int r = box.r0; r < box.r1; r++) {
      float *to = bt_to(y, r, t);
      const float start = b ? b[r / g.out_rows] : 0.0f;
      for (int i = 0; i < end - t; i++)
        to[i] = start;
    }
    for (int row = first; row < last && x0 < x1; row++) {
      const int i = row / g.rows % per_group, group = row / g.rows / per_group;
      const int r0 = bt_max(box.r0, group * group_rows), r1 = bt_min(box.r1, (group + 1) * group_rows);
      int there = 0;
      for (int r = r0; r < r1; r++) {
        const int kh = bt_conv_meets(g, r, row);
        if (kh < 0)
          continue;
        if (!there)
          bt_int16_take(x, row, x0, x1, scale, samples);
        there = 1;
        const float *from = w + ((r / g.out_rows * per_group + i) * g.kernel_rows + kh) * g.taps;
        const int at = t * g.stride - g.padding;
        const bt_conv_sum m = {.terms = 1, .rows = 1, .taps = g.taps, .gap = g.stride,
                               .step = g.dilation, .first = at, .times = g.times, .w = from,
                               .w_tap = 1, .x = samples, .x_at = at - x0, .y = bt_to(y, r, t),
                               .y_gap = 1};
        bt_conv_add(m, end - t);
      }
    }
  }
}

/* Needs a stride of 1 and a dilation of BT_INT16_SAMPLES / 2 at most. */
BT_KERNEL void bt_conv_weight_gradient_int16(bt_conv g, bt_box box, bt_in16 x, bt_in dy, float *dw,
                                             float scale)
{
  const int per_group = g.channels / g.groups, group_rows = g.out_channels / g.groups * g.out_rows;
  const int first = bt_conv_group(g, box.r0) * per_group * g.rows;
  const int last = (bt_conv_group(g, box.r1 - 1) + 1) * per_group * g.rows;
  const int block = bt_min(BT_CONV_SUMS, (BT_INT16_SAMPLES - BT_LEAF) / g.dilation + 1);
  float samples[BT_INT16_SAMPLES] = {0.0f};
  for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
    const int end = bt_leaf_end(t, box.t1);
    for (int row = first; row < last; row++) {
      const int i = row / g.rows % per_group, group = row / g.rows / per_group;
      const int r0 = bt_max(box.r0, group * group_rows), r1 = bt_min(box.r1, (group + 1) * group_rows);
      for (int k = 0; k < g.taps; k += block) {
        const int n = bt_min(block, g.taps - k), shift = k * g.dilation - g.padding;
        const int x0 = bt_min(g.times, bt_max(0, t + shift));
        const int x1 = bt_max(x0, bt_min(g.times, end + shift + (n - 1) * g.dilation));
        int there = 0;
        for (int r = r0; r < r1; r++) {
          const int kh = bt_conv_meets(g, r, row);
          if (kh < 0)
            continue;
          if (!there)
            bt_int16_take(x, row, x0, x1, scale, samples);
          there = 1;
          float *to = dw + ((r / g.out_rows * per_group + i) * g.kernel_rows + kh) * g.taps + k;
          const bt_conv_sum m = {.terms = 1, .rows = 1, .taps = end - t, .gap = g.dilation,
                                 .step = 1, .first = t + shift, .times = g.times,
                                 .w = bt_at(dy, r, t), .w_tap = 1, .x = samples, .x_at = t + shift - x0,
                                 .y = to};
          bt_conv_leaf_sums(m, 1, 1, n);
        }
      }
    }
  }
}

#endif
