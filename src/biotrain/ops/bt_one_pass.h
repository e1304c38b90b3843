/* SPDX-License-Identifier: Apache-2.0 */
/* The weight gradient of y[o] = b[o] + sum_i w[o, i] x[i] under a norm of y, from one pass over the
 * gradient d of the normalised y, before its means are known.
 *
 *   z_0 = x_0 - c_0     z_i = (x_i - c_i) - (x_0 - c_0)     c_i: mean of x_i, rounded
 *   raw[o, i] = sum of d_o z_i     raw[o, C] = sum of d_o = D_o
 *
 * so that what all rows have in common stands in z_0 alone and cancels no digits. With r_i = mean_i
 * - c_i, a_0 = raw_0 - r_0 D, a_i = raw_i - (r_i - r_0) D, S_ij from pair_moments, h_o = mean of
 * yhat_o = (mean_o - mean) rstd, and dy = rstd (gamma d - mean1 - yhat mean2), where mean1 = sum of
 * gamma D over the group / its samples:
 *
 *   sum of d yhat = rstd (a_0 sum_i w_oi + sum_(i > 0) w_oi a_i) + D_o h_o
 *   sum of dy_o   = rstd (gamma D_o - sum of gamma D over the group / its rows - T mean2 h_o)
 *   dw_oi = rstd (gamma (a_i + a_0) - mean2 rstd sum_j w_oj S_ij) + mean_i (sum of dy_o), a_0 once
 *           for i = 0
 *   db_o  = sum of dy_o */
#ifndef BT_ONE_PASS_H
#define BT_ONE_PASS_H

#include "bt_conv_block.h"
#include "bt_pair_moments.h"
#include "bt_vector.h"

/* *a and *b: bt_leaf_dot(x, y, BT_LEAF) and bt_leaf_dot(x, z, BT_LEAF) join them. */
BT_KERNEL void bt_centred_dots(const float *x, const float *y, const float *z, float *a, float *b)
{
  float s[8] = {0.0f}, u[8] = {0.0f};
  BT_UNROLLED(i, BT_LEAF / 8) {
    const float *p = x + 8 * i, *q = y + 8 * i, *r = z + 8 * i;
    bt_block_pairs(s, p[0], p[1], p[2], p[3], q[0], q[1], q[2], q[3]);
    bt_block_pairs(u, p[0], p[1], p[2], p[3], r[0], r[1], r[2], r[3]);
    bt_block_pairs(s + 4, p[4], p[5], p[6], p[7], q[4], q[5], q[6], q[7]);
    bt_block_pairs(u + 4, p[4], p[5], p[6], p[7], r[4], r[5], r[6], r[7]);
    BT_COMPUTE_SUMS(s);
    BT_COMPUTE_SUMS(u);
    BT_COMPUTE_SUMS(s + 4);
    BT_COMPUTE_SUMS(u + 4);
    BT_ORDER_MEMORY;
  }
  BT_JOIN_LEAF(*a, bt_fold(s));
  BT_JOIN_LEAF(*b, bt_fold(u));
}

/* raw[o, i] for the n samples of row i at t, a part of a leaf; `first` keeps z_0 for the other
 * rows. */
BT_KERNEL void bt_centred_row(bt_pairs g, bt_box box, const float *from, int i, bt_in d, int t, int n,
                              const float *pairs, float *first, float *raw)
{
  float part[BT_LEAF];
  float *z = i == 0 ? first : part;
  const float centre = bt_mean_of(pairs, i).hi;
  BT_UNROLL_BY_FOUR for (int k = 0; k < n && i == 0; k++)
    first[k] = from[k] - centre;
  BT_UNROLL_BY_FOUR for (int k = 0; k < n && i > 0; k++)
    part[k] = from[k] - centre - first[k];
  float *to = raw + i;
  const int step = g.rows + 1;
  int o = box.r0;
  for (; BT_SCALAR_TILES && n == BT_LEAF && o + 2 <= box.r1; o += 2)
    bt_centred_dots(z, bt_at(d, o, t), bt_at(d, o + 1, t), to + o * step, to + (o + 1) * step);
  for (; o < box.r1; o++)
    BT_JOIN_LEAF(to[o * step], bt_leaf_dot(z, bt_at(d, o, t), n));
}

#if BT_VECTOR

/* The same for eight rows from i on, or those that there are. */
BT_VECTOR_KERNEL void bt_centred_eight(bt_pairs g, bt_box box, bt_in x, int i, bt_in d, int t, int n,
                                       const float *pairs, float *first, float *raw)
{
  const int rows = bt_min(8, g.rows - i);
  bt_eight_leaf z[8];
  for (int j = 0; j < 8; j++) {
    const float *from = bt_at(x, i + (j < rows ? j : 0), t);
    const float centre = bt_mean_of(pairs, i + (j < rows ? j : 0)).hi;
    float part[BT_LEAF] = {0.0f};
    for (int k = 0; k < n; k++)
      part[k] = i + j == 0 ? from[k] - centre : from[k] - centre - first[k];
    z[j] = bt_eight_leaf_at(part, BT_LEAF);
    for (int k = 0; k < n && i + j == 0; k++)
      first[k] = part[k];
  }
  for (int o = box.r0; o < box.r1; o++) {
    const bt_eight_leaf up = bt_eight_leaf_at(bt_at(d, o, t), n);
    float *to = raw + o * (g.rows + 1) + i;
    const bt_eight dots = bt_eight_dots(z, up, n);
    bt_eight total = bt_eight_at_some(to, rows);
    BT_JOIN_LEAF(total, dots);
    bt_eight_to_some(to, total, rows);
  }
}

#endif

/* raw[o, C] of a part of a leaf. */
BT_KERNEL void bt_centred_totals(bt_pairs g, bt_box box, bt_in d, int t, int n, float *raw)
{
  float *const to = raw + g.rows;
  int o = box.r0;
#if BT_VECTOR
  for (; o + 8 <= box.r1; o += 8) {
    bt_eight lanes[8];
    float sums[8];
    BT_VECTOR_UNROLL for (int j = 0; j < 8; j++)
      lanes[j] = bt_eight_sum(bt_eight_leaf_at(bt_at(d, o + j, t), n));
    bt_eight_to(sums, bt_eight_fold(lanes));
    for (int j = 0; j < 8; j++)
      BT_JOIN_LEAF(to[(o + j) * (g.rows + 1)], sums[j]);
  }
#endif
  for (; o < box.r1; o++)
    BT_JOIN_LEAF(to[o * (g.rows + 1)], bt_leaf_sum(bt_at(d, o, t), n));
}

/* raw, added to the output over the times of the box, leaf by leaf; the box has the rows of d. */
BT_KERNEL void bt_centred_dw(bt_pairs g, bt_box box, bt_in x, bt_in d, const float *pairs, float *raw)
{
  float first[BT_LEAF];
#if BT_VECTOR
  for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
    const int n = bt_leaf_end(t, box.t1) - t;
    for (int i = 0; i < g.rows; i += 8) {
      if (n == BT_LEAF)
        bt_centred_eight(g, box, x, i, d, t, BT_LEAF, pairs, first, raw);
      else
        bt_centred_eight(g, box, x, i, d, t, n, pairs, first, raw);
    }
    bt_centred_totals(g, box, d, t, n, raw);
  }
  return;
#endif
  for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
    const int n = bt_leaf_end(t, box.t1) - t;
    for (int i = 0; i < g.rows; i++)
      bt_centred_row(g, box, bt_at(x, i, t), i, d, t, n, pairs, first, raw);
    bt_centred_totals(g, box, d, t, n, raw);
  }
}

/* a_i of a row of raw. */
BT_KERNEL float bt_mix_raw(bt_pairs g, const float *raw, const float *pairs, int i)
{
  const float rest = bt_mean_of(pairs, i).lo - (i > 0 ? bt_mean_of(pairs, 0).lo : 0.0f);
  return bt_fma(-rest, raw[g.rows], raw[i]);
}

BT_KERNEL const float *bt_mix_stat(bt_pairs g, const float *stats, int o)
{
  return &stats[3 * (o / (g.out_channels / g.groups))];
}

/* Mean over time of the normalised y[o]. */
BT_KERNEL float bt_mix_hat(bt_pairs g, const float *of, const float *stats, int o)
{
  const float *stat = bt_mix_stat(g, stats, o);
  return bt_fma(of[3 * o] - stat[0] + of[3 * o + 1], stat[1], stat[2]);
}

/* sums[o] = {sum of d, sum of d yhat} of row o, as bt_norm_sums gives them. */
BT_KERNEL void bt_mix_sums(bt_pairs g, bt_box box, const float *raw, const float *pairs,
                           const float *w, const float *of, const float *stats, float *sums)
{
  for (int o = box.r0; o < box.r1; o++) {
    const float *from = raw + o * (g.rows + 1), *weight = w + o * g.rows;
    const float total = from[g.rows];
    bt_twin all = {weight[0], 0.0f};
    float sum = 0.0f;
    for (int i = 1; i < g.rows; i++) {
      all = bt_twin_add(all, (bt_twin){weight[i], 0.0f});
      sum = bt_fma(weight[i], bt_mix_raw(g, from, pairs, i), sum);
    }
    sum = bt_fma(all.hi, bt_mix_raw(g, from, pairs, 0), sum);
    sums[2 * o] = total;
    sums[2 * o + 1] = bt_fma(sum, bt_mix_stat(g, stats, o)[1], total * bt_mix_hat(g, of, stats, o));
  }
}

/* Sum over time of dy in row o. Alone in its group, a row has none, to the bit. */
BT_KERNEL float bt_mix_total(bt_pairs g, const float *raw, const float *of, const float *stats,
                             const float *means, const float *gamma, int o)
{
  const int rows = g.out_channels / g.groups, first = o / rows * rows;
  float group = 0.0f, own = 0.0f;
  if (g.batch) { /* the group has other samples too: their part stands in means */
    const float d = raw[o * (g.rows + 1) + g.rows];
    const float plain = bt_fma((float)g.times, -means[2 * (o / rows)], gamma ? gamma[o] * d : d);
    const float hat = (float)g.times * bt_mix_hat(g, of, stats, o);
    return bt_mix_stat(g, stats, o)[1] * bt_fma(-means[2 * (o / rows) + 1], hat, plain);
  }
  for (int k = first; k < first + rows; k++) {
    const float d = raw[k * (g.rows + 1) + g.rows];
    const float weighed = gamma ? gamma[k] * d : d;
    own = k == o ? weighed : own;
    group += weighed;
  }
  const float hats = (float)g.times * bt_mix_hat(g, of, stats, o);
  return bt_mix_stat(g, stats, o)[1] *
         bt_fma(-means[2 * (o / rows) + 1], hats, own - group / (float)rows);
}

/* dw[o, i] += the gradient of the weight. */
BT_KERNEL void bt_mix_dw(bt_pairs g, bt_box box, const float *raw, const float *pairs,
                         const float *w, const float *of, const float *stats, const float *means,
                         const float *gamma, float *dw)
{
  for (int o = box.r0; o < box.r1; o++) {
    const float *from = raw + o * (g.rows + 1), *weight = w + o * g.rows;
    const float rstd = bt_mix_stat(g, stats, o)[1], scale = gamma ? gamma[o] : 1.0f;
    const float product = rstd * means[2 * (o / (g.out_channels / g.groups)) + 1];
    const float total = bt_mix_total(g, raw, of, stats, means, gamma, o);
    const float common = bt_mix_raw(g, from, pairs, 0);
    for (int i = 0; i < g.rows; i++) {
      const bt_twin mean = bt_mean_of(pairs, i);
      const float up = scale * (i > 0 ? bt_mix_raw(g, from, pairs, i) + common : common);
      const float drop = bt_mix_row(g, pairs, weight, i, g.rows - 1, 0).hi;
      const float inner = rstd * bt_fma(-product, drop, up);
      dw[o * g.rows + i] += bt_fma(mean.hi, total, bt_fma(mean.lo, total, inner));
    }
  }
}

/* db[o] += the gradient of the bias. */
BT_KERNEL void bt_mix_db(bt_pairs g, bt_box box, const float *raw, const float *of,
                         const float *stats, const float *means, const float *gamma, float *db)
{
  for (int o = box.r0; o < box.r1; o++)
    db[o] += bt_mix_total(g, raw, of, stats, means, gamma, o);
}

#endif
