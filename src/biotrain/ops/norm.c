/* SPDX-License-Identifier: Apache-2.0 */
/* Normalisation in parts: statistics of rows, of groups of rows, their use, and the gradients.
 *
 *   xhat = (x - mean) rstd          rstd = 1 / sqrt(variance + eps)
 *   y    = xhat gamma + beta
 *   dgamma = sum dy xhat            dbeta = sum dy
 *   dx   = rstd (gamma dy - mean(gamma dy) - xhat mean(gamma dy xhat)), means over the group
 *
 * gamma and beta have one number per channel, or (`each`) one per element of a group. */
#ifndef BT_NORM_H
#define BT_NORM_H

#include "bt_kernel.h"

typedef struct bt_norm {
  int rows, times;      /* of x */
  int rows_per_channel; /* rows that share gamma and beta where these are per channel */
  int groups;           /* runs of rows / groups rows that share mean and variance */
} bt_norm;

/* Joins the moments of n samples (mean, sum of squared distances) to those of `count` samples. */
BT_KERNEL void bt_join_moments(float *mean, float *square, float count, float mean_n, float square_n,
                               float n)
{
  const float total = count + n;
  const float delta = mean_n - *mean;
  const float share = n / total;
  *mean = bt_fma(delta, share, *mean);
  *square += bt_fma(delta * delta, count * share, square_n);
}

/* moments[r] = {mean, sum of squared distances} of row r, carried on over the times of the box. */
BT_KERNEL void bt_row_moments(bt_norm g, bt_box box, bt_in x, float *moments)
{
  (void)g;
  for (int r = box.r0; r < box.r1; r++)
    for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
      const int n = bt_leaf_end(t, box.t1) - t;
      const float *p = bt_at(x, r, t);
      const float mean = bt_leaf_sum(p, n) / (float)n;
      bt_join_moments(&moments[2 * r], &moments[2 * r + 1], (float)t, mean,
                      bt_leaf_square(p, mean, n), (float)n);
    }
}

/* stats[g] = {mean, rstd} of group g from the moments of its rows. */
BT_KERNEL void bt_group_stats(bt_norm g, bt_box box, const float *moments, float *stats, float eps)
{
  const int rows = g.rows / g.groups;
  for (int i = box.r0; i < box.r1; i++) {
    float mean = 0.0f, square = 0.0f;
    for (int r = 0; r < rows; r++) {
      const float *row = &moments[2 * (i * rows + r)];
      bt_join_moments(&mean, &square, (float)(r * g.times), row[0], row[1], (float)g.times);
    }
    stats[2 * i] = mean;
    stats[2 * i + 1] = bt_rsqrtf(square / (float)(rows * g.times) + eps);
  }
}

BT_KERNEL void bt_norm_apply(bt_norm g, bt_box box, bt_in x, const float *stats, const float *gamma,
                             const float *beta, bt_out y)
{
  for (int r = box.r0; r < box.r1; r++) {
    const float *stat = &stats[2 * (r / (g.rows / g.groups))];
    const float mean = stat[0], rstd = stat[1];
    const float scale = gamma ? gamma[r / g.rows_per_channel] : 1.0f;
    const float shift = beta ? beta[r / g.rows_per_channel] : 0.0f;
    const float *from = bt_at(x, r, box.t0);
    float *to = bt_to(y, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = bt_fma((from[t] - mean) * rstd, scale, shift);
  }
}

/* The numbers of gamma or beta that belong to row r from time t on, where there is one per element. */
BT_KERNEL const float *bt_norm_each(bt_norm g, const float *affine, int r, int t)
{
  return affine ? affine + r % (g.rows / g.groups) * g.times + t : NULL;
}

BT_KERNEL void bt_norm_apply_each(bt_norm g, bt_box box, bt_in x, const float *stats,
                                  const float *gamma, const float *beta, bt_out y)
{
  for (int r = box.r0; r < box.r1; r++) {
    const float *stat = &stats[2 * (r / (g.rows / g.groups))];
    const float mean = stat[0], rstd = stat[1];
    const float *scale = bt_norm_each(g, gamma, r, box.t0);
    const float *shift = bt_norm_each(g, beta, r, box.t0);
    const float *from = bt_at(x, r, box.t0);
    float *to = bt_to(y, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = bt_fma((from[t] - mean) * rstd, scale[t], shift ? shift[t] : 0.0f);
  }
}

/* sums[r] += {sum w dy, sum w dy xhat} over the times of the box, leaf by leaf; w is gamma where
 * there is one per element, else 1. */
BT_KERNEL void bt_norm_sums(bt_norm g, bt_box box, bt_in x, const float *stats, bt_in dy,
                            const float *gamma, float *sums)
{
  for (int r = box.r0; r < box.r1; r++) {
    const float *stat = &stats[2 * (r / (g.rows / g.groups))];
    const float mean = stat[0], rstd = stat[1];
    for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
      const int n = bt_leaf_end(t, box.t1) - t;
      const float *p = bt_at(x, r, t), *q = bt_at(dy, r, t), *w = bt_norm_each(g, gamma, r, t);
      float plain[BT_LANES] = {0.0f}, product[BT_LANES] = {0.0f};
      int i = 0;
      for (; i + BT_LANES <= n; i += BT_LANES)
        for (int j = 0; j < BT_LANES; j++) {
          const float up = w ? w[i + j] * q[i + j] : q[i + j];
          plain[j] += up;
          product[j] = bt_fma(up, (p[i + j] - mean) * rstd, product[j]);
        }
      for (int j = 0; i + j < n; j++) {
        const float up = w ? w[i + j] * q[i + j] : q[i + j];
        plain[j] += up;
        product[j] = bt_fma(up, (p[i + j] - mean) * rstd, product[j]);
      }
      sums[2 * r] += bt_fold(plain);
      sums[2 * r + 1] += bt_fold(product);
    }
  }
}

/* gradient[c] += the chosen sum over the rows of channel c: 0 for beta, 1 for gamma. */
BT_KERNEL void bt_norm_affine_gradient(bt_norm g, bt_box box, const float *sums, float *gradient,
                                       int which)
{
  for (int c = box.r0; c < box.r1; c++)
    for (int r = 0; r < g.rows_per_channel; r++)
      gradient[c] += sums[2 * (c * g.rows_per_channel + r) + which];
}

/* gradient[r, t] += dy xhat of every group, groups in order; r counts the rows of a group. */
BT_KERNEL void bt_norm_each_weight(bt_norm g, bt_box box, bt_in dy, bt_in x, const float *stats,
                                   float *gradient)
{
  const int rows = g.rows / g.groups;
  for (int i = 0; i < g.groups; i++)
    for (int r = box.r0; r < box.r1; r++) {
      const float mean = stats[2 * i], rstd = stats[2 * i + 1];
      const float *p = bt_at(x, i * rows + r, box.t0), *q = bt_at(dy, i * rows + r, box.t0);
      float *to = gradient + r * g.times + box.t0;
      for (int t = 0; t < box.t1 - box.t0; t++)
        to[t] = bt_fma(q[t], (p[t] - mean) * rstd, to[t]);
    }
}

/* gradient[r, t] += dy of every group, groups in order; r counts the rows of a group. */
BT_KERNEL void bt_norm_each_bias(bt_norm g, bt_box box, bt_in dy, float *gradient)
{
  const int rows = g.rows / g.groups;
  for (int i = 0; i < g.groups; i++)
    for (int r = box.r0; r < box.r1; r++) {
      const float *q = bt_at(dy, i * rows + r, box.t0);
      float *to = gradient + r * g.times + box.t0;
      for (int t = 0; t < box.t1 - box.t0; t++)
        to[t] += q[t];
    }
}

/* means[g] = {mean of gamma dy, mean of gamma dy xhat} over group g. */
BT_KERNEL void bt_group_sums(bt_norm g, bt_box box, const float *sums, const float *gamma,
                             float *means)
{
  const int rows = g.rows / g.groups;
  for (int i = box.r0; i < box.r1; i++) {
    float plain = 0.0f, product = 0.0f;
    for (int r = i * rows; r < (i + 1) * rows; r++) {
      const float scale = gamma ? gamma[r / g.rows_per_channel] : 1.0f;
      plain = bt_fma(scale, sums[2 * r], plain);
      product = bt_fma(scale, sums[2 * r + 1], product);
    }
    means[2 * i] = plain / (float)(rows * g.times);
    means[2 * i + 1] = product / (float)(rows * g.times);
  }
}

BT_KERNEL void bt_norm_input_gradient(bt_norm g, bt_box box, bt_in x, const float *stats,
                                      const float *means, const float *gamma, bt_in dy, bt_out dx)
{
  for (int r = box.r0; r < box.r1; r++) {
    const int group = r / (g.rows / g.groups);
    const float mean = stats[2 * group], rstd = stats[2 * group + 1];
    const float plain = means[2 * group], product = means[2 * group + 1];
    const float scale = gamma ? gamma[r / g.rows_per_channel] : 1.0f;
    const float *p = bt_at(x, r, box.t0), *q = bt_at(dy, r, box.t0);
    float *to = bt_to(dx, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = rstd * bt_fma((mean - p[t]) * rstd, product, bt_fma(scale, q[t], -plain));
  }
}

BT_KERNEL void bt_norm_input_gradient_each(bt_norm g, bt_box box, bt_in x, const float *stats,
                                           const float *means, const float *gamma, bt_in dy,
                                           bt_out dx)
{
  for (int r = box.r0; r < box.r1; r++) {
    const int group = r / (g.rows / g.groups);
    const float mean = stats[2 * group], rstd = stats[2 * group + 1];
    const float plain = means[2 * group], product = means[2 * group + 1];
    const float *scale = bt_norm_each(g, gamma, r, box.t0);
    const float *p = bt_at(x, r, box.t0), *q = bt_at(dy, r, box.t0);
    float *to = bt_to(dx, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = rstd * bt_fma((mean - p[t]) * rstd, product, bt_fma(scale[t], q[t], -plain));
  }
}

#endif
