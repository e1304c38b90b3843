/* SPDX-License-Identifier: Apache-2.0 */
/* What the sources of the live firmware call in each other; not for programs. */
#ifndef BT_LIVE_PARTS_H
#define BT_LIVE_PARTS_H

#include "live.h"

/* live_learn.c */

/* One slice of the calibration; true: the cycles are used up. */
bool bt_live_learn(bt_live *l, uint32_t *left, bt_live_event *event);
/* The window that was read, or half read, is not in RAM any more. */
void bt_live_unread(bt_live *l);
/* Marks the windows of the calibration in the store; returns how many there are. */
uint32_t bt_live_freeze(bt_live *l);
/* After an epoch and its evaluation: the next epoch, or the end. */
void bt_live_onward(bt_live *l);
/* Largest probability of the logits; *loss: minus the logarithm of that of `label`. */
float bt_live_softmax(const float *logits, int32_t label, int32_t *best, float *loss);

/* live_sessions.c */

/* The two slots of sessions (weights) or of work (everything); both with the record. */
bt_slots bt_live_slots(bt_live *l, bool work);
/* Loads the weights of the newest session, or the factory's; forgets what is half done. */
void bt_live_reload(bt_live *l);
/* Begins to write a checkpoint: BT_TASK_GOOD or BT_TASK_WORK. */
void bt_live_save(bt_live *l, uint32_t task);
/* The next slice of that checkpoint. */
bt_live_event bt_live_write(bt_live *l);
/* Resumes a calibration that a power cut has ended, from its last checkpoint. */
void bt_live_resume(bt_live *l);

#endif
