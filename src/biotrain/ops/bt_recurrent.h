/* SPDX-License-Identifier: Apache-2.0 */
/* Recurrent layers over steps, which are rows; features lie along time. The part of the gates that
 * the input makes, x[t] = w_ih input[t] + biases, is there before.
 *
 *   RNN   h = act(x + w h')
 *   LSTM  i, f, g, o = x + w h';  c = s(f) c' + s(i) tanh(g);  h = s(o) tanh(c)
 *   GRU   r = s(x_r + b_r + w_r h'), z = s(x_z + b_z + w_z h'), q = b_n + w_n h',
 *         n = tanh(x_n + r q)
 *         h = (1 - z) n + z h'
 *
 * with s(a) = 1 / (1 + e^-a) and h', c' those of the step before, 0 before the first. Sums over h' run
 * in leaves; the gradients go from the last step to the first. `reverse`: steps count from the end. */
#ifndef BT_RECURRENT_H
#define BT_RECURRENT_H

#include "bt_kernel.h"

typedef struct bt_recurrent {
  int steps, size; /* features of h */
  int reverse, relu;
} bt_recurrent;

/* Row of step i, and that of the step before it or -1. */
BT_KERNEL int bt_step_row(bt_recurrent g, int i) { return g.reverse ? g.steps - 1 - i : i; }
BT_KERNEL int bt_step_before(bt_recurrent g, int i) { return i == 0 ? -1 : bt_step_row(g, i - 1); }

/* x + row of w times h, leaf by leaf; x itself where there is no h. */
BT_KERNEL float bt_gate(float x, const float *w, const float *h, int n)
{
  if (h)
    for (int i = 0; i < n; i += BT_LEAF)
      BT_JOIN_LEAF(x, bt_leaf_dot(w + i, h + i, bt_min(BT_LEAF, n - i)));
  return x;
}

/* d[j] += sum over gates k of w[k, j] up[k], gate by gate. */
BT_KERNEL void bt_gates_back(const float *w, const float *up, float *d, int gates, int n)
{
  for (int k = 0; k < gates; k++)
    for (int j = 0; j < n; j++)
      d[j] = bt_fma(w[k * n + j], up[k], d[j]);
}

BT_KERNEL void bt_rnn(bt_recurrent g, bt_box box, const float *x, const float *w, float *h)
{
  (void)box;
  const int n = g.size;
  for (int i = 0; i < g.steps; i++) {
    const int t = bt_step_row(g, i), p = bt_step_before(g, i);
    for (int j = 0; j < n; j++) {
      const float a = bt_gate(x[t * n + j], w + j * n, p < 0 ? NULL : h + p * n, n);
      h[t * n + j] = g.relu ? (a <= 0.0f ? 0.0f : a) : bt_tanhf(a);
    }
  }
}

/* dx is what reaches the gates; carry has the size of h. */
BT_KERNEL void bt_rnn_dx(bt_recurrent g, bt_box box, const float *h, const float *dh, const float *w,
                         float *dx, float *carry)
{
  (void)box;
  const int n = g.size;
  for (int j = 0; j < n; j++)
    carry[j] = 0.0f;
  for (int i = g.steps - 1; i >= 0; i--) {
    const int t = bt_step_row(g, i);
    for (int j = 0; j < n; j++) {
      const float y = h[t * n + j], up = dh[t * n + j] + carry[j];
      dx[t * n + j] = g.relu ? (y <= 0.0f ? 0.0f : up) : up * bt_fma(-y, y, 1.0f);
      carry[j] = 0.0f;
    }
    bt_gates_back(w, dx + t * n, carry, n, n);
  }
}

/* gates: i, f, g, o after their functions; it may lie on x. */
BT_KERNEL void bt_lstm(bt_recurrent g, bt_box box, const float *x, const float *w, float *h, float *c,
                       float *gates)
{
  (void)box;
  const int n = g.size;
  for (int i = 0; i < g.steps; i++) {
    const int t = bt_step_row(g, i), p = bt_step_before(g, i);
    float *a = gates + t * 4 * n;
    for (int k = 0; k < 4 * n; k++) {
      const float sum = bt_gate(x[t * 4 * n + k], w + k * n, p < 0 ? NULL : h + p * n, n);
      a[k] = k / n == 2 ? bt_tanhf(sum) : bt_sigmoidf(sum);
    }
    for (int j = 0; j < n; j++) {
      const float old = p < 0 ? 0.0f : c[p * n + j];
      c[t * n + j] = bt_fma(a[n + j], old, a[j] * a[2 * n + j]);
      h[t * n + j] = a[3 * n + j] * bt_tanhf(c[t * n + j]);
    }
  }
}

/* dc: gradients of the states, or NULL; dx may lie on gates; carry has twice the size of h. */
BT_KERNEL void bt_lstm_dx(bt_recurrent g, bt_box box, const float *gates, const float *c,
                          const float *dh, const float *dc, const float *w, float *dx, float *carry)
{
  (void)box;
  const int n = g.size;
  for (int j = 0; j < 2 * n; j++)
    carry[j] = 0.0f;
  for (int i = g.steps - 1; i >= 0; i--) {
    const int t = bt_step_row(g, i), p = bt_step_before(g, i);
    const float *a = gates + t * 4 * n;
    float *d = dx + t * 4 * n;
    for (int j = 0; j < n; j++) {
      const float in = a[j], keep = a[n + j], cand = a[2 * n + j], out = a[3 * n + j];
      const float y = bt_tanhf(c[t * n + j]), up = dh[t * n + j] + carry[j];
      float state = carry[n + j];
      if (dc)
        state += dc[t * n + j];
      state = bt_fma(up * out, bt_fma(-y, y, 1.0f), state);
      d[j] = state * cand * (in * (1.0f - in));
      d[n + j] = p < 0 ? 0.0f : state * c[p * n + j] * (keep * (1.0f - keep));
      d[2 * n + j] = state * in * bt_fma(-cand, cand, 1.0f);
      d[3 * n + j] = up * y * (out * (1.0f - out));
      carry[n + j] = state * keep;
      carry[j] = 0.0f;
    }
    bt_gates_back(w, d, carry, 4 * n, n);
  }
}

/* gates: r, z, n after their functions, and q; b: biases of the sums over h', or NULL. */
BT_KERNEL void bt_gru(bt_recurrent g, bt_box box, const float *x, const float *w, const float *b,
                      float *h, float *gates)
{
  (void)box;
  const int n = g.size;
  for (int i = 0; i < g.steps; i++) {
    const int t = bt_step_row(g, i), p = bt_step_before(g, i);
    const float *old = p < 0 ? NULL : h + p * n, *from = x + t * 3 * n;
    float *a = gates + t * 4 * n;
    for (int j = 0; j < n; j++) {
      const float x_r = b ? from[j] + b[j] : from[j], x_z = b ? from[n + j] + b[n + j] : from[n + j];
      const float r = bt_sigmoidf(bt_gate(x_r, w + j * n, old, n));
      const float z = bt_sigmoidf(bt_gate(x_z, w + (n + j) * n, old, n));
      const float q = bt_gate(b ? b[2 * n + j] : 0.0f, w + (2 * n + j) * n, old, n);
      const float cand = bt_tanhf(bt_fma(r, q, from[2 * n + j]));
      a[j] = r;
      a[n + j] = z;
      a[2 * n + j] = cand;
      a[3 * n + j] = q;
      h[t * n + j] = bt_fma(z, (old ? old[j] : 0.0f) - cand, cand);
    }
  }
}

/* dx: what reaches x; dw: what reaches the gates from h', which differs in n; carry has the size of h. */
BT_KERNEL void bt_gru_dx(bt_recurrent g, bt_box box, const float *gates, const float *h,
                         const float *dh, const float *w, float *dx, float *dw, float *carry)
{
  (void)box;
  const int n = g.size;
  for (int j = 0; j < n; j++)
    carry[j] = 0.0f;
  for (int i = g.steps - 1; i >= 0; i--) {
    const int t = bt_step_row(g, i), p = bt_step_before(g, i);
    const float *a = gates + t * 4 * n;
    float *d = dx + t * 3 * n, *e = dw + t * 3 * n;
    for (int j = 0; j < n; j++) {
      const float r = a[j], z = a[n + j], cand = a[2 * n + j], q = a[3 * n + j];
      const float old = p < 0 ? 0.0f : h[p * n + j], up = dh[t * n + j] + carry[j];
      const float dn = up * (1.0f - z) * bt_fma(-cand, cand, 1.0f);
      d[j] = e[j] = dn * q * (r * (1.0f - r));
      d[n + j] = e[n + j] = up * (old - cand) * (z * (1.0f - z));
      d[2 * n + j] = dn;
      e[2 * n + j] = dn * r;
      carry[j] = up * z;
    }
    bt_gates_back(w, e, carry, 3 * n, n);
  }
}

#endif
