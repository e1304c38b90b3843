/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products in scalar registers, four by four elements (bt_conv_block.h): rows mixed by weights,
 * and sums over time of products of rows. Sixteen elements need half a load each. */
#ifndef BT_CONV_PRODUCT_H
#define BT_CONV_PRODUCT_H

#include "bt_conv_block.h"

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
  float *y[4];
  BT_BLOCK_EACH(a, 4) {
    y[a] = m.y + (r + a) * m.y_stride + t;
    BT_BLOCK_NEAR(y[a]);
  }
  BT_BLOCK_EACH(a, 4) {
    BT_BLOCK_SUMS(s + 4 * a);
    bt_block_store_four(s + 4 * a, y[a]);
  }
}

/* Row r, eight samples from t on. */
BT_KERNEL void bt_block_mix_one(bt_block_mix m, int r, int t)
{
  const float start = m.start ? m.start[r] : 0.0f;
  float s[8] = {start, start, start, start, start, start, start, start};
  const float *w = m.w + r * m.wr, *x = m.x + t;
  for (int n = 0; n < m.terms; n++) {
    bt_block_tap_at(s, *w, x, 1);
    w += m.wn;
    x += m.x_stride;
  }
  bt_block_store(s, m.y + r * m.y_stride + t, 1);
}

/* s[a samples + j] += w[a wr] x[j] for up to three a and `samples` j. */
BT_KERNEL void bt_block_mix_term(int rows, int samples, float s[16], const float *w, int wr,
                                 const float *x)
{
  float v[8], up[3];
  BT_BLOCK_EACH(j, 8)
    if (j < samples)
      v[j] = x[j];
  BT_BLOCK_EACH(a, 3)
    if (a < rows)
      up[a] = w[a * wr];
  BT_BLOCK_FOUR(v);
  if (samples > 4)
    BT_BLOCK_FOUR(v + 4);
  BT_BLOCK_EACH(a, 3)
    if (a < rows)
      BT_BLOCK_DONE(up[a]);
  BT_BLOCK_EACH(a, 3)
    if (a < rows)
      BT_BLOCK_EACH(q, 2)
        if (4 * q < samples)
          bt_block_four(s + a * samples + 4 * q, up[a], v[4 * q], v[4 * q + 1], v[4 * q + 2],
                        v[4 * q + 3]);
  BT_BLOCK_EACH(q, 4)
    if (4 * q < rows * samples)
      BT_BLOCK_SUMS(s + 4 * q);
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
  if (BT_BLOCK_KNOWN(m.terms) && m.terms < 4) { /* not a loop */
    BT_BLOCK_EACH(n, 3)
      if (n < m.terms) {
        const float *at = x + n * m.x_stride;
        BT_BLOCK_NEAR(at);
        bt_block_mix_term(rows, samples, s, w + n * m.wn, m.wr, at);
      }
  } else
    for (int n = 0; n < m.terms; n++, w += m.wn, x += m.x_stride)
      bt_block_mix_term(rows, samples, s, w, m.wr, x);
  BT_BLOCK_EACH(a, 3)
    if (a < rows) {
      float *y = m.y + (r + a) * m.y_stride + t;
      BT_BLOCK_NEAR(y);
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

/* s[a ins + b] += y[a][t] x[b][t] for `outs` by `ins`, up to four each. */
BT_KERNEL void bt_block_dots_at(int outs, int ins, int t, const float *const *y,
                                const float *const *x, float s[16])
{
  float up[4], from[4];
  BT_BLOCK_EACH(a, 4)
    up[a] = y[bt_min(a, outs - 1)][t], from[a] = x[bt_min(a, ins - 1)][t];
  BT_BLOCK_EACH(a, 4) {
    if (a < outs)
      BT_BLOCK_DONE(up[a]);
    if (a < ins)
      BT_BLOCK_DONE(from[a]);
  }
  BT_BLOCK_EACH(q, 4)
    if (4 * q < outs * ins) {
      float w[4], v[4];
      BT_BLOCK_EACH(i, 4)
        w[i] = up[bt_min((4 * q + i) / ins, 3)], v[i] = from[(4 * q + i) % ins];
      bt_block_some(bt_min(4, outs * ins - 4 * q), s + 4 * q, w, v);
    }
  BT_BLOCK_HERE;
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
  for (; t + 4 <= m.n; t += 4) {
    BT_BLOCK_EACH(u, 4)
      bt_block_dots_at(outs, ins, (BT_BLOCK_ALONG ? 0 : t) + u, y, x, s);
    BT_BLOCK_EACH(a, 4)
      if (BT_BLOCK_ALONG) {
        y[a] += 4, x[a] += 4;
        if (a < outs)
          BT_BLOCK_POINTER(y[a]);
        if (a < ins)
          BT_BLOCK_POINTER(x[a]);
      }
  }
  const int done = BT_BLOCK_ALONG ? t : 0;
  for (; t < m.n; t++)
    bt_block_dots_at(outs, ins, t - done, y, x, s);
  BT_BLOCK_EACH(a, 4)
    BT_BLOCK_EACH(b, 4)
      if (a < outs && b < ins)
        m.to[(o + a) * m.ts + (i + b) * m.is] += s[a * ins + b];
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

/* The sums of four whole leaves one behind the other, for up to three of them: a sum alone waits for
 * itself. */
BT_KERNEL void bt_block_dots_leaves(bt_block_dots m, int outs, int ins)
{
  float s[12];
  BT_BLOCK_EACH(j, 12)
    s[j] = 0.0f;
  for (int t = 0; t < BT_LEAF; t += 4)
    BT_BLOCK_EACH(u, 4) {
      BT_BLOCK_EACH(l, 4)
        BT_BLOCK_EACH(j, 3)
          if (j < outs * ins)
            s[3 * l + j] = bt_fma(m.y[j / ins * m.y_stride + l * BT_LEAF + t + u],
                                  m.x[j % ins * m.x_stride + l * BT_LEAF + t + u], s[3 * l + j]);
      BT_BLOCK_HERE;
    }
  BT_BLOCK_EACH(l, 4)
    BT_BLOCK_EACH(j, 3)
      if (j < outs * ins)
        m.to[j / ins * m.ts + j % ins * m.is] += s[3 * l + j];
}

/* The sums over [t, end), leaf by leaf; the rows of m begin at t. */
BT_KERNEL void bt_block_dots_times(bt_block_dots m, int outs, int ins, int t, int end)
{
  while (t < end) {
    const int many = outs * ins < 4 && t % BT_LEAF == 0 && t + 4 * BT_LEAF <= end;
    m.n = many ? 4 * BT_LEAF : bt_leaf_end(t, end) - t;
    if (many)
      bt_block_dots_leaves(m, outs, ins);
    else
      bt_block_dots_all(m, outs, ins);
    t += m.n;
    m.y += m.n;
    m.x += m.n;
  }
}

#endif
