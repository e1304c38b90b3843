/* SPDX-License-Identifier: Apache-2.0 */
/* Barriers that steer how a compiler orders instructions and holds addresses, and loops that it
 * must unroll, for tiles of results in scalar registers. A barrier is no instruction and changes
 * no bit; where the compiler or the core needs none, it is nothing.
 *
 *   BT_COMPUTE_...  these values are computed before whatever uses them
 *   BT_ORDER_...    these values are computed before all later loads and stores
 *   BT_..._POINTER  the compiler no longer knows how this address was computed */
#ifndef BT_BARRIER_H
#define BT_BARRIER_H

#include "bt_kernel.h"

/* 1: the products of four results are computed before their four sums. On Cortex-M4 and M33 an
 * add waits for the product right before it, and compilers put it there. Cortex-M7 has a
 * multiply-add with two roundings, whose product and sum must stand together. */
#if !BT_FUSED && defined(__GNUC__) && defined(__thumb__) && BT_SCALAR_TILES && \
    !(defined(__ARM_ARCH_7EM__) && defined(__ARM_FPV5__))
#define BT_PRODUCTS_FIRST 1
#define BT_COMPUTE_TWO(a, b) __asm__("" : "+t"(a), "+t"(b))
#define BT_COMPUTE_THREE(a, b, c) __asm__("" : "+t"(a), "+t"(b), "+t"(c))
#define BT_COMPUTE_FOUR(a, b, c, d) __asm__("" : "+t"(a), "+t"(b), "+t"(c), "+t"(d))
/* Loads one behind the other take one cycle each, and two where other instructions stand
 * between. */
#define BT_COMPUTE_FIVE(a, b, c, d, e) __asm__("" : "+t"(a), "+t"(b), "+t"(c), "+t"(d), "+t"(e))
#define BT_ORDER_VALUE(a) __asm__ volatile("" : "+t"(a) : : "memory")
#define BT_ORDER_TWO(v) __asm__ volatile("" : "+t"((v)[0]), "+t"((v)[1]) : : "memory")
#define BT_ORDER_THREE(v)                                                                          \
  __asm__ volatile("" : "+t"((v)[0]), "+t"((v)[1]), "+t"((v)[2]) : : "memory")
#define BT_ORDER_FOUR(v)                                                                           \
  __asm__ volatile("" : "+t"((v)[0]), "+t"((v)[1]), "+t"((v)[2]), "+t"((v)[3]) : : "memory")
#define BT_ORDER_NINE(a, v)                                                                        \
  __asm__ volatile("" : "+t"(a), "+t"((v)[0]), "+t"((v)[1]), "+t"((v)[2]), "+t"((v)[3]),           \
                   "+t"((v)[4]), "+t"((v)[5]), "+t"((v)[6]), "+t"((v)[7]) : : "memory")
#else
#define BT_PRODUCTS_FIRST 0
#define BT_COMPUTE_FOUR(a, b, c, d) ((void)0)
#define BT_COMPUTE_FIVE(a, b, c, d, e) ((void)0)
#define BT_ORDER_VALUE(a) ((void)0)
#define BT_ORDER_FOUR(v) ((void)0)
#define BT_ORDER_NINE(a, v) ((void)0)
#endif

/* BT_COMPUTE_SUMS: compilers would finish sums one by one, each multiply-add waiting for the one
 * before. */
#if BT_PRODUCTS_FIRST
#define BT_COMPUTE_SUMS(s) BT_ORDER_FOUR(s)
#elif defined(__GNUC__) && BT_FLOATS_IN_INTEGERS
#define BT_COMPUTE_SUMS(s) __asm__("" : "+r"((s)[0]), "+r"((s)[1]), "+r"((s)[2]), "+r"((s)[3]))
#elif defined(__GNUC__) && defined(__riscv_flen)
#define BT_COMPUTE_SUMS(s) __asm__("" : "+f"((s)[0]), "+f"((s)[1]), "+f"((s)[2]), "+f"((s)[3]))
#else
#define BT_COMPUTE_SUMS(s) ((void)(s))
#endif

/* BT_ORDER_MEMORY: loads and stores stay on their side of it; compilers would move loads ahead
 * until registers run out. BT_OPAQUE_POINTER: the pointer advances by itself; compilers would
 * add a base and an index for each load. BT_IS_CONSTANT: the compiler knows the number, so that
 * one body is compiled for it. BT_UNROLLED: a loop of up to 12 turns whose index is a constant
 * in each, so that the elements of small arrays are registers. BT_FALLTHROUGH: the next case
 * follows on purpose. */
#ifdef __GNUC__
#define BT_FALLTHROUGH __attribute__((fallthrough))
#define BT_ORDER_MEMORY __asm__ volatile("" ::: "memory")
#define BT_OPAQUE_POINTER(a) __asm__("" : "+r"(a))
#define BT_OPAQUE_POINTERS(a, b, c, d) __asm__("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d))
#define BT_IS_CONSTANT(n) __builtin_constant_p(n)
#else
#define BT_FALLTHROUGH ((void)0)
#define BT_ORDER_MEMORY ((void)0)
#define BT_OPAQUE_POINTER(a) ((void)0)
#define BT_OPAQUE_POINTERS(a, b, c, d) ((void)0)
#define BT_IS_CONSTANT(n) 0
#endif
/* gcc has the pragma since 8; before, -O3 unrolls loops of few turns unasked. */
#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 8)
#define BT_UNROLLED(j, n) _Pragma("GCC unroll 12") for (int j = 0; j < (n); j++)
#else
#define BT_UNROLLED(j, n) for (int j = 0; j < (n); j++)
#endif

/* Thumb loads reach 1020 bytes from a pointer, and compilers make a pointer for each load
 * further from where a tensor begins: there pointers stand near what they read and advance with
 * it. */
#ifdef __thumb__
#define BT_SHORT_OFFSETS 1
#define BT_NEAR_POINTER(a) BT_OPAQUE_POINTER(a)
#else
#define BT_SHORT_OFFSETS 0
#define BT_NEAR_POINTER(a) ((void)0)
#endif

/* Before a loop over the few terms of a tile, where registers are left for several turns of it: four
 * copies of its body (BT_UNROLL_BY_FOUR is for loops over elements), or eight; before one over tiles
 * that are short. On RISC-V and Cortex-M7; Cortex-M4 would spill. */
#define BT_UNROLL_TERMS
#define BT_UNROLL_ALL_TERMS
#define BT_UNROLL_TILES
#if BT_SCALAR_TILES && defined(__clang__) && !defined(__OPTIMIZE_SIZE__)
#if defined(__riscv) || (defined(__ARM_ARCH_7EM__) && defined(__ARM_FPV5__))
#undef BT_UNROLL_TERMS
#undef BT_UNROLL_ALL_TERMS
#undef BT_UNROLL_TILES
#ifdef __riscv
#define BT_UNROLL_TERMS _Pragma("GCC unroll 4")
#else
#define BT_UNROLL_TERMS _Pragma("GCC unroll 8")
#endif
#define BT_UNROLL_ALL_TERMS _Pragma("GCC unroll 8")
#define BT_UNROLL_TILES _Pragma("GCC unroll 4")
#endif
#endif

#endif
