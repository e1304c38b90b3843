# SPDX-License-Identifier: Apache-2.0
"""A live package on this machine or in the emulator: records, predicts, calibrates, restarts.

It runs `live.c` of a package that was compiled with `live=`, over simulated flash: power can be cut
at any programmed byte (`dev.cut`), and `dev.restart()` is the next start with that flash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from biotrain.emit import running_values, trained_values
from biotrain.emit.build import Build
from biotrain.emit.context import tensor_layout
from biotrain.errors import BioTrainError, DeviceError
from biotrain.planner.live_layout import COUNTERS, EVENT, MODE, RECORD, SETTINGS, TASK
from biotrain.run.device import Array
from biotrain.run.live_box import event as event_struct
from biotrain.run.live_flash import Flash, blank_flash
from biotrain.run.live_runner import EmulatorRunner, HostRunner, Runner
from biotrain.run.status import refusal, status_name

if TYPE_CHECKING:
    from biotrain.run.emulator import EmulatorMachine

MOST_FRAMES, MOST_EVENTS = 2048, 512
"""Frames that one command takes, and events that it returns, at most."""
FOREVER = 0xFFFFFFFF
"""Cycles of a call without an end."""
NOISE_SEED = 2463534242
"""Marsaglia's seed of a 32-bit xorshift (Journal of Statistical Software 8(14), 2003)."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a call of `bt_live_work` ended with."""

    name: str
    """A constant of `bt_live_event`: idle, more, predicted, refused, calibrated, ..."""
    window: int
    """Number of the newest window since the start."""
    predicted: int
    """Its class; meant where the event is `predicted`."""
    label: int
    """The label that holds for the whole window, or -1."""
    status: str
    """Why a window was refused or something failed: the status of the C."""
    channel: int
    """Which channel caused a refusal."""
    kept: bool
    """Whether the calibration that ended has better weights than those before it."""
    frame: int
    """Frames that the call of `play` had pushed when it happened."""
    logits: tuple[float, ...]


class LiveDevice:
    """The live firmware of a package, running."""

    def __init__(self, package: Build, on: str = "host", flash: Flash | None = None) -> None:
        """`flash`: what an earlier run of the firmware left; blank by default.

        Raises BioTrainError where the package was not compiled with `live=`.
        """
        plan = package.source.live
        if plan is None:
            raise BioTrainError("the package was compiled without live: give live=Live(...)")
        if on not in ("host", "emulator"):
            raise BioTrainError(f"live firmware runs on host or emulator, not on '{on}'")
        self.package, self.plan, self.on = package, plan, on
        given, wanted = flash or blank_flash(plan), blank_flash(plan)
        if not given.fits(wanted):
            raise BioTrainError("the flash has another size than the package wants")
        self._given = given
        self._runner: Runner = (
            HostRunner(package) if on == "host" else EmulatorRunner(package, len(given.memory))
        )
        self._narrow = plan.live.converter_bits <= 16
        event = event_struct(package.source.train.outputs[0].size)
        self._event_type = event.dtype(self._runner.pointer)
        self._layout = tensor_layout(package.source)
        self._power_up()
        self.status = self._runner.do("start")
        """The status that `bt_live_start` returned."""

    def _power_up(self) -> None:
        """Give the mailbox its buffers and the simulated flash its contents."""
        runner, given = self._runner, self._given
        self._frames = runner.take(MOST_FRAMES * self.plan.frame_bytes)
        self._labels = runner.take(MOST_FRAMES * 4)
        self._events = runner.take(MOST_EVENTS * self._event_type.itemsize)
        self._arrays = [runner.take(a.nbytes) for a in given.arrays]
        for address, array in zip(self._arrays, given.arrays, strict=True):
            runner.write(address, array.tobytes())
        buffers = (self._frames, self._labels, self._events, *self._arrays)
        members = ("frames", "labels", "events", "flash.memory", "flash.programmed", "flash.wear")
        for member, address in zip(members, buffers, strict=True):
            runner.put(member, address)
        runner.put("flash.page_bytes", given.page_bytes)
        runner.put("flash.pages", given.pages)
        runner.put("flash.unit_bytes", given.unit_bytes)
        runner.put("flash.noise", NOISE_SEED)

    # ------------------------------------------------------------ signals and work

    def push(self, frames: npt.ArrayLike, labels: npt.ArrayLike = -1) -> int:
        """Push converter integers `[n_chans, n]` without working; returns n.

        `labels`: int `[n]`, or one for all; -1: none. Frames that find the ring full are lost.
        """
        x, y = self._signals(frames, labels)
        for at in range(0, len(x), MOST_FRAMES):
            self._hand_over(x[at : at + MOST_FRAMES], y[at : at + MOST_FRAMES])
            self._runner.do("push")
        return len(x)

    def gap(self, frames: int = 0) -> None:
        """Tell the firmware that samples are missing before the next frame; `frames`: how many, for
        a device with a clock."""
        del frames
        self._runner.do("gap")

    def step(self, max_cycles: int = FOREVER) -> Event:
        """One call of `bt_live_work`."""
        self._runner.put("cycles", min(max_cycles, FOREVER))
        self._runner.do("work")
        return self._read_events(1)[0]

    def work(self, max_cycles: int = FOREVER, calls: int = 1_000_000) -> list[Event]:
        """Calls of `bt_live_work` until nothing is left to do, power has gone, or so many calls;
        all events but `idle` and `more`."""
        found: list[Event] = []
        for _ in range(calls):
            event = self.step(max_cycles)
            if event.name == "idle" or self.off:
                break
            if event.name != "more":
                found.append(event)
        return found

    def play(
        self, frames: npt.ArrayLike, labels: npt.ArrayLike = -1, cycles_per_frame: int = FOREVER
    ) -> list[Event]:
        """Push frame by frame, each followed by so many cycles of work; returns the events.

        `cycles_per_frame` is the core's clock over the converter's rate (64e6 / 250 Hz = 256000),
        or without an end, where all is done between two frames. Stops where power goes.
        """
        return [e for events in self.playing(frames, labels, cycles_per_frame) for e in events]

    def playing(
        self, frames: npt.ArrayLike, labels: npt.ArrayLike = -1, cycles_per_frame: int = FOREVER
    ) -> Iterator[list[Event]]:
        """`play`, which yields the events of some frames at a time."""
        x, y = self._signals(frames, labels)
        at = 0
        while at < len(x) and not self.off:
            self._hand_over(x[at : at + MOST_FRAMES], y[at : at + MOST_FRAMES])
            self._runner.put("cycles", min(cycles_per_frame, FOREVER))
            count = self._runner.do("play")
            yield [replace(e, frame=at + e.frame) for e in self._read_events(count)]
            at += int(self._runner.get("done"))

    def calibrate(self) -> None:
        """Begin a calibration with what is stored; `work` or `play` do it."""
        self._check(self._runner.do("calibrate"))

    def cancel(self) -> None:
        """End a calibration; the weights before it are restored."""
        self._check(self._runner.do("cancel"))

    def back(self) -> None:
        """Restore the session before the newest."""
        self._check(self._runner.do("back"))

    def factory(self) -> None:
        """Restore the factory's weights."""
        self._check(self._runner.do("factory"))

    def forget(self) -> None:
        """Forget the stored windows."""
        self._check(self._runner.do("forget"))

    def set(self, **settings: float) -> None:
        """Change settings (`SETTINGS`), until the next start."""
        for name, value in settings.items():
            if name not in SETTINGS:
                raise BioTrainError(f"no setting is called '{name}': {', '.join(SETTINGS)}")
            self._runner.put(f"live.{name}", value)

    # ------------------------------------------------------------ what it holds

    @property
    def mode(self) -> str:
        """record, calibrate or use: a `bt_live_mode`."""
        return MODE.names[self._runner.get("live.mode")]

    @property
    def task(self) -> str:
        """What a calibration works on: a `bt_live_task`."""
        return TASK.names[self._runner.get("live.task")]

    @property
    def busy(self) -> bool:
        """Whether a calibration is under way."""
        return self.mode == "calibrate"

    @property
    def counters(self) -> dict[str, int]:
        """`bt_live_counters`, since the start."""
        found = self._runner.get("live.counters")
        return {member.name: int(found[member.name]) for member in COUNTERS.members}

    @property
    def outliers(self) -> int:
        """Labelled windows that were not stored, for they are artefacts; 0 where none is sought."""
        return int(self._runner.get("live.outliers")) if self.plan.live.artefacts else 0

    @property
    def record(self) -> dict[str, float]:
        """What the newest checkpoint says of its calibration, or that under way."""
        found = self._runner.get("live.record")
        return {member.name: found[member.name].item() for member in RECORD.members}

    @property
    def state(self) -> dict[str, Any]:
        """The rest: accuracies on the held-back windows, the store, the ring."""
        get = self._runner.get
        return {
            "mode": self.mode,
            "status": status_name(int(get("live.status"))),
            "kept": bool(get("live.kept")),
            "before": float(get("live.before")),
            "best": float(get("live.best")),
            "confidence": float(get("live.confidence")),
            "stored": int(get("live.store.count")),
            "capacity": int(get("live.store.capacity")),
            "store_ok": bool(get("live.store_ok")),
            "lost": int(get("live.lost")),
            "waiting": self.waiting,
        }

    @property
    def waiting(self) -> int:
        """Frames in the ring."""
        pushed, taken = (int(self._runner.get(f"live.{name}")) for name in ("pushed", "taken"))
        return (pushed - taken) % (1 << 32)

    @property
    def pending(self) -> bool:
        """Whether frames wait in the ring, or a window for its prediction."""
        return self.waiting > 0 or int(self._runner.get("live.due")) > 0

    def slice(self, name: str) -> dict[str, int]:
        """Where a call in slices is: `bt_slice` of the context by its name there."""
        model = self.package.context
        kind = model.member(name).kind.dtype(self._runner.pointer)
        at = self._runner.address("live.model") + model.offset(name, self._runner.pointer)
        found = np.frombuffer(self._runner.read(at, kind.itemsize), kind)[0]
        return {field: found[field].item() for field in kind.names or ()}

    def crc32(self) -> int:
        """CRC-32 of the trained parameters and running statistics."""
        return self._runner.do("crc32")

    def read(self, name: str) -> Array:
        """A tensor of the context by value name."""
        offset, size = self._layout[name]
        address = self._runner.address("live.model") + offset
        return np.frombuffer(self._runner.read(address, size), "<f4").copy()

    def parameters(self) -> dict[str, Array]:
        """Trained parameters and running statistics by torch name, in torch's shapes."""
        source = self.package.source
        return {
            source.torch_names[v.name]: self.read(v.name).reshape(source.tensors[v.name].shape)
            for v in (*trained_values(source), *running_values(source))
        }

    # ------------------------------------------------------------ flash and power

    @property
    def flash(self) -> Flash:
        """A copy of what the flash holds now."""
        memory, programmed, wear = (
            np.frombuffer(self._runner.read(address, array.nbytes), array.dtype).copy()
            for address, array in zip(self._arrays, self._given.arrays, strict=True)
        )
        return replace(self._given, memory=memory, programmed=programmed, wear=wear)

    @property
    def steps(self) -> int:
        """Programmed bytes, and four for each erased page, since the start."""
        return int(self._runner.get("flash.steps"))

    @property
    def breaches(self) -> int:
        """Calls that broke a rule of the flash."""
        return int(self._runner.get("flash.breaches"))

    @property
    def off(self) -> bool:
        """Whether power has gone: only `restart` is left."""
        return bool(self._runner.get("flash.off"))

    def cut(self, at: int, noise: int = 0) -> None:
        """Power goes at the `at`-th step (see `steps`) from now on; `noise` varies what it
        leaves."""
        if at < 1:
            raise BioTrainError(f"power is cut at a step from 1, not {at}")
        self._runner.put("flash.cut_at", self.steps + at)
        seed = (NOISE_SEED ^ noise * 2654435761) & 0xFFFFFFFF  # 2^32 / golden ratio
        self._runner.put("flash.noise", seed or 1)

    def restart(self, on: str | None = None) -> LiveDevice:
        """The next start: the same flash, another RAM."""
        return LiveDevice(self.package, on or self.on, self.flash)

    @property
    def machine(self) -> EmulatorMachine:
        """The emulator's machine, for cycles and profiles."""
        if not isinstance(self._runner, EmulatorRunner):
            raise BioTrainError("this device runs on the host, where nobody counts its cycles")
        return self._runner.machine

    def cycles(self) -> int:
        """Cycles of the emulated core since `machine.histogram.reset()`, estimated."""
        from biotrain.run.cycles import cycles

        runner = self._runner
        assert isinstance(runner, EmulatorRunner)
        counted = self.machine.histogram
        core = self.package.target.core
        return cycles(core, runner.elf.path, counted.blocks(), counted.taken()).total

    # ------------------------------------------------------------ the mailbox

    def _signals(
        self, frames: npt.ArrayLike, labels: npt.ArrayLike
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
        """Frames `[n, n_chans]` and their labels as the C wants them."""
        x = np.asarray(frames)
        if x.ndim != 2 or x.shape[0] != self.plan.chans:
            raise BioTrainError(f"frames must be [{self.plan.chans}, n], not {list(x.shape)}")
        if not np.issubdtype(x.dtype, np.integer):
            raise BioTrainError(f"frames must be the converter's integers, not {x.dtype}")
        kind = "int16" if self._narrow else "int32"
        limits = np.iinfo(np.int16) if self._narrow else np.iinfo(np.int32)
        if x.size and not (limits.min <= x.min() and x.max() <= limits.max):
            raise BioTrainError(f"frames reach from {x.min()} to {x.max()}: more than {kind} holds")
        y = np.broadcast_to(np.asarray(labels, np.int32), (x.shape[1],))
        return np.ascontiguousarray(x.T, kind), np.ascontiguousarray(y)

    def _hand_over(self, frames: npt.NDArray[Any], labels: npt.NDArray[np.int32]) -> None:
        self._runner.write(self._frames, frames.tobytes())
        self._runner.write(self._labels, labels.tobytes())
        self._runner.put("count", len(frames))
        self._runner.put("most", MOST_EVENTS)

    def _read_events(self, count: int) -> list[Event]:
        """The events that the newest command has left."""
        data = self._runner.read(self._events, count * self._event_type.itemsize)
        return [_event(found) for found in np.frombuffer(data, self._event_type)]

    def _check(self, status: int) -> None:
        if status:
            raise DeviceError(refusal(status), status)


def _event(found: Mapping[str, Any]) -> Event:
    """An event from its struct."""
    return Event(
        name=EVENT.names[found["event"]],
        window=int(found["window"]),
        predicted=int(found["predicted"]),
        label=int(found["label"]),
        status=status_name(int(found["status"])),
        channel=int(found["channel"]),
        kept=bool(found["kept"]),
        frame=int(found["frame"]),
        logits=tuple(found["logits"].tolist()),
    )
