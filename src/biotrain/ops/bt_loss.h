/* SPDX-License-Identifier: Apache-2.0 */
/* Losses of one sample. */
#ifndef BT_LOSS_H
#define BT_LOSS_H

#include "bt_kernel.h"

typedef struct bt_loss {
  int classes;
} bt_loss;

typedef struct bt_differences {
  int count;
} bt_differences;

/* loss = log(sum_i exp(x_i - max)) - (x_label - max), p_i = exp(x_i - max) / sum */
BT_KERNEL void bt_cross_entropy(bt_loss g, bt_box box, const float *x, const int32_t *label,
                                float *loss, float *p)
{
  (void)box;
  float top = x[0], sum = 0.0f;
  for (int i = 1; i < g.classes; i++)
    top = bt_maxf(top, x[i]);
  for (int i = 0; i < g.classes; i++) {
    p[i] = bt_expf(x[i] - top);
    sum += p[i];
  }
  loss[0] = bt_logf(sum) - (x[label[0]] - top);
  for (int i = 0; i < g.classes; i++)
    p[i] /= sum;
}

/* dx_i = p_i - [i is the label] */
BT_KERNEL void bt_cross_entropy_dx(bt_loss g, bt_box box, const float *p, const int32_t *label,
                                   float *dx)
{
  (void)box;
  for (int i = 0; i < g.classes; i++)
    dx[i] = i == label[0] ? p[i] - 1.0f : p[i];
}

/* d_i = x_i - target_i, loss = sum of d_i^2 / count, leaf by leaf */
BT_KERNEL void bt_mse(bt_differences g, bt_box box, const float *x, const float *target,
                      float *loss, float *d)
{
  (void)box;
  float sum = 0.0f;
  for (int i = 0; i < g.count; i++)
    d[i] = x[i] - target[i];
  for (int i = 0; i < g.count; i += BT_LEAF)
    BT_JOIN_LEAF(sum, bt_leaf_square(&d[i], 0.0f, bt_min(BT_LEAF, g.count - i)));
  loss[0] = sum / (float)g.count;
}

/* dx_i = 2 d_i / count */
BT_KERNEL void bt_mse_dx(bt_differences g, bt_box box, const float *d, float *dx)
{
  (void)box;
  const float share = 2.0f / (float)g.count;
  for (int i = 0; i < g.count; i++)
    dx[i] = share * d[i];
}

#endif
