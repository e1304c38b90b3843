/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The numerics base: FP32 arithmetic whose bits are the same on every target.
 *
 * Every multiply-add of the package goes through bt_fma, which is fused (one rounding) or separate
 * (two roundings) as BT_FUSED says; nothing is left to the compiler's contraction. exp, log, tanh,
 * ... are straight-line code of adds, multiplies, one division and integer work on the bits, with
 * no table, no libm and no branch, so a compiler may vectorise a loop and the bits stay.
 *
 * Build with any standard from C99 on and with -fno-math-errno (sqrt becomes one instruction; clang
 * for RV32 needs it for fmaf too). gcc never contracts a*b+c with -std=cXX; with -std=gnuXX a pragma
 * below forbids it, which -ffp-contract=off -DBT_NO_CONTRACTION makes needless.
 *
 * Largest error of each function over all 2^32 arguments (cospi and rsqrt: one period), in ulp of
 * the result (subnormal results in their own ulp), against double precision:
 *
 *              exp  log   log1p tanh  sigmoid  erf   cospi  rsqrt
 *   separate   1.01 0.88  0.90  1.95  1.97     1.32  1.65   1.49
 *   fused      1.04 0.88  0.88  1.92  1.97     1.08  0.89   1.49
 *
 * A NaN result of these functions (rsqrt apart) is always 0x7fc00000, whatever the payload that came
 * in: cores differ in the NaN that they make, and bt_sqrtf and bt_rsqrtf leave it to them.
 *
 * Polynomials: minimax by Remez exchange in 40 digits with the weight named beside each; then the
 * coefficients were rounded to float one by one, the lowest first, the rest refitted each time
 * (minimax on the extrema or on 801 points). The error beside each is that of the rounded polynomial
 * in exact arithmetic, in units of 2^-24
 * (half an ulp at 1) of the function it serves.
 */
#ifndef BT_MATH_H
#define BT_MATH_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __FAST_MATH__
#error "BioTrain promises the same bits everywhere: build without -ffast-math (and -Ofast)"
#endif
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "BioTrain handles NaN and infinity: build without -ffinite-math-only"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && \
    __FLT_EVAL_METHOD__ != 16 /* 16: half precision stays half, float is float as with 0 */
#error "BioTrain needs float arithmetic in float: on 32-bit x86 build with -msse2 -mfpmath=sse"
#endif

/* 1: a multiply-add rounds once (fmaf); 0: it rounds twice. A mode of the whole package. */
#ifndef BT_FUSED
#define BT_FUSED 0
#endif

/* 1: floats lie in the registers of integers, as in GAP9, whose compiler has no word for it. */
#if defined(__riscv_zfinx) || defined(__GAP9__)
#define BT_FLOATS_IN_INTEGERS 1
#else
#define BT_FLOATS_IN_INTEGERS 0
#endif

#if BT_FUSED && !defined(__FP_FAST_FMAF) && !defined(__FMA__) && !defined(__ARM_FEATURE_FMA) && \
    !defined(__riscv_flen) && !BT_FLOATS_IN_INTEGERS
#error \
    "BT_FUSED=1 needs a fused multiply-add in hardware (x86: -mfma or -march=native); else BT_FUSED=0"
#endif

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__) && !defined(__STRICT_ANSI__) && !defined(BT_NO_CONTRACTION)
/* With -std=gnuXX, gcc fuses a*b+c unless it is told not to: for what follows, this tells it. */
#pragma GCC optimize("fp-contract=off")
#endif

/* BT_KERNEL: always inlined, so that constant dimensions specialise the body at every call.
 * BT_OUTLINED: never inlined, so that it stands in the code once and has registers of its own. */
#ifdef __GNUC__
#define BT_KERNEL static inline __attribute__((always_inline))
#define BT_OUTLINED static __attribute__((noinline, unused))
#else
#define BT_KERNEL static inline
#define BT_OUTLINED static
#endif

/* ---- bits ---------------------------------------------------------------------------------- */

/* The builtin, not <string.h>: with -ffreestanding gcc would make memcpy a call, and bare-metal
 * clang may have no such header. */
BT_KERNEL uint32_t bt_bits(float x)
{
  uint32_t u;
  __builtin_memcpy(&u, &x, sizeof u);
  return u;
}

BT_KERNEL float bt_from_bits(uint32_t u)
{
  float x;
  __builtin_memcpy(&x, &u, sizeof x);
  return x;
}

BT_KERNEL bool bt_isfinite(float x) { return (bt_bits(x) & 0x7f800000u) != 0x7f800000u; }

BT_KERNEL float bt_absf(float x) { return __builtin_fabsf(x); }

/* Where a and b are equal (-0, +0) or one is NaN, both give b, like the x86 instruction. */
BT_KERNEL float bt_maxf(float a, float b) { return a > b ? a : b; }
BT_KERNEL float bt_minf(float a, float b) { return a < b ? a : b; }

/* yes where the condition holds, else no: on the bits, so that no compiler makes it a branch. */
BT_KERNEL float bt_selectf(bool condition, float yes, float no)
{
  const uint32_t mask = 0u - (uint32_t)condition;
  return bt_from_bits((bt_bits(yes) & mask) | (bt_bits(no) & ~mask));
}

/* The smaller of |x| and a positive limit, compared as integers; NaN gives the limit. */
BT_KERNEL float bt_abs_at_most(float x, float limit)
{
  const uint32_t a = bt_bits(x) & 0x7fffffffu;
  const uint32_t l = bt_bits(limit);
  return bt_from_bits(a < l ? a : l);
}

/* x with the sign of s, for x >= 0. */
BT_KERNEL float bt_with_sign(float x, float s)
{
  return bt_from_bits(bt_bits(x) | (bt_bits(s) & 0x80000000u));
}

/* ---- arithmetic ---------------------------------------------------------------------------- */

/* a b + c, with one rounding or two. */
BT_KERNEL float bt_fma(float a, float b, float c)
{
#if BT_FUSED
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

BT_KERNEL float bt_sqrtf(float x) { return __builtin_sqrtf(x); }

/* 1 / sqrt(x), two correctly rounded operations. */
BT_KERNEL float bt_rsqrtf(float x) { return 1.0f / bt_sqrtf(x); }

/* ---- exp and what is built on it ------------------------------------------------------------ */

/* r with x = n ln 2 + r, |r| <= 0.3467, and *n_biased = n + 256, for |x| <= 177 (other finite x and
 * NaN: no meaning, no trap). Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the
 * low bits; ln 2 is split so that n * high is exact. */
BT_KERNEL float bt_exp_reduce(float x, uint32_t *n_biased)
{
  const float shift = 0x1.8p23f;
  const float t = x * 0x1.715476p+0f + shift;
  const float n = t - shift;
  *n_biased = bt_bits(t) - (bt_bits(shift) - 256u);
  return bt_fma(n, -0x1.7f7d1cp-20f, bt_fma(n, -0x1.62e4p-1f, x));
}

/* Q with exp(r) - 1 = r + r^2 Q(r) for |r| <= 0.3467: degree 4, weight r^2, error 0.06. */
BT_KERNEL float bt_exp_poly(float r)
{
  float q = 0x1.6d7a5ep-10f;
  q = bt_fma(q, r, 0x1.12399ap-7f);
  q = bt_fma(q, r, 0x1.5554c0p-5f);
  q = bt_fma(q, r, 0x1.555492p-3f);
  return bt_fma(q, r, 0.5f);
}

/* exp(x) for -104 <= x <= 89; 2^n is applied as two factors, so that a subnormal or infinite result
 * rounds once. */
BT_KERNEL float bt_exp_clamped(float x)
{
  uint32_t n;
  const float r = bt_exp_reduce(x, &n);
  const uint32_t half = n >> 1;
  const float low = bt_from_bits((half - 1u) << 23);
  const float high = bt_from_bits((n - half - 1u) << 23);
  return (1.0f + bt_fma(r * r, bt_exp_poly(r), r)) * low * high;
}

#define BT_NAN_BITS 0x7fc00000u

/* y, or the one NaN of this library where x is NaN. */
BT_KERNEL float bt_pass_nan(float x, float y)
{
  return bt_selectf((bt_bits(x) & 0x7fffffffu) > 0x7f800000u, bt_from_bits(BT_NAN_BITS), y);
}

/* e^x: infinity above 88.72284, subnormal below -87.33655, 0 below -103.9721. */
BT_KERNEL float bt_expf(float x)
{
  const float limit = bt_selectf((bt_bits(x) >> 31) != 0u, 104.0f, 89.0f);
  return bt_pass_nan(x, bt_exp_clamped(bt_with_sign(bt_abs_at_most(x, limit), x)));
}

/* 1 / (1 + e^-x), from e = e^-|x| so that it neither overflows nor loses the small tail: y = e/s or
 * 1/s with s = 1 + e, then y less y/s times what s lost in rounding (1/s is 1 - y or y). */
BT_KERNEL float bt_sigmoidf(float x)
{
  const bool negative = x < 0.0f;
  const float e = bt_exp_clamped(-bt_abs_at_most(x, 104.0f));
  const float s = 1.0f + e;
  const float lost = e - (s - 1.0f);
  const float y = bt_selectf(negative, e, 1.0f) / s;
  return bt_pass_nan(x, bt_fma(-(lost * bt_selectf(negative, 1.0f - y, y)), y, y));
}

/* Signed like x: y = m/s with m = e^(2|x|) - 1 = 2^n (e^r - 1) + (2^n - 1) and s = m + 2; then, where
 * m < 2, the roundings that m and s lost are put back: y + (m_lost - y (m_lost + s_lost)) / s with
 * 1/s = (1 - y)/2. 1 from 9.011 on. */
BT_KERNEL float bt_tanhf(float x)
{
  uint32_t n;
  const float r = bt_exp_reduce(2.0f * bt_abs_at_most(x, 10.0f), &n);
  const float q = bt_exp_poly(r);
  const float tail = bt_fma(r * r, q, r);
  const float scale = bt_from_bits((n - 129u) << 23);
  const float m_lost = scale * bt_fma(r * r, q, r - tail);
  const float m = bt_fma(scale, tail, scale - 1.0f);
  const float s = m + 2.0f;
  const float s_lost = m - (s - 2.0f);
  const float y = m / s;
  const float rest = 1.0f - y;
  const float back = 0.5f * rest * bt_fma(m_lost, rest, -(y * s_lost));
  return bt_pass_nan(x, bt_with_sign(y + bt_selectf(m < 2.0f, back, 0.0f), x));
}

/* ---- erf ------------------------------------------------------------------------------------ */

/* 2/sqrt(pi) integral of e^-t^2 from 0 to x: x + x P(x^2) below 1, 1 - e^(E(|x|)) from there on. */
BT_KERNEL float bt_erff(float x)
{
  const float a = bt_abs_at_most(x, 4.0f);

  /* P on x^2 in [0, 1], degree 6, weight x / erf(x), error 0.02. */
  const float z = a * a;
  float p = 0x1.4771fep-14f;
  p = bt_fma(p, z, -0x1.a3515ep-11f);
  p = bt_fma(p, z, 0x1.53f224p-8f);
  p = bt_fma(p, z, -0x1.b7f71ap-6f);
  p = bt_fma(p, z, 0x1.ce2ce6p-4f);
  p = bt_fma(p, z, -0x1.81273ep-2f);
  p = bt_fma(p, z, 0x1.06eba8p-3f);
  const float small = bt_fma(a, p, a);

  /* E = log(erfc) on [1, 3.925], degree 7, weight erfc, error 0.001; erf rounds to 1 beyond. */
  float e = -0x1.6bc9ccp-16f;
  e = bt_fma(e, a, 0x1.cebd28p-12f);
  e = bt_fma(e, a, -0x1.138a76p-8f);
  e = bt_fma(e, a, 0x1.9d01ccp-6f);
  e = bt_fma(e, a, -0x1.bc14bap-4f);
  e = bt_fma(e, a, -0x1.44356ep-1f);
  e = bt_fma(e, a, -0x1.212c0cp+0f);
  e = bt_fma(e, a, 0x1.8a56a4p-13f);
  const float large = 1.0f - bt_exp_clamped(e);

  const float y = bt_selectf(a < 1.0f, small, large);
  return bt_pass_nan(x, bt_with_sign(y, x));
}

/* ---- log ------------------------------------------------------------------------------------ */

/* k ln 2 + log(1 + f) + c for |f| <= 0.4143: f - f^2/2 + f^3 P(f), degree 7, weight f^2,
 * error 0.11. */
BT_KERNEL float bt_log_poly(float k, float f, float c)
{
  const float z = f * f;
  float p = -0x1.4249a4p-4f;
  p = bt_fma(p, f, 0x1.07cac8p-3f);
  p = bt_fma(p, f, -0x1.0ccb08p-3f);
  p = bt_fma(p, f, 0x1.226e04p-3f);
  p = bt_fma(p, f, -0x1.547af2p-3f);
  p = bt_fma(p, f, 0x1.99a5aap-3f);
  p = bt_fma(p, f, -0x1.000216p-2f);
  p = bt_fma(p, f, 0x1.55554ap-2f);
  const float low = bt_fma(k, 0x1.7f7d1cp-20f, c);
  const float tail = bt_fma(z, -0.5f, bt_fma(z * f, p, low));
  return bt_fma(k, 0x1.62e4p-1f, f + tail);
}

/* u = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), for a normal u > 0; returns f. */
BT_KERNEL float bt_log_reduce(float u, float *k)
{
  const uint32_t root_half = 0x3f3504f3u;
  const uint32_t bits = bt_bits(u) + (0x3f800000u - root_half);
  *k = (float)((int32_t)(bits >> 23) - 127);
  return bt_from_bits((bits & 0x007fffffu) + root_half) - 1.0f;
}

/* What log(u) is at the ends: -infinity at 0, NaN below it and at NaN, infinity at infinity; else y. */
BT_KERNEL float bt_log_ends(float u, float y)
{
  const uint32_t bits = bt_bits(u);
  y = bt_selectf(bits == 0x7f800000u, u, y);
  y = bt_selectf(bits > 0x7f800000u, bt_from_bits(BT_NAN_BITS), y);
  return bt_selectf((bits & 0x7fffffffu) == 0u, bt_from_bits(0xff800000u), y);
}

/* Natural logarithm. */
BT_KERNEL float bt_logf(float x)
{
  const bool subnormal = bt_bits(x) < 0x00800000u;
  float k;
  const float f = bt_log_reduce(bt_selectf(subnormal, x * 0x1p23f, x), &k);
  k -= bt_selectf(subnormal, 23.0f, 0.0f);
  return bt_log_ends(x, bt_log_poly(k, f, 0.0f));
}

/* log(1 + x): log(u) + c/u with u = 1 + x rounded and c what the rounding lost; x itself takes the
 * place of u - 1 where no power of 2 is split off. */
BT_KERNEL float bt_log1pf(float x)
{
  const float u = 1.0f + x;
  const float lost = bt_selectf(x > 1.0f, 1.0f - (u - x), x - (u - 1.0f));
  float k;
  const float f = bt_log_reduce(u, &k);
  const bool direct = k == 0.0f;
  const float y = bt_log_poly(k, bt_selectf(direct, x, f), bt_selectf(direct, 0.0f, lost / u));
  const bool tiny = (bt_bits(x) & 0x7fffffffu) < 0x33000000u; /* |x| < 2^-25; keeps -0 */
  return bt_log_ends(u, bt_selectf(tiny, x, y));
}

/* ---- cos ------------------------------------------------------------------------------------ */

/* cos(pi x), exact at the multiples of 1/2; NaN at infinity. For schedules, windows, random normals. */
BT_KERNEL float bt_cospif(float x)
{
  const float a = bt_absf(x);
  const float b = bt_selectf(a < 0x1p24f, a, 0.0f); /* from 2^24 on every float is even */
  const float turns = (b * 0.5f + 0x1p23f) - 0x1p23f;
  const float c = bt_absf(b - 2.0f * turns); /* exact, in [0, 1] */
  const float quarters = (c * 2.0f + 0x1p23f) - 0x1p23f;
  const bool odd = quarters == 1.0f;
  const float r = bt_selectf(odd, 0.5f, quarters * 0.5f) - c; /* exact, |r| <= 1/4 */
  const float z = r * r;

  /* cos(pi r) = 1 + z C(z), degree 3, weight z, error 0.01. */
  float p = 0x1.d3ef18p-3f;
  p = bt_fma(p, z, -0x1.55afbcp+0f);
  p = bt_fma(p, z, 0x1.03c1acp+2f);
  p = bt_fma(p, z, -0x1.3bd3ccp+2f);
  const float cosine = bt_fma(p, z, 1.0f);

  /* sin(pi r) = pi r + r z S(z), degree 2, weight z / pi, error 0.07; pi in two parts. */
  float s = -0x1.2ddceap-1f;
  s = bt_fma(s, z, 0x1.46607ep+1f);
  s = bt_fma(s, z, -0x1.4abbc0p+2f);
  const float sine = bt_fma(r, 0x1.921fb6p+1f, r * bt_fma(s, z, -0x1.777a5cp-24f));

  const float y = bt_selectf(odd, sine, bt_selectf(quarters == 2.0f, -cosine, cosine));
  return bt_selectf(bt_isfinite(x), y, bt_from_bits(BT_NAN_BITS));
}

#endif
