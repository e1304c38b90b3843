# SPDX-License-Identifier: Apache-2.0
"""Where samples come from: what every feed gives, a recording played in time, and cues. Streams of
other computers are in lsl.py, boards of BrainFlow in boards.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
        note = chunk.note if k == 0 else ""
        gap = bool(missing) or (chunk.gap and k == 0)
        x = chunk.x[:, here]
        age_s = chunk.age_s
        yield Chunk(x, chunk.labels[here], chunk.where, gap, missing, age_s, note)


def label_of(text: str, classes: Sequence[str]) -> int:
    """The class that a marker names, by name or by number ("1", "1.0"); -1: none."""
    if text in classes:
        return classes.index(text)
    try:
        number = float(text)
    except ValueError:
        return -1
    return int(number) if number.is_integer() and 0 <= number < len(classes) else -1


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
