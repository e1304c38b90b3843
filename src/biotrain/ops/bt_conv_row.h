/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of a convolution's results in memory: loops over results that the compiler makes vectors of,
 * for cores whose vectors BioTrain does not write out, strides above one and integer input. */
#ifndef BT_CONV_ROW_H
#define BT_CONV_ROW_H

#include "bt_conv_sum.h"

/* Taps that one pass over a row applies: enough to hide the load and store of the sum. */
#define BT_CONV_TAPS 8

/* y[n y_gap] += w[k w_tap] x[at + n gap + k step] for those of results [from, end) whose sample is
 * inside. */
BT_KERNEL void bt_conv_tap(bt_conv_sum m, int from, int end, int k, const float *w, ptrdiff_t at)
{
  const bt_conv_span n = bt_conv_whole(m, from, end - from, k, 1);
  if (n.from >= n.end)
    return;
  const float wk = w[k * m.w_tap];
  const float *restrict in =
      m.x + (at + (ptrdiff_t)(from + n.from) * m.gap + (ptrdiff_t)k * m.step);
  float *restrict to = m.y + (from + n.from) * m.y_gap;
  for (int i = 0; i < n.end - n.from; i++)
    to[i * m.y_gap] = bt_fma(wk, in[i * m.gap], to[i * m.y_gap]);
}

/* y[i y_gap] += sum_j w[j w_tap] x[i gap + j step] for n results and BT_CONV_TAPS taps in order. */
BT_KERNEL void bt_conv_taps(int n, const float *w, ptrdiff_t w_tap, const float *x, int gap, int step,
                            float *restrict y, ptrdiff_t y_gap)
{
  const float w0 = w[0], w1 = w[w_tap], w2 = w[2 * w_tap], w3 = w[3 * w_tap];
  const float w4 = w[4 * w_tap], w5 = w[5 * w_tap], w6 = w[6 * w_tap], w7 = w[7 * w_tap];
  const float *restrict from = x;
  for (int i = 0; i < n; i++) {
    const float *p = from + i * gap;
    float sum = y[i * y_gap];
    sum = bt_fma(w0, p[0], sum);
    sum = bt_fma(w1, p[step], sum);
    sum = bt_fma(w2, p[2 * step], sum);
    sum = bt_fma(w3, p[3 * step], sum);
    sum = bt_fma(w4, p[4 * step], sum);
    sum = bt_fma(w5, p[5 * step], sum);
    sum = bt_fma(w6, p[6 * step], sum);
    sum = bt_fma(w7, p[7 * step], sum);
    y[i * y_gap] = sum;
  }
}

/* Samples that rise or fall by one a tap: functions of their own, so that weights stay in
 * registers, and four results at a time, so that no vector straddles two of the caller's. */
BT_OUTLINED void bt_conv_taps_up(int n, const float *w, const float *x, float *y)
{
  bt_conv_taps(n / 4 * 4, w, 1, x, 1, 1, y, 1);
  bt_conv_taps(n % 4, w, 1, x + n / 4 * 4, 1, 1, y + n / 4 * 4, 1);
}

BT_OUTLINED void bt_conv_taps_down(int n, const float *w, const float *x, float *y)
{
  bt_conv_taps(n / 4 * 4, w, 1, x, 1, -1, y, 1);
  bt_conv_taps(n % 4, w, 1, x + n / 4 * 4, 1, -1, y + n / 4 * 4, 1);
}

/* y[i] += sum_k w[k] x[at + i gap + k step] for n results, taps in order. */
BT_KERNEL void bt_conv_row(bt_conv_sum m, int n, const float *w, ptrdiff_t at)
{
  int k = 0;
  for (; k + BT_CONV_TAPS <= m.taps; k += BT_CONV_TAPS) {
    const bt_conv_span whole = bt_conv_whole(m, 0, n, k, BT_CONV_TAPS);
    const int count = whole.end - whole.from, unit = m.gap == 1 && m.w_tap == 1 && m.y_gap == 1;
    const float *const wk = w + k * m.w_tap;
    const ptrdiff_t first = at + (ptrdiff_t)whole.from * m.gap + (ptrdiff_t)k * m.step;
    const float *const from = m.x + (count > 0 ? first : 0);
    float *const to = m.y + whole.from * m.y_gap;
    for (int j = k; j < k + BT_CONV_TAPS; j++)
      bt_conv_tap(m, 0, whole.from, j, w, at);
    if (unit && m.step == 1)
      bt_conv_taps_up(count, wk, from, to);
    else if (unit && m.step == -1)
      bt_conv_taps_down(count, wk, from, to);
    else
      bt_conv_taps(count, wk, m.w_tap, from, m.gap, m.step, to, m.y_gap);
    for (int j = k; j < k + BT_CONV_TAPS; j++)
      bt_conv_tap(m, whole.end, n, j, w, at);
  }
  for (; k < m.taps; k++)
    bt_conv_tap(m, 0, n, k, w, at);
}

/* All terms of n results of one output. Where a term has one sample for a result, and no more is
 * outside, the rows or the terms are the taps. */
BT_KERNEL void bt_conv_rows(bt_conv_sum m, int n)
{
  const float start = m.b ? *m.b : 0.0f;
  for (int i = 0; i < n; i++)
    m.y[i * m.y_gap] = start;
  if (m.inside && m.taps == 1) {
    const int rows = m.rows > 1;
    m.taps = rows ? m.rows : m.terms;
    m.step = (int)(rows ? m.x_row : m.x_term);
    m.w_tap = rows ? m.w_row : m.w_term;
    *(rows ? &m.rows : &m.terms) = 1;
  }
  BT_CONV_EACH_ROW(m, i, h)
    bt_conv_row(m, n, m.w + i * m.w_term + h * m.w_row, m.x_at + i * m.x_term + h * m.x_row);
}

/* sums[j] = sum_k w[k] x[at + j gap + k step] for n results and the taps of a leaf, in order; the
 * first sample lies at time `first`. */
BT_KERNEL void bt_conv_leaf_row(bt_conv_sum m, int taps, int first, int n, const float *w,
                                ptrdiff_t at, float *restrict sums)
{
  const int gap = m.gap, s = m.step;
  const bt_conv_span whole = bt_conv_within(first, s, taps, m.times - (n - 1) * gap);
  for (int j = 0; j < n; j++)
    sums[j] = 0.0f;
  for (int side = 0; side < 2; side++) {
    for (int k = side ? whole.end : 0; k < (side ? taps : whole.from); k++) {
      const bt_conv_span some = bt_conv_within(first + k * s, gap, n, m.times);
      for (int j = some.from; j < some.end; j++)
        sums[j] = bt_fma(w[k], m.x[at + (j * gap + k * s)], sums[j]);
    }
    if (side)
      break;
    int k = whole.from;
    for (; k + 8 <= whole.end; k += 8) {
      const float *restrict p = m.x + (at + k * s);
      const float q0 = w[k], q1 = w[k + 1], q2 = w[k + 2], q3 = w[k + 3];
      const float q4 = w[k + 4], q5 = w[k + 5], q6 = w[k + 6], q7 = w[k + 7];
      for (int j = 0; j < n; j++) {
        float sum = sums[j];
        sum = bt_fma(q0, p[j * gap], sum);
        sum = bt_fma(q1, p[j * gap + s], sum);
        sum = bt_fma(q2, p[j * gap + 2 * s], sum);
        sum = bt_fma(q3, p[j * gap + 3 * s], sum);
        sum = bt_fma(q4, p[j * gap + 4 * s], sum);
        sum = bt_fma(q5, p[j * gap + 5 * s], sum);
        sum = bt_fma(q6, p[j * gap + 6 * s], sum);
        sum = bt_fma(q7, p[j * gap + 7 * s], sum);
        sums[j] = sum;
      }
    }
    for (; k < whole.end; k++)
      for (int j = 0; j < n; j++)
        sums[j] = bt_fma(w[k], m.x[at + (k * s + j * gap)], sums[j]);
  }
}

#endif
