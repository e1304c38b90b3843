/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors in 16 bits: IEEE half precision (fp16) and the upper half of float32 (bf16). Integer work
 * on the bits, rounded to nearest even: the same on every target, with or without such a type. What
 * fp16 does not hold becomes infinity, which the check of loss and gradients refuses. */
#ifndef BT_HALF_H
#define BT_HALF_H

#include "bt_kernel.h"

typedef struct bt_half {
  int rows, times;
} bt_half;

/* A writable window of 16-bit numbers; like those of bt_in16 they are copied byte by byte. */
typedef struct bt_out16 {
  int16_t *data;
  int stride, r0, t0;
} bt_out16;

BT_KERNEL bt_in16 bt_read16_at(const int16_t *data, int stride, int r0, int t0)
{
  const bt_in16 v = {data, stride, r0, t0};
  return v;
}

BT_KERNEL bt_out16 bt_write16_at(int16_t *data, int stride, int r0, int t0)
{
  const bt_out16 v = {data, stride, r0, t0};
  return v;
}

BT_KERNEL bt_out16 bt_write16(int16_t *data, int times) { return bt_write16_at(data, times, 0, 0); }

/* 1 sign, 5 exponent and 10 fraction bits. Below 2^-14 steps of 2^-24; from 65520 on infinity; NaN
 * is one pattern. */
BT_KERNEL uint16_t bt_fp16_of(float x)
{
  const uint32_t bits = bt_bits(x), sign = bits >> 16 & 0x8000u, a = bits & 0x7fffffffu;
  uint32_t y;
  if (a >= 0x47800000u) {
    y = a > 0x7f800000u ? 0x7e00u : 0x7c00u;
  } else if (a >= 0x38800000u) {
    y = (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13;
  } else if (a >= 0x33000000u) {
    const uint32_t shift = 126u - (a >> 23), m = (a & 0x7fffffu) | 0x800000u;
    y = (m + (1u << (shift - 1u)) - 1u + (m >> shift & 1u)) >> shift;
  } else {
    y = 0u;
  }
  return (uint16_t)(sign | y);
}

BT_KERNEL float bt_of_fp16(uint16_t h)
{
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, a = h & 0x7fffu;
  if (a < 0x400u)
    return bt_from_bits(sign | bt_bits((float)a * 0x1p-24f)); /* exact */
  return bt_from_bits(sign | ((a << 13) + (a < 0x7c00u ? 0x38000000u : 0x70000000u)));
}

/* The sign, exponent and first 7 fraction bits of float32; NaN is one pattern. */
BT_KERNEL uint16_t bt_bf16_of(float x)
{
  const uint32_t bits = bt_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return 0x7fc0u;
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

BT_KERNEL float bt_of_bf16(uint16_t h) { return bt_from_bits((uint32_t)h << 16); }

/* y = x in 16 bits, for every element of the box. */
#define BT_TO_HALF(convert)                                                                        \
  do {                                                                                             \
    (void)g;                                                                                       \
    for (int r = box.r0; r < box.r1; r++) {                                                        \
      const float *from = bt_at(x, r, box.t0);                                                     \
      int16_t *to = y.data + (ptrdiff_t)(r - y.r0) * y.stride + (box.t0 - y.t0);                   \
      for (int t = 0; t < box.t1 - box.t0; t++) {                                                  \
        const uint16_t h = convert(from[t]);                                                       \
        bt_copy(to + t, &h, sizeof h);                                                             \
      }                                                                                            \
    }                                                                                              \
  } while (0)

/* y = the value of x. */
#define BT_FROM_HALF(convert)                                                                      \
  do {                                                                                             \
    (void)g;                                                                                       \
    for (int r = box.r0; r < box.r1; r++) {                                                        \
      const int16_t *from = bt_at16(x, r, box.t0);                                                 \
      float *to = bt_to(y, r, box.t0);                                                             \
      for (int t = 0; t < box.t1 - box.t0; t++) {                                                  \
        uint16_t h;                                                                                \
        bt_copy(&h, from + t, sizeof h);                                                           \
        to[t] = convert(h);                                                                        \
      }                                                                                            \
    }                                                                                              \
  } while (0)

BT_KERNEL void bt_to_fp16(bt_half g, bt_box box, bt_in x, bt_out16 y) { BT_TO_HALF(bt_fp16_of); }
BT_KERNEL void bt_to_bf16(bt_half g, bt_box box, bt_in x, bt_out16 y) { BT_TO_HALF(bt_bf16_of); }
BT_KERNEL void bt_from_fp16(bt_half g, bt_box box, bt_in16 x, bt_out y)
{
  BT_FROM_HALF(bt_of_fp16);
}
BT_KERNEL void bt_from_bf16(bt_half g, bt_box box, bt_in16 x, bt_out y)
{
  BT_FROM_HALF(bt_of_bf16);
}

#endif
