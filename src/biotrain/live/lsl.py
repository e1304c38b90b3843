# SPDX-License-Identifier: Apache-2.0
"""A stream of the lab streaming layer: clocks brought together, lost samples found, and a sender
that goes and comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from biotrain.errors import BioTrainError
from biotrain.live.feeds import CHUNK_S, WAIT_S, Chunk, Ints, divided, label_of, steps_of
from biotrain.live.gaps import Stamps

MARKER_WAIT_S = 0.2
"""How long samples wait for their markers, which come on another way through the network."""
RETURN_S = 60.0
"""How long a stream that has delivered samples may be gone before that is an error."""
LOOK_AGAIN_S = 1.0
"""How long one look for a stream that has gone takes."""
TOLD_S = 1.0
"""Silence after which a person is told."""


class Lsl:
    """A stream of the lab streaming layer (extra `lsl`), with labels from a stream of markers.

    stream : its name, or its type ("EEG", "EMG").
    markers : name of a stream of texts or numbers; one that names a class (or its number) begins
        it, any other ends it. A marker that arrives later than its samples counts from its arrival.

    The clocks of the computers that send signal and markers are brought together by liblsl
    (time correction); lost samples are found by the time stamps. A stream that goes may come back
    within `return_s`, from another program too; what held before a stream of markers has gone does
    not hold afterwards.
    """

    seconds: float | None = None

    def __init__(
        self,
        stream: str,
        scale: float,
        classes: Sequence[str],
        markers: str | None = None,
        wait_s: float = WAIT_S,
        return_s: float = RETURN_S,
    ) -> None:
        try:
            import pylsl
        except (ImportError, RuntimeError) as error:  # RuntimeError: no liblsl beside it
            raise BioTrainError(
                f"an LSL stream needs pylsl: pip install 'biotrain[lsl]' ({error})"
            ) from error
        self._wait_s, self._return_s = wait_s, return_s
        self._pylsl = pylsl
        # liblsl's own recovery keeps the time correction of the sender that has gone.
        self._flags = {
            "processing_flags": getattr(pylsl, "proc_clocksync", 1),
            "recover": False,
        }
        self._inlet = self._opened(stream)
        info = self._inlet.info()
        self._name = info.name()
        self.name = f"LSL {self._name}"
        self.fs = float(info.nominal_srate())
        self.n_chans = int(info.channel_count())
        self.scale, self.classes = scale, tuple(classes)
        if self.fs <= 0:
            raise BioTrainError(f"the LSL stream '{stream}' has no regular rate")
        self._markers: Any = None if markers is None else self._opened(markers)
        self._marker_name = "" if self._markers is None else self._markers.info().name()
        self._looking: Any = None  # for a stream of markers that has gone
        self._label = -1
        self._ahead: list[tuple[float, int]] = []
        self._unknown: dict[str, None] = {}
        self._told: list[str] = []

    def _opened(self, stream: str) -> Any:
        try:
            return self._inlet_of(self._found(self._pylsl, stream))
        except RuntimeError as error:  # pylsl's TimeoutError and LostError
            raise BioTrainError(f"the LSL stream '{stream}' does not open: {error}") from error

    def _inlet_of(self, info: Any) -> Any:
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
        """The samples from now on, without an end. Raises BioTrainError after `wait_s` without a
        first sample, and after `return_s` without another one."""
        while len(self._inlet.pull_chunk(timeout=0.0)[1]):
            pass  # samples from before now, while the network was compiled
        last_sample_at, patience_s, told = time.monotonic(), self._wait_s, False
        look_at_s = self._wait_s
        clock = Stamps(self.fs)
        held, when = np.zeros((self.n_chans, 0)), np.zeros(0)
        wait_s = MARKER_WAIT_S if self._marker_name else 0.0
        while True:
            samples, stamps = self._pulled()
            self._ahead += self._changes()
            silent_s = time.monotonic() - last_sample_at
            if len(stamps):
                last_sample_at, patience_s, told = time.monotonic(), self._return_s, False
                held = np.concatenate([held, np.asarray(samples, np.float64).T], axis=1)
                when = np.concatenate([when, np.asarray(stamps, np.float64)])
            elif silent_s > patience_s:
                raise BioTrainError(f"{self.name}: no sample for {patience_s:g} s")
            elif silent_s > TOLD_S and patience_s > self._wait_s:
                if not told:
                    told, look_at_s = True, self._wait_s
                    yield self._silence(silent_s)
                if silent_s > look_at_s:  # a connection that nobody has closed
                    self._inlet, look_at_s = None, silent_s + self._wait_s
            if not len(when):
                continue
            now = self._pylsl.local_clock()
            ready = int(np.searchsorted(when, now - wait_s, "right")) if wait_s else len(when)
            if ready:
                yield from self._chunks(held[:, :ready], when[:ready], now, clock)
                held, when = held[:, ready:], when[ready:]

    def _pulled(self) -> tuple[list[Any], list[float]]:
        """What has come since the last call: samples and their stamps. A stream that has gone is
        looked for."""
        try:
            if self._inlet is None:
                self._inlet = self._returned()
            if self._inlet is not None:
                samples, stamps = self._inlet.pull_chunk(timeout=CHUNK_S)
                return samples, stamps
        except RuntimeError:  # pylsl's LostError: the sender has gone; it may come back
            self._inlet = None
        return [], []

    def _returned(self) -> Any:
        """The stream that has gone, if it is back; BioTrainError where it is another one now."""
        found = self._pylsl.resolve_byprop("name", self._name, timeout=LOOK_AGAIN_S)
        if not found:
            return None
        inlet = self._inlet_of(found[0])
        fs, n_chans = float(inlet.info().nominal_srate()), int(inlet.info().channel_count())
        if (fs, n_chans) != (self.fs, self.n_chans):
            raise BioTrainError(
                f"{self.name} came back with {n_chans} channels at {fs:g} Hz, not {self.n_chans} "
                f"at {self.fs:g} Hz"
            )
        return inlet

    def _silence(self, silent_s: float) -> Chunk:
        """No samples, and what a person should know of it."""
        told = f"no sample for {silent_s:.1f} s: waiting up to {self._return_s:g} s for the stream"
        none = np.zeros((self.n_chans, 0), np.int32)
        return Chunk(none, np.zeros(0, np.int64), note=told)

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
        out: list[tuple[float, int]] = []
        try:
            if self._looking is not None and (found := self._looking.results()):
                self._markers, self._looking = self._inlet_of(found[0]), None
                self._told.append("the stream of markers is back")
            if self._markers is None:
                return out
            texts, stamps = self._markers.pull_chunk(timeout=0.0)
        except RuntimeError:  # the sender has gone; it may come back
            if self._markers is None:
                return out
            self._markers = None
            self._looking = self._pylsl.ContinuousResolver("name", self._marker_name)
            self._told.append("the stream of markers is lost: no labels until it is back")
            return [(self._pylsl.local_clock(), -1)]
        for values, at in zip(texts, stamps, strict=True):
            text = str(values[0])
            label = label_of(text, self.classes)
            if label < 0 and text not in self._unknown:
                self._unknown[text] = None
                named = ", ".join(self.classes)
                self._told.append(f"marker '{text}' names no class ({named}): it ends one")
            out.append((float(at), label))
        return sorted(out)

    def _labels(self, stamps: npt.NDArray[Any]) -> Ints:
        labels = np.full(len(stamps), self._label, np.int64)
        while self._ahead and self._ahead[0][0] <= stamps[-1]:  # later ones wait for their samples
            at, self._label = self._ahead.pop(0)
            labels[stamps >= at] = self._label
        return labels
