/* SPDX-License-Identifier: Apache-2.0 */
/* Tiles of a sliding sum in scalar registers, for cores without vectors.
 *
 * Eight neighbours of one sliding sum, s[j] += sum_k w[k] v[k + j], need one weight and one sample
 * per eight multiply-adds: the samples slide through eight registers. Every sum runs in the order
 * of its own terms, so the bits are those of one output at a time. Matrix products are in
 * bt_conv_product.h, strides above one in bt_conv_stride.h, sums in leaves in bt_conv_leaf.h. */
#ifndef BT_CONV_BLOCK_H
#define BT_CONV_BLOCK_H

#include "bt_barrier.h"

/* Outputs of a tile of a sliding sum. */
#define BT_TILE_OUTPUTS 8
/* Outputs of a wide tile, whose taps are all inside the input: twelve sums, twelve samples and some
 * weights fill the 32 float registers of RISC-V, where a load takes as long as a multiply-add. With
 * zfinx these registers hold the addresses too, so that twelve outputs spill. */
#ifndef BT_WIDE_OUTPUTS
#if BT_FUSED && defined(__riscv_flen) && !BT_FLOATS_IN_INTEGERS
#define BT_WIDE_OUTPUTS 12
#else
#define BT_WIDE_OUTPUTS 8
#endif
#endif
/* Samples that a row must have, so that no tap of a tile meets both ends of it. */
#define BT_SLIDE_SAMPLES 16

/* Whether the samples of a wide tile slide through a ring of twelve registers, four taps at a
 * time: those of twelve outputs, or of eight where BT_PRODUCTS_FIRST lets the loads of four taps
 * follow each other, or with zfinx, where weights of eight taps at once would spill. */
#ifndef BT_SAMPLE_RING
#if BT_FLOATS_IN_INTEGERS
#define BT_SAMPLE_RING 1
#else
#define BT_SAMPLE_RING (BT_WIDE_OUTPUTS == 12 || BT_PRODUCTS_FIRST)
#endif
#endif
/* Whether those of eight results of a leaf do. With zfinx the leaf's totals fill the registers. */
#if BT_FLOATS_IN_INTEGERS
#define BT_LEAF_RING 0
#else
#define BT_LEAF_RING (BT_SAMPLE_RING && BT_WIDE_OUTPUTS == 8)
#endif

/* s_j += w_j x_j for four j */
BT_KERNEL void bt_block_pairs(float *s, float w0, float w1, float w2, float w3, float x0, float x1,
                              float x2, float x3)
{
#if BT_PRODUCTS_FIRST
  float p0 = w0 * x0, p1 = w1 * x1, p2 = w2 * x2, p3 = w3 * x3;
  BT_COMPUTE_FOUR(p0, p1, p2, p3);
  s[0] = p0 + s[0];
  s[1] = p1 + s[1];
  s[2] = p2 + s[2];
  s[3] = p3 + s[3];
#else
  s[0] = bt_fma(w0, x0, s[0]);
  s[1] = bt_fma(w1, x1, s[1]);
  s[2] = bt_fma(w2, x2, s[2]);
  s[3] = bt_fma(w3, x3, s[3]);
#endif
}

/* s_j += w x_j for four j */
BT_KERNEL void bt_block_four(float *s, float w, float x0, float x1, float x2, float x3)
{
  bt_block_pairs(s, w, w, w, w, x0, x1, x2, x3);
}

/* s[i] += w[i] x[i] for up to four i */
BT_KERNEL void bt_block_some(int n, float *s, const float *w, const float *x)
{
#if BT_PRODUCTS_FIRST
  float p[4] = {0.0f};
  BT_UNROLLED(i, 4)
    if (i < n)
      p[i] = w[i] * x[i];
  if (n == 4)
    BT_COMPUTE_FOUR(p[0], p[1], p[2], p[3]);
  else if (n == 3)
    BT_COMPUTE_THREE(p[0], p[1], p[2]);
  else if (n == 2)
    BT_COMPUTE_TWO(p[0], p[1]);
  BT_UNROLLED(i, 4)
    if (i < n)
      s[i] = p[i] + s[i];
  if (n == 4)
    BT_ORDER_FOUR(s);
  else if (n == 3)
    BT_ORDER_THREE(s);
  else if (n == 2)
    BT_ORDER_TWO(s);
#else
  BT_UNROLLED(i, 4)
    if (i < n)
      s[i] = bt_fma(w[i], x[i], s[i]);
#endif
}

/* s[j] += w x_j for eight j */
BT_KERNEL void bt_block_tap(float s[8], float w, float x0, float x1, float x2, float x3, float x4,
                            float x5, float x6, float x7)
{
  bt_block_four(s, w, x0, x1, x2, x3);
  bt_block_four(s + 4, w, x4, x5, x6, x7);
}

/* s[j] += w x[j gap] for eight j */
BT_KERNEL void bt_block_tap_at(float s[8], float w, const float *x, int gap)
{
  float v[8];
  BT_UNROLLED(j, 8)
    v[j] = x[j * gap];
  BT_ORDER_NINE(w, v);
  bt_block_tap(s, w, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]);
}

/* s[j] += sum_k w[k] x[(k + j) step] for eight taps; v holds samples 0 to 6, and then 8 to 14. */
BT_KERNEL void bt_block_eight(float s[8], float v[8], const float *w, const float *x, int step)
{
  float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
  v[7] = x[7 * step];
  BT_COMPUTE_FIVE(w0, w1, w2, w3, v[7]);
  bt_block_tap(s, w0, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]);
  v[0] = x[8 * step];
  bt_block_tap(s, w1, v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[0]);
  v[1] = x[9 * step];
  bt_block_tap(s, w2, v[2], v[3], v[4], v[5], v[6], v[7], v[0], v[1]);
  v[2] = x[10 * step];
  bt_block_tap(s, w3, v[3], v[4], v[5], v[6], v[7], v[0], v[1], v[2]);
  w0 = w[4], w1 = w[5], w2 = w[6], w3 = w[7];
  v[3] = x[11 * step];
  BT_COMPUTE_FIVE(w0, w1, w2, w3, v[3]);
  bt_block_tap(s, w0, v[4], v[5], v[6], v[7], v[0], v[1], v[2], v[3]);
  v[4] = x[12 * step];
  bt_block_tap(s, w1, v[5], v[6], v[7], v[0], v[1], v[2], v[3], v[4]);
  v[5] = x[13 * step];
  bt_block_tap(s, w2, v[6], v[7], v[0], v[1], v[2], v[3], v[4], v[5]);
  v[6] = x[14 * step];
  bt_block_tap(s, w3, v[7], v[0], v[1], v[2], v[3], v[4], v[5], v[6]);
}

/* v = the first seven samples. */
BT_KERNEL void bt_block_first(float v[8], const float *x, int step)
{
  BT_UNROLLED(j, 7)
    v[j] = x[j * step];
}

/* s[j] += sum_k w[k] x[(k + j) step] for eights + rest taps; eights is a multiple of 8, rest <
 * 8. */
BT_KERNEL void bt_block_slide(float s[8], int eights, int rest, const float *w, const float *x,
                              int step)
{
  float v[8];
  if (eights > 0) {
    BT_NEAR_POINTER(w);
    BT_NEAR_POINTER(x);
  }
  bt_block_first(v, x, step);
  for (const float *const end = w + eights; w != end; w += 8, x += 8 * step)
    bt_block_eight(s, v, w, x, step);
  float a = v[0], b = v[1], c = v[2], d = v[3], e = v[4], f = v[5], g = v[6], h;
  if (rest > 0)
    bt_block_tap(s, w[0], a, b, c, d, e, f, g, h = x[7 * step]);
  if (rest > 1)
    bt_block_tap(s, w[1], b, c, d, e, f, g, h, a = x[8 * step]);
  if (rest > 2)
    bt_block_tap(s, w[2], c, d, e, f, g, h, a, b = x[9 * step]);
  if (rest > 3)
    bt_block_tap(s, w[3], d, e, f, g, h, a, b, c = x[10 * step]);
  if (rest > 4)
    bt_block_tap(s, w[4], e, f, g, h, a, b, c, d = x[11 * step]);
  if (rest > 5)
    bt_block_tap(s, w[5], f, g, h, a, b, c, d, e = x[12 * step]);
  if (rest > 6)
    bt_block_tap(s, w[6], g, h, a, b, c, d, e, x[13 * step]);
}

/* The sums of a ring are computed before the taps that follow. */
BT_KERNEL void bt_block_compute_sums(float *s)
{
  BT_COMPUTE_SUMS(s);
  BT_COMPUTE_SUMS(s + 4);
  if (BT_WIDE_OUTPUTS > 8)
    BT_COMPUTE_SUMS(s + 8);
}

/* s[j] += sum_i w[i] v[i + j] for BT_WIDE_OUTPUTS outputs and `count` taps, up to four, from tap
 * k on; sample m is in v[m mod 12], and the next one is loaded with each tap. */
BT_KERNEL void bt_block_taps(float *s, float v[12], int k, int count, const float *w,
                             const float *x, int step)
{
  const int ahead = BT_WIDE_OUTPUTS - 1;
  float taps[4];
#if BT_PRODUCTS_FIRST
  BT_UNROLLED(i, 4)
    if (i < count)
      taps[i] = w[i], v[(k + i + ahead) % 12] = x[(i + ahead) * step];
  BT_UNROLLED(i, 4)
    if (i < count) {
      BT_ORDER_VALUE(taps[i]);
      BT_ORDER_VALUE(v[(k + i + ahead) % 12]);
    }
  BT_UNROLLED(i, 4)
    if (i < count)
      BT_UNROLLED(q, 2) {
        const int j = k + i + 4 * q;
        bt_block_four(s + 4 * q, taps[i], v[j % 12], v[(j + 1) % 12], v[(j + 2) % 12],
                      v[(j + 3) % 12]);
        BT_COMPUTE_SUMS(s + 4 * q);
      }
#else
  BT_UNROLLED(i, 4)
    if (i < count)
      taps[i] = w[i];
  BT_UNROLLED(i, 4)
    if (i < count) {
      v[(k + i + ahead) % 12] = x[(i + ahead) * step];
      BT_UNROLLED(j, BT_WIDE_OUTPUTS)
        s[j] = bt_fma(taps[i], v[(k + i + j) % 12], s[j]);
      BT_ORDER_MEMORY;
    }
#endif
}

/* s[j] += sum_k w[k] x[(k + j) step] for BT_WIDE_OUTPUTS outputs; samples are in a ring of
 * twelve. */
BT_KERNEL void bt_block_ring(float *s, int taps, const float *w, const float *x, int step)
{
  float v[12];
  BT_NEAR_POINTER(w);
  BT_NEAR_POINTER(x);
  BT_UNROLLED(j, BT_WIDE_OUTPUTS - 1)
    v[j] = x[j * step];
  int left = taps;
  for (; left >= 12; left -= 12) {
    bt_block_taps(s, v, 0, 4, w, x, step);
    bt_block_taps(s, v, 4, 4, w + 4, x + 4 * step, step);
    bt_block_taps(s, v, 8, 4, w + 8, x + 8 * step, step);
    bt_block_compute_sums(s);
    w += 12, x += 12 * step;
    BT_NEAR_POINTER(w);
    BT_NEAR_POINTER(x);
  }
  if (left >= 8) {
    bt_block_taps(s, v, 0, 4, w, x, step);
    bt_block_taps(s, v, 4, 4, w + 4, x + 4 * step, step);
    bt_block_taps(s, v, 8, left - 8, w + 8, x + 8 * step, step);
  } else if (left >= 4) {
    bt_block_taps(s, v, 0, 4, w, x, step);
    bt_block_taps(s, v, 4, left - 4, w + 4, x + 4 * step, step);
  } else
    bt_block_taps(s, v, 0, left, w, x, step);
  bt_block_compute_sums(s);
}

/* s[j] += sum_k w[k] x[(k + j) step] for BT_WIDE_OUTPUTS outputs. */
BT_KERNEL void bt_block_slide_wide(float *s, int taps, const float *w, const float *x, int step)
{
  if (BT_SAMPLE_RING)
    bt_block_ring(s, taps, w, x, step);
  else
    bt_block_slide(s, taps / 8 * 8, taps % 8, w, x, step);
}

/* A row of samples as a tile reads it: v[m] = x[at + first + m step], inside the input for m in
 * [lo, hi). */
typedef struct bt_block_row {
  const float *x;
  ptrdiff_t at; /* of time 0 */
  int first, step, lo, hi;
} bt_block_row;

BT_KERNEL const float *bt_block_sample(bt_block_row v, int m)
{
  return v.x + (v.at + (v.first + m * v.step));
}

/* s[j] += w[k] v[k + j] for j in [from, end), constants, where k is one of the taps. */
BT_KERNEL void bt_block_part(float s[8], int from, int end, int taps, const float *w, int k,
                             bt_block_row v)
{
  if (k < 0 || k >= taps)
    return;
  const float wk = w[k];
  const float *x = bt_block_sample(v, k + from);
  BT_UNROLLED(j, 8)
    if (j >= from && j < end)
      s[j] = bt_fma(wk, x[(j - from) * v.step], s[j]);
}

/* s[j] += sum_k w[k] v[k + j] for k in [0, taps) where the sample is inside the input, which must
 * have BT_SLIDE_SAMPLES from lo on. */
BT_KERNEL void bt_block_edge(float s[8], int taps, const float *w, bt_block_row v)
{
  if (v.lo > 0) { /* written out: constants come before the compiler orders addresses */
    bt_block_part(s, 7, 8, taps, w, v.lo - 7, v);
    bt_block_part(s, 6, 8, taps, w, v.lo - 6, v);
    bt_block_part(s, 5, 8, taps, w, v.lo - 5, v);
    bt_block_part(s, 4, 8, taps, w, v.lo - 4, v);
    bt_block_part(s, 3, 8, taps, w, v.lo - 3, v);
    bt_block_part(s, 2, 8, taps, w, v.lo - 2, v);
    bt_block_part(s, 1, 8, taps, w, v.lo - 1, v);
  }
  int k = bt_max(0, v.lo);
  const int whole = bt_min(taps, v.hi - 7); /* taps [lo, whole) have all eight samples */
  if (k + 8 <= whole) {
    const int eights = (whole - k) / 8 * 8;
    bt_block_slide(s, eights, 0, w + k, bt_block_sample(v, k), v.step);
    k += eights;
  }
  for (; k < whole; k++)
    bt_block_tap_at(s, w[k], bt_block_sample(v, k), v.step);
  if (v.hi - 7 < taps) {
    bt_block_part(s, 0, 7, taps, w, v.hi - 7, v);
    bt_block_part(s, 0, 6, taps, w, v.hi - 6, v);
    bt_block_part(s, 0, 5, taps, w, v.hi - 5, v);
    bt_block_part(s, 0, 4, taps, w, v.hi - 4, v);
    bt_block_part(s, 0, 3, taps, w, v.hi - 3, v);
    bt_block_part(s, 0, 2, taps, w, v.hi - 2, v);
    bt_block_part(s, 0, 1, taps, w, v.hi - 1, v);
  }
}

#endif
