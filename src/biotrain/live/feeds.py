# SPDX-License-Identifier: Apache-2.0
"""Where samples come from: a recording played in time, an LSL stream, a board of BrainFlow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from biotrain.errors import BioTrainError
from biotrain.live.boards import BOARD_UV, DEVICES, STEP_UV, board_of, pkg_resources_there
from biotrain.live.gaps import Stamps, counter_gaps
from biotrain.study.data.continuous import Continuous

Ints = npt.NDArray[np.int64]
CHUNK_S = 0.05
"""Seconds of signal in a chunk."""
MARKER_WAIT_S = 0.2
"""How long samples wait for their markers, which come on another way through the network."""
WAIT_S = 5.0
"""How long a stream may be silent before that is an error."""


@dataclass(frozen=True)
class Chunk:
    """Samples that follow those of the chunk before: `x` integers [n_chans, n], converter steps;
    `labels` [n], -1 where there is none. `where` names the stretch of the recording."""

    x: npt.NDArray[np.integer[Any]]
    labels: Ints
    where: str = ""
    gap: bool = False
    """Whether signal is missing before it."""
    lost: int = 0
    """How many samples are missing before it, where that is known."""
    age_s: float = 0.0
    """How long ago its last sample was taken when it was handed on."""
    note: str = ""
    """What a person should know of the feed."""


class Feed(Protocol):
    """A source of chunks. `scale`: physical units per converter step."""

    name: str
    fs: float
    n_chans: int
    scale: float
    seconds: float | None
    """How long it lasts; None: not known."""

    def chunks(self) -> Iterator[Chunk]:
        """The samples in time."""


class Played:
    """A recording of one subject, its parts one after the other."""

    def __init__(
        self, rec: Continuous, subject: int, sessions: Sequence[int] | None = None
    ) -> None:
        parts = rec.of(subject)
        if sessions is not None:
            parts = [p for session in sessions for p in rec.of(subject, session)]
        self.parts = parts
        self.name = f"{rec.name}, subject {subject}"
        self.fs, self.n_chans, self.scale = rec.fs, rec.n_chans, rec.scale
        self.seconds: float | None = sum(p.x.shape[1] for p in parts) / rec.fs

    def chunks(self) -> Iterator[Chunk]:
        """Chunks of `CHUNK_S` seconds; each part begins after a gap."""
        step = max(1, round(CHUNK_S * self.fs))
        for part in self.parts:
            labels = part.labels()
            for at in range(0, part.x.shape[1], step):
                here = slice(at, at + step)
                yield Chunk(part.x[:, here], labels[here], f"session {part.session}", at == 0)


def steps_of(values: npt.NDArray[Any], scale: float) -> npt.NDArray[np.int32]:
    """Physical values as the nearest converter steps; what int32 cannot hold, or is no number,
    becomes the largest that it can (a guard of the device sees it as saturated)."""
    bounds = np.iinfo(np.int32)
    steps = np.nan_to_num(np.rint(np.asarray(values, np.float64) / scale), nan=bounds.max)
    return np.clip(steps, bounds.min, bounds.max).astype(np.int32)


def divided(chunk: Chunk, gaps: Sequence[tuple[int, int]]) -> Iterator[Chunk]:
    """A chunk in the parts between its gaps."""
    begins = [0, *(at for at, _ in gaps if at)]
    lost = dict(gaps)
    for k, begin in enumerate(begins):
        here = slice(begin, begins[k + 1] if k + 1 < len(begins) else None)
        missing = lost.get(begin, 0)
        text = f"{missing} samples are lost" if missing else ""
        note = "; ".join(filter(None, (chunk.note if k == 0 else "", text)))
        gap = bool(missing) or (chunk.gap and k == 0)
        x = chunk.x[:, here]
        age_s = chunk.age_s
        yield Chunk(x, chunk.labels[here], chunk.where, gap, missing, age_s, note)


class Lsl:
    """A stream of the lab streaming layer (extra `lsl`), with labels from a stream of markers.

    stream : its name, or its type ("EEG", "EMG").
    markers : name of a stream of texts or numbers; one that names a class (or its number) begins
        it, any other ends it. A marker that arrives later than its samples counts from its arrival.

    The clocks of the computers that send signal and markers are brought together by liblsl
    (time correction); lost samples are found by the time stamps.
    """

    seconds: float | None = None

    def __init__(
        self,
        stream: str,
        scale: float,
        classes: Sequence[str],
        markers: str | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        try:
            import pylsl
        except (ImportError, RuntimeError) as error:  # RuntimeError: no liblsl beside it
            raise BioTrainError(
                f"an LSL stream needs pylsl: pip install 'biotrain[lsl]' ({error})"
            ) from error
        self._wait_s, self._pylsl, self._stream = wait_s, pylsl, stream
        self._flags = {"processing_flags": getattr(pylsl, "proc_clocksync", 1)}
        self._inlet = self._opened(stream)
        info = self._inlet.info()
        self.name = f"LSL {info.name()}"
        self.fs = float(info.nominal_srate())
        self.n_chans = int(info.channel_count())
        self.scale, self.classes = scale, tuple(classes)
        if self.fs <= 0:
            raise BioTrainError(f"the LSL stream '{stream}' has no regular rate")
        self._markers: Any = None
        if markers is not None:
            self._markers = self._opened(markers)
        self._label = -1
        self._ahead: list[tuple[float, int]] = []
        self._unknown: dict[str, None] = {}
        self._told: list[str] = []

    def _opened(self, stream: str) -> Any:
        info = self._found(self._pylsl, stream)
        inlet = self._pylsl.StreamInlet(info, max_buflen=60, **self._flags)
        inlet.open_stream(timeout=self._wait_s)
        with suppress(RuntimeError, AttributeError):  # the first estimate takes a while
            inlet.time_correction(timeout=self._wait_s)
        return inlet

    def _found(self, pylsl: Any, name: str) -> Any:
        for prop in ("name", "type"):
            if there := pylsl.resolve_byprop(prop, name, timeout=self._wait_s / 2):
                return there[0]
        every = getattr(pylsl, "resolve_streams", None)
        there = every(self._wait_s / 2) if every else []
        names = ", ".join(f"{one.name()} ({one.type()})" for one in there) or "none"
        raise BioTrainError(
            f"no LSL stream is called '{name}', nor is any of that type; there are: {names}"
        )

    def chunks(self) -> Iterator[Chunk]:
        """The samples from now on, without an end; BioTrainError after `wait_s` of silence."""
        while len(self._inlet.pull_chunk(timeout=0.0)[1]):
            pass  # samples from before now, while the network was compiled
        last_sample_at = time.monotonic()
        clock = Stamps(self.fs)
        held, when = np.zeros((self.n_chans, 0)), np.zeros(0)
        while True:
            try:
                samples, stamps = self._inlet.pull_chunk(timeout=CHUNK_S)
            except RuntimeError:  # pylsl.LostError: the sender has gone; it may come back
                self._inlet = self._opened(self._stream)
                continue
            self._ahead += self._changes()
            if len(stamps):
                last_sample_at = time.monotonic()
                held = np.concatenate([held, np.asarray(samples, np.float64).T], axis=1)
                when = np.concatenate([when, np.asarray(stamps, np.float64)])
            elif time.monotonic() - last_sample_at > self._wait_s:
                raise BioTrainError(f"{self.name}: no sample for {self._wait_s:g} s")
            if not len(when):
                continue
            now = self._pylsl.local_clock()
            wait_s = 0.0 if self._markers is None else MARKER_WAIT_S
            ready = int(np.searchsorted(when, now - wait_s, "right")) if wait_s else len(when)
            if ready:
                yield from self._chunks(held[:, :ready], when[:ready], now, clock)
                held, when = held[:, ready:], when[ready:]

    def _chunks(
        self, x: npt.NDArray[np.float64], when: npt.NDArray[np.float64], now: float, clock: Stamps
    ) -> Iterator[Chunk]:
        """Samples and their stamps as chunks between gaps."""
        note = "; ".join(self._told)
        self._told.clear()
        age_s = max(0.0, now - float(when[-1]))
        steps = steps_of(x, self.scale)
        chunk = Chunk(steps, self._labels(when), age_s=age_s, note=note)
        yield from divided(chunk, clock.gaps(when))

    def _changes(self) -> list[tuple[float, int]]:
        """(time, label) of the markers that have arrived."""
        if self._markers is None:
            return []
        try:
            texts, stamps = self._markers.pull_chunk(timeout=0.0)
        except RuntimeError:  # the sender has gone
            return []
        out = []
        for values, at in zip(texts, stamps, strict=True):
            text = str(values[0])
            label = label_of(text, self.classes)
            if label < 0 and text not in self._unknown:
                self._unknown[text] = None
                named = ", ".join(self.classes)
                self._told.append(f"marker '{text}' names no class ({named}): it ends one")
            out.append((float(at), label))
        return out

    def _labels(self, stamps: npt.NDArray[Any]) -> Ints:
        labels = np.full(len(stamps), self._label, np.int64)
        while self._ahead and self._ahead[0][0] <= stamps[-1]:  # later ones wait for their samples
            at, self._label = self._ahead.pop(0)
            labels[stamps >= at] = self._label
        return labels


def label_of(text: str, classes: Sequence[str]) -> int:
    """The class that a marker names, by name or by number ("1", "1.0"); -1: none."""
    if text in classes:
        return classes.index(text)
    try:
        number = float(text)
    except ValueError:
        return -1
    return int(number) if number.is_integer() and 0 <= number < len(classes) else -1


class BrainFlow:
    """A board of BrainFlow (extra `brainflow`), by its name ("synthetic", "cyton") or number.

    Labels come from markers: k from 1 on begins class k - 1, any other ends it. Lost packages are
    found by the board's counter.
    """

    seconds: float | None = None

    def __init__(
        self,
        board: int | str,
        scale: float | None,
        classes: int,
        *,
        kind: str = "eeg",
        channels: int | None = None,
        wait_s: float = WAIT_S,
        **parameters: str,
    ) -> None:
        """`scale`: units per converter step; None: the board's own. `kind`: eeg, emg, eog or ecg
        channels, the first `channels` of them; `parameters`: of BrainFlowInputParams, such as
        serial_port."""
        try:
            from brainflow.board_shim import BoardIds, BoardShim, BrainFlowInputParams
            from brainflow.exit_codes import BrainFlowError
        except ImportError as error:
            raise BioTrainError(
                "a board needs brainflow: pip install 'biotrain[brainflow]'"
            ) from error
        given = BrainFlowInputParams()
        for key, value in parameters.items():
            if not hasattr(given, key):
                raise BioTrainError(f"BrainFlow has no parameter '{key}'")
            setattr(given, key, value)
        name, number = board_of(board, {one.name: int(one.value) for one in BoardIds})
        try:
            with pkg_resources_there():
                BoardShim.disable_board_logger()
                described = BoardShim.get_board_descr(number)
            if not described.get(f"{kind}_channels"):
                kinds = ", ".join(
                    key.removesuffix("_channels")
                    for key in described
                    if key in ("eeg_channels", "emg_channels", "eog_channels", "ecg_channels")
                )
                raise BioTrainError(
                    f"the board {board} of BrainFlow has no {kind} channels; it has: {kinds}"
                )
            self._board = BoardShim(number, given)
            self._board.prepare_session()
            self._board.start_stream()
        except BrainFlowError as error:
            ports = ", ".join(str(p) for g in ("ttyUSB*", "ttyACM*") for p in DEVICES.glob(g))
            raise BioTrainError(
                f"BrainFlow cannot start board {board}: {error}; serial ports: {ports or 'none'}"
            ) from error
        self._rows = list(described[f"{kind}_channels"])[:channels]
        self._marks = int(described["marker_channel"])
        self._counter: int | None = described.get("package_num_channel")
        self._stamps: int | None = described.get("timestamp_channel")
        self.name = f"BrainFlow {described['name']}"
        self.fs, self.n_chans = float(described["sampling_rate"]), len(self._rows)
        self.scale = BOARD_UV.get(name, STEP_UV) if scale is None else scale
        self.classes, self._label, self._wait_s = classes, -1, wait_s

    def chunks(self) -> Iterator[Chunk]:
        """The samples from now on, until the loop ends; then the board is released. Samples from
        before, while the network was compiled, are left out."""
        last_sample_at = time.monotonic()
        self._board.get_board_data()
        last: float | None = None
        try:
            while True:
                time.sleep(CHUNK_S)
                data = self._board.get_board_data()
                if not data.shape[1]:
                    if time.monotonic() - last_sample_at > self._wait_s:
                        raise BioTrainError(f"{self.name}: no sample for {self._wait_s:g} s")
                    continue
                last_sample_at = time.monotonic()
                x = steps_of(data[self._rows], self.scale)
                age_s = 0.0
                if self._stamps is not None:
                    age_s = max(0.0, time.time() - float(data[self._stamps][-1]))
                gaps: list[tuple[int, int]] = []
                if self._counter is not None:
                    gaps = counter_gaps(data[self._counter], last)
                    last = float(data[self._counter][-1])
                chunk = Chunk(x, self._labels(data[self._marks]), age_s=age_s)
                yield from divided(chunk, gaps)
        finally:
            if self._board.is_prepared():
                self._board.release_session()

    def _labels(self, marks: npt.NDArray[Any]) -> Ints:
        labels = np.empty(len(marks), np.int64)
        for i, mark in enumerate(marks):
            if mark:
                k = int(mark) - 1
                self._label = k if 0 <= k < self.classes else -1
            labels[i] = self._label
        return labels


class Cued:
    """A feed whose labels are what a person was asked to do: one class after the other, each for
    `seconds`, in rounds of random order."""

    REACTION_S = 0.5
    """Seconds after a cue that have no label: the person has not reacted yet."""

    def __init__(self, feed: Feed, classes: int, seconds: float, seed: int = 0) -> None:
        if seconds <= self.REACTION_S:
            raise BioTrainError(f"a cue lasts longer than {self.REACTION_S:g} s, not {seconds:g} s")
        self.feed, self.classes, self.each_s = feed, classes, seconds
        self.name, self.fs, self.n_chans = f"{feed.name}, cued", feed.fs, feed.n_chans
        self.scale, self.seconds = feed.scale, feed.seconds
        self._rng = np.random.default_rng(seed)
        self.cue = -1
        """The class that is asked for now; -1: none yet."""

    def chunks(self) -> Iterator[Chunk]:
        """The feed's chunks with the labels of the cues."""
        length = round(self.each_s * self.fs)
        quiet = round(self.REACTION_S * self.fs)
        order: list[int] = []
        at = 0  # samples of the cue that have passed
        known = quiet  # from which of them on a label is known
        for chunk in self.feed.chunks():
            count = len(chunk.labels)
            labels = np.full(count, -1, np.int64)
            changed = False
            for i in range(count):
                if at == length and not changed:  # nobody sees two cues within one chunk
                    at = 0
                if at == 0:
                    order = order or [int(c) for c in self._rng.permutation(self.classes)]
                    self.cue = order.pop(0)
                    changed = True
                    # Samples that were taken before the cue was shown have no label.
                    old = count - i + round(chunk.age_s * self.fs)
                    known = quiet if old <= quiet else old + quiet
                labels[i] = self.cue if known <= at < length else -1
                at = min(at + 1, length)
            yield replace(chunk, labels=labels)


def paced(
    feed: Feed,
    speed: float,
    limit_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Chunk]:
    """The chunks of a feed, no faster than `speed` times real time (0: as fast as they come), for
    at most `limit_s` seconds of signal."""
    begin, passed = clock(), 0.0
    chunks = feed.chunks()
    try:
        for chunk in chunks:
            if speed > 0 and (early := passed / speed - (clock() - begin)) > 0:
                sleep(early)
            yield chunk
            passed += chunk.x.shape[1] / feed.fs
            if limit_s is not None and passed >= limit_s:
                return
    finally:
        if close := getattr(chunks, "close", None):
            close()
