/* SPDX-License-Identifier: Apache-2.0 */
/* The fabric controller: it sets clock and voltage, starts the cluster and waits for its program.
 * BT_STACK_BYTES, of each worker, and BT_CONTROLLER_STACK_BYTES come from CMakeLists.txt. */
#include "pmsis.h"
#include "program.h"

/* Operating points of the vendor's guide: hertz of fabric controller and cluster, millivolts. */
#define BT_370MHZ_800MV 370000000, 800
#define BT_240MHZ_650MV 240000000, 650
#ifndef BT_POINT
#define BT_POINT BT_370MHZ_800MV
#endif

/* A higher clock needs its voltage first, a lower one allows less afterwards. 0: done. */
static int run_at(int hertz, int millivolts)
{
  const int rising = hertz > (int)pi_freq_get(PI_FREQ_DOMAIN_CL);
  int refused = 0;
  if (rising)
    refused |= pi_pmu_voltage_set(PI_PMU_VOLTAGE_DOMAIN_CHIP, millivolts) != 0;
  refused |= pi_freq_set(PI_FREQ_DOMAIN_FC, hertz) != 0;
  refused |= pi_freq_set(PI_FREQ_DOMAIN_CL, hertz) != 0;
  if (!rising)
    refused |= pi_pmu_voltage_set(PI_PMU_VOLTAGE_DOMAIN_CHIP, millivolts) != 0;
  return refused;
}

/* On the cluster's controller. */
static void on_cluster(void *ended)
{
  *(int *)ended = program();
}

int main(void)
{
  struct pi_device cluster;
  struct pi_cluster_conf conf;
  struct pi_cluster_task task;
  static int ended; /* in L2, which both sides see */
  pi_cluster_conf_init(&conf);
  conf.id = 0;
  conf.cc_stack_size = BT_CONTROLLER_STACK_BYTES;
  conf.icache_conf = PI_CLUSTER_MASTER_CORE_ICACHE_ENABLE | PI_CLUSTER_ICACHE_PREFETCH_ENABLE |
                     PI_CLUSTER_ICACHE_ENABLE;
  pi_open_from_conf(&cluster, &conf);
  if (pi_cluster_open(&cluster))
    pmsis_exit(-1);
  if (run_at(BT_POINT)) /* the cluster must be on: its clock is set too */
    pmsis_exit(-2);
  pi_cluster_task(&task, on_cluster, &ended);
  task.stack_size = BT_CONTROLLER_STACK_BYTES;
  task.slave_stack_size = BT_STACK_BYTES;
  pi_cluster_send_task_to_cl(&cluster, &task);
  pi_cluster_close(&cluster);
  pmsis_exit(ended);
  return ended;
}
