/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of a convolution's outputs in scalar registers, for cores without vectors.
 *
 * Eight neighbours of one sliding sum, s[j] += sum_k w[k] v[k + j], need one weight and one sample
 * per eight multiply-adds: the samples slide through eight registers. Sixteen elements of a matrix
 * product, four by four, need half a load each. Every sum runs in the order of its own terms, so
 * the bits are those of one output at a time. */
#ifndef BT_CONV_BLOCK_H
#define BT_CONV_BLOCK_H

#include "bt_kernel.h"

/* Outputs of a block of a sliding sum. */
#define BT_BLOCK_OUTPUTS 8
/* Outputs of a block whose taps are all inside the input: twelve sums, twelve samples and some
 * weights fill the 32 registers of RISC-V, where a load takes as long as a multiply-add. */
#ifndef BT_BLOCK_WIDE
#if BT_FUSED && defined(__riscv)
#define BT_BLOCK_WIDE 12
#else
#define BT_BLOCK_WIDE 8
#endif
#endif
/* Samples that a row must have. */
#define BT_BLOCK_SAMPLES 16

/* Four products before their four sums, where an add would wait for the product right before it
 * (Cortex-M4, M33) and compilers put it there: no instruction, no other bits. M7 has a multiply-add
 * with two roundings, which must find them together. BT_BLOCK_LOADS: a load behind a load takes one
 * cycle, and two elsewhere. */
#if !BT_FUSED && defined(__GNUC__) && defined(__thumb__) && BT_BLOCK && \
    !(defined(__ARM_ARCH_7EM__) && defined(__ARM_FPV5__))
#define BT_BLOCK_APART 1
#define BT_BLOCK_FIRST(a, b, c, d) __asm__("" : "+t"(a), "+t"(b), "+t"(c), "+t"(d))
#define BT_BLOCK_LOADS(a, b, c, d, e) __asm__("" : "+t"(a), "+t"(b), "+t"(c), "+t"(d), "+t"(e))
#else
#define BT_BLOCK_APART 0
#define BT_BLOCK_FIRST(a, b, c, d) ((void)0)
#define BT_BLOCK_LOADS(a, b, c, d, e) ((void)0)
#endif

/* Loads stay on their side of it: compilers move them ahead until registers run out. And pointers
 * that go on by themselves: compilers make sums of a base and an index for each load instead. */
#ifdef __GNUC__
#define BT_BLOCK_HERE __asm__ volatile("" ::: "memory")
#define BT_BLOCK_POINTER(a) __asm__("" : "+r"(a))
#define BT_BLOCK_POINTERS(a, b, c, d) __asm__("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d))
#else
#define BT_BLOCK_HERE ((void)0)
#define BT_BLOCK_POINTER(a) ((void)0)
#define BT_BLOCK_POINTERS(a, b, c, d) ((void)0)
#endif

/* These four sums come before what follows: compilers finish sums one by one instead, each multiply-add
 * waiting for the one before. */
#if defined(__GNUC__) && defined(__riscv_flen)
#define BT_BLOCK_SUMS(s) __asm__("" : "+f"((s)[0]), "+f"((s)[1]), "+f"((s)[2]), "+f"((s)[3]))
#else
#define BT_BLOCK_SUMS(s) ((void)(s))
#endif

/* Whether the compiler knows the number, so that a body for it is one body. */
#ifdef __GNUC__
#define BT_BLOCK_KNOWN(n) __builtin_constant_p(n)
#else
#define BT_BLOCK_KNOWN(n) 0
#endif

/* A loop of up to 12 turns, written out: its indices are constants, and what they index registers. */
#ifdef __GNUC__
#define BT_BLOCK_EACH(j, n) _Pragma("GCC unroll 12") for (int j = 0; j < (n); j++)
#else
#define BT_BLOCK_EACH(j, n) for (int j = 0; j < (n); j++)
#endif

/* s_j += w x_j for four j */
BT_KERNEL void bt_block_four(float *s, float w, float x0, float x1, float x2, float x3)
{
#if BT_BLOCK_APART
  float p0 = w * x0, p1 = w * x1, p2 = w * x2, p3 = w * x3;
  BT_BLOCK_FIRST(p0, p1, p2, p3);
  s[0] = p0 + s[0];
  s[1] = p1 + s[1];
  s[2] = p2 + s[2];
  s[3] = p3 + s[3];
#else
  s[0] = bt_fma(w, x0, s[0]);
  s[1] = bt_fma(w, x1, s[1]);
  s[2] = bt_fma(w, x2, s[2]);
  s[3] = bt_fma(w, x3, s[3]);
#endif
}

/* s[j] += w x_j for eight j */
BT_KERNEL void bt_block_tap(float s[8], float w, float x0, float x1, float x2, float x3, float x4,
                            float x5, float x6, float x7)
{
  bt_block_four(s, w, x0, x1, x2, x3);
  bt_block_four(s + 4, w, x4, x5, x6, x7);
}

/* s[j] += sum_k w[k] x[(k + j) step] for eight taps; v holds samples 0 to 6, and then 8 to 14. */
BT_KERNEL void bt_block_eight(float s[8], float v[8], const float *w, const float *x, int step)
{
  float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
  v[7] = x[7 * step];
  BT_BLOCK_LOADS(w0, w1, w2, w3, v[7]);
  bt_block_tap(s, w0, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]);
  v[0] = x[8 * step];
  bt_block_tap(s, w1, v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[0]);
  v[1] = x[9 * step];
  bt_block_tap(s, w2, v[2], v[3], v[4], v[5], v[6], v[7], v[0], v[1]);
  v[2] = x[10 * step];
  bt_block_tap(s, w3, v[3], v[4], v[5], v[6], v[7], v[0], v[1], v[2]);
  w0 = w[4], w1 = w[5], w2 = w[6], w3 = w[7];
  v[3] = x[11 * step];
  BT_BLOCK_LOADS(w0, w1, w2, w3, v[3]);
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
  v[0] = x[0];
  v[1] = x[step];
  v[2] = x[2 * step];
  v[3] = x[3 * step];
  v[4] = x[4 * step];
  v[5] = x[5 * step];
  v[6] = x[6 * step];
}

/* s[j] += sum_k w[k] x[(k + j) step] for k in [0, eights + rest), eights a multiple of 8, rest < 8. */
BT_KERNEL void bt_block_slide(float s[8], int eights, int rest, const float *w, const float *x,
                              int step)
{
  float v[8];
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

/* BT_BLOCK_SUMS of twelve. */
BT_KERNEL void bt_block_done(float s[12])
{
  BT_BLOCK_SUMS(s);
  BT_BLOCK_SUMS(s + 4);
  BT_BLOCK_SUMS(s + 8);
}

/* s[j] += sum_i w[i] v[i + j] for `count` of four taps from tap k on; sample m is in v[m mod 12], and
 * the next one comes in with each tap. */
BT_KERNEL void bt_block_taps(float s[12], float v[12], int k, int count, const float *w,
                             const float *x, int step)
{
  float taps[4];
  BT_BLOCK_EACH(i, 4)
    if (i < count)
      taps[i] = w[i];
  BT_BLOCK_EACH(i, 4)
    if (i < count) {
      v[(k + i + 11) % 12] = x[(i + 11) * step];
      BT_BLOCK_EACH(j, 12)
        s[j] = bt_fma(taps[i], v[(k + i + j) % 12], s[j]);
      BT_BLOCK_HERE;
    }
}

/* s[j] += sum_k w[k] x[(k + j) step] for BT_BLOCK_WIDE outputs. */
BT_KERNEL void bt_block_slide_wide(float *s, int taps, const float *w, const float *x, int step)
{
  if (BT_BLOCK_WIDE == 8) {
    bt_block_slide(s, taps / 8 * 8, taps % 8, w, x, step);
    return;
  }
  float v[12];
  BT_BLOCK_EACH(j, 11)
    v[j] = x[j * step];
  int left = taps;
  for (; left >= 12; left -= 12) {
    bt_block_taps(s, v, 0, 4, w, x, step);
    bt_block_taps(s, v, 4, 4, w + 4, x + 4 * step, step);
    bt_block_taps(s, v, 8, 4, w + 8, x + 8 * step, step);
    bt_block_done(s);
    w += 12, x += 12 * step;
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
  bt_block_done(s);
}

/* A row of samples as a block meets it: v[m] = row[first + m step], inside the input for m in
 * [lo, hi). */
typedef struct bt_block_row {
  const float *row;
  int first, step, lo, hi;
} bt_block_row;

/* s[j] += w[k] v[k + j] for j in [from, end), constants, where k is one of the taps. */
BT_KERNEL void bt_block_part(float s[8], int from, int end, int taps, const float *w, int k,
                             bt_block_row v)
{
  if (k < 0 || k >= taps)
    return;
  const float wk = w[k];
  const float *x = v.row + (v.first + (k + from) * v.step);
  for (int j = 0; j < 8; j++)
    if (j >= from && j < end)
      s[j] = bt_fma(wk, x[(j - from) * v.step], s[j]);
}

/* s[j] += sum_k w[k] v[k + j] for k in [0, taps) where the sample is inside the input, which must
 * have BT_BLOCK_SAMPLES from lo on: no tap meets both ends. */
BT_KERNEL void bt_block_edge(float s[8], int taps, const float *w, bt_block_row v)
{
  if (v.lo > 0) {
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
    bt_block_slide(s, eights, 0, w + k, v.row + (v.first + k * v.step), v.step);
    k += eights;
  }
  for (; k < whole; k++) {
    const float *x = v.row + (v.first + k * v.step);
    const int d = v.step;
    bt_block_tap(s, w[k], x[0], x[d], x[2 * d], x[3 * d], x[4 * d], x[5 * d], x[6 * d], x[7 * d]);
  }
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

/* s[j] = y[j step] */
BT_KERNEL void bt_block_load(float s[8], const float *y, int step)
{
  s[0] = y[0];
  s[1] = y[step];
  s[2] = y[2 * step];
  s[3] = y[3 * step];
  s[4] = y[4 * step];
  s[5] = y[5 * step];
  s[6] = y[6 * step];
  s[7] = y[7 * step];
}

/* all[j] += s[j] */
BT_KERNEL void bt_block_add(float all[8], const float s[8])
{
  all[0] += s[0];
  all[1] += s[1];
  all[2] += s[2];
  all[3] += s[3];
  all[4] += s[4];
  all[5] += s[5];
  all[6] += s[6];
  all[7] += s[7];
}

/* all[j] += bt_block_slide's sums of each of some leaves, one behind the other. */
BT_KERNEL void bt_block_leaves(float all[8], int leaves, const float *w, const float *x)
{
  float v[8];
  bt_block_first(v, x, 1);
  for (; leaves > 0; leaves--) {
    float s[8] = {0.0f};
    for (const float *const end = w + BT_LEAF; w != end; w += 8, x += 8)
      bt_block_eight(s, v, w, x, 1);
    bt_block_add(all, s);
  }
}

/* y[j step] = s[j] */
BT_KERNEL void bt_block_store(const float s[8], float *y, int step)
{
  y[0] = s[0];
  y[step] = s[1];
  y[2 * step] = s[2];
  y[3 * step] = s[3];
  y[4 * step] = s[4];
  y[5 * step] = s[5];
  y[6 * step] = s[6];
  y[7 * step] = s[7];
}

/* The same of BT_BLOCK_WIDE. */
BT_KERNEL void bt_block_store_wide(const float *s, float *y, int step)
{
  BT_BLOCK_POINTER(y);
  BT_BLOCK_EACH(j, BT_BLOCK_WIDE)
    y[j * step] = s[j];
}

/* y[r] = start[r] + sum_n w[r wr + n wn] x[n], rows of `times` samples: a matrix product. */
typedef struct bt_block_mix {
  int rows, terms, times;
  const float *w;
  int wr, wn;
  const float *start; /* NULL: zero */
  const float *x;
  int x_stride;
  float *y;
  int y_stride;
} bt_block_mix;

/* s[j] += x[j] y[j] for four j */
BT_KERNEL void bt_block_lanes(float *s, const float *x, const float *y)
{
#if BT_BLOCK_APART
  float p0 = x[0] * y[0], p1 = x[1] * y[1], p2 = x[2] * y[2], p3 = x[3] * y[3];
  BT_BLOCK_FIRST(p0, p1, p2, p3);
  s[0] = p0 + s[0];
  s[1] = p1 + s[1];
  s[2] = p2 + s[2];
  s[3] = p3 + s[3];
#else
  s[0] = bt_fma(x[0], y[0], s[0]);
  s[1] = bt_fma(x[1], y[1], s[1]);
  s[2] = bt_fma(x[2], y[2], s[2]);
  s[3] = bt_fma(x[3], y[3], s[3]);
#endif
}

/* bt_fold of lanes in registers. */
BT_KERNEL float bt_block_fold(const float s[8])
{
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* *a += bt_leaf_dot(x, y, BT_LEAF), *b += bt_leaf_dot(x, z, BT_LEAF). */
BT_KERNEL void bt_block_leaf_dots(const float *x, const float *y, const float *z, float *a, float *b)
{
  float s[8] = {0.0f}, u[8] = {0.0f};
  BT_BLOCK_EACH(i, BT_LEAF / 8) {
    bt_block_lanes(s, x + 8 * i, y + 8 * i);
    bt_block_lanes(u, x + 8 * i, z + 8 * i);
    bt_block_lanes(s + 4, x + 8 * i + 4, y + 8 * i + 4);
    bt_block_lanes(u + 4, x + 8 * i + 4, z + 8 * i + 4);
    BT_BLOCK_SUMS(s);
    BT_BLOCK_SUMS(u);
    BT_BLOCK_SUMS(s + 4);
    BT_BLOCK_SUMS(u + 4);
    BT_BLOCK_HERE;
  }
  *a += bt_block_fold(s);
  *b += bt_block_fold(u);
}

/* s[4 a + j] += w_a x[j] */
BT_KERNEL void bt_block_outer(float s[16], float w0, float w1, float w2, float w3, float x0,
                              float x1, float x2, float x3)
{
  BT_BLOCK_FIRST(w0, w1, w2, w3);
  bt_block_four(s, w0, x0, x1, x2, x3);
  bt_block_four(s + 4, w1, x0, x1, x2, x3);
  bt_block_four(s + 8, w2, x0, x1, x2, x3);
  bt_block_four(s + 12, w3, x0, x1, x2, x3);
}

/* y[j] = s[j] for four j */
BT_KERNEL void bt_block_store_four(const float *s, float *y)
{
  y[0] = s[0];
  y[1] = s[1];
  y[2] = s[2];
  y[3] = s[3];
}

/* Four rows from r on, four samples from t on. */
BT_KERNEL void bt_block_mix_four(bt_block_mix m, int r, int t)
{
  const float *const b = m.start ? m.start + r : 0;
  const float b0 = b ? b[0] : 0.0f, b1 = b ? b[1] : 0.0f;
  const float b2 = b ? b[2] : 0.0f, b3 = b ? b[3] : 0.0f;
  float s[16] = {b0, b0, b0, b0, b1, b1, b1, b1, b2, b2, b2, b2, b3, b3, b3, b3};
  const float *w = m.w + r * m.wr, *x = m.x + t;
  for (int left = m.terms; left > 0; left--) {
    bt_block_outer(s, w[0], w[m.wr], w[2 * m.wr], w[3 * m.wr], x[0], x[1], x[2], x[3]);
    w += m.wn;
    x += m.x_stride;
    if (--left == 0)
      break;
    BT_BLOCK_HERE;
    bt_block_outer(s, w[0], w[m.wr], w[2 * m.wr], w[3 * m.wr], x[0], x[1], x[2], x[3]);
    w += m.wn;
    x += m.x_stride;
  }
  float *const y = m.y + r * m.y_stride + t;
  bt_block_store_four(s, y);
  bt_block_store_four(s + 4, y + m.y_stride);
  bt_block_store_four(s + 8, y + 2 * m.y_stride);
  bt_block_store_four(s + 12, y + 3 * m.y_stride);
}

/* Row r, eight samples from t on. */
BT_KERNEL void bt_block_mix_one(bt_block_mix m, int r, int t)
{
  const float start = m.start ? m.start[r] : 0.0f;
  float s[8] = {start, start, start, start, start, start, start, start};
  const float *w = m.w + r * m.wr, *x = m.x + t;
  for (int n = 0; n < m.terms; n++) {
    bt_block_tap(s, *w, x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]);
    w += m.wn;
    x += m.x_stride;
  }
  bt_block_store(s, m.y + r * m.y_stride + t, 1);
}

/* `rows` rows from r on, up to three, `samples` samples from t on, a multiple of four: up to 16 sums. */
BT_KERNEL void bt_block_mix_tile(bt_block_mix m, int rows, int samples, int r, int t)
{
  float s[16];
  BT_BLOCK_EACH(a, 3)
    if (a < rows) {
      const float start = m.start ? m.start[r + a] : 0.0f;
      BT_BLOCK_EACH(j, 8)
        if (j < samples)
          s[a * samples + j] = start;
    }
  const float *w = m.w + r * m.wr, *x = m.x + t;
  for (int n = 0; n < m.terms; n++) {
    float v[8];
    BT_BLOCK_EACH(j, 8)
      if (j < samples)
        v[j] = x[j];
    BT_BLOCK_EACH(a, 3)
      if (a < rows) {
        const float wa = w[a * m.wr];
        BT_BLOCK_EACH(j, 8)
          if (j < samples)
            s[a * samples + j] = bt_fma(wa, v[j], s[a * samples + j]);
      }
    BT_BLOCK_EACH(q, 4)
      if (4 * q < rows * samples)
        BT_BLOCK_SUMS(s + 4 * q);
    w += m.wn;
    x += m.x_stride;
  }
  BT_BLOCK_EACH(a, 3)
    if (a < rows) {
      float *const y = m.y + (r + a) * m.y_stride + t;
      BT_BLOCK_EACH(j, 8)
        if (j < samples)
          y[j] = s[a * samples + j];
    }
}

/* All samples of `rows` rows. The last block of a row begins where it ends with it: what two blocks
 * make is the same. */
BT_KERNEL void bt_block_mix_rows(bt_block_mix m, int rows, int r)
{
  const int samples = rows > 2 ? 4 : 8;
  for (int t = 0; t < m.times; t += samples) {
    const int at = bt_min(t, m.times - samples);
    if (rows == 4)
      bt_block_mix_four(m, r, at);
    else if (rows == 1)
      bt_block_mix_one(m, r, at);
    else
      bt_block_mix_tile(m, rows, samples, r, at);
  }
}

BT_KERNEL void bt_block_mix_all(bt_block_mix m)
{
  int r = 0;
  if (m.times >= 8) {
    const int rest = m.rows % 4;
    for (; r + 4 <= m.rows; r += 4)
      bt_block_mix_rows(m, 4, r);
    if (BT_BLOCK_KNOWN(rest) && rest > 0) {
      bt_block_mix_rows(m, rest, r);
      return;
    }
    for (; r < m.rows; r++)
      bt_block_mix_rows(m, 1, r);
  }
  for (; r < m.rows; r++)
    for (int t = 0; t < m.times; t++) {
      float sum = m.start ? m.start[r] : 0.0f;
      for (int n = 0; n < m.terms; n++)
        sum = bt_fma(m.w[r * m.wr + n * m.wn], m.x[n * m.x_stride + t], sum);
      m.y[r * m.y_stride + t] = sum;
    }
}

/* Sums over time of n <= BT_LEAF products of rows of y and rows of x: to[o ts + i is] += sum over t
 * of y_o[t] x_i[t]. Row o of y begins at y + o y_stride, row i of x at x + i x_stride. */
typedef struct bt_block_dots {
  int n;
  const float *y;
  int y_stride;
  const float *x;
  int x_stride;
  float *to;
  int ts, is;
} bt_block_dots;

/* to[j step] += s[j] for four j */
BT_KERNEL void bt_block_add_four(const float *s, float *to, int step)
{
  to[0] += s[0];
  to[step] += s[1];
  to[2 * step] += s[2];
  to[3 * step] += s[3];
}

/* These sums come before the loads and products that follow. */
BT_KERNEL void bt_block_pin(float s[16])
{
#if BT_BLOCK_APART
  __asm__ volatile("" : "+t"(s[0]), "+t"(s[1]), "+t"(s[2]), "+t"(s[3]) : : "memory");
  __asm__ volatile("" : "+t"(s[4]), "+t"(s[5]), "+t"(s[6]), "+t"(s[7]) : : "memory");
  __asm__ volatile("" : "+t"(s[8]), "+t"(s[9]), "+t"(s[10]), "+t"(s[11]) : : "memory");
  __asm__ volatile("" : "+t"(s[12]), "+t"(s[13]), "+t"(s[14]), "+t"(s[15]) : : "memory");
#else
  (void)s;
  BT_BLOCK_HERE;
#endif
}

/* Four rows of y from o on by four of x from i on. */
BT_KERNEL void bt_block_dots_four(bt_block_dots m, int o, int i)
{
  const float *y0 = m.y + o * m.y_stride, *y1 = y0 + m.y_stride;
  const float *y2 = y1 + m.y_stride, *y3 = y2 + m.y_stride;
  const float *x0 = m.x + i * m.x_stride, *x1 = x0 + m.x_stride;
  const float *x2 = x1 + m.x_stride, *x3 = x2 + m.x_stride;
  float s[16] = {0.0f};
  int left = m.n;
  for (; left >= 4; left -= 4) {
    bt_block_outer(s, y0[0], y1[0], y2[0], y3[0], x0[0], x1[0], x2[0], x3[0]);
    bt_block_pin(s);
    bt_block_outer(s, y0[1], y1[1], y2[1], y3[1], x0[1], x1[1], x2[1], x3[1]);
    bt_block_pin(s);
    bt_block_outer(s, y0[2], y1[2], y2[2], y3[2], x0[2], x1[2], x2[2], x3[2]);
    bt_block_pin(s);
    bt_block_outer(s, y0[3], y1[3], y2[3], y3[3], x0[3], x1[3], x2[3], x3[3]);
    bt_block_pin(s);
    y0 += 4, y1 += 4, y2 += 4, y3 += 4;
    x0 += 4, x1 += 4, x2 += 4, x3 += 4;
    BT_BLOCK_POINTERS(y0, y1, y2, y3);
    BT_BLOCK_POINTERS(x0, x1, x2, x3);
  }
  for (int t = 0; t < left; t++)
    bt_block_outer(s, y0[t], y1[t], y2[t], y3[t], x0[t], x1[t], x2[t], x3[t]);
  float *const to = m.to + o * m.ts + i * m.is;
  bt_block_add_four(s, to, m.is);
  bt_block_add_four(s + 4, to + m.ts, m.is);
  bt_block_add_four(s + 8, to + 2 * m.ts, m.is);
  bt_block_add_four(s + 12, to + 3 * m.ts, m.is);
}

/* to[o ts + i is] += the sum over t < m.n, for `outs` rows of y from o on by `ins` of x from i on, up to
 * four. */
BT_KERNEL void bt_block_dots_tile(bt_block_dots m, int outs, int ins, int o, int i)
{
  const float *y[4], *x[4];
  float s[16];
  BT_BLOCK_EACH(a, 4) {
    y[a] = m.y + (o + bt_min(a, outs - 1)) * m.y_stride;
    x[a] = m.x + (i + bt_min(a, ins - 1)) * m.x_stride;
  }
  BT_BLOCK_EACH(j, 12)
    s[j] = 0.0f;
  s[12] = s[13] = s[14] = s[15] = 0.0f;
  int t = 0;
  for (; t + 4 <= m.n; t += 4)
    BT_BLOCK_EACH(u, 4) {
      BT_BLOCK_EACH(a, 4)
        BT_BLOCK_EACH(b, 4)
          if (a < outs && b < ins)
            s[4 * a + b] = bt_fma(y[a][t + u], x[b][t + u], s[4 * a + b]);
      BT_BLOCK_HERE;
    }
  for (; t < m.n; t++)
    BT_BLOCK_EACH(a, 4)
      BT_BLOCK_EACH(b, 4)
        if (a < outs && b < ins)
          s[4 * a + b] = bt_fma(y[a][t], x[b][t], s[4 * a + b]);
  BT_BLOCK_EACH(a, 4)
    BT_BLOCK_EACH(b, 4)
      if (a < outs && b < ins)
        m.to[(o + a) * m.ts + (i + b) * m.is] += s[4 * a + b];
}

/* `outs` rows of y from o on, up to four, by all `ins` of x. */
BT_KERNEL void bt_block_dots_rows(bt_block_dots m, int outs, int ins, int o)
{
  const int rest = ins % 4;
  int i = 0;
  for (; i + 4 <= ins; i += 4)
    if (outs == 4)
      bt_block_dots_four(m, o, i);
    else
      bt_block_dots_tile(m, outs, 4, o, i);
  if (BT_BLOCK_KNOWN(rest) && rest > 0)
    bt_block_dots_tile(m, outs, rest, o, i);
  else
    for (; i < ins; i++)
      bt_block_dots_tile(m, outs, 1, o, i);
}

/* All rows: `outs` of y by `ins` of x. */
BT_KERNEL void bt_block_dots_all(bt_block_dots m, int outs, int ins)
{
  const int rest = outs % 4;
  int o = 0;
  for (; o + 4 <= outs; o += 4)
    bt_block_dots_rows(m, 4, ins, o);
  if (BT_BLOCK_KNOWN(rest) && rest > 0)
    bt_block_dots_rows(m, rest, ins, o);
  else
    for (; o < outs; o++)
      bt_block_dots_rows(m, 1, ins, o);
}

/* s[j] += sum over t < n of y[t] x[t step + j gap] for `taps` of them, up to eight; n a multiple of 8. */
BT_KERNEL void bt_block_few(int taps, int n, const float *y, const float *x, int step, int gap,
                            float s[8])
{
  for (const float *const end = y + n; y != end; y += 8, x += 8 * step)
    BT_BLOCK_EACH(t, 8) {
      BT_BLOCK_EACH(j, 8)
        if (j < taps)
          s[j] = bt_fma(y[t], x[t * step + j * gap], s[j]);
    }
}

/* all[j] += these sums of each of some leaves, one behind the other. */
BT_KERNEL void bt_block_few_leaves(int taps, int leaves, const float *y, const float *x, int step,
                                   int gap, float *all)
{
  float total[8];
  BT_BLOCK_EACH(j, 8)
    total[j] = j < taps ? all[j] : 0.0f;
  for (; leaves > 0; leaves--, y += BT_LEAF, x += BT_LEAF * step) {
    float s[8] = {0.0f};
    bt_block_few(taps, BT_LEAF, y, x, step, gap, s);
    BT_BLOCK_EACH(j, 8)
      total[j] += s[j];
  }
  BT_BLOCK_EACH(j, 8)
    if (j < taps)
      all[j] = total[j];
}

#endif
