/* SPDX-License-Identifier: Apache-2.0 */
/* Records, predicts, learns and survives. The board's part is in board.c. */
#include "board.h"

#define CYCLES 100000u /* of work between two looks at the rest of the firmware */

static bt_live live; /* all the RAM: model, ring, store, session */

void on_frame(const bt_raw *frame)
{
  bt_live_push(&live, frame, asked_label());
}

int main(void)
{
  const bt_flash flash = {0, BT_LIVE_PAGE_BYTES, BT_LIVE_UNIT_BYTES,
                          flash_erase, flash_program, flash_read};
  const bt_status status = bt_live_start(&live, &flash);
  if (status != BT_OK)
    refused(status);
  start_converter();
  for (;;) {
    if (calibration_wanted() && bt_live_calibrate(&live) == BT_ERR_LIVE_FEW)
      refused(BT_ERR_LIVE_FEW);
    switch (bt_live_work(&live, CYCLES)) {
    case BT_LIVE_PREDICTED:
      predicted(live.predicted, live.logits);
      break;
    case BT_LIVE_REFUSED:
    case BT_LIVE_FAILED:
      refused((bt_status)live.status);
      break;
    case BT_LIVE_CALIBRATED:
      calibrated(live.kept, live.before, live.best);
      break;
    case BT_LIVE_DRIFTED: /* predictions have become unsure: ask for labels, then calibrate */
    case BT_LIVE_MORE:    /* radio, display */
      break;
    case BT_LIVE_IDLE:
      if (!wait_for_frame())
        return 0;
    }
  }
}
