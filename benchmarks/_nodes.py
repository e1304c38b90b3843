# SPDX-License-Identifier: Apache-2.0
"""Where a training step spends its time on this machine: its C with a clock before every node.

Also what the core can do at most: multiply-adds that stay in registers, and copies in the cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from biotrain.emit import RUNTIME
from biotrain.ir.graph import flat_nodes
from biotrain.ir.op import OPS
from biotrain.ops import SOURCES
from biotrain.package import Package, fused_on
from biotrain.run.compiler import shared_library
from biotrain.run.host import OPTIMISED, HostDevice
from biotrain.run.profile import marks
from biotrain.targets.target import load_target

Clock = Callable[[Callable[[], object]], float]

MOST = 1024

CLOCK = f"""
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <time.h>
extern int64_t bt_spent[{MOST}];
extern void bt_tick(int node);
int64_t bt_spent[{MOST}];
static int64_t last;
static int current;
void bt_tick(int node)
{{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t t = now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
  bt_spent[current] += t - last;
  last = t;
  current = node;
}}
"""

PEAK = """
#include "bt_vector.h"
extern float bt_peak(int rounds);
extern void bt_copy_rounds(const float *from, float *to, int n, int rounds);
#if BT_VECTOR
enum { LANES = BT_VECTOR };
typedef bt_vec value;
#define FMA(x) x = bt_vec_fma(x, b, c)
#define OF(x) bt_vec_of(x)
#define ADD(x, y) bt_vec_add(x, y)
#else
enum { LANES = 1 };
typedef float value;
#define FMA(x) x = bt_fma(x, b, c)
#define OF(x) (x)
#define ADD(x, y) ((x) + (y))
#endif
extern const int bt_peak_lanes;
const int bt_peak_lanes = LANES;
/* 16 chains of multiply-adds in registers: longer than any core's latency. */
float bt_peak(int rounds)
{
  const value b = OF(0.999f), c = OF(0.001f);
  value x0 = OF(0.0f), x1 = OF(0.1f), x2 = OF(0.2f), x3 = OF(0.3f);
  value x4 = OF(0.4f), x5 = OF(0.5f), x6 = OF(0.6f), x7 = OF(0.7f);
  value y0 = OF(1.0f), y1 = OF(1.1f), y2 = OF(1.2f), y3 = OF(1.3f);
  value y4 = OF(1.4f), y5 = OF(1.5f), y6 = OF(1.6f), y7 = OF(1.7f);
  for (int i = 0; i < rounds; i++) {
    FMA(x0); FMA(x1); FMA(x2); FMA(x3); FMA(x4); FMA(x5); FMA(x6); FMA(x7);
    FMA(y0); FMA(y1); FMA(y2); FMA(y3); FMA(y4); FMA(y5); FMA(y6); FMA(y7);
  }
  x0 = ADD(ADD(ADD(x0, x1), ADD(x2, x3)), ADD(ADD(x4, x5), ADD(x6, x7)));
  y0 = ADD(ADD(ADD(y0, y1), ADD(y2, y3)), ADD(ADD(y4, y5), ADD(y6, y7)));
  x0 = ADD(x0, y0);
  float sum;
  memcpy(&sum, &x0, sizeof sum);
  return sum;
}
void bt_copy_rounds(const float *from, float *to, int n, int rounds)
{
  for (int r = 0; r < rounds; r++)
    for (int i = 0; i < n; i++)
      to[i] = from[i] + (float)r;
}
"""


class Core:
    """What one core can do at most, measured with the compiler and the flags of the host device."""

    def __init__(self) -> None:
        files = {name: (RUNTIME / name).read_text() for name in ("bt_math.h", "bt_kernel.h")}
        files["bt_string.h"] = (RUNTIME / "bt_string.h").read_text()
        files["bt_vector.h"] = (SOURCES / "bt_vector.h").read_text()
        fused = int(fused_on(load_target("host")))
        files["peak.c"] = f"#define BT_FUSED {fused}\n{PEAK}"
        self._c = ctypes.CDLL(str(shared_library(files, OPTIMISED)))
        self._c.bt_peak.restype = ctypes.c_float
        self.lanes = ctypes.c_int.in_dll(self._c, "bt_peak_lanes").value

    def gflops(self, seconds: Clock) -> float:
        """Multiplies and adds per nanosecond; `seconds` measures a function."""
        rounds = 200_000
        best = min(seconds(lambda: self._c.bt_peak(rounds)) for _ in range(9))
        return 2 * 16 * self.lanes * rounds / best * 1e-9

    def gbytes(self, seconds: Clock, kilobytes: int) -> float:
        """Bytes read and written per nanosecond, of two tensors of this size together."""
        n = kilobytes * 128
        a, b = np.ones(n, np.float32), np.ones(n, np.float32)
        rounds = max(1, 4_000_000 // n)
        ends = a.ctypes.data_as(ctypes.c_void_p), b.ctypes.data_as(ctypes.c_void_p)
        best = min(seconds(lambda: self._c.bt_copy_rounds(*ends, n, rounds)) for _ in range(9))
        return 8 * n * rounds / best * 1e-9


@dataclass(frozen=True)
class NodeTime:
    """A node of the schedule: one sample's share of a training step."""

    name: str
    op: str
    layer: str
    microseconds: float
    macs: int
    """Nominal, of the direct algorithm."""
    ops: int
    """Multiplies and adds that are executed."""
    bytes: int
    """Of all tensors that it reads and writes, each once."""


def node_times(pkg: Package, x: np.ndarray, y: np.ndarray, rounds: int) -> list[NodeTime]:
    """Times of the nodes of `bt_train_sample` and `bt_step`, in their order.

    They are lower quartiles: the clock goes on while another process has the core.
    """
    source = pkg.files["model.c"]
    text, names, places = source.split("\n"), ["(other)"], [None]
    found = {line: place for line, place in marks(source) if place.node}
    lines = ["extern void bt_tick(int node);"]
    for number, line in enumerate(text, 1):
        place = found.get(number)
        if place and place.kernel and place.function in ("bt_train_sample", "bt_step"):
            lines.append(f"bt_tick({len(names)});")
            names.append(place.node)
            places.append(place)
        if line.strip() in ("return BT_OK;", "m->samples++;"):
            lines.append("bt_tick(0);")
        lines.append(line)
    timed = {**pkg.files, "model.c": "\n".join(lines), "clock.c": CLOCK}
    watched = replace(pkg)
    vars(watched)["files"] = timed
    device = HostDevice(watched)
    spent = (ctypes.c_int64 * MOST).in_dll(device._c, "bt_spent")
    rows = []
    for _ in range(rounds + 1):
        device._c.bt_tick(0)
        ctypes.memset(spent, 0, ctypes.sizeof(spent))
        device.train(x, y)
        rows.append(list(spent[: len(names)]))
    nodes = {}
    for node in flat_nodes([*pkg.source.train.nodes, *pkg.source.train.updates]):
        nodes[f"{', '.join(v.name for v in node.outputs)} = {node.op}"] = node
    times = []
    for i, name in enumerate(names):
        us = 1e-3 * float(np.percentile([row[i] for row in rows[1:]], 25)) / len(x)
        node, place = nodes.get(name), places[i]
        size = sum(4 * v.size for v in (*node.inputs, *node.outputs)) if node else 0
        op = OPS[node.op] if node else None
        times.append(
            NodeTime(
                name,
                node.op if node else "other",
                place.layer if place else "",
                us,
                op.macs(node) if op and node else 0,
                op.ops(node) if op and node else 0,
                size,
            )
        )
    return times
