/* SPDX-License-Identifier: Apache-2.0 */
/* The sums of bt_fir_sum.h for cores without vectors: every signal of a level is contiguous, and
 * the last level's three sums are blocks of outputs in scalar registers (bt_conv_block.h). The order
 * of every addition is that of the other layouts, and so are the bits. */
#ifndef BT_FIR_BLOCK_H
#define BT_FIR_BLOCK_H

#include "bt_conv_block.h"

/* Samples that one instruction takes; the layout follows, the bits do not. */
#ifndef BT_FIR_LANES
#if !defined(__GNUC__)
#define BT_FIR_LANES 1
#elif defined(__AVX512F__)
#define BT_FIR_LANES 16
#elif defined(__AVX__)
#define BT_FIR_LANES 8
#elif defined(__SSE2__) || defined(__aarch64__)
#define BT_FIR_LANES 4
#else
#define BT_FIR_LANES 1
#endif
#endif

#if BT_FIR_LANES == 1

/* Taps and outputs that one pass works on; a larger tile adds less, but takes more of the stack. */
#define BT_FIR_TAPS 128
#define BT_FIR_TILE 144
/* Of `left` outputs those of the next tile, so that the last one is not a short one. */
#define BT_FIR_OUTPUTS(levels, left)                                                               \
  ((left) > BT_FIR_TILE && (left) < BT_FIR_TILE + 48 ? BT_FIR_TILE - 48 : BT_FIR_TILE)
#define BT_FIR_CLEAR(work) ((void)0)


/* A row of samples [lo, hi), zero elsewhere; data[0] is sample `at`. */
typedef struct bt_fir_line {
  const float *data;
  int at, lo, hi;
} bt_fir_line;

/* Scratch of a call: the taps (bt_fir_apart), the outputs of a tile, and what each level derives. */
typedef struct bt_fir_work {
  float w[BT_FIR_TAPS], y[BT_FIR_TILE];
  float w1[BT_FIR_TAPS / 2], s1[BT_FIR_TILE / 2 + BT_FIR_TAPS / 2];
  float w2[BT_FIR_TAPS / 4], s2[BT_FIR_TILE / 4 + BT_FIR_TAPS / 4], p2[BT_FIR_TILE / 4];
  float w3[BT_FIR_TAPS / 8], s3[BT_FIR_TILE / 8 + BT_FIR_TAPS / 8], p3[BT_FIR_TILE / 8];
} bt_fir_work;

/* One sum to do: 2 m outputs y, `ys` apart, of `taps` taps, the even ones (with a zero where one is
 * missing) before the odd ones, `half` of each, and a signal s. */
typedef struct bt_fir_sum {
  int m, taps, half;
  const float *w, *s;
  float *y;
  int ys;
} bt_fir_sum;

/* y[i ys] = sum, or p[i] + sum, or y[i ys] + (p[i] + sum), for i in [from, n), n = 8 or 12. */
BT_KERNEL void bt_fir_put(int n, float *sum, const float *p, float *y, int ys, bool add, int from)
{
  if (p)
    BT_UNROLLED(j, 12)
      if (j < n)
        sum[j] = p[j] + sum[j];
  if (from > 0) { /* what lies before was made by the block before */
    float rest[12];
    BT_UNROLLED(j, 12)
      if (j < n)
        rest[j] = sum[j];
    for (int j = from; j < n; j++)
      y[j * ys] = add ? y[j * ys] + rest[j] : rest[j];
    return;
  }
  const float *before = y;
  if (add)
    BT_UNROLLED(j, 12)
      if (j < n) {
        if (j > 0)
          before += ys;
        sum[j] = *before + sum[j];
      }
  BT_UNROLLED(j, 12)
    if (j < n) {
      if (j > 0)
        y += ys;
      *y = sum[j];
    }
}

/* bt_fir_put of sum_j w[j] s[(n + j) step] for n < m. */
BT_KERNEL void bt_fir_direct(int step, int m, int taps, const float *w, const float *s,
                             const float *p, float *y, int ys, bool add)
{
  int n = 0;
  for (; BT_WIDE_OUTPUTS == 12 && m - n > 8 && m - n != 16 && m >= 12; n += 12) {
    const int at = bt_min(n, m - 12);
    float sum[12] = {0.0f};
    bt_block_slide_wide(sum, taps, w, s + at * step, step);
    bt_fir_put(12, sum, p ? p + at : p, y + at * ys, ys, add, n - at);
  }
  for (; n < m && m >= 8; n += 8) {
    const int at = bt_min(n, m - 8);
    float sum[8] = {0.0f};
    bt_block_slide(sum, taps / 8 * 8, taps % 8, w, s + at * step, step);
    bt_fir_put(8, sum, p ? p + at : p, y + at * ys, ys, add, n - at);
  }
  for (; n < m; n++) {
    float sum = 0.0f;
    for (int j = 0; j < taps; j++)
      sum = bt_fma(w[j], s[(n + j) * step], sum);
    if (p)
      sum = p[n] + sum;
    y[n * ys] = add ? y[n * ys] + sum : sum;
  }
}

BT_OUTLINED void bt_fir_direct_odd(int m, int taps, const float *w, const float *s, float *p)
{
  bt_fir_direct(2, m, taps, w, s, 0, p, 1, false);
}

BT_OUTLINED void bt_fir_direct_put(int m, int taps, const float *w, const float *s, const float *p,
                                   float *y, int ys, bool add)
{
  bt_fir_direct(1, m, taps, w, s, p, y, ys, add);
}

/* w[j] = f0[j] + f1[j] */
BT_KERNEL void bt_fir_both(bt_fir_sum c, float *restrict w)
{
  const float *f0 = c.w, *f1 = c.w + c.half;
  int i = 0;
  for (; i + 4 <= c.half; i += 4) {
    float v[4];
    BT_UNROLLED_FOUR
      v[j] = f0[i + j] + f1[i + j];
    BT_UNROLLED_FOUR
      w[i + j] = v[j];
  }
  for (; i < c.half; i++)
    w[i] = f0[i] + f1[i];
}

/* Which samples a signal of the next level is made of: s1[n], s0[n] - s1[n], s0[n + 1] - s1[n]. */
typedef enum bt_fir_kind { BT_FIR_ODD, BT_FIR_EVEN_LESS, BT_FIR_NEXT_LESS } bt_fir_kind;

/* to[i] = the n samples of that signal, s0[n] = s[2n], s1[n] = s[2n + 1]. */
BT_KERNEL void bt_fir_derive(bt_fir_kind kind, int n, const float *s, float *restrict to)
{
  const float *a = kind == BT_FIR_NEXT_LESS ? s + 2 : s, *b = s + 1;
  int i = 0;
  for (; i + 4 <= n; i += 4) {
    float v[4];
    BT_UNROLLED_FOUR
      v[j] = kind == BT_FIR_ODD ? b[2 * (i + j)] : a[2 * (i + j)] - b[2 * (i + j)];
    BT_UNROLLED_FOUR
      to[i + j] = v[j];
  }
  for (; i < n; i++)
    to[i] = kind == BT_FIR_ODD ? b[2 * i] : a[2 * i] - b[2 * i];
}

BT_KERNEL float bt_fir_sample(bt_fir_line x, int at)
{
  return at < x.lo || at >= x.hi ? 0.0f : x.data[at - x.at];
}

/* The same of the samples from `start` on. */
BT_KERNEL void bt_fir_derive_line(bt_fir_kind kind, int n, bt_fir_line x, int start,
                                  float *restrict to)
{
  const int lo = bt_min(n, bt_max(0, (x.lo - start + 1) / 2));
  const int hi = bt_max(lo, bt_min(n, (x.hi - start - 1) / 2)); /* all of [lo, hi) is inside */
  for (int i = 0; i < n; i++) {
    if (i == lo && hi > lo) {
      bt_fir_derive(kind, hi - lo, x.data + (start + 2 * lo - x.at), to + lo);
      i = hi - 1;
      continue;
    }
    const float odd = bt_fir_sample(x, start + 2 * i + 1);
    to[i] = kind == BT_FIR_ODD         ? odd
            : kind == BT_FIR_EVEN_LESS ? bt_fir_sample(x, start + 2 * i) - odd
                                       : bt_fir_sample(x, start + 2 * i + 2) - odd;
  }
}

/* y = or += the sum, by three of half the length that are done as written. */
BT_KERNEL void bt_fir_last(bt_fir_sum c, bool add, float *w, float *s, float *p)
{
  const int more = (c.taps + 1) / 2, less = c.taps / 2;
  bt_fir_both(c, w);
  bt_fir_direct_odd(c.m, more, w, c.s + 1, p);
  bt_fir_derive(BT_FIR_EVEN_LESS, c.m + more - 1, c.s, s);
  bt_fir_direct_put(c.m, more, c.w, s, p, c.y, 2 * c.ys, add);
  bt_fir_derive(BT_FIR_NEXT_LESS, c.m + less - 1, c.s, s);
  bt_fir_direct_put(c.m, less, c.w + c.half, s, p, c.y + c.ys, 2 * c.ys, add);
}

BT_OUTLINED void bt_fir_last2(bt_fir_sum c, bool add, bt_fir_work *work)
{
  bt_fir_last(c, add, work->w2, work->s2, work->p2);
}

BT_OUTLINED void bt_fir_last3(bt_fir_sum c, bool add, bt_fir_work *work)
{
  bt_fir_last(c, add, work->w3, work->s3, work->p3);
}

/* Of 2 m outputs: both = p[i], set or added. */
BT_KERNEL void bt_fir_spread(int m, const float *p, float *y, int ys, bool add)
{
  for (int i = 0; i < m; i++) {
    float *const even = y + 2 * i * ys, *const odd = even + ys;
    *even = add ? *even + p[i] : p[i];
    *odd = add ? *odd + p[i] : p[i];
  }
}

/* The second of three levels. */
BT_OUTLINED void bt_fir_second(bt_fir_sum c, bool add, bt_fir_work *work)
{
  const int more = (c.taps + 1) / 2, less = c.taps / 2, half = c.m / 2;
  bt_fir_sum part = {half, more, c.half / 2, work->w2, work->s2, work->p2, 1};
  bt_fir_both(c, work->w2);
  bt_fir_derive(BT_FIR_ODD, c.m + more - 1, c.s, work->s2);
  bt_fir_last3(part, false, work);
  bt_fir_spread(c.m, work->p2, c.y, c.ys, add);
  part.w = c.w;
  part.y = c.y;
  part.ys = 2 * c.ys;
  bt_fir_derive(BT_FIR_EVEN_LESS, c.m + more - 1, c.s, work->s2);
  bt_fir_last3(part, true, work);
  part.w = c.w + c.half;
  part.y = c.y + c.ys;
  part.taps = less;
  bt_fir_derive(BT_FIR_NEXT_LESS, c.m + less - 1, c.s, work->s2);
  bt_fir_last3(part, true, work);
}

BT_KERNEL void bt_fir_below(int levels, bt_fir_sum c, bool add, bt_fir_work *work)
{
  if (levels == 2)
    bt_fir_last2(c, add, work);
  else
    bt_fir_second(c, add, work);
}

/* work.y[n] = sum_j w[j] x[start + n + j] for n < outputs <= BT_FIR_TILE, the taps in work.w. */
BT_KERNEL const float *bt_fir_tile(int levels, int outputs, int taps, bt_fir_line x, int start,
                                   bt_fir_work *work)
{
  const int block = 1 << levels, span = (taps + block - 1) / block * block;
  const int m = (outputs + block - 1) / block * (block / 2);
  const int more = (taps + 1) / 2, less = taps / 2;
  const bt_fir_sum all = {m, taps, span / 2, work->w, 0, work->y, 1};
  bt_fir_sum part = {m / 2, more, span / 4, work->w1, work->s1, work->y, 2};
  bt_fir_both(all, work->w1);
  bt_fir_derive_line(BT_FIR_ODD, m + more - 1, x, start, work->s1);
  bt_fir_below(levels, part, false, work);
  for (int i = 0; i < m; i += 2) { /* m is even */
    const float a = work->y[2 * i], b = work->y[2 * i + 2];
    work->y[2 * i + 1] = a;
    work->y[2 * i + 3] = b;
  }
  part.w = all.w;
  bt_fir_derive_line(BT_FIR_EVEN_LESS, m + more - 1, x, start, work->s1);
  bt_fir_below(levels, part, true, work);
  part.w = all.w + all.half;
  part.y = work->y + 1;
  part.taps = less;
  bt_fir_derive_line(BT_FIR_NEXT_LESS, m + less - 1, x, start, work->s1);
  bt_fir_below(levels, part, true, work);
  return work->y;
}

/* n taps as even ones, then odd ones, each half again so, `levels` times; zeros fill the halves. */
BT_OUTLINED void bt_fir_apart(int levels, const float *from, int step, int n, float *restrict w)
{
  const int phases = 1 << levels, each = (n + phases - 1) / phases;
  for (int k = 0; k < phases; k++) {
    const int turned = levels == 2 ? k % 2 * 2 + k / 2 : k % 2 * 4 + k / 2 % 2 * 2 + k / 4;
    const int there = (n - k + phases - 1) / phases;
    float *to = w + turned * each;
    for (int i = 0; i < there; i++)
      to[i] = from[(i * phases + k) * step];
    if (there < each)
      to[each - 1] = 0.0f;
  }
}

#endif
#endif
