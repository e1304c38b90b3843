/* SPDX-License-Identifier: Apache-2.0 */
/* Convolutions whose outputs lie more than a sample apart, on cores without vectors (bt_conv.h, which
 * includes this): eight outputs in registers, each tap with its eight samples. The sums run in the
 * order of bt_conv.h. */
#ifndef BT_CONV_STRIDE_H
#define BT_CONV_STRIDE_H

/* s[j] += sum_k w[k ws] x[k xs + j gap] for `taps` taps, the first `fours` by four. */
BT_KERNEL void bt_conv_stride_taps(float s[8], int fours, int taps, const float *w, int ws,
                                   const float *x, int xs, int gap)
{
  int k = 0;
  for (; k < fours; k += 4)
    BT_BLOCK_EACH(i, 4) {
      bt_block_tap(s, *w, x[0], x[gap], x[2 * gap], x[3 * gap], x[4 * gap], x[5 * gap], x[6 * gap],
                   x[7 * gap]);
      w += ws, x += xs;
      BT_BLOCK_HERE;
    }
  for (; k < taps; k++, w += ws, x += xs)
    bt_block_tap(s, *w, x[0], x[gap], x[2 * gap], x[3 * gap], x[4 * gap], x[5 * gap], x[6 * gap],
                 x[7 * gap]);
}

/* Outputs t to t + n - 1 of row r, n = 1 or, where no tap leaves the input, 8. */
BT_KERNEL void bt_conv_stride_outputs(bt_conv g, int r, int t, int n, bt_in x, const float *w,
                                      const float *b, bt_out y)
{
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int o = r / g.out_rows, h = r % g.out_rows, first = t * g.stride - g.padding;
  const float z = b ? b[o] : 0.0f;
  float s[8] = {z, z, z, z, z, z, z, z};
  for (int i = 0; i < per_group; i++)
    for (int kh = 0; kh < g.kernel_rows; kh++) {
      const int from = h * g.row_stride + kh * g.row_dilation - g.row_padding;
      if (from < 0 || from >= g.rows)
        continue;
      const float *row = bt_at(x, (o / outs * per_group + i) * g.rows + from, x.t0);
      const float *wk = w + ((o * per_group + i) * g.kernel_rows + kh) * g.taps;
      if (n == 8) {
        bt_conv_stride_taps(s, g.taps / 4 * 4, g.taps, wk, 1, row + (first - x.t0), g.dilation,
                            g.stride);
        continue;
      }
      const int lo = bt_max(0, bt_ceil_div(-first, g.dilation));
      const int hi = bt_min(g.taps, bt_floor_div(g.times - 1 - first, g.dilation) + 1);
      for (int k = lo; k < hi; k++)
        s[0] = bt_fma(wk[k], row[first + k * g.dilation - x.t0], s[0]);
    }
  if (n == 8)
    bt_block_store(s, bt_to(y, r, t), 1);
  else
    *bt_to(y, r, t) = s[0];
}

BT_KERNEL void bt_conv_stride_row(bt_conv g, bt_box box, int r, bt_in x, const float *w,
                                  const float *b, bt_out y)
{
  const int end = g.times + g.padding - (g.taps - 1) * g.dilation; /* of the first sample */
  for (int t = box.t0; t < box.t1;) {
    const int whole = t * g.stride >= g.padding && t + 8 <= box.t1 && (t + 7) * g.stride < end;
    if (whole)
      bt_conv_stride_outputs(g, r, t, 8, x, w, b, y);
    else
      bt_conv_stride_outputs(g, r, t, 1, x, w, b, y);
    t += whole ? 8 : 1;
  }
}

/* Inputs t, t + stride, ..., n of them, of row r: 1, or 8 where the dilation is 1 and no tap leaves the
 * gradient. Only every stride-th tap meets them. */
BT_KERNEL void bt_conv_stride_inputs(bt_conv g, int r, int t, int n, bt_in dy, const float *w,
                                     bt_out dx)
{
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int c = r / g.rows, at = r % g.rows;
  const int group = c / per_group, i = c % per_group;
  const int k0 = (t + g.padding) % g.stride, up0 = (t + g.padding) / g.stride;
  float s[8] = {0.0f};
  for (int o = group * outs; o < (group + 1) * outs; o++)
    for (int kh = 0; kh < g.kernel_rows; kh++) {
      const int up = at + g.row_padding - kh * g.row_dilation;
      if (up < 0 || up % g.row_stride != 0 || up / g.row_stride >= g.out_rows)
        continue;
      const float *row = bt_at(dy, o * g.out_rows + up / g.row_stride, dy.t0);
      const float *wk = w + ((o * per_group + i) * g.kernel_rows + kh) * g.taps;
      if (n == 8)
        bt_conv_stride_taps(s, 0, (g.taps - k0 + g.stride - 1) / g.stride, wk + k0, g.stride,
                            row + (up0 - dy.t0), -1, 1);
      else if (g.dilation == 1) {
        const int skip = bt_max(0, up0 - (g.out_times - 1)); /* taps that meet what lies beyond */
        for (int k = k0 + skip * g.stride, u = up0 - skip; k < g.taps && u >= 0; k += g.stride, u--)
          s[0] = bt_fma(wk[k], row[u - dy.t0], s[0]);
      } else
        for (int k = 0; k < g.taps; k++) {
          const int from = t + g.padding - k * g.dilation;
          if (from >= 0 && from % g.stride == 0 && from / g.stride < g.out_times)
            s[0] = bt_fma(wk[k], row[from / g.stride - dy.t0], s[0]);
        }
    }
  if (n == 8)
    bt_block_store(s, bt_to(dx, r, t), g.stride);
  else
    *bt_to(dx, r, t) = s[0];
}

BT_KERNEL void bt_conv_stride_row_dx(bt_conv g, bt_box box, int r, bt_in dy, const float *w,
                                     bt_out dx)
{
  const int most = (g.taps + g.stride - 1) / g.stride; /* taps that meet an input */
  for (int phase = 0; phase < g.stride; phase++)
    for (int t = box.t0 + phase; t < box.t1;) {
      const int up = (t + g.padding) / g.stride;
      const int whole = g.dilation == 1 && up + 1 >= most && up + 8 <= g.out_times &&
                        t + 7 * g.stride < box.t1;
      if (whole)
        bt_conv_stride_inputs(g, r, t, 8, dy, w, dx);
      else
        bt_conv_stride_inputs(g, r, t, 1, dy, w, dx);
      t += (whole ? 8 : 1) * g.stride;
    }
}

#endif
