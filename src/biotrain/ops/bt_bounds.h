/* SPDX-License-Identifier: Apache-2.0 */
/* Bounds on a parameter, which hold again behind every step. */
#ifndef BT_BOUNDS_H
#define BT_BOUNDS_H

#include "bt_kernel.h"

/* Parts of a tensor [outer][parts][inner], each with a norm of its own. */
typedef struct bt_parts {
  int outer, parts, inner;
} bt_parts;

/* Scales a part whose Euclidean norm is above `most` down to it, as torch.renorm does. */
BT_KERNEL void bt_renorm(bt_parts g, bt_box box, float *p, float most)
{
  for (int r = box.r0; r < box.r1; r++) {
    float square = 0.0f;
    for (int o = 0; o < g.outer; o++) {
      const float *const from = p + (o * g.parts + r) * g.inner;
      for (int i = 0; i < g.inner; i += BT_LEAF)
        square += bt_leaf_square(from + i, 0.0f, bt_min(BT_LEAF, g.inner - i));
    }
    const float norm = bt_sqrtf(square);
    if (norm <= most)
      continue;
    const float scale = most / (norm + 1e-7f);
    for (int o = 0; o < g.outer; o++) {
      float *const at = p + (o * g.parts + r) * g.inner;
      for (int i = 0; i < g.inner; i++)
        at[i] *= scale;
    }
  }
}

/* Every element into [low, high]. */
BT_KERNEL void bt_clamp_parameter(bt_parts g, bt_box box, float *p, float low, float high)
{
  (void)box;
  for (int i = 0; i < g.outer * g.parts * g.inner; i++)
    p[i] = bt_minf(bt_maxf(p[i], low), high);
}

#endif
