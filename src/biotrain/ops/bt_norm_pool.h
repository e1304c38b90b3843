/* SPDX-License-Identifier: Apache-2.0 */
/* Norm, ReLU and average pooling where the windows lie side by side, so that neither the normalised
 * tensor nor the mask of the ReLU is stored, and the sums of the norm's backward come from windows.
 *
 *   xhat = (x - mean) rstd          active where xhat gamma + beta > 0
 *   s    = sum of the active xhat of a window      n = their number
 *   p    = (gamma s + beta n) / k   k = samples of a window
 *   ds   = gamma dp / k
 *   sum over t of dy and of dy xhat = sums over windows of dp n / k and of dp s / k
 *   dx   = rstd (active ds - mean1 - xhat mean2)
 *
 * where y = relu(xhat gamma + beta), and mean1, mean2 are the group's means of active ds and of
 * active ds xhat. Samples beyond the last window belong to none and have the last two terms of dx. */
#ifndef BT_NORM_POOL_H
#define BT_NORM_POOL_H

#include "bt_kernel.h"
#include "bt_norm.h"

typedef struct bt_norm_pool {
  int channels, rows, times; /* of x; rows of one channel */
  int out_rows, out_times;   /* windows of one channel */
  int kernel_rows, kernel;   /* samples of a window */
  int groups;                /* runs of channels / groups channels that share mean and variance */
} bt_norm_pool;

/* Samples that a row is worked on at a time: what they need lies on the stack. */
#define BT_NORM_POOL_PART 64

/* What the samples of one channel share. */
typedef struct bt_norm_row {
  float mean, rstd, rest, scale, shift;
} bt_norm_row;

BT_KERNEL int bt_norm_pool_group(bt_norm_pool g, int channel)
{
  return channel / (g.channels / g.groups);
}

BT_KERNEL bt_norm_row bt_norm_pool_row(bt_norm_pool g, int channel, const float *stats,
                                       const float *gamma, const float *beta)
{
  const float *stat = &stats[3 * bt_norm_pool_group(g, channel)];
  return (bt_norm_row){stat[0], stat[1], stat[2], gamma ? gamma[channel] : 1.0f,
                       beta ? beta[channel] : 0.0f};
}

/* Whether the ReLU passes a normalised value on: in the words of bt_norm_apply and bt_relu. */
BT_KERNEL int bt_norm_active(bt_norm_row row, float hat)
{
  return !(bt_fma(hat, row.scale, row.shift) <= 0.0f);
}

/* sum and count of `windows` windows side by side, 1 or 4, whose first row of samples is at x. */
BT_KERNEL void bt_norm_pool_windows(bt_norm_pool g, int windows, bt_norm_row row, const float *x,
                                    int stride, float *sum, uint8_t *count)
{
  float total[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  int number[4] = {0, 0, 0, 0};
  for (int h = 0; h < g.kernel_rows; h++)
    BT_UNROLL_BY_FOUR for (int i = 0; i < g.kernel; i++) {
      float hat[4], y[4];
      BT_UNROLLED_FOUR
        if (j < windows)
          hat[j] = x[h * stride + j * g.kernel + i] - row.mean;
      BT_UNROLLED_FOUR
        if (j < windows)
          hat[j] = bt_fma(hat[j], row.rstd, row.rest);
      BT_UNROLLED_FOUR
        if (j < windows)
          y[j] = bt_fma(hat[j], row.scale, row.shift);
      BT_UNROLLED_FOUR
        if (j < windows && !(y[j] <= 0.0f)) {
          total[j] += hat[j];
          number[j]++;
        }
    }
  BT_UNROLLED_FOUR
    if (j < windows) {
      sum[j] = total[j];
      count[j] = (uint8_t)number[j];
    }
}

#if BT_VECTOR

/* Whether bt_norm_relu_pool_eights can do it: windows are some times four samples. */
BT_KERNEL int bt_norm_pool_quads(bt_norm_pool g) { return g.kernel % 4 == 0; }

/* bt_norm_relu_pool, eight windows side by side. Beyond the last one it is taken again. */
BT_KERNEL void bt_norm_relu_pool_eights(bt_norm_pool g, bt_box box, bt_in x, const float *stats,
                                        const float *gamma, const float *beta, bt_out s, bt_out8 n)
{
  for (int r = box.r0; r < box.r1; r++) {
    const bt_norm_row row = bt_norm_pool_row(g, r / g.out_rows, stats, gamma, beta);
    const bt_eight mean = bt_eight_of(row.mean), rstd = bt_eight_of(row.rstd);
    const bt_eight rest = bt_eight_of(row.rest), scale = bt_eight_of(row.scale);
    const bt_eight shift = bt_eight_of(row.shift);
    const int top = r / g.out_rows * g.rows + r % g.out_rows * g.kernel_rows;
    for (int t = box.t0; t < box.t1; t += 8) {
      const int m = bt_min(8, box.t1 - t);
      bt_eight total = bt_eight_of(0.0f);
      __m256i count = _mm256_setzero_si256();
      for (int h = 0; h < g.kernel_rows; h++) {
        const float *p[8];
        for (int j = 0; j < 8; j++)
          p[j] = bt_at(x, top + h, (t + bt_min(j, m - 1)) * g.kernel);
        for (int k = 0; k < g.kernel; k += 4) {
          bt_eight v[4];
          bt_eight_turn(p, v);
          BT_VECTOR_UNROLL for (int i = 0; i < 4; i++) {
            const bt_eight hat = bt_eight_fma(_mm256_sub_ps(v[i], mean), rstd, rest);
            const bt_eight active =
                _mm256_cmp_ps(bt_eight_fma(hat, scale, shift), bt_eight_of(0.0f), _CMP_NLE_UQ);
            total = _mm256_add_ps(total, _mm256_and_ps(active, hat));
            count = _mm256_sub_epi32(count, _mm256_castps_si256(active));
          }
          for (int j = 0; j < 8; j++)
            p[j] += 4;
        }
      }
      int32_t counts[8];
      uint8_t *number = bt_to8(n, r, t);
      bt_eight_to_some(bt_to(s, r, t), total, m);
      _mm256_storeu_si256((__m256i *)(void *)counts, count);
      for (int j = 0; j < m; j++)
        number[j] = (uint8_t)counts[j];
    }
  }
}

#endif

/* s and n of every window of the box; samples in order of rows, then time. */
BT_KERNEL void bt_norm_relu_pool(bt_norm_pool g, bt_box box, bt_in x, const float *stats,
                                 const float *gamma, const float *beta, bt_out s, bt_out8 n)
{
#if BT_VECTOR
  if (bt_norm_pool_quads(g)) {
    bt_norm_relu_pool_eights(g, box, x, stats, gamma, beta, s, n);
    return;
  }
#endif
  float part[BT_NORM_POOL_PART];
  int active[BT_NORM_POOL_PART];
  const int step = bt_max(1, BT_NORM_POOL_PART / g.kernel); /* windows of a part */
  for (int r = box.r0; r < box.r1; r++) {
    const int c = r / g.out_rows;
    const bt_norm_row row = bt_norm_pool_row(g, c, stats, gamma, beta);
    float *sum = bt_to(s, r, box.t0);
    uint8_t *count = bt_to8(n, r, box.t0);
    if (BT_SCALAR_TILES) {
      const float *from = bt_at(x, c * g.rows + r % g.out_rows * g.kernel_rows, box.t0 * g.kernel);
      int t = 0;
      for (; t + 4 <= box.t1 - box.t0; t += 4)
        bt_norm_pool_windows(g, 4, row, from + t * g.kernel, x.stride, sum + t, count + t);
      for (; t < box.t1 - box.t0; t++)
        bt_norm_pool_windows(g, 1, row, from + t * g.kernel, x.stride, sum + t, count + t);
      continue;
    }
    for (int t = 0; t < box.t1 - box.t0; t++) {
      sum[t] = 0.0f;
      count[t] = 0;
    }
    for (int h = 0; h < g.kernel_rows; h++)
      for (int t = box.t0; t < box.t1; t += step) {
        const int samples = bt_min(step, box.t1 - t) * g.kernel;
        const float *from =
            bt_at(x, c * g.rows + r % g.out_rows * g.kernel_rows + h, t * g.kernel);
        for (int u = 0; u < samples; u += BT_NORM_POOL_PART) { /* more than once: part of a window */
          const int m = bt_min(BT_NORM_POOL_PART, samples - u), each = bt_min(g.kernel, m);
          for (int i = 0; i < m; i++) {
            const float hat = bt_hat(from[u + i], row.mean, row.rstd, row.rest);
            active[i] = bt_norm_active(row, hat);
            part[i] = active[i] ? hat : 0.0f;
          }
          for (int w = 0; w * each < m; w++) {
            float total = sum[t - box.t0 + w];
            int number = 0;
            for (int i = w * each; i < (w + 1) * each; i++) {
              total += part[i];
              number += active[i];
            }
            sum[t - box.t0 + w] = total;
            count[t - box.t0 + w] = (uint8_t)(count[t - box.t0 + w] + number);
          }
        }
      }
  }
}

/* p = (gamma s + beta n) / k; p may lie on s. */
BT_KERNEL void bt_pooled_affine(bt_norm_pool g, bt_box box, bt_in s, bt_in8 n,
                                const float *gamma, const float *beta, bt_out p)
{
  const float share = 1.0f / (float)(g.kernel_rows * g.kernel);
  for (int r = box.r0; r < box.r1; r++) {
    const float scale = gamma ? gamma[r / g.out_rows] : 1.0f;
    const float shift = beta ? beta[r / g.out_rows] : 0.0f;
    const float *from = bt_at(s, r, box.t0);
    const uint8_t *count = bt_at8(n, r, box.t0);
    float *to = bt_to(p, r, box.t0);
    BT_UNROLL_BY_FOUR for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = bt_fma(shift, (float)count[t], scale * from[t]) * share;
  }
}

/* ds = gamma dp / k; ds may lie on dp. */
BT_KERNEL void bt_pooled_affine_dx(bt_norm_pool g, bt_box box, bt_in dp, const float *gamma,
                                   bt_out ds)
{
  const float share = 1.0f / (float)(g.kernel_rows * g.kernel);
  for (int r = box.r0; r < box.r1; r++) {
    const float scale = gamma ? gamma[r / g.out_rows] * share : share;
    const float *from = bt_at(dp, r, box.t0);
    float *to = bt_to(ds, r, box.t0);
    BT_UNROLL_BY_FOUR for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = scale * from[t];
  }
}

/* sums[c] += share {sum of up n, sum of up s} over the windows of channel c, leaf by leaf, the rows
 * of a leaf first. */
BT_KERNEL void bt_pooled_sums(bt_norm_pool g, bt_box box, bt_in up, bt_in s, bt_in8 n,
                              float *sums, float share)
{
  for (int c = box.r0 / g.out_rows; c * g.out_rows < box.r1; c++)
    for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
      const int m = bt_leaf_end(t, box.t1) - t;
      float plains = 0.0f, products = 0.0f;
      for (int r = c * g.out_rows; r < (c + 1) * g.out_rows; r++) {
        const float *p = bt_at(s, r, t), *q = bt_at(up, r, t);
        const uint8_t *count = bt_at8(n, r, t);
        float plain[BT_LANES] = {0.0f}, product[BT_LANES] = {0.0f};
        int i = 0;
        for (; i + BT_LANES <= m; i += BT_LANES)
          BT_UNROLLED_LANES {
            plain[j] = bt_fma(q[i + j], (float)count[i + j], plain[j]);
            product[j] = bt_fma(q[i + j], p[i + j], product[j]);
          }
        if (i < m)
          BT_UNROLLED_LANES
            if (i + j < m) {
              plain[j] = bt_fma(q[i + j], (float)count[i + j], plain[j]);
              product[j] = bt_fma(q[i + j], p[i + j], product[j]);
            }
        plains += bt_fold(plain);
        products += bt_fold(product);
      }
      BT_JOIN_SCALED_LEAF(sums[2 * c], share, plains);
      BT_JOIN_SCALED_LEAF(sums[2 * c + 1], share, products);
    }
}

/* part[i] = ds of the window that holds sample (r, t + i) less `plain`; ds is 0 beyond the last one */
BT_KERNEL void bt_norm_pool_spread(bt_norm_pool g, int r, int t, int m, bt_in ds, float plain,
                                   float *part)
{
  const int row = r % g.rows / g.kernel_rows;
  const int end = row < g.out_rows ? g.out_times : 0; /* windows of the row */
  int i = 0;
#if BT_VECTOR
  if (bt_norm_pool_quads(g) && t % g.kernel == 0)
    for (int w = t / g.kernel; w < end && i + g.kernel <= m; w++)
      for (int k = 0; k < g.kernel; k += 4) {
        const float up = *bt_at(ds, r / g.rows * g.out_rows + row, w) - plain;
        _mm_storeu_ps(part + i, _mm_set1_ps(up));
        i += 4;
      }
#endif
  while (i < m) {
    const int w = (t + i) / g.kernel;
    const int next = w < end ? bt_min(m, (w + 1) * g.kernel - t) : m;
    const float up = (w < end ? *bt_at(ds, r / g.rows * g.out_rows + row, w) : 0.0f) - plain;
    for (; i < next; i++)
      part[i] = up;
  }
}

/* bt_norm_relu_pool_dx for n samples of one window, or beyond the last one; up is ds - plain. */
BT_KERNEL void bt_norm_pool_window_dx(int n, bt_norm_row row, const float *x, float up, float plain,
                                      float product, float *to)
{
  int i = 0;
  BT_UNROLL_BY_FOUR for (; i + 4 <= n; i += 4) {
    float hat[4], y[4];
    bt_hat_four(x + i, row.mean, row.rstd, row.rest, hat);
    BT_UNROLLED_FOUR
      y[j] = bt_fma(hat[j], row.scale, row.shift);
    BT_UNROLLED_FOUR
      y[j] = !(y[j] <= 0.0f) ? up : -plain;
    BT_UNROLLED_FOUR
      y[j] = bt_fma(-hat[j], product, y[j]);
    BT_UNROLLED_FOUR
      to[i + j] = row.rstd * y[j];
  }
  for (; i < n; i++) {
    const float hat = bt_hat(x[i], row.mean, row.rstd, row.rest);
    to[i] = row.rstd * bt_fma(-hat, product, bt_norm_active(row, hat) ? up : -plain);
  }
}

/* dx = rstd (active ds - mean1 - xhat mean2); dx may lie on x. */
BT_KERNEL void bt_norm_relu_pool_dx(bt_norm_pool g, bt_box box, bt_in x, const float *stats,
                                    const float *means, const float *gamma, const float *beta,
                                    bt_in ds, bt_out dx)
{
  float part[BT_NORM_POOL_PART];
  for (int r = box.r0; r < box.r1; r++) {
    const bt_norm_row row = bt_norm_pool_row(g, r / g.rows, stats, gamma, beta);
    const float *mean = &means[2 * bt_norm_pool_group(g, r / g.rows)];
    const float plain = mean[0], product = mean[1];
    if (BT_SCALAR_TILES) {
      const int at = r % g.rows / g.kernel_rows, end = at < g.out_rows ? g.out_times : 0;
      for (int t = box.t0; t < box.t1;) {
        const int w = t / g.kernel, n = (w < end ? bt_min(box.t1, (w + 1) * g.kernel) : box.t1) - t;
        const float up = (w < end ? *bt_at(ds, r / g.rows * g.out_rows + at, w) : 0.0f) - plain;
        bt_norm_pool_window_dx(n, row, bt_at(x, r, t), up, plain, product, bt_to(dx, r, t));
        t += n;
      }
      continue;
    }
    for (int t = box.t0; t < box.t1; t += BT_NORM_POOL_PART) {
      const int m = bt_min(BT_NORM_POOL_PART, box.t1 - t);
      bt_norm_pool_spread(g, r, t, m, ds, plain, part);
      const float *from = bt_at(x, r, t);
      float *to = bt_to(dx, r, t);
      for (int i = 0; i < m; i++) {
        const float hat = bt_hat(from[i], row.mean, row.rstd, row.rest);
        const float up = bt_norm_active(row, hat) ? part[i] : -plain;
        to[i] = row.rstd * bt_fma(-hat, product, up);
      }
    }
  }
}

/* d = active ds; d may lie on x. */
BT_KERNEL void bt_norm_relu_unpool(bt_norm_pool g, bt_box box, bt_in x, const float *stats,
                                   const float *gamma, const float *beta, bt_in ds, bt_out d)
{
  float part[BT_NORM_POOL_PART];
  for (int r = box.r0; r < box.r1; r++) {
    const bt_norm_row row = bt_norm_pool_row(g, r / g.rows, stats, gamma, beta);
    for (int t = box.t0; t < box.t1; t += BT_NORM_POOL_PART) {
      const int m = bt_min(BT_NORM_POOL_PART, box.t1 - t);
      bt_norm_pool_spread(g, r, t, m, ds, 0.0f, part);
      const float *from = bt_at(x, r, t);
      float *to = bt_to(d, r, t);
      for (int i = 0; i < m; i++) {
        const float hat = bt_hat(from[i], row.mean, row.rstd, row.rest);
        to[i] = bt_norm_active(row, hat) ? part[i] : 0.0f;
      }
    }
  }
}

#endif
