# SPDX-License-Identifier: Apache-2.0
"""A day of an emulated nRF52840: record, predict, learn while recording, lose power, come back.

`python benchmarks/day.py` plays one person's recordings into the firmware of an nRF52840 in the
emulator, whose time is counted (`biotrain.run.live_clock`): every hop a window is predicted; those
with a label are stored in flash; once enough are there a calibration runs in slices between the
frames, and checkpoints go to flash. In the midst of it power is lost at a byte of a flash write
that a seed chooses, and what that write touched is torn. Power comes back, the calibration goes on
from its last checkpoint, and the other sessions of the recording follow.

Three devices must then agree on the CRC-32 of the weights: the emulated one that lost power; the
same C on this machine, started from the flash as the cut left it; and the same C on this machine,
which never lost power. The exit code is 1 where they do not, or where a window was missed.

Data: `--data emg_myo` (the folder BIOTRAIN_DATA): windows of real EMG put end to end, which is the
signal as it was recorded but for a jump where one gesture ends and the next begins; no front end,
for nothing was filtered upstream that one could filter now, and the network reads raw counts.
`--data synthetic-emg`: raw synthetic EMG of a 24-bit converter, through the front end's C.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import biotrain as bt
from biotrain.frontend import FrontSpec, describe
from biotrain.frontend.live import Live
from biotrain.live import (
    DeviceEvent,
    PacedDevice,
    Played,
    Session,
    SessionSettings,
    figure,
    live,
)
from biotrain.run.front_cost import front_cost
from biotrain.run.live_clock import ClockedDevice
from biotrain.run.live_device import LiveDevice
from biotrain.run.live_flash import Flash
from biotrain.study import load, pretrain
from biotrain.study.data.continuous import end_to_end, through
from biotrain.study.data.sources import load_continuous
from biotrain.writing.drawing import save

FRONT = FrontSpec(bandpass=(20.0, 90.0), notch=50.0, window_s=1.0, hop_s=0.5, unit=0.25)


RING_S = 0.75
"""Seconds of frames that may wait while flash erases up to a block of the store: the core stops."""


@dataclass(frozen=True)
class Day:
    """What is asked for."""

    data: str
    subject: int
    model: str = "epidenet"
    target: str = "nrf52840"
    store: int = 140
    """Windows that the flash holds."""
    calibrate: int = 120
    """Stored windows that begin the calibration."""
    epochs: int = 6
    pretrain_epochs: int = 15
    pretrain_every: int = 2
    hop: int = 100
    """Samples between windows, without a front end."""
    seed: int = 0


@dataclass(frozen=True)
class Made:
    """The package and the stream."""

    package: bt.Package
    feed: Played
    classes: tuple[str, ...]
    span: int
    hop: int


def make(day: Day) -> Made:
    """Pretrain without the subject, compile, and lay out the stream."""
    raw = load_continuous(day.data)
    if raw is None:
        rec, front = load(day.data), None
        stream = end_to_end(rec, day.subject)
    else:
        rec, front, stream = through(raw, FRONT), raw.front(FRONT), raw
    others = np.flatnonzero(rec.subject != day.subject)[:: day.pretrain_every]
    net = bt.prepare(
        pretrain(rec, day.model, others, epochs=day.pretrain_epochs, seed=day.seed), pool="avg"
    )
    package = bt.compile(
        net,
        np.zeros((1, rec.n_chans, rec.n_times), np.float32),
        target=day.target,
        optimizer=bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3, schedule="cosine"),
        accumulate=8,
        gradients="momentum",
        input_type="int16",
        input_scale=rec.scale,
        live=Live(
            hop=0 if front else day.hop,
            front=front,
            converter_bits=stream.bits,
            ring=round(RING_S * stream.fs),
            epochs=day.epochs,
            patience=0,
            seed=day.seed,
            store_pages=-(-day.store * (2 * rec.n_chans * rec.n_times + 64) // 4096) + 4,
        ),
        title=f"{day.model} for {stream.name}",
    )
    factor = front.decimate if front else 1
    hop = front.hop if front else day.hop
    return Made(
        package, Played(stream, day.subject), rec.classes, rec.n_times * factor, hop * factor
    )


class Cutting(PacedDevice):
    """An emulated device that loses power at a step of its flash (a programmed byte, or a fourth of
    an erased page) that comes `step` steps after so many epochs are done."""

    def __init__(self, device: ClockedDevice, fs: float, after: int | None, step: int) -> None:
        super().__init__(device, fs)
        self.after, self.step = after, step
        self.starts = [device]
        self.left: Flash | None = None
        """The flash as the cut left it."""

    def play(self, frames: Any, labels: Any) -> list[DeviceEvent]:
        device = self.device
        if self.after is not None and device.busy and device.record["epoch"] >= self.after:
            self.after = None
            device.cut(self.step, noise=self.step)
        found = super().play(frames, labels)
        if device.off:
            self.left = device.flash
        return found

    def restart(self) -> Cutting:
        self.device = self.device.restart()
        self.starts.append(self.device)  # type: ignore[arg-type]
        return self


def whole_day(made: Made, device: PacedDevice, day: Day, watch: Any = None) -> Session:
    """A whole day of one device."""
    settings = SessionSettings(
        fs=made.feed.fs,
        span=made.span,
        hop=made.hop,
        classes=made.classes,
        calibrate_after=[day.calibrate],
    )
    found, _ = live(made.feed.chunks(), device, settings, watch=watch)
    return found


class _Told:
    """A line every few seconds, and every note."""

    def __init__(self) -> None:
        self.said, self.notes = time.monotonic(), 0

    def __call__(self, session: Session) -> None:
        for note in session.notes[self.notes :]:
            print(f"{note.t:8.1f} s  {note.text}", file=sys.stderr, flush=True)
        self.notes = len(session.notes)
        if time.monotonic() - self.said > 15:
            self.said = time.monotonic()
            share = session.recent() or 0.0
            print(
                f"{session.t:8.1f} s  {session.mode}: {100 * share:.0f} % right of the newest, "
                f"{session.counters.get('trained', 0)} trained, {session.missed} missed",
                file=sys.stderr,
                flush=True,
            )


def run(
    made: Made, day: Day, after: int = 2, step: int | None = None
) -> tuple[dict[str, Any], Session]:
    """The day, and what the three devices say. Power goes `step` steps of the flash after `after`
    epochs; by default a random one within the next checkpoint."""
    package, plan = made.package, made.package.plan
    rng = np.random.default_rng(day.seed)
    around = package.source.live
    assert around is not None
    device = ClockedDevice(package, fs=made.feed.fs)
    where = step or int(rng.integers(1, around.state_bytes))
    body = Cutting(device, made.feed.fs, after, where)
    factory = device.crc32()
    began = time.perf_counter()
    emulated = whole_day(made, body, day, watch=_Told())
    took = time.perf_counter() - began
    never = whole_day(made, PacedDevice(LiveDevice(package), made.feed.fs), day)
    cut = 0
    crcs = {"emulated, power lost": emulated.crc32, "host, never lost": never.crc32}
    if body.left is not None:
        resumed = LiveDevice(package, flash=body.left)
        cut = resumed.crc32()
        resumed.work()
        crcs["host, from the flash that the cut left"] = resumed.crc32()
    first, last = emulated.calibrating[0][0], emulated.calibrating[-1][1]
    front = around.live.front
    cost = front_cost(front, package.target) if front else None
    clock = device.clock_hz
    result = {
        "day": asdict(day),
        "what": made.feed.name,
        "front": None if front is None else describe(front),
        "front_cycles_per_frame": None if cost is None else cost.cycles_per_frame,
        "signal_s": emulated.t,
        "wall_s": took,
        "counters": emulated.counters,
        "missed": emulated.missed,
        "latest_ms": 1e3 * emulated.latest_s,
        "ring_frames": around.live.ring,
        "deepest_ring": max(one.deepest for one in body.starts),
        "longest_call_ms": 1e3 * max(one.longest_s for one in body.starts),
        "longest_slice_ms_planned": 1e3 * plan.longest_slice_cycles / clock,
        "cut_at_step": body.step,
        "lives_s": [one.t for one in body.starts],
        "busy_s": sum(one.busy_s for one in body.starts),
        "flash_busy_s": sum(one.stalled_s for one in body.starts),
        "accuracy_before": emulated.accuracy(0.0, first),
        "accuracy_after": emulated.accuracy(last),
        "ram_bytes": plan.ram_bytes,
        "flash_bytes": around.flash_bytes,
        "factory_crc32": factory,
        "cut_crc32": cut,
        "crc32": crcs,
        "ok": len(set(crcs.values())) == 1
        and len(crcs) == 3
        and emulated.crc32 != factory
        and emulated.missed == 0,
    }
    return result, emulated


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", default="synthetic-emg")
    parser.add_argument("--subject", type=int, default=6)
    parser.add_argument("--target", default="nrf52840")
    parser.add_argument("--epochs", type=int, default=Day.epochs)
    parser.add_argument("--calibrate", type=int, default=Day.calibrate)
    parser.add_argument("--pretrain-epochs", type=int, default=Day.pretrain_epochs)
    parser.add_argument("--pretrain-every", type=int, default=Day.pretrain_every)
    parser.add_argument("--seed", type=int, default=0, help="of weights, order, and of the cut")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    day = Day(
        given.data,
        given.subject,
        target=given.target,
        epochs=given.epochs,
        calibrate=given.calibrate,
        pretrain_epochs=given.pretrain_epochs,
        pretrain_every=given.pretrain_every,
        seed=given.seed,
    )
    result, session = run(make(day), day)
    c = result["counters"]
    print(f"{result['what']} on an emulated {day.target}: {result['signal_s']:.0f} s of signal")
    print(f"  front end: {result['front'] or 'none, the counts as they are'}")
    print(f"  {c['windows']:,} windows, {result['missed']} missed; {c['stored']:,} stored")
    print(
        f"  {c['trained']:,} trained in {c['slices']:,} slices, {c['checkpoints']} checkpoints; "
        f"power lost {result['cut_at_step']} steps of flash after the second epoch"
    )
    print(
        f"  a prediction was there at most {result['latest_ms']:.0f} ms after its window; at most "
        f"{result['deepest_ring']} of {result['ring_frames']} frames waited; the longest call took "
        f"{result['longest_call_ms']:.0f} ms"
    )
    print(
        f"  right before the calibration {100 * result['accuracy_before']:.1f} %, after it "
        f"{100 * result['accuracy_after']:.1f} %"
    )
    for name, crc in result["crc32"].items():
        print(f"  CRC-32 {crc:08x}  {name}")
    print("ok" if result["ok"] else "NOT ok")
    if given.json:
        given.json.write_text(json.dumps({**result, "session": session.to_json()}, indent=1) + "\n")
    if given.figure:
        save(figure(session, f"{result['what']}, emulated {day.target}"), given.figure)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
