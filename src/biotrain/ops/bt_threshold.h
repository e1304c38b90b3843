/* SPDX-License-Identifier: Apache-2.0 */
/* Functions with steps: threshold, hard shrinkage, sign. Output and input may be the same tensor. */
#ifndef BT_THRESHOLD_H
#define BT_THRESHOLD_H

#include "bt_pointwise.h"

/* y = value where x <= limit, x elsewhere (so that NaN stays NaN) */
BT_KERNEL void bt_threshold(bt_plane g, bt_box box, bt_in in, bt_out y, float limit, float value)
{
  BT_MAP(in, y, bt_selectf(x <= limit, value, x));
}

/* dx = 0 where x <= limit, dy elsewhere */
BT_KERNEL void bt_threshold_dx(bt_plane g, bt_box box, bt_in in, bt_in dy, bt_out dx, float limit,
                               float value)
{
  (void)value;
  BT_MAP_GRADIENT(in, dy, dx, bt_selectf(s <= limit, 0.0f, up));
}

/* y = 0 where -limit <= x <= limit, x elsewhere */
BT_KERNEL void bt_hardshrink(bt_plane g, bt_box box, bt_in in, bt_out y, float limit)
{
  BT_MAP(in, y, bt_selectf(x >= -limit && x <= limit, 0.0f, x));
}

/* dx = 0 where -limit <= x <= limit, dy elsewhere */
BT_KERNEL void bt_hardshrink_dx(bt_plane g, bt_box box, bt_in in, bt_in dy, bt_out dx, float limit)
{
  BT_MAP_GRADIENT(in, dy, dx, bt_selectf(s >= -limit && s <= limit, 0.0f, up));
}

/* y = 1 above 0, -1 below, else 0 */
BT_KERNEL void bt_sign(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, bt_selectf(x > 0.0f, 1.0f, bt_selectf(x < 0.0f, -1.0f, 0.0f)));
}

#endif
