/* SPDX-License-Identifier: Apache-2.0 */
/* Gradient of average pooling and of the ReLU before it, in one pass: the gradient of the pooling
 * is never stored, and the result may lie on the output of the ReLU. */
#ifndef BT_POOL_RELU_H
#define BT_POOL_RELU_H

#include "bt_kernel.h"
#include "bt_pool.h"

#define BT_POOL_RELU_PART 64

/* dx = 0 where y <= 0, elsewhere what bt_avg_pool_dx gives */
BT_KERNEL void bt_avg_pool_relu_dx(bt_pool g, bt_box box, bt_in dy, bt_in y, bt_out dx)
{
  float part[BT_POOL_RELU_PART] = {0.0f};
  for (int r = box.r0; r < box.r1; r++)
    for (int t = box.t0; t < box.t1; t += BT_POOL_RELU_PART) {
      const int n = bt_min(BT_POOL_RELU_PART, box.t1 - t);
      const bt_box tile = {r, r + 1, t, t + n};
      const bt_out to = {part, BT_POOL_RELU_PART, r, t};
      bt_avg_pool_dx(g, tile, dy, to);
      const float *out = bt_at(y, r, t);
      float *grad = bt_to(dx, r, t);
      for (int i = 0; i < n; i++)
        grad[i] = out[i] <= 0.0f ? 0.0f : part[i];
    }
}

#endif
