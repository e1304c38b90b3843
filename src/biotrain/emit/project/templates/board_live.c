/* SPDX-License-Identifier: Apache-2.0 */
/* Fill this in: converter, flash and display of your board. As it is, it links and does nothing. */
#include "board.h"

void start_converter(void)
{
}

int wait_for_frame(void)
{
  return 0; /* sleep until an interrupt, return 1 */
}

int32_t asked_label(void)
{
  return -1;
}

int calibration_wanted(void)
{
  return 0;
}

void predicted(int32_t label, const float *logits)
{
  (void)label, (void)logits;
}

void calibrated(uint32_t kept, float before, float best)
{
  (void)kept, (void)before, (void)best;
}

void refused(bt_status status)
{
  (void)status;
}

bool flash_erase(void *context, uint32_t page)
{
  (void)context, (void)page;
  return false;
}

bool flash_program(void *context, uint32_t address, const void *data, size_t bytes)
{
  (void)context, (void)address, (void)data, (void)bytes;
  return false;
}

bool flash_read(void *context, uint32_t address, void *data, size_t bytes)
{
  (void)context, (void)address, (void)data, (void)bytes;
  return false;
}
