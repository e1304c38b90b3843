/* SPDX-License-Identifier: Apache-2.0 */
/* Start of every core of the cluster: a stack of its own, FPU on; core 0 fills .data and clears
 * .bss and calls `main`, the others call `bt_worker_entry`. Both are weak: by default all meet at
 * the barrier and call `bt_cluster_main`. A core ends with what its function returns. */
#include "bt_cluster.h"

/* From the linker script. */
extern uint32_t bt_data_load[], bt_data_begin[], bt_data_end[], bt_bss_begin[], bt_bss_end[];

int main(void);
int bt_worker_entry(int worker);
void Reset_Handler(void);
void bt_worker_start(void);

__attribute__((naked, noreturn, section(".vectors"))) void Reset_Handler(void)
{
  __asm__ volatile(".option push\n"
                   ".option norelax\n"
                   "li t0, 0x2000\n" /* mstatus.FS: initial */
                   "csrs mstatus, t0\n"
                   "csrr a0, mhartid\n"
                   "bnez a0, 1f\n"
                   "la sp, bt_first_stack\n"
                   "j bt_start\n"
                   "1: la t1, bt_worker_start\n"
                   "jr t1\n"
                   ".option pop\n");
}

/* A core other than 0: its number in a0, no stack. */
__attribute__((naked, noreturn, weak)) void bt_worker_start(void)
{
  __asm__ volatile(".option push\n"
                   ".option norelax\n"
                   "la sp, bt_first_stack\n"
                   "la t1, bt_stack_stride\n"
                   "mul t1, t1, a0\n"
                   "add sp, sp, t1\n"
                   "j bt_worker\n"
                   ".option pop\n");
}

__attribute__((noreturn, used)) static void bt_start(void) __asm__("bt_start");
__attribute__((noreturn, used)) static void bt_worker(int worker) __asm__("bt_worker");

static void bt_start(void)
{
  const uint32_t *from = bt_data_load;
  for (uint32_t *to = bt_data_begin; to < bt_data_end; to++, from++)
    *(volatile uint32_t *)to = *from;
  for (uint32_t *to = bt_bss_begin; to < bt_bss_end; to++)
    *(volatile uint32_t *)to = 0; /* volatile: no call of memset or memcpy */
  bt_cluster_end(main());
}

static void bt_worker(int worker)
{
  bt_cluster_end(bt_worker_entry(worker));
}

__attribute__((weak)) int bt_cluster_main(int worker)
{
  (void)worker;
  return 0;
}

__attribute__((weak)) int main(void)
{
  bt_cluster_barrier();
  return bt_cluster_main(0);
}

__attribute__((weak)) int bt_worker_entry(int worker)
{
  bt_cluster_barrier();
  return bt_cluster_main(worker);
}
