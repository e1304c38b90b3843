/* SPDX-License-Identifier: Apache-2.0 */
/* Optimizer updates of one parameter tensor. `scale` turns the accumulated sum into the gradient:
 * the mean over the group, times the clipping factor where there is one. */
#ifndef BT_OPTIM_H
#define BT_OPTIM_H

#include "bt_kernel.h"

typedef struct bt_flat {
  int count;
} bt_flat;

BT_KERNEL void bt_accumulate(bt_flat g, bt_box box, const float *from, float *to)
{
  (void)box;
  BT_UNROLL_BY_FOUR for (int i = 0; i < g.count; i++)
    to[i] += from[i];
}

/* The part of one window in the mean over its group. */
BT_KERNEL void bt_share(bt_flat g, bt_box box, const float *from, float *to, float share)
{
  (void)box;
  BT_UNROLL_BY_FOUR for (int i = 0; i < g.count; i++)
    to[i] = from[i] * share;
}

/* Before the first window of a group: v = momentum v + decay p; the windows then add to v. */
BT_KERNEL void bt_carry(bt_flat g, bt_box box, const float *restrict p, float *restrict v,
                        float momentum, float decay, uint32_t samples)
{
  (void)box;
  for (int i = 0; i < g.count && samples == 0; i++)
    v[i] = bt_fma(decay, p[i], momentum * v[i]);
}

/* p -= lr v, where v holds the gradients */
BT_KERNEL void bt_sgd_step(bt_flat g, bt_box box, const float *restrict v, float *restrict p,
                           float lr)
{
  (void)box;
  BT_UNROLL_BY_FOUR for (int i = 0; i < g.count; i++)
    p[i] = bt_fma(-lr, v[i], p[i]);
}

/* Whether a gradient holds NaN or infinity, in which case it is counted. NULL: nobody asks, for
 * bt_step has seen all gradients before. */
BT_KERNEL bool bt_skip(bt_flat g, const float *grad, uint32_t *skipped)
{
  if (skipped == NULL)
    return false;
  uint32_t finite = 1;
  BT_UNROLL_BY_FOUR for (int i = 0; i < g.count; i++)
    finite &= bt_isfinite(grad[i]) ? 1u : 0u;
  *skipped += 1u - finite;
  return finite == 0;
}

/* d = g + decay p;  p -= lr d */
BT_KERNEL void bt_sgd_plain(bt_flat g, bt_box box, const float *restrict grad, float *restrict p,
                            float lr, float scale, float decay, uint32_t *skipped)
{
  (void)box;
  if (bt_skip(g, grad, skipped))
    return;
  BT_UNROLL_BY_FOUR for (int i = 0; i < g.count; i++)
    p[i] = bt_fma(-lr, bt_fma(decay, p[i], grad[i] * scale), p[i]);
}

/* d = g + decay p;  v = momentum v + d;  p -= lr (nesterov ? d + momentum v : v) */
BT_KERNEL void bt_sgd(bt_flat g, bt_box box, const float *restrict grad, float *restrict p,
                      float *restrict v, float lr, float scale, float decay, float momentum,
                      int nesterov, uint32_t *skipped)
{
  (void)box;
  if (bt_skip(g, grad, skipped))
    return;
  BT_UNROLL_BY_FOUR for (int i = 0; i < g.count; i++) {
    const float d = bt_fma(decay, p[i], grad[i] * scale);
    v[i] = bt_fma(momentum, v[i], d);
    p[i] = bt_fma(-lr, nesterov ? bt_fma(momentum, v[i], d) : v[i], p[i]);
  }
}

/* m += (1 - beta1) (d - m);  v = beta2 v + (1 - beta2) d d
 * p -= lr / c1 m / (sqrt(v) / sqrt(c2) + eps),  c = 1 - beta^step (kept in the context)
 * decoupled: p is first shrunk by lr decay; else d = g + decay p */
BT_KERNEL void bt_adam(bt_flat g, bt_box box, const float *restrict grad, float *restrict p,
                       float *restrict m, float *restrict v, float lr, float scale, float decay,
                       int decoupled, float rest1, float beta2, float rest2, float c1, float c2,
                       float eps, uint32_t *skipped)
{
  (void)box;
  if (bt_skip(g, grad, skipped))
    return;
  const float step = lr / c1, root = bt_sqrtf(c2);
  BT_UNROLL_BY_FOUR for (int i = 0; i < g.count; i++) {
    float d = grad[i] * scale;
    if (decoupled)
      p[i] = bt_fma(-(lr * decay), p[i], p[i]);
    else
      d = bt_fma(decay, p[i], d);
    m[i] = bt_fma(rest1, d - m[i], m[i]);
    v[i] = bt_fma(rest2 * d, d, beta2 * v[i]);
    p[i] = bt_fma(-step, m[i] / (bt_sqrtf(v[i]) / root + eps), p[i]);
  }
}

#endif
