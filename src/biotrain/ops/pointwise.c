/* SPDX-License-Identifier: Apache-2.0 */
/* Functions of one element. Output and input may be the same tensor. */
#ifndef BT_POINTWISE_H
#define BT_POINTWISE_H

#include "bt_kernel.h"

typedef struct bt_plane {
  int rows, times;
} bt_plane;

/* y = 0 where x <= 0, x elsewhere (so that NaN stays NaN) */
BT_KERNEL void bt_relu(bt_plane g, bt_box box, bt_in x, bt_out y)
{
  (void)g;
  for (int r = box.r0; r < box.r1; r++) {
    const float *from = bt_at(x, r, box.t0);
    float *to = bt_to(y, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = from[t] <= 0.0f ? 0.0f : from[t];
  }
}

/* dx = 0 where y <= 0, dy elsewhere */
BT_KERNEL void bt_relu_dx(bt_plane g, bt_box box, bt_in y, bt_in dy, bt_out dx)
{
  (void)g;
  for (int r = box.r0; r < box.r1; r++) {
    const float *out = bt_at(y, r, box.t0), *up = bt_at(dy, r, box.t0);
    float *to = bt_to(dx, r, box.t0);
    for (int t = 0; t < box.t1 - box.t0; t++)
      to[t] = out[t] <= 0.0f ? 0.0f : up[t];
  }
}

#endif
