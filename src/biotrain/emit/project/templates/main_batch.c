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

/* Window `index` of the batch; each is asked for several times, and written to `place`. */
static bt_status window(void *context, uint32_t index, float *place, const float **x, @ASKED@)
{
  const uint32_t *const first = context;
@HELD@  *x = place;
  stored_window(*first + index, place, @PASSED@);
@POINTED@  return BT_OK;
}

static void calibrate(uint32_t count)
{
  if (!done(bt_begin(&model, EPOCHS * ((count + BT_BATCH - 1) / BT_BATCH), RATE)))
    return;
  for (uint32_t epoch = 0; epoch < EPOCHS; epoch++)
    for (uint32_t first = 0; first < count; first += BT_BATCH) {
      const bt_source source = {window, &first};
      const uint32_t rest = count - first;
      float loss;
      if (done(bt_train_batch(&model, &source, rest < BT_BATCH ? rest : BT_BATCH, &loss)))
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
