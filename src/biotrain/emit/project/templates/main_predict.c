/* SPDX-License-Identifier: Apache-2.0 */
/* Predictions; this model does not train. The board's part is in board.c. */
#include "board.h"

static bt_model model; /* all the RAM that the network needs */

int main(void)
{
  float logits[BT_OUTPUTS];
  bt_init(&model);
  while (next_window(bt_window(&model))) {
    const bt_status status = bt_predict(&model, bt_window(&model), logits);
    if (status == BT_OK)
      predicted(logits);
    else
      refused(status);
  }
  return 0;
}
