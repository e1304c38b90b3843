/* SPDX-License-Identifier: Apache-2.0 */
/* The port layer on the harts of a RISC-V cluster: hart 0 runs main, the others wait at the barrier for
 * work. The barrier is a word of the cluster: a load from it returns when every hart has loaded it. */
#include "bt_port.h"

#if BT_PORT == BT_PORT_BARE

#ifndef BT_BARRIER_ADDRESS
#define BT_BARRIER_ADDRESS 0x1020421Cu /* event unit of PULP's clusters: barrier trigger and wait */
#endif

static struct {
  bt_work work;
  void *call;
} job;

void bt_worker_entry(int worker);

/* A function of its own, so that an emulator without the barrier stops a hart here. */
__attribute__((noinline)) void bt_barrier(void)
{
  __asm__ volatile("" ::: "memory");
  (void)*(const volatile uint32_t *)BT_BARRIER_ADDRESS;
#ifdef BT_BARRIER_MARK /* a word of the simulated cluster that records who waited at which barrier */
  uint32_t hart;
  __asm__ volatile("csrr %0, mhartid" : "=r"(hart));
  if (hart == 0)
    *(volatile uint32_t *)BT_BARRIER_MARK = (uint32_t)(uintptr_t)__builtin_return_address(0);
#endif
  __asm__ volatile("" ::: "memory");
}

/* Where a hart from 1 on begins, on a stack that the start-up gave it. */
__attribute__((used, noinline)) void bt_worker_entry(int worker)
{
  for (;;) {
    bt_barrier(); /* until there is work */
    job.work(job.call, worker);
    bt_barrier();
  }
}

void bt_team_run(int workers, bt_work work, void *call)
{
  (void)workers; /* all harts take part in the barrier */
  job.work = work;
  job.call = call;
  bt_barrier();
  work(call, 0);
  bt_barrier();
}

#endif
