/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products in scalar registers, four by four results (bt_conv_block.h), which need half a
 * load per multiply-add. Two forms of the sum of bt_conv_sum.h are matrix products:
 *   mix:  y[o, n] = b[o] + sum_i w[o, i] x[i, n], one tap per row
 *   dots: y[o, i] += sum_k w[o, k] x[i, k] over a leaf, one result per output and input */
#ifndef BT_CONV_PRODUCT_H
#define BT_CONV_PRODUCT_H

#include "bt_conv_block.h"
#include "bt_conv_sum.h"

/* s[4 a + j] += w_a x[j] */
BT_KERNEL void bt_block_outer(float s[16], float w0, float w1, float w2, float w3, float x0,
                              float x1, float x2, float x3)
{
  BT_COMPUTE_FOUR(w0, w1, w2, w3);
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

/* Four outputs from r on, four results from t on. */
BT_KERNEL void bt_block_mix_four(bt_conv_sum m, int r, int t)
{
  const float *const b = m.b ? m.b + r : 0;
  const float b0 = b ? b[0] : 0.0f, b1 = b ? b[1] : 0.0f;
  const float b2 = b ? b[2] : 0.0f, b3 = b ? b[3] : 0.0f;
  float s[16] = {b0, b0, b0, b0, b1, b1, b1, b1, b2, b2, b2, b2, b3, b3, b3, b3};
  const float *w = m.w + r * m.w_out, *x = m.x + t;
  BT_UNROLL_TERMS
  for (int left = m.terms; left > 0; left--) {
    bt_block_outer(s, w[0], w[m.w_out], w[2 * m.w_out], w[3 * m.w_out], x[0], x[1], x[2], x[3]);
    w = bt_address(w, m.w_term); /* behind the last term there need be none */
    x = bt_address(x, m.x_term);
    if (--left == 0)
      break;
    BT_ORDER_MEMORY;
    bt_block_outer(s, w[0], w[m.w_out], w[2 * m.w_out], w[3 * m.w_out], x[0], x[1], x[2], x[3]);
    w = bt_address(w, m.w_term);
    x = bt_address(x, m.x_term);
  }
  float *y[4];
  BT_UNROLLED(a, 4) {
    y[a] = m.y + (r + a) * m.y_out + t;
    BT_NEAR_POINTER(y[a]);
  }
  BT_UNROLLED(a, 4) {
    BT_COMPUTE_SUMS(s + 4 * a);
    bt_block_store_four(s + 4 * a, y[a]);
  }
}

/* Output r, eight results from t on. */
BT_KERNEL void bt_block_mix_one(bt_conv_sum m, int r, int t)
{
  const float start = m.b ? m.b[r] : 0.0f;
  float s[8] = {start, start, start, start, start, start, start, start};
  const float *w = m.w + r * m.w_out, *x = m.x + t;
  BT_UNROLL_ALL_TERMS
  for (int n = 0; n < m.terms; n++) {
    bt_block_tap_at(s, *w, x, 1);
    w = bt_address(w, m.w_term); /* behind the last term there need be none */
    x = bt_address(x, m.x_term);
  }
  float *y = m.y + r * m.y_out + t;
#ifdef __riscv
  BT_OPAQUE_POINTER(y); /* or clang keeps a pointer for each result */
#endif
  BT_UNROLLED(j, 8)
    y[j] = s[j];
}

/* s[a samples + j] += w[a w_out] x[j] for up to three a (`rows`) and eight j (`samples`). */
BT_KERNEL void bt_block_mix_term(int rows, int samples, float s[16], const float *w,
                                 ptrdiff_t w_out, const float *x)
{
  float v[8], up[3];
  BT_UNROLLED(j, 8)
    if (j < samples)
      v[j] = x[j];
  BT_UNROLLED(a, 3)
    if (a < rows)
      up[a] = w[a * w_out];
  BT_ORDER_FOUR(v);
  if (samples > 4)
    BT_ORDER_FOUR(v + 4);
  BT_UNROLLED(a, 3)
    if (a < rows)
      BT_ORDER_VALUE(up[a]);
  BT_UNROLLED(a, 3)
    if (a < rows)
      BT_UNROLLED(q, 2)
        if (4 * q < samples)
          bt_block_four(s + a * samples + 4 * q, up[a], v[4 * q], v[4 * q + 1], v[4 * q + 2],
                        v[4 * q + 3]);
  BT_UNROLLED(q, 4)
    if (4 * q < rows * samples)
      BT_COMPUTE_SUMS(s + 4 * q);
}

/* `rows` outputs from r on, up to three, and `samples` results from t on, four or eight: up to
 * 16 sums. */
BT_KERNEL void bt_block_mix_tile(bt_conv_sum m, int rows, int samples, int r, int t)
{
  float s[16];
  BT_UNROLLED(a, 3)
    if (a < rows) {
      const float start = m.b ? m.b[r + a] : 0.0f;
      BT_UNROLLED(j, 8)
        if (j < samples)
          s[a * samples + j] = start;
    }
  const float *w = m.w + r * m.w_out, *x = m.x + t;
  if (BT_IS_CONSTANT(m.terms) && m.terms < 4) { /* not a loop */
    BT_UNROLLED(n, 3)
      if (n < m.terms) {
        const float *at = x + n * m.x_term;
        BT_NEAR_POINTER(at);
        bt_block_mix_term(rows, samples, s, w + n * m.w_term, m.w_out, at);
      }
  } else
    BT_UNROLL_TERMS
    for (int n = 0; n < m.terms; n++)
      bt_block_mix_term(rows, samples, s, w + n * m.w_term, m.w_out, x + n * m.x_term);
  BT_UNROLLED(a, 3)
    if (a < rows) {
      float *y = m.y + (r + a) * m.y_out + t;
      BT_NEAR_POINTER(y);
      BT_UNROLLED(j, 8)
        if (j < samples)
          y[j] = s[a * samples + j];
    }
}

/* n results of `rows` outputs. The last tile begins where it ends with the row: it computes some
 * results twice. */
BT_KERNEL void bt_block_mix_rows(bt_conv_sum m, int rows, int r, int n)
{
  const int samples = rows > 2 ? 4 : 8;
  float up[4], start[4];
  if (BT_IS_CONSTANT(m.terms) && m.terms == 1) { /* weights and biases stay in registers */
    m = bt_conv_from(m, r);
    BT_UNROLLED(a, 4)
      if (a < rows)
        up[a] = m.w[a * m.w_out], start[a] = m.b ? m.b[a] : 0.0f;
    m.w = up, m.b = start, m.w_out = 1, r = 0;
  }
  int t = 0;
  BT_UNROLL_TILES
  for (; rows == 1 && t + samples <= n; t += samples) /* short: where they begin is not asked */
    bt_block_mix_one(m, r, t);
  for (; t < n; t += samples) {
    const int at = bt_min(t, n - samples);
    if (rows == 4)
      bt_block_mix_four(m, r, at);
    else if (rows == 1)
      bt_block_mix_one(m, r, at);
    else
      bt_block_mix_tile(m, rows, samples, r, at);
  }
}

/* n results of output r, up to eight. */
BT_KERNEL void bt_block_mix_few(bt_conv_sum m, int r, int n)
{
  const float start = m.b ? m.b[r] : 0.0f;
  float s[8] = {start, start, start, start, start, start, start, start};
  const float *w = m.w + r * m.w_out, *x = m.x;
  for (int i = 0; i < m.terms; i++) {
    const float up = w[i * m.w_term];
    float v[8] = {0.0f};
    BT_UNROLLED(j, 8)
      if (j < n)
        v[j] = x[i * m.x_term + j];
    bt_block_four(s, up, v[0], v[1], v[2], v[3]);
    if (n > 4)
      bt_block_four(s + 4, up, v[4], v[5], v[6], v[7]);
  }
  float *const y = m.y + r * m.y_out;
  BT_UNROLLED(j, 8)
    if (j < n)
      y[j] = s[j];
}

/* n results of `outs` outputs. */
BT_KERNEL void bt_block_mix_all(bt_conv_sum m, int outs, int n)
{
  int r = 0;
  if (n >= 8) {
    const int rest = outs % 4;
    for (; r + 4 <= outs; r += 4)
      bt_block_mix_rows(m, 4, r, n);
    if (BT_IS_CONSTANT(rest) && rest > 0) {
      bt_block_mix_rows(m, rest, r, n);
      return;
    }
    for (; r < outs; r++)
      bt_block_mix_rows(m, 1, r, n);
  }
  if (BT_IS_CONSTANT(n) && n > 2) {
    for (; r < outs; r++)
      bt_block_mix_few(m, r, n);
    return;
  }
  for (; r < outs; r++)
    for (int t = 0; t < n; t++) {
      float sum = m.b ? m.b[r] : 0.0f;
      for (int i = 0; i < m.terms; i++)
        sum = bt_fma(m.w[r * m.w_out + i * m.w_term], m.x[i * m.x_term + t], sum);
      m.y[r * m.y_out + t] = sum;
    }
}

/* Joins the sums of a leaf to four results. */
BT_KERNEL void bt_block_join_four(const float *s, float *y, ptrdiff_t step)
{
  BT_UNROLLED(j, 4)
    BT_JOIN_LEAF(y[j * step], s[j]);
}

/* These sums are computed before the loads and products that follow. */
BT_KERNEL void bt_block_order_sums(float s[16])
{
  BT_ORDER_FOUR(s);
  BT_ORDER_FOUR(s + 4);
  BT_ORDER_FOUR(s + 8);
  BT_ORDER_FOUR(s + 12);
  (void)s;
  if (!BT_PRODUCTS_FIRST)
    BT_ORDER_MEMORY;
}

/* Four outputs from o on by four inputs from i on. */
BT_KERNEL void bt_block_dots_four(bt_conv_sum m, int o, int i)
{
  const float *w0 = m.w + o * m.w_out, *w1 = w0 + m.w_out;
  const float *w2 = w1 + m.w_out, *w3 = w2 + m.w_out;
  const float *x0 = m.x + i * m.x_in, *x1 = x0 + m.x_in;
  const float *x2 = x1 + m.x_in, *x3 = x2 + m.x_in;
  float s[16] = {0.0f};
  int left = m.taps;
  for (; left >= 4; left -= 4) {
    bt_block_outer(s, w0[0], w1[0], w2[0], w3[0], x0[0], x1[0], x2[0], x3[0]);
    bt_block_order_sums(s);
    bt_block_outer(s, w0[1], w1[1], w2[1], w3[1], x0[1], x1[1], x2[1], x3[1]);
    bt_block_order_sums(s);
    bt_block_outer(s, w0[2], w1[2], w2[2], w3[2], x0[2], x1[2], x2[2], x3[2]);
    bt_block_order_sums(s);
    bt_block_outer(s, w0[3], w1[3], w2[3], w3[3], x0[3], x1[3], x2[3], x3[3]);
    bt_block_order_sums(s);
    w0 += 4, w1 += 4, w2 += 4, w3 += 4;
    x0 += 4, x1 += 4, x2 += 4, x3 += 4;
    BT_OPAQUE_POINTERS(w0, w1, w2, w3);
    BT_OPAQUE_POINTERS(x0, x1, x2, x3);
  }
  for (int t = 0; t < left; t++)
    bt_block_outer(s, w0[t], w1[t], w2[t], w3[t], x0[t], x1[t], x2[t], x3[t]);
  float *const to = m.y + o * m.y_out + i * m.y_in;
  bt_block_join_four(s, to, m.y_in);
  bt_block_join_four(s + 4, to + m.y_out, m.y_in);
  bt_block_join_four(s + 8, to + 2 * m.y_out, m.y_in);
  bt_block_join_four(s + 12, to + 3 * m.y_out, m.y_in);
}

/* s[a ins + b] += w[a][t] x[b][t] for `outs` by `ins`, up to four each. */
BT_KERNEL void bt_block_dots_at(int outs, int ins, int t, const float *const *w,
                                const float *const *x, float s[16])
{
  float up[4], from[4];
  BT_UNROLLED(a, 4)
    up[a] = w[bt_min(a, outs - 1)][t], from[a] = x[bt_min(a, ins - 1)][t];
  BT_UNROLLED(a, 4) {
    if (a < outs)
      BT_ORDER_VALUE(up[a]);
    if (a < ins)
      BT_ORDER_VALUE(from[a]);
  }
  BT_UNROLLED(q, 4)
    if (4 * q < outs * ins) {
      float u[4], v[4];
      BT_UNROLLED(i, 4)
        u[i] = up[bt_min((4 * q + i) / ins, 3)], v[i] = from[(4 * q + i) % ins];
      bt_block_some(bt_min(4, outs * ins - 4 * q), s + 4 * q, u, v);
    }
  BT_ORDER_MEMORY;
}

/* `outs` outputs from o on by `ins` inputs from i on, up to four each. */
BT_KERNEL void bt_block_dots_tile(bt_conv_sum m, int outs, int ins, int o, int i)
{
  const float *w[4], *x[4];
  float s[16];
  BT_UNROLLED(a, 4) {
    w[a] = m.w + (o + bt_min(a, outs - 1)) * m.w_out;
    x[a] = m.x + (i + bt_min(a, ins - 1)) * m.x_in;
  }
  BT_UNROLLED(j, 12)
    s[j] = 0.0f;
  s[12] = s[13] = s[14] = s[15] = 0.0f;
  int t = 0;
  for (; t + 4 <= m.taps; t += 4) {
    BT_UNROLLED(u, 4)
      bt_block_dots_at(outs, ins, (BT_SHORT_OFFSETS ? 0 : t) + u, w, x, s);
    BT_UNROLLED(a, 4)
      if (BT_SHORT_OFFSETS) {
        w[a] += 4, x[a] += 4;
        if (a < outs)
          BT_OPAQUE_POINTER(w[a]);
        if (a < ins)
          BT_OPAQUE_POINTER(x[a]);
      }
  }
  const int done = BT_SHORT_OFFSETS ? t : 0;
  for (; t < m.taps; t++)
    bt_block_dots_at(outs, ins, t - done, w, x, s);
  BT_UNROLLED(a, 4)
    BT_UNROLLED(b, 4)
      if (a < outs && b < ins)
        BT_JOIN_LEAF(m.y[(o + a) * m.y_out + (i + b) * m.y_in], s[a * ins + b]);
}

/* `outs` outputs from o on, up to four, by all inputs. */
BT_KERNEL void bt_block_dots_rows(bt_conv_sum m, int outs, int ins, int o)
{
  const int rest = ins % 4;
  int i = 0;
  for (; i + 4 <= ins; i += 4)
    if (outs == 4)
      bt_block_dots_four(m, o, i);
    else
      bt_block_dots_tile(m, outs, 4, o, i);
  if (BT_IS_CONSTANT(rest) && rest > 0)
    bt_block_dots_tile(m, outs, rest, o, i);
  else
    for (; i < ins; i++)
      bt_block_dots_tile(m, outs, 1, o, i);
}

/* All outputs by all inputs. */
BT_KERNEL void bt_block_dots_all(bt_conv_sum m, int outs, int ins)
{
  const int rest = outs % 4;
  int o = 0;
  for (; o + 4 <= outs; o += 4)
    bt_block_dots_rows(m, 4, ins, o);
  if (BT_IS_CONSTANT(rest) && rest > 0)
    bt_block_dots_rows(m, rest, ins, o);
  else
    for (; o < outs; o++)
      bt_block_dots_rows(m, 1, ins, o);
}

/* Up to three sums over four whole leaves side by side: one sum alone would wait for itself. */
BT_KERNEL void bt_block_dots_leaves(bt_conv_sum m, int outs, int ins)
{
  float s[12];
  BT_UNROLLED(j, 12)
    s[j] = 0.0f;
  for (int t = 0; t < BT_LEAF; t += 4)
    BT_UNROLLED(u, 4) {
      BT_UNROLLED(l, 4)
        BT_UNROLLED(j, 3)
          if (j < outs * ins)
            s[3 * l + j] = bt_fma(m.w[j / ins * m.w_out + l * BT_LEAF + t + u],
                                  m.x[j % ins * m.x_in + l * BT_LEAF + t + u], s[3 * l + j]);
      BT_ORDER_MEMORY;
    }
  BT_UNROLLED(l, 4)
    BT_UNROLLED(j, 3)
      if (j < outs * ins)
        BT_JOIN_LEAF(m.y[j / ins * m.y_out + j % ins * m.y_in], s[3 * l + j]);
}

/* All taps, leaf by leaf from the first one on. */
BT_KERNEL void bt_block_dots_leaf_by_leaf(bt_conv_sum m, int outs, int ins)
{
  for (int left = m.taps; left > 0; left -= m.taps) {
    const int many = outs * ins < 4 && left >= 4 * BT_LEAF;
    m.taps = many ? 4 * BT_LEAF : bt_min(BT_LEAF, left);
    if (many)
      bt_block_dots_leaves(m, outs, ins);
    else
      bt_block_dots_all(m, outs, ins);
    m.w += m.taps;
    m.x += m.taps;
  }
}

#endif
