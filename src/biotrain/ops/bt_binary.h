/* SPDX-License-Identifier: Apache-2.0 */
/* Arithmetic of two tensors, the second broadcast to the first. Output and first operand may be the
 * same tensor, and output and second operand where both have the same shape. */
#ifndef BT_BINARY_H
#define BT_BINARY_H

#include "bt_kernel.h"

typedef struct bt_binary {
  int n1, n2;              /* inner two of the three axes of the rows of y */
  int b0, b1, b2, b_times; /* row strides of b; b_times 0: one value for all times */
} bt_binary;

/* y = result for every element of the box, where `p` is the element of a and `q` that of b. */
#define BT_MAP_PAIR(result)                                                                        \
  do {                                                                                             \
    for (int r = box.r0; r < box.r1; r++) {                                                        \
      const int row = r / (g.n1 * g.n2) * g.b0 + r / g.n2 % g.n1 * g.b1 + r % g.n2 * g.b2;         \
      const float *first = bt_at(a, r, box.t0);                                                    \
      float *to = bt_to(y, r, box.t0);                                                             \
      if (g.b_times) {                                                                             \
        const float *second = bt_at(b, row, box.t0);                                               \
        for (int t = 0; t < box.t1 - box.t0; t++) {                                                \
          const float p = first[t], q = second[t];                                                 \
          to[t] = (result);                                                                        \
        }                                                                                          \
      } else {                                                                                     \
        const float q = *bt_at(b, row, 0);                                                         \
        for (int t = 0; t < box.t1 - box.t0; t++) {                                                \
          const float p = first[t];                                                                \
          to[t] = (result);                                                                        \
        }                                                                                          \
      }                                                                                            \
    }                                                                                              \
  } while (0)

/* y = alpha a + beta b */
BT_KERNEL void bt_add(bt_binary g, bt_box box, bt_in a, bt_in b, bt_out y, float alpha, float beta)
{
  if (alpha >= 1.0f && alpha <= 1.0f)
    BT_MAP_PAIR(bt_fma(beta, q, p));
  else
    BT_MAP_PAIR(bt_fma(alpha, p, beta * q));
}

BT_KERNEL void bt_mul(bt_binary g, bt_box box, bt_in a, bt_in b, bt_out y)
{
  BT_MAP_PAIR(p * q);
}

BT_KERNEL void bt_div(bt_binary g, bt_box box, bt_in a, bt_in b, bt_out y)
{
  BT_MAP_PAIR(p / q);
}

#endif
