/* SPDX-License-Identifier: Apache-2.0 */
/* y[n] = sum_j f[j] s[n + j] in 3/4 of the multiplies per level: polyphase Karatsuba.
 *
 * With even and odd samples apart, y0[n] = y[2n], s0[n] = s[2n], s1[n] = s[2n + 1], f0, f1 alike:
 *
 *   p  = (f0 + f1) * s1
 *   y0 = p + f0 * (s0[n] - s1[n])
 *   y1 = p + f1 * (s0[n + 1] - s1[n])
 *
 * where * is the same sum at half the rate and half as long: three of them, each again so, in place
 * of four. `levels` times makes 2^levels phases. */
#ifndef BT_FIR_SUM_H
#define BT_FIR_SUM_H

#include "bt_fir_block.h"

#if BT_FIR_LANES > 1

/* Outputs and taps that one pass works on; more of them are taken in turn. A phase of a tile is 16
 * outputs, of 32 samples. The scratch of a call is 12 kB; a larger tile adds less, but takes more. */
#define BT_FIR_TAPS 128
#define BT_FIR_TILE 512
#define BT_FIR_SIGNAL 1024
#define BT_FIR_OUTPUTS(levels, left) (64 << (levels))
#define BT_FIR_CLEAR(work) memset(&(work), 0, sizeof(work))
#define BT_FIR_M 16
#define BT_FIR_N 32
typedef float bt_lanes __attribute__((vector_size(4 * BT_FIR_LANES)));

BT_KERNEL bt_lanes bt_lanes_at(const float *p)
{
  bt_lanes x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}

BT_KERNEL void bt_lanes_to(float *p, bt_lanes x) { __builtin_memcpy(p, &x, sizeof x); }

BT_KERNEL bt_lanes bt_lanes_fma(float w, bt_lanes x, bt_lanes y)
{
  for (int l = 0; l < BT_FIR_LANES; l++)
    y[l] = bt_fma(w, x[l], y[l]);
  return y;
}

/* The samples k after those at p, which a and b hold: out of the registers, where a compiler knows
 * how (a load that crosses a cache line costs more), or loaded. */
#if BT_FIR_LANES == 16 && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define BT_FIR_SLIDE 1
#define BT_FIR_AFTER(k, a, b, p)                                                                   \
  __builtin_shufflevector(a, b, k, k + 1, k + 2, k + 3, k + 4, k + 5, k + 6, k + 7, k + 8, k + 9,  \
                          k + 10, k + 11, k + 12, k + 13, k + 14, k + 15)
#endif
#endif
#ifndef BT_FIR_SLIDE
#define BT_FIR_SLIDE 0
#define BT_FIR_AFTER(k, a, b, p) bt_lanes_at((p) + (k))
#endif

/* One sum to do: taps tap[j * tap_step], outputs y of `rows` phases of `m` samples each, and the
 * signal s in as many phases of n samples. Phase r of `rows` holds samples r, r + rows, ... span
 * counts the taps with their zeros (bt_fir_apart). */
typedef struct bt_fir_sum {
  int rows, m, n;
  const float *tap;
  int tap_step, taps, span;
  const float *s;
  int s_step;
  float *y;
  int y_step;
} bt_fir_sum;

/* Scratch of a call: phases of a tile of samples and of outputs, and what each level derives. */
typedef struct bt_fir_work {
  float s[BT_FIR_SIGNAL], s1[BT_FIR_SIGNAL / 2], s2[BT_FIR_SIGNAL / 4], s3[BT_FIR_SIGNAL / 4];
  float w[BT_FIR_TAPS], w1[BT_FIR_TAPS / 2], w2[BT_FIR_TAPS / 4], w3[BT_FIR_TAPS / 8];
  float y[BT_FIR_TILE], p[BT_FIR_TILE / 4];
} bt_fir_work;

/* ---- the sum as written, for `rows` = 1, 2 or 4 phases: taps in order, samples loaded once --- */

/* A sum under way: the outputs, the samples that the next tap shares with the last (and those 16
 * later, to slide in), and where. */
typedef struct bt_fir_run {
  bt_lanes y0, y1, y2, y3, x0, x1, x2, z0, z1;
  const float *s, *w;
  int ss, ws;
} bt_fir_run;

BT_KERNEL bt_fir_run bt_fir_start(int rows, const float *s, int ss, const float *w, int ws)
{
  const bt_lanes zero = {0.0f};
  bt_fir_run q = {zero, zero, zero, zero, zero, zero, zero, zero, zero, s, w, ss, ws};
  if (rows > 1 || BT_FIR_SLIDE)
    q.x0 = bt_lanes_at(s);
  if (rows > 2 || (rows > 1 && BT_FIR_SLIDE))
    q.x1 = bt_lanes_at(s + ss);
  if (rows > 2)
    q.x2 = bt_lanes_at(s + 2 * ss);
  else if (BT_FIR_SLIDE) {
    q.z0 = bt_lanes_at(s + 16);
    q.z1 = bt_lanes_at(s + (rows - 1) * ss + 16);
  }
  return q;
}

/* Four taps. */
BT_KERNEL void bt_fir_step(int rows, bt_fir_run *q)
{
  const int ss = q->ss;
  const float *s = q->s;
  const float w0 = q->w[0], w1 = q->w[q->ws], w2 = q->w[2 * q->ws], w3 = q->w[3 * q->ws];
  q->w += 4 * q->ws;
  q->s += 4 / rows;
  if (rows == 4) {
    const bt_lanes x3 = bt_lanes_at(s + 3 * ss), x4 = bt_lanes_at(s + 1);
    const bt_lanes x5 = bt_lanes_at(s + ss + 1), x6 = bt_lanes_at(s + 2 * ss + 1);
    q->y0 = bt_lanes_fma(w0, q->x0, q->y0);
    q->y1 = bt_lanes_fma(w0, q->x1, q->y1);
    q->y2 = bt_lanes_fma(w0, q->x2, q->y2);
    q->y3 = bt_lanes_fma(w0, x3, q->y3);
    q->y0 = bt_lanes_fma(w1, q->x1, q->y0);
    q->y1 = bt_lanes_fma(w1, q->x2, q->y1);
    q->y2 = bt_lanes_fma(w1, x3, q->y2);
    q->y3 = bt_lanes_fma(w1, x4, q->y3);
    q->y0 = bt_lanes_fma(w2, q->x2, q->y0);
    q->y1 = bt_lanes_fma(w2, x3, q->y1);
    q->y2 = bt_lanes_fma(w2, x4, q->y2);
    q->y3 = bt_lanes_fma(w2, x5, q->y3);
    q->y0 = bt_lanes_fma(w3, x3, q->y0);
    q->y1 = bt_lanes_fma(w3, x4, q->y1);
    q->y2 = bt_lanes_fma(w3, x5, q->y2);
    q->y3 = bt_lanes_fma(w3, x6, q->y3);
    q->x0 = x4;
    q->x1 = x5;
    q->x2 = x6;
  } else if (rows == 2) {
    const bt_lanes x1 = BT_FIR_SLIDE ? q->x1 : bt_lanes_at(s + ss);
    const bt_lanes x2 = BT_FIR_AFTER(1, q->x0, q->z0, s);
    const bt_lanes x3 = BT_FIR_AFTER(1, x1, q->z1, s + ss);
    const bt_lanes x4 = BT_FIR_AFTER(2, q->x0, q->z0, s);
    q->y0 = bt_lanes_fma(w0, q->x0, q->y0);
    q->y1 = bt_lanes_fma(w0, x1, q->y1);
    q->y0 = bt_lanes_fma(w1, x1, q->y0);
    q->y1 = bt_lanes_fma(w1, x2, q->y1);
    q->y0 = bt_lanes_fma(w2, x2, q->y0);
    q->y1 = bt_lanes_fma(w2, x3, q->y1);
    q->y0 = bt_lanes_fma(w3, x3, q->y0);
    q->y1 = bt_lanes_fma(w3, x4, q->y1);
    q->x0 = x4;
#if BT_FIR_SLIDE
    q->x1 = BT_FIR_AFTER(2, x1, q->z1, s);
    q->z0 = BT_FIR_AFTER(2, q->z0, q->z0, s);
    q->z1 = BT_FIR_AFTER(2, q->z1, q->z1, s);
#endif
  } else {
    const bt_lanes x0 = BT_FIR_SLIDE ? q->x0 : bt_lanes_at(s);
    q->y0 = bt_lanes_fma(w0, x0, q->y0);
    q->y0 = bt_lanes_fma(w1, BT_FIR_AFTER(1, x0, q->z0, s), q->y0);
    q->y0 = bt_lanes_fma(w2, BT_FIR_AFTER(2, x0, q->z0, s), q->y0);
    q->y0 = bt_lanes_fma(w3, BT_FIR_AFTER(3, x0, q->z0, s), q->y0);
#if BT_FIR_SLIDE
    q->x0 = BT_FIR_AFTER(4, x0, q->z0, s);
    q->z0 = BT_FIR_AFTER(4, q->z0, q->z0, s);
#endif
  }
}

/* The last taps, fewer than four. */
BT_KERNEL void bt_fir_rest(int rows, bt_fir_run *q, int taps)
{
  for (int k = 0; k < taps; k++) {
    const float w = q->w[k * q->ws];
    const int next = k + rows - 1;
    const bt_lanes x = bt_lanes_at(q->s + next % rows * q->ss + next / rows);
    if (rows == 4) {
      q->y0 = bt_lanes_fma(w, q->x0, q->y0);
      q->y1 = bt_lanes_fma(w, q->x1, q->y1);
      q->y2 = bt_lanes_fma(w, q->x2, q->y2);
      q->y3 = bt_lanes_fma(w, x, q->y3);
      q->x0 = q->x1;
      q->x1 = q->x2;
      q->x2 = x;
    } else if (rows == 2) {
      q->y0 = bt_lanes_fma(w, q->x0, q->y0);
      q->y1 = bt_lanes_fma(w, x, q->y1);
      q->x0 = x;
    } else
      q->y0 = bt_lanes_fma(w, x, q->y0);
  }
}

BT_KERNEL void bt_fir_put(float *to, bt_lanes p, bt_lanes y, bool add)
{
  y = p + y;
  if (add)
    y = bt_lanes_at(to) + y;
  bt_lanes_to(to, y);
}

/* y = or += p + sum, for the phases of y at every second row. */
BT_KERNEL void bt_fir_end(int rows, const bt_fir_run *p, const bt_fir_run *q, float *y, int ys,
                          bool add)
{
  bt_fir_put(y, p->y0, q->y0, add);
  if (rows > 1)
    bt_fir_put(y + ys, p->y1, q->y1, add);
  if (rows > 2) {
    bt_fir_put(y + 2 * ys, p->y2, q->y2, add);
    bt_fir_put(y + 3 * ys, p->y3, q->y3, add);
  }
}

/* ---- levels --------------------------------------------------------------------------------- */

/* to = a - b */
BT_KERNEL void bt_fir_minus(int n, const float *a, const float *b, float *restrict to)
{
  for (int i = 0; i < n; i++)
    to[i] = a[i] - b[i];
}

/* The signals that f0 and f1 meet: s0[n] - s1[n] and s0[n + 1] - s1[n]. */
BT_KERNEL void bt_fir_even(bt_fir_sum c, float *s)
{
  const int n = BT_FIR_N;
  for (int r = 0; r < c.rows / 2; r++)
    bt_fir_minus(n, c.s + 2 * r * c.s_step, c.s + (2 * r + 1) * c.s_step, s + r * n);
}

BT_KERNEL void bt_fir_odd(bt_fir_sum c, float *s)
{
  const int n = BT_FIR_N;
  for (int r = 0; r < c.rows / 2; r++) { /* after the last phase comes the first, a sample on */
    const float *next = 2 * r + 2 < c.rows ? c.s + (2 * r + 2) * c.s_step : c.s + 1;
    bt_fir_minus(n, next, c.s + (2 * r + 1) * c.s_step, s + r * n);
  }
}

/* Where f1 begins: behind f0 (bt_fir_apart). */
BT_KERNEL const float *bt_fir_f1(bt_fir_sum c) { return c.tap + c.span / 2; }

/* f0 + f1 */
BT_KERNEL void bt_fir_both(bt_fir_sum c, float *restrict w)
{
  const float *f0 = c.tap, *f1 = bt_fir_f1(c);
  for (int j = 0; j < c.span / 2; j++)
    w[j] = f0[j] + f1[j];
}

/* n taps as even ones, then odd ones, each half again so, `levels` times; zeros fill the halves. */
BT_KERNEL void bt_fir_apart(int levels, const float *from, int step, int n, float *restrict w)
{
  const int phases = 1 << levels, each = (n + phases - 1) / phases;
  for (int i = 0; i < n / phases; i++)
    for (int k = 0; k < phases; k++) {
      const int turned = levels == 2 ? k % 2 * 2 + k / 2 : k % 2 * 4 + k / 2 % 2 * 2 + k / 4;
      w[turned * each + i] = from[(i * phases + k) * step];
    }
  if (each > n / phases)
    for (int k = 0; k < phases; k++) {
      const int turned = levels == 2 ? k % 2 * 2 + k / 2 : k % 2 * 4 + k / 2 % 2 * 2 + k / 4;
      const int j = (each - 1) * phases + k;
      w[turned * each + each - 1] = j < n ? from[j * step] : 0.0f;
    }
}

/* The last level, for `rows` phases of each half; its three sums side by side. */
BT_KERNEL void bt_fir_three(int rows, bt_fir_sum c, bool add, float *w, float *even, float *odd)
{
  const int n = BT_FIR_N, ss = 2 * c.s_step, ys = 2 * c.y_step;
  const int more = (c.taps + 1) / 2, less = c.taps / 2, steps = less / 4;
  bt_fir_both(c, w);
  bt_fir_even(c, even);
  bt_fir_odd(c, odd);
  for (int at = 0; at < BT_FIR_M; at += BT_FIR_LANES) {
    bt_fir_run p = bt_fir_start(rows, c.s + c.s_step + at, ss, w, 1);
    bt_fir_run q = bt_fir_start(rows, even + at, n, c.tap, 1);
    bt_fir_run r = bt_fir_start(rows, odd + at, n, bt_fir_f1(c), 1);
    for (int j = 0; j < steps; j++) {
      bt_fir_step(rows, &p);
      bt_fir_step(rows, &q);
      bt_fir_step(rows, &r);
    }
    bt_fir_rest(rows, &p, more - 4 * steps);
    bt_fir_rest(rows, &q, more - 4 * steps);
    bt_fir_rest(rows, &r, less - 4 * steps);
    bt_fir_end(rows, &p, &q, c.y + at, ys, add);
    bt_fir_end(rows, &p, &r, c.y + c.y_step + at, ys, add);
  }
}

BT_OUTLINED void bt_fir_last(bt_fir_sum c, bool add, float *w, float *even, float *odd)
{
  if (c.rows == 8)
    bt_fir_three(4, c, add, w, even, odd);
  else if (c.rows == 4)
    bt_fir_three(2, c, add, w, even, odd);
  else
    bt_fir_three(1, c, add, w, even, odd);
}

BT_OUTLINED void bt_fir_second(bt_fir_sum c, bool add, bt_fir_work *work);

/* y = or += a sum at half the rate; the last level where `last`. */
BT_KERNEL void bt_fir_half(int depth, bool last, bt_fir_sum c, bool add, bt_fir_work *work)
{
  if (!last)
    bt_fir_second(c, add, work);
  else if (depth == 1)
    bt_fir_last(c, add, work->w2, work->s2, work->s3);
  else
    bt_fir_last(c, add, work->w3, work->s3, work->s3 + BT_FIR_SIGNAL / 8);
}

/* y = or += the sum, by three of half the length. */
BT_KERNEL void bt_fir_split(int depth, bool last, bt_fir_sum c, bool add, bt_fir_work *work)
{
  float *const s = depth == 1 ? work->s1 : work->s2, *const w = depth == 1 ? work->w1 : work->w2;
  const int half = c.rows / 2, more = (c.taps + 1) / 2, less = c.taps / 2;
  const int m = BT_FIR_M, n = BT_FIR_N, ys = c.y_step, ss = c.s_step;
  const bt_fir_sum p = {half, m, n, w, 1, more, c.span / 2, c.s + ss, 2 * ss, add ? work->p : c.y,
                        add ? m : 2 * ys};
  const bt_fir_sum q = {half, m, n, c.tap, 1, more, c.span / 2, s, n, c.y, 2 * ys};
  const bt_fir_sum r = {half, m, n, bt_fir_f1(c), 1, less, c.span / 2, s, n, c.y + ys, 2 * ys};
  bt_fir_both(c, w);
  bt_fir_half(depth, last, p, false, work);
  for (int k = 0; k < half; k++) {
    float *restrict const y0 = c.y + 2 * k * ys;
    float *restrict const y1 = y0 + ys;
    for (int i = 0; i < m; i++)
      if (add) {
        y0[i] += work->p[k * m + i];
        y1[i] += work->p[k * m + i];
      } else
        y1[i] = y0[i];
  }
  bt_fir_even(c, s);
  bt_fir_half(depth, last, q, true, work);
  bt_fir_odd(c, s);
  bt_fir_half(depth, last, r, true, work);
}

BT_OUTLINED void bt_fir_second(bt_fir_sum c, bool add, bt_fir_work *work)
{
  bt_fir_split(2, true, c, add, work);
}

BT_OUTLINED void bt_fir_first(int levels, bt_fir_sum c, bt_fir_work *work)
{
  bt_fir_split(1, levels == 2, c, false, work);
}

/* A row of samples [lo, hi), zero elsewhere; data[0] is sample `at`. */
typedef struct bt_fir_line {
  const float *data;
  int at, lo, hi;
} bt_fir_line;

/* to[r * ts + i] = from[i * fs + r] for r < rows, i < columns. */
BT_KERNEL void bt_fir_turn(int rows, int columns, const float *from, int fs, float *restrict to,
                           int ts)
{
  for (int i = 0; i < columns; i++)
    for (int r = 0; r < rows; r++)
      to[r * ts + i] = from[i * fs + r];
}

/* Phases from samples: s[r][i] = x[start + i rows + r] for i < width. */
BT_KERNEL void bt_fir_load(int rows, int width, int n, bt_fir_line x, int start, bt_fir_work *work)
{
  const int columns = 16, count = columns * rows;
  for (int i = 0; i < width; i += columns) {
    const int from = start + i * rows;
    const float *column = work->y;
    if (from < x.lo || from + count > x.hi) { /* through y, which is still free */
      const int lo = bt_min(count, bt_max(0, x.lo - from));
      const int hi = bt_max(lo, bt_min(count, x.hi - from));
      for (int k = 0; k < lo; k++)
        work->y[k] = 0.0f;
      for (int k = lo; k < hi; k++)
        work->y[k] = x.data[from - x.at + k];
      for (int k = hi; k < count; k++)
        work->y[k] = 0.0f;
    } else
      column = x.data + (from - x.at);
    if (rows == 32)
      for (int top = 0; top < rows; top += 16) {
        for (int l = 0; l < 16; l++)
          for (int r = 0; r < 16; r++)
            work->s1[l * 16 + r] = column[l * 32 + top + r];
        bt_fir_turn(16, 16, work->s1, 16, work->s + top * n + i, n);
      }
    else
      bt_fir_turn(rows, columns, column, rows, work->s + i, n);
  }
}

/* Samples from phases: s[i rows + r] = y[r][i]. */
BT_KERNEL void bt_fir_line_up(int rows, int m, bt_fir_work *work)
{
  if (rows == 32)
    for (int top = 0; top < rows; top += 16) {
      bt_fir_turn(16, 16, work->y + top * m, m, work->s1, 16);
      for (int l = 0; l < 16; l++)
        for (int r = 0; r < 16; r++)
          work->s[l * 32 + top + r] = work->s1[l * 16 + r];
    }
  else
    bt_fir_turn(m, rows, work->y, m, work->s, rows);
}

BT_KERNEL void bt_fir_phases(int rows, int levels, int taps, bt_fir_line x, int start,
                             bt_fir_work *work)
{
  const int width = BT_FIR_M + (taps + rows - 2) / rows;
  const int block = 1 << levels, span = (taps + block - 1) / block * block;
  const bt_fir_sum all = {rows, BT_FIR_M, BT_FIR_N, work->w, 1, taps, span,
                          work->s, BT_FIR_N, work->y, BT_FIR_M};
  bt_fir_load(rows, width, BT_FIR_N, x, start, work);
  bt_fir_first(levels, all, work);
  bt_fir_line_up(rows, BT_FIR_M, work);
}

/* work.s[n] = sum_j w[j] x[start + n + j] for n < outputs <= BT_FIR_TILE, the taps in work.w. */
BT_OUTLINED const float *bt_fir_tile(int levels, int outputs, int taps, bt_fir_line x, int start,
                                     bt_fir_work *work)
{
  if (outputs <= 128)
    bt_fir_phases(8, levels, taps, x, start, work);
  else if (outputs <= 256)
    bt_fir_phases(16, levels, taps, x, start, work);
  else
    bt_fir_phases(32, levels, taps, x, start, work);
  return work->s;
}

#endif
#endif
