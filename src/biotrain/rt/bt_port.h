/* SPDX-License-Identifier: Apache-2.0 */
/* The port layer: how the workers of a cluster run one schedule. Nothing else in the C knows where it
 * runs. Every worker runs all of it; a call gets the worker's part of its box (bt_own), and bt_barrier
 * stands between calls that depend on each other.
 *
 * Back ends, chosen by -DBT_PORT=...:
 *   BT_PORT_NONE     (the default) one core runs all parts as one: the same bits
 *   BT_PORT_THREADS  POSIX threads (port_threads.c)
 *   BT_PORT_BARE     the harts of a RISC-V cluster without an operating system (port_bare.c)
 *   BT_PORT_PMSIS    the cluster of GAP9, by the API of its vendor (port_pmsis.c) */
#ifndef BT_PORT_H
#define BT_PORT_H

#include "bt_kernel.h"
#include "bt_string.h"

#define BT_PORT_NONE 0
#define BT_PORT_THREADS 1
#define BT_PORT_BARE 2
#define BT_PORT_PMSIS 3
#ifndef BT_PORT
#define BT_PORT BT_PORT_NONE
#endif

/* What the workers run: `call` is shared, `worker` counts from 0. */
typedef void (*bt_work)(void *call, int worker);

#if BT_PORT == BT_PORT_NONE

BT_KERNEL void bt_team_run(int workers, bt_work work, void *call)
{
  (void)workers;
  work(call, 0);
}

BT_KERNEL void bt_barrier(void) {}

#else

/* Runs work(call, worker) on all workers, of which the caller is number 0, and returns when all have
 * returned. A call within a call is not allowed. */
void bt_team_run(int workers, bt_work work, void *call);

/* Returns when all workers have called it; what they have written before can be read behind it. */
void bt_barrier(void);

#endif

/* The part of a box, divided into `down` ranges of rows in multiples of `row_step` by `across` ranges
 * of times that meet at multiples of `time_step`, of a worker below down * across. */
BT_KERNEL bt_box bt_own(bt_box box, int worker, int down, int row_step, int across, int time_step)
{
#if BT_PORT == BT_PORT_NONE
  (void)worker, (void)down, (void)row_step, (void)across, (void)time_step;
  return box;
#else
  const int i = worker / across, j = worker % across;
  const int units = (box.r1 - box.r0 + row_step - 1) / row_step;
  const int first = box.t0 / time_step, count = (box.t1 + time_step - 1) / time_step - first;
  return bt_part(box.r0 + units * i / down * row_step,
                 bt_min(box.r0 + units * (i + 1) / down * row_step, box.r1),
                 bt_max((first + count * j / across) * time_step, box.t0),
                 bt_min((first + count * (j + 1) / across) * time_step, box.t1));
#endif
}

/* Where windows of tensors of L2 lie, in packages that are planned for two memories. */
#ifndef BT_L1
#define BT_L1
#endif

/* Copies `count` runs of `length` floats from L2 to L1 (`get`) or back, and returns when they are there;
 * runs begin so many floats apart. Every worker copies its part. BT_DMA is the address of the command
 * register of a DMA as PULP's clusters have it (MCHAN), with a word that answers when transfer n has
 * ended at BT_DMA + 0x40 + 4 n, as the cluster of BioTrain has it. */
BT_KERNEL void bt_port_copy_2d(int get, float *to, int to_stride, const float *from, int from_stride,
                               int length, int count)
{
#ifdef BT_DMA
  volatile uint32_t *const dma = (volatile uint32_t *)(uintptr_t)BT_DMA;
  const uint32_t row = 4u * (uint32_t)length;
  const uint32_t near = (uint32_t)(uintptr_t)(get ? to : from), far = (uint32_t)(uintptr_t)(get ? from : to);
  __asm__ volatile("" ::: "memory");
  const uint32_t number = *dma;
  *dma = row * (uint32_t)count | (uint32_t)get << 17 | 1u << 18 | 1u << 19 | 1u << 23;
  *dma = near;
  *dma = far;
  *dma = row;
  *dma = 4u * (uint32_t)(get ? from_stride : to_stride);
  *dma = row;
  *dma = 4u * (uint32_t)(get ? to_stride : from_stride);
  (void)dma[16 + number];
  __asm__ volatile("" ::: "memory");
#else
  (void)get;
  for (int i = 0; i < count; i++)
    memcpy(to + (ptrdiff_t)i * to_stride, from + (ptrdiff_t)i * from_stride,
           (size_t)length * sizeof *to);
#endif
}

/* Zero into the sums of the rows of a box, of which every `row_step` have `each`. */
BT_KERNEL void bt_clear(float *sums, bt_box box, int row_step, int each)
{
  memset(sums + box.r0 / row_step * each, 0,
         (size_t)((box.r1 - box.r0) / row_step * each) * sizeof *sums);
}

#endif
