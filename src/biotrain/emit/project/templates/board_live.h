/* SPDX-License-Identifier: Apache-2.0 */
/* What main.c asks of the board, and what the board calls. */
#ifndef BOARD_H
#define BOARD_H

#include "live.h"

/* In main.c: call it with one sample of every channel, from the converter's interrupt. */
void on_frame(const bt_raw *frame);

void start_converter(void);
/* Sleeps until an interrupt; 0: there are no more frames. */
int wait_for_frame(void);
/* What the person has been asked to do now: a class, or -1. Called from the interrupt. */
int32_t asked_label(void);
/* 1: the person asks for a calibration. */
int calibration_wanted(void);
/* What the network says of the newest window: a class, and BT_OUTPUTS logits. */
void predicted(int32_t label, const float *logits);
/* A calibration ended: whether its weights are kept; share of the held-back windows that are right. */
void calibrated(uint32_t kept, float before, float best);
/* A window or a call was refused; bt_status_text(status) says why. */
void refused(bt_status status);

/* Flash of BT_LIVE_PAGES pages of BT_LIVE_PAGE_BYTES; bt_flash.h says what is asked of it. */
bool flash_erase(void *context, uint32_t page);
bool flash_program(void *context, uint32_t address, const void *data, size_t bytes);
bool flash_read(void *context, uint32_t address, void *data, size_t bytes);

#endif
