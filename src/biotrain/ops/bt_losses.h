/* SPDX-License-Identifier: Apache-2.0 */
/* Losses with weights, of steps and of several elements. Each also gives the gradient d of what it
 * is a loss of. `share`, where there is one, is the weight of the window. */
#ifndef BT_LOSSES_H
#define BT_LOSSES_H

#include "bt_kernel.h"

typedef struct bt_classes {
  int classes, steps;
  int soft;            /* 1: targets are probabilities, classes x steps; 0: classes, one for a step */
  int ignores, ignore; /* 1: steps of the class `ignore` do not count */
} bt_classes;

typedef struct bt_elements {
  int count, outputs, inner; /* element i belongs to output i / inner mod outputs */
} bt_elements;

/* What class c of step s counts: its weight times its probability, smoothed. */
BT_KERNEL float bt_class_part(bt_classes g, int c, int s, const float *target, const float *weights,
                              float smoothing)
{
  const float q = g.soft ? target[c * g.steps + s] : (float)(c == (int)target[s]);
  const float even = smoothing / (float)g.classes;
  const float part = bt_fma(1.0f - smoothing, q, even);
  return weights ? weights[c] * part : part;
}

/* With p = softmax of x over classes and v = what each class counts:
 * loss = scale / counted steps sum_s sum_c -v_c log p_c, d_c = scale / counted steps (p_c sum v - v_c) */
BT_KERNEL void bt_class_loss(bt_classes g, bt_box box, const float *x, const float *target,
                             const float *weights, const float *share, float *loss, float *d,
                             float smoothing, float scale)
{
  (void)box;
  int counted = g.steps;
  if (g.ignores)
    for (int s = 0; s < g.steps; s++)
      counted -= (int)target[s] == g.ignore;
  const float all = share ? scale * share[0] : scale;
  const float each = all / (float)bt_max(1, counted);
  float sum = 0.0f, leaf = 0.0f;
  for (int s = 0; s < g.steps; s++) {
    const int counts = !g.ignores || (int)target[s] != g.ignore;
    float top = x[s], total = 0.0f, mass = 0.0f, value = 0.0f;
    for (int c = 1; c < g.classes; c++)
      top = bt_maxf(top, x[c * g.steps + s]);
    for (int c = 0; c < g.classes; c++) {
      const float e = bt_expf(x[c * g.steps + s] - top);
      d[c * g.steps + s] = e;
      total += e;
    }
    const float log_total = bt_logf(total);
    for (int c = 0; c < g.classes; c++) {
      const float v = bt_class_part(g, c, s, target, weights, smoothing);
      mass += v;
      value = bt_fma(v, log_total - (x[c * g.steps + s] - top), value);
    }
    for (int c = 0; c < g.classes; c++) {
      const float v = bt_class_part(g, c, s, target, weights, smoothing);
      const float p = d[c * g.steps + s] / total;
      d[c * g.steps + s] = counts ? each * (mass * p - v) : 0.0f;
    }
    leaf += counts ? value : 0.0f;
    if ((s + 1) % BT_LEAF == 0 || s + 1 == g.steps) {
      BT_JOIN_LEAF(sum, leaf);
      leaf = 0.0f;
    }
  }
  loss[0] = each * sum;
}

/* The same for one class that is given as an integer. */
BT_KERNEL void bt_class_loss_label(bt_classes g, bt_box box, const float *x, const int32_t *label,
                                   const float *weights, const float *share, float *loss, float *d,
                                   float smoothing, float scale)
{
  const float target = (float)label[0];
  bt_class_loss(g, box, x, &target, weights, share, loss, d, smoothing, scale);
}

/* loss = scale / count sum of f(x_i, target_i), d_i = scale / count f'; `value` is f, `slope` f'. */
#define BT_ELEMENT_LOSS(value, slope) \
  do { \
    const float all = share ? scale * share[0] : scale; \
    const float each = all / (float)g.count; \
    float sum = 0.0f, leaf[BT_LEAF]; \
    (void)box; \
    for (int i = 0; i < g.count; i += BT_LEAF) { \
      const int n = bt_min(BT_LEAF, g.count - i); \
      for (int j = 0; j < n; j++) { \
        const float a = x[i + j], t = target[i + j], e = a - t, size = bt_absf(e); \
        const float w = weights ? weights[(i + j) / g.inner % g.outputs] : 1.0f; \
        (void)e, (void)size, (void)w; \
        leaf[j] = (value); \
        d[i + j] = each * (slope); \
      } \
      BT_JOIN_LEAF(sum, bt_leaf_sum(leaf, n)); \
    } \
    loss[0] = each * sum; \
  } while (0)

/* e^2 */
BT_KERNEL void bt_mse_loss(bt_elements g, bt_box box, const float *x, const float *target,
                           const float *weights, const float *share, float *loss, float *d,
                           float delta, float scale)
{
  (void)delta;
  BT_ELEMENT_LOSS(e * e, 2.0f * e);
}

/* |e|; the slope at 0 is 0 */
BT_KERNEL void bt_l1_loss(bt_elements g, bt_box box, const float *x, const float *target,
                          const float *weights, const float *share, float *loss, float *d,
                          float delta, float scale)
{
  (void)delta;
  BT_ELEMENT_LOSS(size, (float)((e > 0.0f) - (e < 0.0f)));
}

/* e^2 / 2 up to delta, delta (|e| - delta / 2) beyond */
BT_KERNEL void bt_huber_loss(bt_elements g, bt_box box, const float *x, const float *target,
                             const float *weights, const float *share, float *loss, float *d,
                             float delta, float scale)
{
  BT_ELEMENT_LOSS(size <= delta ? 0.5f * (e * e) : delta * (size - 0.5f * delta),
                  size <= delta ? e : bt_with_sign(delta, e));
}

/* -(w t log s + (1 - t) log(1 - s)) with s = 1 / (1 + e^-x), w the weight of positive labels:
 * (1 - t) x + (1 + (w - 1) t) (log(1 + e^-|x|) + max(-x, 0)) */
BT_KERNEL void bt_bce_loss(bt_elements g, bt_box box, const float *x, const float *target,
                           const float *weights, const float *share, float *loss, float *d,
                           float delta, float scale)
{
  (void)delta;
  BT_ELEMENT_LOSS(bt_fma(bt_fma(w - 1.0f, t, 1.0f),
                         bt_log1pf(bt_expf(-bt_absf(a))) + bt_maxf(-a, 0.0f), (1.0f - t) * a),
                  (1.0f - t) - bt_fma(w - 1.0f, t, 1.0f) * bt_sigmoidf(-a));
}

#endif
