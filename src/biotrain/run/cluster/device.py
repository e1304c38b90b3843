# SPDX-License-Identifier: Apache-2.0
"""The package as firmware on the RTL cluster: a core per worker, exact to the cycle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import sub
from typing import Any

import numpy as np

from biotrain.emit import in_words_of
from biotrain.emit.build import Build
from biotrain.errors import BioTrainError
from biotrain.run.cluster.firmware import build
from biotrain.run.cluster.machine import MOST_CORES, ClusterMachine, Spent
from biotrain.run.cluster.settings import DMA_COMMAND, L2_ORIGIN, MARK, ClusterSettings
from biotrain.run.device import Executed
from biotrain.run.elf import Elf
from biotrain.run.firmware import BARE, Compiler, core_of, mailbox_files, optimised
from biotrain.run.lines import source_lines
from biotrain.run.mailbox import FIELDS, POINTER_BYTES
from biotrain.run.memory import PAINT
from biotrain.run.rtl_device import CONFIGURATIONS, RtlDevice
from biotrain.run.session import SLOT_BYTES, SessionDevice


@dataclass(frozen=True)
class WorkerCycles:
    """What the workers did since `restart_count`."""

    cycles: int
    """From the first instruction to the last, of worker 0's clock."""
    spent: tuple[Spent, ...]
    """Cycles of every worker, by what they went into."""


@dataclass(frozen=True)
class Interval:
    """What the workers did from one barrier to the next."""

    line: int
    """Line of `model.c` of the barrier that it begins with; 0 outside of the schedule."""
    cycles: int
    spent: tuple[Spent, ...]


class ClusterDevice(SessionDevice):
    """Firmware on the RTL cluster: weights, state and arena in L1, code and constants in L2.

    Some 300 000 core cycles a second are simulated; a core that waits costs nothing.
    """

    on = "rtl"

    def __init__(
        self,
        package: Build,
        *,
        compiler: Compiler | None = None,
        flags: Sequence[str] | None = None,
        settings: ClusterSettings | None = None,
        marks: bool = False,
    ) -> None:
        """Build the firmware and start it.

        flags : instead of those for speed or size.
        settings : sizes and latencies; cores and registers are those of the package.
        marks : worker 0 records the counters at every barrier, a few cycles each (`intervals`).

        Raises
        ------
        BioTrainError
            where there is no RTL of the package's core, or a cluster has fewer cores than the
            package has workers.
        CompilerError
            where a compiler is missing or refuses, or the package does not fit into L1.
        """
        cluster = cluster_for(package, settings)
        if package.plan.l1_bytes:  # windows that wait in the mailbox are not of the model's L2
            cluster = replace(cluster, l2_bytes=cluster.l2_bytes + SLOT_BYTES)
        memories = replace(cluster, l2_bytes=cluster.l2_bytes - SLOT_BYTES)
        slot = L2_ORIGIN + memories.l2_bytes
        files = {name: text for name, text in package.files.items() if name.endswith((".c", ".h"))}
        files |= in_words_of(package.source, mailbox_files(package))
        chosen = optimised(package) if flags is None else flags
        chosen = (*chosen, *BARE, *([f"-DBT_BARRIER_MARK={MARK}"] if marks else []))
        if package.plan.l1_bytes:
            chosen += (
                f"-DBT_DMA={DMA_COMMAND}",
                '-DBT_CONTEXT_PLACE=__attribute__((section(".l2.session")))',
            )
        stack = package.target.stack_bytes
        elf = build(files, memories, compiler=compiler, flags=chosen, stack_bytes=stack)
        image = Elf(elf)
        command = image.symbol("session")[0] + FIELDS.offset("command", POINTER_BYTES)
        idle = image.symbol("bt_idle")[0]
        self._cluster = ClusterMachine(elf, cluster, command_address=command, idle_address=idle)
        self._stacks = image.sections[".stacks"]
        self._cluster.write(self._stacks[0], PAINT * (self._stacks[1] // len(PAINT)))
        self._from = self._now()
        super().__init__(package, self._cluster, elf, slot)

    def restart_count(self) -> None:
        self._from = self._now()

    def worker_cycles(self) -> WorkerCycles:
        """Cycles since `restart_count`, and what those of every worker went into."""
        now = self._now()
        spent = tuple(map(sub, now.spent, self._from.spent))
        return WorkerCycles(now.cycles - self._from.cycles, spent)

    def touched_stacks(self) -> tuple[int, ...]:
        """Bytes of the stack of every worker from the lowest word that was written to its top."""
        at, size = self._stacks
        each = size // self._cluster.settings.cores
        found = []
        for worker in range(self._cluster.settings.cores):
            held = np.frombuffer(self._cluster.read(at + worker * each, each), "<u4")
            written = np.flatnonzero(held != int.from_bytes(PAINT[:4], "little"))
            found.append(each - 4 * int(written[0]) if len(written) else 0)
        return tuple(found)

    def intervals(self) -> list[Interval]:
        """The time since the first barrier after `restart_count`, barrier by barrier; of a device
        with `marks`."""
        lines = source_lines(self.elf.path, self.package.source.prefix + "model.c")
        marks = [m for m in self._cluster.marks() if m.cycle >= self._from.cycles]
        return [
            Interval(
                lines.line(a.value - 1),
                b.cycle - a.cycle,
                tuple(after - before for after, before in zip(b.spent, a.spent, strict=True)),
            )
            for a, b in pairwise(marks)
        ]

    def executed(self) -> Executed:
        found = self.worker_cycles()
        instructions = sum(one.instructions for one in found.spent)
        return Executed(instructions, found.cycles, "the RTL cluster", False)

    def _now(self) -> WorkerCycles:
        return WorkerCycles(self._cluster.cycles, self._cluster.spent())


def cluster_for(package: Build, settings: ClusterSettings | None = None) -> ClusterSettings:
    """The cluster on which a package runs: a core per worker, with the registers of its target."""
    target, workers = package.target, package.source.workers
    core = core_of(target)
    if core.rtl not in CONFIGURATIONS:
        raise BioTrainError(
            f"there is no RTL of {target.core}; compile for one of these to run on rtl: "
            + ", ".join(CONFIGURATIONS)
        )
    if workers > MOST_CORES:
        raise BioTrainError(
            f"the RTL cluster has up to {MOST_CORES} cores, the package has {workers} workers; "
            f"compile it with workers={MOST_CORES} or fewer"
        )
    given = settings or ClusterSettings()
    fpus = min(given.fpus, workers)
    fpu = replace(given.fpu, zfinx=CONFIGURATIONS[core.rtl].zfinx)
    return replace(given, cores=workers, fpus=fpus, fpu=fpu)


def simulated(package: Build, **options: Any) -> SessionDevice:
    """The package on RTL: on one core, or on a cluster with a core per worker."""
    kind = RtlDevice if package.source.workers == 1 else ClusterDevice
    return kind(package, **options)
