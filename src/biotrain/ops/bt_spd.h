/* SPDX-License-Identifier: Apache-2.0 */
/* Logarithm of symmetric positive definite matrices, and its gradient.
 *
 *   a = scale x + shrinkage (trace(scale x) / n) I,   y = log(a) = V log(w) V'
 *
 * with the eigenvectors V and eigenvalues w of a by cyclic Jacobi rotations. The gradient is that of
 * Daleckii and Krein: dA = V (L * (V' S V)) V', S the symmetric part of dy and L the divided
 * differences of the logarithm. The mean of the eigenvalues is
 * divided out before, so that they lie around 1 whatever the unit.
 */
#ifndef BT_SPD_H
#define BT_SPD_H

#include "bt_kernel.h"

typedef struct bt_spd {
  int count, n; /* matrices of n x n */
} bt_spd;

/* Most rounds of rotations; four to seven are enough where the eigenvalues lie apart. */
#define BT_SPD_SWEEPS 12

/* What is left of an element off the diagonal, squared, as a share of the two on it: 2^-48. */
#define BT_SPD_REST 0x1p-48f

/* A pair of elements turned by an angle: as changes of what they were, so that small angles round
 * little. `half` is the tangent of half the angle. */
BT_KERNEL void bt_spd_pair(float *p, float *q, float sine, float half)
{
  const float x = *p, y = *q;
  *p = bt_fma(-sine, bt_fma(half, x, y), x);
  *q = bt_fma(sine, bt_fma(-half, y, x), y);
}

/* Rotate rows and columns p and q of the symmetric a so that a[p][q] vanishes, and the vectors with
 * them; whether there was anything to do. */
BT_KERNEL int bt_spd_turn(float *a, float *v, int n, int p, int q)
{
  const float off = a[p * n + q], low = a[p * n + p], high = a[q * n + q];
  if (off * off <= BT_SPD_REST * bt_absf(low) * bt_absf(high))
    return 0;
  const float d = high - low;
  const float length = bt_sqrtf(bt_fma(d, d, 4.0f * off * off));
  const float tangent = 2.0f * off / (d < 0.0f ? d - length : d + length);
  const float cosine = bt_rsqrtf(bt_fma(tangent, tangent, 1.0f)), sine = tangent * cosine;
  const float half = sine / (1.0f + cosine);
  for (int k = 0; k < n; k++) {
    bt_spd_pair(&v[k * n + p], &v[k * n + q], sine, half);
    if (k == p || k == q)
      continue;
    bt_spd_pair(&a[k * n + p], &a[k * n + q], sine, half);
    a[p * n + k] = a[k * n + p];
    a[q * n + k] = a[k * n + q];
  }
  a[p * n + p] = bt_fma(-tangent, off, low);
  a[q * n + q] = bt_fma(tangent, off, high);
  a[p * n + q] = a[q * n + p] = 0.0f;
  return 1;
}

/* y = u v', of row i of u and row j of v, in order. */
BT_KERNEL float bt_spd_dot(const float *u, const float *v, int n)
{
  float sum = 0.0f;
  for (int k = 0; k < n; k++)
    sum = bt_fma(u[k], v[k], sum);
  return sum;
}

/* One matrix; `eigen` gets n rows of V and a row of eigenvalues. */
BT_KERNEL void bt_spd_log_one(const float *x, float *y, float *eigen, int n, float scale,
                              float shrinkage)
{
  float *const v = eigen, *const w = eigen + n * n;
  float mean = 0.0f; /* of the diagonal, and so of the eigenvalues */
  for (int i = 0; i < n; i++)
    mean += x[i * n + i];
  mean = mean / (float)n;
  for (int i = 0; i < n; i++) {
    for (int j = 0; j < n; j++) {
      y[i * n + j] = 0.5f * (x[i * n + j] + x[j * n + i]) / mean;
      v[i * n + j] = i == j ? 1.0f : 0.0f;
    }
    y[i * n + i] += shrinkage;
  }
  int turned = 1;
  for (int sweep = 0; sweep < BT_SPD_SWEEPS && turned; sweep++) {
    turned = 0;
    for (int p = 0; p < n; p++)
      for (int q = p + 1; q < n; q++)
        turned |= bt_spd_turn(y, v, n, p, q);
  }
  for (int k = 0; k < n; k++)
    w[k] = y[k * n + k];
  const float unit = scale * mean, level = bt_logf(unit);
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++)
      y[i * n + j] = i == j ? level : 0.0f;
  for (int k = 0; k < n; k++) {
    const float log = bt_logf(w[k]);
    for (int i = 0; i < n; i++)
      for (int j = 0; j < n; j++)
        y[i * n + j] = bt_fma(v[i * n + k] * log, v[j * n + k], y[i * n + j]);
    w[k] *= unit;
  }
}

BT_KERNEL void bt_spd_log(bt_spd g, bt_box box, const float *x, float *y, float *eigen, float scale,
                          float shrinkage)
{
  (void)box;
  for (int m = 0; m < g.count; m++)
    bt_spd_log_one(x + m * g.n * g.n, y + m * g.n * g.n, eigen + m * (g.n + 1) * g.n, g.n, scale,
                   shrinkage);
}

/* (log a - log b) / (a - b) of positive numbers. */
BT_KERNEL float bt_spd_slope(float a, float b)
{
  const float r = (a - b) / (a + b), s = r * r;
  if (s < 0.01f) /* 2 atanh(r) / (a - b), by its series */
    return 2.0f / (a + b) * bt_fma(s, bt_fma(s, bt_fma(s, 1.0f / 7.0f, 0.2f), 1.0f / 3.0f), 1.0f);
  return bt_logf(a / b) / (a - b);
}

/* One matrix; `work` has n x n floats. */
BT_KERNEL void bt_spd_log_dx_one(const float *eigen, const float *dy, float *dx, float *work, int n,
                                 float scale, float shrinkage)
{
  const float *const v = eigen, *const w = eigen + n * n;
  for (int i = 0; i < n; i++) /* S V */
    for (int j = 0; j < n; j++) {
      float sum = 0.0f;
      for (int k = 0; k < n; k++)
        sum = bt_fma(0.5f * (dy[i * n + k] + dy[k * n + i]), v[k * n + j], sum);
      work[i * n + j] = sum;
    }
  for (int i = 0; i < n; i++) /* L * (V' S V) */
    for (int j = 0; j < n; j++) {
      float sum = 0.0f;
      for (int k = 0; k < n; k++)
        sum = bt_fma(v[k * n + i], work[k * n + j], sum);
      dx[i * n + j] = sum * bt_spd_slope(w[i], w[j]);
    }
  for (int i = 0; i < n; i++) /* V of that */
    for (int j = 0; j < n; j++) {
      float sum = 0.0f;
      for (int k = 0; k < n; k++)
        sum = bt_fma(v[i * n + k], dx[k * n + j], sum);
      work[i * n + j] = sum;
    }
  float trace = 0.0f;
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) {
      const float sum = scale * bt_spd_dot(work + i * n, v + j * n, n);
      dx[i * n + j] = sum;
      trace += i == j ? sum : 0.0f;
    }
  for (int i = 0; i < n; i++)
    dx[i * n + i] += shrinkage / (float)n * trace;
}

BT_KERNEL void bt_spd_log_dx(bt_spd g, bt_box box, const float *eigen, const float *dy, float *dx,
                             float *work, float scale, float shrinkage)
{
  (void)box;
  for (int m = 0; m < g.count; m++)
    bt_spd_log_dx_one(eigen + m * (g.n + 1) * g.n, dy + m * g.n * g.n, dx + m * g.n * g.n, work, g.n,
                      scale, shrinkage);
}

#endif
