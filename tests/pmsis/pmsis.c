/* SPDX-License-Identifier: Apache-2.0 */
#include "pmsis.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { CONTROLLER = 8,
       MOST = 8 };

static int is_open, on_cluster, forked;
static uint32_t clock_hz[2] = {50000000, 50000000}, millivolts = 800; /* of each domain */
static __thread uint32_t core = CONTROLLER + 1; /* the fabric controller */
static pthread_barrier_t barrier;

static void wrong(const char *what)
{
  fprintf(stderr, "%s\n", what);
  _Exit(99);
}

static void allowed(void)
{
  if ((clock_hz[0] > 240000000 || clock_hz[1] > 240000000) && millivolts < 800)
    wrong("a clock above 240 MHz at less than 0.80 V");
}

void pi_cluster_conf_init(struct pi_cluster_conf *conf)
{
  *conf = (struct pi_cluster_conf){9, -1, 0, 0};
}

void pi_open_from_conf(struct pi_device *device, void *conf)
{
  const struct pi_cluster_conf *given = conf;
  if (given->begun != 9 || given->id != 0)
    wrong("a configuration that was not begun, or of another cluster");
  if (given->cc_stack_size < 1024 || given->icache_conf != 7)
    wrong("a controller without a stack, or a cluster without caches");
  device->open = 0;
}

int pi_cluster_open(struct pi_device *device)
{
  device->open = is_open = 1;
  return 0;
}

int pi_cluster_close(struct pi_device *device)
{
  device->open = is_open = 0;
  return 0;
}

struct pi_cluster_task *pi_cluster_task(struct pi_cluster_task *task, void (*entry)(void *), void *arg)
{
  *task = (struct pi_cluster_task){entry, arg, 0, 0};
  return task;
}

int pi_cluster_send_task_to_cl(struct pi_device *device, struct pi_cluster_task *task)
{
  if (!device->open || task->slave_stack_size < 1024 || task->stack_size < 1024)
    wrong("a cluster that is not open, or without stacks");
  core = CONTROLLER;
  on_cluster = 1;
  task->entry(task->arg);
  on_cluster = 0;
  core = CONTROLLER + 1;
  return 0;
}

int32_t pi_freq_set(int domain, uint32_t hertz)
{
  if (!is_open && domain == PI_FREQ_DOMAIN_CL)
    wrong("the clock of a cluster that is off");
  clock_hz[domain] = hertz;
  allowed();
  return 0;
}

uint32_t pi_freq_get(int domain)
{
  return clock_hz[domain];
}

int pi_pmu_voltage_set(int domain, uint32_t volts)
{
  (void)domain;
  millivolts = volts;
  allowed();
  return 0;
}

void pmsis_exit(int status)
{
  if (clock_hz[0] != clock_hz[1])
    wrong("two clocks");
  printf("forked %d at %u Hz, %u mV\n", forked, (unsigned)clock_hz[0], (unsigned)millivolts);
  exit(status);
}

uint32_t pi_core_id(void) { return core; }

struct start {
  void (*entry)(void *);
  void *arg;
  uint32_t core;
};

static void *begin(void *of)
{
  const struct start *start = of;
  core = start->core;
  start->entry(start->arg);
  return NULL;
}

void pi_cl_team_fork(int workers, void (*entry)(void *), void *arg)
{
  pthread_t threads[MOST];
  struct start starts[MOST];
  if (!on_cluster || core != CONTROLLER || workers > MOST)
    wrong("a fork that is not the controller's");
  forked++;
  pthread_barrier_init(&barrier, NULL, (unsigned)workers);
  for (int i = 0; i < workers; i++) {
    starts[i] = (struct start){entry, arg, (uint32_t)i};
    if (pthread_create(&threads[i], NULL, begin, &starts[i]))
      wrong("no thread");
  }
  for (int i = 0; i < workers; i++)
    pthread_join(threads[i], NULL);
  pthread_barrier_destroy(&barrier);
}

void pi_cl_team_barrier(void)
{
  if (core >= MOST)
    wrong("a barrier of the controller");
  pthread_barrier_wait(&barrier);
}
