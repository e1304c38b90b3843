/* SPDX-License-Identifier: Apache-2.0 */
/* A stand-in for the SDK of GAP9 on a computer: the functions that an emitted project calls, with
 * POSIX threads as the workers. It checks the order of what is called, and ends with 99 where it is
 * wrong. */
#ifndef PMSIS_H
#define PMSIS_H

#include <stdint.h>

#define PI_L1 __attribute__((section(".data_l1")))

enum { PI_FREQ_DOMAIN_FC,
       PI_FREQ_DOMAIN_CL };
enum { PI_PMU_VOLTAGE_DOMAIN_CHIP };

struct pi_device {
  int open;
};
enum { PI_CLUSTER_MASTER_CORE_ICACHE_ENABLE = 1,
       PI_CLUSTER_ICACHE_PREFETCH_ENABLE = 2,
       PI_CLUSTER_ICACHE_ENABLE = 4 };
struct pi_cluster_conf {
  int begun, id, icache_conf;
  uint32_t cc_stack_size;
};
struct pi_cluster_task {
  void (*entry)(void *);
  void *arg;
  int stack_size, slave_stack_size;
};

void pi_cluster_conf_init(struct pi_cluster_conf *conf);
void pi_open_from_conf(struct pi_device *device, void *conf);
int pi_cluster_open(struct pi_device *device);
int pi_cluster_close(struct pi_device *device);
struct pi_cluster_task *pi_cluster_task(struct pi_cluster_task *task, void (*entry)(void *), void *arg);
int pi_cluster_send_task_to_cl(struct pi_device *device, struct pi_cluster_task *task);
int32_t pi_freq_set(int domain, uint32_t hertz);
uint32_t pi_freq_get(int domain);
int pi_pmu_voltage_set(int domain, uint32_t millivolts);
void pmsis_exit(int status);

uint32_t pi_core_id(void);
void pi_cl_team_fork(int workers, void (*entry)(void *), void *arg);
void pi_cl_team_barrier(void);

#endif
