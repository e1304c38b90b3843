# SPDX-License-Identifier: Apache-2.0
"""Sizes, latencies and addresses of the cluster.

GAP9's maker publishes cores, L1 (128 kB) and L2 (1.5 MB). What is not public is taken from Vega,
the research chip of the same family (Rossi et al., IEEE JSSC 57(1), 2022, arXiv 2110.09101), and
from the open PULP cluster; `docs/cluster.md` says which is which.
"""

from __future__ import annotations

from dataclasses import dataclass

from biotrain.run.cv32e40p_cycles import Fpu

L1_ORIGIN = 0x1000_0000
L2_ORIGIN = 0x1C00_0000
BARRIER_WAIT = 0x1020_421C
"""A load of it is answered when all cores have loaded it (PULP's event unit)."""
DMA_COMMAND = 0x1020_4400
DMA_STATUS = 0x1020_4404
"""Registers of PULP's MCHAN, where the cores see it."""
DMA_DONE = 0x1020_4440
"""A load of `DMA_DONE + 4 n` is answered when transfer n has ended. Not PULP's: there a core sleeps
until an event and looks at the status."""
MARK = 0x1020_5000
"""A store records the counters of all cores. Not PULP's."""
END = 0x1A10_40A0
"""A store ends the core (PULP's register of the core's status)."""

REASONS = ("instructions", "conflict", "l2", "icache", "fpu", "barrier", "dma", "pipeline")
"""What a cycle of a core goes into: an instruction; or none, because a bank of L1 served another
master, a load or store of L2 is on its way, an instruction is not in the private cache, a shared
FPU works for another core, the core waits at the barrier or for the DMA, or for its own pipeline
(results of the instructions before, taken branches). `Spent` in core.hpp has the same order."""


@dataclass(frozen=True)
class ClusterSettings:
    """A cluster; the defaults are GAP9's as far as they are known."""

    cores: int = 8
    fpus: int = 8
    """Core c uses FPU c mod `fpus`."""
    fpu: Fpu = Fpu()  # noqa: RUF009 - a frozen dataclass
    """Latencies of an FPU; `zfinx` for floats in the integer registers."""
    l1_bytes: int = 128 << 10
    l1_banks: int = 16
    l2_bytes: int = 1536 << 10
    l2_latency: int = 8
    """Cycles from a granted access of L2 to its answer: an assumption."""
    private_bytes: int = 512
    private_ways: int = 4
    """The private instruction cache of a core: 512 B in Vega."""
    shared_bytes: int = 4096
    shared_ways: int = 4
    shared_banks: int = 4
    """The shared instruction cache: 4 kB, four ways in Vega."""
    shared_latency: int = 2
    """Cycles from the shared cache to a private one (Chen et al., arXiv 2309.01299)."""
    barrier_latency: int = 4
    """Cycles from the last arrival to the answer: an assumption; with load and branch a barrier
    costs about six."""
    dma_start: int = 8
    """Cycles from the last word of a command to its first access: an assumption."""

    def __post_init__(self) -> None:
        lines = self.private_bytes // 16, self.shared_bytes // 16
        for what, holds in (
            ("cores: 1 to 8", 1 <= self.cores <= 8),
            ("fpus: 1 to as many as cores", 1 <= self.fpus <= self.cores),
            ("fpu: latencies of at least 1", min(self.fpu.addmul, self.fpu.others) >= 1),
            ("l1_banks: a power of two up to 64", self.l1_banks in (1, 2, 4, 8, 16, 32, 64)),
            ("memories: whole lines of 16 bytes", not (self.l1_bytes | self.l2_bytes) % 16),
            ("private_ways: a divisor of its lines", lines[0] and not lines[0] % self.private_ways),
            ("shared_ways: a divisor of its lines", lines[1] and not lines[1] % self.shared_ways),
        ):
            if not holds:
                raise ValueError(f"a cluster has {what}")

    @property
    def memories(self) -> tuple[tuple[int, int], ...]:
        """Origin and bytes of L1 and of L2."""
        return (L1_ORIGIN, self.l1_bytes), (L2_ORIGIN, self.l2_bytes)


PRIVATE_FPUS = ClusterSettings()
SHARED_FPUS = ClusterSettings(fpus=4)
"""Four FPUs for eight cores, as in Vega. GAP9's number is not public."""
