/* SPDX-License-Identifier: Apache-2.0 */
/* How kernels see tensors: rows of samples, as views that may be windows of a larger tensor. */
#ifndef BT_KERNEL_H
#define BT_KERNEL_H

#include <stddef.h>
#include <stdint.h>
#include "bt_string.h"

#include "bt_math.h"

/* gcc warns of overflows in loops over what is left behind the tiles, for counts of two thousand
 * million, which no tensor has. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Waggressive-loop-optimizations"
#endif

/* Samples that a reduction over time adds up before the partial sum joins the total. Leaves lie at
 * absolute multiples of this length, so that a tiled call adds in the order of the whole one. */
#define BT_LEAF 32

/* The partial sum of a leaf joins the total of the leaves before it, floats or vectors of floats, as it
 * is or times a factor. Every sum in leaves is joined here, so that the order is decided in one place:
 * one leaf after the other. (Moments of leaves are joined by bt_join_moments of bt_norm.h; sums over
 * rows that many samples share are taken by bt_long_add.) */
#define BT_JOIN_LEAF(total, leaf) ((total) += (leaf))
#define BT_JOIN_SCALED_LEAF(total, scale, leaf) ((total) = bt_fma(scale, leaf, total))

/* A running sum, and what its additions lost. */
typedef struct bt_long_sum {
  float total, lost;
} bt_long_sum;

/* Adds x (Knuth's two-sum). */
BT_KERNEL void bt_long_add(bt_long_sum *to, float x)
{
  const float sum = to->total + x, part = sum - to->total;
  to->lost += (to->total - (sum - part)) + (x - part);
  to->total = sum;
}

/* The sum, rounded once or twice however many numbers were added. Where it overflowed, so it stays. */
BT_KERNEL float bt_long_total(bt_long_sum of)
{
  return bt_isfinite(of.total) ? of.total + of.lost : of.total;
}

/* 1: the core has no vectors of floats, and kernels hold tiles of results in scalar registers; 0: loops
 * that the compiler makes vectors of. The bits do not depend on it. */
#ifndef BT_SCALAR_TILES
#if defined(__SSE2__) || defined(__ARM_NEON) || defined(__ARM_FEATURE_MVE) || \
    defined(__riscv_vector)
#define BT_SCALAR_TILES 0
#else
#define BT_SCALAR_TILES 1
#endif
#endif

/* The part of the iteration space that a call covers: rows [r0, r1) and times [t0, t1), absolute. */
typedef struct bt_box {
  int r0, r1, t0, t1;
} bt_box;

/* A read-only window: element (row, time) is data[(row - r0) * stride + (time - t0)]. */
typedef struct bt_in {
  const float *data;
  int stride, r0, t0;
} bt_in;

/* A writable window. */
typedef struct bt_out {
  float *data;
  int stride, r0, t0;
} bt_out;

/* The same of bytes: counts, and places of maxima. */
typedef struct bt_in8 {
  const uint8_t *data;
  int stride, r0, t0;
} bt_in8;

typedef struct bt_out8 {
  uint8_t *data;
  int stride, r0, t0;
} bt_out8;

/* The same of the converter's integers. They lie in memory of floats, where C allows only copies of
 * bytes: read them with bt_sample16. */
typedef struct bt_in16 {
  const int16_t *data;
  int stride, r0, t0;
} bt_in16;

BT_KERNEL const int16_t *bt_at16(bt_in16 v, int row, int time)
{
  return v.data + (ptrdiff_t)(row - v.r0) * v.stride + (time - v.t0);
}

BT_KERNEL bt_in16 bt_read16(const int16_t *data, int times)
{
  const bt_in16 v = {data, times, 0, 0};
  return v;
}

/* The value of a sample: one multiply. */
BT_KERNEL float bt_sample16(const int16_t *at, float scale)
{
  int16_t q;
  bt_copy(&q, at, sizeof q);
  return (float)q * scale;
}

BT_KERNEL const uint8_t *bt_at8(bt_in8 v, int row, int time)
{
  return v.data + (ptrdiff_t)(row - v.r0) * v.stride + (time - v.t0);
}

BT_KERNEL uint8_t *bt_to8(bt_out8 v, int row, int time)
{
  return v.data + (ptrdiff_t)(row - v.r0) * v.stride + (time - v.t0);
}

BT_KERNEL bt_in8 bt_read8_at(const uint8_t *data, int stride, int r0, int t0)
{
  const bt_in8 v = {data, stride, r0, t0};
  return v;
}

BT_KERNEL bt_out8 bt_write8_at(uint8_t *data, int stride, int r0, int t0)
{
  const bt_out8 v = {data, stride, r0, t0};
  return v;
}

/* How far behind v.data an element lies. An index may be outside what is there, as of a sample in the
 * padding; a pointer may not, even where nothing is read (C99 6.5.6). */
BT_KERNEL ptrdiff_t bt_index(bt_in v, int row, int time)
{
  return (ptrdiff_t)(row - v.r0) * v.stride + (time - v.t0);
}

/* The address so many floats behind p, which may be outside of what p points into: computed as an
 * integer, for C allows no pointer there. */
BT_KERNEL const float *bt_address(const float *p, ptrdiff_t floats)
{
  return (const float *)((uintptr_t)p + (uintptr_t)floats * sizeof *p);
}

BT_KERNEL const float *bt_at(bt_in v, int row, int time)
{
  return v.data + bt_index(v, row, time);
}

BT_KERNEL float *bt_to(bt_out v, int row, int time)
{
  return v.data + (ptrdiff_t)(row - v.r0) * v.stride + (time - v.t0);
}

/* A whole tensor of rows of `times` samples, and the box over all of it. */
BT_KERNEL bt_in bt_read(const float *data, int times)
{
  const bt_in v = {data, times, 0, 0};
  return v;
}

BT_KERNEL bt_out bt_write(float *data, int times)
{
  const bt_out v = {data, times, 0, 0};
  return v;
}

/* A window of a tensor that begins at row r0 and time t0; its rows lie `stride` samples apart. */
BT_KERNEL bt_in bt_read_at(const float *data, int stride, int r0, int t0)
{
  const bt_in v = {data, stride, r0, t0};
  return v;
}

BT_KERNEL bt_in8 bt_read8(const uint8_t *data, int times)
{
  return bt_read8_at(data, times, 0, 0);
}

BT_KERNEL bt_out8 bt_write8(uint8_t *data, int times)
{
  return bt_write8_at(data, times, 0, 0);
}

BT_KERNEL bt_out bt_write_at(float *data, int stride, int r0, int t0)
{
  const bt_out v = {data, stride, r0, t0};
  return v;
}

BT_KERNEL bt_box bt_part(int r0, int r1, int t0, int t1)
{
  const bt_box box = {r0, r1, t0, t1};
  return box;
}

BT_KERNEL bt_box bt_all(int rows, int times)
{
  const bt_box box = {0, rows, 0, times};
  return box;
}

BT_KERNEL int bt_min(int a, int b) { return a < b ? a : b; }
BT_KERNEL int bt_max(int a, int b) { return a > b ? a : b; }

/* floor and ceiling of a / b for b > 0 and any sign of a */
BT_KERNEL int bt_floor_div(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
BT_KERNEL int bt_ceil_div(int a, int b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }

/* End of the leaf that holds time t, or `end` where that comes first. */
BT_KERNEL int bt_leaf_end(int t, int end) { return bt_min((t / BT_LEAF + 1) * BT_LEAF, end); }

/* Eight running sums, element i in lane i mod 8, folded 4-2-1: one order for every target, and one
 * or two vector registers where there are vectors. */
#define BT_LANES 8

/* A loop over the lanes, unrolled where they are scalar registers: indices are constants then. */
#if BT_SCALAR_TILES && defined(__GNUC__)
#define BT_UNROLLED_LANES _Pragma("GCC unroll 8") for (int j = 0; j < BT_LANES; j++)
#else
#define BT_UNROLLED_LANES for (int j = 0; j < BT_LANES; j++)
#endif

/* The same over four elements, which cores without vectors work on side by side: the result of an
 * operation is there for the next one a cycle or more later. */
#ifdef __GNUC__
#define BT_UNROLLED_FOUR _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++)
#else
#define BT_UNROLLED_FOUR for (int j = 0; j < 4; j++)
#endif

/* Before a loop over elements or terms that takes cycles enough for four or eight copies of its body.
 * clang, which is told to unroll no other loop of a board's firmware, needs to be told; gcc decides
 * for itself. */
#if BT_SCALAR_TILES && defined(__clang__) && !defined(__OPTIMIZE_SIZE__)
#define BT_UNROLL_BY_FOUR _Pragma("GCC unroll 4")
#else
#define BT_UNROLL_BY_FOUR
#endif

BT_KERNEL float bt_fold(float lane[BT_LANES])
{
#if BT_SCALAR_TILES
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
#endif
  for (int half = BT_LANES / 2; half > 0; half /= 2)
    for (int j = 0; j < half; j++)
      lane[j] += lane[j + half];
  return lane[0];
}

/* Sum of n <= BT_LEAF values. */
BT_KERNEL float bt_leaf_sum(const float *x, int n)
{
  float lane[BT_LANES] = {0.0f};
  int i = 0;
  for (; i + BT_LANES <= n; i += BT_LANES)
    BT_UNROLLED_LANES
      lane[j] += x[i + j];
  if (i < n)
    BT_UNROLLED_LANES
      if (i + j < n)
        lane[j] += x[i + j];
  return bt_fold(lane);
}

/* Sum of n <= BT_LEAF products. */
BT_KERNEL float bt_leaf_dot(const float *x, const float *y, int n)
{
  float lane[BT_LANES] = {0.0f};
  int i = 0;
  for (; i + BT_LANES <= n; i += BT_LANES)
    BT_UNROLLED_LANES
      lane[j] = bt_fma(x[i + j], y[i + j], lane[j]);
  if (i < n)
    BT_UNROLLED_LANES
      if (i + j < n)
        lane[j] = bt_fma(x[i + j], y[i + j], lane[j]);
  return bt_fold(lane);
}

/* Sum of n <= BT_LEAF squared distances from a centre. */
BT_KERNEL float bt_leaf_square(const float *x, float centre, int n)
{
  float lane[BT_LANES] = {0.0f};
  int i = 0;
  for (; i + BT_LANES <= n; i += BT_LANES)
    BT_UNROLLED_LANES {
      const float d = x[i + j] - centre;
      lane[j] = bt_fma(d, d, lane[j]);
    }
  if (i < n)
    BT_UNROLLED_LANES
      if (i + j < n) {
        const float d = x[i + j] - centre;
        lane[j] = bt_fma(d, d, lane[j]);
      }
  return bt_fold(lane);
}

#endif
