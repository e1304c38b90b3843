/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics and gradients of batch norm over a batch that comes sample by sample: what the samples
 * of one window gave is joined to what those before it gave, in order. */
#ifndef BT_BATCH_H
#define BT_BATCH_H

#include "bt_norm.h"

/* all[r] = {pivot, mean - pivot, sum of squared distances} over the samples so far, of which there
 * are `before` in front of this one; the pivot is that of the first. */
BT_KERNEL void bt_join_rows(bt_norm g, bt_box box, const float *moments, float *all, int before)
{
  for (int r = box.r0; r < box.r1; r++) {
    const float *row = &moments[3 * r];
    float *to = &all[3 * r];
    if (before == 0)
      for (int i = 0; i < 3; i++)
        to[i] = row[i];
    else
      bt_join_moments(&to[1], &to[2], (float)(before * g.times), row[0] - to[0] + row[1], row[2],
                      (float)g.times);
  }
}

/* Whether what bt_running_update makes of the moments is finite in every channel. */
BT_KERNEL int bt_finite_moments(bt_norm g, bt_box box, const float *moments)
{
  const int rows = g.rows / g.groups;
  int finite = 1;
  for (int c = box.r0; c < box.r1; c++) {
    float mean, square;
    bt_group_moments(g, c, moments, &mean, &square);
    finite &= bt_isfinite(mean + moments[3 * c * rows]) && bt_isfinite(square);
  }
  return finite;
}

#endif
