/* SPDX-License-Identifier: Apache-2.0 */
/* Sine and cosine, element by element. */
#ifndef BT_TRIG_H
#define BT_TRIG_H

#include "bt_pointwise.h"

/* Arguments are reduced exactly up to this size; beyond it the functions give NaN, so that a window
 * is refused instead of learned wrongly. */
#define BT_TRIG_LIMIT 8192.0f

/* sin(x + quarter pi / 2). x = k pi / 2 + r with |r| <= pi / 4, where k times the first two parts of
 * pi / 2 is exact; the polynomials in r are those of Cephes (S. Moshier, sinf.c). */
BT_KERNEL float bt_sin_turned(float x, int quarter)
{
  if (!(bt_absf(x) <= BT_TRIG_LIMIT))
    return bt_from_bits(0x7FC00000u);
  const float k = (x * 0.636619772f + 12582912.0f) - 12582912.0f;
  float r = x - k * 1.5703125f;
  r = r - k * 4.837512969970703125e-4f;
  r = r - k * 7.549789954891882e-8f;
  const int turn = ((int)k + quarter) & 3;
  const float z = r * r;
  const float odd = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
  const float even =
      1.0f - 0.5f * z +
      z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
  const float y = turn & 1 ? even : odd;
  return turn & 2 ? -y : y;
}

/* y = sin x */
BT_KERNEL void bt_sin(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, bt_sin_turned(x, 0));
}

/* dx = cos(x) dy */
BT_KERNEL void bt_sin_dx(bt_plane g, bt_box box, bt_in in, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(in, dy, dx, bt_sin_turned(s, 1) * up);
}

/* y = cos x */
BT_KERNEL void bt_cos(bt_plane g, bt_box box, bt_in in, bt_out y)
{
  BT_MAP(in, y, bt_sin_turned(x, 1));
}

/* dx = -sin(x) dy */
BT_KERNEL void bt_cos_dx(bt_plane g, bt_box box, bt_in in, bt_in dy, bt_out dx)
{
  BT_MAP_GRADIENT(in, dy, dx, bt_sin_turned(s, 2) * up);
}

#endif
