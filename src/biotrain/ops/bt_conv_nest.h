/* SPDX-License-Identifier: Apache-2.0 */
/* The nest of a convolution's sums (bt_conv_sum.h): outputs, tiles of results, then terms and
 * rows; below them the bodies of the tiles. */
#ifndef BT_CONV_NEST_H
#define BT_CONV_NEST_H

#include "bt_conv_product.h"
#include "bt_conv_row.h"
#include "bt_conv_stride.h"
#include "bt_conv_vector.h"

/* Tiles in scalar registers: of a sliding sum, no tap of which is outside, or any; of a sum with
 * a stride, no tap of which is outside. */
enum { BT_TILE_WIDE, BT_TILE_EDGE, BT_TILE_STRIDED };

/* Whether results with a stride share samples in registers. */
BT_KERNEL int bt_conv_shares(bt_conv_sum m)
{
  return m.gap == 1 || (m.step == 1 && m.gap <= 4 && m.taps >= 2 * m.gap);
}

/* One row's taps, added to the sums of a tile, whose first sample lies at time `first` and `at`
 * behind m.x; of a tile at an edge, that is time 0, so that the addresses there are the same for all
 * tiles. */
BT_KERNEL void bt_conv_tile_row(bt_conv_sum m, int kind, int count, int first, const float *w,
                                ptrdiff_t at, float *s)
{
  if (kind == BT_TILE_WIDE)
    bt_block_slide_wide(s, m.taps, w, m.x + at, m.step);
  else if (kind == BT_TILE_EDGE) {
    const int d = m.step, last = m.times - 1; /* sample m of the tile: first + m d, in [0, last] */
    const int lo = d > 0 ? bt_ceil_div(-first, d) : bt_ceil_div(first - last, -d);
    const int hi = d > 0 ? bt_floor_div(last - first, d) : bt_floor_div(first, -d);
    bt_block_edge(s, m.taps, w, (bt_block_row){m.x, at, first, d, lo, hi + 1});
  } else if (bt_conv_shares(m))
    bt_block_shared(s, count, m.gap, m.taps, w, m.w_tap, m.x + at, m.step);
  else
    bt_block_apart(s, m.taps, w, m.x + at, m.step, m.gap);
}

/* `count` results from the n-th on: neighbours, or, where samples slide, as far apart as the
 * taps, the first one being that whose samples come first. `adds`: to what is there. */
BT_KERNEL void bt_conv_tile(bt_conv_sum m, int kind, int count, int n, int adds)
{
  const int apart = m.gap > 1 ? 1 : m.step;
  const int back = apart < 0 ? (1 - count) * apart : 0, first = m.first + (n + back) * m.gap;
  const float start = m.b ? *m.b : 0.0f;
  const ptrdiff_t at = m.x_at + (kind == BT_TILE_EDGE ? -m.first : (n + back) * m.gap);
  const ptrdiff_t y_gap = apart * m.y_gap;
  float *y = m.y + n * m.y_gap + back * m.y_gap;
  float s[12];
  BT_UNROLLED(j, 12)
    if (j < count)
      s[j] = adds ? y[j * y_gap] : start;
  BT_CONV_EACH_ROW(m, i, h)
    bt_conv_tile_row(m, kind, count, first, m.w + i * m.w_term + h * m.w_row,
                     at + i * m.x_term + h * m.x_row, s);
  if (kind == BT_TILE_WIDE)
    BT_OPAQUE_POINTER(y);
  BT_UNROLLED(j, 12)
    if (j < count)
      y[j * y_gap] = s[j];
}

/* Results [n, end) one by one: those of which some tap may be outside. */
BT_KERNEL void bt_conv_singles(bt_conv_sum m, int n, int end, int adds)
{
  BT_UNROLL_ALL_TERMS
  for (; n < end; n++) {
    const int at = n * m.gap;
    const bt_conv_span k = bt_conv_within(m.first + at, m.step, m.taps, m.times);
    float *const y = m.y + n * m.y_gap, sum = adds ? *y : m.b ? *m.b : 0.0f;
    BT_CONV_EACH_ROW(m, i, h) {
      const float *w = m.w + i * m.w_term + h * m.w_row;
      const ptrdiff_t from = m.x_at + i * m.x_term + h * m.x_row + at;
      BT_UNROLL_ALL_TERMS
      for (int j = k.from; j < k.end; j++)
        sum = bt_fma(w[j * m.w_tap], m.x[from + j * m.step], sum);
    }
    *y = sum;
  }
}

/* n results of one output, tiles in scalar registers. The last tile begins where it ends with
 * the row: it computes some results twice, unless it adds. */
BT_KERNEL void bt_conv_tiles(bt_conv_sum m, int n, int adds)
{
  const int d = m.step < 0 ? -m.step : m.step, width = BT_TILE_OUTPUTS * d;
  const int wide = BT_WIDE_OUTPUTS * d;
  const bt_conv_span whole = bt_conv_whole(m, 0, n, 0, m.taps);
  if (m.gap == 1 && m.w_tap == 1 && m.times >= BT_SLIDE_SAMPLES * d && n >= width) {
    int t = 0;
    for (; t < n && (!adds || t + width <= n); t += width) {
      for (; !adds && t >= whole.from && t + wide <= whole.end; t += wide)
        for (int phase = 0; phase < d; phase++)
          bt_conv_tile(m, BT_TILE_WIDE, BT_WIDE_OUTPUTS, t + phase, 0);
      const int at = bt_min(t, n - width);
      for (int phase = 0; phase < d && t < n; phase++)
        bt_conv_tile(m, BT_TILE_EDGE, BT_TILE_OUTPUTS, at + phase, adds);
    }
    if (adds)
      bt_conv_singles(m, t, n, 1);
    return;
  }
  const int count = m.gap > 2 && bt_conv_shares(m) ? 4 : 8;
  int t = 0;
  if ((m.gap > 1 || (m.w_tap > 1 && m.step == -1)) && whole.end - whole.from >= count) {
    bt_conv_singles(m, 0, whole.from, adds);
    for (t = whole.from; t < whole.end && (!adds || t + count <= whole.end); t += count)
      bt_conv_tile(m, BT_TILE_STRIDED, count, bt_min(t, whole.end - count), adds);
    t = bt_min(t, whole.end);
  }
  bt_conv_singles(m, t, n, adds);
}

/* n results of `outs` outputs. */
BT_KERNEL void bt_conv_sums(bt_conv_sum m, int outs, int n)
{
#if BT_VECTOR
  if (m.gap == 1 && m.w_tap == 1 && m.y_gap == 1) {
    bt_vec_sums(&m, outs, n);
    return;
  }
#endif
  const int product = BT_SCALAR_TILES && m.inside && m.taps == 1 && m.rows == 1 && m.gap == 1;
  if (product && m.x_out == 0)
    bt_block_mix_all(bt_conv_settled(m), outs, n);
  else
    for (int o = 0; o < outs; o++) {
      const bt_conv_sum one = bt_conv_from(m, o);
      if (product)
        bt_block_mix_all(bt_conv_settled(one), 1, n);
      else if (BT_SCALAR_TILES)
        bt_conv_tiles(one, n, 0);
      else
        bt_conv_rows(one, n);
    }
}

/* n results of one output, added to y. */
BT_KERNEL void bt_conv_add(bt_conv_sum m, int n)
{
  if (BT_SCALAR_TILES)
    bt_conv_tiles(m, n, 1);
  else
    BT_CONV_EACH_ROW(m, i, h)
      bt_conv_row(m, n, m.w + i * m.w_term + h * m.w_row, m.x_at + i * m.x_term + h * m.x_row);
}

#endif
