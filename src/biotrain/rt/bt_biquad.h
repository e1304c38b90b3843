/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Second-order sections in 64-bit integers: no rounding that a float would show, the same bits on
 * every core, and no trouble at low cut-offs, where float32 biquads lose three digits.
 *
 * A section is written in d = z - 1 (so 2 + a1 and 1 + a1 + a2, which are tiny at low cut-offs, are
 * coefficients of their own and keep their digits):
 *
 *     H = (b2 d^2 + b1 d + b0) / (d^2 + a1 d + a0)
 *
 * and computed transposed, with b0 and a0 divided, and what one state hands to the other
 * multiplied, by 2^-link (about the square root of a0), so that both states have the size of the
 * signal.
 *
 * Signals and states are integers with a binary point that the compiler of the front end chooses:
 * at its choice no signal or state exceeds 2^60 and no product 2^62, whatever 32-bit samples come
 * in (bound: sum of the absolute impulse response), so nothing here can overflow.
 */
#ifndef BT_BIQUAD_H
#define BT_BIQUAD_H

#include <stdint.h>

#include "bt_math.h"

#if (-5 >> 1) != -3
#error "the front end needs arithmetic right shifts of negative numbers, as compilers have them"
#endif

/* The number m 2^-(32 + shift); m has 31 bits unless it is 0. */
typedef struct bt_coefficient {
  int32_t m;
  int32_t shift;
} bt_coefficient;

typedef struct bt_biquad {
  bt_coefficient b2, b1, b0, a1, a0;
  int32_t link;
} bt_biquad;

/* x / 2^shift to the nearest. */
BT_KERNEL int64_t bt_rounded(int64_t x, int32_t shift)
{
  return (x + (((int64_t)1 << shift) >> 1)) >> shift;
}

/* c x for |x| <= 2^60 and |c x| <= 2^62: the 96-bit product by halves of x. Coefficients are
 * constants, so the shifts are too. */
BT_KERNEL int64_t bt_scaled(int64_t x, bt_coefficient c)
{
  const int64_t low = ((int64_t)(x & 0xffffffff) * c.m) >> 32;
  const int64_t product = (int64_t)(int32_t)(x >> 32) * c.m + low;
  return c.shift < 0 ? product * ((int64_t)1 << -c.shift) : bt_rounded(product, c.shift);
}

/* One sample u through a section; w: its two states, 0 at rest. */
BT_KERNEL int64_t bt_biquad_step(const bt_biquad *c, int64_t w[2], int64_t u)
{
  const int64_t y = bt_scaled(u, c->b2) + w[0];
  w[0] += bt_scaled(u, c->b1) - bt_scaled(y, c->a1) + bt_rounded(w[1], c->link);
  w[1] += bt_scaled(u, c->b0) - bt_scaled(y, c->a0);
  return y;
}

#endif
