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

/* A step is first tried: `_fits` says whether every weight and every number of the optimizer's state
 * would be finite behind it, and writes nothing. In bt_train_sample, where an update is a step of its
 * own, the kernel tries itself and counts what does not fit in `skipped`; NULL: bt_step has tried. */

/* p -= lr v, where v holds the gradients */
BT_KERNEL float bt_sgd_step_of(float v, float p, float lr) { return bt_fma(-lr, v, p); }

BT_KERNEL bool bt_sgd_step_fits(int count, const float *v, const float *p, float lr)
{
  uint32_t finite = 1;
  for (int i = 0; i < count; i++)
    finite &= bt_isfinite(bt_sgd_step_of(v[i], p[i], lr)) ? 1u : 0u;
  return finite != 0u;
}

BT_KERNEL void bt_sgd_step(bt_flat g, bt_box box, const float *restrict v, float *restrict p,
                           float lr)
{
  (void)box;
  BT_UNROLL_BY_FOUR for (int i = 0; i < g.count; i++)
    p[i] = bt_sgd_step_of(v[i], p[i], lr);
}

/* d = g + decay p;  p -= lr d */
BT_KERNEL float bt_sgd_plain_of(float grad, float p, float lr, float scale, float decay)
{
  return bt_fma(-lr, bt_fma(decay, p, grad * scale), p);
}

BT_KERNEL bool bt_sgd_plain_fits(int count, const float *grad, const float *p, float lr,
                                 float scale, float decay)
{
  uint32_t finite = 1;
  for (int i = 0; i < count; i++)
    finite &= bt_isfinite(bt_sgd_plain_of(grad[i], p[i], lr, scale, decay)) ? 1u : 0u;
  return finite != 0u;
}

BT_KERNEL void bt_sgd_plain(bt_flat g, bt_box box, const float *restrict grad, float *restrict p,
                            float lr, float scale, float decay, uint32_t *skipped)
{
  (void)box;
  if (skipped != NULL && !bt_sgd_plain_fits(g.count, grad, p, lr, scale, decay)) {
    ++*skipped;
    return;
  }
  BT_UNROLL_BY_FOUR for (int i = 0; i < g.count; i++)
    p[i] = bt_sgd_plain_of(grad[i], p[i], lr, scale, decay);
}

/* d = g + decay p;  v = momentum v + d;  p -= lr (nesterov ? d + momentum v : v) */
BT_KERNEL float bt_sgd_of(float grad, float p, float *v, float lr, float scale, float decay,
                          float momentum, int nesterov)
{
  const float d = bt_fma(decay, p, grad * scale);
  *v = bt_fma(momentum, *v, d);
  return bt_fma(-lr, nesterov ? bt_fma(momentum, *v, d) : *v, p);
}

BT_KERNEL bool bt_sgd_fits(int count, const float *grad, const float *p, const float *v, float lr,
                           float scale, float decay, float momentum, int nesterov)
{
  uint32_t finite = 1;
  for (int i = 0; i < count; i++) {
    float w = v[i];
    const float next = bt_sgd_of(grad[i], p[i], &w, lr, scale, decay, momentum, nesterov);
    finite &= bt_isfinite(next) && bt_isfinite(w) ? 1u : 0u;
  }
  return finite != 0u;
}

BT_KERNEL void bt_sgd(bt_flat g, bt_box box, const float *restrict grad, float *restrict p,
                      float *restrict v, float lr, float scale, float decay, float momentum,
                      int nesterov, uint32_t *skipped)
{
  (void)box;
  if (skipped != NULL &&
      !bt_sgd_fits(g.count, grad, p, v, lr, scale, decay, momentum, nesterov)) {
    ++*skipped;
    return;
  }
  BT_UNROLL_BY_FOUR for (int i = 0; i < g.count; i++) {
    float w = v[i];
    p[i] = bt_sgd_of(grad[i], p[i], &w, lr, scale, decay, momentum, nesterov);
    v[i] = w;
  }
}

/* m += (1 - beta1) (d - m);  v = beta2 v + (1 - beta2) d d
 * p -= lr / c1 m / (sqrt(v) / sqrt(c2) + eps),  c = 1 - beta^step (kept in the context)
 * decoupled: p is first shrunk by lr decay; else d = g + decay p
 * step: lr / c1;  root: sqrt(c2) */
BT_KERNEL float bt_adam_of(float grad, float p, float *m, float *v, float lr, float scale,
                           float decay, int decoupled, float rest1, float beta2, float rest2,
                           float step, float root, float eps)
{
  float d = grad * scale;
  if (decoupled)
    p = bt_fma(-(lr * decay), p, p);
  else
    d = bt_fma(decay, p, d);
  *m = bt_fma(rest1, d - *m, *m);
  *v = bt_fma(rest2 * d, d, beta2 * *v);
  return bt_fma(-step, *m / (bt_sqrtf(*v) / root + eps), p);
}

BT_KERNEL bool bt_adam_fits(int count, const float *grad, const float *p, const float *m,
                            const float *v, float lr, float scale, float decay, int decoupled,
                            float rest1, float beta2, float rest2, float c1, float c2, float eps)
{
  const float step = lr / c1, root = bt_sqrtf(c2);
  uint32_t finite = 1;
  for (int i = 0; i < count; i++) {
    float mean = m[i], square = v[i];
    const float next = bt_adam_of(grad[i], p[i], &mean, &square, lr, scale, decay, decoupled,
                                  rest1, beta2, rest2, step, root, eps);
    finite &= bt_isfinite(next) && bt_isfinite(mean) && bt_isfinite(square) ? 1u : 0u;
  }
  return finite != 0u;
}

BT_KERNEL void bt_adam(bt_flat g, bt_box box, const float *restrict grad, float *restrict p,
                       float *restrict m, float *restrict v, float lr, float scale, float decay,
                       int decoupled, float rest1, float beta2, float rest2, float c1, float c2,
                       float eps, uint32_t *skipped)
{
  (void)box;
  if (skipped != NULL && !bt_adam_fits(g.count, grad, p, m, v, lr, scale, decay, decoupled, rest1,
                                       beta2, rest2, c1, c2, eps)) {
    ++*skipped;
    return;
  }
  const float step = lr / c1, root = bt_sqrtf(c2);
  BT_UNROLL_BY_FOUR for (int i = 0; i < g.count; i++) {
    float mean = m[i], square = v[i];
    p[i] = bt_adam_of(grad[i], p[i], &mean, &square, lr, scale, decay, decoupled, rest1, beta2,
                      rest2, step, root, eps);
    m[i] = mean;
    v[i] = square;
  }
}

#endif
