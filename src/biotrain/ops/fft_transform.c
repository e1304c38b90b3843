/* SPDX-License-Identifier: Apache-2.0 */
/* Fourier transforms of N real samples as N/2 complex ones, z[n] = s[2n] + i s[2n + 1], and what
 * the filters of bt_fft.h do with them.
 *
 * With M = N/2, E and O the transforms of the even and odd samples: Z[k] = E[k] + i O[k]. Forward
 * by radix 4 with decimation in frequency, back with decimation in time, so that no value is moved:
 * the frequency k lies at the place whose base-4 digits are those of k turned round. Frequencies k
 * and M - k, which E and O are made of, then lie at places p and 5 B - 1 - p, B <= p < 5 B / 2, for
 * B = 1, 4, 16, ... Every operation stands here once, in one order. */
#ifndef BT_FFT_TRANSFORM_H
#define BT_FFT_TRANSFORM_H

#include "bt_fft_table.h"
#include "bt_kernel.h"

/* A part of the kernel that is a function of its own, so that it stands in the code once. */
#ifdef __GNUC__
#define BT_FFT_PART static __attribute__((noinline, unused))
#else
#define BT_FFT_PART static
#endif

/* Two turns of a loop at once: a branch takes as long as three additions. */
#ifdef __GNUC__
#define BT_FFT_TWICE _Pragma("GCC unroll 2")
#else
#define BT_FFT_TWICE
#endif

/* Three factors. */
typedef struct bt_fft_turn {
  float r1, i1, r2, i2, r3, i3;
} bt_fft_turn;

BT_KERNEL bt_fft_turn bt_fft_turn_at(const float *at)
{
  const bt_fft_turn w = {at[0], at[1], at[2], at[3], at[4], at[5]};
  return w;
}

/* real and imaginary part of (a + i b)(r + i s) */
BT_KERNEL float bt_fft_real(float a, float b, float r, float s) { return bt_fma(a, r, -(b * s)); }
BT_KERNEL float bt_fft_imag(float a, float b, float r, float s) { return bt_fma(a, s, b * r); }

/* Four values, q floats apart, to their transform, times the factors where `turned`. Only the first
 * `filled` of them are not zero: 1, 3 or 4. */
BT_KERNEL void bt_fft_down_four(const float *x, float *y, int q, int filled, bool turned,
                                bt_fft_turn w)
{
  const float ar = x[0], ai = x[1];
  float sr = ar, si = ai, tr = ar, ti = ai, ur = 0.0f, ui = 0.0f, vr = 0.0f, vi = 0.0f;
  if (filled > 1) {
    const float br = x[q], bi = x[q + 1], cr = x[2 * q], ci = x[2 * q + 1];
    sr = ar + cr, si = ai + ci, tr = ar - cr, ti = ai - ci;
    ur = vr = br, ui = vi = bi;
    if (filled > 3) {
      const float dr = x[3 * q], di = x[3 * q + 1];
      ur = br + dr, ui = bi + di, vr = br - dr, vi = bi - di;
    }
  }
  const bool more = filled > 1;
  const float fr = more ? tr + vi : ar, fi = more ? ti - vr : ai;
  const float gr = more ? sr - ur : ar, gi = more ? si - ui : ai;
  const float hr = more ? tr - vi : ar, hi = more ? ti + vr : ai;
  y[0] = more ? sr + ur : ar;
  y[1] = more ? si + ui : ai;
  y[q] = turned ? bt_fft_real(fr, fi, w.r1, w.i1) : fr;
  y[q + 1] = turned ? bt_fft_imag(fr, fi, w.r1, w.i1) : fi;
  y[2 * q] = turned ? bt_fft_real(gr, gi, w.r2, w.i2) : gr;
  y[2 * q + 1] = turned ? bt_fft_imag(gr, gi, w.r2, w.i2) : gi;
  y[3 * q] = turned ? bt_fft_real(hr, hi, w.r3, w.i3) : hr;
  y[3 * q + 1] = turned ? bt_fft_imag(hr, hi, w.r3, w.i3) : hi;
}

/* The way back: times the conjugate factors where `turned`, then the inverse transform. */
BT_KERNEL void bt_fft_up_four(float *x, int q, bool turned, bt_fft_turn w)
{
  const float ar = x[0], ai = x[1], fr = x[q], fi = x[q + 1];
  const float gr = x[2 * q], gi = x[2 * q + 1], hr = x[3 * q], hi = x[3 * q + 1];
  const float br = turned ? bt_fft_real(fr, fi, w.r1, -w.i1) : fr;
  const float bi = turned ? bt_fft_imag(fr, fi, w.r1, -w.i1) : fi;
  const float cr = turned ? bt_fft_real(gr, gi, w.r2, -w.i2) : gr;
  const float ci = turned ? bt_fft_imag(gr, gi, w.r2, -w.i2) : gi;
  const float dr = turned ? bt_fft_real(hr, hi, w.r3, -w.i3) : hr;
  const float di = turned ? bt_fft_imag(hr, hi, w.r3, -w.i3) : hi;
  const float sr = ar + cr, si = ai + ci, tr = ar - cr, ti = ai - ci;
  const float ur = br + dr, ui = bi + di, vr = br - dr, vi = bi - di;
  x[0] = sr + ur;
  x[1] = si + ui;
  x[q] = tr - vi;
  x[q + 1] = ti + vr;
  x[2 * q] = sr - ur;
  x[2 * q + 1] = si - ui;
  x[3 * q] = tr + vi;
  x[3 * q + 1] = ti - vr;
}

/* One stage of a transform of `total` values: groups of m become four of m/4. */
BT_KERNEL void bt_fft_down(int total, int m, int filled, const float *from, float *to)
{
  const int q = m / 2;
  const bt_fft_turn none = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  BT_FFT_TWICE for (int at = 0; at < 2 * total; at += 2 * m)
    bt_fft_down_four(from + at, to + at, q, filled, false, none);
  for (int n = 2; n < q; n += 2) {
    const bt_fft_turn w = bt_fft_turn_at(bt_fft_turns + 3 * n * (256 / m));
    BT_FFT_TWICE for (int at = n; at < 2 * total; at += 2 * m)
      bt_fft_down_four(from + at, to + at, q, filled, true, w);
  }
}

BT_KERNEL void bt_fft_up(int total, int m, float *z)
{
  const int q = m / 2;
  const bt_fft_turn none = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  BT_FFT_TWICE for (int at = 0; at < 2 * total; at += 2 * m)
    bt_fft_up_four(z + at, q, false, none);
  for (int n = 2; n < q; n += 2) {
    const bt_fft_turn w = bt_fft_turn_at(bt_fft_turns + 3 * n * (256 / m));
    BT_FFT_TWICE for (int at = n; at < 2 * total; at += 2 * m)
      bt_fft_up_four(z + at, q, true, w);
  }
}

/* The first stage, of whose groups only the first `filled` parts of four are not zero. */
BT_KERNEL void bt_fft_first(int total, int filled, const float *from, float *to)
{
  if (filled <= 1)
    bt_fft_down(total, total, 1, from, to);
  else if (filled <= 3)
    bt_fft_down(total, total, 3, from, to);
  else
    bt_fft_down(total, total, 4, from, to);
}

BT_FFT_PART void bt_fft_there64(int filled, const float *s, float *z)
{
  bt_fft_first(64, filled, s, z);
  bt_fft_down(64, 16, 4, z, z);
  bt_fft_down(64, 4, 4, z, z);
}

BT_FFT_PART void bt_fft_there256(int filled, const float *s, float *z)
{
  bt_fft_first(256, filled, s, z);
  bt_fft_down(256, 64, 4, z, z);
  bt_fft_down(256, 16, 4, z, z);
  bt_fft_down(256, 4, 4, z, z);
}

BT_FFT_PART void bt_fft_back64(float *z)
{
  bt_fft_up(64, 4, z);
  bt_fft_up(64, 16, z);
  bt_fft_up(64, 64, z);
}

BT_FFT_PART void bt_fft_back256(float *z)
{
  bt_fft_up(256, 4, z);
  bt_fft_up(256, 16, z);
  bt_fft_up(256, 64, z);
  bt_fft_up(256, 256, z);
}

/* Z of 2 M samples, which may lie where Z goes. Those behind the first `filled` parts of four are
 * zero and not read: 2 count as 3. */
BT_KERNEL void bt_fft_there(int M, int filled, const float *s, float *z)
{
  if (M == 64)
    bt_fft_there64(filled, s, z);
  else
    bt_fft_there256(filled, s, z);
}

/* M times the samples, in place. */
BT_KERNEL void bt_fft_back(int M, float *z)
{
  if (M == 64)
    bt_fft_back64(z);
  else
    bt_fft_back256(z);
}

/* ---- a filter -------------------------------------------------------------------------------- */

/* y[n] = sum_j f[j] s[n + j] is, in E and O of f, s and y, with ' for the conjugate:
 *   Ey = Es Ef' + Os Of'
 *   Oy = Os Ef' + Es Of' exp(2 pi i k / M) */

/* The E and O of a pair of places, twice. */
typedef struct bt_fft_pair {
  float er, ei, dr, di;
} bt_fft_pair;

BT_KERNEL bt_fft_pair bt_fft_apart(const float *a, const float *b)
{
  const bt_fft_pair p = {a[0] + b[0], a[1] - b[1], a[1] + b[1], b[0] - a[0]};
  return p;
}

/* ... and back: Z at the pair of E and O. */
BT_KERNEL void bt_fft_join(bt_fft_pair p, float *a, float *b)
{
  a[0] = p.er - p.di;
  a[1] = p.ei + p.dr;
  b[0] = p.er + p.di;
  b[1] = p.dr - p.ei;
}

/* a[] and b[] go over the pairs of M frequencies, as the table does. */
#define BT_FFT_EACH_PAIR(M, a, b)                                                                  \
  for (int B = 1; B < (M); B *= 4)                                                                 \
    for (int a = 2 * B, b = 8 * B - 2; a < 2 * B + (B > 1 ? 3 * B : 2); a += 2, b -= 2)

/* What signals are multiplied by: in place of f, Ef' at the first place of a pair and Of' at the
 * second, and in c Of' times the factor; with what makes up for doubled E and O and for the way
 * back. */
BT_FFT_PART void bt_fft_taps(int M, float *restrict f, float *restrict c)
{
  const float whole = 1.0f / (float)M, scale = 0.25f * whole; /* powers of two: exact */
  const float *w = bt_fft_places;
  f[0] *= whole;
  f[1] *= whole;
  f[4] *= whole;
  f[5] *= whole;
  BT_FFT_EACH_PAIR(M, a, b) {
    const bt_fft_pair p = bt_fft_apart(f + a, f + b);
    const float r = scale * p.dr, i = -scale * p.di;
    f[a] = scale * p.er;
    f[a + 1] = -scale * p.ei;
    f[b] = r;
    f[b + 1] = i;
    c[0] = bt_fft_real(r, i, w[0], w[1]);
    c[1] = bt_fft_imag(r, i, w[0], w[1]);
    c += 2;
    w += 2;
  }
}

/* The pair of y from that of s. */
BT_KERNEL bt_fft_pair bt_fft_times(bt_fft_pair s, const float *a, const float *b, const float *c)
{
  bt_fft_pair y = {s.er * a[0], s.er * a[1], s.dr * a[0], s.dr * a[1]};
  y.er = bt_fma(-s.ei, a[1], y.er);
  y.ei = bt_fma(s.ei, a[0], y.ei);
  y.dr = bt_fma(-s.di, a[1], y.dr);
  y.di = bt_fma(s.di, a[0], y.di);
  y.er = bt_fma(s.dr, b[0], y.er);
  y.ei = bt_fma(s.dr, b[1], y.ei);
  y.dr = bt_fma(s.er, c[0], y.dr);
  y.di = bt_fma(s.er, c[1], y.di);
  y.er = bt_fma(-s.di, b[1], y.er);
  y.ei = bt_fma(s.di, b[0], y.ei);
  y.dr = bt_fma(-s.ei, c[1], y.dr);
  y.di = bt_fma(s.ei, c[0], y.di);
  return y;
}

/* From a signal's transform to that of the sum. */
BT_FFT_PART void bt_fft_filter(int M, const float *f, const float *c, float *restrict z)
{
  const float e = z[0], o = z[1], last = z[4], odd = z[5];
  z[0] = bt_fma(o, f[1], e * f[0]);
  z[1] = bt_fma(e, f[1], o * f[0]);
  z[4] = bt_fma(odd, f[5], last * f[4]);
  z[5] = bt_fma(-last, f[5], odd * f[4]);
  BT_FFT_EACH_PAIR(M, a, b) {
    const bt_fft_pair y = bt_fft_times(bt_fft_apart(z + a, z + b), f + a, f + b, c);
    bt_fft_join(y, z + a, z + b);
    c += 2;
  }
}

/* sum += (at first: =) the E and O of y, for a filter that comes once. */
BT_FFT_PART void bt_fft_add(int M, bool first, const float *f, const float *z, float *restrict sum)
{
  const float *w = bt_fft_places;
  for (int i = 0; i < 8; i += 4) {
    const float e = z[i], o = z[i + 1], g = f[i], h = f[i + 1];
    const float even = bt_fma(o, h, e * g), odd = bt_fma(i ? -e : e, h, o * g);
    sum[i] = first ? even : sum[i] + even;
    sum[i + 1] = first ? odd : sum[i + 1] + odd;
  }
  BT_FFT_EACH_PAIR(M, a, b) {
    const bt_fft_pair p = bt_fft_apart(f + a, f + b);
    const float even[2] = {p.er, -p.ei}, odd[2] = {p.dr, -p.di};
    const float late[2] = {bt_fft_real(p.dr, -p.di, w[0], w[1]),
                           bt_fft_imag(p.dr, -p.di, w[0], w[1])};
    const bt_fft_pair y = bt_fft_times(bt_fft_apart(z + a, z + b), even, odd, late);
    sum[a] = first ? y.er : sum[a] + y.er;
    sum[a + 1] = first ? y.ei : sum[a + 1] + y.ei;
    sum[b] = first ? y.dr : sum[b] + y.dr;
    sum[b + 1] = first ? y.di : sum[b + 1] + y.di;
    w += 2;
  }
}

/* Z of such a sum, with what makes up for doubled E and O and for the way back. */
BT_FFT_PART void bt_fft_total(int M, float *restrict z)
{
  const float whole = 1.0f / (float)M, scale = 0.25f * whole;
  z[0] *= whole;
  z[1] *= whole;
  z[4] *= whole;
  z[5] *= whole;
  BT_FFT_EACH_PAIR(M, a, b) {
    const bt_fft_pair y = {scale * z[a], scale * z[a + 1], scale * z[b], scale * z[b + 1]};
    bt_fft_join(y, z + a, z + b);
  }
}

#endif
