/* SPDX-License-Identifier: Apache-2.0 */
/* Tiles of a convolution's results in vector registers: the sums of bt_conv_sum.h with gap 1.
 * Lanes are neighbouring results, so that a sum runs in the order written; samples outside the
 * row are skipped lane by lane. */
#ifndef BT_CONV_VECTOR_H
#define BT_CONV_VECTOR_H

#include "bt_conv_slide.h"
#include "bt_conv_sum.h"

#if BT_VECTOR

/* `n` results of `outs` outputs. Some results are computed twice, by two tiles. */
BT_VECTOR_OUTLINED void bt_vec_sums(const bt_conv_sum *sum, int outs, int n);
/* The same in leaves of BT_LEAF taps, each of which is joined to y; with AVX-512 also for two
 * inputs at once, of up to 8 results each. */
BT_VECTOR_OUTLINED void bt_vec_leaf_sums(const bt_conv_sum *sum, int outs, int n);

#if BT_VECTOR_LINKAGE

/* Vectors of a tile of four outputs: as many sums as registers hold. */
#define BT_VEC_WIDE (BT_VECTOR == 16 ? 4 : 2)

/* What the lanes of a tile are: samples that outputs share, samples of each output, or the
 * samples of two inputs in the two halves. */
#define BT_VEC_SHARED 0
#define BT_VEC_OWN 1
#define BT_VEC_TWO 2

/* Masked lanes of memory; of two inputs the upper half is `two` floats behind the lower one. */
BT_VECTOR_KERNEL bt_vec bt_vec_load(const float *x, const int lanes, ptrdiff_t two, bt_mask mask)
{
#if BT_VECTOR == 16
  if (lanes == BT_VEC_TWO)
    return _mm512_mask_loadu_ps(bt_vec_at_masked(x, mask & 0xff), mask & 0xff00,
                                bt_address(x, two - 8));
#endif
  (void)lanes, (void)two;
  return bt_vec_at_masked(x, mask);
}

BT_VECTOR_KERNEL void bt_vec_store(float *y, bt_vec sum, const int lanes, ptrdiff_t two, bt_mask mask)
{
#if BT_VECTOR == 16
  if (lanes == BT_VEC_TWO) {
    bt_vec_to_masked(bt_address_to(y, two - 8), sum, mask & 0xff00);
    mask &= 0xff;
  }
#endif
  (void)lanes, (void)two;
  bt_vec_to_masked(y, sum, mask);
}

/* Taps [k, end) of one row, all lanes inside; `all` says which of them are used. `falls`: the
 * step may be negative. The sample of lane 0 and k = 0 lies x behind m->x, here and below. */
BT_VECTOR_KERNEL void bt_vec_inside(const bt_conv_sum *m, bt_vec *s, const int outs, const int lanes,
                                    const int vecs, const int full, const int falls,
                                    const bt_mask *all, int k, int end, const float *w,
                                    ptrdiff_t x)
{
  (void)falls;
#if BT_VECTOR == 16
  const int sixteens = (end - k) / 16, one_step = m->step == 1 || (falls && m->step == -1);
  if (full && outs * vecs >= 4 && vecs > 1 && sixteens > 0 && one_step) {
    const float *from = m->x + (x + (ptrdiff_t)k * m->step);
    (outs == 4   ? bt_vec_slide_4_2
     : outs == 2 ? bt_vec_slide_2_4
     : vecs == 4 ? bt_vec_slide_1_4
                 : bt_vec_slide_1_8)(s, m->step < 0, sixteens, w + k, m->w_out, from, m->x_out);
    k += 16 * sixteens;
  }
#endif
  for (; k < end; k++) {
    const float *from = m->x + (x + (ptrdiff_t)k * m->step);
    bt_vec v[8];
    BT_VECTOR_UNROLL for (int o = 0; o < outs; o++) {
      const bt_vec weight = bt_vec_of(w[o * m->w_out + k]);
      if (lanes == BT_VEC_OWN || !o)
        BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
          v[j] = full ? bt_vec_at(from + o * m->x_out + BT_VECTOR * j)
                      : bt_vec_load(bt_address(from, o * m->x_out + BT_VECTOR * j), lanes,
                                    m->x_in, all[j]);
      BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
        s[o * vecs + j] = bt_vec_fma(weight, v[j], s[o * vecs + j]);
    }
  }
}

/* Taps of which masks are made once for all rows. */
#define BT_VEC_EDGES (BT_VECTOR == 16 ? 16 : 1)

/* The same lanes in both halves, of two inputs. */
BT_VECTOR_KERNEL void bt_vec_halves(bt_mask *masks, const int lanes)
{
#if BT_VECTOR == 16
  if (lanes == BT_VEC_TWO)
    masks[0] = (bt_mask)(masks[0] * 0x101);
#endif
  (void)masks, (void)lanes;
}

/* Lanes of tap k that are inside, where the sample of lane 0 and k = 0 lies at time `first`. */
BT_VECTOR_KERNEL void bt_vec_lanes(const bt_conv_sum *m, bt_mask *masks, const int lanes,
                                   const int vecs, int n, int first, int k)
{
  const int at = first + k * m->step;
  bt_vec_masks(masks, vecs, -at, bt_min(n, m->times - at));
  bt_vec_halves(masks, lanes);
}

/* The same as bt_vec_inside where lanes may be outside; `edges` has the masks of the first taps. */
BT_VECTOR_KERNEL void bt_vec_edge(const bt_conv_sum *m, bt_vec *s, const int outs, const int lanes,
                                  const int vecs, int n, const bt_mask *edges, int first, int k,
                                  int end, const float *w, ptrdiff_t x)
{
  for (; k < end; k++) {
    const float *from = bt_address(m->x, x + (ptrdiff_t)k * m->step);
    bt_mask masks[8];
    bt_vec v[8];
    if (edges && k < BT_VEC_EDGES)
      BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
        masks[j] = edges[k * vecs + j];
    else {
      const int at = first + k * m->step;
      if (-at >= n || m->times - at <= 0)
        continue;
      bt_vec_lanes(m, masks, lanes, vecs, n, first, k);
    }
    BT_VECTOR_UNROLL for (int o = 0; o < outs; o++) {
      const bt_vec weight = bt_vec_of(w[o * m->w_out + k]);
      if (lanes == BT_VEC_OWN || !o)
        BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
          v[j] = bt_vec_load(bt_address(from, o * m->x_out + BT_VECTOR * j), lanes, m->x_in,
                             masks[j]);
      BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
        s[o * vecs + j] = bt_vec_fma_masked(weight, v[j], s[o * vecs + j], masks[j]);
    }
  }
}

/* Taps of a row, `n` lanes used. */
BT_VECTOR_KERNEL void bt_vec_row(const bt_conv_sum *m, bt_vec *s, const int outs, const int lanes,
                                 const int vecs, const int falls, int n, const bt_mask *all,
                                 const bt_mask *edges, int first, int taps, const float *w,
                                 ptrdiff_t x)
{
  /* taps [lo, hi) have all lanes inside */
  const int up = m->step > 0, step = up ? m->step : -m->step;
  const int a = up ? -first : first + n - m->times, b = up ? m->times - n - first : first;
  const int lo = a <= 0 ? 0 : bt_min(taps, step == 1 ? a : bt_ceil_div(a, step));
  const int hi = bt_max(lo, bt_min(taps, (step == 1 ? b : bt_floor_div(b, step)) + 1));
  const int clips = outs == 1 && vecs >= 4 && n == vecs * BT_VECTOR && step == 1 && m->times >= n;
  for (int side = 0; side < 2; side++) {
    if (clips)
      bt_vec_clips(s, vecs, first, m, side ? hi : 0, side ? taps : lo, w, x);
    else
      bt_vec_edge(m, s, outs, lanes, vecs, n, edges, first, side ? hi : 0, side ? taps : lo, w, x);
    if (side)
      break;
    if (lanes != BT_VEC_TWO && (outs == 1 || lanes == BT_VEC_OWN) && n == vecs * BT_VECTOR)
      bt_vec_inside(m, s, outs, lanes, vecs, 1, falls, all, lo, hi, w, x);
    else
      bt_vec_inside(m, s, outs, lanes, vecs, 0, falls, all, lo, hi, w, x);
  }
}

/* `n` results from `at` on of `outs` outputs, in outs x vecs registers. */
BT_VECTOR_KERNEL void bt_vec_block_of(const bt_conv_sum *m, int at, int n, const int outs,
                                      const int lanes, const int vecs)
{
  bt_vec s[16];
  bt_mask all[8], edges[8 * BT_VEC_EDGES];
  bt_vec_masks(all, vecs, 0, n);
  const int many = BT_VECTOR == 16 && m->terms * m->rows > 1 && m->taps > 1;
  for (int k = 0; k < m->taps && k < BT_VEC_EDGES && many; k++)
    bt_vec_lanes(m, &edges[k * vecs], lanes, vecs, n, m->first + at, k);
  BT_VECTOR_UNROLL for (int o = 0; o < outs; o++)
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      s[o * vecs + j] = bt_vec_of(m->b ? m->b[o] : 0.0f);
  const int flat = m->taps == 1 && m->first + at >= 0 && m->first + at + n <= m->times;
  if (flat) /* one tap, which all lanes have */
    BT_CONV_EACH_ROW(*m, i, h)
      bt_vec_inside(m, s, outs, lanes, vecs, 0, 0, all, 0, 1, m->w + i * m->w_term + h * m->w_row,
                    m->x_at + i * m->x_term + h * m->x_row + at);
  else
    BT_CONV_EACH_ROW(*m, i, h)
      bt_vec_row(m, s, outs, lanes, vecs, 1, n, all, many ? edges : NULL, m->first + at, m->taps,
                 m->w + i * m->w_term + h * m->w_row,
                 m->x_at + i * m->x_term + h * m->x_row + at);
  BT_VECTOR_UNROLL for (int o = 0; o < outs; o++)
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      bt_vec_to_masked(bt_address_to(m->y, o * m->y_out + at + BT_VECTOR * j), s[o * vecs + j],
                       all[j]);
}

BT_VECTOR_KERNEL void bt_vec_block(const bt_conv_sum *m, int at, int n, const int outs, const int vecs)
{
  bt_vec_block_of(m, at, n, outs, BT_VEC_SHARED, vecs);
}

BT_VECTOR_KERNEL void bt_vec_own(const bt_conv_sum *m, int at, int n, const int outs, const int vecs)
{
  bt_vec_block_of(m, at, n, outs, BT_VEC_OWN, vecs);
}

/* The same for sums in leaves. */
BT_VECTOR_KERNEL void bt_vec_leaves_of(const bt_conv_sum *m, int at, int n, const int outs,
                                       const int lanes, const int vecs)
{
  bt_vec s[8], total[8];
  bt_mask all[8];
  bt_vec_masks(all, vecs, 0, n);
  bt_vec_halves(all, lanes);
  BT_VECTOR_UNROLL for (int o = 0; o < outs; o++)
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      total[o * vecs + j] =
          bt_vec_load(bt_address(m->y, o * m->y_out + at + BT_VECTOR * j), lanes, m->y_in, all[j]);
  for (int k = 0; k < m->taps; k += BT_LEAF) {
#if BT_VECTOR == 16
    if (outs == 1 && vecs >= 4 && m->step == 1 && m->rows == 1 && n == vecs * BT_VECTOR &&
        m->first + at + k >= 0) {
      const int inside = bt_min(m->times - (m->first + at) - n + 1, m->taps) - k; /* taps */
      const int leaves = bt_max(inside, 0) / BT_LEAF;
      (vecs == 4 ? bt_vec_slide_leaves_4
                 : bt_vec_slide_leaves_8)(total, leaves, m->w + k,
                                          leaves > 0 ? m->x + (m->x_at + at + k) : m->x);
      k += leaves * BT_LEAF;
      if (k >= m->taps)
        break;
    }
#endif
    for (int h = 0; h < m->rows; h++) {
      BT_VECTOR_UNROLL for (int j = 0; j < outs * vecs; j++)
        s[j] = bt_vec_of(0.0f);
      bt_vec_row(m, s, outs, lanes, vecs, 0, n, all, NULL, m->first + at + k * m->step,
                 bt_min(BT_LEAF, m->taps - k), m->w + h * m->w_row + k,
                 m->x_at + h * m->x_row + (ptrdiff_t)k * m->step + at);
      BT_VECTOR_UNROLL for (int j = 0; j < outs * vecs; j++)
        BT_JOIN_LEAF(total[j], s[j]);
    }
  }
  BT_VECTOR_UNROLL for (int o = 0; o < outs; o++)
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      bt_vec_store(bt_address_to(m->y, o * m->y_out + at + BT_VECTOR * j), total[o * vecs + j],
                   lanes, m->y_in, all[j]);
}

BT_VECTOR_KERNEL void bt_vec_leaves(const bt_conv_sum *m, int at, int n, const int outs, const int vecs)
{
  bt_vec_leaves_of(m, at, n, outs, BT_VEC_SHARED, vecs);
}

BT_VECTOR_KERNEL void bt_vec_two(const bt_conv_sum *m, int at, int n, const int outs, const int vecs)
{
  bt_vec_leaves_of(m, at, n, outs, BT_VEC_TWO, vecs);
}

#define BT_VEC_SHAPE(kind, outs, vecs)                                                             \
  BT_OUTLINED void bt_vec_##kind##_##outs##_##vecs(const bt_conv_sum *m, int at, int n)            \
  {                                                                                                \
    bt_vec_##kind(m, at, n, outs, vecs);                                                           \
  }

BT_VEC_SHAPE(block, 1, 1)
BT_VEC_SHAPE(block, 1, 4)
BT_VEC_SHAPE(block, 1, 8)
BT_VEC_SHAPE(block, 4, 1)
BT_VEC_SHAPE(block, 4, 2)
BT_VEC_SHAPE(block, 4, 4)
BT_VEC_SHAPE(block, 8, 1)
BT_VEC_SHAPE(own, 2, 4)
BT_VEC_SHAPE(own, 4, 2)
BT_VEC_SHAPE(own, 8, 1)
BT_VEC_SHAPE(leaves, 1, 1)
BT_VEC_SHAPE(leaves, 1, 4)
BT_VEC_SHAPE(leaves, 1, 8)
BT_VEC_SHAPE(leaves, 4, 1)
BT_VEC_SHAPE(leaves, 8, 1)
#if BT_VECTOR == 16
BT_VEC_SHAPE(two, 1, 1)
BT_VEC_SHAPE(two, 4, 1)
BT_VEC_SHAPE(two, 8, 1)
#endif

/* Outputs with samples of their own, of which one alone would not fill the registers. */
static void bt_vec_narrow_sums(const bt_conv_sum *sum, int outs, int n)
{
  const int together = n <= BT_VECTOR ? 8 : n <= 2 * BT_VECTOR ? 4 : 2;
  for (int o = 0; o < outs; o += together) {
    const bt_conv_sum m = bt_conv_from(*sum, bt_min(o, outs - together));
    if (together == 8)
      bt_vec_own_8_1(&m, 0, n);
    else if (together == 4)
      bt_vec_own_4_2(&m, 0, n);
    else
      bt_vec_own_2_4(&m, 0, n);
  }
}

void bt_vec_sums(const bt_conv_sum *sum, int outs, int n)
{
  if (sum->x_out && n <= 4 * BT_VECTOR && outs >= 8) {
    bt_vec_narrow_sums(sum, outs, n);
    return;
  }
  for (int o = 0; o < outs;) {
    const int rest = outs - o;
    const int together = sum->x_out ? 1 : rest >= 8 && n <= BT_VECTOR ? 8 : outs >= 4 ? 4 : 1;
    const int most = together == 8 ? 1 : together == 4 ? BT_VEC_WIDE : 8;
    const bt_conv_sum m = bt_conv_from(*sum, o - bt_max(0, together - rest));
    for (int t = 0; t < n;) {
      int vecs = most;
      while (vecs > 1 && vecs / 2 * BT_VECTOR >= n - t)
        vecs /= 2;
      vecs = together == 1 && vecs == 2 ? 4 : vecs;
      const int width = vecs * BT_VECTOR, at = n >= width ? bt_min(t, n - width) : t;
      const int count = bt_min(width, n - at);
      if (together == 8)
        bt_vec_block_8_1(&m, at, count);
      else if (together == 4 && vecs == 4)
        bt_vec_block_4_4(&m, at, count);
      else if (together == 4 && vecs == 2)
        bt_vec_block_4_2(&m, at, count);
      else if (together == 4)
        bt_vec_block_4_1(&m, at, count);
      else if (vecs == 8)
        bt_vec_block_1_8(&m, at, count);
      else if (vecs == 4)
        bt_vec_block_1_4(&m, at, count);
      else
        bt_vec_block_1_1(&m, at, count);
      t += width;
    }
    o += together;
  }
}

void bt_vec_leaf_sums(const bt_conv_sum *sum, int outs, int n)
{
  for (int o = 0; o < outs;) {
    const int together = outs - o >= 8 ? 8 : outs - o >= 4 ? 4 : 1;
    const bt_conv_sum m = bt_conv_from(*sum, o);
    o += together;
#if BT_VECTOR == 16
    if (m.x_in) {
      (together == 8 ? bt_vec_two_8_1 : together == 4 ? bt_vec_two_4_1 : bt_vec_two_1_1)(&m, 0, n);
      continue;
    }
#endif
    for (int t = 0; t < n;) {
      const int vecs = together > 1 || n - t <= BT_VECTOR ? 1 : n - t <= 4 * BT_VECTOR ? 4 : 8;
      const int count = bt_min(vecs * BT_VECTOR, n - t);
      if (together == 8)
        bt_vec_leaves_8_1(&m, t, count);
      else if (together == 4)
        bt_vec_leaves_4_1(&m, t, count);
      else if (vecs == 8)
        bt_vec_leaves_1_8(&m, t, count);
      else if (vecs == 4)
        bt_vec_leaves_1_4(&m, t, count);
      else
        bt_vec_leaves_1_1(&m, t, count);
      t += vecs * BT_VECTOR;
    }
  }
}

#endif

#endif

#endif
