# SPDX-License-Identifier: Apache-2.0
"""What a front end costs on a target: its firmware in the emulator, or an estimate without one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from biotrain.errors import BioTrainError
from biotrain.frontend import FrontEnd, emit
from biotrain.graph.cost import cost_of
from biotrain.run.elf import Elf
from biotrain.run.firmware import build, linker_script, memories, start_files
from biotrain.targets.target import Target

COUNTED_FRAMES = 64
"""Frames behind the decimation whose cycles are counted."""
MULTIPLY_CYCLES = 24.0
"""Estimated cycles of a 64-bit multiply-add of a section on a 32-bit core, where nothing is
counted: docs/on-device.md has 4042 cycles for 176 of them on a Cortex-M4F."""

PROGRAM = """\
/* SPDX-License-Identifier: Apache-2.0 */
#include "front.h"
bt_front front;
int32_t samples[@COUNT@][BT_FRONT_CHANS];
bt_front_sample window[BT_FRONT_CHANS * BT_FRONT_TIMES];
volatile int windows;
__attribute__((noinline)) void bt_idle(void);
void bt_idle(void) { __asm__ volatile("" ::: "memory"); }
__attribute__((noinline)) int front_push(const int32_t *sample);
int front_push(const int32_t *sample) { return bt_front_push(&front, sample); }
__attribute__((noinline)) void front_window(void);
void front_window(void) { bt_front_window(&front, window); }
int main(void)
{
    bt_front_init(&front);
    bt_idle();
    for (int t = 0; t < @COUNT@; t++)
        windows = windows + front_push(samples[t]);
    bt_idle();
    front_window();
    for (;;)
        bt_idle();
}
"""


@dataclass(frozen=True)
class FrontCost:
    """What one front end takes on one target."""

    target: str
    cycles_per_frame: float
    """Per sample of the converter (all channels), those that decimation drops included."""
    cycles_per_window: float
    """Cycles to copy a window out of the ring (and to standardise it)."""
    source: str
    """Where the cycles come from."""
    share: float
    """Share of the core's time, 0 to 1; 0 where its clock is not known."""
    mw: float
    """Mean power that it takes, in milliwatts; 0 where the core's is not known."""
    ram_bytes: int
    code_bytes: int
    """Instructions and coefficients; 0 where nothing was linked."""

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


def front_cost(front: FrontEnd, target: Target) -> FrontCost | None:
    """Cycles of a front end, counted in the emulator where that is there; None on the host."""
    if target.core == "host" or not target.cycles_per_op:
        return None
    counted = _counted(front, target)
    if counted is None:
        each = MULTIPLY_CYCLES * front.ops_per_second / front.fs_in
        frame, window, code = each, 0.0, 0
        source = f"estimate, {MULTIPLY_CYCLES:g} cycles per multiply-add"
    else:
        frame, window, code, source = counted
    per_second = frame * front.fs_in + window * front.fs_out / front.hop
    work = cost_of(0, 0, per_second, target)
    share = per_second / target.clock_hz if target.clock_hz else 0.0
    return FrontCost(
        target.name, frame, window, source, share, work.mj, front.ram_bytes, code
    )  # mJ of a second are mW


def _counted(front: FrontEnd, target: Target) -> tuple[float, float, int, str] | None:
    """Cycles per frame and per window, bytes of code, and their source."""
    from biotrain.run.cycles import cycles
    from biotrain.run.emulator import EmulatorMachine

    if target.build is None or not target.build.unicorn:
        return None
    if not (find_spec("unicorn") and find_spec("elftools") and find_spec("capstone")):
        return None
    count = COUNTED_FRAMES * front.decimate
    flash, ram = memories(target)
    files = {**emit(front), **start_files(target)}
    files["main.c"] = PROGRAM.replace("@COUNT@", str(count))
    try:
        elf = build(files, target, linker_script(target, flash, ram))
    except BioTrainError:
        return None  # no compiler, or a window that no memory of this target holds
    image = Elf(elf)
    machine = EmulatorMachine(elf, target, (flash, ram))
    found = []
    try:
        machine.run()
        steps = np.random.default_rng(0).integers(-(2**15), 2**15, (count, front.n_chans))
        machine.write(image.symbol("samples")[0], steps.astype("<i4").tobytes())
        for _ in range(2):
            machine.histogram.reset()
            machine.run()
            found.append(
                cycles(target.core, elf, machine.histogram.blocks(), machine.histogram.taken())
            )
    finally:
        machine.close()
    push = sum(n for f, n in found[0].functions.items() if f not in ("main", "bt_idle"))
    window = sum(n for f, n in found[1].functions.items() if f not in ("main", "bt_idle"))
    own = ("front_push", "front_window", "bt_front_sections")
    code = sum(s.size for s in image.symbols if s.name in own)
    source = f"{found[0].source}{' (estimate)' if found[0].estimate else ''}"
    return push / count, float(window), code, source
