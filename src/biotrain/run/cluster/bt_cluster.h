/* SPDX-License-Identifier: Apache-2.0 */
/* What a program on the RTL cluster can do beyond C: barrier, DMA, marks, its end. */
#ifndef BT_CLUSTER_H
#define BT_CLUSTER_H

#include <stdint.h>

#include "bt_cluster_map.h"

#define BT_REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define BT_IN_L2(name) __attribute__((section(".l2." #name)))

int bt_cluster_main(int worker);

/* Returns when all cores have called it; what they wrote before, all see behind it. */
static inline void bt_cluster_barrier(void)
{
  __asm__ volatile("" ::: "memory");
  (void)BT_REGISTER(BT_BARRIER_WAIT);
  __asm__ volatile("" ::: "memory");
}

/* Records the counters of all cores under a number. */
static inline void bt_cluster_mark(uint32_t number)
{
  __asm__ volatile("" ::: "memory");
  BT_REGISTER(BT_MARK) = number;
  __asm__ volatile("" ::: "memory");
}

__attribute__((noreturn)) static inline void bt_cluster_end(int code)
{
  __asm__ volatile("" ::: "memory");
  BT_REGISTER(BT_END) = (uint32_t)code;
  for (;;)
    ;
}

/* Rows of `row` bytes, `stride` bytes apart in L2 and `local_stride` in L1, `bytes` in all: from L2
 * to L1 (`get`) or back. Returns the number to wait for. */
static inline uint32_t bt_cluster_move(int get, void *l1, void *l2, uint32_t bytes, uint32_t row,
                                       uint32_t stride, uint32_t local_stride)
{
  __asm__ volatile("" ::: "memory");
  const uint32_t number = BT_REGISTER(BT_DMA_COMMAND);
  BT_REGISTER(BT_DMA_COMMAND) = bytes | (uint32_t)(get != 0) << 17 | 1u << 18 | 1u << 19 | 1u << 23;
  BT_REGISTER(BT_DMA_COMMAND) = (uint32_t)(uintptr_t)l1;
  BT_REGISTER(BT_DMA_COMMAND) = (uint32_t)(uintptr_t)l2;
  BT_REGISTER(BT_DMA_COMMAND) = row;
  BT_REGISTER(BT_DMA_COMMAND) = stride;
  BT_REGISTER(BT_DMA_COMMAND) = row;
  BT_REGISTER(BT_DMA_COMMAND) = local_stride;
  return number;
}

/* Returns when the transfer has ended, and frees its number. */
static inline void bt_cluster_wait(uint32_t number)
{
  (void)BT_REGISTER(BT_DMA_DONE + 4 * number);
  __asm__ volatile("" ::: "memory");
}

#endif
