/* SPDX-License-Identifier: Apache-2.0 */
/* A mailbox: who can read and write the memory of the core (an emulator, a debug probe) trains
 * the model through it. Write the arguments, then the command; it is done when command is 0. */
#ifndef BT_SESSION_H
#define BT_SESSION_H

#include "model.h"

typedef enum bt_command {
  BT_DO_NOTHING = 0,
  BT_DO_INIT,           /* factory weights */
  BT_DO_BEGIN,          /* count: steps, value: learning rate */
  BT_DO_TRAIN,          /* the window at bt_window(), label or target; value: its loss */
  BT_DO_STEP,           /* one optimizer step */
  BT_DO_DROP,           /* forgets the group */
  BT_DO_PREDICT,        /* the window at bt_window(); values: logits */
  BT_DO_CRC32,          /* count: CRC-32 of the weights */
  BT_DO_GROUP,          /* count: windows of the next group */
  BT_DO_SAVE,           /* slot, count: its bytes; then count: those of the checkpoint */
  BT_DO_LOAD,           /* slot, count: its bytes */
  BT_DO_FEATURES,       /* the window at bt_window(); slot: where its features go */
  BT_DO_TRAIN_FEATURES, /* slot: where they are; label or target; value: the loss */
  BT_DO_TRAIN_BATCH,    /* count: windows; value: their mean loss */
  BT_DO_WINDOW,         /* the window asked for is at slot (where that is not 0), its label here */
  BT_DO_ADABN           /* count: windows of the running statistics; asks for them */
} bt_command;

typedef struct bt_session {
  volatile uint32_t command; /* a bt_command; 0: waiting */
  volatile uint32_t asked;   /* 1: waiting for window `index` of a batch, then BT_DO_WINDOW */
  uint32_t status;           /* a bt_status, of the last command */
  uint32_t index;
  uint32_t count;
  int32_t label;
  float value;
  void *slot;                /* where a command's data lies */
  float values[BT_OUTPUTS];  /* logits, or the target of a window */
  bt_model model;
} bt_session;

extern bt_session session;

#endif
