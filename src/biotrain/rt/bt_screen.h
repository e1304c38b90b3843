/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Artefacts: a window whose power in a channel is far above that of the windows before it. The
 * estimate is robust and needs no label: the median of the logarithm of the power and the median
 * absolute deviation from it, both of a histogram per channel, of half octaves. All in integers, the
 * same decision on every core.
 *
 * A channel takes BT_SCREEN_LEVELS bytes however many windows come. The histogram holds the newest
 * ones, some BT_SCREEN_MOST: where there are more, all counts are halved, so that it follows a signal
 * that has changed for good. Artefacts are counted in it too; half of the windows would have to be
 * artefacts to move the median to them.
 */
#ifndef BT_SCREEN_H
#define BT_SCREEN_H

#include <stdbool.h>
#include <stdint.h>

#define BT_SCREEN_LEVELS 128 /* half octaves of the power */
#define BT_SCREEN_LEAST 8u   /* windows before the first one is judged */
#define BT_SCREEN_MOST 254u  /* windows in a histogram */

/* Half octaves of times^2 variances of a channel, at most 65536 samples: 0 .. 127. */
static inline uint32_t bt_screen_level(const int16_t *x, uint32_t times)
{
  int64_t sum = 0, squares = 0;
  for (uint32_t t = 0; t < times; t++) {
    sum += x[t];
    squares += (int32_t)x[t] * x[t];
  }
  const uint64_t power = (uint64_t)times * (uint64_t)squares - (uint64_t)(sum * sum);
  if (power == 0u)
    return 0;
  uint32_t octave = 0;
  while (octave < 63u && power >> (octave + 1u) != 0u)
    octave++;
  const uint64_t top = octave > 15u ? power >> (octave - 15u) : power << (15u - octave);
  return 2u * octave + (top * top >= (uint64_t)1 << 31 ? 1u : 0u);
}

/* Whether a level is above the median of `windows` by more than factor / 256 deviations. */
static inline bool bt_screen_above(const uint8_t counts[BT_SCREEN_LEVELS], uint32_t windows,
                                   uint32_t level, uint32_t factor)
{
  uint32_t median = 0, found = counts[0];
  while (2u * found < windows)
    found += counts[++median];
  if (level <= median)
    return false;
  uint32_t deviation = 0;
  for (found = counts[median]; 2u * found < windows;) {
    deviation++;
    found += deviation <= median ? counts[median - deviation] : 0u;
    found += median + deviation < BT_SCREEN_LEVELS ? counts[median + deviation] : 0u;
  }
  deviation = deviation > 0u ? deviation : 1u;
  return (level - median) * 256u > factor * deviation;
}

/* Judges a window by those before it, in one channel, and counts it: true: an artefact. */
static inline bool bt_screen_judge(uint8_t counts[BT_SCREEN_LEVELS], uint32_t level,
                                   uint32_t factor)
{
  uint32_t windows = 0;
  for (uint32_t i = 0; i < BT_SCREEN_LEVELS; i++)
    windows += counts[i];
  const bool artefact =
      windows >= BT_SCREEN_LEAST && bt_screen_above(counts, windows, level, factor);
  for (uint32_t i = 0; windows >= BT_SCREEN_MOST && i < BT_SCREEN_LEVELS; i++)
    counts[i] = (uint8_t)((counts[i] + 1u) / 2u);
  counts[level]++;
  return artefact;
}

#endif
