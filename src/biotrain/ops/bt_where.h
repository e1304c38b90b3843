/* SPDX-License-Identifier: Apache-2.0 */
/* Comparisons, whose results are 1 and 0, and choices by them. The output may be any input. */
#ifndef BT_WHERE_H
#define BT_WHERE_H

#include "bt_pointwise.h"

/* y = a > b */
BT_KERNEL void bt_gt(bt_plane g, bt_box box, bt_in a, bt_in b, bt_out y)
{
  BT_MAP_TWO(a, b, y, p, q, bt_selectf(p > q, 1.0f, 0.0f));
}

/* y = a >= b */
BT_KERNEL void bt_ge(bt_plane g, bt_box box, bt_in a, bt_in b, bt_out y)
{
  BT_MAP_TWO(a, b, y, p, q, bt_selectf(p >= q, 1.0f, 0.0f));
}

/* y = a == b */
BT_KERNEL void bt_eq(bt_plane g, bt_box box, bt_in a, bt_in b, bt_out y)
{
  BT_MAP_TWO(a, b, y, p, q, bt_selectf(p == q, 1.0f, 0.0f));
}

/* y = x > number */
BT_KERNEL void bt_gt_number(bt_plane g, bt_box box, bt_in in, bt_out y, float number)
{
  BT_MAP(in, y, bt_selectf(x > number, 1.0f, 0.0f));
}

/* y = x >= number */
BT_KERNEL void bt_ge_number(bt_plane g, bt_box box, bt_in in, bt_out y, float number)
{
  BT_MAP(in, y, bt_selectf(x >= number, 1.0f, 0.0f));
}

/* y = x == number */
BT_KERNEL void bt_eq_number(bt_plane g, bt_box box, bt_in in, bt_out y, float number)
{
  BT_MAP(in, y, bt_selectf(x == number, 1.0f, 0.0f));
}

/* y = number where the mask is not 0, x elsewhere */
BT_KERNEL void bt_masked_fill(bt_plane g, bt_box box, bt_in in, bt_in mask, bt_out y, float number)
{
  BT_MAP_TWO(in, mask, y, x, m, bt_selectf(m != 0.0f, number, x));
}

/* y = a where the mask is not 0, b elsewhere */
BT_KERNEL void bt_where(bt_plane g, bt_box box, bt_in mask, bt_in a, bt_in b, bt_out y)
{
  (void)g;
  for (int r = box.r0; r < box.r1; r++) {
    const float *m = bt_at(mask, r, box.t0), *yes = bt_at(a, r, box.t0), *no = bt_at(b, r, box.t0);
    float *to = bt_to(y, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = bt_selectf(m[t] != 0.0f, yes[t], no[t]);
  }
}

#endif
