/* SPDX-License-Identifier: Apache-2.0 */
/* memcpy, memmove and memset for a compiler that comes without a C library. Weak: a library's own
 * win. The empty asm keeps the compiler from making a loop into a call of itself. */
#include <stddef.h>
#include <stdint.h>

#define BT_WEAK __attribute__((weak))
#define BT_KEEP __asm__ volatile("" ::: "memory")

typedef uint32_t __attribute__((may_alias)) bt_word;

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);

/* Whether both are words. */
static int bt_words(uintptr_t a, uintptr_t b)
{
  return ((a | b) & 3u) == 0;
}

BT_WEAK void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
  return memmove(to, from, n);
}

BT_WEAK void *memmove(void *to, const void *from, size_t n)
{
  unsigned char *t = to;
  const unsigned char *f = from;
  if ((uintptr_t)t - (uintptr_t)f >= n) { /* below, or apart: upwards */
    if (bt_words((uintptr_t)t, (uintptr_t)f))
      for (; n >= 4; n -= 4, t += 4, f += 4) {
        *(bt_word *)(void *)t = *(const bt_word *)(const void *)f;
        BT_KEEP;
      }
    for (; n > 0; n--) {
      *t++ = *f++;
      BT_KEEP;
    }
    return to;
  }
  for (t += n, f += n; n > 0; n--) {
    *--t = *--f;
    BT_KEEP;
  }
  return to;
}

BT_WEAK void *memset(void *to, int value, size_t n)
{
  unsigned char *t = to;
  const uint32_t byte = (unsigned char)value;
  if (bt_words((uintptr_t)t, 0))
    for (; n >= 4; n -= 4, t += 4) {
      *(bt_word *)(void *)t = byte * 0x01010101u;
      BT_KEEP;
    }
  for (; n > 0; n--) {
    *t++ = (unsigned char)byte;
    BT_KEEP;
  }
  return to;
}
