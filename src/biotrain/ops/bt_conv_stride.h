/* SPDX-License-Identifier: Apache-2.0 */
/* Tiles of results more than a sample apart, or of taps more than a weight apart, in scalar
 * registers: four or eight results, no tap of which is outside. Where they are up to four
 * samples apart, the samples that they share slide through registers; else each tap loads its
 * eight. */
#ifndef BT_CONV_STRIDE_H
#define BT_CONV_STRIDE_H

#include "bt_conv_block.h"

/* s[j] += sum_k w[k] x[k step + j gap] for `taps` taps. */
BT_KERNEL void bt_block_apart(float s[8], int taps, const float *w, const float *x, int step, int gap)
{
  int k = 0;
  BT_UNROLL_TERMS
  for (; k < taps / 4 * 4; k += 4)
    BT_UNROLLED(i, 4) {
      bt_block_tap_at(s, *w, x, gap);
      w++, x += step;
      BT_ORDER_MEMORY;
    }
  for (; k < taps; k++, w++, x += step)
    bt_block_tap_at(s, *w, x, gap);
}

/* s[j] += w v[(k + j gap) mod width] for n results, 4 or 8. */
BT_KERNEL void bt_block_shared_tap(float s[8], const float v[16], int n, int gap, int k, float w)
{
  const int width = n * gap;
  BT_UNROLLED(q, 2)
    if (4 * q < n)
      bt_block_four(s + 4 * q, w, v[(k + 4 * q * gap) % width], v[(k + (4 * q + 1) * gap) % width],
                    v[(k + (4 * q + 2) * gap) % width], v[(k + (4 * q + 3) * gap) % width]);
}

/* s[j] += sum_k w[k w_tap] x[(k + j gap) step] for `count` taps, at most n gap; sample m is in
 * v[m mod (n gap)], and the next one is loaded with each tap. */
BT_KERNEL void bt_block_shared_taps(float s[8], float v[16], int n, int gap, int count,
                                    const float *w, ptrdiff_t w_tap, const float *x, int step)
{
  const int width = n * gap, ahead = width - gap;
  BT_UNROLLED(p, 8) {
    const int k = 2 * p;
    if (k < count) {
      const float w0 = w[k * w_tap], w1 = k + 1 < count ? w[(k + 1) * w_tap] : 0.0f;
      v[(k + ahead) % width] = x[(k + ahead) * step];
      bt_block_shared_tap(s, v, n, gap, k, w0);
      if (k + 1 < count) {
        v[(k + 1 + ahead) % width] = x[(k + 1 + ahead) * step];
        bt_block_shared_tap(s, v, n, gap, k + 1, w1);
      }
      BT_ORDER_MEMORY;
    }
  }
}

/* s[j] += sum_k w[k w_tap] x[(k + j gap) step] for `taps` taps and n results, with n gap <= 16. */
BT_KERNEL void bt_block_shared(float s[8], int n, int gap, int taps, const float *w, ptrdiff_t w_tap,
                               const float *x, int step)
{
  const int width = n * gap;
  float v[16];
  BT_UNROLLED(h, 4)
    BT_UNROLLED(i, 4)
      if (4 * h + i < width - gap)
        v[4 * h + i] = x[(4 * h + i) * step];
  int left = taps;
  for (; left >= width; left -= width) {
    bt_block_shared_taps(s, v, n, gap, width, w, w_tap, x, step);
    w += width * w_tap;
    x += width * step;
  }
  bt_block_shared_taps(s, v, n, gap, left, w, w_tap, x, step);
}

#endif
