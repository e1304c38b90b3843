# SPDX-License-Identifier: Apache-2.0
"""A device that records, predicts, learns and survives, on this machine or in an emulator.

It runs `live.c` of a package that was compiled with `live=`, over flash that is simulated: a power
cut can be had at any programmed byte (`dev.flash.cut`), and `dev.again()` is the next start.
"""

from __future__ import annotations

import ctypes
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from biotrain.emit import RUNTIME, running_values, trained_values
from biotrain.emit.build import Build
from biotrain.errors import BioTrainError, DeviceError
from biotrain.planner.live_memory import LivePlan
from biotrain.run.compiler import shared_library
from biotrain.run.device import Array, layout
from biotrain.run.host import OPTIMISED
from biotrain.run.status import status_name, status_text

if TYPE_CHECKING:
    from biotrain.run.emulator import EmulatorMachine

EVENTS = ("idle", "more", "predicted", "refused", "calibrated", "drifted", "failed")
"""`bt_live_event`."""
MODES = ("record", "calibrate", "use")
"""`bt_live_mode`."""
COUNTERS = (
    *("frames", "lost", "windows", "predicted", "flat", "saturated", "nonfinite", "labels"),
    *("stored", "unstored", "corrupt", "trained", "steps", "losses", "gradients"),
    *("checkpoints", "failures", "calibrations", "kept", "undone", "drifts", "slices"),
)
"""`bt_live_counters`."""
RECORD = (
    *("session", "epoch", "stale", "limit", "windows", "held", "right", "right_before"),
    *("loss", "loss_before", "confidence", "found"),
)
"""`bt_live_record`."""
SETTINGS = ("epochs", "patience", "least", "seed", "automatic", "guards", "rate", "drift")
FLOATS = ("rate", "drift", "loss", "loss_before", "confidence")

START, PLAY, PUSH, WORK, CALIBRATE, CANCEL, BACK, FACTORY, FORGET, SET, REPORT = range(1, 12)
"""Commands of `rt/live_box.c`."""
RESULT, COUNT, CYCLES, MOST, DONE, WORDS = range(4, 28, 4)
BOX_WORDS, EVENT_WORDS = 80, 8
MOST_FRAMES, MOST_EVENTS = 2048, 512
"""Of one command."""
FOREVER = 0xFFFFFFFF
"""Cycles without an end."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a call of `bt_live_work` ended with."""

    name: str
    """One of `EVENTS`."""
    window: int
    """Number of the newest window since the start."""
    predicted: int
    """Its class; meant where the event is `predicted`."""
    label: int
    """The label that holds for all of it, or -1."""
    status: str
    """Why a window was refused or something failed: the status of the C."""
    channel: int
    """Of a refusal."""
    kept: bool
    """Of a calibration that ended: its weights are better than those before."""
    frame: int
    """Frames that the call of `play` had pushed when it happened."""
    logits: tuple[float, ...]


@dataclass(frozen=True)
class Flash:
    """NOR flash as it is when a device is off; what survives."""

    page_bytes: int
    unit_bytes: int
    memory: npt.NDArray[np.uint8]
    programmed: npt.NDArray[np.uint8]
    """Per unit: 1 where it was programmed since the last erasure."""
    wear: npt.NDArray[np.uint32]
    """Erasures of each page."""

    @property
    def pages(self) -> int:
        """Of all of it."""
        return len(self.wear)

    @property
    def image(self) -> bytes:
        """Its content."""
        return self.memory.tobytes()


def blank_flash(plan: LivePlan) -> Flash:
    """Flash of the size that a package wants, erased."""
    live = plan.live
    pages = live.first_page + plan.pages
    size = pages * live.page_bytes
    return Flash(
        live.page_bytes,
        live.unit_bytes,
        np.full(size, 0xFF, np.uint8),
        np.zeros(size // live.unit_bytes, np.uint8),
        np.zeros(pages, np.uint32),
    )


class Place(ABC):
    """Memory that the C works in, and a way to make it work."""

    on: str
    pointer: int
    """Bytes of a pointer."""

    @abstractmethod
    def take(self, size: int) -> int:
        """Address of so many new bytes."""

    @abstractmethod
    def read(self, address: int, size: int) -> bytes:
        """Bytes from there."""

    @abstractmethod
    def write(self, address: int, data: bytes) -> None:
        """Bytes to there."""

    @abstractmethod
    def do(self, command: int) -> None:
        """Runs a command of the mailbox."""

    @property
    @abstractmethod
    def box(self) -> int:
        """Address of the mailbox."""


class HostPlace(Place):
    """This process."""

    on, pointer = "host", 8

    def __init__(self, package: Build) -> None:
        files = {name: text for name, text in package.files.items() if name.endswith((".c", ".h"))}
        for name in ("live_box.c", "sim_flash.h"):
            files[name] = (RUNTIME / name).read_text(encoding="utf-8")
        self._c = ctypes.CDLL(str(shared_library(files, (*OPTIMISED, "-DBT_LIVE_HOSTED"))))
        self._c.bt_live_box_bytes.restype = ctypes.c_size_t
        self._held: list[npt.NDArray[np.uint64]] = []
        self._box = self.take(int(self._c.bt_live_box_bytes()))

    def take(self, size: int) -> int:
        self._held.append(np.zeros(size // 8 + 8, np.uint64))
        return int(self._held[-1].ctypes.data)

    def read(self, address: int, size: int) -> bytes:
        return ctypes.string_at(address, size)

    def write(self, address: int, data: bytes) -> None:
        ctypes.memmove(address, data, len(data))

    def do(self, command: int) -> None:
        self.write(self._box, struct.pack("<I", command))
        self._c.bt_live_do(ctypes.c_void_p(self._box))

    @property
    def box(self) -> int:
        return self._box


class EmulatorPlace(Place):
    """Firmware of the target in unicorn, with memory beside its own."""

    on, pointer = "emulator", 4

    def __init__(self, package: Build, flash_bytes: int) -> None:
        from biotrain.run.elf import Elf
        from biotrain.run.emulator import SLOT, EmulatorMachine
        from biotrain.run.firmware import build, linker_script, memories, start_files
        from biotrain.targets.target import Memory

        target = package.target
        flash, ram = memories(target)
        files = {name: text for name, text in package.files.items() if name.endswith((".c", ".h"))}
        for name in ("live_box.c", "sim_flash.h"):
            files[name] = (RUNTIME / name).read_text(encoding="utf-8")
        files |= start_files(target)
        elf = build(files, target, linker_script(target, flash, ram))
        size = 3 * flash_bytes + (1 << 20)
        regions = (flash, ram, Memory("slot", size, SLOT))
        self.machine: EmulatorMachine = EmulatorMachine(elf, target, regions)
        self.elf = Elf(elf)
        self._box = self.elf.symbol("live_box")[0]
        self._next = SLOT
        self.machine.run()

    def take(self, size: int) -> int:
        at = self._next
        self._next += -(-size // 64) * 64
        return at

    def read(self, address: int, size: int) -> bytes:
        return self.machine.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        self.machine.write(address, data)

    def do(self, command: int) -> None:
        self.write(self._box, struct.pack("<I", command))
        self.machine.run()

    @property
    def box(self) -> int:
        return self._box


class LiveDevice:
    """A package's `live.c` that lives."""

    def __init__(self, package: Build, on: str = "host", flash: Flash | None = None) -> None:
        """`flash`: what an earlier life left; blank by default.

        Raises BioTrainError where the package was not compiled with `live=`.
        """
        plan = package.source.live
        if plan is None:
            raise BioTrainError("the package was compiled without live: give live=Live(...)")
        if on not in ("host", "emulator"):
            raise BioTrainError(f"a device lives on host or emulator, not on '{on}'")
        self.package, self.plan, self.on = package, plan, on
        given = flash or blank_flash(plan)
        wanted = blank_flash(plan)
        if (given.page_bytes, given.unit_bytes) != (wanted.page_bytes, wanted.unit_bytes) or len(
            given.memory
        ) != len(wanted.memory):
            raise BioTrainError("the flash has another size than the package wants")
        self._place: Place = (
            HostPlace(package) if on == "host" else EmulatorPlace(package, len(given.memory))
        )
        self._outputs = package.source.train.outputs[0].size
        self._narrow = plan.live.converter_bits <= 16
        take = self._place.take
        self._frames = take(MOST_FRAMES * plan.frame_bytes)
        self._labels = take(MOST_FRAMES * 4)
        self._events = take(MOST_EVENTS * 4 * (EVENT_WORDS + self._outputs))
        self._parts = [take(a.nbytes) for a in (given.memory, given.programmed, given.wear)]
        self._place.write(self._parts[0], given.memory.tobytes())
        self._place.write(self._parts[1], given.programmed.tobytes())
        self._place.write(self._parts[2], given.wear.tobytes())
        pointer = self._place.pointer
        self._pointers = WORDS + 4 * BOX_WORDS
        self._sim = self._pointers + 3 * pointer
        form = "<Q" if pointer == 8 else "<I"
        for i, address in enumerate((self._frames, self._labels, self._events, *self._parts)):
            self._place.write(
                self._place.box + self._pointers + i * pointer, struct.pack(form, address)
            )
        self._counts = self._sim + 3 * pointer
        noise = 2463534242
        words = (given.page_bytes, given.pages, given.unit_bytes, 0, 0, 0, noise, 0, 0)
        self._place.write(self._place.box + self._counts, struct.pack("<9I", *words))
        self._given = given
        self.status = self._command(START)
        """Of `bt_live_start`."""
        self._model, self._layout = self._find_model(), layout(package)

    # ------------------------------------------------------------ signals and work

    def push(self, frames: npt.ArrayLike, labels: npt.ArrayLike = -1) -> int:
        """Push converter integers `[n_chans, n]` without working; returns n.

        `labels`: int `[n]`, or one for all; -1: none. Frames that find the ring full are lost.
        """
        x, y = self._signals(frames, labels)
        for at in range(0, len(x), MOST_FRAMES):
            self._hand_over(x[at : at + MOST_FRAMES], y[at : at + MOST_FRAMES])
            self._command(PUSH)
        return len(x)

    def step(self, max_cycles: int = FOREVER) -> Event:
        """One call of `bt_live_work`."""
        self._put(CYCLES, min(max_cycles, FOREVER))
        self._command(WORK)
        return self._event(0)

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
        """`play`, by and by."""
        x, y = self._signals(frames, labels)
        at = 0
        while at < len(x) and not self.off:
            self._hand_over(x[at : at + MOST_FRAMES], y[at : at + MOST_FRAMES])
            self._put(CYCLES, min(cycles_per_frame, FOREVER))
            count = self._command(PLAY)
            yield [replace(e, frame=at + e.frame) for e in map(self._event, range(count))]
            at += self._get(DONE)

    def calibrate(self) -> None:
        """Begin a calibration with what is stored; `work` or `play` do it."""
        self._check(self._command(CALIBRATE))

    def cancel(self) -> None:
        """End a calibration; the weights before it come back."""
        self._check(self._command(CANCEL))

    def back(self) -> None:
        """To the session before the newest."""
        self._check(self._command(BACK))

    def factory(self) -> None:
        """To the factory's weights."""
        self._check(self._command(FACTORY))

    def forget(self) -> None:
        """Forget the stored windows."""
        self._check(self._command(FORGET))

    def set(self, **settings: float) -> None:
        """Change settings (`SETTINGS`), until the next start."""
        for name, value in settings.items():
            if name not in SETTINGS:
                raise BioTrainError(f"no setting is called '{name}': {', '.join(SETTINGS)}")
            bits = struct.unpack("<I", struct.pack("<f", value))[0] if name in FLOATS else value
            self._put(COUNT, SETTINGS.index(name))
            self._put(CYCLES, int(bits))
            self._command(SET)

    # ------------------------------------------------------------ what it holds

    @property
    def mode(self) -> str:
        """One of `MODES`."""
        return MODES[self._report()[3]]

    @property
    def busy(self) -> bool:
        """Whether a calibration is under way."""
        return self.mode == "calibrate"

    @property
    def counters(self) -> dict[str, int]:
        """`bt_live_counters`, since the start."""
        return dict(zip(COUNTERS, self._report()[20 : 20 + len(COUNTERS)], strict=True))

    @property
    def record(self) -> dict[str, float]:
        """What the newest checkpoint says of its calibration, or that under way."""
        words = self._report()[44 : 44 + len(RECORD)]
        return {n: _float(w) if n in FLOATS else w for n, w in zip(RECORD, words, strict=True)}

    @property
    def state(self) -> dict[str, Any]:
        """The rest: accuracies on the held-back windows, the store, the ring."""
        w = self._report()
        return {
            "mode": MODES[w[3]],
            "status": status_name(w[6]),
            "kept": bool(w[7]),
            "before": _float(w[8]),
            "best": _float(w[9]),
            "confidence": _float(w[10]),
            "stored": w[11],
            "capacity": w[12],
            "store_ok": bool(w[13]),
            "lost": w[14],
            "waiting": w[15],
        }

    @property
    def task(self) -> int:
        """What a calibration is at: a `bt_live_task`."""
        return self._report()[4]

    def context(self, offset: int, size: int) -> bytes:
        """Bytes of the `bt_model`."""
        return self._place.read(self._model + offset, size)

    def crc32(self) -> int:
        """CRC-32 of the trained parameters and running statistics."""
        return self._report()[2]

    def read(self, name: str) -> Array:
        """A tensor of the context by value name."""
        offset, size = self._layout[name]
        return np.frombuffer(self._place.read(self._model + offset, size), "<f4").copy()

    def parameters(self) -> dict[str, Array]:
        """Trained parameters and running statistics by torch name, in torch's shapes."""
        source = self.package.source
        return {
            source.torch_names[v.name]: self.read(v.name).reshape(v.shape)
            for v in (*trained_values(source), *running_values(source))
        }

    # ------------------------------------------------------------ flash and power

    @property
    def flash(self) -> Flash:
        """A copy of what the flash holds now."""
        kinds: Mapping[str, Any] = {"memory": np.uint8, "programmed": np.uint8, "wear": np.uint32}
        arrays: dict[str, npt.NDArray[Any]] = {
            name: np.frombuffer(
                self._place.read(address, getattr(self._given, name).nbytes), kind
            ).copy()
            for address, (name, kind) in zip(self._parts, kinds.items(), strict=True)
        }
        return Flash(self._given.page_bytes, self._given.unit_bytes, **arrays)

    @property
    def steps(self) -> int:
        """Programmed bytes, and four for each erased page, since the start."""
        return self._sim_word(4)

    @property
    def breaches(self) -> int:
        """Calls that broke a rule of the flash."""
        return self._sim_word(3)

    @property
    def off(self) -> bool:
        """Whether power has gone: only `again` is left."""
        return bool(self._sim_word(7))

    def cut(self, at: int, noise: int = 0) -> None:
        """Power goes at the `at`-th step (see `steps`) from now on; `noise` varies what it
        leaves."""
        if at < 1:
            raise BioTrainError(f"power is cut at a step from 1, not {at}")
        words = (self.steps + at, (2463534242 ^ noise * 2654435761) & 0xFFFFFFFF or 1)
        self._place.write(self._place.box + self._counts + 20, struct.pack("<2I", *words))

    def again(self, on: str | None = None) -> LiveDevice:
        """The next start: the same flash, another RAM."""
        return LiveDevice(self.package, on or self.on, self.flash)

    @property
    def machine(self) -> EmulatorMachine:
        """The emulator's machine, for cycles and profiles."""
        if not isinstance(self._place, EmulatorPlace):
            raise BioTrainError("this device lives on the host: nobody counts its cycles")
        return self._place.machine

    def cycles(self) -> int:
        """Cycles of the emulated core since `machine.histogram.reset()`, estimated."""
        from biotrain.run.cycles import cycles

        place = self._place
        assert isinstance(place, EmulatorPlace)
        counted = self.machine.histogram
        core = self.package.target.core
        return cycles(core, place.elf.path, counted.blocks(), counted.taken()).total

    # ------------------------------------------------------------ the mailbox

    def _signals(
        self, frames: npt.ArrayLike, labels: npt.ArrayLike
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
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
        self._place.write(self._frames, frames.tobytes())
        self._place.write(self._labels, labels.tobytes())
        self._put(COUNT, len(frames))
        self._put(MOST, MOST_EVENTS)

    def _event(self, index: int) -> Event:
        size = 4 * (EVENT_WORDS + self._outputs)
        data = self._place.read(self._events + index * size, size)
        kind, window, predicted, label, status, channel, kept, frame = struct.unpack(
            "<IIiiIIII", data[: 4 * EVENT_WORDS]
        )
        logits = struct.unpack(f"<{self._outputs}f", data[4 * EVENT_WORDS :])
        known = status_name(status)
        return Event(
            EVENTS[kind], window, predicted, label, known, channel, bool(kept), frame, logits
        )

    def _report(self) -> tuple[int, ...]:
        self._command(REPORT)
        data = self._place.read(self._place.box + WORDS, 4 * BOX_WORDS)
        return struct.unpack(f"<{BOX_WORDS}I", data)

    def _find_model(self) -> int:
        low, high = self._report()[:2]
        return low | high << 32

    def _command(self, command: int) -> int:
        self._place.do(command)
        return self._get(RESULT)

    def _check(self, status: int) -> None:
        if status:
            raise DeviceError(status_text(status), status)

    def _put(self, offset: int, value: int) -> None:
        self._place.write(self._place.box + offset, struct.pack("<I", value))

    def _get(self, offset: int) -> int:
        return int.from_bytes(self._place.read(self._place.box + offset, 4), "little")

    def _sim_word(self, index: int) -> int:
        return self._get(self._counts + 4 * index)


def _float(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])
