# SPDX-License-Identifier: Apache-2.0
"""What a device that records, predicts and learns takes of a board: RAM, flash, time, energy.

`python benchmarks/life_budget.py` compiles EpiDeNet for raw 8-channel EMG at 200 Hz (windows of 1 s
every 0.5 s, through a band-pass and a notch) with `live`, plays synthetic EMG into the firmware in
the emulated core (68 s of it with labels), lets it calibrate (6 epochs) while the recording goes on
without them, and prints a table.
RAM is the plan's, which the linked firmware equals; flash is linked with `measured`; instructions
are counted; cycles, and with them time and energy of the core, are estimates by core tables. Flash
stands still on the nRF52840 while it erases (85 ms a page of 4 KiB) and programs (41 us a word,
largest values of its product specification); the STM32H743 writes one bank while the core runs from
the other, so no time is counted there. Energy is the core's: no converter, no radio, no flash.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import biotrain as bt
from biotrain import models
from biotrain.frontend import FrontSpec
from biotrain.frontend.live import Live
from biotrain.graph.cost import cost_of
from biotrain.run.front_cost import front_cost
from biotrain.run.live_clock import NRF52840, ClockedDevice, FlashTime
from biotrain.run.project import measured, project_files
from biotrain.study.data.synthetic_raw import STEP_UV, continuous

FRONT = FrontSpec(bandpass=(20.0, 90.0), notch=50.0, window_s=1.0, hop_s=0.5, unit=0.25)
EPOCHS, STORE = 6, 140
BOARDS: dict[str, tuple[int, int, int, FlashTime]] = {
    "nrf52840": (4096, 4, -(-STORE * 3264 // 4096) + 4, NRF52840),
    "stm32h7": (131072, 32, 5, FlashTime(0.0, 0.0)),
}
"""Bytes of a page and of a unit, pages of the store, and what flash takes: nRF52840 product
specification (NVMC); RM0433, section 4 (sectors of 128 KiB, words of 256 bits)."""


def measure(board: str) -> dict[str, Any]:
    """One board."""
    page, unit, pages, flash_time = BOARDS[board]
    front = FRONT.front(200.0, 8, STEP_UV)
    net = models.build(
        "epidenet", n_chans=8, n_times=200, n_outputs=7, sfreq=200.0, norm="group", pool="avg"
    )
    pkg = bt.compile(
        bt.prepare(models.standardized(net, np.zeros(8), np.full(8, 60.0)), pool="avg"),
        np.zeros((1, 8, 200), np.float32),
        target=board,
        optimizer=bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3, schedule="cosine"),
        accumulate=8,
        gradients="momentum",
        input_type="int16",
        input_scale=0.25,
        live=Live(
            front=front,
            converter_bits=24,
            ring=150,
            epochs=EPOCHS,
            patience=0,
            page_bytes=page,
            unit_bytes=unit,
            store_pages=pages,
        ),
        title=f"EpiDeNet that lives on {board}",
    )
    plan, around = pkg.plan, pkg.source.live
    assert around is not None
    rec = continuous("emg", subjects=1, sessions=1)
    part = rec.parts[0]
    x, y = part.x, part.labels()
    device = ClockedDevice(pkg, fs=200.0, flash_time=flash_time)
    begin = 68 * 200
    device.stream(x[:, :begin], y[:begin])  # about 130 windows are stored
    device.price()
    recording = device.busy_s / device.t
    stored, busy, stalled, t = (
        device.counters["stored"], device.busy_s, device.stalled_s, device.t,
    )  # fmt: skip
    device.calibrate()
    late: list[float] = []
    events: list[str] = []
    at = begin
    while device.busy and at < x.shape[1]:
        for e in device.stream(x[:, at : at + 200], -1):  # nobody says any more what is done
            events.append(e.name)
            late += [e.late_s] if e.name == "predicted" else []
        at += 200
    lasted = device.t - t
    learning = device.busy_s - busy - recording * lasted
    device.rest(0.4)  # the window that came last is predicted too
    cost = front_cost(front, pkg.target)
    assert cost is not None
    found = measured(pkg, project_files(pkg))
    clock = device.clock_hz

    def mj(seconds: float) -> float:
        return cost_of(0, 0, seconds * clock, pkg.target).mj

    counters = device.counters
    return {
        "board": board,
        "ram_bytes": plan.ram_bytes,
        "ram": {
            "model with arena": plan.context_bytes,
            **around.parts,
            "stack": plan.stack_bytes,
        },
        "code_bytes": None if found is None else found.flash_bytes,
        "kept_bytes": around.flash_bytes,
        "frame_us": 1e6 * cost.cycles_per_frame / clock,
        "recording_share": recording,
        "recording_mw": mj(recording),
        "windows": stored,
        "trained": counters["trained"],
        "calibration_s": lasted,
        "calibration_busy_s": learning,
        "calibration_flash_s": device.stalled_s - stalled,
        "calibration_mj": mj(learning),
        "sample_ms": 1e3 * learning / max(counters["trained"], 1),
        "longest_piece_ms": 1e3 * plan.longest_slice_cycles / clock,
        "longest_piece": plan.longest_slice,
        "latest_ms": 1e3 * max(late, default=0.0),
        "deepest_ring": device.deepest,
        "lost": counters["lost"],
        "missed": counters["windows"] - counters["predicted"],
        "ended": "calibrated" in events,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--boards", default=",".join(BOARDS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = [measure(board) for board in given.boards.split(",")]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for row in rows:
        table.add_column(row["board"], justify="right")
    lines: list[tuple[str, Any]] = [
        ("whole RAM, bytes", lambda r: f"{r['ram_bytes']:,}"),
        *((f"  {name}", lambda r, name=name: f"{r['ram'][name]:,}") for name in rows[0]["ram"]),
        ("flash, code and weights, bytes", lambda r: f"{r['code_bytes'] or 0:,}"),
        ("flash, windows and checkpoints, bytes", lambda r: f"{r['kept_bytes']:,}"),
        ("front end, us a frame", lambda r: f"{r['frame_us']:.0f}"),
        ("record and predict, share of the core", lambda r: f"{100 * r['recording_share']:.2f} %"),
        ("  mW of the core", lambda r: f"{r['recording_mw']:.3g}"),
        ("one calibration, windows trained", lambda r: f"{r['trained']:,} of {r['windows']}"),
        ("  s while recording goes on", lambda r: f"{r['calibration_s']:.1f}"),
        ("  s of work", lambda r: f"{r['calibration_busy_s']:.1f}"),
        ("  s of flash", lambda r: f"{r['calibration_flash_s']:.1f}"),
        ("  ms of work a window", lambda r: f"{r['sample_ms']:.1f}"),
        ("  mJ of the core", lambda r: f"{r['calibration_mj']:.0f}"),
        ("longest piece of learning, ms", lambda r: f"{r['longest_piece_ms']:.2f}"),
        ("latest prediction after its window, ms", lambda r: f"{r['latest_ms']:.0f}"),
        ("frames that waited at most, of 150", lambda r: f"{r['deepest_ring']}"),
        ("windows missed, frames lost", lambda r: f"{r['missed']}, {r['lost']}"),
    ]
    for name, show in lines:
        table.add_row(name, *(show(row) for row in rows))
    Console(width=100).print(table)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
