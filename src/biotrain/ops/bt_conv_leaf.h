/* SPDX-License-Identifier: Apache-2.0 */
/* Sums over time in leaves (bt_kernel.h), as weight gradients have them: tiles of up to eight
 * results in scalar registers, and the nest above these, above the vectors and above rows of
 * results in memory. */
#ifndef BT_CONV_LEAF_H
#define BT_CONV_LEAF_H

#include "bt_conv_nest.h"

/* Joins the sums of a leaf to `count` totals, up to eight. */
BT_KERNEL void bt_block_join(int count, float *total, const float s[8])
{
  BT_UNROLLED(j, 8)
    if (j < count)
      BT_JOIN_LEAF(total[j], s[j]);
}

/* Joins the sums sum_k w[k] x[k + j] of eight results in each of some leaves, which follow each
 * other. */
BT_KERNEL void bt_block_slide_leaves(float total[8], int leaves, const float *w, const float *x)
{
  const int ring = BT_LEAF_RING;
  float v[8];
  if (!ring)
    bt_block_first(v, x, 1);
  for (; leaves > 0; leaves--) {
    float s[8] = {0.0f};
    if (ring) {
      bt_block_ring(s, BT_LEAF, w, x, 1);
      w += BT_LEAF, x += BT_LEAF;
    } else
      for (const float *const end = w + BT_LEAF; w != end; w += 8, x += 8)
        bt_block_eight(s, v, w, x, 1);
    bt_block_join(8, total, s);
  }
}

/* s[j] += sum_k w[k] x[k step + j gap] for `count` results, up to eight, and n taps, a multiple
 * of 8 and not 0. The samples that a tap shares with the next one stay in a ring of eight registers; as
 * many taps are loaded at once as fit. */
BT_KERNEL void bt_block_few(int count, int n, const float *w, const float *x, int step, int gap,
                            float s[8])
{
  const int shared = gap == 1 && step < count ? count - step : 0, next = shared ? step : count;
  const int most = count > 1 || BT_PRODUCTS_FIRST ? 4 : 1; /* one sum would wait for itself */
  const int group = bt_min(most, count + 3 * next <= 8 ? 4 : count + next <= 8 ? 2 : 1);
  float v[8], up[4];
  BT_UNROLLED(j, 8)
    if (j < shared)
      v[j] = x[j];
  for (const float *const end = w + n;; x += 8 * step) {
    BT_NEAR_POINTER(w);
    BT_NEAR_POINTER(x);
    BT_UNROLLED(t, 8) {
      if (t % group == 0) {
        BT_UNROLLED(u, 4)
          if (u < group) {
            up[u] = w[t + u];
            BT_UNROLLED(j, 8)
              if (j >= shared && j < count)
                v[((t + u) * next + j) % 8] = x[(t + u) * step + j * gap];
          }
        BT_UNROLLED(u, 4)
          if (u < group)
            BT_ORDER_VALUE(up[u]);
        BT_UNROLLED(j, 8)
          if (j < count - shared + (group - 1) * next)
            BT_ORDER_VALUE(v[(t * next + shared + j) % 8]);
      }
      BT_UNROLLED(q, 2)
        if (4 * q < count) {
          float u[4], p[4];
          BT_UNROLLED(i, 4)
            u[i] = up[t % group], p[i] = v[(t * next + 4 * q + i) % 8];
          bt_block_some(bt_min(4, count - 4 * q), s + 4 * q, u, p);
        }
      if (t % group == group - 1)
        BT_ORDER_MEMORY;
    }
    w += 8;
    if (w == end)
      break;
  }
}

/* s[j] += w x[j gap] for `count` results, up to eight. */
BT_KERNEL void bt_block_few_tap(int count, float w, const float *x, int gap, float s[8])
{
  float v[8];
  BT_UNROLLED(j, 8)
    if (j < count) {
      v[j] = x[j * gap];
      BT_ORDER_VALUE(v[j]);
    }
  BT_UNROLLED(q, 2)
    if (4 * q < count) {
      const float u[4] = {w, w, w, w};
      bt_block_some(bt_min(4, count - 4 * q), s + 4 * q, u, v + 4 * q);
    }
}

/* The same for those of the results whose sample, the first of which lies at time `first` and `at`
 * behind m.x, is inside. */
BT_KERNEL void bt_block_few_clipped(bt_conv_sum m, int count, int first, float w, ptrdiff_t at,
                                    float s[8])
{
  BT_UNROLLED(j, 8)
    if (j < count && first + j * m.gap >= 0 && first + j * m.gap < m.times)
      s[j] = bt_fma(w, m.x[at + j * m.gap], s[j]);
}

/* The same of n taps of which some leave the input. */
BT_KERNEL void bt_block_few_edge(bt_conv_sum m, int count, int n, int first, const float *w,
                                 ptrdiff_t at, float s[8])
{
  const int step = m.step;
  const bt_conv_span whole = bt_conv_within(first, step, n, m.times - (count - 1) * m.gap);
  const int eights = (whole.end - whole.from) / 8 * 8;
  int k = 0;
  for (; k < whole.from; k++)
    bt_block_few_clipped(m, count, first + k * step, w[k], at + k * step, s);
  if (eights > 0)
    bt_block_few(count, eights, w + k, m.x + (at + k * step), step, m.gap, s);
  BT_UNROLL_ALL_TERMS
  for (k += eights; k < whole.end; k++)
    bt_block_few_tap(count, w[k], m.x + (at + k * step), m.gap, s);
  for (; k < n; k++)
    bt_block_few_clipped(m, count, first + k * step, w[k], at + k * step, s);
}

/* Joins the sums of `count` results in each of some leaves, one or more, which follow each other, to
 * those at y. */
BT_KERNEL void bt_block_few_leaves(int count, int leaves, const float *w, const float *x, int step,
                                   int gap, float *y)
{
  float total[8];
  BT_UNROLLED(j, 8)
    total[j] = j < count ? y[j] : 0.0f;
  for (;; w += BT_LEAF, x += BT_LEAF * step) {
    float s[8] = {0.0f};
    bt_block_few(count, BT_LEAF, w, x, step, gap, s);
    bt_block_join(8, total, s);
    if (--leaves == 0)
      break;
  }
  BT_UNROLLED(j, 8)
    if (j < count)
      y[j] = total[j];
}

/* `count` results from the n-th on, up to eight, of which those before the `done`-th are there.
 * `slides`: eight, whose samples slide through registers. */
BT_KERNEL void bt_conv_leaf_tile(bt_conv_sum m, int slides, int n, int count, int done)
{
  const int at = m.first + n * m.gap;
  const int whole = bt_conv_within(at, m.step, m.taps, m.times - (count - 1) * m.gap).end;
  float *const y = m.y + n, total[8];
  BT_UNROLLED(j, 8)
    total[j] = slides ? y[j] : 0.0f;
  for (int k = 0, leaves; k < m.taps; k += bt_max(1, leaves) * BT_LEAF) {
    const int first = at + k * m.step;
    leaves = first >= 0 ? (whole - k) / BT_LEAF : 0; /* no tap of which is outside */
    leaves = m.rows > 1 ? bt_min(leaves, 1) : leaves; /* the rows of a leaf are joined in order */
    for (int h = 0; h < m.rows; h++) {
      const float *w = m.w + h * m.w_row + k, *x = m.x;
      const ptrdiff_t row = m.x_at + h * m.x_row, from = row + n * m.gap + k * m.step;
      BT_OPAQUE_POINTER(w); /* compilers would advance a pointer per tap from leaf to leaf */
      if (leaves > 0) {
        x += from;
        BT_OPAQUE_POINTER(x);
      }
      if (leaves > 0 && slides)
        bt_block_slide_leaves(total, leaves, w, x);
      else if (leaves > 0)
        bt_block_few_leaves(count, leaves, w, x, m.step, m.gap, y);
      else {
        const int taps = bt_min(BT_LEAF, m.taps - k);
        float s[8] = {0.0f};
        if (slides)
          bt_block_edge(s, taps, w,
                        (bt_block_row){x, row - m.first, first, 1, -first, m.times - first});
        else
          bt_block_few_edge(m, count, taps, first, w, from, s);
        bt_block_join(count, slides ? total : y, s);
      }
    }
  }
  BT_UNROLLED(j, 8)
    if (slides && j >= done)
      y[j] = total[j];
}

/* Results [from, n) of `outs` outputs by `ins` inputs, one result after the other; the step is
 * 1. */
BT_KERNEL void bt_conv_leaf_dots(bt_conv_sum m, int outs, int ins, int from, int n)
{
  for (int k = 0; k < m.taps; k += BT_LEAF)
    for (int j = from; j < n; j++) {
      const int first = m.first + j * m.gap + k;
      const bt_conv_span t = bt_conv_within(first, 1, bt_min(BT_LEAF, m.taps - k), m.times);
      for (int h = 0; h < m.rows && t.from < t.end; h++) {
        bt_conv_sum leaf = m;
        leaf.taps = t.end - t.from;
        leaf.w += h * m.w_row + k + t.from;
        leaf.x += m.x_at + h * m.x_row + j * m.gap + k + t.from;
        leaf.y += j;
        bt_block_dots_all(leaf, outs, ins);
      }
    }
}

/* n results of one output, in memory. */
BT_KERNEL void bt_conv_leaf_rows(bt_conv_sum m, int n)
{
  float sums[BT_CONV_SUMS] = {0.0f};
  for (int k = 0; k < m.taps; k += BT_LEAF)
    for (int from = 0; from < n; from += BT_CONV_SUMS)
      for (int h = 0; h < m.rows; h++) {
        const int at = from * m.gap + k * m.step, count = bt_min(BT_CONV_SUMS, n - from);
        bt_conv_leaf_row(m, bt_min(BT_LEAF, m.taps - k), m.first + at, count,
                         m.w + h * m.w_row + k, m.x_at + h * m.x_row + at, sums);
        for (int j = 0; j < count; j++)
          BT_JOIN_LEAF(m.y[from + j], sums[j]);
      }
}

/* n results of one output in tiles: the first `slid` of them slide, the last tile of them back
 * to where it ends with them. */
BT_KERNEL void bt_conv_leaf_tiles(bt_conv_sum m, int slid, int n, int rest)
{
  for (int k = 0; k < slid; k += BT_TILE_OUTPUTS) {
    const int at = bt_min(k, slid - BT_TILE_OUTPUTS);
    bt_conv_leaf_tile(m, 1, at, BT_TILE_OUTPUTS, k - at);
  }
  for (int k = slid; k + BT_TILE_OUTPUTS <= n; k += BT_TILE_OUTPUTS)
    bt_conv_leaf_tile(m, 0, k, BT_TILE_OUTPUTS, 0);
  if (rest > 0 && slid < n)
    bt_conv_leaf_tile(m, 0, n - rest, rest, 0);
}

#if BT_VECTOR

/* Results in vectors; with AVX-512, up to eight of two inputs each in one. */
BT_KERNEL void bt_conv_leaf_vectors(bt_conv_sum m, int outs, int ins, int n)
{
  for (int i = 0, count; i < ins; i += count) {
    count = BT_VECTOR == 16 && n <= 8 && i + 1 < ins ? 2 : 1;
    bt_conv_sum some = m;
    some.x_at += i * m.x_in;
    some.y += i * m.y_in;
    some.x_in = count == 2 ? m.x_in : 0;
    bt_vec_leaf_sums(&some, outs, n);
  }
}

/* One result of each input: the lanes are inputs, their samples of a leaf transposed. */
BT_KERNEL void bt_conv_leaf_inputs(bt_conv_sum m, int outs, int ins)
{
  float turned[BT_LEAF * BT_VECTOR];
  for (int i = 0; i < ins; i += BT_VECTOR)
    for (int k = 0; k < m.taps; k += BT_LEAF) {
      const int taps = bt_min(BT_LEAF, m.taps - k), count = bt_min(BT_VECTOR, ins - i);
      for (int l = 0; l < BT_VECTOR; l++) {
        const float *from = m.x + (m.x_at + (i + (l < count ? l : 0)) * m.x_in + k);
        for (int t = 0; t < taps; t++)
          turned[t * BT_VECTOR + l] = from[t];
      }
      const bt_conv_sum leaf = {.rows = 1, .taps = taps, .step = BT_VECTOR, .gap = 1,
                                .times = BT_VECTOR * taps, .w = m.w + k, .w_out = m.w_out,
                                .x = turned, .y = m.y + i, .y_out = m.y_out};
      bt_vec_leaf_sums(&leaf, outs, count);
    }
}

#endif

/* n results of `outs` outputs by `ins` inputs, leaf by leaf from the first tap on. */
BT_KERNEL void bt_conv_leaf_sums(bt_conv_sum m, int outs, int ins, int n)
{
  const int product = m.inside && n == 1 && m.rows == 1 && m.step == 1;
#if BT_VECTOR
  if (m.step == 1 && m.gap == 1) {
    if (product && m.y_in == 1)
      bt_conv_leaf_inputs(m, outs, ins);
    else
      bt_conv_leaf_vectors(m, outs, ins, n);
    return;
  }
#endif
  if (product && BT_SCALAR_TILES) {
    bt_block_dots_leaf_by_leaf(bt_conv_settled(m), outs, ins);
    return;
  }
  const int rest = n % BT_TILE_OUTPUTS;
  const int slides =
      m.gap == 1 && m.step == 1 && m.times >= BT_SLIDE_SAMPLES && n >= BT_TILE_OUTPUTS;
  const int slid = !slides ? 0 : rest > 5 ? n : n - rest; /* few results are a tile of their own */
  const int dots = BT_SCALAR_TILES && m.step == 1 && outs >= 4 && ins >= 4;
  for (int o = 0; o < outs; o++)
    for (int i = 0; i < ins; i++) {
      bt_conv_sum one = bt_conv_from(m, o);
      one.x_at += i * m.x_in;
      one.y += i * m.y_in;
      if (BT_SCALAR_TILES)
        bt_conv_leaf_tiles(one, slid, dots ? slid : n, rest);
      else
        bt_conv_leaf_rows(one, n);
    }
  if (slid < n && dots)
    bt_conv_leaf_dots(m, outs, ins, slid, n);
}

#endif
