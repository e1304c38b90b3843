/* SPDX-License-Identifier: Apache-2.0 */
/* What is used of C99's <string.h>, which bare-metal compilers need not have. */
#ifndef BT_STRING_H
#define BT_STRING_H

#include <stddef.h>

#ifdef __cplusplus
#include <string.h>
#else
void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);
#endif

/* memcpy of a few bytes of known number, as one load: compilers without a C library behind them call
 * memcpy even for two bytes. */
#ifdef __GNUC__
#define bt_copy __builtin_memcpy
#else
#define bt_copy memcpy
#endif

#endif
