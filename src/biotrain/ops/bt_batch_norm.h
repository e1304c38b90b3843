/* SPDX-License-Identifier: Apache-2.0 */
/* What batch norm adds to `bt_norm.h`: statistics that outlive a sample.
 *
 *   running mean     <- (1 - momentum) running mean     + momentum mean
 *   running variance <- (1 - momentum) running variance + momentum n / (n - 1) variance
 *
 * With frozen statistics dx = gamma rstd dy. */
#ifndef BT_BATCH_NORM_H
#define BT_BATCH_NORM_H

#include "bt_norm.h"

/* stats[c] = {mean, rstd, rest} of channel c from running statistics. */
BT_KERNEL void bt_frozen_stats(bt_norm g, bt_box box, const float *mean, const float *variance,
                               float *stats, float eps)
{
  (void)g;
  for (int c = box.r0; c < box.r1; c++) {
    stats[3 * c] = mean[c];
    stats[3 * c + 1] = bt_rsqrtf(variance[c] + eps);
    stats[3 * c + 2] = 0.0f;
  }
}

/* Running statistics of channel c move towards those of this sample; the variance is unbiased. A
 * sample whose statistics overflow moves nothing. */
BT_KERNEL void bt_running_update(bt_norm g, bt_box box, const float *moments, float *mean,
                                 float *variance, float momentum, float keep)
{
  const int rows = g.rows / g.groups;
  for (int c = box.r0; c < box.r1; c++) {
    float mean_c, square;
    bt_group_moments(g, c, moments, &mean_c, &square);
    mean_c += moments[3 * c * rows];
    const float new_mean = bt_fma(momentum, mean_c, keep * mean[c]);
    const float unbiased = square / (float)(rows * g.times - 1);
    const float new_variance = bt_fma(momentum, unbiased, keep * variance[c]);
    if (bt_isfinite(new_mean) && bt_isfinite(new_variance)) {
      mean[c] = new_mean;
      variance[c] = new_variance;
    }
  }
}

BT_KERNEL void bt_norm_frozen_gradient(bt_norm g, bt_box box, const float *stats, const float *gamma,
                                       bt_in dy, bt_out dx)
{
  for (int r = box.r0; r < box.r1; r++) {
    const float rstd = stats[3 * (r / (g.rows / g.groups)) + 1];
    const float scale = (gamma ? gamma[r / g.rows_per_channel] : 1.0f) * rstd;
    const float *q = bt_at(dy, r, box.t0);
    float *to = bt_to(dx, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = scale * q[t];
  }
}

#endif
