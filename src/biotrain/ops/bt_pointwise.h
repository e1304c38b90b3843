/* SPDX-License-Identifier: Apache-2.0 */
/* Functions of one element. Output and input may be the same tensor. */
#ifndef BT_POINTWISE_H
#define BT_POINTWISE_H

#include "bt_kernel.h"

typedef struct bt_plane {
  int rows, times;
} bt_plane;

/* out = result for every element of the box, where `x` is the element of in. Rows that follow each
 * other without a gap are one long row. */
#define BT_MAP(in, out, result)                                                                    \
  do {                                                                                             \
    const int times = box.t1 - box.t0;                                                             \
    const int whole = in.stride == times && out.stride == times;                                   \
    const int r1 = whole ? bt_min(box.r0 + 1, box.r1) : box.r1;                                    \
    const int n = whole ? times * (box.r1 - box.r0) : times;                                       \
    (void)g;                                                                                       \
    for (int r = box.r0; r < r1; r++) {                                                            \
      const float *from = bt_at(in, r, box.t0);                                                    \
      float *to = bt_to(out, r, box.t0);                                                           \
      for (int t = 0; t < n; t++) {                                                                \
        const float x = from[t];                                                                   \
        to[t] = (result);                                                                          \
      }                                                                                            \
    }                                                                                              \
  } while (0)

/* The same for two inputs, whose elements get the names `first` and `second`. */
#define BT_MAP_TWO(a, b, out, first, second, result)                                               \
  do {                                                                                             \
    const int times = box.t1 - box.t0;                                                             \
    const int whole = a.stride == times && b.stride == times && out.stride == times;               \
    const int r1 = whole ? bt_min(box.r0 + 1, box.r1) : box.r1;                                    \
    const int n = whole ? times * (box.r1 - box.r0) : times;                                       \
    (void)g;                                                                                       \
    for (int r = box.r0; r < r1; r++) {                                                            \
      const float *from_a = bt_at(a, r, box.t0), *from_b = bt_at(b, r, box.t0);                    \
      float *to = bt_to(out, r, box.t0);                                                           \
      for (int t = 0; t < n; t++) {                                                                \
        const float first = from_a[t], second = from_b[t];                                         \
        to[t] = (result);                                                                          \
      }                                                                                            \
    }                                                                                              \
  } while (0)

/* The same for a gradient: `s` is the element of the saved tensor, `up` that of dy. */
#define BT_MAP_GRADIENT(saved, dy, dx, result) BT_MAP_TWO(saved, dy, dx, s, up, result)

/* y = 0 where x <= 0, x elsewhere (so that NaN stays NaN) */
BT_KERNEL void bt_relu(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, x <= 0.0f ? 0.0f : x);
}

/* dx = 0 where y <= 0, dy elsewhere */
BT_KERNEL void bt_relu_dx(bt_plane g, bt_box box, bt_in y, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(y, dy, dx, s <= 0.0f ? 0.0f : up);
}

/* y = x where x > 0, slope x elsewhere */
BT_KERNEL void bt_leaky_relu(bt_plane g, bt_box box, bt_in in, bt_out y, float slope)
{
  BT_MAP(in, y, bt_selectf(x > 0.0f, x, slope * x));
}

/* dx = dy where x > 0, slope dy elsewhere; y has the sign of x if slope >= 0 and is saved then */
BT_KERNEL void bt_leaky_relu_dx(bt_plane g, bt_box box, bt_in saved, bt_in dy, bt_out dx,
                                float slope)
{
  BT_MAP_GRADIENT(saved, dy, dx, bt_selectf(s > 0.0f, up, slope * up));
}

/* e^x - 1 for x <= 0 and what it does not lose near 0: 2^n (e^r - 1) + (2^n - 1) */
BT_KERNEL float bt_expm1_negative(float x)
{
  uint32_t n;
  const float r = bt_exp_reduce(-bt_abs_at_most(x, 25.0f), &n);
  const float scale = bt_from_bits((n - 129u) << 23);
  return bt_fma(scale, bt_fma(r * r, bt_exp_poly(r), r), scale - 1.0f);
}

/* y = alpha (e^x - 1) where x < 0, x elsewhere */
BT_KERNEL void bt_elu(bt_plane g, bt_box box, bt_in in, bt_out y, float alpha)
{
  BT_MAP(in, y, bt_selectf(x < 0.0f, alpha * bt_expm1_negative(x), x));
}

/* dx = dy (y + alpha) where y <= 0, dy elsewhere */
BT_KERNEL void bt_elu_dx(bt_plane g, bt_box box, bt_in y, bt_in dy, bt_out dx, float alpha)
{
  BT_MAP_GRADIENT(y, dy, dx, up * (s <= 0.0f ? s + alpha : 1.0f));
}

/* Phi(x) = (1 + erf(x / sqrt 2)) / 2 */
BT_KERNEL float bt_normal_cdf(float x)
{
  return bt_fma(0.5f, bt_erff(x * 0x1.6a09e6p-1f), 0.5f);
}

/* y = x Phi(x) */
BT_KERNEL void bt_gelu(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, x * bt_normal_cdf(x));
}

/* dx = dy (Phi(x) + x e^(-x^2 / 2) / sqrt(2 pi)) */
BT_KERNEL void bt_gelu_dx(bt_plane g, bt_box box, bt_in in, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(in, dy, dx,
                  up * bt_fma(s * 0x1.988454p-2f, bt_expf(-0.5f * (s * s)), bt_normal_cdf(s)));
}

/* tanh(sqrt(2 / pi) (x + 0.044715 x^3)) */
BT_KERNEL float bt_gelu_inner(float x)
{
  return bt_tanhf(0x1.988454p-1f * bt_fma(0x1.6e4e26p-5f * x, x * x, x));
}

/* y = x (1 + tanh(...)) / 2 */
BT_KERNEL void bt_gelu_tanh(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, 0.5f * x * (1.0f + bt_gelu_inner(x)));
}

/* (1 + tanh + x (1 - tanh^2) sqrt(2 / pi) (1 + 3 0.044715 x^2)) / 2 */
BT_KERNEL float bt_gelu_tanh_slope(float x)
{
  const float inner = bt_gelu_inner(x);
  const float slope = 0x1.988454p-1f * bt_fma(0x1.12ba9cp-3f * x, x, 1.0f);
  return 0.5f * bt_fma(x * bt_fma(-inner, inner, 1.0f), slope, 1.0f + inner);
}

BT_KERNEL void bt_gelu_tanh_dx(bt_plane g, bt_box box, bt_in in, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(in, dy, dx, up * bt_gelu_tanh_slope(s));
}

BT_KERNEL void bt_sigmoid(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, bt_sigmoidf(x));
}

/* dx = dy (1 - y) y */
BT_KERNEL void bt_sigmoid_dx(bt_plane g, bt_box box, bt_in y, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(y, dy, dx, up * ((1.0f - s) * s));
}

BT_KERNEL void bt_tanh(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, bt_tanhf(x));
}

/* dx = dy (1 - y^2) */
BT_KERNEL void bt_tanh_dx(bt_plane g, bt_box box, bt_in y, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(y, dy, dx, up * bt_fma(-s, s, 1.0f));
}

/* y = x sigmoid(x) */
BT_KERNEL void bt_silu(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, x * bt_sigmoidf(x));
}

/* p (1 + x (1 - p)) with p = sigmoid(x) */
BT_KERNEL float bt_silu_slope(float x)
{
  const float p = bt_sigmoidf(x);
  return p * bt_fma(x, 1.0f - p, 1.0f);
}

BT_KERNEL void bt_silu_dx(bt_plane g, bt_box box, bt_in in, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(in, dy, dx, up * bt_silu_slope(s));
}

/* y = x where beta x > threshold, log(1 + e^(beta x)) / beta elsewhere */
BT_KERNEL void bt_softplus(bt_plane g, bt_box box, bt_in in, bt_out y, float beta, float threshold)
{
  BT_MAP(in, y, bt_selectf(x * beta > threshold, x, bt_log1pf(bt_expf(x * beta)) / beta));
}

/* dx = dy where beta x > threshold, dy sigmoid(beta x) elsewhere */
BT_KERNEL void bt_softplus_dx(bt_plane g, bt_box box, bt_in in, bt_in dy, bt_out dx, float beta,
                              float threshold)
{
  BT_MAP_GRADIENT(in, dy, dx,
                  up * bt_selectf(s * beta > threshold, 1.0f, bt_sigmoidf(s * beta)));
}

BT_KERNEL void bt_square(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, x * x);
}

/* dx = 2 x dy */
BT_KERNEL void bt_square_dx(bt_plane g, bt_box box, bt_in in, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(in, dy, dx, 2.0f * s * up);
}

BT_KERNEL void bt_log(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, bt_logf(x));
}

/* dx = dy / x */
BT_KERNEL void bt_log_dx(bt_plane g, bt_box box, bt_in in, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(in, dy, dx, up / s);
}

BT_KERNEL void bt_sqrt(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, bt_sqrtf(x));
}

/* dx = dy / (2 y) */
BT_KERNEL void bt_sqrt_dx(bt_plane g, bt_box box, bt_in y, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(y, dy, dx, up / (2.0f * s));
}

BT_KERNEL void bt_reciprocal(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, 1.0f / x);
}

/* dx = -dy y^2 */
BT_KERNEL void bt_reciprocal_dx(bt_plane g, bt_box box, bt_in y, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(y, dy, dx, -up * (s * s));
}

BT_KERNEL void bt_exp(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, bt_expf(x));
}

/* dx = dy y */
BT_KERNEL void bt_exp_dx(bt_plane g, bt_box box, bt_in y, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(y, dy, dx, up * s);
}

BT_KERNEL void bt_abs(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, bt_absf(x));
}

/* dx = dy, -dy or 0: the sign of x */
BT_KERNEL void bt_abs_dx(bt_plane g, bt_box box, bt_in in, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(in, dy, dx, up * ((s > 0.0f ? 1.0f : 0.0f) - (s < 0.0f ? 1.0f : 0.0f)));
}

/* The smaller of high and the larger of low and x; NaN stays NaN. */
BT_KERNEL float bt_bounded(float x, float low, float high)
{
  const float y = x < low ? low : x;
  return y > high ? high : y;
}

BT_KERNEL void bt_clamp(bt_plane g, bt_box box, bt_in in, bt_out y, float low, float high)
{
  BT_MAP(in, y, bt_bounded(x, low, high));
}

/* dx = dy where low <= x <= high, 0 elsewhere */
BT_KERNEL void bt_clamp_dx(bt_plane g, bt_box box, bt_in in, bt_in dy, bt_out dx, float low,
                           float high)
{
  BT_MAP_GRADIENT(in, dy, dx, bt_selectf((s >= low) & (s <= high), up, 0.0f));
}

BT_KERNEL void bt_hardtanh(bt_plane g, bt_box box, bt_in in, bt_out y, float low, float high)
{
  BT_MAP(in, y, bt_bounded(x, low, high));
}

/* dx = 0 where y <= low or y >= high, dy elsewhere */
BT_KERNEL void bt_hardtanh_dx(bt_plane g, bt_box box, bt_in y, bt_in dy, bt_out dx, float low,
                              float high)
{
  BT_MAP_GRADIENT(y, dy, dx, bt_selectf((s <= low) | (s >= high), 0.0f, up));
}

/* scale x + shift; with a scale of 1 or a shift of 0 that is one operation, and -0 stays */
BT_KERNEL float bt_affine_of(float x, float scale, float shift)
{
  if (shift >= 0.0f && shift <= 0.0f)
    return scale * x;
  return bt_fma(scale, x, shift);
}

BT_KERNEL void bt_affine(bt_plane g, bt_box box, bt_in in, bt_out y, float scale, float shift)
{
  BT_MAP(in, y, bt_affine_of(x, scale, shift));
}

#endif
