/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A shuffle without a table: place i of a permutation of 0 .. n-1 that a seed and an epoch choose.
 *
 * A Feistel network of six rounds permutes 0 .. 4^h - 1, the smallest such range that holds n; what
 * lands at n or above is sent through it again until it lands below (cycle walking: fewer than four
 * times on average). Integers only: the same order on every core and on the host.
 */
#ifndef BT_SHUFFLE_H
#define BT_SHUFFLE_H

#include <stdint.h>

/* Every bit of the result depends on every bit of x (multiplications by odd numbers,
 * xor-shifts). */
static inline uint32_t bt_mixed(uint32_t x)
{
  x = (x ^ x >> 16) * 0x9e3779b1u; /* 2^32 / golden ratio */
  x = (x ^ x >> 15) * 0xb7e15163u; /* 2^32 (e - 2), made odd */
  x = (x ^ x >> 14) * 0x243f6a89u; /* 2^32 (pi - 3), made odd */
  return x ^ x >> 16;
}

/* The window that stands at place i < n of this epoch; n up to 2^31. */
static inline uint32_t bt_shuffled(uint32_t n, uint32_t seed, uint32_t epoch, uint32_t i)
{
  uint32_t half = 1; /* bits of either half */
  while (half < 16u && n > (uint32_t)1 << 2u * half)
    half++;
  const uint32_t mask = ((uint32_t)1 << half) - 1u;
  const uint32_t key = bt_mixed(seed ^ bt_mixed(epoch + 0x9e3779b9u));
  do {
    uint32_t left = i >> half, right = i & mask;
    for (uint32_t round = 0; round < 6u; round++) {
      const uint32_t next = left ^ (bt_mixed(key + bt_mixed(right << 3 | round)) & mask);
      left = right;
      right = next;
    }
    i = left << half | right;
  } while (i >= n);
  return i;
}

#endif
