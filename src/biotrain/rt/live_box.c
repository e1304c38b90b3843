/* SPDX-License-Identifier: Apache-2.0 */
/* A device that lives, behind a mailbox, over flash that is simulated: on this machine
 * (BT_LIVE_HOSTED: a library) or in an emulator. Not part of a package. Write the arguments, then the
 * command; in firmware it is done when command is 0. */
#include "live.h"
#include "bt_string.h"
#include "sim_flash.h"

typedef enum bt_box_command {
  BOX_NOTHING,
  BOX_START,     /* power comes */
  BOX_PLAY,      /* count frames; each is pushed, then there are `cycles` to work; events */
  BOX_PUSH,      /* count frames */
  BOX_WORK,      /* cycles; one event */
  BOX_CALIBRATE,
  BOX_CANCEL,
  BOX_BACK,
  BOX_FACTORY,
  BOX_FORGET,
  BOX_SET,       /* setting number `count` becomes `cycles` (its bits) */
  BOX_REPORT
} bt_box_command;

#define BOX_WORDS 80
#define BOX_EVENT 8 /* words of an event; its logits follow */

typedef struct bt_live_box {
  volatile uint32_t command;
  uint32_t result;   /* a bt_status, or how many events */
  uint32_t count;
  uint32_t cycles;
  uint32_t most;     /* events that there is room for */
  uint32_t done;     /* frames */
  uint32_t words[BOX_WORDS];
  const bt_raw *frames;
  const int32_t *labels;
  uint32_t *events;
  sim_flash flash;
  bt_live live;
} bt_live_box;

size_t bt_live_box_bytes(void);
void bt_live_do(bt_live_box *box);

size_t bt_live_box_bytes(void)
{
  return sizeof(bt_live_box);
}

static uint32_t bt_box_bits(float x)
{
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static void bt_box_event(bt_live_box *box, bt_live_event event)
{
  const bt_live *const l = &box->live;
  uint32_t *const e = box->events + box->result * (BOX_EVENT + BT_OUTPUTS);
  e[0] = (uint32_t)event;
  e[1] = l->window;
  e[2] = (uint32_t)l->predicted;
  e[3] = (uint32_t)l->label;
  e[4] = l->status;
  e[5] = l->channel;
  e[6] = l->kept;
  e[7] = box->done;
  memcpy(e + BOX_EVENT, l->logits, sizeof l->logits);
  box->result++;
}

static void bt_box_play(bt_live_box *box)
{
  bt_live *const l = &box->live;
  box->result = 0;
  for (box->done = 0; box->done < box->count && box->result + 8u < box->most; box->done++) {
    bt_live_push(l, box->frames + (size_t)box->done * BT_LIVE_CHANS, box->labels[box->done]);
    uint32_t left = box->cycles;
    while (left > 0u && box->result < box->most && box->flash.off == 0u) {
      const bt_live_event event = bt_live_work(l, left);
      if (event == BT_LIVE_IDLE || event == BT_LIVE_MORE)
        break;
      bt_box_event(box, event);
      left = l->left;
    }
    if (box->flash.off != 0u)
      break;
  }
}

static void bt_box_set(bt_live *l, uint32_t which, uint32_t bits)
{
  uint32_t *const numbers[] = {&l->epochs, &l->patience,  &l->least,
                               &l->seed,   &l->automatic, &l->guards};
  float *const floats[] = {&l->rate, &l->drift};
  if (which < 6u)
    *numbers[which] = bits;
  else if (which < 8u)
    memcpy(floats[which - 6u], &bits, sizeof bits);
}

static void bt_box_report(bt_live_box *box)
{
  const bt_live *const l = &box->live;
  uint32_t *const w = box->words;
  const uint64_t model = (uint64_t)(uintptr_t)&l->model;
  const uint32_t first[] = {(uint32_t)(model & 0xffffffffu), (uint32_t)(model >> 32),
                            bt_weights_crc32(&l->model), l->mode, l->task, l->at, l->status,
                            l->kept, bt_box_bits(l->before), bt_box_bits(l->best),
                            bt_box_bits(l->confidence), l->store.count, l->store.capacity, l->store_ok,
                            l->lost, l->pushed - l->taken, l->store.number, l->model.progress.steps,
                            (uint32_t)((const char *)&l->pushed - (const char *)box),
                            (uint32_t)((const char *)&l->taken - (const char *)box)};
  w[42] = (uint32_t)((const char *)&l->task - (const char *)box);
  memcpy(w, first, sizeof first);
  memcpy(w + 20, &l->counters, sizeof l->counters);
  memcpy(w + 44, &l->record, sizeof l->record);
}

void bt_live_do(bt_live_box *box)
{
  bt_live *const l = &box->live;
  switch ((bt_box_command)box->command) {
  case BOX_START: {
    const bt_flash driver = sim_driver(&box->flash);
    box->result = (uint32_t)bt_live_start(l, &driver);
    break;
  }
  case BOX_PLAY:
    bt_box_play(box);
    break;
  case BOX_PUSH:
    for (box->done = 0; box->done < box->count; box->done++)
      bt_live_push(l, box->frames + (size_t)box->done * BT_LIVE_CHANS, box->labels[box->done]);
    break;
  case BOX_WORK:
    box->result = 0;
    box->done = 0;
    bt_box_event(box, bt_live_work(l, box->cycles));
    break;
  case BOX_CALIBRATE:
    box->result = (uint32_t)bt_live_calibrate(l);
    break;
  case BOX_CANCEL:
    box->result = (uint32_t)bt_live_cancel(l);
    break;
  case BOX_BACK:
    box->result = (uint32_t)bt_live_back(l);
    break;
  case BOX_FACTORY:
    box->result = (uint32_t)bt_live_factory(l);
    break;
  case BOX_FORGET:
    box->result = (uint32_t)bt_live_forget(l);
    break;
  case BOX_SET:
    bt_box_set(l, box->count, box->cycles);
    break;
  case BOX_REPORT:
    bt_box_report(box);
    break;
  case BOX_NOTHING:
    break;
  }
}

#ifndef BT_LIVE_HOSTED

bt_live_box live_box;

/* Where an emulator stops the core. */
__attribute__((noinline)) void bt_idle(void);

void bt_idle(void)
{
  __asm__ volatile("" ::: "memory");
}

int main(void)
{
  for (;;) {
    live_box.command = BOX_NOTHING;
    while (live_box.command == BOX_NOTHING)
      bt_idle();
    bt_live_do(&live_box);
  }
}

#endif
