/* SPDX-License-Identifier: Apache-2.0 */
/* Vectors of floats, where the compiler's own are too short or stay in memory: AVX-512 and AVX2.
 *
 * A lane is an output and never a part of a sum, so the bits are those of one output at a time.
 * BT_VECTOR is the number of lanes; 0: there are none of these, and kernels keep their plain
 * loops. */
#ifndef BT_VECTOR_H
#define BT_VECTOR_H

#include "bt_kernel.h"

#ifndef BT_VECTOR
#if BT_SCALAR_TILES || !defined(__GNUC__)
#define BT_VECTOR 0
#elif defined(__AVX512F__)
#define BT_VECTOR 16
#elif defined(__AVX2__)
#define BT_VECTOR 8
#else
#define BT_VECTOR 0
#endif
#endif

#if BT_VECTOR

#include <immintrin.h>

/* Functions in vectors that are not inlined, so that they stand in the code once. They are the
 * same for every model, so that the host compiles them once for all: BT_VECTOR_LINKAGE is 0
 * where they are only declared, 2 where they are defined for others, 1 where they are static. */
#ifndef BT_VECTOR_LINKAGE
#define BT_VECTOR_LINKAGE 1
#endif
#if BT_VECTOR_LINKAGE == 1
#define BT_VECTOR_OUTLINED static __attribute__((noinline, unused))
#else
#define BT_VECTOR_OUTLINED extern
#endif

/* What they are made of: arrays of vectors are registers only where every index is a constant. */
#define BT_VECTOR_KERNEL static inline __attribute__((__always_inline__))
#define BT_VECTOR_UNROLL _Pragma("GCC unroll 16")

#endif

#if BT_VECTOR == 16

typedef __m512 bt_vec;
typedef __mmask16 bt_mask; /* one bit per lane */

BT_VECTOR_KERNEL bt_vec bt_vec_of(float x) { return _mm512_set1_ps(x); }
BT_VECTOR_KERNEL bt_vec bt_vec_at(const float *p) { return _mm512_loadu_ps(p); }
BT_VECTOR_KERNEL void bt_vec_to(float *p, bt_vec x) { _mm512_storeu_ps(p, x); }
BT_VECTOR_KERNEL bt_vec bt_vec_add(bt_vec x, bt_vec y) { return _mm512_add_ps(x, y); }

/* Lanes [lo, hi) of vectors that follow each other. */
BT_VECTOR_KERNEL void bt_vec_masks(bt_mask *to, const int vecs, int lo, int hi)
{
  for (int j = 0; j < vecs; j += 4) {
    const int a = bt_min(64, bt_max(lo - 16 * j, 0)), b = bt_min(64, bt_max(hi - 16 * j, 0));
    const uint64_t all = (b < 64 ? ((uint64_t)1 << b) - 1 : ~(uint64_t)0) &
                         (a < 64 ? ~(uint64_t)0 << a : 0);
    for (int i = j; i < j + 4 && i < vecs; i++)
      to[i] = (bt_mask)(all >> (16 * (i - j)) & 0xffffu);
  }
}

/* Some lanes of memory, 0 in the others: only these are touched. */
BT_VECTOR_KERNEL bt_vec bt_vec_at_masked(const float *p, bt_mask m) { return _mm512_maskz_loadu_ps(m, p); }
BT_VECTOR_KERNEL void bt_vec_to_masked(float *p, bt_vec x, bt_mask m) { _mm512_mask_storeu_ps(p, m, x); }
BT_VECTOR_KERNEL bt_vec bt_vec_fma(bt_vec w, bt_vec x, bt_vec s)
{
#if BT_FUSED
  return _mm512_fmadd_ps(w, x, s);
#else
  return _mm512_add_ps(_mm512_mul_ps(w, x), s);
#endif
}

/* s + w x in some lanes, s in the others. */
BT_VECTOR_KERNEL bt_vec bt_vec_fma_masked(bt_vec w, bt_vec x, bt_vec s, bt_mask m)
{
#if BT_FUSED
  return _mm512_mask3_fmadd_ps(w, x, s, m);
#else
  return _mm512_mask_add_ps(s, m, _mm512_mul_ps(w, x), s);
#endif
}

#elif BT_VECTOR == 8

typedef __m256 bt_vec;
typedef __m256i bt_mask;

BT_VECTOR_KERNEL bt_vec bt_vec_of(float x) { return _mm256_set1_ps(x); }
BT_VECTOR_KERNEL bt_vec bt_vec_at(const float *p) { return _mm256_loadu_ps(p); }
BT_VECTOR_KERNEL void bt_vec_to(float *p, bt_vec x) { _mm256_storeu_ps(p, x); }
BT_VECTOR_KERNEL bt_vec bt_vec_add(bt_vec x, bt_vec y) { return _mm256_add_ps(x, y); }

BT_VECTOR_KERNEL void bt_vec_masks(bt_mask *to, const int vecs, int lo, int hi)
{
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int j = 0; j < vecs; j++)
    to[j] = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(lo - 8 * j), lane),
                                _mm256_cmpgt_epi32(_mm256_set1_epi32(hi - 8 * j), lane));
}

BT_VECTOR_KERNEL bt_vec bt_vec_at_masked(const float *p, bt_mask m) { return _mm256_maskload_ps(p, m); }
BT_VECTOR_KERNEL void bt_vec_to_masked(float *p, bt_vec x, bt_mask m) { _mm256_maskstore_ps(p, m, x); }

BT_VECTOR_KERNEL bt_vec bt_vec_fma(bt_vec w, bt_vec x, bt_vec s)
{
#if BT_FUSED
  return _mm256_fmadd_ps(w, x, s);
#else
  return _mm256_add_ps(_mm256_mul_ps(w, x), s);
#endif
}

BT_VECTOR_KERNEL bt_vec bt_vec_fma_masked(bt_vec w, bt_vec x, bt_vec s, bt_mask m)
{
  return _mm256_blendv_ps(s, bt_vec_fma(w, x, s), _mm256_castsi256_ps(m));
}

#endif

#if BT_VECTOR

/* ---- BT_LANES running sums of a leaf, as in bt_kernel.h, of eight leaves at once ------------ */

typedef __m256 bt_eight;

BT_VECTOR_KERNEL bt_eight bt_eight_of(float x) { return _mm256_set1_ps(x); }
BT_VECTOR_KERNEL bt_eight bt_eight_at(const float *p) { return _mm256_loadu_ps(p); }
BT_VECTOR_KERNEL void bt_eight_to(float *p, bt_eight x) { _mm256_storeu_ps(p, x); }

BT_VECTOR_KERNEL bt_eight bt_eight_fma(bt_eight w, bt_eight x, bt_eight s)
{
#if BT_FUSED
  return _mm256_fmadd_ps(w, x, s);
#else
  return _mm256_add_ps(_mm256_mul_ps(w, x), s);
#endif
}

/* Lanes [0, n). */
BT_VECTOR_KERNEL __m256i bt_eight_mask(int n)
{
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first n lanes, in memory: whole vectors where it is all, for AMD takes a dozen cycles and
 * more for AVX2's stores of some lanes. */
BT_VECTOR_KERNEL bt_eight bt_eight_at_some(const float *p, int n)
{
  return n >= 8 ? bt_eight_at(p) : _mm256_maskload_ps(p, bt_eight_mask(n));
}

BT_VECTOR_KERNEL void bt_eight_to_some(float *p, bt_eight x, int n)
{
  if (n >= 8)
    bt_eight_to(p, x);
  else
#if BT_VECTOR == 16
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), _mm512_castps256_ps512(x));
#else
    _mm256_maskstore_ps(p, bt_eight_mask(n), x);
#endif
}

/* The samples of a leaf: four vectors, of which the last used one may have few lanes. */
typedef struct bt_eight_leaf {
  bt_eight x[BT_LEAF / BT_LANES];
} bt_eight_leaf;

/* n samples, 0 beyond them. */
BT_VECTOR_KERNEL bt_eight_leaf bt_eight_leaf_at(const float *p, int n)
{
  bt_eight_leaf leaf;
  BT_VECTOR_UNROLL for (int i = 0; i < BT_LEAF / BT_LANES; i++)
    leaf.x[i] = bt_eight_at_some(p + BT_LANES * i, n - BT_LANES * i);
  return leaf;
}

/* x - y of n samples, 0 beyond them. */
BT_VECTOR_KERNEL bt_eight_leaf bt_eight_less(bt_eight_leaf x, bt_eight y, int n)
{
  BT_VECTOR_UNROLL for (int i = 0; i < BT_LEAF / BT_LANES; i++) {
    const __m256 some = _mm256_castsi256_ps(bt_eight_mask(n - BT_LANES * i));
    const bt_eight less = _mm256_sub_ps(x.x[i], y);
    x.x[i] = n == BT_LEAF ? less : _mm256_and_ps(less, some);
  }
  return x;
}

/* The sum of products of the n samples of a leaf. */
BT_VECTOR_KERNEL bt_eight bt_eight_dot(bt_eight_leaf x, bt_eight_leaf y, int n)
{
  bt_eight lane = bt_eight_of(0.0f);
  BT_VECTOR_UNROLL for (int i = 0; i < BT_LEAF / BT_LANES; i++) {
    const bt_eight next = bt_eight_fma(x.x[i], y.x[i], lane);
    const __m256 some = _mm256_castsi256_ps(bt_eight_mask(n - BT_LANES * i));
    lane = n == BT_LEAF ? next : _mm256_blendv_ps(lane, next, some);
  }
  return lane;
}

/* The sum of the samples of a leaf; those beyond it are 0, which changes no sum that began with
 * 0. */
BT_VECTOR_KERNEL bt_eight bt_eight_sum(bt_eight_leaf x)
{
  bt_eight lane = bt_eight_of(0.0f);
  BT_VECTOR_UNROLL for (int i = 0; i < BT_LEAF / BT_LANES; i++)
    lane = _mm256_add_ps(lane, x.x[i]);
  return lane;
}

/* bt_fold of eight: lane j of the result is that of a[j]. */
BT_VECTOR_KERNEL bt_eight bt_eight_fold(const bt_eight *a)
{
  bt_eight half[4], quarter[2];
  BT_VECTOR_UNROLL for (int i = 0; i < 4; i++)
    half[i] = _mm256_add_ps(_mm256_permute2f128_ps(a[i], a[i + 4], 0x20),
                            _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  BT_VECTOR_UNROLL for (int i = 0; i < 2; i++)
    quarter[i] = _mm256_add_ps(_mm256_shuffle_ps(half[2 * i], half[2 * i + 1], 0x44),
                               _mm256_shuffle_ps(half[2 * i], half[2 * i + 1], 0xee));
  return _mm256_add_ps(_mm256_shuffle_ps(quarter[0], quarter[1], 0x88),
                       _mm256_shuffle_ps(quarter[0], quarter[1], 0xdd));
}

#if BT_VECTOR == 16

/* bt_eight_fold where the halves of a[j] belong to lanes 2 j and 2 j + 1. */
BT_VECTOR_KERNEL bt_eight bt_eight_fold_halves(const bt_vec *a)
{
  bt_vec half[2];
  BT_VECTOR_UNROLL for (int i = 0; i < 2; i++)
    half[i] = bt_vec_add(_mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0x88),
                         _mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0xdd));
  const bt_vec quarter = bt_vec_add(_mm512_shuffle_ps(half[0], half[1], 0x44),
                                    _mm512_shuffle_ps(half[0], half[1], 0xee));
  const bt_vec dots = bt_vec_add(_mm512_shuffle_ps(quarter, quarter, 0x88),
                                 _mm512_shuffle_ps(quarter, quarter, 0xdd));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
  return _mm512_castps512_ps256(_mm512_permutexvar_ps(order, dots));
}

#endif

/* Lane j: the folded sum of products of x[j] and y, of n samples. */
BT_VECTOR_KERNEL bt_eight bt_eight_dots(const bt_eight_leaf *x, bt_eight_leaf y, int n)
{
#if BT_VECTOR == 16
  if (n == BT_LEAF) {
    bt_vec both[4];
    BT_VECTOR_UNROLL for (int j = 0; j < 4; j++)
      both[j] = bt_vec_of(0.0f);
    BT_VECTOR_UNROLL for (int i = 0; i < BT_LEAF / BT_LANES; i++) {
      const bt_vec twice = _mm512_castpd_ps(_mm512_broadcast_f64x4(_mm256_castps_pd(y.x[i])));
      BT_VECTOR_UNROLL for (int j = 0; j < 4; j++) {
        const __m512d two = _mm512_insertf64x4(
            _mm512_castpd256_pd512(_mm256_castps_pd(x[2 * j].x[i])),
            _mm256_castps_pd(x[2 * j + 1].x[i]), 1);
        both[j] = bt_vec_fma(_mm512_castpd_ps(two), twice, both[j]);
      }
    }
    return bt_eight_fold_halves(both);
  }
#endif
  bt_eight lanes[8];
  BT_VECTOR_UNROLL for (int j = 0; j < 8; j++)
    lanes[j] = bt_eight_dot(x[j], y, n);
  return bt_eight_fold(lanes);
}

/* Samples p[j][0..3] of eight rows, turned: lane j of to[i] is p[j][i]. */
BT_VECTOR_KERNEL void bt_eight_turn(const float *const *p, bt_eight to[4])
{
  bt_eight row[4], pair[4];
  BT_VECTOR_UNROLL for (int i = 0; i < 4; i++)
    row[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p[i])), _mm_loadu_ps(p[i + 4]),
                                  1);
  BT_VECTOR_UNROLL for (int i = 0; i < 2; i++) {
    pair[2 * i] = _mm256_unpacklo_ps(row[2 * i], row[2 * i + 1]);
    pair[2 * i + 1] = _mm256_unpackhi_ps(row[2 * i], row[2 * i + 1]);
  }
  to[0] = _mm256_shuffle_ps(pair[0], pair[2], 0x44);
  to[1] = _mm256_shuffle_ps(pair[0], pair[2], 0xee);
  to[2] = _mm256_shuffle_ps(pair[1], pair[3], 0x44);
  to[3] = _mm256_shuffle_ps(pair[1], pair[3], 0xee);
}

#endif

#endif
