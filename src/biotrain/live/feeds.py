# SPDX-License-Identifier: Apache-2.0
"""Where samples come from: a recording played in time, an LSL stream, a board of BrainFlow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from biotrain.errors import BioTrainError
from biotrain.study.data.continuous import Continuous

Ints = npt.NDArray[np.int64]
CHUNK_S = 0.05
"""Seconds of signal in a chunk."""
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


class Lsl:
    """A stream of the lab streaming layer (extra `lsl`), with labels from a stream of markers.

    stream : its name, or its type ("EEG", "EMG").
    markers : name of a stream of texts; one that names a class (or its number) begins it, any other
        ends it. A marker that arrives later than its samples counts from its arrival.
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
        self._wait_s = wait_s
        self._inlet = pylsl.StreamInlet(self._found(pylsl, stream), max_buflen=60)
        info = self._inlet.info()
        self.name = f"LSL {info.name()}"
        self.fs = float(info.nominal_srate())
        self.n_chans = int(info.channel_count())
        self.scale, self.classes = scale, tuple(classes)
        if self.fs <= 0:
            raise BioTrainError(f"the LSL stream '{stream}' has no regular rate")
        self._markers: Any = None
        if markers is not None:
            self._markers = pylsl.StreamInlet(self._found(pylsl, markers))
            self._markers.open_stream(timeout=wait_s)
        self._inlet.open_stream(timeout=wait_s)
        self._label = -1
        self._ahead: list[tuple[float, int]] = []

    def _found(self, pylsl: Any, name: str) -> Any:
        for prop in ("name", "type"):
            if there := pylsl.resolve_byprop(prop, name, timeout=self._wait_s / 2):
                return there[0]
        raise BioTrainError(f"no LSL stream is called '{name}', nor is any of that type")

    def chunks(self) -> Iterator[Chunk]:
        """The samples from now on, without an end; BioTrainError after `wait_s` of silence."""
        while len(self._inlet.pull_chunk(timeout=0.0)[1]):
            pass  # samples from before now, while the network was compiled
        last_sample_at = time.monotonic()
        while True:
            self._ahead += self._changes()
            samples, stamps = self._inlet.pull_chunk(timeout=CHUNK_S)
            if not len(stamps):
                if time.monotonic() - last_sample_at > self._wait_s:
                    raise BioTrainError(f"{self.name}: no sample for {self._wait_s:g} s")
                continue
            last_sample_at = time.monotonic()
            x = steps_of(np.asarray(samples).T, self.scale)
            yield Chunk(x, self._labels(np.asarray(stamps)))

    def _changes(self) -> list[tuple[float, int]]:
        """(time, label) of the markers that have arrived."""
        if self._markers is None:
            return []
        texts, stamps = self._markers.pull_chunk(timeout=0.0)
        return [
            (float(at), label_of(str(text[0]), self.classes))
            for text, at in zip(texts, stamps, strict=True)
        ]

    def _labels(self, stamps: npt.NDArray[Any]) -> Ints:
        labels = np.full(len(stamps), self._label, np.int64)
        while self._ahead and self._ahead[0][0] <= stamps[-1]:  # later ones wait for their samples
            at, self._label = self._ahead.pop(0)
            labels[stamps >= at] = self._label
        return labels


def label_of(text: str, classes: Sequence[str]) -> int:
    """The class that a marker names, by name or by number; -1: none."""
    if text in classes:
        return classes.index(text)
    return int(text) if text.isdigit() and int(text) < len(classes) else -1


class BrainFlow:
    """A board of BrainFlow (extra `brainflow`); -1 is its synthetic one.

    Labels come from markers: k from 1 on begins class k - 1, any other ends it.
    """

    seconds: float | None = None

    def __init__(
        self,
        board: int,
        scale: float,
        classes: int,
        *,
        kind: str = "eeg",
        channels: int | None = None,
        wait_s: float = WAIT_S,
        **parameters: str,
    ) -> None:
        """`kind`: eeg, emg, eog or ecg channels, the first `channels` of them; `parameters`: of
        BrainFlowInputParams, such as serial_port."""
        try:
            from brainflow.board_shim import BoardShim, BrainFlowInputParams
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
        BoardShim.disable_board_logger()
        try:
            described = BoardShim.get_board_descr(board)
            if not described.get(f"{kind}_channels"):
                raise BioTrainError(f"the board {board} of BrainFlow has no {kind} channels")
            self._board = BoardShim(board, given)
            self._board.prepare_session()
            self._board.start_stream()
        except BrainFlowError as error:
            raise BioTrainError(f"BrainFlow cannot start board {board}: {error}") from error
        self._rows = list(described[f"{kind}_channels"])[:channels]
        self._marks = int(described["marker_channel"])
        self.name = f"BrainFlow {described['name']}"
        self.fs, self.n_chans = float(described["sampling_rate"]), len(self._rows)
        self.scale, self.classes, self._label, self._wait_s = scale, classes, -1, wait_s

    def chunks(self) -> Iterator[Chunk]:
        """The samples since the last chunk, until the loop ends; then the board is released."""
        last_sample_at = time.monotonic()
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
                yield Chunk(x, self._labels(data[self._marks]))
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
        at = 0
        for chunk in self.feed.chunks():
            labels = np.full(len(chunk.labels), -1, np.int64)
            for i in range(len(labels)):
                if at == 0:
                    order = order or [int(c) for c in self._rng.permutation(self.classes)]
                    self.cue = order.pop(0)
                labels[i] = self.cue if at >= quiet else -1
                at = (at + 1) % length
            yield Chunk(chunk.x, labels, chunk.where, chunk.gap)


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
