/* SPDX-License-Identifier: Apache-2.0 */
/* What live.c and live_learn.c have of each other; not for programs. */
#ifndef BT_LIVE_PARTS_H
#define BT_LIVE_PARTS_H

#include "live.h"

/* Weights of the newest session, or the factory's; forgets what is half done. */
void bt_live_reload(bt_live *l);
/* The window that was read, or half read, is not there any more. */
void bt_live_unread(bt_live *l);
/* A calibration that a power cut has ended goes on from its last checkpoint. */
void bt_live_resume(bt_live *l);
/* A piece of the calibration; true: the cycles are used up. */
bool bt_live_learn(bt_live *l, uint32_t *left, bt_live_event *event);
/* Largest probability of the logits; *loss: minus the logarithm of that of `label`. */
float bt_live_softmax(const float *logits, int32_t label, int32_t *best, float *loss);
bool bt_live_finite(const float *logits);

#endif
