/* SPDX-License-Identifier: Apache-2.0 */
/* The port layer on the API of GAP9's vendor (PMSIS): the cluster's controller calls the functions of
 * the model, and its team of workers runs what they share. */
#include "bt_port.h"

#if BT_PORT == BT_PORT_PMSIS

#include "pmsis.h"

typedef struct bt_job {
  bt_work work;
  void *call;
} bt_job;

static void bt_enter(void *of)
{
  const bt_job *const job = of;
  job->work(job->call, (int)pi_core_id());
}

void bt_barrier(void)
{
  __asm__ volatile("" ::: "memory");
  pi_cl_team_barrier();
  __asm__ volatile("" ::: "memory");
}

void bt_team_run(int workers, bt_work work, void *call)
{
  static bt_job job; /* workers read it: not on the controller's stack */
  job = (bt_job){work, call};
  pi_cl_team_fork(workers, bt_enter, &job);
}

#endif
