# SPDX-License-Identifier: Apache-2.0
"""Programs on the RTL cluster: eight cores, shared memories, DMA, barrier, counters."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import astuple, fields, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from biotrain.errors import EmulatorError
from biotrain.run import verilated
from biotrain.run.cluster import ClusterMachine, ClusterSettings, Spent, firmware, machine, settings
from biotrain.run.cv32e40p_cycles import Fpu
from biotrain.run.elf import Elf

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
try:
    import cluster_kernels
finally:
    sys.path.pop(0)

ZFINX = Fpu(zfinx=True)
WHOLE = ClusterSettings(fpu=ZFINX)
Build = Callable[[str, ClusterSettings], Path]

SUMS = """
#include "bt_cluster.h"
#define N 512
float x[N], back[N], quotients[N], sums[8];
float there[2 * N] BT_IN_L2(there);
int bt_cluster_main(int worker)
{
  if (worker == 0) /* rows of 64 bytes, 128 bytes apart in L2 */
    bt_cluster_wait(bt_cluster_move(1, x, there, 4 * N, 64, 128, 64));
  bt_cluster_barrier();
  if (worker == 0)
    bt_cluster_mark(1);
  float sum = 0;
  for (int i = worker; i < N; i += BT_CORES) {
    quotients[i] = there[i % 16 + i / 16 * 32] / 3.0f;
    sum = __builtin_fmaf(x[i], x[i], sum);
  }
  sums[worker] = sum;
  bt_cluster_barrier();
  if (worker == 0) {
    bt_cluster_mark(2);
    bt_cluster_wait(bt_cluster_move(0, quotients, there + 16, 4 * N, 64, 128, 64));
  }
  return 0;
}
"""

FAULTS = {
    "if (worker == 3) *(volatile int *)0x40000000;": "core 3 .* a load at 0x40000000",
    "if (worker == 3) *(volatile int *)0x40000000 = 1;": "core 3 .* a store at 0x40000000",
    'if (worker == 3) __asm__ volatile("ebreak");': "core 3 .* ebreak",
    "if (worker == 3) return 7;": "core 3 ended with exit code 7",
    "if (worker) bt_cluster_barrier();": "all cores wait",
    "if (worker == 3) bt_cluster_move(1, (void *)0x20000000, there, 8, 8, 0, 0);": "a DMA command",
    'while (worker == 3) __asm__ volatile("");': "no end after 100000 cycles",
}


@pytest.fixture(scope="module")
def build() -> Build:
    if reason := verilated.missing():
        pytest.skip(reason)
    if find_spec("elftools") is None or find_spec("ziglang") is None:
        pytest.skip("programs for the cluster need pyelftools and ziglang")
    return lambda text, cluster: firmware.build({"main.c": text}, cluster)


@pytest.mark.ci
def test_cores_give_the_bits_that_numpy_gives(build: Build, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((32, 32)).astype("<f4")
    x = rows[:, :16].ravel()
    found = {}
    for name, cluster in {
        "eight": WHOLE,
        "four FPUs": ClusterSettings(fpu=ZFINX, fpus=4),
        "one": ClusterSettings(fpu=ZFINX, cores=1, fpus=1),
    }.items():
        elf = build(SUMS, cluster)
        image = Elf(elf)
        device = ClusterMachine(elf, cluster, max_cycles=100_000)
        device.write(image.symbol("there")[0], rows.tobytes())
        device.run()
        there = np.frombuffer(device.read(image.symbol("there")[0], 4096), "<f4").reshape(32, 32)
        np.testing.assert_array_equal(there[:, :16], rows[:, :16])
        np.testing.assert_array_equal(there[:, 16:].ravel(), x / np.float32(3))
        sums = np.frombuffer(device.read(image.symbol("sums")[0], 32), "<f4")
        for worker in range(cluster.cores):
            expected = np.float32(0)
            for value in x[worker :: cluster.cores].astype("f8"):
                expected = np.float32(value * value + np.float64(expected))
            assert sums[worker] == expected
        spent = device.spent()
        assert spent[0].cycles == device.cycles == max(one.cycles for one in spent)
        assert spent[0].dma > 2 * 2048 // 8
        assert min(one.l2 for one in spent) >= 8 * 512 // cluster.cores
        assert device.events().dma_bytes == 4096
        one, two = device.marks()
        found[name] = two.cycle - one.cycle
        assert (one.value, two.value) == (1, 2)
        assert all(min(astuple(b - a)) >= 0 for a, b in zip(one.spent, two.spent, strict=True))
        device.close()
        with pytest.raises(EmulatorError, match="closed"):
            device.run()
    assert found["eight"] < found["four FPUs"] < found["one"]  # divisions wait for shared FPUs
    assert found["one"] > 5 * found["eight"]


BARS = {
    "F registers, gcc": (5.5, 5.5, 5.0),
    "F registers, zig": (5.5, 5.5, 5.0),
    "zfinx, zig": (5.2, 5.2, 4.8),
    "F registers, gcc, four FPUs": (3.5, 3.5, 3.5),
    "zfinx, zig, four FPUs": (3.5, 3.5, 3.3),  # two cores of a pair load at once (docs/cluster.md)
}
"""Multiply-adds per cycle of the three passes, by configuration."""


@pytest.mark.ci
def test_the_kernels_have_the_bits_of_one_core(build: Build) -> None:
    """A small depthwise convolution, rows split over the cores, in time with each other."""
    shape = cluster_kernels.Shape(rows=8, samples=96, taps=16)
    passes, results = cluster_kernels.measure(shape, WHOLE)
    one, expected = cluster_kernels.measure(shape, replace(WHOLE, cores=1, fpus=1))
    for name, values in results.items():
        assert values.tobytes() == expected[name].tobytes(), name
        assert np.count_nonzero(values) == values.size
    for eight, alone in zip(passes, one, strict=True):
        assert eight.cycles < alone.cycles / 5
        assert eight.spent.barrier < 0.1 * eight.spent.cycles
    cold, warm = passes[:2]
    assert warm.spent.icache < cold.spent.icache


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", BARS)
def test_kernels_are_as_fast_as_they_were(build: Build, name: str) -> None:
    cluster, compiler = cluster_kernels.configurations()[name]
    shape = cluster_kernels.Shape()
    passes, _ = cluster_kernels.measure(shape, cluster, compiler)
    rates = [shape.macs / one.cycles for one in passes if one.run == 0]
    assert all(rate >= bar for rate, bar in zip(rates, BARS[name], strict=True)), rates


@pytest.mark.ci
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_core_and_place(build: Build, fault: str) -> None:
    text = f"""
#include "bt_cluster.h"
float there[4] BT_IN_L2(there);
int bt_cluster_main(int worker)
{{
  {fault}
  return there[0] > 1;
}}
"""
    with pytest.raises(EmulatorError, match=FAULTS[fault]):
        ClusterMachine(build(text, WHOLE), WHOLE, max_cycles=100_000).run()


def test_python_and_cpp_agree_on_names() -> None:
    """Reasons, ends of a run, settings and addresses stand in both languages."""
    names = {path.name: path.read_text("utf-8") for path in machine.FOLDER.glob("*.hpp")}
    spent = names["core.hpp"].split("enum Spent {")[1].split("}")[0].split(",")
    assert len(spent) == len(settings.REASONS) + 1 == len(fields(Spent)) + 1
    assert [f.name for f in fields(Spent)] == list(settings.REASONS)
    stops = names["cluster.hpp"].split("enum Stop {")[1].split("}")[0].split(",")
    assert len(stops) == len(machine._STOPS)
    body = names["cluster.hpp"].split("struct Settings {")[1].split("}")[0]
    members = body.replace("uint32_t", "").replace(";", ",").split(",")
    expected = [name for name, *_ in machine._Settings._fields_]
    assert [m.strip() for m in members if m.strip()] == expected
    assert ctypes.sizeof(machine._Settings) == 4 * len(expected)
    for name in firmware.REGISTERS:
        assert f"{name} = 0x{getattr(settings, name):08X}" in names["cluster.hpp"]


def test_stacks_do_not_lie_on_one_bank() -> None:
    script = firmware.linker_script(WHOLE)
    assert "BT_STACK_BYTES = 2048" in script
    stride = 2048 + firmware.STACK_SKEW
    banks = {worker * stride // 4 % WHOLE.l1_banks for worker in range(WHOLE.cores)}
    assert len(banks) == 4  # as many as stack pointers that are multiples of 16 allow
