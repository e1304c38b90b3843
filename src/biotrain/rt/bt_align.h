/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Euclidean alignment: x -> R^-1/2 x, R the mean covariance of a session's windows (He and Wu, IEEE
 * TBME 67(2), 2020). No label is looked at; afterwards the channels of every session have unit
 * variance and no correlation, so that a network meets a new wearer where it met the others.
 *
 *     static double workspace[BT_ALIGN_WORKSPACE(8)];
 *     static float matrix[BT_ALIGN_MATRIX(8)];
 *     bt_align a;
 *     bt_align_begin(&a, 8, workspace, matrix);
 *     bt_align_add(&a, x, times);               for every window of the session
 *     bt_align_solve(&a);
 *     bt_align_apply(&a, x, times);             in place, before bt_adabn, training, prediction
 *
 * Covariances and eigenvalues are computed in double by adds, multiplies and divisions alone: the
 * same bits everywhere, no libm. On cores without a double unit a window of 8 x 512 takes some
 * 1.5 million cycles to add, once; applying is float, channels^2 multiply-adds per sample.
 */
#ifndef BT_ALIGN_H
#define BT_ALIGN_H

#include <stdint.h>

#include "bt_math.h"
#include "bt_status.h"

/* Doubles that an alignment of so many channels needs until it is solved: sums and eigenvectors. */
#define BT_ALIGN_WORKSPACE(channels) (2 * (channels) * (channels))
/* Floats that it needs as long as it is applied: the matrix and a column. */
#define BT_ALIGN_MATRIX(channels) ((channels) * (channels) + (channels))

/* Added to the diagonal, as a share of its mean: a channel that is a sum of the others (average
 * reference) would otherwise be divided by zero. */
#define BT_ALIGN_SHRINKAGE 1e-6

typedef struct bt_align {
  int channels;
  uint32_t windows; /* added so far */
  double samples; /* in them, per channel */
  double *sum; /* channels x channels: sums of products, then the covariance as it is turned */
  double *vectors; /* channels x channels: the means of a window, then the eigenvectors */
  float *matrix; /* channels x channels: R^-1/2; the identity until bt_align_solve */
  float *column; /* channels */
} bt_align;

/* Start a session, in arrays of BT_ALIGN_WORKSPACE and BT_ALIGN_MATRIX elements. */
static inline void bt_align_begin(bt_align *a, int channels, double *workspace, float *matrix)
{
  const int n = channels * channels;
  a->channels = channels;
  a->windows = 0;
  a->samples = 0.0;
  a->sum = workspace;
  a->vectors = workspace + n;
  a->matrix = matrix;
  a->column = matrix + n;
  for (int i = 0; i < n; i++) {
    a->sum[i] = 0.0;
    a->matrix[i] = i % (channels + 1) == 0 ? 1.0f : 0.0f;
  }
}

/* Add a window x [channels][times]. One with NaN or infinity is refused whole. */
static inline bt_status bt_align_add(bt_align *a, const float *x, int times)
{
  const int c = a->channels;
  double *mean = a->vectors;
  for (int i = 0; i < c; i++)
    for (int t = 0; t < times; t++)
      if (!bt_isfinite(x[i * times + t]))
        return BT_ERR_INPUT_NONFINITE;
  for (int i = 0; i < c; i++) {
    double sum = 0.0;
    for (int t = 0; t < times; t++)
      sum += (double)x[i * times + t];
    mean[i] = sum / (double)times;
    for (int j = 0; j <= i; j++) {
      sum = 0.0;
      for (int t = 0; t < times; t++)
        sum += ((double)x[i * times + t] - mean[i]) * ((double)x[j * times + t] - mean[j]);
      a->sum[i * c + j] += sum;
    }
  }
  a->samples += (double)times;
  a->windows++;
  return BT_OK;
}

/* 1 / sqrt(x), x in the range of normal floats: Newton's steps from the float value. */
static inline double bt_align_rsqrt(double x)
{
  double y = (double)bt_rsqrtf((float)x);
  for (int k = 0; k < 3; k++)
    y = y * (1.5 - 0.5 * x * y * y);
  return y;
}

/* Rotate rows and columns p and q of the symmetric r so that r[p][q] vanishes (Jacobi), and the
 * vectors with them. */
static inline void bt_align_turn(double *r, double *v, int c, int p, int q)
{
  const double off = r[p * c + q], d = r[q * c + q] - r[p * c + p];
  const double square = d * d + 4.0 * off * off;
  if (off == 0.0 || square < 1e-36) /* of a matrix whose trace is 1 */
    return;
  const double length = square * bt_align_rsqrt(square);
  const double tangent = 2.0 * off / (d < 0.0 ? d - length : d + length);
  const double cosine = bt_align_rsqrt(1.0 + tangent * tangent), sine = tangent * cosine;
  for (int k = 0; k < c; k++) {
    const double rp = r[k * c + p], rq = r[k * c + q];
    r[k * c + p] = cosine * rp - sine * rq;
    r[k * c + q] = sine * rp + cosine * rq;
  }
  for (int k = 0; k < c; k++) {
    const double rp = r[p * c + k], rq = r[q * c + k];
    r[p * c + k] = cosine * rp - sine * rq;
    r[q * c + k] = sine * rp + cosine * rq;
  }
  for (int k = 0; k < c; k++) {
    const double vp = v[k * c + p], vq = v[k * c + q];
    v[k * c + p] = cosine * vp - sine * vq;
    v[k * c + q] = sine * vp + cosine * vq;
  }
}

/* The matrix from the windows added so far; they are used up, and bt_align_begin starts again.
 * BT_ERR_STATISTICS, with the matrix as it was, where there is none or they are flat. */
static inline bt_status bt_align_solve(bt_align *a)
{
  const int c = a->channels;
  double *r = a->sum, *v = a->vectors, trace = 0.0;
  for (int i = 0; i < c; i++)
    trace += r[i * c + i];
  if (!(trace / a->samples > 1e-30 && trace / a->samples < 1e30))
    return BT_ERR_STATISTICS;
  for (int i = 0; i < c; i++) {
    for (int j = 0; j <= i; j++) { /* of trace 1, whatever the unit */
      r[i * c + j] = r[i * c + j] / trace;
      r[j * c + i] = r[i * c + j];
      v[i * c + j] = v[j * c + i] = i == j ? 1.0 : 0.0;
    }
    r[i * c + i] += BT_ALIGN_SHRINKAGE / (double)c;
  }
  for (int sweep = 0; sweep < 12; sweep++)
    for (int p = 0; p < c; p++)
      for (int q = p + 1; q < c; q++)
        bt_align_turn(r, v, c, p, q);
  const double unit = bt_align_rsqrt(trace / a->samples);
  for (int i = 0; i < c; i++)
    for (int j = 0; j < c; j++) {
      double sum = 0.0;
      for (int k = 0; k < c; k++)
        sum += v[i * c + k] * bt_align_rsqrt(r[k * c + k]) * v[j * c + k];
      a->matrix[i * c + j] = (float)(unit * sum);
    }
  return BT_OK;
}

/* x [channels][times] <- R^-1/2 x, in place. */
static inline void bt_align_apply(const bt_align *a, float *x, int times)
{
  const int c = a->channels;
  for (int t = 0; t < times; t++) {
    for (int j = 0; j < c; j++)
      a->column[j] = x[j * times + t];
    for (int i = 0; i < c; i++) {
      float sum = 0.0f;
      for (int j = 0; j < c; j++)
        sum = bt_fma(a->matrix[i * c + j], a->column[j], sum);
      x[i * times + t] = sum;
    }
  }
}

#endif
