/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of a convolution's outputs in vector registers. All three passes are one sum,
 *
 *   y[o][n] = b[o] + sum_i sum_h sum_k w[o][i][h][k] x[i][h][n + k step]
 *
 * forward step = dilation, for the input gradient step = -dilation, and for the weight gradient n
 * counts taps, k the samples of a leaf and w is dy. Lanes are neighbours n, so that a sum runs in the
 * order written; samples outside the row are skipped lane by lane. */
#ifndef BT_CONV_VECTOR_H
#define BT_CONV_VECTOR_H

#include "bt_vector.h"

#if BT_VECTOR

typedef struct bt_vec_sum {
  int terms, rows, taps, step;
  const float *w;
  ptrdiff_t w_out, w_term, w_row; /* from one to the next; w[k] follow each other */
  const float *x;                 /* sample of n = 0, k = 0, which lies at time `first` */
  ptrdiff_t x_term, x_row;
  int first, times; /* samples at times [0, times) are inside */
  const float *b;   /* one per output, or NULL for 0 */
  float *y;
  ptrdiff_t y_out;
} bt_vec_sum;

/* `n` results of `outs` outputs that share their samples. Blocks may make a result again. */
BT_VECTOR_PART void bt_vec_sums(const bt_vec_sum *sum, int outs, int n);
/* The same in leaves of BT_LEAF taps, the sum of each of which is added to y. */
BT_VECTOR_PART void bt_vec_leaf_sums(const bt_vec_sum *sum, int outs, int n);

#if BT_VECTOR_HERE

/* Vectors of a block of four outputs: as many sums as registers hold. */
#define BT_VEC_WIDE (BT_VECTOR == 16 ? 4 : 2)

#if BT_VECTOR == 16

/* Lanes from `shift` on of two vectors that follow each other: no memory is read again,
 * and a vector that lies across two cache lines costs two reads. */
#define BT_VEC_BETWEEN(a, b, shift)                                                                \
  ((shift) == 0 ? (a)                                                                              \
                : _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(b),                  \
                                                          _mm512_castps_si512(a), (shift))))

#define BT_VEC_TAP(i)                                                                              \
  {                                                                                                \
    const bt_vec weight = bt_vec_of(w[k + (i)]);                                                   \
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)                                                \
      s[j] = bt_vec_fma(weight,                                                                    \
                        down ? BT_VEC_BETWEEN(v[j], v[j + 1], 15 - (i))                            \
                             : BT_VEC_BETWEEN(v[j], v[j + 1], (i)),                                \
                        s[j]);                                                                     \
  }

/* s[j] += sum_k w[k] x[16 j + k], or x[16 j - k] where `down`, for sixteen taps at a time from k to
 * taps; returns the taps done. */
BT_VECTOR_KERNEL int bt_vec_slide(bt_vec *s, const int vecs, const int down, int k, int taps,
                           const float *w, const float *x)
{
  bt_some last;
  bt_vec_some(&last, 1, 0, 15);
  for (; k + 16 <= taps; k += 16) {
    const float *from = down ? x - k - 15 : x + k;
    bt_vec v[9];
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      v[j] = bt_vec_at(from + 16 * j);
    v[vecs] = bt_vec_at_some(from + 16 * vecs, last);
    BT_VEC_TAP(0)
    BT_VEC_TAP(1)
    BT_VEC_TAP(2)
    BT_VEC_TAP(3)
    BT_VEC_TAP(4)
    BT_VEC_TAP(5)
    BT_VEC_TAP(6)
    BT_VEC_TAP(7)
    BT_VEC_TAP(8)
    BT_VEC_TAP(9)
    BT_VEC_TAP(10)
    BT_VEC_TAP(11)
    BT_VEC_TAP(12)
    BT_VEC_TAP(13)
    BT_VEC_TAP(14)
    BT_VEC_TAP(15)
  }
  return k;
}

#endif

/* Taps [k, end) of one row, all lanes inside; `all` says which of them are used. `falls`: the step may
 * be negative. */
BT_VECTOR_KERNEL void bt_vec_inside(const bt_vec_sum *m, bt_vec *s, const int outs, const int vecs,
                             const int full, const int falls, const bt_some *all, int k, int end,
                             const float *w, const float *x)
{
  (void)falls;
#if BT_VECTOR == 16
  if (full && outs == 1 && vecs >= 4 && m->step == 1)
    k = bt_vec_slide(s, vecs, 0, k, end, w, x);
  if (full && outs == 1 && vecs >= 4 && falls && m->step == -1)
    k = bt_vec_slide(s, vecs, 1, k, end, w, x);
#endif
  for (; k < end; k++) {
    const float *from = x + (ptrdiff_t)k * m->step;
    bt_vec v[8];
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      v[j] = full ? bt_vec_at(from + BT_VECTOR * j)
                  : bt_vec_at_some(from + BT_VECTOR * j, all[j]);
    BT_VECTOR_UNROLL for (int o = 0; o < outs; o++) {
      const bt_vec weight = bt_vec_of(w[o * m->w_out + k]);
      BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
        s[o * vecs + j] = bt_vec_fma(weight, v[j], s[o * vecs + j]);
    }
  }
}

/* Taps of which masks are made once for all rows. */
#define BT_VEC_EDGES (BT_VECTOR == 16 ? 16 : 1)

/* Lanes of tap k that are inside, where the sample of lane 0 and k = 0 lies at time `first`. */
BT_VECTOR_KERNEL void bt_vec_lanes(const bt_vec_sum *m, bt_some *some, const int vecs, int n, int first,
                            int k)
{
  const int at = first + k * m->step;
  bt_vec_some(some, vecs, -at, bt_min(n, m->times - at));
}

/* The same as bt_vec_inside where lanes may be outside; `edges` has the masks of the first taps. */
BT_VECTOR_KERNEL void bt_vec_edge(const bt_vec_sum *m, bt_vec *s, const int outs, const int vecs, int n,
                           const bt_some *edges, int first, int k, int end, const float *w,
                           const float *x)
{
  for (; k < end; k++) {
    const float *from = x + (ptrdiff_t)k * m->step;
    bt_some some[8];
    bt_vec v[8];
    if (edges && k < BT_VEC_EDGES)
      BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
        some[j] = edges[k * vecs + j];
    else {
      const int at = first + k * m->step;
      if (-at >= n || m->times - at <= 0)
        continue;
      bt_vec_lanes(m, some, vecs, n, first, k);
    }
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      v[j] = bt_vec_at_some(from + BT_VECTOR * j, some[j]);
    BT_VECTOR_UNROLL for (int o = 0; o < outs; o++) {
      const bt_vec weight = bt_vec_of(w[o * m->w_out + k]);
      BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
        s[o * vecs + j] = bt_vec_fma_some(weight, v[j], s[o * vecs + j], some[j]);
    }
  }
}

/* Taps of a row, `n` lanes used. */
BT_VECTOR_KERNEL void bt_vec_row(const bt_vec_sum *m, bt_vec *s, const int outs, const int vecs,
                                 const int falls, int n,
                          const bt_some *all, const bt_some *edges, int first, int taps, const float *w, const float *x)
{
  /* taps [lo, hi) have all lanes inside */
  const int up = m->step > 0, step = up ? m->step : -m->step;
  const int a = up ? -first : first + n - m->times, b = up ? m->times - n - first : first;
  const int lo = a <= 0 ? 0 : bt_min(taps, step == 1 ? a : bt_ceil_div(a, step));
  const int hi = bt_max(lo, bt_min(taps, (step == 1 ? b : bt_floor_div(b, step)) + 1));
  for (int side = 0; side < 2; side++) {
    bt_vec_edge(m, s, outs, vecs, n, edges, first, side ? hi : 0, side ? taps : lo, w, x);
    if (side)
      break;
    if (outs == 1 && n == vecs * BT_VECTOR)
      bt_vec_inside(m, s, outs, vecs, 1, falls, all, lo, hi, w, x);
    else
      bt_vec_inside(m, s, outs, vecs, 0, falls, all, lo, hi, w, x);
  }
}

/* `n` results from `at` on of `outs` outputs, in outs x vecs registers. */
BT_VECTOR_KERNEL void bt_vec_block(const bt_vec_sum *m, int at, int n, const int outs, const int vecs)
{
  bt_vec s[16];
  bt_some all[8], edges[8 * BT_VEC_EDGES];
  bt_vec_some(all, vecs, 0, n);
  const int many = BT_VECTOR == 16 && m->terms * m->rows > 1;
  for (int k = 0; k < m->taps && k < BT_VEC_EDGES && many; k++)
    bt_vec_lanes(m, &edges[k * vecs], vecs, n, m->first + at, k);
  BT_VECTOR_UNROLL for (int o = 0; o < outs; o++)
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      s[o * vecs + j] = bt_vec_of(m->b ? m->b[o] : 0.0f);
  for (int i = 0; i < m->terms; i++)
    for (int h = 0; h < m->rows; h++)
      bt_vec_row(m, s, outs, vecs, 1, n, all, many ? edges : NULL, m->first + at, m->taps,
                 m->w + i * m->w_term + h * m->w_row, m->x + i * m->x_term + h * m->x_row + at);
  BT_VECTOR_UNROLL for (int o = 0; o < outs; o++)
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      bt_vec_to_some(m->y + o * m->y_out + at + BT_VECTOR * j, s[o * vecs + j], all[j]);
}

/* Of sums in leaves of BT_LEAF taps, each of which is added to what is there. */
BT_VECTOR_KERNEL void bt_vec_leaves(const bt_vec_sum *m, int at, int n, const int outs, const int vecs)
{
  bt_vec s[8], total[8];
  bt_some all[8];
  bt_vec_some(all, vecs, 0, n);
  BT_VECTOR_UNROLL for (int o = 0; o < outs; o++)
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      total[o * vecs + j] = bt_vec_at_some(m->y + o * m->y_out + at + BT_VECTOR * j, all[j]);
  for (int k = 0; k < m->taps; k += BT_LEAF)
    for (int h = 0; h < m->rows; h++) {
      BT_VECTOR_UNROLL for (int j = 0; j < outs * vecs; j++)
        s[j] = bt_vec_of(0.0f);
      bt_vec_row(m, s, outs, vecs, 0, n, all, NULL, m->first + at + k * m->step,
                 bt_min(BT_LEAF, m->taps - k), m->w + h * m->w_row + k,
                 m->x + h * m->x_row + (ptrdiff_t)k * m->step + at);
      BT_VECTOR_UNROLL for (int j = 0; j < outs * vecs; j++)
        total[j] = bt_vec_add(total[j], s[j]);
    }
  BT_VECTOR_UNROLL for (int o = 0; o < outs; o++)
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      bt_vec_to_some(m->y + o * m->y_out + at + BT_VECTOR * j, total[o * vecs + j], all[j]);
}

#define BT_VEC_SHAPE(kind, outs, vecs)                                                             \
  static __attribute__((noinline)) void bt_vec_##kind##_##outs##_##vecs(const bt_vec_sum *m, int at, int n)          \
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
BT_VEC_SHAPE(leaves, 1, 1)
BT_VEC_SHAPE(leaves, 1, 4)
BT_VEC_SHAPE(leaves, 1, 8)
BT_VEC_SHAPE(leaves, 4, 1)
BT_VEC_SHAPE(leaves, 8, 1)

void bt_vec_sums(const bt_vec_sum *sum, int outs, int n)
{
  for (int o = 0; o < outs;) {
    const int rest = outs - o;
    const int some = rest >= 8 && n <= BT_VECTOR ? 8 : outs >= 4 ? 4 : 1;
    const int most = some == 8 ? 1 : some == 4 ? BT_VEC_WIDE : 8;
    const int back = rest < some ? some - rest : 0;
    bt_vec_sum m = *sum;
    m.w += (o - back) * m.w_out;
    m.y += (o - back) * m.y_out;
    m.b = m.b ? m.b + (o - back) : NULL;
    for (int t = 0; t < n;) {
      int vecs = most;
      while (vecs > 1 && vecs / 2 * BT_VECTOR >= n - t)
        vecs /= 2;
      vecs = some == 1 && vecs == 2 ? 4 : vecs;
      const int width = vecs * BT_VECTOR, at = n >= width ? bt_min(t, n - width) : t;
      const int count = bt_min(width, n - at);
      if (some == 8)
        bt_vec_block_8_1(&m, at, count);
      else if (some == 4 && vecs == 4)
        bt_vec_block_4_4(&m, at, count);
      else if (some == 4 && vecs == 2)
        bt_vec_block_4_2(&m, at, count);
      else if (some == 4)
        bt_vec_block_4_1(&m, at, count);
      else if (vecs == 8)
        bt_vec_block_1_8(&m, at, count);
      else if (vecs == 4)
        bt_vec_block_1_4(&m, at, count);
      else
        bt_vec_block_1_1(&m, at, count);
      t += width;
    }
    o += some;
  }
}

void bt_vec_leaf_sums(const bt_vec_sum *sum, int outs, int n)
{
  for (int o = 0; o < outs;) {
    const int some = outs - o >= 8 ? 8 : outs - o >= 4 ? 4 : 1;
    bt_vec_sum m = *sum;
    m.w += o * m.w_out;
    m.y += o * m.y_out;
    for (int t = 0; t < n;) {
      const int vecs = some > 1 || n - t <= BT_VECTOR ? 1 : n - t <= 4 * BT_VECTOR ? 4 : 8;
      const int count = bt_min(vecs * BT_VECTOR, n - t);
      if (some == 8)
        bt_vec_leaves_8_1(&m, t, count);
      else if (some == 4)
        bt_vec_leaves_4_1(&m, t, count);
      else if (vecs == 8)
        bt_vec_leaves_1_8(&m, t, count);
      else if (vecs == 4)
        bt_vec_leaves_1_4(&m, t, count);
      else
        bt_vec_leaves_1_1(&m, t, count);
      t += vecs * BT_VECTOR;
    }
    o += some;
  }
}

#endif

/* Rows [from, end) of the kernel that meet a row of the input, where kernel row 0 meets row `top`. */
typedef struct bt_vec_reach {
  int from, end;
} bt_vec_reach;

BT_KERNEL bt_vec_reach bt_vec_reach_of(int top, int dilation, int kernel_rows, int rows)
{
  const int from = bt_min(kernel_rows, bt_max(0, bt_ceil_div(-top, dilation)));
  const int end = bt_min(kernel_rows, bt_floor_div(rows - 1 - top, dilation) + 1);
  return (bt_vec_reach){from, bt_max(from, end)};
}

/* Rows of the box that are row `h` of channels [first, last) of so many rows each: channels. */
BT_KERNEL bt_vec_reach bt_vec_channels(bt_box box, int rows, int h, int first, int last)
{
  const int from = bt_max(first, bt_ceil_div(box.r0 - h, rows));
  return (bt_vec_reach){from, bt_max(from, bt_min(last, bt_ceil_div(box.r1 - h, rows)))};
}

#endif

#endif
