/* SPDX-License-Identifier: Apache-2.0 */
#include "pmsis.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { CONTROLLER = 8,
       MOST = 8 };

static int is_open, on_cluster, forked;
static uint32_t clock_hz = 50000000, millivolts = 800;
static __thread uint32_t core = CONTROLLER + 1; /* the fabric controller */
static pthread_barrier_t barrier;

static void wrong(const char *what)
{
  fprintf(stderr, "%s\n", what);
  _Exit(99);
}

static void allowed(void)
{
  if (clock_hz > 240000000 && millivolts < 800)
    wrong("a clock above 240 MHz at less than 0.80 V");
}

void pi_cluster_conf_init(struct pi_cluster_conf *conf) { conf->id = 9; }

void pi_open_from_conf(struct pi_device *device, void *conf)
{
  if (((struct pi_cluster_conf *)conf)->id != 9)
    wrong("a configuration that was not begun");
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
  (void)domain;
  if (!is_open)
    wrong("the clock of a cluster that is off");
  clock_hz = hertz;
  allowed();
  return 0;
}

uint32_t pi_freq_get(int domain)
{
  (void)domain;
  return clock_hz;
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
  printf("forked %d at %u Hz, %u mV\n", forked, (unsigned)clock_hz, (unsigned)millivolts);
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
