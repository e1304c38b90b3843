/* SPDX-License-Identifier: Apache-2.0 */
/* What main.c asks of the board. A window is BT_INPUT_ROWS rows of BT_INPUT_TIMES samples. */
#ifndef BOARD_H
#define BOARD_H

#include "model.h"

@STORED@/* Waits for the next window and writes it to x; 0: there are no more. */
int next_window(@SAMPLE@ *x);
/* What the network says of it. */
void predicted(const float *logits);
/* A call was refused; bt_status_text(status) says why. */
void refused(bt_status status);

#endif
