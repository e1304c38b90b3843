/* SPDX-License-Identifier: Apache-2.0 */
/* The sums of a convolution (bt_conv_sum.h) in little code: one body for all three passes, which
 * takes its geometry at run time. It replaces bt_conv_nest.h and bt_conv_leaf.h where
 * BT_CONV_SMALL is 1; terms are added in the same order, so the bits are the same. */
#ifndef BT_CONV_SMALL_H
#define BT_CONV_SMALL_H

#if BT_CONV_SMALL
#include "bt_conv_block.h"
#include "bt_conv_sum.h"

/* Results of a tile, whose sums are in registers. */
#define BT_SMALL_OUTPUTS 8

/* What becomes of the sums: they are stored, join what is there as those of a leaf, or begin with
 * what is there. */
enum { BT_SMALL_STORES,
       BT_SMALL_JOINS,
       BT_SMALL_CONTINUES };

/* From here on m->x is the address of the sample of result 0 and tap 0, which may lie in the padding:
 * what is read is found from it by bt_address. */
BT_KERNEL void bt_small_settle(bt_conv_sum *m)
{
  m->x = bt_address(m->x, m->x_at);
  m->x_at = 0;
}

/* s[j] += w v[j] for j in [from, end) of eight neighbours; not empty. v may lie in the padding. */
BT_KERNEL void bt_small_some(float s[BT_SMALL_OUTPUTS], float w, const float *v, int from, int end)
{
#define BT_SMALL_NEXT(j) \
  s[j] = bt_fma(w, v[j], s[j]); \
  if (end == (j) + 1) \
    break; \
  BT_FALLTHROUGH;
  switch (from) {
  case 0:
    BT_SMALL_NEXT(0)
  case 1:
    BT_SMALL_NEXT(1)
  case 2:
    BT_SMALL_NEXT(2)
  case 3:
    BT_SMALL_NEXT(3)
  case 4:
    BT_SMALL_NEXT(4)
  case 5:
    BT_SMALL_NEXT(5)
  case 6:
    BT_SMALL_NEXT(6)
  default:
    s[7] = bt_fma(w, v[7], s[7]);
  }
#undef BT_SMALL_NEXT
}

/* The same of a tile of `count` neighbours, four or eight, for j from `low` on, which is not 0; and
 * for j before `high`, which is not `count`. */
#define BT_SMALL_CASE(number, j) \
  case number: \
    if ((j) < count) \
      s[j] = bt_fma(w, v[j], s[j]); \
    BT_FALLTHROUGH;
BT_KERNEL void bt_small_low(float s[BT_SMALL_OUTPUTS], int count, float w, const float *v, int low)
{
  switch (low) {
    BT_SMALL_CASE(1, 1)
    BT_SMALL_CASE(2, 2)
    BT_SMALL_CASE(3, 3)
    BT_SMALL_CASE(4, 4)
    BT_SMALL_CASE(5, 5)
    BT_SMALL_CASE(6, 6)
    BT_SMALL_CASE(7, 7)
  default:
    break;
  }
}

BT_KERNEL void bt_small_high(float s[BT_SMALL_OUTPUTS], int count, float w, const float *v, int high)
{
  switch (high) {
    BT_SMALL_CASE(7, 6)
    BT_SMALL_CASE(6, 5)
    BT_SMALL_CASE(5, 4)
    BT_SMALL_CASE(4, 3)
    BT_SMALL_CASE(3, 2)
    BT_SMALL_CASE(2, 1)
    BT_SMALL_CASE(1, 0)
  default:
    break;
  }
}
#undef BT_SMALL_CASE

/* s[j] += sum_k w[k] x[j + k] of four taps, or, `down`, x[j + 3 - k], for four or eight j. */
BT_KERNEL void bt_small_four(float s[BT_SMALL_OUTPUTS], int count, int down, const float *w,
                             const float *x)
{
  float v[12], u[4];
  BT_UNROLLED(j, 4)
      u[j] = w[j];
  BT_UNROLLED(j, 11)
    if (j < count + 3)
      v[j] = x[j];
  BT_ORDER_FOUR(u);
  BT_ORDER_FOUR(v);
  if (count > 4) {
    BT_ORDER_FOUR(v + 4);
    BT_ORDER_VALUE(v[8]);
  }
  BT_UNROLLED(k, 4)
    BT_UNROLLED(q, 2)
      if (4 * q < count) {
        const float *const z = v + (down ? 3 - k : k) + 4 * q;
        bt_block_four(s + 4 * q, u[k], z[0], z[1], z[2], z[3]);
        BT_COMPUTE_SUMS(s + 4 * q);
      }
}

/* s[j] += w x[j gap] of eight results. */
BT_KERNEL void bt_small_one(float s[BT_SMALL_OUTPUTS], int gap, float w, const float *x)
{
  float v[BT_SMALL_OUTPUTS];
  BT_UNROLLED(j, BT_SMALL_OUTPUTS) {
    if (j > 0)
      x += gap;
    v[j] = *x;
  }
  bt_block_tap(s, w, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]);
}

/* Where the sums of n results begin: with y, with the bias, or with 0. */
BT_KERNEL void bt_small_begin(const bt_conv_sum *m, const float *y, int n, int mode,
                              float s[BT_SMALL_OUTPUTS])
{
  const float start = m->b ? *m->b : 0.0f;
  BT_UNROLLED(j, BT_SMALL_OUTPUTS)
    s[j] = start;
  if (mode == BT_SMALL_CONTINUES)
    BT_UNROLLED(j, BT_SMALL_OUTPUTS)
      if (j < n) {
        if (j > 0)
          y += m->y_gap;
        s[j] = *y;
      }
}

BT_KERNEL void bt_small_end(const bt_conv_sum *m, float *y, int n, int mode,
                            const float s[BT_SMALL_OUTPUTS])
{
  if (mode == BT_SMALL_JOINS) {
    BT_UNROLLED(j, BT_SMALL_OUTPUTS)
      if (j < n) {
        if (j > 0)
          y += m->y_gap;
        BT_JOIN_LEAF(*y, s[j]);
      }
  } else {
    BT_UNROLLED(j, BT_SMALL_OUTPUTS)
      if (j < n) {
        if (j > 0)
          y += m->y_gap;
        *y = s[j];
      }
  }
}

/* n neighbours in tiles of `count`, four or eight; taps and weights are neighbours too: `step` is 1
 * or -1. A row has as many samples at least, so that a tap leaves it at one end only. The last tile
 * that stores begins where it ends with the row: it computes some results twice. Returns how many are
 * done. */
BT_KERNEL int bt_small_slide(const bt_conv_sum *m, int count, int step, int n, int mode)
{
  int t = 0;
  for (; t + count <= n || (mode == BT_SMALL_STORES && t < n); t += count) {
    t = bt_min(t, n - count);
    const int first = m->first + t, high = m->times - count - first;
    /* the taps [from, to) that all have */
    const int from = bt_min(m->taps, bt_max(0, step > 0 ? -first : -high));
    const int to = bt_max(from, bt_min(m->taps, (step > 0 ? high : first) + 1));
    float s[BT_SMALL_OUTPUTS], *const y = m->y + t * m->y_gap;
    const float *const tile = bt_address(m->x, t);
    bt_small_begin(m, y, count, mode, s);
    BT_CONV_EACH_ROW(*m, i, h) {
      const float *w = m->w + i * m->w_term + h * m->w_row;
      const float *x = bt_address(tile, i * m->x_term + h * m->x_row);
      for (int k = 0, at = first; k < from; k++, at += step, w++, x = bt_address(x, step))
        if (step > 0)
          bt_small_low(s, count, *w, x, -at);
        else
          bt_small_high(s, count, *w, x, m->times - at);
      int left = to - from;
      const int behind = step < 0 ? 3 : 0; /* the last of four taps has the first sample */
      for (x = bt_address(x, -behind); left >= 4; left -= 4) {
        bt_small_four(s, count, step < 0, w, x);
        w += 4, x = bt_address(x, 4 * step);
        BT_NEAR_POINTER(w);
        BT_NEAR_POINTER(x);
      }
      for (x = bt_address(x, behind); left > 0; left--, w++, x = bt_address(x, step)) {
        const float u = *w;
        bt_block_four(s, u, x[0], x[1], x[2], x[3]);
        if (count > 4)
          bt_block_four(s + 4, u, x[4], x[5], x[6], x[7]);
      }
      for (int k = to, at = first + to * step; k < m->taps;
           k++, at += step, w++, x = bt_address(x, step))
        if (step > 0)
          bt_small_high(s, count, *w, x, m->times - at);
        else
          bt_small_low(s, count, *w, x, -at);
    }
    bt_small_end(m, y, count, mode, s);
  }
  return t;
}

BT_OUTLINED int bt_small_rising(const bt_conv_sum *m, int n, int mode)
{
  return bt_small_slide(m, 8, 1, n, mode);
}

BT_OUTLINED int bt_small_falling(const bt_conv_sum *m, int n, int mode)
{
  return bt_small_slide(m, 8, -1, n, mode);
}

BT_OUTLINED int bt_small_rising_four(const bt_conv_sum *m, int n, int mode)
{
  return bt_small_slide(m, 4, 1, n, mode);
}

/* n results from the t-th on: eight that have every tap; or up to eight neighbours. */
BT_OUTLINED void bt_small_tile(const bt_conv_sum *m, int t, int n, int mode)
{
  const int first = m->first + t * m->gap, clips = !m->inside && m->gap == 1;
  float s[BT_SMALL_OUTPUTS], *const y = m->y + t * m->y_gap;
  bt_small_begin(m, y, n, mode, s);
  BT_CONV_EACH_ROW(*m, i, h) {
    const float *const w = m->w + i * m->w_term + h * m->w_row;
    const float *x = bt_address(m->x, t * m->gap + i * m->x_term + h * m->x_row);
    ptrdiff_t tap = 0;
    int at = first;
    for (int left = m->taps; left > 0; left--, at += m->step, tap += m->w_tap) {
      const int lo = clips ? bt_max(0, -at) : 0, hi = clips ? bt_min(n, m->times - at) : n;
      if (hi - lo == BT_SMALL_OUTPUTS)
        bt_small_one(s, m->gap, w[tap], x);
      else if (lo < hi)
        bt_small_some(s, w[tap], x, lo, hi);
      x = bt_address(x, m->step);
    }
  }
  bt_small_end(m, y, n, mode, s);
}

/* Results [t, end) one by one. */
BT_OUTLINED void bt_small_singles(const bt_conv_sum *m, int t, int end, int mode)
{
  for (; t < end; t++) {
    const int at = t * m->gap;
    bt_conv_span k = {0, m->taps};
    if (!m->inside)
      k = bt_conv_within(m->first + at, m->step, m->taps, m->times);
    float *const y = m->y + t * m->y_gap;
    float sum = mode == BT_SMALL_CONTINUES ? *y : m->b ? *m->b : 0.0f;
    BT_CONV_EACH_ROW(*m, i, h) {
      const float *w = m->w + i * m->w_term + h * m->w_row;
      const ptrdiff_t from = i * m->x_term + h * m->x_row + at;
      for (int j = k.from; j < k.end; j++)
        sum = bt_fma(w[j * m->w_tap], *bt_address(m->x, from + j * m->step), sum);
    }
    if (mode == BT_SMALL_JOINS)
      BT_JOIN_LEAF(*y, sum);
    else
      *y = sum;
  }
}

/* n results of one output. */
BT_OUTLINED void bt_small_row(const bt_conv_sum *m, int n, int mode)
{
  int t = 0, end = n;
  if (m->gap == 1 && m->w_tap == 1 && !m->inside && n >= 4 &&
      m->times >= BT_SMALL_OUTPUTS) {
    if (m->step == -1 && n >= BT_SMALL_OUTPUTS)
      t = bt_small_falling(m, n, mode);
    else if (m->step == 1)
      t = n < BT_SMALL_OUTPUTS ? bt_small_rising_four(m, n, mode) : bt_small_rising(m, n, mode);
  } else if (m->gap > 1) {
    const bt_conv_span whole = bt_conv_whole(*m, 0, n, 0, m->taps);
    t = whole.from;
    end = t + (whole.end - t) / BT_SMALL_OUTPUTS * BT_SMALL_OUTPUTS;
    if (t > 0)
      bt_small_singles(m, 0, t, mode);
  }
  for (; t < end; t += BT_SMALL_OUTPUTS)
    bt_small_tile(m, t, bt_min(BT_SMALL_OUTPUTS, end - t), mode);
  if (end < n)
    bt_small_singles(m, end, n, mode);
}

/* n results of `outs` outputs, one or more. Where a term has one sample for a result, and no more is
 * outside, the rows or the terms are the taps. */
BT_KERNEL void bt_conv_sums(bt_conv_sum m, int outs, int n)
{
  if (m.inside && m.taps == 1) {
    const int rows = m.rows > 1;
    m.taps = rows ? m.rows : m.terms;
    m.step = (int)(rows ? m.x_row : m.x_term);
    m.w_tap = rows ? m.w_row : m.w_term;
    *(rows ? &m.rows : &m.terms) = 1;
  }
  bt_small_settle(&m);
  for (;;) {
    bt_small_row(&m, n, BT_SMALL_STORES);
    if (--outs <= 0)
      break;
    m.w += m.w_out;
    m.x = bt_address(m.x, m.x_out);
    m.y += m.y_out;
    m.b = m.b ? m.b + 1 : NULL;
  }
}

/* n results of one output, added to y. */
BT_KERNEL void bt_conv_add(bt_conv_sum m, int n)
{
  bt_small_settle(&m);
  bt_small_row(&m, n, BT_SMALL_CONTINUES);
}

/* n results of `outs` outputs by `ins` inputs, leaf by leaf from the first tap on. */
BT_OUTLINED void bt_small_leaves(bt_conv_sum *m, int outs, int ins, int n)
{
  const float *const w = m->w;
  const float *const x = m->x;
  float *const y = m->y;
  const int taps = m->taps, rows = m->rows, first = m->first, step = m->step;
  m->rows = 1;
  for (int o = 0; o < outs; o++)
    for (int i = 0; i < ins; i++) {
      m->y = y + o * m->y_out + i * m->y_in;
      for (int k = 0; k < taps; k += BT_LEAF) {
        m->taps = bt_min(BT_LEAF, taps - k);
        m->first = first + k * step;
        m->w = w + o * m->w_out + k;
        m->x = bt_address(x, i * m->x_in + k * step);
        for (int h = 0; h < rows; h++) {
          if (h > 0)
            m->w += m->w_row, m->x = bt_address(m->x, m->x_row);
          bt_small_row(m, n, BT_SMALL_JOINS);
        }
      }
    }
}

/* The same. Few results of an input, no tap of which is outside, share tiles with those of the
 * other inputs. */
BT_KERNEL void bt_conv_leaf_sums(bt_conv_sum m, int outs, int ins, int n)
{
  if (m.inside && n < ins && n < BT_SMALL_OUTPUTS) {
    const int inputs = ins, gap = m.gap;
    const ptrdiff_t y_gap = m.y_gap;
    ins = n, n = inputs;
    m.gap = (int)m.x_in, m.x_in = gap;
    m.y_gap = m.y_in, m.y_in = y_gap;
  }
  bt_small_settle(&m);
  bt_small_leaves(&m, outs, ins, n);
}

#endif
#endif
