/* SPDX-License-Identifier: Apache-2.0 */
/* The weight gradient of a convolution (bt_conv.h, which includes this):
 *
 *   dw[o, i, kh, k] += sum_t sum_h dy[o, h, t] x[i, h', t'], the sum over t in leaves. */
#ifndef BT_CONV_DW_H
#define BT_CONV_DW_H

/* sums[j] = sum over t in [t0, t1) of dy[t] x[t stride + (k + j) dilation - padding], t in order,
 * for j in [0, n). x points at time x0 of the input row, dy at time t0. */
BT_KERNEL void bt_conv_leaf(bt_conv g, int t0, int t1, int k, int n, const float *x, int x0,
                            const float *restrict dy, float *restrict sums)
{
  const int s = g.stride, d = g.dilation;
  if (bt_conv_slides(g, g.times) && d == 1)
    for (; n >= BT_BLOCK_OUTPUTS; n -= BT_BLOCK_OUTPUTS) {
      float block[BT_BLOCK_OUTPUTS] = {0.0f};
      const int first = t0 + k - g.padding;
      const bt_block_row v = {x, first - x0, 1, -first, g.times - first};
      bt_block_edge(block, t1 - t0, dy, v);
      bt_block_store(block, sums, 1);
      k += BT_BLOCK_OUTPUTS;
      sums += BT_BLOCK_OUTPUTS;
    }
  /* times [lo, hi) have all n taps inside the input */
  const int lo = bt_min(t1, bt_max(t0, bt_ceil_div(g.padding - k * d, s)));
  const int hi =
      bt_max(lo, bt_min(t1, bt_floor_div(g.times - 1 + g.padding - (k + n - 1) * d, s) + 1));
  for (int j = 0; j < n; j++)
    sums[j] = 0.0f;
  for (int side = 0; side < 2; side++) {
    const int a = side ? hi : t0, b = side ? t1 : lo;
    for (int t = a; t < b; t++) {
      const int first = t * s + k * d - g.padding;
      const int from = bt_min(n, bt_max(0, bt_ceil_div(-first, d)));
      const int end = bt_max(from, bt_min(n, bt_floor_div(g.times - 1 - first, d) + 1));
      for (int j = from; j < end; j++)
        sums[j] = bt_fma(dy[t - t0], x[first + j * d - x0], sums[j]);
    }
    if (side || hi <= lo)
      continue;
    const float *from = x + (lo * s + k * d - g.padding - x0);
    const float *up = dy + (lo - t0);
    int i = 0;
    for (; i + 8 <= hi - lo; i += 8) {
      const float *restrict p = from + i * s;
      const float q0 = up[i], q1 = up[i + 1], q2 = up[i + 2], q3 = up[i + 3];
      const float q4 = up[i + 4], q5 = up[i + 5], q6 = up[i + 6], q7 = up[i + 7];
      for (int j = 0; j < n; j++) {
        float sum = sums[j];
        sum = bt_fma(q0, p[j * d], sum);
        sum = bt_fma(q1, p[j * d + s], sum);
        sum = bt_fma(q2, p[j * d + 2 * s], sum);
        sum = bt_fma(q3, p[j * d + 3 * s], sum);
        sum = bt_fma(q4, p[j * d + 4 * s], sum);
        sum = bt_fma(q5, p[j * d + 5 * s], sum);
        sum = bt_fma(q6, p[j * d + 6 * s], sum);
        sum = bt_fma(q7, p[j * d + 7 * s], sum);
        sums[j] = sum;
      }
    }
    for (; i < hi - lo; i++)
      for (int j = 0; j < n; j++)
        sums[j] = bt_fma(up[i], from[i * s + j * d], sums[j]);
  }
}

/* all[j] += sum over the samples of some leaves from t on of the gradient of w[o, i, kh, k + j], with
 * stride 1 and dilation 1; i is that of the group. Whole leaves, no tap of which leaves the input, or
 * (0 of them) one of n samples. */
BT_KERNEL void bt_conv_weight_leaves(bt_conv g, int t, int leaves, int n, int o, int i, int kh, int k,
                                     bt_in x, bt_in dy, float all[BT_BLOCK_OUTPUTS])
{
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int first = t + k - g.padding;
  for (int h = 0; h < g.out_rows; h++) {
    const int from = h * g.row_stride + kh * g.row_dilation - g.row_padding;
    if (from < 0 || from >= g.rows)
      continue;
    const float *row = bt_at(x, (o / outs * per_group + i) * g.rows + from, x.t0);
    const float *up = bt_at(dy, o * g.out_rows + h, t);
    if (leaves > 0) {
      bt_block_leaves(all, leaves, up, row + (first - x.t0));
      continue;
    }
    const bt_block_row v = {row, first - x.t0, 1, -first, g.times - first};
    float s[BT_BLOCK_OUTPUTS] = {0.0f};
    bt_block_edge(s, n, up, v);
    bt_block_add(all, s);
  }
}

/* Of a convolution of stride 1 and dilation 1: the gradients of taps k to k + 7 of w[o, i, kh] over
 * the times of the box, added to the last `count` of those at `to`. i is that of the group. */
BT_KERNEL void bt_conv_weight_block(bt_conv g, bt_box box, int o, int i, int kh, int k, int count,
                                    bt_in x, bt_in dy, float *to)
{
  const int end = bt_min(box.t1, g.times + g.padding - k - 7); /* all taps inside before it */
  float all[BT_BLOCK_OUTPUTS];
  bt_block_load(all, to, 1);
  for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
    if (t % BT_LEAF == 0 && t + k >= g.padding && t + BT_LEAF <= end) {
      const int leaves = g.out_rows > 1 ? 1 : (end - t) / BT_LEAF; /* rows of a leaf in order */
      bt_conv_weight_leaves(g, t, leaves, 0, o, i, kh, k, x, dy, all);
      t += (leaves - 1) * BT_LEAF;
      continue;
    }
    bt_conv_weight_leaves(g, t, 0, bt_leaf_end(t, box.t1) - t, o, i, kh, k, x, dy, all);
  }
  if (count == BT_BLOCK_OUTPUTS)
    bt_block_store(all, to, 1);
  else { /* the others are of the block before */
    float last[BT_BLOCK_OUTPUTS];
    bt_block_store(all, last, 1);
    for (int j = BT_BLOCK_OUTPUTS - count; j < BT_BLOCK_OUTPUTS; j++)
      to[j] = last[j];
  }
}

/* Of a convolution of stride 1: the gradients of taps [k, taps) of w[o, i] for o in [o0, o1), all of
 * one group, and i in [i0, i1) of that group, tap by tap. */
BT_KERNEL void bt_conv_weight_dots(bt_conv g, bt_box box, int o0, int o1, int i0, int i1, int k,
                                   bt_in x, bt_in dy, float *dw)
{
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int one = g.kernel_rows * g.taps;
  for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1))
    for (int kh = 0; kh < g.kernel_rows; kh++)
      for (int j = k; j < g.taps; j++) {
        const int shift = j * g.dilation - g.padding;
        const int lo = bt_max(t, -shift), hi = bt_min(bt_leaf_end(t, box.t1), g.times - shift);
        for (int h = 0; h < g.out_rows && lo < hi; h++) {
          const int from = h * g.row_stride + kh * g.row_dilation - g.row_padding;
          if (from < 0 || from >= g.rows)
            continue;
          const int row = (o0 / outs * per_group + i0) * g.rows + from;
          const bt_block_dots m = {hi - lo, bt_at(dy, o0 * g.out_rows + h, lo),
                                   g.out_rows * dy.stride, bt_at(x, row, lo + shift),
                                   g.rows * x.stride,
                                   dw + (o0 * per_group + i0) * one + kh * g.taps + j,
                                   per_group * one, one};
          bt_block_dots_all(m, o1 - o0, i1 - i0);
        }
      }
}

/* s[j] += dy x[first + j dilation - x0] for `count` taps, up to eight, where that is inside the input. */
BT_KERNEL void bt_conv_few_inside(bt_conv g, int first, int count, const float *x, int x0, float dy,
                                  float s[8])
{
  BT_BLOCK_EACH(j, 8)
    if (j < count && first + j * g.dilation >= 0 && first + j * g.dilation < g.times)
      s[j] = bt_fma(dy, x[first + j * g.dilation - x0], s[j]);
}

/* bt_conv_leaf of up to eight taps in registers, added to those at `to`. */
BT_KERNEL void bt_conv_few_leaf(bt_conv g, int t0, int t1, int k, int count, const float *x, int x0,
                                const float *dy, float *to)
{
  const int shift = k * g.dilation - g.padding, d = g.dilation, step = g.stride;
  const int last = g.times - 1 - shift - (count - 1) * d;
  const int lo = bt_min(t1, bt_max(t0, bt_ceil_div(-shift, step)));
  const int hi = bt_max(lo, bt_min(t1, bt_floor_div(last, step) + 1));
  const float *row = x + (shift - x0);
  float s[8] = {0.0f};
  int t = t0;
  for (; t < lo; t++)
    bt_conv_few_inside(g, t * step + shift, count, x, x0, dy[t - t0], s);
  const int eights = (hi - lo) / 8 * 8;
  if (eights > 0)
    bt_block_few(count, eights, dy + (t - t0), row + t * step, step, d, s);
  for (t += eights; t < hi; t++)
    bt_block_few_one(count, dy[t - t0], row + t * step, d, s);
  for (; t < t1; t++)
    bt_conv_few_inside(g, t * step + shift, count, x, x0, dy[t - t0], s);
  BT_BLOCK_EACH(j, 8)
    if (j < count)
      to[j] += s[j];
}

/* The gradients of `count` taps from k on of w[o, i, kh], up to eight, added to those at `to`; i is that of
 * the group. */
BT_KERNEL void bt_conv_weight_few(bt_conv g, bt_box box, int o, int i, int kh, int k, int count,
                                  bt_in x, bt_in dy, float *to)
{
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int last = g.times - 1 + g.padding - (k + count - 1) * g.dilation;
  const int inside = bt_min(box.t1, bt_floor_div(last, g.stride) + 1); /* all taps are, before it */
  for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
    const int first = t * g.stride + k * g.dilation - g.padding;
    const int whole = t % BT_LEAF == 0 && first >= 0 ? (inside - t) / BT_LEAF : 0;
    const int leaves = g.out_rows > 1 ? bt_min(whole, 1) : whole; /* rows of a leaf in order */
    for (int h = 0; h < g.out_rows; h++) {
      const int from = h * g.row_stride + kh * g.row_dilation - g.row_padding;
      if (from < 0 || from >= g.rows)
        continue;
      const float *row = bt_at(x, (o / outs * per_group + i) * g.rows + from, x.t0);
      const float *up = bt_at(dy, o * g.out_rows + h, t);
      if (leaves > 0) {
        bt_block_few_leaves(count, leaves, up, row + (first - x.t0), g.stride, g.dilation, to);
        continue;
      }
      bt_conv_few_leaf(g, t, bt_leaf_end(t, box.t1), k, count, row, x.t0, up, to);
    }
    t += bt_max(0, leaves - 1) * BT_LEAF;
  }
}

/* The same as bt_conv_weight_dots, eight taps at a time. */
BT_KERNEL void bt_conv_weight_rest(bt_conv g, bt_box box, int o0, int o1, int i0, int i1, int k,
                                   bt_in x, bt_in dy, float *dw)
{
  const int per_group = g.channels / g.groups, rest = (g.taps - k) % BT_BLOCK_OUTPUTS;
  for (int o = o0; o < o1; o++)
    for (int i = i0; i < i1; i++)
      for (int kh = 0; kh < g.kernel_rows; kh++) {
        float *to = dw + ((o * per_group + i) * g.kernel_rows + kh) * g.taps;
        for (int j = k; j + BT_BLOCK_OUTPUTS <= g.taps; j += BT_BLOCK_OUTPUTS)
          bt_conv_weight_few(g, box, o, i, kh, j, BT_BLOCK_OUTPUTS, x, dy, to + j);
        if (rest > 0)
          bt_conv_weight_few(g, box, o, i, kh, g.taps - rest, rest, x, dy, to + g.taps - rest);
      }
}

/* Taps of which the blocks of eight make the gradients: all, or all but up to five. */
BT_KERNEL int bt_conv_weight_taps(bt_conv g)
{
  const int rest = g.taps % BT_BLOCK_OUTPUTS;
  if (!bt_conv_slides(g, g.times) || g.dilation != 1 || g.taps < BT_BLOCK_OUTPUTS)
    return 0;
  return rest > 5 ? g.taps : g.taps - rest;
}

/* The gradients of w[o, i] for o in [o0, o1), all of one group, and i in
 * [i0, i1) of that group. */
BT_KERNEL void bt_conv_weight_gradient_part(bt_conv g, bt_box box, int o0, int o1, int i0, int i1,
                                            bt_in x, bt_in dy, float *dw)
{
  const int per_group = g.channels / g.groups, taps = bt_conv_weight_taps(g);
  for (int o = o0; o < o1 && taps > 0; o++)
    for (int i = i0; i < i1; i++)
      for (int kh = 0; kh < g.kernel_rows; kh++)
        for (int k = 0; k < taps; k += BT_BLOCK_OUTPUTS) {
          const int from = bt_min(k, taps - BT_BLOCK_OUTPUTS);
          bt_conv_weight_block(g, box, o, i, kh, from, BT_BLOCK_OUTPUTS - (k - from), x, dy,
                               dw + ((o * per_group + i) * g.kernel_rows + kh) * g.taps + from);
        }
  if (taps < g.taps && g.stride == 1 && o1 - o0 >= 4 && i1 - i0 >= 4)
    bt_conv_weight_dots(g, box, o0, o1, i0, i1, taps, x, dy, dw);
  else if (taps < g.taps)
    bt_conv_weight_rest(g, box, o0, o1, i0, i1, taps, x, dy, dw);
}

#if BT_VECTOR

/* x turned: to[t][l] = x[row + l][t] of n samples and `count` rows, at most BT_VECTOR of them. */
BT_KERNEL void bt_conv_turn(bt_in x, int row, int count, int t, int n, float *restrict to)
{
  for (int l = 0; l < BT_VECTOR; l++) {
    const float *from = bt_at(x, row + (l < count ? l : 0), t);
    for (int i = 0; i < n; i++)
      to[i * BT_VECTOR + l] = from[i];
  }
}

/* Channels of y, or channels of a group of x, whose weights a call adds to. */
typedef struct bt_conv_weights {
  int o0, o1, i0, i1;
} bt_conv_weights;

/* Of a kernel of one tap on all rows: lanes are the rows of x, which i counts. */
BT_KERNEL void bt_conv_weight_product(bt_conv g, bt_box box, bt_conv_weights c, bt_in x, bt_in dy,
                                      float *dw)
{
  const int outs = g.out_channels / g.groups, ins = g.channels / g.groups * g.rows;
  float turned[BT_LEAF * BT_VECTOR];
  for (int o = c.o0; o < c.o1; o = (o / outs + 1) * outs) {
    const int end = bt_min(c.o1, (o / outs + 1) * outs);
    for (int i = c.i0; i < c.i1; i += BT_VECTOR)
      for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
        const int n = bt_leaf_end(t, box.t1) - t, count = bt_min(BT_VECTOR, c.i1 - i);
        bt_conv_turn(x, o / outs * ins + i, count, t, n, turned);
        const bt_vec_sum m = {.rows = 1, .taps = n, .step = BT_VECTOR, .w = bt_at(dy, o, t),
                              .w_out = dy.stride, .x = turned, .times = BT_VECTOR * n,
                              .y = dw + o * ins + i, .y_out = ins};
        bt_vec_leaf_sums(&m, end - o, count);
      }
  }
}

/* Of a kernel of stride 1 and dilation 1: lanes are taps. */
BT_KERNEL void bt_conv_weight_vectors(bt_conv g, bt_box box, bt_conv_weights c, bt_in x, bt_in dy,
                                      float *dw)
{
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int one = g.kernel_rows * g.taps, leaf = bt_leaf_end(box.t0, box.t1);
  for (int o = c.o0; o < c.o1; o = (o / outs + 1) * outs) {
    const int end = bt_min(c.o1, (o / outs + 1) * outs);
    for (int i = c.i0, count; i < c.i1; i += count) {
      count = BT_VECTOR == 16 && g.taps <= 8 && i + 1 < c.i1 ? 2 : 1;
      for (int kh = 0; kh < g.kernel_rows; kh++) {
        const int top = kh * g.row_dilation - g.row_padding;
        const bt_vec_reach h = bt_vec_reach_of(top, g.row_stride, g.out_rows, g.rows);
        const int row = (o / outs * per_group + i) * g.rows + top + h.from * g.row_stride;
        bt_vec_sum m = {.rows = h.end - h.from, .step = 1,
                        .w_out = (ptrdiff_t)g.out_rows * dy.stride, .w_row = dy.stride,
                        .x_row = (ptrdiff_t)g.row_stride * x.stride,
                        .x_two = count == 2 ? (ptrdiff_t)g.rows * x.stride : 0, .y_two = one,
                        .times = g.times,
                        .y = dw + (o * per_group + i) * one + kh * g.taps,
                        .y_out = per_group * one};
        /* leaves lie at multiples of their length: what comes before the first one is one */
        const int cut = box.t0 % BT_LEAF == 0 ? box.t0 : leaf;
        for (int side = cut == box.t0; side < 2; side++) {
          const int t = side ? cut : box.t0;
          m.taps = (side ? box.t1 : cut) - t;
          m.w = bt_at(dy, o * g.out_rows + h.from, t);
          m.first = t - g.padding;
          m.x = bt_at(x, row, m.first);
          bt_vec_leaf_sums(&m, end - o, g.taps);
        }
      }
    }
  }
}

/* Whether one of the two can do it. */
BT_KERNEL int bt_conv_weight_can(bt_conv g)
{
  return g.stride == 1 && g.dilation == 1;
}

BT_KERNEL void bt_conv_weight_some(bt_conv g, bt_box box, bt_conv_weights c, bt_in x, bt_in dy,
                                   float *dw)
{
  if (bt_conv_is_matrix(g)) {
    c.i0 *= g.rows;
    c.i1 *= g.rows;
    bt_conv_weight_product(g, box, c, x, dy, dw);
  } else
    bt_conv_weight_vectors(g, box, c, x, dy, dw);
}

#endif

BT_KERNEL void bt_conv_weight_gradient(bt_conv g, bt_box box, bt_in x, bt_in dy, float *dw)
{
#if BT_VECTOR
  if (bt_conv_weight_can(g) && box.r0 % g.out_rows == 0 && box.r1 % g.out_rows == 0) {
    const bt_conv_weights c = {box.r0 / g.out_rows, box.r1 / g.out_rows, 0, g.channels / g.groups};
    bt_conv_weight_some(g, box, c, x, dy, dw);
    return;
  }
#endif
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  if (bt_conv_is_product(g)) {
    const int ins = per_group * g.rows;
    for (int o = box.r0; o < box.r1; o = (o / outs + 1) * outs) {
      const int rows = outs == 1 ? 1 : bt_min(box.r1, (o / outs + 1) * outs) - o;
      const bt_block_dots m = {0, bt_at(dy, o, box.t0), dy.stride,
                               bt_at(x, o / outs * ins, box.t0), x.stride, dw + o * ins, ins, 1};
      bt_block_dots_times(m, rows, ins, box.t0, box.t1);
    }
    return;
  }
  if (BT_BLOCK) {
    const int end = box.r1 / g.out_rows;
    for (int o = box.r0 / g.out_rows; o < end; o = (o / outs + 1) * outs)
      bt_conv_weight_gradient_part(g, box, o, bt_min(end, (o / outs + 1) * outs), 0, per_group, x,
                                   dy, dw);
    return;
  }
  float sums[BT_CONV_SUMS];
  for (int o = box.r0 / g.out_rows; o * g.out_rows < box.r1; o++) {
    const int r0 = bt_max(box.r0, o * g.out_rows), r1 = bt_min(box.r1, (o + 1) * g.out_rows);
    for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
      const int end = bt_leaf_end(t, box.t1);
      for (int i = 0; i < per_group; i++)
        for (int kh = 0; kh < g.kernel_rows; kh++)
          for (int k = 0; k < g.taps; k += BT_CONV_SUMS) {
            const int n = bt_min(BT_CONV_SUMS, g.taps - k);
            float *to = dw + ((o * per_group + i) * g.kernel_rows + kh) * g.taps + k;
            for (int r = r0; r < r1; r++) {
              const int h = r % g.out_rows;
              const int from = h * g.row_stride + kh * g.row_dilation - g.row_padding;
              if (from < 0 || from >= g.rows)
                continue;
              const int row = (o / outs * per_group + i) * g.rows + from;
              bt_conv_leaf(g, t, end, k, n, bt_at(x, row, x.t0), x.t0, bt_at(dy, r, t), sums);
              for (int j = 0; j < n; j++)
                to[j] += sums[j];
            }
          }
    }
  }
}

/* The same with boxes over the rows of x, for one group: what a row of x takes part in. */
BT_KERNEL void bt_conv_weight_gradient_by_input(bt_conv g, bt_box box, bt_in x, bt_in dy, float *dw)
{
#if BT_VECTOR
  if (bt_conv_weight_can(g) && box.r0 % g.rows == 0 && box.r1 % g.rows == 0) {
    const bt_conv_weights c = {0, g.out_channels, box.r0 / g.rows, box.r1 / g.rows};
    bt_conv_weight_some(g, box, c, x, dy, dw);
    return;
  }
#endif
  if (bt_conv_is_product(g)) {
    const int ins = g.channels * g.rows;
    const bt_block_dots m = {0, bt_at(dy, 0, box.t0), dy.stride, bt_at(x, box.r0, box.t0), x.stride,
                             dw + box.r0, ins, 1};
    bt_block_dots_times(m, g.out_channels, box.r1 - box.r0, box.t0, box.t1);
    return;
  }
  if (BT_BLOCK) {
    bt_conv_weight_gradient_part(g, box, 0, g.out_channels, box.r0 / g.rows, box.r1 / g.rows, x, dy,
                                 dw);
    return;
  }
  float sums[BT_CONV_SUMS];
  for (int o = 0; o < g.out_channels; o++)
    for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
      const int end = bt_leaf_end(t, box.t1);
      for (int i = box.r0 / g.rows; i * g.rows < box.r1; i++)
        for (int kh = 0; kh < g.kernel_rows; kh++)
          for (int k = 0; k < g.taps; k += BT_CONV_SUMS) {
            const int n = bt_min(BT_CONV_SUMS, g.taps - k);
            float *to = dw + ((o * g.channels + i) * g.kernel_rows + kh) * g.taps + k;
            for (int h = 0; h < g.out_rows; h++) {
              const int from = h * g.row_stride + kh * g.row_dilation - g.row_padding;
              if (from < 0 || from >= g.rows)
                continue;
              bt_conv_leaf(g, t, end, k, n, bt_at(x, i * g.rows + from, x.t0), x.t0,
                           bt_at(dy, o * g.out_rows + h, t), sums);
              for (int j = 0; j < n; j++)
                to[j] += sums[j];
            }
          }
    }
}

#endif
