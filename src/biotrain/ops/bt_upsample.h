/* SPDX-License-Identifier: Apache-2.0 */
/* More samples along time: the nearest one before, or a line between two.
 *
 *   y[t] = x[i] + f (x[i + 1] - x[i])     dx[i] += (1 - f) dy[t], dx[i + 1] += f dy[t]
 *
 * where output t lies at i + f of x, a fraction: (2 t + 1) times / (2 out_times) - 1/2, not below 0;
 * t (times - 1) / (out_times - 1) with `corners`; the whole part of t times / out_times for the
 * nearest. */
#ifndef BT_UPSAMPLE_H
#define BT_UPSAMPLE_H

#include "bt_kernel.h"

typedef struct bt_upsample {
  int times, out_times, linear, corners;
} bt_upsample;

/* Where an output lies: between i and next, at the share f. */
typedef struct bt_between {
  int i, next;
  float f;
} bt_between;

BT_KERNEL bt_between bt_upsample_at(bt_upsample g, int t)
{
  int above, below;
  if (!g.linear) {
    above = t * g.times;
    below = g.out_times;
  } else if (g.corners) {
    above = t * (g.times - 1);
    below = bt_max(1, g.out_times - 1);
  } else {
    above = bt_max(0, (2 * t + 1) * g.times - g.out_times);
    below = 2 * g.out_times;
  }
  const int i = bt_min(above / below, g.times - 1);
  const bt_between at = {i, bt_min(i + 1, g.times - 1),
                         g.linear ? (float)(above - i * below) / (float)below : 0.0f};
  return at;
}

BT_KERNEL void bt_upsample_forward(bt_upsample g, bt_box box, bt_in x, bt_out y)
{
  for (int t = box.t0; t < box.t1; t++) {
    const bt_between at = bt_upsample_at(g, t);
    for (int r = box.r0; r < box.r1; r++) {
      const float a = *bt_at(x, r, at.i);
      *bt_to(y, r, t) = g.linear ? bt_fma(at.f, *bt_at(x, r, at.next) - a, a) : a;
    }
  }
}

/* Outputs that lie beside a sample of the box are added in the order of time. */
BT_KERNEL void bt_upsample_dx(bt_upsample g, bt_box box, bt_in dy, bt_out dx)
{
  for (int r = box.r0; r < box.r1; r++)
    for (int t = box.t0; t < box.t1; t++)
      *bt_to(dx, r, t) = 0.0f;
  for (int t = 0; t < g.out_times; t++) {
    const bt_between at = bt_upsample_at(g, t);
    if (at.next < box.t0 || at.i >= box.t1)
      continue;
    for (int r = box.r0; r < box.r1; r++) {
      const float up = *bt_at(dy, r, t);
      if (at.i >= box.t0) {
        float *to = bt_to(dx, r, at.i);
        *to = g.linear ? bt_fma(1.0f - at.f, up, *to) : *to + up;
      }
      if (g.linear && at.next >= box.t0 && at.next < box.t1) {
        float *to = bt_to(dx, r, at.next);
        *to = bt_fma(at.f, up, *to);
      }
    }
  }
}

#endif
