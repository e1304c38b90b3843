/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of a convolution's outputs in scalar registers, for cores without vectors.
 *
 * Eight neighbours of one sliding sum, s[j] += sum_k w[k] v[k + j], need one weight and one sample
 * per eight multiply-adds: the samples slide through eight registers. Every sum runs in the order of
 * its own terms, so the bits are those of one output at a time. Matrix products: conv_product.c;
 * strides above one: conv_stride.c. */
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
#define BT_BLOCK_DONE(a) __asm__ volatile("" : "+t"(a) : : "memory")
#define BT_BLOCK_FOUR(v)                                                                           \
  __asm__ volatile("" : "+t"((v)[0]), "+t"((v)[1]), "+t"((v)[2]), "+t"((v)[3]) : : "memory")
#define BT_BLOCK_NINE(a, v)                                                                        \
  __asm__ volatile("" : "+t"(a), "+t"((v)[0]), "+t"((v)[1]), "+t"((v)[2]), "+t"((v)[3]),           \
                   "+t"((v)[4]), "+t"((v)[5]), "+t"((v)[6]), "+t"((v)[7]) : : "memory")
#else
#define BT_BLOCK_APART 0
#define BT_BLOCK_FIRST(a, b, c, d) ((void)0)
#define BT_BLOCK_LOADS(a, b, c, d, e) ((void)0)
#define BT_BLOCK_DONE(a) ((void)0)
#define BT_BLOCK_FOUR(v) ((void)0)
#define BT_BLOCK_NINE(a, v) ((void)0)
#endif

/* Whether samples slide through a ring of twelve registers, four taps at a time: those of twelve
 * outputs, or of eight beside the products of BT_BLOCK_APART, whose loads then stand together. */
#ifndef BT_BLOCK_RING
#define BT_BLOCK_RING (BT_BLOCK_WIDE == 12 || BT_BLOCK_APART)
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

/* Thumb reaches 1020 bytes from a pointer, and compilers make one for each load that lies further from
 * where a tensor begins: there pointers stand near what they read, and go along with it. */
#ifdef __thumb__
#define BT_BLOCK_ALONG 1
#define BT_BLOCK_NEAR(a) BT_BLOCK_POINTER(a)
#else
#define BT_BLOCK_ALONG 0
#define BT_BLOCK_NEAR(a) ((void)0)
#endif

/* These four sums come before what follows: compilers finish sums one by one instead, each multiply-add
 * waiting for the one before. */
#if BT_BLOCK_APART
#define BT_BLOCK_SUMS(s) BT_BLOCK_FOUR(s)
#elif defined(__GNUC__) && defined(__riscv_flen)
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

/* s[i] += w[i] x[i] for up to four i */
BT_KERNEL void bt_block_some(int n, float *s, const float *w, const float *x)
{
#if BT_BLOCK_APART
  float p[4] = {0.0f};
  BT_BLOCK_EACH(i, 4)
    if (i < n)
      p[i] = w[i] * x[i];
  if (n == 4)
    BT_BLOCK_FIRST(p[0], p[1], p[2], p[3]);
  else if (n == 3)
    __asm__("" : "+t"(p[0]), "+t"(p[1]), "+t"(p[2]));
  else if (n == 2)
    __asm__("" : "+t"(p[0]), "+t"(p[1]));
  BT_BLOCK_EACH(i, 4)
    if (i < n)
      s[i] = p[i] + s[i];
  if (n == 4)
    BT_BLOCK_FOUR(s);
  else if (n == 3)
    __asm__ volatile("" : "+t"(s[0]), "+t"(s[1]), "+t"(s[2]) : : "memory");
  else if (n == 2)
    __asm__ volatile("" : "+t"(s[0]), "+t"(s[1]) : : "memory");
#else
  BT_BLOCK_EACH(i, 4)
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
  BT_BLOCK_EACH(j, 8)
    v[j] = x[j * gap];
  BT_BLOCK_NINE(w, v);
  bt_block_tap(s, w, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]);
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
  if (eights > 0) {
    BT_BLOCK_NEAR(w);
    BT_BLOCK_NEAR(x);
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

/* These sums come before what follows: of a ring's taps. */
BT_KERNEL void bt_block_done(float *s)
{
  BT_BLOCK_SUMS(s);
  BT_BLOCK_SUMS(s + 4);
  if (BT_BLOCK_WIDE > 8)
    BT_BLOCK_SUMS(s + 8);
}

/* s[j] += sum_i w[i] v[i + j] for BT_BLOCK_WIDE outputs and `count` of four taps from tap k on; sample
 * m is in v[m mod 12], and the next one comes in with each tap. */
BT_KERNEL void bt_block_taps(float *s, float v[12], int k, int count, const float *w,
                             const float *x, int step)
{
  const int ahead = BT_BLOCK_WIDE - 1;
  float taps[4];
#if BT_BLOCK_APART
  BT_BLOCK_EACH(i, 4)
    if (i < count)
      taps[i] = w[i], v[(k + i + ahead) % 12] = x[(i + ahead) * step];
  BT_BLOCK_EACH(i, 4)
    if (i < count) {
      BT_BLOCK_DONE(taps[i]);
      BT_BLOCK_DONE(v[(k + i + ahead) % 12]);
    }
  BT_BLOCK_EACH(i, 4)
    if (i < count)
      BT_BLOCK_EACH(q, 2) {
        const int j = k + i + 4 * q;
        bt_block_four(s + 4 * q, taps[i], v[j % 12], v[(j + 1) % 12], v[(j + 2) % 12],
                      v[(j + 3) % 12]);
        BT_BLOCK_SUMS(s + 4 * q);
      }
#else
  BT_BLOCK_EACH(i, 4)
    if (i < count)
      taps[i] = w[i];
  BT_BLOCK_EACH(i, 4)
    if (i < count) {
      v[(k + i + ahead) % 12] = x[(i + ahead) * step];
      BT_BLOCK_EACH(j, BT_BLOCK_WIDE)
        s[j] = bt_fma(taps[i], v[(k + i + j) % 12], s[j]);
      BT_BLOCK_HERE;
    }
#endif
}

/* s[j] += sum_k w[k] x[(k + j) step] for BT_BLOCK_WIDE outputs, the samples in a ring of twelve. */
BT_KERNEL void bt_block_ring(float *s, int taps, const float *w, const float *x, int step)
{
  float v[12];
  BT_BLOCK_NEAR(w);
  BT_BLOCK_NEAR(x);
  BT_BLOCK_EACH(j, BT_BLOCK_WIDE - 1)
    v[j] = x[j * step];
  int left = taps;
  for (; left >= 12; left -= 12) {
    bt_block_taps(s, v, 0, 4, w, x, step);
    bt_block_taps(s, v, 4, 4, w + 4, x + 4 * step, step);
    bt_block_taps(s, v, 8, 4, w + 8, x + 8 * step, step);
    bt_block_done(s);
    w += 12, x += 12 * step;
    BT_BLOCK_NEAR(w);
    BT_BLOCK_NEAR(x);
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

/* s[j] += sum_k w[k] x[(k + j) step] for BT_BLOCK_WIDE outputs. */
BT_KERNEL void bt_block_slide_wide(float *s, int taps, const float *w, const float *x, int step)
{
  if (BT_BLOCK_RING)
    bt_block_ring(s, taps, w, x, step);
  else
    bt_block_slide(s, taps / 8 * 8, taps % 8, w, x, step);
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
  for (; k < whole; k++)
    bt_block_tap_at(s, w[k], v.row + (v.first + k * v.step), v.step);
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
  for (; BT_BLOCK_RING && BT_BLOCK_WIDE == 8 && leaves > 0; leaves--, w += BT_LEAF, x += BT_LEAF) {
    float s[8] = {0.0f};
    bt_block_ring(s, BT_LEAF, w, x, 1);
    bt_block_add(all, s);
  }
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

/* s[j] += sum over t < n of y[t] x[t step + j gap] for `taps` of them, up to eight; n a multiple of 8.
 * What t shares with t + 1 stays in a ring of eight registers; as many t are loaded at once as fit. */
BT_KERNEL void bt_block_few(int taps, int n, const float *y, const float *x, int step, int gap,
                            float s[8])
{
  const int shared = gap == 1 && step < taps ? taps - step : 0, next = shared ? step : taps;
  const int most = taps > 1 || BT_BLOCK_APART ? 4 : 1; /* a sum alone waits for itself between loads */
  const int group = bt_min(most, taps + 3 * next <= 8 ? 4 : taps + next <= 8 ? 2 : 1);
  float v[8], up[4];
  BT_BLOCK_EACH(j, 8)
    if (j < shared)
      v[j] = x[j];
  for (const float *const end = y + n; y != end; y += 8, x += 8 * step) {
    BT_BLOCK_NEAR(y);
    BT_BLOCK_NEAR(x);
    BT_BLOCK_EACH(t, 8) {
      if (t % group == 0) {
        BT_BLOCK_EACH(u, 4)
          if (u < group) {
            up[u] = y[t + u];
            BT_BLOCK_EACH(j, 8)
              if (j >= shared && j < taps)
                v[((t + u) * next + j) % 8] = x[(t + u) * step + j * gap];
          }
        BT_BLOCK_EACH(u, 4)
          if (u < group)
            BT_BLOCK_DONE(up[u]);
        BT_BLOCK_EACH(j, 8)
          if (j < taps - shared + (group - 1) * next)
            BT_BLOCK_DONE(v[(t * next + shared + j) % 8]);
      }
      BT_BLOCK_EACH(q, 2)
        if (4 * q < taps) {
          float w[4], p[4];
          BT_BLOCK_EACH(i, 4)
            w[i] = up[t % group], p[i] = v[(t * next + 4 * q + i) % 8];
          bt_block_some(bt_min(4, taps - 4 * q), s + 4 * q, w, p);
        }
      if (t % group == group - 1)
        BT_BLOCK_HERE;
    }
  }
}

/* s[j] += y x[j gap] for `taps` of them, up to eight. */
BT_KERNEL void bt_block_few_one(int taps, float y, const float *x, int gap, float s[8])
{
  float v[8];
  BT_BLOCK_EACH(j, 8)
    if (j < taps) {
      v[j] = x[j * gap];
      BT_BLOCK_DONE(v[j]);
    }
  BT_BLOCK_EACH(q, 2)
    if (4 * q < taps) {
      const float w[4] = {y, y, y, y};
      bt_block_some(bt_min(4, taps - 4 * q), s + 4 * q, w, v + 4 * q);
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
