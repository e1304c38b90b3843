/* SPDX-License-Identifier: Apache-2.0 */
/* Convolutions whose outputs lie more than a sample apart, on cores without vectors (bt_conv.h, which
 * includes this): four or eight outputs in registers. Where outputs are up to four samples apart, the
 * samples that they share slide through registers; else each tap loads its eight. The sums run in the
 * order of bt_conv.h. */
#ifndef BT_CONV_STRIDE_H
#define BT_CONV_STRIDE_H

/* s[j] += sum_k w[k] x[k xs + j gap] for `taps` taps, the first `fours` by four. */
BT_KERNEL void bt_conv_stride_taps(float s[8], int fours, int taps, const float *w, const float *x,
                                   int xs, int gap)
{
  int k = 0;
  for (; k < fours; k += 4)
    BT_BLOCK_EACH(i, 4) {
      bt_block_tap_at(s, *w, x, gap);
      w++, x += xs;
      BT_BLOCK_HERE;
    }
  for (; k < taps; k++, w++, x += xs)
    bt_block_tap_at(s, *w, x, gap);
}

/* s[j] += w v[(k + j gap) mod width] for n outputs, 4 or 8. */
BT_KERNEL void bt_conv_slide_tap(float s[8], const float v[16], int n, int gap, int k, float w)
{
  const int width = n * gap;
  BT_BLOCK_EACH(q, 2)
    if (4 * q < n)
      bt_block_four(s + 4 * q, w, v[(k + 4 * q * gap) % width], v[(k + (4 * q + 1) * gap) % width],
                    v[(k + (4 * q + 2) * gap) % width], v[(k + (4 * q + 3) * gap) % width]);
}

/* s[j] += sum_k w[k ws] x[(k + j gap) xs] for `count` taps, at most n gap; sample m is in
 * v[m mod (n gap)], and the next one comes in with each tap. */
BT_KERNEL void bt_conv_slide_taps(float s[8], float v[16], int n, int gap, int count, const float *w,
                                  int ws, const float *x, int xs)
{
  const int width = n * gap, ahead = width - gap;
  BT_BLOCK_EACH(p, 8) {
    const int k = 2 * p;
    if (k < count) {
      const float w0 = w[k * ws], w1 = k + 1 < count ? w[(k + 1) * ws] : 0.0f;
      v[(k + ahead) % width] = x[(k + ahead) * xs];
      bt_conv_slide_tap(s, v, n, gap, k, w0);
      if (k + 1 < count) {
        v[(k + 1 + ahead) % width] = x[(k + 1 + ahead) * xs];
        bt_conv_slide_tap(s, v, n, gap, k + 1, w1);
      }
      BT_BLOCK_HERE;
    }
  }
}

/* s[j] += sum_k w[k ws] x[(k + j gap) xs] for `taps` taps and n outputs, with n gap <= 16. */
BT_KERNEL void bt_conv_slide(float s[8], int n, int gap, int taps, const float *w, int ws,
                             const float *x, int xs)
{
  const int width = n * gap;
  float v[16];
  BT_BLOCK_EACH(h, 4)
    BT_BLOCK_EACH(i, 4)
      if (4 * h + i < width - gap)
        v[4 * h + i] = x[(4 * h + i) * xs];
  int left = taps;
  for (; left >= width; left -= width) {
    bt_conv_slide_taps(s, v, n, gap, width, w, ws, x, xs);
    w += width * ws;
    x += width * xs;
  }
  bt_conv_slide_taps(s, v, n, gap, left, w, ws, x, xs);
}

/* Whether outputs share samples in registers. */
BT_KERNEL int bt_conv_stride_slides(bt_conv g)
{
  return g.dilation == 1 && g.stride <= 4 && g.taps >= 2 * g.stride;
}

/* Outputs t to t + n - 1 of row r: one, or, where no tap leaves the input, four or eight. */
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
      if (n > 1 && bt_conv_stride_slides(g)) {
        bt_conv_slide(s, n, g.stride, g.taps, wk, 1, row + (first - x.t0), 1);
        continue;
      }
      if (n > 1) {
        bt_conv_stride_taps(s, g.taps / 4 * 4, g.taps, wk, row + (first - x.t0), g.dilation,
                            g.stride);
        continue;
      }
      const int lo = bt_max(0, bt_ceil_div(-first, g.dilation));
      const int hi = bt_min(g.taps, bt_floor_div(g.times - 1 - first, g.dilation) + 1);
      for (int k = lo; k < hi; k++)
        s[0] = bt_fma(wk[k], row[first + k * g.dilation - x.t0], s[0]);
    }
  float *const to = bt_to(y, r, t);
  BT_BLOCK_EACH(j, 8)
    if (j < n)
      to[j] = s[j];
}

/* Row r in blocks. The last one begins where it ends with the last output whose taps are all inside: it
 * makes some outputs again. */
BT_KERNEL void bt_conv_stride_row(bt_conv g, bt_box box, int r, bt_in x, const float *w,
                                  const float *b, bt_out y)
{
  const int n = bt_conv_stride_slides(g) && g.stride > 2 ? 4 : 8;
  const int last = g.times - 1 + g.padding - (g.taps - 1) * g.dilation; /* its first tap, at most */
  const int lo = bt_max(box.t0, bt_ceil_div(g.padding, g.stride));
  const int hi = bt_min(box.t1, bt_floor_div(last, g.stride) + 1);
  int t = box.t0;
  if (hi - lo >= n) {
    for (; t < lo; t++)
      bt_conv_stride_outputs(g, r, t, 1, x, w, b, y);
    for (; t < hi; t += n)
      bt_conv_stride_outputs(g, r, bt_min(t, hi - n), n, x, w, b, y);
    t = hi;
  }
  for (; t < box.t1; t++)
    bt_conv_stride_outputs(g, r, t, 1, x, w, b, y);
}

/* Inputs t, t + stride, ..., n of them, of row r: 1, or 8 where the dilation is 1 and no tap leaves the
 * gradient. Only every stride-th tap meets them, from k0 = (t + padding) mod stride on. */
BT_KERNEL void bt_conv_stride_inputs(bt_conv g, int r, int t, int k0, int n, bt_in dy,
                                     const float *w, bt_out dx)
{
  const int per_group = g.channels / g.groups, outs = g.out_channels / g.groups;
  const int c = r / g.rows, at = r % g.rows;
  const int group = c / per_group, i = c % per_group;
  const int up0 = (t + g.padding) / g.stride;
  float s[8] = {0.0f};
  for (int o = group * outs; o < (group + 1) * outs; o++)
    for (int kh = 0; kh < g.kernel_rows; kh++) {
      const int up = at + g.row_padding - kh * g.row_dilation;
      if (up < 0 || up % g.row_stride != 0 || up / g.row_stride >= g.out_rows)
        continue;
      const float *row = bt_at(dy, o * g.out_rows + up / g.row_stride, dy.t0);
      const float *wk = w + ((o * per_group + i) * g.kernel_rows + kh) * g.taps;
      if (n == 8) /* the last one first: samples come in from the left */
        bt_conv_slide(s, 8, 1, (g.taps - k0 + g.stride - 1) / g.stride, wk + k0, g.stride,
                      row + (up0 + 7 - dy.t0), -1);
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
    bt_block_store(s, bt_to(dx, r, t) + 7 * g.stride, -g.stride);
  else
    *bt_to(dx, r, t) = s[0];
}

/* Row r of dx in blocks, as bt_conv_stride_row, for each place between two outputs. */
BT_KERNEL void bt_conv_stride_row_dx(bt_conv g, bt_box box, int r, bt_in dy, const float *w,
                                     bt_out dx)
{
  const int most = (g.taps + g.stride - 1) / g.stride; /* taps that meet an input */
  BT_BLOCK_EACH(k0, g.stride) {
    /* inputs up stride + k0 - padding for up in [from, to), those of whole blocks in [lo, hi) */
    const int from = bt_ceil_div(box.t0 + g.padding - k0, g.stride);
    const int to = bt_ceil_div(box.t1 + g.padding - k0, g.stride);
    const int lo = bt_max(from, most - 1), hi = bt_min(to, g.out_times), at = k0 - g.padding;
    int up = from;
    if (g.dilation == 1 && hi - lo >= 8) {
      for (; up < lo; up++)
        bt_conv_stride_inputs(g, r, up * g.stride + at, k0, 1, dy, w, dx);
      for (; up < hi; up += 8)
        bt_conv_stride_inputs(g, r, bt_min(up, hi - 8) * g.stride + at, k0, 8, dy, w, dx);
      up = hi;
    }
    for (; up < to; up++)
      bt_conv_stride_inputs(g, r, up * g.stride + at, k0, 1, dy, w, dx);
  }
}

#endif
