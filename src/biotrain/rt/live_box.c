/* SPDX-License-Identifier: Apache-2.0 */
/* The live firmware behind a mailbox, over simulated flash: on this machine (BT_LIVE_HOSTED: a
 * library) or in an emulator. Not part of a package. Write the arguments, then the command; in
 * firmware it is done when command is 0. */
#include "live.h"
#include "bt_layout.h"
#include "bt_string.h"
#include "sim_flash.h"

typedef enum bt_box_command {
  BOX_NOTHING = 0,
  BOX_START, /* power comes */
  BOX_PLAY,  /* count frames; each is pushed, then there are `cycles` to work; events */
  BOX_PUSH,  /* count frames */
  BOX_GAP,   /* samples are missing before the next frame */
  BOX_WORK,  /* cycles; one event */
  BOX_CALIBRATE,
  BOX_CANCEL,
  BOX_BACK,
  BOX_FACTORY,
  BOX_FORGET,
  BOX_CRC32  /* result: CRC-32 of the weights */
} bt_box_command;

typedef struct bt_box_event {
  uint32_t event; /* a bt_live_event */
  uint32_t window;
  int32_t predicted;
  int32_t label;
  uint32_t status;
  uint32_t channel;
  uint32_t kept;
  uint32_t frame; /* frames that BOX_PLAY had pushed */
  float logits[BT_OUTPUTS];
} bt_box_event;

typedef struct bt_live_box {
  volatile uint32_t command;
  uint32_t result; /* a bt_status, or how many events, or a CRC-32 */
  uint32_t count;
  uint32_t cycles;
  uint32_t most;   /* events that `events` has space for */
  uint32_t done;   /* frames */
  const bt_raw *frames;
  const int32_t *labels;
  bt_box_event *events;
  sim_flash flash;
  bt_live live;
} bt_live_box;

#include "live_box_layout.h" /* asserts where these members lie */

size_t bt_live_box_bytes(void);
void bt_live_do(bt_live_box *box);

size_t bt_live_box_bytes(void)
{
  return sizeof(bt_live_box);
}

static void bt_box_add(bt_live_box *box, bt_live_event event)
{
  const bt_live *const l = &box->live;
  bt_box_event *const e = &box->events[box->result];
  e->event = (uint32_t)event;
  e->window = l->window;
  e->predicted = l->predicted;
  e->label = l->label;
  e->status = l->status;
  e->channel = l->channel;
  e->kept = l->kept;
  e->frame = box->done;
  memcpy(e->logits, l->logits, sizeof l->logits);
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
      bt_box_add(box, event);
      left = l->left;
    }
    if (box->flash.off != 0u)
      break;
  }
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
  case BOX_GAP:
    bt_live_gap(l);
    break;
  case BOX_WORK:
    box->result = 0;
    box->done = 0;
    bt_box_add(box, bt_live_work(l, box->cycles));
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
  case BOX_CRC32:
    box->result = bt_weights_crc32(&l->model);
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
