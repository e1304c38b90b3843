/* SPDX-License-Identifier: Apache-2.0 */
/* Ops that only move elements. */
#ifndef BT_SHAPE_H
#define BT_SHAPE_H

#include "bt_kernel.h"

#endif
