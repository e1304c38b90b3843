/* SPDX-License-Identifier: Apache-2.0 */
/* The converter's integers as floats: x = q scale, one multiply. */
#ifndef BT_INT16_H
#define BT_INT16_H

#include "bt_kernel.h"

typedef struct bt_int16 {
  int rows, times;
} bt_int16;

/* Samples of one row that a kernel converts at a time, on the stack. */
#define BT_INT16_SAMPLES 256

/* Times [t0, t1) of a row as floats; returns where they are. */
BT_KERNEL const float *bt_int16_take(bt_in16 x, int row, int t0, int t1, float scale, float *to)
{
  const int16_t *from = bt_at16(x, row, t0);
  BT_UNROLL_BY_FOUR for (int t = 0; t < t1 - t0; t++)
    to[t] = bt_sample16(from + t, scale);
  return to;
}

BT_KERNEL void bt_from_int16(bt_int16 g, bt_box box, bt_in16 x, bt_out y, float scale)
{
  (void)g;
  for (int r = box.r0; r < box.r1; r++)
    bt_int16_take(x, r, box.t0, box.t1, scale, bt_to(y, r, box.t0));
}

#endif
