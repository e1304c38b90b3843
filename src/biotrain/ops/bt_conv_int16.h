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

/* Rows of a group converted together, as a matrix product takes them. */
BT_KERNEL void bt_conv_product_int16(bt_conv g, bt_box box, bt_in16 x, const float *w,
                                     const float *b, bt_out y, float scale)
{
  const int ins = g.channels / g.groups * g.rows, rows = g.out_channels / g.groups;
  const int length = BT_INT16_SAMPLES / ins;
  float samples[BT_INT16_SAMPLES];
  for (int t = box.t0; t < box.t1; t += length) {
    const int end = bt_min(t + length, box.t1);
    for (int r = box.r0; r < box.r1; r = (r / rows + 1) * rows) {
      const int group = r / rows, last = bt_min(box.r1, (group + 1) * rows);
      for (int i = 0; i < ins; i++)
        bt_int16_take(x, group * ins + i, t, end, scale, samples + i * length);
      const bt_block_mix m = {last - r, ins, end - t, w + r * ins, ins, 1, b ? b + r : 0, samples,
                              length, bt_to(y, r, t), y.stride};
      bt_block_mix_all(m);
    }
  }
}

#if BT_VECTOR

/* The same in vectors. */
BT_KERNEL void bt_conv_product_int16_vectors(bt_conv g, bt_box box, bt_in16 x, const float *w,
                                             const float *b, bt_out y, float scale)
{
  const int ins = g.channels / g.groups * g.rows, rows = g.out_channels / g.groups;
  const int length = 8 * BT_INT16_SAMPLES / ins;
  float samples[8 * BT_INT16_SAMPLES];
  for (int t = box.t0; t < box.t1; t += length) {
    const int end = bt_min(t + length, box.t1);
    for (int r = box.r0; r < box.r1; r = (r / rows + 1) * rows) {
      const int group = r / rows, last = bt_min(box.r1, (group + 1) * rows);
      for (int i = 0; i < ins; i++)
        bt_int16_take(x, group * ins + i, t, end, scale, samples + i * length);
      const bt_vec_sum m = {.terms = ins, .rows = 1, .taps = 1, .step = 1, .w = w + r * ins,
                            .w_out = ins, .w_term = 1, .x = samples, .x_term = length,
                            .times = end - t, .b = b ? b + r : NULL, .y = bt_to(y, r, t),
                            .y_out = y.stride};
      bt_vec_sums(&m, last - r, end - t);
    }
  }
}

#endif

/* Needs (taps - 1) dilation <= BT_INT16_SAMPLES / 2. */
BT_KERNEL void bt_conv_forward_int16(bt_conv g, bt_box box, bt_in16 x, const float *w,
                                     const float *b, bt_out y, float scale)
{
  const int per_group = g.channels / g.groups, group_rows = g.out_channels / g.groups * g.out_rows;
  if (bt_conv_is_product(g) && per_group * g.rows <= BT_INT16_SAMPLES / 8) {
    bt_conv_product_int16(g, box, x, w, b, y, scale);
    return;
  }
#if BT_VECTOR
  if (bt_conv_is_matrix(g) && per_group * g.rows <= BT_INT16_SAMPLES / 8) {
    bt_conv_product_int16_vectors(g, box, x, w, b, y, scale);
    return;
  }
#endif
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
        bt_conv_row(g, t, end, samples, x0,
                    w + ((r / g.out_rows * per_group + i) * g.kernel_rows + kh) * g.taps,
                    bt_to(y, r, t));
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
  float samples[BT_INT16_SAMPLES] = {0.0f}, sums[BT_CONV_SUMS];
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
          bt_conv_leaf(g, t, end, k, n, samples, x0, bt_at(dy, r, t), sums);
          float *to =
              dw + ((r / g.out_rows * per_group + i) * g.kernel_rows + kh) * g.taps + k;
          for (int j = 0; j < n; j++)
            to[j] += sums[j];
        }
      }
    }
  }
}

#endif
