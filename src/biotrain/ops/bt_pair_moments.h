/* SPDX-License-Identifier: Apache-2.0 */
/* Second moments of the rows of x, from which follow, without a pass over y, the moments of
 *
 *   y[o] = b[o] + sum_i w[o, i] x[i]:   mean_o = b_o + sum_i w_oi mean_i
 *                                       square_o = sum_ij w_oi w_oj S_ij
 *
 * S_ij = sum over time of (x_i - mean_i) (x_j - mean_j). Weights that suppress what the rows have in
 * common cancel in square_o, so the sums are exact integers within a leaf (28 bits per sample,
 * relative to the largest of the leaf and row) and pairs of floats (48 bits) beyond. */
#ifndef BT_PAIR_MOMENTS_H
#define BT_PAIR_MOMENTS_H

#include "bt_kernel.h"
#include "bt_vector.h"

typedef struct bt_pairs {
  int rows, times;  /* of x */
  int out_channels; /* rows of y */
  int groups;       /* runs of out_channels / groups rows of y that share mean and variance */
  int batch;        /* 1: mean, variance and means are those of a batch of samples */
} bt_pairs;

/* ---- a number as the sum of two floats ---------------------------------------------------- */

/* T. J. Dekker, "A floating-point technique for extending the available precision", 1971. */
typedef struct bt_twin {
  float hi, lo;
} bt_twin;

BT_KERNEL bt_twin bt_two_sum(float a, float b)
{
  const float sum = a + b, part = sum - a;
  return (bt_twin){sum, (a - (sum - part)) + (b - part)};
}

/* The same where |a| >= |b|. */
BT_KERNEL bt_twin bt_quick_sum(float a, float b)
{
  const float sum = a + b;
  return (bt_twin){sum, b - (sum - a)};
}

/* a as two numbers of 12 bits. */
BT_KERNEL bt_twin bt_split(float a)
{
  const float wide = 4097.0f * a, high = wide - (wide - a);
  return (bt_twin){high, a - high};
}

/* The exact product: the same bits fused and separate. */
BT_KERNEL bt_twin bt_two_product(float a, float b)
{
  const float product = a * b;
#if BT_FUSED
  return (bt_twin){product, bt_fma(a, b, -product)};
#else
  const bt_twin p = bt_split(a), q = bt_split(b);
  const float crossed = ((p.hi * q.hi - product) + p.hi * q.lo) + p.lo * q.hi;
  return (bt_twin){product, crossed + p.lo * q.lo};
#endif
}

BT_KERNEL bt_twin bt_twin_add(bt_twin a, bt_twin b)
{
  const bt_twin sum = bt_two_sum(a.hi, b.hi);
  return bt_quick_sum(sum.hi, sum.lo + (a.lo + b.lo));
}

BT_KERNEL bt_twin bt_twin_times(bt_twin a, float b)
{
  const bt_twin product = bt_two_product(a.hi, b);
  return bt_quick_sum(product.hi, product.lo + a.lo * b);
}

BT_KERNEL bt_twin bt_twin_product(bt_twin a, bt_twin b)
{
  const bt_twin product = bt_two_product(a.hi, b.hi);
  return bt_quick_sum(product.hi, product.lo + (a.hi * b.lo + a.lo * b.hi));
}

BT_KERNEL bt_twin bt_twin_share(bt_twin a, float n)
{
  const float first = a.hi / n;
  const bt_twin back = bt_two_product(first, n);
  return bt_quick_sum(first, (((a.hi - back.hi) - back.lo) + a.lo) / n);
}

/* v scale, where scale is a power of two. */
BT_KERNEL bt_twin bt_twin_of(int64_t v, float scale)
{
  const uint64_t u = v < 0 ? 0u - (uint64_t)v : (uint64_t)v;
  const float sign = v < 0 ? -scale : scale;
  const float top = (float)(uint32_t)(u >> 48) * 281474976710656.0f; /* 2^48 */
  const float middle = (float)(uint32_t)(u >> 24 & 0xffffffu) * 16777216.0f;
  const bt_twin sum = bt_quick_sum(top, middle);
  const bt_twin all = bt_twin_add(sum, (bt_twin){(float)(uint32_t)(u & 0xffffffu), 0.0f});
  return (bt_twin){all.hi * sign, all.lo * sign};
}

/* ---- sums over time ----------------------------------------------------------------------- */

/* Rows that are worked on together, and samples at a time: what they need lies on the stack. */
#define BT_PAIR_ROWS 8

/* Layout of the sums: {pivot, hi, lo} for every row, then {hi, lo} for every pair j <= i. */
BT_KERNEL float *bt_pair_at(bt_pairs g, float *sums, int i, int j)
{
  return sums + 3 * g.rows + i * (i + 1) + 2 * j;
}

/* Samples of a leaf as integers of 28 bits and a sign. */
typedef struct bt_fixed {
  const float *x;
  float pivot;
  float scale;   /* x - pivot times this; 0 where the leaf is not finite */
  float inverse; /* power of two that undoes it; NaN where the leaf is not finite */
} bt_fixed;

BT_KERNEL bt_fixed bt_fix(const float *x, float pivot, int n)
{
  uint32_t most = 0;
  for (int t = 0; t < n; t++) {
    const uint32_t bits = bt_bits(x[t] - pivot) & 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  if (most >= 0x7f800000u)
    return (bt_fixed){x, pivot, 0.0f, bt_from_bits(BT_NAN_BITS)};
  const uint32_t power = most >> 23 > 28u ? most >> 23 : 28u; /* 2^(power - 127) <= most */
  return (bt_fixed){x, pivot, bt_from_bits((281u - power) << 23), bt_from_bits((power - 27u) << 23)};
}

/* Samples [t, t + BT_LANES) of a leaf of n, zeros beyond its end. */
BT_KERNEL void bt_fixed_take(bt_fixed row, int t, int n, int32_t *to)
{
  const int m = row.scale > 0.0f ? bt_min(BT_LANES, n - t) : 0;
  for (int i = 0; i < m; i++)
    to[i] = (int32_t)((row.x[t + i] - row.pivot) * row.scale);
  for (int i = m; i < BT_LANES; i++)
    to[i] = 0;
}

/* All samples of a leaf of n, zeros beyond its end. */
BT_KERNEL void bt_fixed_leaf(bt_fixed row, int n, int32_t *to)
{
  const int m = row.scale > 0.0f ? n : 0;
  for (int i = 0; i < m; i++)
    to[i] = (int32_t)((row.x[i] - row.pivot) * row.scale);
  for (int i = m; i < BT_LEAF; i++)
    to[i] = 0;
}

BT_KERNEL void bt_pair_add(float *to, int64_t sum, float a, float b)
{
  const bt_twin all = bt_twin_add((bt_twin){to[0], to[1]}, bt_twin_of(sum, a * b));
  to[0] = all.hi;
  to[1] = all.lo;
}

#if BT_VECTOR

/* Adds the sums of a leaf [t, end) for the pairs of rows from i0 and rows from j0 <= i0 on, in loops
 * that vectors can take: integer sums have no order. */
BT_VECTOR_OUTLINED void bt_pair_block(bt_pairs g, bt_in x, int t, int end, int i0, int j0, float *sums);

#if BT_VECTOR_LINKAGE

void bt_pair_block(bt_pairs g, bt_in x, int t, int end, int i0, int j0, float *sums)
{
  const int n = end - t, same = i0 == j0;
  const int rows = bt_min(BT_PAIR_ROWS, g.rows - i0), others = bt_min(BT_PAIR_ROWS, g.rows - j0);
  bt_fixed left[BT_PAIR_ROWS], right[BT_PAIR_ROWS];
  int32_t p[BT_PAIR_ROWS][BT_LEAF], q[BT_PAIR_ROWS][BT_LEAF];
  int64_t total[BT_PAIR_ROWS * (BT_PAIR_ROWS + 1)];
  float *to[BT_PAIR_ROWS * (BT_PAIR_ROWS + 1)], a[BT_PAIR_ROWS * (BT_PAIR_ROWS + 1)];
  float hi[BT_PAIR_ROWS * (BT_PAIR_ROWS + 1)], lo[BT_PAIR_ROWS * (BT_PAIR_ROWS + 1)];
  int count = 0;
  for (int i = 0; i < rows; i++) {
    left[i] = bt_fix(bt_at(x, i0 + i, t), sums[3 * (i0 + i)], n);
    bt_fixed_leaf(left[i], n, p[i]);
  }
  for (int j = 0; j < others; j++) {
    right[j] = same ? left[j] : bt_fix(bt_at(x, j0 + j, t), sums[3 * (j0 + j)], n);
    if (!same)
      bt_fixed_leaf(right[j], n, q[j]);
  }
  for (int i = 0; i < rows && same; i++) {
    int64_t sum = 0;
    for (int k = 0; k < BT_LEAF; k++)
      sum += p[i][k];
    to[count] = &sums[3 * (i0 + i) + 1];
    a[count] = left[i].inverse * 1.0f;
    total[count++] = sum;
  }
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < (same ? i + 1 : others); j++) {
      const int32_t *other = same ? p[j] : q[j];
      int64_t sum = 0;
      for (int k = 0; k < BT_LEAF; k++)
        sum += (int64_t)p[i][k] * other[k];
      to[count] = bt_pair_at(g, sums, i0 + i, j0 + j);
      a[count] = left[i].inverse * right[j].inverse;
      total[count++] = sum;
    }
  for (int k = 0; k < count; k++) {
    hi[k] = to[k][0];
    lo[k] = to[k][1];
  }
  for (int k = 0; k < count; k++) {
    const bt_twin all = bt_twin_add((bt_twin){hi[k], lo[k]}, bt_twin_of(total[k], a[k]));
    hi[k] = all.hi;
    lo[k] = all.lo;
  }
  for (int k = 0; k < count; k++) {
    to[k][0] = hi[k];
    to[k][1] = lo[k];
  }
}

#endif

#else

/* A function of its own where the stack is small: what it needs is there only while it runs. */
#if BT_SCALAR_TILES && defined(__GNUC__)
#define BT_PAIR_OUTLINED static __attribute__((noinline, unused))
#else
#define BT_PAIR_OUTLINED BT_KERNEL
#endif

/* Adds the sums of a leaf [t, end) for the pairs of rows from i0 and rows from j0 <= i0 on. */
BT_PAIR_OUTLINED void bt_pair_block(bt_pairs g, bt_in x, int t, int end, int i0, int j0, float *sums)
{
  const int n = end - t, same = i0 == j0;
  const int rows = bt_min(BT_PAIR_ROWS, g.rows - i0), others = bt_min(BT_PAIR_ROWS, g.rows - j0);
  bt_fixed left[BT_PAIR_ROWS], right[BT_PAIR_ROWS];
  int32_t p[BT_PAIR_ROWS][BT_LANES], q[BT_PAIR_ROWS][BT_LANES];
  int64_t plain[BT_PAIR_ROWS] = {0}, product[BT_PAIR_ROWS][BT_PAIR_ROWS] = {{0}};
  for (int i = 0; i < rows; i++)
    left[i] = bt_fix(bt_at(x, i0 + i, t), sums[3 * (i0 + i)], n);
  for (int j = 0; j < others; j++)
    right[j] = same ? left[j] : bt_fix(bt_at(x, j0 + j, t), sums[3 * (j0 + j)], n);
  for (int u = 0; u < n; u += BT_LANES) {
    for (int i = 0; i < rows; i++)
      bt_fixed_take(left[i], u, n, p[i]);
    for (int j = 0; j < others && !same; j++)
      bt_fixed_take(right[j], u, n, q[j]);
    for (int i = 0; i < rows; i++) {
      for (int k = 0; k < BT_LANES && same; k++)
        plain[i] += p[i][k];
      for (int j = 0; j < (same ? i + 1 : others); j++) {
        const int32_t *other = same ? p[j] : q[j];
        int64_t sum = 0;
        for (int k = 0; k < BT_LANES; k++)
          sum += (int64_t)p[i][k] * other[k];
        product[i][j] += sum;
      }
    }
  }
  for (int i = 0; i < rows; i++) {
    if (same)
      bt_pair_add(&sums[3 * (i0 + i) + 1], plain[i], left[i].inverse, 1.0f);
    for (int j = 0; j < (same ? i + 1 : others); j++)
      bt_pair_add(bt_pair_at(g, sums, i0 + i, j0 + j), product[i][j], left[i].inverse,
                  right[j].inverse);
  }
}

#endif

/* Sums of x - pivot and of its products over the times of the box; the pivot of a row is the mean of
 * its first leaf. */
BT_KERNEL void bt_pair_sums(bt_pairs g, bt_box box, bt_in x, float *sums)
{
  for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
    const int end = bt_leaf_end(t, box.t1);
    for (int i = 0; i < g.rows && t == 0; i++)
      sums[3 * i] = bt_leaf_sum(bt_at(x, i, 0), end) / (float)end;
    for (int i = 0; i < g.rows; i += BT_PAIR_ROWS)
      for (int j = 0; j <= i; j += BT_PAIR_ROWS)
        bt_pair_block(g, x, t, end, i, j, sums);
  }
}

/* Layout of the moments: {hi, lo} of the mean of every row, then {hi, lo} of S_ij for j <= i. */
BT_KERNEL bt_twin bt_mean_of(const float *moments, int i)
{
  return (bt_twin){moments[2 * i], moments[2 * i + 1]};
}

BT_KERNEL bt_twin bt_square_of(bt_pairs g, const float *moments, int i, int j)
{
  const float *at = moments + 2 * g.rows + (i >= j ? i * (i + 1) + 2 * j : j * (j + 1) + 2 * i);
  return (bt_twin){at[0], at[1]};
}

BT_KERNEL void bt_pair_moments(bt_pairs g, bt_box box, const float *sums, float *moments)
{
  const float n = (float)g.times;
  for (int i = box.r0; i < box.r1; i++) {
    const bt_twin sum = {sums[3 * i + 1], sums[3 * i + 2]};
    const bt_twin mean = bt_twin_add((bt_twin){sums[3 * i], 0.0f}, bt_twin_share(sum, n));
    moments[2 * i] = mean.hi;
    moments[2 * i + 1] = mean.lo;
    for (int j = 0; j <= i; j++) {
      const bt_twin other = bt_twin_share((bt_twin){sums[3 * j + 1], sums[3 * j + 2]}, -n);
      const float *raw = sums + 3 * g.rows + i * (i + 1) + 2 * j;
      float *to = moments + 2 * g.rows + i * (i + 1) + 2 * j;
      const bt_twin s = bt_twin_add((bt_twin){raw[0], raw[1]}, bt_twin_product(sum, other));
      to[0] = s.hi;
      to[1] = s.lo;
    }
  }
}

/* sum_j w_j S_ij over j <= last, the products with j < i counted `twice` or once. */
BT_KERNEL bt_twin bt_mix_row(bt_pairs g, const float *moments, const float *w, int i, int last,
                             int twice)
{
  bt_twin sum = {0.0f, 0.0f};
  for (int j = 0; j <= last; j++)
    sum = bt_twin_add(sum, bt_twin_times(bt_square_of(g, moments, i, j),
                                         twice && j < i ? 2.0f * w[j] : w[j]));
  return sum;
}

/* of[o] = {mean, what its rounding lost, sum of squared distances} of y[o] = b[o] + w[o] . x: the
 * {pivot, mean - pivot, square} of bt_row_moments. */
BT_KERNEL void bt_mix_moments(bt_pairs g, bt_box box, const float *moments, const float *w,
                              const float *b, float *of)
{
  for (int o = box.r0; o < box.r1; o++) {
    const float *weight = w + o * g.rows;
    bt_twin mean = {b ? b[o] : 0.0f, 0.0f}, square = {0.0f, 0.0f};
    for (int i = 0; i < g.rows; i++) {
      mean = bt_twin_add(mean, bt_twin_times(bt_mean_of(moments, i), weight[i]));
      square = bt_twin_add(square,
                           bt_twin_times(bt_mix_row(g, moments, weight, i, i, 1), weight[i]));
    }
    of[3 * o] = mean.hi;
    of[3 * o + 1] = mean.lo;
    of[3 * o + 2] = square.hi < 0.0f ? 0.0f : square.hi;
  }
}

#endif
