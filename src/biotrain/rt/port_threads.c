/* SPDX-License-Identifier: Apache-2.0 */
/* The port layer on POSIX threads: the threads are made once and sleep between calls. */
#if !defined _POSIX_C_SOURCE || _POSIX_C_SOURCE < 200112L
#undef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200112L
#endif
#include "bt_port.h"

#if BT_PORT == BT_PORT_THREADS

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* Looks at a word before a thread sleeps: some 50 us. */
#ifndef BT_SPINS
#define BT_SPINS 3000
#endif

enum { BT_MOST_WORKERS = 64 };

static struct {
  pthread_mutex_t calls;  /* one call at a time */
  pthread_mutex_t mutex;  /* of the two conditions below */
  pthread_cond_t changed; /* the phase of the barrier, for threads that sleep in it */
  int threads;            /* made so far, the caller not counted */
  int workers;            /* of the call under way */
  int spins;              /* 0 where there are more workers than cores */
  bt_work work;
  void *call;
  uint32_t arrived;  /* workers at the barrier */
  uint32_t phase;    /* barriers that are over */
  uint32_t sleepers; /* workers that wait for `changed` */
  uint32_t turn;     /* calls that began */
  uint32_t done;     /* threads that have ended the call under way */
} team = {.calls = PTHREAD_MUTEX_INITIALIZER,
          .mutex = PTHREAD_MUTEX_INITIALIZER,
          .changed = PTHREAD_COND_INITIALIZER};

static void bt_relax(void)
{
#if defined __x86_64__ || defined __i386__
  __builtin_ia32_pause();
#elif defined __aarch64__
  __asm__ volatile("yield");
#endif
}

/* Waits until *word is no longer `old`: looks for a while, then sleeps. */
static void bt_wait_for(uint32_t *word, uint32_t old)
{
  const int spins = __atomic_load_n(&team.spins, __ATOMIC_RELAXED);
  for (int i = 0; i < spins; i++) {
    if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != old)
      return;
    bt_relax();
  }
  pthread_mutex_lock(&team.mutex);
  __atomic_add_fetch(&team.sleepers, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == old)
    pthread_cond_wait(&team.changed, &team.mutex);
  __atomic_sub_fetch(&team.sleepers, 1, __ATOMIC_SEQ_CST);
  pthread_mutex_unlock(&team.mutex);
}

/* One more in *word, and those that sleep look at it. */
static void bt_advance(uint32_t *word)
{
  __atomic_add_fetch(word, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&team.sleepers, __ATOMIC_SEQ_CST)) {
    pthread_mutex_lock(&team.mutex);
    pthread_cond_broadcast(&team.changed);
    pthread_mutex_unlock(&team.mutex);
  }
}

void bt_barrier(void)
{
  const uint32_t phase = __atomic_load_n(&team.phase, __ATOMIC_RELAXED);
  if (__atomic_add_fetch(&team.arrived, 1, __ATOMIC_ACQ_REL) == (uint32_t)team.workers) {
    __atomic_store_n(&team.arrived, 0, __ATOMIC_RELAXED);
    bt_advance(&team.phase);
  } else
    bt_wait_for(&team.phase, phase);
}

typedef struct bt_start {
  int worker;
  uint32_t turn; /* calls that had begun when the thread was made */
} bt_start;

static bt_start starts[BT_MOST_WORKERS];

/* A process that is a copy of another has none of its threads: new ones start. */
static void bt_forked(void)
{
  pthread_mutex_init(&team.calls, NULL);
  pthread_mutex_init(&team.mutex, NULL);
  pthread_cond_init(&team.changed, NULL);
  team.threads = 0;
  team.arrived = team.sleepers = team.done = 0;
}

static void *bt_serve(void *of)
{
  const bt_start *start = of;
  uint32_t turn = start->turn;
  for (;;) {
    bt_wait_for(&team.turn, turn);
    turn++;
    if (start->worker < team.workers)
      team.work(team.call, start->worker);
    bt_advance(&team.done);
  }
  return NULL;
}

void bt_team_run(int workers, bt_work work, void *call)
{
  pthread_mutex_lock(&team.calls);
  if (workers > BT_MOST_WORKERS)
    abort();
  for (; team.threads < workers - 1; team.threads++) {
    pthread_t thread;
    if (team.threads == 0 && pthread_atfork(NULL, NULL, bt_forked) != 0)
      abort();
    bt_start *start = &starts[team.threads];
    *start = (bt_start){team.threads + 1, team.turn};
    if (pthread_create(&thread, NULL, bt_serve, start) != 0)
      abort(); /* no call can be done without its workers */
    pthread_detach(thread);
  }
  const int spins = workers <= sysconf(_SC_NPROCESSORS_ONLN) ? BT_SPINS : 0;
  __atomic_store_n(&team.spins, spins, __ATOMIC_RELAXED); /* threads that sleep may look at it */
  team.workers = workers;
  team.work = work;
  team.call = call;
  bt_advance(&team.turn);
  work(call, 0);
  const uint32_t threads = (uint32_t)team.threads; /* those without work too: none is late */
  for (uint32_t done; (done = __atomic_load_n(&team.done, __ATOMIC_ACQUIRE)) != threads;)
    bt_wait_for(&team.done, done);
  __atomic_store_n(&team.done, 0, __ATOMIC_RELAXED);
  pthread_mutex_unlock(&team.calls);
}

#endif
