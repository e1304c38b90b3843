/* SPDX-License-Identifier: Apache-2.0 */
/* Hard swish: y = x relu6(x + 3) / 6. Output and input may be the same tensor. */
#ifndef BT_HARDSWISH_H
#define BT_HARDSWISH_H

#include "bt_kernel.h"

typedef struct bt_hardswish_shape {
  int rows, times;
} bt_hardswish_shape;

/* y = x min(max(x + 3, 0), 6) / 6 */
BT_KERNEL void bt_hardswish(bt_hardswish_shape g, bt_box box, bt_in x, bt_out y)
{
  (void)g;
  for (int r = box.r0; r < box.r1; r++) {
    const float *from = bt_at(x, r, box.t0);
    float *to = bt_to(y, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = from[t] * bt_minf(bt_maxf(from[t] + 3.0f, 0.0f), 6.0f) / 6.0f;
  }
}

/* dx = 0 for x < -3, (x / 3 + 1 / 2) dy up to 3, dy above */
BT_KERNEL void bt_hardswish_dx(bt_hardswish_shape g, bt_box box, bt_in x, bt_in dy, bt_out dx)
{
  (void)g;
  for (int r = box.r0; r < box.r1; r++) {
    const float *from = bt_at(x, r, box.t0), *up = bt_at(dy, r, box.t0);
    float *to = bt_to(dx, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++) {
      const float slope = from[t] < -3.0f ? 0.0f : from[t] <= 3.0f ? from[t] / 3.0f + 0.5f : 1.0f;
      to[t] = slope * up[t];
    }
  }
}

#endif
