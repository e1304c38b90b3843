/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front end: samples of the converter in, windows for the network out. Include "front.h", which
 * BioTrain emits with the design (channels, sections, window, hop); it includes this.
 *
 *     static bt_front front;
 *     bt_front_init(&front);
 *     if (bt_front_push(&front, sample)) {       per sample: BT_FRONT_CHANS integers
 *         bt_front_window(&front, x);            [BT_FRONT_CHANS][BT_FRONT_TIMES]
 *     }
 *
 * Windows hold bt_front_sample: float, or int16_t where the design has a unit for it. Without
 * BT_FRONT_RING the newest window is kept by somebody else, who takes frames from bt_front_frame.
 *
 * Per channel: first sample subtracted, anti-alias sections, decimation, the other sections; then
 * the average of the channels subtracted, and physical units. The first sample (an electrode's
 * offset may be a thousand times the signal) is subtracted in integers: then rest is zero, and a
 * filter that starts at rest starts as scipy's does from sosfilt_zi times the first sample. Where
 * no section stops constants it is added again at the end.
 */
#ifndef BT_FRONT_H
#define BT_FRONT_H

#ifndef BT_FRONT_CHANS
#error "include front.h (emitted by biotrain.frontend), not bt_front.h"
#endif

#include "bt_biquad.h"
#include "bt_kernel.h"

#define BT_FRONT_STATES (2 * (BT_FRONT_FAST + BT_FRONT_SLOW))

#if BT_FRONT_INT16
typedef int16_t bt_front_sample;
#else
typedef float bt_front_sample;
#endif

typedef struct bt_front {
#if BT_FRONT_STATES > 0
  int64_t state[BT_FRONT_CHANS][BT_FRONT_STATES];
#endif
#if BT_FRONT_RUNNING
  /* Mean and variance so far, each with what its last addition lost to rounding. */
  float mean[BT_FRONT_CHANS][2];
  float variance[BT_FRONT_CHANS][2];
#endif
#if BT_FRONT_RING
  bt_front_sample ring[BT_FRONT_CHANS][BT_FRONT_TIMES]; /* the newest samples */
#endif
  int32_t first[BT_FRONT_CHANS]; /* the first sample of all */
  uint32_t begun;   /* 1 after the first sample */
  uint32_t phase;   /* samples until the next that decimation keeps */
  uint32_t at;      /* where in the ring the next sample goes: the oldest */
  uint32_t wait;    /* samples (after decimation) until the next window */
  uint32_t memory;  /* samples in the running mean, up to BT_FRONT_MEMORY */
  uint32_t clipped; /* values that an int16_t could not hold */
} bt_front;

/* As before the first sample; after a gap in the signal too. */
static inline void bt_front_init(bt_front *f)
{
  memset(f, 0, sizeof *f);
  f->wait = BT_FRONT_TIMES;
}

#if BT_FRONT_RUNNING
/* Adds x to sum[0], keeping in sum[1] what rounding loses. */
BT_KERNEL void bt_front_add(float sum[2], float x)
{
  const float more = x + sum[1];
  const float total = sum[0] + more;
  sum[1] = more - (total - sum[0]);
  sum[0] = total;
}

/* (x - mean) / deviation of the samples so far: all alike up to BT_FRONT_MEMORY of them, then
 * forgetting exponentially; r = 1 / samples. A deviation below one step of the converter counts as
 * one. */
BT_KERNEL float bt_front_standard(bt_front *f, int c, float x, float r)
{
  const float kept = 1.0f - r;
  const float d = (x - f->mean[c][0]) - f->mean[c][1];
  bt_front_add(f->mean[c], r * d);
  bt_front_add(f->variance[c], r * bt_fma(kept * d, d, -f->variance[c][0]));
  return kept * d / bt_maxf(bt_sqrtf(bt_maxf(f->variance[c][0], 0.0f)), BT_FRONT_STEP);
}
#endif

#if BT_FRONT_INT16
/* The nearest integer, halves to even; beyond 16 bits the largest that they hold. */
BT_KERNEL int16_t bt_front_int16(bt_front *f, float x)
{
  const float whole = 12582912.0f; /* 1.5 2^23: floats beside it are integers */
  const float held = bt_maxf(bt_minf(x, 32767.0f), -32768.0f);
  f->clipped += held != x;
  return (int16_t)((held + whole) - whole);
}
#endif

/* Makes the frame of a sample that decimation keeps. */
BT_KERNEL void bt_front_finish(bt_front *f, const int64_t y[BT_FRONT_CHANS],
                               bt_front_sample frame[BT_FRONT_CHANS])
{
  int64_t average = 0;
#if BT_FRONT_AVERAGE
  for (int c = 0; c < BT_FRONT_CHANS; c++)
    average += y[c];
  average /= BT_FRONT_CHANS;
#endif
#if BT_FRONT_RUNNING
  f->memory += f->memory < BT_FRONT_MEMORY;
  const float r = 1.0f / (float)f->memory;
#endif
  for (int c = 0; c < BT_FRONT_CHANS; c++) {
    float x = (float)(y[c] - average) * BT_FRONT_UNIT;
#if BT_FRONT_RUNNING
    x = bt_front_standard(f, c, x, r);
#endif
#if BT_FRONT_INT16 && BT_FRONT_RUNNING
    x *= BT_FRONT_STEPS;
#endif
#if BT_FRONT_INT16
    frame[c] = bt_front_int16(f, x);
#else
    frame[c] = x;
#endif
  }
  (void)f;
}

/* One sample of every channel, int32_t (converters of 24 bits too); 1: it is kept, and frame is
 * what becomes of it. */
static inline int bt_front_frame(bt_front *f, const int32_t sample[BT_FRONT_CHANS],
                                 bt_front_sample frame[BT_FRONT_CHANS])
{
  if (!f->begun)
    for (int c = 0; c < BT_FRONT_CHANS; c++)
      f->first[c] = sample[c];
  f->begun = 1;
  const uint32_t keep = f->phase == 0;
  f->phase = keep ? BT_FRONT_DECIMATE - 1 : f->phase - 1;
  int64_t y[BT_FRONT_CHANS];
  for (int c = 0; c < BT_FRONT_CHANS; c++) {
    const int64_t point = (int64_t)1 << BT_FRONT_POINT;
    y[c] = ((int64_t)sample[c] - f->first[c]) * point;
#if BT_FRONT_FAST > 0
    y[c] = bt_front_fast(f->state[c], y[c]);
#endif
    if (keep) {
#if BT_FRONT_SLOW > 0
      y[c] = bt_front_slow(f->state[c] + 2 * BT_FRONT_FAST, y[c]);
#endif
#if BT_FRONT_OFFSET
      y[c] += f->first[c] * point;
#endif
    }
  }
  if (keep)
    bt_front_finish(f, y, frame);
  return (int)keep;
}

#if BT_FRONT_RING
/* The same, into the ring; 1: a new window is there. */
static inline int bt_front_push(bt_front *f, const int32_t sample[BT_FRONT_CHANS])
{
  bt_front_sample frame[BT_FRONT_CHANS];
  if (!bt_front_frame(f, sample, frame))
    return 0;
  for (int c = 0; c < BT_FRONT_CHANS; c++)
    f->ring[c][f->at] = frame[c];
  f->at = f->at + 1 == BT_FRONT_TIMES ? 0 : f->at + 1;
  if (--f->wait != 0)
    return 0;
  f->wait = BT_FRONT_HOP;
  return 1;
}

/* The same for a converter of up to 16 bits. */
static inline int bt_front_push16(bt_front *f, const int16_t sample[BT_FRONT_CHANS])
{
  int32_t wide[BT_FRONT_CHANS];
  for (int c = 0; c < BT_FRONT_CHANS; c++)
    wide[c] = sample[c];
  return bt_front_push(f, wide);
}

#if BT_FRONT_WHOLE
/* Mean 0 and deviation 1 for one channel of a window, at least one step of the converter. */
BT_KERNEL void bt_front_whiten(float x[BT_FRONT_TIMES])
{
  float sum = 0.0f, square = 0.0f;
  for (int t = BT_FRONT_TIMES - 1; t >= 0; t--)
    x[t] -= x[0]; /* an offset first: it would cost digits in the sum */
  for (int t = 0; t < BT_FRONT_TIMES; t += BT_LEAF)
    sum += bt_leaf_sum(x + t, bt_min(BT_LEAF, BT_FRONT_TIMES - t));
  const float mean = sum / (float)BT_FRONT_TIMES;
  for (int t = 0; t < BT_FRONT_TIMES; t += BT_LEAF)
    square += bt_leaf_square(x + t, mean, bt_min(BT_LEAF, BT_FRONT_TIMES - t));
  const float deviation = bt_maxf(bt_sqrtf(square / (float)BT_FRONT_TIMES), BT_FRONT_STEP);
  for (int t = 0; t < BT_FRONT_TIMES; t++)
    x[t] = (x[t] - mean) / deviation;
}
#endif

/* Copies the newest window: x is [BT_FRONT_CHANS][BT_FRONT_TIMES], oldest sample first. */
static inline void bt_front_window(const bt_front *f, bt_front_sample *x)
{
  for (int c = 0; c < BT_FRONT_CHANS; c++, x += BT_FRONT_TIMES) {
    const uint32_t old = BT_FRONT_TIMES - f->at;
    memcpy(x, f->ring[c] + f->at, old * sizeof *x);
    memcpy(x + old, f->ring[c], f->at * sizeof *x);
#if BT_FRONT_WHOLE
    bt_front_whiten(x);
#endif
  }
}
#endif /* BT_FRONT_RING */

#endif
