/* SPDX-License-Identifier: Apache-2.0 */
/* One calibration with stored windows, then predictions. The board's part is in board.c. */
#include "board.h"

#define EPOCHS 10u
#define RATE @RATE@

static bt_model model; /* all the RAM that the network needs */

static int done(bt_status status)
{
  if (status != BT_OK)
    refused(status);
  return status == BT_OK;
}

static void calibrate(uint32_t count)
{
  @SAMPLE@ *const x = bt_window(&model); /* windows go straight to where they are read */
  if (!done(bt_begin(&model, EPOCHS * ((count + BT_GROUP - 1) / BT_GROUP), RATE)))
    return;
  for (uint32_t epoch = 0; epoch < EPOCHS; epoch++)
    for (uint32_t i = 0; i < count; i++) {
      @LABEL@;
      float loss;
@ANNOUNCE@      stored_window(i, x, @GIVE@);
      done(bt_train_sample(&model, x, label, &loss));
      if ((i + 1) % BT_GROUP == 0 || i + 1 == count)
        done(bt_step(&model));
    }
}

int main(void)
{
  float logits[BT_OUTPUTS];
  bt_init(&model);
  calibrate(stored_windows());
  while (next_window(bt_window(&model)))
    if (done(bt_predict(&model, bt_window(&model), logits)))
      predicted(logits);
  return 0;
}
