/* SPDX-License-Identifier: Apache-2.0 */
/* bt_centred_dw that reads the converter's integers: x = q scale, the same bits. */
#ifndef BT_ONE_PASS_INT16_H
#define BT_ONE_PASS_INT16_H

#include "bt_int16.h"
#include "bt_one_pass.h"

BT_KERNEL void bt_centred_dw_int16(bt_pairs g, bt_box box, bt_in16 x, bt_in d, const float *pairs,
                                   float *raw, float scale)
{
#if BT_VECTOR
  float z0[BT_LEAF], eight[8 * BT_LEAF];
  for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
    const int n = bt_leaf_end(t, box.t1) - t;
    for (int i = 0; i < g.rows; i += 8) {
      for (int j = 0; j < 8 && i + j < g.rows; j++)
        bt_int16_take(x, i + j, t, t + n, scale, eight + j * BT_LEAF);
      const bt_in rows = bt_read_at(eight, BT_LEAF, i, t);
      if (n == BT_LEAF)
        bt_centred_eight(g, box, rows, i, d, t, BT_LEAF, pairs, z0, raw);
      else
        bt_centred_eight(g, box, rows, i, d, t, n, pairs, z0, raw);
    }
    bt_centred_totals(g, box, d, t, n, raw);
  }
  return;
#endif
  float first[BT_LEAF], samples[BT_LEAF];
  for (int t = box.t0; t < box.t1; t = bt_leaf_end(t, box.t1)) {
    const int n = bt_leaf_end(t, box.t1) - t;
    for (int i = 0; i < g.rows; i++) {
      bt_int16_take(x, i, t, t + n, scale, samples);
      bt_centred_row(g, box, samples, i, d, t, n, pairs, first, raw);
    }
    bt_centred_totals(g, box, d, t, n, raw);
  }
}

#endif
