/* SPDX-License-Identifier: Apache-2.0 */
/* Convolution of rows of samples: forward, input gradient, weight gradient, bias gradient.
 *
 *   y[o, h, t]     = b[o] + sum_i sum_kh sum_k w[o, i, kh, k] x[i, h', t']
 *   dx[i, h', t']  =        sum_o sum_kh sum_k w[o, i, kh, k] dy[o, h, t]
 *   dw[o, i, kh, k] +=      sum_t sum_h dy[o, h, t] x[i, h', t']
 *
 * with h' = h row_stride + kh row_dilation - row_padding and t' = t stride + k dilation - padding,
 * over the i of o's group. A term outside the input is skipped. Sums run in the order written (the
 * one over t in dw in leaves), one multiply-add a term. Each pass describes its sums
 * (bt_conv_sum.h), one for the rows that lie at the same height in the channels of a group; the
 * nests compute them. */
#ifndef BT_CONV_H
#define BT_CONV_H

/* 1: little code that takes its geometry at run time; 0: bodies that its constants specialise. */
#ifndef BT_CONV_SMALL
#define BT_CONV_SMALL 0
#endif

#if BT_CONV_SMALL
#include "bt_conv_small.h"
#define BT_CONV_EACH_PHASE(p, s) for (int p = 0; p < (s); p++)
#else
#include "bt_conv_leaf.h"
#define BT_CONV_EACH_PHASE(p, s) BT_UNROLLED(p, s)
#endif

typedef struct bt_conv {
  int channels, rows, times;             /* of x */
  int out_channels, out_rows, out_times; /* of y */
  int groups, kernel_rows, taps; /* of w: out_channels x channels/groups x kernel_rows x taps */
  int row_stride, stride, row_dilation, dilation, row_padding, padding;
} bt_conv;

typedef struct bt_channels {
  int channels, rows;
} bt_channels;

/* Whether y is a matrix times the rows of x, group by group: taps and rows of y are one. */
BT_KERNEL int bt_conv_is_matrix(bt_conv g)
{
  return g.taps == 1 && g.stride == 1 && g.padding == 0 && g.times == g.out_times &&
         g.out_rows == 1 && g.kernel_rows == g.rows && g.row_padding == 0 &&
         (g.rows == 1 || g.row_dilation == 1);
}

/* The same convolution, where it is such a product with rows as channels. */
BT_KERNEL bt_conv bt_conv_flat(bt_conv g)
{
  if (bt_conv_is_matrix(g)) {
    g.channels *= g.rows;
    g.rows = g.kernel_rows = g.row_stride = 1;
  }
  return g;
}

/* Whether every row of the kernel meets a row of x for every row of y. */
BT_KERNEL int bt_conv_rows_inside(bt_conv g)
{
  return g.row_padding == 0 &&
         (g.out_rows - 1) * g.row_stride + (g.kernel_rows - 1) * g.row_dilation < g.rows;
}

/* And, beyond it, every tap a sample for every output. */
BT_KERNEL int bt_conv_inside(bt_conv g)
{
  return bt_conv_rows_inside(g) && g.padding == 0 &&
         (g.out_times - 1) * g.stride + (g.taps - 1) * g.dilation < g.times;
}

/* Of `count` rows at, at + step, ...: those of [0, size), or all where the caller knows it. */
BT_KERNEL bt_conv_span bt_conv_rows_of(int all, int at, int step, int count, int size)
{
  return all ? (bt_conv_span){0, count} : bt_conv_within(at, step, count, size);
}

/* Whether every group has one channel of x and of y: all groups are one sum then. */
BT_KERNEL int bt_conv_depthwise(bt_conv g)
{
  return g.channels == g.groups && g.out_channels == g.groups;
}

/* The channels from that of row r on whose rows at the same height are in the box and in one
 * sum: those of a group of so many channels. */
BT_KERNEL int bt_conv_channels(bt_conv g, bt_box box, int r, int rows, int per_group)
{
  const int c = r / rows, count = (box.r1 - 1 - r) / rows + 1;
  const int all = g.groups == 1 || bt_conv_depthwise(g);
  return all ? count : bt_min(count, (c / per_group + 1) * per_group - c);
}

BT_KERNEL void bt_conv_forward(bt_conv g, bt_box box, bt_in x, const float *w, const float *b,
                               bt_out y)
{
  g = bt_conv_flat(g);
  const int ins = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int one = g.kernel_rows * g.taps, first = box.t0 * g.stride - g.padding;
  for (int j = 0; j < bt_min(g.out_rows, box.r1 - box.r0); j++)
    for (int r = box.r0 + j, count; r < box.r1; r += count * g.out_rows) {
      count = bt_conv_channels(g, box, r, g.out_rows, outs);
      const int o = r / g.out_rows, top = r % g.out_rows * g.row_stride - g.row_padding;
      const bt_conv_span kh =
          bt_conv_rows_of(bt_conv_rows_inside(g), top, g.row_dilation, g.kernel_rows, g.rows);
      const int row = o / outs * ins * g.rows + top + kh.from * g.row_dilation;
      const bt_conv_sum m = {
          .terms = ins, .rows = kh.end - kh.from, .taps = g.taps, .gap = g.stride,
          .step = g.dilation, .first = first, .times = g.times, .inside = bt_conv_inside(g),
          .w = w + o * ins * one + kh.from * g.taps, .w_out = ins * one, .w_term = one,
          .w_row = g.taps, .w_tap = 1, .x = x.data, .x_at = bt_index(x, row, first),
          .x_out = bt_conv_depthwise(g) ? (ptrdiff_t)g.rows * x.stride : 0,
          .x_term = (ptrdiff_t)g.rows * x.stride, .x_row = (ptrdiff_t)g.row_dilation * x.stride,
          .b = b ? b + o : NULL, .y = bt_to(y, r, box.t0),
          .y_out = (ptrdiff_t)g.out_rows * y.stride, .y_gap = 1};
      bt_conv_sums(m, count, box.t1 - box.t0);
    }
}

/* The taps of a kernel that meet an input p samples behind a multiple of the stride: tap, tap +
 * each, ... The first one meets output `at` of the multiple 0, each next one `fall` outputs
 * before it. */
typedef struct bt_conv_phase {
  int tap, each, at, fall;
} bt_conv_phase;

BT_KERNEL bt_conv_phase bt_conv_phase_of(int p, int stride, int dilation)
{
  if (stride == 1 || dilation == 1)
    return (bt_conv_phase){p, stride, 0, dilation};
  int a = stride, b = dilation, tap = 0;
  while (b > 0) { /* the greatest common divisor */
    const int rest = a % b;
    a = b;
    b = rest;
  }
  while (tap < stride && (p - tap * dilation) % stride != 0)
    tap++; /* up to the stride: no tap does */
  return (bt_conv_phase){tap, stride / a, (p - tap * dilation) / stride, dilation / a};
}

BT_KERNEL void bt_conv_input_gradient(bt_conv g, bt_box box, bt_in dy, const float *w, bt_out dx)
{
  g = bt_conv_flat(g);
  const int ins = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int one = g.kernel_rows * g.taps, s = g.stride;
  const int one_row = g.rows == 1 && g.out_rows == 1 && g.kernel_rows == 1 && g.row_padding == 0;
  const int inside =
      one_row && g.taps == 1 && s == 1 && g.padding == 0 && g.times == g.out_times;
  for (int j = 0; j < bt_min(g.rows, box.r1 - box.r0); j++)
    for (int r = box.r0 + j, count; r < box.r1; r += count * g.rows) {
      /* with a stride, outputs share no tile, and compilers unroll what depends on its phases */
      count = s > 1 ? 1 : bt_conv_channels(g, box, r, g.rows, ins);
      const int c = r / g.rows, at = r % g.rows + g.row_padding;
      const int o = c / ins * outs; /* the first channel of dy */
      const bt_conv_phase v = bt_conv_phase_of(at % g.row_stride, g.row_stride, g.row_dilation);
      const int top = at / g.row_stride + v.at, some = bt_ceil_div(g.kernel_rows - v.tap, v.each);
      const bt_conv_span kh =
          bt_conv_rows_of(one_row, top, -v.fall, bt_max(0, some), g.out_rows);
      BT_CONV_EACH_PHASE(p, s) {
        /* inputs up s + p - padding for up in [from, to) */
        const int from = bt_ceil_div(box.t0 + g.padding - p, s);
        const int to = bt_ceil_div(box.t1 + g.padding - p, s);
        const bt_conv_phase u = bt_conv_phase_of(p, s, g.dilation);
        const int first = from + u.at, row = o * g.out_rows + top - kh.from * v.fall;
        const int none = kh.from == kh.end || u.tap >= g.taps; /* no tap meets these inputs */
        const int w_at = none ? 0 : (v.tap + kh.from * v.each) * g.taps + u.tap;
        const bt_conv_sum m = {
            .terms = outs, .rows = kh.end - kh.from,
            .taps = bt_max(0, bt_ceil_div(g.taps - u.tap, u.each)), .gap = 1, .step = -u.fall,
            .first = first, .times = g.out_times, .inside = inside,
            .w = w + (o * ins + c % ins) * one + w_at, .w_out = one, .w_term = ins * one,
            .w_row = (ptrdiff_t)v.each * g.taps,
            .w_tap = u.each, .x = dy.data, .x_at = bt_index(dy, row, first),
            .x_out = bt_conv_depthwise(g) ? (ptrdiff_t)g.out_rows * dy.stride : 0,
            .x_term = (ptrdiff_t)g.out_rows * dy.stride,
            .x_row = -(ptrdiff_t)v.fall * dy.stride,
            .y = bt_to(dx, r, bt_min(box.t1, from * s + p - g.padding)),
            .y_out = (ptrdiff_t)g.rows * dx.stride, .y_gap = s};
        bt_conv_sums(m, count, to - from);
      }
    }
}

/* Channels of y, and of x in a group, whose weights a call adds to. */
typedef struct bt_conv_weights {
  int o0, o1, i0, i1;
} bt_conv_weights;

BT_KERNEL void bt_conv_weight_sums(bt_conv g, bt_box box, bt_conv_weights c, bt_in x, bt_in dy,
                                   float *dw)
{
  const int ins = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int one = g.kernel_rows * g.taps;
  /* leaves lie at multiples of their length: what comes before the first one is one */
  const int cut = box.t0 % BT_LEAF == 0 ? box.t0 : bt_leaf_end(box.t0, box.t1);
  for (int o = c.o0, count; o < c.o1; o += count) {
    count = outs == 1      ? 1
            : g.groups == 1 ? c.o1 - o
                            : bt_min(c.o1, (o / outs + 1) * outs) - o;
    for (int kh = 0; kh < g.kernel_rows; kh++) {
      const int top = kh * g.row_dilation - g.row_padding;
      const bt_conv_span h =
          bt_conv_rows_of(bt_conv_rows_inside(g), top, g.row_stride, g.out_rows, g.rows);
      const int row = (o / outs * ins + c.i0) * g.rows + top + h.from * g.row_stride;
      if (h.from == h.end)
        continue;
      for (int side = cut == box.t0; side < 2; side++) {
        const int t = side ? cut : box.t0, first = t * g.stride - g.padding;
        const bt_conv_sum m = {
            .terms = 1, .rows = h.end - h.from, .taps = (side ? box.t1 : cut) - t,
            .gap = g.dilation, .step = g.stride, .first = first, .times = g.times,
            .inside = bt_conv_inside(g), .w = bt_at(dy, o * g.out_rows + h.from, t),
            .w_out = (ptrdiff_t)g.out_rows * dy.stride, .w_row = dy.stride, .w_tap = 1,
            .x = x.data, .x_at = bt_index(x, row, first),
            .x_row = (ptrdiff_t)g.row_stride * x.stride,
            .x_in = (ptrdiff_t)g.rows * x.stride,
            .y = dw + (o * ins + c.i0) * one + kh * g.taps, .y_out = ins * one, .y_in = one,
            .y_gap = 1};
        bt_conv_leaf_sums(m, count, c.i1 - c.i0, g.taps);
      }
    }
  }
}

BT_KERNEL void bt_conv_weight_gradient(bt_conv g, bt_box box, bt_in x, bt_in dy, float *dw)
{
  g = bt_conv_flat(g);
  const int rows = g.out_rows;
  const bt_conv_weights c = {box.r0 / rows, box.r1 / rows, 0, g.channels / g.groups};
  bt_conv_weight_sums(g, box, c, x, dy, dw);
}

/* The same with boxes over the rows of x, for one group: what a row of x takes part in. */
BT_KERNEL void bt_conv_weight_gradient_by_input(bt_conv g, bt_box box, bt_in x, bt_in dy, float *dw)
{
  g = bt_conv_flat(g);
  const bt_conv_weights c = {0, g.out_channels, box.r0 / g.rows, box.r1 / g.rows};
  bt_conv_weight_sums(g, box, c, x, dy, dw);
}

BT_KERNEL void bt_conv_bias_gradient(bt_channels g, bt_box box, bt_in dy, float *db)
{
  for (int c = box.r0 / g.rows; c * g.rows < box.r1; c++)
    for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1))
      for (int r = bt_max(box.r0, c * g.rows); r < bt_min(box.r1, (c + 1) * g.rows); r++)
        BT_JOIN_LEAF(db[c], bt_leaf_sum(bt_at(dy, r, t), bt_leaf_end(t, box.t1) - t));
}

#endif
