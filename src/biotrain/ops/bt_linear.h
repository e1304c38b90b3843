/* SPDX-License-Identifier: Apache-2.0 */
/* Linear layer over the last axis, and its gradients.
 *
 *   y[r, o]  = b[o] + sum_i w[o, i] x[r, i]     dx[r, i] = sum_o w[o, i] dy[r, o]
 *   dw[o, i] += sum_r dy[r, o] x[r, i]          db[o] += sum_r dy[r, o]
 *
 * The sum over i runs in leaves of BT_LEAF in lanes (bt_kernel.h), the others in order. */
#ifndef BT_LINEAR_H
#define BT_LINEAR_H

#include "bt_kernel.h"

typedef struct bt_linear {
  int rows, inputs, outputs;
} bt_linear;

BT_KERNEL void bt_linear_forward(bt_linear g, bt_box box, bt_in x, const float *w, const float *b,
                                 bt_out y)
{
  for (int r = box.r0; r < box.r1; r++)
    for (int o = box.t0; o < box.t1; o++) {
      float total = b ? b[o] : 0.0f;
      for (int i = 0; i < g.inputs; i = bt_leaf_end(i, g.inputs))
        BT_JOIN_LEAF(total, bt_leaf_dot(w + o * g.inputs + i, bt_at(x, r, i),
                                        bt_leaf_end(i, g.inputs) - i));
      *bt_to(y, r, o) = total;
    }
}

BT_KERNEL void bt_linear_input_gradient(bt_linear g, bt_box box, bt_in dy, const float *w, bt_out dx)
{
  for (int r = box.r0; r < box.r1; r++) {
    float *restrict to = bt_to(dx, r, box.t0);
    for (int i = 0; i < box.t1 - box.t0; i++)
      to[i] = 0.0f;
    for (int o = 0; o < g.outputs; o++) {
      const float up = *bt_at(dy, r, o);
      const float *restrict row = w + o * g.inputs + box.t0;
      for (int i = 0; i < box.t1 - box.t0; i++)
        to[i] = bt_fma(row[i], up, to[i]);
    }
  }
}

BT_KERNEL void bt_linear_weight_gradient(bt_linear g, bt_box box, bt_in x, bt_in dy, float *dw)
{
  for (int o = box.r0; o < box.r1; o++)
    for (int r = 0; r < g.rows; r++) {
      const float up = *bt_at(dy, r, o);
      const float *restrict from = bt_at(x, r, box.t0);
      float *restrict to = dw + o * g.inputs + box.t0;
      for (int i = 0; i < box.t1 - box.t0; i++)
        to[i] = bt_fma(up, from[i], to[i]);
    }
}

BT_KERNEL void bt_linear_bias_gradient(bt_linear g, bt_box box, bt_in dy, float *db)
{
  for (int r = 0; r < g.rows; r++)
    for (int o = box.t0; o < box.t1; o++)
      db[o] += *bt_at(dy, r, o);
}

#endif
