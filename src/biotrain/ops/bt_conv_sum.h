/* SPDX-License-Identifier: Apache-2.0 */
/* The one sum that the three passes of a convolution compute:
 *
 *   y[o, n] = b[o] + sum_i sum_h sum_k w[o, i, h, k] x[i, h, n gap + k step]
 *
 *                   n             i                h            k      w   x   gap       step
 *   forward         times of y    channels of x    kernel rows  taps   w   x   stride    dilation
 *   input gradient  times of dx   channels of y    kernel rows  taps   w   dy  1         -dilation
 *   weight gradient taps          -                rows of y    times  dy  x   dilation  stride
 *
 * The input gradient of a stride s is s such sums, each of every s-th result and every s-th tap.
 * The weight gradient adds its sum to y leaf by leaf. A tap whose sample is outside the row is
 * skipped. */
#ifndef BT_CONV_SUM_H
#define BT_CONV_SUM_H

#include "bt_kernel.h"

/* Results whose sums over a leaf stand on the stack. */
#define BT_CONV_SUMS 64

typedef struct bt_conv_sum {
  int terms, rows, taps;
  int gap, step;    /* samples from one result to the next, from one tap to the next (may be < 0) */
  int first, times; /* the sample of result 0 and tap 0 lies at time `first`, a row has [0, times) */
  int inside;       /* constant 1: no tap of any result is outside */
  const float *w;
  ptrdiff_t w_out, w_term, w_row, w_tap; /* from one output, term, row, tap to the next */
  const float *x;                        /* what is there of the input, from its first sample on */
  ptrdiff_t x_at; /* from there to the sample of result 0 and tap 0, which may be in the padding */
  ptrdiff_t x_out, x_term, x_row;        /* x_out 0: outputs share their samples */
  const float *b;                        /* one per output, or NULL for 0 */
  float *y;
  ptrdiff_t y_out, y_gap;
  ptrdiff_t x_in, y_in; /* of weight gradients: from one input to the next */
} bt_conv_sum;

/* The nest of every sum: its terms, their rows; then the taps, which are the tile's. */
#define BT_CONV_EACH_ROW(m, i, h)                                                                  \
  for (int i = 0; i < (m).terms; i++)                                                              \
    for (int h = 0; h < (m).rows; h++)

/* The same sum of the outputs from the o-th on. */
BT_KERNEL bt_conv_sum bt_conv_from(bt_conv_sum m, int o)
{
  m.w += o * m.w_out;
  m.x_at += o * m.x_out;
  m.y += o * m.y_out;
  m.b = m.b ? m.b + o : NULL;
  return m;
}

/* The same sum, no tap of which is outside, with x at the sample of result 0 and tap 0. */
BT_KERNEL bt_conv_sum bt_conv_settled(bt_conv_sum m)
{
  m.x += m.x_at;
  m.x_at = 0;
  return m;
}

/* [from, end) of what is counted. */
typedef struct bt_conv_span {
  int from, end;
} bt_conv_span;

/* Of `count` places at, at + step, ...: those in [0, size). */
BT_KERNEL bt_conv_span bt_conv_within(int at, int step, int count, int size)
{
  if (step < 0) { /* the same from the other end */
    at = size - 1 - at;
    step = -step;
  }
  const int from = bt_min(count, bt_max(0, bt_ceil_div(-at, step)));
  return (bt_conv_span){from, bt_max(from, bt_min(count, bt_floor_div(size - 1 - at, step) + 1))};
}

/* Of `count` results from the n-th on: those whose taps [k, k + taps) are all inside. */
BT_KERNEL bt_conv_span bt_conv_whole(bt_conv_sum m, int n, int count, int k, int taps)
{
  if (m.inside)
    return (bt_conv_span){0, count};
  const int at = m.first + n * m.gap + k * m.step, reach = (taps - 1) * m.step;
  const int low = bt_min(0, reach), high = bt_max(0, reach);
  return bt_conv_within(at + low, m.gap, count, m.times - (high - low));
}

#endif
