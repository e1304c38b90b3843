/* SPDX-License-Identifier: Apache-2.0 */
/* Long sums of a convolution with a step of 1 or -1 in vector registers, for bt_conv_vector.h:
 * the taps inside the input sixteen at a time (AVX-512), and those that leave it at one end. */
#ifndef BT_CONV_SLIDE_H
#define BT_CONV_SLIDE_H

#include "bt_conv_sum.h"
#include "bt_vector.h"

#if BT_VECTOR && BT_VECTOR_LINKAGE

/* As bt_address: where lanes are stored of which some may be outside, and masked. */
BT_VECTOR_KERNEL float *bt_address_to(float *y, ptrdiff_t at)
{
  return (float *)((uintptr_t)y + (uintptr_t)at * sizeof *y);
}

#if BT_VECTOR == 16

/* Lanes from `shift` on of two vectors that follow each other. */
#define BT_VEC_BETWEEN(a, b, shift)                                                                \
  ((shift) == 0 ? (a)                                                                              \
                : _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(b),                  \
                                                          _mm512_castps_si512(a), (shift))))

#define BT_VEC_TAP(i)                                                                              \
  BT_VECTOR_UNROLL for (int o = 0; o < outs; o++) {                                                \
    const bt_vec weight = bt_vec_of(w[o * w_out + (i)]), *const u = v + o * 5;                     \
    const float *const at = from + o * x_out;                                                      \
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)                                                \
      s[o * vecs + j] =                                                                            \
          bt_vec_fma(weight,                                                                       \
                     j >= vecs / 2 ? bt_vec_at(at + 16 * j + (down ? 15 - (i) : (i)))              \
                     : down        ? BT_VEC_BETWEEN(u[j], u[j + 1], 15 - (i))                      \
                                   : BT_VEC_BETWEEN(u[j], u[j + 1], (i)),                          \
                     s[o * vecs + j]);                                                             \
  }

/* s[j] += sum_k w[k] x[16 j + k], or x[16 j - k] where `down`, of sixteen taps. A vector that
 * lies across two cache lines costs two reads; half of the vectors are shifted out of pairs of
 * registers instead, which uses other ports of the core, but not enough of them for all. */
BT_VECTOR_KERNEL void bt_vec_sixteen(bt_vec *s, const int outs, const int vecs, const int down,
                                     const float *w, ptrdiff_t w_out, const float *x,
                                     ptrdiff_t x_out)
{
  const float *from = down ? x - 15 : x;
  bt_vec v[20];
  BT_VECTOR_UNROLL for (int o = 0; o < outs; o++)
    BT_VECTOR_UNROLL for (int j = 0; j < 5; j++)
      if (j <= vecs / 2)
        v[o * 5 + j] = bt_vec_at(from + o * x_out + 16 * j);
  __asm__ volatile("" ::: "memory"); /* gcc would keep reads of one turn for the next, on the stack */
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

/* The same for `sixteens` times sixteen taps. */
BT_VECTOR_KERNEL void bt_vec_slide(bt_vec *sums, const int outs, const int vecs, const int down,
                                   int sixteens, const float *w, ptrdiff_t w_out, const float *x,
                                   ptrdiff_t x_out)
{
  bt_vec s[8];
  BT_VECTOR_UNROLL for (int j = 0; j < outs * vecs; j++)
    s[j] = sums[j];
  for (; sixteens > 0; sixteens--, w += 16, x = bt_address(x, down ? -16 : 16))
    bt_vec_sixteen(s, outs, vecs, down, w, w_out, x, x_out);
  BT_VECTOR_UNROLL for (int j = 0; j < outs * vecs; j++)
    sums[j] = s[j];
}

/* The sums of one output over some leaves, which follow each other, joined to `sums`; samples
 * rise. */
BT_VECTOR_KERNEL void bt_vec_slide_leaves(bt_vec *sums, const int vecs, int leaves, const float *w,
                                          const float *x)
{
  bt_vec total[8];
  BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
    total[j] = sums[j];
  for (; leaves > 0; leaves--) {
    bt_vec s[8];
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      s[j] = bt_vec_of(0.0f);
    for (const float *const end = w + BT_LEAF; w != end; w += 16, x += 16)
      bt_vec_sixteen(s, 1, vecs, 0, w, 0, x, 0);
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      BT_JOIN_LEAF(total[j], s[j]);
  }
  BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
    sums[j] = total[j];
}

#define BT_VEC_SLIDE_LEAVES(vecs)                                                                  \
  BT_OUTLINED void bt_vec_slide_leaves_##vecs(bt_vec *sums, int leaves, const float *w,                \
                                               const float *x)                                     \
  {                                                                                                \
    bt_vec_slide_leaves(sums, vecs, leaves, w, x);                                                 \
  }

BT_VEC_SLIDE_LEAVES(4)
BT_VEC_SLIDE_LEAVES(8)

#define BT_VEC_SLIDE(outs, vecs)                                                                   \
  BT_OUTLINED void bt_vec_slide_##outs##_##vecs(bt_vec *s, int down, int sixteens,                     \
                                                 const float *w, ptrdiff_t w_out, const float *x,  \
                                                 ptrdiff_t x_out)                                  \
  {                                                                                                \
    if (down)                                                                                      \
      bt_vec_slide(s, outs, vecs, 1, sixteens, w, w_out, x, x_out);                                \
    else                                                                                           \
      bt_vec_slide(s, outs, vecs, 0, sixteens, w, w_out, x, x_out);                                \
  }

BT_VEC_SLIDE(1, 4)
BT_VEC_SLIDE(1, 8)
BT_VEC_SLIDE(2, 4)
BT_VEC_SLIDE(4, 2)

#endif

/* sums[j] += sum_k w[k] x[BT_VECTOR j + k step] for `vecs` vectors inside the input; and the
 * same for `part`, the vector at `px` that lies across the end of the row, in the lanes from
 * `edge` on (`low`) or before it. The edge moves against the step. */
BT_VECTOR_KERNEL void bt_vec_clip(bt_vec *sums, const int vecs, bt_vec *part, int low, int edge,
                                  int step, int taps, const float *w, const float *x,
                                  const float *px)
{
  bt_vec s[8], last = *part;
  BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
    s[j] = sums[j];
  for (; taps > 0; taps--, w++, x = bt_address(x, step), px = bt_address(px, step), edge -= step) {
    const bt_vec weight = bt_vec_of(*w);
    bt_mask mask;
    bt_vec_masks(&mask, 1, low ? edge : 0, low ? BT_VECTOR : edge);
    BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
      s[j] = bt_vec_fma(weight, bt_vec_at(x + BT_VECTOR * j), s[j]);
    last = bt_vec_fma_masked(weight, bt_vec_at_masked(px, mask), last, mask);
  }
  BT_VECTOR_UNROLL for (int j = 0; j < vecs; j++)
    sums[j] = s[j];
  *part = last;
}

#define BT_VEC_CLIP(vecs)                                                                          \
  BT_OUTLINED void bt_vec_clip_##vecs(bt_vec *s, bt_vec *part, int low, int edge, int step,            \
                                       int taps, const float *w, const float *x, const float *px)  \
  {                                                                                                \
    bt_vec_clip(s, vecs, part, low, edge, step, taps, w, x, px);                                   \
  }

BT_VEC_CLIP(0)
BT_VEC_CLIP(1)
BT_VEC_CLIP(2)
BT_VEC_CLIP(3)
BT_VEC_CLIP(4)
BT_VEC_CLIP(5)
BT_VEC_CLIP(6)
BT_VEC_CLIP(7)

/* bt_vec_edge for one output with all lanes in use, a step of 1 or -1 and a row of at least as many
 * samples, so that a tap leaves it at one end only. */
BT_OUTLINED void bt_vec_clips(bt_vec *s, int vecs, int first, const bt_conv_sum *m, int k, int end,
                              const float *w, ptrdiff_t x)
{
  const int times = m->times, step = m->step;
  while (k < end) {
    const int at = first + k * step, low = at < 0;
    const int edge = bt_max(low ? -at : times - at, 0); /* the first lane inside, or behind */
    const int p = edge / BT_VECTOR, lane = edge % BT_VECTOR;
    const int taps = bt_min(end - k, step > 0 || (!low && at >= times) ? lane + 1 : BT_VECTOR - lane);
    const float *from = bt_address(m->x, x + (ptrdiff_t)k * step);
    const float *px = bt_address(from, BT_VECTOR * p);
    bt_vec *const part = s + p, *const rest = low ? part + 1 : s;
    switch (p >= vecs ? -1 : low ? vecs - 1 - p : p) {
#define BT_VEC_CLIPPED(count)                                                                      \
  case count:                                                                                      \
    bt_vec_clip_##count(rest, part, low, lane, step, taps, w + k, \
                         low ? bt_address(px, BT_VECTOR) : from, px); \
    break;
      BT_VEC_CLIPPED(0)
      BT_VEC_CLIPPED(1)
      BT_VEC_CLIPPED(2)
      BT_VEC_CLIPPED(3)
      BT_VEC_CLIPPED(4)
      BT_VEC_CLIPPED(5)
      BT_VEC_CLIPPED(6)
      BT_VEC_CLIPPED(7)
#undef BT_VEC_CLIPPED
    default: /* no lane is inside */
      break;
    }
    k += taps;
  }
}

#endif

#endif
