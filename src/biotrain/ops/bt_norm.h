/* SPDX-License-Identifier: Apache-2.0 */
/* Normalisation in parts: statistics of rows, of groups of rows, their use, and the gradients.
 *
 *   xhat = (x - mean) rstd + rest   rstd = 1 / sqrt(variance + eps)
 *   y    = xhat gamma + beta
 *   dgamma = sum dy xhat            dbeta = sum dy
 *   dx   = rstd (gamma dy - mean(gamma dy) - xhat mean(gamma dy xhat)), means over the group
 *
 * where rest is what the rounding of the mean lost, times -rstd. Moments are taken of x - pivot, so
 * that an offset of the input costs no digits.
 *
 * gamma and beta have one number per channel, or (`each`) one per element of a group. */
#ifndef BT_NORM_H
#define BT_NORM_H

#include "bt_kernel.h"
#include "bt_vector.h"

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

/* sum / n; a whole leaf's n is a power of two, by whose inverse a product has the quotient's bits. */
BT_KERNEL float bt_leaf_share(float sum, int n)
{
  return n == BT_LEAF ? sum * (1.0f / (float)BT_LEAF) : sum / (float)n;
}

/* Mean and sum of squared distances of n <= BT_LEAF samples less the pivot. */
BT_KERNEL void bt_leaf_moments(const float *x, float pivot, int n, float *mean, float *square)
{
  float lane[BT_LANES] = {0.0f};
  int i = 0;
  for (; i + BT_LANES <= n; i += BT_LANES)
    BT_UNROLLED_LANES
      lane[j] += x[i + j] - pivot;
  if (i < n)
    BT_UNROLLED_LANES
      if (i + j < n)
        lane[j] += x[i + j] - pivot;
  const float centre = bt_leaf_share(bt_fold(lane), n);
  BT_UNROLLED_LANES
    lane[j] = 0.0f;
  for (i = 0; i + BT_LANES <= n; i += BT_LANES)
    BT_UNROLLED_LANES {
      const float d = x[i + j] - pivot - centre;
      lane[j] = bt_fma(d, d, lane[j]);
    }
  if (i < n)
    BT_UNROLLED_LANES
      if (i + j < n) {
        const float d = x[i + j] - pivot - centre;
        lane[j] = bt_fma(d, d, lane[j]);
      }
  *mean = centre;
  *square = bt_fold(lane);
}

#if BT_VECTOR

/* bt_row_moments, eight rows at a time; of the rows that are left, eight leaves. */
BT_VECTOR_OUTLINED void bt_row_moments_eights(int r0, int r1, int t0, int t1, const bt_in *x,
                                          float *moments);

#if BT_VECTOR_LINKAGE

/* A leaf of row r from time t on. */
typedef struct bt_row_leaf {
  int r, t, n;
} bt_row_leaf;

/* Mean less the pivot, and sum of squared distances, of eight leaves; n: the samples of each, or 0
 * where they differ. */
BT_VECTOR_KERNEL void bt_eight_moments(const bt_in *x, const bt_row_leaf *leaf, int n, const float *moments,
                                bt_eight *mean, bt_eight *square)
{
  bt_eight lanes[8];
  float means[8], size[8];
  for (int j = 0; j < 8; j++)
    size[j] = (float)leaf[j].n;
  BT_VECTOR_UNROLL for (int j = 0; j < 8; j++) {
    const int m = n ? n : leaf[j].n;
    const bt_eight pivot = bt_eight_of(moments[3 * leaf[j].r]);
    const bt_eight_leaf p = bt_eight_leaf_at(bt_at(*x, leaf[j].r, leaf[j].t), m);
    lanes[j] = bt_eight_sum(bt_eight_less(p, pivot, m));
  }
  *mean = _mm256_div_ps(bt_eight_fold(lanes), bt_eight_at(size));
  bt_eight_to(means, *mean);
  BT_VECTOR_UNROLL for (int j = 0; j < 8; j++) {
    const int m = n ? n : leaf[j].n;
    const bt_eight pivot = bt_eight_of(moments[3 * leaf[j].r]);
    const bt_eight_leaf p = bt_eight_leaf_at(bt_at(*x, leaf[j].r, leaf[j].t), m);
    const bt_eight_leaf d = bt_eight_less(bt_eight_less(p, pivot, m), bt_eight_of(means[j]), m);
    lanes[j] = bt_eight_dot(d, d, m);
  }
  *square = bt_eight_fold(lanes);
}

/* Eight rows from r on, side by side: bt_join_moments in vectors. */
BT_VECTOR_KERNEL void bt_row_moments_eight(int r, int t0, int t1, const bt_in *x, float *moments)
{
  float at[8];
  for (int j = 0; j < 8; j++)
    at[j] = moments[3 * (r + j) + 1];
  bt_eight mean = bt_eight_at(at);
  for (int j = 0; j < 8; j++)
    at[j] = moments[3 * (r + j) + 2];
  bt_eight square = bt_eight_at(at);
  for (int t = t0; t < t1; t = bt_leaf_end(t, t1)) {
    const int n = bt_leaf_end(t, t1) - t;
    bt_row_leaf leaf[8];
    bt_eight mean_n, square_n;
    for (int j = 0; j < 8; j++)
      leaf[j] = (bt_row_leaf){r + j, t, n};
    if (n == BT_LEAF)
      bt_eight_moments(x, leaf, BT_LEAF, moments, &mean_n, &square_n);
    else
      bt_eight_moments(x, leaf, n, moments, &mean_n, &square_n);
    const float share = (float)n / ((float)t + (float)n);
    const bt_eight delta = _mm256_sub_ps(mean_n, mean);
    mean = bt_eight_fma(delta, bt_eight_of(share), mean);
    square = _mm256_add_ps(square, bt_eight_fma(_mm256_mul_ps(delta, delta),
                                                bt_eight_of((float)t * share), square_n));
  }
  bt_eight_to(at, mean);
  for (int j = 0; j < 8; j++)
    moments[3 * (r + j) + 1] = at[j];
  bt_eight_to(at, square);
  for (int j = 0; j < 8; j++)
    moments[3 * (r + j) + 2] = at[j];
}

void bt_row_moments_eights(int r0, int r1, int t0, int t1, const bt_in *x, float *moments)
{
  for (int r = r0; r < r1 && t0 == 0; r += 8) {
    const int n = bt_leaf_end(0, t1);
    bt_eight lanes[8];
    float sums[8];
    for (int j = 0; j < 8; j++)
      lanes[j] = bt_eight_sum(bt_eight_leaf_at(bt_at(*x, bt_min(r + j, r1 - 1), 0), n));
    bt_eight_to(sums, bt_eight_fold(lanes));
    for (int j = 0; j < 8 && r + j < r1; j++)
      moments[3 * (r + j)] = sums[j] / (float)n;
  }
  for (; r0 + 8 <= r1; r0 += 8)
    bt_row_moments_eight(r0, t0, t1, x, moments);
  for (int r = r0, t = t0; r < r1 && t0 < t1;) {
    bt_row_leaf leaf[8];
    bt_eight mean, square;
    float means[8], squares[8];
    int count = 0;
    for (int j = 0; j < 8; j++) {
      if (r >= r1) { /* beyond the last: the same again, which is not joined */
        leaf[j] = leaf[0];
        continue;
      }
      leaf[j] = (bt_row_leaf){r, t, bt_leaf_end(t, t1) - t};
      count++;
      t = bt_leaf_end(t, t1);
      if (t == t1) {
        t = t0;
        r++;
      }
    }
    bt_eight_moments(x, leaf, 0, moments, &mean, &square);
    bt_eight_to(means, mean);
    bt_eight_to(squares, square);
    for (int j = 0; j < count; j++) {
      float *to = &moments[3 * leaf[j].r];
      bt_join_moments(&to[1], &to[2], (float)leaf[j].t, means[j], squares[j], (float)leaf[j].n);
    }
  }
}

#endif

#endif

/* moments[r] = {pivot, mean - pivot, sum of squared distances} of row r, carried on over the times
 * of the box; the pivot is the mean of the first leaf. */
BT_KERNEL void bt_row_moments(bt_norm g, bt_box box, bt_in x, float *moments)
{
  (void)g;
#if BT_VECTOR
  bt_row_moments_eights(box.r0, box.r1, box.t0, box.t1, &x, moments);
  return;
#endif
  for (int r = box.r0; r < box.r1; r++)
    for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
      const int n = bt_leaf_end(t, box.t1) - t;
      const float *p = bt_at(x, r, t);
      float *to = &moments[3 * r], mean, square;
      if (t == 0)
        to[0] = bt_leaf_sum(p, n) / (float)n;
      bt_leaf_moments(p, to[0], n, &mean, &square);
      bt_join_moments(&to[1], &to[2], (float)t, mean, square, (float)n);
    }
}

/* Mean, less the pivot of the first row, and sum of squared distances of group i from its rows, in
 * two passes. All samples of the group share what these sums lose, so they lose nothing. */
BT_KERNEL void bt_group_moments(bt_norm g, int i, const float *moments, float *mean, float *square)
{
  const int rows = g.rows / g.groups;
  const float *const first = &moments[3 * i * rows], pivot = first[0];
  bt_long_sum means = {0.0f, 0.0f}, squares = {0.0f, 0.0f};
  for (const float *row = first; row < first + 3 * rows; row += 3)
    bt_long_add(&means, row[0] - pivot + row[1]);
  *mean = bt_long_total(means) / (float)rows;
  for (const float *row = first; row < first + 3 * rows; row += 3) {
    const float delta = row[0] - pivot + row[1] - *mean;
    bt_long_add(&squares, bt_fma(delta * (float)g.times, delta, row[2]));
  }
  *square = bt_long_total(squares);
}

/* stats[g] = {mean, rstd, rest} of group g from the moments of its rows. */
BT_KERNEL void bt_group_stats(bt_norm g, bt_box box, const float *moments, float *stats, float eps)
{
  const int rows = g.rows / g.groups;
  for (int i = box.r0; i < box.r1; i++) {
    const float pivot = moments[3 * i * rows];
    float mean, square;
    bt_group_moments(g, i, moments, &mean, &square);
    const float sum = pivot + mean; /* and what it lost, exactly (Knuth's two-sum) */
    const float part = sum - pivot;
    const float lost = (pivot - (sum - part)) + (mean - part);
    const float rstd = bt_rsqrtf(square / (float)(rows * g.times) + eps);
    stats[3 * i] = sum;
    stats[3 * i + 1] = rstd;
    stats[3 * i + 2] = -lost * rstd;
  }
}

BT_KERNEL float bt_hat(float x, float mean, float rstd, float rest)
{
  return bt_fma(x - mean, rstd, rest);
}

/* The same of four samples. */
BT_KERNEL void bt_hat_four(const float *x, float mean, float rstd, float rest, float hat[4])
{
  BT_UNROLLED_FOUR
    hat[j] = x[j] - mean;
  BT_UNROLLED_FOUR
    hat[j] = bt_fma(hat[j], rstd, rest);
}

BT_KERNEL void bt_norm_apply(bt_norm g, bt_box box, bt_in x, const float *stats, const float *gamma,
                             const float *beta, bt_out y)
{
  for (int r = box.r0; r < box.r1; r++) {
    const float *stat = &stats[3 * (r / (g.rows / g.groups))];
    const float mean = stat[0], rstd = stat[1], rest = stat[2];
    const float scale = gamma ? gamma[r / g.rows_per_channel] : 1.0f;
    const float shift = beta ? beta[r / g.rows_per_channel] : 0.0f;
    const float *from = bt_at(x, r, box.t0);
    float *to = bt_to(y, r, box.t0);
    const int n = box.t1 - box.t0;
    int t = 0;
    for (; BT_SCALAR_TILES && t + 4 <= n; t += 4) {
      float hat[4];
      bt_hat_four(from + t, mean, rstd, rest, hat);
      BT_UNROLLED_FOUR
        hat[j] = bt_fma(hat[j], scale, shift);
      BT_UNROLLED_FOUR
        to[t + j] = hat[j];
    }
    for (; t < n; t++)
      to[t] = bt_fma(bt_hat(from[t], mean, rstd, rest), scale, shift);
  }
}

/* The numbers of gamma or beta for row r from time t on, where there is one per element. */
BT_KERNEL const float *bt_norm_each(bt_norm g, const float *affine, int r, int t)
{
  return affine ? affine + r % (g.rows / g.groups) * g.times + t : NULL;
}

BT_KERNEL void bt_norm_apply_each(bt_norm g, bt_box box, bt_in x, const float *stats,
                                  const float *gamma, const float *beta, bt_out y)
{
  for (int r = box.r0; r < box.r1; r++) {
    const float *stat = &stats[3 * (r / (g.rows / g.groups))];
    const float mean = stat[0], rstd = stat[1], rest = stat[2];
    const float *scale = bt_norm_each(g, gamma, r, box.t0);
    const float *shift = bt_norm_each(g, beta, r, box.t0);
    const float *from = bt_at(x, r, box.t0);
    float *to = bt_to(y, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = bt_fma(bt_hat(from[t], mean, rstd, rest), scale[t], shift ? shift[t] : 0.0f);
  }
}

/* sums[r] += {sum w dy, sum w dy xhat} over the times of the box, leaf by leaf; w is gamma where
 * there is one per element, else 1. */
BT_KERNEL void bt_norm_sums(bt_norm g, bt_box box, bt_in x, const float *stats, bt_in dy,
                            const float *gamma, float *sums)
{
  for (int r = box.r0; r < box.r1; r++) {
    const float *stat = &stats[3 * (r / (g.rows / g.groups))];
    const float mean = stat[0], rstd = stat[1], rest = stat[2];
    for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
      const int n = bt_leaf_end(t, box.t1) - t;
      const float *p = bt_at(x, r, t), *q = bt_at(dy, r, t), *w = bt_norm_each(g, gamma, r, t);
      float plain[BT_LANES] = {0.0f}, product[BT_LANES] = {0.0f};
      int i = 0;
      for (; i + BT_LANES <= n; i += BT_LANES)
        BT_UNROLLED_LANES {
          const float up = w ? w[i + j] * q[i + j] : q[i + j];
          plain[j] += up;
          product[j] = bt_fma(up, bt_hat(p[i + j], mean, rstd, rest), product[j]);
        }
      if (i < n)
        BT_UNROLLED_LANES
          if (i + j < n) {
            const float up = w ? w[i + j] * q[i + j] : q[i + j];
            plain[j] += up;
            product[j] = bt_fma(up, bt_hat(p[i + j], mean, rstd, rest), product[j]);
          }
      BT_JOIN_LEAF(sums[2 * r], bt_fold(plain));
      BT_JOIN_LEAF(sums[2 * r + 1], bt_fold(product));
    }
  }
}

/* gradient[c] += the chosen sum over the rows of channel c: 0 for beta, 1 for gamma. */
BT_KERNEL void bt_norm_affine_gradient(bt_norm g, bt_box box, const float *sums, float *gradient,
                                       int which)
{
  for (int c = box.r0; c < box.r1; c++) {
    bt_long_sum sum = {0.0f, 0.0f};
    for (int r = c * g.rows_per_channel; r < (c + 1) * g.rows_per_channel; r++)
      bt_long_add(&sum, sums[2 * r + which]);
    gradient[c] += bt_long_total(sum);
  }
}

/* gradient[r, t] += dy xhat of every group, groups in order; r counts the rows of a group. */
BT_KERNEL void bt_norm_each_weight(bt_norm g, bt_box box, bt_in dy, bt_in x, const float *stats,
                                   float *gradient)
{
  const int rows = g.rows / g.groups;
  for (int i = 0; i < g.groups; i++)
    for (int r = box.r0; r < box.r1; r++) {
      const float mean = stats[3 * i], rstd = stats[3 * i + 1], rest = stats[3 * i + 2];
      const float *p = bt_at(x, i * rows + r, box.t0), *q = bt_at(dy, i * rows + r, box.t0);
      float *to = gradient + r * g.times + box.t0;
      for (int t = 0; t < box.t1 - box.t0; t++)
        to[t] = bt_fma(q[t], bt_hat(p[t], mean, rstd, rest), to[t]);
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
    bt_long_sum plain = {0.0f, 0.0f}, product = {0.0f, 0.0f};
    for (int r = i * rows; r < (i + 1) * rows; r++) {
      const float scale = gamma ? gamma[r / g.rows_per_channel] : 1.0f;
      bt_long_add(&plain, scale * sums[2 * r]);
      bt_long_add(&product, scale * sums[2 * r + 1]);
    }
    means[2 * i] = bt_long_total(plain) / (float)(rows * g.times);
    means[2 * i + 1] = bt_long_total(product) / (float)(rows * g.times);
  }
}

BT_KERNEL void bt_norm_input_gradient(bt_norm g, bt_box box, bt_in x, const float *stats,
                                      const float *means, const float *gamma, bt_in dy, bt_out dx)
{
  for (int r = box.r0; r < box.r1; r++) {
    const int group = r / (g.rows / g.groups);
    const float *stat = &stats[3 * group];
    const float mean = stat[0], rstd = stat[1], rest = stat[2];
    const float plain = means[2 * group], product = means[2 * group + 1];
    const float scale = gamma ? gamma[r / g.rows_per_channel] : 1.0f;
    const float *p = bt_at(x, r, box.t0), *q = bt_at(dy, r, box.t0);
    float *to = bt_to(dx, r, box.t0);
    const int n = box.t1 - box.t0;
    int t = 0;
    for (; BT_SCALAR_TILES && t + 4 <= n; t += 4) {
      float hat[4], up[4];
      BT_UNROLLED_FOUR
        up[j] = bt_fma(scale, q[t + j], -plain);
      bt_hat_four(p + t, mean, rstd, rest, hat);
      BT_UNROLLED_FOUR
        up[j] = bt_fma(-hat[j], product, up[j]);
      BT_UNROLLED_FOUR
        to[t + j] = rstd * up[j];
    }
    for (; t < n; t++)
      to[t] = rstd * bt_fma(-bt_hat(p[t], mean, rstd, rest), product, bt_fma(scale, q[t], -plain));
  }
}

BT_KERNEL void bt_norm_input_gradient_each(bt_norm g, bt_box box, bt_in x, const float *stats,
                                           const float *means, const float *gamma, bt_in dy,
                                           bt_out dx)
{
  for (int r = box.r0; r < box.r1; r++) {
    const int group = r / (g.rows / g.groups);
    const float *stat = &stats[3 * group];
    const float mean = stat[0], rstd = stat[1], rest = stat[2];
    const float plain = means[2 * group], product = means[2 * group + 1];
    const float *scale = bt_norm_each(g, gamma, r, box.t0);
    const float *p = bt_at(x, r, box.t0), *q = bt_at(dy, r, box.t0);
    float *to = bt_to(dx, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] =
          rstd * bt_fma(-bt_hat(p[t], mean, rstd, rest), product, bt_fma(scale[t], q[t], -plain));
  }
}

#endif
