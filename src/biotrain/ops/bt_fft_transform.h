/* SPDX-License-Identifier: Apache-2.0 */
/* Fourier transforms of N real samples as M = N/2 complex ones, z[n] = s[2n] + i s[2n + 1], and
 * what the filters of bt_fft.h do with them.
 *
 * With E and O the transforms of the even and odd samples, Z[k] = E[k] + i O[k]. A first stage of
 * radix 4 (M = 256) or 2 (M = 128), then two of radix 8: forward with decimation in frequency, back
 * with decimation in time, so that no value is moved. The frequency k lies at the place whose
 * digits, in these bases, are those of k turned round. k and M - k, which E and O are made of, then
 * lie at places p and (r + 1) B - 1 - p with B <= p < (r + 1) B / 2, for B = 1, 8 and 64 and r the
 * base of the digit there. Every operation stands here once, in one order. */
#ifndef BT_FFT_TRANSFORM_H
#define BT_FFT_TRANSFORM_H

#include "bt_fft_table.h"
#include "bt_kernel.h"


/* Three factors. */
typedef struct bt_fft_turn {
  float r1, i1, r2, i2, r3, i3;
} bt_fft_turn;

BT_KERNEL bt_fft_turn bt_fft_turn_at(const float *at)
{
  const bt_fft_turn w = {at[0], at[1], at[2], at[3], at[4], at[5]};
  return w;
}

/* real and imaginary part of (a + i b)(r + i s), and of (a + i b)(r - i s) */
BT_KERNEL float bt_fft_real(float a, float b, float r, float s) { return bt_fma(-b, s, a * r); }
BT_KERNEL float bt_fft_imag(float a, float b, float r, float s) { return bt_fma(a, s, b * r); }
BT_KERNEL float bt_fft_real_of(float a, float b, float r, float s) { return bt_fma(b, s, a * r); }
BT_KERNEL float bt_fft_imag_of(float a, float b, float r, float s) { return bt_fma(-a, s, b * r); }

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
  const float br = turned ? bt_fft_real_of(fr, fi, w.r1, w.i1) : fr;
  const float bi = turned ? bt_fft_imag_of(fr, fi, w.r1, w.i1) : fi;
  const float cr = turned ? bt_fft_real_of(gr, gi, w.r2, w.i2) : gr;
  const float ci = turned ? bt_fft_imag_of(gr, gi, w.r2, w.i2) : gi;
  const float dr = turned ? bt_fft_real_of(hr, hi, w.r3, w.i3) : hr;
  const float di = turned ? bt_fft_imag_of(hr, hi, w.r3, w.i3) : hi;
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

/* The first stage for 256 values, of whose four parts the first `filled` are not zero. */
BT_KERNEL void bt_fft_down_first(int filled, const float *s, float *z)
{
  for (int n = 0; n < 128; n += 2)
    bt_fft_down_four(s + n, z + n, 128, filled, n > 0, bt_fft_turn_at(bt_fft_turns + 3 * n));
}

/* The last one on the way back. */
BT_KERNEL void bt_fft_up_first(float *z)
{
  for (int n = 0; n < 128; n += 2)
    bt_fft_up_four(z + n, 128, n > 0, bt_fft_turn_at(bt_fft_turns + 3 * n));
}

/* The same for 128 values. */
BT_KERNEL void bt_fft_down_halves(const float *s, float *z)
{
  for (int n = 0; n < 128; n += 2) {
    const float ar = s[n], ai = s[n + 1], br = s[n + 128], bi = s[n + 129];
    const float dr = ar - br, di = ai - bi;
    const float r = bt_fft_turns[3 * n + 2], i = bt_fft_turns[3 * n + 3];
    z[n] = ar + br;
    z[n + 1] = ai + bi;
    z[n + 128] = bt_fft_real(dr, di, r, i);
    z[n + 129] = bt_fft_imag(dr, di, r, i);
  }
}

BT_KERNEL void bt_fft_up_halves(float *z)
{
  for (int n = 0; n < 128; n += 2) {
    const float r = bt_fft_turns[3 * n + 2], i = bt_fft_turns[3 * n + 3];
    const float br = bt_fft_real_of(z[n + 128], z[n + 129], r, i);
    const float bi = bt_fft_imag_of(z[n + 128], z[n + 129], r, i);
    const float ar = z[n], ai = z[n + 1];
    z[n] = ar + br;
    z[n + 1] = ai + bi;
    z[n + 128] = ar - br;
    z[n + 129] = ai - bi;
  }
}

/* a + h b and a - h b */
BT_KERNEL void bt_fft_both(float a, float h, float b, float *more, float *less)
{
#if BT_FUSED
  *more = bt_fma(h, b, a);
  *less = bt_fma(-h, b, a);
#else
  const float hb = h * b;
  *more = a + hb;
  *less = a - hb;
#endif
}

/* y[j q] = (r, i), times factor j of w where `turned` */
BT_KERNEL void bt_fft_set(float *y, int at, bool turned, const float *w, float r, float i)
{
  y[at] = turned ? bt_fft_real(r, i, w[0], w[1]) : r;
  y[at + 1] = turned ? bt_fft_imag(r, i, w[0], w[1]) : i;
}

#define BT_FFT_HALF 0x1.6a09e6p-1f /* the root of 1/2 */

/* Eight values, q floats apart, to their transform, times the seven factors at w where `turned`. */
BT_KERNEL void bt_fft_down_eight(const float *x, float *y, int q, bool turned, const float *w)
{
  float r[8], i[8], fr, fi, gr, gi;
  BT_UNROLLED_FOUR { /* x[j] and x[j + 4] */
    const float ar = x[j * q], ai = x[j * q + 1], br = x[(j + 4) * q], bi = x[(j + 4) * q + 1];
    r[j] = ar + br;
    i[j] = ai + bi;
    r[j + 4] = ar - br;
    i[j + 4] = ai - bi;
  }
  /* even frequencies: a transform of four of r[0 .. 3] */
  const float sr = r[0] + r[2], si = i[0] + i[2], tr = r[0] - r[2], ti = i[0] - i[2];
  const float ur = r[1] + r[3], ui = i[1] + i[3], vr = r[1] - r[3], vi = i[1] - i[3];
  y[0] = sr + ur;
  y[1] = si + ui;
  bt_fft_set(y, 4 * q, turned, w + 6, sr - ur, si - ui);
  bt_fft_set(y, 2 * q, turned, w + 2, tr + vi, ti - vr);
  bt_fft_set(y, 6 * q, turned, w + 10, tr - vi, ti + vr);
  /* odd ones: r[4], r[6] turned by a quarter, r[5] and r[7] by one and three eighths */
  const float ar = r[4] + i[6], ai = i[4] - r[6], br = r[4] - i[6], bi = i[4] + r[6];
  const float cr = r[5] + i[5], ci = i[5] - r[5], dr = i[7] - r[7], di = -(i[7] + r[7]);
  const float er = cr + dr, ei = ci + di, hr = cr - dr, hi = ci - di;
  bt_fft_both(ar, BT_FFT_HALF, er, &fr, &gr);
  bt_fft_both(ai, BT_FFT_HALF, ei, &fi, &gi);
  bt_fft_set(y, q, turned, w, fr, fi);
  bt_fft_set(y, 5 * q, turned, w + 8, gr, gi);
  bt_fft_both(br, BT_FFT_HALF, hi, &fr, &gr);
  bt_fft_both(bi, -BT_FFT_HALF, hr, &fi, &gi);
  bt_fft_set(y, 3 * q, turned, w + 4, fr, fi);
  bt_fft_set(y, 7 * q, turned, w + 12, gr, gi);
}

/* The way back: times the conjugate factors where `turned`, then the inverse transform. */
BT_KERNEL void bt_fft_up_eight(float *x, int q, bool turned, const float *w)
{
  float r[8], i[8];
  BT_UNROLLED_FOUR { /* x[j] and x[j + 4] */
    const float *a = x + j * q, *b = x + (j + 4) * q;
    const bool turn = turned && j > 0;
    const float ar = turn ? bt_fft_real_of(a[0], a[1], w[2 * j - 2], w[2 * j - 1]) : a[0];
    const float ai = turn ? bt_fft_imag_of(a[0], a[1], w[2 * j - 2], w[2 * j - 1]) : a[1];
    const float br = turned ? bt_fft_real_of(b[0], b[1], w[2 * j + 6], w[2 * j + 7]) : b[0];
    const float bi = turned ? bt_fft_imag_of(b[0], b[1], w[2 * j + 6], w[2 * j + 7]) : b[1];
    r[j] = ar + br;
    i[j] = ai + bi;
    r[j + 4] = ar - br;
    i[j + 4] = ai - bi;
  }
  const float sr = r[0] + r[2], si = i[0] + i[2], tr = r[0] - r[2], ti = i[0] - i[2];
  const float ur = r[1] + r[3], ui = i[1] + i[3], vr = r[1] - r[3], vi = i[1] - i[3];
  x[0] = sr + ur;
  x[1] = si + ui;
  x[4 * q] = sr - ur;
  x[4 * q + 1] = si - ui;
  x[2 * q] = tr - vi;
  x[2 * q + 1] = ti + vr;
  x[6 * q] = tr + vi;
  x[6 * q + 1] = ti - vr;
  const float ar = r[4] - i[6], ai = i[4] + r[6], br = r[4] + i[6], bi = i[4] - r[6];
  const float cr = r[5] - i[5], ci = r[5] + i[5], dr = -(r[7] + i[7]), di = r[7] - i[7];
  const float er = cr + dr, ei = ci + di, hr = cr - dr, hi = ci - di;
  bt_fft_both(ar, BT_FFT_HALF, er, x + q, x + 5 * q);
  bt_fft_both(ai, BT_FFT_HALF, ei, x + q + 1, x + 5 * q + 1);
  bt_fft_both(br, -BT_FFT_HALF, hi, x + 3 * q, x + 7 * q);
  bt_fft_both(bi, BT_FFT_HALF, hr, x + 3 * q + 1, x + 7 * q + 1);
}

/* The last two stages, for each part of 64 values. */
BT_OUTLINED void bt_fft_down_rest(int parts, const float *s, float *z)
{
  for (int at = 0; at < 128 * parts; at += 128) {
    bt_fft_down_eight(s + at, z + at, 16, false, bt_fft_turns_eight);
    for (int n = 2; n < 16; n += 2)
      bt_fft_down_eight(s + at + n, z + at + n, 16, true, bt_fft_turns_eight + 7 * (n - 2));
  }
  for (int at = 0; at < 128 * parts; at += 16)
    bt_fft_down_eight(z + at, z + at, 2, false, bt_fft_turns_eight);
}

BT_OUTLINED void bt_fft_up_rest(int parts, float *z)
{
  for (int at = 0; at < 128 * parts; at += 16)
    bt_fft_up_eight(z + at, 2, false, bt_fft_turns_eight);
  for (int at = 0; at < 128 * parts; at += 128) {
    bt_fft_up_eight(z + at, 16, false, bt_fft_turns_eight);
    for (int n = 2; n < 16; n += 2)
      bt_fft_up_eight(z + at + n, 16, true, bt_fft_turns_eight + 7 * (n - 2));
  }
}

/* Of N samples the parts of four that `count` of them reach into: 2 count as 3, and only the first
 * stage for 512 samples makes use of it. */
BT_KERNEL int bt_fft_filled(int size, int count)
{
  const int parts = (4 * count + size - 1) / size;
  return size != 512 ? 4 : parts == 2 ? 3 : parts;
}

/* Z of 2 M samples, which may lie where Z goes. Those behind the `filled` parts are zero and not
 * read. */
BT_OUTLINED void bt_fft_there(int M, int filled, const float *s, float *z)
{
  if (M == 128)
    bt_fft_down_halves(s, z);
  else if (M == 256 && filled == 1)
    bt_fft_down_first(1, s, z);
  else if (M == 256 && filled == 3)
    bt_fft_down_first(3, s, z);
  else if (M == 256)
    bt_fft_down_first(4, s, z);
  bt_fft_down_rest(M / 64, M == 64 ? s : z, z);
}

/* M times the samples, in place. */
BT_OUTLINED void bt_fft_back(int M, float *z)
{
  bt_fft_up_rest(M / 64, z);
  if (M == 128)
    bt_fft_up_halves(z);
  if (M == 256)
    bt_fft_up_first(z);
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

/* a and b go over the floats of the pairs of M frequencies, w over their factors. */
#define BT_FFT_BASE(M, B) ((B) < 64 ? 8 : (M) / 64)
#define BT_FFT_EACH_PAIR(M, a, b, w)                                                               \
  for (int B = 1; B < (M); B *= 8)                                                                 \
    for (int a = 2 * B, b = 2 * BT_FFT_BASE(M, B) * B - 2, w = bt_fft_factors(M, B);               \
         a < (BT_FFT_BASE(M, B) + 1) * B / 2 * 2; a += 2, b -= 2, w += 2)

/* Where in bt_fft_places those of B begin. */
BT_KERNEL int bt_fft_factors(int M, int B)
{
  return B == 1 ? 0 : B == 8 ? 6 : M == 128 ? 190 : 62;
}

/* What signals are multiplied by: in place of f, Ef' at the first place of a pair and Of' at the
 * second, and in c Of' times the factor; with what makes up for doubled E and O and for the way
 * back. */
BT_OUTLINED void bt_fft_taps(int M, float *restrict f, float *restrict c)
{
  const float whole = 1.0f / (float)M, scale = 0.25f * whole; /* powers of two: exact */
  f[0] *= whole;
  f[1] *= whole;
  f[8] *= whole;
  f[9] *= whole;
  BT_FFT_EACH_PAIR(M, a, b, w) {
    const bt_fft_pair p = bt_fft_apart(f + a, f + b);
    const float r = scale * p.dr, i = -scale * p.di;
    f[a] = scale * p.er;
    f[a + 1] = -scale * p.ei;
    f[b] = r;
    f[b + 1] = i;
    c[w] = bt_fft_real(r, i, bt_fft_places[w], bt_fft_places[w + 1]);
    c[w + 1] = bt_fft_imag(r, i, bt_fft_places[w], bt_fft_places[w + 1]);
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
BT_OUTLINED void bt_fft_filter(int M, const float *f, const float *c, float *restrict z)
{
  const float e = z[0], o = z[1], last = z[8], odd = z[9];
  z[0] = bt_fma(o, f[1], e * f[0]);
  z[1] = bt_fma(e, f[1], o * f[0]);
  z[8] = bt_fma(odd, f[9], last * f[8]);
  z[9] = bt_fma(-last, f[9], odd * f[8]);
  BT_FFT_EACH_PAIR(M, a, b, w) {
    const bt_fft_pair y = bt_fft_times(bt_fft_apart(z + a, z + b), f + a, f + b, c + w);
    bt_fft_join(y, z + a, z + b);
  }
}

/* sum += (at first: =) the E and O of y, for a filter that comes once. */
BT_OUTLINED void bt_fft_add(int M, bool first, const float *f, const float *z, float *restrict sum)
{
  for (int i = 0; i < 16; i += 8) {
    const float e = z[i], o = z[i + 1], g = f[i], h = f[i + 1];
    const float even = bt_fma(o, h, e * g), odd = bt_fma(i ? -e : e, h, o * g);
    sum[i] = first ? even : sum[i] + even;
    sum[i + 1] = first ? odd : sum[i + 1] + odd;
  }
  BT_FFT_EACH_PAIR(M, a, b, w) {
    const bt_fft_pair p = bt_fft_apart(f + a, f + b);
    const float even[2] = {p.er, -p.ei}, odd[2] = {p.dr, -p.di};
    const float turn[2] = {bt_fft_places[w], bt_fft_places[w + 1]};
    const float late[2] = {bt_fft_real(p.dr, -p.di, turn[0], turn[1]),
                           bt_fft_imag(p.dr, -p.di, turn[0], turn[1])};
    const bt_fft_pair y = bt_fft_times(bt_fft_apart(z + a, z + b), even, odd, late);
    sum[a] = first ? y.er : sum[a] + y.er;
    sum[a + 1] = first ? y.ei : sum[a + 1] + y.ei;
    sum[b] = first ? y.dr : sum[b] + y.dr;
    sum[b + 1] = first ? y.di : sum[b + 1] + y.di;
  }
}

/* Z of such a sum, with what makes up for doubled E and O and for the way back. */
BT_OUTLINED void bt_fft_total(int M, float *restrict z)
{
  const float whole = 1.0f / (float)M, scale = 0.25f * whole;
  z[0] *= whole;
  z[1] *= whole;
  z[8] *= whole;
  z[9] *= whole;
  BT_FFT_EACH_PAIR(M, a, b, w) {
    const bt_fft_pair y = {scale * z[a], scale * z[a + 1], scale * z[b], scale * z[b + 1]};
    bt_fft_join(y, z + a, z + b);
  }
}

#endif
