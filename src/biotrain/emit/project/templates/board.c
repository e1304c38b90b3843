/* SPDX-License-Identifier: Apache-2.0 */
/* Fill this in: storage, converter and display of your board. As it is, it links and does nothing. */
#include "board.h"

@STORED@int next_window(@SAMPLE@ *x)
{
  (void)x; /* wait for BT_INPUT_TIMES new samples of every channel, write them, return 1 */
  return 0;
}

void predicted(const float *logits)
{
  (void)logits;
}

void refused(bt_status status)
{
  (void)status;
}
