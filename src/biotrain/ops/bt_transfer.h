/* SPDX-License-Identifier: Apache-2.0 */
/* Transfers between the two memories of a cluster: boxes of a tensor in L2 into a window in L1, and
 * back. */
#ifndef BT_TRANSFER_H
#define BT_TRANSFER_H

#include "bt_kernel.h"
#include "bt_port.h"

typedef struct bt_transfer {
  int get; /* 1: from L2 into L1, 0: back */
} bt_transfer;

/* y = x, in the box. */
BT_KERNEL void bt_transfer_box(bt_transfer g, bt_box box, bt_in x, bt_out y)
{
  if (box.r0 < box.r1 && box.t0 < box.t1)
    bt_port_copy_2d(g.get, bt_to(y, box.r0, box.t0), y.stride, bt_at(x, box.r0, box.t0), x.stride,
                    box.t1 - box.t0, box.r1 - box.r0);
}

#endif
